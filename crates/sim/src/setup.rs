//! Which world does this seed stand for? Fixed for the whole run.

use domicile_core::config::FailoverPolicy;
use domicile_core::id::{Epoch, Origin, PartitionId, PartitionRange, RegionId};
use domicile_core::lease::LeaseTerms;
use domicile_core::lsn::{Frontier, Lsn};
use domicile_core::ownership::{Entry, Ownership, State};
use domicile_core::partition::{Layout, Scheme};
use domicile_core::progress::Rpo;
use domicile_core::time::{DriftPpm, Millis};

use crate::clock::{Micros, SECOND};
use crate::rng::Rng;

/// A row's key; also its index in every table.
pub type Key = u32;

const REGION_NAMES: [&str; 5] = ["ap", "eu", "us", "sa", "af"];
const KEYS: u32 = 24;
pub const DRIFT_PPM_MAX: u64 = 500;
const RPO_AGE: Millis = Millis(250);
const KEYS_OF_A_REGION: u32 = 4;
const TERMS: LeaseTerms = LeaseTerms {
    ttl: Millis(3000),
    renew_every: Millis(500),
    margin: Millis(200),
    drift: DriftPpm(DRIFT_PPM_MAX),
};
const POLICY: FailoverPolicy =
    FailoverPolicy { automatic: true, observers: 2, suspect_after: Millis(2000) };

/// A rule broken on purpose, to show that the invariants can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// Peers answer a seal and forget it.
    SkipSeal,
    /// Nobody diverts what lies past a cut.
    IgnoreCut,
    /// The guard never looks at its deadline.
    ExtendLease,
    /// A commit that is kept out of the history is confirmed to its waiting client.
    ConfirmDiverted,
    /// A peer's position counts before our log was held against the cuts that it knows.
    CountEarly,
    /// The copies of a region count that is not a member yet.
    CountStrangers,
    /// The copies of a witness count, and nobody asks for its seal.
    ForgetWitness,
    /// What no peer holds is confirmed however old it is.
    ForgetAge,
    /// A repair takes a peer's rows without asking how far the peer is.
    RepairBlindly,
    /// A cut does not wait for what the survivors have promised.
    CutUnderPromises,
}

#[derive(Clone, Debug)]
pub struct Setup {
    pub regions: Vec<RegionId>,
    pub origins: Vec<Origin>,
    /// The partition of each key.
    pub partitions: Vec<PartitionId>,
    pub layout: Layout,
    pub rpo: Rpo,
    pub terms: LeaseTerms,
    pub policy: FailoverPolicy,
    /// When the last region joins; from the beginning when it is `None`.
    pub joins_at: Option<Micros>,
    /// The last region is a witness: its copies and seals count, and it owns nothing.
    pub has_witness: bool,
    pub sabotage: Option<Sabotage>,
    /// Whoever sees an outage begins a failover, half of the time; otherwise only the region that is
    /// to take over does, as agents do.
    pub anyone_begins: bool,
    /// Every other partition is the first region's: no two stand together.
    pub alternates: bool,
}

impl Setup {
    pub fn choose(seed: u64, rng: &mut Rng, sabotage: Option<Sabotage>) -> Self {
        // Apart, so that the other choices are the same with a newcomer and without one.
        let mut newcomer = Rng::new(!seed);
        let mut witness = Rng::new(seed.rotate_left(32));
        let count = rng.between(3, REGION_NAMES.len() as u64) as usize;
        let regions: Vec<RegionId> = REGION_NAMES[..count]
            .iter()
            .map(|name| name.parse().expect("these are region names"))
            .collect();
        let scheme = match rng.below(6) {
            0 => Scheme::Whole,
            1 => Scheme::Home { regions: regions.clone() },
            _ => Scheme::Hash { count: rng.between(6, 12) as u32 },
        };
        let layout = Layout { scheme, has_reference: false };
        let rpo = match rng.below(5) {
            0 => Rpo::None,
            1 => Rpo::Within { copies: 1, age: RPO_AGE },
            2 if count > 3 => Rpo::Zero { copies: 2 },
            _ => Rpo::Zero { copies: 1 },
        };
        let joins_at = newcomer.chance(300).then(|| newcomer.between(2, 15) * SECOND);
        Self {
            origins: regions.iter().map(|r| Origin::new(r.clone(), 1)).collect(),
            partitions: (0..KEYS).map(|key| partition(&layout, &regions, key)).collect(),
            regions,
            layout,
            rpo,
            terms: TERMS,
            has_witness: joins_at.is_none() && witness.chance(300),
            joins_at,
            policy: POLICY,
            sabotage,
            anyone_begins: true,
            alternates: false,
        }
    }

