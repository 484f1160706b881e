//! The sessions on which the steps of one run work: as many as steps run side by side.

use std::sync::{Mutex, PoisonError};

use stepwell_warehouse::{Session, Target};
use stepwell_workflow::Workflow;

use crate::connect;
use crate::error::RunError;

pub(crate) struct Pool<'a> {
    workflow: &'a Workflow,
    target: &'a Target,
    run_id: String,
    idle: Mutex<Vec<Session>>,
}

impl<'a> Pool<'a> {
    /// Returns a pool that has `first` to give.
    pub(crate) fn new(
        workflow: &'a Workflow,
        target: &'a Target,
        run_id: String,
        first: Session,
    ) -> Self {
        Self {
            workflow,
            target,
            run_id,
            idle: Mutex::new(vec![first]),
        }
    }

    /// Returns a session that nobody else uses until it is given back.
    pub(crate) async fn take(&self) -> Result<Session, RunError> {
        let idle = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            // A session may have died while nobody used it.
            idle.retain(|session| !session.is_closed());
            idle.pop()
        };
        match idle {
            Some(session) => Ok(session),
            None => connect::step(self.workflow, self.target, &self.run_id).await,
        }
    }

    /// Takes a session back after work that went well, with what the step's SQL may have left in it undone. One that is in
    /// an unknown state is dropped instead, which ends its transaction on the server.
    pub(crate) async fn give_back(&self, session: Session) {
        if session.reset().await.unwrap_or(false) {
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(session);
        }
    }
}
