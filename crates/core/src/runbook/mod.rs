//! What is the next thing to do, and is it safe?
//!
//! A runbook is a list of steps. A step is asked, never remembered: from the facts alone it says
//! whether its postcondition holds ([`Step::done`]), what it waits for ([`Step::blocked`]) or
//! what to change next ([`Step::effect`]). So an agent that dies in the middle, or another that
//! takes over, simply asks again. Every effect is absolute or a compare-and-set.
//!
//! | file | answers |
//! | --- | --- |
//! | `plan.rs` | may this be started, and what will it cost? |
//! | `run.rs` | which step is it at? |
//! | `step/*.rs` | one step each, the same four functions |
//! | `file/` | what does a runbook's file say? |
//! | `ready/*.toml` | the lists of steps, as an operator reads them |
//! | `objectives.rs` | what does a runbook promise of itself, and is that kept? |
//! | `escalation.rs` | may a planned run be turned into a forced one? |
//! | `failover.rs` | which failover does nobody have to ask for? |
//! | `readiness.rs` | could each region be lost now? |
//! | `safety.rs` | may it begin, by the rules that people have set for the whole cluster? |
//! | `drill.rs` | when does a drill start by itself? |
//! | `canary.rs` | who adds the canary partition where there is none? |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::id::{PartitionId, PartitionRange, RegionId, RunId};
use crate::lsn::{Cut, Frontier, Lsn};
use crate::membership::Obstacle;
use crate::outage::Outage;
use crate::ownership::{Ownership, OwnershipChange};
use crate::progress::{Exposure, Pace, Rpo};
use crate::time::{Millis, Time};

pub mod canary;
pub mod caution;
pub mod drill;
pub mod escalation;
pub mod failover;
pub mod file;
mod objectives;
pub mod plan;
pub mod readiness;
pub mod ready;
pub mod run;
pub mod safety;
pub mod step;

pub use escalation::{NotEscalated, Successor, escalation, forced_of};
pub use objectives::{Held, Objective, Objectives};
pub use plan::{Estimate, Plan, plan};
pub use run::{Next, Outcome, TooLate, ended, executor, next, too_late_to_abort, waits_for_people};
use safety::{Override, Safety, Undertaking, Violation};
pub use step::Step;

/// What somebody wants to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Forced: `from` is gone, `to` takes all its partitions.
    Failover {
        from: RegionId,
        to: RegionId,
        /// A person vouches that `from` is gone: the observers are not asked.
        attested: bool,
    },
    /// Planned: `to` takes `range` from whoever owns it, without losing a write.
    Switchover { range: PartitionRange, to: RegionId },
    /// Planned: `to` takes everything that `from` owns, by a run for each range.
    Evacuation { from: RegionId, to: RegionId },
    /// `region` becomes a member of the cluster. Nothing moves.
    Addition { region: RegionId },
    /// `to` takes the canary from `from` as if that were gone, and hands it back.
    ForcedDrill { from: RegionId, to: RegionId },
}

impl Intent {
    pub fn mode(&self) -> Mode {
        match self {
            Self::Failover { .. } => Mode::Forced,
            Self::Switchover { range: PartitionRange::CANARY, .. } | Self::ForcedDrill { .. } => {
                Mode::Drill
            }
            Self::Switchover { .. } | Self::Evacuation { .. } | Self::Addition { .. } => {
                Mode::Planned
            }
        }
    }

    /// Who gets something.
    pub fn to(&self) -> &RegionId {
        match self {
            Self::Addition { region } => region,
            Self::Failover { to, .. } | Self::Switchover { to, .. } => to,
            Self::Evacuation { to, .. } | Self::ForcedDrill { to, .. } => to,
        }
    }
}

