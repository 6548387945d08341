//! What is there, and what does each part do when it is its turn?
//!
//! As thin as the real agent: core decides, this performs. LSNs count the entries of a WAL: the first
//! ends at 1.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use domicile_core::change::{Stamp, Transaction};
use domicile_core::copies::{Copies, Named};
use domicile_core::history::{Admission, Refused, Seal, accept, admit, may_go_on_from};
use domicile_core::id::{Epoch, Origin, PartitionId, RegionId, RunId};
use domicile_core::lease::{Held, LeaseTerms, Seen};
use domicile_core::lsn::{Cut, Lsn};
use domicile_core::ownership::{Ownership, OwnershipChange, State, Verdict};
use domicile_core::progress::{OriginProgress, Progress, Rpo, Sifted};
use domicile_core::runbook::Outcome;
use domicile_core::time::{DriftPpm, Millis, Time};

use crate::{Fault, Protocol};

/// Regions by number, in the order of their names.
pub const AP: usize = 0;
pub const EU: usize = 1;
pub const US: usize = 2;
pub const NAMES: [&str; 3] = ["ap", "eu", "us"];

/// The one partition there is.
pub const PARTITION: PartitionId = PartitionId(0);

/// A holder stops one tick after it has renewed, an observer waits for two.
pub const TERMS: LeaseTerms =
    LeaseTerms { ttl: Millis(2), renew_every: Millis(1), margin: Millis(1), drift: DriftPpm(0) };

pub mod rule {
    pub const ACKNOWLEDGED: &str = "nothing is acknowledged beyond a cut";
    pub const ADMITTED: &str = "nothing is admitted under an epoch that is over";
    pub const EPOCHS: &str = "epochs never go back and no cut is ever changed";
    pub const GIVES_ONCE: &str = "a run gives its partitions away once";
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub now: Time,
    pub directory: Directory,
    pub regions: Vec<Shared<Region>>,
    /// Every commit there ever was.
    pub writes: Vec<Write>,
    pub restarts: usize,
    pub lost_folders: usize,
    /// A rule that an event has broken.
    pub broken: Option<&'static str>,
}

/// What most steps leave alone: it is copied only when it changes, and hashed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared<T> {
    value: Arc<T>,
    hash: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    pub region: usize,
    pub lsn: Lsn,
    pub stamp: Stamp,
    pub fate: Fate,
}

/// What the client has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    Waiting,
    Acknowledged,
    /// Its connection was ended: it knows nothing.
    CutOff,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Directory {
    /// Oldest first: what somebody has yet to read. The last one is the latest.
    pub snapshots: Vec<Shared<Snapshot>>,
    pub runs: Vec<RunDocument>,
    /// By run: to whom it gave the partition.
    pub given: Vec<Option<RegionId>>,
}

/// Ownership and leases as of one revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    pub revision: u64,
    pub ownership: Ownership,
    pub ownership_revision: u64,
    pub leases: [u64; 3],
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RunDocument {
    pub started: bool,
    /// The revision of the ownership that said so.
    pub started_revision: u64,
    pub outcome: Option<Outcome>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    // What outlives its agent.
    pub wal: Vec<Entry>,
    pub guard: Guard,
    /// By origin.
    pub logs: Vec<Log>,
    pub seals: Vec<Seal>,
    pub copies: Copies,
    /// What turned out not to be history: no table here shows it any more.
    pub journal: BTreeSet<(usize, Lsn)>,
    // What its agent forgets in a crash.
    pub read: Option<Shared<Snapshot>>,
    /// Entries of the WAL that were read from the slot.
    pub captured: usize,
    pub progress: OriginProgress,
    /// Barriers in our own log.
    pub barriers: Vec<(RunId, Cut)>,
    pub held: Option<Held>,
    pub seen: [Option<Seen>; 3],
    /// By run.
    pub sealed: Vec<Seals>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    Write(Epoch),
    Barrier(RunId),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Guard {
    pub revision: u64,
    pub open: Option<Epoch>,
    pub deadline: Time,
}

/// One origin's log, or a peer's copy of it. What is in it is flushed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    pub records: Vec<Lsn>,
    /// A position, not a record: what was left out on the way stands before it.
    pub end: Lsn,
    pub applied: Lsn,
}

