//! A region is well: it answers, may write, lacks nothing that is gone, and follows the owners closely.

use super::{Blocker, Effect, Facts};
use crate::id::{RegionId, RunId};
use crate::runbook::Unwell;
use crate::runbook::file::written;
use crate::time::Millis;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub run: RunId,
    pub region: RegionId,
    /// The most that it may be behind an owner.
    pub lag: Millis,
}

impl Check {
    pub fn explain(&self) -> String {
        let (region, lag) = (&self.region, written(self.lag));
        format!(
            "wait until region {region} is well, and at most {lag} behind every owner that answers"
        )
    }

    /// Once the run has partitions in its hands nobody writes there: it is not asked again.
    pub fn done(&self, facts: &Facts) -> bool {
        facts.ownership.ranges_of(&self.run).next().is_some() || self.why_not(facts).is_none()
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        let region = self.region.clone();
        self.why_not(facts).map(|why| Blocker::Unwell { region, why })
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        None
    }

    fn why_not(&self, facts: &Facts) -> Option<Unwell> {
        let region = &self.region;
        let seen = facts.regions.get(region).filter(|_| facts.ownership.members().contains(region));
        let Some(seen) = seen else { return Some(Unwell::NotMember) };
        if !seen.reachable {
            return Some(Unwell::Silent);
        }
        if seen.cannot_write {
            return Some(Unwell::CannotWrite);
        }
        if facts.lease_over(region) {
            return Some(Unwell::NoLease);
        }
        if seen.left_behind {
            return Some(Unwell::LeftBehind);
        }
        // What a silent owner has written since it was last heard, nobody can wait for.
        let mut owners = facts.regions.iter().filter(|(owner, seen)| {
            *owner != region && seen.reachable && facts.ownership.owns_anything(owner)
        });
        owners.find_map(|(owner, seen)| {
            let by = seen.staleness.get(region).copied().unwrap_or_default();
            let (owner, lag) = (owner.clone(), self.lag);
            (by > lag).then_some(Unwell::Behind { owner, by, lag })
        })
    }
}
