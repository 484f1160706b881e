//! Every type that has a place in an answer, and those that have none.

use stepwell_warehouse::{AnswerLimits, Layout, Param, Session, Values, WarehouseError};

use crate::harness::{Server, ask, text};

/// Asks for one value and a NULL of its type.
async fn values(session: &Session, expression: &str) -> (Layout, u32, Values) {
    let sql = format!(
        "SELECT CASE WHEN n = 1 THEN {expression} END AS it
         FROM generate_series(1, 2) AS n
         ORDER BY n"
    );
    let answer = ask(session, &sql, &[]).await;
    let column = &answer.columns[0];
    assert_eq!(answer.rows, 2, "{expression}");
    assert_eq!(
        column.validity.as_deref(),
        Some(&[0b01][..]),
        "{expression}"
    );
    let field = &answer.fields[0];
    assert!(field.nullable);
    (field.layout, field.type_oid, column.values.clone())
}

fn varlen(text: &str) -> Values {
    varlen_bytes(text.as_bytes())
}

fn varlen_bytes(bytes: &[u8]) -> Values {
    let end = bytes.len() as u32;
    Values::Varlen {
        offsets: vec![0, end, end],
        data: bytes.to_vec(),
    }
}

#[tokio::test]
async fn every_type_with_a_layout() {
    let server = Server::shared();
    let session = server.session().await;
    for (expression, layout, oid, expected) in [
        ("true", Layout::Bits, 16, Values::Bits(vec![0b01])),
        ("'-7'::int2", Layout::Int16, 21, Values::Int16(vec![-7, 0])),
        ("-70000", Layout::Int32, 23, Values::Int32(vec![-70000, 0])),
        (
            "-7000000000",
            Layout::Int64,
            20,
            Values::Int64(vec![-7_000_000_000, 0]),
        ),
        (
            "4294967295::oid",
            Layout::Int64,
            26,
            Values::Int64(vec![4_294_967_295, 0]),
        ),
        (
            "1.5::float4",
            Layout::Single,
            700,
            Values::Single(vec![1.5, 0.0]),
        ),
        (
            "-1.25e300::float8",
            Layout::Double,
            701,
            Values::Double(vec![-1.25e300, 0.0]),
        ),
        (
            "date '1970-01-03'",
            Layout::Int32,
            1082,
            Values::Int32(vec![2, 0]),
        ),
        (
            "date '1969-12-31'",
            Layout::Int32,
            1082,
            Values::Int32(vec![-1, 0]),
        ),
        (
            "date 'infinity'",
            Layout::Int32,
            1082,
            Values::Int32(vec![i32::MAX, 0]),
        ),
        (
            "date '-infinity'",
            Layout::Int32,
            1082,
            Values::Int32(vec![i32::MIN, 0]),
        ),
        (
            "timestamptz '1970-01-01 01:00:00.000001+01'",
            Layout::Int64,
            1184,
            Values::Int64(vec![1, 0]),
        ),
        (
            "timestamp '1970-01-02'",
            Layout::Int64,
            1114,
            Values::Int64(vec![86_400_000_000, 0]),
        ),
        (
            "timestamp 'infinity'",
            Layout::Int64,
            1114,
            Values::Int64(vec![i64::MAX, 0]),
        ),
        ("'grün'::text", Layout::Varlen, 25, varlen("grün")),
        ("''::text", Layout::Varlen, 25, varlen("")),
        ("'ab'::varchar(3)", Layout::Varlen, 1043, varlen("ab")),
        ("'ab'::char(3)", Layout::Varlen, 1042, varlen("ab ")),
        ("'ab'::name", Layout::Varlen, 19, varlen("ab")),
        ("'a'::\"char\"", Layout::Varlen, 18, varlen("a")),
        (
            "'{\"a\": 1}'::json",
            Layout::Varlen,
            114,
            varlen("{\"a\": 1}"),
        ),
        (
            "'{\"a\":   1}'::jsonb",
            Layout::Varlen,
            3802,
            varlen("{\"a\": 1}"),
        ),
        (
            "'\\x00ff'::bytea",
            Layout::Varlen,
            17,
            varlen_bytes(&[0, 255]),
        ),
        (
            "array['a', 'b c', NULL, '']",
            Layout::Varlen,
            1009,
            varlen("{a,\"b c\",NULL,\"\"}"),
        ),
        ("array[1, -2]", Layout::Varlen, 1007, varlen("{1,-2}")),
        ("'{}'::int8[]", Layout::Varlen, 1016, varlen("{}")),
    ] {
        let (is_layout, is_oid, is) = values(&session, expression).await;
        assert_eq!(
            (is_layout, is_oid, is),
            (layout, oid, expected),
            "{expression}"
        );
    }
    let uuid = "00112233-4455-6677-8899-aabbccddeeff";
    let (layout, _, is) = values(&session, &format!("'{uuid}'::uuid")).await;
    let mut expected: Vec<u8> = (0..16).map(|n| n * 0x11).collect();
    expected.extend([0; 16]);
    assert_eq!((layout, is), (Layout::Fixed16, Values::Fixed16(expected)));
}

