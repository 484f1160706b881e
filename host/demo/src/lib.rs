//! A deterministic, realistic stream of behavioural events, as bytes for `COPY`.
//!
//! The demo, the tests and the benchmark need the same thing: months of web events in the canonical
//! Snowplow tables, landing batch by batch, with everything that makes incremental models hard.
//! Sessions straddle batches, events arrive late, ids come twice, visitors log in only in their
//! third session. [`shares`] names each of these and says how often it happens.
//!
//! The same options give the same bytes on every machine: all arithmetic is on integers, and all
//! chance comes from ChaCha. Memory follows the events in flight (one batch, and what lands after
//! it), never the length of the stream.
//!
//! ```
//! use stepwell_demo::{Stream, StreamOptions};
//!
//! let options = StreamOptions { events: 5_000, days: 3, ..StreamOptions::default() };
//! let mut stream = Stream::new(&options)?;
//! let mut landed = 0;
//! for batch in stream.by_ref() {
//!     for chunk in batch.event_chunks() {
//!         // Here it would go to the connection, after `copy_events_sql()`.
//!         assert!(chunk.len() <= stepwell_demo::CHUNK_BYTES);
//!     }
//!     landed += batch.events();
//! }
//! assert_eq!(landed, 5_000);
//!
//! // The history is over; time goes on, in batches of average size.
//! let one_more = stream.next_batch();
//! assert_eq!(one_more.events(), 69);
//! # Ok::<(), stepwell_demo::OptionsError>(())
//! ```
//!
//! In reading order: [`StreamOptions`] and [`Stream`], [`Batch`], then [`schema_sql`],
//! [`copy_events_sql`] and [`indexes_sql`] for the tables.
//!
//! Not here: a connection, async, a clock. Whoever loads the bytes does so in their own way.

mod batch;
mod calendar;
mod catalogue;
mod copy_text;
mod dice;
mod schema;
mod session;
pub mod shares;
mod stream;
mod visitors;

pub use batch::{Batch, CHUNK_BYTES, Chunks};
pub use jiff::civil::Date;
pub use schema::{
    copy_events_sql, copy_page_contexts_sql, indexes_sql, schema_sql, sort_key_indexes_sql,
};
pub use stream::{OptionsError, Stream, StreamOptions};
