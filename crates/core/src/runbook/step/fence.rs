//! Forced: take the right to write away from a region, by compare-and-set.

use super::{Blocker, Effect, Facts};
use crate::id::{RegionId, RunId};
use crate::ownership::OwnershipChange;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    pub run: RunId,
    pub from: RegionId,
}

impl Fence {
    pub fn explain(&self) -> String {
        format!("raise the epoch of everything that region {} owns, and name no owner", self.from)
    }

    /// A run fences once, all in one change. What the region is given while the run goes on is
    /// of later epochs, which this run's seals do not speak of.
    pub fn done(&self, facts: &Facts) -> bool {
        let fenced = facts.ownership.ranges_of(&self.run).next().is_some();
        fenced || !facts.ownership.owns_anything(&self.from)
    }

    pub fn blocked(&self, _: &Facts) -> Option<Blocker> {
        None
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        Some(Effect::Change(OwnershipChange::Fence {
            from: self.from.clone(),
            run: self.run.clone(),
        }))
    }
}
