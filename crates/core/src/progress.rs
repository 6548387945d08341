//! How far has each region received, flushed and applied one origin; what may be confirmed?
//!
//! Positions never move back, and `applied <= flushed <= received` in every region.

use std::collections::{BTreeMap, VecDeque};

use crate::id::RegionId;
use crate::lsn::Lsn;
use crate::time::{Millis, PgTime};

/// How much of acknowledged work a failover may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpo {
    /// A commit is acknowledged when `copies` remote logs hold it.
    Zero { copies: usize },
    /// A commit is acknowledged when the origin's own PostgreSQL holds it.
    None,
}

/// One region's position in one origin's history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub received: Lsn,
    pub flushed: Lsn,
    pub applied: Lsn,
}

impl Progress {
    /// Takes over what a region reports; what lies behind is ignored.
    pub fn advance(&mut self, report: Progress) {
        self.received = self.received.max(report.received);
        self.flushed = self.flushed.max(report.flushed).min(self.received);
        self.applied = self.applied.max(report.applied).min(self.flushed);
    }
}

/// The origin's view: what it has captured, and how far the others are.
#[derive(Clone, Debug, Default)]
pub struct OriginProgress {
    /// End of our own log, flushed.
    flushed: Lsn,
    /// The newest transaction read from the slot that belongs in the log.
    captured: Lsn,
    /// The newest position read from the slot with no transaction open.
    seen: Lsn,
    peers: BTreeMap<RegionId, Progress>,
}

impl OriginProgress {
    /// Starts from a log that ends at `end`.
    pub fn resume(end: Lsn) -> Self {
        Self { flushed: end, captured: end, seen: end, peers: BTreeMap::new() }
    }

    /// A transaction at `lsn` was read and goes into the log.
    pub fn captured(&mut self, lsn: Lsn) {
        self.captured = self.captured.max(lsn);
        self.seen = self.seen.max(lsn);
    }

    /// The stream has reached `position` and no transaction is open.
    pub fn seen(&mut self, position: Lsn) {
        self.seen = self.seen.max(position);
    }

    /// Some records turned out not to be history: nobody will ever hold them, so nothing waits for
    /// that. What was captured after the last of them stays.
    pub fn withdrawn(&mut self, found: Sifted) {
        if found.diverted.is_some_and(|diverted| self.captured <= diverted) {
            self.captured = self.captured.min(found.kept);
        }
    }

    /// Up to where everything in the stream was read and judged.
    pub fn position(&self) -> Lsn {
        self.seen
    }

    /// Where the log ends once everything that was captured is in it.
    pub fn end(&self) -> Lsn {
        self.captured.max(self.flushed)
    }

    /// Our log is durable up to `end`.
    pub fn flushed(&mut self, end: Lsn) {
        self.flushed = self.flushed.max(end);
    }

    pub fn peer(&mut self, region: &RegionId, report: Progress) {
        self.peers.entry(region.clone()).or_default().advance(report);
    }

    pub fn peers(&self) -> &BTreeMap<RegionId, Progress> {
        &self.peers
    }

    /// Returns up to where this origin's history is as durable as `rpo` asks.
    pub fn durable(&self, rpo: Rpo) -> Lsn {
        match rpo {
            Rpo::None => self.flushed,
            Rpo::Zero { copies } => self.flushed.min(self.held_by(copies)),
        }
    }

    /// Returns what the slot may be told: PostgreSQL acknowledges commits up to here and forgets
    /// their WAL.
    ///
    /// When everything captured is durable, that is everything seen: commits that carry nothing
    /// for the log (another database, an unpublished table) must not wait for the next one.
    pub fn confirmable(&self, rpo: Rpo) -> Lsn {
        let durable = self.durable(rpo);
        if durable >= self.captured { self.seen.max(durable) } else { durable }
    }

    /// The highest LSN that at least `copies` peers have flushed.
    fn held_by(&self, copies: usize) -> Lsn {
        let mut flushed: Vec<Lsn> = self.peers.values().map(|p| p.flushed).collect();
        flushed.sort_unstable_by(|a, b| b.cmp(a));
        match copies.checked_sub(1) {
            None => Lsn(u64::MAX),
            Some(k) => flushed.get(k).copied().unwrap_or_default(),
        }
    }
}

/// How far a log reaches in which history and what is none stand side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sifted {
    kept: Lsn,
    diverted: Option<Lsn>,
}

impl Sifted {
    /// Nothing was looked at behind `start`, and everything up to it is history.
    pub fn behind(start: Lsn) -> Self {
        Self { kept: start, diverted: None }
    }

    /// The record at `lsn` is history.
    pub fn keep(&mut self, lsn: Lsn) {
        self.kept = self.kept.max(lsn);
    }

    /// The record at `lsn` is none.
    pub fn divert(&mut self, lsn: Lsn) {
        self.diverted = self.diverted.max(Some(lsn));
    }
}

/// Recent commits of one origin with their times, by that origin's PostgreSQL clock alone.
#[derive(Clone, Debug)]
pub struct CommitTimes {
    commits: VecDeque<(Lsn, PgTime)>,
    limit: usize,
}

