//! Exit codes. They are part of the interface: scripts and schedulers rely on them; the words on
//! stderr are not.
//!
//! With several files the code is that of the first file, in the order given, that did not end
//! well. 8 is left free: a step that is not critical and fails is reported, and the run is a
//! success, because the derived tables are right.

use stepwell_runner::{Failure, Problem, RunError};
use stepwell_warehouse::local::LocalError;

/// The work is done, or there was nothing new to do.
pub const SUCCESS: u8 = 0;
/// Something broke that should not: a bug, an output that cannot be written, a demo that differs
/// from its rebuild.
pub const INTERNAL: u8 = 1;
/// The command line was not understood.
pub const USAGE: u8 = 2;
/// A workflow file has problems, and nothing was run, of none of the files; or its `source:` does not fit the warehouse.
pub const WORKFLOW: u8 = 3;
/// The warehouse was not reached, or refused the login or a statement of the host's own.
pub const WAREHOUSE: u8 = 4;
/// Another run holds the playbook, or took it over.
pub const LEASE: u8 = 5;
/// A step failed.
pub const STEP: u8 = 6;
/// The host's tables are not there, or of another version: `stepwell init` is due.
pub const INIT: u8 = 7;
/// The private local server lacks what it needs, for example the programs of PostgreSQL.
pub const LOCAL: u8 = 9;
/// A plugin is not what it should be: it does not build, fails its test, or is no step that runs here.
pub const PLUGIN: u8 = 10;
/// `verify` found rows that are not as in a rebuild.
pub const DIFFERS: u8 = 11;
/// `verify` found no row that differs, but batches that no run comes by.
pub const OUT_OF_REACH: u8 = 12;
/// `run --from`: the last run did not leave what is needed to go on at that step; nothing was done.
pub const CANNOT_CONTINUE: u8 = 13;
/// Stopped by SIGINT (Ctrl-C): 128 + 2.
pub const SIGINT: u8 = 130;
/// Stopped by SIGTERM: 128 + 15.
pub const SIGTERM: u8 = 143;

/// The table at the end of `stepwell --help`.
pub(crate) const HELP: &str = "\
Exit codes:
    0  done, or nothing new to do
    1  something broke inside Stepwell
    2  the command line was not understood
    3  a workflow file has problems; nothing was run
    4  the warehouse was not reached, or refused
    5  another run holds the playbook, or took it over
    6  a step failed
    7  `stepwell init` is due
    8  not used: a failed step that is not critical is a warning, and the exit code 0
    9  the private local server lacks something, for example PostgreSQL's programs
   10  a plugin does not build, fails its test, or is no step that runs here
   11  `verify`: rows are not as in a rebuild
   12  `verify`: no row differs, but the source has batches that no run comes by
   13  `run --from`: the last run left nothing to go on with at that step
  130  stopped by SIGINT (Ctrl-C)
  143  stopped by SIGTERM
With several files: the code of the first one that did not end well.";

/// Returns the code for an error of a run or of other work against the warehouse.
pub fn of_run(error: &RunError) -> u8 {
    match error.failure() {
        Failure::Connection => match &*error.problem {
            Problem::Local { source } => of_local(source),
            _ => WAREHOUSE,
        },
        // The host's own statements: taking the lease, reading the journal.
        Failure::Step if error.step.is_none() && error.warehouse_error().is_some() => WAREHOUSE,
        Failure::Step => STEP,
        Failure::Workflow => WORKFLOW,
        Failure::Request => USAGE,
        Failure::Lease => LEASE,
        Failure::NotInitialised => INIT,
        Failure::CannotContinue => CANNOT_CONTINUE,
        Failure::Stopped => match &*error.problem {
            Problem::Stopped { signal } => of_signal(signal),
            _ => SIGINT,
        },
    }
}

/// Returns the code for an error of the private local server.
pub fn of_local(error: &LocalError) -> u8 {
    match error {
        LocalError::NoBinaries { .. }
        | LocalError::NotBinaries { .. }
        | LocalError::OtherVersion { .. }
        | LocalError::NoUser => LOCAL,
        _ => WAREHOUSE,
    }
}

