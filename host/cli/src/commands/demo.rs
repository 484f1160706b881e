//! `stepwell demo`: the whole story on made-up events.
//!
//! The rebuild that ends it is a run like any other: the derived schema is put aside under another
//! name, the same workflow files run again as a first build over all batches, and each derived
//! table is compared with its counterpart, row for row in both directions.

mod stage;
mod verify;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use clap::{Args, value_parser};
use futures_util::future::join_all;
use stepwell_demo::StreamOptions;
use stepwell_runner::{Components, Outcome as Ended, RunReport};
use stepwell_sql::TableName;
use stepwell_workflow::{Inputs, Workflow};

use self::stage::{Landed, Stage};
use super::run::Runs;
use super::{Context, Outcome, block_on};
use crate::exit;
use crate::failed::Failed;
use crate::invocation::Invocation;
use crate::output::Output;
use crate::progress::Progress;
use crate::render::failure;
use crate::render::words::{clean, count, duration, milliseconds, number};
use crate::{project, signals};

/// Batches that land after the first build.
const NEW_BATCHES: usize = 3;

/// The workflows, as they stand in the sources.
const WORKFLOWS: [(&str, &str); 2] = [
    (
        "sessions.yaml",
        include_str!("../../../../workflows/sessions.yaml"),
    ),
    (
        "visitor_days.yaml",
        include_str!("../../../../workflows/visitor_days.yaml"),
    ),
];

/// Tell the whole story on made-up events: build, land batches, run, verify
///
/// Starts the private PostgreSQL server, makes a database of its own there, and lands a month of
/// web events batch by batch, with late events, duplicates and sessions that straddle batches. Then
/// two playbooks are built, new batches land and are processed, and in the end everything is
/// rebuilt from the events alone and compared, row for row. Nothing outside of `.stepwell/` is
/// touched. The database of an earlier demo is dropped, and this is said; `--keep` leaves it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell demo
  stepwell demo --events 5000000 --days 90
  stepwell local psql -d stepwell_demo        look at the tables afterwards

Exit codes: 0 no row differs, 1 rows differ; the others as in `stepwell --help`.")]
pub(crate) struct DemoArgs {
    /// Events that land before the first build
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    #[arg(value_parser = value_parser!(u64).range(1..))]
    events: u64,
    /// Days over which they spread, an hourly batch each
    #[arg(long, value_name = "N", default_value_t = 30)]
    #[arg(value_parser = value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Another seed makes other events of the same nature
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Leave the database of an earlier demo as it is, and make another one
    #[arg(long)]
    keep: bool,
}

pub(crate) fn execute(args: &DemoArgs, context: &Context) -> Outcome {
    let options = StreamOptions {
        seed: args.seed,
        events: args.events,
        days: args.days,
        ..StreamOptions::default()
    };
    block_on(async {
        let stop = signals::listen(&context.output)?;
        let mut story = Story::new(context);
        story.act("A private PostgreSQL server")?;
        let mut stage = Stage::set(context, &options, args.keep, stop.clone()).await?;
        story.tell(&[format!(
            "PostgreSQL {}, database {}",
            stage.version, stage.database
        )])?;
        story.act("Events land, hour by hour")?;
        let landed = stage.land_history().await?;
        story.tell(&history(&landed, &options))?;

        let mut components = context.components();
        let workflows = workflows(context, &stage.url, &mut components)?;
        let runs = Runs {
            components: &components,
            options: &context.run_options(),
            // The story says itself what each run did.
            progress: Progress::new(
                &context.output,
                workflows.iter().map(|w| w.playbook.as_str()),
            )
            .without_steps(),
            stop,
        };
        tell(&mut story, &mut stage, &workflows, &runs).await
    })
}

/// From the first build to the comparison.
async fn tell(
    story: &mut Story<'_>,
    stage: &mut Stage,
    workflows: &[Workflow],
    runs: &Runs<'_>,
) -> Outcome {
    stage.doing("first build");
    story.act("First build: every batch is new")?;
    init(workflows, runs).await?;
    let reports = run(workflows, runs).await?;
    story.tell(&lines(workflows, &reports, stage).await?)?;

    stage.doing("landing batches");
    story.act(&format!("{NEW_BATCHES} more batches land"))?;
    let landed = stage.land_more(NEW_BATCHES).await?;
    story.tell(&[format!(
        "{}, {} of them late: collected before the hour of their batch",
        count(landed.events, "event", "events"),
        number(landed.late)
    )])?;

    stage.doing("incremental run");
    story.act("Incremental run: only what the new batches touch")?;
    let reports = run(workflows, runs).await?;
    story.tell(&lines(workflows, &reports, stage).await?)?;

    stage.doing("running again");
    story.act("Run again: nothing is new, nothing is written")?;
    let reports = run(workflows, runs).await?;
    story.tell(&lines(workflows, &reports, stage).await?)?;

    story.act("Rebuild from the events alone, and compare")?;
    let compared = verify::against_rebuild(stage, workflows, runs).await?;
    let differing: u64 = compared.iter().map(verify::Compared::differing).sum();
    let compared: Vec<String> = compared.iter().map(ToString::to_string).collect();
    story.tell(&compared)?;
    story.end(stage, workflows, differing)
}

