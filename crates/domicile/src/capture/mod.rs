//! From the slot to this region's own replication log.
//!
//! Each transaction is judged before it enters the log: what lies outside the history goes to the
//! conflict journal instead. The slot is confirmed up to what is as durable as the RPO asks; at
//! RPO 0 this connection is PostgreSQL's synchronous standby, so that is also what lets a client's
//! COMMIT return.
//!
//! **Invariant:** the log holds this origin's transactions in commit order, none twice, none that
//! the ownership known here says is outside the history.

mod assemble;
mod body;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use domicile_core::change::Transaction;
use domicile_core::config::Config;
use domicile_core::continuity::{CAPTURE_FAILS, Verdict};
use domicile_core::history::{Admission, Reason, admit};
use domicile_core::id::{Origin, RunId};
use domicile_core::lsn::{Cut, Lsn};
use domicile_core::progress::Rpo;
use domicile_core::record;
use domicile_core::time::{Millis, PgTime};
use domicile_pg::feedback::Event;
use domicile_pg::pgoutput::Decoder;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::complain::Complaint;
use crate::continuity::Continuity;
use crate::directory::view::OwnershipView;
use crate::log::Log;
use crate::notices::Notices;
use crate::pieces::{LargePieces, Piece};
use crate::positions::Positions;
use crate::postgres::shared::is_shared;
use crate::postgres::stamp::StampKey;
use crate::postgres::stream::{ServerError, Stream, StreamConfig, StreamError};
use crate::postgres::{journal, session};
use crate::tenure::TenureState;

pub use assemble::ORIGIN_PREFIX;
use assemble::{Assembled, Assembler, Captured};
use body::Complete;

/// As PostgreSQL's `synchronous_standby_names` knows the capture.
pub const APPLICATION_NAME: &str = "domicile";
pub const PUBLICATION: &str = "domicile";
/// Under which the notice stands.
const PART: &str = "capture";

/// What PostgreSQL decodes of transactions that have not ended before it lets others through: some
/// 20 ms of its time. A large transaction has little left to be read when it commits.
const DECODING_MEMORY: &str = "4MB";
/// Transactions that may wait for a decision, and their bytes in memory, before the stream is read
/// no further.
const UNDECIDED_MAX: usize = 10_000;
const UNDECIDED_BYTES_MAX: usize = 64 << 20;
/// Bytes of records that are flushed together at most.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// From so many changes of one transaction on, and while what is sent is so old, it pays to let more
/// arrive before it is read: PostgreSQL sends each message by itself, and to be woken for each costs
/// both sides more than the message. A Unix socket holds a few hundred at most, so there PostgreSQL
/// would be the one who waits.
const BULK_CHANGES_MIN: usize = 100;
const OLD_AFTER: Millis = Millis(1000);
const LULL: Duration = Duration::from_millis(1);
/// Where no commit waits for it, what is durable is confirmed so much later, with what comes
/// meanwhile: each confirmation wakes PostgreSQL.
const CONFIRM_AFTER: Duration = Duration::from_millis(10);
const RETRY_AFTER: Duration = Duration::from_millis(200);

#[derive(Clone)]
pub struct CaptureConfig {
    pub cluster: Arc<Config>,
    pub postgres: String,
    pub slot: String,
    pub origin: Origin,
    pub rpo: Rpo,
    pub clock: Clock,
    /// Until when this region may act as owner: what runs ahead of its copies ends with that.
    pub lease: watch::Receiver<TenureState>,
    pub continuity: Continuity,
    pub notices: Notices,
}

/// Reads the slot and writes the log, reconnecting as often as it must.
pub struct Capture {
    config: CaptureConfig,
    log: Log,
    positions: Positions,
    ownership: watch::Receiver<Arc<OwnershipView>>,
    /// Held while transactions are judged, until they are in the log.
    judging: Arc<Mutex<()>>,
    /// Barriers that stand durably in the log, for those who wait to announce them.
    barriers: watch::Sender<Vec<(RunId, Cut)>>,
}

impl Capture {
    pub fn new(
        config: CaptureConfig,
        log: Log,
        positions: Positions,
        ownership: watch::Receiver<Arc<OwnershipView>>,
    ) -> Self {
        let (judging, barriers) = (Arc::default(), watch::Sender::new(Vec::new()));
        Self { config, log, positions, ownership, judging, barriers }
    }

    /// Whoever gets this lock knows that everything judged by an older ownership than is known then
    /// has reached the log.
    pub fn judging(&self) -> Arc<Mutex<()>> {
        self.judging.clone()
    }

