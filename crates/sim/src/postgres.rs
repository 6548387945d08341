//! What does PostgreSQL do with a write, and what survives its crash?
//!
//! A model: one table of key -> writer, a WAL, a slot, the guard, and the queue of clients that
//! wait for their acknowledgement. All that a crash must bring back is a WAL entry, and recovery
//! plays the entries through the same function that made them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use domicile_core::change::Stamp;
use domicile_core::id::{Epoch, PartitionId, RunId};
use domicile_core::lsn::Lsn;
use domicile_core::opening::Open;
use domicile_core::time::PgTime;

use crate::disk::Record;
use crate::setup::Key;

/// What the agent told the guard. Bound to one start of the postmaster.
#[derive(Clone, Debug)]
pub struct Guard {
    pub start: u64,
    pub granted_at: PgTime,
    pub deadline: PgTime,
    /// Sorted.
    pub open: Vec<Open>,
}

impl Guard {
    /// The epoch under which a partition is open, were the lease live.
    pub fn epoch_of(&self, partition: PartitionId) -> Option<Epoch> {
        let i = self.open.partition_point(|open| open.range.last < partition.0);
        self.open.get(i).filter(|open| open.range.contains(partition)).map(|open| open.epoch)
    }
}

/// A client's transaction that has not committed. It holds its partitions' shared locks.
#[derive(Clone, Debug)]
pub struct Session {
    pub keys: Vec<Key>,
    /// Empty when the guard was bypassed.
    pub stamps: Vec<Stamp>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    /// End of the entry.
    pub lsn: Lsn,
    pub kind: EntryKind,
}

#[derive(Clone, Debug)]
pub enum EntryKind {
    /// A client's commit, a canary or a barrier.
    Local {
        id: u32,
        keys: Vec<Key>,
        stamps: Vec<Stamp>,
        barrier: Option<RunId>,
    },
    /// Records of another origin and how far that brings its progress.
    Apply {
        origin: usize,
        record: Option<Rc<Record>>,
        upto: Lsn,
    },
    /// Transactions that are not history go to the conflict journal; their rows need repair.
    Divert {
        ids: Vec<u32>,
        rows: Vec<Key>,
    },
    Repair {
        rows: Vec<(Key, u32)>,
    },
}

#[derive(Debug, Default)]
pub struct Tables {
    /// The writer of each row; 0 when nobody wrote it.
    pub rows: Vec<u32>,
    pub applied: Vec<Lsn>,
    pub journal: BTreeSet<u32>,
    /// Rows that a diverted write has touched.
    pub repair: BTreeSet<Key>,
}

#[derive(Debug)]
pub struct Postgres {
    pub up: bool,
    pub paused: bool,
    /// Stands for `pg_postmaster_start_time()`.
    pub start: u64,
    pub tables: Tables,
    /// `applied` as far as the WAL flush has passed it.
    pub applied_durable: Vec<Lsn>,
    pub guard: Option<Guard>,
    pub sessions: BTreeMap<u64, Session>,
    /// Committed, and waiting for the slot to be confirmed.
    pub waiting: BTreeMap<Lsn, u32>,
    pub confirmed: Lsn,
    wal: Vec<Entry>,
    /// How many entries are flushed.
    durable: usize,
    size: (usize, usize),
}

impl Tables {
    fn new(keys: usize, origins: usize) -> Self {
        Self { rows: vec![0; keys], applied: vec![Lsn::ZERO; origins], ..Self::default() }
    }

    fn play(&mut self, entry: &Entry) {
        match &entry.kind {
            EntryKind::Local { id, keys, .. } => self.write(keys, *id),
            EntryKind::Apply { origin, record, upto } => {
                if let Some(record) = record {
                    self.write(&record.keys, record.id);
                }
                self.applied[*origin] = self.applied[*origin].max(*upto);
            }
            EntryKind::Divert { ids, rows } => {
                self.journal.extend(ids);
                self.repair.extend(rows);
            }
            EntryKind::Repair { rows } => {
                for (key, id) in rows {
                    self.rows[*key as usize] = *id;
                    self.repair.remove(key);
                }
            }
        }
    }

    fn write(&mut self, keys: &[Key], id: u32) {
        for key in keys {
            self.rows[*key as usize] = id;
        }
    }
}

impl Postgres {
    pub fn new(keys: usize, origins: usize) -> Self {
        Self {
            up: true,
            paused: false,
            start: 1,
            tables: Tables::new(keys, origins),
            applied_durable: vec![Lsn::ZERO; origins],
            guard: None,
            sessions: BTreeMap::new(),
            waiting: BTreeMap::new(),
            confirmed: Lsn::ZERO,
            wal: Vec::new(),
            durable: 0,
            size: (keys, origins),
        }
    }

    /// Does it answer its own agent?
    pub fn answers(&self) -> bool {
        self.up && !self.paused
    }

    pub fn end(&self) -> Lsn {
        self.wal.last().map_or(Lsn(0x100), |e| e.lsn)
    }

    /// Writes an entry that is visible at once and durable at the next flush.
    pub fn write(&mut self, kind: EntryKind) -> Lsn {
        let lsn = Lsn(self.end().0 + 0x28 + self.wal.len() as u64 % 7 * 8);
        let entry = Entry { lsn, kind };
        self.tables.play(&entry);
        self.wal.push(entry);
        lsn
    }

    /// Writes an entry under `synchronous_commit`: all before it becomes durable too.
    pub fn write_through(&mut self, kind: EntryKind) -> Lsn {
        let lsn = self.write(kind);
        self.flush();
        lsn
    }

    pub fn flush(&mut self) {
        if self.durable < self.wal.len() {
            self.durable = self.wal.len();
            self.applied_durable.clone_from(&self.tables.applied);
        }
    }

    /// Flushed entries from the `from`th on: what a slot may send.
    pub fn flushed_from(&self, from: usize) -> &[Entry] {
        &self.wal[from.min(self.durable)..self.durable]
    }

    /// The number of the first entry past `position`.
    pub fn entry_after(&self, position: Lsn) -> usize {
        self.wal.partition_point(|e| e.lsn <= position)
    }

    pub fn crash(&mut self) {
        self.up = false;
        self.paused = false;
        self.guard = None;
        self.sessions.clear();
        self.waiting.clear();
        self.wal.truncate(self.durable);
        self.tables = Tables::new(self.size.0, self.size.1);
        for entry in &self.wal {
            self.tables.play(entry);
        }
        self.applied_durable.clone_from(&self.tables.applied);
    }

    pub fn restart(&mut self) {
        self.up = true;
        self.start += 1;
    }

    /// The guard's word on a partition: the epoch under which it may be written now.
    pub fn admits(
        &self,
        partition: PartitionId,
        now: PgTime,
        ignore_deadline: bool,
    ) -> Option<Epoch> {
        let guard = self.guard.as_ref()?;
        let live = guard.granted_at <= now && now < guard.deadline;
        let bound = guard.start == self.start;
        if bound && (live || ignore_deadline) { guard.epoch_of(partition) } else { None }
    }

    /// Is no admitted write to these partitions in flight?
    pub fn drained(&self, partitions: impl Fn(PartitionId) -> bool) -> bool {
        !self.sessions.values().flat_map(|s| &s.stamps).any(|s| partitions(s.partition))
    }

    pub fn locked(&self, key: Key) -> bool {
        self.sessions.values().any(|s| s.keys.contains(&key))
    }
}
