//! Why the work of a run ends early, and how what waits hears of it.

use std::future::Future;
use std::time::Duration;

use stepwell_warehouse::{Session, WarehouseError};
use tokio::sync::watch;

use crate::conversation::or_cancelled;
use crate::error::{Problem, RunError};
use crate::stop::Stop;

/// Why the work of a run is to end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    Signal(&'static str),
    LeaseLost,
    ControlLost,
    /// Another step of the run failed.
    Sibling,
}

/// Ends the work of a run early. The first reason is the one that counts.
pub(crate) struct Interrupts {
    raised: watch::Sender<Option<Interrupt>>,
    playbook: String,
}

impl Interrupts {
    pub(crate) fn new(playbook: &str) -> Self {
        Self {
            raised: watch::Sender::new(None),
            playbook: playbook.to_owned(),
        }
    }

    pub(crate) fn raise(&self, interrupt: Interrupt) {
        self.raised.send_if_modified(|raised| {
            let first = raised.is_none();
            raised.get_or_insert(interrupt);
            first
        });
    }

    /// Waits for a time to pass unless the work is to end.
    pub(crate) async fn sleep(&self, time: Duration) -> Result<(), RunError> {
        let mut raised = self.raised.subscribe();
        // Over either way when this returns, and asked for below.
        let _ = tokio::time::timeout(time, raised.wait_for(Option::is_some)).await;
        self.check()
    }

    /// Returns an error if the work is to end.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        match *self.raised.borrow() {
            None => Ok(()),
            Some(interrupt) => Err(self.error(interrupt)),
        }
    }

    /// Waits until the work is to end, and says why.
    pub(crate) async fn raised(&self) -> RunError {
        let mut raised = self.raised.subscribe();
        let found = raised.wait_for(Option::is_some).await.map(|found| *found);
        match found {
            Ok(Some(interrupt)) => self.error(interrupt),
            // The sender lives as long as `self`.
            _ => std::future::pending().await,
        }
    }

    /// Waits for work on a session unless the work of the run is to end, in which case it is cancelled on the server.
    pub(crate) async fn guard<T>(
        &self,
        session: &Session,
        work: impl Future<Output = Result<T, WarehouseError>>,
    ) -> Result<Result<T, WarehouseError>, RunError> {
        self.check()?;
        let mut raised = self.raised.subscribe();
        let interrupted = async {
            let found = raised
                .wait_for(Option::is_some)
                .await
                .map(|interrupt| *interrupt);
            match found {
                Ok(Some(interrupt)) => interrupt,
                // The sender lives as long as `self`.
                _ => std::future::pending().await,
            }
        };
        or_cancelled(session.canceller(), work, interrupted)
            .await
            .map_err(|interrupt| self.error(interrupt))
    }

    /// Does the work of a command that holds no lease, and raises the interrupt once somebody asks to stop: the work is to
    /// hear of that by itself, and to end.
    pub(crate) async fn while_listening<T>(
        &self,
        mut stop: Stop,
        work: impl Future<Output = T>,
    ) -> T {
        let listening = async {
            let signal = stop.asked().await;
            self.raise(Interrupt::Signal(signal));
            std::future::pending::<std::convert::Infallible>().await
        };
        tokio::select! {
            done = work => done,
            never = listening => match never {},
        }
    }

    /// Waits for what no session of this run works on, unless the work of the run is to end.
    pub(crate) async fn unless_raised<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, RunError> {
        let mut raised = self.raised.subscribe();
        tokio::select! {
            biased;
            done = work => Ok(done),
            _ = raised.wait_for(Option::is_some) => {
                self.check()?;
                // The sender lives as long as `self`, so there is a reason.
                std::future::pending().await
            }
        }
    }

    fn error(&self, interrupt: Interrupt) -> RunError {
        RunError::new(match interrupt {
            Interrupt::Signal(signal) => Problem::Stopped { signal },
            Interrupt::LeaseLost => Problem::LeaseLost {
                playbook: self.playbook.clone(),
            },
            Interrupt::ControlLost => Problem::ControlLost {
                playbook: self.playbook.clone(),
            },
            Interrupt::Sibling => Problem::Refused("another step of the run failed".into()),
        })
    }
}
