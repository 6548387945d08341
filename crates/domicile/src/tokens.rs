//! Who has written the token that a session is given?
//!
//! A gateway of this cluster, which signs what it writes (HMAC-SHA-256) with a secret that all of them know:
//!
//! ```text
//! 2.<base64url: signature, 32 bytes; what is signed: 1.eu-1@0/16B3748.shop>
//! ```
//!
//! So it is with the token of a transaction, which begins otherwise. How it begins is signed, too: neither is ever taken for the
//! other.
//!
//! An agent that finds no secret in the directory makes one, by compare-and-set, so that there is one. It is read there and
//! kept in memory: an agent that has not heard the directory since it started signs nothing and believes nothing.
//!
//! **Invariant:** nothing shows the secret. What holds it does not print it, and nobody logs the document.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use domicile_core::freshness::{Token, TokenError};
use domicile_core::id::Origin;
use domicile_core::lsn::{Frontier, Lsn};
use domicile_core::outcome;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::complain::Complaint;
use crate::directory::documents::{TOKEN_SECRET_KEY, json};
use crate::directory::{Client, View, Written};

/// Of the form of a token that is signed.
const VERSION: &str = "2.";
/// The same of a transaction's.
const OF_TRANSACTION: &str = "t1.";
/// How tokens began that were not.
const UNSIGNED: &str = "1.";
const SECRET_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 32;
/// After the directory has not taken the secret.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why a token is not taken.
#[derive(Debug, Error)]
pub enum Refused {
    #[error(
        "this token is not signed, as older gateways wrote them: ask for a new one with \"SHOW domicile.token\""
    )]
    Unsigned,
    #[error("this token was not written by a gateway of this cluster")]
    Forged,
    #[error("with what tokens are signed is not known here: the directory was not heard yet")]
    NoSecret,
    #[error(transparent)]
    Unread(#[from] TokenError),
    #[error(transparent)]
    UnreadTransaction(#[from] outcome::TokenError),
}

/// Signs tokens, and knows which are signed. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    cluster: Arc<str>,
    secret: watch::Receiver<Option<Secret>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Secret([u8; SECRET_BYTES]);

/// As it stands in the directory.
#[derive(Serialize, Deserialize)]
struct SecretDocument {
    secret: String,
}

impl Tokens {
    /// Those of `cluster`, with the secret that its directory has, or is given now.
    pub fn of_directory(cluster: &str, directory: &Client, shutdown: &CancellationToken) -> Self {
        let (known, secret) = watch::channel(None);
        let views = directory.follow(TOKEN_SECRET_KEY, shutdown.clone());
        let keeper = Keeper { directory: directory.clone(), views, known };
        let stopped = shutdown.clone().cancelled_owned();
        tokio::spawn(async move {
            tokio::select! {
                () = keeper.run() => {}
                () = stopped => {}
            }
        });
        Self { cluster: cluster.into(), secret }
    }

    /// Those of `cluster`, with the secret that its directory has now, for who does not stay.
    pub async fn read_from(cluster: &str, directory: &Client) -> anyhow::Result<Self> {
        let document = directory.get(TOKEN_SECRET_KEY).await?;
        let secret = document.map(|document| lift(&document.value)).transpose()?;
        Ok(Self { cluster: cluster.into(), secret: watch::channel(secret).1 })
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Returns the token of a session that has seen this.
    pub fn write(&self, shown: Frontier) -> Result<String, Refused> {
        let token = Token { cluster: self.cluster.to_string(), shown };
        self.sign(VERSION, b"", token.to_string())
    }

    /// Returns the token of a transaction that runs at `origin` and has not committed `after` this place.
    pub fn write_transaction(
        &self,
        origin: Origin,
        xid: u64,
        after: Lsn,
    ) -> Result<String, Refused> {
        let token = outcome::Token { cluster: self.cluster.to_string(), origin, xid, after };
        self.sign(OF_TRANSACTION, OF_TRANSACTION.as_bytes(), token.to_string())
    }

    /// Returns of which transaction this token is.
    pub fn read_transaction(&self, text: &str) -> Result<outcome::Token, Refused> {
        let signed = text.strip_prefix(OF_TRANSACTION);
        let signed = signed.and_then(|signed| BASE64.decode(signed).ok());
        let signed = signed.ok_or(outcome::TokenError::Malformed)?;
        let token = self.signed(OF_TRANSACTION.as_bytes(), &signed)?;
        let token = std::str::from_utf8(token.ok_or(outcome::TokenError::Malformed)?);
        let token = token.map_err(|_| outcome::TokenError::Malformed)?;
        Ok(outcome::Token::read(token, &self.cluster)?)
    }

    /// Returns what a session has seen that has this token.
    pub fn read(&self, text: &str) -> Result<Frontier, Refused> {
        if text.starts_with(UNSIGNED) {
            return Err(Refused::Unsigned);
        }
        let signed = text.strip_prefix(VERSION).ok_or(TokenError::Malformed)?;
        let signed = BASE64.decode(signed).map_err(|_| TokenError::Malformed)?;
        let token = self.signed(b"", &signed)?.ok_or(TokenError::Malformed)?;
        let token = std::str::from_utf8(token).map_err(|_| TokenError::Malformed)?;
        Ok(Token::read(token, &self.cluster)?.shown)
    }

    /// Signs `token`, of a kind that also stands before it where it is signed.
    fn sign(&self, version: &str, kind: &[u8], token: String) -> Result<String, Refused> {
        let signature = self.mac(kind, token.as_bytes())?.finalize().into_bytes();
        let signed = [signature.as_slice(), token.as_bytes()].concat();
        Ok(format!("{version}{}", BASE64.encode(signed)))
    }

    /// Returns what was signed so; `None` where there is not even a signature.
    fn signed<'a>(&self, kind: &[u8], signed: &'a [u8]) -> Result<Option<&'a [u8]>, Refused> {
        let Some((signature, token)) = signed.split_at_checked(SIGNATURE_BYTES) else {
            return Ok(None);
        };
        // In a time that says nothing of where they differ.
        self.mac(kind, token)?.verify_slice(signature).map_err(|_| Refused::Forged)?;
        Ok(Some(token))
    }

    fn mac(&self, kind: &[u8], token: &[u8]) -> Result<Hmac<Sha256>, Refused> {
        let secret = self.secret.borrow();
        let Secret(key) = secret.as_ref().ok_or(Refused::NoSecret)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
        mac.update(kind);
        mac.update(token);
        Ok(mac)
    }
}

