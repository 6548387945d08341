//! Whose turn is it to open a session on this region's PostgreSQL, and to ask it for the first time?
//!
//! When a region takes over, all its clients want that at the same moment. A server that starts
//! hundreds of sessions side by side finishes none before nearly all are done; nor does it with the first statements
//! of hundreds, for each of which a new session looks up all that it needs. In turns the first one
//! writes after a few milliseconds; the last waits somewhat longer, since the first write meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::session::Session;

/// So many at once, at least: PostgreSQL is to be busy while some of them wait.
const AT_ONCE_MIN: usize = 4;
/// A first statement has its turn for no longer: it may be one that takes hours, or waits for others; and the last of
/// hundreds is not to wait for seconds.
const FIRST_MAX: Duration = Duration::from_millis(20);

/// Turns, in the order in which they were asked for.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Semaphore>);

impl Turns {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::of(AT_ONCE_MIN.max(2 * cores))
    }

    /// So many at once.
    pub fn of(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }

    /// Waits for a turn, which lasts until what this returns is dropped.
    pub async fn next(&self) -> SemaphorePermit<'_> {
        self.0.acquire().await.expect("it is never closed")
    }

    /// Waits for a turn that ends by itself.
    async fn next_first(&self) -> FirstTurn {
        let turn = self.0.clone().acquire_owned().await.expect("it is never closed");
        FirstTurn(AbortOnDropHandle::new(tokio::spawn(async move {
            sleep(FIRST_MAX).await;
            drop(turn);
        })))
    }
}

/// The turn of a session's first statement, until it is dropped or has lasted long enough.
pub struct FirstTurn(
    #[expect(dead_code, reason = "dropped, it ends the turn")] AbortOnDropHandle<()>,
);

impl Session {
    /// Has the first statement wait for its turn that comes to a server which was opened here before all moved here.
    pub async fn await_first_turn(&mut self) {
        let server = self.active();
        let (cold_since, region) = (server.cold_since.take(), server.region.clone());
        let openings = self.shared.routes.borrow().openings;
        let opened_ahead = cold_since.is_some_and(|before| before != openings);
        if opened_ahead && region == self.shared.config.region {
            self.first_turn = Some(self.shared.first_turns.next_first().await);
        }
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

    #[tokio::test]
    async fn a_first_statement_that_takes_long_keeps_nobody_from_his() {
        let turns = Turns::of(1);
        let _long = turns.next_first().await;
        let mut next = std::pin::pin!(turns.next_first());
        assert!(next.as_mut().now_or_never().is_none());
        next.await;
    }

    #[tokio::test]
    async fn a_first_statement_that_was_answered_lets_the_next_one_in() {
        let turns = Turns::of(1);
        drop(turns.next_first().await);
        // What holds it is told to end, and does so when it runs next.
        tokio::task::yield_now().await;
        assert!(turns.next_first().now_or_never().is_some());
    }
}
