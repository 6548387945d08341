//! Which step is a run at?

use thiserror::Error;

use super::escalation::escalated;
use super::failover::successor;
use super::step::{CatchUp, ForEach};
use super::{Approval, Blocker, Effect, Facts, Intent, Plan, Recorded, Step, Wish};
use crate::id::{PartitionId, RegionId, RunId};
use crate::outage::Outage;
use crate::ownership::{CameTo, Ownership, OwnershipChange, State};

/// What to do about a run now. `step` is an index into the plan's steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Do { step: usize, effect: Effect },
    Wait { step: usize, blocker: Blocker },
    Finished(Outcome),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Succeeded,
    /// The target was lost before the grant, or the lost region came back before the fence: the
    /// old owner has its partitions, still or again.
    CalledOff {
        back_to: RegionId,
    },
    /// Another run took the partitions over, or the target was lost and another region took its place.
    Overruled,
    /// A person wanted it to end: what it had in its hands has its old owners.
    Aborted,
    /// Nobody has approved it in time, and nothing has moved.
    Unapproved,
    /// Its source was lost, and a forced run has taken what it was to hand over.
    Escalated,
    /// A step that acts outside has failed: before anything was taken, or once it was granted.
    Failed,
}

/// Why a run cannot be aborted any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TooLate {
    #[error(
        "the fence stands: what region \"{0}\" has written ends where the others say, and nobody may write \
         before that is known; let the run end, then hand the partitions back by another"
    )]
    Fenced(RegionId),
    #[error("the new owner is named already: hand the partitions back by another run")]
    Granted,
}

/// Returns what to do about `plan`, given what is true now and what its journal says.
///
/// The journal says whether the run ever had partitions in its hands, and the ownership knows it too:
/// whichever is older here is not believed. An ownership that is newer and does not know it was written
/// by an older Domicile, or has seen too many runs since.
///
/// A wish never leaves a partition without an owner: what is in the run's hands is handed back, or
/// brought to its end, first.
pub fn next(plan: &Plan, recorded: &Recorded, facts: &Facts) -> Next {
    let had_its_turn = facts.ownership.had_its_turn(&plan.run);
    let outdated = facts.ownership_revision < recorded.started_revision;
    if recorded.started && !had_its_turn && outdated {
        return Next::Wait { step: 0, blocker: Blocker::Settling };
    }
    let recorded = &Recorded { started: recorded.started || had_its_turn, ..recorded.clone() };
    if let Some(next) = escalated(plan, recorded, facts) {
        return next;
    }
    if let Some(next) = call_off(plan, recorded, facts).or_else(|| give_up(plan, recorded, facts)) {
        return next;
    }
    if let Some(next) = replace_target(plan, facts) {
        return next;
    }
    if let Some(outcome) = taken_away(plan, recorded, facts) {
        return Next::Finished(outcome);
    }
    let in_hands = has_in_hands(plan, facts);
    let mut open = plan.steps.iter().enumerate().skip(first_open(plan, recorded, facts));
    let Some((i, step)) = open.find(|(_, step)| !step.done(facts)) else {
        return Next::Finished(Outcome::Succeeded);
    };
    if let Step::ForEach(each) = step
        && let Some(outcome) = no_further(each, recorded, facts)
    {
        return match each.on_their_way(facts) {
            0 => Next::Finished(outcome),
            runs => {
                let blocker = Blocker::OnTheirWay { runs, from: each.from.clone() };
                Next::Wait { step: i, blocker }
            }
        };
    }
    if let Step::GiveBack(back) = step
        && let Some(outcome) = back.failed(facts)
    {
        return Next::Finished(outcome);
    }
    if step.failed(facts) {
        return Next::Finished(Outcome::Failed);
    }
    if let (Some(Wish::Pause { by }), false) = (&recorded.wish, in_hands) {
        return Next::Wait { step: i, blocker: Blocker::Paused { by: by.clone() } };
    }
    if let Some(blocker) = step.blocked(facts) {
        return Next::Wait { step: i, blocker };
    }
    match step.effect(facts) {
        Some(effect) => Next::Do { step: i, effect },
        None => Next::Wait { step: i, blocker: Blocker::Settling },
    }
}

/// Returns why a run that goes on would not heed the wish to abort it.
pub fn too_late_to_abort(plan: &Plan, started: bool, ownership: &Ownership) -> Option<TooLate> {
    let in_hands = ownership.ranges_of(&plan.run).next().is_some();
    match &plan.intent {
        Intent::Failover { from, .. } if in_hands => Some(TooLate::Fenced(from.clone())),
        Intent::Evacuation { .. } | Intent::Addition { .. } => None,
        _ => (started && !in_hands).then_some(TooLate::Granted),
    }
}

