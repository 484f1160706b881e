//! A reducer that gives back what it gets.

use std::cell::Cell;

wit_bindgen::generate!({ path: "../../../../../sdk/wit", world: "reducer" });

use exports::stepwell::step::reducing::{
    Answer, Batch, Failure, Field, Guest, GuestReducer, Reducer, RunInfo, ShapeReply,
};
use stepwell::step::shapes::Shape;

const DESCRIPTION: &[u8] = br#"{"name":"guest-reducer","version":"1.2.3","kind":"reducer",
"contract":"0.1.0","summary":"Gives back what it gets.","settings":{}}"#;

#[unsafe(link_section = "stepwell:step")]
#[used]
static SECTION: [u8; DESCRIPTION.len()] = *DESCRIPTION.first_chunk().expect("its own length");

struct Step;

export!(Step);

impl Guest for Step {
    type Reducer = Echo;

    fn shape_of(_run: RunInfo, _answers: Vec<Answer>) -> Result<ShapeReply, Failure> {
        Ok(ShapeReply::Ready(Shape {
            select_sql: "select 1 as id".to_owned(),
            params: Vec::new(),
            reads: Vec::new(),
            key: vec!["id".to_owned()],
            order_by: Vec::new(),
            output: Vec::new(),
            target: "ids".to_owned(),
            publishes: Vec::new(),
            notes: Vec::new(),
        }))
    }
}

struct Echo {
    rows: Cell<u64>,
}

impl GuestReducer for Echo {
    fn open(_run: RunInfo, _input: Vec<Field>) -> Result<Reducer, Failure> {
        Ok(Reducer::new(Self { rows: Cell::new(0) }))
    }

    fn push(&self, input: Batch, _continues: bool) -> Result<Option<Batch>, Failure> {
        self.rows.set(self.rows.get() + u64::from(input.rows));
        Ok(Some(input))
    }

    fn finish(&self) -> Result<Option<Batch>, Failure> {
        Ok(None)
    }
}
