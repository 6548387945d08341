//! How far has each region received, flushed and applied one origin; what may be confirmed?
//!
//! Positions never move back, and `applied <= flushed <= received` in every region.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use crate::id::RegionId;
use crate::lsn::Lsn;
use crate::time::{Millis, PgTime, Time};

/// How much of acknowledged work a failover may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpo {
    /// A commit is acknowledged when `copies` remote logs hold it.
    Zero { copies: usize },
    /// Also before that, while the lease is live and every commit that `copies` remote logs do not
    /// hold was captured less than `age` ago.
    Within { copies: usize, age: Millis },
    /// A commit is acknowledged when the origin's own PostgreSQL holds it.
    None,
}

impl Rpo {
    /// Does a commit wait for the capture, so that PostgreSQL must not acknowledge it by itself?
    pub fn waits_for_capture(self) -> bool {
        match self {
            Self::Zero { .. } | Self::Within { .. } => true,
            Self::None => false,
        }
    }

    /// May a commit be acknowledged that no remote log holds, so that a failover can lose it?
    ///
    /// Such acknowledgements end with the lease, not with the seals.
    pub fn runs_ahead(self) -> bool {
        match self {
            Self::Zero { .. } => false,
            Self::Within { .. } | Self::None => true,
        }
    }

    /// How many other regions must hold a commit that is certainly safe.
    pub fn copies(self) -> usize {
        match self {
            Self::Zero { copies } | Self::Within { copies, .. } => copies,
            Self::None => 0,
        }
    }

    /// What must be reckoned with where two agents go by different ones: no more copies than either asks for,
    /// and as much that no copy holds.
    pub fn or_weaker(self, other: Self) -> Self {
        let copies = [self, other].map(Self::copies).into_iter().filter(|copies| *copies > 0).min();
        let Some(copies) = copies else { return Self::None };
        if !self.runs_ahead() && !other.runs_ahead() {
            return Self::Zero { copies };
        }
        let ages = [self, other].map(|rpo| rpo.loss_max().unwrap_or(Millis(u64::MAX)));
        Self::Within { copies, age: ages[0].max(ages[1]) }
    }

    /// The most that a failover may lose, where that is bounded.
    pub fn loss_max(self) -> Option<Millis> {
        match self {
            Self::Zero { .. } => Some(Millis(0)),
            Self::Within { age, .. } => Some(age),
            Self::None => None,
        }
    }
}

impl fmt::Display for Rpo {
    /// As it is written in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero { .. } => write!(f, "0"),
            Self::Within { age, .. } => write!(f, "{}ms", age.0),
            Self::None => write!(f, "none"),
        }
    }
}

/// One region's position in one origin's history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct OriginProgress {
    /// End of our own log, flushed.
    flushed: Lsn,
    /// The newest transaction read from the slot that belongs in the log.
    captured: Lsn,
    /// The newest position read from the slot with no transaction open.
    seen: Lsn,
    /// How old what an earlier process left here is nobody knows: nothing runs ahead of it.
    inherited: Lsn,
    /// When each transaction was captured, oldest first; those of one moment together.
    ages: VecDeque<(Lsn, Time)>,
    peers: BTreeMap<RegionId, Reported>,
    /// Nothing of our log lies outside the history as this revision of the ownership has it.
    examined: u64,
    /// Who holds our log by that ownership: nobody else's copies count.
    holders: BTreeSet<RegionId>,
}

/// What one peer has told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Reported {
    counts: Progress,
    /// Told under an ownership that our log was not held against yet.
    early: Option<(u64, Progress)>,
}

/// Moments of capture that are remembered: more only say the same in smaller steps.
const AGES_MAX: usize = 4096;

impl OriginProgress {
    /// Starts from a log that ends at `end`.
    pub fn resume(end: Lsn) -> Self {
        let mut progress = Self::default();
        progress.recovered(end);
        progress
    }

    /// The log was made whole again up to `end`.
    pub fn recovered(&mut self, end: Lsn) {
        for position in [&mut self.flushed, &mut self.captured, &mut self.seen, &mut self.inherited]
        {
            *position = (*position).max(end);
        }
    }