/// In which way partitions move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Their owner hands them over: no write is lost.
    Planned,
    /// They are taken from a region that is gone.
    Forced,
    /// They are the canary: nobody's rows.
    Drill,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Planned => "planned",
            Self::Forced => "forced",
            Self::Drill => "drill",
        })
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failover { from, to, .. } => write!(f, "failover of region {from} to {to}"),
            Self::Switchover { range, to } => write!(f, "switchover of partition {range} to {to}"),
            Self::Evacuation { from, to } => write!(f, "evacuation of region {from} to {to}"),
            Self::Addition { region } => write!(f, "addition of region {region}"),
            Self::ForcedDrill { from, to } => {
                write!(f, "failover of the canary partition alone, from region {from} to {to}")
            }
        }
    }
}

/// What is true now, as far as the one who asks can see.
#[derive(Clone, Debug)]
pub struct Facts {
    /// By the clock of the one who asks.
    pub now: Time,
    pub rpo: Rpo,
    pub ownership: Ownership,
    /// The directory's revision of `ownership`.
    pub ownership_revision: u64,
    pub regions: BTreeMap<RegionId, RegionFacts>,
    pub witnesses: BTreeMap<RegionId, WitnessFacts>,
    /// What each survivor held of the fenced region's logs when it sealed them for this run.
    pub seals: BTreeMap<RegionId, Vec<Cut>>,
    /// When what those had promised to the fenced region is over for certain: see [`crate::promise`].
    pub promises_over_at: Option<Time>,
    /// A write went through the guard of the new owner, for this run.
    pub canary_written: bool,
    /// The old owner has written for this run what it must not, and its journal has it.
    pub late_write_kept_out: bool,
    /// What this run has asked a region for was taken back.
    pub seed_given_up: bool,
    /// The rules that hold for the whole cluster.
    pub safety: Safety,
    /// Who has this run begin although they are against it.
    pub overridden: Option<Override>,
    /// Who has approved this run.
    pub approvals: Vec<Approval>,
    /// How long the one who asks has known of this run, by its own clock.
    pub run_known_for: Millis,
    /// The runs that this run has begun, by what they move, and how they ended.
    pub parts: BTreeMap<PartitionRange, Option<Outcome>>,
    /// What became of the forced run that this one was turned into.
    pub successor: Successor,
    /// What steps that act outside came to, by their numbers in the run.
    pub answers: BTreeMap<usize, Answer>,
}

/// What became of a step that acts outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Passed,
    Failed,
}

/// A person has approved a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    pub role: String,
    pub by: String,
}

/// What a run's journal says that the world does not show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The run has, or had, partitions in its hands.
    pub started: bool,
    /// The revision of the ownership that said so; 0 where an older Domicile wrote it down.
    pub started_revision: u64,
    pub wish: Option<Wish>,
    /// What was approved, where that was written down.
    pub planned: Option<PlanId>,
    /// What it would do as things stand.
    pub would_do: PlanId,
}

/// The name of what a plan decides: the same while it would do the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanId(pub String);

/// What a person wants of a run that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Stop where every partition has an owner, and wait.
    Pause { by: String },
    /// Give back what was taken, and end.
    Abort { by: String },
    /// Take by force from `from`, which is lost, what it was to hand over, and all else that it owns.
    Escalate {
        by: String,
        from: RegionId,
        /// He vouches that it is gone: the observers are not asked.
        attested: bool,
    },
}

