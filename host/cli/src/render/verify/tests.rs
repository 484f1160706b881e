use std::collections::BTreeMap;

use stepwell_runner::verified::{self, Value};
use stepwell_runner::{LeftOut, VerifyOptions};

use super::*;
use crate::files::Vars;
use crate::render::failure::tests::workflow_of;

fn workflow(key: &str) -> Workflow {
    let text = format!(
        "stepwell: 1
playbook: sessions
source: {{ events: atomic.events, batch: etl_tstamp, time: collector_tstamp, lookback: 7 days }}
steps:
  - {{ id: new-batches, uses: diff-manifest, with: {{ into: batches }} }}
  - {{ id: ids, uses: collect-ids, with: {{ batches: batches, key: {key}, into: ids }} }}
"
    );
    workflow_of("w/sessions.yaml", &text, &[])
}

fn batch(name: &str, kind: BatchKind, first: Option<&str>, last: Option<&str>) -> Batch {
    Batch {
        batch: name.into(),
        kind,
        events: 3,
        noted: (kind != BatchKind::Late).then_some(4),
        first_time: first.map(str::to_owned),
        last_time: last.map(str::to_owned),
    }
}

fn found(counts: &[(BatchKind, u64)], named: Vec<Batch>) -> Batches {
    Batches {
        processed: 1,
        counts: counts.iter().copied().collect::<BTreeMap<_, _>>(),
        named,
        events_without_batch: 0,
    }
}

fn good() -> Table {
    Table {
        table: "derived.sessions".into(),
        key: vec!["session_id".into()],
        rows: 1200,
        computed: 1200,
        missing: 0,
        surplus: 0,
        differing: 0,
        unsettled: 0,
        frozen: 0,
        columns: vec![],
        schema: vec![],
        named: vec![],
    }
}

fn row(key: &[&str]) -> Row {
    Row {
        kind: "differing".into(),
        key: key.iter().map(|value| Some((*value).to_owned())).collect(),
        values: vec![Value {
            column: "events".into(),
            derived: Some("2".into()),
            computed: Some("3".into()),
        }],
    }
}

fn report(tables: Vec<Table>, batches: Option<Batches>) -> VerifyReport {
    VerifyReport {
        playbook: "sessions".into(),
        compared: VerifyOptions::default(),
        differs: tables.iter().any(Table::differs),
        batches,
        tables,
        left_out: vec![],
        notes: vec![],
        duration_ms: 340,
    }
}

fn text_of(report: &VerifyReport, workflow: &Workflow) -> String {
    text(
        report,
        workflow,
        &Invocation::new("verify", &Vars::default(), None),
        Style::new(),
    )
}

fn help(report: &VerifyReport) -> Vec<String> {
    let text = text_of(report, &workflow("{ session_id: domain_sessionid }"));
    let help = text.lines().filter_map(|line| line.strip_prefix("help: "));
    help.map(str::to_owned).collect()
}

#[test]
fn parts_stand_apart_by_one_line_and_say_what_was_cut() {
    let late = batch(
        "2026-01-03 18:00:00",
        BatchKind::Late,
        Some("2026-01-03 17:00:00"),
        Some("2026-01-03 17:59:59.5"),
    );
    let counts = [(BatchKind::Pending, 2), (BatchKind::Late, 8)];
    let table = Table {
        differing: 7,
        columns: vec![verified::Column {
            name: "events".into(),
            rows: 7,
        }],
        named: vec![row(&["a"]), row(&["b"])],
        frozen: 1,
        ..good()
    };
    let mut report = report(vec![table], Some(found(&counts, vec![late])));
    report.left_out = vec![LeftOut {
        step: "defrag".into(),
        reason: "it works outside of a transaction".into(),
    }];
    assert_eq!(
        text_of(&report, &workflow("{ session_id: domain_sessionid }")),
        "\
sessions: 7 rows differ from a rebuild, 340 ms

  table              rows  rebuilt  missing  surplus  differing
  derived.sessions  1,200    1,200        0        0          7

derived.sessions: events in 7 rows

  key  column  derived  rebuilt
  a    events  2        3
  b    events  2        3
  and 5 more rows; `--limit` says how many are named

1 batch in the manifest, 2 pending, 8 late

  batch                state  events  when processed  first event          last event
  2026-01-03 18:00:00  late        3               -  2026-01-03 17:00:00  2026-01-03 17:59:59.5
  and 7 more batches; `--limit` says how many are named

note: derived.sessions: 1 key with events too far apart was not compared; runs may leave its row as it is (`runaway:`)
note: step defrag took no part: it works outside of a transaction

help: no run comes by the late batch; `stepwell manifest replay w/sessions.yaml --batch '2026-01-03 18:00:00'` processes it
help: `stepwell run w/sessions.yaml --full-refresh` computes all rows again
"
    );
}

