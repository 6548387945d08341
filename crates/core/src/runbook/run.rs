//! Which step is a run at?

use super::{Blocker, Effect, Facts, Intent, Plan, Step};
use crate::id::{RegionId, RunId};
use crate::outage::Outage;
use crate::ownership::{Ownership, OwnershipChange, State};

/// What to do about a run now. `step` is an index into the plan's steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Do { step: usize, effect: Effect },
    Wait { step: usize, blocker: Blocker },
    Finished(Outcome),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    /// The target was lost before the grant, or the lost region came back before the fence: the
    /// old owner has its partitions, still or again.
    CalledOff {
        back_to: RegionId,
    },
    /// Another run took the partitions over.
    Overruled,
}

/// Returns what to do about `plan`, given what is true now.
///
/// `started` says whether the run ever had partitions in its hands: its journal knows.
pub fn next(plan: &Plan, started: bool, facts: &Facts) -> Next {
    if let Some(next) = call_off(plan, facts) {
        return next;
    }
    if let Some(outcome) = taken_away(plan, started, facts) {
        return Next::Finished(outcome);
    }
    for (i, step) in plan.steps.iter().enumerate().skip(first_open(plan, started, facts)) {
        if step.done(facts) {
            continue;
        }
        if let Some(blocker) = step.blocked(facts) {
            return Next::Wait { step: i, blocker };
        }
        return match step.effect(facts) {
            Some(effect) => Next::Do { step: i, effect },
            None => Next::Wait { step: i, blocker: Blocker::Settling },
        };
    }
    Next::Finished(Outcome::Succeeded)
}

/// Returns the region whose agent should perform the run: the target, which has the least to wait
/// for, or else the first region by name that holds a live lease.
///
/// Two agents may disagree for a moment. That is harmless: effects are compare-and-sets, and the
/// run's journal has one writer per revision.
pub fn executor(plan: &Plan, facts: &Facts) -> Option<RegionId> {
    let live = |region: &&RegionId| {
        facts.regions.get(*region).is_some_and(|seen| seen.reachable) && !facts.lease_over(region)
    };
    let target = plan.intent.to();
    live(&target).then_some(target).or_else(|| facts.regions.keys().find(live)).cloned()
}

/// Has a run ended, given what its journal says?
///
/// One that has partitions in its hands has not, whatever was noted: an executor may have called
/// it off while another was already changing the directory for it.
pub fn ended(run: &RunId, noted: Option<&Outcome>, ownership: &Ownership) -> bool {
    noted.is_some() && ownership.ranges_of(run).next().is_none()
}

/// A planned hand-over whose target is lost goes back to the old owners, at a new epoch.
fn call_off(plan: &Plan, facts: &Facts) -> Option<Next> {
    let Intent::Switchover { to, .. } = &plan.intent else { return None };
    if !facts.lease_over(to) {
        return None;
    }
    let mut in_hands = facts.ownership.ranges_of(&plan.run).peekable();
    in_hands.peek()?;
    let draining = in_hands.find_map(|entry| match &entry.state {
        State::HandingOver { by, barrier: None, .. } => Some(by.clone()),
        _ => None,
    });
    Some(match draining {
        Some(region) => Next::Wait { step: 0, blocker: Blocker::Draining { region } },
        None => {
            let back = OwnershipChange::HandBack { run: plan.run.clone() };
            Next::Do { step: 0, effect: Effect::Change(back) }
        }
    })
}

/// The first step that is still open, as far as the run's hands tell.
///
/// A run that had partitions and has none left has granted them. Asking its earlier steps again
/// would judge what happened since: a lost region that is back and owns something anew would be
/// waited for, or fenced again.
fn first_open(plan: &Plan, started: bool, facts: &Facts) -> usize {
    let in_hands = facts.ownership.ranges_of(&plan.run).next().is_some();
    let grant = plan.steps.iter().position(|step| matches!(step, Step::Grant(_)));
    match grant {
        Some(grant) if started && !in_hands => grant + 1,
        _ => 0,
    }
}

/// Nothing is in this run's hands, and the target does not have what the run was for.
fn taken_away(plan: &Plan, started: bool, facts: &Facts) -> Option<Outcome> {
    if facts.ownership.ranges_of(&plan.run).next().is_some() {
        return None;
    }
    match &plan.intent {
        Intent::Switchover { range, to } if started => {
            let entries = facts.ownership.entries().iter();
            let mut meant = entries.filter(|e| e.range.overlap(range).is_some());
            let lost = meant.find(|e| !matches!(&e.state, State::Owned { by } if by == to))?;
            Some(match (&lost.state, lost.closed.last()) {
                (State::Owned { by }, Some(last)) if last.by == *by => {
                    Outcome::CalledOff { back_to: by.clone() }
                }
                _ => Outcome::Overruled,
            })
        }
        Intent::Switchover { .. } => None,
        // Granted, and lost again: there is nothing left that a canary could be written to.
        Intent::Failover { to, .. } if started => {
            (!facts.ownership.owns_anything(to)).then_some(Outcome::Overruled)
        }
        Intent::Failover { from, attested, .. } => {
            let seen = facts.regions.get(from).and_then(|region| region.outage.as_ref());
            if !facts.ownership.owns_anything(from) {
                // Another run was faster.
                Some(Outcome::Overruled)
            } else if !attested && seen == Some(&Outage::None) {
                Some(Outcome::CalledOff { back_to: from.clone() })
            } else {
                None
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