/// Does the run wait for people to approve it? Then nobody knows whether it will ever do anything.
pub fn waits_for_people(plan: &Plan, started: bool, approvals: &[Approval]) -> bool {
    let unapproved = |step: &Step| match step {
        Step::Approve(approve) => approve.missing(approvals) > 0,
        _ => false,
    };
    !started && plan.steps.iter().any(unapproved)
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

/// A planned hand-over whose target is lost, or that is aborted, goes back to the old owners, at a
/// new epoch; so does the canary from a forced drill.
fn call_off(plan: &Plan, recorded: &Recorded, facts: &Facts) -> Option<Next> {
    if !facts.lease_over(plan.intent.to()) && !recorded.is_to_abort() {
        return None;
    }
    match &plan.intent {
        Intent::Switchover { .. } => hand_back(plan, facts),
        Intent::ForcedDrill { from, .. } => return_canary(plan, from, facts),
        _ => None,
    }
}

/// Once it is known where the old owner's history ends it may go on from there.
fn return_canary(plan: &Plan, from: &RegionId, facts: &Facts) -> Option<Next> {
    let step = plan.steps.iter().position(|step| matches!(step, Step::Grant(_)))?;
    facts.ownership.ranges_of(&plan.run).next()?.state.cut()?;
    let back = OwnershipChange::Grant { run: plan.run.clone(), to: from.clone() };
    Some(Next::Do { step, effect: Effect::Change(back) })
}

/// Whoever is lost takes over nothing, and whoever cannot apply the rest of the history may never do so. Once it
/// is known where that ends, what was meant for it goes to the survivor that has least to do, for nobody can
/// write meanwhile.
fn replace_target(plan: &Plan, facts: &Facts) -> Option<Next> {
    let Intent::Failover { from, to, .. } = &plan.intent else { return None };
    let catch_up = |to: &RegionId| CatchUp { run: plan.run.clone(), to: to.clone() };
    let is_lost = !is_member(to, facts) || facts.lease_over(to);
    if !is_lost && (!facts.cannot_apply(to) || catch_up(to).done(facts)) {
        return None;
    }
    let mut in_hands = facts.ownership.ranges_of(&plan.run).peekable();
    in_hands.peek()?;
    if in_hands.any(|entry| entry.state.cut().is_none()) {
        return None;
    }
    let place = |meant: fn(&Step) -> bool| plan.steps.iter().position(meant);
    let to = successor(from, facts).filter(|other| is_lost || !facts.cannot_apply(other))?;
    if let Some(blocker) = catch_up(&to).blocked(facts) {
        let step = place(|step| matches!(step, Step::CatchUp(_)))?;
        return Some(Next::Wait { step, blocker });
    }
    let step = place(|step| matches!(step, Step::Grant(_)))?;
    let grant = OwnershipChange::Grant { run: plan.run.clone(), to };
    Some(Next::Do { step, effect: Effect::Change(grant) })
}

fn is_member(region: &RegionId, facts: &Facts) -> bool {
    facts.ownership.members().contains(region)
}

/// Do enough others agree that the region is gone?
fn is_lost(region: &RegionId, facts: &Facts) -> bool {
    let seen = facts.regions.get(region).and_then(|seen| seen.outage.as_ref());
    matches!(seen, Some(Outage::Confirmed { .. }))
}

fn hand_back(plan: &Plan, facts: &Facts) -> Option<Next> {
    let step = plan.steps.iter().position(|step| matches!(step, Step::HandOver(_)))?;
    let mut in_hands = facts.ownership.ranges_of(&plan.run).peekable();
    in_hands.peek()?;
    let draining = in_hands.find_map(|entry| match &entry.state {
        State::HandingOver { by, barrier: None, .. } => Some(by.clone()),
        _ => None,
    });
    Some(match draining {
        Some(region) => Next::Wait { step, blocker: Blocker::Draining { region } },
        None => {
            let back = OwnershipChange::HandBack { run: plan.run.clone() };
            Next::Do { step, effect: Effect::Change(back) }
        }
    })
}

/// A region that is to be added, and not any more, is asked for nothing any more.
fn give_up(plan: &Plan, recorded: &Recorded, facts: &Facts) -> Option<Next> {
    if !recorded.is_to_abort() {
        return None;
    }
    let mut steps = plan.steps.iter().enumerate();
    steps.find_map(|(step, asks)| match asks {
        Step::Seed(seed) => seed.undo(facts).map(|effect| Next::Do { step, effect }),
        _ => None,
    })
}

/// The first step that is still open, as far as the run's hands tell.
///
/// A run that had partitions and has none left has granted them. Asking its earlier steps again
/// would judge what happened since: a lost region that is back and owns something anew would be
/// waited for, or fenced again.
fn first_open(plan: &Plan, recorded: &Recorded, facts: &Facts) -> usize {
    let grant = plan.steps.iter().position(|step| matches!(step, Step::Grant(_)));
    match grant {
        Some(grant) if recorded.started && !has_in_hands(plan, facts) => grant + 1,
        _ => 0,
    }
}

/// Nothing is in this run's hands, and the target does not have what the run was for; or nothing
/// was ever, and nothing shall be.
fn taken_away(plan: &Plan, recorded: &Recorded, facts: &Facts) -> Option<Outcome> {
    if has_in_hands(plan, facts) {
        return None;
    }
    let outcome = if recorded.started || !facts.parts.is_empty() {
        lost_again(plan, facts)
    } else {
        settled_otherwise(plan, facts).or_else(|| not_to_begin(plan, recorded, facts))
    };
    match outcome {
        Some(Outcome::CalledOff { .. }) if recorded.is_to_abort() => Some(Outcome::Aborted),
        outcome => outcome,
    }
}

/// A run that had partitions has given them to somebody; not to its target, or not for long.
///
/// Whoever takes them from the target afterwards does not undo a hand-over: it was done.
fn lost_again(plan: &Plan, facts: &Facts) -> Option<Outcome> {
    match &plan.intent {
        Intent::Switchover { .. } if facts.ownership.turn(&plan.run) == Some(CameTo::Granted) => {
            None
        }
        Intent::Switchover { range, to } => {
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
        Intent::ForcedDrill { from, .. } => {
            let canary = facts.ownership.entry(PartitionId::CANARY)?;
            let returned = canary.owner() == Some(from)
                && canary.closed.last().is_some_and(|last| last.by == *from);
            returned.then(|| Outcome::CalledOff { back_to: from.clone() })
        }
        // Granted, to another or lost again: there is nothing that a canary could be written to.
        Intent::Failover { from, to, .. } => {
            let took = facts.ownership.entries().iter().any(|entry| {
                entry.owner() == Some(to) && entry.closed.last().is_some_and(|c| c.by == *from)
            });
            (!took).then_some(Outcome::Overruled)
        }
        Intent::Evacuation { .. } | Intent::Addition { .. } => None,
    }
}

/// How a run of many parts ends that begins no other part. What has moved stays where it is.
fn no_further(each: &ForEach, recorded: &Recorded, facts: &Facts) -> Option<Outcome> {
    let undone = || each.came_back(facts).then_some(Outcome::Overruled);
    let aborted = recorded.is_to_abort().then_some(Outcome::Aborted);
    aborted.or_else(|| each.failed(facts)).or_else(undone)
}

/// What has fenced nothing, and need not any more.
fn settled_otherwise(plan: &Plan, facts: &Facts) -> Option<Outcome> {
    if let Intent::ForcedDrill { from, .. } = &plan.intent {
        let canary = facts.ownership.entry(PartitionId::CANARY)?;
        return (canary.owner() != Some(from)).then_some(Outcome::Overruled);
    }
    if let Intent::Failover { to, .. } | Intent::Switchover { to, .. } = &plan.intent
        && !is_member(to, facts)
    {
        return Some(Outcome::Overruled);
    }
    if let Intent::Switchover { range, to } = &plan.intent
        && is_lost(to, facts)
        && !plan.steps.iter().any(|step| matches!(step, Step::Check(_)))
    {
        // Nobody wants it by surprise, whenever the target is back.
        let owner = facts.ownership.entry(PartitionId(range.first))?.owner()?;
        return Some(Outcome::CalledOff { back_to: owner.clone() });
    }
    let Intent::Failover { from, attested, .. } = &plan.intent else { return None };
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

/// People have a say before anything is taken from anybody.
fn not_to_begin(plan: &Plan, recorded: &Recorded, facts: &Facts) -> Option<Outcome> {
    let mut approvals = plan.steps.iter().filter_map(|step| match step {
        Step::Approve(approve) => Some(approve),
        _ => None,
    });
    let asks = approvals.clone().next().is_some();
    if recorded.is_to_abort() {
        Some(Outcome::Aborted)
    } else if asks && recorded.has_changed() {
        // While it waited, what it was approved for has become something else.
        Some(Outcome::Overruled)
    } else {
        approvals.any(|approve| approve.expired(facts)).then_some(Outcome::Unapproved)
    }
}

fn has_in_hands(plan: &Plan, facts: &Facts) -> bool {
    facts.in_hands(&plan.run)
}

impl Recorded {
    fn is_to_abort(&self) -> bool {
        matches!(self.wish, Some(Wish::Abort { .. }))
    }

    /// Would it do something else than what was approved? Asked of a run that has not started: what
    /// one that has changes itself would count, too.
    fn has_changed(&self) -> bool {
        self.planned.as_ref().is_some_and(|planned| *planned != self.would_do)
    }
}

#[cfg(test)]
pub(super) mod tests;
