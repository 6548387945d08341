//! People say that the run may go on, before it takes anything from anybody.

use std::collections::BTreeSet;

use super::{Blocker, Effect, Facts};
use crate::id::RunId;
use crate::runbook::Approval;
use crate::runbook::file::written;
use crate::time::Millis;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approve {
    pub run: RunId,
    pub role: String,
    /// So many different people.
    pub count: u32,
    /// After that nobody waits any more, and nothing is done.
    pub within: Millis,
}

impl Approve {
    pub fn explain(&self) -> String {
        let people = if self.count == 1 { "person" } else { "people" };
        let (Self { role, count, .. }, within) = (self, written(self.within));
        format!("wait for {count} {people} of role {role} to approve, for {within} at most")
    }

    pub fn done(&self, facts: &Facts) -> bool {
        self.missing(&facts.approvals) == 0
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        Some(Blocker::Unapproved {
            role: self.role.clone(),
            missing: self.missing(&facts.approvals),
        })
    }

    pub fn effect(&self, _: &Facts) -> Option<Effect> {
        None
    }

    /// Has nobody come in time?
    pub fn expired(&self, facts: &Facts) -> bool {
        !self.done(facts) && facts.run_known_for >= self.within
    }

    /// How many have not approved yet.
    pub fn missing(&self, approvals: &[Approval]) -> usize {
        let in_role = approvals.iter().filter(|approval| approval.role == self.role);
        let people: BTreeSet<&str> = in_role.map(|approval| approval.by.as_str()).collect();
        (self.count as usize).saturating_sub(people.len())
    }
}
