//! Who may write which partition, since which epoch, and where do older epochs end?
//!
//! One value describes all partitions, as ranges. It changes only by [`Ownership::apply`], whose
//! result is written to the directory by compare-and-set: so two changes can never both build on
//! the same value, and each epoch of a partition is given to one region only.
//!
//! The history of a partition is the owners' writes, epoch after epoch, each up to its cut:
//!
//! ```text
//!   epoch 1, by eu          epoch 2, by us         epoch 3, by eu
//!   [..............cut1]    [..........cut2]       [.............
//!                   ^ what eu wrote past its cut never becomes history
//! ```
//!
//! Beside the partitions of tables stands the canary: a partition of nobody's rows, which moves like the
//! others and may be moved at any time. It has a number of its own, far behind all others.
//!
//! It also names who holds the owners' logs: the members, which are the regions, and the witnesses,
//! which have no tables and never own. Copies of all of these count for an acknowledgement, and a cut
//! therefore needs their seals. Both in one value, and no holder comes or goes while a cut is decided:
//! so nothing was ever counted on that a cut did not ask.

mod forgets;
mod room;

pub use room::{FAILOVERS_MIN, OWNERSHIP_BYTES_MAX};

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;

use crate::change::Stamp;
use crate::id::{Epoch, Origin, PartitionId, PartitionRange, RegionId, RunId};
use crate::lsn::{Cut, Lsn};

/// Older epochs remembered per partition. One is added by each grant.
pub const CLOSED_EPOCHS_MAX: usize = 64;

/// Runs remembered to have had partitions in their hands. One is added by each.
pub const RUNS_MAX: usize = 512;

/// All partitions, each with its owner. Entries are sorted and merged where equal, and without gaps but
/// for the one before the canary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ownership {
    members: BTreeSet<RegionId>,
    witnesses: BTreeSet<RegionId>,
    entries: Vec<Entry>,
    /// The latest last.
    turns: Vec<Turn>,
}

/// A run that has, or had, partitions in its hands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Turn {
    pub run: RunId,
    pub came_to: CameTo,
}

/// What became of the partitions that a run took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CameTo {
    /// They are in its hands, or were handed back; or nobody wrote down what became of them.
    Unknown,
    /// Another run has taken some of them out of its hands.
    Overruled,
    /// All of them were granted, whoever has them now.
    Granted,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub range: PartitionRange,
    pub epoch: Epoch,
    pub state: State,
    /// Older epochs, oldest first.
    pub closed: Vec<Closed>,
}

/// Who may write now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Owned {
        by: RegionId,
    },
    /// Planned: `by` drains its writers and names a barrier, then `to` becomes the owner.
    HandingOver {
        by: RegionId,
        to: RegionId,
        run: RunId,
        barrier: Option<Cut>,
    },
    /// Forced: nobody may write. `epoch` is already the one that the next owner gets; the last
    /// one was `from`'s and ends at `cut` once that is known.
    Fenced {
        from: RegionId,
        run: RunId,
        cut: Option<Cut>,
    },
}

/// An epoch that is over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Closed {
    pub epoch: Epoch,
    pub by: RegionId,
    pub cut: Cut,
}

/// A change of ownership. Each is absolute or names the run it belongs to, so that repeating it
/// is refused or changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnershipChange {
    /// Starts a planned hand-over of `range` to `to`; what is `to`'s already stays as it is.
    HandOver { range: PartitionRange, to: RegionId, run: RunId },
    /// The owner has drained: nothing of `run`'s partitions was written after `barrier`.
    Barrier { run: RunId, barrier: Cut },
    /// Takes every partition of `from` away from it, also those it is handing over.
    Fence { from: RegionId, run: RunId },
    /// Takes the canary alone away from `from`, which owns it and hands it to nobody.
    FenceCanary { from: RegionId, run: RunId },
    /// Ends the fenced owner's epoch at `cut`. Immutable once written.
    Cut { run: RunId, cut: Cut },
    /// Makes `to` the owner of everything that `run` drained or fenced and cut.
    Grant { run: RunId, to: RegionId },
    /// Gives everything that `run` drained back to whoever handed it over: at the next epoch, and
    /// each part to its own former owner, which alone is sure to have all of its history.
    HandBack { run: RunId },
    /// `region` shows what the others show: its copies count from now on, and it may own.
    Join { region: RegionId },
    /// `region` owns nothing, and nothing is waited for that it alone holds. It may be a witness.
    Leave { region: RegionId },
    /// `witness` takes in what the owners write: its copies count from now on.
    Witness { witness: RegionId },
    /// The canary partition is there from now on, and `by`'s. Ownership that an older Domicile has
    /// written has none.
    AddCanary { by: RegionId },
}

