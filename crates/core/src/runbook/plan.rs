//! May this be started, and what will it cost?

use std::collections::BTreeSet;
use std::fmt::Write;

use super::failover::successor;
use super::file::Call;
use super::safety::{Undertaking, Violation};
use super::{Blocker, Facts, Intent, Objectives, RegionFacts, Step};
use crate::id::{Epoch, PartitionId, PartitionRange, RegionId, RunId};
use crate::membership::{Obstacle, addable};
use crate::opening::UNSETTLED;
use crate::outage::Outage;
use crate::ownership::{Ownership, OwnershipChange, OwnershipRefusal, State};
use crate::progress::Exposure;
use crate::publication::PASSED_OVER;
use crate::time::Millis;

/// The most that the target of a planned hand-over may be behind the owner: nobody writes until it
/// has caught up.
pub const STALENESS_MAX: Millis = Millis(5000);

/// An intent bound to facts: what was approved is what runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub run: RunId,
    pub intent: Intent,
    pub steps: Vec<Step>,
    /// They decide nothing, so they are no part of what is approved.
    pub objectives: Objectives,
    pub estimate: Estimate,
}

impl Plan {
    pub(super) fn new(
        run: &RunId,
        intent: Intent,
        steps: Vec<Step>,
        objectives: Objectives,
    ) -> Self {
        Self { run: run.clone(), intent, steps, objectives, estimate: Estimate::default() }
    }

    /// Returns what the ready-made runbook for an intent does.
    pub fn ready(run: &RunId, intent: &Intent) -> Self {
        let plan = Call::ready(intent).plan(run);
        plan.expect("a ready-made runbook is sound, and takes what its intent tells")
    }

    /// Does it start runs of its own?
    pub fn begins_others(&self) -> bool {
        let begins = |step: &Step| matches!(step, Step::ForEach(_) | Step::GiveBack(_));
        self.steps.iter().any(begins)
    }

    /// Returns what would change its owner, as things stand.
    pub fn moves(&self, ownership: &Ownership) -> Vec<Move> {
        let moves = ownership.entries().iter().filter_map(|entry| {
            let from = match &entry.state {
                State::Owned { by } | State::HandingOver { by, .. } => by.clone(),
                State::Fenced { .. } => return None,
            };
            let range = match &self.intent {
                Intent::Failover { from: lost, .. } => (from == *lost).then_some(entry.range),
                Intent::Evacuation { from: left, .. } => (from == *left).then_some(entry.range),
                Intent::Switchover { range, to } => {
                    entry.range.overlap(range).filter(|_| from != *to)
                }
                Intent::ForcedDrill { from: owner, .. } => {
                    (entry.is_canary() && from == *owner).then_some(entry.range)
                }
                Intent::Addition { .. } => None,
            }?;
            Some(Move { range, epoch: entry.epoch, from, to: self.intent.to().clone() })
        });
        moves.collect()
    }

    /// Returns what is decided, in words: while this stays the same, the run does what was planned.
    pub fn decided(&self, ownership: &Ownership) -> String {
        let mut text = format!("{}\n", self.intent);
        for step in &self.steps {
            let _ = writeln!(text, "{}: {}", step.name(), step.explain());
        }
        for Move { range, epoch, from, to } in self.moves(ownership) {
            let _ = writeln!(text, "partition {range}: epoch {epoch}, from {from} to {to}");
        }
        text
    }
}

/// Partitions that would change their owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub range: PartitionRange,
    /// The present one.
    pub epoch: Epoch,
    pub from: RegionId,
    pub to: RegionId,
}

/// What the plan is expected to cost, from the facts it was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Acknowledged work that may be lost: what no survivor holds.
    pub loss: Exposure,
    /// How long until the old owner has certainly stopped, where that must be waited for.
    pub lease_wait: Millis,
    /// For how long nobody can write already: the region that is lost has been silent since.
    pub silent_for: Millis,
}

impl Estimate {
    /// For how long nobody will have been able to write, given how long that was `before`, in the middle of
    /// earlier runs; `None` where nothing is known.
    pub fn pause(&self, before: Option<Millis>) -> Option<Millis> {
        let at_least = self.silent_for + self.lease_wait;
        before.max((at_least > Millis(0)).then_some(at_least))
    }
}

/// Returns the plan of the ready-made runbook for `intent`, or every reason why it must not be started.
pub fn plan(run: &RunId, intent: &Intent, facts: &Facts) -> Result<Plan, Vec<Refusal>> {
    check(Plan::ready(run, intent), facts)
}

