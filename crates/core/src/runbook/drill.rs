//! When does a drill start by itself, where does it go, and is one overdue?
//!
//! One shall succeed in each period. Periods follow on one another from a Monday on, 00:00 UTC, whenever
//! drills have run: one that was late makes no other late.
//!
//! ```text
//!   every = "7d"  |Mon ........ Sun|Mon ........ Sun|Mon ........ Sun|Mon
//!   allowed       |            ==  |            ==  |            ==  |
//!   drills        |             x  |             .  |             .  |^ overdue: a whole period without one
//! ```
//!
//! The calendar comes from a machine's wall clock. One that is wrong has a drill come too early or too
//! late, and nothing else rests on it.

use std::collections::BTreeSet;

use super::file::Call;
use super::plan::check;
use super::readiness::unready;
use super::{Facts, Intent, Outcome};
use crate::config::FailoverPolicy;
use crate::id::{PartitionId, PartitionRange, RegionId, RunId};
use crate::ownership::State;
use crate::time::{Millis, Wall};

/// The state in which drills are asked for and none has succeeded for too long.
pub const DRILL_OVERDUE: &str = "drill_overdue";

/// The ready-made runbook.
pub(super) const RUNBOOK: &str = "drill";
/// What was in the way of one may still be.
const AGAIN_AFTER: Millis = Millis(3_600_000);

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;
/// 1970 began on a Thursday.
const FIRST_MONDAY: u64 = 4 * DAY;
const DAYS_OF_A_WEEK: u64 = 7;

/// When drills are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillTerms {
    /// The length of a period. It holds one of the `days`, with its `hours`.
    pub every: Millis,
    /// On which one may start; on all of them when empty.
    pub days: BTreeSet<Day>,
    /// In which one may start.
    pub hours: Option<Hours>,
}

/// Of a week, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// Of a day, in UTC and in minutes since midnight. They go on past midnight when they end before they
/// begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    pub from: u64,
    pub until: u64,
}

/// A drill that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastDrill {
    pub to: RegionId,
    pub started_at: Wall,
    /// `None`: it is under way.
    pub outcome: Option<Outcome>,
}

/// Returns where the canary is to go now by a drill that `here` starts: its owner, so nobody else does.
///
/// Not while partitions are on their way, and not while the loss of a region could not be made up for.
/// Each other region has its turn.
pub fn due(
    here: &RegionId,
    terms: &DrillTerms,
    policy: &FailoverPolicy,
    past: &[PastDrill],
    now: Wall,
    facts: &Facts,
) -> Option<RegionId> {
    let ours = facts.ownership.entry(PartitionId::CANARY)?.owner() == Some(here);
    let under_way = past.iter().any(|drill| drill.outcome.is_none());
    if !ours || under_way || terms.next(now, past) > now {
        return None;
    }
    let mut entries = facts.ownership.entries().iter();
    let at_rest = entries.all(|entry| matches!(entry.state, State::Owned { .. }));
    let members = facts.ownership.members();
    if !at_rest || members.iter().any(|lost| !unready(lost, policy, facts).is_empty()) {
        return None;
    }
    let may_go = |to: &&RegionId| {
        let plan = Call::drill(to).plan(&RunId("due".into()));
        plan.is_ok_and(|plan| check(plan, facts).is_ok())
    };
    let last = |to: &&RegionId| past.iter().filter(|d| d.to == **to).map(|d| d.started_at).max();
    let others = members.iter().filter(|to| *to != here);
    others.filter(may_go).min_by_key(last).cloned()
}

/// When the last one was started that succeeded.
pub fn last_success(past: &[PastDrill]) -> Option<Wall> {
    past.iter().filter(|drill| drill.succeeded()).map(|drill| drill.started_at).max()
}

/// Returns where a run takes the canary if it is a drill.
pub fn goes_to<'a>(runbook: &str, intent: &'a Intent) -> Option<&'a RegionId> {
    match intent {
        Intent::Switchover { range: PartitionRange::CANARY, to } if runbook == RUNBOOK => Some(to),
        _ => None,
    }
}

impl PastDrill {
    fn succeeded(&self) -> bool {
        self.outcome == Some(Outcome::Succeeded)
    }
}

impl DrillTerms {
    /// Returns when the next one may start, as far as that is a question of time; `now` when it is due.
    pub fn next(&self, now: Wall, past: &[PastDrill]) -> Wall {
        let after = |drill: &PastDrill| {
            let again = drill.started_at + AGAIN_AFTER;
            let next_period = self.period(drill.started_at) + 1;
            if drill.succeeded() { again.max(self.beginning(next_period)) } else { again }
        };
        let earliest = self.known(now, past).map(after).fold(now, Wall::max);
        let midnight = earliest.0 - earliest.0 % DAY;
        let opens = self.hours.map_or(0, |hours| hours.from * MINUTE);
        // At midnight another day begins, and perhaps hours that have begun on the day before go on.
        let begins = (0..=DAYS_OF_A_WEEK).flat_map(|days| [days * DAY, days * DAY + opens]);
        let mut moments = begins.map(|after| Wall(midnight + after).max(earliest));
        moments.find(|at| self.allow(*at)).unwrap_or(earliest)
    }