/// Goal: `numeric` in an answer reads as `::text` shows it, to the last zero.
#[tokio::test]
async fn numeric_is_its_text_form() {
    let server = Server::shared();
    let session = server.session().await;
    let sql = "
        SELECT value AS it, value::text AS expected
        FROM (
            SELECT (mantissa * power(10::numeric, exponent))::numeric AS value
            FROM unnest(array[0, 1, -1, 12, 9999, 10000, 10001, -123456789.987654321]::numeric[])
                AS mantissa,
                generate_series(-13, 13) AS exponent
            UNION ALL
            SELECT unnest(array['NaN', '0.00', '1e-30', '-1e30', '0.10', '10000.0001']::numeric[])
        ) AS made";
    let answer = ask(&session, sql, &[]).await;
    assert!(answer.rows > 200);
    for row in 0..answer.rows as usize {
        assert_eq!(answer.text(row, "it"), answer.text(row, "expected"));
    }
}

#[tokio::test]
async fn bits_over_many_rows_and_no_nulls() {
    let server = Server::shared();
    let session = server.session().await;
    let sql = "SELECT n % 3 = 0 AS it, n AS n FROM generate_series(0, 99) AS n ORDER BY n";
    let answer = ask(&session, sql, &[]).await;
    assert_eq!(answer.columns[0].validity, None);
    for row in 0..100 {
        assert_eq!(answer.boolean(row, "it"), Some(row % 3 == 0));
        assert_eq!(answer.int64(row, "n"), Some(row as i64));
    }
    assert_eq!(answer.boolean(100, "it"), None);
}

