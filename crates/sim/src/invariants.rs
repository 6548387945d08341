//! Has anything happened that must never happen?
//!
//! The oracle sees what nobody in the world can: every commit of every region, and the
//! directory's latest ownership. It trusts no agent: what is history is worked out here from the
//! ledger of commits alone.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use domicile_core::change::Stamp;
use domicile_core::id::{Epoch, Origin, PartitionId, RunId};
use domicile_core::lsn::Lsn;
use domicile_core::ownership::{CLOSED_EPOCHS_MAX, Ownership, State, Verdict};
use domicile_core::progress::{Progress, Rpo};
use domicile_core::time::Millis;

use crate::clock::{MS, Micros};
use crate::disk::Record;
use crate::postgres::Tables;
use crate::setup::{DRIFT_PPM_MAX, Key, Setup};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Safety,
    Liveness,
    Nondeterminism,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub kind: Kind,
    pub rule: &'static str,
    pub detail: String,
}

/// One commit.
#[derive(Debug)]
struct Commit {
    region: usize,
    lsn: Lsn,
    keys: Vec<Key>,
    stamps: Vec<Stamp>,
    /// By origin: what its region showed of the others at that moment.
    saw: Vec<Lsn>,
    /// When its region first took it into its log, in true time.
    captured: Option<Micros>,
    acknowledged: Option<Micros>,
}

pub struct Oracle {
    truth: Rc<Ownership>,
    origins: Vec<Origin>,
    rpo: Rpo,
    /// By number, from 1.
    ledger: BTreeMap<u32, Commit>,
    by_origin: Vec<BTreeMap<Lsn, u32>>,
    owners: BTreeMap<(PartitionId, Epoch), usize>,
    /// By region and partition: the newest write shown there.
    shown: BTreeMap<(usize, PartitionId), (Epoch, Lsn)>,
    reported: Vec<Vec<Progress>>,
    last_id: u32,
    last_run: u32,
    pub violation: Option<Violation>,
}

impl Oracle {
    pub fn new(setup: &Setup) -> Self {
        let count = setup.count();
        Self {
            truth: Rc::new(setup.first_owners()),
            origins: setup.origins.clone(),
            rpo: setup.rpo,
            ledger: BTreeMap::new(),
            by_origin: vec![BTreeMap::new(); count],
            owners: BTreeMap::new(),
            shown: BTreeMap::new(),
            reported: vec![vec![Progress::default(); count]; count],
            last_id: 0,
            last_run: 0,
            violation: None,
        }
    }

    fn broken(&mut self, rule: &'static str, detail: String) {
        self.violation.get_or_insert(Violation { kind: Kind::Safety, rule, detail });
    }

    pub fn next_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    pub fn next_run(&mut self) -> RunId {
        self.last_run += 1;
        RunId(format!("run{:03}", self.last_run))
    }

    pub fn committed(
        &mut self,
        region: usize,
        id: u32,
        lsn: Lsn,
        keys: &[Key],
        stamps: &[Stamp],
        saw: &[Lsn],
    ) {
        let (keys, stamps, saw) = (keys.to_vec(), stamps.to_vec(), saw.to_vec());
        self.by_origin[region].insert(lsn, id);
        let commit = Commit { region, lsn, keys, stamps, saw, captured: None, acknowledged: None };
        self.ledger.insert(id, commit);
    }

    pub fn acknowledged(&mut self, id: u32, now: Micros) {
        if let Some(commit) = self.ledger.get_mut(&id) {
            commit.acknowledged.get_or_insert(now);
        }
    }

    /// How many commits there were, and how many of them were acknowledged.
    pub fn counts(&self) -> (usize, usize) {
        (self.ledger.len(), self.ledger.values().filter(|c| c.acknowledged.is_some()).count())
    }

    /// How many writes of a region were acknowledged since then.
    pub fn acknowledged_since(&self, region: usize, since: Micros) -> usize {
        let commits = self.ledger.values().filter(|c| c.region == region && !c.keys.is_empty());
        commits.filter(|c| c.acknowledged.is_some_and(|at| at >= since)).count()
    }

    /// When another region than `lost` first had a write to one of `partitions` acknowledged.
    pub fn acknowledged_elsewhere(&self, lost: usize, partitions: &Ownership) -> Option<Micros> {
        let theirs = &self.origins[lost].region;
        let meant = |stamp: &Stamp| {
            partitions.entry(stamp.partition).and_then(|e| e.owner()) == Some(theirs)
        };
        let commits = self.ledger.values().filter(|c| c.region != lost && !c.keys.is_empty());
        commits.filter(|c| c.stamps.iter().any(meant)).filter_map(|c| c.acknowledged).min()
    }

