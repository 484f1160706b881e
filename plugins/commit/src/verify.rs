//! The comparison of derived tables with what was computed for them, under the trait `verify`.
//!
//! Rows are put side by side by their key. Where a key has several rows, on one side or on both, they are numbered in the
//! order of all their columns first, so that a row that is there twice does not hide behind its double. Values are
//! compared by IS DISTINCT FROM, those of types without an equality of their own by their text.

use stepwell_sdk::catalog::{self, ColumnInfo};
use stepwell_sdk::incremental::{Batches, Ids};
use stepwell_sdk::planner::{Ask, Plan, Run, Stop, question};
use stepwell_sdk::request::{Column, Row, Table, VERIFY, Value, Verified, Verify};
use stepwell_sdk::rows::Rows;
use stepwell_sdk::sql::{Ident, Literal, Sql, TableName, idents, join};
use stepwell_sdk::{Failure, Question, sql};

use crate::columns::Difference;
use crate::{With, check_key};

/// Characters of a value that are shown.
const VALUE_CHARS_MAX: i64 = 200;

/// Publishes what differs, and changes nothing.
pub fn plan(run: &Run, with: &With, verify: &Verify, ask: &mut Ask<'_>) -> Result<Plan, Stop> {
    let batches: Batches = run
        .about(with.manifest.alias())
        .map_err(|failure| failure.with_setting("/manifest"))?;
    let mut tables = Vec::new();
    for (at, replace) in with.replace.iter().enumerate() {
        let from = run.scratch(replace.from.alias());
        let [target, source] =
            ask.all([catalog::columns(&replace.table.0), catalog::columns(&from)])?;
        let (target, source) = (catalog::read_columns(target), catalog::read_columns(source));
        let about: Ids = run
            .about(replace.ids.alias())
            .map_err(|failure| failure.with_setting(format!("/replace/{at}/ids")))?;
        let ids_key: Vec<String> = about.key.iter().map(|column| column.name.clone()).collect();
        let key = replace.key.clone().unwrap_or_else(|| ids_key.clone());
        check_key(at, &key, &about, &from, &source)?;
        let sides = Sides {
            verify,
            table: &replace.table.0,
            from: &from,
            ids: run.scratch(replace.ids.alias()),
            ids_key,
            key: &key,
            columns: common(&target, &source),
            left_out: batches.reopened > 0 || about.frozen,
        };
        let compared = match target.is_empty() {
            true => sides.without_table(ask)?,
            false => sides.compare(ask, Difference::between(&target, &source).list())?,
        };
        tables.push(compared);
    }
    Ok(Plan::new().publish(
        VERIFY,
        &Verified {
            batches: None,
            tables,
        },
    ))
}

/// A column of both sides, and whether its values are compared as they are or by their text.
struct Common {
    name: String,
    by_text: bool,
}

fn common(target: &[ColumnInfo], source: &[ColumnInfo]) -> Vec<Common> {
    let both = target.iter().filter_map(|derived| {
        let computed = source.iter().find(|column| column.name == derived.name)?;
        Some(Common {
            name: derived.name.clone(),
            by_text: derived.sql_type != computed.sql_type || !has_equality(&derived.sql_type),
        })
    });
    both.collect()
}

/// Whether IS DISTINCT FROM and ORDER BY mean values of the type. What is not known here is compared by its text: `json`
/// has no equality, and that of a `box` compares areas.
fn has_equality(sql_type: &str) -> bool {
    const TYPES: [&str; 25] = [
        "bigint",
        "bit",
        "bit varying",
        "boolean",
        "bytea",
        "character",
        "character varying",
        "cidr",
        "date",
        "double precision",
        "inet",
        "integer",
        "interval",
        "jsonb",
        "macaddr",
        "money",
        "name",
        "numeric",
        "oid",
        "real",
        "smallint",
        "text",
        "time",
        "timestamp",
        "uuid",
    ];
    let mut plain = sql_type.trim_end_matches("[]").to_owned();
    if let (Some(open), Some(close)) = (plain.find('('), plain.find(')')) {
        plain.replace_range(open..=close, "");
    }
    let plain = plain
        .replace(" without time zone", "")
        .replace(" with time zone", "");
    TYPES.contains(&plain.trim())
}

