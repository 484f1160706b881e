//! Runs of one process that start together, and the questions that they ask once between them.
//!
//! Playbooks over the same events ask the same of them: which batches there are, how many rows each has. Where runs begin
//! together, the first to ask asks for all.
//!
//! What a run is told is what it would have been told: questions are read-only statements, each with a snapshot of its
//! own, and an answer counts for a run only if it was asked for after the moment that the run says ([`Member::since`]),
//! which is after it took its lease. So the answer sees all that the playbook's manifest has, and of what lands later as
//! much as a question does that is put a moment earlier. A batch that grows after it was counted is counted again by the
//! next run, whoever counted it.
//!
//! That goes for the first pass of each run. The slices of a backlog ask for themselves: they are no longer at the same
//! place, and answers that are kept for nobody would pile up, slice by slice. What is kept goes with the last first pass.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use stepwell_sandbox::batch_bytes;
use stepwell_sandbox::contract::{Answer, Question};
use tokio::sync::watch;

use crate::error::RunError;
use crate::run::Interrupts;

/// How long a run waits at most for the others to come to their first question. They start at the same time, so it is
/// over in about a millisecond; one that has to wait for something is not waited for.
const MEET_WAIT: Duration = Duration::from_millis(25);

/// Largest answer that is kept for others. Larger ones are asked for by each.
const KEPT_BYTES_MAX: u64 = 2 << 20;

/// Runs of one process that start together. Clones are the same group; the default is a run by itself.
#[derive(Clone, Default)]
pub struct Together(Option<Arc<Group>>);

struct Group {
    /// Runs that have not come to their first question yet.
    missing: watch::Sender<usize>,
    /// Runs that are not beyond their first pass yet.
    sharing: AtomicUsize,
    /// By who asks whom, and what.
    answers: Mutex<HashMap<Key, Slot>>,
}

type Key = (String, String, String);
/// Locked while somebody asks.
type Slot = Arc<tokio::sync::Mutex<Option<Kept>>>;

struct Kept {
    asked_at: Instant,
    answer: Answer,
}

impl Together {
    /// Returns a group of `runs`, each of which takes part once. Runs that follow each other are no group.
    pub fn of(runs: usize) -> Self {
        Self((runs > 1).then(|| {
            Arc::new(Group {
                missing: watch::Sender::new(runs),
                sharing: AtomicUsize::new(runs),
                answers: Mutex::default(),
            })
        }))
    }

    /// Returns the part of one run.
    pub(crate) fn join(&self) -> Member {
        Member {
            group: self.0.clone(),
            met: Mutex::new(false),
            left: AtomicBool::new(false),
            asking: tokio::sync::Mutex::new(()),
            since: Mutex::new(None),
        }
    }
}

impl std::fmt::Debug for Together {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Together({})", self.0.is_some())
    }
}

/// One run's part. Dropping it lets the others go on without it.
pub(crate) struct Member {
    group: Option<Arc<Group>>,
    met: Mutex<bool>,
    /// Whether this run is beyond its first pass.
    left: AtomicBool,
    /// Locked while this run asks something. Of questions that are put together, those beside it take the others.
    asking: tokio::sync::Mutex<()>,
    /// When the first pass began.
    since: Mutex<Option<Instant>>,
}

