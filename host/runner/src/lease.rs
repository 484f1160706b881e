//! One writer a playbook.
//!
//! The lease is a row: who holds it, since when, the last sign of life, and a token that grows with every holder. A
//! transaction of a run begins by locking that row in a mode that lets signs of life pass and keeps a takeover waiting, so
//! between that check and its COMMIT nobody else becomes the holder. A run that was suspended and wakes up finds its
//! token gone and can neither commit nor touch the scratch tables of the run that took over.
//!
//! A holder is dead when the server process of its control session is gone, or, where that cannot be seen, when it gave
//! no sign of life for the time that it set itself ([`EXPIRY`]). What it may still have open on the server is ended
//! before it is taken over: a statement of a host that was killed, or the transaction of one that is suspended. The
//! control session lives as long as the run: if the server restarts on the way, scratch tables that are unlogged come back
//! empty, and the check fails for that reason too.

use std::time::Duration;

use futures_util::future::join3;
use stepwell_warehouse::{Access, Param, Session};
use stepwell_workflow::Workflow;

use crate::connect;
use crate::error::{Problem, RunError};

/// Time without a sign of life after which a lease may be taken over, unless the workflow says otherwise
/// (`warehouse: { lease-expiry: … }`); the server's clock decides.
const EXPIRY: Duration = Duration::from_secs(30);

/// Signs of life within [`EXPIRY`]: some may come late or be lost.
const BEATS: u32 = 6;

/// Whether the holder `l` of a lease is alive. `backend_start` is hidden from other users: a process of the same number
/// then counts as the same one, which errs on the side of waiting. The function below `pg_stat_activity` is asked, since
/// that view joins all sessions with their databases and users, which takes as long as the rest of a small transaction.
const ALIVE: &str = "l.released_at IS NULL
  AND l.heartbeat_at >= clock_timestamp() - l.expiry
  AND EXISTS (
    SELECT FROM pg_catalog.pg_stat_get_activity(l.backend_pid) AS a
    WHERE coalesce(a.backend_start = l.backend_start, true)
  )";

/// Returns after how long without a sign of life a run of this workflow counts as dead.
pub(crate) fn expiry(workflow: &Workflow) -> Duration {
    workflow.warehouse.lease_expiry.unwrap_or(EXPIRY)
}

/// A lease that this run holds.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) playbook: String,
    pub(crate) token: i64,
    pub(crate) run_id: String,
    /// The run that died and left its lease.
    pub(crate) took_over: Option<String>,
    pub(crate) expiry: Duration,
}

/// Who asks for a lease.
#[derive(Debug, Clone)]
pub(crate) struct Applicant<'a> {
    pub(crate) playbook: &'a str,
    pub(crate) run_id: &'a str,
    /// Host and process, for people.
    pub(crate) place: &'a str,
    pub(crate) expiry: Duration,
}

