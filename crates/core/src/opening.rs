//! Which of its partitions may a region let writers into?
//!
//! To own them is not enough. A region that had lost partitions and owns them again may show rows that
//! are no history: what it wrote last, and nobody else had. Whatever is written on top of such a row is
//! history, and what is repaired afterwards undoes it. So a partition that is new here stays closed until
//!
//! - everything that was written here before the guard was closed is read from the WAL and judged;
//! - every log here was held against the partition's cuts, and what lies beyond them is journaled;
//! - no row that may be of this partition waits to be repaired.
//!
//! ```text
//!   eu owns      |lost ............ owned again
//!   its WAL   ===|===tail==|                     judged, examined
//!   its rows     |         ^ still shown         ...........|repaired
//!   its guard    |closed ...................................|open
//! ```
//!
//! One that is open at the same epoch already stays open, whatever is found: it was written on top of.

use std::collections::BTreeSet;

use crate::id::{Epoch, PartitionId, PartitionRange, RegionId};
use crate::ownership::{Entry, Ownership};

/// The state of a region whose tables may show what is no history.
pub const UNSETTLED: &str = "unsettled";
/// The state of a region that owns partitions into which it lets nobody yet.
pub const NOT_OPENED: &str = "not_opened";

/// Partitions that a guard lets its own region write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    pub range: PartitionRange,
    pub epoch: Epoch,
}

/// What is known of the rows that a region shows.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Everything that was written here before the guard was closed last is read and judged.
    pub judged: bool,
    /// Every log here was held against the cuts of this ownership.
    pub examined: Option<&'a Ownership>,
}

/// Whose rows wait to be read again from a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// There are some of which nobody knows the partition.
    pub anywhere: bool,
    pub of: BTreeSet<PartitionId>,
}

/// Partitions that a region owns and has not opened at this epoch.
#[derive(Clone, Copy, Debug)]
pub struct Fresh<'a> {
    range: PartitionRange,
    entry: &'a Entry,
}

/// Returns the partitions of `region` that are not `open` at their epoch yet; `open` is sorted.
pub fn fresh<'a>(ownership: &'a Ownership, region: &RegionId, open: &[Open]) -> Vec<Fresh<'a>> {
    let mine = ownership.entries().iter().filter(|e| e.state.admits() == Some(region));
    let fresh = mine.flat_map(|entry| {
        let first = open.partition_point(|open| open.range.last < entry.range.first);
        let near = open[first..].iter().take_while(|open| open.range.first <= entry.range.last);
        let kept = near.filter(|open| open.epoch == entry.epoch).map(|open| open.range);
        without(entry.range, kept).into_iter().map(move |range| Fresh { range, entry })
    });
    fresh.collect()
}

/// Returns those of the `fresh` partitions of `region` that stay closed for now.
pub fn closed(
    fresh: &[Fresh<'_>],
    region: &RegionId,
    rows: Rows<'_>,
    repairs: &Repairs,
) -> Vec<PartitionRange> {
    let closed = fresh.iter().flat_map(|Fresh { range, entry }| {
        if repairs.anywhere || !rows.are_settled_for(entry, region) {
            return vec![*range];
        }
        let (first, last) = (PartitionId(range.first), PartitionId(range.last));
        let repaired = repairs.of.range(first..=last).map(|p| PartitionRange::new(p.0, p.0));
        joined(repaired)
    });
    joined(closed)
}

/// Returns what is open, sorted, where `region` goes by `ownership` and keeps `closed`.
pub fn open(ownership: &Ownership, region: &RegionId, closed: &[PartitionRange]) -> Vec<Open> {
    let mine = ownership.entries().iter().filter(|e| e.state.admits() == Some(region));
    let open = mine.flat_map(|entry| {
        let ranges = without(entry.range, closed.iter().copied());
        ranges.into_iter().map(|range| Open { range, epoch: entry.epoch })
    });
    open.collect()
}

/// Returns the parts of `range` that are in none of `holes`.
pub fn without(
    range: PartitionRange,
    holes: impl IntoIterator<Item = PartitionRange>,
) -> Vec<PartitionRange> {
    let mut holes: Vec<_> = holes.into_iter().filter_map(|hole| hole.overlap(&range)).collect();
    holes.sort_by_key(|hole| hole.first);
    let (mut parts, mut next) = (Vec::new(), range.first);
    for hole in holes {
        if next < hole.first {
            parts.push(PartitionRange::new(next, hole.first - 1));
        }
        next = next.max(hole.last + 1);
    }
    if next <= range.last {
        parts.push(PartitionRange::new(next, range.last));
    }
    parts
}

/// Joins ranges that follow on each other.
fn joined(ranges: impl IntoIterator<Item = PartitionRange>) -> Vec<PartitionRange> {
    let mut joined: Vec<PartitionRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.last + 1 == range.first => last.last = range.last,
            _ => joined.push(range),
        }
    }
    joined
}

