//! Does the gateway get every statement to a server that takes it, and lose none on the way?
//!
//! Real clusters, real gateways, clients that do not know of either. The guard is a stand-in of a
//! few lines that refuses in the words of the real one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domicile::gateway::{
    Columns, Config, Console, Functions, Gateway, Mode, Pools, Roles, Routes, Secure, Tally,
    Target, WarmUps,
};
use domicile::lab::cluster::{Cluster, PgBin, TemporaryFolder, free_port, temporary_cluster};
use domicile::notices::Notices;
use domicile_core::admission::{Admission, AllowRule, Limits};
use domicile_core::config::{KeySource, PoolMode, Sharing, TableKind};
use domicile_core::freshness::Freshness;
use domicile_core::id::{RegionId, TableName};
use domicile_core::partition::{Layout, Scheme};
use domicile_core::progress::Rpo;
use domicile_core::time::Millis;
use tokio::sync::watch;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

mod admission;
mod console;
mod defaults;
mod follow;
mod functions;
mod hops;
mod hostile;
mod key;
mod load;
mod only_reads;
mod own;
mod password;
mod refusal;
mod relay;
mod session_pool;
mod sharing;
mod silence;
mod stand_in;
mod statement;
mod tally;
mod unconfirmed;
mod warm_up;

/// Longer than anything takes here; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

const PARTITIONS: u32 = 8;

/// A cluster with a gateway before it.
struct Region {
    name: RegionId,
    cluster: Cluster,
    address: SocketAddr,
    ports: Vec<SocketAddr>,
    routes: watch::Sender<Arc<Routes>>,
    warm_ups: WarmUps,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    pools: Pools,
    tally: Tally,
    _folder: Arc<TemporaryFolder>,
}

struct Wanted {
    mode: Mode,
    park_budget: Duration,
    routes: Routes,
    rpo: Rpo,
    /// The role as which gateways read verifiers.
    reader: String,
    admission: Admission,
    /// Who may come to the console.
    admins: Vec<String>,
    viewers: Vec<String>,
    sharing: Option<Sharing>,
    notices: Notices,
    /// Each at any free port.
    ports: Vec<Freshness>,
    knows_functions: bool,
}

impl Wanted {
    fn new(mode: Mode) -> Self {
        let (park_budget, routes) = (Duration::from_secs(30), Routes::default());
        Self {
            mode,
            park_budget,
            routes,
            rpo: Rpo::None,
            reader: "postgres".to_owned(),
            admission: Admission::default(),
            admins: Vec::new(),
            viewers: Vec::new(),
            sharing: None,
            notices: Notices::default(),
            ports: Vec::new(),
            knows_functions: false,
        }
    }

    /// Has gateways look at what functions do.
    fn knowing(mut self) -> Self {
        self.knows_functions = true;
        self
    }

    fn port(mut self, freshness: Freshness) -> Self {
        self.ports.push(freshness);
        self
    }

    fn admission(mut self, rules: &[AllowRule], limits: Limits) -> Self {
        self.admission = Admission { rules: rules.to_vec(), limits };
        self
    }

    /// Lets `postgres` do everything in the console, and `watch` look.
    fn console(mut self) -> Self {
        (self.admins, self.viewers) = (vec!["postgres".to_owned()], vec!["watch".to_owned()]);
        self
    }

    /// From one transaction to the next.
    fn shared(self, servers_max: usize) -> Self {
        self.pooled(PoolMode::Transaction, servers_max)
    }

    fn pooled(mut self, mode: PoolMode, servers_max: usize) -> Self {
        self.sharing = Some(Sharing { mode, servers_max, idle_max: Millis(600_000) });
        self
    }

    fn budget(mut self, milliseconds: u64) -> Self {
        self.park_budget = Duration::from_millis(milliseconds);
        self
    }

    fn rpo(mut self, rpo: Rpo) -> Self {
        self.rpo = rpo;
        self
    }

    fn owner(mut self, name: &str) -> Self {
        self.routes = owned_by(1, Some(name));
        self
    }

    async fn region(&self) -> Region {
        self.regions(["eu"]).await.into_iter().next().unwrap()
    }

    async fn two_regions(&self) -> (Region, Region) {
        let mut regions = self.regions(["eu", "us"]).await.into_iter();
        (regions.next().unwrap(), regions.next().unwrap())
    }

    async fn regions<const N: usize>(&self, names: [&str; N]) -> Vec<Region> {
        let doors =
            names.map(|name| (region(name), SocketAddr::from(([127, 0, 0, 1], free_port()))));
        // All servers before the first gateway: one whose peers are not there for seconds calls them silent.
        let mut clusters = Vec::new();
        for name in names {
            clusters.push(server(name).await);
        }
        let mut regions = Vec::new();
        for ((name, address), cluster) in doors.iter().zip(clusters) {
            let peers = doors.iter().filter(|(peer, _)| peer != name);
            let peers = peers.map(|(peer, at)| (peer.clone(), tcp(at.port()))).collect();
            regions.push(self.start_beside(name.clone(), *address, peers, cluster).await);
        }
        regions
    }

    async fn start(
        &self,
        name: RegionId,
        listen: SocketAddr,
        peers: BTreeMap<RegionId, Target>,
    ) -> Region {
        let cluster = server(name.as_str()).await;
        self.start_beside(name, listen, peers, cluster).await
    }

