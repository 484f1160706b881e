//! `truncate-scratch`: empties what earlier runs left in this playbook's scratch tables.
//!
//! ```yaml
//! - id: truncate
//!   uses: truncate-scratch
//! ```
//!
//! It stands at the start of a workflow, as a step of its own: TRUNCATE commits at once on Redshift, so it must not be
//! part of anything that could still have to be rolled back. Tables that the SDK's `scratch::fill` and `fill_small` make
//! anew in each run are dropped, since TRUNCATE of such a table writes a new one to the disk for nothing: they are
//! unlogged, or have the storage option `autovacuum_enabled = off`. Other tables are emptied if they hold rows. No ANALYZE
//! follows, since the step that fills a table measures it then.
//!
//! What it does not do: touch another playbook's tables.

use stepwell_sdk::planner::{Ask, Plan, Run, Statement, Stop, question, text};
use stepwell_sdk::sql::{Literal, Sql, TableName, join};
use stepwell_sdk::{Settings, export_planner, sql};

/// The step has no settings: the tables follow from the playbook.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields)]
pub struct With {}

/// Answers with one DROP of the tables that steps make anew, and one TRUNCATE of others that hold rows.
pub fn plan(run: &Run, _: &With, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    let (schema, prefix) = run.scratch_prefix();
    let tables = ask.one(question(
        "scratch tables",
        sql!(
            "SELECT c.relname::text AS name,
              c.relpersistence = 'u' OR coalesce('autovacuum_enabled=off' = ANY (c.reloptions), false) AS made_anew
            FROM pg_catalog.pg_class AS c
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = $1 AND c.relkind = 'r' AND left(c.relname, length($2::text)) = $2::text
            ORDER BY c.relname"
        ),
        vec![text(schema), text(prefix)],
    ))?;
    let named = |made_anew: bool| -> Vec<TableName> {
        let rows = tables
            .iter()
            .filter(|row| row.bool("made_anew") == Some(made_anew));
        rows.filter_map(|row| row.text("name"))
            .map(|name| TableName::new(schema, name))
            .collect()
    };
    let (made_anew, kept) = (named(true), named(false));
    let filled = match kept.is_empty() {
        true => Vec::new(),
        false => {
            let filled = ask.one(question(
                "scratch tables with rows",
                with_rows(&kept),
                vec![],
            ))?;
            let names = filled.iter().filter_map(|row| row.text("name"));
            names.map(|name| TableName::new(schema, name)).collect()
        }
    };
    let all = |label: &str, command: &str, tables: &[TableName]| {
        let sql = sql!(
            "{command} {tables}",
            command = Sql::trusted(command),
            tables = join(tables, ", ")
        );
        tables
            .iter()
            .fold(Statement::new(label, sql), Statement::writes)
    };
    let mut plan = Plan::new();
    if !made_anew.is_empty() {
        plan = plan.run(all(
            "drop scratch tables",
            "DROP TABLE IF EXISTS",
            &made_anew,
        ));
    }
    if !filled.is_empty() {
        plan = plan.run(all("empty scratch tables", "TRUNCATE", &filled));
    }
    Ok(plan)
}

/// A SELECT of the names of those tables that hold at least one row.
fn with_rows(tables: &[TableName]) -> Sql {
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
    use stepwell_sdk::Answer;
    use stepwell_sdk::testing::{Conversation, beside, bools, rows};

    fn tables(found: &[(&str, bool)]) -> Answer {
        let names: Vec<_> = found.iter().map(|&(name, _)| [Some(name)]).collect();
        let names: Vec<&[Option<&str>]> = names.iter().map(|row| &row[..]).collect();
        let anew: Vec<_> = found.iter().map(|&(_, anew)| [Some(anew)]).collect();
        let anew: Vec<&[Option<bool>]> = anew.iter().map(|row| &row[..]).collect();
        beside(rows(&["name"], &names), bools(&["made_anew"], &anew))
    }

    #[test]
    fn tables_that_are_made_anew_go_and_others_are_emptied_if_filled() {
        let found = [
            ("sessions__a", true),
            ("sessions__b", false),
            ("sessions__c", false),
        ];
        Conversation::new(plan, "{}")
            .answer("scratch tables", tables(&found))
            .answer(
                "scratch tables with rows",
                rows(&["name"], &[&[Some("sessions__c")]]),
            )
            .check_golden("sql/truncate.postgres.sql");
    }

    #[test]
    fn nothing_there_is_no_statement() {
        let (plan, asked) = Conversation::new(plan, "{}")
            .answer("scratch tables", tables(&[]))
            .outcome();
        assert_eq!((plan.unwrap().statements.len(), asked.len()), (0, 1));
    }
}
