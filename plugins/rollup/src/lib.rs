//! `rollup`: rows of a coarser key from rows of a finer one, in the same run.
//!
//! ```yaml
//! - id: visitors
//!   uses: rollup
//!   with:
//!     rows: visitor_days
//!     ids: visitor_day_ids
//!     table: derived.visitor_days
//!     by: [visitor]
//!     into: visitors
//!     ids-into: visitor_ids
//!     columns:
//!       first_day: min(day)
//!       days: count(*)
//!       page_views: sum(page_views)::bigint
//! - id: commit
//!   uses: commit
//!   with:
//!     replace:
//!       - { table: derived.visitor_days, from: visitor_days, ids: visitor_day_ids }
//!       - { table: derived.visitors, from: visitors, ids: visitor_ids }
//!     manifest: batches
//! ```
//!
//! A visitor is touched if one of their days is. Their row is computed from all of their days: those that this run has
//! computed, which are in scratch still, and the others, which stand in the derived table. Both tables are swapped in by
//! the same commit step, so that a reader never sees a visitor's total that is not the sum of their days.
//!
//! What it does not do: read events. The finer rows say all there is to say, and a count of distinct things cannot be
//! put together from counts: for that, the aggregate step takes the coarser ids.

use stepwell_sdk::catalog::{self, ColumnInfo};
use stepwell_sdk::incremental::{IDS_COLUMNS, Ids, Needed};
use stepwell_sdk::planner::{Ask, Plan, Run, Stop};
use stepwell_sdk::settings::{Columns, ReadTable, ScratchInput, ScratchOutput};
use stepwell_sdk::sql::{Ident, Sql, idents, join};
use stepwell_sdk::{Failure, Settings, export_planner, sql};

/// Settings of `rollup`.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct With {
    /// The finer rows that this run has computed.
    rows: ScratchInput,
    /// The ids of those rows, from `collect-ids`.
    ids: ScratchInput,
    /// The derived table of the finer rows, where those of other ids stand.
    table: ReadTable,
    /// The columns of the finer key that make the coarser one.
    by: Vec<String>,
    /// Takes the coarser rows.
    into: ScratchOutput,
    /// Takes the coarser ids, for the commit step.
    ids_into: ScratchOutput,
    /// The columns by name, each an expression over the finer rows that is valid under GROUP BY the coarser key.
    columns: Columns,
}

/// Answers with the statements that fill the coarser ids and rows.
pub fn plan(run: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    if run.verify()?.is_some_and(|verify| !verify.is_whole()) {
        return Err(part().into());
    }
    let fine: Ids = run
        .about(with.ids.alias())
        .map_err(|failure| failure.with_setting("/ids"))?;
    let coarse = coarse(with, &fine)?;
    let table = &with.table.0;
    let rows = run.scratch(with.rows.alias());
    let [derived, computed] = ask.all([catalog::columns(table), catalog::columns(&rows)])?;
    let (derived, computed) = (
        catalog::read_columns(derived),
        catalog::read_columns(computed),
    );

    let rollup = Rollup {
        run,
        with,
        fine: &fine,
    };
    // Where these are all ids that there are, no other rows count; nor are there any before the first run.
    let alone = fine.all || run.full_refresh() || derived.is_empty();
    let source = match alone {
        true => sql!("{rows}", rows = rows),
        false => rollup.with_other_rows(&derived, &computed)?,
    };
    let (ids, ids_into) = (
        run.scratch(with.ids.alias()),
        run.scratch(with.ids_into.alias()),
    );
    let mut reads = vec![rows.clone()];
    if !alone {
        reads.extend([table.clone(), ids.clone(), ids_into.clone()]);
    }
    let touched = fine.fill(run, &ids_into, "collect coarser ids", &rollup.ids(), [&ids]);
    let into = run.scratch(with.into.alias());
    let filled = fine.fill(run, &into, "roll rows up", &rollup.select(&source), &reads);
    Ok(Plan::new()
        .run_all(touched)
        .run_all(filled)
        .publish(with.ids_into.alias(), &coarse))
}

/// The finer rows of a part are not all that a coarser row is made of, and the others cannot come from the derived table:
/// whether they are right is what a verification asks.
fn part() -> Failure {
    Failure::new(
        "whole-only",
        "a part of the rows cannot be verified: a rolled-up row is made of finer rows outside of it",
    )
    .with_help("Verify everything, without --since, --until and --sample.")
}

