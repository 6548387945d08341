//! Which connection does a session have ready where it will go on?
//!
//! When everything moves to another region, every session needs a connection there at the same moment. Those that
//! are told before open it beside what they do: when a hand-over is announced, and when one waits for the end of it.

use std::sync::Arc;
use std::time::Duration;

use domicile_core::id::RegionId;
use domicile_core::route;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::backend::{Backend, OpenError, Opened};
use super::moving::{OPEN_WAIT_MAX, unless_overtaken};
use super::session::Session;
use super::sessions::{Doing, Kind, Readiness, Record, Sessions};
use super::turns::Turns;

/// For so long what was opened is kept when the hand-over does not come.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// How often it is looked how many are open.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// So many at once in another region, whose PostgreSQL has other work.
const AT_ONCE: usize = 16;

/// Tells a gateway's sessions where all will go on. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WarmUps {
    announced: watch::Sender<Option<Announced>>,
    pub(super) sessions: Sessions,
    turns: Turns,
}

/// A hand-over that is about to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    /// No two have the same.
    number: u64,
    to: RegionId,
}

/// What came of an announcement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WarmedUp {
    /// Sessions that have a connection ready.
    pub ready: usize,
    /// Sessions that will need one.
    pub wanted: usize,
}

impl Default for WarmUps {
    fn default() -> Self {
        Self {
            announced: watch::Sender::new(None),
            sessions: Sessions::default(),
            turns: Turns::of(AT_ONCE),
        }
    }
}

