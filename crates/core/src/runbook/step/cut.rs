//! Forced: the old owner's history ends where the sealed survivors' copies of it end.

use super::{Blocker, Effect, Facts};
use crate::id::{Origin, RegionId, RunId};
use crate::lsn::{Cut as CutAt, Lsn};
use crate::ownership::OwnershipChange;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub run: RunId,
    pub from: RegionId,
}

impl Cut {
    pub fn explain(&self) -> String {
        format!("end the history of region {} at the last record a survivor holds", self.from)
    }

    pub fn done(&self, facts: &Facts) -> bool {
        facts.ownership.ranges_of(&self.run).all(|e| e.state.cut().is_some())
    }

    pub fn blocked(&self, _: &Facts) -> Option<Blocker> {
        None
    }

    pub fn effect(&self, facts: &Facts) -> Option<Effect> {
        let nothing = CutAt { origin: Origin::new(self.from.clone(), 1), lsn: Lsn::ZERO };
        let highest = facts
            .seals
            .values()
            .flatten()
            .filter(|held| held.origin.region == self.from)
            .max()
            .cloned()
            .unwrap_or(nothing);
        Some(Effect::Change(OwnershipChange::Cut { run: self.run.clone(), cut: highest }))
    }
}