impl Rows<'_> {
    /// Is all found that `region` may show and is no history, as far as `ownership` tells?
    pub fn are_settled(&self, ownership: &Ownership, region: &RegionId) -> bool {
        let mut entries = ownership.entries().iter();
        let examined = self.examined == Some(ownership);
        entries.all(|e| (examined || self.are_examined_for(e)) && self.are_judged_for(e, region))
    }

    fn are_settled_for(&self, entry: &Entry, region: &RegionId) -> bool {
        self.are_examined_for(entry) && self.are_judged_for(entry, region)
    }

    fn are_examined_for(&self, entry: &Entry) -> bool {
        entry.has_no_cut() || self.examined.is_some_and(|known| known.knows_cuts_of(entry))
    }

    /// Where a region was never the owner there is nothing of its own to be judged.
    fn are_judged_for(&self, entry: &Entry, region: &RegionId) -> bool {
        self.judged || !entry.may_have_been_of(region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Origin, RunId};
    use crate::lsn::{Cut, Lsn};
    use crate::ownership::OwnershipChange;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    /// Six partitions: 0-2 of eu, 3-5 of us.
    fn initial() -> Ownership {
        Ownership::initial(6, &[region("eu"), region("us")])
    }

    /// eu has lost what it owned, and has `range` again at epoch 3.
    fn back(range: PartitionRange) -> Ownership {
        let changes = [
            OwnershipChange::Fence { from: region("eu"), run: RunId("lost".into()) },
            OwnershipChange::Cut { run: RunId("lost".into()), cut: cut("eu", 100) },
            OwnershipChange::Grant { run: RunId("lost".into()), to: region("us") },
            OwnershipChange::HandOver { range, to: region("eu"), run: RunId("back".into()) },
            OwnershipChange::Barrier { run: RunId("back".into()), barrier: cut("us", 200) },
            OwnershipChange::Grant { run: RunId("back".into()), to: region("eu") },
        ];
        changes.iter().fold(initial(), |ownership, change| ownership.apply(change).unwrap())
    }

    fn cut(name: &str, lsn: u64) -> Cut {
        Cut { origin: Origin::new(region(name), 1), lsn: Lsn(lsn) }
    }

    fn range(first: u32, last: u32) -> PartitionRange {
        PartitionRange::new(first, last)
    }

    fn repairs(of: &[u32]) -> Repairs {
        Repairs { anywhere: false, of: of.iter().copied().map(PartitionId).collect() }
    }

    /// What eu keeps closed where these are open.
    fn kept_closed(
        ownership: &Ownership,
        open: &[Open],
        rows: Rows<'_>,
        repairs: &Repairs,
    ) -> Vec<PartitionRange> {
        closed(&fresh(ownership, &region("eu"), open), &region("eu"), rows, repairs)
    }

    const UNKNOWN: Rows<'static> = Rows { judged: false, examined: None };

    #[test]
    fn a_new_cluster_opens_at_once() {
        assert_eq!(kept_closed(&initial(), &[], UNKNOWN, &Repairs::default()), []);
    }

    #[test]
    fn a_region_that_is_back_opens_once_all_is_judged_and_examined_and_repaired() {
        let now = back(range(0, 1));
        let examined = Some(&now);
        let closed = |rows, repairs: &Repairs| kept_closed(&now, &[], rows, repairs);
        let none = Repairs::default();
        assert_eq!(closed(UNKNOWN, &none), [range(0, 1)]);
        assert_eq!(closed(Rows { judged: true, examined: None }, &none), [range(0, 1)]);
        assert_eq!(closed(Rows { judged: false, examined }, &none), [range(0, 1)]);
        assert_eq!(closed(Rows { judged: true, examined }, &none), []);
        assert_eq!(closed(Rows { judged: true, examined }, &repairs(&[1, 4])), [range(1, 1)]);
        let anywhere = Repairs { anywhere: true, ..none };
        assert_eq!(closed(Rows { judged: true, examined }, &anywhere), [range(0, 1)]);
    }

    #[test]
    fn an_older_examination_counts_once_it_knows_every_cut_of_the_partition() {
        let (before, now) = (back(range(0, 0)), back(range(0, 1)));
        let rows = Rows { judged: true, examined: Some(&before) };
        // Of partition 1 it lacks the end of us's epoch; both came by one hand-over.
        assert_eq!(kept_closed(&now, &[], rows, &Repairs::default()), [range(0, 1)]);
        assert_eq!(kept_closed(&before, &[], rows, &Repairs::default()), []);
        let eu = region("eu");
        assert!(!rows.are_settled(&now, &eu) && rows.are_settled(&before, &eu));
        assert!(!Rows { judged: false, ..rows }.are_settled(&before, &eu));
        assert!(Rows { judged: false, ..rows }.are_settled(&before, &region("ap")));
        assert!(UNKNOWN.are_settled(&initial(), &eu));
    }

    #[test]
    fn what_is_open_at_its_epoch_stays_open() {
        let now = back(range(0, 2));
        let at = |epoch| Open { range: range(0, 1), epoch: Epoch(epoch) };
        let none = Repairs::default();
        assert_eq!(kept_closed(&now, &[at(3)], UNKNOWN, &none), [range(2, 2)]);
        assert_eq!(kept_closed(&now, &[at(1)], UNKNOWN, &none), [range(0, 2)]);
        let left = open(&now, &region("eu"), &[range(2, 2)]);
        assert_eq!(left, [at(3)]);
        assert_eq!(kept_closed(&now, &left, UNKNOWN, &none), [range(2, 2)]);
    }

    #[test]
    fn who_never_owned_a_partition_has_nothing_of_its_own_to_judge_there() {
        let run = RunId("first".into());
        let changes = [
            OwnershipChange::HandOver { range: range(3, 3), to: region("eu"), run: run.clone() },
            OwnershipChange::Barrier { run: run.clone(), barrier: cut("us", 100) },
            OwnershipChange::Grant { run, to: region("eu") },
        ];
        let now = changes.iter().fold(initial(), |now, change| now.apply(change).unwrap());
        let rows = Rows { judged: false, examined: Some(&now) };
        let held = open(&initial(), &region("eu"), &[]);
        assert_eq!(kept_closed(&now, &held, rows, &Repairs::default()), []);
    }

    #[test]
    fn holes_are_left_out() {
        let holes = [range(7, 9), range(2, 3), range(0, 0)];
        assert_eq!(without(range(1, 8), holes), [range(1, 1), range(4, 6)]);
        assert_eq!(without(range(0, 0), holes), []);
    }
}
