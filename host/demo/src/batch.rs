//! A batch, and its rows as bytes.

use std::sync::Arc;

use uuid::Uuid;

use crate::copy_text::{RowWriter, end_row, null, number, raw, raw_or_null, uuid as put_uuid};
use crate::session::{Ids, Kind, Row};

/// No chunk is longer than this.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// No row is longer than this: the longest URL and title of the catalogue stay far below it.
const ROW_BYTES_MAX: usize = 4 * 1024;

/// The time that loading takes: `load_tstamp` minus `etl_tstamp`.
const LOAD_MS: i64 = 95_000;

/// What lands together: rows of one `etl_tstamp`, in the order in which they arrived.
///
/// A batch of a thin stream may be empty: nothing of it is seen in the tables then.
#[derive(Debug)]
pub struct Batch {
    pub(crate) index: u64,
    pub(crate) etl_ms: i64,
    pub(crate) rows: Arc<[Row]>,
}

impl Batch {
    /// The number of the batch, from 0. Later batches have a later
    /// [`etl_tstamp`](Self::etl_tstamp).
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The batch's `etl_tstamp`, five minutes after the end of the time that it covers: `2024-01-01
    /// 01:05:00.000`.
    pub fn etl_tstamp(&self) -> String {
        let mut text = Vec::with_capacity(24);
        RowWriter::default().timestamp(&mut text, self.etl_ms);
        text.pop();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Rows of `atomic.events`, duplicates included.
    pub fn events(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Rows of the page context table.
    pub fn page_contexts(&self) -> u64 {
        self.rows.iter().map(|row| u64::from(row.contexts)).sum()
    }

    /// Returns the events in the text format of `COPY`, for
    /// [`copy_events_sql`](crate::copy_events_sql).
    pub fn event_chunks(&self) -> Chunks {
        self.chunks(event)
    }

    /// Returns the page contexts in the text format of `COPY`, for
    /// [`copy_page_contexts_sql`](crate::copy_page_contexts_sql).
    pub fn page_context_chunks(&self) -> Chunks {
        self.chunks(|writer, row, _, out| page_contexts(writer, row, out))
    }

    fn chunks(&self, write: fn(&mut RowWriter, &Row, i64, &mut Vec<u8>)) -> Chunks {
        Chunks {
            rows: Arc::clone(&self.rows),
            etl_ms: self.etl_ms,
            next: 0,
            writer: RowWriter::default(),
            write,
        }
    }
}

/// The bytes of a batch in pieces of whole rows, none longer than [`CHUNK_BYTES`] and none empty.
#[derive(Debug)]
pub struct Chunks {
    rows: Arc<[Row]>,
    etl_ms: i64,
    next: usize,
    writer: RowWriter,
    write: fn(&mut RowWriter, &Row, i64, &mut Vec<u8>),
}

impl Iterator for Chunks {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let rest = self.rows.get(self.next..).unwrap_or_default();
        if rest.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(CHUNK_BYTES.min(rest.len() * 1024));
        for row in rest {
            (self.write)(&mut self.writer, row, self.etl_ms, &mut out);
            self.next += 1;
            if out.len() > CHUNK_BYTES - ROW_BYTES_MAX {
                break;
            }
        }
        // Rows without a context write nothing; a piece of only such rows is the last one.
        (!out.is_empty()).then_some(out)
    }
}

/// Writes a row of `atomic.events`; the order is that of
/// [`EVENT_COLUMNS`](crate::schema::EVENT_COLUMNS).
fn event(writer: &mut RowWriter, row: &Row, etl_ms: i64, out: &mut Vec<u8>) {
    let view = &*row.view;
    let session = &*view.session;
    let (event, event_name) = names(row.kind);

    out.extend_from_slice(b"shop\tweb\t");
    writer.timestamp(out, etl_ms);
    writer.timestamp(out, row.collector_ms);
    writer.timestamp(out, row.created_ms);
    raw(out, event);
    put_uuid(out, row.event_id);
    out.extend_from_slice(b"js-3.20.0\tssc-2.10.0-kinesis\tsnowplow-enrich-kinesis-3.9.0\t");

    let user_id = session.user_id.as_ref().filter(|_| view.logged_in);
    raw_or_null(out, user_id.map(String::as_bytes));
    uuid_or_null(
        out,
        (row.ids != Ids::NoSessionNoVisitor).then_some(session.domain_userid),
    );
    match row.ids {
        Ids::All => number(out, session.index),
        Ids::NoSession | Ids::NoSessionNoVisitor => null(out),
    }
    uuid_or_null(out, session.network_userid);
    raw(out, session.country.as_bytes());
    out.extend_from_slice(&view.page_columns);
    interaction(row, out);
    out.extend_from_slice(&session.device_columns);
    number(out, session.view_width);
    number(out, view.doc_height);

    writer.timestamp(out, row.sent_ms);
    uuid_or_null(out, (row.ids == Ids::All).then_some(session.id));
    writer.timestamp(out, row.collector_ms - (row.sent_ms - row.created_ms));
    raw(out, event_name);
    writer.timestamp(out, etl_ms + LOAD_MS);
    end_row(out);
}

/// Writes columns `se_category` to `pp_yoffset_max`.
fn interaction(row: &Row, out: &mut Vec<u8>) {
    const ACTIONS: [&[u8]; 5] = [
        b"add-to-basket\tsize M",
        b"play\t\\N",
        b"filter\tprice",
        b"share\tcopy link",
        b"like\t\\N",
    ];
    match row.kind {
        Kind::Struct(number) => {
            raw(out, b"ui");
            raw(out, ACTIONS[usize::from(number) % ACTIONS.len()]);
            out.extend_from_slice(b"\\N\t\\N\t\\N\t\\N\t");
        }
        Kind::PagePing(nth) => {
            out.extend_from_slice(b"\\N\t\\N\t\\N\t0\t0\t");
            let height = row.view.session.view_height;
            let bottom = row.view.doc_height.saturating_sub(height);
            let reached = (u32::from(nth) * 180).min(bottom);
            number(out, reached.saturating_sub(180));
            number(out, reached);
        }
        Kind::PageView | Kind::LinkClick => {
            out.extend_from_slice(b"\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t");
        }
    }
}

/// Writes the row's page contexts: none, one or two rows.
fn page_contexts(writer: &mut RowWriter, row: &Row, out: &mut Vec<u8>) {
    // The second one's id is that of no page view. It follows from the event, so that a duplicate
    // repeats it.
    let other = Uuid::from_u128(row.event_id.as_u128() ^ 0xffff_ffff);
    for id in [row.view.id, other].into_iter().take(row.contexts.into()) {
        out.extend_from_slice(b"com.snowplowanalytics.snowplow\tweb_page\tjsonschema\t1-0-0\t");
        put_uuid(out, row.event_id);
        writer.timestamp(out, row.collector_ms);
        out.extend_from_slice(b"events\t[\"events\",\"web_page\"]\tevents\t");
        put_uuid(out, id);
        end_row(out);
    }
}

/// `event` and `event_name`.
fn names(kind: Kind) -> (&'static [u8], &'static [u8]) {
    match kind {
        Kind::PageView => (b"page_view", b"page_view"),
        Kind::PagePing(_) => (b"page_ping", b"page_ping"),
        Kind::LinkClick => (b"unstruct", b"link_click"),
        Kind::Struct(_) => (b"struct", b"event"),
    }
}

fn uuid_or_null(out: &mut Vec<u8>, value: Option<Uuid>) {
    match value {
        Some(value) => put_uuid(out, value),
        None => null(out),
    }
}
