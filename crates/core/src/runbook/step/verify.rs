//! A write goes through the guard of the new owner.

use super::{Blocker, Effect, Facts};
use crate::id::{PartitionId, PartitionRange, RegionId, RunId};
use crate::runbook::Unwell;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    pub run: RunId,
    pub to: RegionId,
    /// What was moved, where that is known beforehand.
    pub range: Option<PartitionRange>,
}

impl Verify {
    pub fn explain(&self) -> String {
        format!("write a canary row through the guard of region {}", self.to)
    }

    /// A region that has lost everything again by now has nothing that a canary could be written to.
    pub fn done(&self, facts: &Facts) -> bool {
        facts.canary_written || self.written_to(facts).is_none()
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        let region = || self.to.clone();
        if !facts.is_reachable(&self.to) {
            return Some(Blocker::Unwell { region: region(), why: Unwell::Silent });
        }
        let closed = facts.regions.get(&self.to).is_some_and(|seen| seen.not_opened);
        closed.then(|| Blocker::NotOpened { region: region() })
    }

    pub fn effect(&self, facts: &Facts) -> Option<Effect> {
        let partition = self.written_to(facts)?;
        Some(Effect::WriteCanary { region: self.to.clone(), partition })
    }

    /// The first partition that was moved and is still the new owner's.
    fn written_to(&self, facts: &Facts) -> Option<PartitionId> {
        let mut writable = facts.ownership.writable_by(&self.to);
        writable.find_map(|entry| {
            let moved = match &self.range {
                Some(range) => entry.range.overlap(range)?,
                None => entry.range,
            };
            Some(PartitionId(moved.first))
        })
    }
}
