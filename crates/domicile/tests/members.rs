//! Can a region be taken out of the cluster for good, under writes, without being there? Does one come
//! into it under writes, with every row, and count and own from then on? Which parts of it may change?
//!
//! Three regions; small logs, so that what is kept for nobody shows.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domicile::directory::Client as Directory;
use domicile::directory::documents::seed_key;
use domicile::lab::regions::{Regions, RegionsConfig};
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
    let writers = Writers::start(&regions);

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
    let with_ap = configurations(&regions);
    for region in STAY {
        write_configuration(&regions, region, &without_ap(&with_ap[region]));
        restart_agent(&mut regions, region, 1).await;
    }

    // It comes back, with what it has: as another incarnation, and only where that may go.
    for region in STAY {
        write_configuration(&regions, region, &with_ap[region]);
        restart_agent(&mut regions, region, 1).await;
    }
    regions.start_region("ap").await.unwrap();
    waits_to_be_added(&regions, "ap").await;
    let (report, code) = run(&regions, &["region", "add", "ap", "--json"]);
    assert_eq!(code, 3, "{report:#}");
    assert!(
        report["refused"][0]["reason"].as_str().unwrap().contains("move the folder"),
        "{report:#}"
    );
    regions.kill_agent("ap");
    let folder = regions.folder().join("ap");
    std::fs::rename(folder.join("agent"), folder.join("earlier life")).unwrap();
    regions.start_agent("ap").unwrap();
    waits_to_be_added(&regions, "ap").await;
    let (report, code) = run(&regions, &["region", "add", "ap", "--json"]);
    assert_eq!(code, 3, "{report:#}");
    assert!(report["refused"][0]["reason"].as_str().unwrap().contains("--replace"), "{report:#}");
    let (report, code) = run(&regions, &["region", "add", "ap", "--replace", "--json"]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(regions.status("ap").await.unwrap().origin, "ap-2");
    // It is given nothing before all that it wrote in its earlier life was looked at.
    eventually("ap takes a partition", async || {
        let switchover = ["switchover", "--partitions", "0", "--to", "ap", "--json"];
        let (report, code) = run(&regions, &switchover);
        if code == 0 { Ok(()) } else { Err(format!("{report:#}")) }
    })
    .await;
    let ap = regions.connect("ap").await.unwrap();
    let sql = "INSERT INTO item SELECT id, 0, 'by ap again' FROM generate_series(5000, 5500) id
               WHERE domicile.partition_of(id::text) = 0";
    assert!(ap.execute(sql, &[]).await.unwrap() > 10);

    writers.stop().await;
    alike(&regions, &["eu", "us", "ap"]).await;
    for region in STAY {
        let client = regions.connect(region).await.unwrap();
        let lost = client.query("SELECT FROM domicile.journal", &[]).await.unwrap();
        assert!(lost.is_empty(), "{region} journals");
    }
}

