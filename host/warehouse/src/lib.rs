//! Sessions, statements, errors and the private local server: the only crate that names
//! tokio-postgres.
//!
//! ```no_run
//! use std::path::Path;
//! use stepwell_warehouse::local::{LocalOptions, LocalServer};
//! use stepwell_warehouse::{AnswerLimits, Param, Session, SessionOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let server = LocalServer::at(Path::new(".stepwell"), LocalOptions::default());
//! let target = tokio::task::spawn_blocking(move || server.ensure_running()).await??;
//! let session = Session::connect(&target, &SessionOptions::default()).await?;
//! let sql = "SELECT n * $1 AS product FROM generate_series(1, 3) AS n";
//! let answer = session.ask(sql, &[Param::Int64(7)], &AnswerLimits::default()).await?;
//! assert_eq!(answer.int64(2, "product"), Some(21));
//! # Ok(())
//! # }
//! ```
//!
//! In reading order: [`Target`] says where to connect; [`Session`] runs one statement at a time,
//! with [`Param`]s in and an [`Answer`] out; [`WarehouseError`] says what went wrong, whether to
//! try again and what to do; [`local`] keeps a Postgres of the project's own.
//!
//! What it does not do: it has no pool (a run needs a handful of sessions, each for long), it never
//! repeats a statement by itself, and text from a plugin never goes through the simple protocol,
//! where a semicolon would begin another one.

pub mod answer;
pub mod catalog;
mod column_type;
mod confine;
mod connect;
mod copy;
pub mod error;
mod explain;
mod grouped;
mod guard;
pub mod local;
mod param;
mod rows;
mod session;
mod snapshot;
mod target;
mod tls;

pub use answer::{Answer, AnswerLimits, Batch, Column, Field, Layout, Values};
pub use column_type::ColumnType;
pub use confine::{DescribedColumn, Identity, Whereabouts};
pub use copy::{CopyFormat, CopyOut, Cut, EncodeError, Encoder, GroupBatch};
pub use error::{RetryClass, StatementError, WarehouseError};
pub use explain::Estimate;
pub use grouped::{Grouped, GroupingError, Selection, inlined};
pub use param::Param;
pub use rows::Rows;
pub use session::{Access, Canceller, Session, SessionOptions};
pub use snapshot::Snapshot;
pub use target::{Target, TargetError};
pub use tls::SslMode;
