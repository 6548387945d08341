//! Is a planned run taken over by force when its source is lost, once, whoever is killed meanwhile, and with
//! everything that was acknowledged?

use std::process::{Child, Command, Stdio};

use domicile::lab::regions::Regions;
use serde_json::Value as Json;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::{PATIENCE, assert_alike, converge, eventually};
#[allow(dead_code)]
mod runs;
use runs::{ask, asked, begin, domicile, owned, says};

/// Moves one partition, when somebody has said so.
const ASKS: &str = r#"
name = "asks"
about = "Move a partition to us, when somebody has said so."

[[step]]
do = "approve"
role = "dba"

[[step]]
do = "hand_over"
partitions = "6"
to = "us"

[[step]]
do = "catch_up"

[[step]]
do = "grant"
"#;

/// The last run of a person's, as it is told.
fn last(regions: &Regions) -> Json {
    asked(regions, &["runbook", "report", "last"]).0
}

/// Starts the hand-over of a partition whose owner's agent stands still, and waits until the run has it in
/// its hands.
async fn in_the_middle(regions: &Regions, called: &[&str], partition: &str) -> Child {
    let run = begin(regions, called);
    eventually("it has the partition in its hands", async || {
        let (listed, _) = asked(regions, &["partition", "show", partition]);
        let state = listed[0]["state"].as_str().unwrap_or_default();
        if state.starts_with("handing over") { Ok(()) } else { Err(format!("{listed:#}")) }
    })
    .await;
    run
}

/// What is said when the last run is to be forced: to those who want to know, to whoever looks on, and how
/// it ends.
fn escalate(regions: &Regions, words: &[&str]) -> (String, String, Option<i32>) {
    let output = domicile(regions, &[&["runbook", "escalate", "last"], words].concat());
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (said(&output.stdout), said(&output.stderr), output.status.code())
}

fn refuses(regions: &Regions, why: &str) {
    let (_, said, code) = escalate(regions, &["--attest", "--yes"]);
    assert!(code == Some(3) && said.contains(why), "{why}: {said}");
}

