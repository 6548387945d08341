//! How do records get to the disk, and when may the caller rely on them?
//!
//! One thread per log owns the files. A batch is one write and one flush; only then the end moves,
//! readers see the records and the caller is answered.
//!
//! **Invariant:** after a write or flush that failed, the same bytes are never flushed again. The
//! kernel may have dropped the unwritten pages and report the next flush as a success, so trying
//! again would acknowledge records that are not there. What was not flushed is cut off, what stands
//! before it is read again, and the next record begins a segment of its own.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use domicile_core::frame::Packer;
use domicile_core::lsn::Lsn;
use domicile_core::time::{Millis, Time};
use tokio::sync::oneshot;

use super::error::{LogError, io};
use super::extent::{Extent, Shared};
use super::frame::Frame;
use super::handle::{LogConfig, LogState, Opened};
use super::judge::{self, Damage, Verdict};
use super::mark::Mark;
use super::parts;
use super::segment::{self, Scan, Step};
use super::spool::{Spooled, Spools};
use super::standing::Standing;
use crate::clock::Clock;

/// How often the mark is written while records come in, and how long after the last one.
const MARK_EVERY: Millis = Millis(1000);

pub(super) type Reply<T> = oneshot::Sender<Result<T, LogError>>;

/// How often the log had been rewritten when its end was looked at, on which records follow; `None`
/// when they follow on whatever is there.
pub(super) type Since = Option<u64>;

pub(super) enum Command {
    Append { batch: Vec<(Lsn, Bytes)>, reply: Reply<Lsn> },
    AppendFrames { frames: Vec<Frame>, since: Since, reply: Reply<Lsn> },
    AppendLarge { lsn: Lsn, payload: Bytes, parts: Spooled, since: Since, reply: Reply<Lsn> },
    Ready { reply: Reply<()> },
    BeginAfter { lsn: Lsn, reply: Reply<()> },
    SkipTo { lsn: Lsn, reply: Reply<()> },
    TruncateAfter { lsn: Lsn, reply: Reply<u64> },
    TrimBefore { lsn: Lsn, reply: Reply<u64> },
    SetAside { reply: Reply<Lsn> },
}

/// A failure after which the log takes nothing, for now.
pub(super) struct Poison {
    why: String,
    heals: Heals,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Heals {
    /// Only the bytes behind the flushed end are in doubt.
    ByItself,
    /// Files were being renamed or removed: all of it has to be read again.
    WhenOpened,
}

/// What a disk must take before a log that failed on it goes on.
const TRIAL_BYTES: usize = 1 << 20;

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    segment_bytes: u64,
    /// The last segment, once there is one.
    pub(super) tail: Option<File>,
    pub(super) mark: Mark,
    marked_at: Time,
    clock: Clock,
    pub(super) damage: Option<Damage>,
    pub(super) poisoned: Option<Poison>,
    pub(super) packer: Packer,
    /// What is to be written next.
    pub(super) buffer: Vec<u8>,
    _lock: Lock,
}