/// What is known of one region.
#[derive(Clone, Debug, Default)]
pub struct RegionFacts {
    /// Its agent answered lately.
    pub reachable: bool,
    /// When its lease has certainly ended, if it is never renewed again. `None`: it has none.
    pub lease_over_at: Option<Time>,
    /// For how long no renewal of its lease was seen.
    pub silent_for: Millis,
    /// By what it acknowledges commits, where it says so.
    pub rpo: Option<Rpo>,
    pub outage: Option<Outage>,
    /// What its logs hold.
    pub flushed: Frontier,
    /// What its tables show.
    pub applied: Frontier,
    /// What its tables would show after a crash of its PostgreSQL.
    pub durable: Frontier,
    /// The revision of `ownership` by which it got there, or a later one.
    pub ownership_read: u64,
    /// Records that it lacks may be gone: it has to be seeded again, and takes nothing over.
    pub left_behind: bool,
    /// It says that it holds no lease, or that what is committed there is not captured
    /// ([`crate::continuity`]), so that it will hold none for long.
    pub cannot_write: bool,
    /// What comes from another region cannot be applied there, until a person has done something.
    pub cannot_apply: bool,
    /// Others may lack what it has written: nothing of it stands in any log.
    pub passed_over: bool,
    /// Its tables may show what it alone wrote and is no history: that is not all found yet.
    pub unsettled: bool,
    /// Its rows that are known to be no history, or to differ, and wait to be repaired.
    pub repairs_pending: u64,
    /// It owns partitions into which it lets nobody yet.
    pub not_opened: bool,
    /// Somebody has seen it come and go: see [`crate::probation`].
    pub on_probation: bool,
    /// Its agent understands ownership that has a canary partition.
    pub knows_canary: bool,
    /// The revision of `ownership` that its gateway and guard go by.
    pub ownership_seen: u64,
    /// What it has committed and no other region has flushed, by its own clock.
    pub exposure: Exposure,
    /// Nobody who answers has heard it since he began: of its exposure nothing is known.
    pub unheard: bool,
    /// Its transactions that have written and been open for long, the oldest first.
    pub open_writers: Vec<OpenWriter>,
    pub pace: Pace,
    /// How many commits a second it is made for, where somebody has said so.
    pub capacity: Option<u64>,
    /// By other region: the age of the oldest commit of this one that it does not show.
    pub staleness: BTreeMap<RegionId, Millis>,
    /// The others that its agent is configured with.
    pub aware_of: BTreeSet<RegionId>,
    /// How far it is, where it was asked to be seeded.
    pub seeding: Option<Seeding>,
}

/// How far a region is that copies what the cluster shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seeding {
    /// In its agent's words.
    pub step: String,
    /// Why it does not go on before a person does something.
    pub refused: Option<String>,
}

/// What is known of one that holds logs and owns nothing.
#[derive(Clone, Debug, Default)]
pub struct WitnessFacts {
    /// Its agent answered lately.
    pub reachable: bool,
    /// What its logs hold.
    pub flushed: Frontier,
}

/// A transaction that has written what a guard watches, and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenWriter {
    /// Of PostgreSQL's process.
    pub pid: i32,
    pub role: String,
    pub open_for: Millis,
}

/// A change to the world: the complete list of what a run may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write the directory's ownership, by compare-and-set.
    Change(OwnershipChange),
    /// Ask these regions to seal the fenced region's epochs.
    Seal { regions: Vec<RegionId>, from: RegionId },
    /// Have the new owner write through its own guard.
    WriteCanary { region: RegionId, partition: PartitionId },
    /// Have `region`, whose canary this run has fenced and cut, commit a row of it past its guard, and see that
    /// it is journaled there.
    WriteLate { region: RegionId },
    /// Begin a run of its own, named by [`part_of`] or [`forced_of`]; one that is there was begun before.
    Begin { run: RunId, intent: Intent },
    /// Run a program of the operator for the step of this number; one that runs already is waited for.
    Exec { number: usize, program: String, within: Millis },
    /// Tell somebody by a webhook of the configuration, for the step of this number; one that is being told
    /// already is waited for.
    Send { number: usize, webhook: String, within: Millis },
    /// Have all gateways open the sessions of their clients at `to`, for the step of this number; what is being
    /// opened already is waited for.
    WarmUp { number: usize, to: RegionId, within: Millis },
    /// Ask `region` to copy what `from` shows; one that was asked for is gone on with.
    Seed { region: RegionId, from: RegionId, replace: bool },
    /// Take that back.
    GiveUpSeed { region: RegionId },
}

/// Returns the name of the run that moves `range` for `run`: always the same one.
pub fn part_of(run: &RunId, range: PartitionRange) -> RunId {
    RunId(format!("{run}/{range}"))
}