struct Sides<'a> {
    verify: &'a Verify,
    table: &'a TableName,
    from: &'a TableName,
    ids: TableName,
    ids_key: Vec<String>,
    key: &'a [String],
    columns: Vec<Common>,
    /// Whether some ids are left out: those that the next run computes again have events, those whose rows may be frozen
    /// negative ones.
    left_out: bool,
}

impl Sides<'_> {
    fn compare(&self, ask: &mut Ask<'_>, schema: Vec<String>) -> Result<Table, Stop> {
        let several = ask.one(self.several())?;
        let several = several
            .first()
            .and_then(|row| row.bool("several"))
            .unwrap_or(true);
        let counts = ask.one(self.counts(several))?;
        let first = counts.first();
        let number = |name: &str| {
            let number = first.and_then(|row| row.int(name)).unwrap_or(0);
            u64::try_from(number).unwrap_or(0)
        };
        let columns = self.columns.iter().enumerate().map(|(at, column)| Column {
            name: column.name.clone(),
            rows: number(&format!("column_{at}")),
        });
        let mut table = Table {
            rows: number("rows"),
            computed: number("computed"),
            missing: number("missing"),
            surplus: number("surplus"),
            differing: number("differing"),
            columns: columns.filter(|column| column.rows > 0).collect(),
            schema,
            ..self.table_report()
        };
        if self.left_out {
            table.unsettled = self.count(
                ask,
                "unsettled ids",
                &sql!("{ids} WHERE events > 0", ids = self.ids),
            )?;
            table.frozen = self.count(
                ask,
                "frozen ids",
                &sql!("{ids} WHERE events < 0", ids = self.ids),
            )?;
        }
        if table.missing + table.surplus + table.differing > 0 {
            table.named = read(ask.one(self.named(several))?)?;
        }
        Ok(table)
    }

    /// Where the derived table does not exist, all that was computed is missing.
    fn without_table(&self, ask: &mut Ask<'_>) -> Result<Table, Stop> {
        let computed = self.count(
            ask,
            &format!("rows of {}", self.from),
            &sql!("{from}", from = self.from),
        )?;
        Ok(Table {
            computed,
            missing: computed,
            schema: (computed > 0)
                .then(|| "the table does not exist".to_owned())
                .into_iter()
                .collect(),
            ..self.table_report()
        })
    }

    fn table_report(&self) -> Table {
        Table {
            table: self.table.to_string(),
            key: self.key.to_vec(),
            rows: 0,
            computed: 0,
            missing: 0,
            surplus: 0,
            differing: 0,
            unsettled: 0,
            frozen: 0,
            columns: Vec::new(),
            schema: Vec::new(),
            named: Vec::new(),
        }
    }

    fn count(&self, ask: &mut Ask<'_>, label: &str, from: &Sql) -> Result<u64, Stop> {
        let rows = ask.one(question(
            label,
            sql!("SELECT count(*) AS n FROM {from}", from = from),
            vec![],
        ))?;
        let number = rows.first().and_then(|row| row.int("n")).unwrap_or(0);
        Ok(u64::try_from(number).unwrap_or(0))
    }

    /// Asks whether a key has several rows.
    fn several(&self) -> Question {
        let several = |side: &Sql| {
            sql!(
                "EXISTS (SELECT FROM {side} AS t GROUP BY {key} HAVING count(*) > 1)",
                side = side,
                key = self.keys("t"),
            )
        };
        let select = sql!(
            "SELECT {derived}\n  OR {computed} AS several",
            derived = several(&self.derived()).indented(2),
            computed = several(&self.computed()).indented(2),
        );
        question(
            &format!("keys with several rows in {}", self.table),
            select,
            vec![],
        )
    }

    /// Asks how many rows differ, and in which columns.
    fn counts(&self, several: bool) -> Question {
        let columns = self.columns.iter().enumerate().map(|(at, column)| {
            sql!(
                ",\n  count(*) FILTER (WHERE derived.stepwell_here AND computed.stepwell_here AND {differs}) AS {name}",
                differs = differs(column),
                name = Ident(&format!("column_{at}")),
            )
        });
        let select = sql!(
            "SELECT count(derived.stepwell_here) AS rows, count(computed.stepwell_here) AS computed,
              count(*) FILTER (WHERE derived.stepwell_here IS NULL) AS missing,
              count(*) FILTER (WHERE computed.stepwell_here IS NULL) AS surplus,
              count(*) FILTER (WHERE derived.stepwell_here AND computed.stepwell_here AND ({differ})) AS differing{columns}
            {pairs}",
            differ = self.differ(),
            columns = join(columns, "").indented(12),
            pairs = self.pairs(several).indented(12),
        );
        question(
            &format!("{} beside what was computed", self.table),
            select,
            vec![],
        )
    }

    /// Asks for the first rows of each kind of difference.
    fn named(&self, several: bool) -> Question {
        let text = |value: Sql| {
            sql!(
                "left({value}::text, {chars})",
                value = value,
                chars = VALUE_CHARS_MAX
            )
        };
        let key = self.key.iter().map(|name| {
            text(sql!(
                "coalesce(derived.{name}, computed.{name})",
                name = Ident(name)
            ))
        });
        let values = self.columns.iter().map(|column| {
            let name = Ident(&column.name);
            sql!(
                "CASE WHEN derived.stepwell_here AND computed.stepwell_here AND {differs} THEN json_build_array({label}, {derived}, {computed})::text END",
                differs = differs(column),
                label = Literal(&column.name),
                derived = text(sql!("derived.{name}", name = name)),
                computed = text(sql!("computed.{name}", name = name)),
            )
        });
        let order = self.key.iter().map(|name| {
            sql!(
                "coalesce(derived.{name}, computed.{name})",
                name = Ident(name)
            )
        });
        let select = sql!(
            "SELECT kind, key, named.values
            FROM (
              SELECT kind, key, found.values, row_number() OVER (PARTITION BY kind ORDER BY place) AS nth
              FROM (
                SELECT
                  CASE WHEN derived.stepwell_here IS NULL THEN 'missing'
                    WHEN computed.stepwell_here IS NULL THEN 'surplus' ELSE 'differing' END AS kind,
                  json_build_array({key})::text AS key,
                  '[' || array_to_string(ARRAY[{values}]::text[], ',') || ']' AS values,
                  row_number() OVER (ORDER BY {order}) AS place
                {pairs}
                WHERE derived.stepwell_here IS NULL OR computed.stepwell_here IS NULL OR {differ}
              ) AS found
            ) AS named
            WHERE nth <= {limit}
            ORDER BY kind, nth",
            key = join(key, ", "),
            values = join(values, ", "),
            order = join(order, ", "),
            pairs = self.pairs(several).indented(16),
            differ = self.differ(),
            limit = i64::from(self.verify.limit),
        );
        question(
            &format!("rows of {} that differ", self.table),
            select,
            vec![],
        )
    }

    /// `FROM …`: the rows of both sides, by their key.
    fn pairs(&self, several: bool) -> Sql {
        let side = |rows: Sql| match several {
            true => sql!(
                "(SELECT t.*, true AS stepwell_here, row_number() OVER (PARTITION BY {key} ORDER BY {all}) AS stepwell_nth FROM {rows} AS t)",
                key = self.keys("t"),
                all = join(self.columns.iter().map(|column| value("t", column)), ", "),
                rows = rows,
            ),
            false => sql!(
                "(SELECT t.*, true AS stepwell_here FROM {rows} AS t)",
                rows = rows
            ),
        };
        let mut on: Vec<Sql> = self
            .key
            .iter()
            .map(|name| sql!("computed.{name} = derived.{name}", name = Ident(name)))
            .collect();
        if several {
            on.push(sql!("computed.stepwell_nth = derived.stepwell_nth"));
        }
        sql!(
            "FROM {derived} AS derived\nFULL JOIN {computed} AS computed\n  ON {on}",
            derived = side(self.derived()),
            computed = side(self.computed()),
            on = join(on, " AND "),
        )
    }

    /// The rows of the derived table that are compared.
    fn derived(&self) -> Sql {
        self.compared(self.table)
    }

    /// The rows that were computed, and are compared: a step may compute more keys than it was asked for.
    fn computed(&self) -> Sql {
        self.compared(self.from)
    }

    fn compared(&self, table: &TableName) -> Sql {
        let mut conditions = Vec::new();
        if !self.verify.is_whole() {
            conditions.push(self.asked_for());
        }
        conditions.extend(self.settled());
        let names = idents(self.columns.iter().map(|column| &column.name));
        match conditions.is_empty() {
            true => sql!(
                "(SELECT {names} FROM {table})",
                names = names,
                table = table
            ),
            false => sql!(
                "(SELECT {names} FROM {table} AS r WHERE {conditions})",
                names = names,
                table = table,
                conditions = join(conditions, " AND "),
            ),
        }
    }

    /// The condition that row `r` is neither about to be computed again nor frozen.
    fn settled(&self) -> Option<Sql> {
        self.left_out.then(|| {
            sql!(
                "NOT {unsettled}",
                unsettled = self.in_ids(&sql!(" AND ids.events <> 0"))
            )
        })
    }

    /// The condition that row `r` has one of the keys that were asked for. A sample also takes derived rows whose key no
    /// event has, by the same hash; a stretch of time takes them with its ids.
    fn asked_for(&self) -> Sql {
        let verify = self.verify;
        if verify.since.is_some() || verify.until.is_some() {
            return self.in_ids(&sql!(""));
        }
        let key: Vec<Sql> = self
            .key
            .iter()
            .map(|name| sql!("r.{name}", name = Ident(name)))
            .collect();
        let hash = verify.hash(&key);
        let mut conditions = Vec::new();
        if let Some(limit) = verify.share_limit() {
            conditions.push(sql!("{hash} < {limit}", hash = hash, limit = limit));
        }
        if let Some(keys) = verify.keys {
            let ids: Vec<Sql> = self
                .ids_key
                .iter()
                .map(|name| sql!("ids.{name}", name = Ident(name)))
                .collect();
            conditions.push(sql!(
                "{hash} <= (SELECT CASE WHEN count(*) < {keys} THEN 4294967296 ELSE max({ids_hash}) END FROM {ids} AS ids)",
                hash = hash,
                keys = i64::try_from(keys).unwrap_or(i64::MAX),
                ids_hash = verify.hash(&ids),
                ids = self.ids,
            ));
        }
        join(conditions, " AND ")
    }

    fn in_ids(&self, more: &Sql) -> Sql {
        let same = self
            .key
            .iter()
            .zip(&self.ids_key)
            .map(|(key, id)| sql!("ids.{id} = r.{key}", id = Ident(id), key = Ident(key)));
        sql!(
            "EXISTS (SELECT FROM {ids} AS ids WHERE {same}{more})",
            ids = self.ids,
            same = join(same, " AND "),
            more = more,
        )
    }

    fn keys(&self, side: &str) -> Sql {
        join(
            self.key
                .iter()
                .map(|name| sql!("{side}.{name}", side = Ident(side), name = Ident(name))),
            ", ",
        )
    }

    fn differ(&self) -> Sql {
        join(self.columns.iter().map(differs), " OR ")
    }
}

