//! COPY out of the warehouse, straight into columns.

use std::pin::Pin;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::stream::Fuse;
use tokio_postgres::CopyOutStream;

use crate::answer::{Batch, Builder};
use crate::error::WarehouseError;
use crate::grouped::Grouped;
use crate::session::Session;

/// What a binary COPY begins with.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Largest row, in bytes. The client library holds a row whole, so it cannot be cut.
const ROW_BYTES_MAX: usize = 32 << 20;

/// How large a batch may get. Both are bounds that a batch is cut at, not goals: a group is not cut for less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Most rows, included; at least one.
    pub rows: u32,
    /// Bytes of values. A batch has more only where a single row has.
    pub bytes: u64,
}

impl Default for Cut {
    /// 65 536 rows and 8 MiB.
    fn default() -> Self {
        Self {
            rows: 65_536,
            bytes: 8 << 20,
        }
    }
}

/// Rows of some groups.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupBatch {
    /// The rows, group after group.
    pub batch: Batch,
    /// Whether the last group goes on in the next batch. Otherwise it is whole, as all others are.
    pub continues: bool,
}

/// Rows on their way out, in the order of their groups. The server waits while nobody takes any.
///
/// Memory: one batch, what was received and not decoded yet, and the key of the last row.
pub struct CopyOut<'a> {
    session: &'a Session,
    /// A finished one of tokio-postgres, asked again, says that the connection is closed.
    stream: Pin<Box<Fuse<CopyOutStream>>>,
    reader: Reader,
}

impl Session {
    /// Begins to copy out the rows of `sql`, which is one of the texts that `grouped` makes.
    ///
    /// # Errors
    ///
    /// All kinds that concern a statement; those that the server meets on its way come from
    /// [`CopyOut::next_batch`].
    pub async fn copy_out(
        &self,
        sql: &str,
        grouped: &Grouped,
        cut: Cut,
    ) -> Result<CopyOut<'_>, WarehouseError> {
        self.begin_statement();
        let sql = format!("COPY (\n{sql}\n) TO STDOUT (FORMAT binary)");
        let stream = self
            .client
            .copy_out(&sql)
            .await
            .map_err(|error| self.failed(error))?;
        Ok(CopyOut {
            session: self,
            stream: Box::pin(stream.fuse()),
            reader: Reader::new(grouped, cut),
        })
    }
}

impl CopyOut<'_> {
    /// Returns the next rows; `None` at the end.
    ///
    /// # Errors
    ///
    /// What the server met on its way, or [`WarehouseError::Protocol`] for a value that has no place in its column: a
    /// time beyond the year 294246, a row of more than 32 MiB.
    pub async fn next_batch(&mut self) -> Result<Option<GroupBatch>, WarehouseError> {
        loop {
            if let Some(batch) = self.reader.read()? {
                return Ok(Some(batch));
            }
            match self.stream.next().await {
                Some(Ok(chunk)) => self.reader.add(chunk)?,
                Some(Err(error)) => return Err(self.session.failed(error)),
                None => return self.reader.end(),
            }
        }
    }
}

impl std::fmt::Debug for CopyOut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyOut").finish_non_exhaustive()
    }
}

/// Decodes and cuts. Knows bytes alone.
struct Reader {
    builder: Builder,
    /// Names, for errors.
    names: Vec<String>,
    key: Vec<usize>,
    cut: Cut,
    /// What was received and not decoded.
    chunk: Bytes,
    /// The beginning of a row whose end is in the next chunk.
    carry: Vec<u8>,
    /// Where the values of the row at hand lie.
    values: Vec<Option<(usize, usize)>>,
    /// Values of the last row's key, each with its length.
    last_key: Vec<u8>,
    has_header: bool,
    is_over: bool,
    /// Row of the batch with which the last group begins; 0 also for a group that began in an earlier batch.
    group_at: u32,
}

/// What stands at the front of some bytes.
enum Front {
    /// A row of this many bytes.
    Row(usize),
    /// Not all of a row.
    Part,
    End,
}

impl Reader {
    fn new(grouped: &Grouped, cut: Cut) -> Self {
        Self {
            builder: Builder::new(grouped.columns()),
            names: grouped.fields().map(|field| field.name.clone()).collect(),
            key: grouped.key().to_vec(),
            cut: Cut {
                rows: cut.rows.max(1),
                bytes: cut.bytes.max(1),
            },
            chunk: Bytes::new(),
            carry: Vec::new(),
            values: Vec::new(),
            last_key: Vec::new(),
            has_header: false,
            is_over: false,
            group_at: 0,
        }
    }

    /// Adds what was received. Called only once all that could be read is.
    fn add(&mut self, chunk: Bytes) -> Result<(), WarehouseError> {
        if self.carry.is_empty() {
            self.chunk = chunk;
            return Ok(());
        }
        self.carry.extend_from_slice(&chunk);
        self.chunk = std::mem::take(&mut self.carry).into();
        self.small(self.chunk.len())
    }

    fn small(&self, bytes: usize) -> Result<(), WarehouseError> {
        if bytes <= ROW_BYTES_MAX {
            return Ok(());
        }
        Err(WarehouseError::protocol(format!(
            "a row has at most {ROW_BYTES_MAX} bytes, and this one has {bytes}"
        )))
    }

