//! Calling a reducer: rows in, rows out, and what comes out is held against what it declared.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use wasmtime::component::ResourceAny;

use crate::attempt::Attempt;
use crate::batch;
use crate::call::CallError;
use crate::contract::{Batch, Field, RunInfo};
use crate::limits::{Limit, LimitError, Limits};
use crate::shape;

/// Rows that a reducer may give without having taken any: the first ones come before the ratio means something.
const FREE_ROWS: u64 = 1_000_000;

/// One partition on its way through a reducer: an instance of its own, used for nothing else.
///
/// Batches go in with [`push`](Self::push), after which [`more`](Self::more) is called for as long as rows come back; after
/// the last one [`finish`](Self::finish) is called until it gives none.
/// After an error it is over, and each further call is [`CallError::Over`]. As with an [`Attempt`], calls block and may
/// come from another thread each time.
pub struct Reducer {
    attempt: Attempt,
    resource: ResourceAny,
    output: Vec<Field>,
    /// What is pushed to ask for more.
    nothing: Batch,
    /// What the last batch said of its last group.
    continues: bool,
    rows_in: u64,
    rows_out: u64,
    bytes_out: u64,
}

impl Reducer {
    pub(crate) fn open(
        mut attempt: Attempt,
        run: &RunInfo,
        input: &[Field],
        output: &[Field],
    ) -> Result<Self, CallError> {
        shape::check_fields(output)?;
        let (exports, instance) = attempt.reducing()?;
        let reducing = exports.stepwell_step_reducing();
        let resource = instance.call(|store| reducing.reducer().call_open(store, run, input))?;
        Ok(Self {
            attempt,
            resource,
            output: output.to_vec(),
            nothing: batch::empty(input),
            continues: false,
            rows_in: 0,
            rows_out: 0,
            bytes_out: 0,
        })
    }

    /// Ends the call that is going on, within 10 ms or so, and refuses further ones, once `stop` is set: with
    /// [`CallError::Stopped`].
    pub fn stop_on(&mut self, stop: Arc<AtomicBool>) {
        self.attempt.instance().stop_on(stop);
    }

    /// Hands over the next rows; `continues` says that the last group goes on in the next batch. Returns the rows that the
    /// plugin gives back now.
    ///
    /// # Errors
    ///
    /// If the plugin fails, crashes, wants more than its limits, or gives rows that are not of the fields that it
    /// declared: [`CallError::Contract`] names field and row.
    pub fn push(&mut self, input: &Batch, continues: bool) -> Result<Option<Batch>, CallError> {
        self.rows_in += u64::from(input.rows);
        self.continues = continues;
        self.pushed(input)
    }

    /// Asks for more of what came of the rows so far, so that a plugin that makes much of a batch can give it bit by bit:
    /// pushes a batch without rows.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn more(&mut self) -> Result<Option<Batch>, CallError> {
        let nothing = self.nothing.clone();
        self.pushed(&nothing)
    }

    fn pushed(&mut self, input: &Batch) -> Result<Option<Batch>, CallError> {
        let (exports, instance) = self.attempt.reducing()?;
        let reducing = exports.stepwell_step_reducing();
        let (resource, continues) = (self.resource, self.continues);
        let output = instance.call(|store| {
            reducing
                .reducer()
                .call_push(store, resource, input, continues)
        })?;
        self.check(output)
    }

    /// Asks for rows that are left once everything was handed over; none when nothing is.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push), and [`CallError::Contract`] for a batch without rows, which would not bring the end nearer.
    pub fn finish(&mut self) -> Result<Option<Batch>, CallError> {
        let (exports, instance) = self.attempt.reducing()?;
        let reducing = exports.stepwell_step_reducing();
        let resource = self.resource;
        let output = instance.call(|store| reducing.reducer().call_finish(store, resource))?;
        if output.as_ref().is_some_and(|batch| batch.rows == 0) {
            let problem =
                "finish: it gives a batch without rows, expected none at the end".to_owned();
            self.attempt
                .instance()
                .checked(Err(CallError::Contract { problem }))?;
        }
        self.check(output)
    }

    fn check(&mut self, output: Option<Batch>) -> Result<Option<Batch>, CallError> {
        let Some(batch) = output else {
            return Ok(None);
        };
        self.rows_out = self.rows_out.saturating_add(batch.rows.into());
        self.bytes_out = self.bytes_out.saturating_add(batch::bytes(&batch));
        let (rows_in, rows_out, bytes_out) = (self.rows_in, self.rows_out, self.bytes_out);
        let instance = self.attempt.instance();
        let within = within(&instance.limits, rows_in, rows_out, bytes_out);
        let checked = within.and_then(|()| batch::check(&batch, &self.output));
        instance.checked(checked)?;
        Ok(Some(batch))
    }

    /// Returns how many rows it gave so far.
    pub fn rows_out(&self) -> u64 {
        self.rows_out
    }

    /// Returns the instance, for what it said and used.
    pub fn attempt(&mut self) -> &mut Attempt {
        &mut self.attempt
    }
}

fn within(limits: &Limits, rows_in: u64, rows_out: u64, bytes_out: u64) -> Result<(), CallError> {
    let rows = limits.output_rows_per_row.saturating_mul(rows_in);
    let rows = rows.saturating_add(FREE_ROWS);
    if rows_out > limits.output_rows {
        let (what, rows) = ("rows given", limits.output_rows);
        return Err(LimitError::new(Limit::OutputRows, what, rows, rows_out).into());
    }
    if rows_out > rows {
        let what = format!("rows given for {rows_in} rows taken");
        return Err(LimitError::new(Limit::OutputRows, what, rows, rows_out).into());
    }
    let bytes = limits.output_bytes;
    if bytes_out > bytes {
        return Err(
            LimitError::new(Limit::OutputBytes, "bytes of rows given", bytes, bytes_out).into(),
        );
    }
    Ok(())
}

impl std::fmt::Debug for Reducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reducer")
            .field("rows_in", &self.rows_in)
            .field("rows_out", &self.rows_out)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_bytes_given_are_bounded() {
        let limits = Limits {
            output_rows_per_row: 2,
            output_bytes: 1000,
            ..Limits::own()
        };
        assert_eq!(within(&limits, 10, FREE_ROWS + 20, 1000), Ok(()));
        let fewer = Limits {
            output_rows: 9,
            ..limits.clone()
        };
        for (limits, rows, bytes, limit) in [
            (&limits, FREE_ROWS + 21, 0, Limit::OutputRows),
            (&limits, 0, 1001, Limit::OutputBytes),
            (&fewer, 10, 0, Limit::OutputRows),
        ] {
            let outcome = within(limits, 10, rows, bytes);
            assert!(matches!(outcome, Err(CallError::Limit(error)) if error.limit == limit));
        }
    }
}
