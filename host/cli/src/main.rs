//! The `stepwell` program; everything is in the library, so that the tests can build it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    stepwell_cli::main()
}
