//! The main job, measured: Stepwell beside the same two models written by hand for psql.
//!
//! ```text
//! cargo bench -p stepwell-tests --bench main_job
//! cargo bench -p stepwell-tests --bench main_job -- --quick
//! ```
//!
//! Sessions and visitor-days are kept up to date over the same events, by `../hand/run.sql` and by
//! the workflow files of the repository. Both sides run as processes, in turns, so that noise of
//! the machine hits both alike; a figure is the median of wall seconds from the start of the
//! process to its end. In the end both must have the same rows, or the benchmark fails. It prints
//! Markdown, made to be pasted into `BENCHMARKS.md`.
//!
//! In reading order: [`Bench`] says what is measured, [`stage`] and [`database`] on what,
//! [`commands`] of whom, [`measure`] how, and [`report`] what is asked for. What other benchmarks do alike stands in
//! `../common`.

mod commands;
mod database;
#[path = "../common/entry.rs"]
mod entry;
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/machine.rs"]
mod machine;
#[path = "../common/measure.rs"]
mod measure;
#[path = "../common/program.rs"]
mod program;
mod report;
#[path = "../common/server.rs"]
mod server;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

use database::{Database, Indexes};
use figures::{note, number, print, seconds};
use measure::Samples;
use report::{Row, Target, section};
use stage::{Side, Stage};

/// Measures the main job beside the same models written by hand for psql.
#[derive(Debug, Parser)]
struct Args {
    /// A tenth of the events and fewer rounds, for trying the benchmark out
    #[arg(long)]
    quick: bool,
    /// One variant
    #[arg(long, value_enum)]
    only: Option<Variant>,
    /// Let psql's planner know what a careful analyst tells it: disks without heads, and no JIT
    /// compiler for queries of a tenth of a second; Stepwell's side stays as it is
    #[arg(long)]
    tuned_psql: bool,
    /// Say on stderr where Stepwell's time goes, step by step, in the last round of each case
    #[arg(long)]
    steps: bool,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Variant {
    /// B-trees on batch, session, visitor, event id and page id
    AllIndexes,
    /// Only the BRIN on the sort key, as on Redshift
    NoIndexes,
    /// Four times the history at the same rate, with all indexes
    HistoryX4,
}

/// How much of everything.
struct Scale {
    events: u64,
    days: u32,
    first_builds: usize,
    nothing_new: usize,
    small: usize,
    large: usize,
    cold: usize,
    checks: usize,
}

const FULL: Scale = Scale {
    events: 1_000_000,
    days: 60,
    first_builds: 3,
    nothing_new: 7,
    small: 5,
    large: 3,
    cold: 3,
    checks: 10,
};

/// As many batches, so that what follows their number weighs the same.
const QUICK: Scale = Scale {
    events: 100_000,
    first_builds: 1,
    nothing_new: 3,
    small: 3,
    large: 1,
    cold: 1,
    ..FULL
};

/// Events of a usual batch: an hour of a million in sixty days.
const SMALL: u64 = 700;
const LARGE: u64 = 7_000;

fn main() -> ExitCode {
    if let Some(code) = measure::in_helper() {
        return code;
    }
    let args = Args::parse();
    entry::run(run(&args))
}

async fn run(args: &Args) -> Result<()> {
    let scale = if args.quick { &QUICK } else { &FULL };
    let mut bench = Bench {
        stage: Stage::set(args.tuned_psql)?,
        scale,
        steps: args.steps,
    };
    let wanted = |variant| args.only.is_none_or(|only| only == variant);
    print(&bench.stage.machine().await?)?;
    if args.quick {
        print("A quick run, on a tenth of the events: its figures say nothing.\n")?;
    }
    if args.tuned_psql {
        let options = commands::TUNED;
        print(&format!("psql runs with `PGOPTIONS='{options}'`.\n"))?;
    }
    if wanted(Variant::NoIndexes) {
        bench.no_indexes().await?;
    }
    // The same tables twice: what a small history costs is measured again beside the long one.
    if wanted(Variant::AllIndexes) || wanted(Variant::HistoryX4) {
        let mut short = bench.load("short", 1, Indexes::All).await?;
        if wanted(Variant::AllIndexes) {
            bench.all_indexes(&mut short).await?;
        }
        if wanted(Variant::HistoryX4) {
            bench.history_x4(&mut short).await?;
        }
    }
    bench.stage.remove()
}

/// The cases.
struct Bench {
    stage: Stage,
    scale: &'static Scale,
    steps: bool,
}

/// Figures of one case.
struct Compared {
    hand: Samples,
    stepwell: Samples,
    /// Stepwell on the reference, where there is one.
    reference: Samples,
}

impl Bench {
    async fn all_indexes(&mut self, db: &mut Database) -> Result<()> {
        let mut rows = vec![];
        let first = self.first_build(db, self.scale.first_builds).await?;
        rows.push(Row::compare(
            "first build",
            &first,
            Target::Ratio { most: 1.0 },
        ));
        let nothing = self.nothing_new(db, None).await?;
        let target = Target::RatioAndSeconds {
            most: 0.5,
            below: 0.12,
        };
        rows.push(Row::compare("nothing new", &nothing, target));
        let small = self.batch(db, None, SMALL, self.scale.small).await?;
        rows.push(Row::compare(
            "batch of 700 events",
            &small,
            Target::Ratio { most: 0.5 },
        ));
        let large = self.batch(db, None, LARGE, self.scale.large).await?;
        rows.push(Row::compare("batch of 7,000 events", &large, Target::None));
        let cold = self.cold(db).await?;
        rows.push(Row::alone(
            "nothing new, no step compiled yet",
            &cold,
            Target::None,
        ));
        let checks = self.checks(db).await?;
        let target = Target::Seconds { below: 0.05 };
        rows.push(Row::alone(
            "`stepwell check` of both files",
            &checks,
            target,
        ));
        rows.push(Row::memory(&[&first, &nothing, &small, &large]));
        rows.push(Row::memory_alone(
            "peak memory while compiling the steps",
            &cold,
        ));
        self.print(db, "all indexes", &rows).await
    }

