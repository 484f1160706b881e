//! Whole steps on a server: rows out of it, through a reducer, and back in, as `stepwell run` does it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stepwell_demo::{Stream, StreamOptions};
use stepwell_warehouse::{Access, Session};

use crate::Scale;
use crate::boundary::median;
use crate::components::Plugins;
use crate::figures::{figure, mib, note, number, seconds};
use crate::measure::{Sample, Samples};
use crate::program::{copy_chunks, finish, repository_workflow, stepwell, write_workflow};
use crate::rivals::Rivals;
use crate::server::{Server, count};
use crate::table::{Table, Target};

const DATABASE: &str = "reducers";

/// Most time of a step, by that of the same two COPYs through psql.
const COPIES_RATIO: f64 = 1.25;
/// Least time of the script in Python, by the step's.
const PYTHON_RATIO: f64 = 10.0;
/// Most memory of the process.
const MEMORY_MIB: u64 = 150;

/// Measures and prints.
pub async fn measure(server: &Server, plugins: &Plugins, scale: Scale) -> Result<()> {
    let bench = Bench::load(server, plugins, scale).await?;
    let plain = bench.plain("rows").await?;
    let small = bench.plain("tenth").await?;
    let engaged = bench.engaged().await?;
    bench.print(&plain, &small, &engaged)
}

/// A database with events, and folders for who works on it.
struct Bench<'a> {
    server: &'a Server,
    session: Session,
    folder: PathBuf,
    psql: Command,
    scale: Scale,
    guest: &'a Path,
    engaged_time: &'a Path,
}

/// A reducer that gives its rows back, beside the same COPYs.
struct Plain {
    rows: u64,
    steps: Steps,
    psql: Samples,
    psql_parts: Samples,
}

/// `engaged-time`, beside whoever could do its work.
struct Engaged {
    rows: u64,
    days: u64,
    steps: Steps,
    psql: Samples,
    sql: Samples,
    python: Samples,
    script: Samples,
}

/// One step in several runs.
#[derive(Default)]
struct Steps {
    /// The step alone, by the run's report.
    step: Samples,
    /// The whole process.
    run: Samples,
    parts: i64,
    plugin_cpu_ms: i64,
}

impl<'a> Bench<'a> {
    async fn load(server: &'a Server, plugins: &'a Plugins, scale: Scale) -> Result<Self> {
        let session = server.create(DATABASE).await?;
        note(&format!("loading {} events", number(scale.events.into())));
        load(&session, scale).await?;
        let folder = server.folder().join(DATABASE);
        fs::create_dir(&folder)?;
        let mut psql = server.psql()?;
        psql.args(["-d", DATABASE]);
        let bench = Self {
            server,
            session,
            folder,
            psql,
            scale,
            guest: &plugins.guest.file,
            engaged_time: &plugins.engaged_time.file,
        };
        bench.write_workflows()?;
        Ok(bench)
    }

    fn write_workflows(&self) -> Result<()> {
        let write =
            |name: &str, text: &str| write_workflow(&self.folder, name, text, &self.psql, DATABASE);
        for table in ["rows", "tenth"] {
            let guest = serde_json::to_string(self.guest)?;
            let text = format!(
                "stepwell: 1
playbook: {table}
plugins:
  guest: {{ component: {guest}, trust: own, grants: {{ read: [bench.{table}] }} }}
steps:
  - id: fold
    uses: guest
    with:
      into: out
      do: echo
      select: SELECT visitor, name, at, flag, n FROM bench.{table}
      reads: [bench.{table}]
      key: [visitor]
      order-by: [at]
      output:
        - [visitor, 25, varlen]
        - [name, 25, varlen]
        - [at, 1114, int64]
        - [flag, 16, bits]
        - [n, 20, int64]"
            );
            write(table, &text)?;
        }
        let text = repository_workflow("engaged_time")?;
        let component = "../target/plugins/engaged-time.wasm";
        ensure!(text.contains(component), "the workflow names its component");
        let built = serde_json::to_string(self.engaged_time)?;
        write("engaged_time", &text.replace(component, &built))
    }

