//! Rows on their way: out of several sessions, through as many instances, into one table.
//!
//! Each part has a task that decodes and a thread on which the plugin runs, with room for one batch between them; the
//! threads share the way to the table. Whoever is slow holds up those before it, so memory is bounded by a few batches.

mod spool;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream;
use stepwell_sandbox::contract::RunInfo;
use stepwell_sandbox::{CallError, Component, Limits, Reducer};
use stepwell_sql::TableName;
use stepwell_warehouse::{
    Canceller, CopyFormat, Cut, Encoder, Field, Grouped, Session, WarehouseError,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::statement;
use crate::confined::Expiry;
use crate::conversation::{blocking, plugin};
use crate::convert;
use crate::error::{Problem, RunError, StepPlace};
use crate::run::Interrupts;

/// Bytes of rows that are sent at once.
const CHUNK_BYTES: usize = 256 << 10;

/// How long what was cancelled may take to end before its sessions are given up.
const HALT_WAIT: Duration = Duration::from_millis(1500);

/// A session in a read-only transaction, and what it is to read.
pub(super) struct Reader {
    pub(super) session: Session,
    pub(super) sql: String,
    /// Set for a third party's: what it means that the server ends the query for its time.
    pub(super) expiry: Option<Expiry>,
}

/// What flows where.
pub(super) struct Flow<'a> {
    pub(super) component: &'a Component,
    pub(super) limits: &'a Limits,
    pub(super) info: &'a RunInfo,
    pub(super) place: &'a StepPlace,
    pub(super) grouped: &'a Grouped,
    pub(super) output: &'a [Field],
    pub(super) target: &'a TableName,
    pub(super) cut: Cut,
}

/// What has flowed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Flowed {
    pub(super) rows_in: u64,
    pub(super) rows_out: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) cpu_ms: u64,
}

/// What a reader hands to its plugin.
enum Handed {
    Batch(stepwell_sandbox::contract::Batch, bool),
    /// All rows were read. Without it the reader has failed, and the plugin is not asked for the rest.
    End,
}

/// What a plugin's thread hands to the writer.
enum Given {
    Rows(Vec<u8>),
    /// The part is through.
    End,
}

/// Why a part ended. Whoever is cut off by the failure of another has nothing to say.
enum Ended {
    Error(RunError),
    CutOff,
}

