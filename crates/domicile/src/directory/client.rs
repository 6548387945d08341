//! How does a region ask the directory, whichever it is?
//!
//! One handle on either directory, the embedded one or etcd: the same documents, the same promises,
//! and one suite of tests that holds both to them.
//!
//! **Invariant:** no call waits longer than its deadline, and no write that somebody may have heard
//! of is sent again here. A write that got no answer may have happened: only the caller knows what
//! to do then, and a compare-and-set makes asking again safe.

use std::sync::Arc;

use bytes::Bytes;
use domicile_core::config;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::events::Event;
use super::follow::{self, View};
use super::leaving::{Leaving, MoveState};
use super::limits::{self, OutOfLimits};
use super::{Document, Snapshot, Written, embedded, etcd};
use crate::tls::Credentials;

#[derive(Debug, Error)]
pub enum DirectoryError {
    /// No connection can ever be made to this.
    #[error("directory address {address:?} is not host:port")]
    Address { address: String },
    /// What a key of the configuration names cannot be used.
    #[error("{key}: {reason}")]
    Setting { key: &'static str, reason: String },
    /// There was no usable answer. A write may have happened nevertheless.
    #[error("directory at {address} did not answer: {reason}")]
    Unreachable { address: String, reason: String },
    /// Everything in it is on its way to another one. Nothing was written.
    #[error("directory at {address} is closed: {reason}")]
    Closed { address: String, reason: String },
    /// The directory will not do this, now or later. Nothing was written.
    #[error("directory at {address} refused: {reason}")]
    Refused { address: String, reason: String },
}

/// Why a watch ended.
pub(super) enum End {
    /// The directory no longer keeps the events that come next.
    Compacted,
    Lost(DirectoryError),
}

/// A handle on the directory; clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    One(Store),
    /// The embedded one, until all of it is in etcd.
    Leaving(Leaving),
}

/// Which of the two is asked.
#[derive(Clone, Debug)]
pub(super) enum Store {
    Embedded(embedded::Client),
    Etcd(etcd::Client),
}

impl Client {
    /// Returns a client of the directory that the configuration names.
    ///
    /// Connects at the first call, and again whenever the connection was lost. Must be called
    /// within a tokio runtime.
    pub fn open(config: &config::Config) -> anyhow::Result<Self> {
        match &config.directory {
            config::Directory::Embedded { address, next, .. } => {
                let credentials = Credentials::of(config)?;
                let from = Self::embedded_at(address, credentials.as_ref())?;
                match next {
                    None => Ok(from),
                    Some(etcd) => Ok(Self::leaving(from, Self::etcd(etcd, &config.cluster)?)),
                }
            }
            config::Directory::Etcd(etcd) => Ok(Self::etcd(etcd, &config.cluster)?),
        }
    }

    /// Returns a client of the directory `from`, until everything has moved `to` another one.
    pub fn leaving(from: Self, to: Self) -> Self {
        Self { backend: Backend::Leaving(Leaving::start(from, to)) }
    }

    /// Returns a client of the embedded directory at `address`, a `host:port`, in the clear.
    pub fn embedded(address: &str) -> Result<Self, DirectoryError> {
        Self::embedded_at(address, None)
    }

    /// The same, encrypted where there are credentials.
    pub fn embedded_at(
        address: &str,
        credentials: Option<&Arc<Credentials>>,
    ) -> Result<Self, DirectoryError> {
        let client = embedded::Client::new(address, credentials)?;
        Ok(Self { backend: Backend::One(Store::Embedded(client)) })
    }

    /// Returns a client of what `cluster` keeps in etcd.
    pub fn etcd(config: &config::Etcd, cluster: &str) -> Result<Self, DirectoryError> {
        Ok(Self { backend: Backend::One(Store::Etcd(etcd::Client::new(config, cluster)?)) })
    }

    /// Returns every document whose key starts with `prefix`, all read at the same instant.
    pub async fn read(&self, prefix: &str) -> Result<Snapshot, DirectoryError> {
        limits::check_prefix(prefix).map_err(|error| self.refuse(&error))?;
        let snapshot = match self.store().await? {
            Store::Embedded(client) => client.read(prefix).await,
            Store::Etcd(client) => client.read(prefix).await,
        }?;
        limits::check_read(prefix, &snapshot.documents).map_err(|error| self.refuse(&error))?;
        Ok(snapshot)
    }

