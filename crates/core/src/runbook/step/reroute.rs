//! Every gateway that can be reached knows the new owner.

use super::{Blocker, Effect, Facts};
use crate::id::{RegionId, RunId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reroute {
    pub run: RunId,
}

impl Reroute {
    pub fn explain(&self) -> String {
        "have every reachable gateway send writes to the new owner".into()
    }

    pub fn done(&self, facts: &Facts) -> bool {
        self.behind(facts).is_empty()
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        Some(Blocker::NotRerouted { regions: self.behind(facts) })
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        None
    }

    fn behind(&self, facts: &Facts) -> Vec<RegionId> {
        let behind = facts.regions.iter().filter(|(region, seen)| {
            seen.reachable
                && !facts.lease_over(region)
                && seen.ownership_seen < facts.ownership_revision
        });
        behind.map(|(region, _)| region.clone()).collect()
    }
}
