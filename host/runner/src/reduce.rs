//! Running a reducer: rows out of the warehouse, through the plugin, and into a scratch table.
//!
//! The rows are read in parts that share no group, each on a session and by an instance of its own. A plain scan is read
//! by all of them from one snapshot: its rows do not depend on each other, so each is in one part. Anything else
//! (joins, DISTINCT ON, windows, LIMIT) is computed once, into a scratch table that says which part a row is in: run once
//! for each part it would cost as many times, and where it leaves a choice open (which of two equal rows DISTINCT ON
//! keeps) the parts could choose differently, and lose a row.
//!
//! One transaction makes the target anew and fills it, however many parts there are, so that it is there whole or not.
//!
//! Within the one transaction of a verification all of it happens on one session, in one part (`within.rs`).
//!
//! A third party's SELECT runs under the plugin's own login, read-only, and nothing but the SELECT does: where its rows
//! cannot be read in parts as they are, they are read in one. Those that it gives are written by the workflow's login.

mod flow;
mod within;

use std::time::Instant;

use stepwell_sandbox::contract::{Plan, Shape};
use stepwell_sandbox::{Component, Limits, contract};
use stepwell_sql::{TableName, quote_ident};
use stepwell_warehouse::{
    Access, ColumnType, Cut, Encoder, Estimate, Field, Grouped, Session, Snapshot, WarehouseError,
    inlined,
};

use crate::confined::Confined;
use crate::conversation::{Questions, Whom};
use crate::convert;
use crate::error::{Problem, RunError, StatementPlace, StepPlace};
use crate::execute::Executed;
use crate::lease::Durability;
use crate::observe::Event;
use crate::policy::Checked;
use crate::report::{PlannedStatement, StatementReport};
use crate::run::{Context, Interrupts};
use crate::step::Steps;
use flow::{Flow, Reader};

pub(crate) use within::ReductionWithin;

/// Rows below which one part is enough: what further sessions and instances cost is more than they save.
const ROWS_FOR_PARTS: u64 = 50_000;

/// Most parts, whatever cores there are: each has a connection of its own, and an instance with its batches. Beyond so many
/// it is the server that reads, and the one COPY that writes, which set the pace.
const PARTS_MAX: usize = 8;

/// Most parts of a third party's reducer: each takes a session of the plugin's role, whose number is limited, and an
/// instance with the plugin's limits.
const CONFINED_PARTS_MAX: u32 = 4;

/// Most rows of a batch: as many as stay in a core's cache with all copies of them, from the server's bytes to the
/// plugin's memory and back. More rows cost more each (`cargo bench -p stepwell-tests --bench reducers`), and with fewer
/// the call begins to show.
const BATCH_ROWS: u32 = 8_192;

/// Bytes of values in the batches of all parts that are built at the same time.
const BATCH_BYTES: u64 = 16 << 20;

/// A shape that was checked: what is read, and what is made.
pub(crate) struct Prepared {
    shape: Checked<Shape>,
    /// The SELECT, its parameters as literals.
    select: String,
    target: TableName,
    output: Vec<Field>,
    /// Holds the rows with their parts, where they are computed once.
    stored: TableName,
}

/// What stands for a shape where a plan is expected: its remarks and publications.
pub(crate) fn as_plan(
    shape: &Shape,
    steps: &Steps<'_>,
    index: usize,
) -> Result<Checked<Plan>, RunError> {
    let plan = Plan {
        statements: Vec::new(),
        atomic: true,
        publishes: shape.publishes.clone(),
        notes: shape.notes.clone(),
        ends_run: None,
    };
    let checked = steps.rights(index).check(plan);
    checked.map_err(|refusal| RunError::refused(refusal).at(steps.place(index)))
}