#[tokio::test]
async fn an_empty_answer_keeps_its_fields() {
    let server = Server::shared();
    let session = server.session().await;
    let sql = "SELECT 1 AS a, 'x'::varchar(10) AS b, NULL::uuid AS c WHERE false";
    let answer = ask(&session, sql, &[]).await;
    assert_eq!(answer.rows, 0);
    let names: Vec<_> = answer
        .fields
        .iter()
        .map(|field| field.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
    let mods: Vec<_> = answer.fields.iter().map(|field| field.type_mod).collect();
    assert_eq!(mods, [-1, 14, -1]);
    let empty = Values::Varlen {
        offsets: vec![0],
        data: vec![],
    };
    assert_eq!(answer.columns[1].values, empty);
    assert_eq!(answer.columns[1].validity, None);
}

#[tokio::test]
async fn a_type_without_a_layout_names_the_cast() {
    let server = Server::shared();
    let session = server.session().await;
    for (sql, message) in [
        (
            "SELECT interval '1 day' AS lasted",
            "column \"lasted\" has type interval: cast it, for example lasted::text",
        ),
        (
            "SELECT point(1, 2) AS place",
            "column \"place\" has type point: cast it, for example place::text",
        ),
        (
            "SELECT array[1.5] AS amounts",
            "column \"amounts\" has type _numeric: cast it, for example amounts::text",
        ),
    ] {
        let error = session
            .ask(sql, &[], &AnswerLimits::default())
            .await
            .expect_err(sql);
        assert!(
            matches!(error, WarehouseError::UnsupportedType { .. }),
            "{error:?}"
        );
        assert_eq!(error.to_string(), message);
    }
}

/// A type that is not built in makes tokio-postgres ask the server about it. With `query_typed` it
/// asked while the rows were under way, and neither moved once these were more than a few buffers.
#[tokio::test]
async fn a_large_answer_with_an_own_type_arrives() {
    let server = Server::shared();
    let session = server.session().await;
    session
        .batch("CREATE TYPE pg_temp.mood AS ENUM ('good', 'bad')")
        .await
        .expect("created");
    let sql = "SELECT 'bad'::pg_temp.mood AS it FROM generate_series(1, 50000)";
    let answer = ask(&session, sql, &[]).await;
    assert_eq!(answer.rows, 50_000);
    assert_eq!(answer.text(49_999, "it"), Some("bad"));
    session
        .batch("CREATE TYPE pg_temp.pair AS (a int, b int)")
        .await
        .expect("created");
    let sql = "SELECT row(n, n)::pg_temp.pair AS it FROM generate_series(1, 50000) AS n";
    let error = session
        .ask(sql, &[], &AnswerLimits::default())
        .await
        .expect_err("no layout");
    assert!(error.to_string().contains(".pair: cast it"), "{error}");
    assert_eq!(text(&session, "SELECT 1", &[]).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn parameters_of_each_kind() {
    let server = Server::shared();
    let session = server.session().await;
    let text_of = |param: Param, sql: &'static str| {
        let session = &session;
        async move { text(session, sql, &[param]).await }
    };
    let cases = [
        (Param::Bool(true), "SELECT $1", Some("true")),
        (
            Param::Int64(i64::MIN),
            "SELECT $1",
            Some("-9223372036854775808"),
        ),
        (Param::Float64(0.1), "SELECT $1", Some("0.1")),
        (Param::Float64(f64::NAN), "SELECT $1", Some("NaN")),
        (
            Param::Float64(f64::NEG_INFINITY),
            "SELECT $1",
            Some("-Infinity"),
        ),
        (Param::Float64(1e300), "SELECT $1", Some("1e+300")),
        (Param::Text("it's".into()), "SELECT $1", Some("it's")),
        (Param::Null, "SELECT $1", None),
        (Param::Null, "SELECT $1::int4 + 1", None),
        // Text takes the type that the statement asks for.
        (Param::Text("42".into()), "SELECT $1 + 1", Some("43")),
        (
            Param::Text("2024-02-29".into()),
            "SELECT $1::date + 1",
            Some("2024-03-01"),
        ),
        (
            Param::Text("x".into()),
            "SELECT 'x'::name = $1",
            Some("true"),
        ),
        (
            Param::Typed(1082, "2024-02-29".into()),
            "SELECT $1 + 1",
            Some("2024-03-01"),
        ),
        (
            Param::Typed(1009, "{a,\"b c\"}".into()),
            "SELECT $1[2]",
            Some("b c"),
        ),
        (
            Param::Int64(3),
            "SELECT count(*) FROM (SELECT generate_series(1, 9) LIMIT $1) AS n",
            Some("3"),
        ),
    ];
    for (param, sql, expected) in cases {
        let shown = format!("{param:?} {sql}");
        assert_eq!(text_of(param, sql).await.as_deref(), expected, "{shown}");
    }
}

#[tokio::test]
async fn values_that_do_not_fit_are_errors() {
    let server = Server::shared();
    let session = server.session().await;
    let limits = AnswerLimits::default();
    for (sql, params, sqlstate) in [
        ("SELECT $1::int4", vec![Param::Text("many".into())], "22P02"),
        (
            "SELECT $1",
            vec![Param::Typed(1082, "no day".into())],
            "22007",
        ),
        ("SELECT $1", vec![Param::Text("a\0b".into())], "22021"),
    ] {
        let error = session.ask(sql, &params, &limits).await.expect_err(sql);
        assert_eq!(error.sqlstate(), Some(sqlstate), "{sql}: {error:?}");
    }
    let error = session
        .ask("SELECT $1, $2", &[Param::Null], &limits)
        .await
        .expect_err("one value");
    assert_eq!(
        error.to_string(),
        "the statement takes 2 parameters and 1 were given"
    );
    let error = session
        .execute("SELECT $1::int", &[])
        .await
        .expect_err("no value");
    assert_eq!(error.sqlstate(), Some("08P01"));
    assert!(!session.is_closed());
}
