//! Made-up rows in batches as the host cuts them, for what is measured without a database.

use stepwell_sandbox::contract::{Batch, Column, Field, Layout, Values, Varlen};

/// Rows of one visitor's day.
const GROUP_ROWS: u32 = 16;

/// 2024-01-01 in days and in microseconds, both from 1970-01-01.
const DAY: i32 = 19_723;
const DAY_US: i64 = 1_704_067_200_000_000;

/// `visitor text, name text, at timestamp, flag boolean, n bigint`, none of them NULL.
pub fn five_fields() -> Vec<Field> {
    vec![
        field("visitor", 25, Layout::Varlen, false),
        field("name", 25, Layout::Varlen, false),
        field("at", 1114, Layout::Int64, false),
        field("flag", 16, Layout::Bits, false),
        field("n", 20, Layout::Int64, false),
    ]
}

/// What `engaged-time` asks for.
pub fn event_fields() -> Vec<Field> {
    vec![
        field("visitor", 25, Layout::Varlen, true),
        field("day", 1082, Layout::Int32, true),
        field("at", 1114, Layout::Int64, true),
        field("event", 25, Layout::Varlen, true),
        field("source_time", 1114, Layout::Int64, true),
    ]
}

/// What `engaged-time` gives.
pub fn engaged_day_fields() -> Vec<Field> {
    let number = |name| field(name, 20, Layout::Int64, false);
    vec![
        field("visitor", 25, Layout::Varlen, false),
        field("day", 1082, Layout::Int32, false),
        number("page_views"),
        number("page_pings"),
        number("engaged_seconds"),
        number("longest_streak_seconds"),
        field("bounced", 16, Layout::Bits, false),
        field("first_time", 1114, Layout::Int64, false),
    ]
}

fn field(name: &str, type_oid: u32, layout: Layout, nullable: bool) -> Field {
    Field {
        name: name.to_owned(),
        type_oid,
        type_mod: -1,
        layout,
        nullable,
    }
}

/// Batches of the five fields with so many rows in all, each with at most `batch_rows`.
pub fn five_columns(rows: u32, batch_rows: u32) -> Vec<Batch> {
    batches(rows, batch_rows, |from, to| {
        vec![
            texts((from..to).map(visitor)),
            texts((from..to).map(|row| event(row).to_owned())),
            column(Values::Int64((from..to).map(at).collect())),
            column(Values::Bits(bits((from..to).map(|row| row % 3 == 0)))),
            column(Values::Int64((from..to).map(i64::from).collect())),
        ]
    })
}

/// Batches of events, each visitor with one day, whole.
pub fn events(rows: u32, batch_rows: u32) -> Vec<Batch> {
    batches(rows, batch_rows, |from, to| {
        vec![
            texts((from..to).map(visitor)),
            column(Values::Int32(vec![DAY; (to - from) as usize])),
            column(Values::Int64((from..to).map(at).collect())),
            texts((from..to).map(|row| event(row).to_owned())),
            column(Values::Int64((from..to).map(at).collect())),
        ]
    })
}

fn batches(rows: u32, batch_rows: u32, columns: impl Fn(u32, u32) -> Vec<Column>) -> Vec<Batch> {
    let starts = (0..rows).step_by(batch_rows as usize);
    let batch = |from: u32| {
        let to = (from + batch_rows).min(rows);
        Batch {
            rows: to - from,
            columns: columns(from, to),
        }
    };
    starts.map(batch).collect()
}

/// As long as the UUIDs that trackers give to visitors.
fn visitor(row: u32) -> String {
    format!("{:08x}-9f3b-4c52-8d6e-27d1c0a4b5e6", row / GROUP_ROWS)
}

fn event(row: u32) -> &'static str {
    match row % 4 {
        0 => "page_view",
        3 => "link_click",
        _ => "page_ping",
    }
}

/// Every seven seconds, so that the windows of pings overlap or do not.
fn at(row: u32) -> i64 {
    DAY_US + i64::from(row % GROUP_ROWS) * 7_000_000
}

fn column(values: Values) -> Column {
    Column {
        validity: None,
        values,
    }
}

fn texts(values: impl Iterator<Item = String>) -> Column {
    let (mut offsets, mut data) = (vec![0], Vec::new());
    for value in values {
        data.extend_from_slice(value.as_bytes());
        offsets.push(u32::try_from(data.len()).expect("a batch is small"));
    }
    column(Values::Varlen(Varlen { offsets, data }))
}

fn bits(values: impl Iterator<Item = bool>) -> Vec<u8> {
    let values: Vec<bool> = values.collect();
    let byte = |bits: &[bool]| {
        let bits = bits.iter().enumerate();
        bits.fold(0, |byte, (at, bit)| byte | u8::from(*bit) << at)
    };
    values.chunks(8).map(byte).collect()
}