impl Prepared {
    /// Checks a shape against the rights of its step.
    pub(crate) async fn new(
        shape: Shape,
        steps: &Steps<'_>,
        index: usize,
        session: &Session,
        interrupts: &Interrupts,
    ) -> Result<Self, RunError> {
        let refused = |message| RunError::new(Problem::Refused(message)).at(steps.place(index));
        let step = &steps.workflow.steps[index];
        let fills = |(alias, _): &(String, _)| *alias == shape.target;
        if !step.writes_scratch.iter().any(fills) {
            return Err(refused(format!(
                "the shape's target \"{}\" is no scratch table that the step's settings name",
                shape.target
            )));
        }
        let target = steps.workflow.scratch_table(&shape.target);
        let rights = steps.rights(index);
        let shape = rights
            .check_shape(shape, &target)
            .map_err(|refusal| RunError::refused(refusal).at(steps.place(index)))?;
        let output: Vec<Field> = shape.output.iter().map(convert::field_from).collect();
        if Encoder::new(&output).is_none() || output.iter().any(|field| definition(field).is_none())
        {
            return Err(refused(
                "a field of the output has a type or a modifier that no column has".into(),
            ));
        }
        let params = convert::params(&shape.params);
        let oids: Vec<u32> = shape.params.iter().filter_map(typed).collect();
        let names = interrupts
            .guard(session, session.type_names(&oids))
            .await?
            .map_err(RunError::warehouse("look up types"))?;
        let name = |oid| {
            let at = oids.iter().position(|known| *known == oid)?;
            names[at].clone()
        };
        let select = inlined(&shape.select_sql, &params, name)
            .map_err(|message| refused(format!("the shape's SELECT: {message}")))?;
        Ok(Self {
            stored: steps
                .workflow
                .scratch_table(&format!("{}__rows", shape.target)),
            shape,
            select,
            target,
            output,
        })
    }

    /// Asks the warehouse what columns the SELECT has.
    async fn grouped(&self, asked: Whom<'_>, interrupts: &Interrupts) -> Result<Grouped, RunError> {
        let described = asked.selection(&self.select, interrupts).await?;
        described
            .grouped(&self.shape.key, &self.shape.order_by)
            .map_err(|error| RunError::new(Problem::Refused(format!("the shape: {error}"))))
    }

    /// Says that it was the SELECT that failed.
    fn of_select(&self, place: &StepPlace, error: RunError) -> RunError {
        let statement = StatementPlace {
            label: "read rows".into(),
            question: false,
            number: 1,
            count: 1,
            sql: self.select.clone(),
        };
        error.at(StepPlace {
            statement: Some(statement),
            ..place.clone()
        })
    }

    fn target_sql(&self) -> String {
        let columns = self.output.iter().filter_map(definition);
        let columns: Vec<String> = columns.collect();
        format!(
            "CREATE UNLOGGED TABLE {} (\n  {}\n)",
            self.target,
            columns.join(",\n  ")
        )
    }

    /// Returns the statements as a plan shows them.
    pub(crate) async fn planned(
        &self,
        asked: Whom<'_>,
        interrupts: &Interrupts,
    ) -> Result<Vec<PlannedStatement>, RunError> {
        asked.begin(Questions::OnTheirOwn, interrupts).await?;
        // What the SELECT needs may not be there before earlier steps have run; neither order nor estimate is known then.
        let (sql, estimate) = match self.grouped(asked, interrupts).await {
            Ok(grouped) => {
                let sql = grouped.rows_sql(0, 1);
                let estimate = asked.estimate(&sql, interrupts).await;
                interrupts.check()?;
                (sql, estimate.ok())
            }
            Err(error) if matches!(*error.problem, Problem::Statement { .. }) => {
                (self.select.clone(), None)
            }
            Err(error) => return Err(error),
        };
        asked.end(Questions::OnTheirOwn).await?;
        let statement =
            |label: &str, sql: String, reads: &[String], writes: Vec<String>| PlannedStatement {
                label: label.to_owned(),
                sql,
                params: Vec::new(),
                reads: reads.to_vec(),
                writes,
                estimated_rows: None,
                estimated_cost: None,
            };
        let target = || vec![self.target.to_string()];
        let mut read = statement("read rows", sql, &self.shape.reads, Vec::new());
        read.estimated_rows = estimate.as_ref().map(|estimate| estimate.rows);
        read.estimated_cost = estimate.map(|estimate| estimate.cost);
        let copy = format!("COPY {} FROM STDIN (FORMAT binary)", self.target);
        Ok(vec![
            read,
            statement("make the table", self.target_sql(), &[], target()),
            statement("write the rows that the plugin gives", copy, &[], target()),
        ])
    }
}

fn typed(param: &contract::Param) -> Option<u32> {
    match param {
        contract::Param::Typed((oid, _)) => Some(*oid),
        _ => None,
    }
}

/// The definition of a field's column.
fn definition(field: &Field) -> Option<String> {
    let kind = ColumnType::of(field.type_oid)?.sql(field.type_mod)?;
    let null = if field.nullable { "" } else { " NOT NULL" };
    Some(format!("{} {kind}{null}", quote_ident(&field.name)))
}

