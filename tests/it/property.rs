//! The rebuild invariant, whatever arrives: made-up streams of events in random batches, run in random slices, against
//! rows that plain SQL says.
//!
//! `STEPWELL_PROPERTY_CASES=5000` tries more cases, `STEPWELL_PROPERTY_SEED=1234` begins at another one. A case that fails
//! is made smaller and printed; `STEPWELL_PROPERTY_CASE='<what was printed>'` tries it again. `STEPWELL_PROPERTY_SHRINK=0`
//! prints it as it is. `tests/mutants` tries whether the test finds mistakes.

mod case;
mod check;
mod dice;
mod playbooks;
mod shrink;

use std::sync::atomic::{AtomicU64, Ordering};

use case::Case;
use playbooks::PLAYBOOKS;

/// Cases in a run of the suite: a minute or two on two cores.
const CASES: u64 = 200;

/// Databases side by side.
const WORKERS: usize = 4;

/// Any sequence of arrivals, deletions and runs gives the rows of a rebuild.
///
/// Goal: after every run each derived table equals a rebuild over the batches in the manifest, in every column.
/// Method: events are late, copied, without key, batch or time; batches grow, come out of order and beyond the lookback;
/// runs take any slice. Events that went from a processed batch, or came to one that is not looked at again, are the
/// documented exception: rows that depend on them are left out of the comparison until the full refresh at the end, which
/// must bring equality. What lies within the lookback must have been found, also where the manifest has no rows of old
/// batches (`retain`): those count as processed by their names.
#[tokio::test(flavor = "multi_thread")]
async fn any_arrivals_equal_a_rebuild() {
    if let Ok(text) = std::env::var("STEPWELL_PROPERTY_CASE") {
        let case: Case = serde_json::from_str(&text).expect("a case as it was printed");
        let why = check::failure(&check::database().await, &case).await;
        assert_eq!(why, None);
        return;
    }
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}: expected a number, found {text:?}")),
        Err(_) => default,
    };
    let first = number("STEPWELL_PROPERTY_SEED", 1);
    let shrinks = number("STEPWELL_PROPERTY_SHRINK", 1) > 0;
    let (next, end) = (
        AtomicU64::new(first),
        first + number("STEPWELL_PROPERTY_CASES", CASES),
    );
    let workers = (0..WORKERS).map(|_| async {
        let db = check::database().await;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let case = Case::from_seed(seed, PLAYBOOKS.len());
            if let Some(why) = check::failure(&db, &case).await {
                // The others need not go on.
                next.store(end, Ordering::Relaxed);
                let (case, why) = match shrinks {
                    true => {
                        let fails = async |case: &Case| check::failure(&db, case).await;
                        shrink::shrunk(case, why, fails).await
                    }
                    false => (case, why),
                };
                let json = serde_json::to_string(&case).expect("JSON");
                panic!("seed {seed}: {why}\n{case:#?}\nSTEPWELL_PROPERTY_CASE='{json}'");
            }
        }
    });
    futures_util::future::join_all(workers).await;
}

/// Batches whose names are in no order of time: a new one sorts before all that an index was walked from.
///
/// The walk began behind the last batch before the lookback, so that such a batch was never found, and nobody was told.
#[tokio::test(flavor = "multi_thread")]
async fn batches_in_no_order_are_found_by_an_index() {
    holds(include_str!("property/found/batches_in_no_order.json")).await;
}

/// A playbook stops in the middle of a backlog that another one with the same manifest has worked off: its rows are made
/// of its own batches alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_playbook_reads_no_batch_that_only_another_has_processed() {
    holds(include_str!(
        "property/found/another_playbook_is_ahead.json"
    ))
    .await;
}

/// The first events that are processed lie in the future, and a batch is left alone that is to settle.
///
/// The lookback followed the run's point in time where no processed event lay before it, and left the batch behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_at_the_beginning_leaves_no_batch_behind() {
    holds(include_str!(
        "property/found/a_clock_that_is_wrong_from_the_start.json"
    ))
    .await;
}

/// A batch that has to wait for one that settles stands before one that need not, in a run that takes one at a time.
///
/// It took the place of the other, and was then left out: nothing was processed.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_waits_takes_no_place() {
    holds(include_str!(
        "property/found/one_that_waits_stands_first.json"
    ))
    .await;
}

/// A batch that settles holds events that are as old as the lookback, beside one whose events would move it on.
///
/// Goal: it is found once it has settled. Made by hand: among made-up cases this one is rare.
#[tokio::test(flavor = "multi_thread")]
async fn the_lookback_waits_for_what_settles() {
    holds(include_str!(
        "property/found/the_lookback_waits_for_what_settles.json"
    ))
    .await;
}

/// A batch has grown, and a new one with younger events is taken in a slice before it.
///
/// The next slice looked back from those events alone, and did not count the other again.
#[tokio::test(flavor = "multi_thread")]
async fn a_slice_hides_no_growth_from_the_next() {
    holds(include_str!("property/found/grown_behind_a_slice.json")).await;
}

/// A batch of old events settles, behind all that the first slice of a first run comes to.
///
/// It was not looked at there, and what that slice took moved the lookback past it.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_slice_waits_for_what_settles_behind_it() {
    holds(include_str!(
        "property/found/settles_beyond_the_first_slice.json"
    ))
    .await;
}

/// The only batch that a slice takes waits for one that settles, which is looked at after the slice is full.
///
/// It was left out then, and the run ended with nothing, though another batch need not wait.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_gives_its_place_to_another() {
    holds(include_str!(
        "property/found/what_waits_gives_its_place.json"
    ))
    .await;
}

/// A batch with old events alone has a young name, and a new one lands whose name is older and whose events are not.
///
/// Goal: an index is walked from where the lookback begins, not from that name. Made by hand: among made-up cases this one
/// is rare.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_name_beside_old_events_is_walked_to() {
    holds(include_str!(
        "property/found/an_old_name_beside_old_events.json"
    ))
    .await;
}

async fn holds(case: &str) {
    let case: Case = serde_json::from_str(case).expect("a case as it is printed");
    let why = check::failure(&check::database().await, &case).await;
    assert_eq!(why, None);
}
