//! What is a client's session, from its startup to its last word?
//!
//! One task for each session: it waits until bytes move on any of its connections, then relays
//! what came. The session lives at its home; a single statement may be served by another region.
//!
//! Most sessions are idle, and each takes as much memory as the longest way through its code would: so ways that are
//! long and seldom taken are boxed.

use std::collections::BTreeMap;
use std::iter::once;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_core::id::RegionId;
use domicile_core::route::{self, Caller, Home, Routes};
use domicile_core::time::Millis;
use domicile_pg::startup::Startup;
use futures_util::future::select_all;
use tokio::sync::watch;

use super::ahead::{Ahead, Announced};
use super::attempt::Attempt;
use super::backend::{Backend, OpenError};
use super::cancel::Cancellable;
use super::cut::Cutter;
use super::decided::Decided;
use super::key::Key;
use super::link::Link;
use super::login::Login;
use super::memory::Memory;
use super::moving::{Wait, unless_overtaken};
use super::pool::{Membership, Turn};
use super::reading::Reading;
use super::recorder::Recorder;
use super::refusals::{self, End};
use super::reworded::Reworded;
use super::secure::Other;
use super::sessions::Kind;
use super::setters::Setters;
use super::stand_in::{self, LetInBy};
use super::statuses::Statuses;
use super::track::Track;
use super::turns::FirstTurn;
use super::unconfirmed::Unconfirmed;
use super::{Shared, console, door, gate};
use crate::staleness::Staleness;

/// A server may take so long for its first answer even when the budget is nearly over.
const DIAL_WAIT_MIN: Duration = Duration::from_secs(1);

/// A client and its connections to servers.
pub struct Session {
    pub shared: Shared,
    pub routes: watch::Receiver<Arc<Routes>>,
    pub caller: Caller,
    pub startup: Startup,
    pub login: Login,
    pub client: Link,
    /// Who reads along with the client.
    pub other: Other,
    pub client_cutter: Cutter,
    pub home: Backend,
    /// Servers of other regions, kept for statements that their guards take.
    pub others: BTreeMap<RegionId, Backend>,
    /// The one of them that the statement, or the transaction, that runs now is with.
    pub at_other: Option<RegionId>,
    pub track: Track,
    pub memory: Memory,
    pub unconfirmed: Unconfirmed,
    /// What the client knows of the server's settings.
    pub statuses: Statuses,
    /// A connection where the session will go on.
    pub ahead: Option<Box<Ahead>>,
    pub announced: watch::Receiver<Option<Announced>>,
    /// The transaction that runs now, as long as it may go elsewhere.
    pub attempt: Option<Attempt>,
    /// What the client says of whose rows it is about.
    pub key: Key,
    /// Where its last transaction went.
    pub decided: Decided,
    /// The token of the one that is open, if its client has asked for that.
    pub transaction: Option<String>,
    /// What the client asks of its reads.
    pub reading: Reading,
    /// What prepared statements set of that when they are executed.
    pub setters: Setters,
    /// What the server is asked so that it answers for the gateway.
    pub reworded: Reworded,
    /// After an error that the gateway gave, what the client sends is passed over up to its next Sync.
    pub skipping: bool,
    /// The rest of a large message is passed over, as its beginning was.
    pub dropping: bool,
    pub cancellable: Cancellable,
    pub recorder: Recorder,
    /// With whom the session shares servers.
    pub membership: Option<Membership>,
    /// Its right to have one now, until it has it.
    pub turn: Option<Turn>,
    /// That of its first statement for a server.
    pub first_turn: Option<FirstTurn>,
    /// Its unnamed statement: the Parse, whole as on the wire. Followed only while it shares.
    pub unnamed: Option<Bytes>,
    pub let_in_by: LetInBy,
    /// The server's offer to bind the login to its connection was kept from the client.
    pub unbound: bool,
    /// The login is over.
    pub begun: bool,
    /// The client has said goodbye and still waits for answers.
    pub leaving: bool,
    /// The server has said its last word, and the client has heard it.
    pub farewell_said: bool,
}

