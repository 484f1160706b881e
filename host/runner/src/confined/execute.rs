//! Running the checked plan of a third party's step.
//!
//! Two sessions work together. The workflow's own holds the lease row locked while the plugin's transaction runs and
//! commits, makes the scratch tables and measures them; the plugin's puts rows into them, and changes what it was granted.
//! Each scratch table is committed by itself: until the plugin's rows are, nobody could measure them. Changes come last,
//! in one transaction.

use std::time::Instant;

use stepwell_sandbox::contract::{Plan, Statement};
use stepwell_sql::{TableName, quote_ident};
use stepwell_warehouse::{Access, AnswerLimits, DescribedColumn, Identity, Param, Session};

use super::Confined;
use crate::convert;
use crate::error::{Problem, RunError, StepPlace};
use crate::execute::{Executed, MEASURE_LIMITS, started};
use crate::lease::Durability;
use crate::policy::Checked;
use crate::policy::forms::{Form, form};
use crate::run::Context;

/// A third party's plan on its way.
pub(crate) struct ConfinedExecution<'a> {
    pub(crate) context: &'a Context<'a>,
    /// A session of the workflow's own login.
    pub(crate) host: &'a Session,
    pub(crate) confined: &'a Confined,
    pub(crate) plan: &'a Checked<Plan>,
    pub(crate) place: StepPlace,
}

