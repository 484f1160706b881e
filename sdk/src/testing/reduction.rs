//! A reducer on rows that stand in the test.

use std::fmt;

use crate::Failure;
use crate::batch::{ROWS_MAX, Row, check, fields};
use crate::bindings::stepwell::step::types::RunInfo;
use crate::columnar::{Batch, Field};
use crate::reducer::{BatchReducer, Folding, Reducer};
use crate::testing::{Dice, run_info, table};

/// How often [`Reduction::check_invariance`] tries.
const TRIALS: u64 = 60;

/// Rows that a reducer may give for batches without rows before it is taken for one that never stops.
const ROWS_FOR_NOTHING_MAX: usize = 10_000_000;

/// A reducer with its settings and the rows that come to it.
///
/// It plays the host: orders the rows by key and order, gives them to one instance in one batch, asks for the rest of what
/// it makes of them, and holds what comes out against the declared fields. [`check_invariance`](Self::check_invariance) then cuts them in many other ways.
/// [`reducer`](crate::reducer) has an example.
pub struct Reduction {
    open: Open,
    run: RunInfo,
    input: Vec<Field>,
    output: Vec<Field>,
    key: Vec<String>,
    order: Vec<String>,
    rows: Batch,
}

type Open = fn(&RunInfo, &[Field]) -> Result<Box<dyn Instance>, Failure>;

fn open<B: BatchReducer + 'static>(
    run: &RunInfo,
    input: &[Field],
) -> Result<Box<dyn Instance>, Failure> {
    let reducer: B = crate::reducer::__open(run.clone(), input.to_vec())?;
    Ok(Box::new(reducer))
}

/// A reducer whose type is forgotten.
trait Instance {
    fn push(&mut self, batch: Batch, continues: bool) -> Result<Option<Batch>, Failure>;
    fn finish(&mut self) -> Result<Option<Batch>, Failure>;
}

impl<B: BatchReducer> Instance for B {
    fn push(&mut self, batch: Batch, continues: bool) -> Result<Option<Batch>, Failure> {
        BatchReducer::push(self, batch, continues)
    }

    fn finish(&mut self) -> Result<Option<Batch>, Failure> {
        BatchReducer::finish(self)
    }
}

impl fmt::Debug for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reduction")
            .field("key", &self.key)
            .field("order", &self.order)
            .field("rows", &self.rows.rows)
            .finish_non_exhaustive()
    }
}

