//! A fixture: a part of a workflow, tables to begin with, tables to end with.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Map;

use stepwell_sql::TableName;

/// Keys that are the fixture's own; all others are a workflow's.
const OWN_KEYS: [&str; 3] = ["tables", "expect", "fails"];

/// The playbook of every fixture.
pub(super) const PLAYBOOK: &str = "fixture";

/// A fixture as it was read.
#[derive(Debug)]
pub(super) struct Fixture {
    pub(super) path: PathBuf,
    /// The workflow in it, line for line where it stands in the file.
    pub(super) workflow: String,
    /// Tables to make and fill before the run.
    pub(super) tables: Vec<(TableName, Input)>,
    /// Tables to look at after it, by their alias or whole name.
    pub(super) expect: Vec<(String, Expected)>,
    /// Part of the message with which the run is to fail; none if it is to succeed.
    pub(super) fails: Option<String>,
}

/// A table to begin with.
#[derive(Debug)]
pub(super) struct Input {
    /// Columns with their types.
    pub(super) columns: Vec<(String, String)>,
    pub(super) rows: Rows,
}

/// A table to end with.
#[derive(Debug)]
pub(super) struct Expected {
    /// Columns by which rows are told apart; all of them if there is none.
    pub(super) key: Vec<String>,
    /// The columns that are compared; none stands for all that the table has.
    pub(super) columns: Option<Vec<String>>,
    pub(super) rows: Rows,
}

/// Rows as CSV without a heading, which Postgres reads by the types of the columns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    /// The heading of a CSV file; none for rows that stand in the fixture.
    pub(super) heading: Option<Vec<String>>,
    pub(super) csv: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    #[serde(default)]
    tables: BTreeMap<String, InputWritten>,
    #[serde(default)]
    expect: BTreeMap<String, ExpectedWritten>,
    fails: Option<String>,
    // Keys of a workflow, which its own reader checks.
    #[serde(rename = "description")]
    _description: Option<IgnoredAny>,
    #[serde(rename = "vars")]
    _vars: Option<IgnoredAny>,
    #[serde(rename = "schemas")]
    _schemas: Option<IgnoredAny>,
    #[serde(rename = "source")]
    _source: Option<IgnoredAny>,
    #[serde(rename = "steps")]
    _steps: IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InputWritten {
    columns: Map<String, serde_json::Value>,
    #[serde(default)]
    rows: Option<Vec<Vec<Option<String>>>>,
    csv: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedWritten {
    #[serde(default)]
    key: Vec<String>,
    columns: Option<Vec<String>>,
    #[serde(default)]
    rows: Option<Vec<Vec<Option<String>>>>,
    csv: Option<PathBuf>,
}

impl Fixture {
    /// Reads the fixture at `path`, which uses the plugin `name` with this component.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong with the file.
    pub(super) fn read(path: &Path, name: &str, component: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path)
            .map_err(|error| format!("could not read {}: {error}", path.display()))?;
        Self::parse(path, &text, name, component)
            .map_err(|reason| format!("{}: {reason}", path.display()))
    }

    fn parse(path: &Path, text: &str, name: &str, component: &Path) -> Result<Self, String> {
        let written: Written = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        if written.expect.is_empty() && written.fails.is_none() {
            return Err("nothing is expected: add `expect:` with tables, or `fails:` with words of the error".into());
        }
        let tables = written.tables.into_iter().map(|(name, written)| {
            let table: TableName = name
                .parse()
                .map_err(|_| format!("table \"{name}\": expected a name as `schema.table`"))?;
            let input =
                input(written, folder).map_err(|reason| format!("table \"{name}\": {reason}"))?;
            Ok((table, input))
        });
        let expect = written.expect.into_iter().map(|(name, written)| {
            let expected = expected(written, folder)
                .map_err(|reason| format!("expected \"{name}\": {reason}"))?;
            Ok((name, expected))
        });
        Ok(Self {
            path: path.to_owned(),
            workflow: workflow(text, name, component),
            tables: tables.collect::<Result<_, String>>()?,
            expect: expect.collect::<Result<_, String>>()?,
            fails: written.fails,
        })
    }
}

fn input(written: InputWritten, folder: &Path) -> Result<Input, String> {
    let columns: Vec<(String, String)> = written
        .columns
        .into_iter()
        .map(|(name, kind)| match kind {
            serde_json::Value::String(kind) => Ok((name, kind)),
            _ => Err(format!("column \"{name}\": expected a type of Postgres")),
        })
        .collect::<Result<_, _>>()?;
    let rows = rows(written.rows, written.csv, folder, Some(columns.len()))?;
    Ok(Input { columns, rows })
}

fn expected(written: ExpectedWritten, folder: &Path) -> Result<Expected, String> {
    let count = written.columns.as_ref().map(Vec::len);
    let rows = rows(written.rows, written.csv, folder, count)?;
    let columns = match (&rows.heading, written.columns) {
        (Some(_), Some(_)) => return Err("a CSV file has a heading; leave out `columns:`".into()),
        (Some(heading), None) => Some(heading.clone()),
        (None, columns) => columns,
    };
    if let Some(columns) = &columns
        && let Some(missing) = written.key.iter().find(|key| !columns.contains(key))
    {
        return Err(format!("key \"{missing}\" is not among the columns"));
    }
    Ok(Expected {
        key: written.key,
        columns,
        rows,
    })
}