impl CommitTimes {
    /// Remembers at least `limit / 2` commits, spread over the whole time that is asked about.
    pub fn new(limit: usize) -> Self {
        Self { commits: VecDeque::with_capacity(limit), limit: limit.max(2) }
    }

    pub fn note(&mut self, lsn: Lsn, at: PgTime) {
        if self.commits.len() >= self.limit {
            // Thin out rather than forget: a coarse answer about a long lag beats none.
            let mut keep = false;
            self.commits.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.commits.push_back((lsn, at));
    }

    /// Returns the age of the oldest commit that a reader at `position` lacks; zero when none.
    pub fn age_beyond(&self, position: Lsn, now: PgTime) -> Millis {
        let i = self.commits.partition_point(|(lsn, _)| *lsn <= position);
        self.commits.get(i).map_or(Millis(0), |(_, at)| now.since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn at(lsn: u64) -> Progress {
        Progress { received: Lsn(lsn), flushed: Lsn(lsn), applied: Lsn(lsn) }
    }

    const ZERO: Rpo = Rpo::Zero { copies: 1 };

    #[test]
    fn at_rpo_zero_a_commit_waits_for_one_remote_log() {
        let mut progress = OriginProgress::resume(Lsn(10));
        progress.captured(Lsn(20));
        progress.flushed(Lsn(20));
        assert_eq!(progress.confirmable(ZERO), Lsn(0));
        assert_eq!(progress.confirmable(Rpo::None), Lsn(20));
        progress.peer(&region("us"), at(20));
        assert_eq!(progress.confirmable(ZERO), Lsn(20));
        assert_eq!(progress.confirmable(Rpo::Zero { copies: 2 }), Lsn(0));
        progress.peer(&region("ap"), at(15));
        assert_eq!(progress.confirmable(Rpo::Zero { copies: 2 }), Lsn(15));
    }

    #[test]
    fn a_commit_that_carries_nothing_is_confirmed_once_all_before_it_is_durable() {
        let mut progress = OriginProgress::resume(Lsn(10));
        progress.peer(&region("us"), at(10));
        progress.seen(Lsn(30));
        assert_eq!(progress.confirmable(ZERO), Lsn(30));
        progress.captured(Lsn(40));
        progress.seen(Lsn(50));
        progress.flushed(Lsn(40));
        assert_eq!(progress.confirmable(ZERO), Lsn(10), "40 is not remote yet");
        progress.peer(&region("us"), at(40));
        assert_eq!(progress.confirmable(ZERO), Lsn(50));
    }

    #[test]
    fn nothing_waits_for_what_is_not_history() {
        let mut progress = OriginProgress::resume(Lsn(40));
        progress.peer(&region("us"), at(30));
        progress.seen(Lsn(50));
        assert_eq!(progress.confirmable(ZERO), Lsn(30));
        let mut found = Sifted::behind(Lsn(30));
        found.divert(Lsn(40));
        progress.withdrawn(found);
        assert_eq!(progress.confirmable(ZERO), Lsn(50));
        progress.captured(Lsn(60));
        progress.withdrawn(found);
        assert_eq!(progress.confirmable(ZERO), Lsn(30), "60 is history and not remote yet");
    }

    #[test]
    fn history_between_diverted_records_is_still_waited_for() {
        let mut progress = OriginProgress::resume(Lsn(50));
        progress.peer(&region("us"), at(20));
        progress.seen(Lsn(60));
        let mut found = Sifted::behind(Lsn(20));
        found.divert(Lsn(30));
        found.keep(Lsn(40));
        found.divert(Lsn(50));
        progress.withdrawn(found);
        assert_eq!(progress.confirmable(ZERO), Lsn(20), "40 is history and not remote yet");
        progress.peer(&region("us"), at(40));
        assert_eq!(progress.confirmable(ZERO), Lsn(60));
    }

    #[test]
    fn progress_never_moves_back_and_keeps_its_order() {
        let mut progress = at(9);
        progress.advance(Progress { received: Lsn(8), flushed: Lsn(12), applied: Lsn(11) });
        assert_eq!(progress, at(9));
    }

    #[test]
    fn staleness_is_the_age_of_the_oldest_missing_commit() {
        let mut times = CommitTimes::new(8);
        for i in 1..=4 {
            times.note(Lsn(i * 10), PgTime(i as i64 * 1_000_000));
        }
        let now = PgTime(10_000_000);
        assert_eq!(times.age_beyond(Lsn(20), now), Millis(7000));
        assert_eq!(times.age_beyond(Lsn(40), now), Millis(0));
    }

    #[test]
    fn a_long_lag_is_still_measured_when_memory_is_short() {
        let mut times = CommitTimes::new(16);
        for i in 1..=1000 {
            times.note(Lsn(i), PgTime(i as i64 * 1_000_000));
        }
        let age = times.age_beyond(Lsn(0), PgTime(1_000_000_000));
        assert_eq!(age, Millis(999_000), "the oldest commit is kept");
    }
}
