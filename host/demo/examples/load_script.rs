//! Writes a stream as a script for psql: tables, then one transaction a batch.
//!
//! ```text
//! cargo build --release -p stepwell-demo --example load_script
//! target/release/examples/load_script --events 1000000 --days 60 | psql -qX mydb
//! target/release/examples/load_script --events 1000000 --days 60 --after 700 | psql -qX mydb
//! ```
//!
//! The second call lands one more batch of 700 events after the same history. `--after 700,7000`
//! writes two.

use std::io::{self, BufWriter, Write};

use clap::{Parser, ValueEnum};
use stepwell_demo::{
    Batch, Stream, StreamOptions, copy_events_sql, copy_page_contexts_sql, indexes_sql, schema_sql,
    sort_key_indexes_sql,
};

#[derive(Clone, Copy, ValueEnum)]
enum Indexes {
    None,
    SortKey,
    All,
}

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rows of atomic.events in the history
    #[arg(long)]
    events: u64,
    /// Days of the history
    #[arg(long)]
    days: u32,
    #[arg(long, default_value_t = 60)]
    batch_minutes: u32,
    /// Indexes to create after the history
    #[arg(long, value_enum, default_value = "none")]
    indexes: Indexes,
    /// Write only batches after the history, of these sizes
    #[arg(long, value_delimiter = ',')]
    after: Vec<u64>,
    /// Of `--after`, leave out this many: they landed before
    #[arg(long, default_value_t = 0)]
    skip: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut stream = Stream::new(&StreamOptions {
        seed: args.seed,
        events: args.events,
        days: args.days,
        batch_minutes: args.batch_minutes,
        ..StreamOptions::default()
    })?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.after.is_empty() {
        for statement in schema_sql() {
            writeln!(out, "{statement};")?;
        }
        for batch in stream {
            write_batch(&mut out, &batch)?;
        }
        let indexes = match args.indexes {
            Indexes::None => &[],
            Indexes::SortKey => sort_key_indexes_sql(),
            Indexes::All => indexes_sql(),
        };
        for statement in indexes {
            writeln!(out, "{statement};")?;
        }
        writeln!(
            out,
            "ANALYZE atomic.events, atomic.com_snowplowanalytics_snowplow_web_page_1;"
        )?;
    } else {
        stream.by_ref().for_each(drop);
        let after: Vec<Batch> = args
            .after
            .iter()
            .map(|rows| stream.next_batch_of(*rows))
            .collect();
        for batch in after.iter().skip(args.skip) {
            write_batch(&mut out, batch)?;
        }
    }
    Ok(out.flush()?)
}

fn write_batch(out: &mut impl Write, batch: &Batch) -> io::Result<()> {
    writeln!(out, "BEGIN;\n{};", copy_events_sql())?;
    for chunk in batch.event_chunks() {
        out.write_all(&chunk)?;
    }
    writeln!(out, "\\.\n{};", copy_page_contexts_sql())?;
    for chunk in batch.page_context_chunks() {
        out.write_all(&chunk)?;
    }
    writeln!(out, "\\.\nCOMMIT;")
}
