//! How does an owner keep the right to write while the directory does not answer?
//!
//! Its peers grant it instead. A *promise* of one of them says: whoever takes your partitions waits for
//! me for the length of a lease from now. The holder counts from before it asked, and goes on with
//! promises of so many peers that no failover could have done without all of them.
//!
//! ```text
//!   holder   |asked -------- ttl - margin --------|stops
//!   peer         |promised --------- ttl * (1 + 2 drift) ---------|over
//!                    |sealed, says how much of that is left
//!   executor              |told ----- what is left * (1 + 2 drift) -----|cut
//! ```
//!
//! Why nobody else can be the owner meanwhile: a change of owners is a write to the directory, and a
//! forced one asks survivors for seals before it names an end. Who has sealed promises no more. A
//! failover has seals of so many of the others that one of them has promised, if so many had that the
//! promise counted; and the seal of that one says until when it may be lived on. Where acknowledgements
//! wait for copies the seal ends the epoch by itself, and nobody waits.
//!
//! A promise is not on disk. A peer that starts again may have promised anything just before, and says so
//! for the length of one promise.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::history::Seal;
use crate::id::{Epoch, PartitionRange, RegionId};
use crate::lease::LeaseTerms;
use crate::ownership::Ownership;
use crate::progress::Rpo;
use crate::time::{Millis, Time};

/// What an owner asks its peers to promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub from: RegionId,
    /// The revision of the ownership that its guard goes by.
    pub revision: u64,
    /// What it owns by that.
    pub epochs: Vec<(PartitionRange, Epoch)>,
    /// The length of its lease.
    pub ttl: Millis,
}

impl Ask {
    pub fn new(from: &RegionId, ownership: &Ownership, revision: u64, terms: &LeaseTerms) -> Self {
        let owned = ownership.writable_by(from).map(|entry| (entry.range, entry.epoch));
        Self { from: from.clone(), revision, epochs: owned.collect(), ttl: terms.ttl }
    }
}

/// Why a peer promises nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    #[error("its epoch {0} is sealed here")]
    Sealed(Epoch),
    /// What it counts on may have changed: who the members are, or whose copies count.
    #[error("it goes by an older ownership than is known here")]
    Outdated,
    /// Nobody knows what this region knew before it was started again.
    #[error("no directory was read here since the agent was started")]
    Unread,
    #[error("its lease is longer than leases are here")]
    Longer,
}

/// Decides whether a peer that knows the ownership of revision `known` and has made `seals` promises
/// what it is asked for.
pub fn judge(
    ask: &Ask,
    known: Option<u64>,
    seals: &[Seal],
    terms: &LeaseTerms,
) -> Result<(), Refused> {
    let overlaps = |seal: &&Seal| {
        let sealed = |(range, epoch): &(PartitionRange, Epoch)| {
            range.overlap(&seal.range).is_some() && *epoch <= seal.epoch
        };
        seal.region == ask.from && ask.epochs.iter().any(sealed)
    };
    if let Some(seal) = seals.iter().find(overlaps) {
        return Err(Refused::Sealed(seal.epoch));
    }
    if known.ok_or(Refused::Unread)? > ask.revision {
        return Err(Refused::Outdated);
    }
    if ask.ttl > terms.ttl { Err(Refused::Longer) } else { Ok(()) }
}

/// Whom an owner asks, and whose promises it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    pub of: BTreeSet<RegionId>,
    pub count: usize,
}

impl Needed {
    /// With `k` copies a failover needs seals of more than `n - k` of the others whose copies count: any
    /// `k` of them will do, as for a commit. Whoever came since changes nothing about that.
    ///
    /// Without copies a failover goes on with whoever answers, so all must have promised; also whose copies
    /// do not count yet, since nobody tells a holder without a directory when it becomes one.
    pub fn new(rpo: Rpo, ownership: &Ownership, here: &RegionId, known: &[RegionId]) -> Self {
        let others = ownership.holders().filter(|other| *other != here).cloned();
        let mut of: BTreeSet<RegionId> = others.collect();
        match rpo {
            Rpo::Zero { copies } | Rpo::Within { copies, .. } => Self { of, count: copies.max(1) },
            Rpo::None => {
                of.extend(known.iter().filter(|region| *region != here).cloned());
                let count = of.len().max(1);
                Self { of, count }
            }
        }
    }