fn value(side: &str, column: &Common) -> Sql {
    let (side, name) = (Ident(side), Ident(&column.name));
    match column.by_text {
        true => sql!("{side}.{name}::text", side = side, name = name),
        false => sql!("{side}.{name}", side = side, name = name),
    }
}

fn differs(column: &Common) -> Sql {
    sql!(
        "{derived} IS DISTINCT FROM {computed}",
        derived = value("derived", column),
        computed = value("computed", column),
    )
}

fn read(rows: Rows<'_>) -> Result<Vec<Row>, Failure> {
    let wrong = |error: serde_json::Error| {
        Failure::new("answer", format!("could not read what differs: {error}"))
    };
    let row = |row: stepwell_sdk::rows::Row<'_>| {
        let values: Vec<(String, Option<String>, Option<String>)> =
            serde_json::from_str(row.text("values").unwrap_or("[]")).map_err(wrong)?;
        Ok(Row {
            kind: row.text("kind").unwrap_or_default().to_owned(),
            key: serde_json::from_str(row.text("key").unwrap_or("[]")).map_err(wrong)?,
            values: values
                .into_iter()
                .map(|(column, derived, computed)| Value {
                    column,
                    derived,
                    computed,
                })
                .collect(),
        })
    };
    rows.iter().map(row).collect()
}