/// Returns what `part` moves when it is a run that `run` has begun.
pub fn range_of_part(run: &RunId, part: &RunId) -> Option<PartitionRange> {
    part.0.strip_prefix(&run.0)?.strip_prefix('/')?.parse().ok()
}

/// How many runs that `run` has begun have not ended.
fn on_their_way(run: &RunId, facts: &Facts) -> usize {
    // What is known of the owners may be newer than what is known of the runs.
    let open = facts.parts.iter().filter(|(_, end)| end.is_none()).map(|(range, _)| *range);
    let entries = facts.ownership.entries().iter();
    let in_hands = entries.filter_map(|entry| range_of_part(run, entry.state.run()?));
    open.chain(in_hands).collect::<BTreeSet<_>>().len()
}

/// Why a step cannot be done yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocker {
    Unconfirmed {
        region: RegionId,
        outage: Option<Outage>,
    },
    Draining {
        region: RegionId,
    },
    SealMissing {
        regions: Vec<RegionId>,
    },
    LeaseLive {
        region: RegionId,
        over_at: Time,
    },
    Behind {
        region: RegionId,
        needs: Cut,
        has: Lsn,
    },
    NotRerouted {
        regions: Vec<RegionId>,
    },
    /// It owns partitions that it keeps closed until its rows are history.
    NotOpened {
        region: RegionId,
    },
    /// So many people have not approved yet.
    Unapproved {
        role: String,
        missing: usize,
    },
    Paused {
        by: String,
    },
    /// A region is not as a check wants it.
    Unwell {
        region: RegionId,
        why: Unwell,
    },
    /// Another run has partitions that this one is to take.
    InOtherHands {
        range: PartitionRange,
        run: RunId,
    },
    /// Writers of this range wait for a hand-over; nobody's wait for the canary, which would only be
    /// in its way in the directory.
    WritersFirst {
        range: PartitionRange,
    },
    /// This run has taken by force what was to be handed over.
    Escalated {
        run: RunId,
    },
    /// So many runs are to end first, or partitions of `from` are in other hands.
    OnTheirWay {
        runs: usize,
        from: RegionId,
    },
    /// A run that moves this range would be refused.
    NotNow {
        range: PartitionRange,
        reasons: Vec<plan::Refusal>,
    },
    Seeding {
        region: RegionId,
        seeding: Seeding,
    },
    NotAddable {
        region: RegionId,
        obstacles: Vec<Obstacle>,
    },
    /// What the step waits for has just become true; the next look will say so.
    Settling,
    /// The rules of the cluster are against it.
    AgainstSafety {
        violations: Vec<Violation>,
    },
}

/// What is amiss with a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwell {
    NotMember,
    Silent,
    CannotWrite,
    NoLease,
    LeftBehind,
    Behind { owner: RegionId, by: Millis, lag: Millis },
}

