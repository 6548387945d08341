//! What do clients and operators do meanwhile?
//!
//! Clients write in every region, mostly what that region owns, sometimes what it does not, and
//! now and then past the guard. An operator moves partitions about, and once in a while vouches
//! for an outage that may be none.

use domicile_core::id::PartitionRange;
use domicile_core::runbook::Intent;

use crate::clock::{MS, Micros};
use crate::region::Host;
use crate::rng::Rng;
use crate::setup::{Key, Setup};

/// How often the operator moves the canary.
const CANARY_PERMILLE: u64 = 125;
/// Of those.
const FORCED_PERMILLE: u64 = 500;

/// A client's next transaction.
pub struct Write {
    pub keys: Vec<Key>,
    /// With the triggers off, as a superuser can: no stamp, no refusal.
    pub past_guard: bool,
}

#[derive(Clone, Debug)]
pub struct Workload {
    write_every: Micros,
    operate_every: Micros,
    bypass_permille: u64,
    attested_permille: u64,
}

impl Workload {
    pub fn choose(rng: &mut Rng) -> Self {
        Self {
            write_every: rng.between(15, 90) * MS,
            operate_every: rng.between(700, 5000) * MS,
            bypass_permille: if rng.chance(300) { 20 } else { 0 },
            attested_permille: rng.below(200),
        }
    }

    /// Clients write, and nobody does anything else.
    pub fn steady(write_every: Micros) -> Self {
        Self { write_every, operate_every: 0, bypass_permille: 0, attested_permille: 0 }
    }

    pub fn next_write_after(&self, rng: &mut Rng) -> Micros {
        1 + rng.below(2 * self.write_every)
    }

    pub fn next_order_after(&self, rng: &mut Rng) -> Micros {
        self.operate_every / 2 + rng.below(self.operate_every)
    }

    pub fn write(&self, rng: &mut Rng, setup: &Setup, host: &Host) -> Write {
        let postgres = &host.postgres;
        let past_guard = rng.chance(self.bypass_permille);
        let guard = postgres.guard.as_ref();
        let ours = |key: &Key| {
            guard.is_some_and(|g| g.epoch_of(setup.partitions[*key as usize]).is_some())
        };
        let total = setup.partitions.len() as u32;
        let astray = past_guard || rng.chance(50);
        let choice: Vec<Key> = (0..total).filter(|key| astray || ours(key)).collect();
        let mut keys = Vec::new();
        for _ in 0..rng.between(1, 3) {
            if let Some(key) = choice.get(rng.index(choice.len()))
                && !keys.contains(key)
            {
                keys.push(*key);
            }
        }
        Write { keys, past_guard }
    }

    pub fn order(&self, rng: &mut Rng, setup: &Setup) -> Intent {
        let to = setup.regions[rng.index(setup.count())].clone();
        if rng.chance(self.attested_permille) {
            let from = setup.regions[rng.index(setup.count())].clone();
            return Intent::Failover { from, to, attested: true };
        }
        if rng.chance(CANARY_PERMILLE) {
            if rng.chance(FORCED_PERMILLE) {
                let from = setup.regions[rng.index(setup.count())].clone();
                return Intent::ForcedDrill { from, to };
            }
            return Intent::Switchover { range: PartitionRange::CANARY, to };
        }
        let total = u64::from(setup.layout.total());
        let first = rng.below(total);
        let last = (first + rng.below(4)).min(total - 1);
        Intent::Switchover { range: PartitionRange::new(first as u32, last as u32), to }
    }
}
