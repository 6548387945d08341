//! Does a witness, which only holds logs, save what two regions alone would lose, and never more than it
//! should?

use domicile::lab::regions::{Regions, RegionsConfig};
use domicile::status::RegionStatus;
use domicile_core::lsn::Lsn;
use tokio::process::Command;
use tokio_postgres::Client;

mod regions;
use regions::{assert_alike, config, converge, eventually, start};

const SEED_SQL: &str = "CREATE TABLE item (id bigint PRIMARY KEY, filling text NOT NULL)";
const TABLES: &str = "[[table]]\nname = \"item\"\n";
const LOG: &str = "[log]\nkeep = \"0s\"\nsegment = \"64KiB\"\n";

/// Two regions that wait for one copy of each commit, and a witness.
async fn two_and_a_witness(more: impl FnOnce(&mut RegionsConfig)) -> Regions {
    let mut config = config(&["eu", "us"], "whole", 1);
    config.witnesses = vec!["metro".to_owned()];
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = TABLES.to_owned();
    config.more = LOG.to_owned();
    more(&mut config);
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    regions
}

/// Writes rows of about a kilobyte, each acknowledged by a copy elsewhere.
async fn write(client: &Client, ids: std::ops::RangeInclusive<i64>) {
    let sql =
        "INSERT INTO item SELECT $1::bigint, string_agg(md5(($1::bigint * 100 + i)::text), '')
               FROM generate_series(1, 32) i";
    for id in ids {
        client.execute(sql, &[&id]).await.unwrap();
    }
}

async fn rows(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM item", &[]).await.unwrap().get(0)
}

/// Waits until an agent says of itself what `is` asks for.
async fn says(regions: &Regions, holder: &str, what: &str, is: impl Fn(&RegionStatus) -> bool) {
    eventually(&format!("{holder} says: {what}"), async || {
        let status = regions.status(holder).await.map_err(|e| e.to_string())?;
        if is(&status) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

async fn domicile(regions: &Regions, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(regions.binary());
    command.args(arguments).arg("--config").arg(regions.config_file("us"));
    let output = command.output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

fn held(status: &RegionStatus, origin: &str) -> Lsn {
    status.flushed.get(origin).map_or(Lsn::ZERO, |end| end.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_witness_alone_holds_of_a_lost_region_is_there_at_the_one_that_takes_over() {
    let mut regions = two_and_a_witness(|config| config.automatic_failover = true).await;
    let eu = regions.connect("eu").await.unwrap();
    write(&eu, 1..=10).await;
    // From here on only the witness has copies.
    regions.links().cut("eu", "us");
    write(&eu, 11..=60).await;
    let us = regions.connect("us").await.unwrap();
    assert!(rows(&us).await < 60, "nothing comes over the link");
    regions.kill_region("eu");
    says(&regions, "us", "it owns", |status| !status.owns.is_empty()).await;
    eventually("us takes writes", async || {
        us.execute("INSERT INTO item VALUES (61, '')", &[]).await.map_err(|e| format!("{e:?}"))
    })
    .await;
    assert_eq!(rows(&us).await, 61, "every acknowledged row");
    regions.links().heal("eu", "us");
    regions.start_region("eu").await.unwrap();
    regions.wait_until_ready().await.unwrap();
    converge(&regions).await;
    assert_alike(&regions, &["item"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_comes_and_goes_holds_no_more_than_is_needed_and_owns_nothing() {
    let mut regions = two_and_a_witness(|config| config.tls = true).await;
    let eu = regions.connect("eu").await.unwrap();
    write(&eu, 1..=200).await;
    says(&regions, "metro", "its log is trimmed", |status| {
        status.trimmed.get("eu-1").is_some_and(|lsn| lsn.parse::<Lsn>().unwrap() > Lsn::ZERO)
    })
    .await;
    says(&regions, "us", "the witness follows its log", |status| {
        let mut peers = status.peers.iter();
        peers.any(|peer| peer.region == "metro" && peer.witness && peer.connected)
    })
    .await;
    let (code, said) = domicile(&regions, &["status"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("metro") && said.contains("witness"), "{said}");

    let (code, said) = domicile(&regions, &["switchover", "--from", "eu", "--to", "metro"]).await;
    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("metro"), "{said}");
    let (code, said) = domicile(&regions, &["region", "remove", "metro"]).await;
    assert_eq!(code, Some(3), "it runs: {said}");

    // With the witness gone the other region is the copy; then both may not be gone.
    regions.kill_agent("metro");
    write(&eu, 201..=400).await;
    // What it lacks is trimmed everywhere by now: its copy begins anew behind that.
    says(&regions, "eu", "its log is trimmed", |status| {
        let end: Lsn = status.log_end.parse().unwrap();
        let trimmed = status.trimmed.get("eu-1").map(|lsn| lsn.parse::<Lsn>().unwrap());
        trimmed.is_some_and(|trimmed| end.bytes_since(trimmed) < 128 << 10)
    })
    .await;
    // In an empty folder in place of its own it would seal that it holds nothing.
    let data = regions.folder().join("metro/agent");
    std::fs::rename(&data, data.with_extension("lost")).unwrap();
    regions.links().cut("eu", "metro");
    regions.start_agent("metro").unwrap();
    let is_short = |status: &RegionStatus| {
        let mut short = status.conditions.iter().filter(|c| c.name == "copies_short");
        short.any(|condition| condition.detail.contains("eu-1"))
    };
    says(&regions, "metro", "it lacks what it held of eu", is_short).await;
    regions.links().heal("eu", "metro");
    says(&regions, "metro", "it lacks nothing any more", |status| {
        status.conditions.iter().all(|condition| condition.name != "copies_short")
    })
    .await;
    let (code, said) = domicile(&regions, &["region", "add", "metro"]).await;
    assert_eq!(code, Some(0), "{said}");
    let end = held(&regions.status("eu").await.unwrap(), "eu-1");
    says(&regions, "metro", "it holds the log of eu", |status| held(status, "eu-1") >= end).await;
    // Its copies count again.
    regions.links().cut("eu", "us");
    write(&eu, 401..=410).await;
    regions.links().heal("eu", "us");
    converge(&regions).await;
    assert_alike(&regions, &["item"]).await;

    regions.kill_agent("metro");
    let (code, said) = domicile(&regions, &["region", "remove", "metro"]).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = domicile(&regions, &["region", "add", "metro"]).await;
    assert_eq!(code, Some(3), "nobody answers: {said}");
    regions.start_agent("metro").unwrap();
    says(&regions, "metro", "it is there again", |status| status.directory_connected).await;
    eventually("the witness is added", async || {
        match domicile(&regions, &["region", "add", "metro"]).await {
            (Some(0), _) => Ok(()),
            (_, said) => Err(said),
        }
    })
    .await;
}