impl Writer {
    pub fn open(config: LogConfig) -> Result<(Self, Opened), LogError> {
        let LogConfig { folder, segment_bytes, room, compression, recent_bytes } = config;
        fs::create_dir_all(&folder).map_err(io("create folder", &folder))?;
        if let Some(parent) = folder.parent().filter(|parent| *parent != Path::new("")) {
            segment::sync_folder(parent)?;
        }
        let lock = lock(&folder)?;
        let mark = Mark::open(&folder)?;
        let judged = judge::judge(&folder, mark.at())?;
        let (mut torn_bytes, mut damage) = (0, None);
        match judged.verdict {
            Verdict::Sound => {}
            Verdict::Torn { bytes } => torn_bytes = bytes,
            Verdict::Damaged(found) => damage = Some(found),
        }
        let tail =
            judged.extents.last().map(|last| segment::open(&folder, last.base)).transpose()?;
        let spools = Spools::open(&folder, compression)?;
        let shared =
            Arc::new(Shared::new(folder.clone(), judged.extents, room, spools, recent_bytes));
        let end = shared.end();
        if damage.is_none() {
            // What is whole may never have been flushed before the process died: it is read from
            // memory now and could still be lost.
            settle(&shared, tail.as_ref())?;
        }
        let state = damage.map_or(LogState::Sound, |damage| LogState::Corrupt {
            segment: segment::path(&folder, damage.segment),
            offset: damage.offset,
            resumes_at: damage.resumes_at,
        });
        let clock = Clock::new();
        let mut writer = Self {
            shared,
            segment_bytes,
            tail,
            mark,
            marked_at: clock.now(),
            clock,
            damage,
            poisoned: None,
            packer: Packer::new(compression),
            buffer: Vec::new(),
            _lock: lock,
        };
        if writer.mark_is_behind() {
            // A disk without room for it need not keep anybody from what the log holds.
            writer.set_mark();
        }
        Ok((writer, Opened { end, torn_bytes, state }))
    }

    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Serves commands until the last handle is gone.
    pub fn run(mut self, inbox: &Receiver<Command>) {
        loop {
            let command = if self.mark_is_behind() {
                inbox.recv_timeout(self.until_mark())
            } else {
                inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match command {
                Ok(command) => self.serve(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.mark_is_behind() && self.until_mark().is_zero() {
                self.set_mark();
            }
        }
        if self.mark_is_behind() {
            self.set_mark();
        }
    }

    fn serve(&mut self, command: Command) {
        // Whoever stopped waiting for the answer does not need it.
        match command {
            Command::Append { batch, reply } => drop(reply.send(self.append(&batch))),
            Command::AppendFrames { frames, since, reply } => {
                drop(reply.send(self.append_frames(&frames, since)));
            }
            Command::AppendLarge { lsn, payload, parts, since, reply } => {
                drop(reply.send(self.append_large(lsn, &payload, parts, since)));
            }
            Command::Ready { reply } => drop(reply.send(self.prepare(None))),
            Command::BeginAfter { lsn, reply } => drop(reply.send(self.begin_after(lsn))),
            Command::SkipTo { lsn, reply } => drop(reply.send(self.skip_to(lsn))),
            Command::TruncateAfter { lsn, reply } => drop(reply.send(self.truncate_after(lsn))),
            Command::TrimBefore { lsn, reply } => drop(reply.send(self.trim_before(lsn))),
            Command::SetAside { reply } => drop(reply.send(self.set_aside())),
        }
    }

    fn mark_is_behind(&self) -> bool {
        let writable = self.damage.is_none() && self.poisoned.is_none();
        writable && self.mark.at() != self.shared.end()
    }

    fn until_mark(&self) -> Duration {
        let left = MARK_EVERY - self.clock.now().since(self.marked_at);
        Duration::from_millis(left.0)
    }

    fn set_mark(&mut self) {
        self.marked_at = self.clock.now();
        let end = self.shared.end();
        if let Err(error) = self.mark.set(end) {
            self.poison(&error, Heals::ByItself);
        }
    }

    /// Returns why nothing may be changed, if so.
    pub(super) fn refuse(&self) -> Result<(), LogError> {
        self.refuse_poisoned()?;
        match &self.damage {
            Some(Damage { segment, offset, .. }) => Err(LogError::Corrupt {
                segment: segment::path(&self.shared.folder, *segment),
                offset: *offset,
            }),
            None => Ok(()),
        }
    }

    pub(super) fn refuse_poisoned(&self) -> Result<(), LogError> {
        match &self.poisoned {
            Some(Poison { why, .. }) => Err(LogError::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    fn poison(&mut self, error: &LogError, heals: Heals) {
        let why = error.to_string();
        self.shared.stands(match error {
            LogError::Io { source, .. } => Standing::after(source, why.clone()),
            _ => Standing::Failed(why.clone()),
        });
        self.poisoned = Some(Poison { why, heals });
    }

    /// Passes `result` on, and refuses every later change when it is an error.
    pub(super) fn poison_on_error<T>(
        &mut self,
        result: Result<T, LogError>,
    ) -> Result<T, LogError> {
        if let Err(error) = &result {
            self.poison(error, Heals::WhenOpened);
        }
        result
    }

    /// Passes `result` on; an error leaves only the bytes behind the flushed end in doubt.
    pub(super) fn heal_later<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error) = &result {
            self.poison(error, Heals::ByItself);
        }
        result
    }

    /// Makes sure that records may be appended, and that they leave no gap.
    pub(super) fn prepare(&mut self, since: Since) -> Result<(), LogError> {
        self.heal()?;
        self.refuse()?;
        if since.is_some_and(|known| known != self.shared.look(|extents| extents.rewrites)) {
            return Err(LogError::Rewritten);
        }
        let room = &self.shared.room;
        if room.is_left() {
            return Ok(());
        }
        Err(LogError::NoRoom { used: room.used(), bytes_max: room.bytes_max() })
    }

    /// Puts the buffer on the disk, after what is already flushed.
    pub(super) fn write(&mut self) -> Result<(), LogError> {
        let last = self.shared.look(|extents| extents.list.last().copied());
        let extent = match last {
            Some(extent) if self.tail.is_some() && !self.is_full(&extent) => extent,
            _ => {
                let end = last.map_or(Lsn::ZERO, |extent| extent.last);
                let (file, extent) = segment::create(&self.shared.folder, end)?;
                self.tail = Some(file);
                self.shared.publish(|extents| extents.list.push(extent));
                extent
            }
        };
        let path = segment::path(&self.shared.folder, extent.base);
        let Some(file) = &self.tail else { return Err(LogError::Stopped) };
        let written = file.write_all_at(&self.buffer, extent.bytes).and_then(|()| file.sync_data());
        if written.is_err() {
            // So that opening the log again does not take for durable what was never flushed. If
            // this fails too, `heal` tries again.
            let _ = file.set_len(extent.bytes).and_then(|()| file.sync_all());
        }
        written.map_err(io("append to segment", &path))
    }

    /// Makes the log take records again after a write or flush that failed, if the disk lets it.
    fn heal(&mut self) -> Result<(), LogError> {
        if !self.poisoned.as_ref().is_some_and(|poison| poison.heals == Heals::ByItself) {
            return Ok(());
        }
        let healed = self.cut_off_unflushed().and_then(|()| self.try_disk());
        let healed = healed.and_then(|()| self.mark.rewrite(self.shared.end()));
        match healed {
            Ok(()) => {
                self.poisoned = None;
                self.shared.stands(Standing::Sound);
                Ok(())
            }
            Err(error) => {
                self.poison(&error, Heals::ByItself);
                self.refuse_poisoned()
            }
        }
    }

    /// Shortens the last segment to what was flushed and reads that again; the next record begins
    /// another segment.
    fn cut_off_unflushed(&mut self) -> Result<(), LogError> {
        self.tail = None;
        let folder = self.shared.folder.clone();
        // One that was created when the failure came and is not among the extents.
        let known = self.shared.look(|extents| extents.list.last().copied());
        let known_base = known.map_or(Lsn::ZERO, |extent| extent.base);
        for base in segment::list(&folder)?.into_iter().filter(|base| *base > known_base) {
            segment::remove(&folder, base)?;
        }
        let end = self.shared.end();
        parts::remove(&folder, |lsn| lsn > end)?;
        let Some(extent) = known else { return Ok(()) };
        let path = segment::path(&folder, extent.base);
        let file = segment::open(&folder, extent.base)?;
        file.set_len(extent.bytes)
            .and_then(|()| file.sync_all())
            .map_err(io("cut off what was not flushed of segment", &path))?;
        let mut scan = Scan::new(&file, extent.base, extent.bytes);
        loop {
            match scan.step().map_err(io("read segment", &path))? {
                Step::Records { .. } => {}
                Step::End => break,
                Step::Damaged => {
                    return Err(LogError::Corrupt { segment: path, offset: scan.extent.bytes });
                }
            }
        }
        if extent.records == 0 {
            // The next segment has the same name.
            self.tail = Some(file);
        }
        Ok(())
    }

    /// Writes, flushes and removes as much as a batch may take.
    fn try_disk(&self) -> Result<(), LogError> {
        let path = self.shared.folder.join("trial");
        let zeros = vec![0; TRIAL_BYTES];
        let tried = fs::write(&path, zeros).and_then(|()| File::open(&path)?.sync_all());
        let removed = fs::remove_file(&path);
        tried.and(removed).map_err(io("write a trial to", &path))
    }

    fn is_full(&self, extent: &Extent) -> bool {
        extent.records > 0 && extent.bytes + self.buffer.len() as u64 > self.segment_bytes
    }
}

/// Held so that no other process writes here; the system lets go when this one ends.
struct Lock(File);

impl Drop for Lock {
    /// Closing the file is not enough: a process that is being started by another thread has a
    /// copy of it for a moment, and would keep the lock until then.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Takes the folder for this process, or says that another has it.
fn lock(folder: &Path) -> Result<Lock, LogError> {
    let path = folder.join("lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io("open lock", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(LogError::InUse { folder: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io("lock", &path)(source)),
    }
}

/// Removes a torn tail, if there is one, and flushes the rest.
fn settle(shared: &Shared, tail: Option<&File>) -> Result<(), LogError> {
    let last = shared.look(|extents| extents.list.last().copied());
    if let (Some(extent), Some(file)) = (last, tail) {
        let path = segment::path(&shared.folder, extent.base);
        file.set_len(extent.bytes)
            .and_then(|()| file.sync_all())
            .map_err(io("flush segment", &path))?;
    }
    // Parts are placed before their record and removed after it.
    let begin = shared.look(|extents| extents.list.first().map_or(Lsn::ZERO, |extent| extent.base));
    let end = shared.end();
    parts::remove(&shared.folder, |lsn| lsn < begin || lsn > end)?;
    segment::sync_folder(&shared.folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_free_when_its_log_is_closed_whoever_has_a_copy_of_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let inherited = held.0.try_clone().unwrap();
        drop(held);
        lock(folder.path()).unwrap();
        drop(inherited);
    }
}
