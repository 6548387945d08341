//! Which records of a log may be forgotten, and what when there is no room for more?
//!
//! A record is kept until every region shows it in its tables, flushed, and for a while after
//! that. So whoever comes back finds what it lacks, also in the log of a region that is gone.
//!
//! ```text
//!   [ trimmed ][ shown everywhere | younger than `keep` ][ lacked by ap | by us ][ open segment ]
//!              '---- goes when there is no room ----'   '- goes when ap is left behind -'
//! ```
//!
//! Nothing is trimmed that a cut may still have to judge, and nothing of our own log that no other
//! region holds: if it turns out to be a tail, the conflict journal needs it.
//!
//! **Invariant:** a record that a region lacks is trimmed only after that region was durably left
//! behind, so it meets a named state and never a gap.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::frame::Compression;
use crate::id::{Origin, RegionId};
use crate::lsn::Lsn;
use crate::ownership::{Ownership, State};
use crate::runbook::Facts;
use crate::time::{Millis, Time};

/// How the logs of one region are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogTerms {
    /// How long a record stays once it is in the log, also when every region shows it.
    pub keep: Millis,
    /// The most that all logs of a region take together.
    pub size_max: u64,
    pub segment_bytes: u64,
    pub on_full: OnFull,
    /// How long a region must have made no progress before it may be left behind.
    pub drop_after: Millis,
    /// How what enters the region's own log is packed.
    pub compression: Compression,
}

/// What gives way when a region that stays away makes the logs reach their limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// The region that is furthest behind is left behind: it has to be seeded again.
    DropPeer,
    /// Nothing: no more is captured, so PostgreSQL keeps its WAL and commits wait.
    Block,
}

/// One origin's log as it lies on this region's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLog {
    pub origin: Origin,
    /// Oldest first. The last one is still written to and always stays.
    pub segments: Vec<KeptSegment>,
    /// Everything up to here has been in the log for [`LogTerms::keep`].
    pub aged: Lsn,
    /// Everything up to here was held against every cut that there is: see [`judged`].
    pub judged: Lsn,
    /// Everything up to here is in another region's log too.
    pub shipped: Lsn,
    /// What every region but the origin's own shows of it, flushed.
    pub applied: BTreeMap<RegionId, Lsn>,
    /// Those that have not moved for [`LogTerms::drop_after`].
    pub stalled: BTreeSet<RegionId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptSegment {
    pub last: Lsn,
    pub bytes: u64,
}

/// A region that is no longer waited for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftBehind {
    pub region: RegionId,
    pub origin: Origin,
    /// Once it shows everything up to here it has lost nothing.
    pub upto: Lsn,
}

/// What keeps a log from getting shorter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// It does not show the records yet.
    Region(RegionId),
    /// No other region holds them.
    Unshipped,
    /// A failover is deciding which of them are history.
    Cut,
    /// They are in the segment that is written to.
    OpenSegment,
}

/// There is no room for another segment, and nothing more may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// The longest log.
    pub origin: Origin,
    pub held_by: HeldBy,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Origin -> up to where its records may go.
    pub trim: BTreeMap<Origin, Lsn>,
    /// To be made known durably, before anything that they lack is trimmed.
    pub leave: Vec<LeftBehind>,
    pub no_room: Option<NoRoom>,
}

/// Decides for all logs of region `own`; `left` are the regions already left behind, by origin.
pub fn retain(
    terms: &LogTerms,
    own: &RegionId,
    logs: &[KeptLog],
    left: &BTreeSet<(RegionId, Origin)>,
) -> Retention {
    let mut logs: Vec<Shrinking> = logs.iter().map(|log| Shrinking::new(log, left)).collect();
    for log in &mut logs {
        while log.next_goes(log.needed.min(log.log.aged)) {
            log.gone += 1;
        }
    }
    // Room for one more segment is made before it is needed.
    let limit = terms.size_max.saturating_sub(terms.segment_bytes);
    while total(&logs) > limit {
        let longest = logs.iter_mut().filter(|log| log.next_goes(log.needed));
        let Some(longest) = longest.max_by_key(|log| log.bytes()) else { break };
        longest.gone += 1;
    }
    let mut retention = Retention {
        trim: logs.iter().filter_map(Shrinking::trim).collect(),
        ..Retention::default()
    };
    if total(&logs) > limit {
        logs.sort_by_key(|log| std::cmp::Reverse(log.bytes()));
        if terms.on_full == OnFull::DropPeer {
            retention.leave = logs.iter().find_map(|log| log.leave(own, left)).unwrap_or_default();
        }
        if retention.leave.is_empty() {
            retention.no_room = logs
                .first()
                .map(|log| NoRoom { origin: log.log.origin.clone(), held_by: log.held_by(left) });
        }
    }
    retention
}

