//! Is this value older than one that was seen before, or of another past?
//!
//! A directory that was restored from an older copy hands out epochs a second time. Revisions do
//! not tell for long, since they go on from where the copy stood; what the epochs say does: within
//! a partition, each value that follows another is further along this way.
//!
//! ```text
//!   epoch e   fenced -> fenced and cut -> owned -> handing over -> drained
//!   epoch e+1 fenced -> ...                  ^ a fence or a grant begins the next epoch
//! ```

use super::{Entry, Ownership, State};
use crate::id::{Epoch, PartitionRange, RegionId};
use crate::lsn::Cut;

impl Ownership {
    /// Returns partitions of which `seen` knew what this value does not, if there are any: then it
    /// cannot have come after `seen`.
    pub fn forgets(&self, seen: &Self) -> Option<PartitionRange> {
        seen.entries.iter().find_map(|before| {
            let mut held = 0;
            for now in self.overlapping(before.range) {
                let both = now.range.overlap(&before.range)?;
                if !now.follows(before) {
                    return Some(both);
                }
                held += both.count();
            }
            (held < before.range.count()).then_some(before.range)
        })
    }
}

impl Entry {
    /// Can this have become of `before`, or is it the same?
    fn follows(&self, before: &Self) -> bool {
        let further = (self.epoch, self.state.stage()) >= (before.epoch, before.state.stage());
        further && self.agrees(before) && self.keeps(before)
    }

    /// An epoch has one owner, from its grant on.
    fn agrees(&self, before: &Self) -> bool {
        match (self.state.holder(), before.state.holder()) {
            (Some(now), Some(then)) => self.epoch != before.epoch || now == then,
            (None, _) | (_, None) => true,
        }
    }

    /// Every end of an epoch that was final is known still, or so old that it is remembered no more. A
    /// barrier is not: a fence overrules it.
    fn keeps(&self, before: &Self) -> bool {
        let oldest = self.closed.first().map(|closed| closed.epoch);
        let is_final = |(epoch, _): &(Epoch, &Cut)| *epoch < before.epoch;
        before.endings().filter(is_final).all(|(epoch, cut)| {
            let forgotten = oldest.is_some_and(|oldest| epoch < oldest);
            forgotten || self.endings().any(|now| now == (epoch, cut))
        })
    }
}

impl State {
    fn stage(&self) -> u8 {
        match self {
            Self::Fenced { cut: None, .. } => 0,
            Self::Fenced { cut: Some(_), .. } => 1,
            Self::Owned { .. } => 2,
            Self::HandingOver { barrier: None, .. } => 3,
            Self::HandingOver { barrier: Some(_), .. } => 4,
        }
    }

