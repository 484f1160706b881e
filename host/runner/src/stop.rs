//! Asking a run to stop.

use tokio::sync::watch;

/// Asks the runs that were given its [`Stop`] to end: each cancels its statements on the server, rolls back, gives its
/// lease back and returns [`Problem::Stopped`](crate::Problem::Stopped).
#[derive(Debug, Clone)]
pub struct Stopper(watch::Sender<Option<&'static str>>);

/// Hears whether a run should end.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Option<&'static str>>);

/// Returns both ends.
pub fn stop() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(None);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Asks; `signal` says who did, for the message: `SIGINT`.
    pub fn stop(&self, signal: &'static str) {
        self.0.send_replace(Some(signal));
    }
}

impl Stop {
    /// Returns who asked, once somebody does; never if nobody does.
    pub async fn asked(&mut self) -> &'static str {
        let asked = self
            .0
            .wait_for(Option::is_some)
            .await
            .map(|signal| signal.unwrap_or("a signal"));
        match asked {
            Ok(signal) => signal,
            // Nobody is left who could ask.
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns who asked, if somebody did.
    pub fn is_asked(&self) -> Option<&'static str> {
        *self.0.borrow()
    }
}
