//! Who lets in a client in PostgreSQL's stead?
//!
//! Where clients share servers, a login at PostgreSQL is a process for nothing else. So once PostgreSQL has let in one
//! client of a pool, a stand-in does it with those that log in alike: it asks for the same password, by the verifier that
//! PostgreSQL keeps, and tells them of the same settings. To the session it is a server like others, which is gone
//! when the login is over.
//!
//! What could make PostgreSQL decide otherwise by now is asked at each login ([`Account`]). If any of that is not as it
//! was, PostgreSQL lets in the next one itself. Where many come together only a few of them come to PostgreSQL: the others
//! wait for one of those to be in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_core::route::Caller;
use domicile_pg::backend::{self, BackendKeyData, TransactionStatus};
use domicile_pg::frontend::tag;
use domicile_pg::scram::{self, MECHANISM, MECHANISM_PLUS, NotLetIn, Verifier};
use domicile_pg::startup::Startup;
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::backend::Backend;
use super::cut::{self, Cutter, Piece};
use super::link::Link;
use super::login::Login;
use super::pool::LoginTurn;
use super::refusals::{self, End};
use super::roles::{Account, Ids, Unknown};
use super::session::Session;
use super::statuses::Statuses;

/// What was asked before a login is asked again behind one that took longer.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long a client may take to say who it is, as with PostgreSQL.
const LOGIN_WAIT_MAX: Duration = Duration::from_secs(60);
/// What a client says in a login is shorter.
const BUFFER_BYTES: usize = 4096;

/// As whom PostgreSQL has let in a client of a pool.
#[derive(Debug)]
pub struct Like {
    /// As it was before.
    account: Account,
    /// The verifier by which it let it in; `None` where it asked for no password.
    asked_by: Option<Verifier>,
}

impl Like {
    /// PostgreSQL has let in `login`; `None` where nobody else can show that it may log in so, too.
    pub fn new(account: Account, login: &Login) -> Option<Self> {
        let asked_by = match (login, &account.verifier) {
            (Login::Unknown, _) => None,
            (Login::With(keys), Some(verifier)) if keys.are_of(verifier) => Some(verifier.clone()),
            _ => return None,
        };
        Some(Self { account, asked_by })
    }

    /// Would it let in somebody else who was let in by another region by `login`, and whose account is `now`?
    pub fn lets_in(&self, now: &Account, login: &Login) -> bool {
        let has_shown = match (&self.asked_by, login) {
            (None, _) => true,
            (Some(verifier), Login::With(keys)) => keys.are_of(verifier),
            (Some(_), _) => false,
        };
        has_shown && self.account == *now
    }
}

/// How PostgreSQL has let in a client of a pool.
#[derive(Debug)]
pub struct Known {
    pub like: Arc<Like>,
    /// What it said of its settings.
    statuses: Statuses,
    /// What it has shown where it is encrypted: a client that was shown the same could bind its login to it.
    certificate: Option<CertificateDer<'static>>,
}

impl Known {
    /// The verifier by which it let it in; `None` where it asked for no password.
    pub fn asked_by(&self) -> Option<&Verifier> {
        self.like.asked_by.as_ref()
    }
}

/// Who lets a session's client in.
#[derive(Debug)]
pub enum LetInBy {
    StandIn(Arc<Known>),
    /// PostgreSQL; maybe as one like whom others are let in.
    Server(Option<Box<First>>),
}

/// One whom PostgreSQL lets in itself.
#[derive(Debug)]
pub struct First {
    /// What decides that there.
    account: Account,
    /// Others come when it is in, and known.
    turn: Option<LoginTurn>,
}

impl LetInBy {
    /// Whom the names of the login mean, as far as that was asked.
    pub fn ids(&self) -> Option<Ids> {
        match self {
            Self::StandIn(known) => Some(known.like.account.ids),
            Self::Server(first) => first.as_ref().map(|first| first.account.ids),
        }
    }

    pub fn is_stand_in(&self) -> bool {
        matches!(self, Self::StandIn(_))
    }
}

/// Why a client is not let in.
enum Why {
    NotLetIn(NotLetIn),
    /// It has gone.
    Gone,
    /// It may not log in any more, or otherwise.
    Changed,
}

impl From<NotLetIn> for Why {
    fn from(why: NotLetIn) -> Self {
        Self::NotLetIn(why)
    }
}

/// Returns what decides at this region's PostgreSQL whether and how such a login succeeds.
pub async fn account(shared: &Shared, startup: &Startup) -> Result<Option<Account>, Unknown> {
    let role = startup.get("user").unwrap_or_default();
    shared.config.roles.account(role, startup.database()).await
}

