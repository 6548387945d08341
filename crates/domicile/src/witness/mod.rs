//! The agent of a witness: what holds the regions' logs, observes and seals, without a PostgreSQL.
//!
//! ```text
//!   regions ──logs──> followers ──> logs ──peer server──> a region that takes over
//!      │                              │
//!      └──── observer, seals, promises ┴── trimmed as every region shows them
//! ```
//!
//! Its copies count as any region's do, and so does its word that a region is gone; but it shows no rows,
//! so it never owns, and no region waits for it. Holds no logic, as [`crate::agent`] holds none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use domicile_core::config::{Config, Witness};
use domicile_core::id::{Origin, RegionId};
use domicile_core::lsn::Lsn;
use domicile_core::progress::Rpo;
use domicile_core::runbook::safety::Safety;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::{listen, mend, until};
use crate::clock::Clock;
use crate::copies::{self, Copies};
use crate::directory::documents::{INCARNATION_PREFIX, LEASE_PREFIX, RESEED_PREFIX, RUN_PREFIX};
use crate::directory::{self, View, safety, view};
use crate::gateway::WarmUps;
use crate::log::{Logs, Room};
use crate::notices::Notices;
use crate::observe::{Observer, Sources};
use crate::peer::client::Follower;
use crate::peer::intake::Intake;
use crate::peer::server::Desk;
use crate::positions::Positions;
use crate::promises::Given;
use crate::report::Reporter;
use crate::retain::Retainer;
use crate::status::RegionStatus;
use crate::tail::{Examined, Tails};
use crate::tenure::TenureState;
use crate::tls::{self, Credentials};
use crate::{metrics, origins, pages, peer};

