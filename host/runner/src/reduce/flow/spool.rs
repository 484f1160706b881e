//! Rows on their way through a file: out of a session, through one instance, and back into the same session.
//!
//! The file has no name, so nothing of it stays, even if the host is killed. What it holds is what COPY takes, whole.

use std::fs::File;
use std::io::{Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream;
use stepwell_warehouse::{CopyFormat, Encoder, Session, WarehouseError};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::{CHUNK_BYTES, Ended, Flow, Flowed, Given, hand_on, passed_on, statement, unless_ended};
use crate::conversation::blocking;
use crate::error::{Problem, RunError};
use crate::run::Interrupts;

impl Flow<'_> {
    /// Lets all rows of a SELECT through the plugin, in one part, and keeps what it gives in a file. After an error
    /// nothing of it runs on any more, neither here nor on the server.
    pub(in crate::reduce) async fn keep(
        &self,
        session: &Session,
        sql: &str,
        interrupts: &Interrupts,
    ) -> Result<(File, Flowed), RunError> {
        let stop = Arc::new(AtomicBool::new(false));
        let kept = unless_ended(
            self.through(session, sql, &stop),
            interrupts,
            self.limits.wall,
        )
        .await;
        if kept.is_err() {
            stop.store(true, Ordering::Relaxed);
            if let Err(error) = session.canceller().cancel().await {
                tracing::warn!(%error, "could not cancel the running statement");
            }
        }
        kept
    }

    async fn through(
        &self,
        session: &Session,
        sql: &str,
        stop: &Arc<AtomicBool>,
    ) -> Result<(File, Flowed), RunError> {
        let (hand, handed) = mpsc::channel(1);
        let (give, given) = mpsc::channel(2);
        let folding = self.fold(handed, give, Arc::clone(stop));
        let reading = async move {
            let failed = |source| Ended::Error(statement(source));
            hand_on(session, sql, self.grouped, self.cut, &hand, failed).await
        };
        let keeping = blocking(move || keep(tempfile::tempfile().map_err(failed)?, given));
        // The first failure ends all three.
        let (bytes_in, flowed, file) = tokio::try_join!(
            own(reading),
            own(async { passed_on(folding.await) }),
            own(keeping),
        )?;
        Ok((file, Flowed { bytes_in, ..flowed }))
    }

    /// Copies what was kept into the table; returns how many rows it was.
    pub(in crate::reduce) async fn write(
        &self,
        session: &Session,
        file: File,
    ) -> Result<u64, WarehouseError> {
        let file = tokio::fs::File::from_std(file);
        let rows = stream::try_unfold(file, async |mut file| {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let more = file.read_buf(&mut chunk).await? > 0;
            Ok::<_, std::io::Error>(more.then(|| (chunk.into(), file)))
        });
        session
            .copy_in(self.target, &[], CopyFormat::Binary, rows)
            .await
    }
}

/// The outcome of one of several that work together. One that is cut off waits for the failure that did it, which is
/// another's, and the one that counts.
async fn own<T>(work: impl Future<Output = Result<T, Ended>>) -> Result<T, RunError> {
    match work.await {
        Ok(done) => Ok(done),
        Err(Ended::Error(error)) => Err(error),
        Err(Ended::CutOff) => std::future::pending().await,
    }
}

/// Writes all that is given into a file, as COPY takes it, and goes back to its beginning.
fn keep(mut file: File, mut given: mpsc::Receiver<Given>) -> Result<File, Ended> {
    file.write_all(&Encoder::header()).map_err(failed)?;
    loop {
        match given.blocking_recv() {
            Some(Given::Rows(rows)) => file.write_all(&rows).map_err(failed)?,
            Some(Given::End) => break,
            None => return Err(Ended::CutOff),
        }
    }
    file.write_all(&Encoder::trailer()).map_err(failed)?;
    file.rewind().map_err(failed)?;
    Ok(file)
}

fn failed(source: std::io::Error) -> Ended {
    Ended::Error(RunError::new(Problem::TemporaryFile {
        folder: std::env::temp_dir(),
        source,
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn given(all: impl IntoIterator<Item = Given>) -> mpsc::Receiver<Given> {
        let (give, given) = mpsc::channel(4);
        for one in all {
            assert!(give.try_send(one).is_ok());
        }
        given
    }

    #[test]
    fn a_full_disk_is_an_error_with_the_folder() {
        let mut options = std::fs::OpenOptions::new();
        let full = options.write(true).open("/dev/full").expect("a device");
        let Err(Ended::Error(error)) = keep(full, given([Given::End])) else {
            panic!("nothing can be written there");
        };
        let folder = std::env::temp_dir().display().to_string();
        assert!(error.to_string().contains(&folder), "{error}");
        let help = error.help().expect("what to do");
        assert!(help.contains("TMPDIR"), "{help}");
        let Problem::TemporaryFile { source, .. } = &*error.problem else {
            panic!("{error}");
        };
        assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    }

    /// What a plugin gave that did not come to its end is not taken for all of it.
    #[test]
    fn what_is_kept_is_whole() {
        let file = || tempfile::tempfile().expect("a file");
        let rows = || Given::Rows(vec![1, 2]);
        assert!(matches!(keep(file(), given([rows()])), Err(Ended::CutOff)));
        let Ok(mut kept) = keep(file(), given([rows(), rows(), Given::End])) else {
            panic!("it came to its end");
        };
        let mut bytes = Vec::new();
        kept.read_to_end(&mut bytes).expect("a file");
        let (header, trailer) = (Encoder::header(), Encoder::trailer());
        assert_eq!(bytes, [&header[..], &[1, 2, 1, 2], &trailer[..]].concat());
    }
}
