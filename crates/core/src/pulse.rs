//! Does a server that is asked again and again still answer?
//!
//! One that answers late is not gone, one that refuses has answered, and who stood still himself has
//! heard nothing of anybody. So silence takes both: attempts that failed, and time.

use crate::time::{Millis, Time};

/// So many attempts in a row must have failed, and so many times as long as each may take.
pub const MISSES_MIN: u32 = 2;
/// An answer may take so long at least: a busy machine is not one that hangs.
pub const ANSWER_WAIT_MIN: Millis = Millis(3000);

/// How long an answer may take where regions are suspected after `suspect_after`.
pub fn answer_wait(suspect_after: Millis) -> Millis {
    suspect_after.max(ANSWER_WAIT_MIN)
}

/// What was heard of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    answered_at: Time,
    /// Attempts that failed since.
    misses: u32,
}

impl Pulse {
    /// Begins as if it had just answered.
    pub fn begin(now: Time) -> Self {
        Self { answered_at: now, misses: 0 }
    }

    pub fn answered(&mut self, now: Time) {
        *self = Self::begin(now);
    }

    pub fn missed(&mut self) {
        self.misses = self.misses.saturating_add(1);
    }

    /// Returns whether it does not answer, though it was asked and had the time.
    pub fn is_silent(&self, now: Time, suspect_after: Millis) -> bool {
        let patience = Millis(answer_wait(suspect_after).0 * u64::from(MISSES_MIN));
        self.misses >= MISSES_MIN && now.since(self.answered_at) >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUSPECT_AFTER: Millis = Millis(4000);

    #[test]
    fn one_attempt_that_failed_is_no_silence_however_long_it_took() {
        let mut pulse = Pulse::begin(Time(1000));
        pulse.missed();
        assert!(!pulse.is_silent(Time(60_000), SUSPECT_AFTER));
        pulse.missed();
        assert!(pulse.is_silent(Time(60_000), SUSPECT_AFTER));
    }

    #[test]
    fn many_attempts_that_fail_at_once_are_no_silence_before_their_time() {
        let mut pulse = Pulse::begin(Time(1000));
        (0..100).for_each(|_| pulse.missed());
        assert!(!pulse.is_silent(Time(8999), SUSPECT_AFTER));
        assert!(pulse.is_silent(Time(9000), SUSPECT_AFTER));
    }

    #[test]
    fn who_is_suspected_soon_may_still_be_busy() {
        let mut pulse = Pulse::begin(Time(0));
        (0..2).for_each(|_| pulse.missed());
        assert!(!pulse.is_silent(Time(5999), Millis(500)));
        assert!(pulse.is_silent(Time(6000), Millis(500)));
    }

    #[test]
    fn an_answer_ends_it() {
        let mut pulse = Pulse::begin(Time(1000));
        (0..2).for_each(|_| pulse.missed());
        pulse.answered(Time(9000));
        pulse.missed();
        assert!(!pulse.is_silent(Time(60_000), SUSPECT_AFTER));
    }
}
