//! Planned: what this run has handed over goes back to whoever owned it before, by a switchover for each
//! range, one after the other.
//!
//! The ownership tells who that was: the last epoch that is closed is the one that this run has closed.
//! Each switchover is a run by itself, named after this one and its range: so it is begun once, whoever
//! asks again.

use super::{Blocker, Effect, Facts};
use crate::id::{PartitionRange, RegionId, RunId};
use crate::ownership::{CameTo, State};
use crate::runbook::plan::check;
use crate::runbook::{Intent, Outcome, Plan, on_their_way, part_of};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GiveBack {
    pub run: RunId,
    pub range: PartitionRange,
    /// Who has it meanwhile.
    pub of: RegionId,
}

impl GiveBack {
    pub fn explain(&self) -> String {
        format!("start a switchover of partition {} back to whoever owned it before", self.range)
    }

    pub fn done(&self, facts: &Facts) -> bool {
        let back = |end: &Option<Outcome>| *end == Some(Outcome::Succeeded);
        self.next(facts).is_none()
            && on_their_way(&self.run, facts) == 0
            && facts.parts.values().all(back)
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        let runs = on_their_way(&self.run, facts);
        if runs > 0 {
            return Some(Blocker::OnTheirWay { runs, from: self.of.clone() });
        }
        let (range, to) = self.next(facts)?;
        let plan = Plan::ready(&part_of(&self.run, range), &Intent::Switchover { range, to });
        let reasons = check(plan, facts).err()?;
        Some(Blocker::NotNow { range, reasons })
    }

    pub fn effect(&self, facts: &Facts) -> Option<Effect> {
        let (range, to) = self.next(facts)?;
        let intent = Intent::Switchover { range, to };
        Some(Effect::Begin { run: part_of(&self.run, range), intent })
    }

    /// How the whole ends when a part has not gone back.
    pub fn failed(&self, facts: &Facts) -> Option<Outcome> {
        if on_their_way(&self.run, facts) > 0 {
            return None;
        }
        let is_gone = |region: &RegionId| !facts.ownership.members().contains(region);
        if self.next(facts).is_some_and(|(_, to)| is_gone(&to)) {
            return Some(Outcome::Overruled);
        }
        let mut ends = facts.parts.values().flatten();
        ends.find(|outcome| **outcome != Outcome::Succeeded).cloned()
    }

    /// The first range that is not on its way back yet, and whose it was. A run that has granted nothing
    /// gives nothing back.
    fn next(&self, facts: &Facts) -> Option<(PartitionRange, RegionId)> {
        facts.ownership.turn(&self.run).filter(|turn| *turn == CameTo::Granted)?;
        facts.ownership.entries().iter().find_map(|entry| {
            let range = entry.range.overlap(&self.range)?;
            let ours = matches!(&entry.state, State::Owned { by } if *by == self.of);
            let before = &entry.closed.last()?.by;
            let open = ours && *before != self.of && !facts.parts.contains_key(&range);
            open.then(|| (range, before.clone()))
        })
    }
}
