//! When does a session have a server of those that it shares with others, and how does it leave it behind?
//!
//! It has one while its transaction lasts, or from its first statement to its end. What is left of a session between
//! transactions is its settings and its prepared statements, which [`memory`](super::memory) brings along; who holds
//! anything else keeps his server. No server passes from one client to another unwashed: nothing of the second reaches
//! it before it has said that everything of the first is gone, and one that cannot say so is closed.

use domicile_core::config::PoolMode;
use domicile_core::id::RegionId;
use domicile_core::route::Caller;
use futures_util::FutureExt as _;
use tokio::time::{sleep, timeout};

use super::backend::{Backend, OpenError, Opened};
use super::link::Link;
use super::memory::Memory;
use super::moving::OPEN_WAIT_MAX;
use super::pool::{Idle, Membership, Pool, Shareable, Turn};
use super::refusals::{self, End};
use super::session::Session;
use super::setting::ours::TOKEN;
use super::stand_in::{self, Like};
use super::statuses::Statuses;

/// What is left of a session that is over goes.
pub const DISCARD: &[u8] = b"DISCARD ALL";
/// All that `DISCARD ALL` does, except to forget prepared statements and plans, and as one transaction.
pub const WASH: &[u8] =
    b"CLOSE ALL;SET SESSION AUTHORIZATION DEFAULT;RESET ROLE;RESET ALL;UNLISTEN *;\
    SELECT pg_catalog.pg_advisory_unlock_all();DISCARD TEMP;DISCARD SEQUENCES";

/// Why there is no turn.
enum NoTurn {
    Late,
    Cancelled,
    Stopping,
}

impl Session {
    /// The session is let in: from now on it may share servers of this region.
    pub async fn join_pool(&mut self) {
        if !self.login.can_be_repeated() || !self.shared.pools.are_joined_by(&self.startup) {
            return;
        }
        let ids = match self.let_in_by.ids() {
            Some(ids) => Some(ids),
            // It was let in elsewhere, or nobody could say before.
            None => {
                let account = stand_in::account(&self.shared, &self.startup).await;
                account.ok().flatten().map(|account| account.ids)
            }
        };
        self.membership = self.shared.pools.join(&self.startup, self.caller, ids);
        self.share_home();
    }

    /// The server at home has let the session in. If it is one of this region others may have it, too.
    pub fn share_home(&mut self) {
        if self.home.region != self.shared.config.region {
            return;
        }
        let Some(membership) = &mut self.membership else { return };
        membership.is_let_in = true;
        let mode = membership.pool.mode;
        self.home.shareable.get_or_insert_with(|| Shareable::new(mode).into());
    }

    /// Returns whether the session's servers of `region` are those that it shares.
    pub fn shares_in(&self, region: &RegionId) -> bool {
        *region == self.shared.config.region && self.membership.is_some()
    }

    /// Returns whether the session's home is one of many that its transactions may be at.
    pub fn shares_transactions(&self) -> bool {
        let pool = self.membership.as_ref().map(|membership| membership.pool.mode);
        pool == Some(PoolMode::Transaction) && self.shares_in(&self.home.region)
    }

    /// Returns whether the session has left its server to others and has no other one yet.
    pub fn has_none(&self) -> bool {
        self.membership.is_some() && self.home.shareable.is_none()
    }

    /// Gives the server back when nothing of the session needs it.
    pub fn give_back(&mut self) {
        let Some(Membership { pool, .. }) = &self.membership else { return };
        let keeps = match pool.mode {
            // Until it asks for something, it has only logged in.
            PoolMode::Session => self.home.has_turn(),
            PoolMode::Transaction => self.memory.is_bound(),
        };
        if !keeps {
            self.leave_to_others();
        }
    }

    /// The session is over: others have its server, where nothing is left of it that they would find.
    pub fn bequeath(&mut self) {
        let Some(Membership { pool, .. }) = &self.membership else { return };
        if pool.mode == PoolMode::Session || !self.memory.is_bound() {
            self.leave_to_others();
        }
    }