/// `verify --sample 5` said that no row differs from a rebuild, as if it had compared all of them.
#[test]
fn a_part_is_not_taken_for_the_whole() {
    let first = |compared: VerifyOptions, table: Table| {
        let mut report = report(vec![table], None);
        report.compared = compared;
        let text = text_of(&report, &workflow("{ session_id: domain_sessionid }"));
        text.lines().next().unwrap_or_default().to_owned()
    };
    let sample = |sample| VerifyOptions {
        sample: Some(sample),
        ..VerifyOptions::default()
    };
    let rows = |rows, missing, differing| Table {
        rows,
        missing,
        differing,
        ..good()
    };
    assert_eq!(
        first(sample(Sample::Keys(5)), rows(5, 0, 0)),
        "sessions: 5 rows compared (--sample 5), none differs from a rebuild, 340 ms"
    );
    assert_eq!(
        first(sample(Sample::Share(0.07)), rows(11, 1, 2)),
        "sessions: 12 rows compared (--sample 7%), 3 differ from a rebuild, 340 ms"
    );
    let since = VerifyOptions {
        since: Some("2026-01-02T00:00:00Z".parse().expect("a time")),
        until: Some("2026-01-03T00:00:00Z".parse().expect("a time")),
        ..sample(Sample::Keys(5))
    };
    assert_eq!(
        first(since, rows(0, 0, 0)),
        "sessions: no row was compared (--since 2026-01-02T00:00:00Z --until 2026-01-03T00:00:00Z --sample 5), 340 ms"
    );
}

/// A full refresh was advised where a column was new. It computed all rows and was refused in the end.
#[test]
fn other_columns_are_mended_by_the_step_that_may_change_them() {
    let help = |policy: &str, schema: &str| {
        let text = format!(
            "stepwell: 1
playbook: sessions
source: {{ events: atomic.events, batch: etl_tstamp, time: collector_tstamp, event-id: event_id, lookback: 7 days }}
steps:
  - {{ id: new, uses: diff-manifest, with: {{ into: batches }} }}
  - {{ id: ids, uses: collect-ids, with: {{ batches: batches, key: {{ session_id: domain_sessionid }}, into: ids }} }}
  - {{ id: rows, uses: aggregate, with: {{ ids: ids, into: rows, columns: {{ session_id: domain_sessionid, n: count(*) }} }} }}
  - id: write
    uses: commit
    with:
      replace: [{{ table: derived.sessions, from: rows, ids: ids }}]
      manifest: batches
{policy}"
        );
        let workflow = workflow_of("w/sessions.yaml", &text, &[]);
        let table = Table {
            schema: vec![schema.to_owned()],
            missing: 3,
            ..good()
        };
        let text = text_of(&report(vec![table], None), &workflow);
        assert!(!text.contains("--limit"), "nothing was named: {text}");
        let help = text.lines().filter_map(|line| line.strip_prefix("help: "));
        help.collect::<Vec<_>>().join("\n")
    };
    let refresh = "`stepwell run w/sessions.yaml --full-refresh`";
    let new = "\"n\" (bigint) is new";
    for policy in ["", "      on-schema-change: fail\n"] {
        assert_eq!(
            help(policy, new),
            format!(
                "set `on-schema-change: rebuild` on step \"write\", which changes no column otherwise; then {refresh} \
                 changes them and computes all rows again. With `append` it adds columns that are new, and no others"
            )
        );
    }
    assert_eq!(
        help("      on-schema-change: append\n", new),
        format!(
            "{refresh} adds columns that are new and computes all rows again; for other differences, set \
             `on-schema-change: rebuild` on step \"write\" first"
        )
    );
    let all = format!("{refresh} computes all rows again");
    assert_eq!(help("      on-schema-change: rebuild\n", new), all);
    assert_eq!(help("", "the table does not exist"), all);
}

