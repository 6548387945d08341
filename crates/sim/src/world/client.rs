//! What becomes of a client's transaction, from its first statement to its acknowledgement?
//!
//! The guard is asked at the statement and again before the commit. Between that last check and
//! the commit a backend can still be stopped for any time: the check alone is not the safety.

use domicile_core::change::Stamp;
use domicile_core::progress::Rpo;

use super::{Event, World};
use crate::clock::MS;
use crate::postgres::{EntryKind, Session};
use crate::setup::Sabotage;

impl World {
    pub(super) fn begin(&mut self, region: usize) {
        if !self.working() {
            return;
        }
        let next = self.workload.next_write_after(&mut self.rng);
        self.after(next, Event::Begin { region });
        let place = &mut self.regions[region];
        if !place.host.postgres.answers() {
            return;
        }
        let write = self.workload.write(&mut self.rng, &self.setup, &place.host);
        let postgres = &mut place.host.postgres;
        if write.keys.is_empty() || write.keys.iter().any(|key| postgres.locked(*key)) {
            return;
        }
        let mut stamps: Vec<Stamp> = Vec::new();
        if !write.past_guard {
            let wall = place.host.clock.wall(self.now);
            let late = self.setup.breaks(Sabotage::ExtendLease);
            for key in &write.keys {
                let partition = self.setup.partitions[*key as usize];
                // Refused, as a write to a partition of another region is.
                let Some(epoch) = postgres.admits(partition, wall, late) else { return };
                let stamp = Stamp { partition, epoch };
                if !stamps.contains(&stamp) {
                    stamps.push(stamp);
                }
            }
        }
        self.last_session += 1;
        let (session, start) = (self.last_session, postgres.start);
        postgres.sessions.insert(session, Session { keys: write.keys, stamps });
        let thinks = if self.rng.chance(30) { 400 * MS } else { 8 * MS };
        let delay = self.rng.below(thinks);
        self.after(delay, Event::Check { region, start, session });
    }

    /// The deferred trigger, just before the commit.
    pub(super) fn check(&mut self, region: usize, start: u64, session: u64) {
        let host = &mut self.regions[region].host;
        if host.postgres.start != start {
            return;
        }
        let Some(stamps) = host.postgres.sessions.get(&session).map(|s| s.stamps.clone()) else {
            return;
        };
        let wall = host.clock.wall(self.now);
        let late = self.setup.breaks(Sabotage::ExtendLease);
        let admitted =
            stamps.iter().all(|s| host.postgres.admits(s.partition, wall, late) == Some(s.epoch));
        if !admitted {
            host.postgres.sessions.remove(&session);
            return;
        }
        self.oracle.admitted(region, &stamps);
        let delay = self.rng.below(3 * MS);
        self.after(delay, Event::Commit { region, start, session });
    }

    pub(super) fn commit(&mut self, region: usize, start: u64, session: u64) {
        let postgres = &mut self.regions[region].host.postgres;
        if postgres.start != start {
            return;
        }
        let Some(Session { keys, stamps }) = postgres.sessions.remove(&session) else { return };
        let id = self.oracle.next_id();
        let saw = postgres.tables.applied.clone();
        let (k, s) = (keys.clone(), stamps.clone());
        let kind = EntryKind::Local { id, keys: k, stamps: s, barrier: None };
        let lsn = postgres.write_through(kind);
        self.oracle.committed(region, id, lsn, &keys, &stamps, &saw);
        match self.setup.rpo {
            Rpo::None => self.oracle.acknowledged(id, self.now),
            Rpo::Zero { .. } | Rpo::Within { .. } => {
                postgres.waiting.insert(lsn, id);
            }
        }
        let here = &self.setup.regions[region];
        let stamps: Vec<String> =
            stamps.iter().map(|s| format!("{}:{}", s.partition, s.epoch)).collect();
        self.trace.line(
            self.now,
            format_args!("{here} commits {id} at {lsn} rows {keys:?} {}", stamps.join(" ")),
        );
        self.poke(region);
    }

    /// The walsender has something: the agent need not wait for its next look.
    fn poke(&mut self, region: usize) {
        let life = self.regions[region].life;
        let after = self.rng.below(2 * MS);
        let wake = crate::region::Wake::Poked;
        self.after(after, Event::Wake { region, life, wake });
    }

    pub(super) fn order(&mut self) {
        if !self.working() {
            return;
        }
        let next = self.workload.next_order_after(&mut self.rng);
        self.after(next, Event::Order);
        let intent = self.workload.order(&mut self.rng, &self.setup);
        let region = self.rng.index(self.setup.count());
        if !self.regions[region].agent_paused {
            let call = self.operator.call(&intent, &self.setup);
            self.with_agent(region, |agent, host, cx| agent.begin(host, cx, &intent, &call));
        }
    }
}
