//! What does a clock let us say? Core never reads one: time is an argument.

use std::fmt;
use std::ops::{Add, Sub};

/// A moment on one machine's monotonic clock, in milliseconds since that clock's own zero.
///
/// Moments of two machines must never be compared; only durations travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

/// A moment of the calendar, in milliseconds since 1970 (UTC), by some machine's wall clock.
///
/// For people, and for what they plan by the calendar: no promise rests on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wall(pub u64);

/// A duration in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Time {
    /// How long ago `earlier` was; zero when it is not earlier.
    pub fn since(self, earlier: Time) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Millis> for Time {
    type Output = Time;

    fn add(self, duration: Millis) -> Time {
        Time(self.0.saturating_add(duration.0))
    }
}

impl Add<Millis> for Wall {
    type Output = Wall;

    fn add(self, duration: Millis) -> Wall {
        Wall(self.0.saturating_add(duration.0))
    }
}

/// As people write it.
impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0 / 86_400_000, self.0 / 1000 % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

/// Returns year, month and day. Years begin in March here, so that a leap day is a year's last one.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_based = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_based + 2) / 5 + 1;
    let month = if march_based < 10 { march_based + 3 } else { march_based - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

impl Add for Millis {
    type Output = Millis;

    fn add(self, other: Millis) -> Millis {
        Millis(self.0.saturating_add(other.0))
    }
}

impl Sub for Millis {
    type Output = Millis;

    /// Never below zero.
    fn sub(self, other: Millis) -> Millis {
        Millis(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 10_000 {
            write!(f, "{:.1}s", self.0 as f64 / 1000.0)
        } else {
            write!(f, "{}ms", self.0)
        }
    }
}

/// How far the *rate* of one machine's clock may be off another's, in parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriftPpm(pub u64);

impl DriftPpm {
    /// Returns how long to wait by our clock so that `duration` has passed on theirs for certain.
    ///
    /// Both clocks may be off, in opposite directions: hence twice the bound, rounded up.
    pub fn outlast(self, duration: Millis) -> Millis {
        let extra = duration.0.saturating_mul(2 * self.0).div_ceil(1_000_000);
        Millis(duration.0.saturating_add(extra))
    }
}

/// A PostgreSQL timestamp: microseconds since 2000-01-01 00:00 UTC by the *database's* wall clock.
///
/// Ages are differences of two readings of one server's clock; those of two servers are never
/// subtracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PgTime(pub i64);

impl PgTime {
    /// How long ago `earlier` was by the same clock; zero when it is not earlier.
    pub fn since(self, earlier: PgTime) -> Millis {
        Millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0) / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outlasting_a_slow_clock_takes_longer_than_the_duration() {
        assert_eq!(DriftPpm(500).outlast(Millis(3000)), Millis(3003));
        assert_eq!(DriftPpm(0).outlast(Millis(3000)), Millis(3000));
    }
    #[test]
    fn moments_are_printed_as_the_calendar_has_them() {
        for (unix_ms, printed) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399_000, "2000-02-28 23:59:59 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199_000, "2024-02-29 23:59:59 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(Wall(unix_ms).to_string(), printed);
        }
    }
}
