//! Which region has come and gone too often to be relied on?
//!
//! A region that was lost once and is back is as good as any. One that was lost twice within an hour is
//! on probation: no failover that nobody asks for chooses it while there is another. It lasts five
//! minutes from when the region was heard again, and with each further loss twice as long, at most an
//! hour. People may move to it what they like.
//!
//! Each region counts what it has seen itself, and tells the others; an agent that starts anew has seen
//! nothing.

use crate::lease::Seen;
use crate::time::{Millis, Time};

/// Losses that are older are forgotten.
const REMEMBERED: Millis = Millis(3_600_000);
const LOSSES_MIN: usize = 2;
const FIRST: Millis = Millis(300_000);
const LONGEST: Millis = Millis(3_600_000);
/// Who is heard again so soon after it was suspected would have been waited for by most people.
const BRIEF: Millis = Millis(10_000);

/// When one region was heard again, after its lease had been silent for long enough to suspect it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The oldest first.
    ends: Vec<Time>,
    /// Since this process began.
    count: LossCount,
}

/// How often a region was suspected and heard again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossCount {
    pub all: u64,
    /// Of these it was heard again within ten seconds: a failover that began was hardly needed.
    pub brief: u64,
}

impl Losses {
    /// Its lease was seen as `before` until it was seen as `after` now: counts a loss if it had been silent for
    /// so long that it was suspected.
    pub fn saw(&mut self, before: Option<Seen>, after: Seen, now: Time, suspect_after: Millis) {
        let Some(before) = before.filter(|before| before.revision != after.revision) else {
            return;
        };
        let silent = before.silent_for(now);
        if silent >= suspect_after {
            self.note(now);
            self.count.all += 1;
            self.count.brief += u64::from(silent < suspect_after + BRIEF);
        }
    }

    pub fn count(&self) -> LossCount {
        self.count
    }

    fn note(&mut self, now: Time) {
        self.forget(now);
        self.ends.push(now);
    }

    /// How long it is still on probation; zero when it is not.
    pub fn probation(&self, now: Time) -> Millis {
        let recent = self.ends.iter().filter(|end| now.since(**end) < REMEMBERED).count();
        let Some(last) = self.ends.last().filter(|_| recent >= LOSSES_MIN) else {
            return Millis(0);
        };
        let doubled = u32::try_from(recent - LOSSES_MIN).unwrap_or(u32::MAX);
        let lasts = FIRST.0.saturating_mul(2_u64.saturating_pow(doubled)).min(LONGEST.0);
        Millis(lasts.saturating_sub(now.since(*last).0))
    }

    fn forget(&mut self, now: Time) {
        self.ends.retain(|end| now.since(*end) < REMEMBERED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    fn lost_at(minutes: &[u64]) -> Losses {
        let mut losses = Losses::default();
        minutes.iter().for_each(|minute| losses.note(Time(minute * MINUTE)));
        losses
    }

    fn minutes_left(losses: &Losses, now: u64) -> u64 {
        losses.probation(Time(now * MINUTE)).0 / MINUTE
    }

    #[test]
    fn one_loss_is_forgiven_at_once_and_two_are_not() {
        assert_eq!(minutes_left(&lost_at(&[]), 1), 0);
        assert_eq!(minutes_left(&lost_at(&[1]), 1), 0);
        let twice = lost_at(&[1, 10]);
        assert_eq!([10, 12, 15].map(|now| minutes_left(&twice, now)), [5, 3, 0]);
    }

    #[test]
    fn each_further_loss_doubles_it_up_to_an_hour() {
        assert_eq!(minutes_left(&lost_at(&[1, 2, 3]), 3), 10);
        assert_eq!(minutes_left(&lost_at(&[1, 2, 3, 4]), 4), 20);
        assert_eq!(minutes_left(&lost_at(&(1..50).collect::<Vec<_>>()), 49), 60);
    }

    #[test]
    fn a_renewal_after_a_suspicion_is_a_loss_and_others_are_none() {
        let at = |revision, at| Seen { revision, at: Time(at) };
        let losses = |before: Option<Seen>, revision, now| {
            let mut losses = Losses::default();
            losses.saw(before, at(revision, now), Time(now), Millis(2000));
            assert_eq!(losses.ends.len() as u64, losses.count().all);
            (losses.count().all, losses.count().brief)
        };
        assert_eq!(losses(None, 1, 9000), (0, 0));
        assert_eq!(losses(Some(at(1, 0)), 2, 1999), (0, 0));
        assert_eq!(losses(Some(at(1, 0)), 1, 9000), (0, 0), "it is still silent");
        assert_eq!(losses(Some(at(1, 0)), 2, 2000), (1, 1));
        assert_eq!(losses(Some(at(1, 0)), 2, 11_999), (1, 1));
        assert_eq!(losses(Some(at(1, 0)), 2, 12_000), (1, 0), "that was an outage");
    }

    #[test]
    fn what_is_an_hour_old_is_forgotten() {
        assert_eq!(minutes_left(&lost_at(&[1, 61]), 61), 0);
        assert_eq!(minutes_left(&lost_at(&[2, 61]), 61), 5);
        let often = lost_at(&(1..50).collect::<Vec<_>>());
        assert_eq!(minutes_left(&often, 109), 0);
    }
}
