//! How long a plugin takes until it can be asked.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use stepwell_sandbox::{Limits, Sandbox, SandboxOptions};

use crate::Scale;
use crate::boundary::{median, milliseconds};
use crate::table::{Table, Target};

/// Most time that a plugin takes to be ready whose code is cached.
const CACHED_MAX: Duration = Duration::from_millis(5);
/// Most time to compile all built-in steps, side by side.
const COLD_MAX: Duration = Duration::from_millis(500);

/// Measures and prints.
pub fn measure(folder: &Path, scale: Scale) -> Result<()> {
    let cache = folder.join("starts");
    let steps = stepwell_builtin::STEPS;
    let mut cold = Vec::new();
    let mut cached = vec![Vec::new(); steps.len()];
    for _ in 0..scale.short_rounds {
        if cache.exists() {
            fs::remove_dir_all(&cache).context("forget the compiled steps")?;
        }
        let begun = Instant::now();
        let sandbox = sandbox(&cache)?;
        std::thread::scope(|scope| {
            let loading: Vec<_> = steps
                .iter()
                .map(|(_, bytes)| scope.spawn(|| sandbox.load_builtin(bytes).map(drop)))
                .collect();
            loading
                .into_iter()
                .try_for_each(|thread| thread.join().expect("loading does not panic"))
        })?;
        cold.push(begun.elapsed());

        // As the next process meets them.
        let sandbox = self::sandbox(&cache)?;
        for ((name, bytes), times) in steps.iter().zip(&mut cached) {
            let begun = Instant::now();
            let component = sandbox.load_builtin(bytes)?;
            let attempt = component.attempt(&Limits::third_party(), 0)?;
            times.push(begun.elapsed());
            drop(attempt);
            ensure!(component.cached(), "{name} comes from the cache");
        }
    }
    let mut table = Table::new("Plugin start", &["median", "worst"]);
    let worst = |times: &[Duration]| times.iter().max().copied().unwrap_or_default();
    for ((name, _), times) in steps.iter().zip(&cached) {
        let is_met = median(times) < CACHED_MAX;
        table.row(
            &format!("`{name}`, compiled before"),
            &[milliseconds(median(times)), milliseconds(worst(times))],
            &Target::of("< 5 ms", is_met),
        );
    }
    let is_met = median(&cold) < COLD_MAX;
    table.row(
        &format!("all {}, compiled side by side", steps.len()),
        &[milliseconds(median(&cold)), milliseconds(worst(&cold))],
        &Target::of("< 500 ms", is_met),
    );
    table.note(
        "From the bytes of the component to an instance that can be asked, with everything that is checked on the way; \
         the engine's own start is in the last row.",
    );
    table.print()
}

fn sandbox(cache: &Path) -> Result<Sandbox> {
    Ok(Sandbox::new(SandboxOptions {
        cache_dir: Some(cache.to_owned()),
        ..SandboxOptions::default()
    })?)
}
