//! The search for pending batches: which questions follow from which answers.

use stepwell_sdk::incremental::Batches;
use stepwell_sdk::planner::{Ask, Measures, Stop};
use stepwell_sdk::rows::Row;
use stepwell_sdk::words::count;

use crate::discovery::{Discovery, PAGE, Page};
use crate::report::first_of;
use crate::{State, report};

/// Questions in which processed batches are counted again, and how many batches there must be for that.
const COUNT_PARTS: usize = 4;
const COUNT_PARTS_MIN: usize = 32;

/// Returns the pending batches, the oldest first, and what else was noticed on the way.
pub fn pending<'a>(
    discovery: &'a Discovery<'a>,
    state: Option<&'a State>,
    ask: &mut Ask<'_>,
) -> Result<Pending<'a>, Stop> {
    let mut pending = Pending::new(discovery, state);
    let Some(state) = state else {
        pending.from_nothing = true;
        // One row more than a run takes says that there is more; another may be that of the events without a batch.
        let limit = pending.batches_max + 2;
        let rows = ask.one(discovery.scan_all(limit))?;
        let read: Vec<Found> = rows.iter().map(|row| pending.read(row)).collect();
        if discovery.settle.is_some() {
            // Also of those that this run does not come to.
            pending.reach_us = rows.first().and_then(|row| row.int("reach_us"));
        }
        for (row, found) in rows.iter().zip(read) {
            match row.text("batch") {
                Some(batch) => {
                    pending.seen = u64::try_from(row.int("batches").unwrap_or(0)).unwrap_or(0);
                    pending.add(batch, &found, None);
                }
                None => pending.without_batch(&found),
            }
        }
        // Those that are left alone stand among them.
        pending.more |= rows.len() >= limit;
        return Ok(pending.held_back());
    };
    loop {
        let reach_us = pending.reach_us;
        let mut search = Search {
            discovery,
            state,
            page: Page::default(),
            pending,
        };
        while search.page(ask)? && !search.pending.more {
            search.page.number += 1;
        }
        pending = search.pending.held_back();
        // What was to be taken waits for one that was found after it, and took the place of another that need not.
        if !pending.batches.is_empty() || !pending.more || pending.reach_us == reach_us {
            return Ok(pending);
        }
        pending = Pending {
            reach_us: pending.reach_us,
            ..Pending::new(discovery, Some(state))
        };
    }
}

/// A search that goes on from what the manifest has.
struct Search<'a> {
    discovery: &'a Discovery<'a>,
    state: &'a State,
    page: Page,
    pending: Pending<'a>,
}

/// Batches in order.
#[derive(Default)]
struct Listed {
    batches: Vec<String>,
    /// What was read of each, where events were read.
    read: Vec<Found>,
}

/// A batch that is pending unless its events say otherwise.
struct Candidate {
    /// Its place in the list, from 0.
    at: usize,
    events_before: Option<i64>,
}

