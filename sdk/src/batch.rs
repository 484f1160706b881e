//! Rows of a batch as structs.
//!
//! A batch is columns: that is how it crosses the boundary in a few copies. A struct with `#[derive(Row)]` reads it row
//! by row, and writes one:
//!
//! ```
//! use stepwell_sdk::Row;
//! use stepwell_sdk::values::{Date, Timestamp};
//!
//! #[derive(Row)]
//! struct Event<'a> {
//!     #[row(key)]
//!     visitor: &'a str,
//!     #[row(key)]
//!     day: Date,
//!     #[row(order)]
//!     at: Timestamp,
//!     campaign: Option<&'a str>,
//! }
//! # let _ = |e: Event<'_>| (e.visitor.len(), e.day, e.at, e.campaign.is_none());
//! ```
//!
//! Fields stand for columns by their names (`#[row(name = "…")]` for another one); further columns are not looked at.
//! Text and bytes are borrowed from the batch. `#[row(key)]` and `#[row(order)]` say of an input how its rows are grouped
//! and ordered, in the order of the fields.
//!
//! | field | column read | column written |
//! |---|---|---|
//! | `bool` | `boolean` | `boolean` |
//! | `i16`, `i32`, `i64` | `smallint`, `integer`, `bigint` | the same |
//! | `f32`, `f64` | `real`, `double precision` | the same |
//! | `&str`, `String` (copied) | `text`, `varchar`, `char(n)` without its padding, and any type that comes in its text form: `numeric`, `json`, arrays, … | `text` |
//! | `&[u8]`, `Vec<u8>` (copied) | `bytea` | `bytea` |
//! | `[u8; 16]` | `uuid` | `uuid` |
//! | [`Date`](crate::values::Date) | `date` | `date` |
//! | [`Timestamp`](crate::values::Timestamp) | `timestamp`, `timestamptz` | `timestamp` |
//! | [`TimestampTz`](crate::values::TimestampTz) | the same | `timestamptz` |
//! | [`Decimal`](crate::values::Decimal) | `numeric` | `numeric` |
//! | [`Json`](crate::values::Json) | `json`, `jsonb` | `jsonb` |
//! | `Option` of these | the same, or NULL | the same, and may be NULL |
//!
//! Anything else is an error of the compiler, at the field:
//!
//! ```compile_fail,E0277
//! #[derive(stepwell_sdk::Row)]
//! struct Event {
//!     events: usize, // The trait bound `usize: Value` is not satisfied.
//! }
//! ```

mod group;
mod text;
pub(crate) mod types;
mod value;

use crate::columnar::{Batch, Column, Field};
use crate::{Failure, columnar};

pub(crate) use group::Groups;
pub(crate) use text::{parse, text};
pub use types::DataType;
pub use value::Value;

/// Most rows that a batch has.
pub const ROWS_MAX: u32 = 65_536;
/// Bytes of values with which a batch counts as full.
pub const BYTES_FULL: usize = 8 << 20;

/// A struct whose fields stand for the columns of a batch. Derived with `#[derive(Row)]`.
///
/// Where the struct has a lifetime, which one does not matter to the trait: `Event<'static>` stands for them all, and
/// [`Of`](Row::Of) is the struct that borrows from a given batch.
pub trait Row {
    /// The struct, borrowing from a batch that lives for `'a`.
    type Of<'a>;
    /// The columns of a batch.
    type View<'a>;
    /// The columns of a batch while it is written.
    type Builder;

    /// The columns, in the order of the struct's fields.
    const FIELDS: &'static [FieldSpec];

    /// Returns a view of a batch. `positions` are those that [`positions`] found among the batch's `fields`.
    ///
    /// # Errors
    ///
    /// [`Failure`] if a value is NULL where the struct's field cannot be, or the batch is not as the contract says.
    fn view<'a>(
        batch: &'a Batch,
        fields: &[Field],
        positions: &[usize],
    ) -> Result<Self::View<'a>, Failure>;

    /// Returns row `at`, which the batch must have.
    fn get<'a>(view: &Self::View<'a>, at: usize) -> Self::Of<'a>;

    /// Returns empty columns.
    fn builder() -> Self::Builder;

    /// Adds a row.
    fn push(builder: &mut Self::Builder, row: Self::Of<'_>);

    /// Returns the bytes of the values so far, without offsets and validity.
    fn bytes(builder: &Self::Builder) -> usize;

    /// Returns the columns and leaves empty ones.
    fn take(builder: &mut Self::Builder) -> Vec<Column>;
}

/// A column that a field of a [`Row`] stands for.
#[derive(Debug, Clone, Copy)]
pub struct FieldSpec {
    /// The column's name.
    pub name: &'static str,
    /// Its type.
    pub data_type: DataType,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// Whether rows with the same value make a group.
    pub key: bool,
    /// Whether the rows of a group are ordered by it.
    pub order: bool,
}

/// Returns the columns as the contract describes them, for [`Shape`](crate::reducer::Shape).
pub fn fields<R: Row>() -> Vec<Field> {
    let field = |spec: &FieldSpec| Field {
        name: spec.name.to_owned(),
        type_oid: spec.data_type.oid,
        type_mod: -1,
        layout: spec.data_type.layout,
        nullable: spec.nullable,
    };
    R::FIELDS.iter().map(field).collect()
}