impl fmt::Debug for Tokens {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// Sees to it that there is a secret, and that it is known here.
struct Keeper {
    directory: Client,
    views: watch::Receiver<Arc<View>>,
    known: watch::Sender<Option<Secret>>,
}

impl Keeper {
    async fn run(mut self) {
        let mut complaint = Complaint::default();
        loop {
            let view = self.views.borrow_and_update().clone();
            match view.documents.get(TOKEN_SECRET_KEY).map(|(value, _)| lift(value)) {
                Some(Ok(secret)) => {
                    complaint.settled();
                    self.known.send_replace(Some(secret));
                }
                Some(Err(error)) => complaint.warn("no token can be signed", &error),
                // What is known goes on to count where the directory has lost it.
                None if view.connected && self.known.borrow().is_none() => {
                    if let Err(error) = self.make().await {
                        complaint.info("no token can be signed yet", &error);
                        tokio::time::sleep(AGAIN_AFTER).await;
                        continue;
                    }
                }
                None => {}
            }
            if self.views.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whoever comes first makes it; all hear it from the directory.
    async fn make(&self) -> anyhow::Result<()> {
        let written = self.directory.write(TOKEN_SECRET_KEY, 0, Some(lower(&random()?))).await?;
        match written {
            Written::At(_) => {
                tracing::info!("this agent made the secret with which tokens are signed")
            }
            Written::Conflict(_) => {}
        }
        Ok(())
    }
}

fn random() -> anyhow::Result<Secret> {
    let mut bytes = [0; SECRET_BYTES];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let filled = provider.secure_random.fill(&mut bytes);
    filled.map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    Ok(Secret(bytes))
}

fn lower(Secret(bytes): &Secret) -> Bytes {
    json(&SecretDocument { secret: BASE64.encode(bytes) })
}

fn lift(value: &[u8]) -> anyhow::Result<Secret> {
    let read = || {
        let document: SecretDocument = serde_json::from_slice(value).ok()?;
        let bytes = BASE64.decode(document.secret).ok()?;
        Some(Secret(bytes.try_into().ok()?))
    };
    // Without what stands there.
    read().context("the directory's secret for tokens is unreadable")
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Those of a cluster whose secret is known.
    pub fn tokens(cluster: &str, secret: Option<u8>) -> Tokens {
        let secret = secret.map(|byte| Secret([byte; SECRET_BYTES]));
        Tokens { cluster: cluster.into(), secret: watch::channel(secret).1 }
    }

    fn seen() -> Frontier {
        let place = ("eu-1".parse().unwrap(), "0/16B3748".parse().unwrap());
        [place].into_iter().collect()
    }

    #[test]
    fn what_one_gateway_has_signed_another_one_believes() {
        let written = tokens("shop", Some(7)).write(seen()).unwrap();
        assert!(!written.contains("eu"), "{written}");
        assert_eq!(tokens("shop", Some(7)).read(&written).unwrap(), seen());
    }

    #[test]
    fn what_nobody_has_signed_is_not_believed() {
        let ours = tokens("shop", Some(7));
        let refused = |text: &str| ours.read(text).unwrap_err();
        let others = tokens("shop", Some(8)).write(seen()).unwrap();
        assert!(matches!(refused(&others), Refused::Forged));
        let stranger = tokens("other", Some(7)).write(seen()).unwrap();
        assert!(matches!(refused(&stranger), Refused::Unread(TokenError::Stranger)));
        assert!(matches!(refused("1.eu-1@0/16B3748.shop"), Refused::Unsigned));
        for text in ["", "2", "2.", "2.AAAA", "2.!", "3.AAAA", "eu"] {
            assert!(matches!(refused(text), Refused::Unread(TokenError::Malformed)), "{text}");
        }
        let written = ours.write(seen()).unwrap();
        let signed = BASE64.decode(written.strip_prefix(VERSION).unwrap()).unwrap();
        for at in 0..signed.len() {
            let mut changed = signed.clone();
            changed[at] ^= 1;
            let changed = format!("{VERSION}{}", BASE64.encode(changed));
            assert!(matches!(refused(&changed), Refused::Forged), "byte {at}");
        }
    }

    #[test]
    fn a_transactions_token_is_signed_as_one_and_as_nothing_else() {
        let (ours, others) = (tokens("shop", Some(7)), tokens("shop", Some(8)));
        let (origin, after): (Origin, Lsn) = ("eu-1".parse().unwrap(), Lsn(9));
        let write = |tokens: &Tokens| tokens.write_transaction(origin.clone(), 1 << 33, after);
        let written = write(&ours).unwrap();
        let read = ours.read_transaction(&written).unwrap();
        assert_eq!((read.origin, read.xid, read.after), (origin.clone(), 1 << 33, after));
        let refused = |text: &str| ours.read_transaction(text).unwrap_err();
        assert!(matches!(refused(&write(&others).unwrap()), Refused::Forged));
        // Of a session it says nothing, whatever it is called.
        let session = ours.write(seen()).unwrap();
        assert!(matches!(refused(&session), Refused::UnreadTransaction(_)));
        let renamed = session.replacen(VERSION, OF_TRANSACTION, 1);
        assert!(matches!(refused(&renamed), Refused::Forged));
        let renamed = written.replacen(OF_TRANSACTION, VERSION, 1);
        assert!(matches!(ours.read(&renamed), Err(Refused::Forged)));
        for text in ["", "t1.", "t1.AAAA", "t1.!", "t2.AAAA"] {
            assert!(matches!(refused(text), Refused::UnreadTransaction(_)), "{text}");
        }
    }

    #[test]
    fn without_the_secret_nothing_is_signed_and_nothing_believed() {
        let written = tokens("shop", Some(7)).write(seen()).unwrap();
        let unknowing = tokens("shop", None);
        assert!(matches!(unknowing.write(seen()), Err(Refused::NoSecret)));
        assert!(matches!(unknowing.read(&written), Err(Refused::NoSecret)));
    }

    #[test]
    fn a_secret_comes_back_from_the_directory_and_is_not_shown() {
        let secret = random().unwrap();
        assert!(lift(&lower(&secret)).unwrap() == secret);
        assert!(random().unwrap() != secret);
        for wrong in ["", "{}", r#"{"secret":"c2hvcnQ"}"#, r#"{"secret":5}"#] {
            let error = lift(wrong.as_bytes()).err().unwrap();
            assert_eq!(format!("{error:#}"), "the directory's secret for tokens is unreadable");
        }
        let shown = format!("{:?}", tokens("shop", Some(7)));
        assert_eq!(shown, "Tokens { cluster: \"shop\", .. }");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text: String, bytes: Vec<u8>) {
            let ours = tokens("shop", Some(7));
            let _ = ours.read(&text);
            let unsigned = [VERSION, &BASE64.encode(bytes)].concat();
            prop_assert!(ours.read(&unsigned).is_err());
        }
    }
}
