//! Can a hand-over be tried at any time, without anybody noticing?

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domicile::clock;
use domicile::directory::documents::{
    OWNERSHIP_KEY, RUN_PREFIX, RunDocument, RunState, json, lower_ownership,
};
use domicile::directory::{Client as Directory, Document};
use domicile::lab::regions::{Regions, RegionsConfig};
use domicile_core::id::{PartitionId, RegionId};
use domicile_core::ownership::Ownership;
use serde_json::Value as Json;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{config, eventually, start};

const NAMES: [&str; 3] = ["eu", "us", "ap"];
const SEED: &str = "CREATE TABLE item (id int PRIMARY KEY, n int)";
const TABLES: &str = "[[table]]\nname = \"item\"\n";
/// Longer than the writers of a partition that is handed over are waited for.
const LONGER_THAN_A_DRAIN: Duration = Duration::from_millis(2500);
/// An agent that has not answered for so long counts as silent.
const SILENT_MS: u64 = 2000;

fn three() -> RegionsConfig {
    let mut config = config(&NAMES, "hash(id, 9)", 9);
    // A region that stands still for a moment keeps its lease.
    config.lease = Duration::from_secs(30);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config
}

/// What it printed as JSON, and how it ended.
fn asked(regions: &Regions, arguments: &[&str]) -> (Json, i32) {
    let mut command = Command::new(regions.binary());
    command.args(arguments).arg("--json").arg("--config").arg(regions.config_file("ap"));
    let output = command.output().unwrap();
    let printed = serde_json::from_slice(&output.stdout);
    (printed.unwrap_or_else(|_| Json::String(format!("{output:?}"))), output.status.code().unwrap())
}

/// Owner and epoch of each range.
fn owned(regions: &Regions) -> BTreeMap<String, (String, u64)> {
    let (listed, code) = asked(regions, &["partition", "list"]);
    assert_eq!(code, 0, "{listed:#}");
    let rows = listed.as_array().unwrap().iter().map(|row| {
        let owner = row["owner"].as_str().unwrap_or_default().to_owned();
        (row["partitions"].as_str().unwrap().to_owned(), (owner, row["epoch"].as_u64().unwrap()))
    });
    rows.collect()
}

/// Plans a drill and runs it as planned.
fn drill(regions: &Regions, to: &str) -> (Json, i32) {
    let to = format!("to={to}");
    let (planned, code) = asked(regions, &["runbook", "plan", "drill", &to]);
    assert_eq!(code, 0, "{planned:#}");
    let id = planned["plan"].as_str().unwrap();
    asked(regions, &["runbook", "run", "drill", &to, "--plan", id])
}

/// Waits until `domicile status` says this, or says it no more.
async fn says_of_status(regions: &Regions, what: &str, says: bool) {
    eventually(&format!("the status says \"{what}\": {says}"), async || {
        let mut command = Command::new(regions.binary());
        command.arg("status").arg("--config").arg(regions.config_file("eu"));
        let output = command.output().map_err(|e| e.to_string())?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if printed.contains(what) == says { Ok(()) } else { Err(printed) }
    })
    .await;
}

/// Somebody who writes until told to stop, and says how often and what went wrong.
struct Writer(JoinHandle<(u64, Vec<String>)>);

