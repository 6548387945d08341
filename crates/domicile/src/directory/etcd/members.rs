//! Which member of etcd is asked, as whom, and what if it does not answer?
//!
//! All calls go to one member, until it fails one: then to the next in the list, and so around. A
//! read is tried at every member before it fails. A write is tried elsewhere only where there was
//! no connection, since etcd may carry out what it did not answer.
//!
//! A token is got when one is needed. It ends by itself, with its member's process, and with every
//! change of etcd's users: whatever it was, the call that etcd refused for it has done nothing, and
//! is made again, once, with a new one.

use std::fs;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domicile_core::config;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Response, Status};

use crate::directory::call::{self, CALL_DEADLINE, is_refusal, was_never_sent};
use crate::directory::client::DirectoryError;
use crate::proto::etcd::AuthenticateRequest;
use crate::proto::etcd::auth_client::AuthClient;

/// How long one of several members may take to answer what can be asked of another. A leader far away
/// is reached in less.
const MEMBER_DEADLINE: Duration = Duration::from_millis(700);

const PEM_CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// May a call be made again at another member?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    Always,
    IfNeverSent,
}

#[derive(Debug)]
pub(super) struct Members {
    members: Vec<Member>,
    /// Index of the one that is asked.
    current: AtomicUsize,
    /// All of them, for a person.
    addresses: String,
    login: Option<Login>,
}

#[derive(Debug)]
struct Member {
    address: String,
    channel: Channel,
}