/// Why a change cannot be made to this value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OwnershipRefusal {
    #[error("there is no partition {0}")]
    NoSuchPartition(PartitionRange),
    #[error("partition {range} is {state}")]
    NotOwned { range: PartitionRange, state: String },
    #[error("partition {range} already belongs to region \"{to}\"")]
    AlreadyOwner { range: PartitionRange, to: RegionId },
    #[error("region \"{0}\" owns nothing")]
    OwnsNothing(RegionId),
    #[error("run {0} has no partition in this state")]
    NothingToDo(RunId),
    #[error("run {0} had partitions in its hands before")]
    HadItsTurn(RunId),
    #[error("partition {0} has no cut yet")]
    NoCut(PartitionRange),
    #[error("region \"{0}\" is a member already")]
    IsMember(RegionId),
    #[error("\"{0}\" is a witness already")]
    IsWitness(RegionId),
    #[error("region \"{0}\" is not a member of the cluster")]
    NotMember(RegionId),
    #[error("region \"{0}\" owns partitions, or is about to")]
    OwnsSomething(RegionId),
    #[error("there is a canary partition already")]
    HasCanary,
    #[error(
        "ownership would be in {ranges} ranges, and of {bytes} bytes after as many failovers as there must \
         be room for ({failovers}), more than {OWNERSHIP_BYTES_MAX}: move ranges that stand together"
    )]
    TooScattered { ranges: usize, failovers: usize, bytes: usize },
}

/// Where a write belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Part of the partition's history.
    InHistory,
    /// Its owner wrote it, but past the end of its epoch.
    BeyondCut(Cut),
    /// Its epoch was never given to that region.
    NeverGranted,
    /// Not known yet: the epoch is newer than this value, or its cut is being decided.
    Undecided,
}

impl Ownership {
    /// The first owners, all of them members: consecutive partitions are dealt out evenly, in the
    /// regions' order.
    ///
    /// Panics without regions or partitions.
    pub fn initial(total: u32, regions: &[RegionId]) -> Self {
        assert!(total > 0 && !regions.is_empty(), "ownership needs partitions and regions");
        let share = |i: usize| (u64::from(total) * i as u64 / regions.len() as u64) as u32;
        let deal = |(i, region): (usize, &RegionId)| {
            let (first, end) = (share(i), share(i + 1));
            let range = (first < end).then(|| PartitionRange::new(first, end - 1))?;
            Some(Entry::first(range, region.clone()))
        };
        let members = regions.iter().cloned().collect();
        Self::from_entries(members, regions.iter().enumerate().filter_map(deal).collect())
            .expect("an even deal has no gaps")
    }

    /// Makes these regions members too.
    pub fn with_members(mut self, members: impl IntoIterator<Item = RegionId>) -> Self {
        self.members.extend(members);
        self
    }

    /// Adds one partition at the end, owned by `by`.
    pub fn with_last(mut self, by: RegionId) -> Self {
        let number = self.total();
        let entry = Entry::first(PartitionRange::new(number, number), by);
        self.entries.insert(self.data().len(), entry);
        self.merged()
    }

    /// Adds the canary, owned by `by`. Panics when there is one.
    pub fn with_canary(mut self, by: RegionId) -> Self {
        assert!(!self.has_canary(), "there is one canary");
        self.entries.push(Entry::first(PartitionRange::CANARY, by));
        self
    }

    /// Rebuilds a stored value; `None` when the entries have gaps, overlaps or do not start at 0.
    pub fn from_entries(members: BTreeSet<RegionId>, mut entries: Vec<Entry>) -> Option<Self> {
        entries.sort_by_key(|e| e.range.first);
        let witnesses = BTreeSet::new();
        let ownership = Self { members, witnesses, entries, turns: Vec::new() };
        let data = ownership.data();
        let starts = data.first().is_some_and(|e| e.range.first == 0);
        let joined =
            data.windows(2).all(|w| w[0].range.last.checked_add(1) == Some(w[1].range.first));
        let apart = data.last().is_some_and(|e| e.range.last < PartitionId::CANARY.0);
        (starts && joined && apart).then(|| ownership.merged())
    }

