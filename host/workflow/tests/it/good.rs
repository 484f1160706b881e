//! Good files become the right values.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use stepwell_workflow::{
    Inputs, LimitKey, Login, Problem, Secret, SourceFile, Span, StatementGrant, TableName, Trust,
    Workflow,
};

use crate::kinds::TestKinds;

const URL: &str = "postgres://app:hunter2@db/events";

fn env(name: &str) -> Option<String> {
    (name == "DATABASE_URL").then(|| URL.to_owned())
}

pub fn inputs() -> Inputs<'static> {
    Inputs {
        vars: BTreeMap::new(),
        env: &env,
    }
}

fn sessions() -> (Workflow, Vec<Problem>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/good/sessions.yml");
    Workflow::read(&path, &inputs(), &mut TestKinds).unwrap_or_else(|(file, problems)| {
        let plain: Vec<String> = problems.iter().map(|p| p.to_plain(&file)).collect();
        panic!("{}", plain.join("\n"))
    })
}

fn table(name: &str) -> TableName {
    name.parse().unwrap()
}

#[test]
fn the_designs_workflow_has_the_right_values() {
    let (workflow, warnings) = sessions();
    assert_eq!(warnings, []);
    assert_eq!(workflow.playbook.as_str(), "sessions");
    assert!(workflow.description.starts_with("One row per session"));
    let warehouse = &workflow.warehouse;
    assert_eq!(warehouse.url.as_ref().unwrap().expose(), URL);
    assert_eq!(warehouse.statement_timeout, Some(Duration::from_secs(900)));
    assert_eq!(warehouse.lock_timeout, None);
    assert_eq!(warehouse.retries, Some(2));
    assert_eq!(warehouse.lease_expiry, Some(Duration::from_secs(60)));
    assert_eq!(warehouse.settings["work_mem"], "64MB");
    assert_eq!(warehouse.settings["enable_nestloop"], "false");
    assert_eq!(workflow.manifest, table("derived.manifest"));
    assert_eq!(
        workflow.scratch_table("batches"),
        table("scratch.sessions__batches")
    );

    let source = workflow.source.as_ref().unwrap();
    assert_eq!(source.events, table("atomic.events"));
    assert_eq!(source.batch, "date_trunc('hour', load_tstamp)");
    assert_eq!(source.lookback.duration(), Duration::from_secs(604_800));
    assert_eq!(source.lookback.to_string(), "7 days");
    assert_eq!(
        source.json(),
        json!({
            "events": "atomic.events",
            "batch": "date_trunc('hour', load_tstamp)",
            "time": "collector_tstamp",
            "event-id": "event_id",
            "lookback-seconds": 604_800,
            "contexts": {"web_page": {
                "table": "atomic.web_page_1", "event-id": "root_id",
                "time": "root_tstamp", "columns": ["id"],
            }},
        })
    );

    let plugin = &workflow.plugins["engaged-time"];
    assert_eq!(
        plugin.component,
        Path::new("../target/plugins/engaged_time.wasm")
    );
    assert_eq!(
        plugin.digest.as_ref().unwrap(),
        &"0123456789abcdef".repeat(4)
    );
    assert_eq!(plugin.trust, Trust::ThirdParty);
    assert_eq!(
        plugin.grants.read,
        [
            table("atomic.events"),
            table("scratch.sessions__session_ids")
        ]
    );
    assert_eq!(plugin.grants.write, [table("scratch.sessions__engaged")]);
    let statements = [StatementGrant::Select, StatementGrant::Insert];
    assert_eq!(plugin.grants.statements, statements.into());
    let login = plugin.connection.as_ref().map(|found| &found.login);
    assert_eq!(
        login,
        Some(&Login::Role {
            name: "engaged_time".into(),
            password: Some(Secret::new(URL)),
        })
    );
    assert_eq!(
        workflow.as_granted(&plugin.grants.write[0]),
        table("scratch.engaged")
    );
    assert_eq!(plugin.limits.get(LimitKey::Memory), Some(128 << 20));
    assert_eq!(
        plugin.limits.duration(LimitKey::Cpu),
        Some(Duration::from_secs(60))
    );
    assert_eq!(
        plugin.limits.duration(LimitKey::Wall),
        Some(Duration::from_secs(900))
    );
}

#[test]
fn a_source_knows_its_places() {
    let (workflow, _) = sessions();
    let source = workflow.source.as_ref().unwrap();
    let text = &workflow.source_file.text;
    let shown = |pointer: &str| {
        let span = source.span(pointer).unwrap();
        &text[span.start..span.end]
    };
    assert_eq!(shown("/batch"), "date_trunc('hour', load_tstamp)");
    assert_eq!(shown("/contexts/web_page/event-id"), "root_id");
    assert_eq!(shown("/contexts/web_page/columns/0"), "id");
    assert!(shown("").starts_with("events:"));
    assert_eq!(source.span("/nope"), source.span(""));
}

/// The word is what a variable may stand for where no other warehouse is named.
#[test]
fn the_private_server_has_a_name() {
    let text = |url: &str| {
        format!(
            "stepwell: 1\nplaybook: p\nwarehouse: {{ url: \"{url}\" }}\n\
             steps: [{{ id: one, uses: truncate-scratch }}]\n"
        )
    };
    let url = |url: &str| {
        let read = Workflow::parse(Path::new("p.yml"), &text(url), &inputs(), &mut TestKinds);
        read.unwrap().0.warehouse.url
    };
    assert_eq!(url("local"), None);
    assert_eq!(url("${env:NOPE:-local}"), None);
    assert_eq!(url("${env:DATABASE_URL:-local}"), Some(Secret::new(URL)));
}

