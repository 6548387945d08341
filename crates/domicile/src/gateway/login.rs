//! How does a session that is known at one server log in at another?
//!
//! Servers ask their client for its password, and the gateway has none. But it passes on what both say
//! (SCRAM), and reads along: with the verifier that its region's PostgreSQL keeps of the client's
//! password it gets the client's key, which opens every region that keeps the same verifier. The key
//! is the session's and ends with it.

use domicile_pg::backend::{self, Authentication, tag};
use domicile_pg::frontend;
use domicile_pg::scram::{self, Keys, MECHANISM, Overheard, Verifier};

use super::backend::{Backend, OpenError};
use super::cut;
use super::roles::Roles;

/// How a session's client has logged in.
#[derive(Default)]
pub enum Login {
    /// Not yet, or without being asked for anything.
    #[default]
    Unknown,
    Overheard(Box<Overheard>),
    With(Box<Keys>),
    /// In a way that only the client itself can go again.
    Alone,
}

impl Login {
    /// The client said this in answer to what the server asked.
    pub fn client_says(&mut self, body: &[u8]) {
        if !matches!(self, Self::Alone) {
            self.overheard().client_says(body);
        }
    }

    /// The server asked this.
    pub fn server_says(&mut self, body: &[u8]) {
        match backend::authentication(body) {
            Ok(Authentication::SaslContinue) => {
                self.overheard().server_says(backend::sasl_message(body));
            }
            Ok(Authentication::Ok | Authentication::Sasl | Authentication::SaslFinal) => {}
            Ok(
                Authentication::CleartextPassword
                | Authentication::Md5Password { .. }
                | Authentication::Other(_),
            )
            | Err(_) => *self = Self::Alone,
        }
    }

    /// The server has let the client in, as `role`.
    pub async fn is_over(&mut self, roles: &Roles, role: &str) {
        let Self::Overheard(overheard) = self else { return };
        let verifier = roles.verifier(role, overheard).await;
        self.was_by(verifier.as_ref());
    }

    /// The client was let in by this verifier of its password; without one it was asked for none, or nobody knows.
    pub fn was_by(&mut self, verifier: Option<&Verifier>) {
        let Self::Overheard(overheard) = self else { return };
        let keys = verifier.and_then(|verifier| overheard.keys(verifier));
        *self = keys.map_or(Self::Alone, |keys| Self::With(keys.into()));
    }

    /// Returns whether other servers that let clients in like this one can be opened for this client.
    pub fn can_be_repeated(&self) -> bool {
        matches!(self, Self::Unknown | Self::With(_))
    }

    /// What opens other servers for this client.
    pub fn keys(&self) -> Option<&Keys> {
        match self {
            Self::With(keys) => Some(keys),
            Self::Unknown | Self::Overheard(_) | Self::Alone => None,
        }
    }

    fn overheard(&mut self) -> &mut Overheard {
        if !matches!(self, Self::Overheard(_)) {
            *self = Self::Overheard(Box::default());
        }
        match self {
            Self::Overheard(overheard) => overheard,
            Self::Unknown | Self::With(_) | Self::Alone => unreachable!("it was just set"),
        }
    }
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
