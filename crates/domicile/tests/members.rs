//! Can a region be taken out of the cluster for good, under writes, without being there?
//!
//! Three regions; small logs, so that what is kept for nobody shows.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domicile::lab::regions::Regions;
use serde_json::Value as Json;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{config, eventually, start};

const SEED: &str = "CREATE TABLE item (id int PRIMARY KEY, n int, filling text)";
const TABLES: &str = "[[table]]\nname = \"item\"\n";
const LOG: &str = "[log]\nkeep = \"0s\"\nsegment = \"64KiB\"\nsize_max = \"16MiB\"\n";
const STAY: [&str; 2] = ["eu", "us"];

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_gone_is_removed_under_writes_and_nobody_waits_for_it() {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 6)", 6);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.more = LOG.to_owned();
    // A writer is not to meet the end of a lease while its agent starts again.
    config.lease = Duration::from_secs(20);
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = STAY
        .iter()
        .map(|region| tokio::spawn(write(regions.postgres(region), region, stop.clone())))
        .collect();

    // The others' records name it as a cause.
    let ap = regions.connect("ap").await.unwrap();
    let sql = "INSERT INTO item SELECT id, 0, 'by ap' FROM generate_series(2000, 3000) id
               WHERE (domicile.entry(domicile.partition_of(id::text))).owner = 'ap'";
    assert!(ap.execute(sql, &[]).await.unwrap() > 100);
    let (report, code) = run(&regions, &["region", "remove", "ap", "--json"]);
    assert_eq!(code, 3, "{report:#}");
    assert!(report["refused"][0]["instead"].as_str().unwrap().contains("switchover"), "{report:#}");
    let (report, code) = run(&regions, &["switchover", "--from", "ap", "--to", "us", "--json"]);
    assert_eq!(code, 0, "{report:#}");
    let (report, code) = run(&regions, &["region", "remove", "ap", "--json"]);
    assert_eq!(code, 3, "{report:#}");
    assert!(report["refused"][0]["reason"].as_str().unwrap().contains("still runs"), "{report:#}");

    // ap is for a while the only one that holds what eu commits.
    regions.links().stop_reading("us");
    let eu = regions.connect("eu").await.unwrap();
    let sql = "INSERT INTO item SELECT id, 0, 'held by ap' FROM generate_series(4000, 4100) id
               WHERE (domicile.entry(domicile.partition_of(id::text))).owner = 'eu'";
    assert!(eu.execute(sql, &[]).await.unwrap() > 10);
    regions.kill_region("ap");
    let (report, code) = run(&regions, &["region", "remove", "ap", "--wait", "1", "--json"]);
    assert_eq!(code, 3, "{report:#}");
    let few = "the others that stay hold 0 copies";
    assert!(report["refused"][0]["reason"].as_str().unwrap().contains(few), "{report:#}");
    regions.links().resume_reading("us");
    eventually("logs are kept for ap", async || match log_bytes(&regions).await? {
        bytes if bytes.iter().all(|bytes| *bytes > 1 << 20) => Ok(()),
        bytes => Err(format!("{bytes:?}")),
    })
    .await;
    let (report, code) = run(&regions, &["region", "remove", "ap", "--json"]);
    assert_eq!(code, 0, "{report:#}");
    eventually("logs are not kept for ap any more", async || match log_bytes(&regions).await? {
        bytes if bytes.iter().all(|bytes| *bytes < 1 << 20) => Ok(()),
        bytes => Err(format!("{bytes:?}")),
    })
    .await;

    // The operator rolls the configuration.
    for region in STAY {
        let file = regions.config_file(region).to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let begin = text.find("[[region]]\nname = \"ap\"").unwrap();
        let end = begin + text[begin..].find("[[table]]").unwrap();
        std::fs::write(&file, format!("{}{}", &text[..begin], &text[end..])).unwrap();
        regions.kill_agent(region);
        regions.start_agent(region).unwrap();
        eventually(&format!("{region} writes without ap"), async || {
            let status = regions.status(region).await.map_err(|e| e.to_string())?;
            match status.lease_live && status.peers.len() == 1 && status.peers[0].connected {
                true => Ok(()),
                false => Err(format!("{status:?}")),
            }
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        assert!(writer.await.unwrap() > 100, "a writer hardly wrote");
    }
    eventually("eu and us show the same", async || {
        let mut sums: Vec<String> = Vec::new();
        for region in STAY {
            let client = regions.connect(region).await.map_err(|e| e.to_string())?;
            let sql = "SELECT count(*) || ' ' || sum(hashtext(item::text)) FROM item";
            sums.push(client.query_one(sql, &[]).await.map_err(|e| e.to_string())?.get(0));
        }
        if sums[0] == sums[1] { Ok(()) } else { Err(format!("{sums:?}")) }
    })
    .await;
    for region in STAY {
        let client = regions.connect(region).await.unwrap();
        let lost = client.query("SELECT FROM domicile.journal", &[]).await.unwrap();
        assert!(lost.is_empty(), "{region} journals");
    }
}

/// Writes rows that this region owned at the beginning, until it is told to stop.
async fn write(postgres: String, region: &'static str, stop: Arc<AtomicBool>) -> usize {
    let client = domicile::postgres::session::connect(&postgres, "test").await.unwrap();
    client.batch_execute("SET synchronous_commit = on; SET search_path = public").await.unwrap();
    let sql = "SELECT id FROM generate_series(1, 1000) id
               WHERE (domicile.entry(domicile.partition_of(id::text))).owner = $1";
    let rows = client.query(sql, &[&region]).await.unwrap();
    let owned: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    let mut commits = 0;
    while !stop.load(Ordering::Relaxed) {
        let sql = "INSERT INTO item VALUES ($1, 1, repeat(md5($2::text), 64))
                   ON CONFLICT (id) DO UPDATE SET n = item.n + 1, filling = excluded.filling";
        let id = owned[commits % owned.len()];
        let wrote = client.execute(sql, &[&id, &commits.to_string()]).await;
        wrote.unwrap_or_else(|e| panic!("{region}: {e:?}"));
        commits += 1;
    }
    commits
}

async fn log_bytes(regions: &Regions) -> Result<Vec<u64>, String> {
    let mut all = Vec::new();
    for region in STAY {
        all.push(regions.status(region).await.map_err(|e| e.to_string())?.log_bytes);
    }
    Ok(all)
}

fn run(regions: &Regions, arguments: &[&str]) -> (Json, i32) {
    let mut command = Command::new(regions.binary());
    command.args(arguments).arg("--config").arg(regions.config_file("eu"));
    let output = command.output().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (report.unwrap_or_else(|_| Json::String(format!("{output:?}"))), output.status.code().unwrap())
}
