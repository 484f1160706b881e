//! What the figures were taken on, in a sentence.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use stepwell_warehouse::Session;

use crate::server::text;

/// Commits whose median says how fast the disk is.
const COMMITS: usize = 21;

/// Says what machine, system and versions the figures are of.
pub async fn describe(session: &Session, postgres: &str) -> Result<String> {
    let day = text(session, "SELECT current_date::text AS it").await?;
    let commit = commit_time(session).await?.as_secs_f64() * 1e3;
    let stepwell = env!("CARGO_PKG_VERSION");
    let build = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let model = entry("/proc/cpuinfo", "model name");
    let memory = entry("/proc/meminfo", "MemTotal").and_then(|kib| {
        let kib = kib.split_whitespace().next()?.parse::<u64>().ok()?;
        Some(format!("{} GiB", kib >> 20))
    });
    let system = std::env::consts::OS;
    let kernel = first_word("/proc/sys/kernel/osrelease");
    let load = first_word("/proc/loadavg");
    let known = |word: Option<String>| word.unwrap_or_else(|| "?".to_owned());
    Ok(format!(
        "Measured on {day}: Stepwell {stepwell} ({build} build), PostgreSQL {postgres};\n\
         {processors} × {}, {} of memory, {system} {};\n\
         a commit takes {commit:.2} ms, the load before the start was {}.\n",
        known(model),
        known(memory),
        known(kernel),
        known(load),
    ))
}

/// The value of the first line of a file that begins with `key`.
fn entry(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn first_word(file: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

/// The median time of a transaction that writes one row.
async fn commit_time(session: &Session) -> Result<Duration> {
    session.batch("CREATE TABLE public.commits (n int)").await?;
    let mut times = vec![];
    for _ in 0..COMMITS {
        let begun = Instant::now();
        session
            .batch("INSERT INTO public.commits VALUES (1)")
            .await?;
        times.push(begun.elapsed());
    }
    session.batch("DROP TABLE public.commits").await?;
    times.sort();
    Ok(times[COMMITS / 2])
}
