//! May this begin, by the rules that people have set for the whole cluster?
//!
//! The rules say when no owner is to change, although nothing else speaks against it: in the night of a sale, too
//! soon after the last time, too much at once, or when too much would be lost. They are asked twice: when a run
//! is planned, and once more by whoever writes the change that begins it. What has begun they never stop: to
//! leave partitions without an owner is no safety.
//!
//! | rule | planned | drill | forced |
//! | --- | --- | --- | --- |
//! | freeze of `planned` | refused | refused | goes on |
//! | freeze of `all` | refused | refused | refused |
//! | `loss_max` | | | refused when more may be lost |
//! | `interval_min` | refused too soon after the last | | |
//! | `partitions_per_minute_max` | refused while it is too much | | |
//!
//! A person may override them, with a reason, which stands in the run's document.

use std::fmt;

use super::plan::expected_loss;
use super::{Facts, Intent, Mode, Plan};
use crate::id::{PartitionRange, RegionId, RunId};
use crate::ownership::{Ownership, OwnershipChange, State};
use crate::progress::Rpo;
use crate::time::{Millis, Wall};

/// How far back partitions are counted that were moved.
const MINUTE: Millis = Millis(60_000);

/// The rules. Where one is not set it forbids nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub freeze: Option<Freeze>,
    /// The most of acknowledged writes that a forced run may be expected to lose.
    pub loss_max: Option<Millis>,
    /// Between two planned hand-overs of one partition.
    pub interval_min: Option<Millis>,
    /// So many are handed over within a minute, as planned.
    pub partitions_per_minute_max: Option<u32>,
}

/// No owner changes until a person takes this back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    pub of: Frozen,
    pub by: String,
    pub reason: String,
}

/// What does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frozen {
    /// What can wait: all but failovers.
    Planned,
    All,
}

/// What is known of the rules, and of what they count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Safety {
    pub policy: Policy,
    /// Planned hand-overs, as far back as the rules look.
    pub begun: Vec<Begun>,
    pub now: Wall,
}

/// A planned hand-over that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    pub run: RunId,
    pub range: PartitionRange,
    /// By the wall clock of whoever began it.
    pub at: Wall,
}

/// A person has something begin although the rules are against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    pub by: String,
    pub reason: String,
}

/// What is about to begin, as far as the rules ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undertaking {
    /// Planned; without ranges where each of them is a run of its own, and asked about then.
    HandOver { run: RunId, ranges: Vec<PartitionRange> },
    /// Forced. `None`: nobody knows how much may be lost.
    TakeOver { loss: Option<Millis> },
    /// Of nobody's rows.
    Drill,
    /// A region or a witness comes or goes.
    Membership,
}

/// Which rule is against it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("ownership is frozen ({of}), as {by} wanted: {reason}", of = .0.of, by = .0.by, reason = .0.reason)]
    Frozen(Freeze),
    #[error("it may lose {loss} of acknowledged writes, and {max} is the most")]
    TooLossy { loss: Millis, max: Millis },
    #[error("how much it may lose nobody knows, and {max} of acknowledged writes is the most")]
    LossUnknown { max: Millis },
    #[error(
        "partition {range} was handed over {ago} ago, and {min} have to lie between two hand-overs"
    )]
    TooSoon { range: PartitionRange, ago: Millis, min: Millis },
    #[error(
        "it hands over {partitions} partitions, after {before} within the last minute, and {max} is the most"
    )]
    TooMany { partitions: u32, before: u32, max: u32 },
}

impl fmt::Display for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Planned => "planned",
            Self::All => "all",
        })
    }
}

impl Policy {
    /// Do the rules ask what was handed over before? Only then is it written down.
    pub fn counts(&self) -> bool {
        self.interval_min.is_some() || self.partitions_per_minute_max.is_some()
    }

    /// Is no rule set?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How far back the rules look.
    fn looks_back(&self) -> Millis {
        self.interval_min.unwrap_or_default().max(MINUTE)
    }
}

impl Safety {
    /// Notes that `run` hands over these ranges from now on, and forgets what no rule asks about any more.
    pub fn noting(mut self, run: &RunId, ranges: &[PartitionRange]) -> Self {
        let (now, looks_back) = (self.now, self.policy.looks_back());
        self.begun.retain(|begun| begun.run != *run && begun.ago(now, looks_back).is_some());
        let noted = ranges.iter().map(|range| Begun { run: run.clone(), range: *range, at: now });
        self.begun.extend(noted);
        self
    }

    fn others<'a>(&'a self, run: &'a RunId) -> impl Iterator<Item = &'a Begun> {
        self.begun.iter().filter(move |begun| begun.run != *run)
    }
}

impl Begun {
    /// How long ago it was, if that is less than `within`.
    ///
    /// Another agent's clock may be ahead of the one that is asked: by less than `within` it is believed, and
    /// what it says counts as just now. One that is wrong by more must not forbid anything for a year.
    fn ago(&self, now: Wall, within: Millis) -> Option<Millis> {
        let ahead = self.at.0.saturating_sub(now.0);
        let ago = Millis(now.0.saturating_sub(self.at.0));
        (ahead < within.0 && ago < within).then_some(ago)
    }
}

