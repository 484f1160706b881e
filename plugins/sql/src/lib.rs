//! `sql`: the statements of a file, for everything that no other step does.
//!
//! ```yaml
//! - id: visitors
//!   uses: sql
//!   with:
//!     statements: { file: visitors.sql }
//!     reads: [derived.visitor_days]
//!     writes: [derived.visitors]
//! ```
//!
//! Playbooks that come from SQL Runner fit as they stand, once BEGIN and COMMIT are taken out: all statements run in one
//! transaction unless `transaction: false`. Scratch tables are named in double braces: `{{ session_ids }}`; so are
//! `{{ events }}` and `{{ manifest }}`. Where rows of old batches are folded (`retain` of `diff-manifest`), SQL that reads
//! the manifest must know `before_batches`: a batch before one whose row has it is processed, though it has no row. SQL that
//! does not name that column is refused then.
//!
//! What it does not do: substitute values into SQL. It puts quoted table names in place of braces, and nothing else.

use stepwell_sdk::planner::{Ask, Plan, Run, Statement, Stop, question};
use stepwell_sdk::settings::{DerivedTable, ReadTable, ScratchInput, ScratchOutput, SqlText};
use stepwell_sdk::sql::{Literal, Sql, TableName, render, split};
use stepwell_sdk::{Failure, Question, Settings, export_planner, sql};

/// Settings of `sql`.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct With {
    /// The statements, separated by semicolons.
    statements: SqlText,
    /// Tables that the statements read, besides the events and the manifest.
    #[serde(default)]
    reads: Vec<ReadTable>,
    /// Derived tables that the statements change.
    #[serde(default)]
    writes: Vec<DerivedTable>,
    /// Scratch tables that the statements read.
    #[serde(default)]
    uses: Vec<ScratchInput>,
    /// Scratch tables that the statements fill.
    #[serde(default)]
    fills: Vec<ScratchOutput>,
    /// Whether all statements run in one transaction; true unless given. VACUUM refuses one.
    #[serde(default = "yes")]
    transaction: bool,
}

fn yes() -> bool {
    true
}

/// Answers with the statements as they stand, names put in.
pub fn plan(run: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    let place = with
        .statements
        .file
        .as_ref()
        .map(|file| format!("{file}: "))
        .unwrap_or_default();
    let fail = |message: String| {
        Failure::new("sql", format!("{place}{message}")).with_setting("/statements")
    };
    let scratch = with
        .uses
        .iter()
        .map(ScratchInput::alias)
        .chain(with.fills.iter().map(ScratchOutput::alias));
    let scratch: Vec<&str> = scratch.collect();
    let mut reads_manifest = false;
    let text = render(&with.statements.text, |name| match name {
        "events" => run.source().ok().map(|source| source.events.to_string()),
        "manifest" => {
            reads_manifest = true;
            run.manifest().ok().map(|table| table.to_string())
        }
        name => scratch.contains(&name).then(|| run.scratch(name).to_string()),
    })
    .map_err(|error| {
        let known = scratch.iter().map(|name| format!(", {{{{ {name} }}}}")).collect::<String>();
        fail(error.to_string()).with_help(format!(
            "The tables of this step are {{{{ events }}}}, {{{{ manifest }}}}{known}; `uses:` and `fills:` name more."
        ))
    })?;
    let statements = split(&text).map_err(|error| fail(error.to_string()))?;
    if statements.is_empty() {
        return Err(fail("expected at least one statement, found none".into()).into());
    }
    if reads_manifest && !text.contains("before_batches") {
        let folded = ask.one(folded(run)?)?;
        if folded.first().and_then(|row| row.bool("folded")) == Some(true) {
            let message = "the manifest has no rows of old batches, which this SQL would take for unprocessed";
            return Err(fail(message.into())
                .with_help(
                    "Let it take batches for processed that stand before one with `before_batches IS NOT NULL`, or take \
                     `retain` out and run `stepwell run <workflow> --full-refresh` once.",
                )
                .into());
        }
    }
    let mut reads: Vec<TableName> = with.reads.iter().map(|table| table.0.clone()).collect();
    reads.extend(run.source().ok().map(|source| source.events.clone()));
    reads.push(run.manifest()?);
    reads.extend(with.uses.iter().map(|table| run.scratch(table.alias())));
    let mut writes: Vec<TableName> = with.writes.iter().map(|table| table.0.clone()).collect();
    writes.extend(with.fills.iter().map(|table| run.scratch(table.alias())));
    let count = statements.len();
    let plan = statements
        .iter()
        .enumerate()
        .fold(Plan::new(), |plan, (at, text)| {
            let label = format!("statement {} of {count}", at + 1);
            let statement = Statement::new(label, Sql::trusted(*text)).reads_all(&reads);
            plan.run(writes.iter().fold(statement, Statement::writes))
        });
    Ok(if with.transaction {
        plan
    } else {
        plan.without_transaction()
    })
}

/// Asks whether a row of the manifest stands for batches without a row.
fn folded(run: &Run) -> Result<Question, Failure> {
    let select = sql!(
        "SELECT EXISTS (\n  SELECT FROM {manifest}\n  WHERE playbook = {playbook} AND before_batches IS NOT NULL\n) AS folded",
        manifest = run.manifest()?,
        playbook = Literal(run.playbook()),
    );
    Ok(question(
        "batches without a row of their own",
        select,
        vec![],
    ))
}

export_planner! {
    name: "sql",
    summary: "Runs the statements of a file",
    settings: With,
    plan: plan,
    reads: ["events", "manifest"],
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwell_sdk::testing::{Conversation, bools};

    #[test]
    fn names_are_put_in_and_statements_split() {
        let with = r#"{
            "statements": "DELETE FROM derived.v; INSERT INTO derived.v SELECT ';' FROM {{ ids }}, {{events}}",
            "reads": ["derived.d"], "writes": ["derived.v"], "uses": ["ids"]
        }"#;
        Conversation::new(plan, with).check_golden("sql/statements.postgres.sql");
    }

    #[test]
    fn rows_of_the_manifest_are_not_taken_for_all_batches() {
        let outcome = |text: &str, folded: bool| {
            let with = format!(r#"{{ "statements": "{text}" }}"#);
            Conversation::new(plan, &with)
                .answer(
                    "batches without a row of their own",
                    bools(&["folded"], &[&[Some(folded)]]),
                )
                .outcome()
        };
        let reads = "SELECT batch FROM {{ manifest }}";
        assert!(outcome(reads, false).0.is_ok());
        let failure = outcome(reads, true).0.unwrap_err();
        assert_eq!(failure.setting.as_deref(), Some("/statements"));
        assert!(failure.help.unwrap().contains("before_batches"));
        let knows = "SELECT batch, before_batches FROM {{ manifest }}";
        for text in [knows, "SELECT 1"] {
            let (plan, asked) = outcome(text, true);
            assert!(plan.is_ok() && asked.is_empty(), "{text}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_known() {
        let with = r#"{ "statements": { "file": "a.sql", "text": "SELECT 1\nFROM {{ idz }}" }, "uses": ["ids"] }"#;
        let failure = Conversation::new(plan, with).outcome().0.unwrap_err();
        assert_eq!(
            failure.message,
            "a.sql: \"{{ idz }}\" on line 2 is no table of this step"
        );
        assert!(failure.help.unwrap().contains("{{ ids }}"));
    }
}
