//! Do whole regions live on an etcd of three members, and what becomes of them when it breaks?

use std::process::Command;
use std::time::Duration;

use domicile::directory::Client as Directory;
use domicile::lab::etcd::{Etcd, EtcdConfig};
use domicile::lab::regions::Regions;
use serde_json::Value as Json;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{PATIENCE, assert_alike, config, converge, eventually, settle, start};

const SEED: &str = "
    CREATE TABLE account (id int PRIMARY KEY, branch text NOT NULL, balance int);
    INSERT INTO account VALUES (1, 'eu', 0), (2, 'us', 0), (3, 'ap', 0);";

const LEASE: Duration = Duration::from_secs(5);

const TABLES: &str = "
[[table]]
name = \"account\"
key = \"branch\"
";

async fn regions_on_etcd() -> (Etcd, Regions) {
    let etcd = Etcd::start(3, EtcdConfig::default()).await.unwrap();
    let mut config = config(&["eu", "us", "ap"], "home(branch)", 3);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.automatic_failover = true;
    // An election must not end it, however slow the machine.
    config.lease = LEASE;
    config.etcd = etcd.endpoints();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    settle(&regions, "start").await;
    (etcd, regions)
}

/// As `domicile partition list` has them.
fn partitions(regions: &Regions) -> Result<Json, String> {
    let mut command = Command::new(regions.binary());
    command.args(["partition", "list", "--json", "--config"]).arg(regions.config_file("us"));
    let output = command.output().map_err(|e| e.to_string())?;
    serde_json::from_slice(&output.stdout).map_err(|e| format!("{e}: {output:?}"))
}

fn owners(partitions: &Json) -> Vec<&str> {
    let listed = partitions.as_array().unwrap().iter();
    let listed = listed.filter(|partition| partition["partitions"] != "canary");
    listed.map(|partition| partition["owner"].as_str().unwrap_or_default()).collect()
}

