//! How does a large transaction get to the disk before it is known whether it commits?
//!
//! Its parts are written to a file in `spool/` as they come, and flushed in the background, so
//! that its commit has little left to wait for. When it commits the file takes its place beside
//! the segment: nothing is copied. What is dropped before that, or was open when the process died,
//! leaves nothing behind.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use domicile_core::frame::{Compression, PAYLOAD_BYTES_MAX, Packer, Parts};
use domicile_core::lsn::Lsn;
use tokio::task::{JoinHandle, spawn_blocking};

use super::error::{LogError, io};
use super::frame::Frame;
use super::parts::{self, PartReader};
use super::segment;
use super::standing::Standing;

/// So much may be written and not flushed before a flush begins.
const FLUSH_BYTES: u64 = 8 << 20;

/// For how long a failure is told. Until then what failed was tried again, if it is still wanted.
const FAILURE_LASTS: Duration = Duration::from_secs(60);

/// Makes spools in one log's folder.
pub(super) struct Spools {
    folder: PathBuf,
    compression: Compression,
    next: AtomicU64,
    failure: Failure,
}

/// When and why a spool last failed, until another is complete. What a spool takes is free again
/// when it is given up, so a small trial would not show that it fails again.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<(Instant, Standing)>>>);

impl Failure {
    fn set(&self, standing: Option<Standing>) {
        // Replaced as a whole.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            standing.map(|standing| (Instant::now(), standing));
    }

    /// Passes `result` on, and remembers what failed.
    fn note<T>(&self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error @ LogError::Io { source, .. }) = &result {
            self.set(Some(Standing::after(source, error.to_string())));
        }
        result
    }
}

impl Spools {
    /// Removes what the last process left.
    pub fn open(log: &Path, compression: Compression) -> Result<Self, LogError> {
        let folder = log.join("spool");
        fs::create_dir_all(&folder).map_err(io("create folder", &folder))?;
        for entry in fs::read_dir(&folder).map_err(io("list folder", &folder))? {
            let path = entry.map_err(io("list folder", &folder))?.path();
            fs::remove_file(&path).map_err(io("remove spool", &path))?;
        }
        segment::sync_folder(log)?;
        Ok(Self { folder, compression, next: AtomicU64::new(0), failure: Failure::default() })
    }

    /// Can a large transaction be kept here, as far as the last one tells?
    pub fn standing(&self) -> Standing {
        let failure = self.failure.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*failure {
            Some((at, standing)) if at.elapsed() < FAILURE_LASTS => standing.clone(),
            _ => Standing::Sound,
        }
    }

    pub fn create(&self) -> Result<Spool, LogError> {
        let path = self.folder.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(io("create spool", &path));
        let file = self.failure.note(file)?;
        let place = Place { path, file: Arc::new(file) };
        let (compression, failure) = (self.compression, self.failure.clone());
        let parts = vec![Parts::default()];
        Ok(Spool { place, compression, parts, flush: None, flushed: 0, failure })
    }
}

/// The file, until it is moved or dropped.
struct Place {
    path: PathBuf,
    file: Arc<File>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // One that was moved is not here any more, and names are not used twice.
        let _ = fs::remove_file(&self.path);
    }
}

/// The parts of a transaction that is not complete yet.
pub struct Spool {
    place: Place,
    compression: Compression,
    /// What the first 0, 1, 2 .. parts add up to.
    parts: Vec<Parts>,
    flush: Option<JoinHandle<std::io::Result<()>>>,
    /// A flush of everything before this byte has begun.
    flushed: u64,
    failure: Failure,
}

impl Spool {
    /// Returns what the parts so far add up to.
    pub fn parts(&self) -> Parts {
        self.parts.last().copied().unwrap_or_default()
    }

