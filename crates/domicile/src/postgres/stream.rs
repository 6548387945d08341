//! What does PostgreSQL stream from our slot, and how do we tell it how far we are?
//!
//! A walsender client over TCP or a Unix socket. It passes on what the server says and sends what
//! it is told: what may be confirmed is decided elsewhere. Nothing is read that is not kept, so
//! waiting for the next event may be given up at any point and taken up again.

use std::io;
use std::time::Duration;

use domicile_core::lsn::Lsn;
use domicile_pg::feedback::{self, FeedbackError};
use domicile_pg::frame::FrameError;
use thiserror::Error;
use tokio::time::timeout;

use super::database::Database;
use super::encryption::Encryption;
use crate::clock;

mod connection;
mod export;

use connection::{Address, Connection};
pub use export::Export;

/// PostgreSQL's own limit on one allocation, and so on one message, is 1 GiB.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// For each address, when the connection settings name no `connect_timeout`.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// What to stream, and from where.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// Addresses are tried in their order until one answers.
    pub connection: Database,
    /// What `synchronous_standby_names` knows this connection by.
    pub application_name: String,
    pub slot: String,
    pub publication: String,
    /// [`Lsn::ZERO`], or anything before it, means the slot's own confirmed position.
    pub start: Lsn,
    /// pgoutput's: 2 from PostgreSQL 14 on, 3 from 15 on, 4 from 16 on.
    pub protocol_version: u32,
    /// Sends large transactions before they commit. Needs protocol version 2.
    pub streaming: bool,
    /// `logical_decoding_work_mem`: so much is decoded before the largest transaction is streamed,
    /// while others wait. The server's own when it is `None`.
    pub decoding_memory: Option<&'static str>,
}

/// A running `START_REPLICATION`.
///
/// Dropping it closes the connection. The slot is free again once the server has noticed: until
/// then another start fails with SQLSTATE 55006.
pub struct Stream {
    connection: Connection,
    is_tcp: bool,
}

impl Stream {
    /// Connects, logs in and starts replication from the slot.
    pub async fn start(config: &StreamConfig) -> Result<Self, StreamError> {
        let query = start_replication(config)?;
        let encryption = connection::encryption(&config.connection)?;
        let wait = config.connection.config.get_connect_timeout().copied();
        let wait = wait.filter(|wait| !wait.is_zero()).unwrap_or(CONNECT_TIMEOUT_DEFAULT);
        let mut failure = StreamError::Settings("no host is named");
        for address in Address::all(&config.connection.config) {
            match timeout(wait, Self::start_at(&address, &encryption, config, &query)).await {
                // Nobody is there: the next address may be better. A refusal is an answer.
                Ok(Err(error @ (StreamError::Connect { .. } | StreamError::Closed))) => {
                    failure = error;
                }
                Ok(answer) => return answer,
                Err(_) => failure = StreamError::Timeout { address: address.to_string() },
            }
        }
        Err(failure)
    }

    async fn start_at(
        address: &Address,
        encryption: &Encryption,
        config: &StreamConfig,
        query: &str,
    ) -> Result<Self, StreamError> {
        let mut connection = Connection::open(address, encryption).await?;
        let memory = config.decoding_memory;
        let login = &config.connection.config;
        connection.log_in(login, &config.application_name, memory).await?;
        connection.put_query(query);
        connection.flush().await?;
        let answer = connection.read().await?;
        if answer.tag != b'W' {
            return Err(StreamError::Unexpected(answer.tag));
        }
        connection.limit(MESSAGE_BYTES_MAX);
        Ok(Self { connection, is_tcp: matches!(address, Address::Tcp { .. }) })
    }

    pub fn is_tcp(&self) -> bool {
        self.is_tcp
    }

    /// Returns the next event, waiting for it if need be.
    ///
    /// Cancel-safe: what was read before the future is dropped is there for the next call.
    pub async fn next(&mut self) -> Result<feedback::Event, StreamError> {
        loop {
            if let Some(event) = self.buffered()? {
                return Ok(event);
            }
            // The rest of a confirmation that was given up half-way would garble the next one.
            self.connection.flush().await?;
            self.connection.receive().await?;
        }
    }