/// Returns the plan with what it is expected to cost, or every reason why it must not be started.
pub fn check(plan: Plan, facts: &Facts) -> Result<Plan, Vec<Refusal>> {
    let intent = &plan.intent;
    let mut reasons = Vec::new();
    match intent {
        Intent::Addition { region } => reasons.extend(against_addition(region, facts)),
        _ => reasons.extend(against_target(intent.to(), intent, facts)),
    }
    match intent {
        Intent::Failover { from, to, attested } => {
            check_failover(from, to, *attested, facts, &mut reasons);
        }
        Intent::Switchover { range, to } => {
            check_switchover(*range, to, facts, &mut reasons);
            reasons.extend(scattered(*range, to, &plan.run, &facts.ownership));
        }
        Intent::Evacuation { from, to } => check_evacuation(from, to, facts, &mut reasons),
        Intent::ForcedDrill { from, to } => check_forced_drill(from, to, facts, &mut reasons),
        Intent::Addition { .. } => {}
    }
    if plan.steps.iter().any(|step| matches!(step, Step::GiveBack(_))) {
        // Where it comes from is where it goes back to.
        let moves = plan.moves(&facts.ownership);
        let owners: BTreeSet<&RegionId> = moves.iter().map(|each| &each.from).collect();
        let against = owners.into_iter().filter_map(|owner| against_target(owner, intent, facts));
        // That an owner is silent is told already.
        reasons.extend(against.filter(|why| !matches!(why, Refusal::NoLease(_))));
    }
    let against = facts.against_safety(&Undertaking::of_plan(&plan, facts));
    reasons.extend(against.into_iter().map(Refusal::Safety));
    if !reasons.is_empty() {
        return Err(each_once(reasons));
    }
    Ok(Plan { estimate: estimate(intent, facts), ..plan })
}

/// What holds for many partitions is told once.
fn each_once(reasons: Vec<Refusal>) -> Vec<Refusal> {
    let mut told = Vec::new();
    for reason in reasons {
        if !told.contains(&reason) {
            told.push(reason);
        }
    }
    told
}

/// What is against a region that is to become a member.
fn against_addition(region: &RegionId, facts: &Facts) -> Vec<Refusal> {
    if !facts.regions.contains_key(region) {
        return vec![Refusal::NoSuchRegion(region.clone())];
    }
    if facts.ownership.members().contains(region) {
        return vec![Refusal::IsMember(region.clone())];
    }
    let obstacles = addable(region, None, facts).err().unwrap_or_default();
    obstacles.into_iter().map(|obstacle| Refusal::NotAddable { obstacle }).collect()
}

/// What is against a region that is to take partitions over.
fn against_target(to: &RegionId, intent: &Intent, facts: &Facts) -> Option<Refusal> {
    match facts.regions.get(to) {
        None => Some(Refusal::NoSuchRegion(to.clone())),
        Some(_) if !facts.ownership.members().contains(to) => Some(Refusal::NotMember(to.clone())),
        Some(seen) if !seen.reachable => Some(Refusal::Unreachable(to.clone())),
        Some(seen) if seen.cannot_write => Some(Refusal::CannotWrite(to.clone())),
        Some(_) if facts.lease_over(to) => Some(Refusal::NoLease(to.clone())),
        Some(seen) if seen.left_behind => Some(Refusal::LeftBehind(to.clone())),
        Some(seen) if seen.cannot_apply && !is_without_better(intent, facts) => {
            Some(Refusal::CannotApply(to.clone()))
        }
        Some(seen) if !seen.is_settled() => unsettled(to, intent, seen, facts),
        Some(_) => None,
    }
}

/// Is this a failover that nobody could make who can apply all of the history?
fn is_without_better(intent: &Intent, facts: &Facts) -> bool {
    let Intent::Failover { from, .. } = intent else { return false };
    successor(from, facts).is_none_or(|other| facts.cannot_apply(&other))
}

/// What is against a target whose rows are not all history: its guard would keep closed what it is
/// given, which is worse than to wait. Not in a failover that nobody else can make.
fn unsettled(to: &RegionId, intent: &Intent, seen: &RegionFacts, facts: &Facts) -> Option<Refusal> {
    if let Intent::Failover { from, .. } = intent {
        let other = successor(from, facts)?;
        facts.regions.get(&other).filter(|other| other.is_settled())?;
    }
    let to = to.clone();
    Some(match seen.repairs_pending {
        0 => Refusal::Unsettled(to),
        rows => Refusal::Unrepaired { to, rows },
    })
}