    async fn start_beside(
        &self,
        name: RegionId,
        listen: SocketAddr,
        peers: BTreeMap<RegionId, Target>,
        (cluster, folder): (Cluster, Arc<TemporaryFolder>),
    ) -> Region {
        let (routes, seen) = watch::channel(Arc::new(self.routes.clone()));
        let reader = cluster.connection_string();
        let reader = reader.replace("user=postgres", &format!("user={}", self.reader));
        let warm_ups = WarmUps::default();
        let config = Config {
            region: name.clone(),
            listen,
            ports: self.ports.iter().map(|freshness| (free_address(), *freshness)).collect(),
            local: tcp(cluster.port()),
            peers,
            park_budget: self.park_budget,
            shutdown_timeout: Duration::from_secs(5),
            mode: self.mode,
            layout: Layout { scheme: Scheme::Hash { count: PARTITIONS }, has_reference: false },
            rpo: self.rpo,
            secure: Secure::default(),
            admission: self.admission.clone(),
            console: Console {
                roles: domicile_core::config::Console {
                    admins: self.admins.iter().cloned().collect(),
                    viewers: self.viewers.iter().cloned().collect(),
                },
                database: "postgres".to_owned(),
                status: None,
                notices: self.notices.clone(),
            },
            columns: Columns::of_postgres(&reader, keyed()),
            functions: match self.knows_functions {
                true => Functions::of_postgres(&reader),
                false => Functions::default(),
            },
            roles: Roles::of_postgres(&reader),
            staleness: None,
            sharing: self.sharing,
            warm_ups: warm_ups.clone(),
        };
        let gateway = Gateway::bind(config, seen).await.unwrap();
        let (address, ports) = (gateway.address(), gateway.ports());
        let stop = CancellationToken::new();
        let (pools, tally) = (gateway.pools(), gateway.tally());
        let served = tokio::spawn(gateway.run(stop.clone()));
        Region {
            name,
            cluster,
            address,
            ports,
            routes,
            warm_ups,
            stop,
            served,
            pools,
            tally,
            _folder: folder,
        }
    }
}

async fn server(name: &str) -> (Cluster, Arc<TemporaryFolder>) {
    temporary_cluster(name, &[("fsync", "off")]).await.unwrap()
}

impl Region {
    fn connection_string(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.address.port())
    }

    async fn try_connect(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) =
            tokio_postgres::connect(&self.connection_string(), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn connect(&self) -> Client {
        within(self.try_connect()).await.unwrap()
    }

    /// Connects as `user` to `database`.
    async fn connect_as(
        &self,
        user: &str,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let address = format!("host=127.0.0.1 port={} user={user}", self.address.port());
        let address = format!("{address} dbname={database}");
        let (client, connection) = within(tokio_postgres::connect(&address, NoTls)).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    fn publish(&self, routes: Routes) {
        self.routes.send_replace(Arc::new(routes));
    }

    /// Runs statements at the cluster itself, past the gateway.
    async fn run(&self, sql: &str) {
        self.cluster.connect().await.unwrap().batch_execute(sql).await.unwrap();
    }

    async fn count(&self, sql: &str) -> i64 {
        self.cluster.connect().await.unwrap().query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Makes table `note` with a guard that names `owner`; it is open only where `open`.
    async fn guard(&self, owner: &str, epoch: u64, open: bool) {
        self.run(&format!(
            "CREATE TABLE IF NOT EXISTS guard (owner text, epoch bigint, open boolean);
             CREATE TABLE IF NOT EXISTS note (id int PRIMARY KEY, body text);
             CREATE OR REPLACE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE known guard;
             BEGIN
                 SELECT * INTO known FROM guard;
                 IF NOT known.open THEN
                     RAISE 'rows of this partition are not written in this region'
                     USING ERRCODE = '25006', HINT = 'Connect to the owner.', DETAIL =
                         format('Owner region: %s, epoch: %s.', known.owner, known.epoch);
                 END IF;
                 RETURN NULL;
             END $$;
             CREATE OR REPLACE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON note
                 FOR EACH STATEMENT EXECUTE FUNCTION guard();
             TRUNCATE guard;
             INSERT INTO guard VALUES ('{owner}', {epoch}, {open});"
        ))
        .await;
    }
}

/// Tables whose rows have a key.
fn keyed() -> BTreeMap<TableName, TableKind> {
    let owned = |column: &str| TableKind::Owned(KeySource::Columns(vec![column.to_owned()]));
    let tables = [("public.item", owned("k")), ("public.tagged", owned("id"))];
    tables.into_iter().map(|(name, kind)| (name.parse().unwrap(), kind)).collect()
}

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn tcp(port: u16) -> Target {
    Target::Tcp { host: "127.0.0.1".to_owned(), port }
}

fn owned_by(version: u64, owner: Option<&str>) -> Routes {
    Routes {
        version,
        owner_of_whole: owner.map(region),
        next_of_whole: None,
        settling: owner.is_none(),
        live: true,
        abandoned: false,
        openings: version,
        owners: None,
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this takes much less than a minute")
}

fn code(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("no code", SqlState::code)
}

/// Runs one statement in the simple protocol and returns its first value.
async fn simple(client: &Client, sql: &str) -> Result<String, tokio_postgres::Error> {
    let messages = within(client.simple_query(sql)).await?;
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(row.unwrap_or_default())
}

/// Returns which cluster answers, by its name.
async fn place(client: &Client) -> String {
    simple(client, "SELECT current_setting('cluster_name')").await.unwrap()
}

/// Waits until `sql` is true at the cluster itself.
async fn until(region: &Region, sql: &str) {
    let client = region.cluster.connect().await.unwrap();
    within(async {
        while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
