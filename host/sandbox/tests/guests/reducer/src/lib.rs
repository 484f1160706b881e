//! A reducer that does what its settings say: `{"do":"echo"}`. Tests of the sandbox and of whole runs use it.

use std::cell::{Cell, RefCell};
use std::hint::black_box;

wit_bindgen::generate!({ path: "../../../../../sdk/wit", world: "reducer" });

use exports::stepwell::step::reducing::{
    Answer, Batch, Failure, Field, Guest, GuestReducer, Reducer, RunInfo, ShapeReply,
};
use serde_json::Value;
use stepwell::step::columnar::{Column, Layout, Values, Varlen};
use stepwell::step::log;
use stepwell::step::plans::{Publication, Question};
use stepwell::step::shapes::Shape;
use stepwell::step::types::Param;

const DESCRIPTION: &[u8] = br#"{"name":"guest-reducer","version":"1.2.3","kind":"reducer",
"contract":"0.1.0","summary":"Does what its settings say.","reads":["events"],"settings":{"type":"object",
"additionalProperties":false,"required":["into"],"properties":{
"into":{"type":"string","x-stepwell":"writes-scratch"},
"from":{"type":"array","items":{"type":"string","x-stepwell":"reads-scratch"}},
"do":{"type":"string"},"size":{"type":"integer"},"select":{"type":"string"},"params":{"type":"array"},
"reads":{"type":"array"},"target":{"type":"string"},
"key":{"type":"array"},"order-by":{"type":"array"},"output":{"type":"array"}}}}"#;

#[unsafe(link_section = "stepwell:step")]
#[used]
static SECTION: [u8; DESCRIPTION.len()] = *DESCRIPTION.first_chunk().expect("its own length");

/// Rows that are given at once, at the end or bit by bit.
const LATE_ROWS: usize = 1000;

struct Step;

export!(Step);

impl Guest for Step {
    type Reducer = State;

    fn shape_of(run: RunInfo, answers: Vec<Answer>) -> Result<ShapeReply, Failure> {
        let with = settings(&run);
        if with["do"] == "ask" && answers.is_empty() {
            let question = Question {
                label: "count".to_owned(),
                sql: "SELECT 1".to_owned(),
                params: Vec::new(),
            };
            return Ok(ShapeReply::Ask(vec![question]));
        }
        if with["do"] == "fail-shape" {
            return Err(failure("no such column"));
        }
        if with["do"] == "spin-shape" {
            spin();
        }
        let select = with["select"].as_str().unwrap_or("SELECT 1 AS id").to_owned();
        // Names of scratch tables are not known to who writes the settings.
        let select = run.relations.iter().fold(select, |select, relation| {
            let table = format!("{}.{}", relation.schema, relation.name);
            select.replace(&format!("{{{{{}}}}}", relation.alias), &table)
        });
        let reads = run.relations.iter().filter(|relation| names(&with, "from").contains(&relation.alias));
        let reads = reads.map(|relation| format!("{}.{}", relation.schema, relation.name));
        Ok(ShapeReply::Ready(Shape {
            select_sql: select,
            params: names(&with, "params").into_iter().map(Param::Text).collect(),
            reads: names(&with, "reads").into_iter().chain(reads).collect(),
            key: names(&with, "key"),
            order_by: names(&with, "order-by"),
            output: fields(&with),
            target: with["target"].as_str().or(with["into"].as_str()).unwrap_or("out").to_owned(),
            publishes: vec![Publication {
                alias: with["into"].as_str().unwrap_or("out").to_owned(),
                about: r#"{"from":"guest"}"#.to_owned(),
            }],
            notes: vec!["a remark".to_owned()],
        }))
    }
}

fn failure(message: &str) -> Failure {
    Failure {
        code: "no-column".to_owned(),
        message: message.to_owned(),
        setting: Some("/select".to_owned()),
        help: None,
        retryable: false,
    }
}

fn settings(run: &RunInfo) -> Value {
    serde_json::from_str(&run.settings_json).expect("settings are JSON")
}