    /// Has none succeeded in a whole period? Where none ever has, since one was tried first, or `since`
    /// when none was.
    pub fn overdue(&self, now: Wall, past: &[PastDrill], since: Wall) -> bool {
        let known = || self.known(now, past);
        let last = known().filter(|drill| drill.succeeded()).map(|drill| drill.started_at).max();
        let first = known().map(|drill| drill.started_at).min();
        self.period(now) > self.period(last.or(first).unwrap_or(since)) + 1
    }

    fn allow(&self, at: Wall) -> bool {
        let day = self.days.is_empty() || self.days.contains(&Day::of(at));
        day && self.hours.is_none_or(|hours| hours.hold(at))
    }

    /// Those whose time was told by a clock that was right enough: one from the far future would be the
    /// last drill ever.
    fn known<'a>(&self, now: Wall, past: &'a [PastDrill]) -> impl Iterator<Item = &'a PastDrill> {
        let latest = now + self.every;
        past.iter().filter(move |drill| drill.started_at <= latest)
    }

    fn period(&self, at: Wall) -> u64 {
        at.0.saturating_sub(FIRST_MONDAY) / self.every.0
    }

    fn beginning(&self, period: u64) -> Wall {
        Wall(FIRST_MONDAY + period * self.every.0)
    }
}

