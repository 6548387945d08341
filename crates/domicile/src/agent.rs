//! One region's agent: the one place where the parts are built and joined.
//!
//! ```text
//!   tenure ── lease, guard ──> PostgreSQL ──slot──> capture ──> log <──peer server──> others
//!     │ barriers <──────────────────────────────────┘            │
//!     └── directory <── operator <── observer          followers ┴> logs ──> appliers ──> PostgreSQL
//! ```
//!
//! Holds no logic: each part is given what it needs and runs until the token is cancelled.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domicile_core::config::{self, Config, GatewayPort, Identity, Region};
use domicile_core::freshness::Freshness;
use domicile_core::id::{Origin, RegionId};
use domicile_core::lsn::Lsn;
use domicile_core::ownership::Ownership;
use domicile_core::partition::Scheme;
use domicile_core::progress::Rpo;
use domicile_core::route::router::Router;
use domicile_core::runbook::safety::Safety;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, RwLock, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::capture::{Capture, CaptureConfig};
use crate::clock::Clock;
use crate::continuity::{self, Continuity};
use crate::copies::{self, Copies};
use crate::directory::documents::{INCARNATION_PREFIX, LEASE_PREFIX, RESEED_PREFIX, RUN_PREFIX};
use crate::directory::{self, safety, view};
use crate::dns;
use crate::durable::Durability;
use crate::front::{self, Upstream};
use crate::gateway::{self, Gateway, Mode, Routes, WarmUps};
use crate::health;
use crate::kill_at::KillAt;
use crate::log::{Log, LogState, Logs, Room};
use crate::metrics;
use crate::notices::Notices;
use crate::observe::{Observer, Sources};
use crate::operate::Operator;
use crate::origins::{self, Origins};
use crate::pages;
use crate::passed_over::Comparer;
use crate::peer::client::Follower;
use crate::peer::intake::Intake;
use crate::peer::mark::Marker;
use crate::peer::server::{Desk, Tables};
use crate::positions::Positions;
use crate::postgres::canary::Canary;
use crate::postgres::database::Database;
use crate::postgres::pulse::{Listener, Silence};
use crate::postgres::slot;
use crate::promises::Given;
use crate::recover::Recovery;
use crate::repair::Repairer;
use crate::report::Reporter;
use crate::reseed::Reseeder;
use crate::retain::Retainer;
use crate::routes::RoutePublisher;
use crate::seed::Newcomer;
use crate::seed::source::Snapshots;
use crate::shared::Keeper;
use crate::staleness::Staleness;
use crate::status::{RegionStatus, SeedingStatus};
use crate::tail::{Examined, Tails};
use crate::tenure::{Tenure, TenureState};
use crate::tls::{self, Credentials, Protocol, Shown};
use crate::tokens::Tokens;
use crate::{guards, log, peer, sockets};

/// How long a region that was a member starts up without knowing whether it still is one.
const DIRECTORY_WAIT_MAX: Duration = Duration::from_secs(3);
const PARK_BUDGET: Duration = Duration::from_secs(10);

/// Why an agent has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Stopped,
    /// Another incarnation of its log begins, or the region has joined the cluster: it has to start
    /// anew.
    Anew,
}

/// Runs the agent of `region` until `shutdown`.
pub async fn run(
    config: Config,
    region: RegionId,
    shutdown: CancellationToken,
) -> anyhow::Result<Ended> {
    let config = Arc::new(config);
    let here =
        config.region(&region).with_context(|| format!("there is no region \"{region}\""))?;
    let listeners = Listeners::bind(here).await?;
    // For whatever clients need until the last of them is served: the lease, the copies that commits wait for.
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let parts = Parts::build(config.clone(), here.clone(), &stop).await?;
    let (origin, logs) = (parts.origin.clone(), parts.logs.clone());
    let mut incarnations = parts.incarnations.clone();
    let (mut tasks, joined) = (JoinSet::new(), CancellationToken::new());
    let is_newcomer = tokio::select! {
        is_newcomer = parts.is_newcomer() => is_newcomer,
        () = shutdown.cancelled() => return Ok(Ended::Stopped),
    };
    if is_newcomer {
        parts.start_newcomer(listeners, &joined, &stop, &mut tasks)?;
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            shutdown.cancelled().await;
            stop.cancel();
        });
        tracing::info!(%region, %origin, "agent started; the region is not a member of the cluster yet");
    } else {
        parts.start(listeners, &shutdown, &stop, &mut tasks).await?;
        tracing::info!(%region, %origin, "agent started");
    }
    loop {
        let named = origins::incarnation(&incarnations.borrow_and_update(), &region);
        if named > origin.incarnation {
            // Found when the agent starts anew.
            let next = Origin::new(region.clone(), named);
            logs.get_or_create(&next).context("make the log of the next incarnation")?;
            tracing::warn!(%next, "another incarnation begins: the agent starts anew");
            return Ok(Ended::Anew);
        }
        tokio::select! {
            Ok(()) = incarnations.changed() => {}
            () = joined.cancelled() => {
                tracing::info!(%region, "the region is a member now: the agent starts anew");
                return Ok(Ended::Anew);
            }
            ended = tasks.join_next() => match ended {
                None => return Ok(Ended::Stopped),
                Some(Err(panic)) => {
                    // A part that is gone leaves the agent half alive: better not at all.
                    shutdown.cancel();
                    return Err(panic).context("a part of the agent stopped");
                }
                Some(Ok(())) if shutdown.is_cancelled() => {}
                Some(Ok(())) => {
                    shutdown.cancel();
                    anyhow::bail!("a part of the agent ended by itself");
                }
            },
        }
    }
}