fn history(landed: &Landed, options: &StreamOptions) -> [String; 2] {
    let batches = count(landed.batches, "batch", "batches");
    let events = count(landed.events, "event", "events");
    let days = count(options.days.into(), "day", "days");
    [
        format!("{events} of {days} in {batches}, seed {}", options.seed),
        "into atomic.events and its table of page contexts, with indexes".to_owned(),
    ]
}

/// Writes the workflow files, and reads them with the demo's database as their warehouse.
fn workflows(
    context: &Context,
    url: &str,
    components: &mut Components,
) -> Result<Vec<Workflow>, Failed> {
    let folder = context.project.join(project::FOLDER).join("demo");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("could not make the folder {}", folder.display()))?;
    let inputs = Inputs {
        vars: BTreeMap::new(),
        env: &|_| None,
    };
    WORKFLOWS
        .iter()
        .map(|(name, text)| {
            let path = folder.join(name);
            let written = with_url(text, url);
            std::fs::write(&path, &written)
                .with_context(|| format!("could not write {}", path.display()))?;
            let read = Workflow::parse(&path, &written, &inputs, components);
            let (workflow, _) = read.map_err(|(file, problems)| {
                let plain: Vec<String> = problems.iter().map(|p| p.to_plain(&file)).collect();
                anyhow!("the demo's own workflow is wrong: {}", plain.join("; "))
            })?;
            Ok(workflow)
        })
        .collect()
}

/// Returns the text of a workflow file with the demo's own database for its warehouse.
fn with_url(text: &str, url: &str) -> String {
    let lines = text
        .lines()
        .map(|line| match line.starts_with("warehouse: ") {
            true => format!("warehouse: {{ url: \"{url}\" }}   # The demo's own database.\n"),
            false => format!("{line}\n"),
        });
    lines.collect()
}

/// Makes the host's tables for each workflow.
async fn init(workflows: &[Workflow], runs: &Runs<'_>) -> Result<(), Failed> {
    for workflow in workflows {
        let made = stepwell_runner::init(workflow, runs.options).await;
        made.map_err(Failed::run(workflow, &Invocation::demo()))?;
    }
    Ok(())
}

/// Runs all workflows side by side. Further errors than the first are told here.
async fn run(workflows: &[Workflow], runs: &Runs<'_>) -> Result<Vec<RunReport>, Failed> {
    let ended = join_all(workflows.iter().map(|workflow| runs.one(workflow))).await;
    let mut reports = Vec::new();
    let mut first = None;
    for (workflow, ended) in workflows.iter().zip(ended) {
        match ended {
            Ok(report) => reports.push(report),
            Err(error) if first.is_none() => {
                first = Some(Failed::run(workflow, &Invocation::demo())(error));
            }
            Err(error) => {
                let output = runs.progress.output();
                let message = failure::message(workflow, &error, &Invocation::demo());
                output.say(&message.render(&output.renderer()));
            }
        }
    }
    match first {
        Some(failed) => Err(failed),
        None => Ok(reports),
    }
}

/// What each run did, and how many rows its derived tables have now.
async fn lines(
    workflows: &[Workflow],
    reports: &[RunReport],
    stage: &Stage,
) -> Result<Vec<String>, Failed> {
    let mut lines = Vec::new();
    for (workflow, report) in workflows.iter().zip(reports) {
        let took = milliseconds(report.duration_ms as f64);
        let playbook = &report.playbook;
        if let Ended::NothingNew { reason } = &report.outcome {
            lines.push(format!("{playbook}: {}, {took}", clean(reason)));
            continue;
        }
        lines.push(format!(
            "{playbook}: {} with {}, {took}",
            count(report.batches, "batch", "batches"),
            count(report.events, "event", "events"),
        ));
        for (table, computed) in replaced(workflow) {
            lines.push(format!(
                "  {table} has {}, {} of them computed by this run",
                count(stage.rows(&table).await?, "row", "rows"),
                number(stage.rows(&computed).await?),
            ));
        }
    }
    Ok(lines)
}

/// Each derived table with the scratch table that a run takes its rows from.
fn replaced(workflow: &Workflow) -> Vec<(TableName, TableName)> {
    let commits = workflow.steps.iter().filter(|step| step.uses == "commit");
    let entries = commits.filter_map(|step| step.with["replace"].as_array());
    let pair = |entry: &serde_json::Value| {
        let table = entry["table"].as_str()?.parse().ok()?;
        Some((table, workflow.scratch_table(entry["from"].as_str()?)))
    };
    entries.flatten().filter_map(pair).collect()
}