impl Day {
    const ALL: [Self; DAYS_OF_A_WEEK as usize] =
        [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    fn of(at: Wall) -> Self {
        let days = (at.0 + DAYS_OF_A_WEEK * DAY - FIRST_MONDAY) / DAY;
        Self::ALL[(days % DAYS_OF_A_WEEK) as usize]
    }
}

impl Hours {
    fn hold(self, at: Wall) -> bool {
        let minute = at.0 / MINUTE % (24 * 60);
        let (begun, over) = (minute >= self.from, minute >= self.until);
        if self.from < self.until { begun && !over } else { begun || !over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::OwnershipChange;
    use crate::progress::Rpo;
    use crate::runbook::run::tests::facts;

    const HOUR: u64 = 60 * MINUTE;
    const POLICY: FailoverPolicy =
        FailoverPolicy { automatic: true, observers: 2, suspect_after: Millis(2000) };
    /// The 30th of November 2026, 00:00 UTC.
    const MONDAY: u64 = 1_795_996_800_000;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn on(day: u64, hour: u64) -> Wall {
        Wall(MONDAY + day * DAY + hour * HOUR)
    }

    fn weekly() -> DrillTerms {
        DrillTerms { every: Millis(7 * DAY), days: BTreeSet::new(), hours: None }
    }

    fn drill(to: &str, started_at: Wall, outcome: impl Into<Option<Outcome>>) -> PastDrill {
        PastDrill { to: region(to), started_at, outcome: outcome.into() }
    }

    fn done(to: &str, started_at: Wall) -> PastDrill {
        drill(to, started_at, Outcome::Succeeded)
    }

    /// Of ap's is partition 0, and the canary.
    fn with_canary() -> Facts {
        let mut facts = facts(Rpo::Zero { copies: 1 });
        facts.ownership = facts.ownership.with_canary(region("ap"));
        facts
    }

    /// Where the canary goes now by a drill that ap starts.
    fn goes(terms: &DrillTerms, past: &[PastDrill], now: Wall, facts: &Facts) -> Option<String> {
        due(&region("ap"), terms, &POLICY, past, now, facts).map(|to| to.to_string())
    }

    #[test]
    fn days_and_hours_are_those_of_the_calendar() {
        assert_eq!(Day::of(Wall(0)), Day::Thu);
        let days: Vec<Day> = (0..7).map(|day| Day::of(on(day, 23))).collect();
        assert_eq!(days, Day::ALL);
        let held = |from: u64, until: u64| -> Vec<u64> {
            let hours = Hours { from: from * 60, until: until * 60 };
            (0..24).filter(|hour| hours.hold(on(2, *hour))).collect()
        };
        assert_eq!(held(22, 4), [0, 1, 2, 3, 22, 23]);
        assert_eq!(held(12, 14), [12, 13]);
    }

    #[test]
    fn one_succeeds_in_each_period_however_late_the_last_one_was() {
        let (terms, facts) = (weekly(), with_canary());
        assert_eq!(goes(&terms, &[], on(0, 0), &facts).as_deref(), Some("eu"));
        let late = [done("eu", on(6, 23))];
        assert_eq!(goes(&terms, &late, on(6, 23), &facts), None);
        assert_eq!(goes(&terms, &late, Wall(on(7, 0).0 - 1), &facts), None);
        assert_eq!(goes(&terms, &late, on(7, 0), &facts).as_deref(), Some("us"), "its turn");
        let both = [late[0].clone(), done("us", on(7, 0))];
        assert_eq!(goes(&terms, &both, on(13, 23), &facts), None);
        assert_eq!(goes(&terms, &both, on(14, 0), &facts).as_deref(), Some("eu"));
    }

    #[test]
    fn one_that_failed_is_tried_again_after_an_hour_and_one_that_is_under_way_is_waited_for() {
        let (terms, facts) = (weekly(), with_canary());
        let failed = [drill("eu", on(1, 2), Outcome::Overruled)];
        assert_eq!(goes(&terms, &failed, Wall(on(1, 3).0 - 1), &facts), None);
        assert_eq!(goes(&terms, &failed, on(1, 3), &facts).as_deref(), Some("us"));
        let under_way = [drill("eu", on(1, 2), None)];
        assert_eq!(goes(&terms, &under_way, on(20, 0), &facts), None);
    }

    #[test]
    fn a_drill_starts_when_it_is_allowed_to_and_that_is_told_before() {
        let days = [Day::Sat, Day::Sun].into();
        let hours = Some(Hours { from: 22 * 60, until: 2 * 60 });
        let (terms, facts) = (DrillTerms { days, hours, ..weekly() }, with_canary());
        let starts: Vec<(u64, u64)> = (0..7)
            .flat_map(|day| (0..24).map(move |hour| (day, hour)))
            .filter(|(day, hour)| goes(&terms, &[], on(*day, *hour), &facts).is_some())
            .collect();
        let expected = [(5, 0), (5, 1), (5, 22), (5, 23), (6, 0), (6, 1), (6, 22), (6, 23)];
        assert_eq!(starts, expected);
        for (now, past, next) in [
            (on(0, 7), vec![], on(5, 0)),
            (on(5, 7), vec![], on(5, 22)),
            (on(5, 23), vec![], on(5, 23)),
            (on(5, 23), vec![drill("eu", on(5, 23), Outcome::Failed)], on(6, 0)),
            (on(6, 1), vec![drill("eu", on(6, 1), Outcome::Failed)], on(6, 22)),
            (on(5, 23), vec![done("eu", on(5, 22))], on(12, 0)),
        ] {
            assert_eq!(terms.next(now, &past), next, "at {now} after {past:?}");
        }
    }

    #[test]
    fn a_drill_is_started_by_the_owner_of_the_canary_and_where_nothing_is_amiss() {
        let (terms, mut facts) = (weekly(), with_canary());
        let now = on(5, 2);
        for other in ["eu", "us"] {
            assert_eq!(due(&region(other), &terms, &POLICY, &[], now, &facts), None);
        }
        facts.regions.get_mut(&region("us")).unwrap().reachable = false;
        assert_eq!(goes(&terms, &[], now, &facts), None, "ap could not be lost now");
        let us = facts.regions.get_mut(&region("us")).unwrap();
        (us.reachable, us.repairs_pending) = (true, 3);
        let past = [drill("eu", on(0, 0), Outcome::Failed)];
        assert_eq!(goes(&terms, &past, now, &facts).as_deref(), Some("eu"), "us is refused");
        let (range, to) = (PartitionRange::new(4, 4), region("us"));
        let moves = OwnershipChange::HandOver { range, to, run: RunId("1".into()) };
        facts.ownership = facts.ownership.apply(&moves).unwrap();
        assert_eq!(goes(&terms, &past, now, &facts), None, "another run is under way");
    }

    #[test]
    fn one_is_overdue_when_none_has_succeeded_in_a_whole_period() {
        let terms = weekly();
        let past = [done("eu", on(2, 3)), drill("us", on(9, 3), Outcome::Failed)];
        assert!(!terms.overdue(on(13, 23), &past, on(0, 0)));
        assert!(terms.overdue(on(14, 0), &past, on(14, 0)), "whoever started just now knows it");
        assert_eq!(last_success(&past), Some(on(2, 3)));
        assert!(!terms.overdue(on(13, 23), &[], on(0, 0)), "they are wanted since Monday");
        assert!(terms.overdue(on(14, 0), &[], on(0, 0)));
        let never = [drill("eu", on(2, 3), Outcome::Failed)];
        assert!(terms.overdue(on(14, 0), &never, on(14, 0)), "one was tried then");
        assert_eq!(last_success(&never), None);
    }

    #[test]
    fn a_clock_that_was_wrong_once_does_not_end_all_drills() {
        let (terms, facts) = (weekly(), with_canary());
        let wrong = [done("eu", Wall(u64::MAX))];
        assert_eq!(goes(&terms, &wrong, on(0, 0), &facts).as_deref(), Some("us"));
        assert!(terms.overdue(on(14, 0), &wrong, on(0, 0)));
        let ahead = [done("eu", on(0, 2))];
        assert_eq!(goes(&terms, &ahead, on(0, 1), &facts), None, "it is a little ahead");
    }

    #[test]
    fn a_drill_is_known_by_its_runbook_and_by_what_it_moves() {
        let plan = Call::drill(&region("us")).plan(&RunId("1".into())).unwrap();
        assert_eq!(goes_to(RUNBOOK, &plan.intent), Some(&region("us")));
        assert_eq!(goes_to("switchover", &plan.intent), None, "that brings nothing back");
    }
}
