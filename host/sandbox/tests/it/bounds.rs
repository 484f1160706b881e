//! What a planner cannot do: each of these must end, soon, in an error that says why.

use std::time::{Duration, Instant};

use stepwell_sandbox::contract::Reply;
use stepwell_sandbox::{CallError, Limit, LimitError, Limits};

use crate::guests::{AS_OF_US, COMPONENT, ask, attempt, run, within};

const MIB: u64 = 1 << 20;

/// The limit that `what` breaks.
fn broken(limits: &Limits, what: &str, size: usize) -> LimitError {
    match within(limits, what, size) {
        Err(CallError::Limit(error)) => error,
        other => panic!("{what}: {other:?}"),
    }
}

/// What is wrong with the reply to `what`.
fn problem(what: &str) -> String {
    match ask(what, 0) {
        Err(CallError::Contract { problem }) => problem,
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_loop_ends_when_its_cpu_time_is_used_up() {
    let limits = Limits {
        cpu: Duration::from_millis(50),
        ..Limits::third_party()
    };
    let mut attempt = attempt(&limits);

    let outcome = attempt.next(&run("spin", 0), &[]);

    let Err(CallError::Limit(error)) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((error.limit, error.allowed), (Limit::Cpu, 50));
    assert!(!error.backtrace.is_empty(), "it was somewhere");
    assert!(attempt.cpu() > limits.cpu);
    // A tick is 10 ms, and may be late by what the machine is busy with; CPU time is not.
    assert!(
        attempt.cpu() < Duration::from_secs(2),
        "{:?}",
        attempt.cpu()
    );
}

#[test]
fn one_call_may_not_use_up_the_time_of_all() {
    let limits = Limits {
        call_cpu: Duration::from_millis(50),
        ..Limits::third_party()
    };

    let error = broken(&limits, "spin", 0);

    assert_eq!((error.limit, error.allowed), (Limit::CallCpu, 50));
}

#[test]
fn a_loop_ends_when_its_time_on_the_clock_is_used_up() {
    let limits = Limits {
        wall: Duration::from_millis(50),
        ..Limits::third_party()
    };

    let started = Instant::now();
    let error = broken(&limits, "spin", 0);

    assert_eq!(error.limit, Limit::Wall);
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn loops_side_by_side_end_each_by_itself() {
    let limits = Limits {
        cpu: Duration::from_millis(30),
        ..Limits::third_party()
    };

    std::thread::scope(|scope| {
        let spin = || broken(&limits, "spin", 0).limit;
        let spinning = [(); 4].map(|()| scope.spawn(spin));
        for thread in spinning {
            assert_eq!(thread.join().expect("no panic"), Limit::Cpu);
        }
    });
}

#[test]
fn memory_is_bounded() {
    let limits = Limits {
        memory_bytes: 16 * MIB,
        ..Limits::third_party()
    };

    let error = broken(&limits, "alloc", 1_000);

    assert_eq!((error.limit, error.allowed), (Limit::Memory, 16 * MIB));
    assert!(error.asked.is_some_and(|asked| asked > 16 * MIB));
    assert!(
        matches!(within(&limits, "alloc", 8), Ok(Reply::Ready(_))),
        "8 MiB fit"
    );
}

#[test]
fn a_start_that_does_not_fit_is_an_error_of_the_attempt() {
    let limits = Limits {
        memory_bytes: 65_536,
        ..Limits::third_party()
    };

    let outcome = COMPONENT.attempt(&limits, AS_OF_US);

    assert!(matches!(outcome, Err(CallError::Limit(error)) if error.limit == Limit::Memory));
}

#[test]
fn tables_are_bounded() {
    let limits = Limits {
        table_elements: 1,
        ..Limits::third_party()
    };

    let outcome = COMPONENT.attempt(&limits, AS_OF_US);

    assert!(matches!(outcome, Err(CallError::Limit(error)) if error.limit == Limit::TableElements));
}

#[test]
fn a_panic_is_a_trap_with_its_message() {
    let outcome = ask("panic", 0);

    let Err(CallError::Trap {
        message,
        backtrace,
        log,
    }) = outcome
    else {
        panic!("{outcome:?}")
    };
    assert!(message.starts_with("panicked at "), "{message}");
    assert!(
        message.ends_with("the plugin gave up on sessions"),
        "{message}"
    );
    assert!(!backtrace.is_empty());
    assert!(log.iter().any(|line| line.message.contains("gave up")));
}

/// A plugin has two stacks: the engine's, and one in its own memory for what has an address.
#[test]
fn recursion_is_a_trap() {
    for (what, expected) in [
        ("recurse", "call stack exhausted"),
        ("recurse-in-memory", "out of bounds memory access"),
    ] {
        let outcome = ask(what, 0);

        let Err(CallError::Trap { message, .. }) = outcome else {
            panic!("{what}: {outcome:?}")
        };
        assert_eq!(message, expected, "{what}");
    }
}

#[test]
fn exit_ends_the_plugin_and_not_the_host() {
    let outcome = ask("exit", 0);

    let Err(CallError::Trap { message, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(message, "the plugin ended its own process with `exit`");
}

#[test]
fn nothing_more_is_asked_after_an_error() {
    for what in ["panic", "fail", "nul-sql", "no-questions"] {
        let mut attempt = attempt(&Limits::third_party());

        assert!(attempt.next(&run(what, 0), &[]).is_err(), "{what}");
        assert_eq!(
            attempt.next(&run("ok", 0), &[]),
            Err(CallError::Over),
            "{what}"
        );
    }
}

#[test]
fn a_broken_limit_comes_with_what_was_said_before() {
    let limits = Limits {
        cpu: Duration::from_millis(50),
        statements: 1,
        ..Limits::third_party()
    };

    for what in ["talk-and-spin", "talk-and-answer"] {
        let error = broken(&limits, what, 0);

        let said: Vec<_> = error.log.iter().map(|line| line.message.as_str()).collect();
        assert_eq!(said, ["begun", "far from done"], "{what}");
    }
}

#[test]
fn one_attempt_does_not_see_the_end_of_another() {
    let mut one = attempt(&Limits::third_party());
    let mut other = attempt(&Limits::third_party());

    assert!(one.next(&run("panic", 0), &[]).is_err());
    assert!(other.next(&run("ok", 0), &[]).is_ok());
}

#[test]
fn a_flood_of_lines_is_kept_in_part_and_is_no_error() {
    let limits = Limits {
        log_lines: 50,
        log_bytes: 20_000,
        ..Limits::third_party()
    };
    let mut attempt = attempt(&limits);

    attempt
        .next(&run("flood", 5_000), &[])
        .expect("to talk is no crime");

    assert_eq!(attempt.log().len(), 50);
    assert_eq!(attempt.log()[49].message, "4999");
    assert_eq!(attempt.log_dropped(), 2 * 5_000 - 50);
}

/// What the host keeps for a plugin is paid from the same memory as the plugin's own.
#[test]
fn lines_that_are_kept_count_as_memory() {
    let mut limits = Limits {
        log_lines: 1_000_000,
        log_bytes: 64 * MIB,
        ..Limits::third_party()
    };
    let mut attempt = attempt(&limits);
    attempt.next(&run("ok", 0), &[]).expect("it fits");
    limits.memory_bytes = attempt.memory_bytes() + MIB;

    let error = broken(&limits, "flood", 20_000);

    assert_eq!(error.limit, Limit::Memory);
}

#[test]
fn one_call_hands_over_no_more_than_it_may() {
    let limits = Limits {
        hostcall_bytes: MIB,
        ..Limits::third_party()
    };

    let in_a_call = broken(&limits, "shout", 2 * 1024 * 1024);
    let in_a_reply = broken(&limits, "huge-sql", 2 * 1024 * 1024);

    assert_eq!((in_a_call.limit, in_a_call.allowed), (Limit::Hostcall, MIB));
    assert_eq!(in_a_reply.limit, Limit::Hostcall);
}

#[test]
fn each_part_of_a_reply_has_its_limit() {
    let limits = Limits {
        sql_bytes: 100,
        statements: 5,
        questions: 5,
        params: 5,
        text_bytes: 1_000,
        reply_bytes: 20_000,
        ..Limits::third_party()
    };
    let cases = [
        (
            "huge-sql",
            101,
            Limit::Sql,
            "sql of statement 1 (`statement`)",
        ),
        ("many-statements", 6, Limit::Statements, "statements"),
        ("many-questions", 6, Limit::Questions, "questions"),
        (
            "many-params",
            6,
            Limit::Params,
            "params of statement 1 (`statement`)",
        ),
        ("long-label", 1_001, Limit::Text, ""),
        ("huge-reply", 20, Limit::Reply, "the reply"),
        ("huge-param", 20_000, Limit::Reply, "the reply"),
    ];

    for (what, size, limit, place) in cases {
        let error = broken(&limits, what, size);
        assert_eq!(error.limit, limit, "{what}");
        assert!(
            error.what.contains(place) && error.what.len() < 200,
            "{}",
            error.what
        );
    }
    for (what, size) in [
        ("huge-sql", 100),
        ("many-statements", 5),
        ("many-questions", 5),
        ("many-params", 5),
        ("long-label", 1_000),
        ("huge-reply", 15),
    ] {
        assert!(
            within(&limits, what, size).is_ok(),
            "{what}: the limit itself is allowed"
        );
    }
}

/// A planner that asks one question at a time for ever is stopped as well.
#[test]
fn questions_count_over_all_calls() {
    let limits = Limits {
        questions: 5,
        ..Limits::third_party()
    };
    let mut attempt = attempt(&limits);
    let answer = stepwell_sandbox::contract::Answer {
        fields: Vec::new(),
        rows: stepwell_sandbox::contract::Batch {
            rows: 0,
            columns: Vec::new(),
        },
    };

    assert!(
        attempt
            .next(&run("many-questions", 1), &vec![answer.clone(); 4])
            .is_ok()
    );
    let outcome = attempt.next(&run("many-questions", 1), &vec![answer; 5]);

    assert!(matches!(outcome, Err(CallError::Limit(error)) if error.limit == Limit::Questions));
}

#[test]
fn what_the_warehouse_cannot_take_is_refused() {
    let in_first = "of statement 1 (`statement`)";

    assert_eq!(
        problem("nul-sql"),
        format!("sql {in_first}: it holds a NUL character")
    );
    assert_eq!(
        problem("nul-param"),
        "param of statement 1 (`statement`): it holds a NUL character"
    );
    assert_eq!(
        problem("no-oid"),
        "param of statement 1 (`statement`): 0 is no type OID"
    );
    assert_eq!(problem("empty-sql"), format!("sql {in_first}: it is empty"));
    assert_eq!(problem("no-questions"), "it asks, but has no question");
    assert!(problem("bad-about").starts_with("about of publication 1 (`a`): it is not JSON"));
    assert_eq!(
        problem("escape-label"),
        "label of statement 1 (`\\u{1b}[2J`): it holds a control character"
    );
}