fn total(logs: &[Shrinking]) -> u64 {
    logs.iter().map(Shrinking::bytes).sum()
}

/// A log while it is decided what of it goes.
struct Shrinking<'a> {
    log: &'a KeptLog,
    /// Nothing after this may go.
    needed: Lsn,
    /// How many segments go.
    gone: usize,
}

impl<'a> Shrinking<'a> {
    fn new(log: &'a KeptLog, left: &BTreeSet<(RegionId, Origin)>) -> Self {
        let waiting = waiting(log, left).map(|(_, lsn)| lsn).min();
        let needed = log.judged.min(log.shipped).min(waiting.unwrap_or(Lsn(u64::MAX)));
        Self { log, needed, gone: 0 }
    }

    fn bytes(&self) -> u64 {
        self.log.segments[self.gone..].iter().map(|segment| segment.bytes).sum()
    }

    /// May the next segment go, when nothing after `upto` may?
    fn next_goes(&self, upto: Lsn) -> bool {
        self.next_end().is_some_and(|end| end <= upto)
    }

    /// Where the next segment ends that could go at all.
    fn next_end(&self) -> Option<Lsn> {
        let but_last = self.log.segments.len().saturating_sub(1);
        self.log.segments[..but_last].get(self.gone).map(|segment| segment.last)
    }

    fn trim(&self) -> Option<(Origin, Lsn)> {
        let last = self.log.segments[..self.gone].last()?;
        Some((self.log.origin.clone(), last.last))
    }

    /// The regions furthest behind, as few as make the next segment free; `None` when that would
    /// not help.
    fn leave(
        &self,
        own: &RegionId,
        left: &BTreeSet<(RegionId, Origin)>,
    ) -> Option<Vec<LeftBehind>> {
        let end = self.next_end()?;
        let behind: Vec<_> = waiting(self.log, left).filter(|(_, lsn)| *lsn < end).collect();
        let helps = end <= self.log.judged.min(self.log.shipped);
        // Whoever moves on is waited for, however slow.
        let given_up =
            behind.iter().all(|(region, _)| *region != own && self.log.stalled.contains(*region));
        (helps && given_up && !behind.is_empty()).then(|| {
            let leave = |(region, _): (&RegionId, Lsn)| LeftBehind {
                region: region.clone(),
                origin: self.log.origin.clone(),
                upto: end,
            };
            behind.into_iter().map(leave).collect()
        })
    }

    fn held_by(&self, left: &BTreeSet<(RegionId, Origin)>) -> HeldBy {
        let Some(end) = self.next_end() else { return HeldBy::OpenSegment };
        let last = waiting(self.log, left).min_by_key(|(_, lsn)| *lsn);
        match last {
            _ if self.log.judged < end => HeldBy::Cut,
            Some((region, lsn)) if lsn < end => HeldBy::Region(region.clone()),
            _ => HeldBy::Unshipped,
        }
    }
}

/// The regions that are still waited for, with what they show.
fn waiting<'a>(
    log: &'a KeptLog,
    left: &'a BTreeSet<(RegionId, Origin)>,
) -> impl Iterator<Item = (&'a RegionId, Lsn)> {
    let waited = |region: &RegionId| !left.contains(&(region.clone(), log.origin.clone()));
    log.applied.iter().filter(move |(r, _)| waited(r)).map(|(r, lsn)| (r, *lsn))
}

