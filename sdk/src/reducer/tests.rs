use std::rc::Rc;

use super::*;
use crate::batch::check;
use crate::columnar::{Column, Layout, Values, Varlen};
use crate::testing::{Dice, Reduction};
use crate::values::{Date, Decimal, Json, Timestamp, TimestampTz};

#[derive(serde::Deserialize)]
struct With {
    #[serde(default)]
    copies: i64,
}

#[derive(Row)]
struct Event<'a> {
    #[row(key)]
    visitor: Option<&'a str>,
    #[row(key)]
    day: Date,
    #[row(order)]
    at: Timestamp,
    amount: i64,
    name: &'a str,
}

#[derive(Row)]
struct Total<'a> {
    visitor: Option<&'a str>,
    day: Date,
    amount: i64,
    names: String,
}

/// Sums, puts names together in their order, and gives a row `copies` times.
struct Sum {
    copies: i64,
    amount: i64,
    names: String,
}

impl Reducer for Sum {
    type With = With;
    type Input = Event<'static>;
    type Output = Total<'static>;

    fn begin(with: &Rc<With>) -> Self {
        Self {
            copies: with.copies,
            amount: 0,
            names: String::new(),
        }
    }

    fn fold(&mut self, row: Event<'_>, _: &mut Out<Self::Output>) -> Result<(), Failure> {
        self.amount = self
            .amount
            .checked_add(row.amount)
            .ok_or_else(|| Failure::new("too-much", "the sum is larger than a bigint"))?;
        self.names.push_str(row.name);
        Ok(())
    }

    fn finish(self, last: Event<'_>, out: &mut Out<Self::Output>) -> Result<(), Failure> {
        for _ in 0..=self.copies {
            out.push(Total {
                visitor: last.visitor,
                day: last.day,
                amount: self.amount,
                names: self.names.clone(),
            });
        }
        Ok(())
    }
}

const EVENTS: &str = "
    visitor | day        | at                  | amount | name
    b       | 2024-01-01 | 2024-01-01 10:00:00 | 1      | x
    a       | 2024-01-02 | 2024-01-02 10:00:00 | 2      | y
    NULL    | 2024-01-02 | 2024-01-02 10:00:00 | 3      | ''
    a       | 2024-01-01 | 2024-01-01 11:00:00 | 4      | q
    a       | 2024-01-01 | 2024-01-01 10:00:00 | 5      | p
    ''      | 2024-01-02 | 2024-01-02 10:00:00 | 6      | é
    NULL    | 2024-01-02 | 2024-01-02 11:00:00 | 7      | z";

#[test]
fn rows_are_folded_by_group_and_in_order() {
    let reduction = Reduction::of::<Sum>("{}").table(EVENTS);
    reduction.check_table(
        "visitor | day        | amount | names
         a       | 2024-01-01 | 9      | pq
         a       | 2024-01-02 | 2      | y
         b       | 2024-01-01 | 1      | x
         ''      | 2024-01-02 | 6      | é
         NULL    | 2024-01-02 | 10     | z",
    );
    reduction.check_invariance(7);
}

#[test]
fn rows_may_be_structs() {
    let event = |visitor, day, at, name| Event {
        visitor,
        day: Date(day),
        at: Timestamp(at),
        amount: 1,
        name,
    };
    let total = |visitor, day, amount, names: &str| Total {
        visitor,
        day: Date(day),
        amount,
        names: names.to_owned(),
    };
    Reduction::of::<Sum>("{}")
        .rows::<Event<'_>>([
            event(Some("a"), 0, 2, "y"),
            event(Some("a"), 0, 1, "x"),
            event(None, 0, 0, "z"),
        ])
        .check_rows::<Total<'_>>([total(None, 0, 1, "z"), total(Some("a"), 0, 2, "xy")]);
}

