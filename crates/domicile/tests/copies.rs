//! Is a region whose agent has lost its folder counted on for what it held in the old one?

use domicile::lab::regions::Regions;
use tokio::process::Command;
use tokio_postgres::Client;

mod regions;
use regions::{assert_alike, config, converge, eventually, start};

const SEED_SQL: &str = "CREATE TABLE item (id bigint PRIMARY KEY)";
const TABLES: &str = "[[table]]\nname = \"item\"\n";
const ACKNOWLEDGED: i64 = 20;

/// Three regions that wait for one copy of each commit. Only us holds the last ones; then eu is lost, and us's
/// agent with its folder.
async fn only_us_held_it() -> (Regions, Client) {
    let mut config = config(&["eu", "us", "ap"], "whole", 1);
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = TABLES.to_owned();
    config.automatic_failover = true;
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let eu = regions.connect("eu").await.unwrap();
    write(&eu, 1..=10).await;
    converge(&regions).await;
    regions.kill_agent("ap");
    write(&eu, 11..=ACKNOWLEDGED).await;
    regions.kill_agent("us");
    regions.kill_region("eu");
    regions.start_agent("ap").unwrap();
    let data = regions.folder().join("us/agent");
    std::fs::rename(&data, data.with_extension("lost")).unwrap();
    regions.start_agent("us").unwrap();
    let ap = regions.connect("ap").await.unwrap();
    (regions, ap)
}

async fn write(client: &Client, ids: std::ops::RangeInclusive<i64>) {
    for id in ids {
        client.execute("INSERT INTO item VALUES ($1)", &[&id]).await.unwrap();
    }
}

async fn rows(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM item", &[]).await.unwrap().get(0)
}

async fn domicile(regions: &Regions, arguments: &[&str]) -> String {
    let mut command = Command::new(regions.binary());
    let anybody = regions.names().last().unwrap();
    command.args(arguments).arg("--config").arg(regions.config_file(anybody));
    let output = command.output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// Waits until the failover that began by itself says that us does not seal.
async fn is_held_up(regions: &Regions) {
    eventually("the failover is held up", async || {
        let runs = domicile(regions, &["runbook", "history", "--json"]).await;
        let runs: serde_json::Value = serde_json::from_str(&runs).map_err(|e| e.to_string())?;
        let run = runs.as_array().into_iter().flatten().find_map(|run| run["run"].as_str());
        let run = run.ok_or_else(|| format!("no run: {runs}"))?;
        let report = domicile(regions, &["runbook", "report", run]).await;
        let says = report.contains("us did not seal: ") && report.contains("copies_short");
        if says { Ok(()) } else { Err(report) }
    })
    .await;
    let status = regions.status("us").await.unwrap();
    let short = status.conditions.iter().find(|condition| condition.name == "copies_short");
    assert!(short.is_some_and(|short| short.detail.contains("eu-1")), "{status:?}");
}

async fn takes_over(regions: &Regions, ap: &Client) {
    eventually("ap takes writes", async || {
        let sql = "INSERT INTO item VALUES (100)";
        ap.execute(sql, &[]).await.map(drop).map_err(|error| format!("{error:?}"))
    })
    .await;
    let status = regions.status("us").await.unwrap();
    assert!(!status.says("copies_short"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failover_goes_on_before_what_was_lost_with_a_folder_was_had_again() {
    let (mut regions, ap) = only_us_held_it().await;
    is_held_up(&regions).await;
    assert!(rows(&ap).await < ACKNOWLEDGED, "they are nowhere but at eu and in us's tables");
    // Its log is enough: its PostgreSQL may be gone for good.
    regions.start_agent("eu").unwrap();
    takes_over(&regions, &ap).await;
    assert_eq!(rows(&ap).await, ACKNOWLEDGED + 1, "every acknowledged row");
    regions.start_postgres("eu").await.unwrap();
    // Its own log is gone with the folder, which every look at the slot says.
    let said = domicile(&regions, &["reseed", "--region", "us"]).await;
    eventually("us takes part again", async || {
        let status = regions.status("us").await.map_err(|error| error.to_string())?;
        if status.conditions.is_empty() { Ok(()) } else { Err(format!("{status:?}: {said}")) }
    })
    .await;
    converge(&regions).await;
    assert_alike(&regions, &["item"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_may_give_up_what_was_lost_with_a_folder() {
    let (regions, ap) = only_us_held_it().await;
    is_held_up(&regions).await;
    let said = domicile(&regions, &["region", "accept", "us"]).await;
    assert!(said.contains("counts by what it holds now") && said.contains("eu-1"), "{said}");
    takes_over(&regions, &ap).await;
    assert!(
        rows(&ap).await <= ACKNOWLEDGED,
        "what us alone held is lost, and a person has said so"
    );
    let said = domicile(&regions, &["region", "accept", "us"]).await;
    assert!(said.contains("lacks nothing"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_region_that_is_left_can_take_over_without_its_folder() {
    let mut config = config(&["eu", "us"], "whole", 1);
    config.seed_sql = SEED_SQL.to_owned();
    config.tables = TABLES.to_owned();
    config.rpo = "none".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    write(&regions.connect("eu").await.unwrap(), 1..=ACKNOWLEDGED).await;
    converge(&regions).await;
    regions.kill_region("eu");
    regions.kill_agent("us");
    std::fs::remove_dir_all(regions.folder().join("us/agent")).unwrap();
    regions.start_agent("us").unwrap();
    eventually("us captures nothing", async || {
        let status = regions.status("us").await.map_err(|error| error.to_string())?;
        if status.says("slot_skipped") { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let failover = ["failover", "--from", "eu", "--to", "us", "--attest"];
    let said = domicile(&regions, &failover).await;
    assert!(said.contains("\"us\" could not write what it is given"), "{said}");
    let compared = domicile(&regions, &["reseed", "--region", "us"]).await;
    assert!(compared.contains("eu"), "there is nobody to compare with: {compared}");
    let said = domicile(&regions, &failover).await;
    let us = regions.connect("us").await.unwrap();
    eventually("us takes writes", async || {
        let sql = "INSERT INTO item VALUES (100)";
        us.execute(sql, &[]).await.map(drop).map_err(|error| format!("{error:?}: {said}"))
    })
    .await;
    assert_eq!(rows(&us).await, ACKNOWLEDGED + 1, "what it showed it shows");
}
