//! Whether the tables and columns that `source:` names are there and can be worked with.
//!
//! The server is asked to look at SELECTs and to run none: that needs no plan, however many partitions the events have.
//! Where all is well that is one question for the events and one for each context, sent together. Only where one is
//! refused is each key asked for by itself, in the order of the file, to say which it was.

use futures_util::future::try_join_all;
use stepwell_sql::{TableName, quote_ident};
use stepwell_warehouse::{AnswerLimits, Param, Selection, Session, StatementError, WarehouseError};
use stepwell_workflow::{Context, Source, Workflow};

use crate::error::{Problem, RunError};
use crate::init;
use crate::run::RunOptions;

/// The types by which scans are bounded: `date`, `timestamp`, `timestamptz`.
const TIMES: [u32; 3] = [1082, 1114, 1184];

/// The database of `stepwell demo`.
const DEMO: &str = "stepwell_demo";

/// Refuses a source that does not fit the warehouse. Writes nothing.
///
/// # Errors
///
/// [`Problem::Source`] with the key at fault; [`Problem::Warehouse`] if the warehouse does not answer.
pub(crate) async fn check(
    session: &Session,
    workflow: &Workflow,
    options: &RunOptions,
) -> Result<(), RunError> {
    let Some(source) = &workflow.source else {
        return Ok(());
    };
    let looking = Looking {
        session,
        source,
        private: init::is_private(workflow, options),
    };
    let contexts = source.contexts.values();
    let wholes = std::iter::once(events(source)).chain(contexts.map(|it| context(source, it)));
    let wholes: Vec<String> = wholes.collect();
    match try_join_all(wholes.iter().map(|sql| session.describe(sql))).await {
        Ok(found) => looking.check_times(&found).await,
        Err(WarehouseError::Statement(whole)) => {
            looking.each().await?;
            // Each by itself would do, and all together do not: an aggregate for a batch, say.
            Err(refused("", whole.message.clone(), whole.hint.clone()))
        }
        Err(error) => Err(looking.failed(error)),
    }
}

/// All that is read of the events. What batches and events are told apart by must have an order, as the manifest's key and
/// the copies of an event need one.
fn events(source: &Source) -> String {
    let ids = source.event_id.as_ref();
    format!(
        "SELECT {time} AS time, ({batch}) AS batch{id}\nFROM {events}\nORDER BY 2{order}",
        time = source.time,
        batch = source.batch,
        id = ids.map_or(String::new(), |id| format!(", {id} AS event_id")),
        events = source.events,
        order = ids.map_or("", |_| ", 3"),
    )
}

/// All that is read of a context. Its time comes first where it has one.
fn context(source: &Source, context: &Context) -> String {
    let columns = context.time.iter().chain(&context.columns);
    let columns: Vec<String> = columns.map(|name| format!("context.{name}")).collect();
    format!("SELECT {}\n{}", columns.join(", "), joined(source, context))
}

fn joined(source: &Source, context: &Context) -> String {
    let Context {
        table, event_id, ..
    } = context;
    match &source.event_id {
        Some(id) => format!(
            "FROM {table} AS context\nJOIN {events} AS event ON event.{id} = context.{event_id}",
            events = source.events
        ),
        None => format!("FROM {table} AS context\nORDER BY context.{event_id}"),
    }
}

fn refused(pointer: &str, what: String, help: Option<String>) -> RunError {
    RunError::new(Problem::Source {
        pointer: pointer.to_owned(),
        what,
        help,
    })
}

/// What is needed to look at one key after the other.
struct Looking<'a> {
    session: &'a Session,
    source: &'a Source,
    private: bool,
}

