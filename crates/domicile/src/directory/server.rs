//! Who may ask the embedded directory, and how does it answer? gRPC in, `Store` behind.
//!
//! **Invariant:** nothing a client sends stops the server; only a failing disk does. After a
//! failed commit nobody knows what is on disk, so the server ends instead of answering from
//! memory, and whoever starts it again reads the disk anew.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::Stream;
use futures_util::future::Either;
use futures_util::stream::try_unfold;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tracing::{error, info, warn};

use super::events::{Compacted, Event};
use super::limits::check_prefix;
use super::store::{Store, StoreError};
use super::{Document, MESSAGE_BYTES_MAX, Snapshot, Written};
use crate::proto;
use crate::proto::directory_server::{Directory, DirectoryServer};
use crate::tls::{self, Credentials};

/// How often an idle connection is asked for a sign of life.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How long that sign may take before the connection is given up.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long open calls may take to end once the server was told to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Most calls at work at once on one connection, watches included.
const CALLS_PER_CONNECTION_MAX: u32 = 256;

#[derive(Clone)]
pub struct DirectoryConfig {
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Folder of the directory's file, created when missing. One process at a time.
    pub data: PathBuf,
    /// Who may connect; anybody without it, and in the clear.
    pub credentials: Option<Arc<Credentials>>,
}

impl DirectoryConfig {
    /// Returns the listener for [`serve`].
    pub async fn bind(&self) -> anyhow::Result<TcpListener> {
        let listener = TcpListener::bind(self.listen).await;
        listener.with_context(|| format!("listen on {}", self.listen))
    }
}

/// Serves the directory on `listener` until `shutdown`, or until its disk fails.
///
/// When this returns, the folder may be opened again.
pub async fn serve(
    config: DirectoryConfig,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let folder = config.data.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(&folder)).await?;
    let store = Arc::new(store.context("open directory")?);
    let address = listener.local_addr().context("read listen address")?;
    info!(%address, data = %config.data.display(), "directory is ready");

    let (stop, broken) = (shutdown.child_token(), CancellationToken::new());
    let service =
        Service { store: Arc::downgrade(&store), stop: stop.clone(), broken: broken.clone() };
    let service = DirectoryServer::new(service).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .add_service(service);
    let stopped = stop.clone().cancelled_owned();
    let serving = match config.credentials {
        None => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Either::Left(server.serve_with_incoming_shutdown(incoming, stopped))
        }
        Some(credentials) => {
            let incoming = tls::incoming(listener, credentials);
            Either::Right(server.serve_with_incoming_shutdown(incoming, stopped))
        }
    };
    let overdue = async {
        tokio::select! {
            () = stop.cancelled() => (),
            () = broken.cancelled() => stop.cancel(),
        }
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    };
    tokio::select! {
        served = serving => served.context("serve directory")?,
        () = overdue => warn!("directory stopped with connections still open"),
    }
    if broken.is_cancelled() {
        bail!("write to the directory's disk");
    }
    Ok(())
}

/// One for all connections. A connection that outlives the server must not keep the file
/// locked: so only `serve` holds the store.
struct Service {
    store: Weak<Store>,
    stop: CancellationToken,
    /// Cancelled at the first failure of the disk.
    broken: CancellationToken,
}

impl Service {
    /// Runs `work` where it may block. It runs to its end even if the caller goes away, so a
    /// write whose caller gave up is still published.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let store = self.store.upgrade().ok_or_else(stopping)?;
        let broken = self.broken.clone();
        let task = tokio::task::spawn_blocking(move || {
            work(&store).inspect_err(|error| {
                if let StoreError::Disk(_) = error {
                    error!("failed to use the directory's disk: {error}");
                    broken.cancel();
                }
            })
        });
        let done = task.await.map_err(|error| Status::internal(error.to_string()))?;
        done.map_err(|error| lower_error(&error))
    }
}