    /// Nothing happens where the server is in the middle of something.
    fn leave_to_others(&mut self) {
        let Some(Membership { pool, user, .. }) = &self.membership else { return };
        let is_quiet = self.track.is_idle() && !self.client_cutter.is_inside();
        let is_done = self.begun && is_quiet && self.attempt.is_none() && !self.leaving;
        let is_here = self.at_other.is_none() && self.home.shareable.is_some();
        if !is_done || !is_here || !self.home.is_at_rest() {
            return;
        }
        // A cancel request that is on its way must not reach the next one.
        if !self.cancellable.leave() {
            return;
        }
        let nowhere = Backend::nowhere(&self.home);
        let mut server = std::mem::replace(&mut self.home, nowhere);
        server.leave(&self.memory);
        if let Some(shareable) = &mut server.shareable {
            if let Some(prepared) = &mut shareable.prepared {
                prepared.has_unnamed = false;
            }
            shareable.statuses = self.statuses.clone();
            shareable.statuses.remove(TOKEN.as_bytes());
        }
        pool.put(server, *user);
        self.record_servers();
    }

    /// Waits for a turn, where the session needs one and has none. Returns whether it may go on; if not, the client has
    /// heard why.
    pub async fn await_turn(&mut self, tag: u8, whole: bool) -> Result<bool, End> {
        if self.membership.is_none() || self.home.has_turn() || self.goes_elsewhere() {
            return Ok(true);
        }
        let report = match Box::pin(self.turn()).await {
            Ok(turn) => {
                match (&mut self.home.shareable, &self.membership) {
                    (Some(shareable), Some(Membership { pool, .. })) => {
                        shareable.turn = turn;
                        pool.replace_idle();
                    }
                    _ => self.turn = turn,
                }
                return Ok(true);
            }
            Err(NoTurn::Stopping) if self.caller == Caller::Client => {
                return Err(refusals::shutting_down());
            }
            // Its own gateway goes on, and may know of another place by then.
            Err(NoTurn::Stopping) => refusals::no_server_now(&self.shared.config.region),
            Err(NoTurn::Late) => refusals::no_server_free(self.shared.config.park_budget),
            Err(NoTurn::Cancelled) => refusals::cancelled(),
        };
        // The rest of a large message is not here yet.
        if !whole {
            return Err(refusals::ended_by(report));
        }
        self.refuse(tag, &report);
        Ok(false)
    }

    /// Gets a server of this region that looks like the session's: an idle one, or a new one.
    pub async fn take_shared(&mut self) -> Result<(Backend, Statuses), OpenError> {
        // The server that it had may have died under it.
        let left = self.home.shareable.as_mut().and_then(|shareable| shareable.turn.take());
        let turn = match self.turn.take().or(left) {
            Some(turn) => Some(turn),
            None => self.turn().await.map_err(|_| OpenError::Busy)?,
        };
        let taken = match self.take_idle().await {
            Some(revived) => Ok(revived),
            None => self.open_shared().await,
        };
        match taken {
            Ok((mut server, statuses)) => {
                if let Some(shareable) = &mut server.shareable {
                    shareable.turn = turn;
                }
                Ok((server, statuses))
            }
            // Whoever tries again need not wait for it again.
            Err(error) => {
                self.turn = turn;
                Err(error)
            }
        }
    }

    /// Gets an idle server that is as good as a new one. Those that are not are closed.
    async fn take_idle(&self) -> Option<(Backend, Statuses)> {
        let Membership { pool, user, is_let_in } = self.membership.as_ref()?;
        if !is_let_in && !self.would_be_let_in(pool).await {
            return None;
        }
        while let Some(Idle { mut server, last_user, .. }) = pool.take(*user) {
            let only_reads = self.is_only_to_read();
            let reviving = server.revive(&self.memory, last_user == *user, only_reads);
            match timeout(OPEN_WAIT_MAX, reviving).await {
                Ok(Ok(statuses)) => return Some((server, statuses)),
                // Where it is for the session's settings, the others would say the same.
                Ok(Err(OpenError::Refused(why))) => {
                    tracing::debug!("a shared server is closed: {why}");
                    return None;
                }
                Ok(Err(error)) => tracing::debug!(%error, "a shared server was gone"),
                Err(_) => tracing::debug!("a shared server does not answer"),
            }
        }
        None
    }

