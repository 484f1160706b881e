//! What to do when computed rows have other columns than the derived table.

use stepwell_sdk::catalog::ColumnInfo;
use stepwell_sdk::planner::{Ask, Run, Statement, Stop, question, text};
use stepwell_sdk::sql::{Ident, Sql, TableName};
use stepwell_sdk::{Failure, Question, sql};

use crate::OnSchemaChange;

/// How the columns of computed rows differ from those of the derived table.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    added: Vec<ColumnInfo>,
    dropped: Vec<ColumnInfo>,
    /// Name, type in the derived table, type of the computed rows.
    changed: Vec<(String, String, String)>,
}

impl Difference {
    /// Compares by name and type; the order of columns does not matter. No difference while the computed rows are not
    /// there yet, as when a run is only planned.
    pub fn between(target: &[ColumnInfo], source: &[ColumnInfo]) -> Self {
        if source.is_empty() {
            return Self::default();
        }
        let find = |list: &[ColumnInfo], name: &str| list.iter().find(|c| c.name == name).cloned();
        let changed = target.iter().filter_map(|old| {
            let new = find(source, &old.name)?;
            (new.sql_type != old.sql_type)
                .then(|| (old.name.clone(), old.sql_type.clone(), new.sql_type))
        });
        Self {
            added: source
                .iter()
                .filter(|c| find(target, &c.name).is_none())
                .cloned()
                .collect(),
            dropped: target
                .iter()
                .filter(|c| find(source, &c.name).is_none())
                .cloned()
                .collect(),
            changed: changed.collect(),
        }
    }

    /// Returns the statements that bring the derived table's columns in line.
    ///
    /// # Errors
    ///
    /// [`Failure`] naming the columns if the policy does not allow them to change.
    pub fn settle(
        &self,
        policy: OnSchemaChange,
        run: &Run,
        table: &TableName,
        pointer: &str,
    ) -> Result<Vec<Statement>, Failure> {
        let rebuild = policy == OnSchemaChange::Rebuild && run.full_refresh();
        let append = policy == OnSchemaChange::Append || rebuild;
        let refused = (!self.added.is_empty() && !append)
            || ((!self.dropped.is_empty() || !self.changed.is_empty()) && !rebuild);
        if refused {
            return Err(Failure::new(
                "schema-changed",
                format!(
                    "table {table} has other columns than the rows computed for it: {}",
                    self.words()
                ),
            )
            .with_setting(pointer)
            .with_help(self.advice(policy)));
        }
        let alter = |label: String, change: Sql| {
            Statement::new(
                label,
                sql!(
                    "ALTER TABLE {table} {change}",
                    table = table,
                    change = change
                ),
            )
            .writes(table)
        };
        let drop = |name: &str| {
            alter(
                format!("drop column {name} of {table}"),
                sql!("DROP COLUMN {name}", name = Ident(name)),
            )
        };
        let add = |name: &str, ty: &str| {
            let change = sql!(
                "ADD COLUMN {name} {ty}",
                name = Ident(name),
                ty = Sql::trusted(ty)
            );
            alter(format!("add column {name} to {table}"), change)
        };
        let dropped = self.dropped.iter().map(|column| drop(&column.name));
        let changed = self
            .changed
            .iter()
            .flat_map(|(name, _, ty)| [drop(name), add(name, ty)]);
        let added = self
            .added
            .iter()
            .map(|column| add(&column.name, &column.sql_type));
        Ok(dropped.chain(changed).chain(added).collect())
    }

