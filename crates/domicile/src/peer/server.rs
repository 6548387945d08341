//! What do we tell other regions? Our logs, our promises, our rows, our state.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domicile_core::config::Config;
use domicile_core::id::{Origin, PartitionId, RegionId, RunId, TableName};
use domicile_core::lsn::Lsn;
use domicile_core::ownership::Ownership;
use domicile_core::progress::Progress;
use futures_util::future::Either;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::intake::Intake;
use super::mark::Marker;
use super::{HEARTBEAT_EVERY, MESSAGE_BYTES_MAX, compare, lift_epochs, lower_epochs, outcome};
use crate::directory::view::OwnershipView;
use crate::gateway::{WarmUps, WarmedUp};
use crate::log::{Frame, Log, LogError, Logs, PartReader};
use crate::positions::Positions;
use crate::postgres::canary::Canary;
use crate::postgres::rows::{self, Found};
use crate::postgres::session;
use crate::promises;
use crate::proto::peer_server::{Peer, PeerServer};
use crate::proto::subscribe_request::{Kind, Open};
use crate::proto::{
    CloseSnapshotRequest, CloseSnapshotResponse, CompareRequest, CompareResponse, CopyOutRequest,
    CopyOutResponse, DescribeRequest, DescribeResponse, FetchRowsRequest, FetchRowsResponse,
    MakeDurableRequest, MakeDurableResponse, MarkRequest, MarkResponse, OpenSnapshotRequest,
    OpenSnapshotResponse, OutcomeRequest, OutcomeResponse, Position, ProbeRequest, ProbeResponse,
    PromiseRequest, PromiseResponse, Records, RepairRequest, RepairResponse, SealRequest,
    SealResponse, StatusRequest, StatusResponse, SubscribeRequest, Value, WarmUpRequest,
    WarmUpResponse, WriteLateRequest, WriteLateResponse, fetch_rows_response, seal_response,
};
use crate::seed::source::Snapshots;
use crate::status::{RegionStatus, log_ends};
use crate::tls::{self, Credentials};

/// Bytes of records sent in one message, unless one record alone is longer.
const SEND_BYTES_MAX: usize = 1024 * 1024;

/// For the sake of what a lost peer holds here alone: it may take a narrow link many seconds to let a question
/// pass behind what was sent before.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// More than that in one message would look like silence on a narrow link, and wait in memory.
const PIECE_BYTES_MAX: usize = 128 * 1024;

/// No request to open sessions is worked at for longer.
const WARM_UP_MAX: Duration = Duration::from_secs(600);

/// Everything the server answers from.
pub struct Desk {
    pub config: Arc<Config>,
    pub region: RegionId,
    pub origin: Origin,
    pub logs: Logs,
    pub positions: Positions,
    pub intake: Arc<Intake>,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    pub status: watch::Receiver<Arc<RegionStatus>>,
    pub warm_ups: WarmUps,
    /// A witness has none.
    pub tables: Option<Tables>,
}

/// What is answered from PostgreSQL.
pub struct Tables {
    pub postgres: String,
    pub canary: Canary,
    pub marker: Marker,
    pub snapshots: Snapshots,
    /// By whose cuts every record here was judged.
    pub examined: watch::Receiver<Option<Arc<Ownership>>>,
    /// They do not show yet what others may ask for.
    pub newcomer: bool,
}

impl Desk {
    /// Fails unless all that lies past the cuts of this revision of the ownership is known for it: in
    /// our log, and what our tables show of it marked for repair.
    fn judged(&self, tables: &Tables, revision: u64) -> Result<(), Status> {
        let (view, examined) = (self.ownership.borrow(), tables.examined.borrow());
        if view.revision < revision || view.ownership.as_ref() != examined.as_deref() {
            return Err(Status::failed_precondition(
                "what lies past the newest cuts is not known here yet",
            ));
        }
        Ok(())
    }
}

