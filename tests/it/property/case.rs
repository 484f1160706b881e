//! A case: what arrives, in which order, and when it is run. Cases are made from a seed, and read from JSON.

use serde::{Deserialize, Serialize};

use super::dice::Dice;

/// Minutes of a day.
pub const DAY: i64 = 24 * 60;

/// A stream of arrivals, and how it is worked off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The workflow's lookback, in hours.
    pub lookback_hours: i64,
    /// What a batch is.
    pub batch: Batch,
    /// Whether an index on the batch column finds batches.
    pub batch_index: bool,
    /// Whether indexes find the events of a key.
    pub key_indexes: bool,
    /// Whether each playbook has a manifest of its own.
    pub own_manifests: bool,
    /// How long a batch is left alone after it was loaded, in minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle_minutes: Option<i64>,
    /// Whether rows keep their last time, so that events are read in stretches of time.
    #[serde(default)]
    pub until: bool,
    /// Keys that are longer stay as they are, in days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_days: Option<i64>,
    /// How far back each batch keeps a row of its own in the manifest, in hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_hours: Option<i64>,
    /// By their place in [`PLAYBOOKS`](super::playbooks::PLAYBOOKS).
    pub playbooks: Vec<usize>,
    /// In this order. A run of all playbooks follows the last one.
    pub ops: Vec<Op>,
}

/// What a batch is, as an expression over the events.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Batch {
    /// One value per load.
    Column,
    /// A stream, whose loads belong to an hour that grows while it lasts.
    Hour,
    /// One value per load; events without one belong to the day on which they were collected.
    Mapped,
    /// An id that does not say which batch came first.
    Id,
}

impl Batch {
    /// Whether it is a time, so that it says by itself when it was loaded.
    pub fn is_load_time(self) -> bool {
        self == Self::Column
    }

    /// Returns the workflow's `batch:`.
    pub fn expression(self) -> &'static str {
        match self {
            Self::Column => "etl_tstamp",
            Self::Hour => "date_trunc('hour', load_tstamp)",
            Self::Mapped => "coalesce(etl_tstamp, date_trunc('day', collector_tstamp))",
            Self::Id => "v_tracker",
        }
    }
}

/// Something that happens to the source, or a run. Each can be left out without the others losing their sense.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Events land: a new batch, more of one that is there, or events without a batch.
    Land {
        /// The batch, in minutes; none stands for NULL.
        batch: Option<i64>,
        events: Vec<Event>,
    },
    /// The events of a session are deleted.
    DeleteSession(u8),
    /// The events of a batch are deleted.
    DeleteBatch(i64),
    /// Every copy of an event is deleted.
    DeleteEvent(u32),
    Run(Run),
}

/// A run of one playbook or of all, side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its place in the case's list; none stands for all.
    pub playbook: Option<usize>,
    pub max_batches: Option<u32>,
    /// The run is asked to stop when this pass is committed; the batches of later ones stay pending.
    pub stop_after: Option<u32>,
    pub full_refresh: bool,
    /// The run's point in time, in minutes.
    pub as_of: i64,
}

/// One row of the source. Times are minutes since the first of January 2024.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct Event {
    /// Copies of an event share it.
    pub id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
    /// When the visitor's device says that it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub derived: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visitor: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<u8>,
    /// Page views that its context names: none, one, or two that differ, which count as none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pages: Vec<u8>,
    /// Tells a copy from another one.
    pub variant: u8,
    pub ping: bool,
}

impl Case {
    /// Makes the case of a seed.
    pub fn from_seed(seed: u64, playbooks: usize) -> Self {
        let mut dice = Dice::new(seed);
        let chosen: Vec<usize> = (0..playbooks).filter(|_| dice.percent(45)).collect();
        let mut case = Self {
            lookback_hours: dice.pick(&[6, 2 * 24, 7 * 24, 60 * 24]),
            batch: match dice.below(100) {
                0..55 => Batch::Column,
                55..70 => Batch::Hour,
                70..85 => Batch::Mapped,
                _ => Batch::Id,
            },
            batch_index: dice.percent(50),
            key_indexes: dice.percent(50),
            own_manifests: dice.percent(30),
            settle_minutes: None,
            until: false,
            freeze_days: None,
            retain_hours: None,
            playbooks: match chosen.is_empty() {
                true => vec![dice.index(playbooks)],
                false => chosen,
            },
            ops: Vec::new(),
        };
        let mut stream = Arrivals {
            now: 100 * DAY,
            lookback: case.lookback_hours * 60,
            ..Arrivals::default()
        };
        for _ in 0..5 + dice.below(10) {
            let op = stream.op(&mut dice, case.playbooks.len());
            case.ops.push(op);
        }
        if dice.percent(35) {
            case.settle_minutes = Some(dice.pick(&[11, 60, 300]));
        }
        case.until = dice.percent(60);
        if dice.percent(20) {
            case.freeze_days = Some(dice.pick(&[1, 20, 45]));
        }
        if dice.percent(40) && case.batch != Batch::Id {
            // So short that most of what arrives is old soon, and so many that some of it is touched again.
            case.lookback_hours = dice.pick(&[6, 6, 2 * 24]);
            case.retain_hours = Some(case.lookback_hours * dice.pick(&[1, 1, 3]));
            for _ in 0..4 + dice.below(8) {
                let op = stream.op(&mut dice, case.playbooks.len());
                case.ops.push(op);
            }
        }
        case
    }