impl Search<'_> {
    /// Looks at one page of batches; returns whether there is another.
    fn page(&mut self, ask: &mut Ask<'_>) -> Result<bool, Stop> {
        let walked = self.discovery.ordered;
        // The slices of a backlog may go backwards in time, beyond the lookback of those before.
        let whole = !walked && self.discovery.run.has("backlog");
        let listed = match walked {
            true => self.walk(ask)?,
            false => {
                let since = (!whole).then_some(self.state.time_floor.as_str());
                self.scan(since, ask)?
            }
        };
        let more = listed.batches.len() == PAGE;
        let candidates = self.compare(&listed, more, walked || whole, ask)?;
        let candidates = match walked {
            true => self.counted(&listed, candidates, ask)?,
            false => candidates,
        };
        self.pending.seen += candidates.len() as u64;
        // Also those that this run does not come to, since their batches lie beyond what it takes.
        let read = candidates.iter();
        self.pending.keep_in_reach(read.filter_map(|candidate| {
            Some((listed.read.get(candidate.at)?, candidate.events_before))
        }));
        match whole {
            true => {
                for candidate in candidates {
                    let Candidate { at, events_before } = candidate;
                    self.pending
                        .add(&listed.batches[at], &listed.read[at], events_before);
                }
            }
            false => self.read(&listed, &candidates, ask)?,
        }
        self.page.after = listed.batches.into_iter().next_back();
        Ok(more)
    }

    fn walk(&mut self, ask: &mut Ask<'_>) -> Result<Listed, Stop> {
        let walk = self.discovery.walk(self.state, &self.page);
        let rows = match self.page.number {
            0 => {
                let without = self.discovery.without_batch(self.state);
                let [rows, without] = ask.all([walk, without])?;
                let events = without.first().and_then(|row| row.int("events"));
                self.pending.events_without_batch += events.unwrap_or(0);
                rows
            }
            _ => ask.one(walk)?,
        };
        let batches = rows.iter().filter_map(|row| row.text("batch"));
        Ok(Listed {
            batches: batches.map(str::to_owned).collect(),
            read: Vec::new(),
        })
    }

    fn scan(&mut self, since: Option<&str>, ask: &mut Ask<'_>) -> Result<Listed, Stop> {
        let mut listed = Listed::default();
        // The events without a batch take a row of the first page.
        let limit = PAGE + usize::from(self.page.number == 0);
        let rows = ask.one(self.discovery.scan(since, &self.page, limit))?;
        for row in rows.iter() {
            let found = self.pending.read(row);
            match row.text("batch") {
                Some(batch) if listed.batches.len() < PAGE => {
                    listed.batches.push(batch.to_owned());
                    listed.read.push(found);
                }
                Some(_) => {}
                None => self.pending.without_batch(&found),
            }
        }
        Ok(listed)
    }

    /// Returns those that the manifest does not have, or that may have changed. `seen_whole`: also one that began before
    /// the lookback was seen with all its events, or was looked for by its name alone.
    fn compare(
        &mut self,
        listed: &Listed,
        more: bool,
        seen_whole: bool,
        ask: &mut Ask<'_>,
    ) -> Result<Vec<Candidate>, Stop> {
        let until = listed.batches.last().filter(|_| more);
        let question = self
            .discovery
            .compare(&listed.batches, self.state, &self.page, until);
        let mut candidates = Vec::new();
        for row in ask.one(question)?.iter() {
            let events_before = row.int("events_before");
            let seen_whole = seen_whole || row.bool("within").unwrap_or(false);
            let Some(at) = place(row) else {
                if let (Some(gone), Some(before), true) =
                    (row.text("gone"), events_before, seen_whole)
                {
                    self.pending.shrunk.push((gone.to_owned(), before));
                }
                continue;
            };
            if let (Some(standing), None, Some(read)) =
                (&self.state.folded, events_before, listed.read.get(at))
                // All events of one that has no row lie before that time; with a later one it is new, or has grown.
                && row.bool("folded") == Some(true)
                && read.last_us.is_none_or(|last| last <= standing.last_us)
            {
                continue;
            }
            let (Some(before), Some(read)) = (events_before, listed.read.get(at)) else {
                candidates.push(Candidate { at, events_before });
                continue;
            };
            // A processed batch that was seen in part counts as changed only when the part is more than the whole was.
            if read.events > before || seen_whole && read.events < before {
                candidates.push(Candidate { at, events_before });
            }
        }
        Ok(candidates)
    }

    /// Leaves out those that have as many rows as they had. Of a processed batch that has fewer now this is all that is
    /// to be known.
    fn counted(
        &mut self,
        listed: &Listed,
        candidates: Vec<Candidate>,
        ask: &mut Ask<'_>,
    ) -> Result<Vec<Candidate>, Stop> {
        let again: Vec<usize> = (0..candidates.len())
            .filter(|&at| candidates[at].events_before.is_some())
            .collect();
        if again.is_empty() {
            return Ok(candidates);
        }
        let names: Vec<String> = again
            .iter()
            .map(|&at| listed.batches[candidates[at].at].clone())
            .collect();
        let mut rows: Vec<Option<i64>> = vec![None; candidates.len()];
        // In parts, since runs of one process that ask the same share them out between their sessions.
        let whole = names.len() < COUNT_PARTS_MIN;
        let size = match whole {
            true => names.len(),
            false => names.len().div_ceil(COUNT_PARTS),
        };
        let answers = match whole {
            true => vec![ask.one(self.discovery.count(&names, &self.page, 0))?],
            false => {
                let part = |part: usize| {
                    let names = names.chunks(size).nth(part).unwrap_or_default();
                    self.discovery.count(names, &self.page, part)
                };
                Vec::from(ask.all::<COUNT_PARTS>(std::array::from_fn(part))?)
            }
        };
        for (answer, part) in answers.into_iter().zip(again.chunks(size)) {
            for row in answer.iter() {
                if let Some(&at) = place(row).and_then(|place| part.get(place)) {
                    rows[at] = row.int("rows");
                }
            }
        }
        let mut changed = Vec::new();
        for (candidate, rows) in candidates.into_iter().zip(rows) {
            match (rows, candidate.events_before) {
                (Some(rows), Some(before)) if rows < before => {
                    let batch = listed.batches[candidate.at].clone();
                    self.pending.shrunk.push((batch, before - rows));
                }
                (Some(rows), Some(before)) if rows == before => {}
                _ => changed.push(candidate),
            }
        }
        Ok(changed)
    }

    /// Reads the events of the candidates, as many as this run takes.
    fn read(
        &mut self,
        listed: &Listed,
        candidates: &[Candidate],
        ask: &mut Ask<'_>,
    ) -> Result<(), Stop> {
        // Of a backlog no more is read than this run takes, or each slice would read all of it; and twice as much each
        // time, so that a long row of batches without a usable event does not take a question each.
        let (mut rest, mut size, mut number) = (candidates, self.pending.batches_max + 1, 0);
        while !rest.is_empty() && !self.pending.more {
            let (chunk, further) = rest.split_at(size.min(rest.len()));
            let names: Vec<String> = chunk
                .iter()
                .map(|candidate| listed.batches[candidate.at].clone())
                .collect();
            let mut found: Vec<Option<Found>> = vec![None; chunk.len()];
            let question = self.discovery.whole(&names, &self.page, number);
            for row in ask.one(question)?.iter() {
                if let Some(slot) = place(row).and_then(|place| found.get_mut(place)) {
                    *slot = Some(self.pending.read(row));
                }
            }
            let read = found.iter().zip(chunk);
            self.pending.keep_in_reach(
                read.filter_map(|(found, candidate)| {
                    Some((found.as_ref()?, candidate.events_before))
                }),
            );
            for ((candidate, name), found) in chunk.iter().zip(&names).zip(found) {
                // One that went away in the meantime is gone for the next run to say.
                if let Some(found) = found {
                    self.pending.add(name, &found, candidate.events_before);
                }
            }
            (rest, size, number) = (further, size * 2, number + 1);
        }
        Ok(())
    }
}

