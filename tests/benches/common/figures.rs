//! How figures are written, and where they are printed.

use std::io::Write as _;
use std::time::Duration;

use crate::measure::Samples;

/// Writes a paragraph to stdout.
///
/// # Errors
///
/// If nobody reads any more.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Says something on stderr, where progress goes.
pub fn note(text: &str) {
    // Nobody to tell it to is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The median, and in brackets from where to where: `0.230 s (0.221–0.254)`.
pub fn figure(samples: &Samples) -> String {
    let median = seconds(samples.median());
    match samples.range() {
        None => median,
        Some((least, greatest)) => {
            let bare = |duration| seconds(duration).replace(" s", "");
            format!("{median} ({}–{})", bare(least), bare(greatest))
        }
    }
}

/// `0.023 s`, `2.30 s`, `23.0 s`.
pub fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        ..1.0 => format!("{seconds:.3} s"),
        1.0..10.0 => format!("{seconds:.2} s"),
        _ => format!("{seconds:.1} s"),
    }
}

/// `30 MiB`, rounded up.
pub fn mib(kib: u64) -> String {
    format!("{} MiB", kib.div_ceil(1024))
}

/// `1,000,000`.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().collect();
    let groups = groups.iter().map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(",")
}

/// What stands in a table's column `met`.
pub fn met(met: Option<bool>) -> &'static str {
    match met {
        None => "",
        Some(true) => "yes",
        Some(false) => "**no**",
    }
}
