//! `defrag`: gives each table the cheapest maintenance that suffices, by what is measured, and says why.
//!
//! ```yaml
//! - id: defrag
//!   uses: defrag
//!   critical: false
//!   with: { tables: [derived.sessions], when: { dead-rows: 20%, stats-off: 10% } }
//! ```
//!
//! It runs after the commit, off the critical path, or as a workflow of its own. Postgres: VACUUM where dead rows take
//! room or rows are near the age at which they must be frozen, ANALYZE where statistics are stale, both in one pass where
//! both are due, nothing where nothing is. Never VACUUM FULL, which locks readers out.
//!
//! What it does not do: guess. A table without statistics of its own is analysed, so that the next run can tell.

use stepwell_sdk::planner::{Ask, Dialect, Plan, Run, Statement, Stop, question};
use stepwell_sdk::rows::Row;
use stepwell_sdk::settings::{MaintainedTable, Percent};
use stepwell_sdk::sql::{Literal, Sql, join};
use stepwell_sdk::{Failure, Settings, export_planner, sql};

/// Rows below which dead ones are not worth a pass, as autovacuum's own base threshold.
const ROWS_MIN: f64 = 50.0;

/// Settings of `defrag`.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct With {
    /// The tables to look after.
    tables: Vec<MaintainedTable>,
    /// From when on maintenance is due.
    when: Option<When>,
}

/// The measures from which maintenance is due.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct When {
    /// Dead rows as a share of all rows; 20% unless given.
    dead_rows: Option<Percent>,
    /// Rows changed since the last ANALYZE, as a share of all rows; 10% unless given.
    stats_off: Option<Percent>,
    /// Age of the oldest row that is not frozen, as a share of the age at which Postgres freezes by force; 50% unless given.
    unfrozen: Option<Percent>,
}

impl When {
    /// Nothing given.
    const DEFAULT: Self = Self {
        dead_rows: None,
        stats_off: None,
        unfrozen: None,
    };
}

/// Answers with one statement for each table that needs one.
pub fn plan(run: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    if run.dialect() != Dialect::Postgres {
        return Err(Failure::new("dialect", "defrag knows Postgres only so far")
            .with_help("Take the step out of the workflow; Redshift vacuums tables by itself.")
            .into());
    }
    let rows = ask.one(measures(&with.tables))?;
    let when = with.when.as_ref().unwrap_or(&When::DEFAULT);
    let mut plan = Plan::new().without_transaction();
    for MaintainedTable(table) in &with.tables {
        let row = rows.iter().find(|row| {
            row.text("schema") == Some(table.schema()) && row.text("name") == Some(table.name())
        });
        let Some(row) = row else {
            plan = plan.note(format!(
                "{table}: nothing done, since it does not exist yet"
            ));
            continue;
        };
        let measured = Measured::read(row);
        match measured.decide(when) {
            (Some(command), reason) => {
                let sql = sql!(
                    "{command} {table}",
                    command = Sql::trusted(command.sql()),
                    table = table
                );
                plan = plan
                    .run(
                        Statement::new(format!("{} {table}: {reason}", command.word()), sql)
                            .writes(table),
                    )
                    .note(format!("{table}: {}, since {reason}", command.word()));
            }
            (None, reason) => plan = plan.note(format!("{table}: nothing done, since {reason}")),
        }
    }
    Ok(plan)
}

/// Asks what the server's statistics say. They lag by up to a second behind the last transaction.
fn measures(tables: &[MaintainedTable]) -> stepwell_sdk::Question {
    let names = tables.iter().map(|MaintainedTable(table)| {
        sql!(
            "({schema}, {name})",
            schema = Literal(table.schema()),
            name = Literal(table.name())
        )
    });
    let select = sql!(
        "SELECT
          s.schemaname::text AS schema,
          s.relname::text AS name,
          s.n_live_tup AS live,
          s.n_dead_tup AS dead,
          s.n_mod_since_analyze AS changed,
          greatest(c.reltuples, 0)::float8 AS rows,
          (s.last_analyze IS NOT NULL OR s.last_autoanalyze IS NOT NULL) AS analyzed,
          age(c.relfrozenxid)::float8 / current_setting('autovacuum_freeze_max_age')::float8 AS frozen
        FROM pg_catalog.pg_stat_all_tables AS s
        JOIN pg_catalog.pg_class AS c ON c.oid = s.relid
        WHERE (s.schemaname::text, s.relname::text) IN ({names})",
        names = join(names, ", "),
    );
    question("statistics of the tables", select, vec![])
}