/// Finds the first server of a session. Who has none has heard why.
pub async fn begin(
    (mut client, other): (Link, Other),
    caller: Caller,
    mut startup: Startup,
    mut recorder: Recorder,
    shared: Shared,
) -> Option<Box<Session>> {
    let mut routes = shared.routes.clone();
    let in_console = recorder.record.who.kind == Kind::Console;
    if in_console {
        startup = console::startup(&startup, &shared.config.console);
    }
    let reading = match caller {
        Caller::Client => {
            let tokens = shared.config.staleness.as_ref().map(Staleness::tokens);
            Reading::begin(&startup, shared.freshness, tokens)
        }
        // The client's own gateway has looked after that.
        Caller::Peer => Ok(Reading::default()),
    };
    let reading = match reading {
        Ok(reading) => reading,
        Err(end) => {
            door::say(&mut client, end).await;
            return None;
        }
    };
    let reads_here = reading.is_here();
    let found = async {
        if in_console {
            let home = console::home(&shared, &recorder.record.who, &startup).await?;
            return Ok((LetInBy::Server(None), home));
        }
        gate::before_login(&shared, caller, &mut client, &mut recorder).await?;
        first_home(&shared, &mut routes, &mut client, caller, reads_here, &startup).await
    };
    let (let_in_by, home) = match Box::pin(found).await {
        Ok(found) => found,
        Err(end) => {
            door::say(&mut client, end).await;
            return None;
        }
    };
    let session = Box::new(Session {
        cancellable: shared.cancels.session(),
        recorder,
        ahead: None,
        announced: shared.config.warm_ups.subscribe(),
        unconfirmed: Unconfirmed::new(shared.config.rpo),
        shared,
        routes,
        caller,
        key: Key::begin(&startup),
        startup,
        login: Login::default(),
        client,
        other,
        client_cutter: Cutter::default(),
        home,
        others: BTreeMap::new(),
        at_other: None,
        track: Track::starting(),
        memory: Memory::default(),
        statuses: Statuses::default(),
        attempt: None,
        decided: Decided::default(),
        transaction: None,
        reading,
        setters: Setters::default(),
        reworded: Reworded::new(),
        skipping: false,
        dropping: false,
        membership: None,
        turn: None,
        first_turn: None,
        unnamed: None,
        let_in_by,
        unbound: false,
        begun: false,
        leaving: false,
        farewell_said: false,
    });
    session.record_servers();
    Some(session)
}

impl Session {
    /// Serves it to its end.
    pub async fn serve(mut self: Box<Self>) {
        let record = self.recorder.record.clone();
        let serving = async {
            match record.who.kind {
                Kind::Console => Box::pin(self.serve_console()).await,
                Kind::Client | Kind::Peer => self.run().await,
            }
        };
        let end = tokio::select! {
            biased;
            Err(end) = serving => end,
            () = record.ended.cancelled() => refusals::killed(),
        };
        Box::pin(self.say_goodbye(end)).await;
    }

    /// Relays until the session ends, and returns how.
    async fn run(&mut self) -> Result<std::convert::Infallible, End> {
        loop {
            self.relay_to_client().await?;
            let is_all_said = self.relay_to_server().await?;
            self.check_stranded()?;
            if self.is_abandoned() {
                return Err(End::Quietly);
            }
            // Its server hears that the client says no more, and ends when it has answered. What it owes, it knows best.
            if is_all_said && self.client.has_ended() {
                self.active().link.finish();
            }
            if self.shared.shutdown.is_cancelled() && (self.track.is_idle() || !self.begun) {
                return Err(refusals::shutting_down());
            }
            self.recorder.moved(self.client.received_bytes, self.client.sent_bytes);
            self.give_back();
            self.anything_moved().await;
        }
    }

    /// Ends a session that waits for a region which has stopped answering.
    fn check_stranded(&mut self) -> Result<(), End> {
        let region = self.active().region.clone();
        if !self.shared.is_silent(&region) || self.track.is_idle() {
            return Ok(());
        }
        tracing::debug!(%region, "a session waited for a region that is silent");
        Err(match (self.begun, self.track.is_quiet()) {
            (false, _) => refusals::unreachable(),
            (true, false) => refusals::outcome_unknown(self.transaction.as_deref()),
            (true, true) => refusals::transaction_lost(),
        })
    }