    /// Many regions or many partitions, where acknowledgements wait for a copy.
    pub fn large(count: usize, partitions: u32, alternates: bool) -> Self {
        let name = |number| format!("r{number:02}").parse().expect("these are region names");
        let regions: Vec<RegionId> = (1..=count).map(name).collect();
        let keys = KEYS_OF_A_REGION * count as u32;
        let spread = |key| u64::from(key) * u64::from(partitions) / u64::from(keys);
        Self {
            origins: regions.iter().map(|r| Origin::new(r.clone(), 1)).collect(),
            partitions: (0..keys).map(|key| PartitionId(spread(key) as u32)).collect(),
            regions,
            layout: Layout { scheme: Scheme::Hash { count: partitions }, has_reference: false },
            rpo: Rpo::Zero { copies: 1 },
            terms: TERMS,
            policy: POLICY,
            joins_at: None,
            has_witness: false,
            sabotage: None,
            anyone_begins: false,
            alternates,
        }
    }

    pub fn count(&self) -> usize {
        self.regions.len()
    }

    /// The directory is the node after the last region.
    pub fn directory(&self) -> usize {
        self.regions.len()
    }

    pub fn index(&self, region: &RegionId) -> Option<usize> {
        self.regions.iter().position(|r| r == region)
    }

    pub fn first_owners(&self) -> Ownership {
        if self.alternates {
            return alternating(self.layout.total(), &self.regions);
        }
        let others = usize::from(self.joins_at.is_some() || self.has_witness);
        let regions = &self.regions[..self.count() - others];
        let owners = Ownership::initial(self.layout.total(), regions);
        let owners = owners.with_witnesses(self.witness().cloned());
        // It would be one range more in the count of what ranges cost.
        if self.anyone_begins { owners.with_canary(regions[0].clone()) } else { owners }
    }

    pub fn witness(&self) -> Option<&RegionId> {
        self.regions.last().filter(|_| self.has_witness)
    }

    pub fn frontier(&self, positions: &[Lsn]) -> Frontier {
        self.origins.iter().cloned().zip(positions.iter().copied()).collect()
    }

    pub fn breaks(&self, rule: Sabotage) -> bool {
        self.sabotage == Some(rule)
    }
}

/// Every other partition is the first region's, those between are the others' by turns.
pub fn alternating(total: u32, regions: &[RegionId]) -> Ownership {
    let owner = |number: u32| match number % 2 {
        0 => 0,
        _ => 1 + number as usize / 2 % (regions.len() - 1),
    };
    let entry = |number| Entry {
        range: PartitionRange::new(number, number),
        epoch: Epoch(1),
        state: State::Owned { by: regions[owner(number)].clone() },
        closed: Vec::new(),
    };
    let members = regions.iter().cloned().collect();
    let entries = (0..total).map(entry).collect();
    Ownership::from_entries(members, entries).expect("one after the other")
}

fn partition(layout: &Layout, regions: &[RegionId], key: Key) -> PartitionId {
    let text = match &layout.scheme {
        Scheme::Home { .. } => regions[key as usize % regions.len()].to_string(),
        Scheme::Whole | Scheme::Hash { .. } => key.to_string(),
    };
    layout.partition_of(&[text.as_bytes()]).expect("every home here is a region")
}
