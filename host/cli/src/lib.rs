//! The `stepwell` program: flags in, words out.
//!
//! [`main`] reads the command line, does what it says and returns the exit code; [`exit`] lists the
//! codes. One module of `commands` is one subcommand: its flags, and what it does with them. What
//! people read is made in `render`, which is pure, and leaves through `output`, the only place that
//! writes to stdout and stderr.
//!
//! What it does not do: check workflows (`stepwell_workflow`), run them (`stepwell_runner`), or
//! know how a statement reaches the warehouse.

mod cli;
mod commands;
pub mod exit;
mod failed;
mod files;
mod invocation;
mod logging;
mod output;
mod progress;
mod project;
mod render;
mod signals;
mod times;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use commands::Context;
use output::Output;

/// Runs the program with the arguments and the environment of this process. Called once.
///
/// A panic is told by the panic hook and ends with [`exit::INTERNAL`].
pub fn main() -> ExitCode {
    let code = std::panic::catch_unwind(run).unwrap_or(exit::INTERNAL);
    code.into()
}

fn run() -> u8 {
    let arguments = std::env::args_os().skip(1);
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    if let Some(code) = stepwell_sandbox::compile_for_parent(arguments, stdin, stdout) {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` come here too. If they cannot be written, nobody reads.
            let _ = error.print();
            let wrong = error.use_stderr();
            return if wrong { exit::USAGE } else { exit::SUCCESS };
        }
    };
    let output = Output::new(&cli.global);
    logging::start(&cli.global, &output);
    let outcome = Context::new(&cli.global, &output)
        .and_then(|context| commands::dispatch(cli.command, &context));
    let code = outcome.unwrap_or_else(|failed| {
        output.say(&failed.render(&output));
        failed.exit_code()
    });
    output.finish();
    code
}
