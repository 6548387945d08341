//! How does a session get a connection to a server, and make it look like the one it had?
//!
//! The first connection of a session belongs to the client, who logs in through it. Every later
//! one is opened quietly: the same startup again, then what the memory holds, and nothing of it
//! reaches the client. Where the server asks for a password, [`login`](super::login) answers.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use domicile_core::id::RegionId;
use domicile_pg::backend::{self, BackendKeyData, Report, tag};
use domicile_pg::frontend;
use domicile_pg::scram::{Keys, LoginError};
use domicile_pg::startup::Startup;
use futures_util::FutureExt;
use thiserror::Error;

use super::Shared;
use super::cut::{self, Cutter, Piece};
use super::door::{HOP, HOP_PARAMETER};
use super::link::Link;
use super::memory::{Memory, Prepared, Remembered};
use super::pool::Shareable;
use super::sharing::{DISCARD, WASH};
use super::statuses::Statuses;
use super::target::Target;

/// A connection that was opened quietly, and what its server said of its settings.
pub type Opened = (Backend, Statuses);

/// A connection of a session to PostgreSQL, directly or through its region's gateway.
#[derive(Debug)]
pub struct Backend {
    pub region: RegionId,
    pub target: Target,
    pub link: Link,
    pub cutter: Cutter,
    pub key: Option<BackendKeyData>,
    /// What the session was when it left here; `None` while it is here.
    left: Option<Remembered>,
    /// A transaction stands open here that goes on elsewhere, or not at all.
    pub in_transaction: bool,
    /// What `Routes::openings` was when it was opened; `None` once it was asked for something.
    pub cold_since: Option<u64>,
    /// Answers are to come that nobody waits for any more: the connection is of no use.
    pub astray: bool,
    /// [Its transactions only read](super::only_reads), by the gateway's doing.
    pub only_reads: bool,
    /// Clients share this server.
    pub shareable: Option<Box<Shareable>>,
}

/// Why a quiet connection could not be had.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("region \"{0}\" is not among the peers")]
    Stranger(RegionId),
    #[error("connect to {target}: {source}")]
    Connect { target: Target, source: io::Error },
    #[error("the server closed the connection while the session began")]
    Closed,
    /// Asked again later it may agree.
    #[error("the server does not take sessions yet")]
    NotYet,
    #[error("the server did not answer in time")]
    Slow,
    #[error("all servers that the session shares are in use")]
    Busy,
    #[error("ownership changed meanwhile")]
    Overtaken,
    #[error("the server asks for a password, and the gateway has no key")]
    Password,
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("the server refused the session: {0}")]
    Refused(String),
    #[error("what the server says is not the protocol")]
    Protocol,
}

/// What becomes of what the server refuses while a session catches up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Ends,
    /// Whoever wants it after all is told so by the server.
    IsLeftOut,
}

impl OpenError {
    /// Returns whether the same may succeed a moment later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Closed
            | Self::NotYet
            | Self::Slow
            | Self::Busy
            | Self::Overtaken => true,
            Self::Stranger(_)
            | Self::Password
            | Self::Login(_)
            | Self::Refused(_)
            | Self::Protocol => false,
        }
    }
}

impl Backend {
    /// Connects to the server of `region` and sends it the startup of the session.
    pub async fn dial(
        shared: &Shared,
        region: &RegionId,
        startup: &Startup,
    ) -> Result<Self, OpenError> {
        let target = shared.target(region).ok_or_else(|| OpenError::Stranger(region.clone()))?;
        if shared.is_silent(region) {
            return Err(OpenError::Slow);
        }
        let connecting = target.connect(&shared.secure).await;
        let mut link =
            connecting.map_err(|source| OpenError::Connect { target: target.clone(), source })?;
        let mut startup = startup.clone();
        if *region != shared.config.region {
            startup.parameters.push((HOP_PARAMETER.to_owned(), HOP.to_owned()));
        }
        startup.put(&mut link.outgoing);
        let cold_since = Some(shared.routes.borrow().openings);
        Ok(Self { cold_since, ..Self::new(region.clone(), target.clone(), link) })
    }

    /// A connection on which nothing was said yet.
    pub fn new(region: RegionId, target: Target, link: Link) -> Self {
        Self {
            region,
            target,
            link,
            cutter: Cutter::default(),
            key: None,
            left: None,
            in_transaction: false,
            cold_since: None,
            astray: false,
            only_reads: false,
            shareable: None,
        }
    }

    /// Opens a session like the one that `memory` describes, on a server that others will have, too, where it is
    /// `shareable`. Returns the server's settings.
    pub async fn open(
        shared: &Shared,
        region: &RegionId,
        (startup, keys): (&Startup, Option<&Keys>),
        memory: &Memory,
        shareable: Option<Shareable>,
    ) -> Result<(Self, Statuses), OpenError> {
        let mut opened = Self::dial(shared, region, startup).await?;
        opened.shareable = shareable.map(Box::new);
        let mut statuses = Statuses::default();
        opened.log_in(keys).await?;
        opened.until_ready(1, &mut statuses).await?;
        opened.left = Some(Remembered { discards: memory.discards(), ..Remembered::default() });
        opened.catch_up(memory, &mut statuses).await?;
        Ok((opened, statuses))
    }

