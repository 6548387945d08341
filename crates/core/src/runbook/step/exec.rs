//! A program of the operator runs, and says whether the run may go on.
//!
//! What it has done shows nowhere in the facts: that it ended is remembered by the run. So whoever goes on
//! with a run whose executor died runs it again; its token says that it is the same call.

use super::{Blocker, Effect, Facts};
use crate::id::RunId;
use crate::runbook::Answer;
use crate::runbook::file::written;
use crate::time::Millis;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    pub run: RunId,
    /// Which step of the run it is, from 0.
    pub number: usize,
    pub program: String,
    /// After that it is killed, and has failed.
    pub within: Millis,
    /// The run goes on when it fails.
    pub may_fail: bool,
}

impl Exec {
    pub fn explain(&self) -> String {
        let (program, within) = (&self.program, written(self.within));
        let failed = if self.may_fail { ", and go on also when it fails" } else { "" };
        format!("run the program {program}, for {within} at most{failed}")
    }

    /// Once the run has partitions in its hands nobody writes there: it is not asked again.
    pub fn done(&self, facts: &Facts) -> bool {
        let answer = facts.answers.get(&self.number);
        answer.is_some_and(|answer| self.may_fail || *answer == Answer::Passed)
            || facts.in_hands(&self.run)
    }

    pub fn blocked(&self, _: &Facts) -> Option<Blocker> {
        None
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        let (number, program) = (self.number, self.program.clone());
        Some(Effect::Exec { number, program, within: self.within })
    }

    pub fn failed(&self, facts: &Facts) -> bool {
        !self.may_fail && facts.answers.get(&self.number) == Some(&Answer::Failed)
    }
}
