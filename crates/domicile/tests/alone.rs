//! What becomes of a region at rpo 0 that nobody else is left to hold a copy for?
//!
//! Its commits wait, and that is all: it stays reachable, and says so.

use std::collections::BTreeSet;
use std::process::Stdio;

use domicile::lab::regions::Regions;
use tokio::process::Command;
use tokio::time::timeout;

mod regions;
use regions::{LOOK_AGAIN, PATIENCE, assert_alike, config, eventually, start};

/// So often the canary is tried.
const TRIES: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_region_whose_commits_wait_fills_no_server_with_its_own_sessions() {
    let mut config = config(&["eu", "us"], "whole", 1);
    config.rpo = "0".to_owned();
    config.seed_sql = "CREATE TABLE item (id int PRIMARY KEY)".to_owned();
    config.tables = "[[table]]\nname = \"item\"\n".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    regions.kill_region("eu");
    let mut failover = Command::new(regions.binary())
        .args(["failover", "--from", "eu", "--to", "us", "--attest", "--config"])
        .arg(regions.config_file("us"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    let us = regions.connect("us").await.unwrap();
    let sessions = "SELECT pid FROM pg_stat_activity WHERE application_name = 'domicile canary'";
    let mut seen = BTreeSet::new();
    while seen.len() < TRIES {
        let now: Vec<i32> =
            us.query(sessions, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert!(now.len() <= 2, "{} sessions write the canary", now.len());
        seen.extend(now);
        tokio::time::sleep(LOOK_AGAIN).await;
    }

    let says = async |name: &str| {
        let status = regions.status("us").await.map_err(|e| e.to_string())?;
        Ok::<_, String>(status.conditions.iter().any(|condition| condition.name == name))
    };
    eventually("it says that commits wait", async || match says("commits_wait").await? {
        true => Ok(()),
        false => Err("it does not".to_owned()),
    })
    .await;

    regions.start_region("eu").await.unwrap();
    let ended = timeout(PATIENCE, failover.wait()).await.expect("there is a copy again");
    assert!(ended.unwrap().success());
    assert_alike(&regions, &["item"]).await;
}
