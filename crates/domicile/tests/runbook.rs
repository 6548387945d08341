//! Does a runbook do what was planned, and nothing else; and can its story be told afterwards?

use std::process::{Command, Output};

use domicile::lab::regions::Regions;
use serde_json::Value as Json;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{config, start};

const SEED: &str = "CREATE TABLE item (id int PRIMARY KEY, n int)";
const TABLES: &str = "[[table]]\nname = \"item\"\n";

/// Moves one partition, and leaves out what the ready-made one does at the end.
const MINE: &str = r#"
name = "mine"
about = "Move a partition to us."

[parameter.which]
type = "partitions"
default = "0"
about = "Which one"

[[step]]
do = "hand_over"
partitions = "{which}"
to = "us"

[[step]]
do = "catch_up"

[[step]]
do = "grant"
"#;

async fn world() -> Regions {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 9)", 9);
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let folder = regions.config_file("eu").parent().unwrap().join("runbooks");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("mine.toml"), MINE).unwrap();
    regions
}

fn domicile(regions: &Regions, arguments: &[&str]) -> Output {
    let mut command = Command::new(regions.binary());
    command.args(arguments).arg("--config").arg(regions.config_file("eu"));
    command.output().unwrap()
}

/// What it printed as JSON, and how it ended.
fn asked(regions: &Regions, arguments: &[&str]) -> (Json, i32) {
    let output = domicile(regions, &[arguments, &["--json"]].concat());
    let printed = serde_json::from_slice(&output.stdout);
    (printed.unwrap_or_else(|_| Json::String(format!("{output:?}"))), output.status.code().unwrap())
}

fn owner(regions: &Regions, partition: &str) -> String {
    let (listed, code) = asked(regions, &["partition", "show", partition]);
    assert_eq!(code, 0, "{listed:#}");
    listed[0]["owner"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_planned_is_what_runs_and_its_story_is_kept() {
    let regions = world().await;
    let (planned, code) = asked(&regions, &["runbook", "plan", "mine"]);
    assert_eq!(code, 0, "{planned:#}");
    let id = planned["plan"].as_str().unwrap();
    let moves = serde_json::json!([{"partitions": "0", "epoch": 1, "from": "eu", "to": "us"}]);
    assert_eq!(planned["moves"], moves);
    let again = asked(&regions, &["runbook", "plan", "mine", "which=0"]).0;
    assert_eq!(again["plan"], planned["plan"], "the same, said otherwise");

    let (said, code) = asked(&regions, &["runbook", "run", "mine", "which=1", "--plan", id]);
    assert_eq!(code, 3, "another partition was planned: {said:#}");
    assert_eq!(asked(&regions, &["runbook", "history"]).0, serde_json::json!([]));

    let (said, code) = asked(&regions, &["runbook", "run", "mine", "--plan", id]);
    assert_eq!(code, 0, "{said:#}");
    assert_eq!(owner(&regions, "0"), "us");
    let (said, code) = asked(&regions, &["runbook", "run", "mine", "--plan", id]);
    assert_eq!(code, 3, "it has moved already: {said:#}");

    // The old commands go the same way: there and back.
    for to in ["eu", "ap"] {
        let (said, code) = asked(&regions, &["switchover", "--partitions", "0", "--to", to]);
        assert_eq!(code, 0, "{said:#}");
    }
    let output = domicile(&regions, &["runbook", "run", "mine", "--plan", id]);
    assert_eq!(output.status.code(), Some(3), "its owner and its epoch are others: {output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("would not do any more what was planned"), "{said}");

    let (history, code) = asked(&regions, &["runbook", "history"]);
    assert_eq!(code, 0, "{history:#}");
    let called: Vec<(&str, &str)> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|run| (run["runbook"].as_str().unwrap(), run["state"].as_str().unwrap()))
        .collect();
    let (moved, mine) = (("switchover", "succeeded"), ("mine", "succeeded"));
    assert_eq!(called, [moved, moved, mine], "the newest first");
    let run = history[2]["run"].as_str().unwrap();
    assert_eq!(history[2]["plan"].as_str().unwrap(), id);

    let (story, _) = asked(&regions, &["runbook", "report", run]);
    let steps: Vec<&str> = story["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .map(|span| span["step"].as_str().unwrap())
        .collect();
    assert!(steps.starts_with(&["hand_over"]) && steps.ends_with(&["grant"]), "{story:#}");
    assert!(story["without_owner_ms"].is_u64(), "{story:#}");
    for (format, part) in [("markdown", "## Timeline"), ("html", "<svg ")] {
        let output = domicile(&regions, &["runbook", "report", run, "--format", format]);
        let page = String::from_utf8(output.stdout).unwrap();
        assert!(page.contains(part) && page.contains("grant"), "{page}");
    }
    let (last, _) = asked(&regions, &["runbook", "report", "last"]);
    assert_eq!(last["runbook"], "switchover");
    assert_eq!(asked(&regions, &["runbook", "report", "nobody"]).1, 2);
}
