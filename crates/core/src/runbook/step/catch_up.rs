//! The new owner has applied everything up to the cut, and up to those of the epochs before.
//!
//! Its own writes tell the others what they come after. An owner that wrote nothing told nobody, so
//! the end of the epoch before its own does not follow from having all of its log. So with a log that has
//! begun anew and in which nothing stands yet: all is applied that is held here of the one before.
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
        let behind = |cut: &Cut| cut.origin.region != self.to && has(&cut.origin) < cut.lsn;
        let needs = facts.ownership.ranges_of(&self.run).find_map(|entry| {
            let last = entry.state.cut()?;
            let cuts = entry.closed.iter().map(|closed| &closed.cut).chain([last]).cloned();
            cuts.chain(self.before(&last.origin, facts)).find(behind)
        })?;
        let has = has(&needs.origin);
        Some(Blocker::Behind { region: self.to.clone(), needs, has })
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        None
    }

    /// The ends of the target's copies of the logs that the region of `origin` has written before it. What others
    /// hold beyond them may lie behind an older cut: the target leaves that out, and would wait for it for ever.
    fn before(&self, origin: &Origin, facts: &Facts) -> Vec<Cut> {
        let Some(seen) = facts.regions.get(&self.to) else { return Vec::new() };
        let earlier = seen.flushed.iter().filter(|(other, _)| {
            other.region == origin.region && other.incarnation < origin.incarnation
        });
        earlier.map(|(other, lsn)| Cut { origin: other.clone(), lsn }).collect()
    }
}
