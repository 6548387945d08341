//! Does an agent that is told to stop serve who is in a transaction, end, though everybody is still connected to it, and
//! take its place again? Does it end at once where it is told so twice?

use domicile::lab::regions::Regions;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

mod regions;
use regions::{LOOK_AGAIN, PATIENCE, assert_alike, config, eventually, settle, start};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_to_stop_ends_and_is_missed_by_nobody_once_it_is_back() {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 6)", 6);
    config.seed_sql = "CREATE TABLE item (id int PRIMARY KEY, note text)".to_owned();
    config.rpo = "0".to_owned();
    config.tables = "[[table]]\nname = \"item\"\n".to_owned();
    config.gateway = "shutdown_timeout = \"1h\"".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    a_transaction_that_is_open_is_served_to_its_end(&mut regions).await;
    whoever_says_it_twice_waits_for_nobody(&mut regions).await;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        for region in regions.names().to_vec() {
            tell(&regions, &region, signal);
            comes_back(&mut regions, &region).await;
        }
    }
    for region in regions.names().to_vec() {
        let client = regions.connect(&region).await.unwrap();
        let write = "INSERT INTO item SELECT id, 'from here' FROM generate_series(1, 60) id
                     WHERE (domicile.entry(domicile.partition_of(id::text))).owner = $1";
        eventually("each region writes what it owned before", async || {
            let written = client.execute(write, &[&region]).await.map_err(|e| e.to_string())?;
            if written > 0 { Ok(()) } else { Err(format!("{region} owns nothing")) }
        })
        .await;
    }
    settle(&regions, "at the end").await;
    assert_alike(&regions, &["item"]).await;
}

fn tell(regions: &Regions, region: &str, signal: Signal) {
    let pid = regions.agent_pid(region).unwrap();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

async fn comes_back(regions: &mut Regions, region: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !regions.agent_has_ended(region) {
        assert!(Instant::now() < deadline, "{region} goes on");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    regions.start_agent(region).unwrap();
    regions.wait_until_ready().await.unwrap();
}

/// Its commit waits for a copy, which the agent that stops has to send.
async fn a_transaction_that_is_open_is_served_to_its_end(regions: &mut Regions) {
    let client = in_a_transaction(regions, 1000).await;
    is_told_to_stop(regions).await;
    client.batch_execute("COMMIT").await.unwrap();
    comes_back(regions, "eu").await;
}

/// Nor for what it was configured to wait.
async fn whoever_says_it_twice_waits_for_nobody(regions: &mut Regions) {
    let client = in_a_transaction(regions, 2000).await;
    is_told_to_stop(regions).await;
    client.query_one("SELECT 1", &[]).await.unwrap();
    tell(regions, "eu", Signal::SIGTERM);
    comes_back(regions, "eu").await;
    client.batch_execute("COMMIT").await.unwrap_err();
}

/// Returns a client of eu's gateway that has written rows from `first` on, and has not committed.
async fn in_a_transaction(regions: &Regions, first: i32) -> Client {
    let address = regions.gateway("eu");
    let gateway =
        format!("host={} port={} user=postgres dbname=postgres", address.ip(), address.port());
    let (client, driver) = tokio_postgres::connect(&gateway, NoTls).await.unwrap();
    tokio::spawn(driver);
    let write = format!(
        "BEGIN; INSERT INTO item SELECT id, 'served' FROM generate_series({first}, {first} + 60) id
         WHERE (domicile.entry(domicile.partition_of(id::text))).owner = 'eu'"
    );
    client.batch_execute(&write).await.unwrap();
    client
}

async fn is_told_to_stop(regions: &Regions) {
    tell(regions, "eu", Signal::SIGTERM);
    let address = regions.gateway("eu");
    eventually("nobody else is let in", async || match TcpStream::connect(address).await {
        Ok(_) => Err("somebody was".to_owned()),
        Err(_) => Ok(()),
    })
    .await;
}