impl Reduction {
    /// Returns the reducer `R` with the settings `with`, as JSON, and no rows.
    pub fn of<R: Reducer + 'static>(with: &str) -> Self {
        let marked = |wanted: fn(&crate::batch::FieldSpec) -> bool| -> Vec<&str> {
            R::Input::FIELDS
                .iter()
                .filter(|spec| wanted(spec))
                .map(|spec| spec.name)
                .collect()
        };
        Self::of_batches::<Folding<R>>(
            with,
            fields::<R::Input>(),
            &marked(|spec| spec.key),
            &marked(|spec| spec.order),
            fields::<R::Output>(),
        )
    }

    /// Returns a reducer of batches, which no structs describe: `input` and `output` are the fields of its rows, `key`
    /// and `order` what its shape says.
    pub fn of_batches<B: BatchReducer + 'static>(
        with: &str,
        input: Vec<Field>,
        key: &[&str],
        order: &[&str],
        output: Vec<Field>,
    ) -> Self {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            open: open::<B>,
            run: run_info(with),
            rows: table::read(&input, &names(&input).join("|")),
            input,
            output,
            key: owned(key),
            order: owned(order),
        }
    }

    /// Gives it the rows of a table, in any order. Cells are values as Postgres writes them, `NULL`, or `''`.
    ///
    /// # Panics
    ///
    /// If the table does not fit the input's fields.
    #[must_use]
    pub fn table(mut self, rows: &str) -> Self {
        self.rows = table::read(&self.input, rows);
        self
    }

    /// Gives it rows, in any order, as its input struct.
    ///
    /// # Panics
    ///
    /// If the fields of `I` are not those of the input.
    #[must_use]
    pub fn rows<'a, I: Row>(mut self, rows: impl IntoIterator<Item = I::Of<'a>>) -> Self {
        assert_eq!(
            fields::<I>(),
            self.input,
            "the rows are not those of the input"
        );
        self.rows = table::batch::<I>(rows);
        self
    }

    /// Returns what comes out, as a table.
    ///
    /// # Errors
    ///
    /// The reducer's own [`Failure`].
    ///
    /// # Panics
    ///
    /// If a batch that comes out does not fit the output's fields.
    pub fn outcome(&self) -> Result<String, Failure> {
        let rows = self.reduce(&self.whole())?;
        Ok(table::write(&names(&self.output), &rows))
    }

    /// Compares what comes out with a table, whose rows may stand in any order.
    ///
    /// # Panics
    ///
    /// If they differ, or the reducer fails.
    pub fn check_table(&self, expected: &str) {
        let (columns, rows) = table::cells(expected);
        assert_eq!(
            columns,
            names(&self.output),
            "the columns of the output are others"
        );
        let owned = |row: Vec<&str>| row.into_iter().map(str::to_owned).collect();
        let rows: Vec<_> = rows.into_iter().map(owned).collect();
        self.check(&rows);
    }

    /// Compares what comes out with rows of the output struct, in any order.
    ///
    /// # Panics
    ///
    /// If they differ, or the reducer fails.
    pub fn check_rows<'a, O: Row>(&self, expected: impl IntoIterator<Item = O::Of<'a>>) {
        assert_eq!(
            fields::<O>(),
            self.output,
            "the rows are not those of the output"
        );
        let batch = table::batch::<O>(expected);
        let row = |at| table::row(&self.output, &batch, at);
        let rows: Vec<_> = (0..batch.rows as usize).map(row).collect();
        self.check(&rows);
    }

    fn check(&self, expected: &[Vec<String>]) {
        let found = self.reduce(&self.whole());
        let found = found.unwrap_or_else(|failure| panic!("the reducer failed: {failure:?}"));
        if let Some(difference) = difference(expected, &found) {
            let found = table::write(&names(&self.output), &found);
            panic!("{difference}; found:\n{found}");
        }
    }

    /// Checks that what comes out does not depend on how the host cuts rows into batches and groups into partitions,
    /// nor on the order of rows that are equal in key and order. `seed` picks the ways that are tried: whole, by group
    /// and row by row, in one partition and in many, and others that are drawn.
    ///
    /// # Panics
    ///
    /// At the first difference, with the way that led to it.
    pub fn check_invariance(&self, seed: u64) {
        let expected = self.reduce(&self.whole());
        let expected = expected.unwrap_or_else(|failure| panic!("the reducer failed: {failure:?}"));
        let mut dice = Dice::new(seed);
        for trial in 0..TRIALS {
            let way = Way::of(trial, &mut dice);
            let cuts = self.cut(way, &mut dice);
            let difference = match self.reduce(&cuts) {
                Ok(found) => difference(&expected, &found),
                Err(failure) => Some(format!("the reducer failed: {failure:?}")),
            };
            if let Some(difference) = difference {
                panic!(
                    "{way} (seed {seed}, trial {trial}): {difference}; first batches:\n{}",
                    self.words(&cuts)
                );
            }
        }
    }

    /// All rows in one partition and one batch.
    fn whole(&self) -> Vec<Vec<Cut>> {
        let whole = Way {
            partitions: 1,
            cuts: Cuts::Nowhere,
            swap_equals: false,
        };
        self.cut(whole, &mut Dice::new(0))
    }

    /// Returns the batches of each partition.
    fn cut(&self, way: Way, dice: &mut Dice) -> Vec<Vec<Cut>> {
        let columns = |names: &[String]| -> Vec<_> {
            let at = |name: &String| self.input.iter().position(|field| field.name == *name);
            names
                .iter()
                .map(|name| at(name).unwrap_or_else(|| panic!("there is no column \"{name}\"")))
                .collect()
        };
        let (key, order) = (columns(&self.key), columns(&self.order));
        let by = |columns: &[usize], a: usize, b: usize| {
            let each = columns
                .iter()
                .map(|&at| table::compare(&self.rows.columns[at], a, b));
            each.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
        };
        let mut rows: Vec<usize> = (0..self.rows.rows as usize).collect();
        if way.swap_equals {
            dice.shuffle(&mut rows);
        }
        rows.sort_by(|&a, &b| by(&key, a, b).then_with(|| by(&order, a, b)));
        let mut partitions: Vec<Vec<&[usize]>> = vec![Vec::new(); way.partitions];
        for group in rows.chunk_by(|&a, &b| by(&key, a, b).is_eq()) {
            // The first partition of several stays empty now and then, as it may with a host.
            partitions[dice.place(way.partitions)].push(group);
        }
        partitions
            .iter()
            .map(|groups| way.cuts.cut(groups, dice))
            .collect()
    }

    /// Returns the rows that come out, as cells.
    fn reduce(&self, partitions: &[Vec<Cut>]) -> Result<Vec<Vec<String>>, Failure> {
        let mut rows = Vec::new();
        let mut take = |batch: Batch| {
            if let Err(problem) = check(&self.output, &batch) {
                panic!("a batch does not fit the declared output: {problem}");
            }
            assert!(
                batch.rows <= ROWS_MAX,
                "a batch has {} rows, at most {ROWS_MAX} may be",
                batch.rows
            );
            rows.extend((0..batch.rows as usize).map(|at| table::row(&self.output, &batch, at)));
        };
        for cuts in partitions {
            let mut reducer = (self.open)(&self.run, &self.input)?;
            for cut in cuts {
                let batch = table::pick(&self.rows, &cut.rows);
                let mut given = reducer.push(batch, cut.continues)?;
                let mut rows_given = 0;
                while let Some(batch) = given.filter(|batch| batch.rows > 0) {
                    rows_given += batch.rows as usize;
                    assert!(
                        rows_given <= ROWS_FOR_NOTHING_MAX,
                        "it gives rows again and again for a batch without rows"
                    );
                    take(batch);
                    given = reducer.push(table::pick(&self.rows, &[]), cut.continues)?;
                }
            }
            while let Some(batch) = reducer.finish()? {
                take(batch);
            }
        }
        Ok(rows)
    }

    /// The first batches of a way that led to a difference.
    fn words(&self, partitions: &[Vec<Cut>]) -> String {
        const BATCHES_SHOWN: usize = 4;
        let shown = partitions.iter().flatten().take(BATCHES_SHOWN);
        let words = shown.map(|cut| {
            let row = |&at: &usize| table::row(&self.input, &self.rows, at);
            let rows: Vec<_> = cut.rows.iter().map(row).collect();
            let table = table::write(&names(&self.input), &rows);
            if cut.continues {
                format!("{table}(the last group goes on)\n")
            } else {
                table
            }
        });
        words.collect::<Vec<_>>().join("\n")
    }
}

