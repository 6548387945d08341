//! Planned: a switchover for each range that a region owns, only so many at the same time.
//!
//! Each is a run by itself, named after this one and its range: so it is begun once, whoever asks
//! again, and goes on by itself. What the region is given meanwhile moves, too.

use super::{Blocker, Effect, Facts};
use crate::id::{PartitionRange, RegionId, RunId};
use crate::ownership::{CameTo, State};
use crate::runbook::plan::check;
use crate::runbook::{Intent, Outcome, Plan, on_their_way, part_of};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForEach {
    pub run: RunId,
    pub from: RegionId,
    pub to: RegionId,
    pub at_once: u32,
}

impl ForEach {
    pub fn explain(&self) -> String {
        let Self { from, to, at_once, .. } = self;
        format!(
            "start a switchover to {to} for each range that region {from} owns, {at_once} at a time"
        )
    }

    pub fn done(&self, facts: &Facts) -> bool {
        !facts.ownership.owns_anything(&self.from) && self.on_their_way(facts) == 0
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        let on_their_way = self.on_their_way(facts);
        let Some(range) = self.next_range(facts).filter(|_| on_their_way < self.at_once as usize)
        else {
            return Some(Blocker::OnTheirWay { runs: on_their_way, from: self.from.clone() });
        };
        let intent = Intent::Switchover { range, to: self.to.clone() };
        let reasons = check(Plan::ready(&part_of(&self.run, range), &intent), facts).err()?;
        Some(Blocker::NotNow { range, reasons })
    }

    pub fn effect(&self, facts: &Facts) -> Option<Effect> {
        let range = self.next_range(facts)?;
        let intent = Intent::Switchover { range, to: self.to.clone() };
        Some(Effect::Begin { run: part_of(&self.run, range), intent })
    }

    /// How the whole ends when a part has not moved: no other is begun.
    pub fn failed(&self, facts: &Facts) -> Option<Outcome> {
        let mut ends = facts.parts.values().flatten();
        ends.find(|outcome| **outcome != Outcome::Succeeded).cloned()
    }

    /// Is all that the region still owns what it was given back? No part moves twice, so none is left.
    pub fn came_back(&self, facts: &Facts) -> bool {
        let granted =
            |range| facts.ownership.turn(&part_of(&self.run, range)) == Some(CameTo::Granted);
        let held = facts.ownership.entries().iter().filter(|entry| match &entry.state {
            State::Owned { by } | State::HandingOver { by, .. } => *by == self.from,
            State::Fenced { from, .. } => *from == self.from,
        });
        let mut held = held.peekable();
        held.peek().is_some()
            && held.all(|entry| matches!(entry.state, State::Owned { .. }) && granted(entry.range))
    }

    pub fn on_their_way(&self, facts: &Facts) -> usize {
        on_their_way(&self.run, facts)
    }

    /// The first range that has not been begun. One that has moved and come back has been.
    fn next_range(&self, facts: &Facts) -> Option<PartitionRange> {
        let owned = facts
            .ownership
            .entries()
            .iter()
            .filter(|entry| matches!(&entry.state, State::Owned { by } if *by == self.from));
        owned.map(|entry| entry.range).find(|range| !facts.parts.contains_key(range))
    }
}