    /// Remembers these turns, the latest last.
    pub fn with_turns(mut self, turns: Vec<Turn>) -> Self {
        self.turns = turns;
        self
    }

    /// Has these hold logs without owning.
    pub fn with_witnesses(mut self, witnesses: impl IntoIterator<Item = RegionId>) -> Self {
        self.witnesses.extend(witnesses);
        self
    }

    /// The regions: those who may own.
    pub fn members(&self) -> &BTreeSet<RegionId> {
        &self.members
    }

    pub fn witnesses(&self) -> &BTreeSet<RegionId> {
        &self.witnesses
    }

    /// Whose copies count and whose seals are needed: members and witnesses.
    pub fn holders(&self) -> impl Iterator<Item = &RegionId> + Clone {
        self.members.iter().chain(&self.witnesses)
    }

    /// The runs that have, or had, partitions in their hands, the latest last.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// Did `run` ever get partitions into its hands, as far as is known here?
    pub fn had_its_turn(&self, run: &RunId) -> bool {
        self.turn(run).is_some() || self.ranges_of(run).next().is_some()
    }

    /// What became of what `run` took, if that is remembered.
    pub fn turn(&self, run: &RunId) -> Option<CameTo> {
        self.turns.iter().find(|turn| turn.run == *run).map(|turn| turn.came_to)
    }

    /// All of them, the canary's last.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Those of partitions that have rows of somebody's: all but the canary's.
    pub fn data(&self) -> &[Entry] {
        match self.entries.split_last() {
            Some((last, data)) if last.is_canary() => data,
            _ => &self.entries,
        }
    }

    pub fn has_canary(&self) -> bool {
        self.entries.last().is_some_and(Entry::is_canary)
    }

    /// How many partitions there are that tables are divided into.
    pub fn total(&self) -> u32 {
        self.data().last().map_or(0, |e| e.range.last + 1)
    }

    pub fn entry(&self, partition: PartitionId) -> Option<&Entry> {
        let i = self.entries.partition_point(|e| e.range.last < partition.0);
        self.entries.get(i).filter(|e| e.range.contains(partition))
    }

    /// Is all of `range` there? The canary stands in no range with others.
    pub fn covers(&self, range: PartitionRange) -> bool {
        range.last < self.total() || (range == PartitionRange::CANARY && self.has_canary())
    }

    /// Returns the entries that share partitions with `range`. They stand together: a value may have
    /// thousands, and who looks at every one for each of another value's does not come to an end.
    fn overlapping(&self, range: PartitionRange) -> impl Iterator<Item = &Entry> {
        let first = self.entries.partition_point(|e| e.range.last < range.first);
        self.entries[first..].iter().take_while(move |e| e.range.first <= range.last)
    }