const MORE: &str = "CREATE TABLE item (id int PRIMARY KEY, n int, filling text);
                    CREATE TABLE note (id int PRIMARY KEY, text text, long int GENERATED ALWAYS AS (length(text)) STORED);
                    CREATE TABLE day (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
                    CREATE TABLE day_1 PARTITION OF day FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
                    CREATE TABLE day_2 PARTITION OF day FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
                    CREATE TABLE hits (id int PRIMARY KEY, n bigint)";
const MORE_TABLES: &str = "[[table]]\nname = \"item\"\n
                           [[table]]\nname = \"day\"\nkey = \"id\"\n
                           [[table]]\nname = \"note\"\nkind = \"reference\"\n
                           [[table]]\nname = \"hits\"\nkind = \"shared\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_added_under_writes_and_copying_goes_on_where_it_broke_off() {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 6)", 6);
    config.seed_sql = MORE.to_owned();
    config.tables = MORE_TABLES.to_owned();
    config.more = LOG.to_owned();
    config.lease = Duration::from_secs(20);
    let mut regions = Regions::create(config).await.unwrap();
    let with_ap = configurations(&regions);
    for region in STAY {
        write_configuration(&regions, region, &without_ap(&with_ap[region]));
    }
    regions.start_directory().unwrap();
    for region in STAY {
        let client = regions.connect(region).await.unwrap();
        client.batch_execute("ALTER SYSTEM SET fsync = off").await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        regions.start_agent(region).unwrap();
    }
    for region in STAY {
        writes(&regions, region, 1).await;
    }
    let eu = regions.connect("eu").await.unwrap();
    let rows = "INSERT INTO note SELECT id, E'tab\\t line\\n back \\\\ ' || id FROM generate_series(1, 2000) id;
                INSERT INTO hits SELECT id, id FROM generate_series(1, 500) id;
                UPDATE hits SET n = n + 1; DELETE FROM hits WHERE id > 480;
                INSERT INTO day SELECT id, date '2026-01-01' + id % 50 FROM generate_series(1, 3000) id
                WHERE (domicile.entry(domicile.partition_of(id::text))).owner = 'eu'";
    for sql in rows.split(';') {
        eu.batch_execute(sql).await.unwrap();
    }
    let writers = Writers::start(&regions);
    let (report, code) = run(&regions, &["region", "add", "ap", "--json"]);
    assert_eq!(code, 2, "it is not configured: {report:#}");

    for region in STAY {
        write_configuration(&regions, region, &with_ap[region]);
    }
    restart_agent(&mut regions, "eu", 1).await;
    let (report, code) = run(&regions, &["region", "add", "ap", "--json"]);
    assert_eq!(code, 3, "{report:#}");
    let reasons: Vec<&str> = report["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        reasons,
        [
            "the agent of region ap does not answer",
            "the agent of region us does not know of region ap"
        ]
    );
    restart_agent(&mut regions, "us", 1).await;
    regions.start_agent("ap").unwrap();
    waits_to_be_added(&regions, "ap").await;
    let (report, code) =
        run(&regions, &["switchover", "--partitions", "0", "--to", "ap", "--json"]);
    assert_eq!(code, 3, "nothing is given to it yet: {report:#}");

    // One table is held; its agent dies when it has copied all others.
    let ap = regions.connect("ap").await.unwrap();
    ap.batch_execute("SET synchronous_commit = local; INSERT INTO hits VALUES (7, 7)")
        .await
        .unwrap();
    let (report, code) = run(&regions, &["region", "add", "ap", "--json"]);
    assert_eq!(code, 3, "{report:#}");
    assert!(
        report["refused"][0]["reason"].as_str().unwrap().contains("hits has rows"),
        "{report:#}"
    );
    // A refusal, which is looked at every second, leaves no snapshot open.
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'domicile snapshot'";
    assert_eq!(eu.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);
    ap.batch_execute("BEGIN; LOCK TABLE note IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut adding =
        command(&regions, &["region", "add", "ap", "--from", "us", "--replace", "--json"]);
    let adding = adding.spawn().unwrap();
    // TRUNCATE waits for it too.
    let blocked = regions.connect("ap").await.unwrap();
    eventually("the seeding waits for the lock", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let row = blocked.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        if row.get::<_, i64>(0) > 0 { Ok(()) } else { Err("nobody waits".to_owned()) }
    })
    .await;
    // From here on it may be emptied and not written to.
    ap.batch_execute("COMMIT; BEGIN; LOCK TABLE note IN SHARE MODE").await.unwrap();
    let copied = async |client: &tokio_postgres::Client| -> Result<i64, String> {
        let sql = "SELECT count(*) FROM domicile.seeding";
        Ok(client.query_one(sql, &[]).await.map_err(|e| e.to_string())?.get(0))
    };
    eventually("all but one are copied", async || match copied(&blocked).await? {
        10 => Ok(()),
        count => Err(format!("{count} are noted")),
    })
    .await;
    regions.kill_agent("ap");
    regions.start_agent("ap").unwrap();
    eventually("the agent goes on", async || {
        let log = std::fs::read_to_string(regions.agent_log("ap")).map_err(|e| e.to_string())?;
        if log.contains("copying goes on") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    ap.batch_execute("ROLLBACK").await.unwrap();
    let added = adding.wait_with_output().unwrap();
    assert_eq!(added.status.code(), Some(0), "{added:?}");
    let row =
        ap.query_one("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'day_1'", &[]);
    let inserted: i64 = row.await.unwrap().get(0);
    let row = ap.query_one("SELECT count(*) FROM ONLY day_1", &[]).await.unwrap();
    assert_eq!(inserted, row.get::<_, i64>(0), "what was copied is not copied again");

    // It owns, and it counts: with the other one away, its copy is the one that is waited for.
    let (report, code) =
        run(&regions, &["switchover", "--partitions", "0", "--to", "ap", "--json"]);
    assert_eq!(code, 0, "{report:#}");
    let sql = "UPDATE hits SET n = n + 10";
    assert_eq!(ap.execute(sql, &[]).await.unwrap(), 480);
    let sql = "INSERT INTO item SELECT id, 0, 'by ap' FROM generate_series(5000, 5500) id
               WHERE domicile.partition_of(id::text) = 0";
    assert!(ap.execute(sql, &[]).await.unwrap() > 10);
    writers.stop().await;
    alike(&regions, &["eu", "us", "ap"]).await;
    regions.kill_region("us");
    let sql = "UPDATE note SET text = text || ' and more' WHERE id = 1";
    let acknowledged = tokio::time::timeout(regions::PATIENCE, eu.execute(sql, &[])).await;
    assert_eq!(acknowledged.expect("its copy does not count").unwrap(), 1);
    let (report, code) = run(&regions, &["verify", "--region", "eu", "--region", "ap", "--json"]);
    assert_eq!(code, 0, "{report:#}");
    for region in ["eu", "ap"] {
        let client = regions.connect(region).await.unwrap();
        let lost = client.query("SELECT FROM domicile.journal", &[]).await.unwrap();
        assert!(lost.is_empty(), "{region} journals");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_regions_that_are_added_at_the_same_time_both_come_in() {
    let mut config = config(&["eu", "us", "ap", "sa"], "hash(id, 6)", 6);
    config.seed_sql = MORE.to_owned();
    config.tables = MORE_TABLES.to_owned();
    config.more = LOG.to_owned();
    config.lease = Duration::from_secs(20);
    let (mut regions, with_both) = two_of(config).await;
    let eu = regions.connect("eu").await.unwrap();
    let rows = "INSERT INTO note SELECT id, 'note ' || id FROM generate_series(1, 2000) id";
    eu.batch_execute(rows).await.unwrap();
    let writers = Writers::start(&regions);
    for region in STAY {
        write_configuration(&regions, region, &with_both[region]);
        restart_agent(&mut regions, region, 1).await;
    }
    let new = ["ap", "sa"];
    let (mut locks, mut adding) = (Vec::new(), Vec::new());
    for region in new {
        regions.start_agent(region).unwrap();
        waits_to_be_added(&regions, region).await;
        // Neither comes to its end before the other has begun.
        let lock = regions.connect(region).await.unwrap();
        // Nobody confirms a commit there yet.
        lock.batch_execute("SET synchronous_commit = local").await.unwrap();
        lock.batch_execute("BEGIN; LOCK TABLE note IN ACCESS EXCLUSIVE MODE").await.unwrap();
        locks.push(lock);
        adding.push(command(&regions, &["region", "add", region, "--json"]).spawn().unwrap());
    }
    for region in new {
        let looks = regions.connect(region).await.unwrap();
        eventually("the seeding waits for the lock", async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
            let row = looks.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
            if row.get::<_, i64>(0) > 0 { Ok(()) } else { Err("nobody waits".to_owned()) }
        })
        .await;
    }
    for lock in &locks {
        lock.batch_execute("COMMIT").await.unwrap();
    }
    for adding in adding {
        let added = adding.wait_with_output().unwrap();
        assert_eq!(added.status.code(), Some(0), "{added:?}");
    }

    commits(&regions, 0).await;
    writers.stop().await;

    // Both own, and each follows the other.
    for (region, partition) in [("ap", 0), ("sa", 1)] {
        let give = ["switchover", "--partitions", &partition.to_string(), "--to", region, "--json"];
        let (report, code) = run(&regions, &give);
        assert_eq!(code, 0, "{report:#}");
        let client = regions.connect(region).await.unwrap();
        let sql = format!(
            "INSERT INTO item SELECT id, 0, 'by {region}' FROM generate_series(5000, 5500) id
             WHERE domicile.partition_of(id::text) = {partition}"
        );
        assert!(client.execute(&sql, &[]).await.unwrap() > 10);
    }
    alike(&regions, &["eu", "us", "ap", "sa"]).await;
    let (report, code) = run(&regions, &["verify", "--json"]);
    assert_eq!(code, 0, "{report:#}");
}

/// PostgreSQL keeps a snapshot for as long as it lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_added_though_the_one_that_it_copies_from_has_crashed() {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 6)", 6);
    // What refers to a table keeps it from being truncated.
    config.seed_sql = format!("{MORE}; CREATE TABLE visit (note int REFERENCES note)");
    config.tables = MORE_TABLES.to_owned();
    config.lease = Duration::from_secs(20);
    let (mut regions, with_ap) = two_of(config).await;
    let eu = regions.connect("eu").await.unwrap();
    for (table, row) in [
        ("note", "id, 'note ' || id"),
        ("hits", "id, id"),
        ("item", "id, 0, 'seed'"),
        ("day", "id, date '2026-01-01'"),
    ] {
        let sql = format!(
            "INSERT INTO {table} SELECT {row} FROM generate_series(1, 2000) id
             WHERE (domicile.entry(domicile.partition_of(id::text))).owner = 'eu'"
        );
        eu.batch_execute(&sql).await.unwrap();
    }
    for region in STAY {
        write_configuration(&regions, region, &with_ap[region]);
        restart_agent(&mut regions, region, 1).await;
    }
    regions.start_agent("ap").unwrap();
    waits_to_be_added(&regions, "ap").await;
    let ap = regions.connect("ap").await.unwrap();
    ap.batch_execute("BEGIN; LOCK TABLE note IN ACCESS SHARE MODE").await.unwrap();
    let adding = command(&regions, &["region", "add", "ap", "--from", "us", "--json"]).spawn();
    let looks = regions.connect("ap").await.unwrap();
    eventually("a snapshot is open, and there is no room for it yet", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity 
                   WHERE wait_event_type = 'Lock' AND query LIKE 'TRUNCATE%'";
        let row = looks.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        if row.get::<_, i64>(0) > 0 { Ok(()) } else { Err("nobody waits".to_owned()) }
    })
    .await;
    regions.kill_postgres("us");
    regions.start_postgres("us").await.unwrap();
    eu.execute("DELETE FROM note WHERE id > 1000", &[]).await.unwrap();
    ap.batch_execute("COMMIT").await.unwrap();
    let added = adding.unwrap().wait_with_output().unwrap();
    assert_eq!(added.status.code(), Some(0), "{added:?}");
    alike(&regions, &["eu", "us", "ap"]).await;
    let (report, code) = run(&regions, &["verify", "--json"]);
    assert_eq!(code, 0, "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_added_by_a_runbook_that_may_be_aborted_and_whose_performer_may_die() {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 6)", 6);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.lease = Duration::from_secs(20);
    let (mut regions, with_ap) = two_of(config).await;
    let eu = regions.connect("eu").await.unwrap();
    let rows = "INSERT INTO item SELECT id, 0, 'row' FROM generate_series(1, 3000) id
                WHERE (domicile.entry(domicile.partition_of(id::text))).owner = 'eu'";
    eu.batch_execute(rows).await.unwrap();
    for region in STAY {
        write_configuration(&regions, region, &with_ap[region]);
    }
    restart_agent(&mut regions, "eu", 1).await;
    let plan = ["runbook", "plan", "add-region", "region=ap", "--json"];
    let (report, code) = run(&regions, &plan);
    assert_eq!(code, 3, "{report:#}");
    let reasons = report.to_string();
    assert!(reasons.contains("does not know of region ap"), "of us: {reasons}");
    restart_agent(&mut regions, "us", 1).await;
    regions.start_agent("ap").unwrap();
    waits_to_be_added(&regions, "ap").await;

    // What is copied waits for a lock, until nobody wants it any more.
    let lock = regions.connect("ap").await.unwrap();
    lock.batch_execute("SET synchronous_commit = local").await.unwrap();
    lock.batch_execute("BEGIN; LOCK TABLE item IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let aborted = begin_run(&regions, "replace=false");
    is_asked(&regions, true).await;
    let (history, _) = run(&regions, &["runbook", "history", "--json"]);
    let id = history[0]["run"].as_str().unwrap().to_owned();
    let (report, code) = run(&regions, &["runbook", "abort", &id, "--json"]);
    assert_eq!(code, 0, "{report:#}");
    let ended = aborted.wait_with_output().unwrap();
    assert_ne!(ended.status.code(), Some(0), "{ended:?}");
    lock.batch_execute("COMMIT").await.unwrap();
    is_asked(&regions, false).await;

    // What somebody else has asked for is not taken back.
    lock.batch_execute("BEGIN; LOCK TABLE item IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut person = command(&regions, &["region", "add", "ap"]).spawn().unwrap();
    is_asked(&regions, true).await;
    let aborted = begin_run(&regions, "replace=false");
    let id = eventually("the run is there", async || {
        let (history, _) = run(&regions, &["runbook", "history", "--json"]);
        let latest = history[0]["run"].as_str().unwrap().to_owned();
        if latest == id { Err(format!("{history:#}")) } else { Ok(latest) }
    })
    .await;
    let (report, code) = run(&regions, &["runbook", "abort", &id, "--json"]);
    assert_eq!(code, 0, "{report:#}");
    assert_ne!(aborted.wait_with_output().unwrap().status.code(), Some(0));
    let directory = Directory::embedded(&regions.directory().to_string()).unwrap();
    let asked = directory.get(&seed_key(&"ap".parse().unwrap())).await.unwrap();
    let asked = asked.expect("a person wants it still");
    person.kill().unwrap();
    person.wait().unwrap();
    directory.write(&asked.key, asked.revision, None).await.unwrap();
    lock.batch_execute("COMMIT").await.unwrap();
    is_asked(&regions, false).await;

    // What was copied stays. The first by name that holds a lease performs it.
    std::fs::write(regions.folder().join("eu/agent/kill-at"), "seed between").unwrap();
    let running = begin_run(&regions, "replace=true");
    eventually("the agent that performs it dies", || {
        let ended = regions.agent_has_ended("eu");
        async move { if ended { Ok(()) } else { Err("it lives".to_owned()) } }
    })
    .await;
    regions.start_agent("eu").unwrap();
    let ended = tokio::task::spawn_blocking(move || running.wait_with_output().unwrap());
    let ended = tokio::time::timeout(regions::PATIENCE, ended).await.expect("it ends").unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    writes(&regions, "ap", 2).await;
    alike(&regions, &["eu", "us", "ap"]).await;
}

/// Waits until ap knows whether somebody asks for it.
async fn is_asked(regions: &Regions, wanted: bool) {
    eventually(&format!("ap is asked for: {wanted}"), async || {
        let status = regions.status("ap").await.map_err(|e| e.to_string())?;
        let seeding = status.seeding.clone().ok_or("it is a member")?;
        if seeding.seed.is_empty() == wanted { Err(format!("{status:?}")) } else { Ok(()) }
    })
    .await;
}

/// Starts a run of the ready-made runbook that adds ap.
fn begin_run(regions: &Regions, replace: &str) -> std::process::Child {
    let called = ["add-region", "region=ap", replace];
    let (report, code) = run(regions, &[&["runbook", "plan"], &called[..], &["--json"]].concat());
    assert_eq!(code, 0, "{report:#}");
    let plan = ["--plan", report["plan"].as_str().unwrap(), "--json"];
    command(regions, &[&["runbook", "run"], &called[..], &plan].concat()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_may_change_every_address_and_not_its_name() {
    let mut config = config(&STAY, "hash(id, 6)", 6);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.links = false;
    config.lease = Duration::from_secs(20);
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let writers = Writers::start(&regions);
    let was = |config: &str, key: &str| {
        let file: toml::Table = config.parse().unwrap();
        file["region"][1][key].as_str().unwrap().to_owned()
    };
    let before = std::fs::read_to_string(regions.config_file("us")).unwrap();
    let owned = |regions: &Regions| run(regions, &["partition", "list", "--json"]).0;
    let (owned_before, us) = (owned(&regions), regions.connect("us").await.unwrap());
    let slots = "SELECT string_agg(slot_name || ' ' || plugin, ', ') FROM pg_replication_slots";
    let slots_before: String = us.query_one(slots, &[]).await.unwrap().get(0);

    let written = commits(&regions, 0).await;
    // The operator rolls it out. Commits wait meanwhile: they need the other one's copy.
    let mut moved = before.clone();
    for key in ["peer", "gateway"] {
        let port = domicile::lab::cluster::free_port();
        moved = moved.replace(&was(&before, key), &format!("127.0.0.1:{port}"));
    }
    let postgres = was(&before, "postgres");
    moved = moved.replace(&postgres, &postgres.replace("host=127.0.0.1", "host=localhost"));
    assert_ne!(was(&moved, "postgres"), postgres);
    for region in ["us", "eu"] {
        regions.kill_agent(region);
        write_configuration(&regions, region, &moved);
        regions.start_agent(region).unwrap();
    }
    eventually("both see each other at the new address", async || {
        let (statuses, code) = run(&regions, &["status", "--json"]);
        let well = statuses.as_array().unwrap().iter().all(|status| {
            let peer = &status["peers"][0];
            status["lease_live"] == true && peer["connected"] == true && peer["exposure_ms"] == 0
        });
        if code == 0 && well { Ok(()) } else { Err(format!("{statuses:#}")) }
    })
    .await;
    commits(&regions, written).await;
    assert_eq!(owned(&regions), owned_before);
    assert_eq!(us.query_one(slots, &[]).await.unwrap().get::<_, String>(0), slots_before);
    writers.stop().await;
    alike(&regions, &STAY).await;

    // By another name it would be another region, with nothing.
    let renamed = moved.replace("name = \"us\"", "name = \"jp\"");
    regions.kill_agent("us");
    write_configuration(&regions, "us", &renamed);
    let agent = Command::new(regions.binary())
        .args(["agent", "--exit-with-stdin", "--region", "jp", "--config"])
        .arg(regions.config_file("us"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let agent = std::cell::RefCell::new(agent.unwrap());
    eventually("the agent ends by itself", async || match agent.borrow_mut().try_wait().unwrap() {
        Some(_) => Ok(()),
        None => Err("it runs".to_owned()),
    })
    .await;
    let agent = agent.into_inner().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&agent.stderr).into_owned();
    assert_eq!(agent.status.code(), Some(1), "{said}");
    assert!(said.contains("is region us's, and a region's name cannot change"), "{said}");
    regions.kill_agent("eu");
    write_configuration(&regions, "eu", &renamed);
    regions.start_agent("eu").unwrap();
    eventually("eu misses the region by its name", async || {
        let status = regions.status("eu").await.map_err(|e| e.to_string())?;
        let missed = status.conditions.iter().find(|c| c.name == "member_not_configured");
        match missed {
            Some(missed) if missed.detail.contains("region us is a member") => Ok(()),
            _ => Err(format!("{:?}", status.conditions)),
        }
    })
    .await;

    for region in ["eu", "us"] {
        regions.kill_agent(region);
        write_configuration(&regions, region, &moved);
        regions.start_agent(region).unwrap();
    }
    let eu = regions.connect("eu").await.unwrap();
    eventually("eu may write again", async || {
        let sql = "INSERT INTO item SELECT id, 0, 'afterwards' FROM generate_series(5000, 5100) id
                   WHERE (domicile.entry(domicile.partition_of(id::text))).owner = 'eu'";
        eu.execute(sql, &[]).await.map_err(|e| e.to_string())
    })
    .await;
    alike(&regions, &STAY).await;
}

/// Two regions' writers, each of rows that its region owned at the beginning.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<usize>>,
}

impl Writers {
    fn start(regions: &Regions) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |region: &&'static str| {
            tokio::spawn(write(regions.postgres(region), region, stop.clone()))
        };
        let tasks = STAY.iter().map(start).collect();
        Self { stop, tasks }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            assert!(task.await.unwrap() > 100, "a writer hardly wrote");
        }
    }
}

/// Waits until each of both regions has committed hundreds more than `before`, and returns how many.
async fn commits(regions: &Regions, before: i64) -> i64 {
    let eu = regions.connect("eu").await.unwrap();
    eventually("both go on writing", async || {
        let sql = "SELECT count(*), coalesce(min(n), 0)::bigint FROM
                       (SELECT sum(n) n FROM item
                        GROUP BY (domicile.entry(domicile.partition_of(id::text))).owner) owned";
        let row = eu.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        let (owners, least): (i64, i64) = (row.get(0), row.get(1));
        match owners == 2 && least > before + 200 {
            true => Ok(least),
            false => Err(format!("{least} by one of {owners}")),
        }
    })
    .await
}

fn configurations(regions: &Regions) -> BTreeMap<&'static str, String> {
    let read = |region| (region, std::fs::read_to_string(regions.config_file(region)).unwrap());
    STAY.map(read).into()
}

