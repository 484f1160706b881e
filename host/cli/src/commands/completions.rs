//! `stepwell completions`: a script that teaches the shell our commands.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Context, Outcome};
use crate::cli::Cli;
use crate::exit;

/// Print a script by which the shell completes commands and flags
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  stepwell completions bash > ~/.local/share/bash-completion/completions/stepwell
  stepwell completions zsh  > ~/.zfunc/_stepwell
  stepwell completions fish > ~/.config/fish/completions/stepwell.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn execute(args: &CompletionsArgs, context: &Context) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "stepwell", &mut script);
    context.output.result(&String::from_utf8_lossy(&script))?;
    Ok(exit::SUCCESS)
}