    /// To whom the current epoch was granted.
    fn holder(&self) -> Option<&RegionId> {
        match self {
            Self::Owned { by } | Self::HandingOver { by, .. } => Some(by),
            Self::Fenced { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Origin, PartitionId, RunId};
    use crate::lsn::Lsn;
    use crate::ownership::{CLOSED_EPOCHS_MAX, OwnershipChange};

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn cut(name: &str, lsn: u64) -> Cut {
        Cut { origin: Origin::new(region(name), 1), lsn: Lsn(lsn) }
    }

    fn start() -> Ownership {
        Ownership::initial(9, &["ap", "eu", "us"].map(region))
    }

    fn hand_over(number: u64, from: &str, to: &str) -> Vec<OwnershipChange> {
        let run = RunId(number.to_string());
        let range = PartitionRange::new(4, 4);
        vec![
            OwnershipChange::HandOver { range, to: region(to), run: run.clone() },
            OwnershipChange::Barrier { run: run.clone(), barrier: cut(from, number) },
            OwnershipChange::Grant { run, to: region(to) },
        ]
    }

    fn fail_over(number: u64, from: &str, to: &str) -> Vec<OwnershipChange> {
        let run = RunId(number.to_string());
        vec![
            OwnershipChange::Fence { from: region(from), run: run.clone() },
            OwnershipChange::Cut { run: run.clone(), cut: cut(from, number) },
            OwnershipChange::Grant { run, to: region(to) },
        ]
    }

    /// Every value on the way, the first one included.
    fn history(changes: impl IntoIterator<Item = OwnershipChange>) -> Vec<Ownership> {
        let mut values = vec![start()];
        for change in changes {
            let last = values.last().unwrap();
            values.push(last.apply(&change).unwrap());
        }
        values
    }

    #[test]
    fn of_two_values_on_one_way_only_the_older_forgets() {
        let back = RunId("9".to_owned());
        let mut changes = hand_over(1, "eu", "us");
        changes.extend(fail_over(2, "us", "ap"));
        changes.extend(hand_over(3, "ap", "eu"));
        let range = PartitionRange::new(0, 3);
        changes.push(OwnershipChange::HandOver { range, to: region("us"), run: back.clone() });
        changes.extend(fail_over(4, "ap", "us"));
        changes.push(OwnershipChange::Leave { region: region("ap") });
        changes.push(OwnershipChange::Join { region: region("ap") });
        let values = history(changes);
        for (i, earlier) in values.iter().enumerate() {
            for (j, later) in values.iter().enumerate().skip(i) {
                assert_eq!(later.forgets(earlier), None, "{i} then {j}");
                let same_owners = earlier.entries == later.entries;
                assert_eq!(earlier.forgets(later).is_none(), same_owners, "{j} then {i}");
            }
        }
    }

    /// Every change that two regions and two runs can make to two partitions.
    fn all_changes() -> Vec<OwnershipChange> {
        let mut changes = Vec::new();
        for (number, name) in [(1, "ap"), (1, "eu"), (2, "ap"), (2, "eu")] {
            let (run, of, cut) = (RunId(number.to_string()), region(name), cut(name, number));
            for range in [PartitionRange::new(0, 0), PartitionRange::new(0, 1)] {
                let (to, run) = (of.clone(), run.clone());
                changes.push(OwnershipChange::HandOver { range, to, run });
            }
            changes.extend([
                OwnershipChange::Barrier { run: run.clone(), barrier: cut.clone() },
                OwnershipChange::Fence { from: of.clone(), run: run.clone() },
                OwnershipChange::Cut { run: run.clone(), cut },
                OwnershipChange::Grant { run: run.clone(), to: of },
                OwnershipChange::HandBack { run },
            ]);
        }
        changes
    }

    /// Makes every possible change, `depth` times, and holds each value against all before it.
    fn explore(way: &mut Vec<Ownership>, changes: &[OwnershipChange], depth: u32) -> u32 {
        let mut seen = 0;
        for change in changes {
            let Ok(next) = way.last().unwrap().apply(change) else { continue };
            for before in way.iter() {
                assert_eq!(next.forgets(before), None, "{before:#?} and later {next:#?}");
                assert!(before.forgets(&next).is_some(), "{next:#?} and later {before:#?}");
            }
            seen += 1;
            if depth > 1 {
                way.push(next);
                seen += explore(way, changes, depth - 1);
                way.pop();
            }
        }
        seen
    }

    #[test]
    fn no_change_is_taken_for_a_loss_and_each_would_be_missed() {
        let start = Ownership::initial(2, &["ap", "eu"].map(region));
        let seen = explore(&mut vec![start], &all_changes(), 6);
        assert!(seen > 1000, "{seen} values");
    }

    #[test]
    fn two_ways_from_one_value_forget_each_other() {
        let one = history(hand_over(1, "eu", "us")).pop().unwrap();
        let other = history(fail_over(2, "eu", "ap")).pop().unwrap();
        assert!(one.forgets(&other).is_some());
        assert!(other.forgets(&one).is_some());
        let same_cut = history(hand_over(1, "eu", "ap")).pop().unwrap();
        let at = Some(PartitionRange::new(4, 4));
        assert_eq!((one.forgets(&same_cut), same_cut.forgets(&one)), (at, at));
    }

    #[test]
    fn fewer_partitions_are_a_loss_and_more_are_none() {
        let more = start().with_last(region("eu"));
        assert_eq!(start().forgets(&more), Some(PartitionRange::new(9, 9)));
        assert_eq!(more.forgets(&start()), None);
    }

    #[test]
    fn ends_of_epochs_that_are_too_old_to_be_kept_are_not_missed() {
        let regions = ["eu", "us"];
        let changes = (0..2 * CLOSED_EPOCHS_MAX as u64)
            .flat_map(|n| hand_over(n + 1, regions[n as usize % 2], regions[(n as usize + 1) % 2]));
        let values = history(changes);
        let (first, last) = (&values[3], values.last().unwrap());
        assert_eq!(last.entry(PartitionId(4)).unwrap().closed.len(), CLOSED_EPOCHS_MAX);
        assert_eq!(last.forgets(first), None);
        assert!(first.forgets(last).is_some());
    }
}