    /// Returns the entries that `region` may write now: owned, or handed over but not yet drained.
    pub fn writable_by<'a>(&'a self, region: &'a RegionId) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |e| match &e.state {
            State::Owned { by } => by == region,
            State::HandingOver { by, barrier, .. } => by == region && barrier.is_none(),
            State::Fenced { .. } => false,
        })
    }

    /// Has `region` lost an epoch of which it is not decided yet where it ends?
    pub fn awaits_cut(&self, region: &RegionId) -> bool {
        let awaits = |state: &State| matches!(state, State::Fenced { from, cut: None, .. } if from == region);
        self.entries.iter().any(|entry| awaits(&entry.state))
    }

    /// Does `region` own anything, drained or not? The canary is something.
    pub fn owns_anything(&self, region: &RegionId) -> bool {
        self.entries.iter().any(|e| e.is_of(region))
    }

    /// Does `region` own partitions that have rows of somebody's, drained or not?
    pub fn owns_data(&self, region: &RegionId) -> bool {
        self.data().iter().any(|e| e.is_of(region))
    }

    /// Can nothing of `origin` after `position` become history, as far as is known here?
    ///
    /// True for a region that was cut and owns nothing since. A transaction may name such a place
    /// as its cause when its region had applied a tail before it learned of the cut.
    pub fn ends_at(&self, origin: &Origin, position: Lsn) -> bool {
        self.end_of(origin).is_some_and(|end| position >= end)
    }

    /// Where does the history of `origin` end, of which nothing can be added any more, as far as is known here?
    pub fn end_of(&self, origin: &Origin) -> Option<Lsn> {
        let cuts = self.entries.iter().flat_map(|e| e.endings().map(|(_, cut)| cut));
        let last = cuts.filter(|cut| cut.origin == *origin).map(|cut| cut.lsn).max();
        let goes_on = self.awaits_cut(&origin.region) || self.owns_anything(&origin.region);
        last.filter(|_| !goes_on)
    }

    /// Returns whether a planned hand-over from or to `region` is under way.
    pub fn is_handing_over(&self, region: &RegionId) -> bool {
        self.entries.iter().any(|entry| {
            matches!(&entry.state, State::HandingOver { by, to, .. } if by == region || to == region)
        })
    }

    /// The lowest cut at which an epoch that `origin` wrote under ends, where `before` does not know
    /// that it ends there. What lies behind it in a log was not held against that cut under `before`.
    pub fn first_new_cut(&self, before: Option<&Self>, origin: &Origin) -> Option<Lsn> {
        let known = |range, ending| before.is_some_and(|before| before.knows(range, ending));
        let endings = self.entries.iter().flat_map(|e| e.endings().map(|ending| (e.range, ending)));
        let ours = endings.filter(|(_, (_, cut))| cut.origin == *origin);
        ours.filter(|(range, ending)| !known(*range, *ending)).map(|(_, (_, cut))| cut.lsn).min()
    }

    /// Is it known here where each older epoch of `entry`'s partitions ends?
    pub fn knows_cuts_of(&self, entry: &Entry) -> bool {
        entry.endings().all(|ending| self.knows(entry.range, ending))
    }

    /// Is it known here that in all of `range` this epoch ends there?
    fn knows(&self, range: PartitionRange, ending: (Epoch, &Cut)) -> bool {
        let mut parts = self.overlapping(range);
        self.covers(range) && parts.all(|e| e.endings().any(|e| e == ending))
    }

    /// Lets this `region` in where `before` does not?
    pub fn gives(&self, before: &Self, region: &RegionId) -> bool {
        before.lets_in_to(&self.entries, region)
    }

    /// The same, where rows are somebody's.
    pub fn gives_data(&self, before: &Self, region: &RegionId) -> bool {
        before.lets_in_to(self.data(), region)
    }

    /// Is `region` let in by one of these entries of a later value where it is not here?
    fn lets_in_to(&self, later: &[Entry], region: &RegionId) -> bool {
        let mine = |entry: &&Entry| entry.state.admits() == Some(region);
        later
            .iter()
            .filter(mine)
            .any(|now| self.overlapping(now.range).any(|old| old.epoch != now.epoch || !mine(&old)))
    }

    /// Do the guards decide and refuse alike under both? A barrier, say, changes nothing for them.
    pub fn admits_like(&self, other: &Self) -> bool {
        let lines = |ownership: &Self| -> Vec<_> {
            let entries = ownership.entries.iter();
            entries.map(|e| (e.range, e.epoch, e.state.admits().cloned())).collect()
        };
        lines(self) == lines(other)
    }

    /// Returns the ranges that are in `run`'s hands.
    pub fn ranges_of<'a>(&'a self, run: &'a RunId) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |e| e.state.run() == Some(run))
    }

    /// Returns the epoch of the canary that `run` has taken from `from` by force, once it is known where it ends.
    pub fn canary_cut_by(&self, run: &RunId, from: &RegionId) -> Option<Epoch> {
        let entry = self.entry(PartitionId::CANARY)?;
        match &entry.state {
            State::Fenced { from: of, run: by, cut: Some(_) } if of == from && by == run => {
                Some(Epoch(entry.epoch.0 - 1))
            }
            _ => None,
        }
    }

    /// Where does a write of `origin` at `lsn`, stamped by the guard, belong?
    pub fn verdict(&self, origin: &Origin, lsn: Lsn, stamp: Stamp) -> Verdict {
        let Some(entry) = self.entry(stamp.partition) else { return Verdict::NeverGranted };
        if stamp.epoch > entry.epoch {
            return Verdict::Undecided;
        }
        if stamp.epoch == entry.epoch {
            return match &entry.state {
                State::Owned { by } | State::HandingOver { by, barrier: None, .. } => {
                    if *by == origin.region { Verdict::InHistory } else { Verdict::NeverGranted }
                }
                State::HandingOver { by, barrier: Some(cut), .. } => within(by, cut, origin, lsn),
                // Whoever gets this epoch may have it already: its grant is just not known here.
                State::Fenced { .. } => Verdict::Undecided,
            };
        }
        if let State::Fenced { from, cut, .. } = &entry.state
            && stamp.epoch.next() == entry.epoch
        {
            return match cut {
                Some(cut) => within(from, cut, origin, lsn),
                None if *from == origin.region => Verdict::Undecided,
                None => Verdict::NeverGranted,
            };
        }
        match entry.closed.iter().find(|c| c.epoch == stamp.epoch) {
            Some(closed) => within(&closed.by, &closed.cut, origin, lsn),
            None => Verdict::NeverGranted,
        }
    }

    /// Is it known for good where the epoch of `stamp` ends? A barrier is not for good: a fence
    /// overrules it, and then the seals decide.
    pub fn is_cut(&self, stamp: Stamp) -> bool {
        self.entry(stamp.partition).is_some_and(|entry| {
            let fenced = matches!(&entry.state, State::Fenced { cut: Some(_), .. })
                && stamp.epoch.next() == entry.epoch;
            fenced || entry.closed.iter().any(|c| c.epoch == stamp.epoch)
        })
    }

    /// Is the epoch of `stamp` over, with a cut that is known?
    pub fn is_closed(&self, stamp: Stamp) -> bool {
        self.entry(stamp.partition).is_some_and(|entry| {
            let cut_known = match &entry.state {
                State::Fenced { cut, .. } => cut.is_some() && stamp.epoch < entry.epoch,
                State::HandingOver { barrier, .. } => {
                    barrier.is_some() && stamp.epoch == entry.epoch
                }
                State::Owned { .. } => false,
            };
            cut_known || entry.closed.iter().any(|c| c.epoch == stamp.epoch)
        })
    }

    /// Returns the value after `change`, or why it cannot be made.
    pub fn apply(&self, change: &OwnershipChange) -> Result<Self, OwnershipRefusal> {
        match change {
            OwnershipChange::HandOver { range, to, run } => self.hand_over(*range, to, run),
            OwnershipChange::Barrier { run, barrier } => self.set_barrier(run, barrier),
            OwnershipChange::Fence { from, run } => self.fence(from, run, |_| true),
            OwnershipChange::FenceCanary { from, run } => {
                let at_rest = |entry: &Entry| matches!(&entry.state, State::Owned { .. });
                self.fence(from, run, |entry| entry.is_canary() && at_rest(entry))
            }
            OwnershipChange::Cut { run, cut } => self.set_cut(run, cut),
            OwnershipChange::Grant { run, to } => {
                let granted = self.close(run, |_| Some(to.clone()))?;
                Ok(granted.noting_grant(run))
            }
            OwnershipChange::HandBack { run } => self.close(run, State::handing_over),
            OwnershipChange::Join { region } => self.join(region),
            OwnershipChange::Leave { region } => self.leave(region),
            OwnershipChange::Witness { witness } => self.witness(witness),
            OwnershipChange::AddCanary { by } => self.add_canary(by),
        }
    }

    fn hand_over(
        &self,
        range: PartitionRange,
        to: &RegionId,
        run: &RunId,
    ) -> Result<Self, OwnershipRefusal> {
        if !self.covers(range) {
            return Err(OwnershipRefusal::NoSuchPartition(range));
        }
        self.check_member(to)?;
        self.check_turn(run)?;
        let (mut entries, mut moves) = (Vec::new(), false);
        for entry in &self.entries {
            let Some(part) = entry.range.overlap(&range) else {
                entries.push(entry.clone());
                continue;
            };
            let State::Owned { by } = &entry.state else {
                return Err(OwnershipRefusal::NotOwned {
                    range: part,
                    state: entry.state.to_string(),
                });
            };
            if by == to {
                entries.push(entry.clone());
                continue;
            }
            moves = true;
            let state = State::HandingOver {
                by: by.clone(),
                to: to.clone(),
                run: run.clone(),
                barrier: None,
            };
            entries.extend(entry.split(part, state));
        }
        if !moves {
            return Err(OwnershipRefusal::AlreadyOwner { range, to: to.clone() });
        }
        self.with_entries(entries).remembering(run).check_room(self)
    }

    fn set_barrier(&self, run: &RunId, barrier: &Cut) -> Result<Self, OwnershipRefusal> {
        self.change_where(run, |entry| match &mut entry.state {
            State::HandingOver { by, run: of, barrier: at, .. }
                if of == run && *by == barrier.origin.region && at.is_none() =>
            {
                *at = Some(barrier.clone());
                true
            }
            _ => false,
        })
    }

    /// Takes from `from` what is meant of its entries.
    fn fence(
        &self,
        from: &RegionId,
        run: &RunId,
        meant: impl Fn(&Entry) -> bool,
    ) -> Result<Self, OwnershipRefusal> {
        self.check_turn(run)?;
        let mut overruled = BTreeSet::new();
        let fenced = self.change_where(run, |entry| match &entry.state {
            State::Owned { by } | State::HandingOver { by, .. } if by == from && meant(entry) => {
                overruled.extend(entry.state.run().cloned());
                entry.epoch = entry.epoch.next();
                entry.state = State::Fenced { from: from.clone(), run: run.clone(), cut: None };
                true
            }
            _ => false,
        });
        let mut fenced = fenced.map_err(|_| OwnershipRefusal::OwnsNothing(from.clone()))?;
        for turn in fenced.turns.iter_mut().filter(|turn| overruled.contains(&turn.run)) {
            turn.came_to = CameTo::Overruled;
        }
        Ok(fenced.remembering(run))
    }

    fn set_cut(&self, run: &RunId, cut: &Cut) -> Result<Self, OwnershipRefusal> {
        self.change_where(run, |entry| match &mut entry.state {
            State::Fenced { from, run: of, cut: at }
                if of == run && *from == cut.origin.region && at.is_none() =>
            {
                *at = Some(cut.clone());
                true
            }
            _ => false,
        })
    }

    /// Closes the epoch of every partition in `run`'s hands and starts the next, for whom `to` says.
    fn close(
        &self,
        run: &RunId,
        to: impl Fn(&State) -> Option<RegionId>,
    ) -> Result<Self, OwnershipRefusal> {
        if let Some(open) = self.ranges_of(run).find(|e| e.state.cut().is_none()) {
            return Err(OwnershipRefusal::NoCut(open.range));
        }
        for to in self.ranges_of(run).filter_map(|e| to(&e.state)) {
            self.check_member(&to)?;
        }
        self.change_where(run, |entry| {
            let Some(to) = to(&entry.state) else { return false };
            let (by, cut, epoch, granted) = match &entry.state {
                State::HandingOver { by, run: of, barrier: Some(cut), .. } if of == run => {
                    (by.clone(), cut.clone(), entry.epoch, entry.epoch.next())
                }
                State::Fenced { from, run: of, cut: Some(cut) } if of == run => {
                    let fenced = Epoch(entry.epoch.0 - 1);
                    (from.clone(), cut.clone(), fenced, entry.epoch)
                }
                _ => return false,
            };
            entry.closed.push(Closed { epoch, by, cut });
            if entry.closed.len() > CLOSED_EPOCHS_MAX {
                entry.closed.remove(0);
            }
            entry.epoch = granted;
            entry.state = State::Owned { by: to };
            true
        })
    }

    fn join(&self, region: &RegionId) -> Result<Self, OwnershipRefusal> {
        self.check_newcomer(region)?;
        let mut joined = self.clone();
        joined.members.insert(region.clone());
        Ok(joined)
    }

    fn witness(&self, witness: &RegionId) -> Result<Self, OwnershipRefusal> {
        self.check_newcomer(witness)?;
        let mut joined = self.clone();
        joined.witnesses.insert(witness.clone());
        Ok(joined)
    }

    fn check_newcomer(&self, newcomer: &RegionId) -> Result<(), OwnershipRefusal> {
        if self.members.contains(newcomer) {
            return Err(OwnershipRefusal::IsMember(newcomer.clone()));
        }
        if self.witnesses.contains(newcomer) {
            return Err(OwnershipRefusal::IsWitness(newcomer.clone()));
        }
        // While a cut is decided, those are asked whom the fenced owner may have counted on.
        let open = |e: &&Entry| matches!(&e.state, State::Fenced { cut: None, .. });
        match self.entries.iter().find(open) {
            Some(open) => Err(OwnershipRefusal::NoCut(open.range)),
            None => Ok(()),
        }
    }

    fn leave(&self, region: &RegionId) -> Result<Self, OwnershipRefusal> {
        if !self.holders().any(|holder| holder == region) {
            return Err(OwnershipRefusal::NotMember(region.clone()));
        }
        // Which run gives these to whom does not stand here: perhaps to this one.
        let fenced = |e: &&Entry| matches!(&e.state, State::Fenced { .. });
        if let Some(Entry { range, state, .. }) = self.entries.iter().find(fenced) {
            return Err(OwnershipRefusal::NotOwned { range: *range, state: state.to_string() });
        }
        if self.owns_anything(region) || self.is_handing_over(region) {
            return Err(OwnershipRefusal::OwnsSomething(region.clone()));
        }
        let mut left = self.clone();
        left.members.remove(region);
        left.witnesses.remove(region);
        Ok(left)
    }

    fn add_canary(&self, by: &RegionId) -> Result<Self, OwnershipRefusal> {
        self.check_member(by)?;
        if self.has_canary() {
            return Err(OwnershipRefusal::HasCanary);
        }
        Ok(self.clone().with_canary(by.clone()))
    }

    fn check_member(&self, region: &RegionId) -> Result<(), OwnershipRefusal> {
        let member = self.members.contains(region);
        member.then_some(()).ok_or_else(|| OwnershipRefusal::NotMember(region.clone()))
    }

    /// A run takes all of its partitions at once, and once only. Whoever decided on that before, and
    /// comes late, would give it others: the barriers and seals it has do not speak of those.
    fn check_turn(&self, run: &RunId) -> Result<(), OwnershipRefusal> {
        let again = self.had_its_turn(run);
        (!again).then_some(()).ok_or_else(|| OwnershipRefusal::HadItsTurn(run.clone()))
    }

    fn remembering(mut self, run: &RunId) -> Self {
        if self.turns.len() >= RUNS_MAX {
            self.turns.remove(0);
        }
        self.turns.push(Turn { run: run.clone(), came_to: CameTo::Unknown });
        self
    }

    /// Of a run that was overruled in part, only the rest was granted.
    fn noting_grant(mut self, run: &RunId) -> Self {
        let mut turns = self.turns.iter_mut();
        let turn = turns.find(|turn| turn.run == *run && turn.came_to == CameTo::Unknown);
        if let Some(turn) = turn {
            turn.came_to = CameTo::Granted;
        }
        self
    }

    fn with_entries(&self, entries: Vec<Entry>) -> Self {
        Self { entries, ..self.clone() }.merged()
    }

    fn change_where(
        &self,
        run: &RunId,
        mut change: impl FnMut(&mut Entry) -> bool,
    ) -> Result<Self, OwnershipRefusal> {
        let mut entries = self.entries.clone();
        let mut changed = false;
        for entry in &mut entries {
            changed |= change(entry);
        }
        if changed {
            Ok(self.with_entries(entries))
        } else {
            Err(OwnershipRefusal::NothingToDo(run.clone()))
        }
    }

    fn merged(mut self) -> Self {
        self.entries.dedup_by(|next, last| {
            let same = last.epoch == next.epoch
                && last.state == next.state
                && last.closed == next.closed
                && last.range.last + 1 == next.range.first;
            if same {
                last.range.last = next.range.last;
            }
            same
        });
        self
    }
}