    /// Adds a part at the end.
    pub async fn push(&mut self, payload: Bytes) -> Result<(), LogError> {
        let lsn = self.parts().next();
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(LogError::TooLarge { lsn, bytes: payload.len() });
        }
        let compression = self.compression;
        let packed = spawn_blocking(move || {
            let mut frame = Vec::new();
            Packer::new(compression).append(&mut frame, &[(lsn, payload)]);
            frame
        });
        self.write(packed.await.map_err(|_| LogError::Stopped)?.into()).await
    }

    /// Adds a part as it stands in another copy of the log.
    pub async fn push_frame(&mut self, frame: Frame) -> Result<(), LogError> {
        if !parts::is_part(&frame, &self.parts()) {
            return Err(LogError::OutOfOrder { lsn: frame.last, end: self.parts().next() });
        }
        self.write(frame.bytes).await
    }

    async fn write(&mut self, frame: Bytes) -> Result<(), LogError> {
        let mut parts = self.parts();
        let offset = parts.bytes;
        parts.add(&frame);
        let file = self.place.file.clone();
        self.work("write spool", move || file.write_all_at(&frame, offset)).await?;
        self.parts.push(parts);
        self.flush_behind().await
    }

    /// Returns the payload of part `index`, from 0 on.
    pub async fn read(&self, index: usize) -> Result<Bytes, LogError> {
        let at = |i: usize| self.parts.get(i).map(|parts| parts.bytes);
        let (Some(from), Some(upto)) = (at(index), at(index + 1)) else {
            return Err(LogError::Corrupt { segment: self.place.path.clone(), offset: 0 });
        };
        let file = self.place.file.clone();
        let bytes = self.work("read spool", move || {
            let mut bytes = vec![0; (upto - from) as usize];
            file.read_exact_at(&mut bytes, from).map(|()| Bytes::from(bytes))
        });
        let records = Frame::take(&bytes.await?).ok().and_then(|frame| frame.records().ok());
        match records.and_then(|records| records.into_iter().next()) {
            Some(part) => Ok(part.payload),
            None => Err(LogError::Corrupt { segment: self.place.path.clone(), offset: from }),
        }
    }

    /// Takes back all parts but the first `count`.
    pub async fn cut(&mut self, count: usize) -> Result<(), LogError> {
        self.parts.truncate(count + 1);
        let (file, bytes) = (self.place.file.clone(), self.parts().bytes);
        self.flushed = self.flushed.min(bytes);
        self.work("shorten spool", move || file.set_len(bytes)).await
    }

    /// Makes the parts durable.
    pub async fn finish(mut self) -> Result<Spooled, LogError> {
        self.await_flush().await?;
        let file = self.place.file.clone();
        self.work("flush spool", move || file.sync_all()).await?;
        self.failure.set(None);
        let parts = self.parts();
        Ok(Spooled { place: self.place, parts })
    }

    /// Starts to flush what has come together, and waits for the flush before: a disk that cannot
    /// keep up slows down whoever writes.
    async fn flush_behind(&mut self) -> Result<(), LogError> {
        let bytes = self.parts().bytes;
        if bytes - self.flushed < FLUSH_BYTES {
            return Ok(());
        }
        self.await_flush().await?;
        let file = self.place.file.clone();
        self.flush = Some(spawn_blocking(move || file.sync_data()));
        self.flushed = bytes;
        Ok(())
    }

    async fn await_flush(&mut self) -> Result<(), LogError> {
        match self.flush.take() {
            Some(flush) => {
                let flushed = flush.await.map_err(|_| LogError::Stopped)?;
                self.failure.note(flushed.map_err(io("flush spool", &self.place.path)))
            }
            None => Ok(()),
        }
    }

    async fn work<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, LogError> {
        let done = spawn_blocking(work).await.map_err(|_| LogError::Stopped)?;
        self.failure.note(done.map_err(io(action, &self.place.path)))
    }
}

/// The parts of a complete transaction, durable, and not yet in the log.
pub struct Spooled {
    place: Place,
    parts: Parts,
}

impl Spooled {
    pub fn parts(&self) -> Parts {
        self.parts
    }

    pub fn read(&self) -> Result<PartReader, LogError> {
        PartReader::open(self.place.path.clone(), self.parts)
    }

    /// Puts the file beside the segments, durably.
    pub(super) fn settle(self, log: &Path, lsn: Lsn) -> Result<(), LogError> {
        let path = parts::path(log, lsn);
        fs::rename(&self.place.path, &path).map_err(io("place parts", &path))?;
        segment::sync_folder(log)
    }
}
