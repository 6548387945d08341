//! How does an idle session get to where it should be, and wait while there is no such place?

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::id::RegionId;
use domicile_core::route::{self, Caller, Home, Mode, Routes};
use domicile_core::time::{Millis, Time};
use domicile_pg::backend as messages;
use futures_util::FutureExt;
use tokio::sync::{SemaphorePermit, watch};
use tokio::time::timeout;

use super::backend::{Backend, OpenError, Opened};
use super::link::Link;
use super::pool::Shareable;
use super::refusals::{self, End};
use super::session::{Session, budget};
use super::statuses::Statuses;
use super::{Config, Shared};

/// The first pause before trying again when nothing changes; each later one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(40);
/// While ownership moves, the end of the move is told: trying again before that is in its way.
const SETTLING_PAUSE_MAX: Duration = Duration::from_millis(250);
/// Opening a session on a server takes no longer, or the server is as good as gone.
pub const OPEN_WAIT_MAX: Duration = Duration::from_secs(5);

/// A region opens what it was given so soon, or its guard should say what it waits for.
const OPENING_WAIT_MAX: Millis = Millis(1000);
/// What a session has left is closed so much later, and not all at once.
const CLOSED_AFTER: Duration = Duration::from_millis(500);
const CLOSED_WITHIN_MS: u64 = 2000;
const CLOSED_APART_MS: u64 = 7;

/// Waiting, with a bound.
pub struct Wait {
    until: Time,
    now: crate::clock::Clock,
    pause: Duration,
    /// [`Routes::openings`] when the last attempt began.
    openings: u64,
}

/// Why a pause is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    Again,
    Cancelled,
}

impl Wait {
    pub fn new(shared: &Shared, budget: Millis) -> Self {
        let now = shared.clock;
        let openings = shared.routes.borrow().openings;
        Self { until: now.now() + budget, now, pause: PAUSE_MIN, openings }
    }

    pub fn is_over(&self) -> bool {
        self.now.now() >= self.until
    }

    pub fn left(&self) -> Duration {
        Duration::from_millis(self.until.since(self.now.now()).0)
    }

    /// Waits until something opens, or a moment. Ends the session when its client goes or the
    /// gateway stops; what the client sends meanwhile is kept, within bounds.
    pub async fn pause(
        &mut self,
        shared: &Shared,
        routes: &mut watch::Receiver<Arc<Routes>>,
        client: &mut Link,
        cancelled: impl Future<Output = ()>,
    ) -> Result<Woken, End> {
        let longest = if routes.borrow().settling { SETTLING_PAUSE_MAX } else { PAUSE_MAX };
        let pause = self.pause.min(longest).min(self.left());
        self.pause = (pause * 2).max(PAUSE_MIN);
        let mut cancelled = std::pin::pin!(cancelled);
        let mut moment = std::pin::pin!(tokio::time::sleep(pause));
        loop {
            let openings = routes.borrow_and_update().openings;
            if openings != self.openings {
                (self.openings, self.pause) = (openings, PAUSE_MIN);
                return Ok(Woken::Again);
            }
            if client.has_ended() {
                return Err(End::Quietly);
            }
            tokio::select! {
                biased;
                () = shared.shutdown.cancelled() => return Err(refusals::shutting_down()),
                () = &mut cancelled => return Ok(Woken::Cancelled),
                Ok(()) = routes.changed() => {}
                () = &mut moment => return Ok(Woken::Again),
                () = client.moved() => {}
            }
        }
    }
}