impl Lease {
    /// Takes the lease on the control session.
    ///
    /// # Errors
    ///
    /// [`Problem::LeaseHeld`] if another run is alive.
    pub(crate) async fn take(
        control: &Session,
        applicant: &Applicant<'_>,
    ) -> Result<Self, RunError> {
        let seen = Seen::read(control, applicant.playbook).await?;
        if let Some(seen) = seen.as_ref().filter(|seen| seen.alive) {
            return Err(seen.held(applicant.playbook));
        }
        if let Some(seen) = seen.as_ref().filter(|seen| !seen.released) {
            seen.evict(control, applicant.playbook).await;
        }
        let sql = format!(
            "INSERT INTO stepwell.leases AS l
              (playbook, token, run_id, place, backend_pid, backend_start, acquired_at, heartbeat_at, expiry)
            SELECT $2, 1, $3, $4, a.pid, a.backend_start, clock_timestamp(), clock_timestamp(), make_interval(secs => $1)
            FROM pg_catalog.pg_stat_get_activity(pg_backend_pid()) AS a
            WHERE true
            ON CONFLICT (playbook) DO UPDATE SET
              token = l.token + 1,
              run_id = excluded.run_id,
              place = excluded.place,
              backend_pid = excluded.backend_pid,
              backend_start = excluded.backend_start,
              acquired_at = excluded.acquired_at,
              heartbeat_at = excluded.heartbeat_at,
              expiry = excluded.expiry,
              released_at = NULL
            WHERE NOT ({ALIVE})
            RETURNING l.token"
        );
        let params = [
            Param::Float64(applicant.expiry.as_secs_f64()),
            Param::Text(applicant.playbook.to_owned()),
            Param::Text(applicant.run_id.to_owned()),
            Param::Text(applicant.place.to_owned()),
        ];
        let taken = control.ask_briefly(&sql, &params).await;
        let taken = taken.map_err(RunError::warehouse("take the lease"))?;
        match taken.int64(0, "token").filter(|_| taken.rows > 0) {
            Some(token) => Ok(Self {
                playbook: applicant.playbook.to_owned(),
                token,
                run_id: applicant.run_id.to_owned(),
                took_over: seen.filter(|seen| !seen.released).map(|seen| seen.run_id),
                expiry: applicant.expiry,
            }),
            // Somebody was faster between the two statements.
            None => match Seen::read(control, applicant.playbook).await? {
                Some(seen) => Err(seen.held(applicant.playbook)),
                None => Err(RunError::new(Problem::LeaseLost {
                    playbook: applicant.playbook.to_owned(),
                })),
            },
        }
    }

    /// Makes sure that nobody alive holds the lease of a playbook. Somebody may take it right after.
    ///
    /// # Errors
    ///
    /// [`Problem::LeaseHeld`] if another run is alive.
    pub(crate) async fn look(control: &Session, playbook: &str) -> Result<(), RunError> {
        match Seen::read(control, playbook).await? {
            Some(seen) if seen.alive => Err(seen.held(playbook)),
            _ => Ok(()),
        }
    }

    /// Begins a transaction in which this run is the holder until it ends.
    ///
    /// # Errors
    ///
    /// [`Problem::LeaseLost`] if it is not; the transaction is then rolled back.
    pub(crate) async fn begin(
        &self,
        session: &Session,
        durability: Durability,
    ) -> Result<(), RunError> {
        let doing = || RunError::warehouse("begin a transaction");
        // Sent one after the other without waiting in between. Should the first fail, the others change nothing.
        let begin = session.begin(Access::ReadWrite);
        let durability = async {
            match durability {
                // A crash of the server ends the run, and the next one makes its scratch tables anew.
                Durability::Scratch => session.batch("SET LOCAL synchronous_commit = off").await,
                Durability::Derived => Ok(()),
            }
        };
        let params = [Param::Text(self.playbook.clone()), Param::Int64(self.token)];
        let check = session.execute(
            "SELECT FROM stepwell.leases AS l
            JOIN pg_catalog.pg_stat_get_activity(l.backend_pid) AS a
              ON coalesce(a.backend_start = l.backend_start, true)
            WHERE l.playbook = $1 AND l.token = $2
            FOR KEY SHARE OF l",
            &params,
        );
        let (begun, set, held) = join3(begin, durability, check).await;
        begun.map_err(doing())?;
        set.map_err(doing())?;
        let held = held.map_err(RunError::warehouse("check the lease"))?;
        if held == 1 {
            return Ok(());
        }
        session.rollback().await.map_err(doing())?;
        Err(self.lost())
    }

    /// Gives a sign of life.
    ///
    /// # Errors
    ///
    /// [`Problem::LeaseLost`] if the lease went to another run.
    pub(crate) async fn beat(&self, control: &Session) -> Result<(), RunError> {
        let sql = "UPDATE stepwell.leases SET heartbeat_at = clock_timestamp() WHERE playbook = $1 AND token = $2";
        let held = control
            .execute(
                sql,
                &[Param::Text(self.playbook.clone()), Param::Int64(self.token)],
            )
            .await;
        match held.map_err(RunError::warehouse("renew the lease"))? {
            0 => Err(self.lost()),
            _ => Ok(()),
        }
    }

