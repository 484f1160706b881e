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
//! `{{ events }}` and `{{ manifest }}`.
//!
//! What it does not do: substitute values into SQL. It puts quoted table names in place of braces, and nothing else.

use stepwell_sdk::planner::{Ask, Plan, Run, Statement, Stop};
use stepwell_sdk::settings::{DerivedTable, ReadTable, ScratchInput, ScratchOutput, SqlText};
use stepwell_sdk::sql::{Sql, TableName, render, split};
use stepwell_sdk::{Failure, Settings, export_planner};

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
pub fn plan(run: &Run, with: &With, _: &mut Ask<'_>) -> Result<Plan, Stop> {
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
    let text = render(&with.statements.text, |name| match name {
        "events" => run.source().ok().map(|source| source.events.to_string()),
        "manifest" => run.manifest().ok().map(|table| table.to_string()),
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
    use stepwell_sdk::testing::Conversation;

    #[test]
    fn names_are_put_in_and_statements_split() {
        let with = r#"{
            "statements": "DELETE FROM derived.v; INSERT INTO derived.v SELECT ';' FROM {{ ids }}, {{events}}",
            "reads": ["derived.d"], "writes": ["derived.v"], "uses": ["ids"]
        }"#;
        Conversation::new(plan, with).check_golden("sql/statements.postgres.sql");
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
