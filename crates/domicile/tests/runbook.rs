//! Does a runbook do what was planned, and nothing else; and can its story be told afterwards?

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use domicile::directory::Client as Directory;
use domicile::lab::regions::Regions;
use serde_json::Value as Json;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;
use regions::eventually;
mod runs;
use runs::{ask, asked, begin, domicile, owned, says};

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

/// Moves one partition, when two people have said so.
const ASKS: &str = r#"
name = "asks"
about = "Move a partition to us, when two people have said so."

[parameter.which]
type = "partitions"
about = "Which one"

[parameter.within]
type = "duration"
default = "5m"
about = "How long they have"

[parameter.urgent]
type = "flag"
default = false
about = "Wait for nobody"

[[step]]
do = "approve"
role = "dba"
count = 2
within = "{within}"
if = "!{urgent}"

[[step]]
do = "hand_over"
partitions = "{which}"
to = "us"

[[step]]
do = "catch_up"

[[step]]
do = "grant"

[[step]]
do = "reroute"
"#;

/// Has programs run before a partition moves and once it has moved.
const PROGRAMS: &str = r#"
name = "programs"
about = "Move a partition to us between two programs."

[parameter.which]
type = "partitions"
about = "Which one"

[parameter.first]
type = "name"
about = "What runs first"

[[step]]
do = "exec"
program = "{first}"
within = "2s"

[[step]]
do = "hand_over"
partitions = "{which}"
to = "us"

[[step]]
do = "catch_up"

[[step]]
do = "grant"

[[step]]
do = "exec"
program = "note"

[[step]]
do = "exec"
program = "refuse"
may_fail = true
"#;

/// Promises more than it keeps when its owner's agent stands still.
const PROMISES: &str = r#"
name = "promises"
about = "Move a partition to us, and nobody waits for long."

[objectives]
rto = "200ms"

[parameter.which]
type = "partitions"
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

const NOTE: &str = "#!/bin/sh
echo $DOMICILE_RUN $DOMICILE_STEP $DOMICILE_TOKEN >> $(dirname $0)/noted
echo all is noted
";
const REFUSE: &str = "#!/bin/sh
echo not today >&2
exit 3
";
/// What it starts keeps its output open.
const HANG: &str = "#!/bin/sh
sleep 600 & wait
";

async fn world() -> Regions {
    world_with("").await
}

/// `more` stands in every region's configuration.
async fn world_with(more: &str) -> Regions {
    world_at("0", more).await
}