/// What an executor keeps in memory about a run: who has sealed, and what was held there.
pub type Seals = Vec<(usize, Vec<Cut>)>;

impl<T: Clone + Hash> Shared<T> {
    pub fn new(value: T) -> Self {
        let mut shared = Self { value: Arc::new(value), hash: 0 };
        shared.settle();
        shared
    }

    /// To be followed by [`Self::settle`].
    fn change(&mut self) -> &mut T {
        Arc::make_mut(&mut self.value)
    }

    fn settle(&mut self) {
        let mut hasher = DefaultHasher::new();
        self.value.hash(&mut hasher);
        self.hash = hasher.finish();
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.hash.hash(hasher);
    }
}

pub fn origin(region: usize) -> Origin {
    Origin::new(id(region), 1)
}

pub fn id(region: usize) -> RegionId {
    NAMES[region].parse().expect("these are region names")
}

impl Protocol {
    pub fn beginning(&self) -> World {
        let members: Vec<_> = self.members.iter().map(|region| id(*region)).collect();
        let witnesses = self.witnesses.iter().map(|witness| id(*witness));
        let ownership =
            Ownership::initial(1, &[id(EU)]).with_members(members).with_witnesses(witnesses);
        let mut leases = [0; 3];
        leases[EU] = 1;
        let snapshot =
            Shared::new(Snapshot { revision: 1, ownership, ownership_revision: 1, leases });
        let region = |index| {
            let mut region = Region {
                wal: Vec::new(),
                guard: Guard::default(),
                logs: vec![Log::default(); 3],
                seals: Vec::new(),
                copies: Copies { asked: true, claimed: true, ..Copies::default() },
                journal: BTreeSet::new(),
                read: None,
                captured: 0,
                progress: OriginProgress::resume(Lsn::ZERO),
                barriers: Vec::new(),
                held: None,
                seen: [None; 3],
                sealed: vec![Seals::default(); self.runs.len()],
            };
            if index == EU {
                let held = Held { sent_at: Time(0) };
                (region.held, region.guard.deadline) = (Some(held), held.deadline(&TERMS));
            }
            Shared::new(region)
        };
        let directory = Directory {
            snapshots: vec![snapshot.clone()],
            runs: vec![RunDocument::default(); self.runs.len()],
            given: vec![None; self.runs.len()],
        };
        let mut world = World {
            now: Time(0),
            directory,
            regions: (0..3).map(region).collect(),
            writes: Vec::new(),
            restarts: 0,
            lost_folders: 0,
            broken: None,
        };
        for region in 0..3 {
            self.learn(&mut world, region, snapshot.clone());
        }
        world
    }

    /// Two parties time a lease only where acknowledgements may run ahead of copies. At RPO 0 the
    /// guard may be as late as it likes, and anybody may believe anything of a lease.
    pub fn has_leases(&self) -> bool {
        self.rpo.runs_ahead()
    }