    /// Returns the document at exactly `key`.
    ///
    /// Costs as much as reading `key` as a prefix.
    pub async fn get(&self, key: &str) -> Result<Option<Document>, DirectoryError> {
        let snapshot = self.read(key).await?;
        Ok(snapshot.documents.into_iter().find(|document| document.key == key))
    }

    /// Sets the document at `key`, or deletes it when `value` is absent, if its revision is
    /// still `expected`; 0 means that there must be no such document.
    pub async fn write(
        &self,
        key: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<Written, DirectoryError> {
        limits::check_write(key, expected, value.as_ref()).map_err(|error| self.refuse(&error))?;
        match self.store().await? {
            Store::Embedded(client) => client.write(key, expected, value).await,
            Store::Etcd(client) => client.write(key, expected, value).await,
        }
    }

    /// Keeps a view of every document under `prefix` until `shutdown`, or until nobody holds
    /// the receiver any more.
    ///
    /// Starts with an empty view that is not connected.
    pub fn follow(&self, prefix: &str, shutdown: CancellationToken) -> watch::Receiver<Arc<View>> {
        follow::start(self.clone(), prefix.to_owned(), shutdown)
    }

    /// How far everything is on its way to another directory; `None` where nothing is to go anywhere.
    pub fn move_state(&self) -> Option<MoveState> {
        match &self.backend {
            Backend::One(_) => None,
            Backend::Leaving(leaving) => Some(leaving.state()),
        }
    }

    /// Where the directory is, for a person.
    pub(super) fn address(&self) -> &str {
        match &self.backend {
            Backend::One(Store::Embedded(client)) => client.address(),
            Backend::One(Store::Etcd(client)) => client.address(),
            Backend::Leaving(leaving) => leaving.now().address(),
        }
    }

    /// Opens the stream of events after revision `seen`.
    pub(super) async fn watch(&self, prefix: &str, seen: u64) -> Result<Changes, End> {
        let stream = match self.store().await.map_err(End::Lost)? {
            Store::Embedded(client) => Stream::Embedded(client.watch(prefix, seen).await?),
            Store::Etcd(client) => Stream::Etcd(client.watch(prefix, seen).await?),
        };
        let left = match (&self.backend, &stream) {
            (Backend::Leaving(leaving), Stream::Embedded(_)) => Some(leaving.clone()),
            _ => None,
        };
        Ok(Changes { stream, left })
    }

    async fn store(&self) -> Result<Store, DirectoryError> {
        match &self.backend {
            Backend::One(store) => Ok(store.clone()),
            Backend::Leaving(leaving) => leaving.store().await,
        }
    }

    /// The one that is asked; `None` where that may change.
    pub(super) fn one(&self) -> Option<&Store> {
        match &self.backend {
            Backend::One(store) => Some(store),
            Backend::Leaving(_) => None,
        }
    }

    fn refuse(&self, error: &OutOfLimits) -> DirectoryError {
        let (address, reason) = (self.address().to_owned(), error.to_string());
        DirectoryError::Refused { address, reason }
    }
}

/// What changes under one prefix, in order and without a gap.
pub(super) struct Changes {
    stream: Stream,
    /// All that is in the directory may go to another one.
    left: Option<Leaving>,
}

enum Stream {
    Embedded(embedded::Changes),
    Etcd(etcd::Changes),
}

impl Changes {
    /// Waits for the next events. Those of one revision come together.
    pub(super) async fn next(&mut self) -> Result<Vec<Event>, End> {
        let Self { stream, left } = self;
        let left = async {
            match left {
                Some(leaving) => leaving.has_left().await,
                None => std::future::pending().await,
            }
        };
        let next = async {
            match stream {
                Stream::Embedded(changes) => changes.next().await,
                Stream::Etcd(changes) => changes.next().await,
            }
        };
        tokio::select! {
            next = next => next,
            // What comes next is told by the other one.
            () = left => Err(End::Compacted),
        }
    }
}
