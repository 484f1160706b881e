//! The ids of a verification: all keys, or those that were asked for.

use stepwell_sdk::Failure;
use stepwell_sdk::incremental::{key_alias, keyed_events};
use stepwell_sdk::planner::{Plan, Statement};
use stepwell_sdk::request::Verify;
use stepwell_sdk::sql::{Ident, Literal, Sql, join};
use stepwell_sdk::{scratch, sql};

use crate::{Collect, Runaway, groups, named_keys};

impl Collect<'_> {
    /// Collects keys from the processed batches alone, never from derived rows, whose truth is in question; and reads all
    /// events of each. `growing`: some batches have more events by now, and the next run takes them again.
    pub fn verified(&self, verify: &Verify, growing: bool) -> Result<Plan, Failure> {
        let (run, with) = (self.run, self.with);
        if !verify.is_whole() {
            self.check_part()?;
        }
        let into = run.scratch(with.into.alias());
        let mut reads = self.reads(&run.scratch(&self.about.batches))?;
        let select = self.asked_for(verify)?;
        reads.extend(self.since.iter().map(|since| since.column.0.table.clone()));
        let mut plan =
            Plan::new().run_all(scratch::fill(run, &into, "collect ids", &select, &reads));
        if let (Some(runaway), true) = (with.runaway, self.about.frozen) {
            let update = self.note_frozen(&runaway)?;
            plan = plan.run(
                Statement::new("note ids whose rows may be frozen", update)
                    .reads_all(&reads)
                    .writes(&into),
            );
        }
        if growing {
            let update = self.note_unsettled()?;
            plan = plan.run(
                Statement::new("note ids in batches that grow", update)
                    .reads_all(&reads)
                    .writes(&into),
            );
        }
        if let Some(also) = &with.read_also {
            plan = self.start_from_ids(plan, also);
            plan = self.expand(plan, also.into.alias(), &also.expand_by)?;
            plan = plan.publish(also.into.alias(), &self.about);
        }
        if let Some(events) = &with.events {
            plan = self.event_ids(plan, events)?;
        }
        if growing && !with.expand_by.is_empty() {
            plan = plan.note(
                "batches have grown since they were processed: rows of keys that share a value with keys of those \
                 may differ until the next run",
            );
        }
        Ok(plan.publish(with.into.alias(), &self.about))
    }

    /// A run computes keys that share a value together, since events of one change the rows of others. The rows of some of
    /// these keys alone would be computed from a part of what they depend on, and differ where nothing is wrong.
    fn check_part(&self) -> Result<(), Failure> {
        match self.with.expand_by.is_empty() || self.with.read_also.is_some() {
            true => Ok(()),
            false => Err(Failure::new(
                "whole-only",
                "a part of these keys cannot be verified: by `expand-by` their rows depend on events of keys outside of it",
            )
            .with_setting("/expand-by")
            .with_help(
                "Verify everything, without --since, --until and --sample; or name by `read-also` the keys whose events \
                 the rows depend on.",
            )),
        }
    }

    fn asked_for(&self, verify: &Verify) -> Result<Sql, Failure> {
        let time = Ident(&self.source.time);
        let mut condition = sql!("e.{time} IS NOT NULL", time = time);
        for (bound, compares) in [(&verify.since, ">="), (&verify.until, "<")] {
            if let Some(bound) = bound {
                condition = sql!(
                    "{condition}\n  AND e.{time} {compares} {bound}",
                    condition = condition,
                    time = time,
                    compares = Sql::trusted(compares),
                    bound = Literal(bound),
                );
            }
        }
        let mut keys = sql!(
            "SELECT {keys}, min(e.{time}) AS since, 0::bigint AS events\n{from}\n  AND {condition}\nGROUP BY {groups}",
            keys = named_keys(self.with.key.names()),
            time = time,
            from = self.keyed_in_batches()?,
            condition = condition,
            groups = groups(self.about.key.len()),
        );
        if let Some(rows) = self.derived_within(verify) {
            // A derived row without an event of its own would not be met otherwise.
            keys = sql!(
                "SELECT {names}, min(since) AS since, 0::bigint AS events\nFROM (\n  {keys}\n  UNION ALL\n  {rows}\n) AS found\nGROUP BY {names}",
                names = self.names(),
                keys = keys.indented(2),
                rows = rows.indented(2),
            );
        }
        if verify.share.is_none() && verify.keys.is_none() {
            return Ok(keys);
        }
        let columns: Vec<Sql> = self
            .about
            .key
            .iter()
            .map(|column| sql!("keys.{name}", name = Ident(&column.name)))
            .collect();
        let hash = verify.hash(&columns);
        let mut sampled = sql!(
            "SELECT keys.*\nFROM (\n  {keys}\n) AS keys",
            keys = keys.indented(2)
        );
        if let Some(limit) = verify.share_limit() {
            sampled = sql!(
                "{sampled}\nWHERE {hash} < {limit}",
                sampled = sampled,
                hash = hash,
                limit = limit
            );
        }
        if let Some(keys) = verify.keys {
            sampled = sql!(
                "{sampled}\nORDER BY {hash}, {columns}\nLIMIT {keys}",
                sampled = sampled,
                hash = hash,
                columns = join(&columns, ", "),
                keys = i64::try_from(keys).unwrap_or(i64::MAX),
            );
        }
        Ok(sampled)
    }

    /// `FROM … WHERE …`: the events with a whole key in the batches.
    fn keyed_in_batches(&self) -> Result<Sql, Failure> {
        let rows = keyed_events(
            self.source,
            &self.about.expressions()?,
            &self.about.contexts,
            false,
        )?;
        let present = (0..self.about.key.len())
            .map(|at| sql!("e.{key} IS NOT NULL", key = Ident(&key_alias(at))));
        Ok(sql!(
            "FROM {batches} AS batches\nJOIN {rows} AS e\n  ON e.stepwell_batch = batches.batch\nWHERE {present}",
            batches = self.run.scratch(&self.about.batches),
            rows = rows,
            present = join(present, "\n  AND "),
        ))
    }

    /// The keys of the derived rows whose first time lies in the stretch that was asked for.
    fn derived_within(&self, verify: &Verify) -> Option<Sql> {
        let since = self.since.as_ref()?;
        let column = Ident(&since.column.0.column);
        let bounds: Vec<Sql> = [(&verify.since, ">="), (&verify.until, "<")]
            .into_iter()
            .filter_map(|(bound, compares)| {
                let bound = Literal(bound.as_deref()?);
                Some(sql!(
                    "{column} {compares} {bound}",
                    column = column,
                    compares = Sql::trusted(compares),
                    bound = bound
                ))
            })
            .collect();
        (!bounds.is_empty()).then(|| {
            sql!(
                "SELECT {names}, {column} AS since, 0::bigint AS events FROM {table} WHERE {bounds}",
                names = self.names(),
                column = column,
                table = since.column.0.table,
                bounds = join(bounds, " AND "),
            )
        })
    }

    /// Sets `events` of the ids that have events in batches that the next run takes again.
    fn note_unsettled(&self) -> Result<Sql, Failure> {
        let same = self
            .about
            .key
            .iter()
            .map(|column| sql!("ids.{name} = unsettled.{name}", name = Ident(&column.name)));
        Ok(sql!(
            "UPDATE {into} AS ids\nSET events = unsettled.events\nFROM (\n  SELECT {keys}, count(*) AS events\n  {from}\n    AND batches.events_before IS NOT NULL\n  GROUP BY {groups}\n) AS unsettled\nWHERE {same}\n  AND ids.events = 0",
            into = self.run.scratch(self.with.into.alias()),
            keys = named_keys(self.with.key.names()),
            from = self.keyed_in_batches()?.indented(2),
            groups = groups(self.about.key.len()),
            same = join(same, " AND "),
        ))
    }

    /// Makes `events` of the ids negative whose rows may be frozen. A run freezes a row by events that all are processed by
    /// now, so a key that is not too long here never was.
    fn note_frozen(&self, runaway: &Runaway) -> Result<Sql, Failure> {
        let same = self
            .about
            .key
            .iter()
            .map(|column| sql!("ids.{name} = runaway.{name}", name = Ident(&column.name)));
        let time = Ident(&self.source.time);
        Ok(sql!(
            "UPDATE {into} AS ids\nSET events = -1\nFROM (\n  SELECT {keys}\n  {from}\n  GROUP BY {groups}\n  HAVING CAST(max(e.{time}) AS timestamp) - CAST(min(e.{time}) AS timestamp) > {length}\n) AS runaway\nWHERE {same}",
            into = self.run.scratch(self.with.into.alias()),
            keys = named_keys(self.with.key.names()),
            from = self.keyed_in_batches()?.indented(2),
            groups = groups(self.about.key.len()),
            time = time,
            length = runaway.interval(),
            same = join(same, " AND "),
        ))
    }

    pub(crate) fn names(&self) -> Sql {
        stepwell_sdk::sql::idents(self.about.key.iter().map(|column| &column.name))
    }
}