    pub fn breaks(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// A client writes, if the guard lets it.
    pub fn write(&self, world: &mut World, index: usize) -> Option<()> {
        let region = &world.regions[index];
        let epoch = region.guard.open?;
        let late = self.breaks(Fault::GuardOutlivesLease);
        if self.has_leases() && world.now >= region.guard.deadline && !late {
            return None;
        }
        let stamp = Stamp { partition: PARTITION, epoch };
        if self.has_leases() && world.truth().is_closed(stamp) {
            world.break_rule(rule::ADMITTED);
        }
        let region = world.region(index);
        region.wal.push(Entry::Write(epoch));
        let lsn = Lsn(region.wal.len() as u64);
        let fate = if self.rpo == Rpo::None { Fate::Acknowledged } else { Fate::Waiting };
        world.writes.push(Write { region: index, lsn, stamp, fate });
        Some(())
    }

    /// The next entry of the WAL goes into our own log, or is kept out of it.
    pub fn capture(&self, world: &mut World, index: usize) -> Option<()> {
        let now = world.now;
        let region = world.region(index);
        let snapshot = region.read.clone()?;
        let lsn = Lsn(region.captured as u64 + 1);
        let transaction = transaction(lsn, region.wal.get(region.captured)?);
        match admit(&snapshot.ownership, &origin(index), &transaction, |_| true) {
            Admission::Wait => return None,
            Admission::Admit => {
                region.progress.captured(lsn, now);
                let log = &mut region.logs[index];
                log.records.push(lsn);
                log.end = lsn;
                region.progress.flushed(lsn);
                if let Some(run) = transaction.barrier {
                    region.barriers.push((run, Cut { origin: origin(index), lsn }));
                }
            }
            Admission::Divert(_) => {
                region.progress.seen(lsn);
                region.journal.insert((index, lsn));
                self.cut_off(world, index, lsn);
            }
        }
        world.region(index).captured += 1;
        self.confirm(world, index);
        Some(())
    }

    /// The client of a commit that is no history hears nothing.
    fn cut_off(&self, world: &mut World, index: usize, lsn: Lsn) {
        if self.breaks(Fault::ConfirmDiverted) {
            return;
        }
        let meant = |w: &&mut Write| (w.region, w.lsn) == (index, lsn);
        if let Some(write) = world.writes.iter_mut().find(meant)
            && write.fate == Fate::Waiting
        {
            write.fate = Fate::CutOff;
        }
    }

    /// Tells the slot how far everything is safe: PostgreSQL lets the clients up to there go.
    pub fn confirm(&self, world: &mut World, index: usize) {
        let (now, rpo) = (world.now, self.rpo);
        let region = world.region(index);
        let until = region.held.map(|held| held.deadline(&TERMS));
        let upto = region.progress.confirmable(rpo, now, until);
        for at in 0..world.writes.len() {
            let write = &world.writes[at];
            if write.region != index || write.fate != Fate::Waiting || write.lsn > upto {
                continue;
            }
            let verdict = world.truth().verdict(&origin(index), write.lsn, write.stamp);
            world.writes[at].fate = Fate::Acknowledged;
            if !matches!(verdict, Verdict::InHistory | Verdict::Undecided) {
                world.break_rule(rule::ACKNOWLEDGED);
            }
        }
    }

    /// One record of `of`'s log goes from one region's disk to another's.
    pub fn copy(&self, world: &mut World, to: usize, from: usize, of: usize) -> Option<()> {
        let (source, wal) = (&world.regions[from].logs[of], &world.regions[of].wal);
        let region = &world.regions[to];
        let (snapshot, log) = (region.read.as_ref()?, &region.logs[of]);
        if source.end <= log.end {
            return None;
        }
        if from != of && !self.breaks(Fault::RelayBlindly) {
            let theirs = world.regions[from].read.as_ref()?.ownership_revision;
            if !may_go_on_from(theirs, snapshot.ownership_revision) {
                return None;
            }
        }
        let next = source.records.iter().copied().find(|lsn| *lsn > log.end);
        let (end, taken) = match next {
            None => (source.end, false),
            Some(lsn) => {
                let stamps = transaction(lsn, &wal[lsn.0 as usize - 1]).stamps;
                match accept(&region.seals, &snapshot.ownership, &origin(of), lsn, &stamps) {
                    Ok(()) => (lsn, true),
                    Err(Refused::Outside(_)) => (lsn, false),
                    Err(Refused::Sealed { .. }) => return None,
                }
            }
        };
        let log = &mut world.region(to).logs[of];
        log.end = end;
        if taken {
            log.records.push(end);
        }
        self.note_whole(world, to, from, of);
        self.apply(world, to);
        Some(())
    }

    /// The home has nothing more for a copy.
    fn note_whole(&self, world: &mut World, holder: usize, from: usize, of: usize) {
        let (home, copy) = (&world.regions[of].logs[of], &world.regions[holder].logs[of]);
        if from == of && copy.end >= home.end {
            let (home_end, shown) = (home.end, copy.applied);
            world.region(holder).copies.caught_up(&origin(of), home_end, shown);
        }
    }

    /// Shows all that may be shown: nobody gains by waiting. A witness has no tables.
    fn apply(&self, world: &mut World, index: usize) {
        if self.witnesses.contains(&index) {
            return;
        }
        let Some(snapshot) = world.regions[index].read.clone() else { return };
        for of in (0..3).filter(|of| *of != index) {
            loop {
                let log = &world.regions[index].logs[of];
                let next = log.records.iter().copied().find(|lsn| *lsn > log.applied);
                let upto = next.unwrap_or(log.end);
                if upto <= log.applied {
                    break;
                }
                let admission = next.map_or(Admission::Admit, |lsn| {
                    let transaction = transaction(lsn, &world.regions[of].wal[lsn.0 as usize - 1]);
                    admit(&snapshot.ownership, &origin(of), &transaction, |_| true)
                });
                let region = world.region(index);
                match admission {
                    Admission::Wait => break,
                    Admission::Admit => {}
                    Admission::Divert(_) => _ = region.journal.insert((of, upto)),
                }
                region.logs[of].applied = upto;
            }
        }
    }

    /// A peer tells an origin how far it is with its log, and by which ownership.
    pub fn tell(&self, world: &mut World, peer: usize, to: usize) -> Option<()> {
        let told = &world.regions[peer];
        if told.copies.silent_to.contains(&id(to)) && !self.breaks(Fault::ForgetSilently) {
            return None;
        }
        let revision = told.read.as_ref()?.ownership_revision;
        let revision = if self.breaks(Fault::CountEarly) { 0 } else { revision };
        let end = told.logs[to].end;
        self.note_whole(world, peer, to, to);
        // What it shows of our log decides about no acknowledgement.
        let report = Progress { received: end, flushed: end, applied: Lsn::ZERO };
        world.region(to).progress.peer(&id(peer), report, revision);
        self.confirm(world, to);
        Some(())
    }

    /// A region takes over a newer state of the directory.
    pub fn learn(&self, world: &mut World, index: usize, snapshot: Shared<Snapshot>) {
        let now = world.now;
        let region = world.region(index);
        for (seen, revision) in region.seen.iter_mut().zip(snapshot.leases) {
            if self.has_leases() && self.executors.contains(&index) && revision > 0 {
                *seen = Some(Seen::note(*seen, revision, now));
            }
        }
        region.copies = region.copies.judge(Named::This, BTreeSet::new, Some(&snapshot.ownership));
        let before = region.read.replace(snapshot.clone());
        let before = before.as_ref().map(|snapshot| &snapshot.ownership);
        self.examine(world, index, before, &snapshot);
        self.follow(world.region(index), index, before, &snapshot);
        self.apply(world, index);
        self.confirm(world, index);
        world.forget_old_snapshots();
    }

    /// Looks for writes past every cut that has become known.
    fn examine(
        &self,
        world: &mut World,
        index: usize,
        before: Option<&Ownership>,
        snapshot: &Snapshot,
    ) {
        let ownership = &snapshot.ownership;
        for of in 0..3 {
            let Some(cut) = ownership.first_new_cut(before, &origin(of)) else { continue };
            let log = &world.regions[index].logs[of];
            let shown = if of == index { Lsn(u64::MAX) } else { log.applied };
            let behind = log.records.iter().copied().filter(|lsn| *lsn > cut && *lsn <= shown);
            let mut found = Sifted::behind(cut);
            for lsn in behind.collect::<Vec<_>>() {
                let transaction = transaction(lsn, &world.regions[of].wal[lsn.0 as usize - 1]);
                match admit(ownership, &origin(of), &transaction, |_| true) {
                    Admission::Divert(_) => {
                        found.divert(lsn);
                        world.region(index).journal.insert((of, lsn));
                        if of == index {
                            self.cut_off(world, index, lsn);
                        }
                    }
                    Admission::Admit | Admission::Wait => found.keep(lsn),
                }
            }
            if of == index {
                world.region(index).progress.withdrawn(found);
            }
        }
        let holders = match self.breaks(Fault::CountStrangers) {
            true => (0..3).map(id).collect(),
            false => ownership.holders().cloned().collect(),
        };
        world.region(index).progress.examined(snapshot.ownership_revision, &holders);
    }

    /// Makes the guard go by a newer ownership; what that takes away is drained first, and a hand-over
    /// gets its barrier behind the last write.
    fn follow(
        &self,
        region: &mut Region,
        index: usize,
        before: Option<&Ownership>,
        snapshot: &Snapshot,
    ) {
        let ownership = &snapshot.ownership;
        if before.is_none_or(|before| before.gives(ownership, &id(index))) {
            let due = barriers_due(ownership, index).map(Entry::Barrier);
            region.wal.extend(due);
        }
        let entry = ownership.entry(PARTITION).expect("there is one partition");
        let mine = entry.state.admits() == Some(&id(index));
        let kept = self.breaks(Fault::WriteOn)
            && matches!(&entry.state, State::HandingOver { by, .. } if *by == id(index));
        region.guard.open = (mine || kept).then_some(entry.epoch);
        region.guard.revision = snapshot.ownership_revision;
    }

    /// A region renews its lease, reads who owns what, and lets its guard live on.
    pub fn renew(&self, world: &mut World, index: usize) -> Option<()> {
        world.regions[index].read.as_ref()?;
        let latest = world.directory.latest();
        let mut renewed = Snapshot { revision: latest.revision + 1, ..Snapshot::clone(latest) };
        renewed.leases[index] = renewed.revision;
        let renewed = Shared::new(renewed);
        world.directory.snapshots.push(renewed.clone());
        let held = Held { sent_at: world.now };
        world.region(index).held = Some(held);
        if !self.breaks(Fault::RenewBlindly) {
            self.learn(world, index, renewed);
        }
        world.region(index).guard.deadline = held.deadline(&TERMS);
        self.confirm(world, index);
        Some(())
    }

    /// Names the barrier of a hand-over, once it is in our log.
    pub fn announce(&self, world: &mut World, index: usize) -> Option<()> {
        let region = &world.regions[index];
        let known = &region.read.as_ref()?.ownership;
        let run = barriers_due(known, index).next()?;
        let (_, barrier) = region.barriers.iter().rev().find(|(of, _)| *of == run)?;
        let change = OwnershipChange::Barrier { run, barrier: barrier.clone() };
        self.change(world, &change)
    }

    /// Promises to take nothing more of these epochs of `of`. Returns what is held.
    pub fn seal(
        &self,
        world: &mut World,
        index: usize,
        of: usize,
        seals: &[Seal],
    ) -> Option<Vec<Cut>> {
        let may_seal = world.regions[index].copies.may_seal(self.rpo, &id(of)).is_ok();
        if !may_seal && !self.breaks(Fault::SealShort) {
            return None;
        }
        let region = world.region(index);
        let lsn = region.logs[of].end;
        let held = match lsn {
            Lsn::ZERO => Vec::new(),
            lsn => vec![Cut { origin: origin(of), lsn }],
        };
        for seal in seals.iter().filter(|_| !self.breaks(Fault::SkipSeal)) {
            let same = |s: &Seal| (s.range, s.epoch) == (seal.range, seal.epoch);
            if !region.seals.iter().any(same) {
                region.seals.push(Seal { held: held.clone(), ..seal.clone() });
            }
        }
        Some(held)
    }

    /// Changes the latest ownership, whatever was known when that was decided.
    pub fn change(&self, world: &mut World, change: &OwnershipChange) -> Option<()> {
        let latest = world.directory.latest().clone();
        let ownership = latest.ownership.apply(change).ok()?;
        world.check_change(&latest.ownership, &ownership);
        if let OwnershipChange::Grant { run, .. } | OwnershipChange::HandBack { run } = change {
            let entry = ownership.entry(PARTITION).expect("there is one partition");
            let at = self.runs.iter().position(|plan| plan.run == *run).expect("it is one of ours");
            let given = &mut world.directory.given[at];
            let again = given.is_some();
            *given = entry.owner().cloned();
            if again {
                world.break_rule(rule::GIVES_ONCE);
            }
        }
        let revision = latest.revision + 1;
        let leases = latest.leases;
        let next = Snapshot { revision, ownership, ownership_revision: revision, leases };
        world.directory.snapshots.push(Shared::new(next));
        Some(())
    }

    /// An agent dies and starts again.
    pub fn restart(&self, world: &mut World, index: usize) {
        world.restarts += 1;
        let sealed = vec![Seals::default(); self.runs.len()];
        let region = world.region(index);
        let end = region.logs[index].end;
        region.read = None;
        region.captured = end.0 as usize;
        region.progress = OriginProgress::resume(end);
        region.barriers.clear();
        region.held = None;
        region.seen = [None; 3];
        region.sealed = sealed;
        if self.breaks(Fault::ForgetSeals) {
            region.seals.clear();
        }
        world.forget_old_snapshots();
    }
}

impl Protocol {
    /// An agent starts again with another folder: its copies are gone, and what its tables show is there.
    pub fn lose_folder(&self, world: &mut World, index: usize) {
        self.restart(world, index);
        world.restarts -= 1;
        world.lost_folders += 1;
        let region = world.region(index);
        for log in &mut region.logs {
            *log = Log { applied: log.applied, ..Log::default() };
        }
        let others = (0..3).filter(|of| *of != index).map(origin).collect();
        region.copies = region.copies.judge(Named::Another, || others, None);
        region.seals.clear();
    }
}

impl World {
    pub fn truth(&self) -> &Ownership {
        &self.directory.latest().ownership
    }