    /// The path by itself: a plain scan, in one part for each core, by a reducer that gives every row back.
    async fn plain(&self, table: &str) -> Result<Plain> {
        self.init(table)?;
        // Compiles what is not compiled yet.
        self.run_step(table, "fold", &[], &mut Steps::default())
            .await?;
        let select = self.select(table, "fold").await?;
        let out = format!("scratch.{table}__out");
        let rivals = Rivals::new(&self.psql, &self.folder, table, &select, &out)?;
        let mut plain = Plain {
            rows: count(
                &self.session,
                &format!("SELECT count(*) AS it FROM bench.{table}"),
            )
            .await?,
            steps: Steps::default(),
            psql: Samples::default(),
            psql_parts: Samples::default(),
        };
        for round in 0..self.scale.rounds {
            for side in turns(3, round) {
                self.settle().await?;
                match side {
                    0 => {
                        self.run_step(table, "fold", &[], &mut plain.steps).await?;
                    }
                    1 => plain
                        .psql
                        .push(self.server.measure(&rivals.copies()).await?),
                    _ => {
                        let sample = self.server.measure(&rivals.copies_in_parts()).await?;
                        plain.psql_parts.push(sample);
                    }
                }
            }
        }
        rivals.check(&self.session, "copies").await?;
        note(&format!("{table}: measured"));
        Ok(plain)
    }

    /// The step of `workflows/engaged_time.yaml`, when all events are new.
    async fn engaged(&self) -> Result<Engaged> {
        const STEP: &str = "engaged-days";
        let (playbook, flags) = ("engaged_time", ["--full-refresh"]);
        self.init(playbook)?;
        self.run_step(playbook, STEP, &flags, &mut Steps::default())
            .await?;
        let select = self.select(playbook, STEP).await?;
        let out = format!("scratch.{playbook}__engaged_days");
        let rivals = Rivals::new(&self.psql, &self.folder, playbook, &select, &out)?;
        finish(rivals.rows_to_file())?;
        let mut engaged = Engaged {
            rows: 0,
            days: count(&self.session, &format!("SELECT count(*) AS it FROM {out}")).await?,
            steps: Steps::default(),
            psql: Samples::default(),
            sql: Samples::default(),
            python: Samples::default(),
            script: Samples::default(),
        };
        for round in 0..self.scale.rounds {
            for side in turns(5, round) {
                self.settle().await?;
                let (samples, command) = match side {
                    0 => {
                        let steps = &mut engaged.steps;
                        engaged.rows = self.run_step(playbook, STEP, &flags, steps).await?;
                        continue;
                    }
                    1 => (&mut engaged.psql, rivals.copies()),
                    2 => (&mut engaged.sql, rivals.sql()),
                    3 => (&mut engaged.python, rivals.python()),
                    _ => (&mut engaged.script, rivals.script()),
                };
                samples.push(self.server.measure(&command).await?);
            }
        }
        rivals.check(&self.session, "copies").await?;
        rivals.check(&self.session, "sql").await?;
        rivals.check(&self.session, "python").await?;
        note("engaged_time: measured");
        Ok(engaged)
    }

    fn stepwell(&self, args: &[&str], workflow: &str) -> Command {
        let mut stepwell = stepwell(&self.folder, &self.server.folder().join("cache"));
        stepwell.args(args).arg(format!("{workflow}.yaml"));
        stepwell
    }

    fn init(&self, workflow: &str) -> Result<()> {
        finish(self.stepwell(&["init"], workflow))
    }

    /// What one round left to be written is not to be written in the next one.
    async fn settle(&self) -> Result<()> {
        Ok(self.session.batch("CHECKPOINT").await?)
    }