/// The acts as they are told.
struct Story<'a> {
    output: &'a Output,
    project: &'a Path,
    acts: usize,
    begun: Instant,
    act_begun: Instant,
}

impl<'a> Story<'a> {
    fn new(context: &'a Context) -> Self {
        let now = Instant::now();
        Self {
            output: &context.output,
            project: &context.project,
            acts: 0,
            begun: now,
            act_begun: now,
        }
    }

    /// Begins an act: what is shown while it goes on stands below its title.
    fn act(&mut self, title: &str) -> Result<(), Failed> {
        self.acts += 1;
        self.act_begun = Instant::now();
        let heading = self.output.heading();
        let title = format!("{heading}{}. {title}{heading:#}", self.acts);
        Ok(self.output.result(&title)?)
    }

    /// Tells what came of it, and how long it took.
    fn tell(&self, lines: &[String]) -> Result<(), Failed> {
        let mut text: String = lines.iter().map(|line| format!("   {line}\n")).collect();
        text.push_str(&format!(
            "   took {}\n\n",
            duration(self.act_begun.elapsed())
        ));
        Ok(self.output.result(&text)?)
    }

    /// Says how it ended, and where to look.
    fn end(&self, stage: &Stage, workflows: &[Workflow], differing: u64) -> Outcome {
        let took = duration(self.begun.elapsed());
        let words = count(differing, "row differs", "rows differ");
        let heading = self.output.heading();
        let path = |workflow: &Workflow| below_here(&workflow.source_file.path).to_owned();
        let first = workflows.first().map(path).unwrap_or_default();
        let derived = workflows.first().map_or("derived", |w| &w.schemas.derived);
        self.output.result(&format!(
            "{heading}{words}{heading:#} ({took} in all)\n\n\
             Look around in {}:\n  \
             {program} local psql -d {database} -c 'SELECT * FROM {derived}.sessions LIMIT 5'\n  \
             {program} manifest list {first} --limit 5\n  \
             {program} plan {first} --full-refresh\n\n\
             Run a workflow of your own on these events:\n  \
             export DATABASE_URL=$({program} local url --database {database})\n  \
             {program} run my_workflow.yaml    # with `warehouse: {{ url: \"${{env:DATABASE_URL}}\" }}`\n",
            self.project.display(),
            database = stage.database,
            program = program(),
            first = first.display(),
        ))?;
        match differing {
            0 => Ok(exit::SUCCESS),
            _ => Err(anyhow!("{words} from the rebuild, which stands in schema rebuild").into()),
        }
    }
}

/// A path as it may be typed here.
fn below_here(path: &Path) -> &Path {
    let here = std::env::current_dir().ok();
    let below = here.and_then(|here| path.strip_prefix(here).ok());
    below.unwrap_or(path)
}

/// How this program is called here: `cargo run` does not put it into PATH.
fn program() -> String {
    let name = "stepwell";
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).any(|folder| folder.join(name).is_file());
    match std::env::current_exe() {
        Ok(path) if !found => {
            let shown = below_here(&path).display().to_string();
            // The shell would look for a bare name in PATH.
            match shown.contains('/') {
                true => shown,
                false => format!("./{shown}"),
            }
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_workflows_hold_together_and_share_their_schemas() {
        let folder = tempfile::tempdir().expect("a folder");
        let context = Context {
            output: Output::plain(),
            project: folder.path().to_owned(),
            named_project: None,
            site_trust: Vec::new(),
        };
        let url = "postgres://postgres@/stepwell_demo?host=/a%20b/run&port=5432";
        let mut components = Components::new(stepwell_builtin::STEPS, None);
        let workflows = workflows(&context, url, &mut components).expect("workflows");
        for workflow in &workflows {
            // The comparison renames this one schema, with the manifest in it.
            assert_eq!(workflow.schemas.derived, "derived");
            assert_eq!(workflow.manifest.schema(), "derived");
            let written = workflow.steps.iter().flat_map(|step| &step.writes_tables);
            let told: Vec<_> = replaced(workflow).into_iter().map(|it| it.0).collect();
            assert_eq!(told, written.cloned().collect::<Vec<_>>());
            assert!(!told.is_empty(), "{} derives no table", workflow.playbook);
            let used = workflow.warehouse.url.as_ref().expect("a url");
            assert_eq!(used.expose(), url);

            // The file by itself leads to the same database.
            let inputs = Inputs {
                vars: BTreeMap::new(),
                env: &|_| None,
            };
            let path = &workflow.source_file.path;
            let read = Workflow::read(path, &inputs, &mut components);
            let (read, warnings) = read.expect("the file is a workflow");
            assert!(warnings.is_empty(), "{warnings:?}");
            assert_eq!(read.warehouse.url.expect("a url").expose(), url);
        }
    }
}
