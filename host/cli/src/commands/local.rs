//! `stepwell local`: the private server of a project.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use stepwell_warehouse::local::{LocalServer, Status};

use super::{Context, Outcome};
use crate::exit;
use crate::project;

/// Start, stop and enter the private PostgreSQL server of a project
///
/// Its data are in `.stepwell/` below the project's folder. It listens on a socket that only you
/// may open, asks for no password, and goes on running when Stepwell ends. Commands that need it
/// start it by themselves.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell local start
  stepwell local psql -d stepwell_demo -c 'SELECT * FROM derived.sessions LIMIT 10'
  export DATABASE_URL=$(stepwell local url --database stepwell_demo)
  stepwell run workflows/page_views.yaml      whose warehouse is `${env:DATABASE_URL:-local}`

A workflow that names no warehouse, or `url: local`, uses the database `postgres`. What `stepwell
demo` makes is in `stepwell_demo`.

The programs of PostgreSQL (initdb, pg_ctl, postgres) are looked for in STEPWELL_PG_BIN, in PATH,
and where packages install them.

Exit codes: 0 done, 4 `status`: it does not run, 9 PostgreSQL is not installed.")]
pub(crate) struct LocalArgs {
    #[command(subcommand)]
    command: LocalCommand,
}

#[derive(Debug, Subcommand)]
enum LocalCommand {
    /// Start the server, and create its data directory at the first time
    Start,
    /// Stop the server; open transactions are rolled back, data stay
    Stop,
    /// Say whether the server runs
    Status,
    /// Print the connection string, and start nothing
    Url {
        /// The database
        #[arg(long, value_name = "NAME", default_value = "postgres")]
        database: String,
    },
    /// Open psql on the server, which is started if need be
    Psql {
        /// Arguments for psql, for example `-d stepwell_demo`
        #[arg(
            value_name = "ARGS",
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        args: Vec<OsString>,
    },
}

pub(crate) fn execute(args: &LocalArgs, context: &Context) -> Outcome {
    let server = stepwell_runner::local_server(&context.project);
    let output = &context.output;
    match &args.command {
        LocalCommand::Start => {
            let target = server.ensure_running()?;
            let url = project::socket_url(&target)?;
            let version = server.version()?;
            output.result(&format!("PostgreSQL {version} runs at {url}"))?;
        }
        LocalCommand::Stop => {
            output.result(match server.stop()? {
                true => "stopped",
                false => "the private server was not running",
            })?;
        }
        LocalCommand::Status => return status(&server, context),
        LocalCommand::Url { database } => {
            let target = server.target()?.with_database(database);
            output.result(&project::socket_url(&target)?)?;
        }
        LocalCommand::Psql { args } => {
            server.ensure_running()?;
            // Only returns if it cannot be run.
            let error = server.psql()?.args(args).exec();
            let message = anyhow!(error).context("could not run psql");
            return Err(message.into());
        }
    }
    Ok(exit::SUCCESS)
}

/// The code tells scripts whether it runs, as with `pg_ctl status`.
fn status(server: &LocalServer, context: &Context) -> Outcome {
    let (words, code) = match server.status()? {
        Status::Running { pid } => {
            let url = project::socket_url(&server.target()?)?;
            let log = server.log_file()?;
            let words = format!("running, process {pid}\nurl: {url}\nlog: {}", log.display());
            (words, exit::SUCCESS)
        }
        Status::Stopped => ("stopped".to_owned(), exit::WAREHOUSE),
        Status::NotCreated => (
            format!("not created yet in {}", context.project.display()),
            exit::WAREHOUSE,
        ),
    };
    context.output.result(&words)?;
    Ok(code)
}