    /// Returns the time between two signs of life.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.expiry / BEATS
    }

    /// Whether the lease is still this run's, as another session sees it: its own control session may be gone.
    pub(crate) async fn is_held(&self, session: &Session) -> Result<bool, RunError> {
        let sql = "SELECT FROM stepwell.leases WHERE playbook = $1 AND token = $2";
        let params = [Param::Text(self.playbook.clone()), Param::Int64(self.token)];
        let held = session.execute(sql, &params).await;
        Ok(held.map_err(RunError::warehouse("read the lease"))? > 0)
    }

    pub(crate) fn lost(&self) -> RunError {
        RunError::new(Problem::LeaseLost {
            playbook: self.playbook.clone(),
        })
    }
}

/// What must outlive a crash of the server right after a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Nothing: it wrote to scratch only.
    Scratch,
    /// All of it.
    Derived,
}

/// A lease as the table has it.
struct Seen {
    run_id: String,
    place: String,
    since: String,
    heartbeat_age: Duration,
    alive: bool,
    released: bool,
}

impl Seen {
    async fn read(control: &Session, playbook: &str) -> Result<Option<Self>, RunError> {
        let sql = format!(
            "SELECT l.run_id, l.place, l.acquired_at::text AS since, l.released_at IS NOT NULL AS released,
              extract(epoch FROM clock_timestamp() - l.heartbeat_at)::float8 AS age, {ALIVE} AS alive
            FROM stepwell.leases AS l
            WHERE l.playbook = $1"
        );
        let params = [Param::Text(playbook.to_owned())];
        let row = control.ask_briefly(&sql, &params).await;
        let row = row.map_err(RunError::warehouse("read the lease"))?;
        if row.rows == 0 {
            return Ok(None);
        }
        let text = |name: &str| row.text(0, name).unwrap_or_default().to_owned();
        Ok(Some(Self {
            run_id: text("run_id"),
            place: text("place"),
            since: text("since"),
            heartbeat_age: Duration::from_secs_f64(
                row.float64(0, "age").unwrap_or(0.0).clamp(0.0, 1e9),
            ),
            alive: row.boolean(0, "alive").unwrap_or(true),
            released: row.boolean(0, "released").unwrap_or(false),
        }))
    }

    /// Ends what a dead holder has open on the server. Without the right to do so the takeover waits until the server
    /// ends it by itself.
    async fn evict(&self, control: &Session, playbook: &str) {
        // Looks once more whether it is dead: a sign of life may have come since. Anybody may call a session what he likes,
        // and to end one of a stranger's without the right to do so would be an error, which spares all others.
        let sql = format!(
            "SELECT pg_terminate_backend(s.pid)
            FROM stepwell.leases AS l
            JOIN pg_catalog.pg_stat_activity AS s ON s.application_name IN ($2, $3, $5)
            WHERE l.playbook = $1 AND l.run_id = $4 AND NOT ({ALIVE})
              AND s.datname = current_database() AND pg_has_role(s.usesysid, 'USAGE')"
        );
        let [step, own] = connect::names(playbook, &self.run_id);
        let strange = connect::name(playbook, connect::PLUGIN, &self.run_id);
        let params = [playbook.to_owned(), step, own, self.run_id.clone(), strange];
        let params = params.map(Param::Text);
        match control.execute(&sql, &params).await {
            Ok(0) => {}
            Ok(ended) => {
                tracing::info!(playbook, run_id = %self.run_id, ended, "ended sessions of a dead run");
            }
            Err(error) => {
                tracing::warn!(playbook, run_id = %self.run_id, %error, "could not end sessions of a dead run");
            }
        }
    }

    fn held(&self, playbook: &str) -> RunError {
        RunError::new(Problem::LeaseHeld {
            playbook: playbook.to_owned(),
            owner: self.run_id.clone(),
            place: self.place.clone(),
            since: self.since.clone(),
            heartbeat_age: self.heartbeat_age,
        })
    }
}
