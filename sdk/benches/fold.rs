//! How fast rows are folded, natively: `cargo bench -p stepwell-sdk`. Groups of 20 rows of five columns, in full batches.

#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

use stepwell_sdk::batch::{ROWS_MAX, fields};
use stepwell_sdk::columnar::Batch;
use stepwell_sdk::planner::Run;
use stepwell_sdk::reducer::{BatchReducer, Folding, Out, Reducer};
use stepwell_sdk::values::{Date, Timestamp};
use stepwell_sdk::{Failure, Row, testing};

const BATCHES: usize = 200;
const GROUP_ROWS: u32 = 20;

#[derive(Row)]
struct Event<'a> {
    #[row(key)]
    visitor: &'a str,
    #[row(key)]
    day: Date,
    #[row(order)]
    at: Timestamp,
    event: Option<&'a str>,
    amount: i64,
}

#[derive(Row)]
struct Day<'a> {
    visitor: &'a str,
    day: Date,
    pings: i64,
    amount: i64,
    last: Timestamp,
}

#[derive(Default)]
struct Total {
    pings: i64,
    amount: i64,
    last: Timestamp,
}

impl Reducer for Total {
    type With = serde_json::Value;
    type Input = Event<'static>;
    type Output = Day<'static>;

    fn begin(_: &Rc<serde_json::Value>) -> Self {
        Self::default()
    }

    fn fold(&mut self, row: Event<'_>, _: &mut Out<Self::Output>) -> Result<(), Failure> {
        self.pings += i64::from(row.event == Some("page_ping"));
        self.amount += row.amount;
        self.last = self.last.max(row.at);
        Ok(())
    }

    fn finish(self, last: Event<'_>, out: &mut Out<Self::Output>) -> Result<(), Failure> {
        out.push(Day {
            visitor: last.visitor,
            day: last.day,
            pings: self.pings,
            amount: self.amount,
            last: self.last,
        });
        Ok(())
    }
}

fn batch() -> Batch {
    let mut builder = Event::builder();
    for row in 0..ROWS_MAX {
        let visitor = format!("{:032x}", row / GROUP_ROWS);
        let event = match row % 5 {
            0 => None,
            1 => Some("page_view"),
            _ => Some("page_ping"),
        };
        Event::push(
            &mut builder,
            Event {
                visitor: &visitor,
                day: Date(20_000),
                at: Timestamp(row.into()),
                event,
                amount: row.into(),
            },
        );
    }
    Batch {
        rows: ROWS_MAX,
        columns: Event::take(&mut builder),
    }
}

fn main() {
    let batch = batch();
    let run = Run::new(testing::run_info("null")).expect("a run of the test kit");
    let mut reducer = Folding::<Total>::open(&run, serde_json::Value::Null, fields::<Event<'_>>())
        .expect("its own columns");
    // Copies are made before the clock starts: the host's copy into the component is not what is measured here.
    let mut batches: Vec<_> = (0..BATCHES).map(|_| batch.clone()).collect();
    let begun = Instant::now();
    for batch in batches.drain(..) {
        black_box(reducer.push(batch, false).expect("no failure"));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let rows = BATCHES as f64 * f64::from(ROWS_MAX);
    println!(
        "{:.1} million rows a second, {:.1} ns a row",
        rows / seconds / 1e6,
        seconds / rows * 1e9
    );
}
