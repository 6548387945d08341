//! Does an owner that is asked for several hand-overs at one moment finish each of them?

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use domicile::lab::regions::Regions;
use serde_json::Value as Json;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{config, eventually, start};

const SEED: &str = "CREATE TABLE item (id int PRIMARY KEY, n int)";
const TABLES: &str = "[[table]]\nname = \"item\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn hand_overs_that_the_owner_learns_of_together_all_come_to_an_end() {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 9)", 9);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    // A region that stands still for a moment keeps its lease.
    config.lease = Duration::from_secs(30);
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;

    regions.pause_agent("eu");
    let moves = [("0", "us"), ("1", "ap"), ("2", "us")];
    let mut runs: Vec<Child> =
        moves.iter().map(|(range, to)| switch(&regions, range, to)).collect();
    eventually("all are in the directory", async || {
        let listed = partitions(&regions)?;
        let moving = |p: &&Json| p["state"].as_str().is_some_and(|s| s.contains("handing over"));
        match listed.iter().filter(moving).count() {
            3 => Ok(()),
            _ => Err(format!("{listed:?}")),
        }
    })
    .await;
    regions.resume_agent("eu");
    eventually("all have come to an end", async || {
        let listed = partitions(&regions)?;
        match listed.iter().all(|p| p["state"] == "owned") {
            true => Ok(()),
            false => Err(format!("{listed:?}")),
        }
    })
    .await;
    for run in &mut runs {
        assert!(run.wait().unwrap().success());
    }
    let owners: Vec<String> = partitions(&regions).unwrap().iter().map(owner_of).collect();
    assert_eq!(owners[..3], ["us", "ap", "us"], "{owners:?}");
}

fn owner_of(partition: &Json) -> String {
    partition["owner"].as_str().unwrap_or_default().to_owned()
}

fn switch(regions: &Regions, range: &str, to: &str) -> Child {
    let mut command = Command::new(regions.binary());
    command.args(["switchover", "--partitions", range, "--to", to, "--config"]);
    command.arg(regions.config_file("us")).stderr(Stdio::inherit()).spawn().unwrap()
}

/// As `domicile partition list` has them.
fn partitions(regions: &Regions) -> Result<Vec<Json>, String> {
    let mut command = Command::new(regions.binary());
    command.args(["partition", "list", "--json", "--config"]).arg(regions.config_file("us"));
    let output = command.output().map_err(|e| e.to_string())?;
    serde_json::from_slice(&output.stdout).map_err(|e| format!("{e}: {output:?}"))
}
