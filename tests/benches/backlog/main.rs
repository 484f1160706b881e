//! A backlog of months, worked off in slices: how long that takes, and how little of it the host keeps in memory.
//!
//! ```text
//! cargo bench -p stepwell-tests --bench backlog
//! cargo bench -p stepwell-tests --bench backlog -- --quick
//! ```
//!
//! Events of a thousand batches land first. Then one `stepwell run --max-batches N` builds the table of `sessions.yaml` in
//! this folder from all of them, slice by slice; each slice finds its batches, computes the sessions that they touch and
//! commits. In the end the table must have the sessions that plain SQL counts, or the benchmark fails. It prints Markdown,
//! made to be pasted into `BENCHMARKS.md`.
//!
//! What other benchmarks do alike stands in `../common`.

#[path = "../common/entry.rs"]
mod entry;
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/machine.rs"]
mod machine;
#[path = "../common/measure.rs"]
#[expect(dead_code, reason = "other benchmarks look at single samples")]
mod measure;
#[path = "../common/program.rs"]
#[expect(
    dead_code,
    reason = "other benchmarks have more sides, and workflows of the repository"
)]
mod program;
#[path = "../common/server.rs"]
mod server;
#[path = "../common/table.rs"]
mod table;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use stepwell_demo::{Stream, StreamOptions};
use stepwell_warehouse::{Access, Session};

use figures::{figure, mib, note, number, print, seconds};
use measure::{Sample, Samples};
use program::{copy_chunks, finish, stepwell, write_workflow};
use server::{Server, count, text};
use table::{Table, Target};

/// Measures a backlog that is worked off in slices.
#[derive(Debug, Parser)]
struct Args {
    /// A tenth of the events, in as many batches, for trying the benchmark out
    #[arg(long)]
    quick: bool,
    /// Batches of a slice
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    max_batches: u32,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Events of the full benchmark.
const EVENTS: u64 = 10_000_000;

/// The stream's length in days, and minutes of a batch: a thousand batches.
const DAYS: u32 = 100;
const BATCH_MINUTES: u32 = 144;

/// Most memory that the host may have at any time.
const PEAK_KIB_MAX: u64 = 100 * 1024;

/// Runs with nothing to do, after all.
const IDLE_RUNS: usize = 5;

const DATABASE: &str = "backlog";

fn main() -> ExitCode {
    if let Some(code) = measure::in_helper() {
        return code;
    }
    let args = Args::parse();
    entry::run(run(&args))
}

async fn run(args: &Args) -> Result<()> {
    let mut bench = Bench::set().await?;
    print(&bench.server.machine().await?)?;
    if args.quick {
        print("A quick run, on a tenth of the events: its figures say nothing.\n")?;
    }
    let events = if args.quick { EVENTS / 10 } else { EVENTS };
    bench.land(events).await?;
    let worked_off = bench.work_off(args.max_batches).await?;
    let rows = bench.check(events).await?;
    let mut idle = Samples::default();
    for _ in 0..IDLE_RUNS {
        idle.push(bench.run(&[], "nothing-new").await?);
    }
    tell(args, events, &worked_off, &idle, &rows)?;
    bench.server.remove()
}

/// The backlog, worked off.
struct WorkedOff {
    sample: Sample,
    /// Time from the end of one slice to that of the next.
    slices: Vec<Duration>,
    batches: u64,
}

/// A server with a backlog.
struct Bench {
    server: Server,
    session: Session,
}

impl Bench {
    async fn set() -> Result<Self> {
        let server = Server::start("backlog")?;
        let session = server.create(DATABASE).await?;
        let psql = server.psql()?;
        let text = include_str!("sessions.yaml");
        write_workflow(server.folder(), "sessions", text, &psql, DATABASE)?;
        Ok(Self { server, session })
    }

    /// Lands all events, each batch in a transaction of its own as a loader does, and makes the indexes that the steps go
    /// by.
    async fn land(&self, events: u64) -> Result<()> {
        let begun = Instant::now();
        for sql in stepwell_demo::schema_sql() {
            self.session.batch(&sql).await?;
        }
        let options = StreamOptions {
            events,
            days: DAYS,
            batch_minutes: BATCH_MINUTES,
            ..StreamOptions::default()
        };
        for batch in Stream::new(&options)? {
            self.session.begin(Access::ReadWrite).await?;
            copy_chunks(&self.session, "events", batch.event_chunks()).await?;
            self.session.commit().await?;
        }
        let loaded = begun.elapsed();
        self.session
            .batch(
                "CREATE INDEX ON atomic.events USING brin (collector_tstamp);
                 CREATE INDEX ON atomic.events (etl_tstamp);
                 CREATE INDEX ON atomic.events (domain_sessionid);",
            )
            .await?;
        // The marks that a first reader leaves are not the run's work, nor what is still to be written out.
        self.session.batch("VACUUM ANALYZE atomic.events").await?;
        self.session.batch("CHECKPOINT").await?;
        let mut init = self.stepwell(&["init"]);
        init.arg("sessions.yaml");
        finish(init)?;
        note(&format!(
            "landed in {}, with indexes in {}, {} of disk",
            seconds(loaded),
            seconds(begun.elapsed()),
            text(
                &self.session,
                "SELECT pg_size_pretty(pg_database_size(current_database())) AS it"
            )
            .await?
        ));
        Ok(())
    }

