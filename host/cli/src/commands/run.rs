//! `stepwell run`: keeps playbooks up to date.

use std::path::PathBuf;

use clap::Args;
use futures_util::future::join_all;
use jiff::Timestamp;
use stepwell_runner::{Components, RunError, RunOptions, RunReport, Stop, Together};
use stepwell_workflow::{PluginKind, Workflow};

use super::{Context, Outcome, Threads, block_on_threads, first_failure};
use crate::exit;
use crate::failed::Failed;
use crate::files::{self, Read, Vars};
use crate::invocation::Invocation;
use crate::output::Output;
use crate::progress::Progress;
use crate::render::json::Element;
use crate::render::message::Message;
use crate::render::{failure, report};
use crate::signals;
use crate::times::parse_time;

/// Process the batches that are new, and nothing if there are none
///
/// Looks for batches of the workflow's source that its playbook has not processed, or that have
/// changed since, computes the rows of the keys that they touch, and replaces them in one
/// transaction. A run that is stopped or fails before that leaves the derived tables as they were;
/// run it again.
///
/// All files are checked before any of them runs. Several files run side by side.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell run workflows/sessions.yaml
  stepwell run workflows/*.yaml --json > runs.json
  stepwell run workflows/sessions.yaml --full-refresh
  stepwell run workflows/sessions.yaml --max-batches 50 --max-slices 20   a bounded part of a backlog
  stepwell run workflows/sessions.yaml --as-of 2026-01-31T06:00:00Z --var country=de
  stepwell run workflows/sessions.yaml --from commit   go on where the last run failed

`stepwell --help` lists the exit codes.")]
pub(crate) struct RunArgs {
    /// Workflow files, each of a playbook of its own
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    shared: RunFlags,
    /// Most batches that are committed at once; a longer backlog takes several slices. Not with
    /// --full-refresh, which is one transaction without slices
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_batches: Option<u32>,
    /// Most slices of this run; the rest of a backlog is left for the next one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_slices: Option<u32>,
    /// Go on at this step with the last run, which failed; what it had done before is not done
    /// again. It says why where that cannot be, and changes nothing then
    #[arg(long, value_name = "STEP", conflicts_with_all = ["full_refresh", "as_of"])]
    from: Option<String>,
    /// Run the files one after the other; the first failure ends it
    #[arg(long)]
    in_order: bool,
    /// Print the reports as one JSON array
    #[arg(long)]
    json: bool,
}

/// Flags that decide what a run would do.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunFlags {
    /// Compute everything again and replace the derived tables whole
    #[arg(long)]
    full_refresh: bool,
    /// The run's point in time, instead of now: `2026-01-31T06:00:00Z`, or without a zone in UTC
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    as_of: Option<Timestamp>,
    #[command(flatten)]
    pub vars: Vars,
}

impl RunFlags {
    pub(crate) fn options(&self, context: &Context) -> RunOptions {
        RunOptions {
            as_of: self.as_of,
            full_refresh: self.full_refresh,
            ..context.run_options()
        }
    }

    /// Adds them to a command that is to do the same.
    pub(crate) fn on(&self, invocation: Invocation) -> Invocation {
        invocation
            .flag("--full-refresh", self.full_refresh)
            .option("--as-of", self.as_of)
            .shared_with_plan()
    }
}

/// What became of a workflow; none if it was not begun.
type Ended = Option<Result<RunReport, RunError>>;

pub(crate) fn execute(args: &RunArgs, context: &Context) -> Outcome {
    let output = &context.output;
    if args.from.is_some() && args.files.len() > 1 {
        return Err(Failed::Usage {
            message: "--from goes on with the run of one workflow, and several files were given"
                .to_owned(),
            help: "give the file of the workflow that failed".to_owned(),
        });
    }
    if args.shared.full_refresh && args.max_batches.is_some() {
        return Err(Failed::Usage {
            message: "--max-batches bounds the slices of a backlog, and --full-refresh is one transaction without slices"
                .to_owned(),
            help: "leave --max-batches out to compute everything again, or --full-refresh to work off what is pending"
                .to_owned(),
        });
    }
    let mut components = context.components();
    let files = files::read(&args.files, &args.shared.vars, &mut components);
    files::tell(&files, output);
    let workflows = match files::workflows(files) {
        Ok(workflows) => workflows,
        Err(files) => return refuse::<RunReport>(&files, args.json, output),
    };
    files::refuse_duplicates(&workflows)?;
    let together = match args.in_order {
        true => Together::default(),
        false => Together::of(workflows.len()),
    };
    let options = RunOptions {
        max_batches: args.max_batches,
        together,
        max_slices: args.max_slices,
        from: args.from.clone(),
        ..args.shared.options(context)
    };
    // A reducer's rows pass through this process; of planners' SQL none do.
    let mut steps = workflows.iter().flat_map(|workflow| &workflow.steps);
    let threads = match steps.any(|step| step.kind.kind == PluginKind::Reducer) {
        true => Threads::Many,
        false => Threads::One,
    };
    let ended = block_on_threads(threads, async {
        let runs = Runs {
            components: &components,
            options: &options,
            progress: Progress::new(output, workflows.iter().map(|w| w.playbook.as_str())),
            stop: signals::listen(output)?,
        };
        Ok(match args.in_order {
            true => runs.in_order(&workflows).await,
            false => runs.side_by_side(&workflows).await,
        })
    })?;
    output.finish();
    let invocation = args
        .shared
        .on(context.invocation("run", &args.shared.vars))
        .option("--max-batches", args.max_batches)
        .option("--max-slices", args.max_slices)
        .option("--from", &args.from);
    tell(&workflows, ended, args.json, &invocation, output)
}

/// What the runs of one command share.
pub(super) struct Runs<'a> {
    pub components: &'a Components,
    pub options: &'a RunOptions,
    pub progress: Progress,
    pub stop: Stop,
}

impl Runs<'_> {
    pub(super) async fn one(&self, workflow: &Workflow) -> Result<RunReport, RunError> {
        let stop = self.stop.clone();
        let (components, options) = (self.components, self.options);
        let run = stepwell_runner::run(workflow, components, options, &self.progress, stop);
        let ended = run.await;
        self.progress.over(workflow.playbook.as_str());
        ended
    }

    async fn side_by_side(&self, workflows: &[Workflow]) -> Vec<Ended> {
        let runs = workflows.iter().map(|workflow| self.one(workflow));
        join_all(runs).await.into_iter().map(Some).collect()
    }

    async fn in_order(&self, workflows: &[Workflow]) -> Vec<Ended> {
        let mut all: Vec<Ended> = Vec::new();
        for workflow in workflows {
            let failed = matches!(all.last(), Some(None | Some(Err(_))));
            all.push(match failed {
                true => None,
                false => Some(self.one(workflow).await),
            });
        }
        all
    }
}

/// Says what became of each workflow: errors and warnings to stderr, reports to stdout.
pub(super) fn tell(
    workflows: &[Workflow],
    ended: Vec<Ended>,
    json: bool,
    invocation: &Invocation,
    output: &Output,
) -> Outcome {
    let mut summaries = Vec::new();
    let mut elements = Vec::new();
    let mut codes = Vec::new();
    let mut told = false;
    let mut say = |message: Message<'_>| {
        // An empty line between messages.
        let between = if std::mem::replace(&mut told, true) {
            "\n"
        } else {
            ""
        };
        output.say(&format!("{between}{}", message.render(&output.renderer())));
    };
    for (workflow, ended) in workflows.iter().zip(ended) {
        match ended {
            Some(Ok(report)) => {
                if let Some((headline, details)) = report::warning(&report) {
                    let message = Message::warning(headline);
                    let remark =
                        |message: Message<'static>, detail| message.remark("detail", detail);
                    say(details.into_iter().fold(message, remark));
                }
                summaries.push(report::summary(&report, output.advice(), output.heading()));
                elements.push(Element::report(workflow, report));
                codes.push(exit::SUCCESS);
            }
            Some(Err(error)) => {
                let code = exit::of_run(&error);
                say(failure::message(workflow, &error, invocation));
                elements.push(Element::error(workflow, &error, code, invocation));
                codes.push(code);
            }
            None => {
                let path = workflow.source_file.path.display();
                say(Message::warning(format!("{path} was not run")));
                elements.push(Element::not_run(
                    workflow,
                    first_failure(codes.iter().copied()),
                ));
            }
        }
    }
    if json {
        output.json(&elements)?;
    } else if !summaries.is_empty() {
        output.result(&summaries.join("\n"))?;
    }
    Ok(first_failure(codes))
}

/// Ends a command of which a file has problems, which are told already.
pub(super) fn refuse<R: serde::Serialize>(files: &[Read], json: bool, output: &Output) -> Outcome {
    if json {
        let elements = files.iter().map(|read| {
            let code = match read.workflow {
                Some(_) => exit::SUCCESS,
                None => exit::WORKFLOW,
            };
            Element::<R>::problems(&read.file, &read.problems, code)
        });
        output.json(&elements.collect::<Vec<_>>())?;
    }
    Ok(exit::WORKFLOW)
}