    pub fn barriers(&self) -> watch::Receiver<Vec<(RunId, Cut)>> {
        self.barriers.subscribe()
    }

    pub async fn run(self, shutdown: CancellationToken) {
        let mut complaint = Complaint::default();
        let mut refused_at = None;
        while !shutdown.is_cancelled() {
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.stream_past(refused_at) => ended,
            };
            // Whatever waits now may wait for long, and others' changes must not.
            self.positions.released(None);
            if let Err(error) = ended {
                complaint.warn("capture stopped, it starts again", &error);
                let at = error.is::<Refused>().then(|| self.positions.captured_to());
                if let Some(at) = at.filter(|at| refused_at == Some(*at)) {
                    let detail = format!(
                        "PostgreSQL cannot send what was committed behind {at}: {error:#}. Nothing of \
                         this region is shipped from there on"
                    );
                    self.config.notices.post(PART, CAPTURE_FAILS, detail);
                }
                refused_at = at;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
        }
    }

    /// Streams, and takes back what was said once that goes on behind `refused_at`.
    async fn stream_past(&self, refused_at: Option<Lsn>) -> anyhow::Result<()> {
        let mut stream = std::pin::pin!(self.stream());
        if let Some(Lsn(at)) = refused_at {
            tokio::select! {
                ended = &mut stream => return ended,
                _ = self.positions.wait_for_capture(Lsn(at + 1)) => {}
            }
        }
        self.config.notices.clear(PART);
        stream.await
    }

    /// What is committed here may rest on all that is shown here, also before the appliers go on.
    async fn claim_shown(&self, postgres: &Client) -> anyhow::Result<()> {
        let sql = "SELECT origin, applied::text FROM domicile.progress";
        for row in postgres.query(sql, &[]).await.context("read what is shown")? {
            let origin: Origin = row.get::<_, &str>(0).parse()?;
            self.positions.claim(&origin, row.get::<_, &str>(1).parse()?);
        }
        Ok(())
    }

    async fn stream(&self) -> anyhow::Result<()> {
        // What cannot be kept is not read: the slot holds it back.
        self.log.ready().await?;
        let postgres = session::connect(&self.config.postgres, "domicile journal").await?;
        let verdict = self.config.continuity.examine(&postgres).await?;
        self.config.continuity.check()?;
        ensure!(verdict == Verdict::GoesOn, "the slot is not made yet");
        self.claim_shown(&postgres).await?;
        let key = StampKey::read(&postgres).await?;
        self.positions.restarted();
        let stream = Stream::start(&StreamConfig {
            connection: session::configure(&self.config.postgres, APPLICATION_NAME)?,
            application_name: APPLICATION_NAME.into(),
            slot: self.config.slot.clone(),
            publication: PUBLICATION.into(),
            start: Lsn::ZERO,
            protocol_version: 2,
            streaming: true,
            decoding_memory: Some(DECODING_MEMORY),
        })
        .await
        .context("start the replication stream")?;
        tracing::info!(origin = %self.config.origin, "capturing");
        Session {
            capture: self,
            stream,
            postgres,
            decoder: Decoder::new(),
            assembler: Assembler::new(self.log.clone(), key),
            undecided: VecDeque::new(),
            undecided_bytes: 0,
            old: false,
            batch: Vec::new(),
            batch_bytes: 0,
            batch_barriers: Vec::new(),
            received: Lsn::ZERO,
            confirmed: Lsn::ZERO,
            confirm_at: None,
        }
        .run()
        .await
    }
}

/// One connection's worth of capturing.
struct Session<'a> {
    capture: &'a Capture,
    stream: Stream,
    postgres: Client,
    decoder: Decoder,
    assembler: Assembler,
    /// Read, in order, but not judged yet: a cut is being decided.
    undecided: VecDeque<Captured>,
    undecided_bytes: usize,
    /// What the server sends was committed a while ago.
    old: bool,
    batch: Vec<(Lsn, Bytes)>,
    batch_bytes: usize,
    batch_barriers: Vec<(RunId, Cut)>,
    /// The newest position that the server has told.
    received: Lsn,
    confirmed: Lsn,
    /// There is something to confirm that nobody waits for.
    confirm_at: Option<Instant>,
}

