//! How often does something that is counted happen?

use std::collections::VecDeque;

use crate::time::{Millis, Time};

/// Over so long the mean is taken.
const WINDOW: Millis = Millis(60_000);

/// A counter at several moments of the last minute.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    /// The oldest first, and of those before the window only the last.
    looks: VecDeque<(Time, u64)>,
}

impl Rate {
    /// Notes the counter at `now`, no earlier than the last look. Returns by how much it grew in a second,
    /// rounded up, in the mean of the last minute or of what is known of it.
    pub fn note(&mut self, now: Time, count: u64) -> u64 {
        self.looks.push_back((now, count));
        while self.looks.get(1).is_some_and(|(at, _)| now.since(*at) >= WINDOW) {
            self.looks.pop_front();
        }
        let (at, before) = self.looks[0];
        let grown = count.saturating_sub(before);
        (grown.saturating_mul(1000)).div_ceil(now.since(at).0.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_taken_over_the_last_minute() {
        let mut rate = Rate::default();
        assert_eq!(rate.note(Time(1000), 70), 0, "one look says nothing");
        assert_eq!(rate.note(Time(2000), 80), 10);
        assert_eq!(rate.note(Time(3000), 80), 5);
        // From 80 at the second look, which is the last that is a minute old.
        assert_eq!(rate.note(Time(63_000), 6080), 100);
        assert_eq!(rate.note(Time(200_000), 6080), 0);
    }
}