/// Returns the place that a row speaks of, from 0.
fn place(row: Row<'_>) -> Option<usize> {
    usize::try_from(row.int("place")?).ok()?.checked_sub(1)
}

/// What the events of a batch say.
#[derive(Debug, Clone)]
pub struct Found {
    pub events: i64,
    first_time: String,
    last_time: String,
    untimed: i64,
    /// The last event's time, in microseconds since 1970.
    pub last_us: Option<i64>,
    /// When the youngest event was loaded, where that matters.
    pub loaded_us: Option<i64>,
    /// The batch itself, where it is a time and found by it.
    named_us: Option<i64>,
}

impl Found {
    /// Reads `events`, `first_time`, `last_time`, `untimed` and `last_us`.
    pub fn read(row: Row<'_>) -> Self {
        let text = |name: &str| row.text(name).unwrap_or_default().to_owned();
        Self {
            events: row.int("events").unwrap_or(0),
            first_time: text("first_time"),
            last_time: text("last_time"),
            untimed: row.int("untimed").unwrap_or(0),
            last_us: row.int("last_us"),
            loaded_us: None,
            named_us: None,
        }
    }

    /// The same with when the youngest event was loaded.
    pub fn loaded(self, loaded_us: Option<i64>) -> Self {
        Self { loaded_us, ..self }
    }
}