    /// Runs a workflow and measures one step of it. Returns the rows that the step has read.
    async fn run_step(
        &self,
        workflow: &str,
        step: &str,
        flags: &[&str],
        steps: &mut Steps,
    ) -> Result<u64> {
        let args = [&["run", "--json"], flags].concat();
        let sample = self.server.measure(&self.stepwell(&args, workflow)).await?;
        let reports: Value = serde_json::from_str(&sample.stdout)?;
        let found = &reports[0]["outcome"]["state"];
        ensure!(found == "done", "{found} instead of done: {reports:#}");
        let report = find(&reports[0]["steps"], "id", step)?;
        let ms = report["duration_ms"].as_f64().context("a duration")?;
        steps.step.push(Sample {
            wall: Duration::from_secs_f64(ms / 1e3),
            stdout: String::new(),
            ..sample
        });
        let measure = |name: &str| report["measures"][name].as_i64().unwrap_or_default();
        steps.parts = measure("parts");
        steps.plugin_cpu_ms = measure("plugin_cpu_ms");
        steps.run.push(sample);
        let read = find(&report["statements"], "label", "read rows")?;
        read["rows"].as_u64().context("rows read")
    }

    /// The SELECT of a reducer in its order, as the plan shows it.
    async fn select(&self, workflow: &str, step: &str) -> Result<String> {
        let args: &[&str] = match workflow {
            "engaged_time" => &["plan", "--json", "--full-refresh"],
            _ => &["plan", "--json"],
        };
        let sample = self.server.measure(&self.stepwell(args, workflow)).await?;
        let plans: Value = serde_json::from_str(&sample.stdout)?;
        let step = find(&plans[0]["steps"], "id", step)?;
        let read = find(&step["statements"], "label", "read rows")?;
        let sql = read["sql"].as_str().context("SQL")?;
        ensure!(sql.contains("ORDER BY"), "its columns are known: {sql}");
        Ok(sql.to_owned())
    }

    fn print(&self, plain: &Plain, small: &Plain, engaged: &Engaged) -> Result<()> {
        let title = format!(
            "The path: {} rows out, and back in as they are",
            number(plain.rows)
        );
        let mut table = Table::new(title, &["stepwell", "the other", "ratio"]);
        let own = &plain.steps.step;
        for (name, other, is_held) in [
            (
                "the same two COPYs by psql, to a file and from it",
                &plain.psql,
                true,
            ),
            (
                "the same in as many parts, side by side",
                &plain.psql_parts,
                false,
            ),
        ] {
            let ratio = ratio(own, other);
            let target = match is_held {
                true => Target::of("ratio ≤ 1.25", ratio <= COPIES_RATIO),
                false => Target::none(),
            };
            table.row(name, &[figure(own), figure(other), times(ratio)], &target);
        }
        table.note(format!("Stepwell read in {} parts.", plain.steps.parts));
        table.print()?;

        let title = format!(
            "`engaged-time` over {} events: {} rows of visitor and day",
            number(engaged.rows),
            number(engaged.days)
        );
        let mut table = Table::new(title, &["stepwell", "the other", "ratio"]);
        let own = &engaged.steps.step;
        let copies = ratio(own, &engaged.psql);
        table.row(
            "the same two COPYs by psql, to a file and from it",
            &[figure(own), figure(&engaged.psql), times(copies)],
            &Target::of("ratio ≤ 1.25", copies <= COPIES_RATIO),
        );
        table.row(
            "the best SQL that we could write",
            &[
                figure(own),
                figure(&engaged.sql),
                times(ratio(own, &engaged.sql)),
            ],
            &Target::none(),
        );
        let python = 1.0 / ratio(own, &engaged.python);
        table.row(
            "COPY, a Python script, COPY",
            &[figure(own), figure(&engaged.python), faster(python)],
            &Target::of("> 10 times faster", python > PYTHON_RATIO),
        );
        let cpu = |samples: &Samples| {
            let cpu: Vec<_> = samples.all().iter().map(|sample| sample.cpu).collect();
            median(&cpu)
        };
        let (process, script) = (cpu(&engaged.steps.run), cpu(&engaged.script));
        let plugin = Duration::from_millis(engaged.steps.plugin_cpu_ms.unsigned_abs());
        for (name, own, is_held) in [
            (
                "the script alone, by processor time: beside the process",
                process,
                false,
            ),
            (
                "the script alone, by processor time: beside the plugin",
                plugin,
                true,
            ),
        ] {
            let times = script.as_secs_f64() / own.as_secs_f64();
            let target = match is_held {
                true => Target::of("> 10 times faster", times > PYTHON_RATIO),
                false => Target::none(),
            };
            table.row(
                name,
                &[seconds(own), seconds(script), faster(times)],
                &target,
            );
        }
        table.note(format!(
            "All sides came to the same rows. Stepwell read in {} parts.",
            engaged.steps.parts
        ));
        table.print()?;

        let mut table = Table::new("Memory of the process", &["peak"]);
        for (name, steps) in [
            (
                format!("{} rows, given back", number(small.rows)),
                &small.steps,
            ),
            (
                format!("{} rows, given back", number(plain.rows)),
                &plain.steps,
            ),
            (
                format!("`engaged-time`, {} events", number(engaged.rows)),
                &engaged.steps,
            ),
        ] {
            let peak = steps.run.peak_kib();
            let target = Target::of("< 150 MiB", peak < MEMORY_MIB * 1024);
            table.row(&name, &[mib(peak)], &target);
        }
        table.print()
    }
}

