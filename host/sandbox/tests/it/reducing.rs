//! Reducers: what they are handed, and what they may give back.

use std::sync::LazyLock;
use std::time::Duration;

use stepwell_sandbox::contract::{
    Batch, Column, Field, Layout, RunInfo, ShapeReply, Values, Varlen,
};
use stepwell_sandbox::{CallError, Component, Kind, Limit, Limits, Reducer};

use crate::guests::{COMPONENT, REDUCER, SANDBOX, run};

static GUEST: LazyLock<Component> = LazyLock::new(|| {
    SANDBOX
        .load(&REDUCER)
        .expect("the reducer fits the contract")
});

fn field(name: &str, type_oid: u32, layout: Layout, nullable: bool) -> Field {
    Field {
        name: name.to_owned(),
        type_oid,
        type_mod: -1,
        layout,
        nullable,
    }
}

/// `n int8 not null, word text`.
fn fields() -> Vec<Field> {
    vec![
        field("n", 20, Layout::Int64, false),
        field("word", 25, Layout::Varlen, true),
    ]
}

/// Rows 0 to `rows`; the words of even ones are NULL, those of odd ones are `grün`.
fn batch(rows: u32) -> Batch {
    let (mut offsets, mut data) = (vec![0], Vec::new());
    let mut validity = vec![0_u8; rows.div_ceil(8) as usize];
    for row in 0..rows {
        if row % 2 == 1 {
            validity[row as usize / 8] |= 1 << (row % 8);
            data.extend_from_slice("grün".as_bytes());
        }
        offsets.push(u32::try_from(data.len()).expect("small"));
    }
    let numbers = Column {
        validity: None,
        values: Values::Int64((0..rows.into()).collect()),
    };
    let words = Column {
        validity: Some(validity),
        values: Values::Varlen(Varlen { offsets, data }),
    };
    Batch {
        rows,
        columns: vec![numbers, words],
    }
}

fn info(settings: &str) -> RunInfo {
    RunInfo {
        settings_json: settings.to_owned(),
        ..run("", 0)
    }
}