/// What depends on rows that are equal in key and order is found, and so is what a batch cuts off.
#[test]
fn a_reducer_that_depends_on_the_way_is_caught() {
    let equal = "
        visitor | day        | at                  | amount | name
        a       | 2024-01-01 | 2024-01-01 10:00:00 | 1      | x
        a       | 2024-01-01 | 2024-01-01 10:00:00 | 1      | y";
    let order = Reduction::of::<Sum>("{}").table(equal);
    let caught = std::panic::catch_unwind(|| order.check_invariance(1)).unwrap_err();
    let message = caught.downcast_ref::<String>().expect("a message");
    assert!(
        message.contains("equal in key and order") && message.contains("a row is"),
        "{message}"
    );

    /// Counts the rows of a batch, which is what `continues` is there to prevent.
    struct PerBatch(Option<Batch>);
    impl BatchReducer for PerBatch {
        type With = With;
        fn open(_: &Run, _: With, _: Vec<Field>) -> Result<Self, Failure> {
            Ok(Self(None))
        }
        fn push(&mut self, batch: Batch, _: bool) -> Result<Option<Batch>, Failure> {
            if batch.rows == 0 {
                return Ok(None);
            }
            let values = Values::Int64(vec![batch.rows.into()]);
            let column = Column {
                validity: None,
                values,
            };
            Ok(Some(Batch {
                rows: 1,
                columns: vec![column],
            }))
        }
        fn finish(&mut self) -> Result<Option<Batch>, Failure> {
            Ok(self.0.take())
        }
    }
    let output = vec![Field {
        name: "rows".into(),
        type_oid: 20,
        type_mod: -1,
        layout: Layout::Int64,
        nullable: false,
    }];
    let cut = Reduction::of_batches::<PerBatch>(
        "{}",
        fields::<Event<'_>>(),
        &["visitor", "day"],
        &["at"],
        output,
    )
    .table(EVENTS);
    cut.check_table("rows\n7");
    let caught = std::panic::catch_unwind(|| cut.check_invariance(1)).unwrap_err();
    assert!(
        caught
            .downcast_ref::<String>()
            .expect("a message")
            .contains("a row is")
    );
}