impl Looking<'_> {
    fn failed(&self, error: WarehouseError) -> RunError {
        let doing = format!("look at the source's table {}", self.source.events);
        RunError::warehouse(doing)(error)
    }

    /// Asks for each key by itself; the first that is refused is an error.
    async fn each(&self) -> Result<(), RunError> {
        let source = self.source;
        let events = &source.events;
        self.table("/events", events).await?;
        let (batch, time) = (&source.batch, &source.time);
        let sql = format!("SELECT ({batch}) AS batch\nFROM {events}");
        self.key("/batch", events, &sql).await?;
        self.compared("/batch", &format!("{sql}\nORDER BY 1"))
            .await?;
        let sql = format!("SELECT {time}\nFROM {events}");
        self.key("/time", events, &sql).await?;
        if let Some(id) = &source.event_id {
            let sql = format!("SELECT {id}\nFROM {events}");
            self.key("/event-id", events, &sql).await?;
            self.compared("/event-id", &format!("{sql}\nORDER BY 1"))
                .await?;
        }
        for (alias, context) in &source.contexts {
            let Context { table, .. } = context;
            let pointer = |key: &str| format!("/contexts/{alias}/{key}");
            self.table(&pointer("table"), table).await?;
            let sql = format!("SELECT {}\nFROM {table}", context.event_id);
            self.key(&pointer("event-id"), table, &sql).await?;
            let sql = format!("SELECT\n{}", joined(source, context));
            self.compared(&pointer("event-id"), &sql).await?;
            if let Some(time) = &context.time {
                let sql = format!("SELECT {time}\nFROM {table}");
                self.key(&pointer("time"), table, &sql).await?;
            }
            for (at, column) in context.columns.iter().enumerate() {
                let sql = format!("SELECT {column}\nFROM {table}");
                let pointer = pointer(&format!("columns/{at}"));
                self.key(&pointer, table, &sql).await?;
            }
        }
        Ok(())
    }

    /// Asks for one key.
    async fn key(&self, pointer: &str, table: &TableName, sql: &str) -> Result<(), RunError> {
        let error = match self.session.describe(sql).await {
            Ok(_) => return Ok(()),
            Err(WarehouseError::Statement(error)) => error,
            Err(error) => return Err(self.failed(error)),
        };
        let StatementError {
            sqlstate, message, ..
        } = &*error;
        let key = name(pointer);
        Err(match sqlstate.as_str() {
            "42703" => refused(
                pointer,
                format!("key \"{key}\": {message} in table {table}"),
                Some(match &error.hint {
                    Some(hint) => hint.clone(),
                    None => self.columns(table).await?,
                }),
            ),
            _ => refused(
                pointer,
                format!("key \"{key}\": {message}"),
                error.hint.clone(),
            ),
        })
    }

    /// Asks whether the values of a key that is there can be compared.
    async fn compared(&self, pointer: &str, sql: &str) -> Result<(), RunError> {
        match self.session.describe(sql).await {
            Ok(_) => Ok(()),
            Err(WarehouseError::Statement(error)) => {
                let (key, why) = (name(pointer), &error.message);
                let what = format!("key \"{key}\": its values cannot be compared: {why}");
                let help = "values of a type that has an order are told apart, as `text` or `uuid`, of the same type as \
                            those that they are compared with";
                Err(refused(pointer, what, Some(help.to_owned())))
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Asks whether a table is there.
    async fn table(&self, pointer: &str, table: &TableName) -> Result<(), RunError> {
        let sql = format!("SELECT\nFROM {table}");
        let error = match self.session.describe(&sql).await {
            Ok(_) => return Ok(()),
            Err(WarehouseError::Statement(error)) => error,
            Err(error) => return Err(self.failed(error)),
        };
        if !matches!(error.sqlstate.as_str(), "42P01" | "3F000") {
            let what = format!("key \"{}\": {}", name(pointer), error.message);
            return Err(refused(pointer, what, error.hint.clone()));
        }
        let sql = "SELECT current_database()::text AS database,
            EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1) AS demo";
        let demo = [Param::Text(DEMO.to_owned())];
        let answer = self
            .session
            .ask(sql, &demo, &AnswerLimits::default())
            .await
            .map_err(|error| self.failed(error))?;
        let database = answer.text(0, "database").unwrap_or_default();
        let private = match self.private {
            true => " of the private server",
            false => "",
        };
        let what = format!("database {}{private} has no table {table}", shown(database));
        let here = "load it, or name the database that has it under `warehouse: { url: … }`";
        let help = match self.private && answer.boolean(0, "demo") == Some(true) && database != DEMO
        {
            true => format!(
                "{here}; the events of `stepwell demo` are in the one that `stepwell local url --database {DEMO}` prints"
            ),
            false => here.to_owned(),
        };
        Err(refused(pointer, what, Some(help)))
    }

    /// Returns what a table has, as a help.
    async fn columns(&self, table: &TableName) -> Result<String, RunError> {
        let sql =
            "SELECT string_agg(pg_catalog.quote_ident(attname), ', ' ORDER BY attnum) AS columns
            FROM (
              SELECT attname, attnum FROM pg_catalog.pg_attribute
              WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
              ORDER BY attnum LIMIT 200
            ) AS a";
        let table = [Param::Text(table.to_string())];
        let answer = self
            .session
            .ask(sql, &table, &AnswerLimits::default())
            .await
            .map_err(|error| self.failed(error))?;
        let columns = answer.text(0, "columns").unwrap_or("none");
        Ok(format!("the table's columns are {columns}"))
    }

    /// Refuses a time that is none. The time of the events is the first column of their question, that of a context the
    /// first of its own.
    async fn check_times(&self, found: &[Selection]) -> Result<(), RunError> {
        let source = self.source;
        let of_events = ("/time".to_owned(), &source.events, Some(&source.time));
        let of_contexts = source.contexts.iter().map(|(alias, context)| {
            let pointer = format!("/contexts/{alias}/time");
            (pointer, &context.table, context.time.as_ref())
        });
        let wanted = std::iter::once(of_events).chain(of_contexts);
        for ((pointer, table, time), selection) in wanted.zip(found) {
            let (Some(time), Some(field)) = (time, selection.fields().next()) else {
                continue;
            };
            if TIMES.contains(&field.type_oid) {
                continue;
            }
            let names = self.session.type_names(&[field.type_oid]).await;
            let names = names.map_err(|error| self.failed(error))?;
            let found = names.into_iter().flatten().next().unwrap_or_default();
            let what = format!(
                "key \"time\": expected a column of dates or timestamps, and {time} of table {table} is of type {found}"
            );
            let help = "name one of type `timestamp`, `timestamptz` or `date`, or add one to a view of the events";
            return Err(refused(&pointer, what, Some(help.to_owned())));
        }
        Ok(())
    }
}

/// The key at a pointer: the last part of it that is a name.
fn name(pointer: &str) -> &str {
    let mut parts = pointer.rsplit('/');
    let is_name = |part: &&str| !part.chars().all(|c| c.is_ascii_digit());
    parts.find(is_name).unwrap_or_default()
}

/// A database's name as it is shown.
fn shown(database: &str) -> String {
    let quoted = quote_ident(database);
    match quoted.starts_with('"') {
        true => quoted,
        false => format!("\"{quoted}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_names_its_key() {
        assert_eq!(name("/event-id"), "event-id");
        assert_eq!(name("/contexts/page/columns/0"), "columns");
    }
}
