//! What do clients see that share servers, most of them another region's, when that is lost, or hands over what it owns?
//!
//! Some statements fail, and it is printed with which SQLSTATE; nobody is told a success of what is not there, and
//! everybody writes again. Drivers that know of several hosts find one by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domicile::lab::cluster::PgBin;
use domicile::lab::regions::{Regions, RegionsConfig};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{PATIENCE, assert_alike, config, eventually, start};

const CLIENTS: usize = 200;
const SERVERS: usize = 16;
/// So many of those who share are let in by PostgreSQL itself at once.
const LOGINS: usize = 4;
/// Far fewer than there are clients: who owns everything has servers for its own clients, for those of all other regions,
/// and for the cluster.
const CONNECTIONS: usize = 80;
/// Between two writes of one client.
const PAUSE: Duration = Duration::from_millis(500);
/// Ids of one client.
const IDS: i64 = 1_000_000;
/// The connection is lost with nothing under way, or with something of which nobody knows the outcome; no region
/// takes writes just then, or none that can be reached.
const EXPECTED: [&str; 5] = ["08006", "08007", "08001", "25006", "57P01"];

#[derive(Default)]
struct Noted {
    acknowledged: BTreeSet<i64>,
    errors: BTreeMap<String, usize>,
    /// When each was told of a success last.
    last: BTreeMap<usize, Instant>,
}

/// Clients that write one row after the other.
struct Writers {
    noted: Arc<Mutex<Noted>>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

impl Writers {
    /// Has them come in by these regions, all at once.
    fn start(regions: &Regions, by: &[&str]) -> Self {
        let (noted, stop) = (Arc::new(Mutex::new(Noted::default())), CancellationToken::new());
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let address = gateway_address(regions.gateway(by[client % by.len()]).port());
            clients.spawn(write(client, address, noted.clone(), stop.clone()));
        }
        Self { noted, stop, clients }
    }

    async fn all_write_after(&self, moment: Instant) {
        eventually("every client writes", async || {
            let noted = self.noted.lock().unwrap();
            let writing = noted.last.values().filter(|last| **last > moment).count();
            match writing {
                CLIENTS => Ok(()),
                _ => Err(format!("{writing} do; {:?}", noted.errors)),
            }
        })
        .await;
    }

    fn have_seen_no_error(&self) {
        let errors = self.noted.lock().unwrap().errors.clone();
        assert!(errors.is_empty(), "{errors:?}");
    }

    async fn stop(mut self) -> Noted {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        std::mem::take(&mut *self.noted.lock().unwrap())
    }
}

async fn regions_of(names: &[&str], change: impl FnOnce(&mut RegionsConfig)) -> Regions {
    let mut config = config(names, "whole", 1);
    config.seed_sql = "CREATE TABLE item (id bigint PRIMARY KEY)".to_owned();
    config.tables = "[[table]]\nname = \"item\"\n".to_owned();
    config.gateway = format!("sharing = \"transaction\"\nservers_max = {SERVERS}\n");
    config.postgres = vec![("max_connections".to_owned(), CONNECTIONS.to_string())];
    change(&mut config);
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    regions
}