/// One batch: its rows, and whether its last group goes on in the next one.
struct Cut {
    rows: Vec<usize>,
    continues: bool,
}

/// How the host might go about it.
#[derive(Clone, Copy)]
struct Way {
    partitions: usize,
    cuts: Cuts,
    swap_equals: bool,
}

#[derive(Clone, Copy)]
enum Cuts {
    Nowhere,
    AfterGroups,
    AfterRows,
    /// Batches of up to so many rows.
    Drawn(usize),
}

impl Way {
    fn of(trial: u64, dice: &mut Dice) -> Self {
        const PARTITIONS: [usize; 4] = [1, 2, 3, 8];
        let cuts = match trial {
            0..4 => Cuts::Nowhere,
            4..8 => Cuts::AfterGroups,
            8..12 => Cuts::AfterRows,
            _ => Cuts::Drawn(1 + dice.place(12)),
        };
        Self {
            partitions: PARTITIONS[dice.place(PARTITIONS.len())],
            cuts,
            swap_equals: trial % 2 == 1,
        }
    }
}

impl Cuts {
    fn cut(self, groups: &[&[usize]], dice: &mut Dice) -> Vec<Cut> {
        let mut cuts = vec![Cut {
            rows: Vec::new(),
            continues: false,
        }];
        let mut left = self.next(dice);
        for group in groups {
            for (at, &row) in group.iter().enumerate() {
                let cut = cuts.last_mut().expect("there is always one");
                cut.rows.push(row);
                left -= 1;
                let ends = at + 1 == group.len();
                if left == 0 || ends && matches!(self, Self::AfterGroups) {
                    cut.continues = !ends;
                    cuts.push(Cut {
                        rows: Vec::new(),
                        continues: false,
                    });
                    left = self.next(dice);
                }
            }
        }
        cuts.retain(|cut| !cut.rows.is_empty());
        cuts
    }

    fn next(self, dice: &mut Dice) -> usize {
        match self {
            Self::Nowhere | Self::AfterGroups => usize::MAX,
            Self::AfterRows => 1,
            Self::Drawn(most) => 1 + dice.place(most),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cuts {
            Cuts::Nowhere => f.write_str("in one batch")?,
            Cuts::AfterGroups => f.write_str("cut after each group")?,
            Cuts::AfterRows => f.write_str("cut after each row")?,
            Cuts::Drawn(most) => write!(f, "cut into batches of up to {most} rows")?,
        }
        write!(f, ", in {} partitions", self.partitions)?;
        match self.swap_equals {
            true => f.write_str(", with rows in another order that are equal in key and order"),
            false => Ok(()),
        }
    }
}

fn names(fields: &[Field]) -> Vec<&str> {
    fields.iter().map(|field| field.name.as_str()).collect()
}

/// Says how two lists of rows differ, whatever their order; none if they do not.
fn difference(expected: &[Vec<String>], found: &[Vec<String>]) -> Option<String> {
    let sorted = |rows: &[Vec<String>]| {
        let mut rows = rows.to_vec();
        rows.sort();
        rows
    };
    let (expected, found) = (sorted(expected), sorted(found));
    let first = expected.iter().zip(&found).find(|(a, b)| a != b);
    match first {
        Some((a, b)) if a < b => Some(format!("a row is missing: {}", a.join(" | "))),
        Some((_, b)) => Some(format!("a row is too many: {}", b.join(" | "))),
        None if expected.len() > found.len() => Some(format!(
            "a row is missing: {}",
            expected[found.len()].join(" | ")
        )),
        None if expected.len() < found.len() => Some(format!(
            "a row is too many: {}",
            found[expected.len()].join(" | ")
        )),
        None => None,
    }
}
