//! The command line: flags as the user gives them, with the words of `--help`.

use std::path::PathBuf;
use std::sync::OnceLock;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    check, completions, demo, init, local, lookback, manifest, plan, plugin, run, verify,
};
use crate::exit;

/// Keeps derived SQL tables up to date, batch by batch, instead of rebuilding them.
///
/// A workflow file (YAML, one a playbook) lists steps. `stepwell run` looks for batches of events
/// that the playbook has not processed, computes the rows of the keys that they touch, and replaces
/// them in one transaction. With no new batch it writes nothing.
///
/// Without `warehouse: { url: … }` in the workflow file, a private PostgreSQL in `.stepwell/` of the
/// nearest folder upwards, or else of the current one, is used, which Stepwell starts by itself.
#[derive(Debug, Parser)]
#[command(
    name = "stepwell",
    version = version(),
    after_help = "`stepwell help <command>` says more; `stepwell --help` lists the options of every command and the exit \
                  codes.",
    after_long_help = after_long_help(),
    max_term_width = 100,
    propagate_version = true,
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes. The short help leaves them out: they would be two thirds of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// When to colour: `auto` (the default: on a terminal, unless NO_COLOR is set), `always`, `never`
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value = "auto",
        hide_possible_values = true,
        hide_default_value = true,
        hide_short_help = true
    )]
    pub color: ColorChoice,
    /// Log to stderr instead of showing progress: -v each step, -vv each statement, -vvv all
    #[arg(short, long, global = true, action = ArgAction::Count, hide_short_help = true)]
    pub verbose: u8,
    /// Show no progress, and log errors alone; -qq logs nothing
    #[arg(
        short,
        long,
        global = true,
        action = ArgAction::Count,
        conflicts_with = "verbose",
        hide_short_help = true
    )]
    pub quiet: u8,
    /// Form of log lines: `text` (the default) or `json`, with log lines and errors alone on stderr
    #[arg(
        long,
        global = true,
        value_name = "FORM",
        value_enum,
        default_value = "text",
        hide_possible_values = true,
        hide_default_value = true,
        hide_short_help = true
    )]
    pub log_format: LogFormat,
    /// The folder whose `.stepwell/` holds the private server; the nearest one upwards by default
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    pub project: Option<PathBuf>,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Also into files and pipes
    Always,
    /// Nowhere
    Never,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(run::RunArgs),
    Plan(plan::PlanArgs),
    Verify(verify::VerifyArgs),
    Lookback(lookback::LookbackArgs),
    Check(check::CheckArgs),
    Init(init::InitArgs),
    Manifest(manifest::ManifestArgs),
    Plugin(plugin::PluginArgs),
    Local(local::LocalArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
}

/// `0.1.0 (contract 0.1.0)`.
fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let contract = stepwell_sandbox::contract::CONTRACT;
        format!("{} (contract {contract})", env!("CARGO_PKG_VERSION"))
    })
}

fn after_long_help() -> &'static str {
    static HELP: OnceLock<String> = OnceLock::new();
    HELP.get_or_init(|| {
        format!(
            "\
Examples:
  stepwell demo                               the whole story on made-up events
  stepwell check workflows/*.yaml             find every mistake, without a database
  stepwell plan workflows/sessions.yaml       what a run would do, and its SQL
  stepwell run workflows/sessions.yaml        do it
  stepwell run a.yaml b.yaml --json           two playbooks side by side, results as JSON

Results go to stdout, everything else to stderr. Without -v and -q, the environment variable
STEPWELL_LOG says what to log, for example `info` or `warn,stepwell_runner=debug`; without it, only
what is unexpected is.

{}",
            exit::HELP
        )
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_says_what_it_is_for() {
        fn visit(command: &clap::Command) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "`{name}` has no help");
            for arg in command.get_arguments() {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "`{name}`: {} has no help", arg.get_id());
                assert!(
                    !help.ends_with('.'),
                    "`{name}`: {help:?} ends in a full stop"
                );
            }
            command.get_subcommands().for_each(visit);
        }
        visit(&Cli::command());
    }

    /// A command's own options are what is looked for.
    #[test]
    fn the_short_help_is_of_the_command_alone() {
        let mut cli = Cli::command();
        cli.build();
        for name in ["run", "check", "local"] {
            let command = cli.find_subcommand_mut(name).expect("a command");
            let short = command.render_help().to_string();
            assert!(!short.contains("--log-format"), "{short}");
            let long = command.render_long_help().to_string();
            assert!(long.contains("--log-format"), "{long}");
            assert!(!long.contains("Possible values:"), "{long}");
        }
    }

    #[test]
    fn versions_are_those_of_program_and_contract() {
        assert_eq!(version(), "0.1.0 (contract 0.1.0)");
    }
}