/// A reducer on its way.
pub(crate) struct Reduction<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) prepared: Prepared,
    pub(crate) component: Component,
    pub(crate) limits: Limits,
    pub(crate) info: contract::RunInfo,
    pub(crate) place: StepPlace,
    /// How many parts, and how large batches are; none leaves it to the host.
    pub(crate) parts: Option<u32>,
    pub(crate) batch_rows: Option<u32>,
}

/// Who reads the rows.
pub(crate) enum Source {
    /// The workflow's own login.
    Workflow(Session),
    /// A third party's, while the workflow's writes what the plugin gives.
    Confined {
        /// The session that reads.
        reader: Box<Confined>,
        /// The session that writes.
        writer: Session,
    },
}

impl Source {
    fn whom(&self) -> Whom<'_> {
        match self {
            Self::Workflow(session) => Whom::Workflow(session),
            Self::Confined { reader, .. } => Whom::Confined(reader),
        }
    }
}

/// How the rows are read.
enum Reading {
    /// By the SELECT itself, in one part.
    Whole,
    /// By the SELECT itself, in several parts from one snapshot.
    Scans(u32),
    /// From a table that is made first.
    Stored(u32),
}

impl Reduction<'_> {
    /// Runs the step. Further sessions come from the pool. After an error nothing of the target has changed, and sessions
    /// that took part are closed.
    pub(crate) async fn run(&self, source: Source) -> Result<Executed, RunError> {
        self.reduce(source)
            .await
            .map_err(|error| error.at(self.place.clone()))
    }

    async fn reduce(&self, source: Source) -> Result<Executed, RunError> {
        let context = self.context;
        let grouped = self
            .prepared
            .grouped(source.whom(), &context.interrupts)
            .await;
        let grouped = grouped.map_err(|error| self.of_select(error))?;
        let reading = self.reading(&source, &grouped).await?;
        let mut executed = Executed::default();
        let (readers, writer) = match source {
            Source::Workflow(reader) => {
                let writer = context.take_session().await?;
                if let Reading::Stored(parts) = reading {
                    self.store(&writer, &grouped, parts, &mut executed).await?;
                }
                (self.readers(reader, &grouped, &reading).await?, writer)
            }
            Source::Confined { reader, writer } => {
                let readers = self.confined_readers(*reader, &writer, &grouped, &reading);
                (readers.await?, writer)
            }
        };
        let durability = Durability::Scratch;
        context.lease.begin(&writer, durability).await?;
        self.host(
            &writer,
            &format!("DROP TABLE IF EXISTS {}", self.prepared.target),
        )
        .await?;
        self.host(&writer, &self.prepared.target_sql()).await?;
        context.wrote();
        context.event(&Event::StatementStarted {
            step: &self.place.id,
            label: "fold rows",
            number: 1,
            count: 1,
        });
        let begun = Instant::now();
        let parts = readers.len();
        let flow = Flow {
            component: &self.component,
            limits: &self.limits,
            info: &self.info,
            place: &self.place,
            grouped: &grouped,
            output: &self.prepared.output,
            target: &self.prepared.target,
            cut: cut(self.batch_rows, parts),
        };
        let flowing = flow.run(readers, &writer, &context.interrupts);
        let (readers, flowed) = flowing.await.map_err(|error| match &*error.problem {
            Problem::OutOfTime { .. } => self.of_select(error),
            _ => error,
        })?;
        let report = |label: &str, rows, duration_ms| StatementReport {
            label: label.to_owned(),
            rows,
            duration_ms,
        };
        let duration_ms = begun.elapsed().as_secs_f64() * 1000.0;
        executed
            .statements
            .push(report("read rows", flowed.rows_in, duration_ms));
        executed
            .statements
            .push(report("write rows", flowed.rows_out, duration_ms));
        executed.rows_read = flowed.rows_in;
        executed.rows_written = flowed.rows_out;
        for (name, value) in [
            ("parts", parts as u64),
            ("bytes_read", flowed.bytes_in),
            ("bytes_written", flowed.bytes_out),
            ("plugin_cpu_ms", flowed.cpu_ms),
        ] {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            executed.measures.insert(name.to_owned(), value);
        }
        // Their transactions end before the table that they read is dropped, which would wait for them. A third party's
        // sessions are closed.
        for reader in readers {
            if reader.rollback().await.is_ok() {
                context.give_back_session(reader).await;
            }
        }
        if matches!(reading, Reading::Stored(_)) {
            self.host(
                &writer,
                &format!("DROP TABLE IF EXISTS {}", self.prepared.stored),
            )
            .await?;
        }
        self.host(&writer, &format!("ANALYZE {}", self.prepared.target))
            .await?;
        writer
            .commit()
            .await
            .map_err(RunError::warehouse("commit"))?;
        context.give_back_session(writer).await;
        Ok(executed)
    }

    /// Decides how to read by what the server expects of the SELECT.
    async fn reading(&self, source: &Source, grouped: &Grouped) -> Result<Reading, RunError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let parts = self.parts.unwrap_or(parts_of(cores));
        let parts = match source {
            Source::Workflow(_) => parts,
            Source::Confined { .. } => parts.min(CONFINED_PARTS_MAX),
        };
        if parts <= 1 {
            return Ok(Reading::Whole);
        }
        let sql = grouped.rows_sql(0, parts);
        if self.parts.is_none() {
            let estimate = self.estimate(source, &grouped.rows_sql(0, 1)).await?;
            if estimate.rows < ROWS_FOR_PARTS {
                return Ok(Reading::Whole);
            }
        }
        let plain = self.estimate(source, &sql).await?.is_plain_scan();
        Ok(match (plain, source) {
            (true, _) => Reading::Scans(parts),
            (false, Source::Workflow(_)) => Reading::Stored(parts),
            (false, Source::Confined { .. }) => Reading::Whole,
        })
    }

    async fn estimate(&self, source: &Source, sql: &str) -> Result<Estimate, RunError> {
        let estimate = source.whom().estimate(sql, &self.context.interrupts).await;
        estimate.map_err(|error| self.of_select(error))
    }

    /// Computes the rows once. Committed by itself, so that other sessions see them.
    async fn store(
        &self,
        writer: &Session,
        grouped: &Grouped,
        parts: u32,
        executed: &mut Executed,
    ) -> Result<(), RunError> {
        let (context, stored) = (self.context, &self.prepared.stored);
        let begun = Instant::now();
        context.lease.begin(writer, Durability::Scratch).await?;
        self.host(writer, &format!("DROP TABLE IF EXISTS {stored}"))
            .await?;
        context.wrote();
        let sql = grouped.store_sql(stored, parts);
        let storing = writer.execute(&sql, &[]);
        let rows = context.interrupts.guard(writer, storing).await?;
        let rows =
            rows.map_err(|source| self.of_select(RunError::new(Problem::Statement { source })))?;
        writer
            .commit()
            .await
            .map_err(RunError::warehouse("commit"))?;
        executed.statements.push(StatementReport {
            label: "store rows".into(),
            rows,
            duration_ms: begun.elapsed().as_secs_f64() * 1000.0,
        });
        Ok(())
    }

    /// Returns sessions that see the same rows, each with the SELECT of its part.
    async fn readers(
        &self,
        first: Session,
        grouped: &Grouped,
        reading: &Reading,
    ) -> Result<Vec<Reader>, RunError> {
        let doing = || RunError::warehouse("begin to read");
        let (parts, snapshot): (u32, Option<Snapshot>) = match reading {
            Reading::Scans(parts) => (*parts, Some(first.begin_shared().await.map_err(doing())?)),
            Reading::Whole => (1, None),
            Reading::Stored(parts) => (*parts, None),
        };
        if snapshot.is_none() {
            first.begin(Access::ReadOnly).await.map_err(doing())?;
        }
        let mut sessions = vec![first];
        for _ in 1..parts {
            let session = self.context.take_session().await?;
            let begun = match &snapshot {
                Some(snapshot) => session.begin_at(snapshot).await,
                None => session.begin(Access::ReadOnly).await,
            };
            begun.map_err(doing())?;
            sessions.push(session);
        }
        let sql = |part| match reading {
            Reading::Stored(_) => grouped.stored_rows_sql(&self.prepared.stored, part),
            Reading::Whole | Reading::Scans(_) => grouped.rows_sql(part, parts),
        };
        let readers = sessions.into_iter().zip(0..);
        Ok(readers
            .map(|(session, part)| Reader {
                session,
                sql: sql(part),
                expiry: None,
            })
            .collect())
    }

    /// Returns sessions of a third party's that see the same rows, each with the SELECT of its part.
    async fn confined_readers(
        &self,
        first: Confined,
        host: &Session,
        grouped: &Grouped,
        reading: &Reading,
    ) -> Result<Vec<Reader>, RunError> {
        let interrupts = &self.context.interrupts;
        let parts = match reading {
            Reading::Scans(parts) => *parts,
            Reading::Whole | Reading::Stored(_) => 1,
        };
        let mut sessions = Vec::new();
        if parts == 1 {
            first.begin(Access::ReadOnly, interrupts).await?;
            sessions.push(first);
        } else {
            let snapshot = first.begin_shared(interrupts).await?;
            sessions.push(first);
            for _ in 1..parts {
                let beside = self.context.confined(self.place.index, host).await?;
                let beside = beside.expect("the first one is confined too");
                beside.begin_at(&snapshot, interrupts).await?;
                sessions.push(beside);
            }
        }
        let mut readers = Vec::new();
        for (confined, part) in sessions.into_iter().zip(0..) {
            let (session, expiry) = confined.into_reader(interrupts).await?;
            readers.push(Reader {
                session,
                sql: grouped.rows_sql(part, parts),
                expiry: Some(expiry),
            });
        }
        Ok(readers)
    }

    /// Runs a statement of the host's own.
    async fn host(&self, session: &Session, sql: &str) -> Result<(), RunError> {
        let running = session.execute(sql, &[]);
        let ran = self.context.interrupts.guard(session, running).await?;
        ran.map(drop)
            .map_err(RunError::warehouse("make the table of the reducer's rows"))
    }

    fn of_select(&self, error: RunError) -> RunError {
        self.prepared.of_select(&self.place, error)
    }
}