    /// Makes sure that no column takes something with it that people made, and that nobody would miss before it is too
    /// late: an index over several columns, a constraint, what was granted on the column or said about it. What is of a
    /// dropped column alone goes with it.
    ///
    /// # Errors
    ///
    /// [`Failure`] that names them.
    pub fn check_losses(
        &self,
        policy: OnSchemaChange,
        run: &Run,
        table: &TableName,
        pointer: &str,
        ask: &mut Ask<'_>,
    ) -> Result<(), Stop> {
        let changes = !self.dropped.is_empty() || !self.changed.is_empty();
        if !changes || policy != OnSchemaChange::Rebuild || !run.full_refresh() {
            return Ok(());
        }
        let changed = |name: &str| self.changed.iter().any(|(column, ..)| column == name);
        let dropped = |name: &str| self.dropped.iter().any(|column| column.name == name);
        let mut lost: Vec<String> = Vec::new();
        for row in ask.one(hangs_on(table))?.iter() {
            let (Some(column), Some(what)) = (row.text("column"), row.text("what")) else {
                continue;
            };
            let alone = row.bool("alone").unwrap_or(false);
            if changed(column) || dropped(column) && !alone {
                let words = format!("{what}, with column \"{column}\"");
                lost.extend((!lost.contains(&words)).then_some(words));
            }
        }
        match lost.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(
                "would-be-lost",
                format!(
                    "other columns for table {table} would lose what hangs on them: {}",
                    lost.join("; ")
                ),
            )
            .with_setting(pointer)
            .with_help("Drop it, run `stepwell run <workflow> --full-refresh` again, and make it anew; or compute the columns that the table has.")
            .into()),
        }
    }

    fn words(&self) -> String {
        self.list().join("; ")
    }

    /// Says of each column how it differs.
    pub fn list(&self) -> Vec<String> {
        let added = self
            .added
            .iter()
            .map(|c| format!("\"{}\" ({}) is new", c.name, c.sql_type));
        let dropped = self
            .dropped
            .iter()
            .map(|c| format!("\"{}\" is not computed", c.name));
        let changed = self
            .changed
            .iter()
            .map(|(name, old, new)| format!("\"{name}\" is {old} there and {new} here"));
        added.chain(dropped).chain(changed).collect()
    }

    fn advice(&self, policy: OnSchemaChange) -> String {
        let only_new = self.dropped.is_empty() && self.changed.is_empty();
        match policy {
            OnSchemaChange::Fail if only_new => "Set `on-schema-change: append` to add the columns, NULL in rows that no run computes again; \
                 or `on-schema-change: rebuild` and run `stepwell run <workflow> --full-refresh` once."
                .into(),
            OnSchemaChange::Rebuild => "`stepwell run <workflow> --full-refresh` computes all rows again and changes the columns with them.".into(),
            _ => "Set `on-schema-change: rebuild` and run `stepwell run <workflow> --full-refresh` once, or compute the columns that the table has.".into(),
        }
    }
}

/// Asks what hangs on single columns of a table, and whether it would be of no use without that column.
fn hangs_on(table: &TableName) -> Question {
    question(
        &format!("what hangs on the columns of {table}"),
        sql!(
            "SELECT DISTINCT a.attname::text AS column,
              CASE
                WHEN r.ev_class IS NOT NULL THEN 'view ' || r.ev_class::regclass
                ELSE pg_describe_object(d.classid, d.objid, d.objsubid)
              END AS what,
              d.deptype = 'a' AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_depend AS o
                WHERE o.classid = d.classid AND o.objid = d.objid
                  AND o.refclassid = d.refclassid AND o.refobjid = d.refobjid
                  AND o.refobjsubid NOT IN (0, d.refobjsubid)
              ) AS alone
            FROM pg_catalog.pg_class AS c
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
            JOIN pg_catalog.pg_depend AS d
              ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid = a.attnum
            LEFT JOIN pg_catalog.pg_rewrite AS r
              ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
            WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
            UNION
            SELECT a.attname::text, CASE
                WHEN a.attacl IS NOT NULL THEN 'grants on it'
                ELSE 'the comment on it'
              END, true
            FROM pg_catalog.pg_class AS c
            JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
            WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
              AND (a.attacl IS NOT NULL OR col_description(c.oid, a.attnum) IS NOT NULL)
            ORDER BY 1, 2"
        ),
        vec![text(table.schema()), text(table.name())],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, sql_type: &str) -> ColumnInfo {
        ColumnInfo {
            name: name.into(),
            sql_type: sql_type.into(),
        }
    }

    #[test]
    fn order_is_no_difference_and_types_are() {
        let old = [column("a", "text"), column("b", "bigint")];
        assert_eq!(
            Difference::between(&old, &[old[1].clone(), old[0].clone()]),
            Difference::default()
        );
        let found = Difference::between(&old, &[column("a", "integer"), column("c", "date")]);
        assert_eq!(
            found.words(),
            "\"c\" (date) is new; \"b\" is not computed; \"a\" is text there and integer here"
        );
    }
}
