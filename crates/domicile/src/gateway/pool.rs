//! Which servers do clients share, and whose turn is it?
//!
//! Clients that log in alike (role, database and every other startup parameter) share a pool. Who has a turn may
//! have one server: one that is idle, or a new one. There are as many turns as servers, so nobody opens one too many,
//! and they are given in the order in which they were asked for.
//!
//! Those who come by another region's gateway share a pool of their own. A client keeps its turn here while its
//! transaction waits for one there: if both regions' clients had their turns of the same, they could wait for each other
//! for ever. Who has come from another region goes to no third one, so whoever has such a turn waits for nobody's.
//!
//! ```text
//! client ── turn ──> idle server, washed ──> transaction,   ──> idle again, turn given back
//!             │      or a new one            or session
//!             └ waits in order                   └ bound, broken off: closed with its client
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domicile_core::config::{PoolMode, Sharing};
use domicile_core::route::Caller;
use domicile_pg::frontend;
use domicile_pg::startup::Startup;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::roles::Ids;
use super::stand_in::{Known, Like};
use super::statements::Statements;
use super::statuses::Statuses;

/// How often it is looked for servers that nobody uses any more.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// PostgreSQL lets in so many of a pool at once. Where one is in, the others need not come to it.
const LOGINS_AT_ONCE: usize = 4;
/// Who takes long to say who it is holds up others for no longer.
const LOGIN_TURN_WAIT_MAX: Duration = Duration::from_secs(5);

/// All pools of a gateway. Cheap to clone; by default nobody shares anything.
#[derive(Clone, Debug, Default)]
pub struct Pools(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    terms: Sharing,
    by_login: Mutex<BTreeMap<Alike, Arc<Pool>>>,
    users: AtomicU64,
}

/// The startup parameters of clients that share, in the order in which they are sent.
pub type Login = Vec<(String, String)>;

/// What those who share have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Alike {
    login: Login,
    /// Whom their names mean, where PostgreSQL tells that.
    ids: Option<Ids>,
    caller: Caller,
}

/// How a pool is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Servers that wait for a client.
    pub idle: usize,
    /// Turns that are taken: servers that work for a client, or are opened for one.
    pub in_use: usize,
    /// Clients that wait for a turn.
    pub waiting: usize,
}

/// Servers for clients that log in alike.
#[derive(Debug)]
pub struct Pool {
    pub mode: PoolMode,
    servers_max: usize,
    turns: Arc<Semaphore>,
    logins: Arc<Semaphore>,
    waiting: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
    /// How its last client was let in that came to PostgreSQL itself.
    known: Mutex<Option<Arc<Known>>>,
    /// As whom its last one was, wherever the client had come in first.
    like: Mutex<Option<Arc<Like>>>,
}

/// The right to have one server of a pool; given back when this is dropped.
#[derive(Debug)]
pub struct Turn(
    #[expect(dead_code, reason = "what counts is that it is held")] OwnedSemaphorePermit,
);

/// The right to be let in by PostgreSQL itself, beside the servers that there may be; given back when this is dropped.
#[derive(Debug)]
#[expect(dead_code, reason = "what counts is that they are held")]
pub struct LoginTurn {
    pool: Arc<Pool>,
    /// None for who has waited long enough.
    permit: Option<OwnedSemaphorePermit>,
}

/// What is special about a server that clients share.
#[derive(Debug)]
pub struct Shareable {
    /// None for a server through which its client has logged in.
    pub turn: Option<Turn>,
    /// Its settings, as its last client knew them.
    pub statuses: Statuses,
    /// What is prepared there; `None` where its client prepares for itself until it leaves.
    pub prepared: Option<Prepared>,
}

/// What is prepared on a server whose clients come and go between transactions.
#[derive(Debug, Default)]
pub struct Prepared {
    pub statements: Statements,
    /// The unnamed statement is the one that its client has prepared.
    pub has_unnamed: bool,
    /// The open transaction has settings of its own, by which PostgreSQL reads what is prepared in it: others do not
    /// have those.
    pub reads_apart: bool,
}

