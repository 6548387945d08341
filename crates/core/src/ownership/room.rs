//! Does this value fit into the directory, also after regions are lost?
//!
//! It is one document there, of a bounded size. Partitions that stand together cost nothing; each
//! range that is moved by itself costs an entry, and each grant an older epoch of every entry that it
//! speaks of. A fence that does not fit would leave partitions without an owner for good. So it is
//! the planned hand-over that is refused, as long as there is room left: see [`FAILOVERS_MIN`].

use std::fmt::{self, Write as _};

use super::{Closed, Entry, Ownership, OwnershipRefusal, State};

/// The most that the directory takes.
pub const OWNERSHIP_BYTES_MAX: usize = 1024 * 1024;

/// A planned hand-over of a part of a range leaves room for so many failovers in a row, of all
/// partitions there are.
pub const FAILOVERS_MIN: usize = 4;

/// As long as what names a run of its own.
const RUN_BYTES: usize = 36;
/// As long as the longest name of an origin's incarnation and of a position, and then some.
const CUT_BYTES: usize = 10 + 17;

impl Ownership {
    /// How long the document is that says this.
    pub fn bytes(&self) -> usize {
        let entries: usize = self.entries.iter().map(Entry::bytes).sum();
        self.head_bytes() + entries
    }

    /// How long it would be once all of it was fenced and granted so many times more.
    pub fn bytes_after(&self, failovers: usize) -> usize {
        let name = self.members.iter().map(|member| member.as_str().len()).max().unwrap_or(0);
        let grant = Closed::bytes_of(20, name, name + CUT_BYTES);
        let fence = length(format_args!(r#""run":"","cut":{{"origin":"","lsn":""}}"#));
        let more = failovers * grant + fence + RUN_BYTES + 2 * name + CUT_BYTES;
        self.bytes() + self.entries.len() * more
    }

    /// Refuses what leaves no room for failovers. Where whole ranges move, room for one is enough: or
    /// what had to be taken over could not be handed back.
    pub(super) fn check_room(self, before: &Self) -> Result<Self, OwnershipRefusal> {
        let ranges = self.entries.len();
        let failovers = if ranges > before.entries.len() { FAILOVERS_MIN } else { 1 };
        let bytes = self.bytes_after(failovers);
        if bytes <= OWNERSHIP_BYTES_MAX {
            Ok(self)
        } else {
            Err(OwnershipRefusal::TooScattered { ranges, failovers, bytes })
        }
    }

    fn head_bytes(&self) -> usize {
        let holders: usize = self.holders().map(|holder| holder.as_str().len() + 3).sum();
        let list = if self.witnesses.is_empty() { 0 } else { r#""witnesses":[],"#.len() };
        // The name of the cluster, the version, the names of the other lists.
        let turns: usize = self.turns.iter().map(|turn| turn.run.0.len() + 3 + 12).sum();
        128 + list + holders + turns
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        let Self { range, epoch, state, closed } = self;
        let state = match state {
            State::Owned { by } => length(format_args!(r#"{{"is":"owned","by":"{by}"}}"#)),
            State::HandingOver { by, to, run, .. } => length(format_args!(
                r#"{{"is":"handing_over","by":"{by}","to":"{to}","run":"{run}","barrier":null}}"#
            )),
            State::Fenced { from, run, .. } => length(format_args!(
                r#"{{"is":"fenced","from":"{from}","run":"{run}","cut":null}}"#
            )),
        };
        let cut = self.state.cut().map_or(0, |cut| {
            let crate::lsn::Cut { origin, lsn } = cut;
            length(format_args!(r#"{{"origin":"{origin}","lsn":"{lsn}"}}"#))
        });
        let closed: usize = closed.iter().map(Closed::bytes).sum();
        let list = if closed == 0 { 0 } else { r#","closed":[]"#.len() };
        let head = length(format_args!(r#"{{"range":"{range}","epoch":{epoch},"state":}},"#));
        head + state + cut + list + closed
    }
}

impl Closed {
    fn bytes(&self) -> usize {
        let digits = length(format_args!("{}", self.epoch));
        let cut = length(format_args!("{}{}", self.cut.origin, self.cut.lsn));
        Self::bytes_of(digits, self.by.as_str().len(), cut)
    }

    fn bytes_of(digits: usize, by: usize, cut: usize) -> usize {
        let rest = r#"{"epoch":,"by":"","cut":{"origin":"","lsn":""}},"#.len();
        rest + digits + by + cut
    }
}

/// Counts what would be written, and writes it nowhere.
struct Length(usize);

impl fmt::Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

fn length(what: fmt::Arguments<'_>) -> usize {
    let mut length = Length(0);
    // Counting cannot fail.
    let _ = length.write_fmt(what);
    length.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, Origin, PartitionRange, RegionId, RunId};
    use crate::lsn::{Cut, Lsn};
    use crate::ownership::OwnershipChange;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    /// As docs/reference/scale.md says.
    const MOST: u32 = 1850;

    /// Ranges of two partitions, of which every other is another region's.
    fn scattered(ranges: u32) -> Ownership {
        let regions = ["eu", "us"].map(region);
        let entry = |number: u32| Entry {
            range: PartitionRange::new(2 * number, 2 * number + 1),
            epoch: Epoch(1),
            state: State::Owned { by: regions[number as usize % 2].clone() },
            closed: Vec::new(),
        };
        let members = regions.iter().cloned().collect();
        Ownership::from_entries(members, (0..ranges).map(entry).collect()).unwrap()
    }

    /// Hands the first partitions over, a whole range or a part of one.
    fn hand_over(from: &Ownership, last: u32, to: &str) -> Result<Ownership, OwnershipRefusal> {
        let (range, run) = (PartitionRange::new(0, last), RunId("r".repeat(RUN_BYTES)));
        from.apply(&OwnershipChange::HandOver { range, to: region(to), run })
    }

    fn refused_with_room_for(failovers: usize, moved: Result<Ownership, OwnershipRefusal>) -> bool {
        let for_lack_of_room = |why| matches!(why, OwnershipRefusal::TooScattered { failovers: of, .. } if of == failovers);
        moved.is_err_and(for_lack_of_room)
    }

    #[test]
    fn a_part_of_a_range_goes_nowhere_while_there_is_still_room_for_failovers() {
        assert!(hand_over(&scattered(MOST - 1), 0, "us").is_ok());
        let more = scattered(MOST + 10);
        assert!(refused_with_room_for(FAILOVERS_MIN, hand_over(&more, 0, "us")));
        assert!(more.bytes() < OWNERSHIP_BYTES_MAX / 4);
        assert!(hand_over(&more, 1, "us").is_ok(), "a whole range");
        assert!(refused_with_room_for(1, hand_over(&scattered(5000), 1, "us")));
    }

    #[test]
    fn what_a_hand_over_leaves_takes_the_failovers_that_it_promised() {
        let mut ownership = hand_over(&scattered(MOST - 1), 0, "us").unwrap();
        // Each takes all that the one before has granted: from the second on, all there is.
        for number in 0..FAILOVERS_MIN {
            let names = ["eu", "us"];
            let (from, to) = (region(names[number % 2]), region(names[(number + 1) % 2]));
            let run = RunId(format!("{number:0>RUN_BYTES$}"));
            let origin = Origin::new(from.clone(), u32::MAX);
            let cut = Cut { origin, lsn: Lsn(u64::MAX) };
            for change in [
                OwnershipChange::Fence { from, run: run.clone() },
                OwnershipChange::Cut { run: run.clone(), cut },
                OwnershipChange::Grant { run, to },
            ] {
                ownership = ownership.apply(&change).unwrap();
                assert!(ownership.bytes() <= OWNERSHIP_BYTES_MAX, "failover {number}");
            }
        }
    }

    #[test]
    fn what_was_taken_over_may_go_back_where_nothing_may_be_split() {
        let run = RunId("1".into());
        let cut = Cut { origin: Origin::new(region("eu"), 1), lsn: Lsn(9) };
        let changes = [
            OwnershipChange::Fence { from: region("eu"), run: run.clone() },
            OwnershipChange::Cut { run: run.clone(), cut },
            OwnershipChange::Grant { run, to: region("us") },
        ];
        let full = changes.iter().try_fold(scattered(MOST), |value, change| value.apply(change));
        let full = full.unwrap();
        assert!(refused_with_room_for(FAILOVERS_MIN, hand_over(&full, 0, "eu")));
        assert!(hand_over(&full, 1, "eu").is_ok());
    }

    #[test]
    fn a_million_partitions_that_stand_together_are_a_small_document() {
        let whole = Ownership::initial(1_000_000, &["ap", "eu", "us"].map(region));
        assert!(whole.bytes() < 1000, "{}", whole.bytes());
    }
}