/// An epoch of `by` ends at `cut`; earlier incarnations of `by` lie before it altogether.
fn within(by: &RegionId, cut: &Cut, origin: &Origin, lsn: Lsn) -> Verdict {
    if *by != origin.region {
        return Verdict::NeverGranted;
    }
    let before = origin.incarnation < cut.origin.incarnation;
    let upto = origin.incarnation == cut.origin.incarnation && lsn <= cut.lsn;
    if before || upto { Verdict::InHistory } else { Verdict::BeyondCut(cut.clone()) }
}

impl Entry {
    fn first(range: PartitionRange, by: RegionId) -> Self {
        Self { range, epoch: Epoch(1), state: State::Owned { by }, closed: Vec::new() }
    }

    pub fn is_canary(&self) -> bool {
        self.range == PartitionRange::CANARY
    }

    /// Is it `region`'s, drained or not?
    fn is_of(&self, region: &RegionId) -> bool {
        match &self.state {
            State::Owned { by } | State::HandingOver { by, .. } => by == region,
            State::Fenced { .. } => false,
        }
    }

    /// The owner, while there is one that may write.
    pub fn owner(&self) -> Option<&RegionId> {
        match &self.state {
            State::Owned { by } => Some(by),
            State::HandingOver { by, barrier: None, .. } => Some(by),
            State::HandingOver { .. } | State::Fenced { .. } => None,
        }
    }

