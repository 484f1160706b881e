//! A step in Python: `plugins/funnel`, built by the commands that its README gives.
//!
//! What is not installed is not tested, and the test says so.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::examples::{assert_rows, land_and_run};
use crate::harness::{Db, parse, read, root, share_server_with};
use crate::program::Ended;

/// Whether a program can be started; if not, says what is not tested for the want of it.
fn has(program: &str, not_tested: &str, install: &str) -> bool {
    let started = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let found = started.is_ok_and(|status| status.success());
    if !found {
        // Past the test's own capture, which would keep a skipped test as quiet as one that passed.
        let _ = writeln!(
            std::io::stderr(),
            "skipped {not_tested}: there is no {program} here. To run it, {install}."
        );
    }
    found
}

/// A folder with this program as `stepwell`, whose private server is that of the tests.
fn project() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let program = env!("CARGO_BIN_EXE_stepwell-under-test");
    std::os::unix::fs::symlink(program, folder.path().join("stepwell")).expect("a link");
    share_server_with(folder.path());
    folder
}

/// Runs a command of the README in the root of the repository.
fn shell(command: &str, project: &Path) -> Ended {
    let path = std::env::var("PATH").unwrap_or_default();
    let child = Command::new("sh")
        .args(["-euc", command])
        .current_dir(root())
        .env("PATH", format!("{}:{path}", project.display()))
        .env(
            "XDG_CACHE_HOME",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
        )
        // Nothing is left in the sources.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("STEPWELL_LOG")
        .env_remove("STEPWELL_TRUST")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    Ended::of(child.expect("there is a shell"))
}

/// The commands of the README's block under a heading, without those that install something.
fn commands(heading: &str) -> Vec<String> {
    let readme =
        std::fs::read_to_string(root().join("plugins/funnel/README.md")).expect("a README");
    let (_, section) = readme
        .split_once(&format!("## {heading}\n"))
        .expect("the heading");
    let (_, block) = section.split_once("```console\n").expect("a block");
    let (block, _) = block.split_once("```").expect("its end");
    let joined = block.replace("\\\n", " ");
    let commands = joined.lines().filter_map(|line| line.strip_prefix("$ "));
    commands
        .filter(|command| !command.starts_with("pip "))
        .map(str::to_owned)
        .collect()
}

fn run_all(commands: &[String], project: &Path) {
    assert!(!commands.is_empty());
    for command in commands {
        let command = match command.starts_with("stepwell plugin test") {
            true => format!("{command} --project {}", project.display()),
            false => command.clone(),
        };
        let ended = shell(&command, project);
        assert_eq!(
            ended.code, 0,
            "{command}\n{}\n{}",
            ended.stdout, ended.stderr
        );
    }
}

#[test]
fn its_own_tests_pass() {
    if has(
        "python3",
        "the tests of plugins/funnel",
        "install Python 3.10 or newer",
    ) {
        run_all(&commands("Test it"), project().path());
    }
}

/// Goal: a step in another language than ours, built from the same contract, keeps the promises of a run.
/// Method: it is built as its README says; its table is compared with SQL that says the same in other words, after several
/// runs over a stream with late, repeated and split events, and with a rebuild. What it refuses points at the setting.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_in_python_is_built_and_runs() {
    let install = "run `pip install componentize-py==0.25.1` and put it on the PATH";
    if !has(
        "componentize-py",
        "a_step_in_python_is_built_and_runs",
        install,
    ) {
        return;
    }
    let project = project();
    run_all(&commands("Build it"), project.path());
    run_all(&commands("Test the component"), project.path());
    let db = Db::with_tables().await;
    land_and_run(&db, "funnel.yaml", 35).await;
    let after = |stage: &str, before: &str, name: &str| {
        format!(
            "CROSS JOIN LATERAL (SELECT min(derived_tstamp) AS at FROM e
             WHERE (e.visitor, e.day) = (d.visitor, d.day) AND event_name = '{name}' AND derived_tstamp >= {before}) AS {stage}"
        )
    };
    let expected = format!(
        "WITH e AS MATERIALIZED (
           SELECT domain_userid AS visitor, derived_tstamp::date AS day, event_name, derived_tstamp, collector_tstamp
           FROM atomic.events
           WHERE domain_userid IS NOT NULL AND derived_tstamp IS NOT NULL
             AND etl_tstamp IN (SELECT batch FROM derived.manifest WHERE playbook = 'funnel')
         )
         SELECT d.*, num_nonnulls(viewed.at, stayed.at, clicked.at), viewed.at, stayed.at, clicked.at
         FROM (SELECT visitor, day, min(collector_tstamp) FROM e GROUP BY visitor, day) AS d
         {} {} {}",
        after("viewed", "'-infinity'", "page_view"),
        after("stayed", "viewed.at", "page_ping"),
        after("clicked", "stayed.at", "link_click"),
    );
    assert_rows(&db, "derived.funnel", &expected).await;
    let reached = db
        .rows("SELECT string_agg(DISTINCT reached::text, ' ') FROM derived.funnel")
        .await;
    assert_eq!(reached[0][0].as_deref(), Some("0 1 2 3"));
    db.assert_equals_rebuild("funnel.yaml", "derived.funnel")
        .await;

    let twice = read("funnel.yaml")
        .replace("name: clicked", "name: viewed")
        .replace("playbook: funnel", "playbook: funnel_twice");
    let refused = db
        .run(&parse(&twice))
        .await
        .expect_err("two stages of one name");
    let refused = format!("{refused:?}");
    assert!(refused.contains("there are two stages"), "{refused}");
    assert!(refused.contains("/stages/2/name"), "{refused}");
}