/// Returns how large batches are where rows are read in so many parts at a time.
fn cut(rows: Option<u32>, parts: usize) -> Cut {
    let cut = Cut::default();
    let bytes = BATCH_BYTES / parts.max(1) as u64;
    Cut {
        rows: rows.unwrap_or(BATCH_ROWS),
        bytes: bytes.clamp(1 << 20, cut.bytes),
    }
}

/// Returns in how many parts rows are read on a machine with so many cores.
fn parts_of(cores: usize) -> u32 {
    u32::try_from(cores.min(PARTS_MAX)).unwrap_or(1)
}

/// The error of a session that reads or writes.
fn statement(source: WarehouseError) -> RunError {
    RunError::new(Problem::Statement { source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_bounded_by_cores_and_by_connections() {
        assert_eq!([1, 2, 8, 96].map(parts_of), [1, 2, 8, 8]);
    }

    /// The sandbox and the warehouse do not know each other, and each says which types a reducer may give: the one to name
    /// the field at fault, the other to write the values. They must say the same.
    #[test]
    fn what_the_sandbox_lets_through_can_be_written() {
        use stepwell_sandbox::contract::{Batch, Column, Values, Varlen};

        let varlen = Varlen {
            offsets: vec![0],
            data: Vec::new(),
        };
        let layouts = [
            (contract::Layout::Bits, Values::Bits(Vec::new())),
            (contract::Layout::Int16, Values::Int16(Vec::new())),
            (contract::Layout::Int32, Values::Int32(Vec::new())),
            (contract::Layout::Int64, Values::Int64(Vec::new())),
            (contract::Layout::Single, Values::Single(Vec::new())),
            (contract::Layout::Double, Values::Double(Vec::new())),
            (contract::Layout::Fixed16, Values::Fixed16(Vec::new())),
            (contract::Layout::Varlen, Values::Varlen(varlen)),
        ];
        let mut types = 0;
        for (type_oid, (layout, values)) in
            (0..10_000).flat_map(|oid| layouts.iter().map(move |layout| (oid, layout)))
        {
            let field = contract::Field {
                name: "f".into(),
                type_oid,
                type_mod: -1,
                layout: *layout,
                nullable: true,
            };
            let column = Column {
                validity: None,
                values: values.clone(),
            };
            let nothing = Batch {
                rows: 0,
                columns: vec![column],
            };
            let let_through =
                stepwell_sandbox::check_output(std::slice::from_ref(&field), &nothing).is_ok();
            let field = convert::field_from(&field);
            let written = Encoder::new(std::slice::from_ref(&field)).is_some()
                && definition(&field).is_some();
            assert_eq!(let_through, written, "{field:?}");
            types += u32::from(written);
        }
        assert_eq!(types, 18);
    }
}
