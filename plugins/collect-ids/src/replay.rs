//! The ids of a replay of keys: those that were asked for and those that `expand-by` adds, with all of their events.

use stepwell_sdk::Failure;
use stepwell_sdk::incremental::keyed_events;
use stepwell_sdk::planner::{Plan, Statement, text};
use stepwell_sdk::request::Keys;
use stepwell_sdk::sql::Ident;
use stepwell_sdk::{scratch, sql};

use crate::{Collect, named_keys};

impl Collect<'_> {
    /// Takes the keys, whether they have events or not: a row of one that has none goes. Keys that share a value with them
    /// come along as in a run, since the rows depend on each other: by itself, each would be computed from a part.
    pub fn replayed(&self, keys: &Keys) -> Result<Plan, Failure> {
        let (run, with) = (self.run, self.with);
        let into = run.scratch(with.into.alias());
        let reads = self.reads(&run.scratch(&self.about.batches))?;
        let rows = keyed_events(
            self.source,
            &self.about.expressions()?,
            &self.about.contexts,
            false,
        )?;
        // The types of the key's expressions are what the database says that they are.
        let none = sql!(
            "SELECT {keys}, e.{time} AS since, 0::bigint AS events\nFROM {rows} AS e\nLIMIT 0",
            keys = named_keys(with.key.names()),
            time = Ident(&self.source.time),
            rows = rows,
        );
        let mut plan = Plan::new().run_all(scratch::fill(
            run,
            &into,
            "make the table of ids",
            &none,
            &reads,
        ));
        if keys
            .step
            .as_deref()
            .is_none_or(|step| step == run.step_id())
        {
            let names = self.columns(keys)?;
            let insert = sql!(
                "INSERT INTO {into} ({names}, events)\nSELECT DISTINCT {names}, 0::bigint\nFROM json_populate_recordset(NULL::{into}, $1::json)",
                into = into,
                names = self.names(),
            );
            let insert = Statement::new("note the ids that were asked for", insert)
                .param(text(json(&names, &keys.rows)))
                .writes(&into);
            plan = plan.run(insert).run(scratch::analyze(&into));
            plan = self.expand(plan, with.into.alias(), &with.expand_by)?;
        }
        if let Some(also) = &with.read_also {
            plan = self.start_from_ids(plan, also);
            plan = self.expand(plan, also.into.alias(), &also.expand_by)?;
            plan = plan.publish(also.into.alias(), &self.about);
        }
        if let Some(events) = &with.events {
            plan = self.event_ids(plan, events)?;
        }
        Ok(plan.publish(with.into.alias(), &self.about))
    }

    /// Returns the names of the columns of the keys, in the order in which their values stand.
    fn columns(&self, keys: &Keys) -> Result<Vec<String>, Failure> {
        let own: Vec<String> = self
            .about
            .key
            .iter()
            .map(|column| column.name.clone())
            .collect();
        let fits = match &keys.columns {
            None => own.len() == 1,
            Some(given) => {
                let (mut given, mut wanted) = (given.clone(), own.clone());
                given.sort();
                wanted.sort();
                given == wanted
            }
        };
        if fits {
            return Ok(keys.columns.clone().unwrap_or(own));
        }
        let found = keys
            .columns
            .as_ref()
            .map_or("none".to_owned(), |given| given.join(", "));
        Err(Failure::new(
            "other-key",
            format!("expected keys with the columns {}, found {found}", own.join(", ")),
        )
        .with_setting("/key")
        .with_help(
            "Name the columns in the file's first line. Where several steps collect ids, say whose keys these are: \
             `--step <id>`.",
        ))
    }
}

/// Writes keys as a JSON array of objects.
fn json(names: &[String], rows: &[Vec<String>]) -> String {
    let rows: Vec<std::collections::BTreeMap<&String, &String>> = rows
        .iter()
        .map(|row| names.iter().zip(row).collect())
        .collect();
    serde_json::to_string(&rows).expect("texts are plain data")
}