/// Returns every reason why a failover must not be started now.
pub(super) fn against_failover(intent: &Intent, facts: &Facts) -> Vec<Refusal> {
    let mut reasons: Vec<Refusal> =
        against_target(intent.to(), intent, facts).into_iter().collect();
    if let Intent::Failover { from, to, attested } = intent {
        check_failover(from, to, *attested, facts, &mut reasons);
    }
    reasons
}

fn check_failover(
    from: &RegionId,
    to: &RegionId,
    attested: bool,
    facts: &Facts,
    reasons: &mut Vec<Refusal>,
) {
    if from == to {
        reasons.push(Refusal::SameRegion(to.clone()));
    }
    match facts.regions.get(from) {
        None => reasons.push(Refusal::NoSuchRegion(from.clone())),
        Some(seen) => {
            let confirmed = matches!(seen.outage, Some(Outage::Confirmed { .. }));
            if !confirmed && !attested {
                let (region, outage) = (from.clone(), seen.outage.clone());
                reasons.push(Refusal::Blocked(Blocker::Unconfirmed { region, outage }));
            }
        }
    }
    if !facts.ownership.owns_anything(from) {
        reasons.push(Refusal::OwnsNothing(from.clone()));
    }
}

/// Whether what comes back could be given back is asked of every runbook that does so.
fn check_forced_drill(from: &RegionId, to: &RegionId, facts: &Facts, reasons: &mut Vec<Refusal>) {
    if from == to {
        return reasons.push(Refusal::SameRegion(to.clone()));
    }
    match facts.ownership.entry(PartitionId::CANARY) {
        None => reasons.push(Refusal::NoSuchPartition(PartitionRange::CANARY)),
        Some(canary) if canary.owner() != Some(from) => {
            reasons.push(Refusal::NotCanarys(from.clone()));
        }
        Some(_) if facts.lease_over(from) => reasons.push(Refusal::NoLease(from.clone())),
        Some(_) => {}
    }
}

fn check_evacuation(from: &RegionId, to: &RegionId, facts: &Facts, reasons: &mut Vec<Refusal>) {
    if from == to {
        return reasons.push(Refusal::SameRegion(to.clone()));
    }
    if !facts.regions.contains_key(from) {
        return reasons.push(Refusal::NoSuchRegion(from.clone()));
    }
    let entries = facts.ownership.entries().iter();
    let mut owned = entries.filter(|e| matches!(&e.state, State::Owned { by } if by == from));
    // What is against one of them is against the others, too.
    match owned.next() {
        Some(entry) => check_switchover(entry.range, to, facts, reasons),
        None => reasons.push(Refusal::OwnsNothing(from.clone())),
    }
}

fn check_switchover(
    range: PartitionRange,
    to: &RegionId,
    facts: &Facts,
    reasons: &mut Vec<Refusal>,
) {
    if !facts.ownership.covers(range) {
        reasons.push(Refusal::NoSuchPartition(range));
    }
    for entry in facts.ownership.entries() {
        if entry.range.overlap(&range).is_none() {
            continue;
        }
        match entry.owner() {
            None => reasons.push(Refusal::NoOwner(entry.range)),
            Some(owner) if owner == to => {
                reasons.push(Refusal::AlreadyOwner { range: entry.range, to: to.clone() });
            }
            Some(owner) if facts.lease_over(owner) => {
                reasons.push(Refusal::OwnerSilent(owner.clone()));
            }
            Some(owner) if facts.regions.get(owner).is_some_and(|seen| seen.passed_over) => {
                reasons.push(Refusal::PassedOver(owner.clone()));
            }
            Some(owner) => {
                let staleness = facts.regions.get(owner).and_then(|seen| seen.staleness.get(to));
                let staleness = staleness.copied().unwrap_or_default();
                if staleness > STALENESS_MAX {
                    let (to, owner) = (to.clone(), owner.clone());
                    reasons.push(Refusal::TooFarBehind { to, owner, staleness });
                }
            }
        }
    }
}

/// Why the directory has no room for what a hand-over would leave.
pub(super) fn scattered(
    range: PartitionRange,
    to: &RegionId,
    run: &RunId,
    ownership: &Ownership,
) -> Option<Refusal> {
    let change = OwnershipChange::HandOver { range, to: to.clone(), run: run.clone() };
    let refused = ownership.apply(&change).err()?;
    matches!(refused, OwnershipRefusal::TooScattered { .. }).then_some(Refusal::Scattered(refused))
}

