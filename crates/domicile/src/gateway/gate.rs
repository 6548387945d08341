//! May a transaction begin now, or is its database paused?
//!
//! Who pauses wants to know when nothing runs any more. A session says that it is active and then looks at the gate;
//! who pauses closes the gate and then looks at the sessions. All four in one order (`SeqCst`), so one of both sees
//! the other. While nothing is paused, the gate costs a session one look at one atomic.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domicile_core::route::Caller;
use tokio::sync::watch;

use super::Shared;
use super::link::Link;
use super::recorder::Recorder;
use super::refusals::{self, End};
use super::session::Session;

/// What is paused at a gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Something is paused.
    is_closed: Arc<AtomicBool>,
    paused: watch::Sender<Paused>,
}

/// Of which databases no transaction begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paused {
    pub all: bool,
    pub databases: BTreeSet<String>,
}

impl Paused {
    pub fn holds(&self, database: &str) -> bool {
        self.all || self.databases.contains(database)
    }

    /// Returns whether one database, or all, was paused by that name.
    pub fn says(&self, database: Option<&str>) -> bool {
        database.map_or(self.all, |name| self.databases.contains(name))
    }

    /// Pauses one database, or all.
    pub fn add(&mut self, database: Option<&str>) {
        match database {
            Some(name) => drop(self.databases.insert(name.to_owned())),
            None => self.all = true,
        }
    }

    /// Takes that back. What else is paused stays so.
    pub fn take_back(&mut self, database: Option<&str>) {
        match database {
            Some(name) => drop(self.databases.remove(name)),
            None => self.all = false,
        }
    }

    fn is_nothing(&self) -> bool {
        !self.all && self.databases.is_empty()
    }
}

impl Gate {
    pub fn new() -> Self {
        Self { is_closed: Arc::default(), paused: watch::Sender::new(Paused::default()) }
    }

    pub fn paused(&self) -> Paused {
        self.paused.borrow().clone()
    }

    /// Makes of what is paused what `change` makes of it. Returns whether that is something else.
    pub fn change(&self, change: impl FnOnce(&mut Paused)) -> bool {
        self.paused.send_if_modified(|paused| {
            let before = paused.clone();
            change(paused);
            self.is_closed.store(!paused.is_nothing(), Ordering::SeqCst);
            *paused != before
        })
    }

    pub fn is_open(&self, database: &str) -> bool {
        !self.is_closed.load(Ordering::SeqCst) || !self.paused.borrow().holds(database)
    }

    /// Waits until `database` is not paused.
    async fn opened(&self, database: &str) {
        // There is a sender as long as there is a gate.
        let _ = self.paused.subscribe().wait_for(|paused| !paused.holds(database)).await;
    }
}

/// Has a client wait with its login while its database is paused. Another gateway is to come again: it waits itself.
pub async fn before_login(
    shared: &Shared,
    caller: Caller,
    client: &mut Link,
    recorder: &mut Recorder,
) -> Result<(), End> {
    let record = recorder.record.clone();
    loop {
        recorder.begins();
        if shared.gate.is_open(&record.who.database) {
            return Ok(());
        }
        if caller == Caller::Peer {
            return Err(refusals::paused());
        }
        recorder.is_paused();
        tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => return Err(refusals::shutting_down()),
            () = record.ended.cancelled() => return Err(refusals::killed()),
            () = shared.gate.opened(&record.who.database) => {}
            () = client.moved() => if client.has_ended() { return Err(End::Quietly) },
        }
    }
}

impl Session {
    /// Has an idle session wait while its database is paused. Returns whether its next transaction begins: its client
    /// may have cancelled it meanwhile.
    pub async fn pass_gate(&mut self, tag: u8, whole: bool) -> Result<bool, End> {
        if self.asks_and_may() { Ok(true) } else { Box::pin(self.wait_at_gate(tag, whole)).await }
    }

    /// Says that a transaction is to begin, and returns whether it may now.
    fn asks_and_may(&mut self) -> bool {
        self.recorder.asks();
        // What another gateway has sent it cannot take back. It is sent away while it asks nothing.
        self.caller == Caller::Peer || self.shared.gate.is_open(&self.recorder.record.who.database)
    }

    async fn wait_at_gate(&mut self, tag: u8, whole: bool) -> Result<bool, End> {
        while !self.asks_and_may() {
            let record = self.recorder.record.clone();
            self.recorder.is_paused();
            tokio::select! {
                biased;
                () = self.shared.shutdown.cancelled() => return Err(refusals::shutting_down()),
                () = self.cancellable.called() => {
                    self.recorder.gives_up();
                    // The rest of a large message is not here yet.
                    if !whole {
                        return Err(refusals::ended_by(refusals::cancelled()));
                    }
                    self.refuse(tag, &refusals::cancelled());
                    return Ok(false);
                }
                () = self.shared.gate.opened(&record.who.database) => {}
                // A server that ends meanwhile is not asked any more.
                () = self.home.link.moved() => {}
                () = self.client.moved() => if self.client.has_ended() { return Err(End::Quietly) },
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_holds_what_is_paused_and_nothing_else() {
        let gate = Gate::new();
        assert!(gate.is_open("shop"));
        assert!(gate.change(|paused| paused.add(Some("shop"))));
        assert!(!gate.is_open("shop") && gate.is_open("till"));
        assert!(!gate.change(|paused| paused.add(Some("shop"))));
        assert!(gate.change(|paused| paused.add(None)));
        assert!(!gate.is_open("till"));
        assert!(gate.change(|paused| paused.take_back(None)));
        assert!(!gate.is_open("shop") && gate.is_open("till"));
        assert!(gate.change(|paused| paused.take_back(Some("shop"))));
        assert!(gate.is_open("shop"));
    }
}
