//! Components that no compiler makes.

use std::time::Duration;

use stepwell_sandbox::{Attempt, CallError, Limit, Limits, SECTION, SandboxError};

use crate::guests::{AS_OF_US, SANDBOX};

const DESCRIPTION: &str = r#"{"name":"crafted","version":"1.0.0","kind":"planner",
    "contract":"0.1.0","settings":{}}"#;

/// The end of a component: it exports a `next` that takes nothing and gives a number.
const EXPORT: &str = r#"
    (core module $answers (func (export "next") (result i32) i32.const 0))
    (core instance $answers (instantiate $answers))
    (func $next (result u32) (canon lift (core func $answers "next")))
    (instance $planning (export "next" (func $next)))
    (export "stepwell:step/planning@0.1.0" (instance $planning))"#;

/// A component of `parts`, which describes itself and exports a `next`.
fn component(parts: &str) -> Vec<u8> {
    let mut bytes = wat::parse_str(format!("(component {parts} {EXPORT})")).expect("good text");
    let mut body = vec![u8::try_from(SECTION.len()).expect("a short name")];
    body.extend_from_slice(SECTION.as_bytes());
    body.extend_from_slice(DESCRIPTION.as_bytes());
    // A custom section: its number, its length as two groups of seven bits, its contents.
    let low = u8::try_from(body.len() & 0x7f).expect("seven bits") | 0x80;
    let high = u8::try_from(body.len() >> 7).expect("less than 16 KiB");
    bytes.extend([0, low, high]);
    bytes.extend(body);
    bytes
}

fn begin(limits: &Limits, parts: &str) -> Result<Attempt, CallError> {
    let component = SANDBOX
        .load(&component(parts))
        .expect("names fit, and it compiles");
    component.attempt(limits, AS_OF_US)
}

/// Instances of one module, each with what it holds.
fn instances(count: usize, holds: &str) -> String {
    let instance = "(core instance (instantiate $part))";
    format!("(core module $part {holds}) {}", instance.repeat(count))
}

#[test]
fn a_function_of_another_type_is_not_called() {
    let outcome = begin(&Limits::own(), "");

    let Err(CallError::Contract { problem }) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        problem.starts_with("`next` has another type: "),
        "{problem}"
    );
}

#[test]
fn a_loop_at_the_start_is_ended() {
    let limits = Limits {
        cpu: Duration::from_millis(30),
        ..Limits::own()
    };

    let outcome = begin(
        &limits,
        &instances(1, "(func $spin (loop (br 0))) (start $spin)"),
    );

    assert!(matches!(outcome, Err(CallError::Limit(error)) if error.limit == Limit::Cpu));
}

#[test]
fn several_memories_share_one_limit() {
    let limits = Limits {
        memory_bytes: 10 * 65_536,
        ..Limits::own()
    };

    // 4 pages each: two instances fit, three do not.
    let two = begin(&limits, &instances(2, "(memory 4)"));
    let three = begin(&limits, &instances(3, "(memory 4)"));

    assert!(matches!(two, Err(CallError::Contract { .. })), "{two:?}");
    let Err(CallError::Limit(error)) = three else {
        panic!("{three:?}")
    };
    assert_eq!(
        (error.limit, error.asked),
        (Limit::Memory, Some(12 * 65_536))
    );
}

#[test]
fn memories_tables_and_instances_are_counted() {
    for (count, holds) in [(5, "(memory 0)"), (17, "(table 0 funcref)"), (65, "")] {
        let outcome = begin(&Limits::own(), &instances(count, holds));

        let Err(CallError::Trap { message, .. }) = outcome else {
            panic!("{holds}: {outcome:?}")
        };
        assert!(message.contains("limit"), "{message}");
    }
}

#[test]
fn features_that_no_step_needs_are_off() {
    for holds in [
        "(memory i64 1)",
        "(memory 1) (memory 1)",
        "(memory 1 1 shared)",
        "(func $f return_call $f)",
        "(type (struct))",
    ] {
        let error = SANDBOX
            .load(&component(&instances(1, holds)))
            .expect_err(holds);

        assert!(
            matches!(error, SandboxError::Compile { .. }),
            "{holds}: {error:?}"
        );
    }
}
