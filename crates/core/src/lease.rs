//! Is the owner's right to write still live, given what a clock can promise?
//!
//! Two parties time one lease, each on its own monotonic clock, and never compare clocks. The
//! holder counts from before it *sent* the renewal and stops early by a margin. An observer
//! counts from when it *saw* the renewal's revision appear, and outlasts the holder's clock by
//! the drift bound. Between the two nobody writes: that costs availability, never correctness.
//!
//! ```text
//!   holder    |renew sent ------------- ttl - margin -------|stops
//!   directory      |new revision
//!   observer           |seen ------------- ttl * (1 + 2 drift) -------------|over
//! ```

use crate::progress::Rpo;
use crate::time::{DriftPpm, Millis, Time};

/// What holder and observers agree on beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    pub ttl: Millis,
    /// How often the holder renews: several times per `ttl`.
    pub renew_every: Millis,
    /// How much earlier than `ttl` the holder stops.
    pub margin: Millis,
    /// How far the rates of two clocks may be apart.
    pub drift: DriftPpm,
}

/// What a holder says of itself with its lease: agents may be configured differently for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderTerms {
    pub ttl: Millis,
    /// By which it acknowledges commits.
    pub rpo: Rpo,
}

/// The holder's side of one renewal that the directory accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// When the renewal was *sent*.
    pub sent_at: Time,
}

impl Held {
    /// When the holder must stop, by its own clock.
    pub fn deadline(&self, terms: &LeaseTerms) -> Time {
        self.sent_at + (terms.ttl - terms.margin)
    }

    /// Returns whether the holder may still act as owner.
    pub fn live(&self, now: Time, terms: &LeaseTerms) -> bool {
        now < self.deadline(terms)
    }

    /// Returns whether the renewal that is due now may be left to the next turn, for something
    /// that clients wait for. Only once in a row, and only if the next two turns come in time.
    pub fn may_pass_over(&self, now: Time, terms: &LeaseTerms) -> bool {
        let (age, turn) = (now.since(self.sent_at), terms.renew_every);
        age.0 * 2 < turn.0 * 3 && now + turn + turn < self.deadline(terms)
    }
}

/// How long the holder waits for the directory before it asks its peers: half of what is left, so that
/// there is time for either. `held` is its last renewal.
pub fn patience(held: Option<Held>, now: Time, terms: &LeaseTerms) -> Millis {
    let life = terms.ttl - terms.margin;
    let left =
        held.filter(|held| held.live(now, terms)).map(|held| held.deadline(terms).since(now));
    Millis(left.unwrap_or(life).0 / 2)
}

/// An observer's side: the lease's latest revision and when it was first seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    pub revision: u64,
    pub at: Time,
}

impl Seen {
    /// Notes the lease's revision as read at `now`; only a change restarts the clock.
    pub fn note(previous: Option<Self>, revision: u64, now: Time) -> Self {
        match previous {
            Some(seen) if seen.revision == revision => seen,
            _ => Self { revision, at: now },
        }
    }

    /// Starts counting anew: while the directory could not be heard, silence meant nothing.
    pub fn heard_again(self, now: Time) -> Self {
        Self { at: now, ..self }
    }

    /// Did an observer stand still between two looks, at `before` and `now`? It looks several times while
    /// it would come to suspect anybody; the silence of a time without looks is its own.
    pub fn stood_still(before: Time, now: Time, suspect_after: Millis) -> bool {
        now.since(before).0 > suspect_after.0 / 2
    }

    /// How long no renewal was seen.
    pub fn silent_for(&self, now: Time) -> Millis {
        now.since(self.at)
    }

    /// When the holder has certainly stopped, if it never renews again.
    pub fn over_at(&self, terms: &LeaseTerms) -> Time {
        self.at + terms.drift.outlast(terms.ttl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> LeaseTerms {
        LeaseTerms {
            ttl: Millis(3000),
            renew_every: Millis(500),
            margin: Millis(100),
            drift: DriftPpm(500),
        }
    }

    #[test]
    fn the_holder_stops_before_anyone_else_may_start() {
        // Both saw the renewal at the same real moment; the observer can only see it later.
        let held = Held { sent_at: Time(10_000) };
        let seen = Seen { revision: 7, at: Time(10_000) };
        assert!(held.deadline(&terms()) < seen.over_at(&terms()));
        assert!(held.live(Time(12_899), &terms()));
        assert!(!held.live(Time(12_900), &terms()));
    }

    #[test]
    fn a_renewal_is_passed_over_once_at_most_and_never_near_the_end() {
        let held = Held { sent_at: Time(10_000) };
        assert!(held.may_pass_over(Time(10_510), &terms()));
        assert!(!held.may_pass_over(Time(11_010), &terms()));
        let slow = LeaseTerms { renew_every: Millis(1450), ..terms() };
        assert!(!held.may_pass_over(Time(11_450), &slow));
    }

    #[test]
    fn a_directory_that_does_not_answer_leaves_time_to_ask_the_peers() {
        let held = Some(Held { sent_at: Time(10_000) });
        assert_eq!(patience(held, Time(10_500), &terms()), Millis(1200));
        assert_eq!(patience(held, Time(12_880), &terms()), Millis(10));
        // Where there is nothing to lose, there is time.
        assert_eq!(patience(held, Time(60_000), &terms()), Millis(1450));
        assert_eq!(patience(None, Time(60_000), &terms()), Millis(1450));
    }

    #[test]
    fn silence_of_the_directory_is_not_silence_of_the_holder() {
        let seen = Seen { revision: 7, at: Time(100) }.heard_again(Time(60_000));
        assert_eq!(seen.silent_for(Time(60_000)), Millis(0));
        assert_eq!(Seen::note(Some(seen), 7, Time(60_500)).silent_for(Time(60_500)), Millis(500));
    }

    #[test]
    fn an_observer_that_did_not_look_has_heard_no_silence() {
        let stood_still = |now| Seen::stood_still(Time(100), Time(now), Millis(2000));
        assert!(!stood_still(1100));
        assert!(stood_still(1101));
    }

    #[test]
    fn only_a_new_revision_restarts_the_observers_clock() {
        let seen = Seen::note(None, 7, Time(100));
        let seen = Seen::note(Some(seen), 7, Time(900));
        assert_eq!(seen.silent_for(Time(1000)), Millis(900));
        let seen = Seen::note(Some(seen), 8, Time(1000));
        assert_eq!(seen.silent_for(Time(1000)), Millis(0));
    }
}