struct Listeners {
    peer: TcpListener,
    gateway: (SocketAddr, Vec<(SocketAddr, Freshness)>),
    front: Option<TcpListener>,
    outlets: Outlets,
}

/// Where others may ask for what the agent knows, as far as somebody wants that.
struct Outlets {
    metrics: Option<TcpListener>,
    health: Option<TcpListener>,
    dns: Option<dns::Sockets>,
}

impl Listeners {
    async fn bind(here: &Region) -> anyhow::Result<Self> {
        let peer = listen(&here.peer_listen, "peers").await?;
        let outlets = Outlets::bind(here).await?;
        let front = match &here.http {
            Some(door) => Some(listen(&door.listen, "clients of HTTP").await?),
            None => None,
        };
        let mut ports = Vec::new();
        for GatewayPort { listen, freshness } in &here.gateway_ports {
            ports.push((resolve(listen).await?, *freshness));
        }
        let gateway = (resolve(&here.gateway_listen).await?, ports);
        Ok(Self { peer, gateway, front, outlets })
    }
}

impl Outlets {
    async fn bind(here: &Region) -> anyhow::Result<Self> {
        let metrics = Self::optional(&here.metrics, "readers of metrics").await?;
        let health = Self::optional(&here.health, "load balancers").await?;
        let dns = match &here.dns {
            Some(address) => Some(dns::Sockets::bind(resolve(address).await?).await?),
            None => None,
        };
        Ok(Self { metrics, health, dns })
    }

    async fn optional(address: &Option<String>, whom: &str) -> anyhow::Result<Option<TcpListener>> {
        match address {
            Some(address) => listen(address, whom).await.map(Some),
            None => Ok(None),
        }
    }
}

pub(crate) async fn listen(address: &str, whom: &str) -> anyhow::Result<TcpListener> {
    let listener = sockets::listen(resolve(address).await?).await;
    listener.with_context(|| format!("listen for {whom} on {address}"))
}

/// Serves until `shutdown`, whether or not that goes well. Who reads may keep a connection open: it is not
/// waited for.
pub(crate) async fn until(
    shutdown: CancellationToken,
    what: &'static str,
    serve: impl Future<Output = anyhow::Result<()>>,
) {
    let ended = tokio::select! {
        ended = serve => ended,
        () = shutdown.cancelled() => return,
    };
    tracing::error!("nobody can read {what} any more: {ended:?}");
    shutdown.cancelled().await;
}

async fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let mut found =
        tokio::net::lookup_host(address).await.with_context(|| format!("look up {address}"))?;
    found.next().with_context(|| format!("{address} has no address"))
}

/// What peers are answered by.
struct Answers {
    marker: Marker,
    examined: watch::Receiver<Option<Arc<Ownership>>>,
    newcomer: bool,
}

/// What tells when the rows here are history: tenure waits for it, replication brings it about.
struct Settled {
    judging: Arc<Mutex<()>>,
    examined: Examined,
    /// Counts repairs.
    repairs: watch::Sender<u64>,
}

/// Everything the parts share.
struct Parts {
    config: Arc<Config>,
    here: Region,
    origin: Origin,
    clock: Clock,
    logs: Logs,
    own_log: Log,
    positions: Positions,
    directory: directory::Client,
    ownership: watch::Receiver<Arc<view::OwnershipView>>,
    leases: watch::Receiver<Arc<directory::View>>,
    runs: watch::Receiver<Arc<directory::View>>,
    safety: watch::Receiver<Arc<Safety>>,
    reseeds: watch::Receiver<Arc<directory::View>>,
    incarnations: watch::Receiver<Arc<directory::View>>,
    notices: Notices,
    warm_ups: WarmUps,
    intake: Arc<Intake>,
    promises: Given,
    copies: Copies,
    peers: BTreeMap<RegionId, peer::Client>,
    credentials: Option<Arc<Credentials>>,
    /// The region's own.
    database: Database,
    continuity: Continuity,
    /// How far our own log was known to reach before damage to it was set aside.
    must_reach: Lsn,
}