/// Gives up on `opening` after `patience`, or as soon as it leads to the wrong place: a region that just died may keep a
/// connection waiting while its successor is ready.
pub async fn unless_overtaken<T>(
    shared: &Shared,
    caller: Caller,
    patience: Duration,
    opening: impl Future<Output = Result<T, OpenError>>,
) -> Result<T, OpenError> {
    let mut routes = shared.routes.clone();
    let before = routes.borrow_and_update().clone();
    let overtaken = async {
        let Config { mode, region, .. } = &*shared.config;
        let changed = |now: &Arc<Routes>| route::overtakes(*mode, caller, region, &before, now);
        if routes.wait_for(changed).await.is_err() {
            // The agent is gone; what it said last still counts.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        opened = tokio::time::timeout(patience, opening) => opened.unwrap_or(Err(OpenError::Slow)),
        () = overtaken => Err(OpenError::Overtaken),
    }
}

impl Session {
    /// Returns once the session is at its home and that home is alive; only for an idle session of a client.
    pub async fn go_home(&mut self, patience: Millis) -> Result<(), End> {
        let mut wait = Wait::new(&self.shared, patience);
        loop {
            let end = match self.wanted_home() {
                Home::At(region) if self.is_at(&region) => {
                    self.forget_ahead();
                    return Ok(());
                }
                // The connection may be as good as ever when the region answers again.
                Home::At(region) if self.shared.is_silent(&region) => refusals::unreachable(),
                Home::At(region) => match self.move_to(&region).await {
                    Ok(()) => return Ok(()),
                    Err(error) => self.cannot_open(&region, &error)?,
                },
                Home::Wait => {
                    self.hear_of_hand_over();
                    refusals::no_owner()
                }
            };
            if wait.is_over() {
                return Err(end);
            }
            self.recorder.waits();
            let cancelled = std::future::pending();
            wait.pause(&self.shared, &mut self.routes, &mut self.client, cancelled).await?;
        }
    }

    /// Makes of the session at home what it has become in another region.
    pub async fn catch_up_at_home(&mut self) -> Result<(), End> {
        if self.home.is_caught_up() {
            return Ok(());
        }
        let mut statuses = Statuses::default();
        let catching_up = self.home.catch_up(&self.memory, &mut statuses);
        match Box::pin(timeout(OPEN_WAIT_MAX, catching_up)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(refusals::server_gone()),
        }
    }

    fn is_at(&self, region: &RegionId) -> bool {
        *region == self.home.region && !self.home.link.has_ended() && !self.shared.is_silent(region)
    }

    /// As [`Session::go_home`], with all the patience there is, before a message is passed on. Returns whether the
    /// session is there; if not, its client has heard why.
    pub async fn be_at_home(&mut self, tag: u8, whole: bool) -> Result<bool, End> {
        match (self.wanted_home(), self.caller) {
            // That is where it is nearly always.
            (Home::At(region), _) if self.is_at(&region) => Ok(true),
            (_, Caller::Client) => {
                Box::pin(self.go_home(budget(&self.shared))).await?;
                Ok(true)
            }
            (_, Caller::Peer) => Box::pin(self.come_back(tag, whole)).await,
        }
    }

    /// Gets a peer's session one of the servers that it shares. Where none can be had its gateway hears at once that
    /// nothing was done, as from a guard: it does the waiting, and may know of another place by then.
    async fn come_back(&mut self, tag: u8, whole: bool) -> Result<bool, End> {
        if self.membership.is_none() {
            return Err(End::Quietly);
        }
        let here = self.shared.config.region.clone();
        let Err(error) = self.move_to(&here).await else { return Ok(true) };
        self.cannot_open(&here, &error)?;
        self.turn = None;
        let report = refusals::no_server_now(&here);
        // The rest of a large message is not here yet.
        if !whole {
            return Err(refusals::ended_by(report));
        }
        self.refuse(tag, &report);
        Ok(false)
    }

    /// Does its next transaction begin in another region, as far as is known?
    pub fn goes_elsewhere(&mut self) -> bool {
        matches!(self.wanted_home(), Home::At(region) if region != self.shared.config.region)
    }

    /// Where its next transaction should begin.
    pub fn wanted_home(&mut self) -> Home {
        let config = &self.shared.config;
        if self.caller == Caller::Peer {
            // Waiting for an owner is for the gateway that the client is connected to.
            return Home::At(config.region.clone());
        }
        if self.reading.is_here() {
            return Home::At(config.region.clone());
        }
        let routes = self.routes.borrow_and_update();
        route::home(config.mode, self.caller, &config.region, &routes)
    }

    /// Is all that another gateway asks for here about to be opened?
    pub fn opens_soon(&self) -> bool {
        let config = &self.shared.config;
        self.caller == Caller::Peer
            && route::home(config.mode, self.caller, &config.region, &self.routes.borrow())
                == Home::Wait
    }

    /// Has what another gateway asks for wait for that, for a moment: a refusal would cost it two ways more.
    pub async fn await_opening(&mut self) -> Result<(), End> {
        let mut wait = Wait::new(&self.shared, OPENING_WAIT_MAX);
        while self.opens_soon() && !wait.is_over() {
            self.recorder.waits();
            let cancelled = std::future::pending();
            wait.pause(&self.shared, &mut self.routes, &mut self.client, cancelled).await?;
        }
        Ok(())
    }

    /// Returns what to say if nothing better comes, or ends the session at once.
    fn cannot_open(&self, region: &RegionId, error: &OpenError) -> Result<End, End> {
        tracing::debug!(%region, %error, "a session cannot move yet");
        match error {
            OpenError::Password
            | OpenError::Login(_)
            | OpenError::Refused(_)
            | OpenError::Protocol => Err(refusals::cannot_move(region, error)),
            OpenError::Stranger(_) => Err(refusals::unreachable()),
            OpenError::Busy => Err(refusals::servers_busy()),
            OpenError::Connect { .. }
            | OpenError::Closed
            | OpenError::NotYet
            | OpenError::Slow
            | OpenError::Overtaken => Ok(match self.shared.config.mode {
                Mode::Local => refusals::server_gone(),
                Mode::FollowOwner => refusals::unreachable(),
            }),
        }
    }

    pub async fn move_to(&mut self, region: &RegionId) -> Result<(), OpenError> {
        if self.memory.is_bound() {
            return Err(OpenError::Refused("the session is bound to its server".to_owned()));
        }
        let opened = if self.shares_in(region) {
            self.take_shared().await?
        } else if let Some(opened) = self.take_ahead(region).await {
            opened
        } else {
            self.open(region, None).await?
        };
        self.live_at(opened);
        Ok(())
    }

    fn live_at(&mut self, (home, statuses): Opened) {
        tracing::debug!(from = %self.home.region, to = %home.region, "a session moved");
        let left = std::mem::replace(&mut self.home, home);
        if left.region != self.shared.config.region {
            self.reading.was_at(left.region.clone());
        }
        self.close_later(left);
        self.share_home();
        self.tell_statuses(&statuses);
        self.tell_cancels();
    }

    /// Everybody leaves a server at the same moment, in which the next one has enough to do: they are closed one after
    /// the other.
    fn close_later(&self, left: Backend) {
        if left.shareable.is_some() || left.link.has_ended() {
            return;
        }
        let among = self.recorder.record.id.wrapping_mul(CLOSED_APART_MS) % CLOSED_WITHIN_MS;
        let after = CLOSED_AFTER + Duration::from_millis(among);
        let stopped = self.shared.shutdown.clone().cancelled_owned();
        tokio::spawn(async move {
            let _ = timeout(after, stopped).await;
            drop(left);
        });
    }

    /// Opens a quiet connection that looks like the session's, to be shared or its own.
    pub async fn open(
        &self,
        region: &RegionId,
        shareable: Option<Shareable>,
    ) -> Result<Opened, OpenError> {
        let patience = Duration::from_millis(budget(&self.shared).0);
        let turn = self.turn_to_open(region).map(Ok);
        let _turn = unless_overtaken(&self.shared, self.caller, patience, turn).await?;
        let opening = self.open_now(region, shareable);
        unless_overtaken(&self.shared, self.caller, OPEN_WAIT_MAX, opening).await
    }

    /// Servers of other regions are opened by their gateways.
    async fn turn_to_open(&self, region: &RegionId) -> Option<SemaphorePermit<'_>> {
        if *region == self.shared.config.region {
            Some(self.shared.turns.next().await)
        } else {
            None
        }
    }

    async fn open_now(
        &self,
        region: &RegionId,
        shareable: Option<Shareable>,
    ) -> Result<Opened, OpenError> {
        let who = (&self.startup, self.login.keys());
        Backend::open(&self.shared, region, who, &self.memory, shareable).await
    }

    /// Tells the client which settings of the new server are not those of the old one.
    fn tell_statuses(&mut self, statuses: &Statuses) {
        for (name, value) in statuses.iter() {
            if self.statuses.get(name) != Some(value) {
                messages::put_parameter_status(&mut self.client.outgoing, name, value);
                self.statuses.insert(name, value);
            }
        }
    }

    /// Cancel requests go to the server that works for the session now.
    pub fn tell_cancels(&mut self) {
        let other = self.at_other.as_ref().and_then(|region| self.others.get(region));
        let active = other.unwrap_or(&self.home);
        if let Some(key) = &active.key {
            self.cancellable.moved(&active.target, key);
        }
        self.record_servers();
    }
}
