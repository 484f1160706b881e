//! What the host itself asks the system catalog.

use stepwell_sql::TableName;

use crate::answer::AnswerLimits;
use crate::error::WarehouseError;
use crate::param::Param;
use crate::session::Session;

/// Returns whether there is a table, partitioned table, view, materialized view or foreign table of
/// this name that this user can see in the catalog.
///
/// # Errors
///
/// As [`Session::ask`].
pub async fn table_exists(session: &Session, table: &TableName) -> Result<bool, WarehouseError> {
    let sql = "SELECT EXISTS (
        SELECT 1 FROM pg_catalog.pg_class AS class
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname = $1
          AND class.relname = $2
          AND class.relkind IN ('r', 'p', 'v', 'm', 'f')
    ) AS found";
    let params = [
        Param::Text(table.schema().to_owned()),
        Param::Text(table.name().to_owned()),
    ];
    let answer = session.ask(sql, &params, &AnswerLimits::default()).await?;
    Ok(answer.boolean(0, "found").unwrap_or(false))
}

/// Returns whether there is a schema of this name.
///
/// # Errors
///
/// As [`Session::ask`].
pub async fn schema_exists(session: &Session, schema: &str) -> Result<bool, WarehouseError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1) AS found";
    let params = [Param::Text(schema.to_owned())];
    let answer = session.ask(sql, &params, &AnswerLimits::default()).await?;
    Ok(answer.boolean(0, "found").unwrap_or(false))
}