#[test]
fn where_all_is_well_nothing_is_to_be_done() {
    let report = report(
        vec![good()],
        Some(found(&[(BatchKind::Pending, 1)], vec![])),
    );
    assert_eq!(
        text_of(&report, &workflow("{ session_id: domain_sessionid }")),
        "\
sessions: no row differs from a rebuild, 340 ms

  table              rows  rebuilt  missing  surplus  differing
  derived.sessions  1,200    1,200        0        0          0

1 batch in the manifest, 1 pending
"
    );
}

#[test]
fn batches_are_mended_by_the_command_that_is_shown() {
    let day = |day: u32| {
        let time = format!("2026-01-{day:02} 10:00:00.25+00");
        batch(
            &format!("b{day}"),
            BatchKind::Grown,
            Some(&time),
            Some(&time),
        )
    };
    let many: Vec<Batch> = (1..=6).map(day).collect();
    let grown = [(BatchKind::Grown, 6)];
    let range = "--since 2026-01-01T10:00:00.25Z --until 2026-01-06T10:00:01Z";
    assert_eq!(
        help(&report(vec![good()], Some(found(&grown, many)))),
        [format!(
            "no run comes by the grown batches; `stepwell manifest replay w/sessions.yaml {range}` processes them"
        )]
    );
    // What stands for many is no batch that could be named.
    let folded = batch(
        "before 2026-01-20",
        BatchKind::Late,
        Some("2026-01-01"),
        Some("2026-01-02 03:04:05"),
    );
    let late = [(BatchKind::Late, 3)];
    let range = "--since 2026-01-01T00:00:00Z --until 2026-01-02T03:04:06Z";
    assert_eq!(
        help(&report(vec![good()], Some(found(&late, vec![folded])))),
        [format!(
            "no run comes by the late batches; `stepwell manifest replay w/sessions.yaml {range}` processes them"
        )]
    );
    // The source has nothing of these, so there is nothing to replay.
    let gone = vec![batch("it's", BatchKind::Unknown, None, None)];
    assert_eq!(
        help(&report(
            vec![good()],
            Some(found(&[(BatchKind::Unknown, 1)], gone))
        )),
        [
            r"`stepwell manifest forget w/sessions.yaml --batch 'it'\''s'` takes out of the manifest what the source does not have"
        ]
    );
}

#[test]
fn rows_are_mended_by_their_keys_where_a_shell_can_say_them() {
    let differing = |named: Vec<Row>, key: &[&str]| Table {
        differing: named.len() as u64,
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        named,
        ..good()
    };
    let refresh = "`stepwell run w/sessions.yaml --full-refresh`";
    let two = differing(vec![row(&["a b"]), row(&["c"])], &["session_id"]);
    assert_eq!(
        help(&report(vec![two.clone()], None)),
        [format!(
            r"`printf '%s\n' 'a b' c | stepwell manifest replay w/sessions.yaml --keys -` computes these rows again, {refresh} all of them"
        )]
    );
    let all = [format!("{refresh} computes all rows again")];
    for other in [
        // A comma would make it a file of two columns, and another key is another step's.
        differing(vec![row(&["a,b"])], &["session_id"]),
        differing(vec![row(&["a"])], &["visitor_id"]),
        differing((0..6).map(|_| row(&["a"])).collect(), &["session_id"]),
        Table {
            missing: 3,
            ..two.clone()
        },
        Table {
            schema: vec!["column \"a\" is missing".into()],
            ..two.clone()
        },
    ] {
        assert_eq!(help(&report(vec![other], None)), all);
    }
    assert_eq!(help(&report(vec![two.clone(), two], None)), all);
    let days = differing(vec![row(&["v", "2026-01-01"])], &["visitor", "day"]);
    let found = report(vec![days], None);
    let key = "{ visitor: domain_userid, day: \"derived_tstamp::date\" }";
    let text = text_of(&found, &workflow(key));
    let command = r"`printf '%s\n' visitor,day v,2026-01-01 | stepwell manifest replay w/sessions.yaml --keys -`";
    assert!(text.contains(command), "{text}");
}