    /// The session goes on elsewhere.
    pub fn leave(&mut self, memory: &Memory) {
        self.left.get_or_insert_with(|| memory.remembered());
    }

    /// It goes on here after all, and was nowhere else.
    pub fn stay(&mut self) {
        self.left = None;
    }

    /// Was the session here all the time?
    pub fn is_caught_up(&self) -> bool {
        self.left.is_none()
    }

    /// Makes of the session here what it has become elsewhere; nothing when it was here all the time. The
    /// connection is of no use when that fails.
    pub async fn catch_up(
        &mut self,
        memory: &Memory,
        statuses: &mut Statuses,
    ) -> Result<(), OpenError> {
        let Some(mut left) = self.left.take() else { return Ok(()) };
        if left.discards != memory.discards() {
            frontend::put_query(&mut self.link.outgoing, b"DISCARD ALL");
            self.until_ready(1, statuses).await?;
            left.prepared = Arc::default();
        }
        if left.settings_version != memory.settings_version() {
            let queries = self.put_settings(memory);
            self.until_ready(queries, statuses).await?;
        }
        self.prepare_anew(&left.prepared, memory.prepared(), statuses).await
    }

    /// Ends the transaction that does not go on here.
    pub async fn roll_back(&mut self) -> Result<(), OpenError> {
        if !self.in_transaction {
            return Ok(());
        }
        frontend::put_query(&mut self.link.outgoing, b"ROLLBACK");
        self.until_ready(1, &mut Statuses::default()).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// Makes all settings of the session again, so that none is older than the session's.
    /// Returns in how many queries.
    pub fn put_settings(&mut self, memory: &Memory) -> usize {
        for raw in memory.settings() {
            self.link.outgoing.extend_from_slice(raw);
        }
        memory.settings().count()
    }

    /// Returns whether the session has discarded nothing since it left this server.
    pub fn is_as_left(&self, memory: &Memory) -> bool {
        self.left.as_ref().is_some_and(|left| left.discards == memory.discards())
    }

    /// Takes from a server all that its last client made of it, and makes of it what `memory` describes, for one who
    /// only reads here where `only_reads`. What fails leaves a connection of no use.
    pub async fn wash(
        &mut self,
        memory: &Memory,
        statuses: &mut Statuses,
        only_reads: bool,
    ) -> Result<(), OpenError> {
        self.left = None;
        let all = if self.prepares_for_many() { WASH } else { DISCARD };
        frontend::put_query(&mut self.link.outgoing, all);
        let queries = 1 + self.put_settings(memory);
        // In the same round trip.
        if only_reads {
            self.put_only_reads();
        }
        self.until_ready(queries, statuses).await?;
        if only_reads {
            self.until_ready(1, &mut Statuses::default()).await?;
            self.only_reads = true;
        }
        self.prepare_anew(&Arc::default(), memory.prepared(), statuses).await
    }

    /// Takes in what has come, without waiting for anything.
    pub fn look(&mut self) {
        while self.link.moved().now_or_never().is_some() {}
    }

    /// Hears what the server has said while it was not in use.
    pub fn hear_aside(&mut self, statuses: &mut Statuses) -> Result<(), OpenError> {
        while let Some(piece) =
            self.cutter.next(&mut self.link.incoming).map_err(|_| OpenError::Protocol)?
        {
            match piece {
                Piece::Whole { tag: tag::PARAMETER_STATUS, raw } => {
                    self.hear_status(&raw);
                    statuses.note(&cut::body(&raw));
                }
                Piece::Whole { tag, raw } => self.listen(tag, &raw)?,
                Piece::Head { .. } | Piece::Rest { .. } => {}
            }
        }
        if self.link.has_ended() { Err(OpenError::Closed) } else { Ok(()) }
    }

    /// Returns whether nothing is on its way in any direction.
    pub fn is_at_rest(&self) -> bool {
        let Link { incoming, outgoing, .. } = &self.link;
        let is_quiet = incoming.is_empty() && outgoing.is_empty() && !self.cutter.is_inside();
        let is_open = !self.link.has_ended() && !self.link.is_mute();
        is_quiet && is_open && !self.in_transaction && !self.astray
    }

    /// All at once: the server may be far away, and the memory has a bound.
    async fn prepare_anew(
        &mut self,
        left: &Arc<Prepared>,
        now: &Arc<Prepared>,
        statuses: &mut Statuses,
    ) -> Result<(), OpenError> {
        let is_as_left = Arc::ptr_eq(left, now) || (left.is_empty() && now.is_empty());
        // Where many prepare, it is prepared when it is needed.
        if is_as_left || self.prepares_for_many() {
            return Ok(());
        }
        let out = &mut self.link.outgoing;
        let mut syncs = 0;
        for (name, _) in left.iter().filter(|(name, raw)| now.get(*name) != Some(raw)) {
            frontend::put_close_statement(out, name);
        }
        for (_, raw) in now.iter().filter(|(name, raw)| left.get(*name) != Some(raw)) {
            out.extend_from_slice(raw);
            // What cannot be prepared here keeps nothing else from it.
            frontend::put_sync(out);
            syncs += 1;
        }
        frontend::put_sync(out);
        self.until_answered(syncs + 1, statuses, Refused::IsLeftOut).await
    }

    /// Waits for the first message, and leaves it where it is.
    ///
    /// Returns [`OpenError::NotYet`] when the message says to come again.
    pub async fn first_answer(&mut self) -> Result<(), OpenError> {
        loop {
            let mut ahead = self.link.incoming.clone();
            match Cutter::default().next(&mut ahead).map_err(|_| OpenError::Protocol)? {
                Some(Piece::Whole { tag: tag::ERROR_RESPONSE, raw }) => {
                    return if is_passing(&raw) { Err(OpenError::NotYet) } else { Ok(()) };
                }
                Some(_) => return Ok(()),
                None if self.link.has_ended() => return Err(OpenError::Closed),
                None => self.link.moved().await,
            }
        }
    }

    /// Drops what an unused connection says between statements, except what the session listens for: that goes
    /// to `client`.
    pub fn overhear(&mut self, client: &mut BytesMut) {
        while let Ok(Some(piece)) = self.cutter.next(&mut self.link.incoming) {
            if let Piece::Whole { tag: tag::NOTIFICATION_RESPONSE, raw } = piece {
                client.extend_from_slice(&raw);
            }
        }
    }

    pub async fn until_ready(
        &mut self,
        times: usize,
        statuses: &mut Statuses,
    ) -> Result<(), OpenError> {
        self.until_answered(times, statuses, Refused::Ends).await
    }

    async fn until_answered(
        &mut self,
        mut times: usize,
        statuses: &mut Statuses,
        refused: Refused,
    ) -> Result<(), OpenError> {
        self.astray = true;
        while times > 0 {
            match self.next_message().await? {
                (tag::READY_FOR_QUERY, _) => times -= 1,
                (tag::PARAMETER_STATUS, raw) => {
                    self.hear_status(&raw);
                    statuses.note(&cut::body(&raw));
                }
                (tag::ERROR_RESPONSE, raw)
                    if refused == Refused::IsLeftOut && !is_passing(&raw) => {}
                (tag, raw) => self.listen(tag, &raw)?,
            }
        }
        self.astray = false;
        Ok(())
    }

    /// Waits for the next message that is not too large to mean anything here.
    pub async fn next_message(&mut self) -> Result<(u8, Bytes), OpenError> {
        loop {
            let piece = self.cutter.next(&mut self.link.incoming);
            match piece.map_err(|_| OpenError::Protocol)? {
                Some(Piece::Whole { tag, raw }) => return Ok((tag, raw)),
                Some(Piece::Head { .. } | Piece::Rest { .. }) => {}
                None if self.link.has_ended() => return Err(OpenError::Closed),
                None => self.link.moved().await,
            }
        }
    }

    /// Hears what the server says while nobody else listens.
    pub fn listen(&mut self, tag: u8, raw: &Bytes) -> Result<(), OpenError> {
        let body = cut::body(raw);
        match tag {
            tag::BACKEND_KEY_DATA => self.key = backend::backend_key_data(&body).ok(),
            tag::ERROR_RESPONSE if is_passing(raw) || has_no_room(&body) => {
                return Err(OpenError::NotYet);
            }
            tag::ERROR_RESPONSE => {
                let report = Report::read(&body).unwrap_or_default();
                let message = report.get(backend::field::MESSAGE).unwrap_or_default();
                return Err(OpenError::Refused(message.to_owned()));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Returns whether the server has too many sessions. A client that is refused its login for that hears it; one
/// that has a session keeps it.
fn has_no_room(body: &Bytes) -> bool {
    let report = Report::read(body);
    report.is_ok_and(|report| domicile_pg::sqlstate::TOO_MANY_CONNECTIONS.is(report.code()))
}

/// Returns whether the server ends the session, or does not take it, for its own sake: because it
/// stops, starts or recovers. Another server, or the same a moment later, may take it.
pub fn is_passing(raw: &Bytes) -> bool {
    use domicile_pg::sqlstate::{ADMIN_SHUTDOWN, CANNOT_CONNECT_NOW, CRASH_SHUTDOWN};
    let body = cut::body(raw);
    let Ok(report) = Report::read(&body) else { return false };
    [CANNOT_CONNECT_NOW, ADMIN_SHUTDOWN, CRASH_SHUTDOWN].iter().any(|s| s.is(report.code()))
}
