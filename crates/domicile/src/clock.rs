//! What time is it? The only file that reads a clock.

use std::time::{Duration, SystemTime};

use domicile_core::time::{PgTime, Time, Wall};
use nix::time::{ClockId, clock_gettime};

/// Goes on while a machine is suspended, as leases do.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

/// This process's monotonic clock, counting from when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: Duration,
}

impl Clock {
    #[expect(
        clippy::new_without_default,
        reason = "a clock is made once, where the process starts"
    )]
    pub fn new() -> Self {
        Self { zero: since_boot() }
    }

    pub fn now(&self) -> Time {
        let elapsed = since_boot().saturating_sub(self.zero);
        Time(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

fn since_boot() -> Duration {
    // Every kernel that is supported has this clock.
    clock_gettime(CLOCK).map(Duration::from).unwrap_or_default()
}

/// This machine's wall clock, as PostgreSQL writes a time.
///
/// Only to be shown to a person: nothing may be decided by it.
pub fn wall() -> PgTime {
    const POSTGRES_EPOCH: Duration = Duration::from_secs(946_684_800);
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let micros = since.saturating_sub(POSTGRES_EPOCH).as_micros();
    PgTime(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// This machine's wall clock: for people, and for what they plan by the calendar.
pub fn unix() -> Wall {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The same in milliseconds since 1970, as documents say it.
pub fn unix_ms() -> u64 {
    unix().0
}