    /// A transaction at `lsn` was read at `now` and goes into the log.
    pub fn captured(&mut self, lsn: Lsn, now: Time) {
        self.captured = self.captured.max(lsn);
        self.seen = self.seen.max(lsn);
        match self.ages.back_mut() {
            Some((last, at)) if *at == now => *last = lsn,
            _ => self.ages.push_back((lsn, now)),
        }
        if self.ages.len() > AGES_MAX {
            // Two moments become the earlier one: what is too old may seem so a little early.
            let pairs = self.ages.make_contiguous().chunks(2);
            self.ages = pairs.map(|pair| (pair[pair.len() - 1].0, pair[0].1)).collect();
        }
    }

    /// The stream begins anew: what was read and is not in our log is sent again, and may turn out to be no
    /// history then.
    pub fn restarted(&mut self) {
        self.captured = self.captured.min(self.flushed);
        self.seen = self.seen.min(self.flushed);
        let flushed = self.flushed;
        self.ages.retain(|(lsn, _)| *lsn <= flushed);
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
            self.ages.retain(|(lsn, _)| *lsn <= found.kept);
            self.inherited = self.inherited.min(found.kept);
        }
    }

    /// Where history ends of what was captured: the log may go on with what is none.
    pub fn history(&self) -> Lsn {
        self.captured
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

    /// A peer told how far it is; `revision` is that of the ownership it goes by.
    ///
    /// It passes over what it knows to lie beyond a cut, so its position says nothing of such a
    /// commit. The report counts once our own log was held against the same cuts: those commits are
    /// withdrawn by then, and their clients told.
    pub fn peer(&mut self, region: &RegionId, report: Progress, revision: u64) {
        let reported = self.peers.entry(region.clone()).or_default();
        if revision <= self.examined {
            reported.counts.advance(report);
        } else {
            reported.early = Some((revision, report));
        }
    }

    /// Our log was held against the ownership at `revision`, which has these `holders`; what lies
    /// beyond a cut is withdrawn. Whatever goes into it from now on is judged by that ownership or a
    /// newer one.
    pub fn examined(&mut self, revision: u64, holders: &BTreeSet<RegionId>) {
        if revision >= self.examined {
            self.examined = revision;
            self.holders.clone_from(holders);
        }
        for reported in self.peers.values_mut() {
            if let Some((_, report)) = reported.early.take_if(|(told, _)| *told <= self.examined) {
                reported.counts.advance(report);
            }
        }
    }

    /// How far `region` is, as far as that counts.
    pub fn of_peer(&self, region: &RegionId) -> Progress {
        self.peers.get(region).map(|reported| reported.counts).unwrap_or_default()
    }

    /// Returns up to where this origin's history is as durable as `rpo` asks at `now`.
    ///
    /// `lease_until` is when this region must stop acting as owner; `None` when it holds no lease.
    pub fn durable(&mut self, rpo: Rpo, now: Time, lease_until: Option<Time>) -> Lsn {
        match rpo {
            Rpo::None => {
                self.ages.clear();
                self.flushed
            }
            Rpo::Zero { copies } => {
                self.ages.clear();
                self.flushed.min(self.held_by(copies))
            }
            Rpo::Within { copies, age } => {
                let held = self.held_by(copies);
                let known = self.ages.partition_point(|(lsn, _)| *lsn <= held);
                self.ages.drain(..known);
                let young = self.ages.front().is_none_or(|(_, at)| now.since(*at) < age);
                let owner = lease_until.is_some_and(|until| now < until);
                let ahead = young && owner && held >= self.inherited;
                if ahead { self.flushed } else { self.flushed.min(held) }
            }
        }
    }

    /// Returns what the slot may be told: PostgreSQL acknowledges commits up to here and forgets
    /// their WAL.
    ///
    /// When everything captured is durable, that is everything seen: commits that carry nothing
    /// for the log (another database, an unpublished table) must not wait for the next one.
    pub fn confirmable(&mut self, rpo: Rpo, now: Time, lease_until: Option<Time>) -> Lsn {
        let durable = self.durable(rpo, now, lease_until);
        if durable >= self.captured { self.seen.max(durable) } else { durable }
    }

    /// The highest LSN that at least `copies` holders have flushed.
    fn held_by(&self, copies: usize) -> Lsn {
        let holders = self.peers.iter().filter(|(region, _)| self.holders.contains(region));
        let mut flushed: Vec<Lsn> = holders.map(|(_, told)| told.counts.flushed).collect();
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

/// What a region has committed and no other holds: what losing it would cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exposure {
    /// Of the oldest such commit.
    pub age: Millis,
    pub commits: u64,
    /// Of WAL, with what is not replicated.
    pub bytes: u64,
}

/// How fast a region's own log grows, in the mean of the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    pub commits_per_s: u64,
    /// Of WAL.
    pub bytes_per_s: u64,
}