async fn world_at(rpo: &str, more: &str) -> Regions {
    let own = [("mine", MINE), ("asks", ASKS), ("programs", PROGRAMS), ("promises", PROMISES)];
    runs::world(rpo, more, &own).await
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
    assert_eq!(owned(&regions, "0"), ("us".to_owned(), 2));
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

    let called = ["runbook", "plan", "switchover", "partitions=1", "to=us"];
    let (planned, _) = asked(&regions, &called);
    assert_eq!(planned["past"]["runs"], 2, "{planned:#}");
    assert!(planned["past"]["without_owner_ms"].is_u64(), "{planned:#}");
    assert_eq!(asked(&regions, &["runbook", "plan", "asks", "which=1"]).0["past"], Json::Null);

    // The one that waits until its target is well, which it is.
    assert!(begin(&regions, &["failback", "partitions=1", "to=us"]).wait().unwrap().success());
    assert_eq!(owned(&regions, "1"), ("us".to_owned(), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_misses_its_objective_has_succeeded_and_says_so() {
    let regions = world().await;
    let called = ["runbook", "plan", "promises", "which=0"];
    let (planned, _) = asked(&regions, &called);
    let objective = |expected: Option<u64>, met: Option<bool>| {
        serde_json::json!([
            {"objective": "rto", "limit_ms": 200, "expected_ms": expected, "met": met}
        ])
    };
    assert_eq!(planned["objectives"], objective(None, None), "there was no run yet: {planned:#}");
    regions.pause_agent("eu");
    let mut run = begin(&regions, &["promises", "which=0"]);
    // It is written down once it has lasted longer than what is promised.
    says(&regions, "promises", "eu is draining its writers").await;
    regions.resume_agent("eu");
    assert!(run.wait().unwrap().success());

    let (story, _) = asked(&regions, &["runbook", "report", "last"]);
    let paused = story["writes_paused_ms"].as_u64().unwrap();
    let missed = serde_json::json!([
        {"objective": "rto", "limit_ms": 200, "measured_ms": paused, "met": false}
    ]);
    assert_eq!(story["objectives"], missed, "{story:#}");
    assert_eq!(story["state"], "succeeded");
    let told = format!("{paused} ms of 200ms: missed");
    for format in ["markdown", "html"] {
        let output = domicile(&regions, &["runbook", "report", "last", "--format", format]);
        let page = String::from_utf8(output.stdout).unwrap();
        assert!(page.contains("Objective RTO") && page.contains(&told), "{page}");
    }
    let (history, _) = asked(&regions, &["runbook", "history"]);
    assert_eq!(history[0]["objectives"], missed);
    let listed = domicile(&regions, &["runbook", "history"]).stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.contains("missed: RTO"), "{listed}");

    let called = ["runbook", "plan", "promises", "which=1"];
    let (planned, code) = asked(&regions, &called);
    assert_eq!(planned["objectives"], objective(Some(paused), Some(false)), "{planned:#}");
    assert_eq!(code, 0, "it may be run all the same");
    let text = String::from_utf8(domicile(&regions, &called).stdout).unwrap();
    assert!(text.contains(&format!("objective RTO would be missed: {told}")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_was_changed_says_where() {
    let mut regions = world().await;
    for (partition, to) in [("0", "us"), ("1", "us"), ("0", "ap")] {
        let (said, code) = asked(&regions, &["switchover", "--partitions", partition, "--to", to]);
        assert_eq!(code, 0, "{said:#}");
    }
    // Who performs it dies in the middle of the chain, and another goes on with it.
    std::fs::write(regions.folder().join("us/agent/kill-at"), "grant between").unwrap();
    let mut run = begin(&regions, &["mine", "which=2"]);
    assert!(run.wait().unwrap().success());
    regions.start_agent("us").unwrap();
    let verify = ["runbook", "history", "--verify"];
    let (verified, code) = asked(&regions, &verify);
    assert_eq!((code, &verified["chained"]), (0, &serde_json::json!(4)), "{verified:#}");
    let (history, _) = asked(&regions, &["runbook", "history"]);
    assert_eq!(verified["last"]["run"], history[0]["run"], "{verified:#}");
    let (story, code) = asked(&regions, &["runbook", "report", "last"]);
    assert_eq!((code, &story["chain"]), (0, &serde_json::json!({"state": "holds"})));

    let changed = history[2]["run"].as_str().unwrap();
    let key = format!("run/{changed}");
    let directory = Directory::embedded(&regions.directory().to_string()).unwrap();
    let found = directory.get(&key).await.unwrap().unwrap();
    let mut document: Json = serde_json::from_slice(&found.value).unwrap();
    document["journal"][1]["executor"] = "ap".into();
    let text = document.to_string().into();
    directory.write(&key, found.revision, Some(text)).await.unwrap();
    let (verified, code) = asked(&regions, &verify);
    assert_eq!(code, 3, "{verified:#}");
    let places: Vec<(&str, u64)> = verified["broken"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["run"].as_str().unwrap(), it["entry"].as_u64().unwrap()))
        .collect();
    assert_eq!(places, [(changed, 2)], "{verified:#}");
    let (story, code) = asked(&regions, &["runbook", "report", changed]);
    assert_eq!((code, &story["chain"]["state"]), (3, &"broken".into()), "{story:#}");
    assert_eq!(asked(&regions, &["runbook", "report", "last"]).1, 0, "that one is as it was");

    let revision = directory.get(&key).await.unwrap().unwrap().revision;
    directory.write(&key, revision, None).await.unwrap();
    let output = domicile(&regions, &verify);
    let said = String::from_utf8(output.stdout).unwrap();
    let gone = format!("run {changed} ended before it, and was taken out of the history");
    assert!(output.status.code() == Some(3) && said.contains(&gone), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seal_that_cannot_be_written_is_told_and_waited_for() {
    let mut regions = world().await;
    let before = owned(&regions, "4");
    assert_eq!(before.0, "us");
    // No file takes the place of a folder.
    let in_the_way = regions.folder().join("ap/agent/seals.json");
    assert!(!in_the_way.exists(), "nothing was sealed yet");
    std::fs::create_dir(&in_the_way).unwrap();
    regions.kill_region("us");
    let mut command = Command::new(regions.binary());
    command.args(["failover", "--from", "us", "--to", "eu", "--attest", "--config"]);
    command.arg(regions.config_file("eu")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut failover = command.spawn().unwrap();
    says(&regions, "failover", "ap did not seal").await;
    let (story, _) = asked(&regions, &["runbook", "report", "last"]);
    let lines = story["journal"].as_array().unwrap();
    assert!(lines.iter().all(|line| line["step"] != "grant"), "{story:#}");
    std::fs::remove_dir(&in_the_way).unwrap();
    let ended = tokio::task::spawn_blocking(move || failover.wait().unwrap()).await.unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(owned(&regions, "4"), ("eu".to_owned(), before.1 + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_whom_it_ends_and_what_would_be_lost() {
    let mut regions = world_at("none", "").await;
    let client = regions.connect("eu").await.unwrap();
    for id in 0..20 {
        // Some are others'.
        let _ = client.execute("INSERT INTO item VALUES ($1, 0)", &[&id]).await;
    }
    let mine = "SELECT min(id) FROM item WHERE domicile.partition_of(id::text) < 3";
    let id: i32 = client.query_one(mine, &[]).await.unwrap().get(0);
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    client.batch_execute(&format!("BEGIN; UPDATE item SET n = 1 WHERE id = {id}")).await.unwrap();
    let called = ["runbook", "plan", "switchover", "partitions=0-2", "to=us"];
    eventually("the plan names who holds it up", async || {
        let (planned, _) = asked(&regions, &called);
        let cautions = planned["cautions"].to_string();
        let named = cautions.contains(&format!("pid {pid} (role \\\""));
        if named { Ok(()) } else { Err(format!("{planned:#}")) }
    })
    .await;
    client.batch_execute("COMMIT").await.unwrap();

    eventually("us has heard how much eu commits", async || {
        let status = regions.status("us").await.map_err(|e| e.to_string())?;
        let eu = status.peers.iter().find(|peer| peer.region == "eu");
        let heard = eu.and_then(|eu| eu.last_heard.clone()).unwrap_or_default();
        match heard.commits_per_s > 0 && heard.wal_bytes_per_s > 0 {
            true => Ok(()),
            false => Err(format!("{heard:?}")),
        }
    })
    .await;
    regions.kill_region("eu");
    let called = ["runbook", "plan", "failover", "from=eu", "to=us", "attest=true"];
    eventually("the plan says what would be lost", async || {
        let (planned, _) = asked(&regions, &called);
        let loss =
            ["ms", "commits", "bytes"].map(|of| planned[format!("estimated_loss_{of}")].as_u64());
        match loss.iter().all(|loss| loss.is_some_and(|loss| loss > 0)) {
            true => Ok(()),
            false => Err(format!("{planned:#}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_have_a_say_in_a_run_whoever_performs_it() {
    let mut regions = world().await;
    nobody_is_waited_for_when_it_is_urgent(&regions).await;
    two_people_approve(&mut regions).await;
    nobody_comes_in_time(&regions).await;
    what_was_approved_is_not_done_once_it_is_something_else(&regions).await;
    a_pause_waits_for_the_grant_and_an_abort_comes_too_late(&mut regions).await;
    an_abort_gives_back_what_was_taken(&mut regions).await;
}

async fn two_people_approve(regions: &mut Regions) {
    let mut run = begin(regions, &["asks", "which=0"]);
    says(regions, "asks", "2 more of role dba").await;
    assert_eq!(ask(regions, "ada", &["approve", "--role", "manager"]).1, 3);
    assert_eq!(ask(regions, "ada", &["approve", "--role", "dba"]).1, 0);
    let (said, code) = ask(regions, "ada", &["approve", "--role", "dba"]);
    assert!(code == 3 && said.contains("already"), "{said}");
    says(regions, "asks", "1 more of role dba").await;
    assert_eq!(ask(regions, "ada", &["pause"]).1, 0);
    says(regions, "asks", "paused by ada").await;
    // Who performs it is killed, and another goes on.
    regions.kill_agent("us");
    assert_eq!(ask(regions, "bob", &["approve", "--role", "dba", "--as", "grace"]).1, 0);
    regions.start_agent("us").unwrap();
    assert_eq!(owned(regions, "0"), ("eu".to_owned(), 1), "it is paused");
    assert_eq!(ask(regions, "ada", &["resume"]).1, 0);
    assert_eq!(ask(regions, "ada", &["resume"]).1, 3, "it goes on, or has ended");
    assert!(run.wait().unwrap().success());
    assert_eq!(owned(regions, "0"), ("us".to_owned(), 2));
    let (story, _) = asked(regions, &["runbook", "report", "last"]);
    let approved = serde_json::json!([
        {"role": "dba", "by": "ada"}, {"role": "dba", "by": "grace"}
    ]);
    assert_eq!(story["approvals"], approved);
}

async fn nobody_comes_in_time(regions: &Regions) {
    let mut run = begin(regions, &["asks", "which=1", "within=300ms"]);
    assert_eq!(run.wait().unwrap().code(), Some(1));
    let (story, _) = asked(regions, &["runbook", "report", "last"]);
    assert_eq!(story["state"], "unapproved", "{story:#}");
    assert_eq!(owned(regions, "1"), ("eu".to_owned(), 1));
    assert_eq!(ask(regions, "ada", &["approve", "--role", "dba"]).1, 3, "it has ended");
}

async fn nobody_is_waited_for_when_it_is_urgent(regions: &Regions) {
    let called = ["asks", "which=8", "urgent=true"];
    let text = domicile(regions, &[&["runbook", "plan"], &called[..]].concat()).stdout;
    let text = String::from_utf8(text).unwrap();
    let skipped = "1. approve         skipped: urgent is true";
    assert!(text.contains(skipped), "{text}");
    assert!(begin(regions, &called).wait().unwrap().success());
    assert_eq!(owned(regions, "8"), ("us".to_owned(), 2));
    let (story, _) = asked(regions, &["runbook", "report", "last"]);
    assert_eq!(story["skipped"], serde_json::json!(["1. approve: urgent is true"]), "{story:#}");
    assert_eq!(story["approvals"], serde_json::json!([]));
}

async fn what_was_approved_is_not_done_once_it_is_something_else(regions: &Regions) {
    let mut run = begin(regions, &["asks", "which=1"]);
    says(regions, "asks", "2 more of role dba").await;
    let (said, code) = asked(regions, &["switchover", "--partitions", "1", "--to", "ap"]);
    assert_eq!(code, 0, "{said:#}");
    assert_eq!(run.wait().unwrap().code(), Some(1));
    let (history, _) = asked(regions, &["runbook", "history"]);
    let states = [&history[0]["state"], &history[1]["state"]];
    assert_eq!(states, ["succeeded", "overruled"], "{history:#}");
    assert_eq!(owned(regions, "1"), ("ap".to_owned(), 2));
}

/// Has the last run in the middle of a hand-over: the owner's agent stands still.
async fn in_the_middle(regions: &mut Regions, partition: &str) -> Child {
    regions.pause_agent("eu");
    let run = begin(regions, &["switchover", &format!("partitions={partition}"), "to=us"]);
    eventually("it has the partition in its hands", async || {
        let (listed, _) = asked(regions, &["partition", "show", partition]);
        let state = listed[0]["state"].as_str().unwrap_or_default();
        if state.starts_with("handing over") { Ok(()) } else { Err(format!("{listed:#}")) }
    })
    .await;
    run
}

async fn a_pause_waits_for_the_grant_and_an_abort_comes_too_late(regions: &mut Regions) {
    let mut run = in_the_middle(regions, "2").await;
    assert_eq!(ask(regions, "ada", &["pause"]).1, 0);
    regions.resume_agent("eu");
    says(regions, "switchover", "paused by ada").await;
    assert_eq!(owned(regions, "2"), ("us".to_owned(), 2), "no partition is left without an owner");
    let (said, code) = ask(regions, "ada", &["abort"]);
    assert!(code == 3 && said.contains("the new owner is named already"), "{said}");
    regions.kill_agent("us");
    regions.start_agent("us").unwrap();
    assert_eq!(ask(regions, "ada", &["resume"]).1, 0);
    assert!(run.wait().unwrap().success());
    assert_eq!(owned(regions, "2"), ("us".to_owned(), 2));
    // A partition that eu still owns is what the next one needs.
    let (said, code) = asked(regions, &["switchover", "--partitions", "2", "--to", "eu"]);
    assert_eq!(code, 0, "{said:#}");
}

async fn an_abort_gives_back_what_was_taken(regions: &mut Regions) {
    let mut run = in_the_middle(regions, "2").await;
    let mut command = Command::new(regions.binary());
    command.args(["runbook", "abort", "last"]).env("USER", "ada").stderr(Stdio::null());
    let mut abort = command.arg("--config").arg(regions.config_file("us")).spawn().unwrap();
    says(regions, "switchover", "asks to abort").await;
    assert_eq!(ask(regions, "ada", &["pause"]).1, 3, "it is being aborted");
    regions.kill_agent("us");
    regions.resume_agent("eu");
    eventually("it has its old owner, at a new epoch", async || match owned(regions, "2") {
        (owner, 4) if owner == "eu" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    regions.start_agent("us").unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(1));
    assert_eq!(abort.wait().unwrap().code(), Some(0));
    let (story, _) = asked(regions, &["runbook", "report", "last"]);
    assert_eq!(story["state"], "aborted", "{story:#}");
    assert_eq!(ask(regions, "ada", &["abort"]).1, 3, "it has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_emptied_range_by_range_whoever_performs_it() {
    let mut regions = world().await;
    // Three ranges of eu: 0, 1 (which has moved and come back) and 2.
    for to in ["ap", "eu"] {
        let (said, code) = asked(&regions, &["switchover", "--partitions", "1", "--to", to]);
        assert_eq!(code, 0, "{said:#}");
    }
    let called = ["evacuate-region", "from=eu", "to=us"];
    let (planned, code) = asked(&regions, &[&["runbook", "plan"], &called[..]].concat());
    assert_eq!(code, 0, "{planned:#}");
    let moves: Vec<&str> = planned["moves"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| each["partitions"].as_str().unwrap())
        .collect();
    assert_eq!(moves, ["0", "1", "2", "canary"]);

    regions.pause_agent("eu");
    let mut run = begin(&regions, &called);
    eventually("the first part has its partition in its hands", async || {
        let (listed, _) = asked(&regions, &["partition", "show", "0-2"]);
        let states: Vec<&str> =
            listed.as_array().unwrap().iter().map(|each| each["state"].as_str().unwrap()).collect();
        let expected = ["handing over to us", "owned", "owned"];
        if states == expected { Ok(()) } else { Err(format!("{listed:#}")) }
    })
    .await;
    assert_eq!(ask(&regions, "ada", &["pause"]).1, 0);
    says(&regions, "evacuate-region", "paused by ada").await;
    // Who performs it is killed, and another goes on: the part that is on its way does not wait.
    regions.kill_agent("us");
    regions.resume_agent("eu");
    regions.start_agent("us").unwrap();
    eventually("the first part has moved", async || {
        let found = owned(&regions, "0");
        if found == ("us".to_owned(), 2) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    assert_eq!(owned(&regions, "1"), ("eu".to_owned(), 3), "no other is begun");
    assert_eq!(ask(&regions, "ada", &["resume"]).1, 0);
    assert!(run.wait().unwrap().success());
    for (partition, epoch) in [("0", 2), ("1", 4), ("2", 2), ("canary", 2)] {
        assert_eq!(owned(&regions, partition), ("us".to_owned(), epoch), "each moved once");
    }
    let (history, _) = asked(&regions, &["runbook", "history"]);
    let succeeded = |run: &&Json| run["state"] == "succeeded";
    assert_eq!(history.as_array().unwrap().iter().filter(succeeded).count(), 2 + 1 + 4);
    let run = history[4]["run"].as_str().unwrap();
    let (part, _) = asked(&regions, &["runbook", "report", &format!("{run}/1")]);
    assert_eq!(part["started_by"].as_str().unwrap(), format!("run {run}"), "{part:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_run_for_a_run_and_whoever_goes_on_calls_them_by_the_same_token() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("note", NOTE), ("refuse", REFUSE), ("hang", HANG)] {
        let program = folder.path().join(name);
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let more = format!("[runbook]\nprograms = \"{}\"\n", folder.path().display());
    let mut regions = world_with(&more).await;
    let noted = || std::fs::read_to_string(folder.path().join("noted")).unwrap_or_default();

    assert!(begin(&regions, &["programs", "which=0", "first=note"]).wait().unwrap().success());
    assert_eq!(owned(&regions, "0"), ("us".to_owned(), 2));
    let (story, _) = asked(&regions, &["runbook", "report", "last"]);
    let run = story["run"].as_str().unwrap();
    assert_eq!(noted(), format!("{run} 1 {run}/1\n{run} 5 {run}/5\n"));
    says(&regions, "programs", "program note: exit status: 0: all is noted").await;
    says(&regions, "programs", "program refuse: exit status: 3: not today").await;

    for (first, said) in [
        ("refuse", "program refuse: exit status: 3: not today"),
        ("hang", "took longer than 2s, and was killed"),
        ("missing", "program missing: has not run: No such file"),
    ] {
        let mut run = begin(&regions, &["programs", "which=1", &format!("first={first}")]);
        assert_eq!(run.wait().unwrap().code(), Some(1));
        says(&regions, "programs", said).await;
        let (story, _) = asked(&regions, &["runbook", "report", "last"]);
        assert_eq!(story["state"], "failed", "{story:#}");
        assert_eq!(owned(&regions, "1"), ("eu".to_owned(), 1), "nothing was done");
    }

    // It has said that it runs the program, and dies before anything came of it.
    let before = noted();
    let point = regions.folder().join("us/agent/kill-at");
    std::fs::write(point, "exec between").unwrap();
    let mut run = begin(&regions, &["programs", "which=2", "first=note"]);
    eventually("another agent has run it", async || {
        let more = noted();
        if more != before { Ok(()) } else { Err(more) }
    })
    .await;
    // Not before it is written down: who performs the run when it comes back would run it again.
    says(&regions, "programs", "program note: exit status: 0").await;
    regions.start_agent("us").unwrap();
    assert!(run.wait().unwrap().success());
    let (story, _) = asked(&regions, &["runbook", "report", "last"]);
    let run = story["run"].as_str().unwrap();
    // One that has not heard yet who goes on may have called it, too: by the token both are one call.
    let noted = noted();
    let mut more: Vec<&str> = noted.strip_prefix(&before).unwrap().lines().collect();
    more.dedup();
    assert_eq!(more, [format!("{run} 1 {run}/1"), format!("{run} 5 {run}/5")]);
    assert_eq!(owned(&regions, "2"), ("us".to_owned(), 2));
}