#[test]
fn steps_know_their_needs_settings_and_tables() {
    let (workflow, _) = sessions();
    let steps = &workflow.steps;
    let ids: Vec<&str> = steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "truncate",
            "new-batches",
            "session-ids",
            "sessions",
            "engaged",
            "commit",
            "defrag"
        ]
    );
    let needs: Vec<&[usize]> = steps.iter().map(|step| step.needs.as_slice()).collect();
    assert_eq!(needs, [&[][..], &[0], &[1], &[2], &[2], &[3, 4], &[5]]);
    assert_eq!(workflow.order(), [0, 1, 2, 3, 4, 5, 6]);
    let critical: Vec<bool> = steps.iter().map(|step| step.critical).collect();
    assert_eq!(critical, [true, true, true, true, true, true, false]);

    assert_eq!(steps[0].with, json!({}));
    // A variable may stand for a number.
    assert_eq!(steps[1].with, json!({"into": "batches", "max-batches": 5}));
    assert_eq!(steps[1].kind.name, "diff-manifest");
    assert_eq!(
        steps[3].with["columns"]["first_collector_tstamp"],
        json!("min(collector_tstamp)")
    );
    assert_eq!(
        steps[4].with["query"],
        json!({"file": "engaged.sql", "text": "SELECT 1\n"})
    );
    assert_eq!(steps[6].maintains_tables, [table("derived.sessions")]);
    let names = |list: &[(String, Span)]| -> Vec<String> {
        list.iter().map(|(alias, _)| alias.clone()).collect()
    };
    assert_eq!(names(&steps[2].reads_scratch), ["batches"]);
    assert_eq!(names(&steps[2].writes_scratch), ["session_ids"]);
    assert_eq!(steps[2].reads_tables, [table("derived.sessions")]);
    assert_eq!(
        names(&steps[5].reads_scratch),
        ["batches", "sessions", "session_ids"]
    );
    assert_eq!(steps[5].writes_tables, [table("derived.sessions")]);
}

#[test]
fn settings_know_their_place() {
    let (workflow, _) = sessions();
    let text = &workflow.source_file.text;
    let shown = |step: usize, pointer: &str| {
        let span = workflow.steps[step].setting_span(pointer).unwrap();
        &text[span.start..span.end]
    };
    assert_eq!(shown(3, "/columns/start_tstamp"), "min(derived_tstamp)");
    assert_eq!(shown(3, "/dedupe/earliest/1"), "etl_tstamp");
    assert_eq!(
        shown(3, "/dedupe/latest/0"),
        "{ by: event_id, earliest: [collector_tstamp, etl_tstamp] }"
    );
    assert_eq!(shown(3, "/nope"), "with");
    assert_eq!(shown(0, "/nope"), "truncate-scratch");
    let span = workflow.steps[3].span;
    assert_eq!(&text[span.start..span.end], "sessions");
}

#[test]
fn steps_may_stand_before_what_they_need() {
    let text = "\
stepwell: 1
playbook: p
steps:
  - { id: last, uses: sql, needs: [first, second], with: { statements: SELECT 1, uses: [a, b] } }
  - { id: first, uses: sql, needs: [], with: { statements: SELECT 1, fills: [a] } }
  - { id: second, uses: sql, needs: [], with: { statements: SELECT 1, fills: [b] } }
";
    let path = Path::new("p.yml");
    let (workflow, warnings) = Workflow::parse(path, text, &inputs(), &mut TestKinds).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(workflow.order(), [1, 2, 0]);
    assert!(workflow.source.is_none() && workflow.warehouse.url.is_none());
    assert_eq!(workflow.manifest, table("derived.manifest"));
    assert_eq!(workflow.source_file, SourceFile::new("p.yml", text));
}

#[test]
fn no_secret_is_printed() {
    let (workflow, _) = sessions();
    assert!(!format!("{workflow:?}").contains("hunter2"));
    assert!(!format!("{:?}", inputs()).contains("hunter2"));
}

#[test]
fn what_is_not_a_workflow_file_is_one_problem() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, part) in [
        (
            "latin1.yml",
            b"description: caf\xe9".to_vec(),
            "not UTF-8 text (byte 16)",
        ),
        ("large.yml", vec![b'#'; (1 << 20) + 1], "larger than 1 MiB"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let (file, problems) = Workflow::read(&path, &inputs(), &mut TestKinds).unwrap_err();
        let plain = problems[0].to_plain(&file);
        assert!(problems.len() == 1 && plain.contains(part), "{plain}");
    }
    let path = folder.path().join("none.yml");
    let (_, problems) = Workflow::read(&path, &inputs(), &mut TestKinds).unwrap_err();
    assert!(
        problems[0]
            .message
            .starts_with("could not read workflow file")
    );
    // What to do depends on what is there.
    let folder = folder.path().display();
    for (name, help) in [
        ("", format!("name the files in it: {folder}/*.yaml")),
        (
            "none.yml",
            format!("`ls {folder}` shows which files are there"),
        ),
        (
            "none/a.yml",
            format!(
                "there is no folder \"{folder}/none\"; relative paths begin at the current folder"
            ),
        ),
    ] {
        let path = format!("{folder}/{name}");
        let path = Path::new(path.trim_end_matches('/'));
        let (_, problems) = Workflow::read(path, &inputs(), &mut TestKinds).unwrap_err();
        assert_eq!(problems[0].help.as_deref(), Some(help.as_str()), "{name}");
    }
}

#[test]
fn the_deepest_file_allowed_does_not_exhaust_the_stack() {
    let text = format!("stepwell: 1\nsteps: {}{}\n", "[".repeat(63), "]".repeat(63));
    let outcome = Workflow::parse(Path::new("p.yml"), &text, &inputs(), &mut TestKinds);
    assert!(outcome.is_err());
}
