//! How long keys are, for `stepwell lookback`.

use stepwell_sdk::Failure;
use stepwell_sdk::incremental::{key_alias, keyed_events};
use stepwell_sdk::planner::{Ask, Plan, Stop, question};
use stepwell_sdk::request::{KeySpans, KeysWithin, LOOKBACK, Lookback};
use stepwell_sdk::sql::{Ident, join};
use stepwell_sdk::{Question, sql};

use crate::{Collect, groups};

/// The stretches of time, in days, by which keys are counted.
const DAYS: [u32; 6] = [1, 2, 3, 7, 14, 30];

impl Collect<'_> {
    /// Publishes how long the keys of all events are.
    pub fn spans(&self, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
        let rows = ask.one(self.span_question()?)?;
        let number = |name: &str| {
            let number = rows.first().and_then(|row| row.int(name)).unwrap_or(0);
            u64::try_from(number).unwrap_or(0)
        };
        let spans = KeySpans {
            key: self
                .about
                .key
                .iter()
                .map(|column| column.name.clone())
                .collect(),
            keys: number("keys"),
            within: DAYS
                .iter()
                .map(|&days| KeysWithin {
                    days,
                    keys: number(&format!("within_{days}")),
                })
                .collect(),
            longest_seconds: number("longest_seconds"),
        };
        let found = Lookback {
            batches: None,
            keys: Some(spans),
        };
        let plan = match &self.with.read_also {
            Some(also) => Plan::new().publish(also.into.alias(), &self.about),
            None => Plan::new(),
        };
        Ok(plan
            .publish(self.with.into.alias(), &self.about)
            .publish(LOOKBACK, &found))
    }

    fn span_question(&self) -> Result<Question, Failure> {
        let rows = keyed_events(
            self.source,
            &self.about.expressions()?,
            &self.about.contexts,
            false,
        )?;
        let present = (0..self.about.key.len())
            .map(|at| sql!("e.{key} IS NOT NULL", key = Ident(&key_alias(at))));
        let counts = DAYS.iter().map(|days| {
            sql!(
                "count(*) FILTER (WHERE seconds <= {seconds}) AS {name}",
                seconds = i64::from(*days) * 86_400,
                name = Ident(&format!("within_{days}")),
            )
        });
        let select = sql!(
            "SELECT count(*) AS keys, {counts}, ceil(coalesce(max(seconds), 0))::bigint AS longest_seconds
            FROM (
              SELECT extract(epoch FROM CAST(max(e.{time}) AS timestamp) - CAST(min(e.{time}) AS timestamp)) AS seconds
              FROM {rows} AS e
              WHERE {present} AND e.{time} IS NOT NULL
              GROUP BY {keys}
            ) AS spans",
            counts = join(counts, ", "),
            time = Ident(&self.source.time),
            rows = rows.indented(14),
            present = join(present, " AND "),
            keys = groups(self.about.key.len()),
        );
        Ok(question("how long keys are", select, vec![]))
    }
}
