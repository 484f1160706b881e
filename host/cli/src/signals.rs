//! Ctrl-C and SIGTERM: the first asks the runs to stop, the second ends the program at once.

use anyhow::Context;
use stepwell_runner::Stop;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit;
use crate::output::Output;

/// Begins to listen, and returns what hears the first signal. Runs in a Tokio runtime.
///
/// # Errors
///
/// If the system does not let us listen.
pub(crate) fn listen(output: &Output) -> anyhow::Result<Stop> {
    let context = "could not listen for signals";
    let mut interrupt = signal(SignalKind::interrupt()).context(context)?;
    let mut terminate = signal(SignalKind::terminate()).context(context)?;
    let (stopper, stop) = stepwell_runner::stop();
    let output = output.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            }
        };
        let first = next().await;
        output.say(&format!(
            "{first}: rolling back what is not committed; once more to end at once"
        ));
        stopper.stop(first);
        let second = next().await;
        output.finish();
        #[expect(
            clippy::exit,
            reason = "the user does not want to wait for the roll back"
        )]
        std::process::exit(exit::of_signal(second).into());
    });
    Ok(stop)
}