    pub fn region(&mut self, index: usize) -> &mut Region {
        self.regions[index].change()
    }

    /// Notes what has changed since `before`.
    pub fn settle(&mut self, before: &Self) {
        for (region, before) in self.regions.iter_mut().zip(&before.regions) {
            if !Arc::ptr_eq(&region.value, &before.value) {
                region.settle();
            }
        }
    }

    pub fn break_rule(&mut self, rule: &'static str) {
        self.broken.get_or_insert(rule);
    }

    /// Which writes do the tables of a region show?
    pub fn shown(&self, index: usize) -> impl Iterator<Item = &Write> {
        let region = &self.regions[index];
        self.writes.iter().filter(move |write| {
            let log = &region.logs[write.region];
            let here = write.region == index
                || (write.lsn <= log.applied && log.records.contains(&write.lsn));
            here && !region.journal.contains(&(write.region, write.lsn))
        })
    }

    fn check_change(&mut self, old: &Ownership, new: &Ownership) {
        let (Some(old), Some(new)) = (old.entry(PARTITION), new.entry(PARTITION)) else { return };
        let raised = matches!(new.epoch.0.checked_sub(old.epoch.0), Some(0 | 1));
        let kept = new.closed.starts_with(&old.closed);
        let ended = old.state.cut().is_none_or(|cut| {
            new.state.cut() == Some(cut) || new.closed.last().is_some_and(|c| c.cut == *cut)
        });
        // A fence overrules a barrier: what lies before that is held by a survivor, or was not told.
        let overruled = matches!(old.state, State::HandingOver { .. })
            && matches!(new.state, State::Fenced { .. });
        if !(raised && kept && (ended || overruled)) {
            self.break_rule(rule::EPOCHS);
        }
    }

