//! The `stepwell` program, for tests that need it as a process.

fn main() -> std::process::ExitCode {
    stepwell_cli::main()
}
