//! `my-step`: for each id, how many of its events a condition holds for.
//!
//! ```yaml
//! - id: pages
//!   uses: my-step
//!   with: { ids: session_ids, into: pages, condition: event_name = 'page_view' }
//! ```
//!
//! A planner is asked what to do and answers with statements. It holds no connection: Stepwell checks the statements
//! against what the settings name, shows them under `stepwell plan`, runs them in one transaction and journals them.

use stepwell_sdk::incremental::{Ids, event_id, key_alias};
use stepwell_sdk::planner::{Ask, Plan, Run, Stop};
use stepwell_sdk::settings::{Expr, ScratchInput, ScratchOutput};
use stepwell_sdk::sql::{Ident, join};
use stepwell_sdk::{Settings, export_planner, scratch, sql};

/// Settings of `my-step`, its `with:` block. Doc comments become the help in editors.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct With {
    /// The ids whose rows are computed again, from a `collect-ids` step.
    ids: ScratchInput,
    /// Takes one row an id: its key, `first_time` and `n`.
    into: ScratchOutput,
    /// SQL over the columns of an event: which events are counted.
    condition: Expr,
}

/// Answers with one SELECT over the events of the ids, into a scratch table.
///
/// Called again and again with the same input while it asks questions (this one asks none), so it must be pure.
pub fn plan(run: &Run, with: &With, _ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    let ids: Ids = run.about(with.ids.alias())?;
    let source = run.source()?;
    let into = run.scratch(with.into.alias());
    let key = ids.key.iter().enumerate().map(|(at, column)| {
        sql!(
            "e.{key} AS {name}",
            key = Ident(&key_alias(at)),
            name = Ident(&column.name)
        )
    });
    let group = (0..ids.key.len()).map(|at| sql!("e.{key}", key = Ident(&key_alias(at))));
    // Whole ids, of processed and pending batches only: what makes the table equal to a rebuild. An event that was sent
    // twice counts once.
    let select = sql!(
        "SELECT {key},\n  min(e.{time}) AS first_time,\n  count(DISTINCT CASE WHEN {condition} THEN e.{id} END) AS n\n{events}\nGROUP BY {group}",
        key = join(key, ", "),
        time = Ident(&source.time),
        condition = with.condition,
        id = Ident(event_id(source)?),
        events = ids.events(run, with.ids.alias(), false)?,
        group = join(group, ", "),
    );
    let reads = ids.reads(run, with.ids.alias())?;
    Ok(Plan::new().run_all(scratch::fill(run, &into, "count", &select, &reads)))
}

export_planner! {
    name: "my-step",
    summary: "Counts the events of each id for which a condition holds",
    settings: With,
    plan: plan,
    reads: ["events", "manifest"],
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwell_sdk::incremental::KeyColumn;
    use stepwell_sdk::testing::Conversation;

    fn ids() -> Ids {
        Ids {
            key: vec![KeyColumn {
                name: "session_id".into(),
                expression: "domain_sessionid".into(),
            }],
            batches: "batches".into(),
            bounded: true,
            contexts: Vec::new(),
            ..Ids::default()
        }
    }

    /// The SQL is compared with the file; `BLESS=1 cargo test` writes it anew. Read it before you commit it.
    #[test]
    fn one_statement_counts() {
        let with =
            r#"{ "ids": "session_ids", "into": "pages", "condition": "event_name = 'page_view'" }"#;
        Conversation::new(plan, with)
            .about("session_ids", &ids())
            .check_golden("sql/count.postgres.sql");
    }

    #[test]
    fn ids_of_another_step_are_refused() {
        let with = r#"{ "ids": "session_ids", "into": "pages", "condition": "true" }"#;
        let failure = Conversation::new(plan, with).outcome().0.unwrap_err();
        assert_eq!(failure.code, "wrong-table");
    }
}