fn estimate(intent: &Intent, facts: &Facts) -> Estimate {
    match intent {
        Intent::Switchover { .. }
        | Intent::Evacuation { .. }
        | Intent::Addition { .. }
        | Intent::ForcedDrill { .. } => Estimate::default(),
        Intent::Failover { from, .. } => {
            let (seen, rpo) = (facts.regions.get(from), facts.rpo_of(from));
            let over_at = seen.and_then(|s| s.lease_over_at).filter(|_| rpo.runs_ahead());
            Estimate {
                loss: expected_loss(from, facts),
                lease_wait: over_at.map_or(Millis(0), |t| t.since(facts.now)),
                silent_for: seen.map_or(Millis(0), |seen| seen.silent_for),
            }
        }
    }
}

/// What `from` has acknowledged and no survivor holds, as far as is known.
pub(super) fn expected_loss(from: &RegionId, facts: &Facts) -> Exposure {
    let exposure = facts.regions.get(from).map(|seen| seen.exposure);
    exposure.unwrap_or_default().within(facts.rpo_of(from))
}

/// Why a plan must not be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no region \"{0}\"")]
    NoSuchRegion(RegionId),
    #[error("region \"{0}\" is not a member of the cluster yet (domicile region add)")]
    NotMember(RegionId),
    #[error("region \"{0}\" is a member of the cluster already")]
    IsMember(RegionId),
    #[error("{obstacle} ({})", .obstacle.way_out())]
    NotAddable { obstacle: Obstacle },
    #[error("the agent of region \"{0}\" does not answer")]
    Unreachable(RegionId),
    #[error("region \"{0}\" holds no live lease, so it could not write what it is given")]
    NoLease(RegionId),
    #[error(
        "region \"{0}\" could not write what it is given: it holds no lease, or captures nothing. domicile \
         status names the state (docs/operating/recover.md)"
    )]
    CannotWrite(RegionId),
    #[error(
        "region \"{0}\" cannot apply what others have written: domicile status names the state \
         (docs/operating/recover.md)"
    )]
    CannotApply(RegionId),
    #[error("region \"{0}\" lacks records that are gone, it has to be seeded again first")]
    LeftBehind(RegionId),
    #[error(
        "what region \"{0}\" wrote before others took over is not all looked at, and rows there may show \
         what is not history: wait until domicile status does not say {UNSETTLED}"
    )]
    Unsettled(RegionId),
    #[error(
        "{rows} rows of region \"{to}\" are not history and wait for repair, and what they stand in would \
         stay closed: wait until domicile status shows none to repair; where it says repair_fails, do \
         what that asks for"
    )]
    Unrepaired { to: RegionId, rows: u64 },
    #[error("region \"{0}\" cannot take over from itself")]
    SameRegion(RegionId),
    #[error("region \"{0}\" owns nothing that could be taken over")]
    OwnsNothing(RegionId),
    #[error(
        "region \"{0}\" does not own the canary partition (domicile partition list says who does)"
    )]
    NotCanarys(RegionId),
    #[error("there is no partition {0}")]
    NoSuchPartition(PartitionRange),
    #[error("partition {0} has no owner now: another run has it in its hands")]
    NoOwner(PartitionRange),
    #[error("partition {range} already belongs to region \"{to}\"")]
    AlreadyOwner { range: PartitionRange, to: RegionId },
    #[error("the owner, region \"{0}\", is silent: a planned hand-over needs it; use failover")]
    OwnerSilent(RegionId),
    #[error(
        "region \"{to}\" is {staleness} behind region \"{owner}\", and nobody could write until it has \
         caught up: wait until domicile status shows less than {STALENESS_MAX}"
    )]
    TooFarBehind { to: RegionId, owner: RegionId, staleness: Millis },
    #[error(
        "other regions may lack rows of the owner, region \"{0}\", and its word would not count for them \
         any more: wait until it does not say {PASSED_OVER}; where rows differ, domicile verify --repair"
    )]
    PassedOver(RegionId),
    #[error("{0}")]
    Scattered(OwnershipRefusal),
    #[error("{0}")]
    Blocked(Blocker),
    #[error("{0} (domicile safety show)")]
    Safety(Violation),
}