/// Who lets in the client of `startup` in this region, and the stand-in if that does.
pub async fn find(
    shared: &Shared,
    caller: Caller,
    client: &Link,
    startup: &Startup,
) -> (LetInBy, Option<Backend>) {
    let itself = |first: Option<First>| (LetInBy::Server(first.map(Box::new)), None);
    if !shared.pools.are_joined_by(startup) {
        return itself(None);
    }
    let asked_at = Instant::now();
    let Ok(Some(account)) = account(shared, startup).await else { return itself(None) };
    let as_now = || {
        let known = shared.pools.known(startup, caller, account.ids);
        known.filter(|known| known.like.account == account)
    };
    let (mut known, mut turn) = (as_now(), None);
    if known.is_none() {
        turn = shared.pools.login_turn(startup, caller, account.ids).await;
        known = as_now();
    }
    let may_bind =
        |known: &Known| known.certificate.is_some() && known.certificate == client.certificate;
    let Some(known) = known.filter(|known| !may_bind(known)) else {
        return itself(Some(First { account, turn }));
    };
    let (session, stand_in) = tokio::io::duplex(BUFFER_BYTES);
    let mut login = StandIn {
        client: Link::new(stand_in),
        known: known.clone(),
        shared: shared.clone(),
        startup: startup.clone(),
        asked_at,
    };
    tokio::spawn(async move {
        let role = login.startup.get("user").unwrap_or_default().to_owned();
        let refused = match timeout(LOGIN_WAIT_MAX, login.let_in()).await {
            Ok(Ok(())) | Ok(Err(Why::Gone)) | Err(_) => None,
            Ok(Err(Why::NotLetIn(why))) => {
                tracing::info!(role, "a client is not let in: {why}");
                Some(refusals::not_let_in(why, &role))
            }
            Ok(Err(Why::Changed)) => Some(refusals::role_changed(&role)),
        };
        if let Some(End::Saying(report)) = refused {
            report.put_error(&mut login.client.outgoing);
        }
        login.client.farewell().await;
    });
    let mut link = Link::new(session);
    link.certificate = known.certificate.clone();
    let config = &shared.config;
    let home = Backend::new(config.region.clone(), config.local.clone(), link);
    (LetInBy::StandIn(known), Some(home))
}

/// The other end of a session's way to its server, during a login.
struct StandIn {
    client: Link,
    known: Arc<Known>,
    shared: Shared,
    startup: Startup,
    /// When it was asked what could have changed.
    asked_at: Instant,
}

impl StandIn {
    /// Speaks with a client as PostgreSQL does, until it is ready for the first statement.
    async fn let_in(&mut self) -> Result<(), Why> {
        let known = self.known.clone();
        if let Some(verifier) = known.asked_by() {
            // As PostgreSQL offers it: who passes that on knows for whom it is.
            let offered = match known.certificate {
                Some(_) => &[MECHANISM_PLUS, MECHANISM][..],
                None => &[MECHANISM],
            };
            backend::put_sasl(&mut self.client.outgoing, offered);
            let initial = self.heard().await?;
            let (login, first) = scram::Server::begin(verifier, &initial, &random_text())?;
            backend::put_sasl_continue(&mut self.client.outgoing, &first);
            let response = self.heard().await?;
            let last = login.finish(&response)?;
            backend::put_sasl_final(&mut self.client.outgoing, &last);
        }
        if self.asked_at.elapsed() > ASKED_AGAIN_AFTER {
            let now = account(&self.shared, &self.startup).await;
            // Where nobody can say, what was said before counts.
            if now.is_ok_and(|now| now.as_ref() != Some(&known.like.account)) {
                return Err(Why::Changed);
            }
        }
        let out = &mut self.client.outgoing;
        backend::put_authentication_ok(out);
        for (name, value) in known.statuses.iter() {
            backend::put_parameter_status(out, name, value);
        }
        backend::put_backend_key_data(out, &random_key());
        backend::put_ready_for_query(out, TransactionStatus::Idle);
        Ok(())
    }

    /// Returns the next message of a login.
    async fn heard(&mut self) -> Result<Bytes, Why> {
        loop {
            let piece = Cutter::default().next(&mut self.client.incoming);
            match piece.map_err(|_| NotLetIn::Malformed)? {
                Some(Piece::Whole { tag: tag::PASSWORD, raw }) => return Ok(cut::body(&raw)),
                Some(_) => return Err(NotLetIn::Malformed.into()),
                None if self.client.has_ended() => return Err(Why::Gone),
                None => self.client.moved().await,
            }
        }
    }
}

fn random_text() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// By which a client asks to be cancelled.
fn random_key() -> BackendKeyData {
    let random = uuid::Uuid::new_v4();
    let (bytes, (pid, ..)) = (random.as_bytes(), random.as_fields());
    // The last ones of a version 4 are nothing but random. Processes of PostgreSQL have numbers above zero.
    BackendKeyData { pid: pid & 0x7fff_ffff, key: Bytes::copy_from_slice(&bytes[12..]) }
}

impl Session {
    /// The client is let in, and has a pool or none: lets others in like it, or leaves the stand-in.
    pub fn is_let_in(&mut self) {
        match std::mem::replace(&mut self.let_in_by, LetInBy::Server(None)) {
            LetInBy::StandIn(_) => {
                // It runs nothing that could be cancelled.
                self.cancellable.leave();
                self.home = Backend::nowhere(&self.home);
            }
            LetInBy::Server(Some(first)) => self.introduce_others(*first),
            LetInBy::Server(None) => {}
        }
    }

    fn introduce_others(&self, First { account, turn }: First) {
        // Another region's PostgreSQL says nothing of this one's.
        let pool = self.membership.as_ref().filter(|it| it.is_let_in).map(|it| &it.pool);
        let Some(pool) = pool else { return };
        let Some(like) = Like::new(account, &self.login) else { return };
        pool.know(Arc::new(Known {
            like: Arc::new(like),
            statuses: self.statuses.clone(),
            certificate: self.home.link.certificate.clone(),
        }));
        drop(turn);
    }
}