    /// The guard let these writes through, at the moment of its last check.
    pub fn admitted(&mut self, region: usize, stamps: &[Stamp]) {
        // Where nothing runs ahead of its copies the seal ends an epoch, and the guard may run late.
        if !self.rpo.runs_ahead() {
            return;
        }
        if let Some(stamp) = stamps.iter().find(|s| self.truth.is_closed(**s)).copied() {
            let detail =
                format!("region {} admitted {stamp:?} after its cut", self.origins[region]);
            self.broken("no write is admitted under an epoch that is over", detail);
        }
    }

    /// A region took a commit with these stamps into its own log.
    pub fn captured(&mut self, region: usize, id: u32, stamps: &[Stamp], now: Micros) {
        if let Some(commit) = self.ledger.get_mut(&id) {
            commit.captured.get_or_insert(now);
        }
        for stamp in stamps {
            let owner = *self.owners.entry((stamp.partition, stamp.epoch)).or_insert(region);
            if owner != region {
                let (a, b) = (&self.origins[owner], &self.origins[region]);
                let detail = format!("{a} and {b} both wrote {stamp:?}");
                self.broken("one owner per partition and epoch", detail);
            }
        }
    }

    fn is_history(&self, commit: &Commit) -> bool {
        let origin = &self.origins[commit.region];
        let within =
            |stamp: &Stamp| self.truth.verdict(origin, commit.lsn, *stamp) == Verdict::InHistory;
        !commit.stamps.is_empty() && commit.stamps.iter().all(within)
    }

    /// The first commit of `origin` between the two, both excluded, that is history.
    fn history_between(&self, origin: usize, after: Lsn, before: Lsn) -> Option<u32> {
        if before.0 <= after.0 + 1 {
            return None;
        }
        let between = self.by_origin[origin].range(Lsn(after.0 + 1)..before);
        between.map(|(_, id)| *id).find(|id| self.is_history(&self.ledger[id]))
    }

    /// A region moves its progress with `origin` on to `upto`, perhaps by a record.
    pub fn applied(
        &mut self,
        region: usize,
        origin: usize,
        applied: &[Lsn],
        upto: Lsn,
        record: Option<&Record>,
    ) {
        let (here, from) = (self.origins[region].clone(), &self.origins[origin].clone());
        if upto <= applied[origin] {
            self.broken("nothing is applied twice", format!("{here} applies {from}@{upto}"));
        }
        let before = if record.is_some() { upto } else { Lsn(upto.0 + 1) };
        if let Some(id) = self.history_between(origin, applied[origin], before) {
            let detail = format!("{here} skips {id} of {from} on the way to {upto}");
            self.broken("nothing is skipped", detail);
        }
        let Some(record) = record else { return };
        let saw = self.ledger[&record.id].saw.clone();
        for (cause, lsn) in saw.iter().enumerate().filter(|(cause, _)| *cause != region) {
            if let Some(id) = self.history_between(cause, applied[cause], Lsn(lsn.0 + 1)) {
                let detail = format!("{here} shows {from}@{upto} before {id}, which it had seen");
                self.broken("no region shows an effect before its cause", detail);
            }
        }
        for stamp in &record.transaction.stamps {
            let shown =
                self.shown.entry((region, stamp.partition)).or_insert((Epoch(0), Lsn::ZERO));
            let newer = (stamp.epoch, upto) > *shown;
            *shown = (*shown).max((stamp.epoch, upto));
            if !newer {
                let detail = format!("{here} shows {from}@{upto} {stamp:?} after a newer one");
                self.broken("a partition's history is shown in its order", detail);
            }
        }
    }

    /// A region's database came back without what it had not flushed.
    pub fn forgot(&mut self, region: usize) {
        self.shown.retain(|(r, _), _| *r != region);
    }

    /// A region put these commits into its conflict journal.
    pub fn diverted(&mut self, region: usize, ids: &[u32]) {
        for id in ids {
            if self.is_history(&self.ledger[id]) {
                let detail = format!("{} diverts {id}", self.origins[region]);
                self.broken("what is history is never diverted", detail);
            }
        }
    }

    pub fn reported(&mut self, region: usize, progress: &[Progress]) {
        for (origin, now) in progress.iter().enumerate() {
            let before = self.reported[region][origin];
            let ordered = now.applied <= now.flushed && now.flushed <= now.received;
            let back = now.flushed < before.flushed || now.applied < before.applied;
            if !ordered || back {
                let (here, of) = (&self.origins[region], &self.origins[origin]);
                let detail = format!("{here} of {of}: {before:?}, then {now:?}");
                self.broken("progress is ordered and never moves back", detail);
            }
            self.reported[region][origin] = *now;
        }
    }

