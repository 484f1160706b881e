//! COPY out into columns, and columns back into a table.

use bytes::Bytes;
use futures_util::stream;
use stepwell_sql::TableName;
use stepwell_warehouse::{
    Batch, Column, CopyFormat, Cut, Encoder, Field, GroupBatch, GroupingError, Layout, Param,
    Session, Values, WarehouseError, inlined,
};

use crate::harness::{Server, text};

/// Every type that has a layout, with the values at its ends. `NULL` stands in each.
const TYPES: [(&str, &str); 19] = [
    ("boolean", "true, false"),
    ("smallint", "-32768, 0, 32767"),
    ("integer", "-2147483648, 0, 2147483647"),
    ("bigint", "-9223372036854775808, 0, 9223372036854775807"),
    (
        "real",
        "'-Infinity', '-0', 1.17549435e-38, 3.4028235e38, 'NaN'",
    ),
    (
        "double precision",
        "'-Infinity', '-0', 4.9e-324, 0.1, 1.7976931348623157e308, 'NaN'",
    ),
    (
        "text",
        "'', 'größe', E'tab\\tand\\nline', '日本 🙂', repeat('x', 100000)",
    ),
    ("varchar(5)", "'', 'größe'"),
    ("bpchar", "'', 'a', 'a '"),
    ("char(4)", "'', 'ab', 'größ'"),
    ("name", "'', 'pg_class'"),
    (
        "bytea",
        "'', '\\x00ff10', decode(repeat('00ff', 5000), 'hex')",
    ),
    (
        "uuid",
        "'00000000-0000-0000-0000-000000000000', 'f81d4fae-7dec-11d0-a765-00a0c91e6bf6'",
    ),
    (
        "date",
        "'-infinity', '4714-11-24 BC', '1969-12-31', '1970-01-01', '2000-02-29', '5874897-12-31', 'infinity'",
    ),
    (
        "timestamp",
        "'-infinity', '4714-11-24 00:00:00 BC', '1969-12-31 23:59:59.999999', '2024-02-29 12:00:00.000001', '294246-12-31 23:59:59.999999', 'infinity'",
    ),
    (
        "timestamptz",
        "'-infinity', '4714-11-24 00:00:00+00 BC', '2024-02-29 12:00:00.5+02', 'infinity'",
    ),
    (
        "numeric",
        "0, -0.00, 12.50, 'NaN', 'Infinity', '-Infinity', 1e-20, 123456789012345678901234567890.123456789, 1e100, 10000, 0.0001, -9999.9999",
    ),
    ("json", "'{\"a\" : [1, 2.50, null]}', '\"é\"', 'null'"),
    ("jsonb", "'{\"a\": [1, 2.50, null]}', '\"é\"', 'null'"),
];

async fn copied(
    session: &Session,
    sql: &str,
    key: &[&str],
    order: &[&str],
    cut: Cut,
) -> (Vec<Field>, Vec<GroupBatch>) {
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<Vec<_>>()
    };
    let selection = session
        .describe(sql)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let grouped = selection
        .grouped(&names(key), &names(order))
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut copy = session
        .copy_out(&grouped.rows_sql(0, 1), &grouped, cut)
        .await
        .expect("it begins");
    let mut batches = Vec::new();
    while let Some(batch) = copy
        .next_batch()
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    {
        batches.push(batch);
    }
    (grouped.fields().cloned().collect(), batches)
}

async fn written(
    session: &Session,
    table: &TableName,
    fields: &[Field],
    batches: &[GroupBatch],
) -> Result<u64, WarehouseError> {
    let encoder = Encoder::new(fields).expect("types that can be written");
    let mut chunks = vec![Encoder::header()];
    for GroupBatch { batch, .. } in batches {
        let mut row = 0;
        while row < batch.rows {
            let mut out = Vec::new();
            row = encoder
                .rows(batch, row, &mut out, 1000)
                .expect("values of their types");
            chunks.push(out.into());
        }
    }
    chunks.push(Encoder::trailer());
    let chunks = chunks.into_iter().map(Ok::<Bytes, std::io::Error>);
    session
        .copy_in(table, &[], CopyFormat::Binary, stream::iter(chunks))
        .await
}