/// Writes one row of the region's own, past its gateway.
async fn write(regions: &Regions, region: &str) -> Result<(), String> {
    let client = regions.connect(region).await.map_err(|e| e.to_string())?;
    let sql = format!("UPDATE account SET balance = balance + 1 WHERE branch = '{region}'");
    let written = tokio::time::timeout(PATIENCE, client.execute(&sql, &[])).await;
    let written = written.map_err(|_| "a write hangs".to_owned())?;
    match written {
        Ok(1) => Ok(()),
        Ok(n) => Err(format!("{n} rows")),
        Err(error) => Err(error.as_db_error().map_or(error.to_string(), |e| e.to_string())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_move_and_fail_over_on_etcd_and_outlive_its_leader() {
    let (mut etcd, mut regions) = regions_on_etcd().await;
    assert_eq!(owners(&partitions(&regions).unwrap()), ["eu", "us", "ap"]);

    let mut switchover = Command::new(regions.binary());
    switchover.args(["switchover", "--partitions", "1", "--to", "ap", "--config"]);
    let done = switchover.arg(regions.config_file("ap")).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let moved = partitions(&regions).unwrap();
    assert_eq!(owners(&moved), ["eu", "ap", "ap"]);

    let leader = etcd.leader().await.unwrap();
    etcd.kill_member(leader);
    let killed = Instant::now();
    let mut longest = Duration::ZERO;
    let mut last = killed;
    // Long enough for an election, and for a lease that was not renewed to be over.
    while killed.elapsed() < Duration::from_secs(8) {
        if write(&regions, "eu").await.is_ok() {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
    }
    println!("longest pause of a writer while a leader was elected: {longest:?}");
    eventually("eu writes again", async || write(&regions, "eu").await).await;
    assert_eq!(partitions(&regions).unwrap(), moved, "nothing moved");
    etcd.start_member(leader).unwrap();

    regions.kill_region("eu");
    eventually("eu's partition has another owner", async || {
        let listed = partitions(&regions)?;
        let new = owners(&listed)[0];
        if new == "us" || new == "ap" { Ok(()) } else { Err(format!("{listed}")) }
    })
    .await;
    regions.start_region("eu").await.unwrap();
    eventually("eu shows what its successor wrote", async || {
        let new = owners(&partitions(&regions)?)[0].to_owned();
        let client = regions.connect(&new).await.map_err(|e| e.to_string())?;
        let sql = "UPDATE account SET balance = -1 WHERE branch = 'eu'";
        client.execute(sql, &[]).await.map_err(|e| e.to_string())?;
        let client = regions.connect("eu").await.map_err(|e| e.to_string())?;
        let sql = "SELECT balance FROM account WHERE branch = 'eu'";
        let found: i32 = client.query_one(sql, &[]).await.map_err(|e| e.to_string())?.get(0);
        if found == -1 { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_moves_and_owners_write_on() {
    let (mut etcd, mut regions) = regions_on_etcd().await;
    let before = partitions(&regions).unwrap();
    etcd.kill_member(0);
    etcd.kill_member(1);
    write_on(&regions, &["eu", "us", "ap"]).await;
    // One copy is what a commit waits for, and one promise what an owner needs.
    regions.kill_region("ap");
    write_on(&regions, &["eu", "us"]).await;
    regions.kill_region("us");
    eventually("eu, alone, may not write", async || {
        let status = regions.status("eu").await.map_err(|e| e.to_string())?;
        if status.lease_live { Err(format!("{:?}", status.promised_by)) } else { Ok(()) }
    })
    .await;
    // Reads go on.
    let client = regions.connect("eu").await.unwrap();
    client.query_one("SELECT sum(balance) FROM account", &[]).await.unwrap();
    regions.start_region("us").await.unwrap();

    etcd.start_member(0).unwrap();
    etcd.start_member(1).unwrap();
    eventually("eu writes again", async || write(&regions, "eu").await).await;
    eventually("ap's partition has another owner", async || {
        let listed = partitions(&regions)?;
        let now = owners(&listed);
        if now[2] == "ap" { Err(format!("{listed}")) } else { Ok(()) }
    })
    .await;
    let moved = |listed: &Json| listed[0] == before[0] && listed[1] == before[1];
    assert!(moved(&partitions(&regions).unwrap()), "owners and epochs are what they were");
    regions.start_region("ap").await.unwrap();
    regions.wait_until_ready().await.unwrap();
    converge(&regions).await;
    assert_alike(&regions, &["account"]).await;
}

/// Each of them writes for longer than what the directory had granted lasts.
async fn write_on(regions: &Regions, names: &[&str]) {
    let begun = Instant::now();
    while begun.elapsed() < 2 * LEASE {
        for region in names {
            write(regions, region).await.unwrap_or_else(|error| panic!("{region}: {error}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_go_over_from_the_embedded_directory_to_etcd() {
    const NAMES: [&str; 2] = ["eu", "us"];
    let etcd = Etcd::start(3, EtcdConfig::default()).await.unwrap();
    let mut config = config(&NAMES, "home(branch)", 2);
    config.seed_sql = SEED.replace(", (3, 'ap', 0)", "");
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let mut switchover = Command::new(regions.binary());
    switchover.args(["switchover", "--partitions", "0", "--to", "us", "--config"]);
    let done = switchover.arg(regions.config_file("us")).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let before = partitions(&regions).unwrap();

    let file = regions.config_file("us").to_owned();
    let old = std::fs::read_to_string(&file).unwrap();
    let (head, rest) = old.split_once("[directory]").unwrap();
    let (_, tail) = rest.split_once("[lease]").unwrap();
    let endpoints = etcd.endpoints().join("\", \"");
    let next = regions.folder().join("next.toml");
    let text = format!("{head}[directory]\nendpoints = [\"{endpoints}\"]\n\n[lease]{tail}");
    std::fs::write(&next, text).unwrap();
    let migrate = || {
        let mut command = Command::new(regions.binary());
        command.args(["directory", "migrate", "--to"]).arg(&next).arg("--config").arg(&file);
        command.output().unwrap()
    };
    let refused = migrate();
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(said.contains("agents still run: stop those of eu, us"), "{refused:?}");
    assert_eq!(refused.status.code(), Some(3));
    for region in NAMES {
        regions.kill_agent(region);
    }
    let migrate = || {
        let mut command = Command::new(regions.binary());
        command.args(["directory", "migrate", "--to"]).arg(&next).arg("--config").arg(&file);
        command.output().unwrap()
    };
    let moved = migrate();
    assert!(moved.status.success(), "{moved:?}");

    regions.go_over_to_etcd(etcd.endpoints()).unwrap();
    for region in NAMES {
        regions.start_agent(region).unwrap();
    }
    regions.wait_until_ready().await.unwrap();
    assert_eq!(partitions(&regions).unwrap(), before, "owners and epochs are what they were");
    let client = regions.connect("us").await.unwrap();
    for branch in NAMES {
        let sql = format!("UPDATE account SET balance = 7 WHERE branch = '{branch}'");
        eventually("us writes what it owns", async || {
            client.execute(&sql, &[]).await.map_err(|e| e.to_string())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_moves_to_etcd_while_everybody_writes() {
    const NAMES: [&str; 3] = ["eu", "us", "ap"];
    let mut etcd = Etcd::start(3, EtcdConfig::default()).await.unwrap();
    let mut config = config(&NAMES, "home(branch)", 3);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    config.automatic_failover = true;
    config.lease = LEASE;
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    settle(&regions, "start").await;
    let before = partitions(&regions).unwrap();
    regions.leave_for_etcd(etcd.endpoints()).unwrap();
    let (binary, file) = (regions.binary().to_owned(), regions.config_file("us").to_owned());
    let migrate = || {
        let mut command = tokio::process::Command::new(&binary);
        command.args(["directory", "migrate", "--config"]).arg(&file);
        async move { command.output().await.unwrap() }
    };

    let refused = migrate().await;
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(said.contains("ap has no directory.endpoints beside directory.address"), "{refused:?}");
    assert_eq!(refused.status.code(), Some(3));
    for region in NAMES {
        regions.kill_agent(region);
        regions.start_agent(region).unwrap();
        regions.wait_until_ready().await.unwrap();
    }
    etcd.kill_member(0);
    etcd.kill_member(1);
    eventually("all see that etcd has no majority", async || {
        let refused = migrate().await;
        let said = String::from_utf8_lossy(&refused.stdout).into_owned();
        let all = NAMES.iter().all(|name| said.contains(&format!("{name} does not reach etcd")));
        if all { Ok(()) } else { Err(format!("{refused:?}")) }
    })
    .await;
    etcd.start_member(0).unwrap();
    etcd.start_member(1).unwrap();

    let stop = CancellationToken::new();
    let mut writers = Vec::new();
    for region in NAMES {
        let client = regions.connect(region).await.unwrap();
        writers.push(tokio::spawn(keep_writing(client, region, stop.clone())));
    }
    // It breaks off once it has begun, and for longer than what the directory had granted lasts.
    let old = Directory::embedded(&regions.directory().to_string()).unwrap();
    let to = etcd.endpoints().join(", ");
    let closed = format!("{{\"to\":\"{to}\",\"complete\":false}}");
    old.write("moved", 0, Some(closed.into())).await.unwrap();
    let closed = Instant::now();
    eventually("peers renew every lease", async || {
        for region in NAMES {
            let status = regions.status(region).await.map_err(|e| e.to_string())?;
            if closed.elapsed() < 2 * LEASE || !status.lease_live || status.promised_by.is_empty() {
                return Err(format!("{region}: {:?}", status.promised_by));
            }
        }
        Ok(())
    })
    .await;
    eventually("everything has moved", async || {
        let moved = migrate().await;
        if moved.status.success() { Ok(()) } else { Err(format!("{moved:?}")) }
    })
    .await;
    regions.kill_directory();
    eventually("the new directory renews every lease", async || {
        for region in NAMES {
            let status = regions.status(region).await.map_err(|e| e.to_string())?;
            let named = status.conditions.iter().any(|c| c.name == "directory_moved");
            if !status.lease_live || !status.promised_by.is_empty() || !named {
                return Err(format!("{region}: {:?}, {:?}", status.promised_by, status.conditions));
            }
        }
        Ok(())
    })
    .await;
    stop.cancel();
    for writer in writers {
        let written = writer.await.unwrap();
        assert!(written > 0, "somebody wrote");
    }
    assert_eq!(partitions(&regions).unwrap(), before, "owners and epochs are what they were");

    // Whoever is started again finds the way without the old directory; owners change as always.
    regions.kill_agent("us");
    regions.start_agent("us").unwrap();
    eventually("partition 1 moves", async || {
        let mut switchover = tokio::process::Command::new(&binary);
        switchover.args(["switchover", "--partitions", "1", "--to", "ap", "--config"]).arg(&file);
        let done = switchover.output().await.map_err(|e| e.to_string())?;
        if done.status.success() { Ok(()) } else { Err(format!("{done:?}")) }
    })
    .await;
    regions.kill_region("eu");
    eventually("eu's partition has another owner", async || {
        let listed = partitions(&regions)?;
        let new = owners(&listed)[0];
        if new == "us" || new == "ap" { Ok(()) } else { Err(format!("{listed}")) }
    })
    .await;
    regions.start_region("eu").await.unwrap();
    regions.wait_until_ready().await.unwrap();
    converge(&regions).await;
    assert_alike(&regions, &["account"]).await;
}

/// Writes what a region owns until it is to stop, and returns how often. No write may be refused.
async fn keep_writing(client: Client, region: &'static str, stop: CancellationToken) -> u64 {
    let sql = format!("UPDATE account SET balance = balance + 1 WHERE branch = '{region}'");
    let mut written = 0;
    while !stop.is_cancelled() {
        let rows = client.execute(&sql, &[]).await;
        assert_eq!(rows.unwrap_or_else(|error| panic!("{region}: {error:?}")), 1);
        written += 1;
    }
    written
}
