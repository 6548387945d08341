//! What lost is written again only where that overwrites nothing newer, and by its owner.

use std::net::SocketAddr;
use std::process::{Command, Output};

use domicile::lab::regions::Regions;
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::matrix::shows;
use crate::regions::{assert_alike, config, eventually, settle, start};

const SEED: &str = "
    CREATE TABLE account (id int PRIMARY KEY, branch text NOT NULL, balance int);
    INSERT INTO account VALUES (1, 'us', 10);
    CREATE TABLE person (id int PRIMARY KEY, name text, age int);
    INSERT INTO person VALUES (1, 'Ann', 30), (2, 'Bob', 40);
    CREATE TABLE visits (id int PRIMARY KEY, n int);
    INSERT INTO visits VALUES (1, 0);";

const TABLES: &str = "
[[table]]
name = \"account\"
key = \"branch\"

[[table]]
name = \"person\"
kind = \"shared\"
policy = \"manual\"

[[table]]
name = \"visits\"
kind = \"shared\"
columns = { n = \"delta\" }
";

async fn regions(rpo: &str) -> Regions {
    let mut config = config(&["eu", "us"], "home(branch)", 2);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.rpo = rpo.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    regions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_waits_for_copies_counts_every_region() {
    let regions = regions("0").await;
    for region in ["eu", "us", "eu"] {
        let client = regions.connect(region).await.unwrap();
        client.batch_execute("UPDATE visits SET n = n + 1 WHERE id = 1").await.unwrap();
    }
    settle(&regions, "counted").await;
    assert_alike(&regions, &["visits"]).await;
    assert_eq!(ask(&regions, "eu", "SELECT n::text FROM visits").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_waits_for_its_own_agent_does_not_keep_that_from_starting() {
    let mut regions = regions("0").await;
    regions.kill_agent("eu");
    let client = regions.connect("eu").await.unwrap();
    let write = tokio::spawn(async move {
        client.batch_execute("UPDATE visits SET n = n + 1 WHERE id = 1").await
    });
    let observer = regions.connect("eu").await.unwrap();
    eventually("the commit waits for a copy", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        match observer.query_one(sql, &[]).await.map_err(|e| e.to_string())?.get::<_, i64>(0) {
            0 => Err("not yet".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    regions.start_agent("eu").unwrap();
    eventually("it returns", async || match write.is_finished() {
        true => Ok(()),
        false => Err("it waits".to_owned()),
    })
    .await;
    write.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lost_is_written_again_when_a_person_says_so() {
    let regions = regions("none").await;
    settle(&regions, "start").await;
    for region in regions.names() {
        regions.links().stop_shipping(region);
    }
    for (region, name) in [("eu", "Anna"), ("us", "Anne")] {
        let client = regions.connect(region).await.unwrap();
        let sql = format!("UPDATE person SET name = '{name}' WHERE id = 1");
        client.batch_execute(&sql).await.unwrap();
    }
    for (origin, reader) in [("eu", "us"), ("us", "eu")] {
        regions.links().resume_shipping(origin);
        shows(&regions, reader, origin).await;
    }
    settle(&regions, "apart").await;

    let entries = json(&domicile(&regions, &["journal", "list", "--status", "open", "--json"]));
    let entries = entries.as_array().unwrap().clone();
    assert_eq!(entries.len(), 2, "one in each region: {entries:#?}");
    let entry = entries.iter().find(|e| e["region"] == "eu").unwrap();
    counted_as_open(&regions).await;
    let id = entry["id"].to_string();
    let stayed = ask(&regions, "eu", "SELECT name FROM person WHERE id = 1").await;
    let lost = if stayed == "Anna" { "Anne" } else { "Anna" };

    let dry = domicile(&regions, &["journal", "replay", &id, "--region", "eu", "--dry-run"]);
    assert!(dry.status.success(), "{dry:?}");
    assert_eq!(ask(&regions, "eu", "SELECT name FROM person WHERE id = 1").await, stayed);
    let replayed = domicile(&regions, &["journal", "replay", &id, "--region", "eu"]);
    assert!(replayed.status.success(), "{replayed:?}");
    settle(&regions, "replayed").await;
    assert_alike(&regions, &["person"]).await;
    assert_eq!(ask(&regions, "us", "SELECT name FROM person WHERE id = 1").await, lost);

    let again = domicile(&regions, &["journal", "replay", &id, "--region", "eu"]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("the entry is resolved"), "{said}");

    let other = entries.iter().find(|e| e["region"] == "us").unwrap()["id"].to_string();
    let resolved = domicile(&regions, &["journal", "resolve", &other, "--region", "us"]);
    assert!(resolved.status.success(), "{resolved:?}");
    let open = json(&domicile(&regions, &["journal", "list", "--status", "open", "--json"]));
    assert_eq!(open, Json::Array(Vec::new()));
    let unknown = domicile(&regions, &["journal", "resolve", "999", "--region", "us"]);
    assert!(!unknown.status.success(), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lost_of_an_owned_row_is_written_by_its_owner() {
    let regions = regions("0").await;
    let journal = regions.connect("eu").await.unwrap();
    let sql = "INSERT INTO domicile.journal
                   (origin, lsn, xid, change, relation, operation, key, old, new, conflict, reason,
                    status)
               VALUES ('eu-1', '0/1', 7, 0, 'public.account', 'update', '{\"id\": \"1\"}',
                       '{\"id\": \"1\", \"balance\": \"10\"}',
                       '{\"id\": \"1\", \"branch\": \"us\", \"balance\": \"15\"}',
                       'beyond_cut', 'as a tail is journaled', 'open')
               RETURNING id";
    let id = journal.query_one(sql, &[]).await.unwrap().get::<_, i64>(0).to_string();
    let replayed = domicile(&regions, &["journal", "replay", &id, "--region", "eu", "--json"]);
    assert!(replayed.status.success(), "{replayed:?}");
    assert_eq!(json(&replayed)["region"], "us");
    settle(&regions, "replayed").await;
    assert_alike(&regions, &["account"]).await;
    assert_eq!(ask(&regions, "eu", "SELECT balance::text FROM account").await, "15");
    let status = format!("SELECT status FROM domicile.journal WHERE id = {id}");
    assert_eq!(ask(&regions, "eu", &status).await, "resolved");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_entries_go_and_those_that_wait_for_a_person_stay() {
    let regions = regions("0").await;
    let journal = regions.connect("eu").await.unwrap();
    let sql = "INSERT INTO domicile.journal
                   (at, origin, lsn, xid, change, relation, operation, conflict, reason, status)
               SELECT now() - age * interval '1 day', 'us-1', '0/1', 7, number, 'public.account',
                      'update', 'update_missing', 'for this test', status
               FROM (VALUES (1, 40, 'settled'), (2, 40, 'open'), (3, 20, 'settled'))
                    entries (number, age, status)";
    journal.batch_execute(sql).await.unwrap();
    eventually("the old one is gone", async || {
        let left = "SELECT string_agg(change::text, ' ' ORDER BY change) FROM domicile.journal";
        let left: String = journal.query_one(left, &[]).await.map_err(|e| e.to_string())?.get(0);
        if left == "2 3" { Ok(()) } else { Err(left) }
    })
    .await;
}

async fn ask(regions: &Regions, region: &str, sql: &str) -> String {
    regions.connect(region).await.unwrap().query_one(sql, &[]).await.unwrap().get(0)
}

/// Whoever watches the agent is told, also after somebody has sent it nonsense.
async fn counted_as_open(regions: &Regions) {
    let mut nonsense = TcpStream::connect(regions.metrics("eu")).await.unwrap();
    nonsense.write_all(&[0xff; 512]).await.unwrap();
    let wanted = "domicile_journal_entries{cluster=\"lab\",region=\"eu\",\
                  conflict=\"update_origin_differs\",status=\"open\"} 1.0";
    eventually("the metrics count what waits for a person", async || {
        let page = get(regions.metrics("eu")).await.map_err(|e| e.to_string())?;
        if page.lines().any(|line| line == wanted) { Ok(()) } else { Err(page) }
    })
    .await;
}

async fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: eu\r\nConnection: close\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}

fn domicile(regions: &Regions, arguments: &[&str]) -> Output {
    let mut command = Command::new(regions.binary());
    command.args(arguments).arg("--config").arg(regions.config_file("eu"));
    command.output().unwrap()
}

fn json(output: &Output) -> Json {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}