impl Session<'_> {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut changed = self.capture.positions.subscribe();
        let mut ownership = self.capture.ownership.clone();
        let mut lease = self.capture.config.lease.clone();
        let mut lull = Instant::now();
        let mut remembered = self.capture.config.continuity.subscribe();
        loop {
            let full = self.undecided.len() >= UNDECIDED_MAX
                || self.undecided_bytes >= UNDECIDED_BYTES_MAX;
            tokio::select! {
                event = next_after(lull, &mut self.stream), if !full => {
                    let keepalive = self.take(event.map_err(refused)?).await?;
                    self.drain_buffered(keepalive).await?;
                    let is_bulk = self.old || self.assembler.changes() >= BULK_CHANGES_MIN;
                    if is_bulk && self.stream.is_tcp() {
                        lull = Instant::now() + LULL;
                    }
                }
                _ = changed.changed() => self.confirm(false).await?,
                () = sleep_until(self.confirm_at.unwrap_or(lull)), if self.confirm_at.is_some() => {
                    self.confirm(true).await?;
                }
                _ = lease.changed() => self.confirm(false).await?,
                _ = remembered.changed() => self.confirm(false).await?,
                _ = ownership.changed() => {
                    let _judging = self.capture.judging.lock().await;
                    self.judge().await?;
                    self.flush().await?;
                    self.confirm(false).await?;
                }
            }
        }
    }

    /// Takes everything that has arrived, then flushes once and confirms once.
    async fn drain_buffered(&mut self, mut keepalive: bool) -> anyhow::Result<()> {
        let _judging = self.capture.judging.lock().await;
        loop {
            self.judge().await?;
            if self.batch_bytes >= BATCH_BYTES_MAX {
                self.flush().await?;
            }
            match self.stream.buffered().map_err(refused)? {
                Some(event) => keepalive |= self.take(event).await?,
                None => break,
            }
        }
        self.flush().await?;
        self.confirm(keepalive).await
    }

    /// Returns whether the server should be answered whatever has changed: where commits wait for
    /// us every keepalive is, or those that carry nothing for us would wait for seconds.
    async fn take(&mut self, event: Event) -> anyhow::Result<bool> {
        match event {
            Event::Keepalive(keepalive) => {
                self.received = self.received.max(Lsn(keepalive.end));
                if !self.assembler.is_open() && self.undecided.is_empty() {
                    self.capture.positions.seen(Lsn(keepalive.end));
                }
                Ok(keepalive.reply_requested || self.is_waited_for())
            }
            Event::XLogData(data) => {
                let sent_at = PgTime(data.time);
                if self.assembler.passes_over(&data.payload) {
                    return Ok(false);
                }
                let decoded = self.decoder.decode(data.payload).context("decode pgoutput")?;
                match self.assembler.take(decoded).await? {
                    Assembled::Open => {}
                    Assembled::Nothing(end) if self.undecided.is_empty() => {
                        self.capture.positions.seen(end);
                    }
                    Assembled::Nothing(_) => {}
                    Assembled::Transaction(captured) => {
                        // By the server's clock, both of them.
                        self.old = sent_at.since(captured.head.committed_at) > OLD_AFTER;
                        self.undecided_bytes += captured.body.bytes();
                        self.undecided.push_back(*captured);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Moves transactions into the batch or into the journal, in order, as far as is decided.
    async fn judge(&mut self) -> anyhow::Result<()> {
        while let Some(captured) = self.undecided.pop_front() {
            self.undecided_bytes -= captured.body.bytes();
            let view = self.capture.ownership.borrow().clone();
            let admission = match &view.ownership {
                // What is published has an owner, or is shared.
                Some(known) => {
                    let CaptureConfig { cluster, origin, .. } = &self.capture.config;
                    admit(known, origin, &captured.head, |table| !is_shared(cluster, table))
                }
                None => Admission::Wait,
            };
            match admission {
                Admission::Wait => {
                    self.undecided_bytes += captured.body.bytes();
                    self.undecided.push_front(captured);
                    return Ok(());
                }
                Admission::Admit => self.admit(captured).await?,
                Admission::Divert(reason) => self.divert(captured, &reason).await?,
            }
        }
        Ok(())
    }

    async fn admit(&mut self, captured: Captured) -> anyhow::Result<()> {
        let Captured { mut head, body } = captured;
        let lsn = head.lsn;
        let last = self.batch.last().map_or(self.capture.log.end(), |(lsn, _)| *lsn);
        if lsn <= last {
            // Sent again after a restart: the log has it.
            self.capture.positions.captured_again(lsn, head.xid);
            return Ok(());
        }
        head.needs = self.capture.positions.needs();
        let now = self.capture.config.clock.now();
        match body.complete().await? {
            Complete::Whole(changes) => {
                let payload = Bytes::from(record::encode_with(&head, &changes));
                self.batch_bytes += payload.len();
                self.capture.positions.captured(lsn, head.xid, head.committed_at, now);
                self.batch.push((lsn, payload));
            }
            Complete::Large(parts) => {
                self.flush().await?;
                let payload = Bytes::from(record::encode_large(&head));
                self.capture.positions.captured(lsn, head.xid, head.committed_at, now);
                let appended = self.capture.log.append_large(lsn, payload, parts).await;
                self.capture.positions.flushed(appended.context("append to the log")?);
            }
        }
        if let Some(run) = head.barrier {
            let cut = Cut { origin: self.capture.config.origin.clone(), lsn };
            self.batch_barriers.push((run, cut));
        }
        Ok(())
    }

    async fn divert(&mut self, captured: Captured, reason: &Reason) -> anyhow::Result<()> {
        let Captured { head, body } = captured;
        let (lsn, xid, why) = (head.lsn, head.xid, explain(reason));
        tracing::warn!(%lsn, xid, "kept out of the history: {why}");
        let CaptureConfig { cluster, origin, .. } = &self.capture.config;
        match body.complete().await? {
            Complete::Whole(changes) => {
                let changes = Bytes::from(changes.into_bytes());
                let changes = record::decode_changes(&changes, head.relations.len())?;
                let piece = Piece::whole(Transaction { changes, ..head });
                journal::divert(&mut self.postgres, cluster, origin, &piece, reason.slug(), &why)
                    .await?;
            }
            Complete::Large(parts) => {
                let mut pieces = LargePieces::new(head, parts.read()?);
                while let Some(piece) = pieces.next().await? {
                    journal::divert(
                        &mut self.postgres,
                        cluster,
                        origin,
                        &piece,
                        reason.slug(),
                        &why,
                    )
                    .await?;
                    // A sign of life: the server is not read meanwhile, and must not give up on us.
                    let (received, at) = (self.received.max(self.confirmed), self.confirmed);
                    self.stream.confirm(received, at, at).await.context("confirm the slot")?;
                }
            }
        }
        self.capture.positions.seen(lsn);
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        if !self.batch.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            self.batch_bytes = 0;
            let end = self.capture.log.append(batch).await.context("append to the log")?;
            self.capture.positions.flushed(end);
        }
        if !self.batch_barriers.is_empty() {
            let barriers = std::mem::take(&mut self.batch_barriers);
            self.capture.barriers.send_modify(|known| known.extend(barriers));
        }
        Ok(())
    }

    /// Do commits wait for what is confirmed?
    fn is_waited_for(&self) -> bool {
        self.capture.config.rpo != Rpo::None
    }

    async fn confirm(&mut self, always: bool) -> anyhow::Result<()> {
        let CaptureConfig { rpo, clock, lease, continuity, .. } = &self.capture.config;
        let lease_until = lease.borrow().lease_until;
        // The time last: what is confirmed goes out at once.
        let lsn = self.capture.positions.confirmable(*rpo, clock.now(), lease_until);
        let lsn = continuity.confirmable(lsn);
        if !always && lsn > self.confirmed && !self.is_waited_for() {
            self.confirm_at.get_or_insert(Instant::now() + CONFIRM_AFTER);
        } else if always || lsn > self.confirmed {
            self.confirm_at = None;
            self.confirmed = self.confirmed.max(lsn);
            self.capture.positions.confirmed(self.confirmed);
            // A standby that has not even received what was sent is pinged without a pause.
            let (received, at) = (self.received.max(self.confirmed), self.confirmed);
            self.stream.confirm(received, at, at).await.context("confirm the slot")?;
            if self.is_waited_for() {
                let origin = self.capture.config.origin.clone();
                self.capture.positions.released(Some(Cut { origin, lsn: at }));
            }
        }
        Ok(())
    }
}

/// PostgreSQL began to send changes and cannot go on.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Refused(ServerError);

fn refused(error: StreamError) -> anyhow::Error {
    match error {
        StreamError::Server(error) => Refused(error).into(),
        other => other.into(),
    }
}

async fn next_after(lull: Instant, stream: &mut Stream) -> Result<Event, StreamError> {
    if lull > Instant::now() {
        sleep_until(lull).await;
    }
    stream.next().await
}

/// A sentence for the journal.
pub fn explain(reason: &Reason) -> String {
    match reason {
        Reason::BeyondCut(cut) => {
            format!("written after {cut}, where the owner's epoch ends: it was not shipped in time")
        }
        Reason::Unstamped => "written past the guard: no stamp names its partition".into(),
        Reason::NeverGranted(stamp) => format!(
            "written to partition {} at epoch {}, which this region was never granted",
            stamp.partition, stamp.epoch
        ),
    }
}
