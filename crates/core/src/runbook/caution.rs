//! What should a person know before a plan is started, though nothing speaks against it?

use std::collections::BTreeSet;
use std::fmt;

use super::plan::Move;
use super::{Facts, Intent, OpenWriter, Plan};
use crate::id::{PartitionRange, RegionId};
use crate::time::Millis;

/// How long transactions that have written may hold up a hand-over before they are terminated.
pub const DRAIN_BUDGET: Millis = Millis(2000);

/// A region that would be fuller than this says so before another one is lost, in percent.
const FULL: u64 = 80;

/// What a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caution {
    /// These would be ended by the hand-over, the oldest first.
    OpenWriters { owner: RegionId, writers: Vec<OpenWriter> },
    /// It would commit more in a second than it is made for.
    NoHeadroom { region: RegionId, commits: u64, capacity: u64 },
    /// So many others have to hold a commit of it, and fewer could.
    NoCopies { region: RegionId, copies: usize, able: usize },
    /// What its loss would cost is not known.
    Unheard { region: RegionId },
}

impl fmt::Display for Caution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenWriters { owner, writers } => {
                let open = writers.iter().map(|writer| {
                    let OpenWriter { pid, role, open_for } = writer;
                    format!("pid {pid} (role \"{role}\") for {open_for}")
                });
                write!(
                    f,
                    "transactions that have written in {owner} are open, and are terminated when they do \
                     not end within {DRAIN_BUDGET}: {}",
                    open.collect::<Vec<_>>().join(", ")
                )
            }
            Self::NoHeadroom { region, commits, capacity } => write!(
                f,
                "{region} would commit about {commits} transactions a second, and its capacity is {capacity}"
            ),
            Self::NoCopies { region, copies, able } => write!(
                f,
                "no commit of {region} would return: {copies} others have to hold it, and {able} answer. \
                 It takes another region, a witness, or rpo = \"none\""
            ),
            Self::Unheard { region } => write!(
                f,
                "none of the agents that answer has heard {region} since it was started: what only {region} has \
                 committed is not in the estimated loss"
            ),
        }
    }
}

/// Returns what a person should know of `plan` as things stand.
pub fn cautions(plan: &Plan, facts: &Facts) -> Vec<Caution> {
    let mut moves = plan.moves(&facts.ownership);
    // Nobody writes it, and nobody's writers come to harm for it.
    moves.retain(|each| each.range != PartitionRange::CANARY);
    let mut cautions = Vec::new();
    if !matches!(plan.intent, Intent::Failover { .. }) {
        let owners: BTreeSet<&RegionId> = moves.iter().map(|each| &each.from).collect();
        for owner in owners {
            let writers = facts.regions.get(owner).map(|seen| seen.open_writers.clone());
            let writers = writers.filter(|writers| !writers.is_empty());
            cautions.extend(
                writers.map(|writers| Caution::OpenWriters { owner: owner.clone(), writers }),
            );
        }
    }
    if let Intent::Failover { from, to, .. } = &plan.intent {
        let copies = facts.rpo.copies();
        let others = facts.ownership.holders().filter(|holder| ![from, to].contains(holder));
        let able = others.filter(|holder| facts.is_reachable(holder)).count();
        if able < copies {
            cautions.push(Caution::NoCopies { region: to.clone(), copies, able });
        }
        let loses_nothing = facts.rpo_of(from).loss_max() == Some(Millis(0));
        if facts.regions.get(from).is_some_and(|seen| seen.unheard) && !loses_nothing {
            cautions.push(Caution::Unheard { region: from.clone() });
        }
    }
    let targets: BTreeSet<&RegionId> = moves.iter().map(|each| &each.to).collect();
    for to in targets {
        let Some(seen) = facts.regions.get(to) else { continue };
        let taken = moves.iter().filter(|each| each.to == *to);
        let commits = taken.fold(seen.pace.commits_per_s, |sum, each| sum + share(each, facts));
        if let Some(capacity) = seen.capacity.filter(|capacity| commits > *capacity) {
            cautions.push(Caution::NoHeadroom { region: to.clone(), commits, capacity });
        }
    }
    cautions
}

/// How many commits a second come with `each`, as if all partitions of its owner had as many.
fn share(each: &Move, facts: &Facts) -> u64 {
    let entries = facts.ownership.data().iter();
    let of_owner = entries.filter(|entry| entry.owner() == Some(&each.from));
    let owned: u64 = of_owner.map(|entry| u64::from(entry.range.count())).sum();
    let commits = facts.regions.get(&each.from).map_or(0, |seen| seen.pace.commits_per_s);
    (commits * u64::from(each.range.count())).div_ceil(owned.max(1))
}

/// What a region would commit if it took over from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headroom {
    pub lost: RegionId,
    pub commits: u64,
    pub capacity: u64,
}

impl fmt::Display for Headroom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, commits, capacity } = self;
        write!(
            f,
            "with what {lost} commits this region would come to {commits} transactions a second of the \
             {capacity} that it is made for"
        )
    }
}