/// Goal: no value of any type changes on its way out and back, NULL included.
/// Method: a table of each type is copied out, copied into another, and both are compared in the types' binary forms.
#[tokio::test]
async fn every_type_comes_back_as_it_was() {
    let server = Server::shared();
    let session = server.session().await;
    session
        .batch("CREATE SCHEMA round_trip")
        .await
        .expect("created");
    for (at, (kind, values)) in TYPES.iter().enumerate() {
        let (from, to) = (
            TableName::new("round_trip", format!("from_{at}")),
            TableName::new("round_trip", format!("to_{at}")),
        );
        let values: Vec<String> = split(values)
            .iter()
            .enumerate()
            .map(|(n, value)| format!("({n}, ({value})::{kind})"))
            .collect();
        session
            .batch(&format!(
                "CREATE TABLE {from} (n int, v {kind}); INSERT INTO {from} VALUES {}, (-1, NULL), (NULL, NULL);
                 CREATE TABLE {to} (LIKE {from})",
                values.join(", ")
            ))
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        let (fields, batches) = copied(
            &session,
            &format!("SELECT n, v FROM {from}"),
            &["n"],
            &[],
            Cut::default(),
        )
        .await;
        let rows = written(&session, &to, &fields, &batches)
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        assert_eq!(rows, values.len() as u64 + 2, "{kind}");
        let send = |table: &TableName| {
            format!(
                "SELECT n, CASE WHEN v IS NULL THEN NULL ELSE md5(record_send(ROW(v))) END FROM {table}"
            )
        };
        let differing = format!(
            "SELECT count(*) FROM (({} EXCEPT ALL {}) UNION ALL ({} EXCEPT ALL {})) AS d",
            send(&from),
            send(&to),
            send(&to),
            send(&from)
        );
        assert_eq!(
            text(&session, &differing, &[]).await.as_deref(),
            Some("0"),
            "{kind}"
        );
    }
    session
        .batch("DROP SCHEMA round_trip CASCADE")
        .await
        .expect("dropped");
}

