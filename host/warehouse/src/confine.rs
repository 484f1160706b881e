//! What a host must know of a session on which somebody else's statements run.

use tokio_postgres::types::Type;

use crate::answer::AnswerLimits;
use crate::error::WarehouseError;
use crate::param::Param;
use crate::session::Session;

/// A column of a query that was described and not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedColumn {
    /// The name in the answer.
    pub name: String,
    /// Postgres's type OID.
    pub type_oid: u32,
    /// Postgres's type modifier; -1 without one.
    pub type_mod: i32,
}

/// Which database of which server a session is connected to, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// When the server was started: another one was at another time.
    started: String,
    /// The database's OID.
    database: String,
    /// The role that logged in.
    pub session_user: String,
}

impl Whereabouts {
    /// Returns whether both sessions are connected to the same database of the same server.
    pub fn same_database(&self, other: &Self) -> bool {
        (&self.started, &self.database) == (&other.started, &other.database)
    }
}

/// Who is at work in which transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    transaction: String,
    session_user: String,
    current_user: String,
    /// What the role owns in this database or in none: tables, functions, large objects.
    owns: i64,
}

impl Identity {
    /// Returns how `later`, read before a COMMIT, is no longer what was begun; none if it is.
    pub fn differs(&self, later: &Self) -> Option<String> {
        if self.transaction != later.transaction {
            return Some(format!(
                "it runs in transaction {}, and {} was begun",
                later.transaction, self.transaction
            ));
        }
        for (found, begun) in [
            (&later.session_user, &self.session_user),
            (&later.current_user, &self.current_user),
        ] {
            if found != begun {
                return Some(format!(
                    "it runs as role \"{found}\", and \"{begun}\" began it"
                ));
            }
        }
        (later.owns > 0).then(|| {
            format!(
                "role \"{}\" owns {} object(s), and may own none",
                self.session_user, later.owns
            )
        })
    }
}

impl Session {
    /// Returns the columns of one statement, which is not run; none of them if it returns no rows.
    ///
    /// # Errors
    ///
    /// All kinds that concern a statement.
    pub async fn columns_of(
        &self,
        sql: &str,
        params: &[Param],
    ) -> Result<Vec<DescribedColumn>, WarehouseError> {
        self.begin_statement();
        let types: Vec<Type> = params.iter().map(Param::announced_type).collect();
        let statement = self.client.prepare_typed(sql, &types).await;
        let statement = statement.map_err(|error| self.failed(error))?;
        let columns = statement.columns().iter();
        Ok(columns
            .map(|column| DescribedColumn {
                name: column.name().to_owned(),
                type_oid: column.type_().oid(),
                type_mod: column.type_modifier(),
            })
            .collect())
    }

    /// Returns where the session is connected to. Counts on the pinned `search_path`.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub async fn whereabouts(&self) -> Result<Whereabouts, WarehouseError> {
        let sql = "SELECT pg_postmaster_start_time()::text AS started, oid::text AS database, session_user::text AS session_user
            FROM pg_catalog.pg_database WHERE datname = current_database()";
        let row = self.ask(sql, &[], &AnswerLimits::default()).await?;
        let text = |name: &str| {
            let missing = || WarehouseError::protocol("a server was started at some time");
            row.text(0, name).map(str::to_owned).ok_or_else(missing)
        };
        Ok(Whereabouts {
            started: text("started")?,
            database: text("database")?,
            session_user: text("session_user")?,
        })
    }

    /// Returns who is at work in which transaction, to be compared before a COMMIT. Gives the transaction an
    /// id, and counts on the pinned `search_path`.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub async fn transaction_identity(&self) -> Result<Identity, WarehouseError> {
        let sql = "SELECT txid_current()::text AS transaction, session_user::text AS session_user,
              current_user::text AS current_user,
              (
                SELECT count(*) FROM pg_catalog.pg_shdepend AS owned
                JOIN pg_catalog.pg_roles AS role ON role.oid = owned.refobjid
                WHERE role.rolname = session_user
                  AND owned.refclassid = 'pg_catalog.pg_authid'::regclass
                  AND owned.deptype = 'o'
                  AND owned.dbid IN
                    (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
              ) AS owns";
        let row = self.ask(sql, &[], &AnswerLimits::default()).await?;
        let text = |name: &str| {
            let missing = || WarehouseError::protocol("a transaction has an id and a role");
            row.text(0, name).map(str::to_owned).ok_or_else(missing)
        };
        Ok(Identity {
            transaction: text("transaction")?,
            session_user: text("session_user")?,
            current_user: text("current_user")?,
            owns: row.int64(0, "owns").unwrap_or(i64::MAX),
        })
    }
}
