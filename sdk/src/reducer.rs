//! Steps that fold rows into rows, for what SQL cannot say.
//!
//! A reducer names the rows that it wants and gives rows back. The host runs the SELECT, streams the rows in, group
//! after group, over several instances at once, and copies what comes out into a scratch table. A reducer is a struct
//! with the state of one group:
//!
//! ```
//! use std::rc::Rc;
//!
//! use stepwell_sdk::incremental::{Dedupe, EventRows};
//! use stepwell_sdk::planner::{Ask, Run, Stop};
//! use stepwell_sdk::reducer::{Out, Reducer, Shape};
//! use stepwell_sdk::settings::{Duration, Expr, ScratchInput, ScratchOutput};
//! use stepwell_sdk::values::{Date, Timestamp};
//! use stepwell_sdk::{Failure, Row, Settings, export_reducer};
//!
//! #[derive(serde::Deserialize, Settings)]
//! #[serde(deny_unknown_fields, rename_all = "kebab-case")]
//! pub struct With {
//!     /// The visitor-days whose rows are computed, from `collect-ids`.
//!     ids: ScratchInput,
//!     /// Takes the rows.
//!     into: ScratchOutput,
//!     /// Which copy of an event counts.
//!     dedupe: Option<Dedupe>,
//!     /// When an event happened.
//!     time: Expr,
//!     /// Longer without an event is a pause.
//!     pause: Duration,
//! }
//!
//! /// A row that comes.
//! #[derive(Row)]
//! pub struct Event<'a> {
//!     #[row(key)]
//!     visitor: &'a str,
//!     #[row(key)]
//!     day: Date,
//!     #[row(order)]
//!     at: Timestamp,
//! }
//!
//! /// A row that goes.
//! #[derive(Row)]
//! pub struct Pauses<'a> {
//!     visitor: &'a str,
//!     day: Date,
//!     pauses: i64,
//! }
//!
//! fn shape(run: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Shape, Stop> {
//!     let rows = EventRows::of(run, &with.ids)?
//!         .key(&["visitor", "day"])?
//!         .dedupe(with.dedupe.as_ref())
//!         .column("at", &with.time)
//!         .select(ask)?;
//!     Ok(Shape::of::<VisitorDay>(rows, &with.into))
//! }
//!
//! /// The state of one group.
//! pub struct VisitorDay {
//!     pause_us: i64,
//!     last: Option<Timestamp>,
//!     pauses: i64,
//! }
//!
//! impl Reducer for VisitorDay {
//!     type With = With;
//!     type Input = Event<'static>;
//!     type Output = Pauses<'static>;
//!
//!     fn begin(with: &Rc<With>) -> Self {
//!         Self { pause_us: with.pause.us(), last: None, pauses: 0 }
//!     }
//!
//!     fn fold(&mut self, event: Event<'_>, _: &mut Out<Self::Output>) -> Result<(), Failure> {
//!         if self.last.is_some_and(|last| event.at.us_since(last) > self.pause_us) {
//!             self.pauses += 1;
//!         }
//!         self.last = Some(event.at);
//!         Ok(())
//!     }
//!
//!     fn finish(self, last: Event<'_>, out: &mut Out<Self::Output>) -> Result<(), Failure> {
//!         out.push(Pauses { visitor: last.visitor, day: last.day, pauses: self.pauses });
//!         Ok(())
//!     }
//! }
//!
//! export_reducer! {
//!     name: "pauses",
//!     summary: "Counts the pauses of a visitor's day",
//!     settings: With,
//!     shape: shape,
//!     fold: VisitorDay,
//!     reads: ["events", "manifest"],
//! }
//! # fn main() {
//! use stepwell_sdk::testing::Reduction;
//!
//! let with = r#"{ "ids": "ids", "into": "pauses", "time": "derived_tstamp", "pause": "5m" }"#;
//! let reduction = Reduction::of::<VisitorDay>(with).table(
//!     "visitor | day        | at
//!      a       | 2024-01-01 | 2024-01-01 10:00:00
//!      a       | 2024-01-01 | 2024-01-01 10:06:00
//!      b       | 2024-01-01 | 2024-01-01 10:00:00",
//! );
//! reduction.check_table(
//!     "visitor | day        | pauses
//!      a       | 2024-01-01 | 1
//!      b       | 2024-01-01 | 0",
//! );
//! // However the host cuts the rows.
//! reduction.check_invariance(1);
//! # }
//! ```
//!
//! Two things must not show in what comes out, and [`Reduction`](crate::testing::Reduction) looks for both: how the host
//! cuts rows into batches and groups into partitions, and in which order rows come that are equal in the key and in the
//! columns marked `#[row(order)]`. Mark as many as it takes.
//!
//! A group may give many rows for each that it takes: they leave in batches of at most 65,536 rows or 8 MiB, and the host
//! asks for all of them before it hands over the next rows. What piles up in the component's memory is what a single
//! call of `fold` or `finish` gives.
//!
//! A reducer that needs more than one group at a time, or columns as they are, implements [`BatchReducer`] instead and
//! is exported with `batches:` in place of `fold:`.