    /// Works the whole backlog off in one run.
    async fn work_off(&self, max_batches: u32) -> Result<WorkedOff> {
        self.compile().await?;
        let sample = self
            .run(&["--max-batches", &max_batches.to_string()], "done")
            .await?;
        let report: serde_json::Value = serde_json::from_str(&sample.stdout)?;
        let slices = "
            SELECT json_agg(extract(epoch FROM finished_at - begun_at)::float8 ORDER BY pass)::text AS it
            FROM (
              SELECT s.pass, s.finished_at,
                coalesce(lag(s.finished_at) OVER (ORDER BY s.pass), r.started_at) AS begun_at
              FROM stepwell.runs AS r
              JOIN stepwell.steps AS s USING (run_id)
              WHERE r.playbook = 'sessions'
                AND s.step_id = 'commit'
            ) AS passes";
        let slices: Vec<f64> = serde_json::from_str(&text(&self.session, slices).await?)?;
        Ok(WorkedOff {
            sample,
            slices: slices.into_iter().map(Duration::from_secs_f64).collect(),
            batches: report[0]["batches"].as_u64().unwrap_or_default(),
        })
    }

    /// Has the steps compiled, by a playbook that has nothing to do with what is measured.
    async fn compile(&self) -> Result<()> {
        let workflow = include_str!("sessions.yaml")
            .replace("playbook: sessions", "playbook: compiled")
            .replace("events: atomic.events", "events: public.one_event")
            .replace("derived.sessions", "derived.compiled");
        write_workflow(
            self.server.folder(),
            "compiled",
            &workflow,
            &self.server.psql()?,
            DATABASE,
        )?;
        let one = "CREATE TABLE public.one_event AS SELECT * FROM atomic.events LIMIT 1";
        self.session.batch(one).await?;
        let mut run = self.stepwell(&["run"]);
        run.arg("compiled.yaml");
        finish(run)
    }

    /// Runs `stepwell run`, and makes sure that it did what it was to do.
    async fn run(&self, args: &[&str], outcome: &str) -> Result<Sample> {
        let mut command = self.stepwell(&["run", "sessions.yaml", "--json"]);
        command.args(args);
        let sample = self.server.measure(&command).await?;
        let reports: serde_json::Value = serde_json::from_str(&sample.stdout)?;
        let found = &reports[0]["outcome"]["state"];
        ensure!(
            found == outcome,
            "{found} instead of {outcome}: {reports:#}"
        );
        Ok(sample)
    }

    fn stepwell(&self, args: &[&str]) -> std::process::Command {
        let cache = self.server.folder().join("cache");
        let mut stepwell = stepwell(self.server.folder(), &cache);
        stepwell.args(args);
        stepwell
    }

    /// Makes sure that every event counts once; returns a sentence that says so.
    async fn check(&self, events: u64) -> Result<String> {
        let number_of = async |sql: &str| count(&self.session, sql).await;
        let landed = number_of("SELECT count(*) AS it FROM atomic.events").await?;
        let noted = number_of(
            "SELECT sum(events)::bigint AS it FROM derived.manifest WHERE playbook = 'sessions'",
        )
        .await?;
        ensure!(
            landed == events && noted == events,
            "of {events} events {landed} landed and {noted} are in the manifest"
        );
        let sessions = number_of("SELECT count(*) AS it FROM derived.sessions").await?;
        let counted = number_of("SELECT sum(events)::bigint AS it FROM derived.sessions").await?;
        let (expected, once) = (
            number_of("SELECT count(DISTINCT domain_sessionid) AS it FROM atomic.events").await?,
            number_of(
                "SELECT count(*) AS it
                FROM (
                  SELECT DISTINCT domain_sessionid, event_id
                  FROM atomic.events
                  WHERE domain_sessionid IS NOT NULL
                ) AS once",
            )
            .await?,
        );
        ensure!(
            sessions == expected && counted == once,
            "{sessions} sessions of {expected}, with {counted} events of {once}"
        );
        Ok(format!(
            "The table has all {} sessions, with all {} events once.",
            number(sessions),
            number(counted)
        ))
    }
}

fn tell(
    args: &Args,
    events: u64,
    worked_off: &WorkedOff,
    idle: &Samples,
    rows: &str,
) -> Result<()> {
    let WorkedOff {
        sample,
        slices,
        batches,
    } = worked_off;
    let title = format!(
        "{} events in {} batches, {} batches a slice",
        number(events),
        number(*batches),
        number(args.max_batches.into())
    );
    let mut table = Table::new(title, &["figure"]);
    let per_second = events as f64 / sample.wall.as_secs_f64();
    let at = |place: usize| slices.get(place).copied().unwrap_or_default();
    let sorted = {
        let mut sorted = slices.clone();
        sorted.sort();
        sorted
    };
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let mut row = |case: &str, cell: String, target: &Target| table.row(case, &[cell], target);
    row("slices", number(slices.len() as u64), &Target::none());
    row("wall time", seconds(sample.wall), &Target::none());
    row(
        "processor time of the host",
        seconds(sample.cpu),
        &Target::none(),
    );
    row(
        "events a second",
        number(per_second as u64),
        &Target::none(),
    );
    row("first slice", seconds(at(0)), &Target::none());
    row("median slice", seconds(median), &Target::none());
    row(
        "last slice",
        seconds(at(slices.len().saturating_sub(1))),
        &Target::none(),
    );
    row(
        "peak memory of the host",
        mib(sample.peak_kib),
        &Target::of("< 100 MiB", sample.peak_kib < PEAK_KIB_MAX),
    );
    row("nothing new, afterwards", figure(idle), &Target::none());
    row("peak memory of that", mib(idle.peak_kib()), &Target::none());
    table.note(rows);
    table.print()
}