/// The batches found, column by column, each value in its text form.
#[derive(Default)]
pub struct Pending<'a> {
    /// Where the manifest stands; none where nothing was processed, or it does not matter.
    state: Option<&'a State>,
    /// What decides which batches are left alone; none where all are taken.
    settle: Option<&'a Discovery<'a>>,
    pub batches: Vec<String>,
    pub events: Vec<i64>,
    pub first_times: Vec<String>,
    pub last_times: Vec<String>,
    pub events_before: Vec<Option<i64>>,
    /// The last event's time, in microseconds since 1970.
    last_us: Vec<Option<i64>>,
    /// Processed batches that have lost events since, with how many.
    pub shrunk: Vec<(String, i64)>,
    /// Batches that are left alone, since they may still be loaded.
    pub settling: Vec<String>,
    /// The earliest time that must stay within the lookback, for those to be found again, in microseconds since 1970.
    reach_us: Option<i64>,
    /// Batches that wait for those.
    pub held: Vec<String>,
    /// Events whose batch or time is NULL.
    pub events_without_batch: i64,
    pub more: bool,
    pub from_nothing: bool,
    /// Batches that are pending as far as was looked, those that this run does not take among them.
    seen: u64,
    batches_max: usize,
}

impl<'a> Pending<'a> {
    fn new(discovery: &'a Discovery<'a>, state: Option<&'a State>) -> Self {
        Self {
            state,
            settle: discovery.settle.is_some().then_some(discovery),
            batches_max: discovery.batches_max as usize,
            ..Self::default()
        }
    }

    /// Reads what the events of a batch say, and when they were loaded where that matters.
    fn read(&self, row: Row<'_>) -> Found {
        let found = Found::read(row);
        match self.settle {
            None => found,
            Some(_) => Found {
                loaded_us: row.int("loaded_us"),
                named_us: row.int("named_us"),
                ..found
            },
        }
    }

    /// Takes a batch in if it is new or has grown, and has settled.
    fn add(&mut self, batch: &str, found: &Found, before: Option<i64>) {
        if before == Some(found.events) {
            return;
        }
        self.events_without_batch += found.untimed;
        match before {
            Some(before) if found.events < before => {
                self.shrunk.push((batch.to_owned(), before - found.events));
            }
            // All its events are without a time.
            _ if found.events == 0 => {}
            _ if self.is_settling(found) => self.settling.push(batch.to_owned()),
            // It takes no place of one that need not wait.
            _ if self.waits(found.last_us) => self.held.push(batch.to_owned()),
            _ if self.batches.len() == self.batches_max => self.more = true,
            _ => self.take(batch, found, before),
        }
    }

    fn is_settling(&self, found: &Found) -> bool {
        self.settle
            .is_some_and(|discovery| discovery.is_settling(found))
    }

