//! What of each segment is flushed, so that a reader may see it?
//!
//! The writer publishes, readers look: the lock is held for a look at a list, never during I/O.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use domicile_core::frame::Parts;
use domicile_core::lsn::Lsn;
use tokio::sync::watch;

use super::recent::Recent;
use super::room::Room;
use super::spool::Spools;
use super::standing::Standing;

/// Records that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub first: Lsn,
    pub last: Lsn,
    pub count: u64,
}

impl Run {
    pub fn of(lsn: Lsn) -> Self {
        Self { first: lsn, last: lsn, count: 1 }
    }
}

/// The flushed part of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The lowest LSN that this segment may hold: one past the end of the segment before it.
    pub base: Lsn,
    pub first: Option<Lsn>,
    /// The highest LSN; one before `base` while the segment is empty.
    pub last: Lsn,
    pub records: u64,
    pub bytes: u64,
    /// What stands beside the segment.
    pub parts_bytes: u64,
}

impl Extent {
    pub fn empty_after(end: Lsn) -> Self {
        Self { base: Lsn(end.0 + 1), first: None, last: end, records: 0, bytes: 0, parts_bytes: 0 }
    }

    pub fn disk_bytes(&self) -> u64 {
        self.bytes + self.parts_bytes
    }

    pub fn add(&mut self, run: Run, bytes: u64, parts: Option<Parts>) {
        self.first.get_or_insert(run.first);
        self.last = run.last;
        self.records += run.count;
        self.bytes += bytes;
        self.parts_bytes += parts.map_or(0, |parts| parts.bytes);
    }
}

/// The segments in order, without a hole between them.
#[derive(Clone, Debug)]
pub(super) struct Extents {
    pub list: Vec<Extent>,
    /// Counts how often flushed bytes were taken back. A reader that sees it change between
    /// looking here and having read its file must not trust what it read.
    pub rewrites: u64,
    /// The last frames.
    pub recent: Recent,
}

impl Extents {
    pub fn end(&self) -> Lsn {
        self.list.last().map_or(Lsn::ZERO, |extent| extent.last)
    }

    pub fn bytes(&self) -> u64 {
        self.list.iter().map(Extent::disk_bytes).sum()
    }

    /// Records up to here are gone, or never were here.
    pub fn trimmed(&self) -> Lsn {
        self.list.first().map_or(Lsn::ZERO, |first| Lsn(first.base.0 - 1))
    }
}

/// What the writer and the readers of one log share.
pub(super) struct Shared {
    pub folder: PathBuf,
    pub room: Room,
    pub spools: Spools,
    extents: Mutex<Extents>,
    end: watch::Sender<Lsn>,
    standing: watch::Sender<Standing>,
}

impl Shared {
    pub fn new(
        folder: PathBuf,
        list: Vec<Extent>,
        room: Room,
        spools: Spools,
        recent_bytes: usize,
    ) -> Self {
        let end = list.last().map_or(Lsn::ZERO, |extent| extent.last);
        let extents = Extents { list, rewrites: 0, recent: Recent::new(end, recent_bytes) };
        let end = watch::Sender::new(extents.end());
        room.changed(0, extents.bytes());
        let standing = watch::Sender::default();
        Self { folder, room, spools, extents: Mutex::new(extents), end, standing }
    }

    pub fn look<T>(&self, look: impl FnOnce(&Extents) -> T) -> T {
        look(&self.extents.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the extents, then tells those who watch the end.
    pub fn publish(&self, change: impl FnOnce(&mut Extents)) {
        let end = {
            let mut extents = self.extents.lock().unwrap_or_else(PoisonError::into_inner);
            let (before, rewrites) = (extents.bytes(), extents.rewrites);
            change(&mut extents);
            self.room.changed(before, extents.bytes());
            let end = extents.end();
            if extents.rewrites != rewrites || extents.recent.end() != end {
                extents.recent.forget(end);
            }
            end
        };
        self.end.send_if_modified(|known| std::mem::replace(known, end) != end);
    }

    pub fn end(&self) -> Lsn {
        *self.end.borrow()
    }

    pub fn watch_end(&self) -> watch::Receiver<Lsn> {
        self.end.subscribe()
    }

    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Notes how the log stands, and says so once.
    pub fn stands(&self, now: Standing) {
        let changed = self.standing.send_if_modified(|known| {
            let changed = *known != now;
            known.clone_from(&now);
            changed
        });
        if !changed {
            return;
        }
        let log = self.folder.display();
        match now {
            Standing::Sound => tracing::info!(%log, "takes records again"),
            Standing::Full(why) => tracing::error!(%log, "log_full: {why}"),
            Standing::Failed(why) => tracing::error!(%log, "log_failed: {why}"),
            Standing::Corrupt(why) => tracing::error!(%log, "log_corrupt: {why}"),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let bytes = self.look(Extents::bytes);
        self.room.changed(bytes, 0);
    }
}
