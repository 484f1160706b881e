//! A reducer within a transaction that is open already, on the one session that sees what is in it.
//!
//! Scratch tables that are not committed are seen by no other session, so the rows are read in one part, and a session
//! that copies out cannot copy in before it is through. What the plugin gives is kept in a temporary file until then.

use stepwell_sandbox::{Component, Limits, contract};
use stepwell_warehouse::Session;

use super::flow::Flow;
use super::{Prepared, cut};
use crate::conversation::{Questions, Whom};
use crate::error::{Problem, RunError, StepPlace};
use crate::run::Interrupts;

/// A reducer on its way within an open transaction.
pub(crate) struct ReductionWithin<'a> {
    /// The session whose transaction is open; one that may write.
    pub(crate) session: &'a Session,
    pub(crate) interrupts: &'a Interrupts,
    pub(crate) prepared: Prepared,
    pub(crate) component: Component,
    pub(crate) limits: Limits,
    pub(crate) info: contract::RunInfo,
    pub(crate) place: StepPlace,
    /// How large batches are; none leaves it to the host.
    pub(crate) batch_rows: Option<u32>,
}

impl ReductionWithin<'_> {
    /// Makes the target and fills it; returns how many rows it has. After an error the transaction is good for nothing
    /// but to be rolled back.
    pub(crate) async fn run(&self) -> Result<u64, RunError> {
        let folded = self.fold().await;
        folded.map_err(|error| error.at(self.place.clone()))
    }

    async fn fold(&self) -> Result<u64, RunError> {
        let (session, interrupts) = (self.session, self.interrupts);
        let asked = Whom::Workflow(session);
        // As in a run, the SELECT cannot write, whatever the functions are that it calls.
        asked.begin(Questions::InTheOpenOne, interrupts).await?;
        let grouped = self.prepared.grouped(asked, interrupts).await;
        let grouped = grouped.map_err(|error| self.prepared.of_select(&self.place, error))?;
        let flow = Flow {
            component: &self.component,
            limits: &self.limits,
            info: &self.info,
            place: &self.place,
            grouped: &grouped,
            output: &self.prepared.output,
            target: &self.prepared.target,
            cut: cut(self.batch_rows, 1),
        };
        let sql = grouped.rows_sql(0, 1);
        let (file, flowed) = flow.keep(session, &sql, interrupts).await?;
        asked.end(Questions::InTheOpenOne).await?;
        self.host(&self.prepared.target_sql()).await?;
        let writing = flow.write(session, file);
        let written = interrupts.guard(session, writing).await?;
        let rows = written.map_err(|source| RunError::new(Problem::Statement { source }))?;
        if rows != flowed.rows_out {
            let message = format!("{rows} rows were written of {} given", flowed.rows_out);
            return Err(RunError::new(Problem::Refused(message)));
        }
        self.host(&format!("ANALYZE {}", self.prepared.target))
            .await?;
        Ok(rows)
    }

    /// Runs a statement of the host's own.
    async fn host(&self, sql: &str) -> Result<(), RunError> {
        let running = self.session.execute(sql, &[]);
        let ran = self.interrupts.guard(self.session, running).await?;
        ran.map(drop)
            .map_err(RunError::warehouse("make the table of the reducer's rows"))
    }
}
