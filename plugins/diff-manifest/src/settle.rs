//! When a batch counts as loaded.

use stepwell_sdk::planner::{Ask, Stop, question};
use stepwell_sdk::rows::Rows;
use stepwell_sdk::settings::Expr;
use stepwell_sdk::{Failure, sql};

use crate::discovery::Discovery;
use crate::{With, column_type};

/// Type OIDs of dates and times.
const TIMES: [i64; 3] = [1082, 1114, 1184];

/// Which batches are left alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Settle {
    /// When an event was loaded.
    pub loaded_at: Expr,
    /// How long before the run's point in time that must be.
    pub seconds: i64,
}

impl Settle {
    /// Whether a batch may still be loaded whose youngest event was loaded at this time, in microseconds since 1970. One of
    /// which that is not known counts as loaded, or it would wait for ever.
    pub fn is_settling(&self, loaded_us: Option<i64>, as_of_us: i64) -> bool {
        let limit = as_of_us.saturating_sub(self.seconds.saturating_mul(1_000_000));
        loaded_us.is_some_and(|loaded| loaded > limit)
    }
}

/// Whether values of the SQL type are times.
pub fn is_time(sql_type: &str) -> bool {
    sql_type.starts_with("timestamp") || sql_type == "date"
}

/// Reads the settings. `events` are the columns of the events.
pub fn settle(
    with: &With,
    discovery: &Discovery<'_>,
    events: Rows<'_>,
    ask: &mut Ask<'_>,
) -> Result<Option<Settle>, Stop> {
    let source = discovery.source;
    let failure = |setting: &str, message: String, help: &str| {
        let failure = Failure::new("settle", message)
            .with_setting(setting)
            .with_help(help);
        Err(Stop::Failed(failure))
    };
    let Some(settle) = with.settle.filter(|settle| settle.seconds > 0) else {
        return match &with.loaded_at {
            Some(_) if with.settle.is_none() => failure(
                "/loaded-at",
                "loaded-at says when a batch has settled, but there is no settle".into(),
                "Add how long a batch is left alone after it was loaded: `settle: 10 minutes`.",
            ),
            _ => Ok(None),
        };
    };
    let seconds = i64::try_from(settle.seconds).unwrap_or(i64::MAX);
    if seconds > source.lookback_seconds {
        return failure(
            "/settle",
            format!(
                "expected settle to be at most the lookback of {} s, found {seconds} s",
                source.lookback_seconds
            ),
            "A batch has to settle while it is still looked for: make `settle` shorter, or the source's `lookback` longer.",
        );
    }
    let Some(loaded_at) = &with.loaded_at else {
        return match is_time(&discovery.batch_type) {
            true => Ok(Some(Settle {
                loaded_at: source.batch.clone(),
                seconds,
            })),
            false => failure(
                "/settle",
                format!(
                    "a batch is a {}, which does not say when it was loaded",
                    discovery.batch_type
                ),
                "Say by which column that is known: `loaded-at: load_tstamp`.",
            ),
        };
    };
    let time = match loaded_at.as_column() {
        Some(name) => is_time(
            &column_type(events, &source.events, &name)
                .map_err(|failure| failure.with_setting("/loaded-at"))?,
        ),
        None => {
            let select = sql!(
                "SELECT ({loaded_at}) AS loaded\nFROM {events}\nLIMIT 0",
                loaded_at = loaded_at,
                events = source.events,
            );
            let typed = ask.one(question("type of loaded-at", select, vec![]))?;
            typed
                .fields()
                .any(|(_, oid)| TIMES.contains(&i64::from(oid)))
        }
    };
    match time {
        true => Ok(Some(Settle {
            loaded_at: loaded_at.clone(),
            seconds,
        })),
        false => failure(
            "/loaded-at",
            format!("expected a time, found {}", loaded_at.as_str()),
            "Name a column or an expression that is a date or a timestamp.",
        ),
    }
}
