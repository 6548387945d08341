//! Which step is a run at?

use super::{Blocker, Effect, Facts, Intent, Plan};
use crate::id::RegionId;
use crate::ownership::{OwnershipChange, State};

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
    /// The target was lost before the grant: the old owner has its partitions back.
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
    if started && let Some(outcome) = taken_away(plan, facts) {
        return Next::Finished(outcome);
    }
    for (i, step) in plan.steps.iter().enumerate() {
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

/// A planned hand-over whose target is lost goes back to the old owner, at a new epoch.
fn call_off(plan: &Plan, facts: &Facts) -> Option<Next> {
    let Intent::Switchover { to, .. } = &plan.intent else { return None };
    if !facts.lease_over(to) {
        return None;
    }
    let open = facts.ownership.ranges_of(&plan.run).next()?;
    let State::HandingOver { by, barrier, .. } = &open.state else { return None };
    Some(match barrier {
        None => Next::Wait { step: 0, blocker: Blocker::Draining { region: by.clone() } },
        Some(_) => {
            let grant = OwnershipChange::Grant { run: plan.run.clone(), to: by.clone() };
            Next::Do { step: 0, effect: Effect::Change(grant) }
        }
    })
}

/// Nothing of a hand-over is left in this run's hands, and the target did not get it.
fn taken_away(plan: &Plan, facts: &Facts) -> Option<Outcome> {
    let Intent::Switchover { range, to } = &plan.intent else { return None };
    if facts.ownership.ranges_of(&plan.run).next().is_some() {
        return None;
    }
    let mut meant = facts.ownership.entries().iter().filter(|e| e.range.overlap(range).is_some());
    let lost = meant.find(|e| !matches!(&e.state, State::Owned { by } if by == to))?;
    Some(match (&lost.state, lost.closed.last()) {
        (State::Owned { by }, Some(last)) if last.by == *by => {
            Outcome::CalledOff { back_to: by.clone() }
        }
        _ => Outcome::Overruled,
    })
}

#[cfg(test)]
mod tests;