#[test]
fn output_leaves_in_bounded_batches() {
    let input = fields::<Event<'_>>();
    let mut batches = Vec::new();
    let mut reducer =
        Folding::<Sum>::new(With { copies: 6 }, input.clone(), 5).expect("its columns");
    for at in 0..4 {
        batches.extend(reducer.push(one(at), false).expect("no failure"));
    }
    while let Some(batch) = reducer.finish().expect("no failure") {
        batches.push(batch);
    }
    let rows: Vec<_> = batches.iter().map(|batch| batch.rows).collect();
    assert_eq!(rows, [5, 5, 5, 5, 5, 3]);
    for batch in &batches {
        assert_eq!(check(&fields::<Total<'_>>(), batch), Ok(()));
    }

    // Few rows, but many bytes.
    let mut reducer =
        Folding::<Sum>::new(With { copies: 0 }, input, ROWS_MAX).expect("its columns");
    let mut wide = one(0);
    let text = "x".repeat(3 << 20);
    wide.columns[4].values = Values::Varlen(Varlen {
        offsets: vec![0, text.len() as u32],
        data: text.into_bytes(),
    });
    let full: Vec<_> = (0..4)
        .filter_map(|_| reducer.push(wide.clone(), false).expect("no failure"))
        .collect();
    assert_eq!(full.iter().map(|batch| batch.rows).collect::<Vec<_>>(), [3]);
    assert_eq!(
        reducer
            .finish()
            .expect("no failure")
            .expect("the rest")
            .rows,
        1
    );
    assert_eq!(reducer.finish().expect("no failure"), None);
}

/// A reducer that makes much of little gives it bit by bit, and goes on with its input only once that is taken.
///
/// One batch was folded to its end before anything left, so that all it came to piled up in the component.
#[test]
fn a_reducer_that_multiplies_rows_piles_nothing_up() {
    /// Gives each row `copies` times while it is folded, and once more in the end.
    struct Copies(i64);
    impl Reducer for Copies {
        type With = With;
        type Input = Event<'static>;
        type Output = Total<'static>;
        fn begin(with: &Rc<With>) -> Self {
            Self(with.copies)
        }
        fn fold(&mut self, row: Event<'_>, out: &mut Out<Self::Output>) -> Result<(), Failure> {
            (0..self.0).for_each(|_| out.push(total(&row)));
            Ok(())
        }
        fn finish(self, last: Event<'_>, out: &mut Out<Self::Output>) -> Result<(), Failure> {
            out.push(total(&last));
            Ok(())
        }
    }
    fn total<'a>(row: &Event<'a>) -> Total<'a> {
        Total {
            visitor: row.visitor,
            day: row.day,
            amount: row.amount,
            names: row.name.to_owned(),
        }
    }
    // 30 groups of 10 rows; the last goes on.
    let batch = || {
        let mut builder = Event::builder();
        for row in 0..300 {
            let event = Event {
                visitor: None,
                day: Date(row / 10),
                at: Timestamp(0),
                amount: row.into(),
                name: "n",
            };
            Event::push(&mut builder, event);
        }
        let columns = Event::take(&mut builder);
        Batch { rows: 300, columns }
    };
    let nothing = || Batch {
        rows: 0,
        columns: Event::take(&mut Event::builder()),
    };
    let open = || {
        Folding::<Copies>::new(With { copies: 7 }, fields::<Event<'_>>(), 5).expect("its columns")
    };
    let numbers = |batch: &Batch| match &batch.columns[2].values {
        Values::Int64(amounts) => amounts.clone(),
        _ => panic!("numbers"),
    };
    let expected: Vec<i64> = (0..300)
        .flat_map(|row| {
            let last = row % 10 == 9;
            vec![row; if last { 8 } else { 7 }]
        })
        .collect();

    let mut reducer = open();
    let mut amounts = Vec::new();
    let mut given = reducer.push(batch(), true).expect("no failure");
    while let Some(batch) = given {
        // What one call of `fold` gives is all that waits.
        assert!(reducer.out.full() <= 1, "{}", reducer.out.full());
        amounts.extend(numbers(&batch));
        given = reducer.push(nothing(), true).expect("no failure");
    }
    // The last group waits for what is still to come of it.
    assert_eq!(amounts.len() / 5, (expected.len() - 1) / 5);
    let rest = one_of(29, 1000);
    given = reducer.push(rest, false).expect("no failure");
    while let Some(batch) = given {
        amounts.extend(numbers(&batch));
        given = reducer.push(nothing(), false).expect("no failure");
    }
    while let Some(batch) = reducer.finish().expect("no failure") {
        amounts.extend(numbers(&batch));
    }
    let mut all = expected.clone();
    all.pop();
    all.extend([1000; 8]);
    assert_eq!(amounts, all);

    // A host that does not ask for the rest gets it with what comes later.
    let mut reducer = open();
    let mut amounts = Vec::new();
    amounts.extend(
        reducer
            .push(batch(), true)
            .expect("no failure")
            .iter()
            .flat_map(numbers),
    );
    let rest = one_of(29, 1000);
    amounts.extend(
        reducer
            .push(rest, false)
            .expect("no failure")
            .iter()
            .flat_map(numbers),
    );
    while let Some(batch) = reducer.finish().expect("no failure") {
        amounts.extend(numbers(&batch));
    }
    assert_eq!(amounts, all);
}

/// A batch of one row without a visitor.
fn one_of(day: i32, amount: i64) -> Batch {
    let mut builder = Event::builder();
    let row = Event {
        visitor: None,
        day: Date(day),
        at: Timestamp(0),
        amount,
        name: "n",
    };
    Event::push(&mut builder, row);
    Batch {
        rows: 1,
        columns: Event::take(&mut builder),
    }
}

/// A batch of one row, whose group is `at`.
fn one(at: i32) -> Batch {
    let mut builder = Event::builder();
    let row = Event {
        visitor: Some("a"),
        day: Date(at),
        at: Timestamp(0),
        amount: i64::MAX / 2,
        name: "n",
    };
    Event::push(&mut builder, row);
    Batch {
        rows: 1,
        columns: Event::take(&mut builder),
    }
}

#[test]
fn failures_name_the_group() {
    let mut reducer = Folding::<Sum>::new(With { copies: 0 }, fields::<Event<'_>>(), ROWS_MAX)
        .expect("its columns");
    reducer.push(one(1), true).expect("half is no overflow");
    reducer.push(one(1), true).expect("all but one");
    let failure = reducer.push(one(1), false).unwrap_err();
    assert_eq!(failure.code, "too-much");
    assert_eq!(
        failure.message,
        "the sum is larger than a bigint (in the group of visitor a, day 1970-01-02)"
    );
}

#[test]
fn a_host_that_breaks_its_word_is_told() {
    let open = || {
        Folding::<Sum>::new(With { copies: 0 }, fields::<Event<'_>>(), ROWS_MAX)
            .expect("its columns")
    };
    let mut reducer = open();
    reducer.push(one(1), true).expect("no failure");
    assert_eq!(
        reducer.push(one(2), false).unwrap_err().message,
        "a group that was to go on did not"
    );
    let mut reducer = open();
    reducer.push(one(1), true).expect("no failure");
    assert_eq!(
        reducer.finish().unwrap_err().message,
        "the rows ended within a group"
    );
    // Nothing at all is fine.
    assert_eq!(open().finish(), Ok(None));
}

#[test]
fn columns_that_do_not_fit_are_all_named() {
    let mut input = fields::<Event<'_>>();
    input[1].type_oid = 1114;
    input[1].layout = Layout::Int64;
    input[3].type_oid = 23;
    input[3].layout = Layout::Int32;
    input.remove(4);
    input[0].type_oid = 1043;
    let failure = Folding::<Sum>::new(With { copies: 0 }, input, ROWS_MAX)
        .err()
        .expect("a failure");
    assert_eq!(failure.code, "wrong-columns");
    assert_eq!(
        failure.message,
        "column \"day\" is timestamp, expected date; column \"amount\" is integer, expected bigint; \
         there is no column \"name\""
    );
}

#[test]
fn null_in_a_field_that_has_none_is_an_error() {
    let mut reducer = Folding::<Sum>::new(With { copies: 0 }, fields::<Event<'_>>(), ROWS_MAX)
        .expect("its columns");
    let mut batch = one(0);
    batch.columns[3].validity = Some(vec![0]);
    let failure = reducer.push(batch, false).unwrap_err();
    assert_eq!(
        failure.message,
        "column \"amount\" is NULL in row 1 of a batch"
    );
}

#[test]
fn keys_that_equal_in_many_forms_are_refused() {
    #[derive(Row)]
    struct ByAmount<'a> {
        #[row(key)]
        amount: Decimal<'a>,
    }
    let names: Vec<_> = ByAmount::FIELDS
        .iter()
        .filter(|spec| spec.key)
        .map(|spec| spec.name)
        .collect();
    let failure = Groups::by(&names, &fields::<ByAmount<'_>>()).unwrap_err();
    assert!(
        failure.message.contains("numeric, whose equal values"),
        "{failure:?}"
    );
    assert_eq!(
        Groups::by(&[], &fields::<ByAmount<'_>>()).unwrap_err().code,
        "no-key"
    );
    let view = |row: ByAmount<'_>| row.amount.0.len();
    assert_eq!(
        view(ByAmount {
            amount: Decimal("1")
        }),
        1
    );
}

#[derive(Row)]
struct Everything<'a> {
    #[row(key)]
    bit: Option<bool>,
    #[row(key)]
    small: i16,
    #[row(key)]
    int: Option<i32>,
    #[row(key)]
    single: f32,
    #[row(key)]
    double: Option<f64>,
    #[row(key, name = "Blob")]
    bytes: &'a [u8],
    #[row(key)]
    id: Option<[u8; 16]>,
    #[row(key)]
    zoned: TimestampTz,
    #[row(order)]
    amount: Decimal<'a>,
    json: Option<Json<'a>>,
    owned: Vec<u8>,
}

/// Gives its rows back, and counts them.
struct Echo(i64);

impl Reducer for Echo {
    type With = With;
    type Input = Everything<'static>;
    type Output = Everything<'static>;

    fn begin(_: &Rc<With>) -> Self {
        Self(0)
    }

    fn fold(&mut self, row: Everything<'_>, out: &mut Out<Self::Output>) -> Result<(), Failure> {
        self.0 += 1;
        out.push(row);
        Ok(())
    }

    fn finish(self, _: Everything<'_>, _: &mut Out<Self::Output>) -> Result<(), Failure> {
        Ok(())
    }
}

/// Every type goes in and out, as a key too, whatever the cuts.
#[test]
fn every_type_comes_back_as_it_was() {
    let mut dice = Dice::new(3);
    let texts: Vec<String> = (0..90)
        .map(|_| format!("{}.{}", dice.below(9), dice.below(9)))
        .collect();
    let row = |text: &'static str, dice: &mut Dice| {
        let few = dice.below(2);
        Everything {
            bit: (few == 0).then_some(dice.percent(50)),
            small: few as i16,
            int: dice.percent(50).then_some(few as i32),
            single: if few == 0 { 0.5 } else { f32::NAN },
            double: dice.percent(50).then_some(-(few as f64)),
            bytes: if few == 0 { b"" } else { b"\0\xff" },
            id: dice.percent(50).then_some([few as u8; 16]),
            zoned: TimestampTz(few as i64),
            amount: Decimal(text),
            json: dice.percent(50).then_some(Json("{}")),
            owned: vec![few as u8],
        }
    };
    let texts: Vec<&'static str> = texts.into_iter().map(|text| &*text.leak()).collect();
    let make = || {
        let mut dice = Dice::new(4);
        texts
            .iter()
            .map(|text| row(text, &mut dice))
            .collect::<Vec<_>>()
    };
    let reduction = Reduction::of::<Echo>("{}").rows::<Everything<'_>>(make());
    reduction.check_rows::<Everything<'_>>(make());
    reduction.check_invariance(5);
}

#[test]
fn a_fixed_length_text_comes_without_its_padding() {
    let mut input = fields::<Event<'_>>();
    input[4].type_oid = 1042;
    let mut reducer =
        Folding::<Sum>::new(With { copies: 0 }, input, ROWS_MAX).expect("its columns");
    let mut batch = one(0);
    batch.columns[4].values = Values::Varlen(Varlen {
        offsets: vec![0, 6],
        data: b" ab   ".to_vec(),
    });
    reducer.push(batch, false).expect("no failure");
    let out = reducer.finish().expect("no failure").expect("a row");
    let Values::Varlen(names) = &out.columns[3].values else {
        panic!("text");
    };
    assert_eq!(names.data, b" ab");
}

#[test]
fn wrong_output_names_field_and_row() {
    let declared = fields::<Total<'_>>();
    let good = {
        let mut builder = Total::builder();
        for names in ["x", "yz"] {
            let row = Total {
                visitor: None,
                day: Date(0),
                amount: 1,
                names: names.into(),
            };
            Total::push(&mut builder, row);
        }
        Batch {
            rows: 2,
            columns: Total::take(&mut builder),
        }
    };
    assert_eq!(check(&declared, &good), Ok(()));
    let wrong = |change: &dyn Fn(&mut Batch)| {
        let mut batch = good.clone();
        change(&mut batch);
        check(&declared, &batch).unwrap_err()
    };
    let names = |offsets: Vec<u32>, data: &[u8]| {
        Values::Varlen(Varlen {
            offsets,
            data: data.to_vec(),
        })
    };
    assert_eq!(
        wrong(&|b| b.rows = 3),
        "\"visitor\" has 2 values for 3 rows"
    );
    assert_eq!(
        wrong(&|b| b.columns[2].validity = Some(vec![1])),
        "\"amount\" is NULL in row 2, though it cannot be"
    );
    assert_eq!(
        wrong(&|b| b.columns[3].values = names(vec![0, 3, 1], b"xyz")),
        "\"names\" has offsets out of order in row 2"
    );
    assert_eq!(
        wrong(&|b| b.columns[3].values = names(vec![0, 1, 2], b"x\xff")),
        "\"names\" is no UTF-8 in row 2"
    );
    assert_eq!(
        wrong(&|b| b.columns[1].values = Values::Int64(vec![0, 0])),
        "\"day\" is not in the layout that was declared"
    );
    assert_eq!(
        wrong(&|b| b.columns.truncate(3)),
        "the batch has 3 columns, expected 4"
    );
}