fn names(with: &Value, key: &str) -> Vec<String> {
    let list = with[key].as_array().into_iter().flatten();
    list.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// `[name, OID, layout]`, with a `not null` at the end where it is; by default those of a fold.
fn fields(with: &Value) -> Vec<Field> {
    let field = |name: &str, type_oid, layout: &str, nullable| Field {
        name: name.to_owned(),
        type_oid,
        type_mod: -1,
        layout: match layout {
            "bits" => Layout::Bits,
            "int16" => Layout::Int16,
            "int32" => Layout::Int32,
            "int64" => Layout::Int64,
            "single" => Layout::Single,
            "double" => Layout::Double,
            "fixed16" => Layout::Fixed16,
            _ => Layout::Varlen,
        },
        nullable,
    };
    let Some(given) = with["output"].as_array() else {
        return vec![
            field("key", 25, "varlen", true),
            field("rows", 20, "int64", false),
            field("digest", 20, "int64", false),
        ];
    };
    let one = |given: &Value| {
        let oid = given[1].as_u64().unwrap_or(0) as u32;
        let text = |at: usize| given[at].as_str().unwrap_or_default();
        field(text(0), oid, text(2), text(3) != "not null")
    };
    given.iter().map(one).collect()
}

struct State {
    what: String,
    size: usize,
    /// Columns of the key.
    key: Vec<usize>,
    fold: RefCell<Fold>,
    /// Rows that are still to be given.
    left: Cell<usize>,
}

/// Groups that are folded, and the one that goes on.
#[derive(Default)]
struct Fold {
    open: Option<Group>,
    done: Vec<Group>,
}

#[derive(Clone, PartialEq)]
struct Group {
    /// The key's bytes; `None` for a part that is NULL.
    key: Vec<Option<Vec<u8>>>,
    rows: i64,
    /// Over all values of all rows in their order.
    digest: u64,
}

impl GuestReducer for State {
    fn open(run: RunInfo, input: Vec<Field>) -> Result<Reducer, Failure> {
        let with = settings(&run);
        match with["do"].as_str() {
            Some("fail-open") => return Err(failure("cannot open")),
            Some("panic-open") => panic!("the reducer did not open"),
            Some("spin-open") => spin(),
            _ => {}
        }
        let key = names(&with, "key");
        let at = |name: &String| input.iter().position(|field| field.name == *name);
        Ok(Reducer::new(Self {
            what: with["do"].as_str().unwrap_or("echo").to_owned(),
            size: with["size"].as_u64().unwrap_or(0) as usize,
            key: key.iter().filter_map(at).collect(),
            fold: RefCell::default(),
            left: Cell::new(0),
        }))
    }

    fn push(&self, mut input: Batch, continues: bool) -> Result<Option<Batch>, Failure> {
        match self.what.as_str() {
            "fold" | "fold-late" => {
                self.add(&input, continues);
                return Ok(match self.what.as_str() {
                    "fold" => Some(given(self.fold.borrow_mut().done.drain(..))),
                    _ => None,
                });
            }
            "discard" => return Ok(None),
            // Every buffer is read and written once.
            "copy" => return Ok(Some(copy(&input))),
            "fail-push" => return Err(failure("cannot push")),
            "panic" => panic!("the reducer gave up"),
            "spin" => spin(),
            "flood" => {
                for n in 0..self.size {
                    log::emit(log::Level::Warn, &format!("line {n} {}", "x".repeat(1000)), &[]);
                    eprintln!("and {n}");
                }
            }
            "handles" => {
                let input: Vec<Field> = Vec::new();
                let opened = (0..self.size).map(|_| {
                    Reducer::new(Self {
                        what: String::new(),
                        size: input.len(),
                        key: Vec::new(),
                        fold: RefCell::default(),
                        left: Cell::new(0),
                    })
                });
                black_box(opened.collect::<Vec<_>>());
            }
            "hoard" => std::mem::forget(black_box(vec![1_u8; self.size])),
            "short" => {
                if let Values::Int64(values) = &mut input.columns[0].values {
                    values.pop();
                }
            }
            "more-rows" => input.rows += 1,
            "fewer-columns" => drop(input.columns.pop()),
            "nulls" => input.columns[0].validity = Some(vec![0xfb; input.rows.div_ceil(8) as usize]),
            "short-bitmap" => input.columns[0].validity = Some(Vec::new()),
            "wrong-layout" => {
                input.columns[0].values = Values::Int16(vec![0; input.rows as usize]);
            }
            "no-utf8" | "zero-byte" | "falling-offsets" | "far-offsets" => spoil(&self.what, &mut input),
            "multiply" => return Ok(Some(sevens(input.rows as usize * self.size))),
            "dole" => {
                let left = self.left.get() + input.rows as usize * self.size;
                let given = left.min(LATE_ROWS);
                self.left.set(left - given);
                return Ok((given > 0).then(|| sevens(given)));
            }
            _ => {}
        }
        Ok(Some(input))
    }

    fn finish(&self) -> Result<Option<Batch>, Failure> {
        match self.what.as_str() {
            "empty-finish" => Ok(Some(Batch {
                rows: 0,
                columns: vec![Column {
                    validity: None,
                    values: Values::Int64(Vec::new()),
                }],
            })),
            "endless" => Ok(Some(sevens(65_536))),
            "dole" if self.left.get() > 0 => Err(failure("rows have piled up")),
            "fold-late" => {
                let done = &mut self.fold.borrow_mut().done;
                let count = done.len().min(LATE_ROWS);
                Ok((count > 0).then(|| given(done.drain(..count))))
            }
            "fail-finish" => Err(failure("cannot finish")),
            "spin-finish" => spin(),
            "panic-finish" => panic!("the reducer did not finish"),
            "huge-finish" => Ok(Some(sevens(self.size))),
            _ => Ok(None),
        }
    }
}

impl State {
    fn add(&self, input: &Batch, continues: bool) {
        let mut fold = self.fold.borrow_mut();
        for row in 0..input.rows as usize {
            let key: Vec<Option<Vec<u8>>> = self.key.iter().map(|&at| bytes(&input.columns[at], row)).collect();
            if fold.open.as_ref().is_none_or(|open| open.key != key) {
                let group = Group {
                    key,
                    rows: 0,
                    digest: 0xcbf2_9ce4_8422_2325,
                };
                let whole = fold.open.replace(group);
                fold.done.extend(whole);
            }
            let open = fold.open.as_mut().expect("just made");
            open.rows += 1;
            for column in &input.columns {
                let value = bytes(column, row);
                mix(&mut open.digest, &[u8::from(value.is_none())]);
                mix(&mut open.digest, &value.unwrap_or_default());
            }
        }
        if !continues {
            let whole = fold.open.take();
            fold.done.extend(whole);
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.what == "spin-drop" {
            spin();
        }
    }
}

fn spin() -> ! {
    loop {
        black_box(());
    }
}

/// A batch of one column of numbers.
fn sevens(rows: usize) -> Batch {
    Batch {
        rows: rows as u32,
        columns: vec![Column {
            validity: None,
            values: Values::Int64(vec![7; rows]),
        }],
    }
}

fn mix(digest: &mut u64, bytes: &[u8]) {
    for byte in bytes {
        *digest = (*digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
}

fn bytes(column: &Column, row: usize) -> Option<Vec<u8>> {
    if column.validity.as_ref().is_some_and(|bits| bits[row / 8] & (1 << (row % 8)) == 0) {
        return None;
    }
    Some(match &column.values {
        Values::Bits(bits) => vec![bits[row / 8] >> (row % 8) & 1],
        Values::Int16(values) => values[row].to_le_bytes().to_vec(),
        Values::Int32(values) => values[row].to_le_bytes().to_vec(),
        Values::Int64(values) => values[row].to_le_bytes().to_vec(),
        Values::Single(values) => values[row].to_le_bytes().to_vec(),
        Values::Double(values) => values[row].to_le_bytes().to_vec(),
        Values::Fixed16(values) => values[16 * row..16 * row + 16].to_vec(),
        Values::Varlen(values) => {
            values.data[values.offsets[row] as usize..values.offsets[row + 1] as usize].to_vec()
        }
    })
}

/// Groups as rows: the first part of the key as text, or in hexadecimal where it is none.
fn given(groups: impl Iterator<Item = Group>) -> Batch {
    let (mut validity, mut offsets, mut data) = (Vec::new(), vec![0], Vec::new());
    let (mut rows, mut digests) = (Vec::new(), Vec::new());
    for (at, group) in groups.enumerate() {
        if at % 8 == 0 {
            validity.push(0);
        }
        if let Some(key) = &group.key[0] {
            validity[at / 8] |= 1 << (at % 8);
            match std::str::from_utf8(key) {
                Ok(text) if !key.contains(&0) => data.extend_from_slice(text.as_bytes()),
                _ => key.iter().for_each(|byte| data.extend_from_slice(format!("{byte:02x}").as_bytes())),
            }
        }
        offsets.push(data.len() as u32);
        rows.push(group.rows);
        digests.push(group.digest as i64);
    }
    let column = |validity, values| Column { validity, values };
    Batch {
        rows: rows.len() as u32,
        columns: vec![
            column(Some(validity), Values::Varlen(Varlen { offsets, data })),
            column(None, Values::Int64(rows)),
            column(None, Values::Int64(digests)),
        ],
    }
}

fn copy(input: &Batch) -> Batch {
    let values = |values: &Values| match values {
        Values::Bits(values) => Values::Bits(values.clone()),
        Values::Int16(values) => Values::Int16(values.clone()),
        Values::Int32(values) => Values::Int32(values.clone()),
        Values::Int64(values) => Values::Int64(values.clone()),
        Values::Single(values) => Values::Single(values.clone()),
        Values::Double(values) => Values::Double(values.clone()),
        Values::Fixed16(values) => Values::Fixed16(values.clone()),
        Values::Varlen(values) => Values::Varlen(Varlen {
            offsets: values.offsets.clone(),
            data: values.data.clone(),
        }),
    };
    let column = |column: &Column| Column {
        validity: column.validity.clone(),
        values: values(&column.values),
    };
    Batch {
        rows: input.rows,
        columns: input.columns.iter().map(column).collect(),
    }
}

fn spoil(what: &str, input: &mut Batch) {
    for column in &mut input.columns {
        if let Values::Varlen(values) = &mut column.values {
            match what {
                "no-utf8" => *values.data.last_mut().expect("a byte") = 0xff,
                "zero-byte" => *values.data.last_mut().expect("a byte") = 0,
                "falling-offsets" => values.offsets[1] = u32::MAX,
                _ => *values.offsets.last_mut().expect("an offset") += 1,
            }
        }
    }
}
