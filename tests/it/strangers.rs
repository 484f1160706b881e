//! Compiling a component that nobody trusts: in a child process, within limits.

use std::time::Duration;

use stepwell_sandbox::{
    ARGUMENT, ChildCompiler, ChildError, SECTION, Sandbox, SandboxError, SandboxOptions,
};

/// The end of a component with an export of the contract's name.
const EXPORT: &str = r#"
    (core module $answers (func (export "next") (result i32) i32.const 0))
    (core instance $answers (instantiate $answers))
    (func $next (result u32) (canon lift (core func $answers "next")))
    (instance $planning (export "next" (func $next)))
    (export "stepwell:step/planning@0.1.0" (instance $planning))"#;

const DESCRIPTION: &str =
    r#"{"name":"crafted","version":"1.0.0","kind":"planner","contract":"0.1.0","settings":{}}"#;

fn compiler() -> ChildCompiler {
    ChildCompiler::new(env!("CARGO_BIN_EXE_stepwell-under-test").into())
}

fn sandbox(compiler: ChildCompiler) -> Sandbox {
    let options = SandboxOptions {
        compiler: Some(compiler),
        ..SandboxOptions::default()
    };
    Sandbox::new(options).expect("the engine starts")
}

fn builtin(name: &str) -> &'static [u8] {
    let found = stepwell_builtin::STEPS
        .iter()
        .find(|(step, _)| *step == name);
    found.expect("it is built in").1
}

/// A component with this core module, which describes itself.
fn with_module(module: &str) -> Vec<u8> {
    let text = format!("(component (core module {module}) {EXPORT})");
    let mut bytes = wat::parse_str(text).expect("good text");
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

/// One with a function of so many instructions, each of which depends on the one before.
fn long(instructions: usize) -> Vec<u8> {
    let work = "local.get 0 i64.mul local.tee 0 ".repeat(instructions);
    with_module(&format!(
        "(func (param i64) (result i64) local.get 0 {work})"
    ))
}

fn refused(compiler: ChildCompiler, bytes: &[u8]) -> ChildError {
    match sandbox(compiler).load_stranger(bytes) {
        Err(SandboxError::CompileInChild { source }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_child_compiles_what_this_process_loads() {
    let sandbox = sandbox(compiler());
    let component = sandbox
        .load_stranger(builtin("commit"))
        .expect("it compiles");
    assert_eq!(component.description().name, "commit");
    assert!(!component.cached());
}

#[test]
fn what_a_child_compiled_is_cached() {
    let dir = tempfile::tempdir().expect("a directory");
    let cached = |compiler: Option<ChildCompiler>| {
        let options = SandboxOptions {
            cache_dir: Some(dir.path().to_owned()),
            compiler,
            ..SandboxOptions::default()
        };
        let sandbox = Sandbox::new(options).expect("the engine starts");
        sandbox.load_stranger(builtin("sql")).map(|c| c.cached())
    };
    assert!(
        matches!(cached(None), Err(SandboxError::NoCompiler)),
        "a stranger's bytes never meet the compiler in this process"
    );
    assert!(!cached(Some(compiler())).expect("it compiles"));
    assert!(cached(None).expect("it is compiled"));
}

#[test]
fn a_component_that_takes_for_ever_to_compile_is_given_up() {
    let quick = ChildCompiler {
        cpu: Duration::from_secs(1),
        ..compiler()
    };
    let error = refused(quick, &long(400_000));
    assert!(matches!(error, ChildError::Time { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "compiling took more than 1 s on the processor"
    );
}

#[test]
fn a_component_that_takes_all_memory_to_compile_is_given_up() {
    let small = ChildCompiler {
        memory_bytes: 200 << 20,
        ..compiler()
    };
    let error = refused(small, &long(400_000));
    assert!(matches!(error, ChildError::Memory { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .starts_with("compiling took more than 200 MiB of memory"),
        "{error}"
    );
}

#[test]
fn what_the_compiler_refuses_is_said() {
    // A feature that no step needs is off.
    let error = refused(compiler(), &with_module("(memory i64 1)"));
    assert!(
        matches!(&error, ChildError::Refused { message } if message.contains("memory64")),
        "{error:?}"
    );
}

/// A compiler that is led astray opens no file and no connection, and takes no more than it may.
#[cfg(target_os = "linux")]
#[test]
fn the_child_bounds_itself_before_it_reads_a_byte() {
    use std::process::{Command, Stdio};

    let mut child = Command::new(env!("CARGO_BIN_EXE_stepwell-under-test"))
        .args([ARGUMENT, "268435456", "7"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let path = format!("/proc/{}/limits", child.id());
    let status = format!("/proc/{}/status", child.id());
    let limit = |name: &str| {
        let limits = std::fs::read_to_string(&path).expect("it waits for its component");
        let line = limits.lines().find(|line| line.starts_with(name));
        let words = line.expect("a known limit")[name.len()..].split_whitespace();
        words.take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    // The last one that it sets.
    let bounded =
        || std::fs::read_to_string(&status).is_ok_and(|status| status.contains("NoNewPrivs:\t1"));
    while !bounded() {
        assert!(
            child.try_wait().expect("it is ours").is_none(),
            "it waits for its component"
        );
        std::thread::yield_now();
    }
    for (name, expected) in [
        ("Max open files", ["3", "3"]),
        ("Max file size", ["0", "0"]),
        ("Max core file size", ["0", "0"]),
        ("Max address space", ["268435456", "268435456"]),
        ("Max cpu time", ["7", "8"]),
    ] {
        assert_eq!(limit(name), expected, "{name}");
    }
    drop(child.stdin.take());
    let ended = child.wait().expect("it is ours");
    assert_eq!(ended.code(), Some(1), "nothing is no component");
}

/// Nobody gets a compiler by accident: the program takes other arguments as it always does.
#[test]
fn the_argument_is_no_command() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_stepwell-under-test"))
        .arg("--help")
        .output()
        .expect("it starts");
    assert!(!String::from_utf8_lossy(&output.stdout).contains(ARGUMENT));
}