struct Login {
    user: String,
    password: String,
    /// Held while one is got, so that it is got once.
    token: Mutex<Option<AsciiMetadataValue>>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Members {
    pub(super) fn new(config: &config::Etcd) -> Result<Self, DirectoryError> {
        let tls = config.tls.as_ref().map(Tls::read).transpose()?;
        let connect = |address: &String| {
            let endpoint = match &tls {
                None => call::endpoint("http", address)?,
                Some(tls) => tls.apply(call::endpoint("https", address)?)?,
            };
            Ok(Member { address: address.clone(), channel: endpoint.connect_lazy() })
        };
        let members = config.endpoints.iter().map(connect).collect::<Result<_, _>>()?;
        let login = config.login.as_ref().map(read_login).transpose()?;
        let addresses = config.endpoints.join(", ");
        Ok(Self { members, current: AtomicUsize::new(0), addresses, login })
    }

    pub(super) fn addresses(&self) -> &str {
        &self.addresses
    }

    /// Asks the next one from now on, if it is this one that is asked now.
    pub(super) fn avoid(&self, address: &str) {
        let current = self.current.load(Ordering::Relaxed);
        if self.members[current].address == address {
            let next = (current + 1) % self.members.len();
            // Somebody else may have gone on to the next one meanwhile: that is enough.
            let _ =
                self.current.compare_exchange(current, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Makes a call, which gets a connection and what etcd wants to know of us, and returns who
    /// answered what.
    pub(super) async fn ask<T, F>(
        &self,
        repeat: Repeat,
        call: impl Fn(Channel, MetadataMap) -> F,
    ) -> Result<(String, Response<T>), DirectoryError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + CALL_DEADLINE;
        let (mut left, mut may_log_in) = (self.members.len(), self.login.is_some());
        loop {
            let member = &self.members[self.current.load(Ordering::Relaxed)];
            let remaining = deadline.saturating_duration_since(Instant::now());
            let at_most = match repeat {
                Repeat::Always if self.members.len() > 1 => remaining.min(MEMBER_DEADLINE),
                Repeat::Always | Repeat::IfNeverSent => remaining,
            };
            let mut used = None;
            let answer = call::within(at_most, async {
                let mut metadata = MetadataMap::new();
                if let Some(login) = &self.login {
                    let token = login.token(member).await?;
                    metadata.insert("token", token.clone());
                    used = Some(token);
                }
                call(member.channel.clone(), metadata).await
            });
            let status = match answer.await {
                Ok(answer) => return Ok((member.address.clone(), answer)),
                Err(status) => status,
            };
            if may_log_in
                && is_token_over(&status)
                && let Some(login) = &self.login
            {
                may_log_in = false;
                login.forget(used).await;
                continue;
            }
            if !is_refusal(&status) {
                self.avoid(&member.address);
                left -= 1;
                let may_repeat = repeat == Repeat::Always || was_never_sent(&status);
                if may_repeat && left > 0 && Instant::now() < deadline {
                    continue;
                }
            }
            return Err(call::lift_error(&member.address, &status));
        }
    }
}

impl Login {
    async fn token(&self, member: &Member) -> Result<AsciiMetadataValue, Status> {
        let mut token = self.token.lock().await;
        if let Some(token) = &*token {
            return Ok(token.clone());
        }
        let (name, password) = (self.user.clone(), self.password.clone());
        let mut client = AuthClient::new(member.channel.clone());
        let answer = client.authenticate(AuthenticateRequest { name, password }).await?;
        let got = answer.into_inner().token.parse::<AsciiMetadataValue>();
        let got = got.map_err(|_| Status::internal("a token that cannot be sent back"))?;
        Ok(token.insert(got).clone())
    }

    /// Drops the token that was used, unless another call has got a new one already.
    async fn forget(&self, used: Option<AsciiMetadataValue>) {
        let mut token = self.token.lock().await;
        if *token == used {
            *token = None;
        }
    }
}

/// etcd's word for a token that has ended, or that is older than its users' last change.
fn is_token_over(status: &Status) -> bool {
    status.code() == Code::Unauthenticated || status.message().contains("auth store is old")
}

/// What the configuration's files hold.
struct Tls {
    ca: Certificate,
    identity: Option<Identity>,
}

impl Tls {
    fn read(tls: &config::Tls) -> Result<Self, DirectoryError> {
        let ca = read("directory.ca", &tls.ca)?;
        if !ca.windows(PEM_CERTIFICATE.len()).any(|part| part == PEM_CERTIFICATE) {
            let reason = format!("{} holds no certificate in PEM", tls.ca);
            return Err(DirectoryError::Setting { key: "directory.ca", reason });
        }
        let identity = |identity: &config::Identity| {
            Ok(Identity::from_pem(
                read("directory.certificate", &identity.certificate)?,
                read("directory.key", &identity.key)?,
            ))
        };
        let identity = tls.identity.as_ref().map(identity).transpose()?;
        Ok(Self { ca: Certificate::from_pem(ca), identity })
    }

    /// The authority by itself first: then what is wrong with the rest is not laid to it.
    fn apply(&self, endpoint: Endpoint) -> Result<Endpoint, DirectoryError> {
        let config = ClientTlsConfig::new().ca_certificate(self.ca.clone());
        let trusting = endpoint.clone().tls_config(config.clone());
        let trusting = trusting.map_err(|error| setting("directory.ca", &error))?;
        let Some(identity) = &self.identity else { return Ok(trusting) };
        let known = endpoint.tls_config(config.identity(identity.clone()));
        known.map_err(|error| setting("directory.certificate", &error))
    }
}

fn read_login(login: &config::Login) -> Result<Login, DirectoryError> {
    let password = read("directory.password_file", &login.password_file)?;
    let password =
        String::from_utf8(password).map_err(|error| setting("directory.password_file", &error))?;
    // Editors end a file with a newline.
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    Ok(Login { user: login.user.clone(), password, token: Mutex::new(None) })
}

fn read(key: &'static str, path: &str) -> Result<Vec<u8>, DirectoryError> {
    let wrong = |error| DirectoryError::Setting { key, reason: format!("read {path}: {error}") };
    fs::read(path).map_err(wrong)
}

fn setting(key: &'static str, error: &dyn std::error::Error) -> DirectoryError {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    DirectoryError::Setting { key, reason }
}