    /// Does no epoch of these partitions end, as far as is known?
    pub fn has_no_cut(&self) -> bool {
        self.endings().next().is_none()
    }

    /// Was `region` the owner before? Of epochs that are forgotten nobody can tell.
    pub fn may_have_been_of(&self, region: &RegionId) -> bool {
        let forgotten = (self.closed.len() as u64) + 1 < self.epoch.0;
        forgotten || self.closed.iter().any(|closed| closed.by == *region)
    }

    /// Which epochs are known to end, and where.
    fn endings(&self) -> impl Iterator<Item = (Epoch, &Cut)> {
        let last = match &self.state {
            State::Fenced { .. } => Epoch(self.epoch.0 - 1),
            State::Owned { .. } | State::HandingOver { .. } => self.epoch,
        };
        let closed = self.closed.iter().map(|closed| (closed.epoch, &closed.cut));
        closed.chain(self.state.cut().map(|cut| (last, cut)))
    }

    /// Cuts this entry into up to three, of which `part` gets `state`.
    fn split(&self, part: PartitionRange, state: State) -> Vec<Entry> {
        let piece = |first: u32, last: u32, state: &State| {
            (first <= last).then(|| Entry {
                range: PartitionRange::new(first, last),
                state: state.clone(),
                ..self.clone()
            })
        };
        let before = (part.first > self.range.first)
            .then(|| piece(self.range.first, part.first - 1, &self.state))
            .flatten();
        let after = piece(part.last + 1, self.range.last, &self.state);
        [before, piece(part.first, part.last, &state), after].into_iter().flatten().collect()
    }
}

