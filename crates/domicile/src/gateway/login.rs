//! How does a session that is known at one server log in at another?
//!
//! Servers ask their client for its password, and the gateway has none. But it passes on what both say
//! (SCRAM), and reads along: with the verifier that its region's PostgreSQL keeps of the client's
//! password it gets the client's key, which opens every region that keeps the same verifier. The key
//! is the session's and ends with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use domicile_pg::backend::{self, Authentication, tag};
use domicile_pg::frontend;
use domicile_pg::scram::{self, Keys, MECHANISM, Overheard, Verifier};
use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;

use super::backend::{Backend, OpenError};
use super::cut;
use crate::postgres::session;

/// A login is not held up for longer; without its key a session stays where it is.
const READ_WAIT_MAX: Duration = Duration::from_secs(1);
/// So long nothing is asked of a PostgreSQL that tells no verifiers.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How a session's client has logged in.
#[derive(Default)]
pub enum Login {
    /// Not yet, or otherwise than with SCRAM.
    #[default]
    Unknown,
    Overheard(Box<Overheard>),
    With(Box<Keys>),
}

impl Login {
    /// The client said this in answer to what the server asked.
    pub fn client_says(&mut self, body: &[u8]) {
        self.overheard().client_says(body);
    }

    /// The server asked this.
    pub fn server_says(&mut self, body: &[u8]) {
        if backend::authentication(body) == Ok(Authentication::SaslContinue) {
            self.overheard().server_says(backend::sasl_message(body));
        }
    }

    /// The server has let the client in, as `role`.
    pub async fn is_over(&mut self, verifiers: &Verifiers, role: &str) {
        let Self::Overheard(overheard) = std::mem::take(self) else { return };
        if let Some(verifier) = verifiers.of(role, &overheard).await {
            *self = overheard.keys(&verifier).map_or(Self::Unknown, |keys| Self::With(keys.into()));
        }
    }

    /// What opens other servers for this client.
    pub fn keys(&self) -> Option<&Keys> {
        match self {
            Self::With(keys) => Some(keys),
            Self::Unknown | Self::Overheard(_) => None,
        }
    }

    fn overheard(&mut self) -> &mut Overheard {
        if !matches!(self, Self::Overheard(_)) {
            *self = Self::Overheard(Box::default());
        }
        match self {
            Self::Overheard(overheard) => overheard,
            Self::Unknown | Self::With(_) => unreachable!("it was just set"),
        }
    }
}

/// What the region's PostgreSQL keeps of passwords, of roles that have logged in here. Cheap to clone.
#[derive(Clone, Default)]
pub struct Verifiers {
    shared: Option<Arc<Shared>>,
}

struct Shared {
    /// How to ask PostgreSQL.
    postgres: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: BTreeMap<String, Verifier>,
    /// When PostgreSQL last refused to tell them.
    refused: Option<Instant>,
}

impl Verifiers {
    /// As the PostgreSQL of this connection string has them; the role may need the right to read
    /// `pg_authid`. By default there are none.
    pub fn of_postgres(connection: &str) -> Self {
        let shared = Shared { postgres: connection.to_owned(), state: Mutex::default() };
        Self { shared: Some(Arc::new(shared)) }
    }

    /// Returns the verifier by which `role` has logged in.
    async fn of(&self, role: &str, overheard: &Overheard) -> Option<Verifier> {
        let shared = self.shared.as_ref()?;
        let known = shared.state().known.get(role).filter(|known| overheard.is_by(known)).cloned();
        if known.is_some() {
            return known;
        }
        let refused = shared.state().refused;
        if refused.is_some_and(|at| at.elapsed() < ASK_AGAIN_AFTER) {
            return None;
        }
        let read = timeout(READ_WAIT_MAX, shared.read(role)).await;
        match read.unwrap_or_else(|_| Err(anyhow::anyhow!("PostgreSQL is silent"))) {
            Ok(read) => {
                let verifier: Verifier = read?.parse().ok()?;
                shared.state().known.insert(role.to_owned(), verifier.clone());
                Some(verifier)
            }
            Err(error) => {
                if is_forbidden(&error) {
                    shared.state().refused = Some(Instant::now());
                }
                tracing::warn!(
                    "sessions of role \"{role}\" reach no other region that asks for a password: {error:#}"
                );
                None
            }
        }
    }
}

impl Shared {
    async fn read(&self, role: &str) -> anyhow::Result<Option<String>> {
        let client = session::connect(&self.postgres, "domicile login").await?;
        let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
        let row = client.query_opt(sql, &[&role]).await.context("read its verifier")?;
        Ok(row.and_then(|row| row.get(0)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whatever panicked: what is in there was read whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Verifiers {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifiers").finish_non_exhaustive()
    }
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    let mut causes =
        error.chain().filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>());
    causes.any(|cause| cause.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE))
}

impl Backend {
    /// Says who the session is, until the server lets it in.
    pub async fn log_in(&mut self, keys: Option<&Keys>) -> Result<(), OpenError> {
        let mut login = None;
        loop {
            let (tag, raw) = self.next_message().await?;
            let body = cut::body(&raw);
            if tag != tag::AUTHENTICATION {
                self.listen(tag, &raw)?;
                continue;
            }
            let out = &mut self.link.outgoing;
            match backend::authentication(&body).map_err(|_| OpenError::Protocol)? {
                // Who began to ask has to say who it is, too.
                Authentication::Ok if login.is_some() => return Err(OpenError::Protocol),
                Authentication::Ok => return Ok(()),
                Authentication::Sasl if backend::offers(&body, MECHANISM.as_bytes()) => {
                    let keys = keys.ok_or(OpenError::Password)?;
                    let begun = scram::Login::new(keys, &uuid::Uuid::new_v4().simple().to_string());
                    frontend::put_sasl_initial_response(out, MECHANISM, &begun.first());
                    login = Some(begun);
                }
                Authentication::SaslContinue => {
                    let login = login.as_mut().ok_or(OpenError::Protocol)?;
                    let answer = login.answer(backend::sasl_message(&body))?;
                    frontend::put_sasl_response(out, &answer);
                }
                Authentication::SaslFinal => {
                    let login = login.take().ok_or(OpenError::Protocol)?;
                    login.finish(backend::sasl_message(&body))?;
                }
                Authentication::Sasl
                | Authentication::CleartextPassword
                | Authentication::Md5Password { .. }
                | Authentication::Other(_) => return Err(OpenError::Password),
            }
        }
    }
}
