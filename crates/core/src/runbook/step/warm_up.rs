//! Planned: gateways open the sessions of their clients at the new owner while the old one still takes writes.
//!
//! Otherwise all of them are opened in the moment in which nobody may write, and the last one waits for all
//! others. It is a courtesy: what is not open in time is opened later, and the run goes on.

use super::{Blocker, Effect, Facts};
use crate::id::{PartitionRange, RegionId, RunId};
use crate::runbook::file::written;
use crate::time::Millis;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUp {
    pub run: RunId,
    /// Which step of the run it is, from 0.
    pub number: usize,
    pub range: PartitionRange,
    pub to: RegionId,
    /// The run goes on after that, whatever is open.
    pub within: Millis,
}

impl WarmUp {
    pub fn explain(&self) -> String {
        let (to, within) = (&self.to, written(self.within));
        format!("have gateways open their clients' sessions at {to}, for {within} at most")
    }

    /// Where a region serves its own clients, whoever owns what, no session moves.
    pub fn done(&self, facts: &Facts) -> bool {
        let moves_nobody = facts.ownership.total() > 1 || self.range == PartitionRange::CANARY;
        moves_nobody || facts.answers.contains_key(&self.number) || facts.in_hands(&self.run)
    }

    pub fn blocked(&self, _: &Facts) -> Option<Blocker> {
        None
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        let (number, to) = (self.number, self.to.clone());
        Some(Effect::WarmUp { number, to, within: self.within })
    }
}
