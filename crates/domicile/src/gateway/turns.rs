//! Whose turn is it to open a session on this region's PostgreSQL?
//!
//! When a region takes over, all its clients want a session at the same moment. A server that starts
//! hundreds of them side by side finishes none before nearly all are done. In turns the first one
//! writes after a few milliseconds; the last waits somewhat longer, since the first write meanwhile.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

/// So many at once, at least: PostgreSQL is to be busy while some of them wait.
const AT_ONCE_MIN: usize = 4;

/// Turns, in the order in which they were asked for.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Semaphore>);

impl Turns {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(AT_ONCE_MIN.max(2 * cores))))
    }

    /// Waits for a turn, which lasts until what this returns is dropped.
    pub async fn next(&self) -> SemaphorePermit<'_> {
        self.0.acquire().await.expect("it is never closed")
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn who_is_done_lets_the_next_one_in() {
        let turns = Turns::new();
        let mut held = Vec::new();
        while let Some(turn) = turns.next().now_or_never() {
            held.push(turn);
        }
        assert!(held.len() >= AT_ONCE_MIN);
        let mut waits = std::pin::pin!(turns.next());
        assert!(waits.as_mut().now_or_never().is_none());
        held.pop();
        assert!(waits.now_or_never().is_some());
    }
}