    /// Reads rows until a batch is full, or until there is nothing more to read.
    fn read(&mut self) -> Result<Option<GroupBatch>, WarehouseError> {
        if !self.has_header && !self.header()? {
            return Ok(None);
        }
        let chunk = std::mem::take(&mut self.chunk);
        let mut rest: &[u8] = &chunk;
        let mut full = None;
        while !self.is_over && !rest.is_empty() {
            match self.front(rest)? {
                Front::End => self.is_over = true,
                Front::Part => {
                    self.carry.extend_from_slice(rest);
                    break;
                }
                Front::Row(length) => {
                    full = self.row(&rest[..length])?;
                    rest = &rest[length..];
                    if full.is_some() {
                        self.chunk = chunk.slice(chunk.len() - rest.len()..);
                        break;
                    }
                }
            }
        }
        Ok(full)
    }

    /// Takes the header off. Returns whether it was all there.
    fn header(&mut self) -> Result<bool, WarehouseError> {
        // Signature, flags, and the length of what else there may be.
        const FIXED: usize = SIGNATURE.len() + 8;
        let chunk = &self.chunk;
        let extension = chunk.get(FIXED - 4..FIXED);
        let extension =
            extension.and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
        match extension.map(|length| FIXED + length as usize) {
            Some(length) if chunk.len() >= length => {
                if !chunk.starts_with(SIGNATURE) {
                    return Err(WarehouseError::protocol(
                        "a binary COPY begins with its signature",
                    ));
                }
                self.chunk.advance(length);
                self.has_header = true;
                Ok(true)
            }
            _ => {
                self.carry = self.chunk.split_off(0).to_vec();
                Ok(false)
            }
        }
    }

    /// Finds the values of the row at the front of `bytes`.
    fn front(&mut self, bytes: &[u8]) -> Result<Front, WarehouseError> {
        let Some(count) = bytes.get(..2) else {
            return Ok(Front::Part);
        };
        let count = i16::from_be_bytes([count[0], count[1]]);
        if count == -1 {
            return Ok(Front::End);
        }
        if usize::try_from(count) != Ok(self.names.len()) {
            return Err(WarehouseError::protocol(
                "a row has as many values as there are columns",
            ));
        }
        self.values.clear();
        let mut at = 2;
        for _ in 0..count {
            let Some(length) = bytes.get(at..at + 4) else {
                return Ok(Front::Part);
            };
            at += 4;
            let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
            self.values.push(match usize::try_from(length) {
                Ok(length) => {
                    let value = (at, at + length);
                    at += length;
                    Some(value)
                }
                Err(_) => None,
            });
        }
        self.small(at)?;
        Ok(match at <= bytes.len() {
            true => Front::Row(at),
            false => Front::Part,
        })
    }

    /// Adds the row whose values [`front`](Self::front) has found. Returns the batch before it, if that one is full.
    fn row(&mut self, row: &[u8]) -> Result<Option<GroupBatch>, WarehouseError> {
        let begins = self.begins_group(row);
        let size = row.len() as u64;
        let (rows, bytes) = (self.builder.rows(), self.builder.bytes());
        let full = rows >= self.cut.rows || (rows > 0 && bytes + size > self.cut.bytes);
        let full = full.then(|| self.cut(begins));
        if begins {
            self.group_at = self.builder.rows();
        }
        let values = self.values.iter();
        let values = values.map(|value| value.map(|(from, to)| &row[from..to]));
        self.builder.push_raw(values).map_err(|at| {
            let name = self.names.get(at).map_or("", String::as_str);
            WarehouseError::protocol(format!(
                "a value of column \"{name}\" has no place in a column of its type: cast it to text"
            ))
        })?;
        Ok(full)
    }

    /// Returns the rows so far, but for those of a group that goes on and has not filled the batch by itself.
    fn cut(&mut self, at_group: bool) -> GroupBatch {
        let at = std::mem::take(&mut self.group_at);
        let (batch, continues) = match (at_group, at) {
            (true, _) => (self.builder.take(), false),
            (false, 0) => (self.builder.take(), true),
            (false, at) => (self.builder.take_until(at), false),
        };
        GroupBatch { batch, continues }
    }

    /// Whether the row's key is another than that of the row before; also for the first row. Keeps the key.
    fn begins_group(&mut self, row: &[u8]) -> bool {
        let mut last = self.last_key.as_slice();
        let same = self.key.iter().all(|&at| {
            let value = self.values[at].map(|(from, to)| &row[from - 4..to]);
            let value = value.unwrap_or(&[0xff; 4]);
            let same = last.starts_with(value);
            last = last.get(value.len()..).unwrap_or_default();
            same
        });
        if same && last.is_empty() && !self.last_key.is_empty() {
            return false;
        }
        self.last_key.clear();
        for &at in &self.key {
            let value = self.values[at].map(|(from, to)| &row[from - 4..to]);
            self.last_key.extend_from_slice(value.unwrap_or(&[0xff; 4]));
        }
        true
    }

    /// Returns the last batch, once the server has sent everything.
    fn end(&mut self) -> Result<Option<GroupBatch>, WarehouseError> {
        if !self.is_over {
            return Err(WarehouseError::protocol(
                "a binary COPY ends with its trailer",
            ));
        }
        Ok((self.builder.rows() > 0).then(|| self.cut(true)))
    }
}