/// Splits at commas outside of quotes and brackets.
fn split(values: &str) -> Vec<String> {
    let (mut parts, mut depth, mut quoted) = (vec![String::new()], 0, false);
    for c in values.chars() {
        match c {
            '\'' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("one").push(c);
    }
    parts
}

#[tokio::test]
async fn columns_are_known_without_rows_and_others_come_as_text() {
    let server = Server::shared();
    let session = server.session().await;
    let sql =
        "SELECT 1 AS id, interval '90 min' AS took, ARRAY['a b', NULL] AS list, point(1, 2) AS at,
        int4range(1, 5) AS range, '(1,b)'::text AS t WHERE false";
    let (fields, batches) = copied(&session, sql, &["id"], &[], Cut::default()).await;
    assert!(batches.is_empty());
    let types: Vec<_> = fields
        .iter()
        .map(|field| (field.type_oid, field.layout))
        .collect();
    assert_eq!(types[0], (23, Layout::Int32));
    assert_eq!(
        types[1..5].iter().map(|(oid, _)| *oid).collect::<Vec<_>>(),
        [1186, 1009, 600, 3904]
    );
    assert!(
        types[1..]
            .iter()
            .all(|(_, layout)| *layout == Layout::Varlen)
    );
    let (_, batches) = copied(
        &session,
        &sql.replace("WHERE false", ""),
        &["id"],
        &[],
        Cut::default(),
    )
    .await;
    let texts: Vec<_> = batches[0].batch.columns[1..]
        .iter()
        .map(|column| match &column.values {
            Values::Varlen { data, .. } => String::from_utf8(data.clone()).expect("text"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        texts,
        ["01:30:00", "{\"a b\",NULL}", "(1,2)", "[1,5)", "(1,b)"]
    );
}

fn int64s(column: &Column) -> Vec<Option<i64>> {
    let Values::Int64(values) = &column.values else {
        panic!("{column:?}")
    };
    values
        .iter()
        .enumerate()
        .map(|(row, value)| (!column.is_null(row)).then_some(*value))
        .collect()
}

/// Goal: a batch holds whole groups, but for one that is larger than a batch, and cutting changes nothing else.
/// Method: groups of 1 to 30 rows, NULL keys among them, are copied out with every small size; the batches put together
/// are the same rows each time.
#[tokio::test]
async fn groups_are_whole_or_say_that_they_go_on() {
    let server = Server::shared();
    let session = server.session().await;
    let sql = "SELECT nullif(g, 7) AS g, r, repeat('x', (g * r % 50)::int) AS pad, NULLIF(r % 3, 0) = 1 AS b
        FROM generate_series(1::int8, 30) AS g, generate_series(1::int8, g) AS r";
    let whole = copied(&session, sql, &["g"], &["r"], Cut::default())
        .await
        .1;
    assert_eq!(whole.len(), 1);
    let joined = |batches: &[GroupBatch], at: usize| -> Vec<Option<i64>> {
        batches
            .iter()
            .flat_map(|batch| int64s(&batch.batch.columns[at]))
            .collect()
    };
    assert_eq!(joined(&whole, 0).last(), Some(&None), "NULL comes last");
    for rows in [1, 2, 3, 7, 8, 9, 29, 30, 31, 64, 100] {
        let cut = Cut {
            rows,
            ..Cut::default()
        };
        let batches = copied(&session, sql, &["g"], &["r"], cut).await.1;
        check_groups(&batches, rows);
        for at in [0, 1] {
            assert_eq!(joined(&batches, at), joined(&whole, at), "{rows}");
        }
        let pads = |batches: &[GroupBatch]| -> Vec<String> {
            batches
                .iter()
                .flat_map(|batch| pad_and_flag(&batch.batch))
                .collect()
        };
        assert_eq!(pads(&batches), pads(&whole), "{rows}");
    }
    let batches = copied(
        &session,
        sql,
        &["g"],
        &["r"],
        Cut {
            bytes: 500,
            ..Cut::default()
        },
    )
    .await
    .1;
    assert!(batches.len() > 10, "bytes cut as well: {}", batches.len());
    check_groups(&batches, 500);
    assert_eq!(joined(&batches, 1), joined(&whole, 1));
}

fn pad_and_flag(batch: &Batch) -> Vec<String> {
    let (Values::Varlen { offsets, data }, Values::Bits(bits)) =
        (&batch.columns[2].values, &batch.columns[3].values)
    else {
        panic!("{batch:?}")
    };
    (0..batch.rows as usize)
        .map(|row| {
            let flag =
                (!batch.columns[3].is_null(row)).then(|| bits[row / 8] & (1 << (row % 8)) != 0);
            format!(
                "{flag:?}{}",
                String::from_utf8_lossy(&data[offsets[row] as usize..offsets[row + 1] as usize])
            )
        })
        .collect()
}

fn check_groups(batches: &[GroupBatch], rows_max: u32) {
    let mut open: Option<Option<i64>> = None;
    let mut closed = Vec::new();
    for GroupBatch { batch, continues } in batches {
        let groups = int64s(&batch.columns[0]);
        assert!(batch.rows > 0 && batch.rows <= rows_max.max(1));
        if let Some(group) = open {
            assert_eq!(groups[0], group, "what goes on, goes on");
        }
        let last = *groups.last().expect("a row");
        for group in &groups {
            assert!(!closed.contains(group), "group {group:?} was over");
        }
        closed.extend(groups.iter().filter(|group| **group != last));
        if *continues {
            assert!(
                groups.iter().all(|group| *group == last),
                "only a group that fills a batch is cut"
            );
        } else {
            closed.push(last);
        }
        open = continues.then_some(last);
    }
    assert_eq!(open, None, "the last group is whole");
}

/// Goal: each group is in one part, whole, and the parts together are all rows, for each type that a key may have.
#[tokio::test]
async fn parts_share_no_group() {
    let server = Server::shared();
    let session = server.session().await;
    session
        .batch("CREATE TYPE public.mood AS ENUM ('sad', 'ok')")
        .await
        .expect("created");
    for key in [
        "n % 2 = 0",
        "(n % 100)::int2",
        "(n % 100)::int4",
        "n % 100",
        "(n % 100)::oid",
        "(n % 100)::text",
        "(n % 100)::text::varchar(3)",
        "(n % 100)::text::name",
        "(n % 2)::text::\"char\"",
        "convert_to((n % 100)::text, 'UTF8')",
        "md5((n % 100)::text)::uuid",
        "date '2024-01-01' + (n % 100)::int",
        "timestamp '2024-01-01' + n % 100 * interval '1 h'",
        "timestamptz 'infinity'",
        "(CASE WHEN n % 2 = 0 THEN 'sad' ELSE 'ok' END)::public.mood",
    ] {
        let sql = format!(
            "SELECT nullif({key}, {key}) IS NULL AS unused, CASE WHEN n % 11 <> 0 THEN {key} END AS k, n % 3 AS l, n FROM generate_series(1::int8, 2000) AS n"
        );
        let selection = session
            .describe(&sql)
            .await
            .unwrap_or_else(|error| panic!("{key}: {error:?}"));
        let grouped = selection
            .grouped(&["k".into(), "l".into()], &[])
            .unwrap_or_else(|error| panic!("{key}: {error}"));
        let parts: Vec<String> = (0..3)
            .map(|part| {
                format!(
                    "SELECT {part} AS part, k::text, l, n FROM (\n{}\n) AS p",
                    grouped.rows_sql(part, 3)
                )
            })
            .collect();
        let all = parts.join("\nUNION ALL\n");
        let split = format!(
            "SELECT count(*) FROM (SELECT k, l FROM ({all}) AS a GROUP BY k, l HAVING count(DISTINCT part) > 1) AS s"
        );
        assert_eq!(
            text(&session, &split, &[]).await.as_deref(),
            Some("0"),
            "{key}: a group is in two parts"
        );
        let count = format!("SELECT count(DISTINCT n) || ' ' || count(*) FROM ({all}) AS a");
        assert_eq!(
            text(&session, &count, &[]).await.as_deref(),
            Some("2000 2000"),
            "{key}: rows were lost"
        );
    }
    let selection = session
        .describe("SELECT 1.0 AS n")
        .await
        .expect("described");
    assert!(matches!(
        selection.grouped(&["n".into()], &[]),
        Err(GroupingError::KeyType { .. })
    ));
    session
        .batch("DROP TYPE public.mood")
        .await
        .expect("dropped");
}

/// Rows that depend on each other must not be computed once for each part.
#[tokio::test]
async fn plain_scans_are_told_from_the_rest() {
    let server = Server::shared();
    let session = server.session().await;
    session
        .batch(
            "CREATE TABLE public.plain (k int, v text, p int) PARTITION BY LIST (p);
             CREATE TABLE public.plain_1 PARTITION OF public.plain FOR VALUES IN (1);
             CREATE TABLE public.plain_2 PARTITION OF public.plain FOR VALUES IN (2);
             INSERT INTO public.plain SELECT n % 10, 'v', 1 + n % 2 FROM generate_series(1, 1000) AS n;
             CREATE INDEX ON public.plain_1 (k); ANALYZE public.plain",
        )
        .await
        .expect("created");
    for (sql, plain) in [
        ("SELECT k, v FROM public.plain WHERE v <> 'x'", true),
        ("SELECT k, v FROM public.plain_1 WHERE k = 3", true),
        ("SELECT k, upper(v) AS v FROM public.plain_1", true),
        ("SELECT DISTINCT ON (k) k, v FROM public.plain", false),
        (
            "SELECT k, count(*) AS n FROM public.plain GROUP BY k",
            false,
        ),
        (
            "SELECT k, row_number() OVER () AS n FROM public.plain",
            false,
        ),
        ("SELECT k, v FROM public.plain LIMIT 10", false),
        (
            "SELECT (random() * 10)::int AS k, v FROM public.plain",
            false,
        ),
        (
            "SELECT a.k, b.v FROM public.plain AS a JOIN public.plain_1 AS b USING (k)",
            false,
        ),
        (
            "SELECT k, (SELECT max(k) FROM public.plain_1 AS b WHERE b.k < a.k) AS m FROM public.plain_2 AS a",
            false,
        ),
        (
            "SELECT k, v FROM public.plain TABLESAMPLE BERNOULLI (50)",
            false,
        ),
        ("SELECT k FROM generate_series(1, 10) AS k", false),
    ] {
        let grouped = session
            .describe(sql)
            .await
            .expect(sql)
            .grouped(&["k".into()], &[])
            .expect(sql);
        let estimate = session
            .explain(&grouped.rows_sql(0, 2), &[])
            .await
            .expect(sql);
        assert_eq!(
            estimate.is_plain_scan(),
            plain,
            "{sql}\n{}",
            estimate.plan_json
        );
    }
    session
        .batch("DROP TABLE public.plain")
        .await
        .expect("dropped");
}

#[tokio::test]
async fn what_is_no_select_by_itself_is_refused_before_it_stands_in_a_copy() {
    let server = Server::shared();
    let session = server.session().await;
    for sql in [
        "SELECT 1 AS id) TO PROGRAM 'true' --",
        "SELECT 1; SELECT 2",
        "SELECT (1",
        "SELECT $1::int AS id",
    ] {
        assert!(session.describe(sql).await.is_err(), "{sql}");
    }
    // A comment at the end does not swallow the bracket.
    let batches = copied(
        &session,
        "SELECT 1::int8 AS id -- the end",
        &["id"],
        &[],
        Cut::default(),
    )
    .await
    .1;
    assert_eq!(int64s(&batches[0].batch.columns[0]), [Some(1)]);
    let params = [
        Param::Text("it's".into()),
        Param::Typed(1082, "2024-01-01".into()),
    ];
    let names = session.type_names(&[1082, 1]).await.expect("asked");
    assert_eq!(names, [Some("date".to_owned()), None]);
    let sql = inlined("SELECT $1 || 'x' AS id, $2 AS d", &params, |_| {
        names[0].clone()
    })
    .expect("literals");
    let (fields, batches) = copied(&session, &sql, &["id"], &[], Cut::default()).await;
    assert_eq!(fields[1].type_oid, 1082);
    assert_eq!(
        batches[0].batch.columns[0].values,
        Values::Varlen {
            offsets: vec![0, 5],
            data: b"it'sx".to_vec()
        }
    );
}

/// Goal: what the server meets on the way, and what has no place in a column, is an error and leaves the session usable
/// or closed; values that a type does not have are named by field and row.
#[tokio::test]
async fn failures_on_the_way_are_errors() {
    let server = Server::shared();
    let session = server.session().await;
    for (sql, part) in [
        (
            "SELECT n, 1 / (50000 - n) AS x FROM generate_series(1, 100000) AS n",
            "division by zero",
        ),
        (
            "SELECT 1 AS n, timestamp '294276-12-31' AS late",
            "column \"late\"",
        ),
    ] {
        let grouped = session
            .describe(sql)
            .await
            .expect(sql)
            .grouped(&["n".into()], &[])
            .expect(sql);
        let outcome = async {
            let mut copy = session
                .copy_out(&grouped.rows_sql(0, 1), &grouped, Cut::default())
                .await?;
            while copy.next_batch().await?.is_some() {}
            Ok::<_, WarehouseError>(())
        };
        let error = outcome.await.expect_err(sql);
        let said = format!("{error} {error:?}");
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(text(&session, "SELECT 1", &[]).await.as_deref(), Some("1"));
    let field = |name: &str, type_oid, layout| Field {
        name: name.into(),
        type_oid,
        type_mod: -1,
        layout,
        nullable: true,
    };
    let encode = |field: Field, values| {
        let encoder = Encoder::new(&[field]).expect("a type");
        let batch = Batch {
            rows: 2,
            columns: vec![Column {
                validity: None,
                values,
            }],
        };
        encoder
            .rows(&batch, 0, &mut Vec::new(), usize::MAX)
            .expect_err("no such value")
            .to_string()
    };
    let texts = Values::Varlen {
        offsets: vec![0, 1, 4],
        data: b"1one".to_vec(),
    };
    assert_eq!(
        encode(field("n", 1700, Layout::Varlen), texts),
        "row 2 of field \"n\": expected a number, such as 12.50"
    );
    assert!(
        encode(
            field("d", 1082, Layout::Int32),
            Values::Int32(vec![0, i32::MIN + 1])
        )
        .starts_with("row 2 of field \"d\"")
    );
    assert!(
        encode(
            field("t", 1114, Layout::Int64),
            Values::Int64(vec![0, i64::MIN + 1])
        )
        .starts_with("row 2 of field \"t\"")
    );
    assert!(Encoder::new(&[field("i", 1186, Layout::Varlen)]).is_none());
    assert!(Encoder::new(&[field("i", 20, Layout::Varlen)]).is_none());
}
