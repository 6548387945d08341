//! Does an owner that is asked for several hand-overs at one moment finish each of them, is it said what holds one up,
//! and do sessions go on at once where all has gone?

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use domicile::lab::regions::Regions;
use serde_json::Value as Json;
use tokio_postgres::NoTls;

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

/// Has the canary taken by nobody, and counts how often that is tried: a sequence is not rolled back.
const NOT_TODAY: &str = "
    CREATE SEQUENCE public.tries;
    CREATE FUNCTION public.not_today() RETURNS boolean LANGUAGE sql
        AS $$ SELECT nextval('public.tries') < 0 $$;
    ALTER TABLE domicile.canary ADD CONSTRAINT not_today CHECK (public.not_today()) NOT VALID";

/// The reason stands in the journal once, however often the step was tried.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_says_what_holds_it_up_and_goes_on_when_that_is_gone() {
    let mut config = config(&["eu", "us"], "hash(id, 2)", 2);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let us = regions.connect("us").await.unwrap();
    us.batch_execute(NOT_TODAY).await.unwrap();
    let mut run = switch(&regions, "0", "us");
    let why = eventually("the run says what holds it up", async || {
        let said = journal(&regions)?;
        said.iter().find(|what| what.contains("not_today")).cloned().ok_or(format!("{said:?}"))
    })
    .await;
    assert!(why.starts_with("is held up: "), "{why}");
    eventually("it is tried again", async || {
        let row = us.query_one("SELECT last_value FROM public.tries", &[]).await;
        match row.map_err(|e| e.to_string())?.get::<_, i64>(0) {
            tried @ ..3 => Err(tried.to_string()),
            _ => Ok(()),
        }
    })
    .await;
    us.batch_execute("ALTER TABLE domicile.canary DROP CONSTRAINT not_today").await.unwrap();
    assert!(run.wait().unwrap().success());
    let said = journal(&regions).unwrap();
    let held_up = said.iter().filter(|what| what.contains("not_today"));
    assert_eq!(held_up.collect::<Vec<_>>(), [&why], "{said:?}");
    assert_eq!(said.last().map(String::as_str), Some("succeeded"), "{said:?}");
}

/// Through which gateway a client comes does not matter.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_open_at_the_new_owner_before_everything_is_handed_over() {
    let mut config = config(&["eu", "us", "ap"], "whole", 1);
    config.seed_sql = SEED.to_owned();
    config.tables = "[[table]]\nname = \"item\"\n".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let mut clients = Vec::new();
    for region in ["eu", "us", "ap"] {
        let gateway = regions.gateway(region);
        let address = format!("host={} port={}", gateway.ip(), gateway.port());
        let address = format!("{address} user=postgres dbname=postgres");
        let (client, connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
        tokio::spawn(connection);
        clients.push(client);
    }
    let owner = owner_of(&partitions(&regions).unwrap()[0]);
    let to = ["us", "eu"].into_iter().find(|region| *region != owner).unwrap();
    assert!(switch(&regions, "0", to).wait().unwrap().success());
    let said = journal(&regions).unwrap();
    let open = format!("3 of 3 sessions are open in region {to}");
    assert!(said.contains(&open), "{said:?}");
    for (id, client) in clients.iter().enumerate() {
        client.batch_execute(&format!("INSERT INTO item VALUES ({id})")).await.unwrap();
    }
}

/// What stands in the journal of the last run.
fn journal(regions: &Regions) -> Result<Vec<String>, String> {
    let mut command = Command::new(regions.binary());
    command.args(["runbook", "report", "last", "--json", "--config"]);
    let output = command.arg(regions.config_file("us")).output().map_err(|e| e.to_string())?;
    let run: Json =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("{e}: {output:?}"))?;
    let lines = run["journal"].as_array().ok_or_else(|| run.to_string())?;
    Ok(lines.iter().filter_map(|line| line["what"].as_str()).map(str::to_owned).collect())
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