    /// The point in time at which everything has happened.
    pub fn end(&self) -> i64 {
        let as_of = self.ops.iter().map(|op| match op {
            Op::Run(run) => run.as_of,
            Op::Land { batch, .. } => batch.unwrap_or(0),
            _ => 0,
        });
        as_of.max().unwrap_or(0) + DAY
    }
}

/// Makes arrivals up.
#[derive(Default)]
struct Arrivals {
    now: i64,
    lookback: i64,
    /// Batches so far.
    batches: Vec<i64>,
    /// Events so far.
    events: Vec<Event>,
}

impl Arrivals {
    fn op(&mut self, dice: &mut Dice, playbooks: usize) -> Op {
        match dice.below(100) {
            0..64 => self.land(dice),
            64..67 => Op::DeleteSession(session(dice)),
            67..69 if !self.batches.is_empty() => Op::DeleteBatch(dice.pick(&self.batches)),
            69..71 if !self.events.is_empty() => {
                let at = dice.index(self.events.len());
                Op::DeleteEvent(self.events[at].id)
            }
            _ => {
                let playbook = dice.percent(55).then(|| dice.index(playbooks));
                // One that runs alone and stops half-way falls behind the others, whose batches are not its own.
                let alone = playbook.is_some() && playbooks > 1;
                let slices = if alone { 65 } else { 45 };
                let max_batches = dice.percent(slices).then(|| dice.pick(&[1, 2, 3]));
                let stops = max_batches.is_some() && dice.percent(if alone { 75 } else { 50 });
                Op::Run(Run {
                    playbook,
                    max_batches,
                    stop_after: stops.then(|| dice.pick(&[1, 2])),
                    full_refresh: dice.percent(6),
                    as_of: self.now + 10,
                })
            }
        }
    }

    fn land(&mut self, dice: &mut Dice) -> Op {
        let jump = match dice.below(100) {
            0..55 => 180,
            55..80 => 2 * DAY,
            80..95 => 9 * DAY,
            _ => 40 * DAY,
        };
        self.now += 1 + dice.below(jump);
        let batch = match dice.below(100) {
            // It grows: mostly one that came lately.
            0..14 if !self.batches.is_empty() => {
                let newest = self.batches.len().saturating_sub(3);
                let from = if dice.percent(70) { newest } else { 0 };
                Some(self.batches[from + dice.index(self.batches.len() - from)])
            }
            // It has a place before others, within the lookback or not.
            14..24 => Some(self.now - dice.below(2 * self.lookback)),
            24..29 => None,
            _ => Some(self.now),
        };
        if let Some(batch) = batch
            && !self.batches.contains(&batch)
        {
            self.batches.push(batch);
        }
        let most = if self.events.is_empty() { 14 } else { 5 };
        let events = (0..1 + dice.below(most)).map(|_| self.event(dice));
        Op::Land {
            batch,
            events: events.collect(),
        }
    }

    fn event(&mut self, dice: &mut Dice) -> Event {
        let event = match self.events.is_empty() || dice.percent(84) {
            true => self.new_event(dice),
            false => self.copy(dice),
        };
        self.events.push(event.clone());
        event
    }

    fn new_event(&mut self, dice: &mut Dice) -> Event {
        let time = self.time(dice);
        let session = session(dice);
        let visitor = if dice.percent(88) {
            session / 2
        } else {
            dice.small(6)
        };
        let page = || session * 2;
        let pages = match dice.below(100) {
            0..78 => vec![page() + dice.small(2)],
            // It goes on in another session.
            78..86 => vec![dice.small(24)],
            86..90 => vec![page(), page() + 1],
            _ => Vec::new(),
        };
        Event {
            id: u32::try_from(self.events.len()).expect("few events"),
            time,
            derived: match dice.below(100) {
                0..80 => time,
                80..97 => time.map(|time| time - dice.below(3 * DAY)),
                _ => None,
            },
            session: dice.percent(93).then_some(session),
            visitor: dice.percent(93).then_some(visitor),
            // Who somebody is becomes known as time goes by.
            user: dice
                .percent(5 + self.events.len().min(40) as i64)
                .then(|| visitor / 2 + dice.small(2)),
            pages,
            variant: dice.small(10),
            ping: dice.percent(40),
        }
    }

    fn time(&self, dice: &mut Dice) -> Option<i64> {
        match dice.below(100) {
            0..70 => Some(self.now - dice.below(120)),
            70..84 => Some(self.now - dice.below(self.lookback)),
            84..95 => Some(self.now - dice.below(60 * DAY)),
            // A wrong clock.
            95..98 => Some(self.now + 400 * DAY),
            _ => None,
        }
    }

    /// An event that was there before, at the same time or another one, and sometimes in another session.
    fn copy(&mut self, dice: &mut Dice) -> Event {
        let before = self.events[dice.index(self.events.len())].clone();
        let time = match dice.percent(50) {
            true => self.time(dice),
            false => before.time,
        };
        Event {
            time,
            session: match dice.percent(12) {
                true => dice.percent(80).then(|| session(dice)),
                false => before.session,
            },
            user: match dice.percent(12) {
                true => Some(dice.small(4)),
                false => before.user,
            },
            variant: dice.small(10),
            ..before
        }
    }
}

fn session(dice: &mut Dice) -> u8 {
    dice.small(12)
}
