//! The new owner has applied everything up to the cut.
//!
//! It fetches what it lacks from whichever survivor holds it, all the time and unasked: this
//! step only waits.

use super::{Blocker, Effect, Facts};
use crate::id::{RegionId, RunId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatchUp {
    pub run: RunId,
    pub to: RegionId,
}

impl CatchUp {
    pub fn explain(&self) -> String {
        format!("have region {} apply everything up to the cut", self.to)
    }

    pub fn done(&self, facts: &Facts) -> bool {
        self.blocked(facts).is_none()
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        let seen = facts.regions.get(&self.to);
        facts.ownership.ranges_of(&self.run).find_map(|entry| {
            let needs = entry.state.cut()?.clone();
            let has = seen.map(|r| r.applied.get(&needs.origin)).unwrap_or_default();
            let own = needs.origin.region == self.to;
            (!own && has < needs.lsn).then(|| Blocker::Behind {
                region: self.to.clone(),
                needs,
                has,
            })
        })
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        None
    }
}