/// What later steps may know about the coarser ids.
fn coarse(with: &With, fine: &Ids) -> Result<Ids, Failure> {
    if with.by.is_empty() {
        return Err(
            Failure::new("no-key", "expected at least one column of the finer key")
                .with_setting("/by"),
        );
    }
    let mut key = Vec::new();
    for (at, name) in with.by.iter().enumerate() {
        let column = fine.key.iter().find(|column| column.name == *name);
        let column = column.ok_or_else(|| {
            let names: Vec<_> = fine.key.iter().map(|column| column.name.as_str()).collect();
            Failure::new(
                "other-key",
                format!("the finer key has no column \"{name}\""),
            )
            .with_setting(format!("/by/{at}"))
            .with_help(format!(
                "The key of \"{}\" is {}.",
                with.ids.alias(),
                names.join(", ")
            ))
        })?;
        key.push(column.clone());
    }
    Ok(Ids {
        key,
        // `since` is the time since which the touched rows' events count, not those of all rows of a coarser id.
        bounded: false,
        indexed: false,
        split: false,
        ..fine.clone()
    })
}

struct Rollup<'a> {
    run: &'a Run,
    with: &'a With,
    fine: &'a Ids,
}

impl Rollup<'_> {
    /// The coarser ids, with the columns that every table of ids has.
    fn ids(&self) -> Sql {
        let [since, events] = IDS_COLUMNS;
        let present = self
            .fine
            .key
            .iter()
            .map(|column| sql!("{name} IS NOT NULL", name = Ident(&column.name)));
        sql!(
            "SELECT {by}, min({since}) AS {since}, sum({events})::bigint AS {events}\nFROM {ids}\nWHERE {present}\nGROUP BY {by}",
            by = idents(&self.with.by),
            since = Ident(since),
            events = Ident(events),
            ids = self.run.scratch(self.with.ids.alias()),
            present = join(present, "\n  AND "),
        )
    }

    /// The rows that this run has computed, and those of the touched coarser ids that it has not.
    fn with_other_rows(
        &self,
        derived: &[ColumnInfo],
        computed: &[ColumnInfo],
    ) -> Result<Sql, Failure> {
        let mut needed = Needed::default();
        for (_, expression) in &self.with.columns.0 {
            needed.add(expression.as_str());
        }
        self.with.by.iter().for_each(|name| needed.add_column(name));
        // Before the first run of a new step there is no scratch table to look at.
        let columns = needed.among(if computed.is_empty() {
            derived
        } else {
            computed
        });
        let table = &self.with.table.0;
        if let Some(name) = columns
            .iter()
            .find(|name| !derived.iter().any(|column| column.name == **name))
        {
            return Err(Failure::new(
                "missing-column",
                format!("table {table} has no column \"{name}\" yet"),
            )
            .with_setting("/columns")
            .with_help("`stepwell run <workflow> --full-refresh` gives it to them: the rows of earlier runs do not have it."));
        }
        let same = self
            .fine
            .key
            .iter()
            .map(|column| sql!("ids.{name} = t.{name}", name = Ident(&column.name)));
        let touched = self
            .with
            .by
            .iter()
            .map(|name| sql!("touched.{name} = t.{name}", name = Ident(name)));
        Ok(sql!(
            "(
              SELECT {columns}
              FROM {rows}
              UNION ALL
              SELECT {qualified}
              FROM {touched_ids} AS touched
              JOIN {table} AS t
                ON {touched}
              WHERE NOT EXISTS (SELECT FROM {ids} AS ids WHERE {same})
            )",
            columns = idents(&columns),
            rows = self.run.scratch(self.with.rows.alias()),
            qualified = join(
                columns
                    .iter()
                    .map(|name| sql!("t.{name}", name = Ident(name))),
                ", "
            ),
            touched_ids = self.run.scratch(self.with.ids_into.alias()),
            table = table,
            touched = join(touched, " AND "),
            ids = self.run.scratch(self.with.ids.alias()),
            same = join(same, " AND "),
        ))
    }

    /// The coarser rows.
    fn select(&self, source: &Sql) -> Sql {
        let given = &self.with.columns.0;
        let named = |name: &&String| given.iter().any(|(column, _)| column == *name);
        let key = self
            .with
            .by
            .iter()
            .filter(|name| !named(name))
            .map(|name| sql!("{name}", name = Ident(name)));
        let columns = given.iter().map(|(name, expression)| {
            sql!(
                "{expression} AS {name}",
                expression = expression,
                name = Ident(name)
            )
        });
        sql!(
            "SELECT\n  {list}\nFROM {source} AS r\nGROUP BY {by}",
            list = join(key.chain(columns), ",\n  "),
            source = source,
            by = join(
                self.with
                    .by
                    .iter()
                    .map(|name| sql!("r.{name}", name = Ident(name))),
                ", "
            ),
        )
    }
}

