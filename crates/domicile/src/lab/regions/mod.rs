//! How does one get a whole world of regions on this machine, break it, and be rid of it?
//!
//! ```text
//! <folder>/directory.toml, directory.log, directory/     the fourth place
//! <folder>/<region>/domicile.toml, agent.log, agent/     one agent process
//! <folder>/<region>/postgres/                            one PostgreSQL cluster; a witness has none
//! ```
//!
//! Links between regions are relays in this process, so they can be slow and can be cut.
//!
//! Invariant: all processes end and the folder goes with the [`Regions`], also when the start is
//! abandoned half-way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domicile_core::config::MutualTls;
use futures_util::future::try_join_all;
use tokio::time::Instant;

mod config;
mod error;
mod file;
mod links;
mod program;
mod watch;

pub use config::RegionsConfig;
pub use error::RegionsError;
use error::log_tail;
use file::{Common, Directory, Seen, SeenDoor, SeenWitness};
pub use links::{Links, Purpose};
use program::Program;
pub use watch::{Observer, Statuses, partitions_of, unready};

use crate::lab::cluster::{Cluster, ClusterConfig, Disk, TemporaryFolder, free_port};
use crate::status::RegionStatus;
use crate::tls::authority::{self, Holder, issue};
use crate::tls::{self, Credentials};

/// From the last process started until everything owns, listens and ships.
const READY_WAIT_MAX: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Folder of everybody's certificates, where there are any.
const CERTIFICATES: &str = "certificates";
const CERTIFICATE_DAYS: u32 = 365;
/// Who asks agents from outside.
const OPERATOR: &str = "operator";

/// The agent of a region or of a witness, and where it is found.
#[derive(Debug)]
struct Place {
    agent: Program,
    /// Holds the agent's data, if that has a disk of its own.
    log_disk: Option<Disk>,
    config_file: PathBuf,
    peer: SocketAddr,
    metrics: SocketAddr,
}

/// What only a region has.
#[derive(Debug)]
struct Served {
    cluster: Cluster,
    gateway: SocketAddr,
    health: SocketAddr,
    dns: SocketAddr,
    door: SocketAddr,
}

/// A world of regions; everything ends when it is dropped.
#[derive(Debug)]
pub struct Regions {
    config: RegionsConfig,
    places: BTreeMap<String, Place>,
    served: BTreeMap<String, Served>,
    /// Ours, unless it is somebody else's etcd.
    directory: Option<Program>,
    directory_address: SocketAddr,
    links: Links,
    observer: Observer,
    folder: PathBuf,
    /// Goes last: `Drop` of the fields above ends what writes there.
    _temporary: Option<TemporaryFolder>,
}

impl Regions {
    /// Makes all of it and returns once every region is ready for clients.
    pub async fn start(config: RegionsConfig) -> Result<Self, RegionsError> {
        let mut regions = Self::create(config).await?;
        regions.start_all().await?;
        Ok(regions)
    }

    /// Starts directory and agents and returns once every region is ready for clients.
    pub async fn start_all(&mut self) -> Result<(), RegionsError> {
        self.start_directory()?;
        for place in self.places.values_mut() {
            place.agent.start()?;
        }
        self.wait_until_ready().await
    }

