//! How is the embedded directory asked? Over one connection that mends itself.

use std::sync::Arc;

use bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::call::{self, CALL_DEADLINE};
use super::client::{DirectoryError, End};
use super::events::Event;
use super::{Document, MESSAGE_BYTES_MAX, Snapshot, Written};
use crate::proto;
use crate::proto::directory_client::DirectoryClient;
use crate::tls::{self, Credentials};

/// Clones share one connection.
#[derive(Clone, Debug)]
pub(super) struct Client {
    address: Arc<str>,
    calls: DirectoryClient<Channel>,
}

impl Client {
    pub(super) fn new(
        address: &str,
        credentials: Option<&Arc<Credentials>>,
    ) -> Result<Self, DirectoryError> {
        let channel = tls::channel(&call::endpoint("http", address)?, credentials);
        let calls = DirectoryClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { address: address.into(), calls })
    }

    pub(super) async fn read(&self, prefix: &str) -> Result<Snapshot, DirectoryError> {
        let mut calls = self.calls.clone();
        let request = proto::ReadRequest { prefix: prefix.to_owned() };
        let answer = call::within(CALL_DEADLINE, calls.read(request)).await;
        answer.map(|answer| lift_snapshot(answer.into_inner())).map_err(|s| self.lift_error(&s))
    }

    pub(super) async fn write(
        &self,
        key: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<Written, DirectoryError> {
        let mut calls = self.calls.clone();
        let request =
            proto::WriteRequest { key: key.to_owned(), expected_revision: expected, value };
        let answer = call::within(CALL_DEADLINE, calls.write(request)).await;
        let answer = answer.map_err(|status| self.lift_error(&status))?.into_inner();
        Ok(match answer.written {
            true => Written::At(answer.revision),
            false => Written::Conflict(answer.revision),
        })
    }

    /// Opens the stream of events after revision `seen`.
    pub(super) async fn watch(&self, prefix: &str, seen: u64) -> Result<Changes, End> {
        let mut calls = self.calls.clone();
        let request = proto::WatchRequest { prefix: prefix.to_owned(), from_revision: seen };
        let opened = call::within(CALL_DEADLINE, calls.watch(request)).await;
        let opened = opened.map_err(|status| self.end(&status))?;
        Ok(Changes { client: self.clone(), stream: opened.into_inner() })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn end(&self, status: &Status) -> End {
        match status.code() {
            Code::OutOfRange => End::Compacted,
            _ => End::Lost(self.lift_error(status)),
        }
    }

    fn lift_error(&self, status: &Status) -> DirectoryError {
        match status.code() {
            // What it says of a write since everything moves.
            Code::Aborted => DirectoryError::Closed {
                address: self.address.to_string(),
                reason: status.message().to_owned(),
            },
            _ => call::lift_error(&self.address, status),
        }
    }
}

pub(super) struct Changes {
    client: Client,
    stream: Streaming<proto::WatchResponse>,
}

impl Changes {
    pub(super) async fn next(&mut self) -> Result<Vec<Event>, End> {
        let next = self.stream.message().await;
        let next = next.and_then(|message| message.ok_or(Status::unavailable("watch ended")));
        let message = next.map_err(|status| self.client.end(&status))?;
        Ok(message.events.into_iter().map(lift_event).collect())
    }
}

fn lift_event(
    proto::watch_response::Event { key, value, revision }: proto::watch_response::Event,
) -> Event {
    Event { key, value, revision }
}

fn lift_snapshot(answer: proto::ReadResponse) -> Snapshot {
    let lift = |proto::Document { key, value, revision }| Document { key, value, revision };
    Snapshot {
        documents: answer.documents.into_iter().map(lift).collect(),
        revision: answer.revision,
        store: 0,
    }
}
