//! How does a region ask the directory? Calls with a deadline, over one connection that mends
//! itself.
//!
//! **Invariant:** no call waits longer than its deadline, and none is repeated here. A write
//! that got no answer may have happened: only the caller knows what to do then, and a
//! compare-and-set makes asking again safe.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};

use super::follow::{self, View};
use super::{Document, MESSAGE_BYTES_MAX, Snapshot, Written};
use crate::proto;
use crate::proto::directory_client::DirectoryClient;

/// Longest wait for the answer to one call.
pub const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the directory is asked for a sign of life.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// How long that sign may take before the connection counts as lost.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes in flight towards us, on one call and on all: a large read takes few round trips.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

#[derive(Debug, Error)]
pub enum DirectoryError {
    /// No connection can ever be made to this.
    #[error("directory address {address:?} is not host:port")]
    Address { address: String },
    /// There was no usable answer. A write may have happened nevertheless.
    #[error("directory at {address} did not answer: {reason}")]
    Unreachable { address: String, reason: String },
    /// The directory will not do this, now or later. Nothing was written.
    #[error("directory at {address} refused: {reason}")]
    Refused { address: String, reason: String },
}

/// A handle on the directory; clones share one connection.
#[derive(Clone, Debug)]
pub struct Client {
    address: Arc<str>,
    calls: DirectoryClient<Channel>,
}

impl Client {
    /// Returns a client of the directory at `address`, a `host:port`.
    ///
    /// Connects at the first call, and again whenever the connection was lost. Must be called
    /// within a tokio runtime.
    pub fn new(address: &str) -> Result<Self, DirectoryError> {
        let wrong = || DirectoryError::Address { address: address.to_owned() };
        let uri: tonic::transport::Uri =
            format!("http://{address}").parse().map_err(|_| wrong())?;
        let whole = uri.authority().is_some_and(|authority| authority.as_str() == address);
        if !whole || uri.port_u16().is_none() {
            return Err(wrong());
        }
        let channel = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .connect_lazy();
        let calls = DirectoryClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { address: address.into(), calls })
    }

    /// Returns every document whose key starts with `prefix`, all read at the same instant.
    pub async fn read(&self, prefix: &str) -> Result<Snapshot, DirectoryError> {
        let mut calls = self.calls.clone();
        let request = proto::ReadRequest { prefix: prefix.to_owned() };
        Ok(lift_snapshot(self.answer(calls.read(request)).await?))
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
        let mut calls = self.calls.clone();
        let request =
            proto::WriteRequest { key: key.to_owned(), expected_revision: expected, value };
        let answer = self.answer(calls.write(request)).await?;
        Ok(match answer.written {
            true => Written::At(answer.revision),
            false => Written::Conflict(answer.revision),
        })
    }

    /// Keeps a view of every document under `prefix` until `shutdown`, or until nobody holds
    /// the receiver any more.
    ///
    /// Starts with an empty view that is not connected.
    pub fn follow(&self, prefix: &str, shutdown: CancellationToken) -> watch::Receiver<Arc<View>> {
        follow::start(self.clone(), prefix.to_owned(), shutdown)
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Opens the stream of events after revision `seen`.
    pub(super) async fn watch(
        &self,
        prefix: &str,
        seen: u64,
    ) -> Result<Streaming<proto::WatchResponse>, Status> {
        let mut calls = self.calls.clone();
        let request = proto::WatchRequest { prefix: prefix.to_owned(), from_revision: seen };
        let opened = within_deadline(calls.watch(request)).await?;
        Ok(opened.into_inner())
    }

    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, DirectoryError> {
        let answer = within_deadline(call).await;
        answer.map(Response::into_inner).map_err(|status| self.lift_error(&status))
    }

    pub(super) fn lift_error(&self, status: &Status) -> DirectoryError {
        let address = self.address.to_string();
        let reason = reason(status);
        match status.code() {
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::Unauthenticated
            | Code::PermissionDenied => DirectoryError::Refused { address, reason },
            _ => DirectoryError::Unreachable { address, reason },
        }
    }
}

async fn within_deadline<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(CALL_DEADLINE, call).await.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(format!("no answer within {CALL_DEADLINE:?}")))
    })
}

/// The whole story: "transport error" alone helps nobody.
fn reason(status: &Status) -> String {
    let mut reason = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let text = error.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        source = error.source();
    }
    reason
}

fn lift_snapshot(answer: proto::ReadResponse) -> Snapshot {
    let lift = |proto::Document { key, value, revision }| Document { key, value, revision };
    Snapshot {
        documents: answer.documents.into_iter().map(lift).collect(),
        revision: answer.revision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_host_and_port_and_nothing_else() {
        for address in ["", "host", "host:", "host:99999", "a:1/path", "user@a:1/", "a b:1"] {
            let error = Client::new(address).err();
            assert!(matches!(error, Some(DirectoryError::Address { .. })), "{address:?}");
        }
        for address in ["127.0.0.1:7000", "directory.internal:7000", "[::1]:7000"] {
            assert!(Client::new(address).is_ok(), "{address:?}");
        }
    }
}