fn write_configuration(regions: &Regions, region: &str, text: &str) {
    std::fs::write(regions.config_file(region), text).unwrap();
}

fn without_ap(text: &str) -> String {
    let begin = text.find("[[region]]\nname = \"ap\"").unwrap();
    let end = begin + text[begin..].find("[[table]]").unwrap();
    format!("{}{}", &text[..begin], &text[end..])
}

/// Runs the two that stay, by files without ap and what comes behind it. Returns the files with all.
async fn two_of(config: RegionsConfig) -> (Regions, BTreeMap<&'static str, String>) {
    let mut regions = Regions::create(config).await.unwrap();
    let with_all = configurations(&regions);
    for region in STAY {
        write_configuration(&regions, region, &without_ap(&with_all[region]));
    }
    regions.start_directory().unwrap();
    for region in STAY {
        regions.start_agent(region).unwrap();
    }
    for region in STAY {
        writes(&regions, region, 1).await;
    }
    (regions, with_all)
}

async fn waits_to_be_added(regions: &Regions, region: &str) {
    eventually(&format!("{region} says that it is no member"), async || {
        let status = regions.status(region).await.map_err(|e| e.to_string())?;
        match (&status.seeding, status.says("postgres_unreachable")) {
            (Some(_), false) => Ok(()),
            _ => Err(format!("{status:?}")),
        }
    })
    .await;
}