/// Returns whose loss would leave `here` with the least room, when that would be too little.
pub fn little_headroom(here: &RegionId, facts: &Facts) -> Option<Headroom> {
    let ours = facts.regions.get(here)?;
    let capacity = ours.capacity?;
    let others = facts.regions.iter().filter(|(region, _)| *region != here);
    let (lost, theirs) = others.max_by_key(|(_, seen)| seen.pace.commits_per_s)?;
    let commits = ours.pace.commits_per_s + theirs.pace.commits_per_s;
    let full = commits.saturating_mul(100) > capacity.saturating_mul(FULL);
    full.then(|| Headroom { lost: lost.clone(), commits, capacity })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RunId;
    use crate::progress::Rpo;
    use crate::runbook::run::tests::{facts, lose_eu};

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    /// Three regions with three partitions each: of eu are 3 to 5.
    fn busy() -> Facts {
        let mut facts = facts(Rpo::None);
        for (name, commits) in [("ap", 10), ("eu", 300), ("us", 50)] {
            let seen = facts.regions.get_mut(&region(name)).unwrap();
            (seen.pace.commits_per_s, seen.capacity) = (commits, Some(200));
        }
        facts
    }

    fn told(intent: &Intent, facts: &Facts) -> Vec<String> {
        let plan = Plan::ready(&RunId("1".into()), intent);
        cautions(&plan, facts).iter().map(ToString::to_string).collect()
    }

    fn to_us(first: u32, last: u32) -> Intent {
        Intent::Switchover { range: PartitionRange::new(first, last), to: region("us") }
    }

    #[test]
    fn who_writes_for_long_where_a_plan_takes_from_is_told() {
        let mut facts = busy();
        let writer = OpenWriter { pid: 7, role: "app".into(), open_for: Millis(12_000) };
        facts.regions.get_mut(&region("eu")).unwrap().open_writers = vec![writer];
        let expected = "transactions that have written in eu are open, and are terminated when they do not \
                        end within 2000ms: pid 7 (role \"app\") for 12.0s";
        assert_eq!(told(&to_us(3, 3), &facts), [expected]);
        assert!(told(&to_us(0, 0), &facts).is_empty(), "they are ap's");
    }

    #[test]
    fn a_target_that_would_get_more_than_it_can_take_is_told() {
        let mut facts = busy();
        assert!(told(&to_us(3, 3), &facts).is_empty(), "50 and a third of 300");
        let more = "us would commit about 250 transactions a second, and its capacity is 200";
        assert_eq!(told(&to_us(3, 4), &facts), [more]);
        lose_eu(&mut facts);
        let all = "ap would commit about 310 transactions a second, and its capacity is 200";
        let (from, to) = (region("eu"), region("ap"));
        assert_eq!(
            told(&Intent::Failover { from, to: to.clone(), attested: false }, &facts),
            [all]
        );
        facts.regions.get_mut(&to).unwrap().capacity = None;
        assert!(told(&to_us(3, 3), &facts).is_empty());
    }

    #[test]
    fn a_failover_after_which_no_commit_returns_says_so() {
        let mut facts = facts(Rpo::Zero { copies: 1 });
        lose_eu(&mut facts);
        let (from, to) = (region("eu"), region("us"));
        let intent = Intent::Failover { from, to, attested: false };
        assert!(told(&intent, &facts).is_empty(), "ap is there");
        facts.regions.get_mut(&region("ap")).unwrap().reachable = false;
        let said = told(&intent, &facts);
        assert!(said[0].starts_with("no commit of us would return: 1 others have to hold it"));
    }

    #[test]
    fn a_loss_of_which_nothing_is_known_is_not_told_as_none() {
        for (rpo, said) in [(Rpo::None, 1), (Rpo::Zero { copies: 1 }, 0)] {
            let mut facts = facts(rpo);
            lose_eu(&mut facts);
            let (from, to) = (region("eu"), region("us"));
            let intent = Intent::Failover { from, to, attested: false };
            assert!(told(&intent, &facts).is_empty());
            facts.regions.get_mut(&region("eu")).unwrap().unheard = true;
            assert_eq!(told(&intent, &facts).len(), said, "{rpo:?}");
        }
    }

    #[test]
    fn a_region_that_could_hardly_take_over_from_another_says_so_before_it_must() {
        let mut facts = busy();
        let short = little_headroom(&region("us"), &facts);
        let expected = Headroom { lost: region("eu"), commits: 350, capacity: 200 };
        assert_eq!(short, Some(expected));
        facts.regions.get_mut(&region("us")).unwrap().capacity = Some(437);
        assert!(little_headroom(&region("us"), &facts).is_some(), "80.1 percent");
        facts.regions.get_mut(&region("us")).unwrap().capacity = Some(438);
        assert_eq!(little_headroom(&region("us"), &facts), None);
        facts.regions.get_mut(&region("us")).unwrap().capacity = None;
        assert_eq!(little_headroom(&region("us"), &facts), None, "nobody has said");
    }
}
