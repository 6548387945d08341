//! What of an agent survives its crash?
//!
//! A replication log up to its last flush, and every seal: a seal is flushed before it is
//! answered. Everything else an agent knows is gone.

use std::rc::Rc;

use domicile_core::change::Transaction;
use domicile_core::history::Seal;
use domicile_core::lsn::Lsn;

use crate::setup::Key;

/// One record of a replication log.
#[derive(Debug)]
pub struct Record {
    pub transaction: Transaction,
    /// The writer's number in the world's ledger: the value of every row that it wrote.
    pub id: u32,
    pub keys: Vec<Key>,
}

/// One origin's log, or a peer's copy of it.
///
/// `received` and `flushed` are positions, not the LSN of a last record: everything of the
/// origin's history up to there is held, also where a diverted tail left nothing.
#[derive(Debug, Default)]
pub struct Log {
    records: Vec<Rc<Record>>,
    pub received: Lsn,
    pub flushed: Lsn,
}

impl Log {
    pub fn append(&mut self, record: Rc<Record>) {
        assert!(record.transaction.lsn > self.received, "a log only grows");
        self.received = record.transaction.lsn;
        self.records.push(record);
    }

    /// Nothing else of the history lies up to `position`.
    pub fn cover(&mut self, position: Lsn) {
        self.received = self.received.max(position);
    }

    pub fn flush(&mut self) {
        self.flushed = self.received;
    }

    pub fn crash(&mut self) {
        let flushed = self.flushed;
        self.records.retain(|r| r.transaction.lsn <= flushed);
        self.received = flushed;
    }

    /// Flushed records past `position`.
    pub fn after(&self, position: Lsn) -> impl Iterator<Item = &Rc<Record>> {
        let first = self.records.partition_point(|r| r.transaction.lsn <= position);
        let flushed = self.flushed;
        self.records[first..].iter().take_while(move |r| r.transaction.lsn <= flushed)
    }

    /// Takes out the records that `outside` names, and returns them.
    pub fn take_out(&mut self, mut outside: impl FnMut(&Record) -> bool) -> Vec<Rc<Record>> {
        let mut taken = Vec::new();
        self.records.retain(|record| {
            let out = outside(record);
            if out {
                taken.push(record.clone());
            }
            !out
        });
        taken
    }
}

#[derive(Debug, Default)]
pub struct Disk {
    /// By origin.
    pub logs: Vec<Log>,
    pub seals: Vec<Seal>,
}

impl Disk {
    pub fn new(origins: usize) -> Self {
        Self { logs: (0..origins).map(|_| Log::default()).collect(), seals: Vec::new() }
    }

    pub fn crash(&mut self) {
        self.logs.iter_mut().for_each(Log::crash);
    }
}