async fn restart_agent(regions: &mut Regions, region: &str, connected: usize) {
    regions.kill_agent(region);
    regions.start_agent(region).unwrap();
    writes(regions, region, connected).await;
}

async fn writes(regions: &Regions, region: &str, connected: usize) {
    eventually(&format!("{region} writes"), async || {
        let status = regions.status(region).await.map_err(|e| e.to_string())?;
        let peers = status.peers.iter().filter(|peer| peer.connected).count();
        match status.lease_live && peers >= connected {
            true => Ok(()),
            false => Err(format!("{status:?}")),
        }
    })
    .await;
}

async fn alike(regions: &Regions, names: &[&str]) {
    eventually("the regions show the same", async || {
        let mut sums: Vec<String> = Vec::new();
        for region in names {
            let client = regions.connect(region).await.map_err(|e| e.to_string())?;
            let sql = "SELECT count(*) || ' ' || sum(hashtext(item::text)) FROM item";
            sums.push(client.query_one(sql, &[]).await.map_err(|e| e.to_string())?.get(0));
        }
        if sums.iter().all(|sum| *sum == sums[0]) { Ok(()) } else { Err(format!("{sums:?}")) }
    })
    .await;
}

/// Writes rows that this region owned at the beginning, until it is told to stop.
async fn write(postgres: String, region: &'static str, stop: Arc<AtomicBool>) -> usize {
    let client = domicile::postgres::session::connect(&postgres, "test").await.unwrap();
    client.batch_execute("SET synchronous_commit = on; SET search_path = public").await.unwrap();
    // Partition 0 moves meanwhile.
    let sql = "SELECT id FROM generate_series(1, 1000) id
               WHERE (domicile.entry(domicile.partition_of(id::text))).owner = $1
                 AND domicile.partition_of(id::text) <> 0";
    let rows = client.query(sql, &[&region]).await.unwrap();
    let owned: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    let mut commits = 0;
    while !stop.load(Ordering::Relaxed) {
        let sql = "INSERT INTO item SELECT $1, 1, string_agg(md5($2::text || i), '')
                   FROM generate_series(1, 64) i
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

fn command(regions: &Regions, arguments: &[&str]) -> Command {
    let mut command = Command::new(regions.binary());
    command.args(arguments).arg("--config").arg(regions.config_file("eu"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(regions: &Regions, arguments: &[&str]) -> (Json, i32) {
    let output = command(regions, arguments).output().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (report.unwrap_or_else(|_| Json::String(format!("{output:?}"))), output.status.code().unwrap())
}