impl ConfinedExecution<'_> {
    /// Runs the plan. After an error, both sessions are to be dropped.
    pub(crate) async fn run(&self) -> Result<Executed, RunError> {
        let mut executed = Executed::default();
        // The transaction with the changes, once there is one.
        let mut open = None;
        let count = self.plan.statements.len();
        for (at, statement) in self.plan.statements.iter().enumerate() {
            started(self.context, &self.place, &self.plan.statements, at);
            let begun = Instant::now();
            let rows = self.statement(statement, &mut open, &mut executed).await;
            let place = || self.place.of_statement(statement, at + 1, count);
            let rows = rows.map_err(|error| error.at(place()))?;
            executed.ended(statement, rows, begun.elapsed());
        }
        if let Some(identity) = open {
            let committed = self.commit(&identity).await;
            committed.map_err(|error| error.at(self.place.clone()))?;
            self.context.wrote_beyond_scratch();
        }
        Ok(executed)
    }

    async fn statement(
        &self,
        statement: &Statement,
        open: &mut Option<Identity>,
        executed: &mut Executed,
    ) -> Result<u64, RunError> {
        let interrupts = &self.context.interrupts;
        let params = convert::params(&statement.params);
        let refused = |why| RunError::new(Problem::Refused(why));
        match form(&statement.sql).map_err(refused)? {
            Form::Clear(table) => self.as_host(&format!("DROP TABLE IF EXISTS {table}")).await,
            Form::Measure(table) => self.as_host(&format!("ANALYZE {table}")).await,
            Form::Fill { table, select } => {
                let rows = self.fill(&table, select, &params).await?;
                executed.rows_written += rows;
                Ok(rows)
            }
            Form::Read(sql) => {
                // Alone it may have a transaction of its own; after changes it sees them.
                let alone = open.is_none();
                if alone {
                    self.confined.begin(Access::ReadOnly, interrupts).await?;
                }
                let rows = match &statement.measure {
                    Some(name) => {
                        let asking = self.confined.ask(sql, &params, &MEASURE_LIMITS, interrupts);
                        let answer = asking.await?;
                        executed.measured(name, &answer);
                        answer.rows.into()
                    }
                    None => self.confined.execute(sql, &params, interrupts).await?,
                };
                if alone {
                    self.confined.rollback().await?;
                }
                executed.rows_read += rows;
                Ok(rows)
            }
            Form::Change(sql, _) => {
                if open.is_none() {
                    self.hold(Durability::Derived).await?;
                    self.confined.begin(Access::ReadWrite, interrupts).await?;
                    *open = Some(self.confined.identity(interrupts).await?);
                }
                let rows = self.confined.execute(sql, &params, interrupts).await?;
                executed.rows_written += rows;
                Ok(rows)
            }
        }
    }

    /// Makes a scratch table with the columns of a query, and lets the plugin put the query's rows into it.
    async fn fill(
        &self,
        table: &TableName,
        select: &str,
        params: &[Param],
    ) -> Result<u64, RunError> {
        let interrupts = &self.context.interrupts;
        self.context.wrote();
        self.confined.begin(Access::ReadWrite, interrupts).await?;
        let identity = self.confined.identity(interrupts).await?;
        let columns = self.confined.describe(select, params, interrupts).await?;
        let columns = self.definitions(&columns).await?;
        let role = quote_ident(&self.confined.login().role);
        self.as_host(&format!(
            "CREATE UNLOGGED TABLE {table} ({columns}); GRANT SELECT, INSERT ON TABLE {table} TO {role}"
        ))
        .await?;
        self.hold(Durability::Scratch).await?;
        let insert = format!("INSERT INTO {table}\n{select}");
        let rows = self.confined.execute(&insert, params, interrupts).await?;
        self.commit(&identity).await?;
        Ok(rows)
    }

    /// Returns the columns of a table, as CREATE TABLE has them. Types are built in: another one may be anybody's.
    async fn definitions(&self, columns: &[DescribedColumn]) -> Result<String, RunError> {
        if columns.is_empty() {
            let message = "fills a table from a statement without columns, expected a SELECT";
            return Err(RunError::new(Problem::Refused(message.into())));
        }
        let mut definitions = Vec::new();
        for column in columns {
            let sql = "SELECT format_type(t.oid, $2::int4) AS type FROM pg_catalog.pg_type AS t
                JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
                WHERE t.oid = $1::int8::oid AND t.oid < 16384 AND n.nspname = 'pg_catalog' AND t.typtype IN ('b', 'r', 'm')";
            let typed = [
                Param::Int64(column.type_oid.into()),
                Param::Text(column.type_mod.to_string()),
            ];
            let found = self.host.ask(sql, &typed, &AnswerLimits::default()).await;
            let found = found.map_err(RunError::warehouse("look at the types of a query"))?;
            let kind = found.text(0, "type").ok_or_else(|| {
                let message = format!(
                    "column \"{}\" has a type that is not built in: cast it, for example to text",
                    column.name
                );
                RunError::new(Problem::Refused(message))
            })?;
            definitions.push(format!("{} {kind}", quote_ident(&column.name)));
        }
        Ok(definitions.join(", "))
    }

    /// Runs statements of the host's own on its session, in a transaction that holds the lease.
    async fn as_host(&self, sql: &str) -> Result<u64, RunError> {
        self.context.wrote();
        self.hold(Durability::Scratch).await?;
        let work = self
            .context
            .interrupts
            .guard(self.host, self.host.batch(sql));
        let done = work.await?;
        done.map_err(|source| RunError::new(Problem::Statement { source }))?;
        self.let_go().await?;
        Ok(0)
    }

    /// Locks the lease row on the host's session, until [`let_go`](Self::let_go).
    async fn hold(&self, durability: Durability) -> Result<(), RunError> {
        self.context.lease.begin(self.host, durability).await?;
        // It waits for as long as the plugin's statements may take, which is bounded by their budget.
        let patient = "SET LOCAL idle_in_transaction_session_timeout = 0";
        let done = self.host.batch(patient).await;
        done.map_err(RunError::warehouse("hold the lease row"))
    }

    async fn let_go(&self) -> Result<(), RunError> {
        let done = self.host.commit().await;
        done.map_err(RunError::warehouse("let go of the lease row"))
    }

    /// Commits the plugin's transaction, while the host's session still holds the lease row.
    async fn commit(&self, identity: &Identity) -> Result<(), RunError> {
        self.context.interrupts.check()?;
        // Nobody else can have become the holder while the row is locked; that the session still is there says that it is.
        let held = self.host.execute("SELECT 1", &[]).await;
        held.map_err(RunError::warehouse("hold the lease row"))?;
        self.confined
            .commit(identity, &self.context.interrupts)
            .await?;
        self.let_go().await
    }
}
