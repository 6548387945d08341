//! Name the new owner at the new epoch. The point of no return.

use super::{Blocker, Effect, Facts};
use crate::id::{RegionId, RunId};
use crate::ownership::OwnershipChange;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub run: RunId,
    pub to: RegionId,
}

impl Grant {
    pub fn explain(&self) -> String {
        format!("make region {} the owner at the next epoch (no way back after this)", self.to)
    }

    pub fn done(&self, facts: &Facts) -> bool {
        facts.ownership.ranges_of(&self.run).next().is_none()
    }

    pub fn blocked(&self, _: &Facts) -> Option<Blocker> {
        None
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        Some(Effect::Change(OwnershipChange::Grant { run: self.run.clone(), to: self.to.clone() }))
    }
}
