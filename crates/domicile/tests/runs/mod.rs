//! What do tests of runbooks share: a world with runbooks of one's own, and commands about them.

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use domicile::lab::regions::Regions;
use serde_json::Value as Json;

use crate::regions::{config, eventually, start};

const SEED: &str = "CREATE TABLE item (id int PRIMARY KEY, n int)";
const TABLES: &str = "[[table]]\nname = \"item\"\n";

/// Three regions and nine partitions; `more` stands in every region's configuration, and `runbooks`, by
/// name, beside it.
pub async fn world(rpo: &str, more: &str, runbooks: &[(&str, &str)]) -> Regions {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 9)", 9);
    config.rpo = rpo.to_owned();
    // A region whose agent stands still for a moment keeps its lease.
    config.lease = Duration::from_secs(30);
    config.seed_sql = SEED.to_owned();
    config.tables = format!("{more}{TABLES}");
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let folder = regions.config_file("eu").parent().unwrap().join("runbooks");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, text) in runbooks {
        std::fs::write(folder.join(format!("{name}.toml")), text).unwrap();
    }
    regions
}

pub fn domicile(regions: &Regions, arguments: &[&str]) -> Output {
    let mut command = Command::new(regions.binary());
    command.args(arguments).arg("--config").arg(regions.config_file("eu"));
    command.output().unwrap()
}

/// What it printed as JSON, and how it ended.
pub fn asked(regions: &Regions, arguments: &[&str]) -> (Json, i32) {
    let output = domicile(regions, &[arguments, &["--json"]].concat());
    let printed = serde_json::from_slice(&output.stdout);
    (printed.unwrap_or_else(|_| Json::String(format!("{output:?}"))), output.status.code().unwrap())
}

/// Owner and epoch.
pub fn owned(regions: &Regions, partition: &str) -> (String, u64) {
    let (listed, code) = asked(regions, &["partition", "show", partition]);
    assert_eq!(code, 0, "{listed:#}");
    let owner = listed[0]["owner"].as_str().unwrap_or_default().to_owned();
    (owner, listed[0]["epoch"].as_u64().unwrap())
}

/// Plans a runbook and starts a run of it; it goes on by itself.
pub fn begin(regions: &Regions, called: &[&str]) -> Child {
    let (planned, code) = asked(regions, &[&["runbook", "plan"], called].concat());
    assert_eq!(code, 0, "{planned:#}");
    let mut command = Command::new(regions.binary());
    command.args(["runbook", "run"]).args(called).arg("--plan");
    command.arg(planned["plan"].as_str().unwrap());
    command.arg("--config").arg(regions.config_file("eu")).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Waits until the journal of the last run, which has to be one of `runbook`, says this.
pub async fn says(regions: &Regions, runbook: &str, what: &str) {
    eventually(&format!("{runbook} says {what}"), async || {
        let (story, _) = asked(regions, &["runbook", "report", "last"]);
        let journal = story["journal"].as_array().cloned().unwrap_or_default();
        let said = |line: &Json| line["what"].as_str().is_some_and(|said| said.contains(what));
        let ours = story["runbook"] == runbook;
        if ours && journal.iter().any(said) { Ok(()) } else { Err(format!("{story:#}")) }
    })
    .await;
}

/// What a person asks of the last run, and how that ends.
pub fn ask(regions: &Regions, who: &str, words: &[&str]) -> (String, i32) {
    let mut command = Command::new(regions.binary());
    command.arg("runbook").arg(words[0]).arg("last").args(&words[1..]).env("USER", who);
    let output = command.arg("--config").arg(regions.config_file("eu")).output().unwrap();
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code().unwrap())
}
