//! Which values of "one" sequence are this region's, so that no two regions ever draw the same?
//!
//! All regions count in the same wide steps, each from its own place:
//!
//! ```text
//!   place 1   1 17 33 49 ...     place 2   2 18 34 50 ...     place 3   3 19 35 51 ...
//! ```
//!
//! The step is as wide as there may be regions, not as there are: so a region that is added later
//! changes nothing for the others. Values are unique, not dense, as PostgreSQL's always were.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::REGIONS_MAX;
use crate::id::RegionId;

/// Between two values of one region.
pub const STEP: i64 = REGIONS_MAX as i64;

/// One region's place in every step, from 1 to [`STEP`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(i64);

impl Place {
    /// Returns the place, or `None` when there is no such place.
    pub fn new(number: i64) -> Option<Self> {
        (1..=STEP).contains(&number).then_some(Self(number))
    }

    pub fn number(self) -> i64 {
        self.0
    }

    /// Returns the first place that nobody has.
    pub fn free(taken: &BTreeMap<RegionId, Place>) -> Option<Self> {
        let taken: BTreeSet<Place> = taken.values().copied().collect();
        (1..=STEP).map(Self).find(|place| !taken.contains(place))
    }

    fn holds(self, value: i64) -> bool {
        value.rem_euclid(STEP) == self.0.rem_euclid(STEP)
    }

    /// Returns this place's first value that is `value` or lies behind it.
    fn first(self, value: i64, up: bool) -> Option<i64> {
        let away = (self.0 - value.rem_euclid(STEP)).rem_euclid(STEP);
        if up || away == 0 { value.checked_add(away) } else { value.checked_sub(STEP - away) }
    }
}

/// A sequence as it stands in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub increment: i64,
    pub min: i64,
    pub max: i64,
    pub start: i64,
    /// Begins again at its other end when it is used up.
    pub cycles: bool,
    /// The value that was drawn last, or, unless it `is_called`, the one that is drawn next.
    pub last: i64,
    pub is_called: bool,
}

/// What a sequence should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    pub increment: i64,
    /// From here after a restart.
    pub start: i64,
    /// The next value.
    pub next: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    #[error("it cycles, so it would give out values again that other regions have used")]
    Cycles,
    #[error("it has no value left")]
    UsedUp,
}

impl Sequence {
    /// Returns how to make the sequence keep to `place`; `None` when it already does.
    ///
    /// `used` is the outermost value that stands in a column, where it is to be looked at.
    pub fn keep_to(&self, place: Place, used: Option<i64>) -> Result<Option<Set>, SequenceError> {
        if self.cycles {
            return Err(SequenceError::Cycles);
        }
        let up = self.increment > 0;
        let behind = |value: i64| if up { value.checked_add(1) } else { value.checked_sub(1) };
        let next = self.next().ok_or(SequenceError::UsedUp)?;
        let ahead = used.is_none_or(|used| if up { next > used } else { next < used });
        let steps = self.increment.unsigned_abs() == STEP.unsigned_abs();
        if steps && ahead && place.holds(next) && place.holds(self.start) {
            return Ok(None);
        }
        // From a sequence that counts in steps of its own, the next is the one after its last.
        let drawn = if self.is_called { behind(self.last) } else { Some(self.last) };
        let mut from = drawn.ok_or(SequenceError::UsedUp)?;
        if let Some(used) = used {
            let beyond = behind(used).ok_or(SequenceError::UsedUp)?;
            from = if up { from.max(beyond) } else { from.min(beyond) };
        }
        let within = |value: &i64| (self.min..=self.max).contains(value);
        let next = place.first(from, up).filter(within).ok_or(SequenceError::UsedUp)?;
        let start = place.first(self.start, up).filter(within).unwrap_or(next);
        Ok(Some(Set { increment: if up { STEP } else { -STEP }, start, next }))
    }

    /// How many values a region may still draw in steps of [`STEP`], and of how many, up to
    /// `max` of the column.
    pub fn left(&self, max: i64) -> (u64, u64) {
        let steps = |from: i64, to: i64| {
            u64::try_from(i128::from(to).saturating_sub(i128::from(from)).max(0))
                .unwrap_or(u64::MAX)
                / STEP.unsigned_abs()
        };
        if self.increment > 0 {
            let max = max.min(self.max);
            (steps(self.last, max), steps(self.min, max))
        } else {
            (steps(self.min, self.last), steps(self.min, self.max))
        }
    }

