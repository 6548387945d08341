//! Somebody is told by a webhook, and says whether the run may go on.
//!
//! As with a program, what came of it is remembered by the run; whoever goes on with a run whose executor
//! died sends it again, by the same token.

use super::{Blocker, Effect, Facts};
use crate::id::RunId;
use crate::runbook::Answer;
use crate::runbook::file::written;
use crate::time::Millis;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    pub run: RunId,
    /// Which step of the run it is, from 0.
    pub number: usize,
    /// As the configuration names it.
    pub webhook: String,
    /// After that it has failed, however often it was tried.
    pub within: Millis,
}

impl Webhook {
    pub fn explain(&self) -> String {
        let (webhook, within) = (&self.webhook, written(self.within));
        format!("call the webhook {webhook}, for {within} at most")
    }

    /// Once the run has partitions in its hands nobody writes there: it is not asked again.
    pub fn done(&self, facts: &Facts) -> bool {
        facts.answers.get(&self.number) == Some(&Answer::Passed) || facts.in_hands(&self.run)
    }

    pub fn blocked(&self, _: &Facts) -> Option<Blocker> {
        None
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        let (number, webhook) = (self.number, self.webhook.clone());
        Some(Effect::Send { number, webhook, within: self.within })
    }

    pub fn failed(&self, facts: &Facts) -> bool {
        facts.answers.get(&self.number) == Some(&Answer::Failed)
    }
}