impl fmt::Display for Unwell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMember => f.write_str("is not a member of the cluster"),
            Self::Silent => f.write_str("does not answer"),
            Self::CannotWrite => f.write_str("could not write: domicile status says why"),
            Self::NoLease => f.write_str("holds no live lease"),
            Self::LeftBehind => {
                f.write_str("lacks records that are gone: it has to be seeded again")
            }
            Self::Behind { owner, by, lag } => {
                write!(f, "is {by} behind region {owner}; {lag} is the most")
            }
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unconfirmed { region, outage } => {
                write!(f, "the outage of region {region} is not confirmed")?;
                match outage {
                    Some(Outage::Suspected { by }) => write!(f, ": only {by:?} agree"),
                    Some(Outage::Disputed { by }) => write!(f, ": {by} knows that it is there"),
                    _ => Ok(()),
                }
            }
            Self::Draining { region } => {
                write!(f, "region {region} is draining its writers")
            }
            Self::SealMissing { regions } => write!(f, "no seal yet from {regions:?}"),
            Self::LeaseLive { region, .. } => {
                write!(f, "the lease of region {region} may still be live")
            }
            Self::Behind { region, needs, has } => {
                write!(f, "region {region} is at {has} and needs {needs}")
            }
            Self::Unapproved { role, missing } => {
                write!(f, "{missing} more of role {role} to approve")
            }
            Self::Paused { by } => write!(f, "paused by {by}"),
            Self::Unwell { region, why } => write!(f, "region {region} {why}"),
            Self::InOtherHands { range, run } => {
                write!(f, "partition {range} is in the hands of run {run}")
            }
            Self::WritersFirst { range } => {
                write!(f, "partition {range} is handed over first: its writers wait")
            }
            Self::Escalated { run } => {
                write!(f, "run {run} has taken over by force, and has not ended")
            }
            Self::OnTheirWay { runs: 0, from } => {
                write!(f, "another run has partitions of region {from} in its hands")
            }
            Self::OnTheirWay { runs, .. } => write!(f, "{runs} on their way"),
            Self::NotNow { range, reasons } => {
                let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                write!(f, "partition {range} would be refused: {}", reasons.join("; "))
            }
            Self::Seeding { region, seeding: Seeding { refused: Some(why), .. } } => {
                write!(f, "region {region} is not seeded: {why}")
            }
            Self::Seeding { region, seeding } => write!(f, "region {region}: {}", seeding.step),
            Self::NotAddable { region, obstacles } => {
                let obstacles = obstacles.iter().map(|one| format!("{one} ({})", one.way_out()));
                let obstacles: Vec<String> = obstacles.collect();
                write!(f, "region {region} cannot be added: {}", obstacles.join("; "))
            }
            Self::Settling => write!(f, "the facts are settling"),
            Self::AgainstSafety { violations } => {
                let violations: Vec<String> = violations.iter().map(ToString::to_string).collect();
                f.write_str(&violations.join("; "))
            }
            Self::NotOpened { region } => {
                write!(f, "region {region} opens what it was given once its rows are repaired")
            }
            Self::NotRerouted { regions } => {
                write!(f, "the gateways of {regions:?} do not know the new owner yet")
            }
        }
    }
}

impl RegionFacts {
    /// Is all that its tables show history, as far as it knows?
    pub fn is_settled(&self) -> bool {
        !self.unsettled && self.repairs_pending == 0
    }
}

impl Facts {
    /// Did the agent of this region or witness answer lately?
    pub fn is_reachable(&self, holder: &RegionId) -> bool {
        self.regions.get(holder).is_some_and(|region| region.reachable)
            || self.witnesses.get(holder).is_some_and(|witness| witness.reachable)
    }

    /// Does `run` have partitions in its hands?
    pub fn in_hands(&self, run: &RunId) -> bool {
        self.ownership.ranges_of(run).next().is_some()
    }

    /// Which rules of the cluster are against it, unless somebody has it begin all the same?
    pub fn against_safety(&self, undertaking: &Undertaking) -> Vec<Violation> {
        match self.overridden {
            Some(_) => Vec::new(),
            None => safety::against(undertaking, &self.safety),
        }
    }

    /// See [`RegionFacts::cannot_apply`].
    pub fn cannot_apply(&self, region: &RegionId) -> bool {
        self.regions.get(region).is_some_and(|seen| seen.cannot_apply)
    }

    /// By what `region` may have acknowledged commits.
    pub fn rpo_of(&self, region: &RegionId) -> Rpo {
        let told = self.regions.get(region).and_then(|seen| seen.rpo);
        told.map_or(self.rpo, |told| told.or_weaker(self.rpo))
    }

    /// Has the lease of `region` certainly ended?
    pub fn lease_over(&self, region: &RegionId) -> bool {
        match self.regions.get(region).and_then(|r| r.lease_over_at) {
            Some(over_at) => self.now >= over_at,
            None => true,
        }
    }
}
