//! COPY into a table.

use bytes::Bytes;
use futures_util::stream;
use stepwell_sql::TableName;
use stepwell_warehouse::{CopyFormat, WarehouseError};

use crate::harness::{Server, text};

type Chunk = Result<Bytes, std::io::Error>;

#[tokio::test]
async fn rows_in_chunks_that_end_anywhere() {
    let server = Server::shared();
    let session = server.session().await;
    session
        .batch("CREATE TABLE public.\"Odd Name\" (n int, word text)")
        .await
        .expect("created");
    let table = TableName::new("public", "Odd Name");
    let csv: String = (0..20_000)
        .map(|n| format!("{n},\"word, {n}\"\n"))
        .collect();
    let chunks: Vec<Chunk> = csv
        .as_bytes()
        .chunks(977)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    let columns = ["n", "word"];
    let copied = session
        .copy_in(&table, &columns, CopyFormat::Csv, stream::iter(chunks))
        .await;
    assert_eq!(copied.expect("copied"), 20_000);
    let lines: [Chunk; 1] = [Ok(Bytes::from_static(b"one\\nword\t\\N\n"))];
    let columns = ["word", "n"];
    let copied = session
        .copy_in(&table, &columns, CopyFormat::Text, stream::iter(lines))
        .await;
    assert_eq!(copied.expect("copied"), 1);
    let odd = "SELECT word FROM public.\"Odd Name\" WHERE n IS NULL";
    assert_eq!(text(&session, odd, &[]).await.as_deref(), Some("one\nword"));
    session
        .batch("DROP TABLE public.\"Odd Name\"")
        .await
        .expect("dropped");
}

/// Goal: neither a row that the server refuses nor a source that fails leaves rows, or a session
/// that cannot go on. The source is far larger than what is buffered.
#[tokio::test]
async fn a_copy_that_fails_keeps_nothing() {
    let server = Server::shared();
    let session = server.session().await;
    session
        .batch("CREATE TEMPORARY TABLE numbers (n int)")
        .await
        .expect("created");
    let schema = text(
        &session,
        "SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()",
        &[],
    );
    let table = TableName::new(schema.await.expect("a schema"), "numbers");
    let many = (0..10_000).map(|n| match n {
        10 => Ok(Bytes::from_static(b"not a number\n")),
        n => Ok::<_, std::io::Error>(Bytes::from(format!("{n}\n").repeat(100))),
    });
    let error = session
        .copy_in(&table, &[], CopyFormat::Text, stream::iter(many))
        .await
        .expect_err("not a number");
    assert_eq!(error.sqlstate(), Some("22P02"), "{error:?}");
    let context = error
        .statement()
        .and_then(|said| said.context.clone())
        .unwrap_or_default();
    assert!(context.contains("line 1001, column n"), "{context}");

    let broken = (0..100).map(|n| match n {
        50 => Err(std::io::Error::other("the disk is gone")),
        _ => Ok(Bytes::from_static(b"1\n")),
    });
    let error = session
        .copy_in(&table, &["n"], CopyFormat::Text, stream::iter(broken))
        .await
        .expect_err("no source");
    assert!(
        matches!(error, WarehouseError::CopySource { .. }),
        "{error:?}"
    );
    let count = "SELECT count(*) FROM numbers";
    assert_eq!(text(&session, count, &[]).await.as_deref(), Some("0"));
}

#[tokio::test]
async fn a_table_that_is_not_there() {
    let server = Server::shared();
    let session = server.session().await;
    let table = TableName::new("public", "nowhere");
    let none = stream::empty::<Chunk>();
    let error = session
        .copy_in(&table, &[], CopyFormat::Csv, none)
        .await
        .expect_err("no table");
    assert_eq!(error.sqlstate(), Some("42P01"));
}