use std::rc::Rc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::{Groups, ROWS_MAX, fields, positions};
use crate::bindings::stepwell::step::plans::Publication;
use crate::bindings::stepwell::step::shapes;
use crate::bindings::stepwell::step::types::RunInfo;
use crate::columnar::{Batch, Field};
use crate::planner::Run;
use crate::settings::ScratchOutput;
use crate::sql::{Sql, TableName};
use crate::{Failure, Param, Row, settings};

pub use crate::batch::Out;

/// Folds the rows of one group. The struct is the group's state; one is made for every group.
pub trait Reducer: Sized {
    /// The step's settings.
    type With: DeserializeOwned;
    /// A row that comes; `Event<'static>` where the struct borrows.
    type Input: Row;
    /// A row that goes.
    type Output: Row;

    /// Returns the state of a group before its first row. Settings that are no plain numbers are kept by cloning the
    /// `Rc`, which copies nothing.
    fn begin(with: &Rc<Self::With>) -> Self;

    /// Takes the next row of the group. May give rows back already.
    ///
    /// # Errors
    ///
    /// [`Failure`] ends the step; the group is named in it.
    fn fold(
        &mut self,
        row: <Self::Input as Row>::Of<'_>,
        out: &mut Out<Self::Output>,
    ) -> Result<(), Failure>;

    /// Ends the group. `last` is its last row, which was folded already: for the key and whatever else all rows of the
    /// group have in common, so that the state need not keep it.
    ///
    /// # Errors
    ///
    /// [`Failure`] as for [`fold`](Self::fold).
    fn finish(
        self,
        last: <Self::Input as Row>::Of<'_>,
        out: &mut Out<Self::Output>,
    ) -> Result<(), Failure>;
}

/// Takes whole batches, as they cross the boundary. What the calls mean, `sdk/wit/reducer.wit` says.
pub trait BatchReducer: Sized {
    /// The step's settings.
    type With: DeserializeOwned;

    /// Returns a reducer for one partition. `input` describes the columns of the SELECT.
    ///
    /// # Errors
    ///
    /// [`Failure`] if the columns are not those that it can read.
    fn open(run: &Run, with: Self::With, input: Vec<Field>) -> Result<Self, Failure>;

    /// Takes the next rows. `continues` says that the last group goes on in the next batch; otherwise groups are whole.
    /// May give back a batch of at most [`ROWS_MAX`] rows.
    ///
    /// For as long as rows come back it is called again with a batch of no rows and the same `continues`: to give the
    /// rest of what it has made, batch by batch. Such a batch hands nothing over, and ends no group.
    ///
    /// # Errors
    ///
    /// [`Failure`] ends the step.
    fn push(&mut self, batch: Batch, continues: bool) -> Result<Option<Batch>, Failure>;

    /// Called after the last batch, again and again until it returns none.
    ///
    /// # Errors
    ///
    /// [`Failure`] ends the step.
    fn finish(&mut self) -> Result<Option<Batch>, Failure>;
}

/// Makes a [`BatchReducer`] of a [`Reducer`]: finds the groups, carries one over where it goes on in the next batch, and
/// fills batches with what comes out. It stops in the middle of its input once one is full, until that is taken.
pub struct Folding<R: Reducer> {
    with: Rc<R::With>,
    input: Vec<Field>,
    positions: Vec<usize>,
    groups: Groups,
    open: Option<Carried<R>>,
    pending: Option<Pending<R>>,
    out: Out<R::Output>,
}