impl Undertaking {
    /// What a plan is about to do.
    pub fn of_plan(plan: &Plan, facts: &Facts) -> Self {
        match &plan.intent {
            Intent::Failover { from, .. } => Self::TakeOver { loss: loss_at_most(from, facts) },
            Intent::Switchover { .. } if plan.intent.mode() == Mode::Drill => Self::Drill,
            Intent::Switchover { .. } => {
                let moves = plan.moves(&facts.ownership).into_iter();
                Self::HandOver {
                    run: plan.run.clone(),
                    ranges: moves.map(|each| each.range).collect(),
                }
            }
            Intent::Evacuation { .. } => {
                Self::HandOver { run: plan.run.clone(), ranges: Vec::new() }
            }
            Intent::ForcedDrill { .. } => Self::Drill,
            Intent::Addition { .. } => Self::Membership,
        }
    }

    /// What a change of `ownership` begins; nothing when it goes on with what has begun.
    ///
    /// `loss` is what it may cost where it is forced.
    pub fn of_change(
        change: &OwnershipChange,
        ownership: &Ownership,
        loss: Option<Millis>,
    ) -> Option<Self> {
        match change {
            OwnershipChange::HandOver { range: PartitionRange::CANARY, .. }
            | OwnershipChange::FenceCanary { .. } => Some(Self::Drill),
            OwnershipChange::HandOver { range, to, run } => {
                let entries = ownership.entries().iter();
                let others = entries
                    .filter(|entry| !matches!(&entry.state, State::Owned { by } if by == to));
                let ranges = others.filter_map(|entry| entry.range.overlap(range)).collect();
                Some(Self::HandOver { run: run.clone(), ranges })
            }
            OwnershipChange::Fence { .. } => Some(Self::TakeOver { loss }),
            OwnershipChange::Join { .. }
            | OwnershipChange::Leave { .. }
            | OwnershipChange::Witness { .. } => Some(Self::Membership),
            // Nobody's rows change their owner by it.
            OwnershipChange::AddCanary { .. } => None,
            OwnershipChange::Barrier { .. }
            | OwnershipChange::Cut { .. }
            | OwnershipChange::Grant { .. }
            | OwnershipChange::HandBack { .. } => None,
        }
    }
}

/// The most of what `from` has acknowledged that may be lost with it; `None` where nobody knows.
///
/// Of a region that nobody has heard it is all that its RPO allows.
pub fn loss_at_most(from: &RegionId, facts: &Facts) -> Option<Millis> {
    let rpo: Rpo = facts.rpo_of(from);
    match facts.regions.get(from).is_some_and(|seen| seen.unheard) {
        true => rpo.loss_max(),
        false => Some(expected_loss(from, facts).age),
    }
}

/// Returns every rule that is against it.
pub fn against(undertaking: &Undertaking, safety: &Safety) -> Vec<Violation> {
    let policy = &safety.policy;
    let mut found = Vec::new();
    found.extend(
        policy.freeze.clone().filter(|freeze| freeze.stops(undertaking)).map(Violation::Frozen),
    );
    match undertaking {
        Undertaking::HandOver { run, ranges } => {
            found.extend(ranges.iter().filter_map(|range| too_soon(run, *range, safety)));
            found.extend(too_many(run, ranges, safety));
        }
        Undertaking::TakeOver { loss } => {
            found.extend(policy.loss_max.and_then(|max| too_lossy(*loss, max)));
        }
        Undertaking::Drill | Undertaking::Membership => {}
    }
    found
}

impl Freeze {
    fn stops(&self, undertaking: &Undertaking) -> bool {
        match (self.of, undertaking) {
            (Frozen::All, _) => true,
            (Frozen::Planned, Undertaking::TakeOver { .. }) => false,
            (Frozen::Planned, _) => true,
        }
    }
}

fn too_lossy(loss: Option<Millis>, max: Millis) -> Option<Violation> {
    let Some(loss) = loss else { return Some(Violation::LossUnknown { max }) };
    (loss > max).then_some(Violation::TooLossy { loss, max })
}

/// The last hand-over counts of whatever shares partitions with `range`.
fn too_soon(run: &RunId, range: PartitionRange, safety: &Safety) -> Option<Violation> {
    let min = safety.policy.interval_min?;
    let shared = safety
        .others(run)
        .filter_map(|begun| Some((begun.range.overlap(&range)?, begun.ago(safety.now, min)?)));
    let (range, ago) = shared.min_by_key(|(_, ago)| *ago)?;
    Some(Violation::TooSoon { range, ago, min })
}

fn too_many(run: &RunId, ranges: &[PartitionRange], safety: &Safety) -> Option<Violation> {
    let max = safety.policy.partitions_per_minute_max?;
    let lately = safety.others(run).filter(|begun| begun.ago(safety.now, MINUTE).is_some());
    let count = |sum: u32, range: &PartitionRange| sum.saturating_add(range.count());
    let before = lately.map(|begun| &begun.range).fold(0, count);
    let partitions = ranges.iter().fold(0, count);
    let too_many = partitions > 0 && before.saturating_add(partitions) > max;
    too_many.then_some(Violation::TooMany { partitions, before, max })
}

#[cfg(test)]
mod tests;
