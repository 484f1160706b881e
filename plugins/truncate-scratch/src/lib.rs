//! `truncate-scratch`: empties what earlier runs left in this playbook's scratch tables.
//!
//! ```yaml
//! - id: truncate
//!   uses: truncate-scratch
//! ```
//!
//! It stands at the start of a workflow, as a step of its own: TRUNCATE commits at once on Redshift, so it must not be
//! part of anything that could still have to be rolled back. Only tables that hold rows are emptied, and no ANALYZE
//! follows, since the step that fills a table measures it then.
//!
//! What it does not do: touch another playbook's tables, or drop any.

use stepwell_sdk::planner::{Ask, Plan, Run, Statement, Stop, question, text};
use stepwell_sdk::sql::{Literal, TableName, join};
use stepwell_sdk::{Settings, export_planner, sql};

/// The step has no settings: the tables follow from the playbook.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields)]
pub struct With {}

/// Answers with one TRUNCATE of the tables that hold rows.
pub fn plan(run: &Run, _: With, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    let (schema, prefix) = run.scratch_prefix();
    let tables = ask.one(question(
        "scratch tables",
        sql!(
            "SELECT c.relname::text AS name
            FROM pg_catalog.pg_class AS c
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND c.relkind = 'r' AND left(c.relname, length($2::text)) = $2::text
            ORDER BY c.relname"
        ),
        vec![text(schema), text(prefix)],
    ))?;
    let tables: Vec<_> = tables
        .iter()
        .filter_map(|row| row.text("name"))
        .map(|name| TableName::new(schema, name))
        .collect();
    if tables.is_empty() {
        return Ok(Plan::new());
    }
    let filled = ask.one(question(
        "scratch tables with rows",
        with_rows(&tables),
        vec![],
    ))?;
    let filled: Vec<_> = filled
        .iter()
        .filter_map(|row| row.text("name"))
        .map(|name| TableName::new(schema, name))
        .collect();
    if filled.is_empty() {
        return Ok(Plan::new());
    }
    let truncate = sql!("TRUNCATE {tables}", tables = join(&filled, ", "));
    let statement = Statement::new("empty scratch tables", truncate);
    Ok(Plan::new().run(filled.iter().fold(statement, Statement::writes)))
}

/// A SELECT of the names of those tables that hold at least one row.
fn with_rows(tables: &[TableName]) -> stepwell_sdk::sql::Sql {
    let one = |table: &TableName| {
        sql!(
            "SELECT {name}::text AS name WHERE EXISTS (SELECT FROM {table})",
            name = Literal(table.name()),
            table = table
        )
    };
    join(tables.iter().map(one), "\nUNION ALL\n")
}

export_planner! {
    name: "truncate-scratch",
    summary: "Empties the scratch tables that earlier runs left filled",
    settings: With,
    plan: plan,
    writes: ["scratch"],
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwell_sdk::testing::{Conversation, rows};

    #[test]
    fn only_tables_with_rows_are_emptied() {
        Conversation::new(plan, "{}")
            .answer(
                "scratch tables",
                rows(&["name"], &[&[Some("sessions__a")], &[Some("sessions__b")]]),
            )
            .answer(
                "scratch tables with rows",
                rows(&["name"], &[&[Some("sessions__b")]]),
            )
            .check_golden("sql/truncate.postgres.sql");
    }

    #[test]
    fn nothing_to_empty_is_no_statement() {
        let tables = rows(&["name"], &[]);
        let (plan, asked) = Conversation::new(plan, "{}")
            .answer("scratch tables", tables)
            .outcome();
        assert_eq!((plan.unwrap().statements.len(), asked.len()), (0, 1));
    }
}