/// Sides by number, another one first in each round.
fn turns(sides: usize, round: usize) -> Vec<usize> {
    (0..sides).map(|side| (side + round) % sides).collect()
}

fn find<'v>(list: &'v Value, key: &str, value: &str) -> Result<&'v Value> {
    let mut list = list.as_array().into_iter().flatten();
    list.find(|found| found[key] == value)
        .with_context(|| format!("there is a {key} \"{value}\""))
}

fn ratio(own: &Samples, other: &Samples) -> f64 {
    own.median().as_secs_f64() / other.median().as_secs_f64()
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2}")
}

fn faster(times: f64) -> String {
    format!("{times:.1} times faster")
}

/// Loads events in order of time, and the tables of plain rows.
async fn load(session: &Session, scale: Scale) -> Result<()> {
    // In one transaction, since a new table's rows then need no log.
    session.begin(Access::ReadWrite).await?;
    for sql in stepwell_demo::schema_sql() {
        session.batch(&sql).await?;
    }
    let options = StreamOptions {
        events: scale.events.into(),
        days: scale.days,
        ..StreamOptions::default()
    };
    for batch in Stream::new(&options)? {
        copy_chunks(session, "events", batch.event_chunks()).await?;
    }
    session.commit().await?;
    let rows = |table: &str, from: &str| {
        format!(
            "CREATE TABLE bench.{table} AS
            SELECT
              coalesce(domain_userid, network_userid, '')::text AS visitor,
              event_name::text AS name,
              derived_tstamp AS at,
              event_name = 'page_ping' AS flag,
              row_number() OVER () AS n
            FROM {from} AS events"
        )
    };
    let tenth = format!(
        "(SELECT * FROM atomic.events ORDER BY collector_tstamp LIMIT {})",
        scale.events / 10
    );
    for sql in [
        "CREATE INDEX ON atomic.events USING brin (collector_tstamp)",
        "CREATE SCHEMA bench",
        &rows("rows", "atomic.events"),
        &rows("tenth", &tenth),
        // Not in the middle of a round.
        "ALTER TABLE atomic.events SET (autovacuum_enabled = false)",
        "ALTER TABLE bench.rows SET (autovacuum_enabled = false)",
        "ALTER TABLE bench.tenth SET (autovacuum_enabled = false)",
        // The first reader of a row notes in it that its transaction is committed: no side's work.
        "VACUUM ANALYZE atomic.events",
        "VACUUM ANALYZE bench.rows",
        "VACUUM ANALYZE bench.tenth",
    ] {
        session.batch(sql).await?;
    }
    Ok(())
}
