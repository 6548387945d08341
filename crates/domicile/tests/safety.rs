//! Do rules of safety keep owners where they are, whoever asks, until a person overrides them, and never in the way
//! of an outage?

use std::process::{Command, Output};

use domicile::directory::change::change_ownership;
use domicile::directory::documents::{OWNERSHIP_KEY, lift_ownership, lower_ownership};
use domicile::directory::safety::{AgainstSafety, Grounds};
use domicile::directory::{Client as Directory, Written};
use domicile::lab::regions::Regions;
use domicile_core::id::{PartitionRange, RunId};
use domicile_core::ownership::{Ownership, OwnershipChange};
use serde_json::Value as Json;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{config, eventually, start};

const REFUSED: Option<i32> = Some(3);

#[tokio::test(flavor = "multi_thread")]
async fn rules_keep_owners_where_they_are_and_a_lost_one_is_taken_over_from_all_the_same() {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 9)", 9);
    config.seed_sql = "CREATE TABLE item (id int PRIMARY KEY, n int)".to_owned();
    config.tables = "[[table]]\nname = \"item\"\n".to_owned();
    config.automatic_failover = true;
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    let before = ownership(&regions).await;
    assert_eq!(["0", "1", "2"].map(|partition| owner(&regions, partition)), ["eu"; 3]);

    let set = ["safety", "set", "--freeze", "planned", "--reason", "the sale"];
    assert_done(&domicile(&regions, &set));
    let shown = asked(&regions, &["safety", "show"]).0;
    let freeze = &shown["freeze"];
    assert_eq!((&freeze["of"], &freeze["by"]), (&"planned".into(), &"ada".into()), "{shown}");
    is_refused(&regions, &["switchover", "--partitions", "0", "--to", "us"], "the sale");
    let (planned, code) =
        asked(&regions, &["plan", "switchover", "--partitions", "0", "--to", "us"]);
    assert!(code == REFUSED && planned[0]["reasons_against"][0].to_string().contains("the sale"));
    // Nobody writes any more by what he has seen before they were set, and who looks again sees them.
    let value = Some(lower_ownership("lab", &before.0));
    let late = directory(&regions).write(OWNERSHIP_KEY, before.1, value).await.unwrap();
    assert!(matches!(late, Written::Conflict(_)), "{late:?}");
    let refused = hand_over(&regions, &before).await.unwrap_err();
    assert!(refused.downcast_ref::<AgainstSafety>().is_some(), "{refused:#}");
    eventually("all regions know of it", async || {
        let status = domicile(&regions, &["status"]);
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        let said = "ownership is frozen (planned), as ada wanted: the sale";
        if status.contains(said) { Ok(()) } else { Err(status) }
    })
    .await;

    let rules = ["safety", "set", "--min-interval", "1h", "--max-partitions-per-minute", "2"];
    assert_done(&domicile(&regions, &rules));
    let switchover = ["switchover", "--partitions", "0", "--to", "us"];
    let all_the_same = [&switchover[..], &["--override-safety", "the audit"]].concat();
    assert_done(&domicile(&regions, &all_the_same));
    assert_eq!(owner(&regions, "0"), "us");
    let (story, _) = asked(&regions, &["runbook", "report", "last"]);
    let noted = &story["safety_override"];
    assert_eq!((&noted["by"], &noted["reason"]), (&"ada".into(), &"the audit".into()), "{story}");
    assert!(noted["against"][0].to_string().contains("the sale"), "{story}");

    assert_done(&domicile(&regions, &["safety", "set", "--freeze", "off"]));
    is_refused(&regions, &["switchover", "--partitions", "0", "--to", "ap"], "ago");
    is_refused(&regions, &["switchover", "--partitions", "6-7", "--to", "us"], "the last minute");

    assert_done(&domicile(&regions, &set));
    regions.kill_agent("eu");
    eventually("another region has taken over from eu", async || {
        let owners = ["1", "2", "canary"].map(|partition| owner(&regions, partition));
        let gone = owners.iter().all(|owner| ["us", "ap"].contains(&owner.as_str()));
        if gone { Ok(()) } else { Err(format!("{owners:?}")) }
    })
    .await;
}

/// Has a hand-over begun by somebody who goes by what he has seen before.
async fn hand_over(regions: &Regions, before: &(Ownership, u64)) -> anyhow::Result<()> {
    let range = PartitionRange::new(0, 0);
    let change = OwnershipChange::HandOver { range, to: "us".parse()?, run: RunId("late".into()) };
    let known = (&before.0, before.1);
    change_ownership(&directory(regions), "lab", &change, known, &Grounds::default()).await?;
    Ok(())
}

fn directory(regions: &Regions) -> Directory {
    Directory::embedded(&regions.directory().to_string()).unwrap()
}

async fn ownership(regions: &Regions) -> (Ownership, u64) {
    let document = directory(regions).get(OWNERSHIP_KEY).await.unwrap().unwrap();
    (lift_ownership("lab", &document.value).unwrap(), document.revision)
}

fn domicile(regions: &Regions, words: &[&str]) -> Output {
    let mut command = Command::new(regions.binary());
    command.args(words).arg("--config").arg(regions.config_file("us")).env("USER", "ada");
    command.output().unwrap()
}

/// What it printed as JSON, and how it ended.
fn asked(regions: &Regions, words: &[&str]) -> (Json, Option<i32>) {
    let output = domicile(regions, &[words, &["--json"]].concat());
    (serde_json::from_slice(&output.stdout).unwrap_or_default(), output.status.code())
}

fn owner(regions: &Regions, partition: &str) -> String {
    let (listed, _) = asked(regions, &["partition", "show", partition]);
    listed[0]["owner"].as_str().unwrap_or_default().to_owned()
}

fn assert_done(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

fn is_refused(regions: &Regions, words: &[&str], why: &str) {
    let output = domicile(regions, words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == REFUSED && said.contains(why), "{output:?}");
}
