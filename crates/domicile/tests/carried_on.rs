//! Is a run carried on by another agent, wherever the one that performs it is killed, and is everything
//! done once?
//!
//! Every point of every step at which the ready-made runbooks change the world or write that down: the
//! agent kills itself there, another one goes on, and once it is back the run ends as if nothing had
//! been. A run that did its work twice would have raised an epoch twice.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use domicile::directory::Client as Directory;
use domicile::directory::documents::{
    OWNERSHIP_KEY, RUN_PREFIX, RunDocument, RunState, lift_ownership,
};
use domicile::lab::regions::Regions;
use domicile_core::id::PartitionId;
use domicile_core::ownership::{Entry, Ownership, State};
use tokio_postgres::Client;

// Not all of it is of use here.
#[allow(dead_code)]
mod regions;

use regions::{config, eventually, start};

const EFFECT: &[&str] = &["before", "between", "after"];
const WAIT: &[&str] = &["waits"];
/// After its last line a run has ended: nobody goes on with it.
const END: &[&str] = &["before", "after"];

/// What each ready-made runbook does, step by step.
const SWITCHOVER: &[(&str, &[&str])] = &[
    ("hand_over", EFFECT),
    ("hand_over", WAIT),
    ("catch_up", WAIT),
    ("grant", EFFECT),
    ("reroute", WAIT),
    ("verify", EFFECT),
    ("run", END),
];
const FAILOVER: &[(&str, &[&str])] = &[
    ("fence", EFFECT),
    ("seal", EFFECT),
    ("cut", EFFECT),
    ("catch_up", WAIT),
    ("grant", EFFECT),
    ("reroute", WAIT),
    ("verify", EFFECT),
    ("run", END),
];
/// Between its check and its end it is a switchover.
const FAILBACK: &[(&str, &[&str])] =
    &[("hand_over", EFFECT), ("grant", EFFECT), ("reroute", WAIT), ("run", END)];
/// The first line at the end of a run is of one that it has begun.
const EVACUATION: &[(&str, &[&str])] = &[("for_each", EFFECT), ("for_each", WAIT), ("run", END)];
/// The way there is a switchover's.
const DRILL: &[(&str, &[&str])] = &[("give_back", EFFECT), ("give_back", WAIT), ("run", END)];

/// Before the switchover of everything.
const WARM_UP: &[(&str, &[&str])] = &[("warm_up", EFFECT)];

/// What follows is a failover's, and what comes last a drill's.
const FORCED_DRILL: &[(&str, &[&str])] =
    &[("fence_canary", EFFECT), ("seal", EFFECT), ("cut", EFFECT), ("late_write", EFFECT)];

