//! What may the rest of the agent ask of a log?
//!
//! A [`Log`] is a handle to the one thread that writes the files. Requests are served in order, so
//! concurrent callers need no lock; a request whose caller went away is still carried out. When
//! the last handle is dropped the thread finishes, writes the mark and lets go of the folder,
//! which the drop waits for: a log can be opened again at once. Readers keep no log open.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use bytes::Bytes;
use domicile_core::frame::Compression;
use domicile_core::lsn::Lsn;
use tokio::sync::{oneshot, watch};

use super::error::LogError;
use super::extent::{Extents, Shared};
use super::frame::Frame;
use super::reader::Reader;
use super::room::Room;
use super::segment;
use super::spool::{Spool, Spooled};
use super::standing::Standing;
use super::writer::{Command, Reply, Writer};

/// The usual size of a segment: small enough to trim in useful steps, large enough to be few.
pub const LOG_SEGMENT_BYTES: u64 = 64 << 20;

/// Usually kept in memory: some hundred small transactions.
pub const LOG_RECENT_BYTES: usize = 256 << 10;

#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Holds this one log and nothing else; made when it does not exist.
    pub folder: PathBuf,
    /// A segment that would grow past this is followed by a new one. A batch is never split, so
    /// one that is larger makes a segment that is larger.
    pub segment_bytes: u64,
    /// What this log and others may take together.
    pub room: Room,
    /// How records are packed that are appended here; frames of others stay as they are.
    pub compression: Compression,
    /// So many bytes of the newest frames stay in memory, for those who follow the log at its end.
    pub recent_bytes: usize,
}

impl LogConfig {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            segment_bytes: LOG_SEGMENT_BYTES,
            room: Room::unlimited(),
            compression: Compression::None,
            recent_bytes: LOG_RECENT_BYTES,
        }
    }
}

/// What was found on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Everything up to here is sound and flushed.
    pub end: Lsn,
    /// Removed from the end: a write that a crash cut short, and that nobody was told of.
    pub torn_bytes: u64,
    pub state: LogState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogState {
    Sound,
    /// Nothing was dropped and nothing can be appended until [`Log::set_aside_corrupt`].
    Corrupt {
        segment: PathBuf,
        offset: u64,
        /// The highest LSN that is known to have been in the log: until it is there again, the log
        /// has less than what was acknowledged.
        resumes_at: Lsn,
    },
}

/// One origin's durable log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    thread: Arc<Thread>,
}

/// The way to the writer's thread, which ends when this is dropped.
struct Thread {
    commands: Option<mpsc::Sender<Command>>,
    handle: Option<JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(handle) = self.handle.take() {
            // A writer that panicked has said so itself.
            let _ = handle.join();
        }
    }
}

