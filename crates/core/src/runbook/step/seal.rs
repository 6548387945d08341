//! Forced: the survivors promise to accept nothing more of the old owner, or its lease runs out.
//!
//! The survivors are those who hold its log, witnesses too: nobody else's copies count.
//!
//! At RPO 0 with `k` copies among `n` survivors, a commit is acknowledged only when `k` of them
//! hold it. When more than `n - k` have sealed, every such set of `k` contains one that sealed:
//! nothing more can be acknowledged, and what was is held by a sealed survivor. The lease need
//! not be waited for.
//!
//! It may also live on promises of its peers ([`crate::promise`]); the seals of those say until when.
//!
//! With a bounded RPO that says that the owner can run ahead of its copies no further than the
//! bound; but it may still begin to, so the end of the lease is waited for too. Without remote
//! copies only the end of the lease stops acknowledgements.

use super::{Blocker, Effect, Facts};
use crate::id::{RegionId, RunId};
use crate::progress::Rpo;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    pub run: RunId,
    pub from: RegionId,
}

impl Seal {
    pub fn explain(&self) -> String {
        format!(
            "have the survivors seal the log of region {} so that it can grow no more",
            self.from
        )
    }

    /// The cut, once written, says that this was done.
    pub fn done(&self, facts: &Facts) -> bool {
        let mut open = facts.ownership.ranges_of(&self.run);
        open.all(|e| e.state.cut().is_some())
            || (self.unsealed(facts).is_empty() && self.lease_wait(facts).is_none())
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        let unsealed = self.unsealed(facts);
        if unsealed.is_empty() {
            return self.lease_wait(facts);
        }
        let answering = unsealed.iter().any(|region| facts.is_reachable(region));
        (!answering).then_some(Blocker::SealMissing { regions: unsealed })
    }

    pub fn effect(&self, facts: &Facts) -> Option<Effect> {
        let mut regions = self.unsealed(facts);
        regions.retain(|region| facts.is_reachable(region));
        Some(Effect::Seal { regions, from: self.from.clone() })
    }

    /// The survivors whose seal is still needed; empty when enough have sealed.
    fn unsealed(&self, facts: &Facts) -> Vec<RegionId> {
        let survivors = facts.ownership.holders().filter(|r| **r != self.from);
        let (sealed, missing): (Vec<RegionId>, Vec<RegionId>) =
            survivors.clone().cloned().partition(|r| facts.seals.contains_key(r));
        let sealed = sealed.len();
        match facts.rpo_of(&self.from) {
            Rpo::Zero { copies } | Rpo::Within { copies, .. } => {
                if sealed + copies > survivors.count() { Vec::new() } else { missing }
            }
            Rpo::None => {
                let (answering, silent): (Vec<_>, Vec<_>) =
                    missing.into_iter().partition(|r| facts.is_reachable(r));
                if sealed == 0 && answering.is_empty() { silent } else { answering }
            }
        }
    }

    /// A region that came back goes on renewing its lease for ever; but once its guard goes by
    /// the fence, it admits nothing that the fence forbids.
    fn lease_wait(&self, facts: &Facts) -> Option<Blocker> {
        let from = facts.regions.get(&self.from)?;
        let over_at = from.lease_over_at.max(facts.promises_over_at)?;
        let knows = from.reachable && from.ownership_seen >= facts.ownership_revision;
        (facts.rpo_of(&self.from).runs_ahead() && facts.now < over_at && !knows)
            .then(|| Blocker::LeaseLive { region: self.from.clone(), over_at })
    }
}
