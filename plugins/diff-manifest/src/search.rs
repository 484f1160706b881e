//! The search for pending batches: which questions follow from which answers.

use stepwell_sdk::incremental::Batches;
use stepwell_sdk::planner::{Ask, Stop};
use stepwell_sdk::rows::Row;

use crate::State;
use crate::discovery::{Discovery, PAGE, Page};

/// Questions in which processed batches are counted again, and how many batches there must be for that.
const COUNT_PARTS: usize = 4;
const COUNT_PARTS_MIN: usize = 32;

/// Returns the pending batches, the oldest first, and what else was noticed on the way.
pub fn pending(
    discovery: &Discovery<'_>,
    state: Option<&State>,
    ask: &mut Ask<'_>,
) -> Result<Pending, Stop> {
    let mut pending = Pending::new(discovery.batches_max as usize);
    let Some(state) = state else {
        pending.from_nothing = true;
        // One row more than a run takes says that there is more; another may be that of the events without a batch.
        let limit = pending.batches_max + 2;
        for row in ask.one(discovery.scan_all(limit))?.iter() {
            let found = Found::read(row);
            match row.text("batch") {
                Some(batch) => {
                    pending.seen = u64::try_from(row.int("batches").unwrap_or(0)).unwrap_or(0);
                    pending.add(batch, &found, None);
                }
                None => pending.without_batch(&found),
            }
        }
        return Ok(pending);
    };
    let mut search = Search {
        discovery,
        state,
        page: Page::default(),
        pending,
    };
    while search.page(ask)? && !search.pending.more {
        search.page.number += 1;
    }
    Ok(search.pending)
}

/// A search that goes on from what the manifest has.
struct Search<'a> {
    discovery: &'a Discovery<'a>,
    state: &'a State,
    page: Page,
    pending: Pending,
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
            let found = Found::read(row);
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
                    *slot = Some(Found::read(row));
                }
            }
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
}

impl Found {
    /// Reads `events`, `first_time`, `last_time` and `untimed`.
    pub fn read(row: Row<'_>) -> Self {
        let text = |name: &str| row.text(name).unwrap_or_default().to_owned();
        Self {
            events: row.int("events").unwrap_or(0),
            first_time: text("first_time"),
            last_time: text("last_time"),
            untimed: row.int("untimed").unwrap_or(0),
        }
    }
}

/// The batches found, column by column, each value in its text form.
#[derive(Debug, Default)]
pub struct Pending {
    pub batches: Vec<String>,
    pub events: Vec<i64>,
    pub first_times: Vec<String>,
    pub last_times: Vec<String>,
    pub events_before: Vec<Option<i64>>,
    /// Processed batches that have lost events since, with how many.
    pub shrunk: Vec<(String, i64)>,
    /// Events whose batch or time is NULL.
    pub events_without_batch: i64,
    pub more: bool,
    pub from_nothing: bool,
    /// Batches that are pending as far as was looked, those that this run does not take among them.
    seen: u64,
    batches_max: usize,
}

impl Pending {
    fn new(batches_max: usize) -> Self {
        Self {
            batches_max,
            ..Self::default()
        }
    }

    /// Takes a batch in if it is new or has grown.
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
            _ if self.batches.len() == self.batches_max => self.more = true,
            _ => self.take(batch, found, before),
        }
    }

    /// Takes a batch in, whatever it had before.
    pub fn take(&mut self, batch: &str, found: &Found, before: Option<i64>) {
        self.batches.push(batch.to_owned());
        self.events.push(found.events);
        self.first_times.push(found.first_time.clone());
        self.last_times.push(found.last_time.clone());
        self.events_before.push(before);
    }

    /// Notes events without a batch.
    fn without_batch(&mut self, found: &Found) {
        self.events_without_batch += found.events + found.untimed;
    }

    pub fn about(&self) -> Batches {
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        Batches {
            batches: self.batches.len() as u64,
            reopened: self.events_before.iter().flatten().count() as u64,
            events: unsigned(self.events.iter().sum()),
            first: self.batches.first().cloned().unwrap_or_default(),
            last: self.batches.last().cloned().unwrap_or_default(),
            events_without_batch: unsigned(self.events_without_batch),
            more: self.more,
            from_nothing: self.from_nothing,
            backlog: self.more.then_some(self.seen),
        }
    }
}