    /// Sees to it that a later run finds those of new or grown batches that still settle. Before they are added, so that it
    /// is known which others have to wait.
    fn keep_in_reach<'f>(&mut self, found: impl Iterator<Item = (&'f Found, Option<i64>)>) {
        for (found, before) in found {
            if found.events > before.unwrap_or(0) && self.is_settling(found) {
                let reach = [self.reach_us, found.last_us, found.named_us];
                self.reach_us = reach.into_iter().flatten().min();
            }
        }
    }

    /// Takes a batch in, whatever it had before, and notes what it has lost.
    pub fn take_again(&mut self, batch: &str, found: &Found, before: Option<i64>) {
        self.events_without_batch += found.untimed;
        if let Some(before) = before.filter(|before| found.events < *before) {
            self.shrunk.push((batch.to_owned(), before - found.events));
        }
        self.take(batch, found, before);
    }

    /// Returns the earliest time that must stay within the lookback for a later run to find all of these but those that
    /// are taken; none if there are no others.
    pub fn reach_without(&self, is_taken: impl Fn(&str) -> bool) -> Option<i64> {
        let both = self.batches.iter().zip(&self.last_us);
        let others = both.filter(|(batch, _)| !is_taken(batch));
        others
            .filter_map(|(_, last)| *last)
            .chain(self.reach_us)
            .min()
    }

    /// Says how many events are gone from processed batches; none if none is.
    pub fn lost(&self) -> Option<String> {
        let (first, _) = self.shrunk.first()?;
        let (events, batches) = (self.events_gone().unsigned_abs(), self.shrunk.len() as u64);
        Some(format!(
            "{} gone from {}{}",
            count(events, "event is", "events are"),
            count(batches, "processed batch", "processed batches"),
            first_of(batches, first),
        ))
    }

    fn take(&mut self, batch: &str, found: &Found, before: Option<i64>) {
        self.batches.push(batch.to_owned());
        self.events.push(found.events);
        self.first_times.push(found.first_time.clone());
        self.last_times.push(found.last_time.clone());
        self.events_before.push(before);
        self.last_us.push(found.last_us);
    }

    /// Whether events up to this time would move the lookback past a batch that still settles, which no run would find then.
    fn waits(&self, last_us: Option<i64>) -> bool {
        let (Some(discovery), Some(reach)) = (self.settle, self.reach_us) else {
            return false;
        };
        let lookback = discovery.source.lookback_seconds.saturating_mul(1_000_000);
        last_us.is_some_and(|last| last > reach.saturating_add(lookback))
    }

    /// Leaves out those that have to wait for one that was found after them.
    fn held_back(self) -> Self {
        let waits: Vec<bool> = self.last_us.iter().map(|last| self.waits(*last)).collect();
        if !waits.contains(&true) {
            return self;
        }
        let mut kept = Self {
            batches: Vec::new(),
            events: Vec::new(),
            first_times: Vec::new(),
            last_times: Vec::new(),
            events_before: Vec::new(),
            last_us: Vec::new(),
            ..self
        };
        let texts = self
            .batches
            .into_iter()
            .zip(self.first_times)
            .zip(self.last_times);
        let numbers = self
            .events
            .into_iter()
            .zip(self.events_before)
            .zip(self.last_us);
        let all = texts.zip(numbers).zip(waits);
        for ((((batch, first), last), ((events, before), last_us)), waits) in all {
            if waits {
                kept.held.push(batch);
                continue;
            }
            kept.batches.push(batch);
            kept.events.push(events);
            kept.first_times.push(first);
            kept.last_times.push(last);
            kept.events_before.push(before);
            kept.last_us.push(last_us);
        }
        kept
    }

    /// Notes events without a batch.
    fn without_batch(&mut self, found: &Found) {
        self.events_without_batch += found.events + found.untimed;
    }

    /// Events that are gone from processed batches.
    pub fn events_gone(&self) -> i64 {
        self.shrunk.iter().map(|(_, events)| events).sum()
    }

    /// Events that came to processed batches.
    pub fn events_grown(&self) -> i64 {
        let both = self.events.iter().zip(&self.events_before);
        both.filter_map(|(now, before)| Some(now - (*before)?))
            .sum()
    }

    /// New batches of which all events lie before the newest processed one.
    pub fn late(&self) -> i64 {
        self.state
            .map_or(0, |state| self.new_before(state.newest_us))
    }

    /// New batches of which all events lie before the lookback.
    pub fn beyond_lookback(&self) -> i64 {
        self.state
            .map_or(0, |state| self.new_before(state.time_floor_us))
    }

    fn new_before(&self, limit_us: i64) -> i64 {
        let both = self.last_us.iter().zip(&self.events_before);
        let before = both
            .filter(|(last, before)| before.is_none() && last.is_some_and(|last| last < limit_us));
        i64::try_from(before.count()).unwrap_or(i64::MAX)
    }

    /// The numbers that a run reports.
    pub fn measures(&self) -> Measures {
        let number = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
        report::measures(
            &[
                ("late-batches", self.late()),
                ("late-batches-beyond-lookback", self.beyond_lookback()),
                (
                    "grown-batches",
                    number(self.events_before.iter().flatten().count()),
                ),
                ("grown-events", self.events_grown()),
            ],
            &[
                ("events-without-batch", self.events_without_batch),
                ("settling-batches", number(self.settling.len())),
                ("waiting-batches", number(self.held.len())),
                ("shrunk-batches", number(self.shrunk.len())),
                ("shrunk-events", self.events_gone()),
            ],
        )
    }

    pub fn about(&self) -> Batches {
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        let waiting = (self.settling.len() + self.held.len()) as u64;
        Batches {
            batches: self.batches.len() as u64,
            reopened: self.events_before.iter().flatten().count() as u64,
            events: unsigned(self.events.iter().sum()),
            first: self.batches.first().cloned().unwrap_or_default(),
            last: self.batches.last().cloned().unwrap_or_default(),
            events_without_batch: unsigned(self.events_without_batch),
            more: self.more,
            from_nothing: self.from_nothing,
            backlog: self.more.then_some(self.seen.saturating_sub(waiting)),
            folded: None,
        }
    }
}