/// Returns the code for a signal, by its name.
pub fn of_signal(signal: &str) -> u8 {
    match signal {
        "SIGTERM" => SIGTERM,
        _ => SIGINT,
    }
}

#[cfg(test)]
mod tests {
    use stepwell_runner::{StepPlace, WarehouseState};
    use stepwell_sql::TableName;
    use stepwell_warehouse::{Target, WarehouseError};

    use super::*;

    fn code(problem: Problem, in_step: bool) -> u8 {
        let step = in_step.then(|| StepPlace {
            index: 0,
            id: "sessions".into(),
            plugin: "aggregate 0.1.0".into(),
            setting: None,
            statement: None,
        });
        of_run(&RunError {
            problem: Box::new(problem),
            step: step.map(Box::new),
            run_id: None,
            state: WarehouseState::Unchanged,
            continue_from: None,
        })
    }

    #[test]
    fn each_failure_has_its_code() {
        let lost = || WarehouseError::ConnectionLost {
            said: None,
            source: None,
        };
        let unsupported = || WarehouseError::ParameterCount {
            expected: 1,
            given: 2,
        };
        let host = |source| Problem::Warehouse {
            doing: "take the lease".into(),
            source,
        };
        let url = Target::parse("mysql://a").expect_err("another scheme");
        let local = |source| Problem::Local { source };
        let no_binaries = LocalError::NoBinaries {
            install: "apt-get install postgresql".into(),
        };
        let locked = LocalError::Locked {
            path: "a".into(),
            seconds: 120,
        };
        let lease_lost = Problem::LeaseLost {
            playbook: "a".into(),
        };
        let table = TableName::new("stepwell", "runs");
        let not_a_batch = Problem::NotABatch {
            playbook: "a".into(),
            kind: "date".into(),
            batch: "foo".into(),
        };
        let stopped = |signal| Problem::Stopped { signal };
        let cannot_continue = Problem::CannotContinue {
            from: "commit".into(),
            why: "the last run did not fail".into(),
            help: "Run all steps.".into(),
        };
        for (problem, in_step, expected) in [
            (host(lost()), false, WAREHOUSE),
            (Problem::Statement { source: lost() }, true, WAREHOUSE),
            (host(unsupported()), false, WAREHOUSE),
            (host(unsupported()), true, STEP),
            (
                Problem::Statement {
                    source: unsupported(),
                },
                true,
                STEP,
            ),
            (Problem::Refused("no".into()), true, STEP),
            (Problem::Url { source: url }, false, WAREHOUSE),
            (local(no_binaries), false, LOCAL),
            (local(LocalError::NoUser), false, LOCAL),
            (local(locked), false, WAREHOUSE),
            (lease_lost, true, LEASE),
            (Problem::NotInitialised { table }, false, INIT),
            (
                Problem::Version {
                    found: 1,
                    expected: 2,
                },
                false,
                INIT,
            ),
            (cannot_continue, false, CANNOT_CONTINUE),
            (not_a_batch, false, USAGE),
            (stopped("SIGINT"), true, SIGINT),
            (stopped("SIGTERM"), false, SIGTERM),
        ] {
            let words = problem.to_string();
            assert_eq!(code(problem, in_step), expected, "{words}");
        }
    }

    #[test]
    fn help_lists_every_code() {
        for code in [
            SUCCESS,
            INTERNAL,
            USAGE,
            WORKFLOW,
            WAREHOUSE,
            LEASE,
            STEP,
            INIT,
            8,
            LOCAL,
            PLUGIN,
            DIFFERS,
            OUT_OF_REACH,
            CANNOT_CONTINUE,
            SIGINT,
            SIGTERM,
        ] {
            let listed = HELP
                .lines()
                .any(|line| line.split_whitespace().next() == Some(&code.to_string()));
            assert!(listed, "{code} is not listed");
        }
    }
}
