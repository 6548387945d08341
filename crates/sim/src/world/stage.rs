//! A calm world that is told what befalls it, for what must happen rather than what must not.

use domicile_core::progress::Rpo;

use super::World;
use crate::clock::{MS, Micros, SECOND};
use crate::network::Network;
use crate::rng::Rng;
use crate::setup::Setup;
use crate::workload::Workload;

const SEED: u64 = 1;
const PARTITIONS: u32 = 6;
const WRITE_EVERY: Micros = 25 * MS;
const DISTANCE: Micros = 20 * MS;

/// Three regions under clients who write all the time.
pub struct Stage {
    world: World,
}

impl Stage {
    pub fn new(rpo: Rpo) -> Self {
        let regions = 3;
        let setup = Setup { rpo, ..Setup::large(regions, PARTITIONS, false) };
        let mut world = World::calm(SEED, setup, Rng::new(SEED), false);
        world.network = Network::even(regions + 1, DISTANCE);
        world.workload = Workload::steady(WRITE_EVERY);
        // It ends when nobody looks any more.
        world.heal_at = Micros::MAX / 2;
        Self { world }
    }

    /// Lets so many seconds pass. Panics when something happens that must never happen.
    pub fn pass(&mut self, seconds: u64) {
        self.world.run_until(self.world.now + seconds * SECOND);
        if let Some(violation) = &self.world.oracle.violation {
            panic!("{}: {}", violation.rule, violation.detail);
        }
    }

    /// Cuts the directory off from these regions.
    pub fn lose_directory(&mut self, regions: &[usize]) {
        let directory = self.world.setup.directory();
        for region in regions {
            self.cut(*region, directory);
        }
    }

    pub fn cut(&mut self, one: usize, other: usize) {
        self.world.network.cut(one, other);
        self.world.network.cut(other, one);
    }

    /// Everybody hears everybody.
    pub fn mend(&mut self) {
        self.world.network.heal();
    }

    pub fn kill(&mut self, region: usize) {
        self.world.stop_agent(region);
        self.world.stop_postgres(region);
    }

    /// How many writes of a region were acknowledged in the last so many seconds.
    pub fn acknowledged_lately(&self, region: usize, seconds: u64) -> usize {
        let since = self.world.now.saturating_sub(seconds * SECOND);
        self.world.oracle.acknowledged_since(region, since)
    }

    /// Who owns each partition, and at which epoch.
    pub fn owners(&self) -> Vec<String> {
        let entries = self.world.directory.read().ownership.entries().iter();
        entries.map(|entry| format!("{}:{} {}", entry.range, entry.epoch, entry.state)).collect()
    }
}