impl Alike {
    fn new(startup: &Startup, caller: Caller, ids: Option<Ids>) -> Self {
        // In the order in which they came: of two with one name the last counts.
        Self { login: startup.parameters.clone(), ids, caller }
    }
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.idle += other.idle;
        self.in_use += other.in_use;
        self.waiting += other.waiting;
    }
}

impl Shareable {
    pub fn new(mode: PoolMode) -> Self {
        let prepared = match mode {
            PoolMode::Session => None,
            PoolMode::Transaction => Some(Prepared::default()),
        };
        Self { turn: None, statuses: Statuses::default(), prepared }
    }
}

/// A session, as its pool knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User(u64);

#[derive(Debug)]
pub struct Idle {
    pub server: Backend,
    pub last_user: User,
    since: Instant,
}

impl Pools {
    pub(super) fn new(sharing: Option<Sharing>) -> Self {
        let shared = |terms| {
            Arc::new(Shared { terms, by_login: Mutex::default(), users: AtomicU64::default() })
        };
        Self(sharing.map(shared))
    }

    /// Returns the pool of who has logged in like this; `None` where nobody shares.
    pub(super) fn join(
        &self,
        startup: &Startup,
        caller: Caller,
        ids: Option<Ids>,
    ) -> Option<Membership> {
        let shared = self.0.as_ref().filter(|_| self.are_joined_by(startup))?;
        let pool = shared.pool(Alike::new(startup, caller, ids));
        let user = User(shared.users.fetch_add(1, Ordering::Relaxed));
        Some(Membership { pool, user, is_let_in: false })
    }

    /// Waits for its turn to be let in by PostgreSQL, but not for ever; `None` where nobody shares.
    pub(super) async fn login_turn(
        &self,
        startup: &Startup,
        caller: Caller,
        ids: Ids,
    ) -> Option<LoginTurn> {
        let pool = self.0.as_ref()?.pool(Alike::new(startup, caller, Some(ids)));
        let permit = timeout(LOGIN_TURN_WAIT_MAX, pool.logins.clone().acquire_owned()).await;
        Some(LoginTurn { pool, permit: permit.ok().and_then(Result::ok) })
    }

    /// Returns whether a client that logs in like this may have a pool. Only its login shows whether it has one.
    pub(super) fn are_joined_by(&self, startup: &Startup) -> bool {
        self.0.is_some() && startup.get("replication").is_none()
    }

    /// Returns how PostgreSQL has let in somebody who has logged in like this.
    pub(super) fn known(&self, startup: &Startup, caller: Caller, ids: Ids) -> Option<Arc<Known>> {
        let alike = Alike::new(startup, caller, Some(ids));
        let pool = lock(&self.0.as_ref()?.by_login).get(&alike).cloned()?;
        pool.known()
    }

    /// Returns how the servers are used of those who log in like this.
    pub fn counts(&self) -> BTreeMap<Login, Counts> {
        let Some(shared) = &self.0 else { return BTreeMap::new() };
        let mut counts: BTreeMap<Login, Counts> = BTreeMap::new();
        for (alike, pool) in lock(&shared.by_login).iter() {
            counts.entry(alike.login.clone()).or_default().add(pool.counts());
        }
        counts
    }

    /// Returns how all of them together are used; `None` where nobody shares.
    pub(super) fn total(&self) -> Option<Counts> {
        let mut total = Counts::default();
        lock(&self.0.as_ref()?.by_login).values().for_each(|pool| total.add(pool.counts()));
        Some(total)
    }

    /// Closes servers that nobody uses any more, until `shutdown`; then all that are idle.
    pub(super) async fn sweep(&self, shutdown: &CancellationToken) {
        let Some(shared) = &self.0 else { return };
        let idle_max = Duration::from_millis(shared.terms.idle_max.0);
        while shutdown.run_until_cancelled(tokio::time::sleep(SWEEP_EVERY)).await.is_some() {
            let mut pools = lock(&shared.by_login);
            pools.retain(|_, pool| {
                pool.close_idle(idle_max);
                // Nobody is a member any more, and nobody can become one meanwhile.
                Arc::strong_count(pool) > 1 || pool.counts() != Counts::default()
            });
        }
        lock(&shared.by_login).values().for_each(|pool| pool.close_idle(Duration::ZERO));
    }
}