    /// Makes and seeds the clusters, starts the relays and writes all files; runs no process of
    /// ours yet.
    pub async fn create(config: RegionsConfig) -> Result<Self, RegionsError> {
        let (folder, temporary) = match &config.keep {
            Some(folder) => (folder.clone(), None),
            None => {
                let temporary = TemporaryFolder::create("lab")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        std::fs::create_dir_all(&folder).map_err(RegionsError::file("make folder", &folder))?;
        let folder = std::fs::canonicalize(&folder)
            .map_err(RegionsError::file("resolve folder", &folder))?;
        let seeds = config.names.iter().map(|name| seeded(&config, &folder, name));
        let clusters = try_join_all(seeds).await?;
        let directory = address();
        let gateways: BTreeMap<String, SocketAddr> =
            config.names.iter().map(|name| (name.clone(), address())).collect();
        let holders = || config.names.iter().chain(&config.witnesses);
        let peers: BTreeMap<String, SocketAddr> =
            holders().map(|name| (name.clone(), address())).collect();
        let doors: BTreeMap<String, SocketAddr> =
            config.names.iter().map(|name| (name.clone(), address())).collect();
        let links = connect(&config, directory, &peers, &gateways, &doors).await?;
        let served = config.names.iter().zip(clusters).map(|(name, cluster)| {
            let (gateway, health, dns, door) = (gateways[name], address(), address(), doors[name]);
            (name.clone(), Served { cluster, gateway, health, dns, door })
        });
        let served = served.collect();
        let mut places = BTreeMap::new();
        for name in holders() {
            let folder_of = folder.join(name);
            std::fs::create_dir_all(&folder_of)
                .map_err(RegionsError::file("make folder", &folder_of))?;
            let config_file = folder.join(name).join("domicile.toml");
            let arguments = ["agent", "--config", &path(&config_file), "--region", name];
            let agent = Program::new(
                format!("agent of region \"{name}\""),
                &config.binary,
                arguments.map(str::to_owned).to_vec(),
                folder.join(name).join("agent.log"),
            )
            .with_environment(config.environment(name)?);
            let log_disk = config.disk_bytes.map(Disk::make).transpose()?;
            if let Some(disk) = &log_disk {
                let data = folder.join(name).join("agent");
                symlink(disk.path(), &data).map_err(RegionsError::file("link", &data))?;
            }
            let (peer, metrics) = (peers[name], address());
            let place = Place { agent, log_disk, config_file, peer, metrics };
            places.insert(name.clone(), place);
        }
        let certified = || certified(&folder.join(CERTIFICATES), holders());
        let credentials = config.tls.then(certified).transpose()?;
        let agents = places.iter().map(|(name, place)| (name.clone(), place.peer));
        let observer = Observer::new(agents, credentials.as_ref());
        let arguments = ["directory", "--config", &path(&folder.join("directory.toml"))];
        let program = Program::new(
            "directory".to_owned(),
            &config.binary,
            arguments.map(str::to_owned).to_vec(),
            folder.join("directory.log"),
        );
        let regions = Self {
            directory: config.etcd.is_empty().then_some(program),
            config,
            places,
            served,
            directory_address: directory,
            links,
            observer,
            folder,
            _temporary: temporary,
        };
        regions.write_files()?;
        Ok(regions)
    }

    pub fn names(&self) -> &[String] {
        &self.config.names
    }

    pub fn witnesses(&self) -> &[String] {
        &self.config.witnesses
    }

    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Returns a handle that asks agents for their status; it may be cloned and kept.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Returns where the embedded directory is, without a link in between.
    pub fn directory(&self) -> SocketAddr {
        self.directory_address
    }

    /// Returns where clients of this region connect.
    pub fn gateway(&self, region: &str) -> SocketAddr {
        self.served(region).gateway
    }

    /// Returns where clients of HTTP connect to this region, if there are applications.
    pub fn door(&self, region: &str) -> SocketAddr {
        self.served(region).door
    }

    /// Returns where a region's agent listens for others, without a link in between.
    pub fn peer(&self, region: &str) -> SocketAddr {
        self.place(region).peer
    }

    /// Returns where a region's agent answers with its metrics.
    pub fn metrics(&self, region: &str) -> SocketAddr {
        self.place(region).metrics
    }

    /// Returns where a region's agent answers load balancers.
    pub fn health(&self, region: &str) -> SocketAddr {
        self.served(region).health
    }

    /// Returns where a region's agent answers for names.
    pub fn dns(&self, region: &str) -> SocketAddr {
        self.served(region).dns
    }

    /// Returns how to reach a region's PostgreSQL past its gateway.
    pub fn postgres(&self, region: &str) -> String {
        self.served(region).cluster.connection_string()
    }

    /// Opens a session at a region's PostgreSQL, past its gateway.
    pub async fn connect(&self, region: &str) -> Result<tokio_postgres::Client, RegionsError> {
        Ok(self.served(region).cluster.connect().await?)
    }

    /// Returns the configuration that this region's agent reads; commands may use it too.
    pub fn config_file(&self, region: &str) -> &Path {
        &self.place(region).config_file
    }

    pub fn agent_log(&self, region: &str) -> &Path {
        self.place(region).agent.log()
    }

    /// Returns the process id of a region's agent, if it was started.
    pub fn agent_pid(&self, region: &str) -> Option<u32> {
        self.place(region).agent.pid()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn binary(&self) -> &Path {
        &self.config.binary
    }

    /// Kills agent and PostgreSQL of a region with SIGKILL, all processes, as a power failure
    /// would, and returns when they are gone.
    pub fn kill_region(&mut self, region: &str) {
        let place = self.place_mut(region);
        place.agent.kill();
        self.served_mut(region).cluster.kill();
    }

    pub async fn start_region(&mut self, region: &str) -> Result<(), RegionsError> {
        self.start_postgres(region).await?;
        self.start_agent(region)
    }

    pub fn kill_agent(&mut self, region: &str) {
        self.place_mut(region).agent.kill();
    }

    /// Has the agent ended by itself?
    pub fn agent_has_ended(&mut self, region: &str) -> bool {
        self.place_mut(region).agent.ended().is_some()
    }

    pub fn start_agent(&mut self, region: &str) -> Result<(), RegionsError> {
        self.place_mut(region).agent.start()
    }

    /// Lets the agent hang as a stalled machine would: its sockets stay open and say nothing.
    pub fn pause_agent(&self, region: &str) {
        self.place(region).agent.pause();
    }

    pub fn resume_agent(&self, region: &str) {
        self.place(region).agent.resume();
    }

    /// Lets all of a region's PostgreSQL hang.
    pub fn pause_postgres(&self, region: &str) {
        self.served(region).cluster.pause();
    }

    pub fn resume_postgres(&self, region: &str) {
        self.served(region).cluster.resume();
    }

    /// Returns the process id of a region's postmaster, if it was started.
    pub fn postgres_pid(&self, region: &str) -> Option<u32> {
        self.served(region).cluster.pid()
    }

    pub fn kill_postgres(&mut self, region: &str) {
        self.served_mut(region).cluster.kill();
    }

    pub async fn start_postgres(&mut self, region: &str) -> Result<(), RegionsError> {
        let cluster = &mut self.served_mut(region).cluster;
        if cluster.is_running() {
            return Ok(());
        }
        Ok(cluster.start().await?)
    }

    /// Returns the disk of a region's WAL.
    ///
    /// # Panics
    ///
    /// When [`RegionsConfig::disk_bytes`] asked for none.
    pub fn wal_disk(&mut self, region: &str) -> &mut Disk {
        self.served_mut(region).cluster.wal_disk().expect("a disk of its own")
    }

    /// Returns the disk of the logs of a region's agent.
    ///
    /// # Panics
    ///
    /// When [`RegionsConfig::disk_bytes`] asked for none.
    pub fn log_disk(&mut self, region: &str) -> &mut Disk {
        self.place_mut(region).log_disk.as_mut().expect("a disk of its own")
    }

    /// Kills the embedded directory.
    pub fn kill_directory(&mut self) {
        self.directory.iter_mut().for_each(Program::kill);
    }

    /// Starts the embedded directory, if there is one.
    pub fn start_directory(&mut self) -> Result<(), RegionsError> {
        self.directory.iter_mut().try_for_each(Program::start)
    }

    /// Writes all files anew for an etcd that is the directory from now on; who reads them must be
    /// started anew.
    pub fn go_over_to_etcd(&mut self, endpoints: Vec<String>) -> Result<(), RegionsError> {
        self.directory = None;
        self.config.etcd = endpoints;
        self.write_files()
    }

    /// Writes all files anew for a directory that is to move to this etcd while agents run, which must be started
    /// anew for it.
    pub fn leave_for_etcd(&mut self, endpoints: Vec<String>) -> Result<(), RegionsError> {
        self.config.etcd = endpoints;
        self.write_files()
    }

    pub async fn status(&self, region: &str) -> Result<RegionStatus, RegionsError> {
        self.observer.status(region).await
    }

    /// Waits until every region is up, connected to all others, and every partition has an owner.
    pub async fn wait_until_ready(&mut self) -> Result<(), RegionsError> {
        let partitions = self.config.partitions;
        let ready = |statuses: &Statuses| unready(statuses, partitions);
        self.wait_until("that every region is ready", READY_WAIT_MAX, ready).await
    }

    /// Waits until `missing` has nothing to say; its last words and the ends of the logs are in
    /// the error. A process that ended by itself ends the wait.
    pub async fn wait_until(
        &mut self,
        what: &str,
        at_most: Duration,
        mut missing: impl FnMut(&Statuses) -> Result<(), String>,
    ) -> Result<(), RegionsError> {
        let deadline = Instant::now() + at_most;
        loop {
            self.directory.iter_mut().try_for_each(Program::check)?;
            for place in self.places.values_mut() {
                place.agent.check()?;
            }
            let Err(missing) = missing(&self.observer.all().await) else { return Ok(()) };
            if Instant::now() >= deadline {
                let logs = self.logs_of(&missing);
                let (what, seconds) = (what.to_owned(), at_most.as_secs());
                return Err(RegionsError::TooLate { what, seconds, missing, logs });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Returns the ends of the logs of the regions that `text` names, or of all.
    fn logs_of(&self, text: &str) -> String {
        let named = |name: &String| text.contains(&format!("\"{name}\""));
        let any = self.places.keys().any(named);
        let of = self.places.iter().filter(|(name, _)| !any || named(name));
        of.map(|(_, place)| log_tail(place.agent.log())).collect()
    }

    fn served(&self, region: &str) -> &Served {
        self.served.get(region).expect("a region of the lab")
    }

    fn served_mut(&mut self, region: &str) -> &mut Served {
        self.served.get_mut(region).expect("a region of the lab")
    }

    fn place(&self, region: &str) -> &Place {
        self.places.get(region).expect("a region of the lab")
    }

    fn place_mut(&mut self, region: &str) -> &mut Place {
        self.places.get_mut(region).expect("a region of the lab")
    }

    fn write_files(&self) -> Result<(), RegionsError> {
        let config = &self.config;
        let common = Common {
            cluster: "lab".to_owned(),
            partition: config.partition.clone(),
            rpo: config.rpo.clone(),
            lease: config.lease,
            automatic_failover: config.automatic_failover,
            suspect_after: config.suspect_after,
            zone: config.zone.clone(),
            more: config.more.clone(),
            gateway: config.gateway.clone(),
            tables: config.tables.clone(),
        };
        let (regions, witnesses) = self.all_seen("directory");
        let directory = Directory::Embedded(self.directory_address);
        let common_there = self.seen_by(&common, "directory");
        let text = file::text(&common_there, &directory, &regions, &witnesses, &self.folder);
        write(&self.folder.join("directory.toml"), &text)?;
        for (i, (viewer, place)) in self.places.iter().enumerate() {
            let (regions, witnesses) = self.all_seen(viewer);
            let directory = self.directory_from(viewer, i);
            let common = self.seen_by(&common, viewer);
            let text = file::text(&common, &directory, &regions, &witnesses, &self.folder);
            write(&place.config_file, &text)?;
        }
        Ok(())
    }

    /// With the certificate that a process shows.
    fn seen_by(&self, common: &Common, holder: &str) -> Common {
        let mut common = common.clone();
        if self.config.tls {
            let tls = certificate_of(&self.folder.join(CERTIFICATES), holder);
            common.more.push_str(&file::tls(&tls));
            common.gateway.push_str(&file::gateway_tls(&tls, self.config.require_tls));
        }
        common
    }

    /// Returns the directory as the `i`th region reaches it.
    fn directory_from(&self, viewer: &str, i: usize) -> Directory {
        let mut members = self.config.etcd.clone();
        let link = self.links.address(viewer, "", Purpose::Directory);
        let embedded = link.unwrap_or(self.directory_address);
        if members.is_empty() {
            return Directory::Embedded(embedded);
        }
        let first = i % members.len();
        members.rotate_left(first);
        match self.directory {
            Some(_) => Directory::Leaving(embedded, members),
            None => Directory::Etcd(members),
        }
    }

    /// Returns one region as it is reached from `viewer`.
    fn seen(&self, viewer: &str, name: &str) -> Seen {
        let (place, served) = (self.place(name), self.served(name));
        let over = |purpose, direct| self.links.address(viewer, name, purpose).unwrap_or(direct);
        Seen {
            name: name.to_owned(),
            postgres: format!("{} {}", served.cluster.connection_string(), self.config.login),
            peer: over(Purpose::Peer, place.peer),
            peer_listen: place.peer,
            gateway: over(Purpose::Gateway, served.gateway),
            gateway_listen: served.gateway,
            metrics: place.metrics,
            health: served.health,
            dns: served.dns,
            door: self.config.apps.get(name).map(|app| SeenDoor {
                http: over(Purpose::Http, served.door),
                http_listen: served.door,
                app: *app,
            }),
        }
    }

    fn seen_witness(&self, viewer: &str, name: &str) -> SeenWitness {
        let place = self.place(name);
        SeenWitness {
            name: name.to_owned(),
            peer: self.links.address(viewer, name, Purpose::Peer).unwrap_or(place.peer),
            peer_listen: place.peer,
            metrics: place.metrics,
        }
    }

    /// Everybody as they are reached from `viewer`.
    fn all_seen(&self, viewer: &str) -> (Vec<Seen>, Vec<SeenWitness>) {
        let regions = self.config.names.iter().map(|name| self.seen(viewer, name));
        let witnesses = self.config.witnesses.iter().map(|name| self.seen_witness(viewer, name));
        (regions.collect(), witnesses.collect())
    }
}

/// Makes and starts one region's cluster and runs the seed in it.
async fn seeded(
    config: &RegionsConfig,
    folder: &Path,
    name: &str,
) -> Result<Cluster, RegionsError> {
    let mut settings = vec![("wal_sender_timeout", "10s"), ("shared_buffers", "32MB")];
    if config.rpo != "none" {
        settings.push(("synchronous_standby_names", "domicile"));
    }
    let settings = settings.iter().map(|(k, v)| (k.to_string(), v.to_string()));
    let mut cluster = Cluster::create(ClusterConfig {
        bin: config.other_bins.get(name).unwrap_or(&config.bin).clone(),
        folder: folder.join(name).join("postgres"),
        port: free_port(),
        name: name.to_owned(),
        settings: settings.chain(config.postgres.iter().cloned()).collect(),
        wal_disk_bytes: config.disk_bytes,
        environment: config.environment(name)?,
    })
    .await?;
    cluster.start().await?;
    let client = cluster.connect().await?;
    // Nobody can confirm a commit before there is an agent.
    let sql = format!("SET synchronous_commit = local;\n{}", config.seed_sql);
    client
        .batch_execute(&sql)
        .await
        .map_err(|source| RegionsError::Seed { region: name.to_owned(), source })?;
    Ok(cluster)
}

/// Starts the relays of all links.
async fn connect(
    config: &RegionsConfig,
    directory: SocketAddr,
    peers: &BTreeMap<String, SocketAddr>,
    gateways: &BTreeMap<String, SocketAddr>,
    doors: &BTreeMap<String, SocketAddr>,
) -> Result<Links, RegionsError> {
    let one_way = config.round_trip / 2;
    let mut links = Links::default();
    if !config.links {
        return Ok(links);
    }
    for from in peers.keys() {
        for (to, peer) in peers.iter().filter(|(to, _)| *to != from) {
            links.add(from, to, Purpose::Peer, *peer, one_way).await?;
        }
        for (to, gateway) in gateways.iter().filter(|(to, _)| *to != from) {
            links.add(from, to, Purpose::Gateway, *gateway, one_way).await?;
        }
        let has_doors = !config.apps.is_empty();
        for (to, door) in doors.iter().filter(|(to, _)| has_doors && *to != from) {
            links.add(from, to, Purpose::Http, *door, one_way).await?;
        }
        // The embedded directory is on this machine: near every region.
        links.add(from, "", Purpose::Directory, directory, Duration::ZERO).await?;
    }
    Ok(links)
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn write(file: &Path, text: &str) -> Result<(), RegionsError> {
    std::fs::write(file, text).map_err(RegionsError::file("write configuration", file))
}

#[cfg(test)]
mod tests;

/// Makes the certificates of all processes, and returns what an observer shows.
fn certified<'a>(
    folder: &Path,
    names: impl Iterator<Item = &'a String>,
) -> Result<Arc<Credentials>, RegionsError> {
    let names = names.map(String::as_str).chain(["directory", OPERATOR]);
    let holder = |name: &str| Holder { name: name.to_owned(), hosts: vec!["127.0.0.1".to_owned()] };
    let holders: Vec<Holder> = names.map(holder).collect();
    issue(folder, "lab", &holders, CERTIFICATE_DAYS).map_err(RegionsError::Certificates)?;
    let credentials = Credentials::open(&certificate_of(folder, OPERATOR));
    credentials.map(Arc::new).map_err(RegionsError::Certificates)
}

fn certificate_of(folder: &Path, holder: &str) -> MutualTls {
    let file = |ending: &str| folder.join(format!("{holder}.{ending}"));
    tls::files(&folder.join(authority::CA), &file("pem"), &file("key"))
}
