//! COPY into a table, and out of a query.

mod encode;
mod out;

use std::error::Error as StdError;

use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt};
use stepwell_sql::{TableName, quote_ident};

use crate::error::WarehouseError;
use crate::session::Session;

pub use encode::{EncodeError, Encoder};
pub use out::{CopyOut, Cut, GroupBatch};

/// How the bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    /// Postgres's own text form: tabs, `\N`, backslash escapes.
    Text,
    /// CSV without a header; an unquoted empty field is NULL.
    Csv,
    /// Postgres's binary form, header and trailer included.
    Binary,
}

impl Session {
    /// Copies rows into a table and returns how many. Chunks may end anywhere in a row.
    ///
    /// A chunk is taken when the server has room for it, so memory is bounded by a few chunks;
    /// nothing is kept if it fails.
    ///
    /// # Errors
    ///
    /// [`WarehouseError::CopySource`] if the source fails; otherwise all kinds that concern a
    /// statement, where the error's context names the line and the column.
    pub async fn copy_in<S, E>(
        &self,
        table: &TableName,
        columns: &[&str],
        format: CopyFormat,
        source: S,
    ) -> Result<u64, WarehouseError>
    where
        S: Stream<Item = Result<Bytes, E>>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.begin_statement();
        let sql = copy_sql(table, columns, format);
        let sink = self
            .client
            .copy_in(&sql)
            .await
            .map_err(|error| self.failed(error))?;
        let mut sink = Box::pin(sink);
        let mut source = std::pin::pin!(source);
        while let Some(chunk) = source.next().await {
            match chunk {
                Ok(chunk) => {
                    if sink.send(chunk).await.is_err() {
                        // The reason comes with the answer, which `finish` reads.
                        break;
                    }
                }
                Err(error) => {
                    // Dropping the sink tells the server to undo the COPY.
                    drop(sink);
                    return Err(WarehouseError::CopySource {
                        source: error.into(),
                    });
                }
            }
        }
        sink.as_mut()
            .finish()
            .await
            .map_err(|error| self.failed(error))
    }
}

fn copy_sql(table: &TableName, columns: &[&str], format: CopyFormat) -> String {
    let columns: Vec<String> = columns.iter().map(|column| quote_ident(column)).collect();
    let columns = match columns.as_slice() {
        [] => String::new(),
        columns => format!(" ({})", columns.join(", ")),
    };
    let format = match format {
        CopyFormat::Text => "text",
        CopyFormat::Csv => "csv",
        CopyFormat::Binary => "binary",
    };
    format!("COPY {table}{columns} FROM STDIN (FORMAT {format})")
}
