//! The new owner has applied everything up to the cut, and up to those of the epochs before.
//!
//! Its own writes tell the others what they come after. An owner that wrote nothing told nobody, so
//! the end of the epoch before its own does not follow from having all of its log.
//!
//! It fetches what it lacks from whichever survivor holds it, all the time and unasked: this
//! step only waits.

use super::{Blocker, Effect, Facts};
use crate::id::{Origin, RegionId, RunId};
use crate::lsn::Cut;

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
        let has = |origin: &Origin| seen.map(|r| r.applied.get(origin)).unwrap_or_default();
        let behind = |cut: &&Cut| cut.origin.region != self.to && has(&cut.origin) < cut.lsn;
        facts.ownership.ranges_of(&self.run).find_map(|entry| {
            let last = entry.state.cut()?;
            let mut cuts = entry.closed.iter().map(|closed| &closed.cut).chain([last]);
            cuts.find(behind).map(|needs| Blocker::Behind {
                region: self.to.clone(),
                needs: needs.clone(),
                has: has(&needs.origin),
            })
        })
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        None
    }
}