    /// Returns the next event if it is here already, so that a caller can confirm once a batch.
    pub fn buffered(&mut self) -> Result<Option<feedback::Event>, StreamError> {
        let Some(message) = self.connection.take()? else { return Ok(None) };
        match message.tag {
            b'd' => Ok(Some(feedback::parse(message.body)?)),
            b'c' | b'C' => Err(StreamError::Ended),
            tag => Err(StreamError::Unexpected(tag)),
        }
    }

    /// Tells the server at once how far we are. The slot may forget what lies before `flush`.
    ///
    /// [`Lsn::ZERO`] claims nothing. Cancel-safe: what is not sent yet goes out with the next call.
    pub async fn confirm(&mut self, write: Lsn, flush: Lsn, apply: Lsn) -> Result<(), StreamError> {
        let status = feedback::Status {
            write: write.0,
            flush: flush.0,
            apply: apply.0,
            clock: clock::wall().0,
            reply_requested: false,
        };
        status.put(self.connection.outbox());
        self.connection.flush().await
    }
}

/// Why there is no stream, or no longer.
#[derive(Debug, Error)]
pub enum StreamError {
    #[error("connection settings cannot be used: {0}")]
    Settings(&'static str),
    /// The files that TLS needs.
    #[error("connection settings cannot be used: {0}")]
    Files(String),
    #[error("could not connect to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("no answer from {address} in time")]
    Timeout { address: String },
    #[error("login failed: {0}")]
    Login(String),
    #[error(transparent)]
    Server(ServerError),
    #[error("connection to the server is lost: {0}")]
    Lost(#[from] io::Error),
    #[error("server closed the connection")]
    Closed,
    #[error("server ended the replication stream, as it does when it shuts down")]
    Ended,
    #[error("message '{}' was not expected from the server", .0.escape_ascii())]
    Unexpected(u8),
    #[error("the server's answer to {0} is not understood")]
    Answer(&'static str),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Feedback(#[from] FeedbackError),
}

impl StreamError {
    /// The server's SQLSTATE, if it was the server that refused.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.sqlstate),
            _ => None,
        }
    }
}

/// An error as the server reported it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{severity}: {message} (SQLSTATE {sqlstate})")]
pub struct ServerError {
    pub severity: String,
    pub sqlstate: String,
    pub message: String,
    /// Empty when the server sent none.
    pub detail: String,
    /// Empty when the server sent none.
    pub hint: String,
}

/// Writes the command in the replication grammar, where a quote inside quotes is doubled.
fn start_replication(config: &StreamConfig) -> Result<String, StreamError> {
    if config.slot.contains('\0') || config.publication.contains('\0') {
        return Err(StreamError::Settings("a name contains a zero byte"));
    }
    let identifier = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let streaming = if config.streaming { ", streaming 'on'" } else { "" };
    Ok(format!(
        "START_REPLICATION SLOT {} LOGICAL {} \
         (proto_version '{}', publication_names {}, messages 'true'{streaming})",
        identifier(&config.slot),
        config.start,
        config.protocol_version,
        literal(&identifier(&config.publication)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> StreamConfig {
        StreamConfig {
            connection: "host=127.0.0.1 user=u".parse().unwrap(),
            application_name: "domicile".into(),
            slot: "domicile".into(),
            publication: "domicile".into(),
            start: Lsn(0x1_0000_0002),
            protocol_version: 2,
            streaming: true,
            decoding_memory: None,
        }
    }

    #[test]
    fn names_are_quoted_for_the_replication_grammar() {
        let odd = StreamConfig {
            slot: "a\"b".into(),
            publication: "it's \"p\"".into(),
            streaming: false,
            ..config()
        };
        assert_eq!(
            start_replication(&odd).unwrap(),
            "START_REPLICATION SLOT \"a\"\"b\" LOGICAL 1/2 (proto_version '2', \
             publication_names '\"it''s \"\"p\"\"\"', messages 'true')"
        );
        assert!(start_replication(&config()).unwrap().ends_with(", streaming 'on')"));
        let zero = StreamConfig { slot: "a\0b".into(), ..config() };
        assert!(matches!(start_replication(&zero), Err(StreamError::Settings(_))));
    }
}