type EventStream = Pin<Box<dyn Stream<Item = Result<proto::WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Directory for Service {
    async fn read(
        &self,
        request: Request<proto::ReadRequest>,
    ) -> Result<Response<proto::ReadResponse>, Status> {
        let prefix = request.into_inner().prefix;
        let snapshot = self.blocking(move |store| store.read(&prefix)).await?;
        Ok(Response::new(lower_snapshot(snapshot)))
    }

    async fn write(
        &self,
        request: Request<proto::WriteRequest>,
    ) -> Result<Response<proto::WriteResponse>, Status> {
        let proto::WriteRequest { key, expected_revision, value } = request.into_inner();
        let written =
            self.blocking(move |store| store.write(&key, expected_revision, value)).await?;
        let (written, revision) = match written {
            Written::At(revision) => (true, revision),
            Written::Conflict(revision) => (false, revision),
        };
        Ok(Response::new(proto::WriteResponse { written, revision }))
    }

    type WatchStream = EventStream;

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<EventStream>, Status> {
        let proto::WatchRequest { prefix, from_revision: seen } = request.into_inner();
        check_prefix(&prefix).map_err(|error| lower_error(&StoreError::OutOfLimits(error)))?;
        // A revision that was never given out comes from a store with another past.
        let revision = self.blocking(|store| store.revision()).await?;
        if seen > revision {
            return Err(Status::out_of_range(format!("store is at revision {revision}")));
        }
        let store = self.store.upgrade().ok_or_else(stopping)?;
        store.events().after(seen, &prefix).map_err(compacted)?;
        let last = store.events().last();
        let watcher =
            Watcher { store: self.store.clone(), last, prefix, seen, stop: self.stop.clone() };
        Ok(Response::new(Box::pin(try_unfold(watcher, Watcher::next))))
    }
}

/// One watch, driven by how fast its client reads.
struct Watcher {
    store: Weak<Store>,
    last: watch::Receiver<u64>,
    prefix: String,
    seen: u64,
    stop: CancellationToken,
}

impl Watcher {
    /// Waits for the next events under the prefix; never ends but with a status.
    async fn next(mut self) -> Result<Option<(proto::WatchResponse, Self)>, Status> {
        loop {
            // Before looking: an event published after this wakes the wait below.
            self.last.mark_unchanged();
            let batch = {
                let store = self.store.upgrade().ok_or_else(stopping)?;
                store.events().after(self.seen, &self.prefix).map_err(compacted)?
            };
            let advanced = batch.seen > self.seen;
            self.seen = batch.seen;
            if !batch.events.is_empty() {
                let events = batch.events.into_iter().map(lower_event).collect();
                return Ok(Some((proto::WatchResponse { events }, self)));
            }
            if !advanced {
                tokio::select! {
                    changed = self.last.changed() => changed.map_err(|_| stopping())?,
                    () = self.stop.cancelled() => return Err(stopping()),
                }
            }
        }
    }
}

fn stopping() -> Status {
    Status::unavailable("directory is stopping")
}

fn compacted(_: Compacted) -> Status {
    Status::out_of_range("compacted")
}

fn lower_error(error: &StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::OutOfLimits(_) => Status::invalid_argument(text),
        // Of what was asked it says nothing.
        StoreError::Moved => Status::aborted(text),
        StoreError::InUse { .. } | StoreError::Format { .. } | StoreError::Folder { .. } => {
            Status::failed_precondition(text)
        }
        StoreError::Disk(_) => Status::internal(text),
    }
}

fn lower_snapshot(snapshot: Snapshot) -> proto::ReadResponse {
    let lower = |Document { key, value, revision }| proto::Document { key, value, revision };
    proto::ReadResponse {
        documents: snapshot.documents.into_iter().map(lower).collect(),
        revision: snapshot.revision,
    }
}

fn lower_event(Event { key, value, revision }: Event) -> proto::watch_response::Event {
    proto::watch_response::Event { key, value, revision }
}
