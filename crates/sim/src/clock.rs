//! What do the clocks of one machine show at a moment of true time?
//!
//! Only the world knows true time. A machine's clocks start anywhere, run fast or slow by up to
//! the drift bound, and its wall clock may be set forward or back; the monotonic one never is.

use domicile_core::time::{PgTime, Time};

/// A moment or a duration of true time, in microseconds.
pub type Micros = u64;

pub const MS: Micros = 1000;
pub const SECOND: Micros = 1_000_000;

#[derive(Clone, Debug)]
pub struct Clock {
    /// How much faster than true time, in parts per million; negative when slower.
    pub drift_ppm: i64,
    /// What both clocks showed at the beginning.
    pub start: Micros,
    /// How far the wall clock has been set since.
    pub wall_step: i64,
}

impl Clock {
    fn elapsed(&self, now: Micros) -> i64 {
        let now = now as i64;
        now + now * self.drift_ppm / 1_000_000
    }

    pub fn monotonic(&self, now: Micros) -> Time {
        Time((self.start as i64 + self.elapsed(now)) as u64 / MS)
    }

    /// The clock that PostgreSQL reads.
    pub fn wall(&self, now: Micros) -> PgTime {
        PgTime(self.start as i64 + self.elapsed(now) + self.wall_step)
    }
}
