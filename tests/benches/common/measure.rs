//! How a process is measured: wall time, processor time and peak memory.
//!
//! Hides a helper process. The system counts as a process's peak what its parent had when it was
//! started, and this program is larger than psql; so it starts itself once more, as a small parent
//! that only waits.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// First argument of the helper.
const HELPER: &str = "measured-by-helper";

/// Longest time for one process; the longest first build takes minutes.
const TIMEOUT: Duration = Duration::from_secs(3_600);

/// One process that ended well.
#[derive(Debug)]
pub struct Sample {
    /// From before its start to its end.
    pub wall: Duration,
    /// Processor time of the process itself; the server's is not in it.
    pub cpu: Duration,
    pub peak_kib: u64,
    /// What it wrote to stdout.
    pub stdout: String,
}

/// Samples of the same thing.
#[derive(Debug, Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// In the order in which they were taken.
    pub fn all(&self) -> &[Sample] {
        &self.0
    }

    fn walls(&self) -> Vec<Duration> {
        let mut walls: Vec<_> = self.0.iter().map(|sample| sample.wall).collect();
        walls.sort();
        walls
    }

    /// The middle one, the later of two in the middle; zero if there is none.
    pub fn median(&self) -> Duration {
        let walls = self.walls();
        walls.get(walls.len() / 2).copied().unwrap_or_default()
    }

    /// The least and the greatest, where there are several.
    pub fn range(&self) -> Option<(Duration, Duration)> {
        match self.walls().as_slice() {
            [least, .., greatest] => Some((*least, *greatest)),
            _ => None,
        }
    }

    /// The greatest peak.
    pub fn peak_kib(&self) -> u64 {
        let peaks = self.0.iter().map(|sample| sample.peak_kib);
        peaks.max().unwrap_or_default()
    }
}

/// Runs a command to its end and measures it; `scratch` is a file of our own.
///
/// # Errors
///
/// If it does not end well, with what it said.
pub async fn measure(command: &Command, scratch: &Path) -> Result<Sample> {
    let program = std::env::current_exe().context("where is this program?")?;
    let mut helper = tokio::process::Command::new(program);
    helper.arg(HELPER).arg(scratch);
    helper.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        helper.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => helper.env(name, value),
            None => helper.env_remove(name),
        };
    }
    helper.stdin(Stdio::null()).kill_on_drop(true);
    let shown = format!("{command:?}");
    let output = tokio::time::timeout(TIMEOUT, helper.output())
        .await
        .with_context(|| format!("no end after {} s: {shown}", TIMEOUT.as_secs()))?
        .with_context(|| format!("could not start {shown}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {shown}\n{stdout}{stderr}", output.status);
    }
    let figures = fs::read_to_string(scratch).context("what the helper measured")?;
    let figures: Vec<u64> = figures
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [wall, cpu, peak_kib] = figures[..] else {
        bail!("the helper measured {figures:?}");
    };
    Ok(Sample {
        wall: Duration::from_micros(wall),
        cpu: Duration::from_micros(cpu),
        peak_kib,
        stdout,
    })
}

/// Does the helper's work if this process is the helper.
pub fn in_helper() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != HELPER {
        return None;
    }
    let (scratch, program) = (args.next()?, args.next()?);
    Some(match wait_for(&program, args, Path::new(&scratch)) {
        Ok(code) => code,
        // Seen as a process that failed.
        Err(_) => ExitCode::from(127),
    })
}

fn wait_for(
    program: &OsString,
    args: impl Iterator<Item = OsString>,
    scratch: &Path,
) -> std::io::Result<ExitCode> {
    let begun = Instant::now();
    let child = Command::new(program).args(args).spawn()?;
    let mut status = 0;
    // SAFETY: all zeros is a value of this struct of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that outlive the call.
    let waited = unsafe { libc::wait4(child.id().cast_signed(), &mut status, 0, &mut usage) };
    let wall = begun.elapsed();
    if waited < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let micros = |time: libc::timeval| number(time.tv_sec) * 1_000_000 + number(time.tv_usec);
    let cpu = micros(usage.ru_utime) + micros(usage.ru_stime);
    // macOS counts bytes.
    let peak_kib = usage.ru_maxrss / if cfg!(target_os = "macos") { 1024 } else { 1 };
    fs::write(scratch, format!("{} {cpu} {peak_kib}", wall.as_micros()))?;
    Ok(match libc::WIFEXITED(status) {
        true => ExitCode::from(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(1)),
        false => ExitCode::from(128),
    })
}

/// The parts of a time are of other types on other systems.
fn number(part: impl TryInto<u64>) -> u64 {
    part.try_into().unwrap_or_default()
}
