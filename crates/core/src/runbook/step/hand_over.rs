//! Planned: the owner drains its writers and names a barrier.
//!
//! The owner does this by itself when it sees the hand-over in the directory; new writers queue
//! behind the drain and are sent on to the new owner.

use super::{Blocker, Effect, Facts};
use crate::id::{PartitionRange, RegionId, RunId};
use crate::ownership::{OwnershipChange, State};
use crate::runbook::plan::{Refusal, check};
use crate::runbook::{Intent, Plan};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOver {
    pub run: RunId,
    pub range: PartitionRange,
    pub to: RegionId,
}

impl HandOver {
    pub fn explain(&self) -> String {
        format!(
            "have the owner of partition {} drain its writers and name the last one",
            self.range
        )
    }

    /// Once the run has partitions in its hands, those are all that it will get: what another
    /// run has fenced meanwhile is lost to this one, and must not hold up the rest.
    pub fn done(&self, facts: &Facts) -> bool {
        let mut in_hands = facts.ownership.ranges_of(&self.run).peekable();
        if in_hands.peek().is_some() {
            return in_hands.all(|e| e.state.cut().is_some());
        }
        let mut entries =
            facts.ownership.entries().iter().filter(|e| e.range.overlap(&self.range).is_some());
        entries.all(|e| matches!(&e.state, State::Owned { by } if *by == self.to))
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        let mut in_hands = facts.ownership.ranges_of(&self.run).peekable();
        if in_hands.peek().is_none() {
            let blocked = self.in_other_hands(facts).or_else(|| self.not_now(facts));
            return blocked.or_else(|| self.writers_first(facts));
        }
        let draining = in_hands.find_map(|e| match &e.state {
            State::HandingOver { by, barrier: None, .. } => Some(by.clone()),
            _ => None,
        })?;
        Some(Blocker::Draining { region: draining })
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        Some(Effect::Change(OwnershipChange::HandOver {
            range: self.range,
            to: self.to.clone(),
            run: self.run.clone(),
        }))
    }

    /// What spoke against it when it was planned may do so by now: people were asked, programs were
    /// waited for. Nobody writes from here on until the target has caught up.
    fn not_now(&self, facts: &Facts) -> Option<Blocker> {
        let (range, to) = (self.range, self.to.clone());
        let intent = Intent::Switchover { range, to };
        let mut reasons = check(Plan::ready(&self.run, &intent), facts).err()?;
        // What has come to the target already need not come again; and of an end that is lost the run hears
        // otherwise.
        let passes = |reason: &Refusal| {
            matches!(
                reason,
                Refusal::AlreadyOwner { .. } | Refusal::NoLease(_) | Refusal::OwnerSilent(_)
            )
        };
        reasons.retain(|reason| !passes(reason));
        (!reasons.is_empty()).then_some(Blocker::NotNow { range, reasons })
    }

    fn writers_first(&self, facts: &Facts) -> Option<Blocker> {
        if self.range != PartitionRange::CANARY {
            return None;
        }
        let mut data = facts.ownership.data().iter();
        let on_its_way = data.find(|e| matches!(e.state, State::HandingOver { .. }))?;
        Some(Blocker::WritersFirst { range: on_its_way.range })
    }

    fn in_other_hands(&self, facts: &Facts) -> Option<Blocker> {
        let mut entries = facts.ownership.entries().iter();
        entries.find_map(|entry| {
            let range = entry.range.overlap(&self.range)?;
            Some(Blocker::InOtherHands { range, run: entry.state.run()?.clone() })
        })
    }
}