/// What was measured of one table.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Measured {
    live: f64,
    dead: f64,
    changed: f64,
    analyzed: bool,
    /// Age of the oldest unfrozen row as a part of the age at which Postgres freezes by force.
    frozen: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Vacuum,
    VacuumAnalyze,
    Analyze,
}

impl Command {
    fn sql(self) -> &'static str {
        match self {
            Self::Vacuum => "VACUUM",
            Self::VacuumAnalyze => "VACUUM (ANALYZE)",
            Self::Analyze => "ANALYZE",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Vacuum => "vacuum",
            Self::VacuumAnalyze => "vacuum and analyze",
            Self::Analyze => "analyze",
        }
    }
}

impl Measured {
    fn read(row: Row<'_>) -> Self {
        // Row counts are far below 2^53.
        #[expect(clippy::cast_precision_loss, reason = "shares need no exact counts")]
        let number = |name: &str| row.int(name).unwrap_or(0) as f64;
        Self {
            // Right after a large change one of the two lags behind; the larger one is nearer the truth.
            live: number("live").max(row.float("rows").unwrap_or(0.0)),
            dead: number("dead"),
            changed: number("changed"),
            analyzed: row.bool("analyzed").unwrap_or(false),
            frozen: row.float("frozen").unwrap_or(0.0),
        }
    }

    /// Returns the cheapest command that suffices, and the reason for it or for none.
    fn decide(&self, when: &When) -> (Option<Command>, String) {
        let limit =
            |given: Option<Percent>, default: f64| given.map_or(default, |percent| percent.0);
        let share = |part: f64, whole: f64| {
            if whole > 0.0 {
                100.0 * part / whole
            } else {
                0.0
            }
        };
        let dead = share(self.dead, self.live + self.dead);
        let stale = share(self.changed, self.live);
        let unfrozen = 100.0 * self.frozen;
        let vacuum = (dead >= limit(when.dead_rows, 20.0) && self.dead >= ROWS_MIN)
            || unfrozen >= limit(when.unfrozen, 50.0);
        let analyze =
            !self.analyzed || (stale >= limit(when.stats_off, 10.0) && self.changed >= ROWS_MIN);
        let stale = match self.analyzed {
            true => format!("{stale:.1}% of its rows changed since the last ANALYZE"),
            false => "it was never analyzed".into(),
        };
        let reason = match unfrozen >= limit(when.unfrozen, 50.0) {
            true => format!(
                "its oldest row is at {unfrozen:.0}% of the age at which it must be frozen, and {stale}"
            ),
            false => format!("{dead:.1}% of its rows are dead and {stale}"),
        };
        let command = match (vacuum, analyze) {
            (true, true) => Some(Command::VacuumAnalyze),
            (true, false) => Some(Command::Vacuum),
            (false, true) => Some(Command::Analyze),
            (false, false) => None,
        };
        (command, reason)
    }
}

export_planner! {
    name: "defrag",
    summary: "Gives each table the cheapest maintenance that suffices, and says why",
    settings: With,
    plan: plan,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Measured = Measured {
        live: 1000.0,
        dead: 0.0,
        changed: 0.0,
        analyzed: true,
        frozen: 0.0,
    };

    #[test]
    fn the_cheapest_command_that_suffices() {
        let when = When::DEFAULT;
        for (measured, command) in [
            (FRESH, None),
            (
                Measured {
                    dead: 300.0,
                    ..FRESH
                },
                Some(Command::Vacuum),
            ),
            (
                Measured {
                    dead: 240.0,
                    ..FRESH
                },
                None,
            ),
            (
                Measured {
                    live: 10.0,
                    dead: 40.0,
                    ..FRESH
                },
                None,
            ),
            (
                Measured {
                    changed: 100.0,
                    ..FRESH
                },
                Some(Command::Analyze),
            ),
            (
                Measured {
                    dead: 300.0,
                    changed: 300.0,
                    ..FRESH
                },
                Some(Command::VacuumAnalyze),
            ),
            (
                Measured {
                    analyzed: false,
                    ..FRESH
                },
                Some(Command::Analyze),
            ),
            (
                Measured {
                    frozen: 0.6,
                    ..FRESH
                },
                Some(Command::Vacuum),
            ),
        ] {
            assert_eq!(measured.decide(&when).0, command, "{measured:?}");
        }
    }

    #[test]
    fn the_reason_is_the_measure() {
        let (_, reason) = Measured {
            dead: 300.0,
            changed: 50.0,
            ..FRESH
        }
        .decide(&When::DEFAULT);
        assert_eq!(
            reason,
            "23.1% of its rows are dead and 5.0% of its rows changed since the last ANALYZE"
        );
    }
}