impl Flow<'_> {
    /// Lets all rows through and returns the sessions of the workflow's own login, still in their transactions.
    pub(super) async fn run(
        &self,
        readers: Vec<Reader>,
        writer: &Session,
        interrupts: &Interrupts,
    ) -> Result<(Vec<Session>, Flowed), RunError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (halt, halted) = watch::channel(false);
        let mut cancellers: Vec<Canceller> = readers
            .iter()
            .map(|reader| reader.session.canceller())
            .collect();
        cancellers.push(writer.canceller());
        let parts = readers.len();
        let (give, given) = mpsc::channel(2);
        let mut parts_running = Vec::new();
        for reader in readers {
            let (hand, handed) = mpsc::channel(1);
            let (grouped, cut) = (self.grouped.clone(), self.cut);
            let mut halted = halted.clone();
            let reading = tokio::spawn(async move {
                tokio::select! {
                    biased;
                    _ = halted.wait_for(|halted| *halted) => Err(Ended::CutOff),
                    read = read(reader, &grouped, cut, &hand) => read,
                }
            });
            let folding = self.fold(handed, give.clone(), Arc::clone(&stop));
            let (stop, halt) = (Arc::clone(&stop), halt.clone());
            // One part that fails ends the others, wherever they are.
            let folding = tokio::spawn(async move {
                let folded = passed_on(folding.await);
                if folded.is_err() {
                    stop.store(true, Ordering::Relaxed);
                    halt.send_replace(true);
                }
                folded
            });
            parts_running.push((Aborting(reading), folding));
        }
        drop(give);
        let outcome = unless_ended(
            self.all(parts_running, writer, given, parts),
            interrupts,
            self.limits.wall,
        )
        .await;
        if outcome.is_err() {
            stop.store(true, Ordering::Relaxed);
            let cancelling = cancellers.iter().map(Canceller::cancel);
            for cancelled in futures_util::future::join_all(cancelling).await {
                if let Err(error) = cancelled {
                    tracing::warn!(%error, "could not cancel the running statement");
                }
            }
            // What is still open is undone as the sessions are dropped.
            let rolling = tokio::time::timeout(HALT_WAIT, writer.rollback());
            let _ = rolling.await;
        }
        outcome
    }

    /// Waits for all parts and the writer, and returns the first failure that is one of its own.
    async fn all(
        &self,
        parts_running: Vec<Running>,
        writer: &Session,
        given: mpsc::Receiver<Given>,
        parts: usize,
    ) -> Result<(Vec<Session>, Flowed), RunError> {
        let joined = async {
            let each = parts_running
                .into_iter()
                .map(async |(mut reading, folding)| {
                    let (read, folded) = tokio::join!(&mut reading.0, folding);
                    (passed_on(read), passed_on(folded))
                });
            futures_util::future::join_all(each).await
        };
        let (ended, written) = tokio::join!(joined, write(self.target, writer, given, parts));
        let (mut sessions, mut through, mut total) = (Vec::new(), 0, Flowed::default());
        let mut failed = None;
        for (read, folded) in ended {
            match folded {
                Ok(flowed) => {
                    total.rows_in += flowed.rows_in;
                    total.rows_out += flowed.rows_out;
                    total.bytes_out += flowed.bytes_out;
                    total.cpu_ms += flowed.cpu_ms;
                }
                Err(Ended::Error(error)) => failed = failed.or(Some(error)),
                Err(Ended::CutOff) => {}
            }
            match read {
                Ok(read) => {
                    through += 1;
                    sessions.extend(read.session);
                    total.bytes_in += read.bytes;
                }
                Err(Ended::Error(error)) => failed = failed.or(Some(error)),
                Err(Ended::CutOff) => {}
            }
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        let rows = written.map_err(statement)?;
        if rows != total.rows_out || through != parts {
            let message = format!("{rows} rows were written of {} given", total.rows_out);
            return Err(RunError::new(Problem::Refused(message)));
        }
        Ok((sessions, total))
    }

    /// Runs the plugin for one part, on a thread where it may block.
    fn fold(
        &self,
        handed: mpsc::Receiver<Handed>,
        give: mpsc::Sender<Given>,
        stop: Arc<AtomicBool>,
    ) -> JoinHandle<Result<Flowed, Ended>> {
        let (component, limits) = (self.component.clone(), self.limits.clone());
        let (info, place) = (self.info.clone(), self.place.clone());
        let input: Vec<_> = self.grouped.fields().cloned().map(convert::field).collect();
        let fields = self.output.to_vec();
        tokio::spawn(blocking(move || {
            let failed = |error| match error {
                CallError::Stopped => Ended::CutOff,
                error => Ended::Error(plugin(error, &place)),
            };
            let output: Vec<_> = fields.iter().cloned().map(convert::field).collect();
            let encoder = Encoder::new(&fields).ok_or(Ended::CutOff)?;
            let mut reducer = component
                .reducer(&limits, &info, &input, &output)
                .map_err(failed)?;
            reducer.stop_on(stop);
            let mut part = Part {
                handed,
                give,
                encoder,
                flowed: Flowed::default(),
                step: info.step_id,
            };
            part.run(&mut reducer).map_err(|error| match error {
                Failed::Plugin(error) => failed(error),
                Failed::Row(message) => {
                    Ended::Error(RunError::new(Problem::Refused(message)).at(place.clone()))
                }
                Failed::CutOff => Ended::CutOff,
            })?;
            part.flowed.rows_out = reducer.rows_out();
            let cpu = reducer.attempt().cpu().as_millis();
            part.flowed.cpu_ms = u64::try_from(cpu).unwrap_or(u64::MAX);
            Ok(part.flowed)
        }))
    }
}

/// One part on the thread of its plugin.
struct Part {
    handed: mpsc::Receiver<Handed>,
    give: mpsc::Sender<Given>,
    encoder: Encoder,
    flowed: Flowed,
    step: String,
}

enum Failed {
    Plugin(CallError),
    Row(String),
    CutOff,
}

impl Part {
    fn run(&mut self, reducer: &mut Reducer) -> Result<(), Failed> {
        loop {
            match self.handed.blocking_recv() {
                Some(Handed::Batch(batch, continues)) => {
                    self.flowed.rows_in += u64::from(batch.rows);
                    let mut output = reducer.push(&batch, continues);
                    // All of it before the next rows, or it would pile up in the plugin.
                    while self.give(reducer, output)? {
                        output = reducer.more();
                    }
                }
                Some(Handed::End) => break,
                None => return Err(Failed::CutOff),
            }
        }
        loop {
            let output = reducer.finish();
            if !self.give(reducer, output)? {
                break;
            }
        }
        self.send(Given::End)
    }

    /// Hands rows over; returns whether there were any.
    fn give(
        &mut self,
        reducer: &mut Reducer,
        output: Result<Option<stepwell_sandbox::contract::Batch>, CallError>,
    ) -> Result<bool, Failed> {
        for line in reducer.attempt().take_log() {
            tracing::debug!(step = %self.step, "{}", line.message);
        }
        let Some(batch) = output.map_err(Failed::Plugin)? else {
            return Ok(false);
        };
        let batch = convert::batch_from(batch);
        let mut row = 0;
        while row < batch.rows {
            let mut rows = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
            row = self
                .encoder
                .rows(&batch, row, &mut rows, CHUNK_BYTES)
                .map_err(|error| Failed::Row(error.to_string()))?;
            self.flowed.bytes_out += rows.len() as u64;
            self.send(Given::Rows(rows))?;
        }
        Ok(batch.rows > 0)
    }

