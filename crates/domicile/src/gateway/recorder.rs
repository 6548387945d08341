//! How does a session write down what it is doing?
//!
//! With every statement, so it costs little: the clock is read and atomics of its own are written when a statement
//! begins and when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use domicile_core::time::{Millis, Time};
use domicile_pg::backend::TransactionStatus;

use super::backend::Backend;
use super::decided::Why;
use super::session::Session;
use super::sessions::{Doing, Record, Server, Sessions};
use crate::clock::Clock;

/// A session's own side of its record, which is forgotten when this is dropped.
#[derive(Debug)]
pub struct Recorder {
    sessions: Sessions,
    pub record: Arc<Record>,
    clock: Clock,
    /// When the statement began that runs now.
    asked_at: Option<Time>,
    /// When the transaction began that is open now.
    began_at: Option<Time>,
    /// Since when a statement, or the login, waits.
    waits_since: Option<Time>,
}

impl Recorder {
    /// What `record` shows is written by nobody else.
    pub(super) fn new(sessions: Sessions, record: Arc<Record>, clock: Clock) -> Self {
        Self { sessions, record, clock, asked_at: None, began_at: None, waits_since: None }
    }

    /// The login is under way, after it may have waited.
    pub fn begins(&mut self) {
        let now = self.clock.now();
        self.stops_waiting(now);
        self.record.does(Doing::Login, now);
    }

    /// Something is asked of a server; or it goes on, after it has waited.
    pub fn asks(&mut self) {
        if self.asked_at.is_some() && self.waits_since.is_none() {
            return;
        }
        let now = self.clock.now();
        self.stops_waiting(now);
        self.asked_at.get_or_insert(now);
        self.began_at.get_or_insert(now);
        self.record.does(Doing::Active, now);
    }

    /// What was asked waits in the gateway for an owner.
    pub fn waits(&mut self) {
        self.stops_for(Doing::Waiting);
    }

    /// What was asked waits in the gateway while its database is paused.
    pub fn is_paused(&mut self) {
        self.stops_for(Doing::Paused);
    }

    /// A server is ready for more; `is_quiet` where nothing more was asked of it already.
    pub fn is_answered(&mut self, status: TransactionStatus, is_quiet: bool) {
        let now = self.clock.now();
        self.stops_waiting(now);
        let counters = &self.record.counters;
        if let Some(asked_at) = self.asked_at.take() {
            add(&counters.queries, 1);
            add(&counters.query_ms, now.since(asked_at).0);
        }
        let is_idle = status == TransactionStatus::Idle;
        if is_idle && let Some(began_at) = self.began_at.take() {
            add(&counters.transactions, 1);
            add(&counters.transaction_ms, now.since(began_at).0);
        }
        if !is_quiet {
            return self.asks();
        }
        self.record.does(if is_idle { Doing::Idle } else { Doing::IdleInTransaction }, now);
    }

    /// What was asked is not asked of anybody, and there is no transaction.
    pub fn gives_up(&mut self) {
        let now = self.clock.now();
        self.stops_waiting(now);
        (self.asked_at, self.began_at) = (None, None);
        self.record.does(Doing::Idle, now);
    }

    /// A transaction goes on in another region.
    pub fn is_led(&self, why: &Why) {
        let counters = &self.record.counters;
        match why {
            Why::Key(_) => add(&counters.led_by_key, 1),
            Why::Statement(_) | Why::SaysItWrites | Why::Writes(_) => {
                add(&counters.led_by_statement, 1)
            }
            Why::Refused { .. } | Why::OnlyRead { .. } => add(&counters.led_by_guard, 1),
            Why::Local | Why::OwnsEverything | Why::FreshEnough => {}
        }
    }

    /// So many bytes came from the client, and went to it, since the session began.
    pub fn moved(&self, received: u64, sent: u64) {
        self.record.counters.received.store(received, Ordering::Relaxed);
        self.record.counters.sent.store(sent, Ordering::Relaxed);
    }

    fn stops_for(&mut self, doing: Doing) {
        if self.waits_since.is_none() {
            let now = self.clock.now();
            self.waits_since = Some(now);
            self.record.does(doing, now);
        }
    }

    fn stops_waiting(&mut self, now: Time) {
        if let Some(since) = self.waits_since.take() {
            let Millis(waited) = now.since(since);
            add(&self.record.counters.wait_ms, waited);
        }
    }
}

/// Nobody else writes it.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.sessions.leave(&self.record);
    }
}

impl Session {
    /// The connections of the session are not those that they were, or another one is used.
    pub fn record_servers(&self) {
        if self.let_in_by.is_stand_in() {
            return;
        }
        let others = self.others.iter().map(|(region, other)| (Some(region), other));
        let servers = std::iter::once((None, &self.home)).chain(others);
        let servers = servers.filter(|(_, server)| !server.link.has_ended());
        let shown = |(other, server): (Option<_>, &Backend)| Server {
            region: server.region.clone(),
            address: server.target.to_string(),
            pid: server.key.as_ref().map(|key| key.pid),
            in_use: other == self.at_other.as_ref(),
        };
        self.recorder.record.holds(servers.map(shown).collect());
    }
}
