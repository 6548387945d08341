//! May a region, or a witness, be taken into the cluster, or out of it?
//!
//! In, when every member keeps its log for it from now on, so that nothing is gone which its copy of
//! the tables does not show.
//!
//! Out: it need not be there for that: what it owned has moved, so its history has an end, and the others
//! show all of it that any of them holds. And of the others' histories it may hold the only copy
//! that a commit was acknowledged for: those that stay must have enough copies without it.
//! After that nobody asks for its log again, and nobody keeps anything for it.

use std::fmt;

use crate::id::{Origin, PartitionRange, RegionId};
use crate::lsn::{Frontier, Lsn};
use crate::ownership::{Ownership, State};
use crate::partition::Scheme;
use crate::runbook::{Facts, RegionFacts};

/// What stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Rows name it as their home: `home(column)`.
    IsNamed(RegionId),
    /// So few would be `left`: one region replicates nothing, and copies need others to hold them.
    IsNeeded {
        left: usize,
        needed: usize,
    },
    Owns {
        region: RegionId,
        ranges: Vec<PartitionRange>,
        answers: bool,
    },
    /// A run is giving these partitions away, or to it.
    Moves(Vec<PartitionRange>),
    /// Its agent answers, so it may still ship what would not be asked for.
    Runs(RegionId),
    /// Another region does not answer: it may lack some of the log that is given up, or may not keep
    /// its own for the one that comes.
    Silent(RegionId),
    /// Nobody is there to be added.
    Absent(RegionId),
    /// An agent runs by a configuration without the region that is to be added.
    Unaware {
        region: RegionId,
        of: RegionId,
    },
    /// No member answers that shows everything, or not the one that was asked for.
    NoSource(Option<RegionId>),
    /// Passes by itself.
    Lacks {
        region: RegionId,
        origin: Origin,
        shown: Lsn,
        end: Lsn,
    },
    /// Of `origin` up to `end` those that stay have too few copies. Passes by itself.
    FewCopies {
        origin: Origin,
        end: Lsn,
        have: usize,
        copies: usize,
    },
}

impl Obstacle {
    /// Is it over when one waits?
    pub fn passes(&self) -> bool {
        matches!(self, Self::Lacks { .. } | Self::FewCopies { .. })
    }