    /// Returns whether the client has gone and nothing is left to do for it. A client that only
    /// stopped sending still gets the answers to what it asked.
    pub fn is_abandoned(&self) -> bool {
        let is_answered = self.track.needs_client() || !self.begun || self.client.is_mute();
        self.client.has_ended() && is_answered
    }

    pub async fn anything_moved(&mut self) {
        let stopping = self.shared.shutdown.is_cancelled();
        let others = self.others.values_mut().map(|other| Box::pin(other.link.moved()));
        let others: Vec<_> = others.collect();
        let other = async {
            match others.is_empty() {
                false => _ = select_all(others).await,
                true => std::future::pending().await,
            }
        };
        // Servers first: a session should know that its server is gone before it sends more.
        tokio::select! {
            biased;
            () = self.home.link.moved() => {}
            () = other => {}
            () = self.client.moved() => {}
            () = self.cancellable.arrived() => {}
            () = self.shared.shutdown.cancelled(), if !stopping => {}
            Ok(()) = self.shared.silent.changed() => {}
            Ok(()) = self.announced.changed() => self.hear_announcement(),
        }
    }

    /// The connection to which statements go now.
    pub fn active(&mut self) -> &mut Backend {
        let Self { home, others, at_other, .. } = self;
        at_other.as_ref().and_then(|region| others.get_mut(region)).unwrap_or(home)
    }

    async fn say_goodbye(&mut self, end: End) {
        self.bequeath();
        // In the middle of a message an error would be read as a part of it.
        let end = if self.active().cutter.is_inside() { End::Quietly } else { end };
        for backend in once(&mut self.home).chain(self.others.values_mut()) {
            if !backend.link.has_ended() && self.track.is_quiet() {
                domicile_pg::frontend::put_terminate(&mut backend.link.outgoing);
            }
        }
        door::say(&mut self.client, end).await;
        for backend in once(&mut self.home).chain(self.others.values_mut()) {
            backend.link.farewell().await;
        }
    }
}

/// Finds the first home of a session, within the park budget, and who lets it in there. Its first answer has come.
async fn first_home(
    shared: &Shared,
    routes: &mut watch::Receiver<Arc<Routes>>,
    client: &mut Link,
    caller: Caller,
    mut reads_here: bool,
    startup: &Startup,
) -> Result<(LetInBy, Backend), End> {
    let mut wait = Wait::new(shared, budget(shared));
    loop {
        let now = routes.borrow_and_update().clone();
        let here = &shared.config.region;
        let home = match reads_here {
            true => Home::At(here.clone()),
            false => route::home(shared.config.mode, caller, here, &now),
        };
        let end = match home {
            Home::Wait => refusals::no_owner(),
            Home::At(region) => {
                // Now, and not before it had to wait: many may wait for the same region.
                let (by, stand_in) = match region == *here {
                    true => stand_in::find(shared, caller, client, startup).await,
                    false => (LetInBy::Server(None), None),
                };
                if let Some(stand_in) = stand_in {
                    return Ok((by, stand_in));
                }
                let dialing = dial(shared, &region, startup);
                let patience = wait.left().max(DIAL_WAIT_MIN);
                match unless_overtaken(shared, caller, patience, dialing).await {
                    Ok(home) => return Ok((by, home)),
                    Err(error) if error.is_passing() => {
                        tracing::debug!(%region, %error, "a session has no home yet");
                        refusals::unreachable()
                    }
                    Err(error) => {
                        tracing::warn!(%region, %error, "a session has no home");
                        return Err(refusals::unreachable());
                    }
                }
            }
        };
        if wait.is_over() {
            return Err(end);
        }
        // What it would read there is as new as can be.
        reads_here = false;
        wait.pause(shared, routes, client, std::future::pending()).await?;
    }
}

async fn dial(shared: &Shared, region: &RegionId, startup: &Startup) -> Result<Backend, OpenError> {
    let mut backend = Backend::dial(shared, region, startup).await?;
    backend.first_answer().await?;
    Ok(backend)
}

/// How long a session may wait for an owner.
pub fn budget(shared: &Shared) -> Millis {
    Millis(u64::try_from(shared.config.park_budget.as_millis()).unwrap_or(u64::MAX))
}