    /// The directory's ownership has changed.
    pub fn owned(&mut self, now: Rc<Ownership>) {
        for number in 0..now.total() {
            let partition = PartitionId(number);
            let (Some(old), Some(new)) = (self.truth.entry(partition), now.entry(partition)) else {
                continue;
            };
            let raised = new.epoch.0.checked_sub(old.epoch.0);
            let fenced = u64::from(matches!(new.state, State::Fenced { .. }));
            let grants = new.epoch.0 - 1 - fenced;
            let counted = new.closed.len() as u64 == grants.min(CLOSED_EPOCHS_MAX as u64);
            let kept = old.closed.iter().all(|c| new.closed.contains(c))
                || old.closed.len() == CLOSED_EPOCHS_MAX;
            if !(matches!(raised, Some(0 | 1)) && counted && kept) {
                let detail = format!("partition {partition}: {old:?} became {new:?}");
                self.broken("each grant raises the epoch by one and keeps every cut", detail);
                break;
            }
        }
        self.truth = now;
    }

    /// What every region's table must be in the end: the last write of history to each row.
    fn expected(&self, setup: &Setup) -> Vec<u32> {
        let mut last: Vec<((Epoch, Lsn), u32)> =
            vec![((Epoch(0), Lsn::ZERO), 0); setup.partitions.len()];
        for (id, commit) in self.ledger.iter().filter(|(_, c)| self.is_history(c)) {
            for key in &commit.keys {
                let partition = setup.partitions[*key as usize];
                let stamp = commit.stamps.iter().find(|s| s.partition == partition);
                let at = (stamp.map_or(Epoch(0), |s| s.epoch), commit.lsn);
                let slot = &mut last[*key as usize];
                *slot = (*slot).max((at, *id));
            }
        }
        last.into_iter().map(|(_, id)| id).collect()
    }

    /// Checks the end of a run, when everything has come to rest.
    pub fn ended(&mut self, setup: &Setup, tables: &[&Tables]) {
        let expected = self.expected(setup);
        for (region, table) in tables.iter().enumerate() {
            for (key, (is, should)) in table.rows.iter().zip(&expected).enumerate() {
                if is != should {
                    let here = &self.origins[region];
                    let detail = format!("{here} has {is} in row {key}, history has {should}");
                    self.broken("every region shows the history", detail);
                    return;
                }
            }
        }
        let journaled: BTreeSet<u32> =
            tables.iter().flat_map(|t| t.journal.iter().copied()).collect();
        let outside = |c: &Commit| !c.keys.is_empty() && !self.is_history(c);
        let lost: Vec<(u32, bool)> = self
            .ledger
            .iter()
            .filter(|(_, c)| outside(c))
            .map(|(id, c)| (*id, c.acknowledged.is_some()))
            .collect();
        if let Some((id, _)) = lost.iter().find(|(id, _)| !journaled.contains(id)) {
            self.broken("nothing is lost silently", format!("{id} is in no conflict journal"));
        }
        let acknowledged = lost.iter().filter(|(_, acknowledged)| *acknowledged).map(|(id, _)| *id);
        match self.rpo {
            Rpo::None => {}
            Rpo::Zero { .. } => {
                if let Some(id) = acknowledged.into_iter().next() {
                    let detail = format!("{id} was acknowledged and is not history");
                    self.broken("at RPO 0 every acknowledged write is history", detail);
                }
            }
            Rpo::Within { age, .. } => {
                let ids: Vec<u32> = acknowledged.collect();
                self.lost_within(&ids, age);
            }
        }
    }

    /// What was lost of one epoch lies no further apart than the bound: from when the first of it
    /// was captured until the last of it was acknowledged.
    fn lost_within(&mut self, lost: &[u32], age: Millis) {
        let mut spans: BTreeMap<Stamp, (Micros, Micros)> = BTreeMap::new();
        for commit in lost.iter().map(|id| &self.ledger[id]) {
            let (Some(captured), Some(acknowledged)) = (commit.captured, commit.acknowledged)
            else {
                continue;
            };
            for stamp in &commit.stamps {
                let (first, last) = spans.entry(*stamp).or_insert((captured, acknowledged));
                (*first, *last) = ((*first).min(captured), (*last).max(acknowledged));
            }
        }
        // By the slowest clock there is, which also cuts off parts of a millisecond.
        let most = age.0 * MS + age.0 * MS * DRIFT_PPM_MAX / 1_000_000 + 2 * MS;
        if let Some((stamp, (first, last))) =
            spans.iter().find(|(_, (first, last))| last.saturating_sub(*first) > most)
        {
            let detail = format!("{} us of {stamp:?}", last - first);
            self.broken("a failover loses no more than the RPO", detail);
        }
    }
}