/// Returns where the columns of `R` stand among `fields`.
///
/// # Errors
///
/// [`Failure`] with code `wrong-columns` that names every column that is missing or of another type.
pub fn positions<R: Row>(fields: &[Field]) -> Result<Vec<usize>, Failure> {
    let mut positions = Vec::with_capacity(R::FIELDS.len());
    let mut problems = Vec::new();
    for spec in R::FIELDS {
        match fields.iter().position(|field| field.name == spec.name) {
            None => problems.push(format!("there is no column \"{}\"", spec.name)),
            Some(at) if !spec.data_type.reads(&fields[at]) => problems.push(format!(
                "column \"{}\" is {}, expected {}",
                spec.name,
                types::name(fields[at].type_oid),
                spec.data_type.expected,
            )),
            Some(at) => positions.push(at),
        }
    }
    if problems.is_empty() {
        return Ok(positions);
    }
    let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
    Err(Failure::new("wrong-columns", problems.join("; ")).with_help(format!(
        "The rows have the columns {}. Select what is missing, and cast what is of another type: `at::timestamp AS at`.",
        names.join(", ")
    )))
}

/// The columns of one batch at a time, written row by row, and the batches that are full.
pub struct Out<R: Row> {
    builder: R::Builder,
    rows: u32,
    full: std::collections::VecDeque<Batch>,
    rows_max: u32,
}

impl<R: Row> Out<R> {
    pub(crate) fn new(rows_max: u32) -> Self {
        Self {
            builder: R::builder(),
            rows: 0,
            full: std::collections::VecDeque::new(),
            rows_max,
        }
    }

    /// Gives a row back. Every 65,536 rows, or 8 MiB, make a batch that leaves the component.
    #[inline]
    pub fn push(&mut self, row: R::Of<'_>) {
        R::push(&mut self.builder, row);
        self.rows += 1;
        if self.rows >= self.rows_max || R::bytes(&self.builder) >= BYTES_FULL {
            self.seal();
        }
    }

    /// Returns how many batches are full.
    #[inline]
    pub(crate) fn full(&self) -> usize {
        self.full.len()
    }

    /// Returns a batch that is full.
    pub(crate) fn next_full(&mut self) -> Option<Batch> {
        self.full.pop_front()
    }

    /// Makes a batch of the rows so far.
    pub(crate) fn seal(&mut self) {
        if self.rows > 0 {
            self.full.push_back(Batch {
                rows: std::mem::take(&mut self.rows),
                columns: R::take(&mut self.builder),
            });
        }
    }
}

/// Reads the column at `position`; called by what `#[derive(Row)]` writes.
#[doc(hidden)]
pub fn __view<'a, V: Value>(
    batch: &'a Batch,
    fields: &[Field],
    position: usize,
) -> Result<V::View<'a>, Failure> {
    let (column, field) = (&batch.columns[position], &fields[position]);
    let rows = batch.rows as usize;
    if let (false, Some(validity)) = (V::NULLABLE, &column.validity)
        && let Some(row) = (0..rows).find(|&row| !bit(validity, row))
    {
        return Err(Failure::new(
            "unexpected-null",
            format!(
                "column \"{}\" is NULL in row {} of a batch",
                field.name,
                row + 1
            ),
        )
        .with_help("Let the field be an `Option`, or leave such rows out of the SELECT."));
    }
    V::view(column, field, rows).ok_or_else(|| {
        Failure::new(
            "contract",
            format!(
                "the host sent column \"{}\" in a form that it did not announce",
                field.name
            ),
        )
    })
}

/// Checks a batch against the fields that were declared for it: as many columns and values, offsets in order, UTF-8,
/// and no NULL where there can be none.
///
/// # Errors
///
/// A sentence that names the field and, where it is about a value, the row.
pub fn check(fields: &[Field], batch: &Batch) -> Result<(), String> {
    let rows = batch.rows as usize;
    if batch.columns.len() != fields.len() {
        return Err(format!(
            "the batch has {} columns, expected {}",
            batch.columns.len(),
            fields.len()
        ));
    }
    for (field, column) in fields.iter().zip(&batch.columns) {
        check_column(field, column, rows)
            .map_err(|problem| format!("\"{}\" {problem}", field.name))?;
    }
    Ok(())
}

fn check_column(field: &Field, column: &Column, rows: usize) -> Result<(), String> {
    if types::layout_of(&column.values) != field.layout {
        return Err("is not in the layout that was declared".to_owned());
    }
    if let Some(validity) = &column.validity {
        if validity.len() != rows.div_ceil(8) {
            return Err(format!(
                "has {} bytes of validity for {rows} rows",
                validity.len()
            ));
        }
        if !field.nullable
            && let Some(row) = (0..rows).find(|&row| !bit(validity, row))
        {
            return Err(format!("is NULL in row {}, though it cannot be", row + 1));
        }
    }
    let values = types::length(&column.values, rows);
    if values != rows {
        return Err(format!("has {values} values for {rows} rows"));
    }
    let columnar::Values::Varlen(varlen) = &column.values else {
        return Ok(());
    };
    for (row, ends) in varlen.offsets.windows(2).enumerate() {
        let value = varlen.data.get(ends[0] as usize..ends[1] as usize);
        let value = value.ok_or_else(|| format!("has offsets out of order in row {}", row + 1))?;
        if field.type_oid != types::BYTEA && std::str::from_utf8(value).is_err() {
            return Err(format!("is no UTF-8 in row {}", row + 1));
        }
    }
    Ok(())
}

/// Whether bit `at` is set, least significant first.
#[inline(always)]
pub(crate) fn bit(bits: &[u8], at: usize) -> bool {
    bits[at / 8] >> (at % 8) & 1 == 1
}
