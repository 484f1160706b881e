//! `kept-reducer`: of each group its last row, a column of every type that a reducer may be given, and how many there were.
//!
//! It is kept as it was built for contract 0.1.0, so it uses as much of that contract as a step of the SDK can: a question,
//! a key, an order, every layout of a column, NULLs, and a group that goes on in the next batch.

use std::rc::Rc;

use stepwell_sdk::catalog;
use stepwell_sdk::planner::{Ask, Run, Stop};
use stepwell_sdk::reducer::{Out, Reducer, Select, Shape};
use stepwell_sdk::settings::{ReadTable, ScratchOutput};
use stepwell_sdk::values::{Date, Decimal, Json, Timestamp, TimestampTz};
use stepwell_sdk::{Failure, Row, Settings, export_reducer, sql};

/// Settings of `kept-reducer`.
#[derive(serde::Deserialize, Settings)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct With {
    /// The rows to fold.
    from: ReadTable,
    /// Takes one row a group.
    into: ScratchOutput,
}

/// A row that comes.
#[derive(Row)]
pub struct Input<'a> {
    #[row(key)]
    key: Option<&'a str>,
    #[row(order)]
    at: TimestampTz,
    #[row(order)]
    number: i32,
    bool: Option<bool>,
    small: Option<i16>,
    big: Option<i64>,
    single: Option<f32>,
    double: Option<f64>,
    text: Option<&'a str>,
    bytes: Option<&'a [u8]>,
    uuid: Option<[u8; 16]>,
    day: Option<Date>,
    time: Option<Timestamp>,
    amount: Option<Decimal<'a>>,
    document: Option<Json<'a>>,
}

/// A row that goes.
#[derive(Row)]
pub struct Output<'a> {
    key: Option<&'a str>,
    rows: i64,
    at: TimestampTz,
    number: i32,
    bool: Option<bool>,
    small: Option<i16>,
    big: Option<i64>,
    single: Option<f32>,
    double: Option<f64>,
    text: Option<&'a str>,
    bytes: Option<&'a [u8]>,
    uuid: Option<[u8; 16]>,
    day: Option<Date>,
    time: Option<Timestamp>,
    amount: Option<Decimal<'a>>,
    document: Option<Json<'a>>,
}

fn shape(_: &Run, with: &With, ask: &mut Ask<'_>) -> Result<Shape, Stop> {
    let from = &with.from.0;
    if ask.one(catalog::columns(from))?.is_empty() {
        return Err(Failure::new("missing-table", format!("table {from} does not exist")).into());
    }
    let rows = Select::new(sql!("SELECT * FROM {from}", from = from)).reads(from);
    Ok(Shape::of::<Last>(rows, &with.into))
}

/// How many rows of the group came so far.
pub struct Last {
    rows: i64,
}

impl Reducer for Last {
    type With = With;
    type Input = Input<'static>;
    type Output = Output<'static>;

    fn begin(_: &Rc<With>) -> Self {
        Self { rows: 0 }
    }

    fn fold(&mut self, _: Input<'_>, _: &mut Out<Self::Output>) -> Result<(), Failure> {
        self.rows += 1;
        Ok(())
    }

    fn finish(self, last: Input<'_>, out: &mut Out<Self::Output>) -> Result<(), Failure> {
        out.push(Output {
            key: last.key,
            rows: self.rows,
            at: last.at,
            number: last.number,
            bool: last.bool,
            small: last.small,
            big: last.big,
            single: last.single,
            double: last.double,
            text: last.text,
            bytes: last.bytes,
            uuid: last.uuid,
            day: last.day,
            time: last.time,
            amount: last.amount,
            document: last.document,
        });
        Ok(())
    }
}

export_reducer! {
    name: "kept-reducer",
    summary: "Gives the last row of each group, and how many there were",
    settings: With,
    shape: shape,
    fold: Last,
}