/// A batch that is not folded to its end.
struct Pending<R> {
    batch: Batch,
    continues: bool,
    /// The group that is next, by its place among those of the batch, and its row that is.
    group: usize,
    row: usize,
    /// The state of that group, once it has begun.
    state: Option<R>,
}

/// A group that goes on in the next batch.
struct Carried<R> {
    state: R,
    key: Vec<Option<String>>,
}

impl<R: Reducer> Folding<R> {
    /// Returns a reducer that fills batches of so many rows.
    ///
    /// # Errors
    ///
    /// [`Failure`] if the columns are not those of [`Reducer::Input`].
    pub(crate) fn new(with: R::With, input: Vec<Field>, rows_max: u32) -> Result<Self, Failure> {
        let positions = positions::<R::Input>(&input)?;
        let groups = Groups::by(&key::<R::Input>(), &input)?;
        Ok(Self {
            with: Rc::new(with),
            input,
            positions,
            groups,
            open: None,
            pending: None,
            out: Out::new(rows_max),
        })
    }

    /// Folds what is pending, until so many batches of output are full or nothing is left.
    fn go_on(&mut self, full_max: usize) -> Result<(), Failure> {
        let Some(mut pending) = self.pending.take() else {
            return Ok(());
        };
        let folded = self.fold(&mut pending, full_max);
        let done = folded.map_err(|(row, mut failure)| {
            let batch = &pending.batch;
            if row < batch.rows as usize {
                let group = self.groups.words(&self.input, batch, row);
                failure.message = format!("{} (in the group of {group})", failure.message);
            }
            failure
        })?;
        self.pending = (!done).then_some(pending);
        Ok(())
    }

    /// Returns whether the batch is folded to its end; an error comes with its row, or one behind the last.
    fn fold(
        &mut self,
        pending: &mut Pending<R>,
        full_max: usize,
    ) -> Result<bool, (usize, Failure)> {
        let Pending {
            batch,
            continues,
            group,
            row,
            state,
        } = pending;
        let rows = batch.rows as usize;
        let view = R::Input::view(batch, &self.input, &self.positions).map_err(|f| (rows, f))?;
        while let Some(&end) = self.groups.ends.get(*group) {
            if self.out.full() >= full_max {
                return Ok(false);
            }
            let mut folding = match (state.take(), self.open.take()) {
                (Some(state), _) => state,
                (None, None) => R::begin(&self.with),
                (None, Some(open)) => {
                    if open.key != self.groups.key_of(&self.input, batch, *row) {
                        return Err((rows, broken("a group that was to go on did not")));
                    }
                    open.state
                }
            };
            let mut at = *row;
            while at < end && self.out.full() < full_max {
                folding
                    .fold(R::Input::get(&view, at), &mut self.out)
                    .map_err(|f| (at, f))?;
                at += 1;
            }
            *row = at;
            if self.out.full() >= full_max {
                *state = Some(folding);
            } else if *continues && end == rows {
                let key = self.groups.key_of(&self.input, batch, end - 1);
                self.open = Some(Carried {
                    state: folding,
                    key,
                });
                *group += 1;
            } else {
                let last = R::Input::get(&view, end - 1);
                folding
                    .finish(last, &mut self.out)
                    .map_err(|f| (end - 1, f))?;
                *group += 1;
            }
        }
        Ok(true)
    }
}

impl<R: Reducer> BatchReducer for Folding<R> {
    type With = R::With;

    fn open(_: &Run, with: R::With, input: Vec<Field>) -> Result<Self, Failure> {
        Self::new(with, input, ROWS_MAX)
    }

    fn push(&mut self, batch: Batch, continues: bool) -> Result<Option<Batch>, Failure> {
        if batch.rows > 0 {
            // A host from before the contract said that it asks for the rest does not: then the rest piles up.
            self.go_on(usize::MAX)?;
            self.groups.find(&batch);
            self.pending = Some(Pending {
                batch,
                continues,
                group: 0,
                row: 0,
                state: None,
            });
        }
        self.go_on(1)?;
        Ok(self.out.next_full())
    }