impl Parts {
    async fn build(
        config: Arc<Config>,
        here: Region,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let data = PathBuf::from(&here.data);
        let room = Room::of(config.log.size_max);
        let record = continuity::Record::open(&data, &here.id)?;
        let (logs, opened) =
            Logs::open_in(&data, config.log.segment_bytes, room, config.log.compression)
                .context("open the logs")?;
        let newest = origins::incarnation_held(&logs, &here.id);
        let origin = Origin::new(here.id.clone(), newest);
        let copies = Copies::open(&data, config.rpo)?;
        let mut must_reach = Lsn::ZERO;
        for (of, opened) in opened {
            must_reach = must_reach.max(mend(&logs, &of, &opened, &origin, &copies).await?);
        }
        let own_log = logs.get_or_create(&origin)?;
        let credentials = Credentials::of(&config)?;
        let database: Database = here.postgres.parse().context("read the connection string")?;
        // What can never be connected by is told at once.
        database.tls.files()?;
        let directory = directory::Client::open(&config)?;
        let remembered = Examined::open(&data, &config.cluster).subscribe().borrow().clone();
        let ownership = view::follow(&directory, &config.cluster, remembered, stop.clone());
        let leases = directory.follow(LEASE_PREFIX, stop.clone());
        let runs = directory.follow(RUN_PREFIX, stop.clone());
        let safety = safety::follow(&directory, stop.clone());
        let reseeds = directory.follow(RESEED_PREFIX, stop.clone());
        let incarnations = directory.follow(INCARNATION_PREFIX, stop.clone());
        let clock = Clock::new();
        let promises = Given::new(clock, config.lease);
        let (known, given) = (ownership.clone(), promises.clone());
        let intake = Intake::open(logs.clone(), known, given, copies.clone(), &data)?;
        let intake = Arc::new(intake);
        let peers = peer::channels(&config, &here.id, credentials.as_ref())?;
        let notices = Notices::default();
        let continuity =
            Continuity::open(&config, record, origin.clone(), &logs, must_reach, notices.clone())?;
        let positions = Positions::new(own_log.end());
        positions.inherit(&own_log).await;
        for (before, log) in continuity::older(&logs, &origin) {
            // Whatever is written now may rest on it.
            positions.claim(&before, log.end());
        }
        Ok(Self {
            positions,
            clock,
            config,
            here,
            origin,
            logs,
            own_log,
            directory,
            ownership,
            leases,
            runs,
            safety,
            reseeds,
            incarnations,
            notices,
            warm_ups: WarmUps::default(),
            intake,
            promises,
            copies,
            peers,
            credentials,
            database,
            continuity,
            must_reach,
        })
    }

    /// Has this region to be seeded before it may take part?
    ///
    /// Where there is no ownership yet, the cluster begins with all regions. A region that has taken
    /// part before starts without a directory too: it gets no lease before it is asked.
    async fn is_newcomer(&self) -> bool {
        let mut ownership = self.ownership.clone();
        let known = ownership.wait_for(|view| view.connected || view.ownership.is_some());
        let known = match self.continuity.captured_before() {
            true => tokio::time::timeout(DIRECTORY_WAIT_MAX, known).await.ok(),
            false => Some(known.await),
        };
        let known = known.and_then(Result::ok).and_then(|view| view.ownership.clone());
        known.is_some_and(|ownership| !ownership.members().contains(&self.here.id))
    }