impl WarmUps {
    /// Has the sessions that go on in `to` when everything is handed over to it open a connection there, beside what they
    /// do.
    /// Returns when they have tried, at the latest after `within`.
    pub async fn warm_up(&self, to: &RegionId, within: Duration) -> WarmedUp {
        let until = Instant::now() + within;
        self.announce(to, within);
        loop {
            let said = self.at_work().map(|record| record.readiness());
            let said: Vec<Readiness> = said.filter(|readiness| readiness.is_wanted()).collect();
            if Instant::now() >= until || !said.iter().any(|readiness| readiness.is_waited_for()) {
                let ready = said.iter().filter(|readiness| **readiness == Readiness::Ready);
                return WarmedUp { ready: ready.count(), wanted: said.len() };
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn announce(&self, to: &RegionId, within: Duration) {
        for record in self.at_work() {
            record.is(Readiness::Unasked);
        }
        let mut number = 0;
        self.announced.send_modify(|announced| {
            number = announced.as_ref().map_or(0, |before| before.number) + 1;
            *announced = Some(Announced { number, to: to.clone() });
        });
        let announced = self.announced.clone();
        tokio::spawn(async move {
            sleep(within + KEPT_FOR).await;
            announced.send_if_modified(|now| {
                now.take_if(|announced| announced.number == number).is_some()
            });
        });
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Announced>> {
        self.announced.subscribe()
    }

    /// The sessions of clients that hear what they are told. Those that wait for something do not.
    fn at_work(&self) -> impl Iterator<Item = Arc<Record>> + use<> {
        let at_work = |record: &Arc<Record>| match record.doing() {
            Doing::Idle | Doing::IdleInTransaction | Doing::Active => {
                record.who.kind == Kind::Client
            }
            Doing::Login | Doing::Waiting | Doing::Paused => false,
        };
        self.sessions.present().into_iter().filter(at_work)
    }
}

/// A connection that is opened for a session beside what that does.
pub struct Ahead {
    region: RegionId,
    opening: AbortOnDropHandle<Result<Opened, OpenError>>,
}

impl Session {
    /// Something was announced, or is not announced any more.
    pub fn hear_announcement(&mut self) {
        let Some(Announced { to, .. }) = self.announced.borrow_and_update().clone() else {
            return self.forget_ahead();
        };
        if self.begun && self.moves_to(&to) {
            let turns = self.shared.config.warm_ups.turns.clone();
            self.open_ahead(&to, Some(turns));
        } else {
            self.recorder.record.is(Readiness::Needless);
        }
    }

    /// Uses the time for which the session waits for the end of a hand-over.
    pub fn hear_of_hand_over(&mut self) {
        let next = self.routes.borrow().next_of_whole.clone();
        if let Some(next) = next.filter(|next| self.moves_to(next)) {
            self.open_ahead(&next, None);
        }
    }

    /// Closes what was opened for a hand-over that does not come.
    pub fn forget_ahead(&mut self) {
        let awaited = |ahead: &Ahead| {
            let announced = self.announced.borrow().as_ref().map(|announced| announced.to.clone());
            let next = self.routes.borrow().next_of_whole.clone();
            [announced, next].contains(&Some(ahead.region.clone()))
        };
        if self.ahead.as_deref().is_some_and(|ahead| !awaited(ahead)) {
            self.ahead = None;
        }
    }

    /// Returns the connection that was opened ahead, if it leads to `region` and is as good as a new one.
    pub async fn take_ahead(&mut self, region: &RegionId) -> Option<Opened> {
        let ahead = self.ahead.take().filter(|ahead| ahead.region == *region)?;
        let opening = async { ahead.opening.await.unwrap_or(Err(OpenError::Closed)) };
        let opened = unless_overtaken(&self.shared, self.caller, OPEN_WAIT_MAX, opening).await;
        let told = |error: &OpenError| tracing::debug!(%region, %error, "not opened ahead");
        let (mut server, mut statuses) = opened.inspect_err(told).ok()?;
        server.look();
        server.hear_aside(&mut statuses).inspect_err(told).ok()?;
        let caught_up = timeout(OPEN_WAIT_MAX, server.catch_up(&self.memory, &mut statuses)).await;
        caught_up.unwrap_or(Err(OpenError::Slow)).inspect_err(told).ok()?;
        Some((server, statuses))
    }

    /// Does the session go on in `region` when everything belongs to that?
    fn moves_to(&self, region: &RegionId) -> bool {
        route::follows_owner(self.shared.config.mode, self.caller)
            && !self.reading.is_here()
            && self.home.region != *region
            && !self.memory.is_bound()
            && !self.shares_in(region)
            && self.login.can_be_repeated()
            && !self.shared.is_silent(region)
    }

    /// Opens a connection like the session's, unless there is one. In another region it waits for one of `turns`, if
    /// there is time for that.
    fn open_ahead(&mut self, region: &RegionId, turns: Option<Turns>) {
        let record = self.recorder.record.clone();
        if let Some(ahead) = self.ahead.as_deref().filter(|ahead| ahead.region == *region) {
            return record.is(ahead.readiness());
        }
        record.is(Readiness::Opening);
        let memory = self.memory.as_at(&self.memory.remembered());
        let (startup, keys) = (self.startup.clone(), self.login.keys().cloned());
        let (shared, to) = (self.shared.clone(), region.clone());
        let opening = tokio::spawn(async move {
            let is_here = to == shared.config.region;
            let _turn = match turns.as_ref().filter(|_| !is_here) {
                Some(turns) => Some(turns.next().await),
                None if is_here => Some(shared.turns.next().await),
                None => None,
            };
            let opening = Backend::open(&shared, &to, (&startup, keys.as_ref()), &memory, None);
            let opened = timeout(OPEN_WAIT_MAX, opening).await.unwrap_or(Err(OpenError::Slow));
            record.is(if opened.is_ok() { Readiness::Ready } else { Readiness::Failed });
            let (mut server, statuses) = opened?;
            server.leave(&memory);
            Ok((server, statuses))
        });
        let opening = AbortOnDropHandle::new(opening);
        self.ahead = Some(Box::new(Ahead { region: region.clone(), opening }));
    }
}

impl Ahead {
    /// Whether it came to anything shows when it is needed.
    fn readiness(&self) -> Readiness {
        if self.opening.is_finished() { Readiness::Ready } else { Readiness::Opening }
    }
}