    fn finish(&mut self) -> Result<Option<Batch>, Failure> {
        self.go_on(1)?;
        if let Some(full) = self.out.next_full() {
            return Ok(Some(full));
        }
        if self.open.is_some() {
            return Err(broken("the rows ended within a group"));
        }
        self.out.seal();
        Ok(self.out.next_full())
    }
}

fn broken(what: &str) -> Failure {
    Failure::new("contract", what)
}

fn key<R: Row>() -> Vec<&'static str> {
    R::FIELDS
        .iter()
        .filter(|spec| spec.key)
        .map(|spec| spec.name)
        .collect()
}

/// A SELECT of the rows that a reducer wants, with the tables that it reads.
///
/// The host adds the order and cuts it into partitions of the key, so it has neither ORDER BY nor LIMIT. For the events
/// of this run's ids there is [`EventRows`](crate::incremental::EventRows).
#[derive(Debug, Clone, PartialEq)]
pub struct Select {
    sql: Sql,
    params: Vec<Param>,
    reads: Vec<TableName>,
}

impl Select {
    /// Returns a SELECT that reads no table yet.
    pub fn new(sql: Sql) -> Self {
        Self {
            sql,
            params: Vec::new(),
            reads: Vec::new(),
        }
    }

    /// Adds the next parameter, `$1` first.
    #[must_use]
    pub fn param(mut self, param: Param) -> Self {
        self.params.push(param);
        self
    }

    /// Declares a table that it reads.
    #[must_use]
    pub fn reads(mut self, table: &TableName) -> Self {
        self.reads.push(table.clone());
        self
    }

    /// Declares tables that it reads.
    #[must_use]
    pub fn reads_all<'a>(self, tables: impl IntoIterator<Item = &'a TableName>) -> Self {
        tables.into_iter().fold(self, Self::reads)
    }
}

/// What a reducer answers with: the rows that it wants and those that it gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape(shapes::Shape);

impl Shape {
    /// Returns the shape of `R`: its key and order as the input struct says, its output as the output struct does.
    pub fn of<R: Reducer>(rows: Select, into: &ScratchOutput) -> Self {
        let order = R::Input::FIELDS.iter().filter(|spec| spec.order);
        Self::new(rows, into)
            .key(&key::<R::Input>())
            .order_by(&order.map(|spec| spec.name).collect::<Vec<_>>())
            .output(fields::<R::Output>())
    }

    /// Returns a shape that is still without a key and output fields, for a [`BatchReducer`].
    pub fn new(rows: Select, into: &ScratchOutput) -> Self {
        Self(shapes::Shape {
            select_sql: rows.sql.into(),
            params: rows.params,
            reads: rows.reads.iter().map(ToString::to_string).collect(),
            key: Vec::new(),
            order_by: Vec::new(),
            output: Vec::new(),
            target: into.alias().to_owned(),
            publishes: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// Sets the columns of the SELECT that name a group.
    #[must_use]
    pub fn key(mut self, columns: &[&str]) -> Self {
        self.0.key = columns.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Sets the columns of the SELECT by which the rows of a group are ordered, each smallest first, NULL last.
    #[must_use]
    pub fn order_by(mut self, columns: &[&str]) -> Self {
        self.0.order_by = columns.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Sets the fields of the rows that are given back; [`batch::fields`](fields) returns those of a struct.
    #[must_use]
    pub fn output(mut self, fields: Vec<Field>) -> Self {
        self.0.output = fields;
        self
    }

    /// Adds a remark for people.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.0.notes.push(note.into());
        self
    }

    /// Tells later steps about the table that takes the output.
    #[must_use]
    pub fn publish(mut self, about: &impl Serialize) -> Self {
        let about = serde_json::to_string(about).expect("what a step publishes is plain data");
        self.0.publishes.push(Publication {
            alias: self.0.target.clone(),
            about,
        });
        self
    }

    /// Returns the shape as it crosses the boundary.
    pub fn into_contract(self) -> shapes::Shape {
        self.0
    }
}

/// One call across the boundary: reads the settings and opens a reducer.
#[doc(hidden)]
pub fn __open<B: BatchReducer>(run: RunInfo, input: Vec<Field>) -> Result<B, Failure> {
    let with = settings::read(&run.settings_json)?;
    B::open(&Run::new(run)?, with, input)
}

#[cfg(test)]
mod tests;