impl State {
    /// The region whose guard lets writers in. A partition that is being handed over is closed
    /// already: its owner drains it and opens it no more.
    pub fn admits(&self) -> Option<&RegionId> {
        match self {
            Self::Owned { by } => Some(by),
            Self::HandingOver { .. } | Self::Fenced { .. } => None,
        }
    }

    /// The run that is changing the owner, if any.
    pub fn run(&self) -> Option<&RunId> {
        match self {
            Self::Owned { .. } => None,
            Self::HandingOver { run, .. } | Self::Fenced { run, .. } => Some(run),
        }
    }

    /// Who is handing over.
    pub fn handing_over(&self) -> Option<RegionId> {
        match self {
            Self::HandingOver { by, .. } => Some(by.clone()),
            Self::Owned { .. } | Self::Fenced { .. } => None,
        }
    }

    /// Where the epoch that is being closed ends, once that is known.
    pub fn cut(&self) -> Option<&Cut> {
        match self {
            Self::Owned { .. } => None,
            Self::HandingOver { barrier, .. } => barrier.as_ref(),
            Self::Fenced { cut, .. } => cut.as_ref(),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owned { by } => write!(f, "owned by region \"{by}\""),
            Self::HandingOver { by, to, run, .. } => {
                write!(f, "being handed over from region \"{by}\" to \"{to}\" by run {run}")
            }
            Self::Fenced { from, run, .. } => {
                write!(f, "fenced from region \"{from}\" by run {run}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