impl Writer {
    /// Writes rows of `region`'s own partitions at `address`.
    async fn start(address: &str, region: &str, first: i32, stop: &Arc<AtomicBool>) -> Self {
        let (client, connection) = tokio_postgres::connect(address, NoTls).await.unwrap();
        tokio::spawn(connection);
        let sql = "SELECT id FROM generate_series($2::int, $2 + 99) id
                   WHERE (domicile.entry(domicile.partition_of(id::text))).owner = $1";
        let ids = client.query(sql, &[&region, &first]).await.unwrap();
        let ids: Vec<i32> = ids.iter().map(|row| row.get(0)).collect();
        let stop = stop.clone();
        Self(tokio::spawn(async move {
            let (mut written, mut wrong) = (0, Vec::new());
            while !stop.load(Ordering::SeqCst) {
                let sql = "INSERT INTO item VALUES ($1, 1)
                           ON CONFLICT (id) DO UPDATE SET n = item.n + 1";
                match client.execute(sql, &[&ids[written as usize % ids.len()]]).await {
                    Ok(_) => written += 1,
                    Err(error) => wrong.push(format!("{error:?}")),
                }
                if client.is_closed() {
                    break;
                }
            }
            (written, wrong)
        }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_takes_the_canary_there_and_back_and_no_writer_notices() {
    let mut regions = Regions::create(three()).await.unwrap();
    start(&mut regions).await;
    let before = owned(&regions);
    assert_eq!(before["canary"], ("eu".to_owned(), 1), "{before:?}");
    let (stop, mut writers) = (Arc::new(AtomicBool::new(false)), Vec::new());
    for (number, region) in (0..).zip(NAMES) {
        let gateway = regions.gateway(region);
        let through =
            format!("host={} port={} user=postgres dbname=postgres", gateway.ip(), gateway.port());
        for (half, address) in (0..).zip([regions.postgres(region), through]) {
            let first = 1000 * (2 * number + half);
            writers.push(Writer::start(&address, region, first, &stop).await);
        }
    }
    // Who writes for longer than a hand-over waits would be terminated by one of a partition with rows.
    let mut slow = regions.connect("eu").await.unwrap();
    let open = slow.transaction().await.unwrap();
    let own = "SELECT id FROM generate_series(100000, 100099) id
               WHERE (domicile.entry(domicile.partition_of(id::text))).owner = 'eu' LIMIT 1";
    let id: i32 = open.query_one(own, &[]).await.unwrap().get(0);
    open.execute("INSERT INTO item VALUES ($1, 1)", &[&id]).await.unwrap();
    let since = tokio::time::Instant::now();
    eventually("the transaction is open for long", async || {
        let told = regions.status("eu").await.map_err(|e| e.to_string())?.open_writers;
        let long = since.elapsed() > LONGER_THAN_A_DRAIN && !told.is_empty();
        if long { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;

    let (planned, _) = asked(&regions, &["runbook", "plan", "drill", "to=us"]);
    let moves = serde_json::json!([{"partitions": "canary", "epoch": 1, "from": "eu", "to": "us"}]);
    assert_eq!(planned["moves"], moves, "{planned:#}");
    assert_eq!(planned["cautions"], serde_json::json!([]), "nobody comes to harm: {planned:#}");
    let (said, code) = drill(&regions, "us");
    assert_eq!(code, 0, "{said:#}");
    open.commit().await.expect("nobody has terminated it");
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        let (written, wrong) = writer.0.await.unwrap();
        assert!(written > 0 && wrong.is_empty(), "{written} written, and {wrong:#?}");
    }

    let after = owned(&regions);
    assert_eq!(after["canary"], ("eu".to_owned(), 3));
    let others = |owned: &BTreeMap<String, (String, u64)>| -> Vec<_> {
        owned.clone().into_iter().filter(|(range, _)| range != "canary").collect()
    };
    assert_eq!(others(&after), others(&before));
    let (listed, _) = asked(&regions, &["runbook", "history"]);
    assert_eq!(
        listed.as_array().unwrap().len(),
        2,
        "nobody wants any to start by itself: {listed:#}"
    );
    let back = &listed[0];
    assert_eq!((&back["runbook"], &back["state"]), (&"switchover".into(), &"succeeded".into()));
    let run = listed[1]["run"].as_str().unwrap();
    assert_eq!(
        (&listed[1]["runbook"], &listed[1]["state"]),
        (&"drill".into(), &"succeeded".into())
    );
    assert_eq!(back["run"], format!("{run}/canary"));
    for way in [run, back["run"].as_str().unwrap()] {
        let (story, _) = asked(&regions, &["runbook", "report", way]);
        assert!(story["without_owner_ms"].is_u64(), "{story:#}");
    }
    for region in NAMES {
        let client = regions.connect(region).await.unwrap();
        shows_canary_of(&client, &format!("{run}/canary")).await;
        let status = regions.status(region).await.unwrap();
        assert_eq!(status.owns_canary, Some(region == "eu"));
        assert_eq!(status.owns.len(), 1, "it is not counted: {:?}", status.owns);
        assert_eq!(status.journal_entries, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_cluster_gets_a_canary_when_all_know_what_it_is_and_is_ready_when_all_are_there() {
    let mut regions = Regions::create(three()).await.unwrap();
    regions.start_directory().unwrap();
    let names: Vec<RegionId> = NAMES.iter().map(|name| name.parse().unwrap()).collect();
    let older = Ownership::initial(9, &names);
    let directory = Directory::embedded(&regions.directory().to_string()).unwrap();
    let document = lower_ownership("lab", &older);
    eventually("the directory takes the ownership", async || {
        let written = directory.write(OWNERSHIP_KEY, 0, Some(document.clone())).await;
        written.map(drop).map_err(|e| format!("{e:#}"))
    })
    .await;
    for region in ["eu", "us"] {
        regions.start_agent(region).unwrap();
    }
    eventually("two regions write", async || {
        for region in ["eu", "us"] {
            let status = regions.status(region).await.map_err(|e| e.to_string())?;
            if !status.lease_live {
                return Err(format!("{region}: {status:?}"));
            }
        }
        Ok(())
    })
    .await;
    assert!(!owned(&regions).contains_key("canary"), "nobody knows what ap runs");
    let unready =
        "not ready for a failover of us, says eu: 1 of the others answer, and 2 have to seal";
    says_of_status(&regions, unready, true).await;
    regions.start_agent("ap").unwrap();
    regions.wait_until_ready().await.unwrap();
    says_of_status(&regions, "not ready", false).await;
    for region in NAMES {
        eventually("every region could be lost", async || {
            let of = regions.status(region).await.map_err(|e| e.to_string())?.readiness;
            let ready = of.iter().filter(|of| of.ready).map(|of| of.lost.as_str());
            let all = ready.eq(["ap", "eu", "us"]);
            if all { Ok(()) } else { Err(format!("{region}: {of:?}")) }
        })
        .await;
    }
    eventually("the canary is there", async || {
        let listed = owned(&regions);
        match listed.get("canary") {
            Some(owned) if *owned == ("eu".to_owned(), 1) => Ok(()),
            _ => Err(format!("{listed:?}")),
        }
    })
    .await;
    let (said, code) = drill(&regions, "ap");
    assert_eq!(code, 0, "{said:#}");
}

/// What a runbook would do, once nothing is against it: rows that were no history are repaired.
async fn may_be_started(regions: &Regions, called: &[&str]) -> Json {
    eventually("it may be started", async || {
        let (said, code) = asked(regions, &[&["runbook", "plan"], called].concat());
        if code == 0 { Ok(said) } else { Err(format!("{said:#}")) }
    })
    .await
}

/// Waits until a region shows the canary row that this run has written.
async fn shows_canary_of(client: &tokio_postgres::Client, run: &str) {
    eventually("the region shows what was written on the way back", async || {
        let sql = "SELECT run FROM domicile.canary WHERE partition = $1";
        let number = i32::try_from(PartitionId::CANARY.0).unwrap();
        let row = client.query_opt(sql, &[&number]).await.map_err(|e| e.to_string())?;
        let shown: Option<String> = row.map(|row| row.get(0));
        if shown.as_deref() == Some(run) { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .await;
}

/// The rows of the canary's table that the journal of `region` has.
async fn journaled(regions: &Regions, region: &str) -> Vec<(String, String)> {
    let client = regions.connect(region).await.unwrap();
    let sql = "SELECT conflict, status FROM domicile.journal WHERE relation = 'domicile.canary'";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_drill_keeps_a_late_write_out_and_no_writer_notices() {
    for rpo in ["none", "0"] {
        let mut config = three();
        config.rpo = rpo.to_owned();
        let mut regions = Regions::create(config).await.unwrap();
        start(&mut regions).await;
        let before = owned(&regions);
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for (number, region) in (0..).zip(NAMES) {
            let address = regions.postgres(region);
            writers.push(Writer::start(&address, region, 1000 * number, &stop).await);
        }
        for to in ["us", "ap"] {
            let to = format!("to={to}");
            let called = ["forced-drill", "from=eu", to.as_str()];
            let planned = may_be_started(&regions, &called).await;
            assert_eq!(planned["moves"][0]["partitions"], "canary", "{planned:#}");
            assert_eq!(planned["moves"].as_array().map(Vec::len), Some(1), "{planned:#}");
            let id = planned["plan"].as_str().unwrap();
            let run = [&["runbook", "run"], &called[..], &["--plan", id]].concat();
            let (said, code) = asked(&regions, &run);
            assert_eq!(code, 0, "{said:#}");
        }
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            let (written, wrong) = writer.0.await.unwrap();
            assert!(written > 0 && wrong.is_empty(), "{written} written, and {wrong:#?}");
        }
        let after = owned(&regions);
        assert_eq!(after["canary"], ("eu".to_owned(), 5), "there and back, twice");
        let others = |owned: &BTreeMap<String, (String, u64)>| -> Vec<_> {
            owned.clone().into_iter().filter(|(range, _)| range != "canary").collect()
        };
        assert_eq!(others(&after), others(&before));
        // Where nobody had written the row before, the new owner's met it, too.
        let kept_out = journaled(&regions, "eu").await;
        let late = kept_out.iter().filter(|(conflict, _)| conflict == "beyond_cut").count();
        let settled = kept_out.iter().all(|(_, status)| status == "settled");
        assert!(late == 2 && settled, "nobody need look: {kept_out:?}");
        for region in ["us", "ap"] {
            assert_eq!(journaled(&regions, region).await, [], "none of it came to {region}");
        }
        let (listed, _) = asked(&regions, &["runbook", "history"]);
        let last = listed[0]["run"].as_str().unwrap().to_owned();
        for region in NAMES {
            let client = regions.connect(region).await.unwrap();
            shows_canary_of(&client, &last).await;
            let status = regions.status(region).await.unwrap();
            assert_eq!(status.owns_canary, Some(region == "eu"));
        }
        let (said, code) =
            asked(&regions, &["runbook", "plan", "forced-drill", "from=us", "to=eu"]);
        assert_eq!(code, 3, "{said:#}");
        let reasons = said["reasons_against"].to_string();
        assert!(reasons.contains("does not own the canary"), "{said:#}");
        may_be_started(&regions, &["forced-drill", "from=eu", "to=us"]).await;
    }
}

/// The drills that the directory knows of, the first one first.
async fn drills(directory: &Directory) -> Result<Vec<(Document, RunDocument)>, String> {
    let read = directory.read(RUN_PREFIX).await.map_err(|e| format!("{e:#}"))?;
    let runs = read.documents.into_iter().map(|document| {
        let run: RunDocument = serde_json::from_slice(&document.value).unwrap();
        (document, run)
    });
    Ok(runs.filter(|(_, run)| run.runbook_name() == "drill").collect())
}

/// Waits until so many drills have been started and all of them have succeeded; returns the last one.
async fn succeeded(directory: &Directory, count: usize) -> (Document, RunDocument) {
    eventually(&format!("drill {count} has succeeded"), async || {
        let mut drills = drills(directory).await?;
        let done = drills.iter().all(|(_, run)| run.state == RunState::Succeeded);
        if done && drills.len() == count {
            Ok(drills.remove(count - 1))
        } else {
            Err(format!("{drills:#?}"))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_starts_by_itself_when_it_is_due_but_not_while_a_region_could_not_be_lost() {
    let mut config = three();
    config.more = "[drills]\nevery = \"365d\"\n".to_owned();
    let year = Duration::from_hours(365 * 24).as_millis() as u64;
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let directory = Directory::embedded(&regions.directory().to_string()).unwrap();
    let (document, mut first) = succeeded(&directory, 1).await;
    assert_eq!(first.started_by, "the agent of eu", "the canary is there");
    assert_eq!(owned(&regions)["canary"], ("eu".to_owned(), 3), "it went and came back");
    for region in NAMES {
        eventually("the status tells of the drill, and of the next", async || {
            let status = regions.status(region).await.map_err(|e| e.to_string())?;
            let next = status.drills.next_at_ms.is_some_and(|at| at > clock::unix_ms());
            let last = status.drills.last_success_at_ms == Some(first.started_at_ms);
            if next && last { Ok(()) } else { Err(format!("{region}: {:?}", status.drills)) }
        })
        .await;
    }
    says_of_status(&regions, "the next one is due", true).await;
    says_of_status(&regions, "drill_overdue", false).await;

    let to = |run: &RunDocument| run.runbook.as_ref().unwrap().arguments["to"].clone();
    // The other one is there all the time, so that nothing but the turn decides where the second goes.
    let away = to(&first);
    regions.kill_agent(&away);
    for region in NAMES.into_iter().filter(|region| *region != away) {
        eventually("one is silent", async || {
            let status = regions.status(region).await.map_err(|e| e.to_string())?;
            let peer = status.peers.iter().find(|peer| peer.region == away).unwrap();
            let heard = peer.last_heard.as_ref().map(|heard| heard.ago_ms);
            if heard > Some(SILENT_MS) { Ok(()) } else { Err(format!("{region}: {heard:?}")) }
        })
        .await;
    }
    // As if it had been long ago.
    first.started_at_ms -= 2 * year;
    directory.write(&document.key, document.revision, Some(json(&first))).await.unwrap();
    says_of_status(&regions, "drill_overdue", true).await;
    let back_at = clock::unix_ms();
    regions.start_agent(&away).unwrap();
    let (_, second) = succeeded(&directory, 2).await;
    assert!(second.started_at_ms >= back_at, "none starts before {away} is back: {second:#?}");
    assert_ne!(to(&second), away, "each region has its turn");
    says_of_status(&regions, "drill_overdue", false).await;
}