struct World {
    regions: Regions,
    directory: Directory,
    began: Instant,
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_opened_again_when_the_agent_that_had_them_opened_is_killed() {
    let mut world = World::new("whole", 1).await;
    let mut to = ["us", "eu"].iter().cycle();
    let first = world.begin(&["switchover", "--from", "ap", "--to", "eu"]).wait().unwrap();
    assert!(first.success());
    for (step, moments) in WARM_UP {
        for moment in *moments {
            let to = to.next().unwrap();
            let called = ["switchover", "--partitions", "0", "--to", to];
            world.carries_on(&called, to, step, moment).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_agent_that_performs_a_run_is_killed_another_carries_it_on() {
    let mut world = World::new("hash(id, 6)", 6).await;
    let there_and_back =
        |round: usize| if round.is_multiple_of(2) { ("eu", "us") } else { ("us", "eu") };

    for from in ["ap", "us"] {
        let everything = ["switchover", "--from", from, "--to", "eu"];
        assert!(world.begin(&everything).wait().unwrap().success());
    }
    let mut round = 0;
    for (steps, runbook) in [
        (SWITCHOVER, "switchover"),
        (FAILOVER, "failover"),
        (FAILBACK, "failback"),
        (EVACUATION, "evacuate-region"),
    ] {
        for (step, moments) in steps {
            for moment in *moments {
                let (from, to) = there_and_back(round);
                let (from_told, to_told) = (format!("from={from}"), format!("to={to}"));
                let evacuation = ["runbook", "run", "evacuate-region", &from_told, &to_told];
                let failback = ["runbook", "run", "failback", "partitions=0-5", &to_told];
                let plan;
                let called = match runbook {
                    "switchover" => vec!["switchover", "--partitions", "0-5", "--to", to],
                    "failover" => vec!["failover", "--from", from, "--to", to, "--attest"],
                    runbook => {
                        let run = if runbook == "failback" { failback } else { evacuation };
                        plan = world.plan(&run[2..]).await;
                        [&run[..], &["--plan", &plan]].concat()
                    }
                };
                world.carries_on(&called, to, step, moment).await;
                round += 1;
            }
        }
    }
    // What eu has comes back to eu.
    assert!(round.is_multiple_of(2));
    let (drill, forced): (&[&str], &[&str]) =
        (&["drill", "to=us"], &["forced-drill", "from=eu", "to=us"]);
    for (steps, runbook) in [(DRILL, drill), (FORCED_DRILL, forced)] {
        for (step, moments) in steps {
            for moment in *moments {
                let plan = world.plan(runbook).await;
                let called = [&["runbook", "run"], runbook, &["--plan", &plan]].concat();
                world.carries_on(&called, "us", step, moment).await;
            }
        }
    }
}

impl World {
    async fn new(partition: &str, partitions: u32) -> Self {
        let mut config = config(&["ap", "eu", "us"], partition, partitions);
        config.seed_sql = "CREATE TABLE item (id int PRIMARY KEY)".to_owned();
        config.tables = "[[table]]\nname = \"item\"\n".to_owned();
        // Whoever is killed is back before anybody gives him up, or calls off what was to come to him.
        config.lease = std::time::Duration::from_secs(30);
        config.suspect_after = std::time::Duration::from_secs(30);
        let mut regions = Regions::create(config).await.unwrap();
        start(&mut regions).await;
        let directory = Directory::embedded(&regions.directory().to_string()).unwrap();
        Self { regions, directory, began: Instant::now() }
    }

    /// Starts a run that is `to`'s to perform, has its agent die at a point, and sees it to its end.
    async fn carries_on(&mut self, called: &[&str], to: &str, step: &str, moment: &str) {
        let what = format!("{} at {step} {moment}", called.join(" "));
        let before = self.ownership().await.unwrap();
        let known: BTreeSet<String> = self.runs().await.into_iter().map(|run| run.run).collect();
        let point = self.regions.folder().join(to).join("agent/kill-at");
        std::fs::write(&point, format!("{step} {moment}")).unwrap();
        let mut holder = None;
        if step == "catch_up" {
            self.is_known_to_follow(to).await;
            holder = Some(self.falls_behind(to, &before).await);
        }
        let mut command = self.begin(called);
        let fresh = |run: &RunDocument| !known.contains(&run.run);
        let died = Instant::now();
        while !self.regions.agent_has_ended(to) {
            let runs = self.runs().await;
            let ours = runs.iter().filter(|run| fresh(run)).collect::<Vec<_>>();
            let told = command.try_wait().unwrap();
            assert!(died.elapsed() < regions::PATIENCE, "{what}: {to} lives; {told:?}, {ours:#?}");
            tokio::time::sleep(regions::LOOK_AGAIN).await;
        }
        drop(holder);
        eventually(&format!("another agent goes on: {what}"), async || {
            let runs = self.runs().await;
            let mut ours = runs.iter().filter(|run| fresh(run));
            let ended = ours.clone().all(|run| run.state == RunState::Succeeded);
            let mut lines = ours.clone().flat_map(|run| &run.journal);
            let taken_up = lines.any(|line| line.executor != to);
            let began = ours.next().is_some();
            if began && (taken_up || ended) { Ok(()) } else { Err(format!("{runs:#?}")) }
        })
        .await;
        self.regions.start_agent(to).unwrap();
        let ended = tokio::task::spawn_blocking(move || command.wait().unwrap());
        let ended = tokio::time::timeout(regions::PATIENCE, ended).await.expect("it ends").unwrap();
        assert!(ended.success(), "{what}: {ended}: {:#?}", self.runs().await);
        self.regions.wait_until_ready().await.unwrap();
        if called.contains(&"drill") || called.contains(&"forced-drill") {
            self.is_back(&before, &what).await;
        } else {
            self.is_done_once(&before, to, &what).await;
        }
        for run in self.runs().await.iter().filter(|run| fresh(run)) {
            assert_eq!(run.state, RunState::Succeeded, "{what}: {run:#?}");
        }
        println!("{:>6} ms  {what}", self.began.elapsed().as_millis());
    }

    /// Waits until the others know that a region has what they wrote: to somebody who may be far behind
    /// nothing is handed over, and who was started again heard nothing yet.
    async fn is_known_to_follow(&self, region: &str) {
        for other in self.regions.names().iter().filter(|other| *other != region) {
            eventually(&format!("{other} knows that {region} follows"), async || {
                let status = self.regions.status(other).await.map_err(|e| e.to_string())?;
                let behind = status.staleness()[&region.parse().unwrap()];
                if behind.0 == 0 { Ok(()) } else { Err(format!("it is {behind} behind")) }
            })
            .await;
        }
    }

    /// A row that its owner writes stays in the log of `region`, until the session is closed that is returned.
    async fn falls_behind(&self, region: &str, before: &Ownership) -> Client {
        let owner = before.entry(PartitionId(0)).and_then(Entry::owner).unwrap();
        let holder = self.regions.connect(region).await.unwrap();
        holder.batch_execute("BEGIN; LOCK TABLE item IN EXCLUSIVE MODE").await.unwrap();
        let owner = self.regions.connect(owner.as_str()).await.unwrap();
        let next = "INSERT INTO item SELECT coalesce(max(id), 0) + 1 FROM item";
        owner.batch_execute(next).await.unwrap();
        holder
    }

    async fn is_done_once(&self, before: &Ownership, to: &str, what: &str) {
        let after = self.ownership().await.unwrap();
        for partition in (0..before.total()).map(PartitionId) {
            let (old, new) = (before.entry(partition).unwrap(), after.entry(partition).unwrap());
            let owner = State::Owned { by: to.parse().unwrap() };
            assert_eq!((&new.state, new.epoch), (&owner, old.epoch.next()), "{what}");
            assert_eq!(new.closed.len(), old.closed.len() + 1, "{what}");
        }
    }

    /// The canary has gone and come back, once, and nothing else.
    async fn is_back(&self, before: &Ownership, what: &str) {
        let after = self.ownership().await.unwrap();
        assert_eq!(after.data(), before.data(), "{what}");
        let canary = |owners: &Ownership| owners.entry(PartitionId::CANARY).cloned().unwrap();
        let (old, new) = (canary(before), canary(&after));
        assert_eq!((&new.state, new.epoch), (&old.state, old.epoch.next().next()), "{what}");
    }

    async fn ownership(&self) -> anyhow::Result<Ownership> {
        let document = self.directory.get(OWNERSHIP_KEY).await?;
        lift_ownership("lab", &document.expect("there is an ownership").value)
    }

    async fn runs(&self) -> Vec<RunDocument> {
        let read = self.directory.read(RUN_PREFIX).await.unwrap().documents;
        read.iter().map(|document| serde_json::from_slice(&document.value).unwrap()).collect()
    }

    /// The id of what a runbook would do, once nothing is against it.
    async fn plan(&self, called: &[&str]) -> String {
        eventually(&format!("{} may be started", called.join(" ")), async || {
            let mut command = Command::new(self.regions.binary());
            command.args(["runbook", "plan"]).args(called).arg("--json");
            let command = command.arg("--config").arg(self.regions.config_file("ap"));
            let output = command.output().map_err(|error| error.to_string())?;
            let planned: serde_json::Value =
                serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
            let id = planned["plan"].as_str().unwrap_or_default().to_owned();
            if output.status.success() { Ok(id) } else { Err(format!("{planned:#}")) }
        })
        .await
    }

    /// Starts a command and leaves it alone.
    fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(self.regions.binary());
        command.args(arguments).arg("--config").arg(self.regions.config_file("ap"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}