impl Exposure {
    /// What it may be once the region may have written on for so long at this pace, unheard.
    pub fn after(self, unheard: Millis, pace: Pace) -> Self {
        let meanwhile = |per_s: u64| per_s.saturating_mul(unheard.0).div_ceil(1000);
        Self {
            age: self.age + unheard,
            commits: self.commits.saturating_add(meanwhile(pace.commits_per_s)),
            bytes: self.bytes.saturating_add(meanwhile(pace.bytes_per_s)),
        }
    }

    /// What it is at most where commits are bound to copies.
    pub fn within(self, rpo: Rpo) -> Self {
        match rpo.loss_max() {
            Some(Millis(0)) => Self::default(),
            Some(most) => Self { age: self.age.min(most), ..self },
            None => self,
        }
    }
}

/// Recent commits of one origin with their times, by that origin's PostgreSQL clock alone.
#[derive(Clone, Debug)]
pub struct CommitTimes {
    commits: VecDeque<Commit>,
    limit: usize,
    /// How many there were, remembered or not.
    count: u64,
    /// None of them is behind this, as far as that is known.
    end: Lsn,
}

#[derive(Clone, Copy, Debug)]
struct Commit {
    lsn: Lsn,
    at: PgTime,
    /// How many came before it.
    before: u64,
}

impl CommitTimes {
    /// Remembers at least `limit / 2` commits, spread over the whole time that is asked about.
    pub fn new(limit: usize) -> Self {
        let (commits, end) = (VecDeque::with_capacity(limit), Lsn(u64::MAX));
        Self { commits, limit: limit.max(2), count: 0, end }
    }

    pub fn note(&mut self, lsn: Lsn, at: PgTime) {
        self.note_first(lsn, at, 1);
    }