impl Member {
    /// Says that a pass begins: with the first one, for which the lease is taken, answers count from now on; with the next
    /// this run asks for itself.
    pub(crate) fn begin_pass(&self) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        match *since {
            None => *since = Some(Instant::now()),
            Some(_) => self.leave(),
        }
    }

    /// Shares no more answers; the last one to leave takes what was kept along.
    fn leave(&self) {
        let Some(group) = &self.group else { return };
        let last = || group.sharing.fetch_sub(1, Ordering::AcqRel) == 1;
        if !self.left.swap(true, Ordering::AcqRel) && last() {
            let mut answers = group.answers.lock().unwrap_or_else(PoisonError::into_inner);
            *answers = HashMap::new();
        }
    }

    /// Waits for the others to come this far, for [`MEET_WAIT`] at most, the first time that it is called.
    pub(crate) async fn meet(&self) {
        if !self.arrive() {
            return;
        }
        let Some(group) = &self.group else { return };
        let mut missing = group.missing.subscribe();
        // Over either way.
        let _ = tokio::time::timeout(MEET_WAIT, missing.wait_for(|missing| *missing == 0)).await;
    }

    /// Returns the answer to a question, and asks it unless another run of the group has. `asker` is the
    /// [identity](stepwell_warehouse::Session::identity) of the session on which it is asked.
    pub(crate) async fn answer(
        &self,
        asker: &str,
        interrupts: &Interrupts,
        question: &Question,
        ask: impl Future<Output = Result<Answer, RunError>>,
    ) -> Result<Answer, RunError> {
        let shares = |_: &&Arc<Group>| !self.left.load(Ordering::Acquire);
        let Some(group) = self.group.as_ref().filter(shares) else {
            return ask.await;
        };
        let slot = group.slot(asker, question);
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        // Who fails to get an answer leaves the slot empty, and the next one asks for itself. Whoever has `asking` waits for
        // nothing but the server, so to wait for it with a slot in hand comes to an end.
        let asking = interrupts.unless_raised(self.asking.lock()).await?;
        let (mut slot, asking) = match slot.try_lock() {
            Ok(slot) => (slot, Some(asking)),
            Err(_) => {
                drop(asking);
                (interrupts.unless_raised(slot.lock()).await?, None)
            }
        };
        let counts = |kept: &&Kept| since.is_none_or(|since| kept.asked_at >= since);
        if let Some(kept) = slot.as_ref().filter(counts) {
            tracing::debug!(label = %question.label, "answered by a run beside this one");
            return Ok(kept.answer.clone());
        }
        let _asking = match asking {
            Some(asking) => asking,
            None => interrupts.unless_raised(self.asking.lock()).await?,
        };
        let asked_at = Instant::now();
        let answer = ask.await?;
        *slot = (batch_bytes(&answer.rows) <= KEPT_BYTES_MAX).then(|| Kept {
            asked_at,
            answer: answer.clone(),
        });
        Ok(answer)
    }

    /// Counts as having come, once; returns whether it was the first time.
    fn arrive(&self) -> bool {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let first = !std::mem::replace(&mut *met, true);
        if let (true, Some(group)) = (first, &self.group) {
            group
                .missing
                .send_modify(|missing| *missing = missing.saturating_sub(1));
        }
        first
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.arrive();
        self.leave();
    }
}

