//! Several observers, or a person, say that the region is gone.

use super::{Blocker, Effect, Facts};
use crate::id::{RegionId, RunId};
use crate::outage::Outage;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmOutage {
    pub run: RunId,
    pub region: RegionId,
    /// A person vouches for it.
    pub attested: bool,
}

impl ConfirmOutage {
    pub fn explain(&self) -> String {
        if self.attested {
            return format!("take an operator's word that region {} is gone", self.region);
        }
        format!("have several regions confirm that region {} is gone", self.region)
    }

    /// Once the fence stands there is no way back: the question is closed.
    pub fn done(&self, facts: &Facts) -> bool {
        let fenced = facts.ownership.ranges_of(&self.run).next().is_some()
            || !facts.ownership.owns_anything(&self.region);
        fenced || self.attested || matches!(self.outage(facts), Some(Outage::Confirmed { .. }))
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        let outage = self.outage(facts);
        Some(Blocker::Unconfirmed { region: self.region.clone(), outage })
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        None
    }

    fn outage(&self, facts: &Facts) -> Option<Outage> {
        facts.regions.get(&self.region).and_then(|r| r.outage.clone())
    }
}
