//! A write goes through the guard of the new owner.

use super::{Blocker, Effect, Facts};
use crate::id::{RegionId, RunId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    pub run: RunId,
    pub to: RegionId,
}

impl Verify {
    pub fn explain(&self) -> String {
        format!("write a canary row through the guard of region {}", self.to)
    }

    /// A region that has lost everything again by now has nothing that a canary could be written to.
    pub fn done(&self, facts: &Facts) -> bool {
        facts.canary_written || facts.ownership.writable_by(&self.to).next().is_none()
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        let closed = facts.regions.get(&self.to).is_some_and(|seen| seen.not_opened);
        closed.then(|| Blocker::NotOpened { region: self.to.clone() })
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        Some(Effect::WriteCanary { region: self.to.clone() })
    }
}
