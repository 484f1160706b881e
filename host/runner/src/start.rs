//! What comes before the first question of a run: connections, the host's tables, the lease, the journal.

use std::collections::BTreeMap;
use std::time::Duration;

use stepwell_sandbox::Component;
use stepwell_warehouse::{Session, Target, WarehouseError};
use stepwell_workflow::Workflow;

use crate::components::Components;
use crate::connect;
use crate::error::{Problem, RunError};
use crate::init;
use crate::journal::{End, Journal, Purpose};
use crate::lease::{self, Applicant, Lease};
use crate::manifest;
use crate::observe::{Event, Observer};
use crate::replay::Replay;
use crate::resume::{self, Resumed};
use crate::retry::Retries;
use crate::roles::{self, Logins};
use crate::run::RunOptions;
use crate::source;
use crate::step;
use crate::stop::Stop;

/// How long a cancelled request for the lease may take to end. With what comes after it this is within two seconds.
const CANCEL_WAIT: Duration = Duration::from_millis(700);

/// Who starts a run of what.
pub(crate) struct Start<'a> {
    pub(crate) workflow: &'a Workflow,
    pub(crate) components: &'a Components,
    pub(crate) options: &'a RunOptions,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) retries: &'a Retries,
    pub(crate) run_id: &'a str,
    pub(crate) as_of_us: i64,
}

/// What a run has before it takes the lease.
type Opened = (
    Target,
    Session,
    Session,
    BTreeMap<usize, Component>,
    Logins,
    Option<Resumed>,
);

/// A run that holds its lease and stands in the journal.
pub(crate) struct Started {
    pub(crate) target: Target,
    pub(crate) control: Session,
    /// The first session for steps.
    pub(crate) first: Session,
    /// What is needed to see whether anything is pending.
    pub(crate) loaded: BTreeMap<usize, Component>,
    pub(crate) lease: Lease,
    pub(crate) journal: Journal,
    pub(crate) logins: Logins,
    /// What is taken over from a run that failed.
    pub(crate) resumed: Option<Resumed>,
}

impl Start<'_> {
    /// Does all of it. A request to stop ends it before the lease is taken; one that comes later is for the run to hear.
    pub(crate) async fn run(&self, mut stop: Stop) -> Result<Started, RunError> {
        let opening = self.open();
        // Nothing that would have to be undone happens here.
        let (target, control, first, loaded, logins, resumed) = tokio::select! {
            biased;
            signal = stop.asked() => return Err(RunError::new(Problem::Stopped { signal })),
            opened = opening => opened?,
        };
        let place = place();
        let lease = self.lease(&control, &place, stop).await?;
        // A run that was thought dead may have committed until the lease was taken from it.
        let still = match &resumed {
            Some(resumed) => resume::still(&control, self.workflow, &loaded, &lease, resumed).await,
            None => Ok(()),
        };
        let purpose = Purpose {
            command: match self.options.replay {
                Some(_) => "replay",
                None => "run",
            },
            request: resume::request(self.options, resumed.as_ref()),
            workflow_digest: Some(resume::workflow_digest(self.workflow)),
        };
        let as_of_us = resumed
            .as_ref()
            .map_or(self.as_of_us, |resumed| resumed.as_of_us);
        let journal = Journal::begin(&control, &lease, &place, as_of_us, &purpose).await?;
        if let Err(error) = still {
            journal
                .finish(&control, &lease, &End::Badly(&error, 0))
                .await?;
            return Err(error);
        }
        for retry in self.retries.taken() {
            journal.retry(&control, &retry).await?;
        }
        Ok(Started {
            target,
            control,
            first,
            loaded,
            lease,
            journal,
            logins,
            resumed,
        })
    }

    async fn open(&self) -> Result<Opened, RunError> {
        let workflow = self.workflow;
        let target = connect::target(workflow, self.options).await?;
        // What is not needed to see that nothing is pending is loaded once something is.
        let gate = step::gate(workflow);
        let all = gate.is_none() || self.options.from.is_some();
        let at_once = (0..workflow.steps.len()).filter(|&index| all || gate == Some(index));
        let ((control, first), loaded) = tokio::try_join!(
            self.connect(&target),
            self.components.load(workflow, at_once)
        )?;
        source::check(&control, workflow, self.options).await?;
        init::ensure(&control, workflow, self.options).await?;
        if let Some(Replay::Batches(names)) = &self.options.replay {
            manifest::check_names(&control, workflow, names).await?;
        }
        let private = init::is_private(workflow, self.options);
        let logins = Box::pin(roles::ready(
            &control,
            workflow,
            &target,
            private,
            roles::Mode::Make,
        ))
        .await?;
        // Looked at before the lease is taken: a refusal leaves all as it is, and another step may be given then.
        let resumed = match &self.options.from {
            Some(from) => {
                Lease::look(&control, workflow.playbook.as_str()).await?;
                Some(resume::resume(&control, workflow, &loaded, from).await?)
            }
            None => None,
        };
        Ok((target, control, first, loaded, logins, resumed))
    }

    /// Connects the control session and a first one for steps; nothing is sent before both are there.
    async fn connect(&self, target: &Target) -> Result<(Session, Session), RunError> {
        let mut failed = 0;
        loop {
            let error = match tokio::try_join!(
                connect::control(self.workflow, target, self.run_id),
                connect::step(self.workflow, target, self.run_id),
            ) {
                Ok(sessions) => return Ok(sessions),
                Err(error) => error,
            };
            let stopped = error
                .warehouse_error()
                .is_some_and(WarehouseError::is_private_server_stopped);
            if stopped {
                return Err(error);
            }
            failed += 1;
            match self
                .retries
                .next("connect to the warehouse", failed, &error)
            {
                Some((retry, wait)) => {
                    let event = Event::Retrying { retry: &retry };
                    self.observer.event(self.workflow.playbook.as_str(), &event);
                    tokio::time::sleep(wait).await;
                }
                None => return Err(error),
            }
        }
    }

    /// Takes the lease. A takeover may have to wait for a transaction of the dead run, and is given up when the run is to
    /// stop; a lease that was taken all the same is held, so that the run gives it back as it ends.
    async fn lease(
        &self,
        control: &Session,
        place: &str,
        mut stop: Stop,
    ) -> Result<Lease, RunError> {
        let applicant = Applicant {
            playbook: self.workflow.playbook.as_str(),
            run_id: self.run_id,
            place,
            expiry: lease::expiry(self.workflow),
        };
        let taking = Lease::take(control, &applicant);
        tokio::pin!(taking);
        let signal = tokio::select! {
            biased;
            taken = &mut taking => return taken,
            signal = stop.asked() => signal,
        };
        let ending = async {
            let _ = control.canceller().cancel().await;
            taking.await
        };
        match tokio::time::timeout(CANCEL_WAIT, ending).await {
            Ok(Ok(lease)) => Ok(lease),
            _ => Err(RunError::new(Problem::Stopped { signal })),
        }
    }
}

/// Where this process runs, for people.
pub(crate) fn place() -> String {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    format!("{host}, process {}", std::process::id())
}