    fn next(&self) -> Option<i64> {
        if self.is_called { self.last.checked_add(self.increment) } else { Some(self.last) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(increment: i64, last: i64, is_called: bool) -> Sequence {
        let (min, max) = if increment > 0 { (1, i64::MAX) } else { (i64::MIN, -1) };
        let start = if increment > 0 { 1 } else { -1 };
        Sequence { increment, min, max, start, cycles: false, last, is_called }
    }

    fn place(number: i64) -> Place {
        Place::new(number).unwrap()
    }

    #[test]
    fn a_new_sequence_starts_at_its_place() {
        let set = sequence(1, 1, false).keep_to(place(3), None).unwrap().unwrap();
        assert_eq!(set, Set { increment: 16, start: 3, next: 3 });
        let set = sequence(-1, -1, false).keep_to(place(3), None).unwrap().unwrap();
        assert_eq!(set, Set { increment: -16, start: -13, next: -13 });
    }

    #[test]
    fn what_was_used_is_not_used_again() {
        let set = sequence(1, 100, true).keep_to(place(4), None).unwrap().unwrap();
        assert_eq!(set.next, 116);
        let set = sequence(1, 100, true).keep_to(place(4), Some(1000)).unwrap().unwrap();
        assert_eq!(set.next, 1012);
    }

    #[test]
    fn a_sequence_that_keeps_its_place_is_left_alone() {
        let kept = Sequence { start: 4, ..sequence(16, 100, true) };
        assert_eq!(kept.keep_to(place(4), Some(100)), Ok(None));
        assert_eq!(kept.keep_to(place(4), Some(116)).unwrap().unwrap().next, 132);
        assert_eq!(kept.keep_to(place(5), None).unwrap().unwrap().next, 101);
    }

    #[test]
    fn a_sequence_that_cycles_or_is_used_up_cannot_keep_a_place() {
        let cycles = Sequence { cycles: true, ..sequence(1, 1, false) };
        assert_eq!(cycles.keep_to(place(1), None), Err(SequenceError::Cycles));
        let short = Sequence { max: 20, ..sequence(1, 10, true) };
        assert_eq!(short.keep_to(place(5), None), Err(SequenceError::UsedUp));
        let whole = Sequence { max: i64::MAX, ..sequence(1, i64::MAX, true) };
        assert_eq!(whole.keep_to(place(5), None), Err(SequenceError::UsedUp));
    }

    #[test]
    fn a_column_may_be_full_before_its_sequence_is() {
        let (left, of) = sequence(1, 1_600_000_000, true).left(i64::from(i32::MAX));
        assert_eq!((left, of), (34_217_727, 134_217_727));
    }

    #[test]
    fn a_place_that_was_given_up_is_given_again() {
        let region = |name: &str| name.parse().unwrap();
        let taken = [(region("eu"), place(1)), (region("us"), place(3))].into_iter().collect();
        assert_eq!(Place::free(&taken), Some(place(2)));
        let names = (1..=STEP).map(|n| (region(&format!("r{n}")), place(n)));
        assert_eq!(Place::free(&names.collect()), None);
    }

    proptest! {
        #[test]
        fn regions_that_keep_their_places_never_draw_the_same(
            up in any::<bool>(),
            lasts in prop::collection::vec((1..10_000_i64, any::<bool>()), 16),
            used in prop::option::of(1..10_000_i64),
        ) {
            let sign = if up { 1 } else { -1 };
            let mut drawn = BTreeSet::new();
            for (number, (last, is_called)) in (1..).zip(lasts) {
                let sequence = sequence(sign, sign * last, is_called);
                let used = used.map(|used| sign * used);
                let set = sequence.keep_to(place(number), used).unwrap().unwrap();
                let behind = |a: i64, b: i64| (a - b) * sign > 0;
                prop_assert!(behind(set.next, sequence.last) || (!is_called && set.next == sequence.last));
                prop_assert!(used.is_none_or(|used| behind(set.next, used)));
                for i in 0..50 {
                    prop_assert!(drawn.insert(set.next + i * set.increment), "drawn twice");
                }
                let kept = Sequence {
                    increment: set.increment,
                    start: set.start,
                    last: set.next,
                    is_called: false,
                    ..sequence
                };
                prop_assert_eq!(kept.keep_to(place(number), used), Ok(None));
            }
        }
    }
}
