//! Filling scratch tables.

use crate::planner::{Dialect, Run, Statement};
use crate::sql;
use crate::sql::{Sql, TableName};

/// Returns the statements that make `table` anew from `select` and measure it.
///
/// The table is made again rather than emptied and filled: its columns then always fit the SELECT, whose types may have
/// changed since the last run, at the same cost as TRUNCATE. ANALYZE follows at once, since nothing else knows these
/// rows: without it the next statement is planned as if there were one row, or a thousand pages.
///
/// For tables of any size; [`fill_small`] is cheaper for small ones.
pub fn fill<'a>(
    run: &Run,
    table: &TableName,
    label: &str,
    select: &Sql,
    reads: impl IntoIterator<Item = &'a TableName>,
) -> [Statement; 3] {
    let create = match run.dialect() {
        // Unlogged: a crash of the server empties the table, and with it ends the run that needs it.
        Dialect::Postgres => sql!("CREATE UNLOGGED TABLE {table} AS", table = table),
        Dialect::Redshift => sql!("CREATE TABLE {table} AS", table = table),
    };
    filled(table, label, &create, select, reads)
}

/// Returns the same for a table that will hold a few megabytes at most, as those of a run with few pending events do
/// ([`Batches::are_few`](crate::incremental::Batches::are_few)). A larger one works too, and is written twice.
///
/// Postgres forces up to three files of an unlogged table to the disk as it makes it, which for a few rows takes longer
/// than all else. This one goes through the log, for whose writes the transactions of a run that change nothing but
/// scratch do not wait. The storage option keeps autovacuum from a table that is gone with the next run, and tells
/// `truncate-scratch` that it is one of those.
pub fn fill_small<'a>(
    run: &Run,
    table: &TableName,
    label: &str,
    select: &Sql,
    reads: impl IntoIterator<Item = &'a TableName>,
) -> [Statement; 3] {
    let create = match run.dialect() {
        Dialect::Postgres => sql!(
            "CREATE TABLE {table} WITH (autovacuum_enabled = off) AS",
            table = table
        ),
        Dialect::Redshift => sql!("CREATE TABLE {table} AS", table = table),
    };
    filled(table, label, &create, select, reads)
}

fn filled<'a>(
    table: &TableName,
    label: &str,
    create: &Sql,
    select: &Sql,
    reads: impl IntoIterator<Item = &'a TableName>,
) -> [Statement; 3] {
    let create = sql!("{create}\n{select}", create = create, select = select);
    [
        Statement::new(
            format!("clear {}", table.name()),
            sql!("DROP TABLE IF EXISTS {table}", table = table),
        )
        .writes(table),
        Statement::new(label, create).reads_all(reads).writes(table),
        analyze(table),
    ]
}

/// Returns the statement that measures how many rows `table` has, and of its columns those by which the statements to
/// come join. Measuring sorts a sample of each column, so a table that is read once is not worth measuring whole.
pub fn analyze_columns(table: &TableName, columns: &[&str]) -> Statement {
    Statement::new(
        format!("analyze {}", table.name()),
        sql!(
            "ANALYZE {table} ({columns})",
            table = table,
            columns = sql::idents(columns)
        ),
    )
    .writes(table)
}

/// Returns the statement that measures `table` for the planner.
pub fn analyze(table: &TableName) -> Statement {
    Statement::new(
        format!("analyze {}", table.name()),
        sql!("ANALYZE {table}", table = table),
    )
    .writes(table)
}