    /// Who was let in by another region only is a client of this one's servers once they would let it in, too. Where
    /// everybody comes home at the same moment PostgreSQL has not to say so of each.
    async fn would_be_let_in(&self, pool: &Pool) -> bool {
        let Some(like) = pool.like() else { return false };
        let now = stand_in::account(&self.shared, &self.startup).await;
        now.is_ok_and(|now| now.is_some_and(|now| like.lets_in(&now, &self.login)))
    }

    /// Logs in at this region's server, for itself and those who have it later.
    async fn open_shared(&self) -> Result<Opened, OpenError> {
        let here = &self.shared.config.region;
        let Some(Membership { pool, is_let_in, .. }) = &self.membership else {
            return self.open(here, None).await;
        };
        // There may be idle ones that it was not given.
        pool.keep_to_limit();
        let account = match is_let_in {
            true => None,
            false => stand_in::account(&self.shared, &self.startup).await.ok().flatten(),
        };
        let opened = self.open(here, Some(Shareable::new(pool.mode))).await?;
        if let Some(like) = account.and_then(|account| Like::new(account, &self.login)) {
            pool.has_let_in(like.into());
        }
        Ok(opened)
    }

    /// Waits for a turn; `None` where the session does not share.
    async fn turn(&mut self) -> Result<Option<Turn>, NoTurn> {
        let Self { membership, client, cancellable, shared, recorder, .. } = self;
        let Some(Membership { pool, .. }) = membership else { return Ok(None) };
        let mut late = std::pin::pin!(sleep(shared.config.park_budget));
        let mut turn = std::pin::pin!(pool.turn());
        if let Some(turn) = turn.as_mut().now_or_never() {
            return Ok(Some(turn));
        }
        recorder.waits();
        loop {
            tokio::select! {
                biased;
                turn = &mut turn => return Ok(Some(turn)),
                () = shared.shutdown.cancelled() => return Err(NoTurn::Stopping),
                () = cancellable.called() => return Err(NoTurn::Cancelled),
                () = &mut late => return Err(NoTurn::Late),
                // Answers to what came before are on their way still.
                () = client.moved() => {}
            }
        }
    }
}

impl Backend {
    /// Returns whether its clients' statements have names of the gateway's.
    pub fn prepares_for_many(&self) -> bool {
        self.shareable.as_ref().is_some_and(|shareable| shareable.prepared.is_some())
    }

    /// Returns whether a client holds this server by a turn.
    fn has_turn(&self) -> bool {
        self.shareable.as_ref().is_some_and(|shareable| shareable.turn.is_some())
    }

    /// Stands where a session has no server.
    pub fn nowhere(home: &Self) -> Self {
        Self::new(home.region.clone(), home.target.clone(), Link::closed())
    }

    /// Makes of a server that lay idle one for the session that `memory` describes. Returns its settings.
    async fn revive(
        &mut self,
        memory: &Memory,
        is_own: bool,
        only_reads: bool,
    ) -> Result<Statuses, OpenError> {
        self.look();
        let known =
            self.shareable.as_mut().map(|shareable| std::mem::take(&mut shareable.statuses));
        let mut statuses = known.unwrap_or_default();
        if is_own && self.is_as_left(memory) {
            self.hear_aside(&mut statuses)?;
            self.catch_up(memory, &mut statuses).await?;
        } else {
            self.wash(memory, &mut statuses, only_reads).await?;
        }
        Ok(statuses)
    }
}