    /// A state of the directory that is past for everybody is the past.
    fn forget_old_snapshots(&mut self) {
        let read = self.regions.iter().filter_map(|region| region.read.as_ref());
        let oldest = read.map(|snapshot| snapshot.revision).min();
        let latest = self.directory.latest().revision;
        let oldest = oldest.unwrap_or(latest);
        self.directory.snapshots.retain(|s| s.revision > oldest || s.revision == latest);
    }
}

impl Directory {
    pub fn latest(&self) -> &Shared<Snapshot> {
        self.snapshots.last().expect("there is always an ownership")
    }
}

/// Runs that wait for a barrier of this region.
fn barriers_due(ownership: &Ownership, index: usize) -> impl Iterator<Item = RunId> {
    ownership.entries().iter().filter_map(move |entry| match &entry.state {
        State::HandingOver { by, run, barrier: None, .. } if *by == id(index) => Some(run.clone()),
        _ => None,
    })
}

fn transaction(lsn: Lsn, entry: &Entry) -> Transaction {
    let (stamps, barrier) = match entry {
        Entry::Write(epoch) => (vec![Stamp { partition: PARTITION, epoch: *epoch }], None),
        Entry::Barrier(run) => (Vec::new(), Some(run.clone())),
    };
    Transaction { lsn, stamps, barrier, ..Transaction::default() }
}
