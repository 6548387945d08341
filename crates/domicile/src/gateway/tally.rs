//! What are a gateway's clients at, and what have they done, for whoever watches it from outside?

use std::collections::BTreeMap;

use domicile_core::time::Millis;

use super::pool::{Counts, Pools};
use super::sessions::{Doing, Figures, Kind, Sessions};
use crate::clock::Clock;

/// Whom to ask. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tally {
    sessions: Sessions,
    pools: Pools,
    clock: Clock,
}

/// What somebody asks in the console is left out.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// By what they are at, other gateways left out.
    pub clients: BTreeMap<&'static str, usize>,
    /// Of the client that waits longest, but for what is paused.
    pub wait_max: Millis,
    /// `in_use` and `idle`; nothing where nobody shares.
    pub shared_servers: BTreeMap<&'static str, usize>,
    /// Clients that were not let in so far, by why.
    pub refused: BTreeMap<&'static str, usize>,
    /// What was done in each database, also for other gateways.
    pub databases: BTreeMap<String, Figures>,
}

#[cfg(test)]
impl Default for Tally {
    /// Of a gateway that nobody has come to.
    fn default() -> Self {
        Self::new(Sessions::default(), Pools::default(), Clock::new())
    }
}

impl Tally {
    pub(super) fn new(sessions: Sessions, pools: Pools, clock: Clock) -> Self {
        Self { sessions, pools, clock }
    }

    pub fn count(&self) -> Counted {
        let now = self.clock.now();
        let mut clients: BTreeMap<_, _> =
            Doing::ALL.iter().map(|doing| (doing.word(), 0)).collect();
        let mut wait_max = Millis(0);
        let present = self.sessions.present();
        for record in present.iter().filter(|record| record.who.kind == Kind::Client) {
            *clients.entry(record.doing().word()).or_default() += 1;
            // Who has paused it knows.
            if record.doing() == Doing::Waiting {
                wait_max = wait_max.max(record.waits(now));
            }
        }
        let shared_servers = self.pools.total().map(|Counts { idle, in_use, .. }| {
            BTreeMap::from([("idle", idle), ("in_use", in_use)])
        });
        let shared_servers = shared_servers.unwrap_or_default();
        let (refused, mut databases) = (self.sessions.refused(), self.sessions.figures());
        // Who has not got in yet may name anything.
        databases.retain(|_, figures| figures.queries > 0);
        Counted { clients, wait_max, shared_servers, refused, databases }
    }
}