    /// Notes so many commits of which the first is the one at `lsn`; of the others nothing is known but
    /// that they follow.
    pub fn note_first(&mut self, lsn: Lsn, at: PgTime, count: u64) {
        if self.commits.len() >= self.limit {
            // Thin out rather than forget: a coarse answer about a long lag beats none.
            let mut keep = false;
            self.commits.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.commits.push_back(Commit { lsn, at, before: self.count });
        self.count += count;
        self.end = if count == 1 { lsn } else { Lsn(u64::MAX) };
    }

    /// Forgets what is behind `end`: it is no history, and nobody lacks it.
    pub fn forget_behind(&mut self, end: Lsn) {
        while let Some(last) = self.commits.back().filter(|last| last.lsn > end) {
            self.count = last.before;
            self.commits.pop_back();
        }
        self.end = self.end.min(end);
    }

    /// Returns the age of the oldest commit that a reader at `position` lacks; zero when none. Where not
    /// all are remembered it is no younger than that one. A clock that has not been asked yet may
    /// say anything: it is at least as late as the newest commit.
    pub fn age_beyond(&self, position: Lsn, now: PgTime) -> Millis {
        let now = self.commits.back().map_or(now, |last| last.at.max(now));
        self.first_beyond(position).map_or(Millis(0), |(at, _)| now.since(at))
    }

    /// Returns how many commits a reader at `position` lacks; more where not all are remembered.
    pub fn count_beyond(&self, position: Lsn) -> u64 {
        self.first_beyond(position).map_or(0, |(_, before)| self.count - before)
    }

    /// When the first commit behind `position` was made, and how many came before it. Between two that
    /// are remembered it may be any: it came behind the earlier one.
    fn first_beyond(&self, position: Lsn) -> Option<(PgTime, u64)> {
        if position >= self.end {
            return None;
        }
        let next = self.commits.partition_point(|commit| commit.lsn <= position);
        let before = self.commits.get(next).map_or(self.count, |commit| commit.before);
        match next.checked_sub(1).and_then(|last| self.commits.get(last)) {
            Some(last) if before > last.before + 1 => Some((last.at, last.before + 1)),
            _ => self.commits.get(next).map(|commit| (commit.at, commit.before)),
        }
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

    fn holders() -> BTreeSet<RegionId> {
        ["ap", "eu", "us"].map(region).into()
    }

    /// An origin whose log was held against the first ownership.
    fn resume(end: Lsn) -> OriginProgress {
        let mut progress = OriginProgress::resume(end);
        progress.examined(0, &holders());
        progress
    }

    const ZERO: Rpo = Rpo::Zero { copies: 1 };
    const NOW: Time = Time(0);

    #[test]
    fn what_was_read_and_did_not_get_into_the_log_holds_nothing_up_once_it_is_sent_again() {
        let mut progress = OriginProgress::resume(Lsn(100));
        progress.captured(Lsn(150), Time(1));
        progress.seen(Lsn(160));
        let told = |progress: &mut OriginProgress| progress.confirmable(Rpo::None, Time(2), None);
        assert_eq!(told(&mut progress), Lsn(100));
        progress.restarted();
        assert_eq!(told(&mut progress), Lsn(100), "it is not safe yet");
        // It lay past a cut, and is in the journal.
        progress.seen(Lsn(150));
        progress.seen(Lsn(170));
        assert_eq!(told(&mut progress), Lsn(170));
    }

    #[test]
    fn of_two_promises_the_weaker_counts() {
        let (one, two) = (Rpo::Zero { copies: 1 }, Rpo::Zero { copies: 2 });
        let within = |copies, age| Rpo::Within { copies, age: Millis(age) };
        assert_eq!(two.or_weaker(one), one);
        assert_eq!(two.or_weaker(two), two);
        assert_eq!(one.or_weaker(within(2, 250)), within(1, 250));
        assert_eq!(two.or_weaker(Rpo::None), within(2, u64::MAX));
        assert_eq!(Rpo::None.or_weaker(Rpo::None), Rpo::None);
    }

    #[test]
    fn at_rpo_zero_a_commit_waits_for_one_remote_log() {
        let mut progress = resume(Lsn(10));
        progress.captured(Lsn(20), NOW);
        progress.flushed(Lsn(20));
        assert_eq!(progress.confirmable(ZERO, NOW, None), Lsn(0));
        assert_eq!(progress.confirmable(Rpo::None, NOW, None), Lsn(20));
        progress.peer(&region("us"), at(20), 0);
        assert_eq!(progress.confirmable(ZERO, NOW, None), Lsn(20));
        assert_eq!(progress.confirmable(Rpo::Zero { copies: 2 }, NOW, None), Lsn(0));
        progress.peer(&region("ap"), at(15), 0);
        assert_eq!(progress.confirmable(Rpo::Zero { copies: 2 }, NOW, None), Lsn(15));
    }

    #[test]
    fn only_the_copies_of_holders_count() {
        let mut progress = resume(Lsn(10));
        progress.captured(Lsn(20), NOW);
        progress.flushed(Lsn(20));
        progress.peer(&region("us"), at(10), 0);
        progress.peer(&region("sa"), at(20), 0);
        assert_eq!(progress.confirmable(ZERO, NOW, None), Lsn(10));
        let joined = holders().into_iter().chain([region("sa")]).collect();
        progress.examined(1, &joined);
        assert_eq!(progress.confirmable(ZERO, NOW, None), Lsn(20));
        progress.examined(0, &holders());
        assert_eq!(progress.confirmable(ZERO, NOW, None), Lsn(20), "an older ownership");
    }

    #[test]
    fn a_commit_that_carries_nothing_is_confirmed_once_all_before_it_is_durable() {
        let mut progress = resume(Lsn(10));
        progress.peer(&region("us"), at(10), 0);
        progress.seen(Lsn(30));
        assert_eq!(progress.confirmable(ZERO, NOW, None), Lsn(30));
        progress.captured(Lsn(40), NOW);
        progress.seen(Lsn(50));
        progress.flushed(Lsn(40));
        assert_eq!(progress.confirmable(ZERO, NOW, None), Lsn(10), "40 is not remote yet");
        progress.peer(&region("us"), at(40), 0);
        assert_eq!(progress.confirmable(ZERO, NOW, None), Lsn(50));
    }

    #[test]
    fn nothing_waits_for_what_is_not_history() {
        let mut progress = resume(Lsn(40));
        progress.peer(&region("us"), at(30), 0);
        progress.seen(Lsn(50));
        assert_eq!(progress.confirmable(ZERO, NOW, None), Lsn(30));
        let mut found = Sifted::behind(Lsn(30));
        found.divert(Lsn(40));
        progress.withdrawn(found);
        assert_eq!(progress.confirmable(ZERO, NOW, None), Lsn(50));
        progress.captured(Lsn(60), NOW);
        progress.withdrawn(found);
        assert_eq!(
            progress.confirmable(ZERO, NOW, None),
            Lsn(30),
            "60 is history and not remote yet"
        );
    }

    #[test]
    fn a_position_told_under_a_newer_ownership_counts_once_our_log_was_held_against_it() {
        let mut progress = resume(Lsn(10));
        progress.examined(1, &holders());
        for lsn in [20, 30] {
            progress.captured(Lsn(lsn), NOW);
        }
        progress.flushed(Lsn(30));
        progress.peer(&region("us"), at(10), 1);
        // It left 20 out, which lies beyond a cut that we do not know yet.
        progress.peer(&region("us"), at(30), 2);
        assert_eq!(progress.confirmable(ZERO, NOW, None), Lsn(10));
        progress.peer(&region("us"), at(20), 1);
        assert_eq!(
            progress.confirmable(ZERO, NOW, None),
            Lsn(20),
            "told before it knew of the cut"
        );
        let mut found = Sifted::behind(Lsn(10));
        found.divert(Lsn(20));
        found.keep(Lsn(30));
        progress.withdrawn(found);
        progress.examined(2, &holders());
        assert_eq!(progress.confirmable(ZERO, NOW, None), Lsn(30));
        progress.peer(&region("ap"), at(30), 4);
        progress.examined(3, &holders());
        assert_eq!(progress.of_peer(&region("ap")), Progress::default());
        progress.peer(&region("ap"), at(40), 5);
        progress.examined(7, &holders());
        assert_eq!(progress.of_peer(&region("ap")), at(40), "the latest that was told");
    }

    const WITHIN: Rpo = Rpo::Within { copies: 1, age: Millis(250) };

    /// An origin whose lease lasts for a second, asked at `ms`.
    fn confirmed(progress: &mut OriginProgress, ms: u64) -> u64 {
        progress.confirmable(WITHIN, Time(ms), Some(Time(1000))).0
    }

    #[test]
    fn a_commit_runs_ahead_while_the_oldest_that_is_not_held_is_young() {
        let mut progress = resume(Lsn::ZERO);
        progress.captured(Lsn(10), Time(100));
        progress.captured(Lsn(20), Time(200));
        assert_eq!(confirmed(&mut progress, 200), 0, "not in our own log yet");
        progress.flushed(Lsn(20));
        assert_eq!(confirmed(&mut progress, 349), 20);
        assert_eq!(confirmed(&mut progress, 350), 0, "10 is 250 ms old");
        progress.peer(&region("us"), at(10), 0);
        assert_eq!(confirmed(&mut progress, 350), 20, "20 is not");
        assert_eq!(confirmed(&mut progress, 450), 10);
        progress.peer(&region("us"), at(20), 0);
        assert_eq!(confirmed(&mut progress, 900), 20);
        progress.captured(Lsn(30), Time(1000));
        progress.flushed(Lsn(30));
        assert_eq!(confirmed(&mut progress, 1000), 20, "the lease is over");
        assert_eq!(progress.confirmable(WITHIN, Time(1000), None), Lsn(20));
        progress.peer(&region("us"), at(30), 0);
        assert_eq!(confirmed(&mut progress, 2000), 30, "what is held needs no lease");
    }

    #[test]
    fn nothing_runs_ahead_of_what_an_earlier_process_left() {
        let mut progress = resume(Lsn(10));
        progress.captured(Lsn(20), Time(100));
        progress.flushed(Lsn(20));
        assert_eq!(confirmed(&mut progress, 100), 0, "nobody knows how old 10 is");
        progress.peer(&region("us"), at(10), 0);
        assert_eq!(confirmed(&mut progress, 100), 20);
        let mut tail = resume(Lsn(10));
        let mut found = Sifted::behind(Lsn(5));
        found.divert(Lsn(10));
        tail.withdrawn(found);
        tail.peer(&region("us"), at(5), 0);
        assert_eq!(confirmed(&mut tail, 100), 10, "10 is not history");
    }

    #[test]
    fn moments_of_capture_are_few_and_never_later_than_they_were() {
        let mut progress = resume(Lsn::ZERO);
        for i in 1..=20_000 {
            progress.captured(Lsn(i), Time(i));
            assert!(progress.ages.len() <= AGES_MAX);
        }
        progress.flushed(Lsn(20_000));
        let lease = Some(Time(1 << 40));
        let within = |age| Rpo::Within { copies: 1, age: Millis(age) };
        assert_eq!(progress.confirmable(within(19_999), Time(20_000), lease), Lsn(0));
        assert_eq!(progress.confirmable(within(20_000), Time(20_000), lease), Lsn(20_000));
        progress.peer(&region("us"), at(19_990), 0);
        assert_eq!(progress.confirmable(within(9), Time(20_000), lease), Lsn(19_990));
        let step = 20_000 / AGES_MAX as u64 * 2;
        assert_eq!(progress.confirmable(within(11 + step), Time(20_000), lease), Lsn(20_000));
    }

    #[test]
    fn history_between_diverted_records_is_still_waited_for() {
        let mut progress = resume(Lsn(50));
        progress.peer(&region("us"), at(20), 0);
        progress.seen(Lsn(60));
        let mut found = Sifted::behind(Lsn(20));
        found.divert(Lsn(30));
        found.keep(Lsn(40));
        found.divert(Lsn(50));
        progress.withdrawn(found);
        assert_eq!(
            progress.confirmable(ZERO, NOW, None),
            Lsn(20),
            "40 is history and not remote yet"
        );
        progress.peer(&region("us"), at(40), 0);
        assert_eq!(progress.confirmable(ZERO, NOW, None), Lsn(60));
    }

    #[test]
    fn progress_never_moves_back_and_keeps_its_order() {
        let mut progress = at(9);
        progress.advance(Progress { received: Lsn(8), flushed: Lsn(12), applied: Lsn(11) });
        assert_eq!(progress, at(9));
    }

    #[test]
    fn what_is_no_history_is_lacked_by_nobody() {
        let mut times = CommitTimes::new(8);
        for second in 1..=5 {
            times.note(Lsn(second * 10), PgTime(second as i64 * 1_000_000));
        }
        times.forget_behind(Lsn(30));
        let now = PgTime(9_000_000);
        assert_eq!((times.age_beyond(Lsn(30), now), times.count_beyond(Lsn(30))), (Millis(0), 0));
        assert_eq!(times.age_beyond(Lsn(20), now), Millis(6000));
        times.note(Lsn(60), PgTime(6_000_000));
        assert_eq!(
            (times.age_beyond(Lsn(30), now), times.count_beyond(Lsn(30))),
            (Millis(3000), 1)
        );
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
        assert_eq!([0, 20, 40].map(|position| times.count_beyond(Lsn(position))), [4, 2, 0]);
    }

    #[test]
    fn a_long_lag_is_still_measured_when_memory_is_short() {
        let mut times = CommitTimes::new(16);
        for i in 1..=1000 {
            times.note(Lsn(i), PgTime(i as i64 * 1_000_000));
        }
        let age = times.age_beyond(Lsn(0), PgTime(1_000_000_000));
        assert_eq!(age, Millis(999_000), "the oldest commit is kept");
        assert_eq!(times.count_beyond(Lsn(0)), 1000);
    }

    #[test]
    fn what_is_not_remembered_is_taken_for_as_old_as_it_may_be() {
        let mut times = CommitTimes::new(16);
        times.note_first(Lsn(10), PgTime(1_000_000), 50);
        times.note_first(Lsn(900), PgTime(5_000_000), 1);
        times.note(Lsn(1000), PgTime(9_000_000));
        let now = PgTime(10_000_000);
        let seen = [0, 10, 500, 899, 900, 1000].map(|position| {
            (times.age_beyond(Lsn(position), now).0, times.count_beyond(Lsn(position)))
        });
        assert_eq!(seen, [(9000, 52), (9000, 51), (9000, 51), (9000, 51), (1000, 1), (0, 0)]);
        let unasked = times.age_beyond(Lsn(10), PgTime(0));
        assert_eq!(unasked, Millis(8000), "the newest commit is no older than nothing");
    }

    #[test]
    fn what_a_silent_region_may_cost_grows_up_to_what_the_rpo_allows() {
        let told = Exposure { age: Millis(100), commits: 3, bytes: 512 };
        let pace = Pace { commits_per_s: 10, bytes_per_s: 1000 };
        let silent = told.after(Millis(900), pace);
        assert_eq!(silent, Exposure { age: Millis(1000), commits: 12, bytes: 1412 });
        assert_eq!(silent.within(Rpo::None), silent);
        let bounded = Rpo::Within { copies: 1, age: Millis(250) };
        assert_eq!(silent.within(bounded), Exposure { age: Millis(250), ..silent });
        assert_eq!(silent.within(ZERO), Exposure::default());
    }
}