/// Runs the agent of `witness` until `shutdown`.
pub async fn run(
    config: Config,
    witness: &Witness,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener = listen(&witness.peer_listen, "peers").await?;
    let readers = match &witness.metrics {
        Some(address) => Some(listen(address, "readers of metrics").await?),
        None => None,
    };
    let (data, directory) = (Path::new(&witness.data), directory::Client::open(&config)?);
    std::fs::create_dir_all(data).with_context(|| format!("create {}", data.display()))?;
    let parts = Parts::build(Arc::new(config), witness, directory, &shutdown).await?;
    let mut tasks = JoinSet::new();
    let copied = parts.start(listener, readers, &shutdown, &mut tasks);
    tracing::info!(witness = %witness.id, "agent started");
    tokio::select! {
        () = shutdown.cancelled() => {}
        Some(ended) = tasks.join_next() => {
            // A part that is gone leaves the agent half alive: better not at all.
            ended.context("a part of the agent stopped")?;
            anyhow::ensure!(shutdown.is_cancelled(), "a part of the agent ended by itself");
        }
        failed = copied => failed.context("follow the regions' logs")?,
    }
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Everything the parts share.
struct Parts {
    config: Arc<Config>,
    /// Names whose agent this is. Nothing is ever written under it.
    origin: Origin,
    clock: Clock,
    logs: Logs,
    positions: Positions,
    directory: directory::Client,
    ownership: watch::Receiver<Arc<view::OwnershipView>>,
    leases: watch::Receiver<Arc<View>>,
    runs: watch::Receiver<Arc<View>>,
    safety: watch::Receiver<Arc<Safety>>,
    reseeds: watch::Receiver<Arc<View>>,
    incarnations: watch::Receiver<Arc<View>>,
    examined: Examined,
    intake: Arc<Intake>,
    promises: Given,
    copies: Copies,
    peers: BTreeMap<RegionId, peer::Client>,
    credentials: Option<Arc<Credentials>>,
    notices: Notices,
}

impl Parts {
    async fn build(
        config: Arc<Config>,
        witness: &Witness,
        directory: directory::Client,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let origin = Origin::new(witness.id.clone(), 1);
        let data = PathBuf::from(&witness.data);
        let (terms, room) = (&config.log, Room::of(config.log.size_max));
        let (logs, opened) = Logs::open_in(&data, terms.segment_bytes, room, terms.compression)
            .context("open the logs")?;
        let copies = Copies::open(&data, config.rpo)?;
        for (of, opened) in opened {
            mend(&logs, &of, &opened, &origin, &copies).await?;
        }
        let credentials = Credentials::of(&config)?;
        let examined = Examined::open(&data, &config.cluster);
        let remembered = examined.subscribe().borrow().clone();
        let ownership = view::follow(&directory, &config.cluster, remembered, shutdown.clone());
        let follow = |prefix| directory.follow(prefix, shutdown.clone());
        let (leases, runs) = (follow(LEASE_PREFIX), follow(RUN_PREFIX));
        let safety = safety::follow(&directory, shutdown.clone());
        let (reseeds, incarnations) = (follow(RESEED_PREFIX), follow(INCARNATION_PREFIX));
        let clock = Clock::new();
        let promises = Given::new(clock, config.lease);
        let (known, given) = (ownership.clone(), promises.clone());
        let intake = Intake::open(logs.clone(), known, given, copies.clone(), &data)?;
        Ok(Self {
            peers: peer::channels(&config, &origin.region, credentials.as_ref())?,
            origin,
            clock,
            logs,
            positions: Positions::new(Lsn::ZERO),
            directory,
            ownership,
            leases,
            runs,
            safety,
            reseeds,
            incarnations,
            examined,
            intake: Arc::new(intake),
            promises,
            copies,
            credentials,
            notices: Notices::default(),
            config,
        })
    }

    /// Starts all but the followers, which the result goes on to start as regions and their incarnations
    /// come.
    fn start(
        self,
        listener: TcpListener,
        readers: Option<TcpListener>,
        shutdown: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> impl Future<Output = anyhow::Result<()>> + use<> {
        let status = watch::Sender::new(Arc::new(RegionStatus::default()));
        let observer = self.observer(status.subscribe());
        tasks.spawn(observer.clone().run(shutdown.clone()));
        self.start_outlets(listener, readers, &status, shutdown, tasks);
        let retainer = Retainer {
            config: self.config.clone(),
            region: self.origin.region.clone(),
            clock: self.clock,
            logs: self.logs.clone(),
            copies: self.copies.clone(),
            positions: self.positions.clone(),
            observer: observer.clone(),
            directory: self.directory.clone(),
            examined: self.examined.subscribe(),
            notices: self.notices.clone(),
        };
        tasks.spawn(retainer.run(shutdown.clone()));
        let reporter = Reporter {
            config: self.config.clone(),
            region: self.origin.region.clone(),
            origin: self.origin.clone(),
            postgres: String::new(),
            clock: self.clock,
            logs: self.logs.clone(),
            positions: self.positions.clone(),
            directory: self.directory.clone(),
            ownership: self.ownership.clone(),
            runs: self.runs.clone(),
            observer,
            notices: self.notices.clone(),
            tenure: watch::Sender::new(TenureState::default()).subscribe(),
            examined: self.examined.subscribe_newest(),
            seeding: None,
            status,
        };
        tasks.spawn(reporter.run(shutdown.clone()));
        let keeper = copies::Keeper {
            copies: self.copies.clone(),
            config: self.config.clone(),
            holder: self.origin.region.clone(),
            logs: self.logs.clone(),
            directory: self.directory.clone(),
            ownership: self.ownership.clone(),
            incarnations: self.incarnations.clone(),
            notices: self.notices.clone(),
        };
        tasks.spawn(keeper.run(shutdown.clone()));
        let followers = Followers {
            config: self.config.clone(),
            origin: self.origin.clone(),
            logs: self.logs.clone(),
            peers: self.peers,
            intake: self.intake.clone(),
            copies: self.copies,
            positions: self.positions.clone(),
            directory: self.directory,
            incarnations: self.incarnations,
            notices: self.notices,
        };
        // Nothing is shown here that could turn out to be no history: it only has to be known that all
        // of the logs was held against every cut.
        let tails = Tails {
            config: self.config,
            postgres: String::new(),
            origin: self.origin,
            logs: self.logs,
            positions: self.positions,
            ownership: self.ownership,
            diverted: watch::Sender::new(0),
            judging: Arc::new(Mutex::new(())),
            intake: self.intake,
            examined: self.examined,
        };
        tasks.spawn(tails.run(shutdown.clone()));
        followers.run(shutdown.clone())
    }

    fn observer(&self, own_status: watch::Receiver<Arc<RegionStatus>>) -> Observer {
        Observer::new(Sources {
            config: self.config.clone(),
            region: self.origin.region.clone(),
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

    /// What others may ask for.
    fn start_outlets(
        &self,
        listener: TcpListener,
        readers: Option<TcpListener>,
        status: &watch::Sender<Arc<RegionStatus>>,
        shutdown: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        if let Some(credentials) = self.credentials.clone() {
            let (notices, shutdown) = (self.notices.clone(), shutdown.clone());
            tasks.spawn(tls::watch(credentials, "agents", notices, shutdown));
        }
        let desk = Desk {
            config: self.config.clone(),
            region: self.origin.region.clone(),
            origin: self.origin.clone(),
            logs: self.logs.clone(),
            positions: self.positions.clone(),
            intake: self.intake.clone(),
            ownership: self.ownership.clone(),
            status: status.subscribe(),
            warm_ups: WarmUps::default(),
            tables: None,
        };
        let (credentials, stop) = (self.credentials.clone(), shutdown.clone());
        tasks.spawn(async move {
            if let Err(error) = peer::server::serve(desk, listener, credentials, stop).await {
                tracing::error!("the peer server ended: {error:#}");
            }
        });
        if let Some(readers) = readers {
            let place = (self.config.cluster.clone(), self.origin.region.to_string());
            let status = status.subscribe();
            let router =
                metrics::router(metrics::Sources { status, gateway: None, front: None }, place);
            let serve = pages::serve(readers, router);
            tasks.spawn(until(shutdown.clone(), "the metrics", serve));
        }
    }
}

/// Keeps the copies of all regions' logs complete.
struct Followers {
    config: Arc<Config>,
    origin: Origin,
    logs: Logs,
    peers: BTreeMap<RegionId, peer::Client>,
    intake: Arc<Intake>,
    copies: Copies,
    positions: Positions,
    directory: directory::Client,
    incarnations: watch::Receiver<Arc<View>>,
    notices: Notices,
}

impl Followers {
    async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let (mut started, mut tasks) = (BTreeSet::new(), JoinSet::new());
        loop {
            let view = self.incarnations.borrow_and_update().clone();
            let due = origins::due(&self.config, &self.logs, &view, &self.origin.region);
            for origin in due.into_iter().filter(|origin| started.insert(origin.clone())) {
                tasks.spawn(self.follower(origin)?.run(shutdown.clone()));
            }
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = tasks.join_next() => anyhow::bail!("a log is not followed any more"),
                changed = self.incarnations.changed() => changed.context("the directory is closed")?,
            }
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    }

    fn follower(&self, origin: Origin) -> anyhow::Result<Follower> {
        let peers = self.peers.iter().map(|(region, client)| (region.clone(), client.clone()));
        let mut sources: Vec<(RegionId, peer::Client)> = peers.collect();
        sources.sort_by_key(|(region, _)| *region != origin.region);
        Ok(Follower {
            cluster: self.config.cluster.clone(),
            region: self.origin.region.clone(),
            log: self.logs.get_or_create(&origin)?,
            origin,
            sources,
            intake: self.intake.clone(),
            copies: self.copies.clone(),
            positions: self.positions.clone(),
            directory: self.directory.clone(),
            notices: self.notices.clone(),
            // What is trimmed elsewhere is shown by every region: it lacks nothing that one could need.
            begins_anywhere: true,
            is_waited_for: self.config.rpo != Rpo::None,
        })
    }
}