    async fn no_indexes(&mut self) -> Result<()> {
        let db = &mut self.load("no_indexes", 1, Indexes::SortKey).await?;
        let same = Target::Ratio { most: 1.0 };
        let first = self.first_build(db, self.scale.first_builds).await?;
        let nothing = self.nothing_new(db, None).await?;
        let small = self.batch(db, None, SMALL, self.scale.small).await?;
        let large = self.batch(db, None, LARGE, self.scale.large).await?;
        let rows = [
            Row::compare("first build", &first, same),
            Row::compare("nothing new", &nothing, same),
            Row::compare("batch of 700 events", &small, same),
            Row::compare("batch of 7,000 events", &large, same),
            Row::memory(&[&first, &nothing, &small, &large]),
        ];
        self.print(db, "no index but BRIN on the sort key", &rows)
            .await?;
        self.stage.drop_database(db).await
    }

    async fn history_x4(&mut self, short: &mut Database) -> Result<()> {
        let db = &mut self.load("history_x4", 4, Indexes::All).await?;
        if !short.is_built() {
            self.first_build(short, 1).await?;
        }
        let own = |of: &Compared| Target::OwnTime {
            most: 1.2,
            reference: of.reference.median(),
        };
        let first = self.first_build(db, 1).await?;
        let nothing = self.nothing_new(db, Some(short)).await?;
        let small = self.batch(db, Some(short), SMALL, self.scale.small).await?;
        let large = self.batch(db, Some(short), LARGE, self.scale.large).await?;
        let rows = [
            Row::compare("first build", &first, Target::None),
            Row::compare("nothing new", &nothing, own(&nothing)),
            Row::compare("batch of 700 events", &small, own(&small)),
            Row::compare("batch of 7,000 events", &large, own(&large)),
            Row::memory(&[&first, &nothing, &small, &large]),
        ];
        self.print(db, "all indexes, four times the history", &rows)
            .await
    }

    async fn load(&mut self, name: &str, times: u32, indexes: Indexes) -> Result<Database> {
        let events = self.scale.events * u64::from(times);
        let days = self.scale.days * times;
        note(&format!(
            "{name}: loading {} events over {days} days",
            number(events)
        ));
        self.stage.load(name, events, days, indexes).await
    }