/// Returns up to where records of `origin` need no more judging, when its copy here was held
/// against every cut that `examined` knows.
///
/// Without knowing who owns what, and while a cut is being decided, nothing is certain.
pub fn judged(ownership: Option<&Ownership>, origin: &Origin, examined: Option<&Ownership>) -> Lsn {
    let Some(ownership) = ownership else { return Lsn::ZERO };
    let deciding = ownership.entries().iter().any(|entry| {
        matches!(&entry.state, State::Fenced { from, cut: None, .. } if *from == origin.region)
    });
    if deciding {
        return Lsn::ZERO;
    }
    ownership.first_new_cut(examined, origin).unwrap_or(Lsn(u64::MAX))
}

/// What every region but the origin's own shows of it, flushed, for [`KeptLog::applied`].
///
/// A region that goes by a newer ownership than we may have passed over records which we are still
/// to find outside the history: what it shows does not count yet. One that was never heard shows
/// nothing.
pub fn applied(facts: &Facts, origin: &Origin) -> BTreeMap<RegionId, Lsn> {
    let others = facts.regions.iter().filter(|(region, _)| **region != origin.region);
    let shown = others.map(|(region, seen)| {
        let known = seen.ownership_read <= facts.ownership_revision;
        (region.clone(), if known { seen.durable.get(origin) } else { Lsn::ZERO })
    });
    shown.collect()
}

/// Up to where another region than `own` holds the log of `origin`, for [`KeptLog::shipped`].
///
/// Only our own log may hold what nobody else does.
pub fn shipped(facts: &Facts, own: &RegionId, origin: &Origin) -> Lsn {
    if origin.region != *own {
        return Lsn(u64::MAX);
    }
    let others = facts.regions.iter().filter(|(region, _)| *region != own);
    others.map(|(_, seen)| seen.flushed.get(origin)).max().unwrap_or_default()
}

/// What becomes of our copy of a log when nobody has what comes after its end any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Our tables show what is missing: the copy begins anew, after the gap.
    Skip,
    /// Records are lost to us: the region has to be seeded again.
    Reseed,
}

/// Decides when a log begins after `trimmed` and our tables show its origin up to `shown`, flushed.
pub fn over_gap(shown: Lsn, trimmed: Lsn) -> Gap {
    if shown >= trimmed { Gap::Skip } else { Gap::Reseed }
}

/// Since when has a log held what it holds? By the agent's own clock: what was found at its start
/// counts as new.
#[derive(Clone, Debug, Default)]
pub struct Ages {
    seen: VecDeque<(Time, Lsn)>,
}

/// Since when has each region shown no more of each log? By the agent's own clock.
#[derive(Clone, Debug, Default)]
pub struct Stalls {
    seen: BTreeMap<(RegionId, Origin), (Lsn, Time)>,
}

impl Stalls {
    /// Notes what the regions show of `origin`, and returns those that have not moved `for_` so
    /// long. For whoever is in `left` it begins when it no longer is: that it was seeded again may
    /// be known before how far it came by that.
    pub fn note(
        &mut self,
        origin: &Origin,
        applied: &BTreeMap<RegionId, Lsn>,
        left: &BTreeSet<(RegionId, Origin)>,
        for_: Millis,
        now: Time,
    ) -> BTreeSet<RegionId> {
        let mut stalled = BTreeSet::new();
        for (region, lsn) in applied {
            let key = (region.clone(), origin.clone());
            let is_left = left.contains(&key);
            let (at, since) = self.seen.entry(key).or_insert((*lsn, now));
            if *lsn > *at || is_left {
                (*at, *since) = (*lsn, now);
            } else if now.since(*since) >= for_ {
                stalled.insert(region.clone());
            }
        }
        stalled
    }
}

/// Into so many steps the time to keep is divided: a record may stay longer by one of them.
const AGE_STEPS: u64 = 32;

impl Ages {
    /// Notes that the log ends at `end`, and returns up to where it has been there for `keep`.
    pub fn note(&mut self, end: Lsn, keep: Millis, now: Time) -> Lsn {
        let due = self.seen.back().is_none_or(|(at, _)| now.since(*at).0 >= keep.0 / AGE_STEPS);
        if due {
            self.seen.push_back((now, end));
        }
        let old = self.seen.partition_point(|(at, _)| now.since(*at) >= keep);
        self.seen.drain(..old.saturating_sub(1));
        if old == 0 { Lsn::ZERO } else { self.seen[0].1 }
    }
}

#[cfg(test)]
mod tests;
