//! Forced: take the right to write away from a region, by compare-and-set.

use super::{Blocker, Effect, Facts};
use crate::id::{RegionId, RunId};
use crate::ownership::OwnershipChange;
use crate::runbook::safety::{Undertaking, loss_at_most};

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

    /// What was no danger when it was planned may be one by now.
    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        let loss = loss_at_most(&self.from, facts);
        let violations = facts.against_safety(&Undertaking::TakeOver { loss });
        (!violations.is_empty()).then_some(Blocker::AgainstSafety { violations })
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        Some(Effect::Change(OwnershipChange::Fence {
            from: self.from.clone(),
            run: self.run.clone(),
        }))
    }
}