    /// Only what seeds this region and says how far that is.
    fn start_newcomer(
        self,
        listeners: Listeners,
        joined: &CancellationToken,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<()> {
        let tenure = watch::Sender::new(TenureState::default());
        let seeding = watch::Sender::new(SeedingStatus::default());
        let status = watch::Sender::new(Arc::new(RegionStatus::default()));
        let observer = self.observer(status.subscribe());
        let marker = self.marker(watch::Sender::new(TenureState::default()).subscribe());
        let nothing = watch::Sender::new(None).subscribe();
        let answers = Answers { marker, examined: nothing.clone(), newcomer: true };
        self.start_peer_server(listeners.peer, status.subscribe(), answers, stop, tasks);
        let nobody = (None, None);
        self.start_outlets(listeners.outlets, &status, &observer, nobody, stop, tasks)?;
        tasks.spawn(observer.clone().run(stop.clone()));
        let seen = Some(seeding.subscribe());
        let reporter = self.reporter(&observer, tenure.subscribe(), nothing, seen, status);
        tasks.spawn(reporter.run(stop.clone()));
        tasks.spawn(self.keeper_of_copies().run(stop.clone()));
        let (follower, regions) = (Box::new(self.follower(true)), self.other_regions());
        let newcomer = Newcomer {
            config: self.config,
            region: self.here.id,
            postgres: self.here.postgres,
            data: self.here.data.into(),
            logs: self.logs,
            continuity: self.continuity,
            directory: self.directory,
            ownership: self.ownership,
            incarnations: self.incarnations,
            peers: regions,
            follower,
            notices: self.notices,
            tenure,
            status: seeding,
        };
        tasks.spawn(newcomer.run(joined.clone(), stop.clone()));
        Ok(())
    }

    fn keeper_of_copies(&self) -> copies::Keeper {
        copies::Keeper {
            copies: self.copies.clone(),
            config: self.config.clone(),
            holder: self.here.id.clone(),
            logs: self.logs.clone(),
            directory: self.directory.clone(),
            ownership: self.ownership.clone(),
            incarnations: self.incarnations.clone(),
            notices: self.notices.clone(),
        }
    }

    fn observer(&self, own_status: watch::Receiver<Arc<RegionStatus>>) -> Observer {
        Observer::new(Sources {
            config: self.config.clone(),
            region: self.here.id.clone(),
            clock: self.clock,
            leases: self.leases.clone(),
            safety: self.safety.clone(),
            ownership: self.ownership.clone(),
            reseeds: self.reseeds.clone(),
            logs: self.logs.clone(),
            positions: self.positions.clone(),
            own_status,
            peers: self.peers.clone(),
            promises: self.promises.clone(),
        })
    }

    /// The peers that have tables.
    fn other_regions(&self) -> BTreeMap<RegionId, peer::Client> {
        let regions = self.peers.iter().filter(|(peer, _)| self.config.region(peer).is_some());
        regions.map(|(region, client)| (region.clone(), client.clone())).collect()
    }

    /// Makes what follows the log of an origin.
    fn follower(
        &self,
        begins_anywhere: bool,
    ) -> impl Fn(&Origin, Log) -> Follower + Send + Sync + use<> {
        let (cluster, region) = (self.config.cluster.clone(), self.here.id.clone());
        let (peers, intake) = (self.peers.clone(), self.intake.clone());
        let (copies, positions) = (self.copies.clone(), self.positions.clone());
        let directory = self.directory.clone();
        let (notices, is_waited_for) = (self.notices.clone(), self.config.rpo != Rpo::None);
        move |origin, log| {
            let mut sources: Vec<(RegionId, peer::Client)> =
                peers.iter().map(|(region, client)| (region.clone(), client.clone())).collect();
            sources.sort_by_key(|(region, _)| *region != origin.region);
            Follower {
                cluster: cluster.clone(),
                region: region.clone(),
                origin: origin.clone(),
                log,
                sources,
                intake: intake.clone(),
                copies: copies.clone(),
                positions: positions.clone(),
                directory: directory.clone(),
                notices: notices.clone(),
                begins_anywhere,
                is_waited_for,
            }
        }
    }

    async fn start(
        self,
        listeners: Listeners,
        shutdown: &CancellationToken,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<()> {
        let tenure_state = watch::Sender::new(TenureState::default());
        let status = watch::Sender::new(Arc::new(RegionStatus::default()));
        let silence = watch::Sender::new(Silence::default());
        let capture = self.capture(tenure_state.subscribe());
        let stopping = stop.clone();
        let examined = Examined::open(Path::new(&self.here.data), &self.config.cluster);
        let newest = examined.subscribe_newest();
        let settled =
            Settled { judging: capture.judging(), examined, repairs: watch::Sender::new(0) };
        let barriers = capture.barriers();
        let observer = self.observer(status.subscribe());
        let tenure = Tenure {
            config: self.config.clone(),
            region: self.here.id.clone(),
            postgres: self.here.postgres.clone(),
            agent: uuid::Uuid::now_v7().to_string(),
            clock: self.clock,
            directory: self.directory.clone(),
            peers: self.peers.clone(),
            ownership: self.ownership.clone(),
            barriers,
            continuity: self.continuity.clone(),
            older: continuity::older(&self.logs, &self.origin),
            positions: self.positions.clone(),
            examined: newest.clone(),
            repairs: settled.repairs.subscribe(),
            silence: silence.subscribe(),
            state: tenure_state.clone(),
        };
        let recovery = Recovery {
            follower: self.follower(false)(&self.origin, self.own_log.clone()),
            must_reach: self.must_reach,
            captured_before: self.continuity.captured_before(),
        };
        let captured = async move {
            let (recovery, stop) = (recovery, stopping);
            recovery.run(&stop).await;
            capture.run(stop).await;
        };
        tasks.spawn(after_setup(tenure_state.subscribe(), stop.clone(), captured));
        tasks.spawn(self.keeper_of_copies().run(stop.clone()));
        tasks.spawn(self.continuity.clone().run(stop.clone()));
        tasks.spawn(tenure.run(stop.clone()));
        if let Some(after) = self.config.reseed_after {
            let reseeder = Reseeder {
                after,
                origin: self.origin.clone(),
                clock: self.clock,
                continuity: self.continuity.clone(),
                observer: observer.clone(),
                directory: self.directory.clone(),
            };
            tasks.spawn(reseeder.run(stop.clone()));
        }
        self.start_guards(&tenure_state.subscribe(), stop, tasks);
        let keeper = Keeper {
            config: self.config.clone(),
            postgres: self.here.postgres.clone(),
            region: self.here.id.clone(),
            origin: self.origin.clone(),
            continuity: self.continuity.clone(),
        };
        let kept = keeper.run(stop.clone());
        tasks.spawn(after_setup(tenure_state.subscribe(), stop.clone(), kept));
        let marker = self.marker(tenure_state.subscribe());
        let ours = (tenure_state.subscribe(), marker.clone());
        self.start_replication(&observer, stop, tasks, ours, settled)?;
        let answers = Answers { marker: marker.clone(), examined: newest.clone(), newcomer: false };
        self.start_peer_server(listeners.peer, status.subscribe(), answers, stop, tasks);
        let tokens = Tokens::of_directory(&self.config.cluster, &self.directory, stop);
        let staleness = Staleness::new(tokens, marker, self.other_regions());
        tasks.spawn(staleness.clone().run(stop.clone()));
        let (tenure, heard) = (tenure_state.subscribe(), silence.subscribe());
        let known = (staleness, status.subscribe());
        let (routes, clients) = self
            .start_gateway(listeners.gateway, tenure, heard, known, (shutdown, stop), tasks)
            .await?;
        let requests = self.start_front(listeners.front, routes, shutdown, tasks)?;
        let doors = (Some(clients), requests);
        self.start_outlets(listeners.outlets, &status, &observer, doors, shutdown, tasks)?;
        let listener = Listener {
            postgres: self.here.postgres.clone(),
            target: local_target(&self.database),
            clock: self.clock,
            suspect_after: self.config.failover.suspect_after,
            silence,
        };
        let listening = listener.run(stop.clone());
        tasks.spawn(after_setup(tenure_state.subscribe(), stop.clone(), listening));
        tasks.spawn(observer.clone().run(stop.clone()));
        let reporter = self.reporter(&observer, tenure_state.subscribe(), newest, None, status);
        tasks.spawn(reporter.run(stop.clone()));
        tasks.spawn(self.operator(observer).run(stop.clone()));
        sockets::complain_of_rest();
        Ok(())
    }

    /// What keeps everything in its place, and what is in question where it was not.
    fn start_guards(
        &self,
        tenure: &watch::Receiver<TenureState>,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        let noted = watch::Sender::new(Vec::new());
        let comparer = Comparer {
            config: self.config.clone(),
            postgres: self.here.postgres.clone(),
            ownership: self.ownership.clone(),
            notices: self.notices.clone(),
            noted: noted.subscribe(),
        };
        let guards = guards::keep(
            self.here.postgres.clone(),
            self.config.clone(),
            tenure.clone(),
            self.notices.clone(),
            noted,
            stop.clone(),
        );
        tasks.spawn(after_setup(tenure.clone(), stop.clone(), guards));
        tasks.spawn(after_setup(tenure.clone(), stop.clone(), comparer.run(stop.clone())));
    }

    fn capture(&self, lease: watch::Receiver<TenureState>) -> Capture {
        let config = CaptureConfig {
            cluster: self.config.clone(),
            postgres: self.here.postgres.clone(),
            slot: slot::slot_name(&self.config),
            origin: self.origin.clone(),
            rpo: self.config.rpo,
            clock: self.clock,
            lease,
            continuity: self.continuity.clone(),
            notices: self.notices.clone(),
        };
        let (log, positions) = (self.own_log.clone(), self.positions.clone());
        Capture::new(config, log, positions, self.ownership.clone())
    }

    /// Followers, appliers, and what makes rows right again.
    fn start_replication(
        &self,
        observer: &Observer,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
        (tenure, marker): (watch::Receiver<TenureState>, Marker),
        settled: Settled,
    ) -> anyhow::Result<()> {
        let Settled { judging, examined, repairs } = settled;
        let gate = Arc::new(RwLock::new(()));
        let diverted = watch::Sender::new(0);
        let origins = Origins {
            config: self.config.clone(),
            postgres: self.here.postgres.clone(),
            origin: self.origin.clone(),
            logs: self.logs.clone(),
            positions: self.positions.clone(),
            ownership: self.ownership.clone(),
            tenure: tenure.clone(),
            continuity: self.continuity.clone(),
            notices: self.notices.clone(),
            gate: gate.clone(),
            repairs: repairs.clone(),
            incarnations: self.incarnations.clone(),
            follower: Box::new(self.follower(false)),
        };
        tasks.spawn(origins.run(stop.clone()));
        let retainer = Retainer {
            config: self.config.clone(),
            region: self.here.id.clone(),
            clock: self.clock,
            logs: self.logs.clone(),
            copies: self.copies.clone(),
            positions: self.positions.clone(),
            observer: observer.clone(),
            directory: self.directory.clone(),
            examined: examined.subscribe(),
            notices: self.notices.clone(),
        };
        tasks.spawn(retainer.run(stop.clone()));
        let durability =
            Durability { postgres: self.here.postgres.clone(), positions: self.positions.clone() };
        let durable = durability.run(stop.clone());
        tasks.spawn(after_setup(tenure.clone(), stop.clone(), durable));
        let tails = Tails {
            config: self.config.clone(),
            postgres: self.here.postgres.clone(),
            origin: self.origin.clone(),
            logs: self.logs.clone(),
            positions: self.positions.clone(),
            ownership: self.ownership.clone(),
            diverted: diverted.clone(),
            judging,
            intake: self.intake.clone(),
            examined,
        };
        tasks.spawn(after_setup(tenure.clone(), stop.clone(), tails.run(stop.clone())));
        let repairer = Repairer {
            config: self.config.clone(),
            postgres: self.here.postgres.clone(),
            region: self.here.id.clone(),
            origin: self.origin.clone(),
            peers: self.other_regions().into_iter().collect(),
            marker,
            logs: self.logs.clone(),
            ownership: self.ownership.clone(),
            gate,
            repairs,
            diverted: diverted.subscribe(),
            continuity: self.continuity.clone(),
            notices: self.notices.clone(),
        };
        tasks.spawn(after_setup(tenure, stop.clone(), repairer.run(stop.clone())));
        Ok(())
    }

    fn marker(&self, tenure: watch::Receiver<TenureState>) -> Marker {
        Marker {
            region: self.here.id.clone(),
            origin: self.origin.clone(),
            postgres: self.here.postgres.clone(),
            clock: self.clock,
            positions: self.positions.clone(),
            ownership: self.ownership.clone(),
            tenure,
            session: Arc::default(),
        }
    }

    fn start_peer_server(
        &self,
        listener: TcpListener,
        status: watch::Receiver<Arc<RegionStatus>>,
        answers: Answers,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        let Answers { marker, examined, newcomer } = answers;
        let (postgres, config) = (self.here.postgres.clone(), self.config.clone());
        let desk = Desk {
            config: self.config.clone(),
            region: self.here.id.clone(),
            origin: self.origin.clone(),
            logs: self.logs.clone(),
            positions: self.positions.clone(),
            intake: self.intake.clone(),
            ownership: self.ownership.clone(),
            status,
            warm_ups: self.warm_ups.clone(),
            tables: Some(Tables {
                canary: Canary::new(self.here.postgres.clone()),
                marker,
                snapshots: Snapshots::new(postgres.clone(), config, self.origin.clone()),
                postgres,
                examined,
                newcomer,
            }),
        };
        let (credentials, stop) = (self.credentials.clone(), stop.clone());
        if let Some(credentials) = credentials.clone() {
            let (notices, stop) = (self.notices.clone(), stop.clone());
            tasks.spawn(tls::watch(credentials, "agents", notices, stop));
        }
        if let Ok(Some(files)) = self.database.tls.files() {
            let (notices, stop) = (self.notices.clone(), stop.clone());
            tasks.spawn(tls::watch(files, "PostgreSQL", notices, stop));
        }
        tasks.spawn(async move {
            if let Err(error) = peer::server::serve(desk, listener, credentials, stop).await {
                tracing::error!("the peer server ended: {error:#}");
            }
        });
    }

    /// Lets others ask for what this agent knows. It goes on without whoever cannot ask any more.
    fn start_outlets(
        &self,
        outlets: Outlets,
        status: &watch::Sender<Arc<RegionStatus>>,
        observer: &Observer,
        (gateway, front): (Option<gateway::Tally>, Option<front::Tally>),
        shutdown: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<()> {
        let Outlets { metrics, health, dns } = outlets;
        if let Some(listener) = metrics {
            let place = (self.config.cluster.clone(), self.here.id.to_string());
            let sources = metrics::Sources { status: status.subscribe(), gateway, front };
            let router = metrics::router(sources, place);
            let serve = pages::serve(listener, router);
            tasks.spawn(until(shutdown.clone(), "the metrics", serve));
        }
        if let Some(listener) = health {
            let router = health::router(health::Sources {
                partitions: self.config.layout.total(),
                status: status.subscribe(),
                observer: observer.clone(),
                clock: self.clock,
            });
            let serve = pages::serve(listener, router);
            tasks.spawn(until(shutdown.clone(), "the answers to load balancers", serve));
        }
        if let Some(sockets) = dns {
            let zone = dns::Zone::new(dns::Sources {
                config: self.config.clone(),
                region: self.here.id.clone(),
                ownership: self.ownership.clone(),
                status: status.subscribe(),
                observer: observer.clone(),
                clock: self.clock,
            })?;
            tasks.spawn(until(shutdown.clone(), "names", dns::serve(sockets, zone)));
        }
        Ok(())
    }

    /// Returns what it knows of ownership, and of its clients. Stops everything once they are served after `shutdown`.
    async fn start_gateway(
        &self,
        (listen, ports): (SocketAddr, Vec<(SocketAddr, Freshness)>),
        tenure: watch::Receiver<TenureState>,
        silence: watch::Receiver<Silence>,
        (staleness, status): (Staleness, watch::Receiver<Arc<RegionStatus>>),
        (shutdown, stop): (&CancellationToken, &CancellationToken),
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<(watch::Receiver<Arc<Routes>>, gateway::Tally)> {
        let routes = watch::Sender::new(Arc::new(Routes::default()));
        let config = gateway::Config {
            region: self.here.id.clone(),
            listen,
            ports,
            local: local_target(&self.database),
            peers: self
                .config
                .regions
                .iter()
                .filter(|r| r.id != self.here.id)
                .map(|r| Ok((r.id.clone(), hop_target(&r.gateway, r)?)))
                .collect::<anyhow::Result<_>>()?,
            park_budget: PARK_BUDGET,
            shutdown_timeout: Duration::from_millis(self.config.gateway.shutdown_timeout.0),
            staleness: Some(staleness),
            sharing: self.config.gateway.sharing,
            warm_ups: self.warm_ups.clone(),
            rpo: self.config.rpo,
            secure: self.secure(stop, tasks)?,
            admission: self.config.gateway.admission.clone(),
            console: self.console(status),
            roles: gateway::Roles::of_postgres(&self.here.postgres),
            layout: self.config.layout.clone(),
            columns: self.columns(),
            functions: self.functions(),
            mode: match self.config.layout.scheme {
                Scheme::Whole => Mode::FollowOwner,
                Scheme::Hash { .. } | Scheme::Home { .. } => Mode::Local,
            },
        };
        let gateway = Gateway::bind(config, routes.subscribe())
            .await
            .with_context(|| format!("listen for clients on {listen}"))?;
        let tally = gateway.tally();
        let served = gateway.run(shutdown.clone());
        let rest = stop.clone();
        tasks.spawn(async move {
            served.await;
            rest.cancel();
        });
        let known = routes.subscribe();
        let publisher = RoutePublisher {
            router: Router::new(self.here.id.clone(), self.config.layout.scheme == Scheme::Whole),
            clock: self.clock,
            ownership: self.ownership.clone(),
            tenure,
            silence,
            routes,
        };
        tasks.spawn(publisher.run(stop.clone()));
        Ok((known, tally))
    }

    /// Where every region writes, statements are read for whose rows they write.
    fn columns(&self) -> gateway::Columns {
        match self.config.layout.scheme {
            Scheme::Whole => gateway::Columns::default(),
            Scheme::Hash { .. } | Scheme::Home { .. } => {
                let tables = self.config.tables.clone();
                gateway::Columns::of_postgres(&self.here.postgres, tables)
            }
        }
    }

    /// Where one region owns everything, statements of who reads elsewhere are read for what they call.
    fn functions(&self) -> gateway::Functions {
        match self.config.layout.scheme {
            Scheme::Whole => gateway::Functions::of_postgres(&self.here.postgres),
            Scheme::Hash { .. } | Scheme::Home { .. } => gateway::Functions::default(),
        }
    }

    fn console(&self, status: watch::Receiver<Arc<RegionStatus>>) -> gateway::Console {
        let postgres = &self.database.config;
        // As PostgreSQL has it where the connection string names none.
        let database = postgres.get_dbname().or(postgres.get_user()).unwrap_or_default();
        gateway::Console {
            roles: self.config.gateway.console.clone(),
            database: database.to_owned(),
            status: Some(status),
            notices: self.notices.clone(),
        }
    }

    /// What the gateway shows, watched until `shutdown`.
    fn secure(
        &self,
        shutdown: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<gateway::Secure> {
        let config::Gateway { identity, require_tls, .. } = &self.config.gateway;
        let clients = self.shown(identity.as_ref(), Protocol::Postgres, shutdown, tasks)?;
        let gateways = self.credentials.clone();
        let database = Some(Arc::new(self.database.clone().without_identity()));
        Ok(gateway::Secure { clients, gateways, required: *require_tls, database })
    }

    /// What clients are shown, watched until `shutdown`.
    fn shown(
        &self,
        identity: Option<&Identity>,
        protocol: Protocol,
        shutdown: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<Option<Arc<Shown>>> {
        let Some(identity) = identity else { return Ok(None) };
        let shown = Arc::new(Shown::open_shown(identity, protocol)?);
        let whom = match protocol {
            Protocol::Postgres => "clients",
            Protocol::Http => "clients of HTTP",
        };
        let (notices, shutdown) = (self.notices.clone(), shutdown.clone());
        tasks.spawn(tls::watch(shown.clone(), whom, notices, shutdown));
        Ok(Some(shown))
    }

    /// Takes requests of HTTP, where the region has a door. Returns what becomes of them.
    fn start_front(
        &self,
        listener: Option<TcpListener>,
        routes: watch::Receiver<Arc<Routes>>,
        shutdown: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<Option<front::Tally>> {
        let Some((listener, here)) = listener.zip(self.here.http.as_ref()) else { return Ok(None) };
        let identity = self.config.http.identity.as_ref();
        let secure = gateway::Secure {
            clients: self.shown(identity, Protocol::Http, shutdown, tasks)?,
            gateways: self.credentials.clone(),
            ..gateway::Secure::default()
        };
        let mut upstreams = BTreeMap::new();
        for region in &self.config.regions {
            let Some(door) = &region.http else { continue };
            let upstream = if region.id == self.here.id {
                let (host, port) = parted(&here.app)?;
                Upstream::app(gateway::Target::Tcp { host, port })
            } else {
                Upstream::door(hop_target(&door.address, region)?, secure.clone())
            };
            upstreams.insert(region.id.clone(), upstream);
        }
        let door = front::Door {
            region: self.here.id.clone(),
            cluster: self.config.cluster.clone(),
            regions: self.config.region_ids(),
            layout: self.config.layout.clone(),
            config: self.config.http.clone(),
            secure,
            upstreams,
            health: front::Health::default(),
            tally: front::Tally::default(),
            room: front::Room::default(),
            routes,
            clock: self.clock,
            shutdown: shutdown.clone(),
            shutdown_timeout: Duration::from_millis(self.config.gateway.shutdown_timeout.0),
        };
        let tally = door.tally.clone();
        tasks.spawn(front::serve(listener, door));
        Ok(Some(tally))
    }

    fn reporter(
        &self,
        observer: &Observer,
        tenure: watch::Receiver<TenureState>,
        examined: watch::Receiver<Option<Arc<Ownership>>>,
        seeding: Option<watch::Receiver<SeedingStatus>>,
        status: watch::Sender<Arc<RegionStatus>>,
    ) -> Reporter {
        Reporter {
            config: self.config.clone(),
            region: self.here.id.clone(),
            origin: self.origin.clone(),
            postgres: self.here.postgres.clone(),
            clock: self.clock,
            logs: self.logs.clone(),
            positions: self.positions.clone(),
            directory: self.directory.clone(),
            ownership: self.ownership.clone(),
            runs: self.runs.clone(),
            observer: observer.clone(),
            notices: self.notices.clone(),
            tenure,
            examined,
            seeding,
            status,
        }
    }

    fn operator(&self, observer: Observer) -> Operator {
        Operator {
            config: self.config.clone(),
            region: self.here.id.clone(),
            directory: self.directory.clone(),
            runs: self.runs.clone(),
            ownership: self.ownership.clone(),
            positions: self.positions.clone(),
            observer,
            intake: self.intake.clone(),
            canary: Arc::new(Canary::new(self.here.postgres.clone())),
            warm_ups: self.warm_ups.clone(),
            peers: self.peers.clone(),
            kill_at: KillAt::new(Path::new(&self.here.data)),
        }
    }
}

/// Sets damaged segments aside. Returns how far our own log must reach again.
pub(crate) async fn mend(
    logs: &Logs,
    of: &Origin,
    opened: &log::Opened,
    own: &Origin,
    copies: &Copies,
) -> anyhow::Result<Lsn> {
    if opened.torn_bytes > 0 {
        tracing::info!(origin = %of, bytes = opened.torn_bytes, "removed a write that a crash cut short");
    }
    let LogState::Corrupt { segment, offset, resumes_at } = &opened.state else {
        return Ok(Lsn::ZERO);
    };
    if of.region != own.region {
        copies.damaged(of)?;
    }
    let log = logs.get_or_create(of)?;
    let end = log.set_aside_corrupt().await?;
    tracing::error!(
        origin = %of, segment = %segment.display(), offset, %end, %resumes_at,
        "log_corrupt: the segment was set aside; what it held is fetched again from a peer"
    );
    Ok(if of == own { *resumes_at } else { Lsn::ZERO })
}

/// Runs `part` once PostgreSQL has what it needs.
async fn after_setup(
    mut tenure: watch::Receiver<TenureState>,
    shutdown: CancellationToken,
    part: impl Future<Output = ()>,
) {
    tokio::select! {
        () = shutdown.cancelled() => return,
        ready = tenure.wait_for(|state| state.set_up) => if ready.is_err() { return },
    }
    part.await;
}

/// Another region's gateway or door; certificates name the host at which agents are reached.
fn hop_target(address: &str, region: &Region) -> anyhow::Result<gateway::Target> {
    let ((host, port), (named, _)) = (parted(address)?, parted(&region.peer)?);
    Ok(gateway::Target::Gateway { host, port, named })
}

/// Host and port of an address.
fn parted(address: &str) -> anyhow::Result<(String, u16)> {
    let (host, port) = address.rsplit_once(':').context("an address is host:port")?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((host, port.parse()?))
}

/// Where the gateway finds the region's own PostgreSQL: as the agent does.
fn local_target(Database { config, .. }: &Database) -> gateway::Target {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Unix(dir)) => {
            gateway::Target::Unix { dir: dir.clone(), port }
        }
        Some(tokio_postgres::config::Host::Tcp(host)) => {
            gateway::Target::Tcp { host: host.clone(), port }
        }
        None => gateway::Target::Tcp { host: "localhost".into(), port },
    }
}