/// Has the last run forced, and leaves the command alone.
fn begin_escalation(regions: &Regions) -> Child {
    let mut command = Command::new(regions.binary());
    command.args(["runbook", "escalate", "last", "--attest", "--yes"]).env("USER", "ada");
    command.arg("--config").arg(regions.config_file("eu"));
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

async fn code(mut command: Child) -> Option<i32> {
    let ended = tokio::task::spawn_blocking(move || command.wait().unwrap());
    tokio::time::timeout(PATIENCE, ended).await.expect("it ends").unwrap().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_escalated_once_wherever_the_agent_that_performs_it_is_killed() {
    for moment in ["before", "between", "after"] {
        killed_as_it_begins_the_forced_run(moment).await;
    }
}

async fn killed_as_it_begins_the_forced_run(moment: &str) {
    let mut regions = runs::world("0", "", &[]).await;
    let acknowledged = write(&regions).await;
    regions.pause_agent("eu");
    let planned = in_the_middle(&regions, &["switchover", "partitions=1", "to=us"], "1").await;
    let point = regions.folder().join("us/agent/kill-at");
    std::fs::write(point, format!("hand_over {moment}")).unwrap();
    let escalated = begin_escalation(&regions);
    eventually(&format!("the agent of us dies {moment} it begins the forced run"), || {
        let ended = regions.agent_has_ended("us");
        async move { if ended { Ok(()) } else { Err("it lives".to_owned()) } }
    })
    .await;
    let run = last(&regions)["run"].as_str().unwrap().to_owned();
    let forced = format!("{run}/forced");
    // Nobody begins it for a target that is not there; one that is begun goes on.
    if moment != "before" {
        eventually("another agent goes on with the forced run", async || {
            let (story, _) = asked(&regions, &["runbook", "report", &forced]);
            let journal = story["journal"].as_array().cloned().unwrap_or_default();
            let taken_up = journal.iter().any(|line| line["executor"] == "ap");
            if taken_up { Ok(()) } else { Err(format!("{story:#}")) }
        })
        .await;
    }
    regions.start_agent("us").unwrap();
    assert_eq!(code(escalated).await, Some(0), "{moment}: {:#}", last(&regions));
    assert_eq!(code(planned).await, Some(1), "it did not do what was planned");
    regions.resume_agent("eu");
    regions.wait_until_ready().await.unwrap();
    for partition in ["0", "1", "2", "canary"] {
        assert_eq!(owned(&regions, partition), ("us".to_owned(), 2), "{moment}: {partition}");
    }
    for (partition, owner) in [("3", "us"), ("8", "ap")] {
        assert_eq!(owned(&regions, partition), (owner.to_owned(), 1), "{moment}: {partition}");
    }
    let story = last(&regions);
    assert_eq!((&story["run"], &story["state"]), (&run.into(), &"escalated".into()));
    let escalation = &story["escalation"];
    assert_eq!((&escalation["by"], &escalation["from"]), (&"ada".into(), &"eu".into()));
    assert!(escalation["estimated_loss_ms"].is_u64(), "{story:#}");
    assert_eq!(escalation["run"].as_str(), Some(forced.as_str()));
    let (by_force, _) = asked(&regions, &["runbook", "report", &forced]);
    let ended = (&by_force["runbook"], &by_force["state"]);
    assert_eq!(ended, (&"failover".into(), &"succeeded".into()));
    converge(&regions).await;
    assert_alike(&regions, &["item"]).await;
    assert_eq!(rows(&regions).await, acknowledged, "{moment}: nothing is lost");
}

/// Writes what eu lets in, and returns how many rows that were.
async fn write(regions: &Regions) -> i64 {
    let client = regions.connect("eu").await.unwrap();
    let mut written = 0;
    for id in 0..30 {
        let insert = client.execute("INSERT INTO item VALUES ($1, 0)", &[&id]).await;
        written += i64::from(insert.is_ok());
    }
    assert!(written > 0, "eu owns something");
    written
}

async fn rows(regions: &Regions) -> i64 {
    let client = regions.connect("us").await.unwrap();
    client.query_one("SELECT count(*) FROM item", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evacuation_whose_region_is_lost_becomes_the_failover_of_all_that_is_left() {
    let regions = runs::world("0", "", &[]).await;
    regions.pause_agent("eu");
    let called = ["evacuate-region", "from=eu", "to=us"];
    let planned = in_the_middle(&regions, &called, "0-2").await;
    assert_eq!(code(begin_escalation(&regions)).await, Some(0), "{:#}", last(&regions));
    assert_eq!(code(planned).await, Some(1));
    for partition in ["0", "2", "canary"] {
        assert_eq!(owned(&regions, partition), ("us".to_owned(), 2), "{partition}");
    }
    let story = last(&regions);
    assert_eq!((&story["runbook"], &story["state"]), (&called[0].into(), &"escalated".into()));
    let (history, _) = asked(&regions, &["runbook", "history"]);
    let runs = history.as_array().unwrap();
    assert_eq!(runs.len(), 3, "itself, the one range that it had begun, and the failover");
    assert!(runs.iter().all(|run| run["state"] != "running"), "{history:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_lost_is_told_first_and_only_a_planned_run_is_escalated() {
    let mut regions = runs::world("0", "", &[("asks", ASKS)]).await;
    regions.pause_agent("eu");
    let planned = in_the_middle(&regions, &["switchover", "partitions=0", "to=us"], "0").await;
    let (told, said, looked) = escalate(&regions, &["--attest"]);
    assert!(told.contains("failover of region eu to us"), "{told}");
    assert!(told.contains("estimated loss: 0ms of acknowledged writes"), "{told}");
    assert!(told.contains("--attest --yes"), "{told}");
    assert!(looked == Some(3) && said.contains("nothing was changed"), "{said}");
    assert_eq!(
        (&last(&regions)["state"], &last(&regions)["escalation"]),
        (&"running".into(), &Json::Null)
    );

    // As soon as the others say that it is gone, nobody has to vouch for it.
    eventually("it is escalated", async || match escalate(&regions, &["--yes"]) {
        (_, _, Some(0)) => Ok(()),
        refused => Err(format!("{refused:?}")),
    })
    .await;
    assert_eq!(code(planned).await, Some(1));
    says(&regions, "switchover", "asks to escalate: region eu is gone, estimated loss 0ms").await;
    says(&regions, "switchover", "begins a failover of region eu to us").await;
    for partition in ["0", "1", "2", "canary"] {
        assert_eq!(owned(&regions, partition), ("us".to_owned(), 2));
    }
    let again = escalate(&regions, &["--yes"]);
    assert_eq!(again.2, Some(0), "whoever asks again is told what became of it: {again:?}");
    assert_eq!(ask(&regions, "ada", &["abort"]).1, 3);
    regions.resume_agent("eu");
    regions.wait_until_ready().await.unwrap();

    let run = begin(&regions, &["asks"]);
    says(&regions, "asks", "1 more of role dba").await;
    refuses(&regions, "it has taken nothing yet");
    assert_eq!(ask(&regions, "ada", &["abort"]).1, 0);
    assert_eq!(code(run).await, Some(1));
    refuses(&regions, "it has ended");

    regions.pause_agent("us");
    // As a drill's way there, which would not start now: us could not get it back.
    let canary = ["switchover", "partitions=canary", "to=ap"];
    let drill = in_the_middle(&regions, &canary, "canary").await;
    refuses(&regions, "it moves the canary partition alone");
    regions.resume_agent("us");
    assert_eq!(code(drill).await, Some(0));

    // It waits for the seal of eu.
    regions.pause_agent("ap");
    regions.pause_agent("eu");
    let failover = begin(&regions, &["failover", "from=ap", "to=us", "attest=true"]);
    says(&regions, "failover", "fences ap").await;
    refuses(&regions, "it is forced already");
    regions.resume_agent("eu");
    assert_eq!(code(failover).await, Some(0));
    regions.resume_agent("ap");
}
