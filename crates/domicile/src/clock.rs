//! What time is it? The only file that reads a clock.

use std::time::Instant;

use domicile_core::time::Time;

/// This process's monotonic clock, counting from when it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: Instant,
}

impl Clock {
    #[expect(
        clippy::new_without_default,
        reason = "a clock is made once, where the process starts"
    )]
    pub fn new() -> Self {
        Self { zero: Instant::now() }
    }

    pub fn now(&self) -> Time {
        Time(u64::try_from(self.zero.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