/// Serves peers until `shutdown`. A connection that breaks the protocol is closed, no more.
pub async fn serve(
    desk: Desk,
    listener: TcpListener,
    credentials: Option<Arc<Credentials>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let service = PeerServer::new(Service { desk: Arc::new(desk) })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(service);
    let serving = match credentials {
        None => Either::Left(server.serve_with_incoming(incoming(listener))),
        Some(credentials) => {
            Either::Right(server.serve_with_incoming(tls::incoming(listener, credentials)))
        }
    };
    // Those who follow a log would never have done. They are answered for as long as the agent still runs, and go on
    // once it is back.
    tokio::select! {
        served = serving => served?,
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

/// Connections that send at once what they have: a commit waits for it.
fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

struct Service {
    desk: Arc<Desk>,
}

type RecordStream = Pin<Box<dyn Stream<Item = Result<Records, Status>> + Send>>;
type CopyStream = Pin<Box<dyn Stream<Item = Result<CopyOutResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for Service {
    type SubscribeStream = RecordStream;
    type CopyOutStream = CopyStream;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<RecordStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|m| m.kind);
        let Some(Kind::Open(open)) = first else {
            return Err(Status::invalid_argument("the first message opens the subscription"));
        };
        let subscription = self.open(&open)?;
        let (sender, receiver) = mpsc::channel(8);
        let ours = subscription.origin == self.desk.origin;
        let log = subscription.log.clone();
        let judged = (!ours).then(|| self.desk.intake.clone());
        let piece_bytes_max = if open.pieces { PIECE_BYTES_MAX } else { usize::MAX };
        let outgoing = Outgoing { log, judged, piece_bytes_max, sender: sender.clone() };
        tokio::spawn(async move {
            if let Err(status) = outgoing.send_after(subscription.after).await {
                let _ = sender.send(Err(status)).await;
            }
        });
        if ours {
            let positions = self.desk.positions.clone();
            let peer = subscription.peer;
            tokio::spawn(async move {
                while let Ok(Some(message)) = requests.message().await {
                    if let Some(Kind::Progress(progress)) = message.kind {
                        let revision = progress.ownership_revision;
                        positions.peer(&peer, lift_progress(progress), revision);
                    }
                }
            });
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn seal(&self, request: Request<SealRequest>) -> Result<Response<SealResponse>, Status> {
        let request = request.into_inner();
        self.same_cluster(&request.cluster)?;
        let region = self.known_region(&request.origin_region)?;
        let epochs = lift_epochs(&request.epochs);
        let sealed = self.desk.intake.seal(&region, &epochs).await.map_err(internal)?;
        let held = sealed
            .held
            .into_iter()
            .map(|cut| seal_response::Held { origin: cut.origin.to_string(), lsn: cut.lsn.0 });
        let promised_ms = sealed.promised.0;
        Ok(Response::new(SealResponse { held: held.collect(), promised_ms }))
    }

    async fn promise(
        &self,
        request: Request<PromiseRequest>,
    ) -> Result<Response<PromiseResponse>, Status> {
        let request = request.into_inner();
        self.same_cluster(&request.cluster)?;
        let region = self.known_region(&request.region)?;
        let asked = promises::lift(&request, region);
        let promised = self.desk.intake.promise(&asked).await;
        promised.map_err(|why| Status::failed_precondition(why.to_string()))?;
        Ok(Response::new(PromiseResponse {}))
    }

    async fn fetch_rows(
        &self,
        request: Request<FetchRowsRequest>,
    ) -> Result<Response<FetchRowsResponse>, Status> {
        let tables = self.joined()?;
        let request = request.into_inner();
        self.desk.judged(tables, request.ownership)?;
        let table = TableName::new(request.schema, request.table);
        let keys: Vec<rows::Key> = request
            .keys
            .into_iter()
            .map(|key| {
                let values = key.values.into_iter().map(lift_value);
                key.columns.into_iter().zip(values).collect()
            })
            .collect();
        let mut client =
            session::connect(&tables.postgres, "domicile rows").await.map_err(internal)?;
        let found =
            rows::fetch(&mut client, &self.desk.origin, &table, &keys).await.map_err(internal)?;
        // Our own part of the frontier, as a place in our log: everything that these rows show of
        // our commits is captured by then.
        let mut frontier = found.frontier;
        let shown = frontier.get(&self.desk.origin);
        let in_log = tables.marker.log_end_at(shown).await;
        let in_log = in_log.map_err(|e| internal(format!("{e:#}")))?;
        frontier = frontier
            .iter()
            .filter(|(o, _)| **o != self.desk.origin)
            .map(|(o, l)| (o.clone(), l))
            .collect();
        frontier.advance(&self.desk.origin, in_log);
        let lower_row = |row: Found| {
            let in_question = matches!(row, Found::InQuestion);
            let values = match row {
                Found::Row(values) => values,
                Found::Absent | Found::InQuestion => Vec::new(),
            };
            let values = values.into_iter().map(lower_value).collect();
            fetch_rows_response::Row { values, in_question }
        };
        Ok(Response::new(FetchRowsResponse {
            columns: found.columns,
            rows: found.rows.into_iter().map(lower_row).collect(),
            frontier: frontier
                .iter()
                .map(|(origin, lsn)| Position { origin: origin.to_string(), lsn: lsn.0 })
                .collect(),
        }))
    }

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let described = compare::describe(&self.tables()?.postgres, request.into_inner()).await;
        described.map(Response::new).map_err(internal)
    }

    async fn compare(
        &self,
        request: Request<CompareRequest>,
    ) -> Result<Response<CompareResponse>, Status> {
        let (tables, config) = (self.joined()?, &self.desk.config);
        let answered = compare::answer(&tables.postgres, config, request.into_inner()).await;
        answered.map(Response::new).map_err(internal)
    }

    async fn mark(&self, _: Request<MarkRequest>) -> Result<Response<MarkResponse>, Status> {
        let marked = self.joined()?.marker.mark().await.map_err(|e| internal(format!("{e:#}")))?;
        let position =
            |(origin, lsn): (&Origin, Lsn)| Position { origin: origin.to_string(), lsn: lsn.0 };
        Ok(Response::new(MarkResponse {
            log_end: Some(position((&self.desk.origin, marked.end))),
            next_xid: marked.next_xid,
            owns: lower_epochs(&marked.owned),
            // Read last: all that could be seen by then.
            shown: self.desk.positions.needs().iter().map(position).collect(),
        }))
    }

    async fn repair(
        &self,
        request: Request<RepairRequest>,
    ) -> Result<Response<RepairResponse>, Status> {
        let request = request.into_inner();
        self.known_region(&request.source)?;
        compare::mark_rows(&self.tables()?.postgres, request).await.map_err(internal)?;
        Ok(Response::new(RepairResponse {}))
    }

    async fn open_snapshot(
        &self,
        request: Request<OpenSnapshotRequest>,
    ) -> Result<Response<OpenSnapshotResponse>, Status> {
        let request = request.into_inner();
        self.same_cluster(&request.cluster)?;
        let snapshots = &self.joined()?.snapshots;
        self.known_region(&request.region)?;
        let told = match request.snapshot {
            None => snapshots.open().await.map_err(internal)?,
            Some(name) => {
                let gone = || Status::not_found(format!("snapshot {name} is not open"));
                snapshots.again(&name).await.ok_or_else(gone)?
            }
        };
        Ok(Response::new(told))
    }

    async fn copy_out(
        &self,
        request: Request<CopyOutRequest>,
    ) -> Result<Response<CopyStream>, Status> {
        let request = request.into_inner();
        self.same_cluster(&request.cluster)?;
        let (sender, receiver) = mpsc::channel(8);
        let snapshots = self.tables()?.snapshots.clone();
        tokio::spawn(async move {
            if let Err(error) = snapshots.copy_out(request, &sender).await {
                let _ = sender.send(Err(internal(format!("{error:#}")))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn close_snapshot(
        &self,
        request: Request<CloseSnapshotRequest>,
    ) -> Result<Response<CloseSnapshotResponse>, Status> {
        let request = request.into_inner();
        self.same_cluster(&request.cluster)?;
        self.tables()?.snapshots.close(&request.snapshot);
        Ok(Response::new(CloseSnapshotResponse {}))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let mut status = RegionStatus::clone(&self.desk.status.borrow());
        // Not as of the last report: an acknowledgement that came before the question is in it.
        status.flushed = log_ends(&self.desk.logs);
        let json = serde_json::to_string(&status).map_err(internal)?;
        Ok(Response::new(StatusResponse { json }))
    }

    async fn probe(
        &self,
        request: Request<ProbeRequest>,
    ) -> Result<Response<ProbeResponse>, Status> {
        let wanted = request.into_inner().partition.map(PartitionId);
        let answer = match self.probe_guard(wanted).await {
            Ok(()) => ProbeResponse { writable: true, reason: String::new() },
            Err(error) => ProbeResponse { writable: false, reason: format!("{error:#}") },
        };
        Ok(Response::new(answer))
    }

    async fn make_durable(
        &self,
        request: Request<MakeDurableRequest>,
    ) -> Result<Response<MakeDurableResponse>, Status> {
        self.same_cluster(&request.into_inner().cluster)?;
        let marker = &self.joined()?.marker;
        let origin = marker.make_durable().await.map_err(|e| internal(format!("{e:#}")))?;
        Ok(Response::new(MakeDurableResponse { origin: origin.to_string() }))
    }

    async fn outcome(
        &self,
        request: Request<OutcomeRequest>,
    ) -> Result<Response<OutcomeResponse>, Status> {
        let request = request.into_inner();
        self.same_cluster(&request.cluster)?;
        let token = outcome::lift_asked(request);
        let token = token.map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let told = outcome::tell(&self.desk, &token).await.map_err(internal)?;
        Ok(Response::new(outcome::lower(told)))
    }

    async fn write_late(
        &self,
        request: Request<WriteLateRequest>,
    ) -> Result<Response<WriteLateResponse>, Status> {
        let request = request.into_inner();
        self.same_cluster(&request.cluster)?;
        let (tables, run) = (self.joined()?, RunId(request.run));
        let view = self.desk.ownership.borrow().clone();
        let epoch = view.ownership.as_ref().and_then(|o| o.canary_cut_by(&run, &self.desk.region));
        let unknown = || Status::failed_precondition("the canary is not known to be cut here yet");
        let written = tables.canary.write_late(epoch.ok_or_else(unknown)?, &run.0).await;
        written.map_err(|why| Status::failed_precondition(format!("{why:#}")))?;
        Ok(Response::new(WriteLateResponse {}))
    }

    async fn warm_up(
        &self,
        request: Request<WarmUpRequest>,
    ) -> Result<Response<WarmUpResponse>, Status> {
        let request = request.into_inner();
        self.same_cluster(&request.cluster)?;
        let to = self.known_region(&request.to)?;
        let within = Duration::from_millis(request.within_ms).min(WARM_UP_MAX);
        let WarmedUp { ready, wanted } = self.desk.warm_ups.warm_up(&to, within).await;
        tracing::info!(run = request.run, %to, ready, wanted, "sessions were opened ahead");
        Ok(Response::new(WarmUpResponse { ready: ready as u64, wanted: wanted as u64 }))
    }
}

struct Subscription {
    peer: RegionId,
    origin: Origin,
    log: Log,
    after: Lsn,
}

impl Service {
    fn open(&self, open: &Open) -> Result<Subscription, Status> {
        self.same_cluster(&open.cluster)?;
        let peer = self.known_region(&open.region)?;
        let origin: Origin =
            open.origin.parse().map_err(|e| Status::invalid_argument(format!("{e}")))?;
        self.known_region(origin.region.as_str())?;
        let log = self
            .desk
            .logs
            .get(&origin)
            .ok_or_else(|| Status::not_found(format!("no log of origin {origin} here")))?;
        Ok(Subscription { peer, origin, log, after: Lsn(open.after_lsn) })
    }

    fn same_cluster(&self, cluster: &str) -> Result<(), Status> {
        if cluster == self.desk.config.cluster {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "this is cluster \"{}\", not \"{cluster}\"",
            self.desk.config.cluster
        )))
    }

    fn tables(&self) -> Result<&Tables, Status> {
        let witness = || format!("{} is a witness and has no tables", self.desk.region);
        self.desk.tables.as_ref().ok_or_else(|| Status::failed_precondition(witness()))
    }

    /// The tables of a member.
    fn joined(&self) -> Result<&Tables, Status> {
        let newcomer = || format!("region {} has not joined the cluster yet", self.desk.region);
        match self.tables()? {
            Tables { newcomer: true, .. } => Err(Status::failed_precondition(newcomer())),
            tables => Ok(tables),
        }
    }

    fn known_region(&self, name: &str) -> Result<RegionId, Status> {
        let mut known = self.desk.config.holders().map(|(holder, _)| holder);
        let known = known.find(|holder| holder.as_str() == name);
        known
            .cloned()
            .ok_or_else(|| Status::permission_denied(format!("there is no region \"{name}\"")))
    }

    async fn probe_guard(&self, wanted: Option<PartitionId>) -> anyhow::Result<()> {
        let tables = self.tables()?;
        let view = self.desk.ownership.borrow().clone();
        let owned = view
            .ownership
            .as_ref()
            .and_then(|o| o.writable_by(&self.desk.region).next())
            .map(|entry| PartitionId(entry.range.first));
        let partition = wanted.or(owned);
        let partition = partition
            .ok_or_else(|| anyhow::anyhow!("this region owns no partition to write to"))?;
        tables.canary.write(partition, "probe").await
    }
}

/// One log on its way to one subscriber.
struct Outgoing {
    log: Log,
    /// Who has left out of it what does not belong to the history, if it is a copy.
    judged: Option<Arc<Intake>>,
    piece_bytes_max: usize,
    sender: mpsc::Sender<Result<Records, Status>>,
}

impl Outgoing {
    /// Sends everything after `after`, then whatever comes, with heartbeats in between.
    async fn send_after(&self, after: Lsn) -> Result<(), Status> {
        let mut reader = self.log.read(after);
        let mut end = self.log.watch_end();
        // Said at once, so that the subscriber knows that the stream stands.
        let mut heartbeat = true;
        loop {
            end.mark_unchanged();
            let frames = match reader.next_frames(SEND_BYTES_MAX).await {
                Err(LogError::Trimmed { trimmed, .. }) => {
                    let trimmed_lsn = Some(trimmed.0);
                    let end_lsn = self.log.end().0;
                    let records = Records { end_lsn, trimmed_lsn, ..Records::default() };
                    let _ = self.sender.send(Ok(records)).await;
                    return Ok(());
                }
                other => other.map_err(internal)?,
            };
            let quiet = frames.is_none();
            if !quiet || heartbeat {
                let frames = frames.unwrap_or_default();
                let parts = frames.last().map(|last| reader.parts_of(last)).transpose();
                let parts = parts.map_err(internal)?.flatten();
                if !self.send(&frames).await {
                    return Ok(());
                }
                if let Some(parts) = parts
                    && !self.send_parts(parts).await?
                {
                    return Ok(());
                }
            }
            heartbeat = false;
            if quiet {
                tokio::select! {
                    changed = end.changed() => {
                        changed.map_err(|_| Status::unavailable("the log is closed"))?;
                    }
                    () = tokio::time::sleep(HEARTBEAT_EVERY) => heartbeat = true,
                    () = self.sender.closed() => return Ok(()),
                }
            }
        }
    }

    /// Sends what belongs to the large record that was just sent. Returns whether anybody listens.
    async fn send_parts(&self, mut parts: PartReader) -> Result<bool, Status> {
        while let Some(part) = parts.next_frame().await.map_err(internal)? {
            if !self.send(&[part]).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn send(&self, frames: &[Frame]) -> bool {
        let mut bytes = match frames {
            [one] => one.bytes.clone(),
            frames => {
                let mut bytes = BytesMut::new();
                for frame in frames {
                    bytes.extend_from_slice(&frame.bytes);
                }
                Bytes::from(bytes)
            }
        };
        while bytes.len() > self.piece_bytes_max {
            let frames = bytes.split_to(self.piece_bytes_max);
            let piece = Records { frames, more: true, ..Records::default() };
            if self.sender.send(Ok(piece)).await.is_err() {
                return false;
            }
        }
        let end_lsn = self.log.end().0;
        // Read after the frames: what is missing in them was left out by this ownership or before.
        let revision = match &self.judged {
            None => 0,
            // By which one it was left out in an earlier life nobody knows yet: nobody goes on here.
            Some(intake) => intake.revision().unwrap_or(u64::MAX),
        };
        let ownership_revision = revision;
        let records = Records { frames: bytes, end_lsn, ownership_revision, ..Records::default() };
        self.sender.send(Ok(records)).await.is_ok()
    }
}

fn lift_progress(progress: crate::proto::subscribe_request::Progress) -> Progress {
    Progress {
        received: Lsn(progress.received),
        flushed: Lsn(progress.flushed),
        applied: Lsn(progress.applied),
    }
}

pub(crate) fn lift_value(value: Value) -> Option<String> {
    value.text.map(|text| String::from_utf8_lossy(&text).into_owned())
}

pub(crate) fn lower_value(value: Option<String>) -> Value {
    Value { text: value.map(Bytes::from) }
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;
    use tokio_stream::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn nothing_that_is_sent_to_a_peer_waits_for_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let accepted = incoming(listener).next().await.unwrap().unwrap();
        assert!(accepted.nodelay().unwrap(), "a small message would wait for an acknowledgement");
    }
}