fn open(what: &str, size: u64, limits: &Limits, output: &[Field]) -> Reducer {
    let info = info(&format!(r#"{{"do":"{what}","size":{size},"key":["n"]}}"#));
    GUEST
        .reducer(limits, &info, &fields(), output)
        .unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// What pushing ten rows comes to.
fn push(what: &str) -> Result<Option<Batch>, CallError> {
    let mut reducer = open(what, 0, &Limits::third_party(), &fields());
    let outcome = reducer.push(&batch(10), false);
    if outcome.is_err() {
        let after = reducer.push(&batch(1), false);
        assert_eq!(
            after,
            Err(CallError::Over),
            "{what}: an instance is not used after an error"
        );
    }
    outcome
}

fn problem(outcome: Result<Option<Batch>, CallError>) -> String {
    match outcome {
        Err(CallError::Contract { problem }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn rows_go_in_and_come_out_as_they_were() {
    for what in ["echo", "copy"] {
        assert_eq!(push(what), Ok(Some(batch(10))), "{what}");
    }
    let mut reducer = open("echo", 0, &Limits::own(), &fields());
    for rows in [0, 1, 7, 8, 9, 65_536] {
        assert_eq!(reducer.push(&batch(rows), false), Ok(Some(batch(rows))));
    }
    assert_eq!(reducer.finish(), Ok(None));
    assert_eq!(reducer.rows_out(), 65_561);
}

#[test]
fn what_does_not_fit_the_fields_is_refused_by_field_and_row() {
    for (what, expected) in [
        ("short", "field `n`: its buffer: 9 values, expected 10"),
        ("more-rows", "field `n`: its buffer: 10 values, expected 11"),
        (
            "fewer-columns",
            "batch: it has 1 columns, expected one for each of 2 fields",
        ),
        (
            "nulls",
            "row 3 of field `n`: it is NULL, and the field is not nullable",
        ),
        (
            "short-bitmap",
            "field `n`: its validity bitmap: 0 bytes, expected 2",
        ),
        (
            "wrong-layout",
            "field `n`: its values are int16, declared are int64",
        ),
        ("no-utf8", "row 10 of field `word`: it is not UTF-8"),
        ("zero-byte", "row 10 of field `word`: it holds a zero byte"),
        (
            "falling-offsets",
            "row 2 of field `word`: it ends before it begins",
        ),
        (
            "far-offsets",
            "row 10 of field `word`: it ends at byte 26 of 25",
        ),
    ] {
        assert_eq!(problem(push(what)), expected, "{what}");
    }
}

#[test]
fn failures_and_crashes_are_told_apart() {
    assert!(
        matches!(push("fail-push"), Err(CallError::Failure(failure)) if failure.message == "cannot push")
    );
    let crashed = push("panic");
    assert!(
        matches!(&crashed, Err(CallError::Trap { message, .. }) if message.contains("the reducer gave up")),
        "{crashed:?}"
    );
    let info = info(r#"{"do":"fail-open"}"#);
    let failed = GUEST.reducer(&Limits::own(), &info, &fields(), &fields());
    assert!(
        matches!(failed, Err(CallError::Failure(failure)) if failure.setting.as_deref() == Some("/select"))
    );
    let mut reducer = open("fail-finish", 0, &Limits::own(), &fields());
    assert!(matches!(reducer.finish(), Err(CallError::Failure(_))));
    assert_eq!(reducer.finish(), Err(CallError::Over));
}

#[test]
fn time_memory_and_rows_are_bounded() {
    let limit = |what: &str, size: u64, limits: Limits| {
        let mut reducer = open(what, size, &limits, &fields()[..1]);
        let mut outcome = reducer.push(&batch(100), false);
        for _ in 0..100 {
            if outcome.is_err() {
                break;
            }
            outcome = reducer.finish();
        }
        match outcome {
            Err(CallError::Limit(error)) => error.limit,
            other => panic!("{what}: {other:?}"),
        }
    };
    let small = Limits::third_party;
    let quick = Duration::from_millis(30);
    assert_eq!(
        limit(
            "spin",
            0,
            Limits {
                cpu: quick,
                ..small()
            }
        ),
        Limit::Cpu
    );
    assert_eq!(
        limit(
            "spin",
            0,
            Limits {
                call_cpu: quick,
                ..small()
            }
        ),
        Limit::CallCpu
    );
    assert_eq!(
        limit(
            "hoard",
            64 << 20,
            Limits {
                memory_bytes: 32 << 20,
                ..small()
            }
        ),
        Limit::Memory
    );
    assert_eq!(
        limit(
            "multiply",
            20_000,
            Limits {
                hostcall_bytes: 1 << 20,
                ..small()
            }
        ),
        Limit::Hostcall
    );
    // A million rows are free.
    let mut reducer = open(
        "multiply",
        10_000,
        &Limits {
            output_rows_per_row: 10,
            ..small()
        },
        &fields()[..1],
    );
    assert_eq!(
        reducer
            .push(&batch(100), false)
            .map(|given| given.map(|batch| batch.rows)),
        Ok(Some(1_000_000))
    );
    let more = reducer.push(&batch(100), false);
    assert!(
        matches!(&more, Err(CallError::Limit(error)) if error.limit == Limit::OutputRows),
        "{more:?}"
    );
    let mut reducer = open(
        "multiply",
        100,
        &Limits {
            output_bytes: 100_000,
            ..small()
        },
        &fields()[..1],
    );
    assert!(reducer.push(&batch(100), false).is_ok());
    let more = reducer.push(&batch(100), false);
    assert!(
        matches!(&more, Err(CallError::Limit(error)) if error.limit == Limit::OutputBytes),
        "{more:?}"
    );
}

/// Every export of a reducer is ended: `shape-of`, `open`, `push`, `finish`. What would run as its resource is dropped never
/// runs: an instance that is over goes as a whole.
#[test]
fn a_loop_in_each_export_is_ended() {
    let limits = Limits {
        call_cpu: Duration::from_millis(30),
        ..Limits::third_party()
    };
    let ended = |error: CallError, what: &str| match error {
        CallError::Limit(error) => {
            assert_eq!(error.limit, Limit::CallCpu, "{what}");
            assert!(!error.backtrace.is_empty(), "{what}: it was somewhere");
        }
        other => panic!("{what}: {other:?}"),
    };
    let at = |what: &str| info(&format!(r#"{{"do":"{what}","key":["n"]}}"#));
    let mut attempt = GUEST.attempt(&limits, 0).expect("it starts");
    let spinning = attempt.next_shape(&at("spin-shape"), &[]);
    ended(spinning.expect_err("shape-of"), "shape-of");
    let spinning = GUEST.reducer(&limits, &at("spin-open"), &fields(), &fields());
    ended(spinning.expect_err("open"), "open");
    let mut reducer = open("spin", 0, &limits, &fields());
    ended(reducer.push(&batch(1), false).expect_err("push"), "push");
    let mut reducer = open("spin-finish", 0, &limits, &fields());
    assert_eq!(reducer.push(&batch(1), false), Ok(Some(batch(1))));
    ended(reducer.finish().expect_err("finish"), "finish");
    let mut reducer = open("spin-drop", 0, &limits, &fields());
    assert_eq!(reducer.push(&batch(1), false), Ok(Some(batch(1))));
    assert_eq!(reducer.finish(), Ok(None));
    drop(reducer);
}

#[test]
fn a_crash_in_each_export_is_told() {
    let crashed = |error: CallError, part: &str| match error {
        CallError::Trap { message, .. } => assert!(message.contains(part), "{message}"),
        other => panic!("{part}: {other:?}"),
    };
    let info = info(r#"{"do":"panic-open"}"#);
    let opening = GUEST.reducer(&Limits::third_party(), &info, &fields(), &fields());
    crashed(opening.expect_err("open"), "did not open");
    let mut reducer = open("panic-finish", 0, &Limits::third_party(), &fields());
    crashed(reducer.finish().expect_err("finish"), "did not finish");
    assert_eq!(reducer.finish(), Err(CallError::Over));
}

/// A guest may make resources of its own, each of which the host keeps an entry for.
#[test]
fn handles_are_bounded() {
    let limits = Limits {
        handles: 100,
        ..Limits::third_party()
    };
    assert_eq!(
        open("handles", 90, &limits, &fields()).push(&batch(1), false),
        Ok(Some(batch(1))),
        "they fit"
    );
    let leaked = open("handles", 5_000, &limits, &fields()).push(&batch(1), false);
    match leaked {
        Err(CallError::Limit(error)) => {
            assert_eq!((error.limit, error.allowed), (Limit::Handles, 100));
        }
        other => panic!("{other:?}"),
    }
}

/// Lines that are not taken out give way to newer ones, and what a call hands over at its end is bounded as well.
#[test]
fn floods_of_lines_and_rows_are_bounded() {
    let limits = Limits {
        log_lines: 10,
        hostcall_bytes: 1 << 20,
        ..Limits::third_party()
    };
    let mut reducer = open("flood", 2_000, &limits, &fields());
    assert_eq!(reducer.push(&batch(1), false), Ok(Some(batch(1))));
    assert_eq!(reducer.attempt().log().len(), 10);
    assert_eq!(reducer.attempt().log_dropped(), 2 * 2_000 - 10);
    let mut reducer = open("huge-finish", 1_000_000, &limits, &fields()[..1]);
    let given = reducer.finish();
    assert!(
        matches!(&given, Err(CallError::Limit(error)) if error.limit == Limit::Hostcall),
        "{given:?}"
    );
}

/// What a batch comes to is asked for bit by bit, and is bounded as a whole.
#[test]
fn a_plugin_that_makes_much_of_a_batch_is_asked_for_more() {
    let fields = &fields()[..1];
    let rows = |given: Result<Option<Batch>, CallError>| given.map(|batch| batch.map(|b| b.rows));
    let mut reducer = open("dole", 25, &Limits::own(), fields);
    for _ in 0..2 {
        assert_eq!(rows(reducer.push(&batch(100), true)), Ok(Some(1000)));
        assert_eq!(rows(reducer.more()), Ok(Some(1000)));
        assert_eq!(rows(reducer.more()), Ok(Some(500)));
        assert_eq!(rows(reducer.more()), Ok(None));
    }
    assert_eq!(rows(reducer.finish()), Ok(None));
    assert_eq!(reducer.rows_out(), 5000);
    // A batch without rows is one of its input's columns.
    let mut echo = open("echo", 0, &Limits::own(), &self::fields());
    assert_eq!(echo.push(&batch(3), false), Ok(Some(batch(3))));
    assert_eq!(rows(echo.more()), Ok(Some(0)));
    let few = Limits {
        output_rows: 1500,
        ..Limits::own()
    };
    let mut reducer = open("dole", 25, &few, fields);
    assert_eq!(rows(reducer.push(&batch(100), false)), Ok(Some(1000)));
    let more = reducer.more();
    assert!(
        matches!(&more, Err(CallError::Limit(error)) if error.limit == Limit::OutputRows),
        "{more:?}"
    );
}

#[test]
fn an_end_that_never_comes_is_an_error() {
    let mut reducer = open("empty-finish", 0, &Limits::own(), &fields()[..1]);
    assert_eq!(
        problem(reducer.finish()),
        "finish: it gives a batch without rows, expected none at the end"
    );
    let mut reducer = open("endless", 0, &Limits::third_party(), &fields()[..1]);
    let ended = (0..1000).find_map(|_| reducer.finish().err());
    assert!(
        matches!(&ended, Some(CallError::Limit(error)) if error.limit == Limit::OutputRows),
        "{ended:?}"
    );
}

fn shape(settings: &str) -> Result<ShapeReply, CallError> {
    let info = info(settings);
    let mut attempt = GUEST
        .attempt(&Limits::third_party(), info.as_of_us)
        .expect("it starts");
    attempt.next_shape(&info, &[])
}

#[test]
fn a_shape_arrives_as_it_was_made() {
    let Ok(ShapeReply::Ready(shape)) =
        shape(r#"{"into":"out","select":"SELECT 2 AS x","key":["x"],"params":["p"]}"#)
    else {
        panic!("it has a shape")
    };
    assert_eq!(
        (shape.select_sql.as_str(), shape.key.as_slice()),
        ("SELECT 2 AS x", &["x".to_owned()][..])
    );
    assert_eq!(shape.target, "out");
    assert_eq!(shape.output.len(), 3);
    assert_eq!(shape.notes, ["a remark"]);
    let Ok(ShapeReply::Ask(questions)) = self::shape(r#"{"do":"ask"}"#) else {
        panic!("it asks")
    };
    assert_eq!(questions[0].sql, "SELECT 1");
    assert!(matches!(
        self::shape(r#"{"do":"fail-shape"}"#),
        Err(CallError::Failure(_))
    ));
}

#[test]
fn fields_that_no_table_can_have_are_refused() {
    let many: Vec<_> = (0..1601)
        .map(|n| format!(r#"["f{n}",23,"int32"]"#))
        .collect();
    for (output, expected) in [
        ("", "output: it has no field"),
        (&many.join(","), "output: it has 1601 fields"),
        (r#"["",23,"int32"]"#, "name of field 1 (``): it has 0 bytes"),
        (r#"["a\u0000",23,"int32"]"#, "it holds a control character"),
        (
            r#"["a",23,"int32"],["a",25,"varlen"]"#,
            "name of field 2 (`a`): another field has it too",
        ),
        (
            r#"["a",23,"int64"]"#,
            "layout of field 1 (`a`): integer has int32, not int64",
        ),
        (
            r#"["a",1186,"varlen"]"#,
            "type of field 1 (`a`): a reducer does not give OID 1186",
        ),
    ] {
        let outcome = shape(&format!(
            r#"{{"into":"out","key":["id"],"output":[{output}]}}"#
        ));
        let Err(CallError::Contract { problem }) = outcome else {
            panic!("{output}: {outcome:?}")
        };
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn a_planner_folds_nothing() {
    let outcome = COMPONENT.reducer(&Limits::own(), &run("ok", 0), &fields(), &fields());
    assert!(
        matches!(
            outcome,
            Err(CallError::OtherKind {
                wanted: Kind::Reducer,
                ..
            })
        ),
        "{outcome:?}"
    );
}