    fn send(&self, given: Given) -> Result<(), Failed> {
        self.give.blocking_send(given).map_err(|_| Failed::CutOff)
    }
}

/// One part: its reader, and the thread of its plugin.
type Running = (
    Aborting<Result<Read, Ended>>,
    JoinHandle<Result<Flowed, Ended>>,
);

/// A reader that is done.
struct Read {
    /// None of a third party, whose session is closed.
    session: Option<Session>,
    bytes: u64,
}

/// Reads one part and hands it on, batch by batch.
async fn read(
    reader: Reader,
    grouped: &Grouped,
    cut: Cut,
    hand: &mpsc::Sender<Handed>,
) -> Result<Read, Ended> {
    let Reader {
        session,
        sql,
        expiry,
    } = reader;
    let failed = |source| {
        Ended::Error(match &expiry {
            Some(expiry) => expiry.explain(source),
            None => statement(source),
        })
    };
    let bytes = hand_on(&session, &sql, grouped, cut, hand, failed).await?;
    let session = expiry.is_none().then_some(session);
    Ok(Read { session, bytes })
}

/// Hands all rows of a SELECT on, and says that these are all. Returns how many bytes their values take.
async fn hand_on(
    session: &Session,
    sql: &str,
    grouped: &Grouped,
    cut: Cut,
    hand: &mpsc::Sender<Handed>,
    failed: impl Fn(WarehouseError) -> Ended,
) -> Result<u64, Ended> {
    let mut bytes = 0;
    {
        let mut copy = session.copy_out(sql, grouped, cut).await.map_err(&failed)?;
        while let Some(batch) = copy.next_batch().await.map_err(&failed)? {
            bytes += batch.batch.bytes();
            let handed = Handed::Batch(convert::batch(batch.batch), batch.continues);
            hand.send(handed).await.map_err(|_| Ended::CutOff)?;
        }
    }
    hand.send(Handed::End).await.map_err(|_| Ended::CutOff)?;
    Ok(bytes)
}

/// Copies what the parts give into the table; undone unless all parts come to their end.
async fn write(
    target: &TableName,
    writer: &Session,
    given: mpsc::Receiver<Given>,
    parts: usize,
) -> Result<u64, WarehouseError> {
    let rows = stream::unfold((given, parts, true), async |(mut given, left, more)| {
        if !more {
            return None;
        }
        let mut left = left;
        loop {
            return match given.recv().await {
                Some(Given::Rows(rows)) => Some((Ok(rows.into()), (given, left, true))),
                Some(Given::End) => {
                    left -= 1;
                    continue;
                }
                None if left == 0 => Some((Ok(Encoder::trailer()), (given, left, false))),
                None => Some((Err("a part did not come to its end"), (given, left, false))),
            };
        }
    });
    let header = stream::iter([Ok(Encoder::header())]);
    let rows = futures_util::StreamExt::chain(header, rows);
    writer.copy_in(target, &[], CopyFormat::Binary, rows).await
}

/// Waits for the work unless it is to end, or takes longer than `wall`. The work is dropped when this returns: a COPY that
/// is still there keeps its session to itself, and a ROLLBACK would wait for it.
async fn unless_ended<T>(
    work: impl Future<Output = Result<T, RunError>>,
    interrupts: &Interrupts,
    wall: Duration,
) -> Result<T, RunError> {
    tokio::select! {
        biased;
        done = work => done,
        interrupted = interrupts.raised() => Err(interrupted),
        () = tokio::time::sleep(wall) => Err(RunError::new(Problem::Refused(format!(
            "the step took longer than its limit of {} s (`limits: wall`)",
            wall.as_secs_f64()
        )))),
    }
}

/// A task that ends when nobody waits for it any more.
struct Aborting<T>(JoinHandle<T>);

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a task returned; a panic in it goes on here.
fn passed_on<T>(joined: Result<Result<T, Ended>, tokio::task::JoinError>) -> Result<T, Ended> {
    match joined {
        Ok(ended) => ended,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Ended::CutOff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::run::Interrupt;

    /// Says that it is dropped.
    struct Copying<'a>(&'a AtomicBool);

    impl Drop for Copying<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// The COPY of work that was interrupted lived until its ROLLBACK had been waited for, in vain.
    #[tokio::test]
    async fn nothing_is_left_of_work_that_is_ended() {
        for (signal, wall) in [(true, Duration::from_secs(3600)), (false, Duration::ZERO)] {
            let (gone, interrupts) = (AtomicBool::new(false), Interrupts::new("sessions"));
            let copying = Copying(&gone);
            let work = async move {
                let _copying = copying;
                std::future::pending::<Result<(), RunError>>().await
            };
            if signal {
                interrupts.raise(Interrupt::Signal("SIGINT"));
            }
            let ended = unless_ended(work, &interrupts, wall).await;
            assert!(ended.is_err());
            assert!(gone.load(Ordering::Relaxed));
        }
    }
}