    /// What to do about it.
    pub fn way_out(&self) -> String {
        match self {
            Self::IsNamed(region) => {
                format!(
                    "leave [[region]] \"{region}\" in domicile.toml; its rows have no other home"
                )
            }
            Self::IsNeeded { .. } => "add another region first".to_owned(),
            Self::Owns { region, answers: true, .. } => {
                format!("domicile switchover --from {region} --to ANOTHER")
            }
            Self::Owns { region, answers: false, .. } => {
                format!("domicile failover --from {region} --to ANOTHER")
            }
            Self::Moves(_) => "wait until the run has ended (domicile partition list)".to_owned(),
            Self::Runs(region) => format!(
                "send its clients elsewhere, wait until domicile status shows an exposure of 0 from \
                 {region} to all others, stop its agent, and try again"
            ),
            Self::Silent(region) => format!("bring {region} back, or remove it first"),
            Self::Absent(region) => format!("domicile agent --region {region}"),
            Self::Unaware { region, of } => {
                format!("write \"{of}\" into the domicile.toml of {region}, and restart its agent")
            }
            Self::NoSource(_) => "see which region is well (domicile status)".to_owned(),
            Self::Lacks { region, .. } => format!("see what holds {region} up (domicile status)"),
            Self::FewCopies { origin, .. } => {
                format!("see why the others are behind {} (domicile status)", origin.region)
            }
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ranges: &[PartitionRange]| {
            ranges.iter().map(PartitionRange::to_string).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::IsNamed(region) => write!(out, "rows name region {region} as their home"),
            Self::IsNeeded { left, needed } => {
                write!(out, "{left} would be left, and there must be {needed} or more")
            }
            Self::Owns { region, ranges, .. } => {
                write!(out, "region {region} owns partitions {}", list(ranges))
            }
            Self::Moves(ranges) => write!(out, "partitions {} are being moved", list(ranges)),
            Self::Runs(region) => write!(out, "the agent of region {region} still runs"),
            Self::Silent(region) => write!(out, "region {region} does not answer"),
            Self::Absent(region) => write!(out, "the agent of region {region} does not answer"),
            Self::Unaware { region, of } => {
                write!(out, "the agent of region {region} does not know of region {of}")
            }
            Self::NoSource(Some(region)) => {
                write!(out, "region {region} is no member that answers and shows everything")
            }
            Self::NoSource(None) => write!(out, "no member answers that shows everything"),
            Self::Lacks { region, origin, shown, end } => {
                write!(out, "region {region} shows {origin} up to {shown}, not yet up to {end}")
            }
            Self::FewCopies { origin, end, have, copies } => {
                write!(
                    out,
                    "of {origin} up to {end} the others that stay hold {have} copies, not yet {copies}"
                )
            }
        }
    }
}

/// Returns from which member `newcomer` may have its rows: from `from` if that is given.
pub fn addable(
    newcomer: &RegionId,
    from: Option<&RegionId>,
    facts: &Facts,
) -> Result<RegionId, Vec<Obstacle>> {
    let mut found = against_newcomer(newcomer, facts);
    let whole = |region: &&RegionId| {
        let seen = facts.regions.get(*region);
        seen.is_some_and(|seen| seen.reachable && !seen.left_behind)
            && from.is_none_or(|from| from == *region)
    };
    let source = facts.ownership.members().iter().find(whole);
    if source.is_none() {
        found.push(Obstacle::NoSource(from.cloned()));
    }
    match source {
        Some(source) if found.is_empty() => Ok(source.clone()),
        _ => Err(found),
    }
}

/// Returns what keeps `newcomer` from being counted on, be it a region or a witness: a member that does not
/// know of it would not ship to it, nor have its seal.
pub fn against_newcomer(newcomer: &RegionId, facts: &Facts) -> Vec<Obstacle> {
    let mut found = Vec::new();
    if !facts.is_reachable(newcomer) {
        found.push(Obstacle::Absent(newcomer.clone()));
    }
    for member in facts.ownership.members() {
        let aware = |seen: &RegionFacts| seen.aware_of.contains(newcomer);
        if !facts.is_reachable(member) {
            found.push(Obstacle::Silent(member.clone()));
        } else if !facts.regions.get(member).is_some_and(aware) {
            let (region, of) = (member.clone(), newcomer.clone());
            found.push(Obstacle::Unaware { region, of });
        }
    }
    found
}

/// Returns the last incarnation of `region` of which others hold records; 0 when there is none.
pub fn last_incarnation(region: &RegionId, facts: &Facts) -> u32 {
    let logs = facts.regions.iter().filter(|(other, _)| *other != region);
    let held = logs.flat_map(|(_, seen)| seen.flushed.iter());
    let held = held.filter(|(origin, end)| origin.region == *region && *end > Lsn::ZERO);
    held.map(|(origin, _)| origin.incarnation).max().unwrap_or(0)
}

/// Up to where `region` may hold copies that commits of the other regions were acknowledged for.
///
/// `facts` must have been gathered after it was seen that it does not run.
pub fn counted_on(region: &RegionId, facts: &Facts) -> Frontier {
    let stay = facts.regions.iter().filter(|(other, _)| *other != region);
    let own = stay.flat_map(|(other, seen)| {
        seen.flushed.iter().filter(move |(origin, _)| origin.region == *other)
    });
    own.map(|(origin, end)| (origin.clone(), end)).collect()
}

/// Everything that stands in the way of removing `region`, which may be a witness, on which others [`counted_on`] so far.
/// One that `comes_back`, seeded again, may be the home of rows, and leave one region behind.
pub fn obstacles(
    region: &RegionId,
    comes_back: bool,
    scheme: &Scheme,
    facts: &Facts,
    counted_on: &Frontier,
) -> Vec<Obstacle> {
    let mut found = Vec::new();
    if let Scheme::Home { regions } = scheme
        && regions.contains(region)
        && !comes_back
    {
        found.push(Obstacle::IsNamed(region.clone()));
    }
    let answers = facts.is_reachable(region);
    let stays = |other: &RegionId| other != region && facts.ownership.members().contains(other);
    let others: Vec<_> = facts.regions.iter().filter(|(other, _)| stays(other)).collect();
    let bears_witness =
        |other: &RegionId| other != region && facts.ownership.witnesses().contains(other);
    let witnesses = facts.witnesses.iter().filter(|(other, _)| bears_witness(other));
    let copies = facts.rpo.copies();
    let regions = (others.len(), usize::from(!comes_back) + 1);
    let holders = (others.len() + witnesses.clone().count(), copies + 1);
    if let Some((left, needed)) =
        [regions, holders].into_iter().find(|(left, needed)| left < needed)
    {
        found.push(Obstacle::IsNeeded { left, needed });
    }
    let (owned, moving) = held(&facts.ownership, region);
    let owns = !owned.is_empty();
    if owns {
        found.push(Obstacle::Owns { region: region.clone(), ranges: owned, answers });
    }
    if !moving.is_empty() {
        found.push(Obstacle::Moves(moving));
    }
    if answers && !owns {
        found.push(Obstacle::Runs(region.clone()));
    }
    let silent = others.iter().filter(|(_, seen)| !seen.reachable);
    found.extend(silent.map(|(other, _)| Obstacle::Silent((*other).clone())));
    let mut ends = Frontier::default();
    let logs = others.iter().flat_map(|(_, seen)| seen.flushed.iter());
    for (origin, end) in logs.filter(|(origin, _)| origin.region == *region) {
        ends.advance(origin, end);
    }
    for (origin, end) in ends.iter() {
        for (other, seen) in others.iter().filter(|(_, seen)| seen.reachable) {
            let shown = seen.applied.get(origin);
            if shown < end {
                let (region, origin) = ((*other).clone(), origin.clone());
                found.push(Obstacle::Lacks { region, origin, shown, end });
            }
        }
    }
    for (origin, end) in counted_on.iter() {
        let holds = |(other, seen): &&(&RegionId, &RegionFacts)| {
            **other != origin.region && seen.flushed.get(origin) >= end
        };
        let witnessed = witnesses.clone().filter(|(_, seen)| seen.flushed.get(origin) >= end);
        let have = others.iter().filter(holds).count() + witnessed.count();
        if have < copies {
            found.push(Obstacle::FewCopies { origin: origin.clone(), end, have, copies });
        }
    }
    found
}

/// The partitions that `region` owns, and those of which it is not settled whether it will.
fn held(ownership: &Ownership, region: &RegionId) -> (Vec<PartitionRange>, Vec<PartitionRange>) {
    let (mut owned, mut moving) = (Vec::new(), Vec::new());
    for entry in ownership.entries() {
        match &entry.state {
            State::Owned { by } if by == region => owned.push(entry.range),
            State::HandingOver { by, to, .. } if by == region || to == region => {
                moving.push(entry.range);
            }
            State::Fenced { from, .. } if from == region => moving.push(entry.range),
            _ => {}
        }
    }
    (owned, moving)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::id::RunId;
    use crate::ownership::OwnershipChange;
    use crate::progress::Rpo;
    use crate::runbook::safety::Safety;
    use crate::runbook::{Successor, WitnessFacts};
    use crate::time::{Millis, Time};

    const HASH: Scheme = Scheme::Hash { count: 2 };

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn ap() -> Origin {
        Origin::new(region("ap"), 1)
    }

    /// ap is gone and owned nothing; both others hold its log up to 90.
    fn facts(owners: &[&str], shown: u64) -> Facts {
        let at = |lsn| Frontier::from_iter([(ap(), Lsn(lsn))]);
        let seen = |reachable, applied| RegionFacts {
            reachable,
            flushed: at(90),
            applied,
            ownership_read: 1,
            ownership_seen: 1,
            ..RegionFacts::default()
        };
        let owners: Vec<RegionId> = owners.iter().map(|name| region(name)).collect();
        Facts {
            now: Time(0),
            rpo: Rpo::None,
            ownership: Ownership::initial(2, &owners).with_members(["ap", "eu", "us"].map(region)),
            ownership_revision: 1,
            regions: BTreeMap::from([
                (region("ap"), seen(false, Frontier::default())),
                (region("eu"), seen(true, at(90))),
                (region("us"), seen(true, at(shown))),
            ]),
            witnesses: BTreeMap::new(),
            seals: BTreeMap::new(),
            promises_over_at: None,
            canary_written: false,
            late_write_kept_out: false,
            seed_given_up: false,
            safety: Safety::default(),
            overridden: None,
            approvals: Vec::new(),
            run_known_for: Millis(0),
            successor: Successor::NotBegun,
            answers: BTreeMap::new(),
            parts: BTreeMap::new(),
        }
    }

    #[test]
    fn a_region_that_is_gone_is_removed_once_the_others_show_its_log() {
        assert_eq!(
            obstacles(&region("ap"), false, &HASH, &facts(&["eu", "us"], 90), &Frontier::default()),
            []
        );
        let found =
            obstacles(&region("ap"), false, &HASH, &facts(&["eu", "us"], 80), &Frontier::default());
        let [lacks] = found.as_slice() else { panic!("{found:?}") };
        assert!(lacks.passes());
        assert_eq!(lacks.to_string(), "region us shows ap-1 up to 0/50, not yet up to 0/5A");
    }

    #[test]
    fn a_region_is_added_when_every_member_keeps_its_log_for_it() {
        let sa = region("sa");
        let mut facts = facts(&["eu", "us"], 90);
        let add = |facts: &Facts, from: Option<&str>| {
            addable(&region("sa"), from.map(region).as_ref(), facts)
        };
        facts.regions.get_mut(&region("eu")).unwrap().aware_of.insert(sa.clone());
        assert_eq!(
            add(&facts, None),
            Err(vec![
                Obstacle::Absent(sa.clone()),
                Obstacle::Silent(region("ap")),
                Obstacle::Unaware { region: region("us"), of: sa.clone() },
            ])
        );
        let seen = facts.regions[&region("eu")].clone();
        facts.regions.insert(sa.clone(), seen.clone());
        facts.regions.insert(region("us"), seen.clone());
        facts.regions.insert(region("ap"), RegionFacts { left_behind: true, ..seen });
        assert_eq!(add(&facts, None), Ok(region("eu")), "the first that lacks nothing");
        assert_eq!(add(&facts, Some("us")), Ok(region("us")));
        for from in ["ap", "sa"] {
            let found = Err(vec![Obstacle::NoSource(Some(region(from)))]);
            assert_eq!(add(&facts, Some(from)), found);
        }
        assert_eq!(last_incarnation(&region("ap"), &facts), 1, "others hold its log");
        assert_eq!(last_incarnation(&sa, &facts), 0);
    }

    #[test]
    fn a_witness_stands_in_for_a_copy_and_for_no_region() {
        let (eu, ap) = (Origin::new(region("eu"), 1), region("ap"));
        let mut facts = facts(&["eu", "us"], 90);
        facts.rpo = Rpo::Zero { copies: 2 };
        let counted = Frontier::from_iter([(eu.clone(), Lsn(50))]);
        for name in ["eu", "us"] {
            facts.regions.get_mut(&region(name)).unwrap().flushed.advance(&eu, Lsn(50));
        }
        let needed = |facts: &Facts| obstacles(&ap, false, &HASH, facts, &counted);
        assert_eq!(needed(&facts)[0], Obstacle::IsNeeded { left: 2, needed: 3 });
        facts.ownership = facts.ownership.with_witnesses([region("metro")]);
        let held = WitnessFacts { reachable: true, flushed: Frontier::default() };
        facts.witnesses.insert(region("metro"), held);
        let few = Obstacle::FewCopies { origin: eu.clone(), end: Lsn(50), have: 1, copies: 2 };
        assert_eq!(needed(&facts), [few]);
        facts.witnesses.get_mut(&region("metro")).unwrap().flushed.advance(&eu, Lsn(50));
        assert_eq!(needed(&facts), []);
        // The witness itself goes only when it is stopped and no copy of its counts any more.
        let metro = region("metro");
        facts.regions.get_mut(&ap).unwrap().reachable = true;
        let leaves = |facts: &Facts| obstacles(&metro, false, &HASH, facts, &counted);
        let few = Obstacle::FewCopies { origin: eu.clone(), end: Lsn(50), have: 1, copies: 2 };
        assert_eq!(leaves(&facts), [Obstacle::Runs(metro.clone()), few]);
        facts.witnesses.get_mut(&metro).unwrap().reachable = false;
        facts.regions.get_mut(&ap).unwrap().flushed.advance(&eu, Lsn(50));
        assert_eq!(leaves(&facts), []);
        // A single region with witnesses replicates nothing.
        facts.rpo = Rpo::None;
        let two = ["eu", "ap"].map(region);
        facts.ownership =
            Ownership::initial(2, &two[..1]).with_members(two).with_witnesses([metro]);
        let found = obstacles(&ap, false, &HASH, &facts, &Frontier::default());
        assert_eq!(found[0], Obstacle::IsNeeded { left: 1, needed: 2 });
    }

    #[test]
    fn what_it_owns_must_have_moved() {
        let facts = facts(&["eu", "ap"], 90);
        let found = obstacles(&region("ap"), false, &HASH, &facts, &Frontier::default());
        let [owns @ Obstacle::Owns { answers: false, .. }] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert!(owns.way_out().contains("failover --from ap"), "{}", owns.way_out());
        let fence = OwnershipChange::Fence { from: region("ap"), run: RunId("1".into()) };
        let ownership = facts.ownership.apply(&fence).unwrap();
        let found = obstacles(
            &region("ap"),
            false,
            &HASH,
            &Facts { ownership, ..facts },
            &Frontier::default(),
        );
        assert!(matches!(found.as_slice(), [Obstacle::Moves(_)]), "{found:?}");
    }

    #[test]
    fn nobody_who_stays_may_be_silent_nor_may_it_run_itself() {
        let mut facts = facts(&["eu", "us"], 90);
        facts.regions.get_mut(&region("us")).unwrap().reachable = false;
        facts.regions.get_mut(&region("ap")).unwrap().reachable = true;
        let found = obstacles(&region("ap"), false, &HASH, &facts, &Frontier::default());
        assert_eq!(found, [Obstacle::Runs(region("ap")), Obstacle::Silent(region("us"))]);
    }

    #[test]
    fn a_home_stays_and_so_does_the_last_but_one() {
        let mut facts = facts(&["eu", "us"], 90);
        let home = Scheme::Home { regions: vec![region("eu"), region("ap")] };
        assert_eq!(
            obstacles(&region("ap"), false, &home, &facts, &Frontier::default()),
            [Obstacle::IsNamed(region("ap"))]
        );
        facts.regions.remove(&region("us"));
        assert_eq!(
            obstacles(&region("ap"), false, &HASH, &facts, &Frontier::default()),
            [Obstacle::IsNeeded { left: 1, needed: 2 }]
        );
        assert_eq!(obstacles(&region("ap"), true, &home, &facts, &Frontier::default()), []);
        facts.rpo = Rpo::Zero { copies: 1 };
        assert_eq!(
            obstacles(&region("ap"), true, &home, &facts, &Frontier::default()),
            [Obstacle::IsNeeded { left: 1, needed: 2 }]
        );
    }

    #[test]
    fn the_only_copy_that_a_commit_was_acknowledged_for_is_not_given_up() {
        let eu = Origin::new(region("eu"), 1);
        let mut facts = facts(&["eu", "us"], 90);
        facts.rpo = Rpo::Zero { copies: 1 };
        let mut reaches = |name: &str, lsn| {
            facts.regions.get_mut(&region(name)).unwrap().flushed.advance(&eu, Lsn(lsn));
            facts.clone()
        };
        reaches("eu", 50);
        let seen = reaches("us", 40);
        let counted_on = counted_on(&region("ap"), &seen);
        assert_eq!(counted_on, Frontier::from_iter([(eu.clone(), Lsn(50))]));
        let found = |facts: &Facts| obstacles(&region("ap"), false, &HASH, facts, &counted_on);
        let few = found(&seen);
        assert!(
            matches!(few.as_slice(), [Obstacle::FewCopies { have: 0, copies: 1, .. }]),
            "{few:?}"
        );
        assert!(few[0].passes());
        // What came after it was gone it never held.
        reaches("eu", 60);
        let mut seen = reaches("us", 50);
        assert_eq!(found(&seen), []);
        seen.rpo = Rpo::Zero { copies: 2 };
        let found = found(&seen);
        assert_eq!(found[0], Obstacle::IsNeeded { left: 2, needed: 3 });
    }
}