impl Shared {
    fn pool(&self, alike: Alike) -> Arc<Pool> {
        let new = || Arc::new(Pool::new(&self.terms));
        lock(&self.by_login).entry(alike).or_insert_with(new).clone()
    }
}

/// A session's part in a pool.
#[derive(Clone, Debug)]
pub struct Membership {
    pub pool: Arc<Pool>,
    pub user: User,
    /// By PostgreSQL of this region.
    pub is_let_in: bool,
}

impl Pool {
    fn new(terms: &Sharing) -> Self {
        Self {
            mode: terms.mode,
            servers_max: terms.servers_max,
            turns: Arc::new(Semaphore::new(terms.servers_max)),
            logins: Arc::new(Semaphore::new(LOGINS_AT_ONCE)),
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
            known: Mutex::default(),
            like: Mutex::default(),
        }
    }

    fn known(&self) -> Option<Arc<Known>> {
        lock(&self.known).clone()
    }

    /// Others who log in alike are let in like this.
    pub fn know(&self, known: Arc<Known>) {
        self.has_let_in(known.like.clone());
        *lock(&self.known) = Some(known);
    }

    /// Others who were let in by another region come in like this.
    pub fn has_let_in(&self, like: Arc<Like>) {
        *lock(&self.like) = Some(like);
    }

    pub fn like(&self) -> Option<Arc<Like>> {
        lock(&self.like).clone()
    }

    /// Waits for a turn. Whoever gives up has lost his place.
    pub async fn turn(&self) -> Turn {
        let waiting = Waiting::begin(&self.waiting);
        let turn = self.turns.clone().acquire_owned().await.expect("nobody closes it");
        drop(waiting);
        Turn(turn)
    }

    /// Takes an idle server: the one that the user had last, or else the one that was used last. Who takes it has a
    /// turn.
    pub fn take(&self, user: User) -> Option<Idle> {
        let mut idle = lock(&self.idle);
        let own = idle.iter().position(|idle| idle.last_user == user);
        match own {
            Some(at) => Some(idle.remove(at)),
            None => idle.pop(),
        }
    }

    /// A user has no need of a server any more, and it is as it should be.
    pub fn put(&self, mut server: Backend, user: User) {
        let mut idle = lock(&self.idle);
        let turn = server.shareable.as_mut().and_then(|shareable| shareable.turn.take());
        // Who has a turn has no server more than there may be; one that somebody has logged in by may be one more.
        if turn.is_some() || idle.len() + self.in_use() < self.servers_max {
            idle.push(Idle { server, last_user: user, since: Instant::now() });
        } else {
            close(server);
        }
        // Whoever waits for the turn finds the server.
        drop((idle, turn));
    }

    /// A user has a turn for a server of its own: an idle one goes in its place.
    pub fn replace_idle(&self) {
        if let Some(replaced) = lock(&self.idle).pop() {
            close(replaced.server);
        }
    }

    /// Closes idle servers that are more than there may be beside those in use.
    pub fn keep_to_limit(&self) {
        let mut idle = lock(&self.idle);
        let room = self.turns.available_permits();
        let surplus = idle.len().saturating_sub(room);
        idle.drain(..surplus).for_each(|surplus| close(surplus.server));
    }

    fn counts(&self) -> Counts {
        let idle = lock(&self.idle).len();
        Counts { idle, in_use: self.in_use(), waiting: self.waiting.load(Ordering::Relaxed) }
    }

    fn in_use(&self) -> usize {
        self.servers_max - self.turns.available_permits()
    }

    fn close_idle(&self, idle_max: Duration) {
        let mut idle = lock(&self.idle);
        let closed = idle.extract_if(.., |idle| {
            idle.server.look();
            idle.since.elapsed() >= idle_max || idle.server.link.has_ended()
        });
        closed.for_each(|closed| close(closed.server));
    }
}

/// Says goodbye to a server.
fn close(mut server: Backend) {
    frontend::put_terminate(&mut server.link.outgoing);
    tokio::spawn(async move { server.link.farewell().await });
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nothing that is done under these locks can be left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
