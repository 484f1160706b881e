//! Compiling a stranger's component in a child process, which may use so much memory and time and no more.
//!
//! The child is this very program, started with [`ARGUMENT`] and an empty environment. It bounds itself before it reads
//! a byte, takes the component from stdin and answers on stdout: the artefact, or why there is none. A compiler that
//! runs wild, or is led astray, takes the child with it and nothing else.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use thiserror::Error;

use crate::engine::Compiler;
use crate::text::shown;
use crate::{compile, engine};

/// The first argument of a program that is to compile and do nothing else. The memory in bytes and the time on the
/// processor in seconds follow.
pub const ARGUMENT: &str = "compile-component-for-parent";

/// Largest artefact that is taken from a child.
const ARTEFACT_BYTES_MAX: u64 = 512 << 20;

/// Longest message that is taken from a child.
const MESSAGE_BYTES_MAX: usize = 2_000;

/// How often the parent looks whether the child is done.
const LOOK: Duration = Duration::from_millis(5);

/// Who compiles the components of strangers, and what that may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildCompiler {
    /// A program that calls [`compile_for_parent`] when [`ARGUMENT`] is its first argument.
    pub program: PathBuf,
    /// Address space of the child, in bytes.
    pub memory_bytes: u64,
    /// Time on the processor, over all of its threads; whole seconds count. On the clock it gets twice as much, and a
    /// second.
    pub cpu: Duration,
}

impl ChildCompiler {
    /// Returns a compiler with 2 GiB and 60 s.
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            memory_bytes: 2 << 30,
            cpu: Duration::from_secs(60),
        }
    }
}

/// The child did not give an artefact.
#[derive(Debug, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ChildError {
    #[error("could not start {} to compile the component", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("could not read what the compiling process answered")]
    Read { source: io::Error },
    #[error("{message}")]
    Refused { message: String },
    #[error("compiling took more than {} s on the processor", cpu.as_secs())]
    Time { cpu: Duration },
    #[error("compiling took more than {} MiB of memory, or crashed: {how}", memory_bytes >> 20)]
    Memory { memory_bytes: u64, how: String },
}

/// Has a child compile `bytes`.
pub(crate) fn compile_in(compiler: &ChildCompiler, bytes: &[u8]) -> Result<Vec<u8>, ChildError> {
    let mut child = start(compiler)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let stderr = child.stderr.take();
    let deadline = Instant::now() + compiler.cpu * 2 + Duration::from_secs(1);
    thread::scope(|scope| {
        scope.spawn(move || {
            // A child that ends early does not read to the end; how it ended says more than this error.
            let _ = stdin.map(|mut stdin| stdin.write_all(bytes));
        });
        let answer = scope.spawn(move || read(stdout, ARTEFACT_BYTES_MAX));
        let said = scope.spawn(move || read(stderr, MESSAGE_BYTES_MAX as u64));
        let status = wait(&mut child, deadline);
        let answer = answer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let said = said
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let said = String::from_utf8_lossy(&said.unwrap_or_default()).into_owned();
        let Some(status) = status.map_err(|source| ChildError::Read { source })? else {
            return Err(ChildError::Time { cpu: compiler.cpu });
        };
        outcome(compiler, status, answer, &said)
    })
}

fn start(compiler: &ChildCompiler) -> Result<Child, ChildError> {
    let limits = [compiler.memory_bytes, compiler.cpu.as_secs().max(1)];
    Command::new(&compiler.program)
        .arg(ARGUMENT)
        .args(limits.map(|limit| OsString::from(limit.to_string())))
        // Passwords stand in environments.
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| ChildError::Start {
            program: compiler.program.clone(),
            source,
        })
}

/// Reads to the end, and keeps the beginning: a pipe that nobody reads would keep the child waiting.
fn read(from: Option<impl Read>, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(mut from) = from {
        from.by_ref().take(bytes_max).read_to_end(&mut kept)?;
        io::copy(&mut from, &mut io::sink())?;
    }
    Ok(kept)
}

/// Waits for the child's end; none if it had to be ended.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

fn outcome(
    compiler: &ChildCompiler,
    status: ExitStatus,
    answer: io::Result<Vec<u8>>,
    said: &str,
) -> Result<Vec<u8>, ChildError> {
    let answer = answer.map_err(|source| ChildError::Read { source })?;
    let over = [Signal::XCPU, Signal::KILL].map(Signal::as_raw);
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(answer),
        (Some(1), _) => Err(ChildError::Refused {
            message: shown(&String::from_utf8_lossy(&answer), MESSAGE_BYTES_MAX),
        }),
        (_, Some(signal)) if over.contains(&signal) => Err(ChildError::Time { cpu: compiler.cpu }),
        _ => Err(ChildError::Memory {
            memory_bytes: compiler.memory_bytes,
            how: match said.lines().next() {
                Some(line) => shown(line, MESSAGE_BYTES_MAX),
                None => status.to_string(),
            },
        }),
    }
}

/// Compiles the component in `stdin`, as the child of a process that asked for it with [`ARGUMENT`], and answers on
/// `stdout`. Returns the code to exit with; none if `arguments`, the program's own without its name, ask for something
/// else.
///
/// To be called first thing in `main`, before any thread is started.
pub fn compile_for_parent(
    mut arguments: impl Iterator<Item = OsString>,
    mut stdin: impl Read,
    mut stdout: impl Write,
) -> Option<u8> {
    if arguments.next()? != ARGUMENT {
        return None;
    }
    let mut number = || arguments.next()?.to_str()?.parse().ok();
    let (Some(memory_bytes), Some(cpu_secs)) = (number(), number()) else {
        return Some(2);
    };
    if bound(memory_bytes, cpu_secs).is_err() {
        return Some(3);
    }
    let mut bytes = Vec::new();
    let compiled = stdin
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())
        .and_then(|_| {
            let compiled = engine::new(Compiler::Optimising)
                .and_then(|engine| compile::compile(&engine, &bytes));
            compiled.map_err(|error| format!("{error:#}"))
        });
    let (answer, code) = match compiled {
        Ok(artefact) => (artefact, 0),
        Err(message) => (message.into_bytes(), 1),
    };
    match stdout.write_all(&answer).and_then(|()| stdout.flush()) {
        Ok(()) => Some(code),
        Err(_) => Some(4),
    }
}

/// Bounds this process for ever.
fn bound(memory_bytes: u64, cpu_secs: u64) -> io::Result<()> {
    let at_most = |most: u64| Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    setrlimit(Resource::As, at_most(memory_bytes))?;
    // The signal at the first limit ends the process; the second one is for whoever ignores it.
    let cpu = Rlimit {
        current: Some(cpu_secs),
        maximum: Some(cpu_secs + 1),
    };
    setrlimit(Resource::Cpu, cpu)?;
    // It opens nothing beside the three streams that it has: no file, no socket. It writes no file either, and no core with
    // the component's data in it.
    setrlimit(Resource::Nofile, at_most(3))?;
    setrlimit(Resource::Fsize, at_most(0))?;
    setrlimit(Resource::Core, at_most(0))?;
    rustix::thread::set_no_new_privs(true)?;
    // Steps of our own beside it come first. Where that cannot be had, it competes with them.
    let _ = rustix::process::nice(10);
    Ok(())
}
