//! May a planned run be turned into a forced one, and what becomes of it then?
//!
//! A planned hand-over needs its source: when that is lost in the middle, nobody can write what is in the
//! run's hands until it is back, or until a person says that it is taken by force. The forced run is a run by
//! itself, named after the planned one: so it is begun once, whoever asks again. Its fence takes the partitions
//! out of the planned run's hands, in one change of the ownership; until then the planned run goes on, and is
//! done when its source is back in time. Whichever comes first, there is one owner.

use std::collections::BTreeSet;

use thiserror::Error;

use super::plan::check;
use super::step::Step;
use super::{Blocker, Effect, Facts, Intent, Mode, Next, Outcome, Plan, Recorded, Wish};
use super::{on_their_way, range_of_part};
use crate::id::{RegionId, RunId};
use crate::outage::Outage;
use crate::ownership::CameTo;

/// The forced run of a planned one, as far as it is known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Successor {
    #[default]
    NotBegun,
    UnderWay,
    Ended,
}

/// Why a run cannot be turned into a forced one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotEscalated {
    #[error("it is forced already")]
    Forced,
    #[error("it is a drill, of which nobody waits for the end: abort it")]
    Drill,
    #[error("it has taken nothing yet: abort it, and start a failover")]
    NothingTaken,
    #[error("the new owner is named already: start a failover of what the source still owns")]
    Granted,
    #[error(
        "it takes partitions from {0:?}, and which of them is gone is not clear: start a failover of that one"
    )]
    Unclear(Vec<RegionId>),
}

/// Returns the name of the run that takes by force what `run` was to be handed: always the same one.
pub fn forced_of(run: &RunId) -> RunId {
    RunId(format!("{run}/forced"))
}

/// Returns what a planned run becomes when a person wants it forced, or why it cannot be.
///
/// Whether that forced run may be started is another question: [`check`] answers it.
pub fn escalation(
    plan: &Plan,
    started: bool,
    attested: bool,
    facts: &Facts,
) -> Result<Intent, NotEscalated> {
    let sources = sources(plan, started, facts)?;
    let silent = sources.iter().filter(|region| is_silent(region, facts)).cloned();
    let silent: Vec<RegionId> = silent.collect();
    let (([from], _) | (_, [from])) = (sources.as_slice(), silent.as_slice()) else {
        return Err(NotEscalated::Unclear(sources));
    };
    let (from, to) = (from.clone(), plan.intent.to().clone());
    Ok(Intent::Failover { from, to, attested })
}

/// Who hands over to this run, or why that is no question: at least one.
fn sources(plan: &Plan, started: bool, facts: &Facts) -> Result<Vec<RegionId>, NotEscalated> {
    match plan.intent.mode() {
        Mode::Planned => {}
        Mode::Forced => return Err(NotEscalated::Forced),
        Mode::Drill => return Err(NotEscalated::Drill),
    }
    let ownership = &facts.ownership;
    let (sources, began) = match &plan.intent {
        Intent::Evacuation { from, .. } => {
            let mut turns = ownership.turns().iter();
            let began = turns.any(|turn| range_of_part(&plan.run, &turn.run).is_some());
            let sources = (began && ownership.owns_anything(from)).then(|| from.clone());
            (sources.into_iter().collect(), began)
        }
        _ => {
            let in_hands = ownership.ranges_of(&plan.run);
            let sources = in_hands.filter_map(|entry| entry.state.handing_over());
            let sources: BTreeSet<RegionId> = sources.collect();
            (sources, started || ownership.had_its_turn(&plan.run))
        }
    };
    match (sources.is_empty(), began) {
        (false, _) => Ok(sources.into_iter().collect()),
        (true, true) => Err(NotEscalated::Granted),
        (true, false) => Err(NotEscalated::NothingTaken),
    }
}

fn is_silent(region: &RegionId, facts: &Facts) -> bool {
    let Some(seen) = facts.regions.get(region) else { return true };
    let confirmed = matches!(seen.outage, Some(Outage::Confirmed { .. }));
    !seen.reachable || confirmed || facts.lease_over(region)
}

/// What is next in a planned run that a person wants forced; nothing while it goes on as planned.
pub(super) fn escalated(plan: &Plan, recorded: &Recorded, facts: &Facts) -> Option<Next> {
    let Some(Wish::Escalate { from, attested, .. }) = &recorded.wish else { return None };
    let takes = |step: &Step| matches!(step, Step::HandOver(_) | Step::ForEach(_));
    let step = plan.steps.iter().position(takes)?;
    let forced = forced_of(&plan.run);
    let (in_hands, turn) = (facts.in_hands(&plan.run), facts.ownership.turn(&plan.run));
    if facts.ownership.had_its_turn(&forced) && !in_hands && turn != Some(CameTo::Granted) {
        if facts.successor != Successor::Ended {
            return Some(Next::Wait { step, blocker: Blocker::Escalated { run: forced } });
        }
        return Some(match on_their_way(&plan.run, facts) {
            0 => Next::Finished(Outcome::Escalated),
            runs => Next::Wait { step, blocker: Blocker::OnTheirWay { runs, from: from.clone() } },
        });
    }
    let sources = sources(plan, recorded.started, facts).ok()?;
    if facts.successor != Successor::NotBegun || !sources.contains(from) {
        return None;
    }
    let (from, to) = (from.clone(), plan.intent.to().clone());
    let intent = Intent::Failover { from, to, attested: *attested };
    // What is against it may pass; and the source may be back before that, and hand over.
    check(Plan::ready(&forced, &intent), facts).ok()?;
    Some(Next::Do { step, effect: Effect::Begin { run: forced, intent } })
}

#[cfg(test)]
mod tests;