    /// Do the promises of `given` suffice?
    pub fn suffice(&self, given: &BTreeSet<RegionId>) -> bool {
        self.of.intersection(given).count() >= self.count
    }
}

/// A peer's side: what it has promised to whom.
#[derive(Clone, Debug)]
pub struct Promises {
    /// Before that there was another process, of which nothing is known.
    since: Time,
    given: BTreeMap<RegionId, Time>,
}

impl Promises {
    /// Of a process that starts at `now`.
    pub fn new(now: Time) -> Self {
        Self { since: now, given: BTreeMap::new() }
    }

    pub fn give(&mut self, to: &RegionId, now: Time) {
        self.given.insert(to.clone(), now);
    }

    /// When something was promised to `to` last, by this process.
    pub fn given(&self, to: &RegionId) -> Option<Time> {
        self.given.get(to).copied()
    }

    /// Does a promise of this process to `to` still hold? That is a sign of life.
    pub fn hold(&self, to: &RegionId, now: Time, terms: &LeaseTerms) -> bool {
        self.given(to).is_some_and(|at| now < at + terms.drift.outlast(terms.ttl))
    }

    /// For how long `to` may still live on what was promised here, be it before a restart.
    pub fn left(&self, to: &RegionId, now: Time, terms: &LeaseTerms) -> Millis {
        let at = self.given(to).unwrap_or(self.since);
        Millis((at + terms.drift.outlast(terms.ttl)).0.saturating_sub(now.0))
    }
}