    /// Both tables from nothing, each time into schemas that are made anew.
    async fn first_build(&self, db: &mut Database, rounds: usize) -> Result<Compared> {
        let mut compared = Compared::new();
        // Compiled once a machine, and measured apart.
        self.stage.warm(db).await?;
        for round in 0..rounds {
            for side in turns(&[Side::Hand, Side::Stepwell], round) {
                db.forget(side).await?;
                let sample = self.stage.run(db, side, "done").await?;
                compared.of(side).push(sample);
            }
        }
        self.tell(db, "first build", &compared);
        Ok(compared)
    }

    async fn nothing_new(
        &self,
        db: &mut Database,
        short: Option<&mut Database>,
    ) -> Result<Compared> {
        let rounds = self.scale.nothing_new;
        self.rounds(db, short, "nothing new", rounds, None).await
    }

    async fn batch(
        &self,
        db: &mut Database,
        short: Option<&mut Database>,
        events: u64,
        rounds: usize,
    ) -> Result<Compared> {
        let name = format!("batch of {}", number(events));
        self.rounds(db, short, &name, rounds, Some(events)).await
    }

    /// Runs all sides in turns. Each round lands a batch of `events`, the same for both sides of a
    /// database.
    async fn rounds(
        &self,
        db: &mut Database,
        mut short: Option<&mut Database>,
        name: &str,
        rounds: usize,
        events: Option<u64>,
    ) -> Result<Compared> {
        let outcome = if events.is_some() {
            "done"
        } else {
            "nothing-new"
        };
        let mut compared = Compared::new();
        let mut sides = vec![Side::Hand, Side::Stepwell];
        sides.extend(short.is_some().then_some(Side::Reference));
        for round in 0..rounds {
            if let Some(events) = events {
                db.land(events).await?;
                if let Some(short) = &mut short {
                    short.land(events).await?;
                }
            }
            for side in turns(&sides, round) {
                let of = match (&side, &short) {
                    (Side::Reference, Some(short)) => &**short,
                    _ => &*db,
                };
                let sample = self.stage.run(of, side, outcome).await;
                let sample = sample.with_context(|| format!("{name}, round {round}"))?;
                compared.of(side).push(sample);
            }
        }
        self.tell(db, name, &compared);
        Ok(compared)
    }

    /// Runs that find nothing new, and no compiled steps either.
    async fn cold(&self, db: &Database) -> Result<Samples> {
        let mut samples = Samples::default();
        for _ in 0..self.scale.cold {
            self.stage.forget_compiled_steps()?;
            samples.push(self.stage.run(db, Side::Stepwell, "nothing-new").await?);
        }
        Ok(samples)
    }

    async fn checks(&self, db: &Database) -> Result<Samples> {
        let mut samples = Samples::default();
        self.stage.check(db).await?;
        for _ in 0..self.scale.checks {
            samples.push(self.stage.check(db).await?);
        }
        Ok(samples)
    }

    /// Compares the rows of both sides and prints the section.
    async fn print(&self, db: &Database, title: &str, rows: &[Row]) -> Result<()> {
        let compared = db.check_same_rows().await?;
        let title = format!("{} events, {title}", number(db.history));
        print(&section(&title, rows, &compared))
    }

    fn tell(&self, db: &Database, name: &str, compared: &Compared) {
        let (hand, stepwell) = (&compared.hand, &compared.stepwell);
        let (name, all) = (format!("{}: {name}", db.name), [hand, stepwell]);
        let [hand, stepwell] = all.map(|samples| seconds(samples.median()));
        note(&format!("{name}: psql {hand}, stepwell {stepwell}"));
        if self.steps {
            for line in stage::steps(&compared.stepwell) {
                note(&format!("    {line}"));
            }
        }
    }
}

impl Compared {
    fn new() -> Self {
        Self {
            hand: Samples::default(),
            stepwell: Samples::default(),
            reference: Samples::default(),
        }
    }

    fn of(&mut self, side: Side) -> &mut Samples {
        match side {
            Side::Hand => &mut self.hand,
            Side::Stepwell => &mut self.stepwell,
            Side::Reference => &mut self.reference,
        }
    }

    /// Stepwell's time by psql's.
    fn ratio(&self) -> f64 {
        let by = |duration: Duration| duration.as_secs_f64();
        by(self.stepwell.median()) / by(self.hand.median())
    }
}

/// The sides, another one first in each round.
fn turns(sides: &[Side], round: usize) -> Vec<Side> {
    let mut turns = sides.to_vec();
    turns.rotate_left(round % sides.len());
    turns
}
