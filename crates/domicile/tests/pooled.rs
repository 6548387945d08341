//! What do clients see that share a gateway's servers when the region that takes their writes is lost?
//!
//! Some statements fail, and it is printed with which SQLSTATE; nobody is told a success of what is not there, and
//! everybody writes again. Drivers that know of several hosts find one by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domicile::lab::cluster::PgBin;
use domicile::lab::regions::Regions;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{PATIENCE, assert_alike, config, eventually, start};

const CLIENTS: usize = 200;
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

#[tokio::test(flavor = "multi_thread")]
async fn whoever_shares_servers_writes_again_after_a_failover_and_nothing_is_missing() {
    let mut config = config(&["eu", "us", "ap"], "whole", 1);
    config.seed_sql = "CREATE TABLE item (id bigint PRIMARY KEY)".to_owned();
    config.tables = "[[table]]\nname = \"item\"\n".to_owned();
    config.gateway = "sharing = \"transaction\"\nservers_max = 16\n".to_owned();
    // Who comes from another region has a server of its own.
    config.postgres = vec![("max_connections".to_owned(), (2 * CLIENTS).to_string())];
    config.automatic_failover = true;
    config.suspect_after = Duration::from_secs(2);
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;

    let (noted, stop) = (Arc::new(Mutex::new(Noted::default())), CancellationToken::new());
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let gateway = regions.gateway(["us", "ap"][client % 2]);
        let address = gateway_address(gateway.port());
        clients.spawn(write(client, address, noted.clone(), stop.clone()));
    }
    let all_write_after = async |moment: Instant| {
        eventually("every client writes", async || {
            let noted = noted.lock().unwrap();
            let writing = noted.last.values().filter(|last| **last > moment).count();
            match writing {
                CLIENTS => Ok(()),
                _ => Err(format!("{writing} do; {:?}", noted.errors)),
            }
        })
        .await;
    };
    all_write_after(Instant::now()).await;
    let before = noted.lock().unwrap().errors.clone();
    assert!(before.is_empty(), "{before:?}");
    regions.kill_region("eu");
    all_write_after(Instant::now()).await;
    by_themselves(&regions).await;
    stop.cancel();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    regions.start_region("eu").await.unwrap();
    regions.wait_until_ready().await.unwrap();
    owes_nobody_anything(&regions).await;
    let mut back = Command::new(regions.binary());
    back.args(["runbook", "plan", "failback", "partitions=0", "to=eu", "--config"]);
    let back = back.arg(regions.config_file("us")).output().unwrap();
    assert!(back.status.success(), "{back:?}");
    assert_alike(&regions, &["item"]).await;

    let noted = std::mem::take(&mut *noted.lock().unwrap());
    let failed: usize = noted.errors.values().sum();
    println!("{} written, {failed} failed: {:?}", noted.acknowledged.len(), noted.errors);
    assert!(
        noted.errors.keys().all(|code| EXPECTED.contains(&code.as_str())),
        "{:?}",
        noted.errors
    );
    let us = regions.connect("us").await.unwrap();
    let there = us.query("SELECT id FROM item", &[]).await.unwrap();
    let there: BTreeSet<i64> = there.iter().map(|row| row.get(0)).collect();
    let missing: Vec<&i64> = noted.acknowledged.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?}");
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
