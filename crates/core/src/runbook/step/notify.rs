//! Somebody is told by a webhook, and the run goes on whatever comes of it.

use super::{Blocker, Effect, Facts};
use crate::id::RunId;
use crate::runbook::file::written;
use crate::time::Millis;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    pub run: RunId,
    /// Which step of the run it is, from 0.
    pub number: usize,
    /// As the configuration names it.
    pub webhook: String,
    /// The run waits for it no longer, however often it was tried.
    pub within: Millis,
}

impl Notify {
    pub fn explain(&self) -> String {
        let (webhook, within) = (&self.webhook, written(self.within));
        format!("tell the webhook {webhook}, for {within} at most, and go on also when that fails")
    }

    /// Once the run has partitions in its hands nobody writes there: they do not wait for this.
    pub fn done(&self, facts: &Facts) -> bool {
        facts.answers.contains_key(&self.number) || facts.in_hands(&self.run)
    }

    pub fn blocked(&self, _: &Facts) -> Option<Blocker> {
        None
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        let (number, webhook) = (self.number, self.webhook.clone());
        Some(Effect::Send { number, webhook, within: self.within })
    }
}
