//! Who lets in a client in PostgreSQL's stead?
//!
//! Where clients share servers, a login at PostgreSQL is a process for nothing else. So once PostgreSQL has let in one
//! client of a pool, a stand-in does it with those that log in alike: it asks for the same password, by the verifier that
//! PostgreSQL keeps, and tells them of the same settings. To the session it is a server like others, which is gone
//! when the login is over.
//!
//! What could make PostgreSQL decide otherwise by now is asked at each login ([`Account`]); what only a login at
//! PostgreSQL would show, as new members of a role that `pg_hba.conf` names, counts at its next one, soon.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile_core::route::{self, Caller, Home};
use domicile_pg::backend::{self, BackendKeyData, TransactionStatus};
use domicile_pg::frontend::tag;
use domicile_pg::scram::{self, MECHANISM, NotLetIn, Verifier};
use domicile_pg::startup::Startup;
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::backend::Backend;
use super::cut::{self, Cutter, Piece};
use super::link::Link;
use super::login::Login;
use super::pool::Membership;
use super::refusals::{self, End};
use super::roles::Account;
use super::session::Session;
use super::statuses::Statuses;

/// After so long PostgreSQL lets in the next client of a pool itself.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// How long a client may take to say who it is, as with PostgreSQL.
const LOGIN_WAIT_MAX: Duration = Duration::from_secs(60);
/// What a client says in a login is shorter.
const BUFFER_BYTES: usize = 4096;

/// How PostgreSQL has let in a client of a pool.
#[derive(Debug)]
pub struct Known {
    /// As it was before.
    account: Account,
    /// By which it let it in; `None` where it asked for no password.
    asked_by: Option<Verifier>,
    /// What it said of its settings.
    statuses: Statuses,
    /// What it has shown where it is encrypted: a client that was shown the same could bind its login to it.
    certificate: Option<CertificateDer<'static>>,
    at: Instant,
}

/// Who lets a session's client in.
#[derive(Debug)]
pub enum LetInBy {
    StandIn,
    /// PostgreSQL. What decides that there is known where others may be let in like it.
    Server(Option<Box<Account>>),
}

/// Who lets in the client of `startup`, and the stand-in if that does.
pub async fn find(
    shared: &Shared,
    caller: Caller,
    client: &Link,
    startup: &Startup,
    reads_here: bool,
) -> (LetInBy, Option<Backend>) {
    let itself = |account: Option<Account>| (LetInBy::Server(account.map(Box::new)), None);
    let config = &shared.config;
    let here = Home::At(config.region.clone());
    let is_here =
        reads_here || route::home(config.mode, caller, &config.region, &shared.routes()) == here;
    if caller == Caller::Peer || !is_here || !shared.pools.are_joined_by(startup) {
        return itself(None);
    }
    let role = startup.get("user").unwrap_or_default();
    let database = startup.get("database").unwrap_or(role);
    let Some(account) = config.roles.account(role, database).await else { return itself(None) };
    let known = shared.pools.known(startup).filter(|known| {
        let may_bind = known.certificate.is_some() && known.certificate == client.certificate;
        known.account == account && known.at.elapsed() < KNOWN_FOR && !may_bind
    });
    let Some(known) = known else { return itself(Some(account)) };
    let (session, stand_in) = tokio::io::duplex(BUFFER_BYTES);
    let (role, mut link) = (role.to_owned(), Link::new(stand_in));
    tokio::spawn(async move {
        let letting_in = timeout(LOGIN_WAIT_MAX, let_in(&mut link, &known));
        match letting_in.await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                tracing::info!(role, "a client is not let in: {why}");
                if let End::Saying(report) = refusal(why, &role) {
                    report.put_error(&mut link.outgoing);
                }
            }
            Err(_) => tracing::info!(role, "a client does not say who it is"),
        }
        link.farewell().await;
    });
    let home = Backend::new(config.region.clone(), config.local.clone(), Link::new(session));
    (LetInBy::StandIn, Some(home))
}

/// Speaks with a client as PostgreSQL does, until it is ready for the first statement.
async fn let_in(client: &mut Link, known: &Known) -> Result<(), NotLetIn> {
    if let Some(verifier) = &known.asked_by {
        backend::put_sasl(&mut client.outgoing, MECHANISM);
        let initial = heard(client).await?;
        let (login, first) = scram::Server::begin(verifier, &initial, &random_text())?;
        backend::put_sasl_continue(&mut client.outgoing, &first);
        let response = heard(client).await?;
        let last = login.finish(&response)?;
        backend::put_sasl_final(&mut client.outgoing, &last);
    }
    let out = &mut client.outgoing;
    backend::put_authentication_ok(out);
    for (name, value) in known.statuses.iter() {
        backend::put_parameter_status(out, name, value);
    }
    backend::put_backend_key_data(out, &random_key());
    backend::put_ready_for_query(out, TransactionStatus::Idle);
    Ok(())
}

/// Returns the next message of a login.
async fn heard(client: &mut Link) -> Result<Bytes, NotLetIn> {
    loop {
        let piece = Cutter::default().next(&mut client.incoming);
        match piece.map_err(|_| NotLetIn::Malformed)? {
            Some(Piece::Whole { tag: tag::PASSWORD, raw }) => return Ok(cut::body(&raw)),
            Some(_) => return Err(NotLetIn::Malformed),
            None if client.has_ended() => return Err(NotLetIn::Malformed),
            None => client.moved().await,
        }
    }
}

fn refusal(why: NotLetIn, role: &str) -> End {
    match why {
        NotLetIn::WrongPassword => refusals::wrong_password(role),
        NotLetIn::Malformed | NotLetIn::NotOffered => refusals::protocol(&why),
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
            LetInBy::StandIn => {
                // It runs nothing that could be cancelled.
                self.cancellable.leave();
                self.home = Backend::nowhere(&self.home);
            }
            LetInBy::Server(Some(account)) => self.introduce_others(*account),
            LetInBy::Server(None) => {}
        }
    }

    fn introduce_others(&self, account: Account) {
        let Some(Membership { pool, .. }) = &self.membership else { return };
        let asked_by = match (&self.login, &account.verifier) {
            (Login::Unknown, _) => None,
            (Login::With(keys), Some(verifier)) if keys.are_of(verifier) => Some(verifier.clone()),
            _ => return,
        };
        pool.know(Arc::new(Known {
            account,
            asked_by,
            statuses: self.statuses.clone(),
            certificate: self.home.link.certificate.clone(),
            at: Instant::now(),
        }));
    }
}
