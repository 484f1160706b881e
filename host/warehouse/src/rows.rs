//! An answer while it arrives.

use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::Fuse;
use tokio_postgres::RowStream;

use crate::answer::{Answer, AnswerLimits, Batch, Builder, Decode, Field};
use crate::error::WarehouseError;
use crate::session::Session;

/// How long the rest of an answer that nobody wants may take to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The rows of one statement, in batches. The server waits while nobody takes any.
///
/// Dropping it early leaves the rest to be read before the session's next statement begins;
/// [`cancel`](Self::cancel) ends it at once.
pub struct Rows<'a> {
    session: &'a Session,
    /// A finished one of tokio-postgres, asked again, says that the connection is closed.
    stream: Pin<Box<Fuse<RowStream>>>,
    fields: Vec<Field>,
    builder: Builder,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(
        session: &'a Session,
        stream: RowStream,
        fields: Vec<(Field, Decode)>,
    ) -> Self {
        let builder = Builder::new(&fields);
        let fields = fields.into_iter().map(|(field, _)| field).collect();
        Self {
            session,
            stream: Box::pin(stream.fuse()),
            fields,
            builder,
        }
    }

    /// Returns what the columns are.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Returns the next rows: at most `rows_max`, and no more once their values take `bytes_max` or
    /// more. `None` at the end.
    ///
    /// # Errors
    ///
    /// What the server met on its way.
    pub async fn next_batch(
        &mut self,
        rows_max: u32,
        bytes_max: u64,
    ) -> Result<Option<Batch>, WarehouseError> {
        while self.builder.rows() < rows_max.max(1) && self.builder.bytes() < bytes_max.max(1) {
            match self.stream.next().await {
                Some(Ok(row)) => self.builder.push(&row)?,
                Some(Err(error)) => return Err(self.session.failed(error)),
                None if self.builder.rows() == 0 => return Ok(None),
                None => break,
            }
        }
        Ok(Some(self.builder.take()))
    }

    /// Cancels the statement and waits, 10 seconds at most, until the server has stopped. An open
    /// transaction has to be rolled back.
    ///
    /// # Errors
    ///
    /// As [`Canceller::cancel`](crate::Canceller::cancel).
    pub async fn cancel(mut self) -> Result<(), WarehouseError> {
        self.stop().await
    }

    async fn stop(&mut self) -> Result<(), WarehouseError> {
        self.session.canceller().cancel().await?;
        // Read to its end, so that the cancel cannot hit a later statement.
        let rest = async { while let Some(Ok(_)) = self.stream.next().await {} };
        if tokio::time::timeout(DRAIN_TIMEOUT, rest).await.is_err() {
            tracing::warn!(
                server = self.session.server(),
                "a cancelled statement goes on"
            );
        }
        Ok(())
    }

    pub(crate) async fn all(mut self, limits: &AnswerLimits) -> Result<Answer, WarehouseError> {
        while let Some(row) = self.stream.next().await {
            let row = row.map_err(|error| self.session.failed(error))?;
            self.builder.push(&row)?;
            let too_large = if self.builder.rows() > limits.rows {
                Some((u64::from(limits.rows), "rows"))
            } else if self.builder.bytes() > limits.bytes {
                Some((limits.bytes, "bytes"))
            } else {
                None
            };
            if let Some((limit, unit)) = too_large {
                self.stop().await?;
                return Err(WarehouseError::AnswerTooLarge { limit, unit });
            }
        }
        let Batch { rows, columns } = self.builder.take();
        Ok(Answer {
            fields: self.fields,
            rows,
            columns,
        })
    }
}

impl std::fmt::Debug for Rows<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}