impl Log {
    /// Opens the log in `config.folder`, reading and checking all of it; see `judge` for the cost.
    pub fn open(config: LogConfig) -> Result<(Self, Opened), LogError> {
        let folder = config.folder.clone();
        let (writer, opened) = Writer::open(config)?;
        let shared = writer.shared();
        let (commands, inbox) = mpsc::channel();
        let handle = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.run(&inbox))
            .map_err(super::error::io("start writer of", &folder))?;
        let thread = Thread { commands: Some(commands), handle: Some(handle) };
        Ok((Self { shared, thread: Arc::new(thread) }, opened))
    }

    /// Appends `batch` with one write and one flush, and returns the new end once it is durable.
    ///
    /// LSNs must strictly increase and be past the end; a batch that breaks this changes nothing.
    /// After an [`LogError::Io`] nothing of the batch counts; each further call looks first whether
    /// the disk has recovered.
    pub async fn append(&self, batch: Vec<(Lsn, Bytes)>) -> Result<Lsn, LogError> {
        self.ask(|reply| Command::Append { batch, reply }).await
    }

    /// Does the same with frames of another copy of this log, byte by byte, that follow on the end
    /// as it was when ours had been rewritten `since` times, or refuses: when records were taken
    /// back since, these would hide the gap.
    pub async fn append_frames(
        &self,
        since: Option<u64>,
        frames: Vec<Frame>,
    ) -> Result<Lsn, LogError> {
        self.ask(|reply| Command::AppendFrames { frames, since, reply }).await
    }

    /// Returns the end, and how often records were taken back up to now.
    pub fn end_and_rewrites(&self) -> (Lsn, u64) {
        self.shared.look(|extents| (extents.end(), extents.rewrites))
    }

    /// Returns once the log would take records, or why it would not.
    pub async fn ready(&self) -> Result<(), LogError> {
        self.ask(|reply| Command::Ready { reply }).await
    }

    pub fn standing(&self) -> Standing {
        match self.shared.standing() {
            Standing::Sound => self.shared.spools.standing(),
            other => other,
        }
    }

    /// Begins a transaction that is too large for memory; nothing of it shows before
    /// [`Log::append_large`].
    pub fn spool(&self) -> Result<Spool, LogError> {
        self.shared.spools.create()
    }

    /// Appends a record whose bulk is in `parts`, as [`Log::append`] does with whole ones.
    ///
    /// What is durable already is not written again, so this takes no longer than a small record.
    pub async fn append_large(
        &self,
        lsn: Lsn,
        payload: Bytes,
        parts: Spooled,
    ) -> Result<Lsn, LogError> {
        self.append_large_since(None, lsn, payload, parts).await
    }

    /// Does the same under the condition of [`Log::append_frames`].
    pub async fn append_large_since(
        &self,
        since: Option<u64>,
        lsn: Lsn,
        payload: Bytes,
        parts: Spooled,
    ) -> Result<Lsn, LogError> {
        self.ask(|reply| Command::AppendLarge { lsn, payload, parts, since, reply }).await
    }

    /// Returns the LSN of the last durable record; `Lsn::ZERO` in a log that has not begun.
    pub fn end(&self) -> Lsn {
        self.shared.end()
    }

    /// Returns the LSN of the oldest record that is still here.
    pub fn first(&self) -> Option<Lsn> {
        self.shared.look(|extents| extents.list.iter().find_map(|extent| extent.first))
    }

    /// Returns up to where records are gone: a reader from before that would miss some.
    pub fn trimmed(&self) -> Lsn {
        self.shared.look(Extents::trimmed)
    }

    /// Returns how many bytes the sound records take on the disk.
    pub fn bytes(&self) -> u64 {
        self.shared.look(Extents::bytes)
    }

    /// Returns the segments, oldest first: the last LSN that each holds, and its bytes.
    pub fn segments(&self) -> Vec<(Lsn, u64)> {
        self.shared.look(|extents| extents.list.iter().map(|e| (e.last, e.disk_bytes())).collect())
    }

    /// Returns the segments that hold any records, oldest first: the LSN after which each begins, and how
    /// many there are.
    pub fn runs(&self) -> Vec<(Lsn, u64)> {
        self.shared.look(|extents| {
            let filled = extents.list.iter().filter(|extent| extent.records > 0);
            filled.map(|extent| (Lsn(extent.base.0 - 1), extent.records)).collect()
        })
    }

    /// Tells whenever the end moved.
    pub fn watch_end(&self) -> watch::Receiver<Lsn> {
        self.shared.watch_end()
    }

    /// Returns a reader of everything after `after`.
    pub fn read(&self, after: Lsn) -> Reader {
        Reader::new(self.shared.clone(), after)
    }

    /// Lets an empty log begin after `lsn`: what is before that is to be had elsewhere.
    pub async fn begin_after(&self, lsn: Lsn) -> Result<(), LogError> {
        self.ask(|reply| Command::BeginAfter { lsn, reply }).await
    }

    /// Forgets every record and goes on after `lsn`, which lies past the end: what is between them
    /// is to be had nowhere, and not needed here.
    pub async fn skip_to(&self, lsn: Lsn) -> Result<(), LogError> {
        self.ask(|reply| Command::SkipTo { lsn, reply }).await
    }

    /// Removes every record after `lsn`, durably, and returns how many there were.
    ///
    /// The log then ends at the last record that is left; when none is, at `lsn` or where the log
    /// began, whichever is lower. A reader that was further goes on after what it gave out.
    pub async fn truncate_after(&self, lsn: Lsn) -> Result<u64, LogError> {
        self.ask(|reply| Command::TruncateAfter { lsn, reply }).await
    }

    /// Deletes the segments that hold nothing after `lsn`, except the last, and returns how many.
    pub async fn trim_before(&self, lsn: Lsn) -> Result<u64, LogError> {
        self.ask(|reply| Command::TrimBefore { lsn, reply }).await
    }

    /// Reads the whole log again and keeps everything before the damage, if there is any.
    ///
    /// The damaged segment and those after it are renamed to `*.corrupt` and never deleted. Returns
    /// the end after which records must be fetched again.
    pub async fn set_aside_corrupt(&self) -> Result<Lsn, LogError> {
        self.ask(|reply| Command::SetAside { reply }).await
    }

    /// Returns the path of the segment that may hold the record of `lsn`, for messages and tests.
    pub fn segment_of(&self, lsn: Lsn) -> Option<PathBuf> {
        let base = self.shared.look(|extents| {
            extents.list.iter().rev().find(|extent| extent.base <= lsn).map(|extent| extent.base)
        })?;
        Some(segment::path(&self.shared.folder, base))
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, LogError> {
        let (reply, answer) = oneshot::channel();
        let commands = self.thread.commands.as_ref().ok_or(LogError::Stopped)?;
        commands.send(command(reply)).map_err(|_| LogError::Stopped)?;
        answer.await.map_err(|_| LogError::Stopped)?
    }
}