/// When a promise of which a peer said that so much is `left` is over for certain, for who was told at `now`.
pub fn over_at(left: Millis, now: Time, terms: &LeaseTerms) -> Time {
    now + terms.drift.outlast(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Held;
    use crate::time::DriftPpm;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn terms() -> LeaseTerms {
        let (ttl, renew_every) = (Millis(3000), Millis(500));
        LeaseTerms { ttl, renew_every, margin: Millis(100), drift: DriftPpm(500) }
    }

    fn regions(names: &[&str]) -> Vec<RegionId> {
        names.iter().map(|name| region(name)).collect()
    }

    fn owned() -> Ownership {
        Ownership::initial(3, &regions(&["ap", "eu", "us"]))
    }

    fn ask() -> Ask {
        Ask::new(&region("eu"), &owned(), 7, &terms())
    }

    fn seal(of: &str, epoch: u64) -> Seal {
        let range = PartitionRange::new(0, 2);
        Seal { region: region(of), range, epoch: Epoch(epoch), held: Vec::new() }
    }

    #[test]
    fn who_has_sealed_an_epoch_promises_it_to_nobody() {
        let judge = |seals: &[Seal]| judge(&ask(), Some(7), seals, &terms());
        assert_eq!(judge(&[]), Ok(()));
        assert_eq!(judge(&[seal("us", 1), seal("eu", 0)]), Ok(()));
        assert_eq!(judge(&[seal("eu", 1)]), Err(Refused::Sealed(Epoch(1))));
        assert_eq!(judge(&[seal("eu", 4)]), Err(Refused::Sealed(Epoch(4))));
    }

    #[test]
    fn nothing_is_promised_to_who_may_count_on_others_than_a_failover_asks() {
        let judge = |known| judge(&ask(), known, &[], &terms());
        assert_eq!(judge(Some(6)), Ok(()));
        assert_eq!(judge(Some(8)), Err(Refused::Outdated));
        assert_eq!(judge(None), Err(Refused::Unread));
    }

    #[test]
    fn nobody_promises_for_longer_than_it_waits_after_a_restart() {
        let longer = Ask { ttl: Millis(3001), ..ask() };
        assert_eq!(judge(&longer, Some(7), &[], &terms()), Err(Refused::Longer));
    }

    /// For every number of members and copies: whoever has promised and whoever has sealed, where the
    /// one counted and the other ended the epoch, have a region in common. Members who joined after the
    /// holder heard of the directory last change nothing.
    #[test]
    fn who_counts_on_promises_and_who_ends_an_epoch_have_a_peer_in_common() {
        let names = ["b", "c", "d", "e", "f"];
        let subsets = |of: &[RegionId]| -> Vec<BTreeSet<RegionId>> {
            let chosen = |bits: usize| {
                let of = of.iter().enumerate();
                of.filter(|(i, _)| bits >> i & 1 == 1).map(|(_, region)| region.clone()).collect()
            };
            (0..1 << of.len()).map(chosen).collect()
        };
        let mut counted = 0;
        for (others, then) in (1..=4).flat_map(|n| [(n, n), (n, n + 1)]) {
            let owner = region("a");
            let all = regions(&names[..then]);
            let mut members = regions(&names[..others]);
            members.push(owner.clone());
            let known = Ownership::initial(9, &members);
            let rpos = (1..=others).map(|copies| Rpo::Zero { copies }).chain([Rpo::None]);
            for rpo in rpos {
                let needed = Needed::new(rpo, &known, &owner, &all);
                for promised in subsets(&all).iter().filter(|given| needed.suffice(given)) {
                    let ends = |sealed: &&BTreeSet<RegionId>| match rpo {
                        Rpo::None => !sealed.is_empty(),
                        rpo => sealed.len() + rpo.copies() > then,
                    };
                    for sealed in subsets(&all).iter().filter(ends) {
                        assert!(!promised.is_disjoint(sealed), "{rpo:?} {promised:?} {sealed:?}");
                        counted += 1;
                    }
                }
            }
        }
        assert!(counted > 500, "{counted} pairs");
    }

    #[test]
    fn an_owner_alone_has_nobody_to_promise() {
        let alone = Ownership::initial(3, &regions(&["eu"]));
        for rpo in [Rpo::None, Rpo::Zero { copies: 1 }] {
            let needed = Needed::new(rpo, &alone, &region("eu"), &regions(&["eu"]));
            assert!(!needed.suffice(&BTreeSet::new()), "{rpo:?}");
        }
    }

    #[test]
    fn a_promise_outlasts_the_holder_whichever_way_the_clocks_drift() {
        // The peer's clock is fast, the executor's too, the holder's is slow.
        let true_time = |ms: u64, ppm: i64| (ms as i64 * 1_000_000 / (1_000_000 + ppm)) as u64;
        let stops = Held { sent_at: Time(0) }.deadline(&terms()).0;
        let mut promises = Promises::new(Time(0));
        promises.give(&region("eu"), Time(10_000));
        for after in [0, 1, 700, 2999, 3003] {
            let left = promises.left(&region("eu"), Time(10_000 + after), &terms());
            let over = over_at(left, Time(0), &terms()).0;
            let waited = true_time(after, 500) + true_time(over, 500);
            assert!(waited >= true_time(stops, -500), "{after}: {waited}");
        }
        assert_eq!(promises.left(&region("eu"), Time(13_003), &terms()), Millis(0));
    }

    #[test]
    fn who_starts_again_may_have_promised_anything_just_before() {
        let promises = Promises::new(Time(500));
        assert_eq!(promises.left(&region("eu"), Time(500), &terms()), Millis(3003));
        assert_eq!(promises.left(&region("eu"), Time(3503), &terms()), Millis(0));
        assert!(!promises.hold(&region("eu"), Time(500), &terms()), "but it knows of nobody alive");
    }
}