/// Rows that stand in the fixture, or in a CSV file with a heading.
fn rows(
    inline: Option<Vec<Vec<Option<String>>>>,
    file: Option<PathBuf>,
    folder: &Path,
    columns: Option<usize>,
) -> Result<Rows, String> {
    match (inline, file) {
        (Some(_), Some(_)) => Err("has both `rows` and `csv`; keep one".into()),
        (None, None) => Ok(Rows::default()),
        (Some(rows), None) => {
            let columns = columns.or_else(|| rows.first().map(Vec::len));
            let wrong = (1..).zip(&rows).find(|(_, row)| Some(row.len()) != columns);
            match wrong {
                Some((at, row)) => Err(format!(
                    "row {at} has {} values, expected {}",
                    row.len(),
                    columns.unwrap_or(0)
                )),
                None => Ok(Rows {
                    heading: None,
                    csv: rows.iter().map(|row| csv_line(row)).collect(),
                }),
            }
        }
        (None, Some(file)) => {
            let path = folder.join(file);
            let text = fs::read_to_string(&path)
                .map_err(|error| format!("could not read {}: {error}", path.display()))?;
            let (heading, rest) = text.split_once('\n').unwrap_or((&text, ""));
            let heading = heading.trim_end_matches('\r').split(',');
            let heading = heading.map(|name| name.trim_matches('"').to_owned());
            Ok(Rows {
                heading: Some(heading.collect()),
                csv: rest.to_owned(),
            })
        }
    }
}

/// One line of CSV as Postgres reads it: all in quotes but NULL, which is empty.
fn csv_line(row: &[Option<String>]) -> String {
    let fields: Vec<String> = row
        .iter()
        .map(|value| match value {
            Some(text) => format!("\"{}\"", text.replace('"', "\"\"")),
            None => String::new(),
        })
        .collect();
    format!("{}\n", fields.join(","))
}

/// The workflow in a fixture: what is not its own is left out, each line staying where it is, so that problems have
/// their places; what every workflow needs is added behind.
fn workflow(text: &str, name: &str, component: &Path) -> String {
    let mut out = String::new();
    let mut own = false;
    for line in text.lines() {
        // A key of the file begins at the margin; what belongs to it does not.
        if line.starts_with(|c: char| c.is_alphanumeric() || c == '"' || c == '\'') {
            own = OWN_KEYS.iter().any(|key| {
                let rest = line.strip_prefix(key);
                rest.is_some_and(|rest| rest.trim_start().starts_with(':'))
            });
        }
        if !own {
            out.push_str(line);
        }
        out.push('\n');
    }
    let component = serde_json::Value::from(component.display().to_string());
    writeln!(
        out,
        "stepwell: 1\nplaybook: {PLAYBOOK}\nplugins: {{ {name}: {{ component: {component}, trust: own }} }}"
    )
    .expect("a String takes every write");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Fixture, String> {
        Fixture::parse(
            Path::new("f/a.yaml"),
            text,
            "my-step",
            Path::new("/t/my-step.wasm"),
        )
    }

    const STEPS: &str = "steps:\n- { id: a, uses: my-step }\n";

    #[test]
    fn values_are_taken_as_they_are_written() {
        let text = format!(
            "tables:\n  a.b:\n    columns: {{ z: text, y: numeric }}\n    rows:\n      - [null, 1.10]\n      - [\"say \\\"x\\\"\", 007]\n      - ['', true]\n{STEPS}expect:\n  c: {{ rows: [[2026-01-01 10:00:00]] }}\n"
        );
        let fixture = parse(&text).expect("a fixture");
        let (table, input) = &fixture.tables[0];
        assert_eq!(table.to_string(), "a.b");
        assert_eq!(input.columns[0], ("z".into(), "text".into()));
        assert_eq!(
            input.rows.csv,
            ",\"1.10\"\n\"say \"\"x\"\"\",\"007\"\n\"\",\"true\"\n"
        );
        assert_eq!(fixture.expect[0].1.rows.csv, "\"2026-01-01 10:00:00\"\n");
    }

    #[test]
    fn the_workflow_keeps_its_lines() {
        let text =
            format!("# A.\ntables: # B.\n  a.b: {{ columns: {{ a: int }} }}\n\n{STEPS}fails: x\n");
        let workflow = parse(&text).expect("a fixture").workflow;
        let lines: Vec<&str> = workflow.lines().collect();
        assert_eq!(
            lines[..7],
            [
                "# A.",
                "",
                "",
                "",
                "steps:",
                "- { id: a, uses: my-step }",
                ""
            ]
        );
        assert_eq!(
            lines[7..],
            [
                "stepwell: 1",
                "playbook: fixture",
                "plugins: { my-step: { component: \"/t/my-step.wasm\", trust: own } }"
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let table = "columns: { a: int, b: int }";
        for (text, part) in [
            (STEPS.to_owned(), "nothing is expected"),
            (format!("{STEPS}expect: {{}}\n"), "nothing is expected"),
            (format!("{STEPS}fails: x\nplaybook: p\n"), "playbook"),
            (
                format!("tables: {{ a: {{ {table} }} }}\n{STEPS}fails: x\n"),
                "expected a name as `schema.table`",
            ),
            (
                format!("tables: {{ a.b: {{ {table}, rows: [[1]] }} }}\n{STEPS}fails: x\n"),
                "row 1 has 1 values, expected 2",
            ),
            (
                format!("{STEPS}expect: {{ c: {{ rows: [[1, 2], [1]] }} }}\n"),
                "row 2 has 1 values, expected 2",
            ),
            (
                format!("{STEPS}expect: {{ c: {{ key: [x], columns: [y], rows: [[1]] }} }}\n"),
                "key \"x\" is not among",
            ),
            (
                format!("{STEPS}expect: {{ c: {{ csv: none.csv }} }}\n"),
                "could not read f/none.csv",
            ),
        ] {
            let error = parse(&text).expect_err("a mistake");
            assert!(error.contains(part), "{error}");
        }
    }
}
