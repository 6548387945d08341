//! Drill: the old owner commits a row as if it had not heard of the fence, and the row is kept out.
//!
//! It is written behind the cut, so nothing but the judgement of each region keeps it from being shown: the
//! guard, which would refuse it, is passed by.

use super::{Blocker, Effect, Facts};
use crate::id::{RegionId, RunId};
use crate::outage::Outage;
use crate::runbook::Unwell;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateWrite {
    pub run: RunId,
    pub from: RegionId,
}

impl LateWrite {
    pub fn explain(&self) -> String {
        format!(
            "have region {} commit a canary row as if it had not heard of the fence, and see that it is kept out",
            self.from
        )
    }

    /// Once another has the canary it is too late for this, and a region that is lost in earnest writes
    /// nothing.
    pub fn done(&self, facts: &Facts) -> bool {
        let outage = facts.regions.get(&self.from).and_then(|seen| seen.outage.as_ref());
        facts.late_write_kept_out
            || !facts.in_hands(&self.run)
            || matches!(outage, Some(Outage::Confirmed { .. }))
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        let silent = !facts.is_reachable(&self.from);
        silent.then(|| Blocker::Unwell { region: self.from.clone(), why: Unwell::Silent })
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        Some(Effect::WriteLate { region: self.from.clone() })
    }
}