export_planner! {
    name: "rollup",
    summary: "Computes rows of a coarser key from rows of a finer one",
    settings: With,
    plan: plan,
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepwell_sdk::incremental::KeyColumn;
    use stepwell_sdk::request::Verify;
    use stepwell_sdk::testing::Conversation;

    const WITH: &str = r#"{
        "rows": "visitor_days", "ids": "visitor_day_ids", "table": "derived.visitor_days",
        "by": ["visitor"], "into": "visitors", "ids-into": "visitor_ids",
        "columns": { "first_day": "min(day)", "days": "count(*)", "page_views": "sum(page_views)::bigint" }
    }"#;
    const COLUMNS: [&str; 5] = ["visitor", "day", "page_views", "sessions", "first_time"];

    fn conversation(
        with: &str,
        all: bool,
        derived: &[&str],
        computed: &[&str],
    ) -> Conversation<With> {
        let column = |(name, expression): (&str, &str)| KeyColumn {
            name: name.into(),
            expression: expression.into(),
        };
        let ids = Ids {
            key: [
                ("visitor", "domain_userid"),
                ("day", "derived_tstamp::date"),
            ]
            .map(column)
            .into(),
            batches: "batches".into(),
            bounded: true,
            contexts: vec![],
            all,
            indexed: true,
            ..Ids::default()
        };
        Conversation::new(plan, with)
            .about("visitor_day_ids", &ids)
            .columns("derived.visitor_days", derived)
            .columns("scratch.sessions__visitor_days", computed)
    }

    #[test]
    fn rows_of_other_ids_come_from_the_derived_table() {
        conversation(WITH, false, &COLUMNS, &COLUMNS).check_golden("sql/again.postgres.sql");
        // As the plan of a workflow whose scratch tables are gone.
        let planned = conversation(WITH, false, &COLUMNS, &[]).golden();
        assert!(planned.contains("UNION ALL"), "{planned}");
    }

    #[test]
    fn a_first_run_reads_no_derived_table() {
        conversation(WITH, true, &[], &COLUMNS).check_golden("sql/first.postgres.sql");
        let full = conversation(WITH, false, &COLUMNS, &COLUMNS)
            .with_trait("full-refresh")
            .golden();
        assert!(!full.contains("derived.visitor_days AS t"), "{full}");
    }

    #[test]
    fn a_part_is_not_verified() {
        let asked = |verify: &Verify| {
            conversation(WITH, true, &COLUMNS, &COLUMNS)
                .with_trait("verify")
                .about("request", verify)
        };
        let whole = Verify::default();
        assert!(asked(&whole).golden().contains("roll rows up"));
        for part in [
            Verify {
                share: Some(0.5),
                ..whole.clone()
            },
            Verify {
                since: Some("2026-01-01".into()),
                ..whole.clone()
            },
        ] {
            let failure = asked(&part).outcome().0.unwrap_err();
            assert_eq!(failure.code, "whole-only");
            assert!(failure.help.expect("a help").contains("--sample"));
        }
    }

    #[test]
    fn mistakes_point_at_the_setting() {
        let failure = |with: &str, derived: &[&str]| {
            conversation(with, false, derived, &COLUMNS)
                .outcome()
                .0
                .unwrap_err()
        };
        let found = failure(
            &WITH.replace("[\"visitor\"]", "[\"visitor\", \"user\"]"),
            &COLUMNS,
        );
        assert_eq!(
            (found.code.as_str(), found.setting.as_deref()),
            ("other-key", Some("/by/1"))
        );
        assert!(found.help.expect("a help").contains("visitor, day"));
        let found = failure(&WITH.replace("[\"visitor\"]", "[]"), &COLUMNS);
        assert_eq!(found.setting.as_deref(), Some("/by"));
        let found = failure(WITH, &["visitor", "day"]);
        assert_eq!(
            (found.code.as_str(), found.setting.as_deref()),
            ("missing-column", Some("/columns"))
        );
        assert!(found.help.expect("a help").contains("--full-refresh"));
        let found = failure(&WITH.replace("min(day)", "min(day))"), &COLUMNS);
        assert_eq!(found.setting.as_deref(), Some("/columns/first_day"));
    }
}
