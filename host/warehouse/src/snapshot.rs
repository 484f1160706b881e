//! Several sessions that see the same rows.

use stepwell_sql::quote_literal;

use crate::answer::AnswerLimits;
use crate::error::WarehouseError;
use crate::session::Session;

/// What was committed at one moment, for as long as the transaction lasts that took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(String);

impl Session {
    /// Begins a read-only transaction all of whose statements see what is committed now, and lets others see the same.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn begin_shared(&self) -> Result<Snapshot, WarehouseError> {
        self.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let sql = "SELECT pg_catalog.pg_export_snapshot() AS id";
        let answer = self.ask(sql, &[], &AnswerLimits::default()).await?;
        let id = answer.text(0, "id").map(str::to_owned);
        id.map(Snapshot)
            .ok_or_else(|| WarehouseError::protocol("a snapshot has an id"))
    }

    /// Begins a read-only transaction that sees what the one sees that took the snapshot, which must go on.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn begin_at(&self, snapshot: &Snapshot) -> Result<(), WarehouseError> {
        let id = quote_literal(&snapshot.0);
        self.batch(&format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {id}"
        ))
        .await
    }
}
