//! What does the failover of one region cost, in a world of so many regions and partitions?
//!
//! Clients write everywhere; then one region is lost with all it has, and nothing else is amiss. What
//! is counted begins with the loss and ends with the run. Everything but the time that core takes is
//! the same each time.

use domicile_core::ownership::{FAILOVERS_MIN, OWNERSHIP_BYTES_MAX, Ownership};

use super::World;
use crate::clock::{MS, Micros, SECOND};
use crate::message::{Errand, Message};
use crate::network::Network;
use crate::rng::Rng;
use crate::setup::Setup;
use crate::workload::Workload;

const SEED: u64 = 1;
const LOST_AT: Micros = 3 * SECOND;
/// A failover that has not ended by then never will.
const GIVEN_UP_AT: Micros = 30 * SECOND;
const LOOK_EVERY: Micros = 50 * MS;
const WRITE_EVERY: Micros = 25 * MS;
/// One way between two regions, or to the directory: half of it to one and a half.
const DISTANCE: Micros = 20 * MS;

/// Who owns what at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deal {
    /// Each region's partitions stand together.
    Together,
    /// Every other partition is the lost region's: the most ranges there can be.
    Alternating,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub regions: usize,
    pub partitions: u32,
    pub deal: Deal,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    pub shape: Shape,
    /// Entries of the ownership document before, and its size.
    pub ranges: usize,
    pub bytes_before: usize,
    /// `None` where ownership is in more ranges than hand-overs may bring it to.
    pub failover: Option<Failover>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// From the loss to the first write that another region has acknowledged in its stead.
    pub first_write_ms: u64,
    pub ended_ms: u64,
    pub runs: usize,
    /// Of the run and what leads to it.
    pub messages: u64,
    /// In the same time, whatever happens.
    pub every_day: u64,
    /// Reads of the directory, in the same time.
    pub reads: u64,
    /// Ownership documents written, and how large they were together.
    pub documents: u64,
    pub document_bytes: usize,
}

/// What was sent and written.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    every_day: u64,
    reads: u64,
    failover: u64,
    documents: u64,
    document_bytes: usize,
}

impl Tally {
    pub fn sent(&mut self, message: &Message) {
        match message.errand() {
            Errand::EveryDay => self.every_day += 1,
            // A question and its answer are one read.
            Errand::Read => self.reads += u64::from(matches!(message, Message::Read)),
            Errand::Failover => self.failover += 1,
        }
    }

    pub fn written(&mut self, ownership: &Ownership) {
        self.documents += 1;
        self.document_bytes += ownership.bytes();
    }
}

/// Loses one region and counts what that comes to, or says what never happened.
pub fn fail_over(shape: Shape) -> Result<Cost, String> {
    let Shape { regions, partitions, deal } = shape;
    let setup = Setup::large(regions, partitions, deal == Deal::Alternating);
    let owners = setup.first_owners();
    let (ranges, bytes_before) = (owners.entries().len(), owners.bytes());
    let first = owners.entries().first().and_then(|entry| entry.owner());
    let lost =
        first.and_then(|owner| setup.index(owner)).ok_or("the first partition has no owner")?;
    let cost = Cost { shape, ranges, bytes_before, failover: None };
    if owners.bytes_after(FAILOVERS_MIN) > OWNERSHIP_BYTES_MAX {
        return Ok(cost);
    }
    let mut world = World::calm(SEED, setup, Rng::new(SEED), false);
    world.network = Network::even(regions + 1, DISTANCE);
    world.workload = Workload::steady(WRITE_EVERY);
    world.run_until(LOST_AT);
    world.tally = Tally::default();
    world.stop_agent(lost);
    world.stop_postgres(lost);
    let failover = world.follow(lost, &owners)?;
    Ok(Cost { failover: Some(failover), ..cost })
}

impl World {
    pub(super) fn run_until(&mut self, time: Micros) {
        while self.oracle.violation.is_none()
            && let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= time
        {
            let ((now, _), event) = entry.remove_entry();
            self.now = now;
            self.handle(event);
        }
        self.now = time;
    }

    /// Looks on until the run has ended and somebody has written.
    fn follow(&mut self, lost: usize, owners: &Ownership) -> Result<Failover, String> {
        let mut ended = None;
        loop {
            self.run_until(self.now + LOOK_EVERY);
            if let Some(violation) = &self.oracle.violation {
                return Err(format!("{}: {}", violation.rule, violation.detail));
            }
            let state = self.directory.read();
            if ended.is_none() && !state.runs.is_empty() && state.open_runs().next().is_none() {
                ended = Some((self.now, state.runs.len(), self.tally.clone()));
            }
            let written = self.oracle.acknowledged_elsewhere(lost, owners);
            if let (Some((ended, runs, tally)), Some(written)) = (&ended, written) {
                return Ok(Failover {
                    first_write_ms: (written - LOST_AT) / MS,
                    ended_ms: (ended - LOST_AT) / MS,
                    runs: *runs,
                    messages: tally.failover,
                    every_day: tally.every_day,
                    reads: tally.reads,
                    documents: tally.documents,
                    document_bytes: tally.document_bytes,
                });
            }
            if self.now > GIVEN_UP_AT {
                let lines = self.trace.tail().join("\n");
                return Err(format!("ended {}, {written:?}:\n{lines}", ended.is_some()));
            }
        }
    }
}