impl Group {
    fn slot(&self, asker: &str, question: &Question) -> Slot {
        let key = (
            asker.to_owned(),
            question.sql.clone(),
            format!("{:?}", question.params),
        );
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(answers.entry(key).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::cell::Cell;

    use stepwell_sandbox::contract::Batch;

    use crate::error::Problem;

    /// Asks on a session, and counts in `asked` when the warehouse has to answer.
    async fn ask(
        member: &Member,
        asker: &str,
        sql: &str,
        asked: &Cell<u32>,
        answer: Result<(), ()>,
    ) -> Result<Answer, RunError> {
        let question = Question {
            label: "batches".into(),
            sql: sql.into(),
            params: Vec::new(),
        };
        let asking = async {
            asked.set(asked.get() + 1);
            let columns = Vec::new();
            let fields = Vec::new();
            let failed = |()| RunError::new(Problem::Refused("the server is gone".into()));
            answer.map_err(failed).map(|()| Answer {
                fields,
                rows: Batch { rows: 7, columns },
            })
        };
        let interrupts = Interrupts::new("sessions");
        member.answer(asker, &interrupts, &question, asking).await
    }

    #[tokio::test]
    async fn the_same_question_is_asked_once() {
        let together = Together::of(2);
        let (first, second, asked) = (together.join(), together.join(), Cell::new(0));
        for member in [&first, &second] {
            let answer = ask(member, "a", "SELECT 1", &asked, Ok(())).await;
            assert_eq!(answer.unwrap().rows.rows, 7);
        }
        assert_eq!(asked.get(), 1);
        ask(&second, "a", "SELECT 2", &asked, Ok(())).await.unwrap();
        ask(&second, "another login", "SELECT 1", &asked, Ok(()))
            .await
            .unwrap();
        assert_eq!(asked.get(), 3);
    }

    /// Else a batch that a run has processed since would be taken for gone.
    #[tokio::test]
    async fn an_answer_from_before_the_lease_does_not_count() {
        let together = Together::of(2);
        let (first, second, asked) = (together.join(), together.join(), Cell::new(0));
        ask(&first, "a", "SELECT 1", &asked, Ok(())).await.unwrap();
        second.begin_pass();
        ask(&second, "a", "SELECT 1", &asked, Ok(())).await.unwrap();
        assert_eq!(asked.get(), 2);
        // For the first, whose lease is older, the new answer counts as well.
        ask(&first, "a", "SELECT 1", &asked, Ok(())).await.unwrap();
        assert_eq!(asked.get(), 2);
    }

    /// Each slice of a backlog left its answers behind for as long as the runs went on.
    #[tokio::test]
    async fn the_slices_of_a_backlog_keep_nothing() {
        let together = Together::of(2);
        let (first, second, asked) = (together.join(), together.join(), Cell::new(0));
        let kept = || together.0.as_ref().unwrap().answers.lock().unwrap().len();
        first.begin_pass();
        second.begin_pass();
        ask(&first, "a", "SELECT 1", &asked, Ok(())).await.unwrap();
        for slice in 2..5 {
            first.begin_pass();
            let sql = format!("SELECT {slice}");
            ask(&first, "a", &sql, &asked, Ok(())).await.unwrap();
            assert_eq!((asked.get(), kept()), (slice, 1));
        }
        // The other run is still in its first pass.
        ask(&second, "a", "SELECT 1", &asked, Ok(())).await.unwrap();
        assert_eq!(asked.get(), 4);
        second.begin_pass();
        assert_eq!(kept(), 0);
    }

    #[tokio::test]
    async fn a_failure_is_not_shared() {
        let together = Together::of(2);
        let (first, second, asked) = (together.join(), together.join(), Cell::new(0));
        assert!(ask(&first, "a", "SELECT 1", &asked, Err(())).await.is_err());
        ask(&second, "a", "SELECT 1", &asked, Ok(())).await.unwrap();
        assert_eq!(asked.get(), 2);
    }

    #[tokio::test]
    async fn who_waits_for_an_answer_can_be_stopped() {
        let together = Together::of(2);
        let (first, second) = (together.join(), together.join());
        let question = Question {
            label: "batches".into(),
            sql: "SELECT 1".into(),
            params: Vec::new(),
        };
        let interrupts = Interrupts::new("sessions");
        let asking = first.answer("a", &interrupts, &question, std::future::pending());
        let waiting = second.answer("a", &interrupts, &question, std::future::pending());
        let stopping = async {
            tokio::task::yield_now().await;
            interrupts.raise(crate::run::Interrupt::Signal("SIGINT"));
        };
        tokio::select! {
            biased;
            _ = asking => unreachable!("its question has no answer"),
            (stopped, ()) = async { tokio::join!(waiting, stopping) } => assert!(stopped.is_err()),
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_a_run_that_ended() {
        let together = Together::of(2);
        let (first, second) = (together.join(), together.join());
        drop(second);
        first.meet().await;
        assert_eq!(*first.group.as_ref().unwrap().missing.borrow(), 0);
    }

    #[test]
    fn a_run_by_itself_is_no_group() {
        assert!(Together::of(1).0.is_none());
        assert!(Together::default().0.is_none());
    }
}