async fn nothing_is_missing(regions: &Regions, region: &str, noted: &Noted) {
    let direct = regions.connect(region).await.unwrap();
    let there = direct.query("SELECT id FROM item", &[]).await.unwrap();
    let there: BTreeSet<i64> = there.iter().map(|row| row.get(0)).collect();
    let missing: Vec<&i64> = noted.acknowledged.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_shares_servers_writes_again_after_a_failover_and_nothing_is_missing() {
    let mut regions = regions_of(&["eu", "us", "ap"], |config| {
        config.automatic_failover = true;
        config.suspect_after = Duration::from_secs(2);
    })
    .await;
    let writers = Writers::start(&regions, &["us", "ap"]);
    writers.all_write_after(Instant::now()).await;
    writers.have_seen_no_error();
    regions.kill_region("eu");
    writers.all_write_after(Instant::now()).await;
    by_themselves(&regions).await;
    let noted = writers.stop().await;
    regions.start_region("eu").await.unwrap();
    regions.wait_until_ready().await.unwrap();
    owes_nobody_anything(&regions).await;
    eventually("all can be given back", async || {
        let mut back = Command::new(regions.binary());
        back.args(["runbook", "plan", "failback", "partitions=0", "to=eu", "--config"]);
        let back = back.arg(regions.config_file("us")).output().map_err(|e| e.to_string())?;
        if back.status.success() { Ok(()) } else { Err(format!("{back:?}")) }
    })
    .await;
    assert_alike(&regions, &["item"]).await;

    let failed: usize = noted.errors.values().sum();
    println!("{} written, {failed} failed: {:?}", noted.acknowledged.len(), noted.errors);
    assert!(
        noted.errors.keys().all(|code| EXPECTED.contains(&code.as_str())),
        "{:?}",
        noted.errors
    );
    nothing_is_missing(&regions, "us", &noted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_of_another_region_take_few_servers_and_are_handed_over_without_an_error() {
    let regions = regions_of(&["eu", "us", "ap"], |_| {}).await;
    let writers = Writers::start(&regions, &["us", "ap"]);
    writers.all_write_after(Instant::now()).await;
    let owner = regions.connect("eu").await.unwrap();
    let servers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
        AND pid <> pg_backend_pid() AND application_name NOT LIKE 'domicile%'";
    let servers: i64 = owner.query_one(servers, &[]).await.unwrap().get(0);
    assert!((1..=SERVERS + LOGINS).contains(&(servers as usize)), "{servers} for {CLIENTS}");
    for to in ["us", "eu"] {
        let run = tokio::process::Command::new(regions.binary())
            .args(["switchover", "--partitions", "0", "--to", to, "--config"])
            .arg(regions.config_file("us"))
            .output();
        let run = run.await.unwrap();
        assert!(run.status.success(), "{run:?}");
        writers.all_write_after(Instant::now()).await;
        writers.have_seen_no_error();
    }
    let noted = writers.stop().await;
    assert!(noted.errors.is_empty(), "{:?}", noted.errors);
    nothing_is_missing(&regions, "eu", &noted).await;
}

/// What it alone had written is no history: nobody lacks it.
async fn owes_nobody_anything(regions: &Regions) {
    eventually("nobody lacks what eu wrote", async || {
        let status = regions.status("eu").await.map_err(|e| e.to_string())?;
        let lacks = status
            .peers
            .iter()
            .find(|peer| (peer.staleness_ms, peer.exposure_ms, peer.lag_bytes) != (0, 0, 0));
        lacks.map_or(Ok(()), |peer| Err(format!("{peer:?}")))
    })
    .await;
}

fn gateway_address(port: u16) -> String {
    format!("host=127.0.0.1 port={port} user=postgres dbname=postgres connect_timeout=5")
}

/// Writes one row after the other, and connects again whenever it has to.
async fn write(client: usize, address: String, noted: Arc<Mutex<Noted>>, stop: CancellationToken) {
    let mut id = client as i64 * IDS;
    while !stop.is_cancelled() {
        let session = match tokio_postgres::connect(&address, NoTls).await {
            Ok((session, driver)) => {
                tokio::spawn(driver);
                session
            }
            Err(error) => {
                note(&noted, &error);
                sleep(PAUSE).await;
                continue;
            }
        };
        // Once: what the driver says of statements that it needs no more is answered to nobody.
        let insert = match session.prepare("INSERT INTO item VALUES ($1)").await {
            Ok(insert) => insert,
            Err(error) => {
                note(&noted, &error);
                continue;
            }
        };
        while !stop.is_cancelled() {
            id += 1;
            let written = async { session.execute(&insert, &[&id]).await };
            match timeout(PATIENCE, written).await.expect("it is answered") {
                Ok(_) => {
                    let mut noted = noted.lock().unwrap();
                    noted.acknowledged.insert(id);
                    noted.last.insert(client, Instant::now());
                }
                Err(error) => {
                    note(&noted, &error);
                    break;
                }
            }
            sleep(PAUSE).await;
        }
    }
}

fn note(noted: &Mutex<Noted>, error: &tokio_postgres::Error) {
    let code = error.code().map_or_else(|| format!("{error:?}"), |code| code.code().to_owned());
    *noted.lock().unwrap().errors.entry(code).or_default() += 1;
}

/// libpq, and a driver that has its own way: the first host is gone.
async fn by_themselves(regions: &Regions) {
    let ports: Vec<String> =
        ["eu", "us"].iter().map(|region| regions.gateway(region).port().to_string()).collect();
    let address = format!(
        "host=127.0.0.1,127.0.0.1 port={} user=postgres dbname=postgres connect_timeout=5 \
         target_session_attrs=read-write",
        ports.join(",")
    );
    let (session, driver) = tokio_postgres::connect(&address, NoTls).await.unwrap();
    tokio::spawn(driver);
    session.batch_execute("INSERT INTO item VALUES (-1)").await.unwrap();
    let mut psql = Command::new(PgBin::find(None).unwrap().program("psql"));
    psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-c", "INSERT INTO item VALUES (-2)", &address]);
    let output = psql.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
