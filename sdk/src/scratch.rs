//! Filling scratch tables.

use crate::planner::{Dialect, Run, Statement};
use crate::sql;
use crate::sql::{Sql, TableName};

/// Returns the statements that make `table` anew from `select` and measure it.
///
/// The table is made again rather than emptied and filled: its columns then always fit the SELECT, whose types may have
/// changed since the last run, at the same cost as TRUNCATE. ANALYZE follows at once, since nothing else knows these
/// rows: without it the next statement is planned as if there were one row, or a thousand pages.
pub fn fill<'a>(
    run: &Run,
    table: &TableName,
    label: &str,
    select: &Sql,
    reads: impl IntoIterator<Item = &'a TableName>,
) -> [Statement; 3] {
    let create = match run.dialect() {
        // Unlogged: a crash of the server empties the table, and with it ends the run that needs it.
        Dialect::Postgres => sql!(
            "CREATE UNLOGGED TABLE {table} AS\n{select}",
            table = table,
            select = select
        ),
        Dialect::Redshift => sql!(
            "CREATE TABLE {table} AS\n{select}",
            table = table,
            select = select
        ),
    };
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

/// Returns the statement that measures `table` for the planner.
pub fn analyze(table: &TableName) -> Statement {
    Statement::new(
        format!("analyze {}", table.name()),
        sql!("ANALYZE {table}", table = table),
    )
    .writes(table)
}
