//! What happens to the bank: a switchover, an outage, a return, and the proof?
//!
//! The story breaks the world with SIGKILL and cut links, never with a polite request, and waits
//! for facts that a client or an agent reports. Every wait has a bound.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use domicile_core::opening::UNSETTLED;
use domicile_core::time::Time;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::bank::Branch;
use super::bypass::Bypass;
use super::proof::{Books, Proof};
use super::report::{Failover, Loss, Rejoin, Report, Switchover};
use super::runs;
use super::scene::{Narrator, Poller, RegionView, Scene, Tone};
use super::tally::{Phase, Tally, pause_ms, slowest_ms};
use super::workload::{Workload, WorkloadConfig};
use super::{DemoConfig, Rpo};
use crate::clock::Clock;
use crate::directory;
use crate::lab::regions::{Regions, Statuses, unready};

const COMMAND_WAIT_MAX: Duration = Duration::from_secs(60);
const SERVED_WAIT_MAX: Duration = Duration::from_secs(60);
const RETURN_WAIT_MAX: Duration = Duration::from_secs(120);
const PROOF_WAIT_MAX: Duration = Duration::from_secs(60);
/// A region that shows what others wrote up to this long ago has caught up.
const CURRENT_MS: u64 = 1000;
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long the region that is about to be lost acknowledges what it cannot ship.
const TAIL: Duration = Duration::from_millis(1200);
const THINK: Duration = Duration::from_millis(60);
/// Clients in one region that watch an owner change, and how they do it.
const WATCHERS: usize = 6;
const WATCHERS_THINK: Duration = Duration::from_millis(5);
/// Their sessions are as old then as those of any client.
const WATCHERS_LEAD: Duration = Duration::from_secs(2);

/// What the story is told with.
pub struct Stage {
    pub clock: Clock,
    pub narrator: Narrator,
    pub scene: watch::Sender<Scene>,
}

/// Tells the whole story and returns what came of it.
pub async fn tell(config: &DemoConfig, stage: Stage) -> anyhow::Result<Report> {
    let mut story = Story::begin(config, stage).await?;
    story.pass(Phase::Steady).await;
    let switchover = story.switchover().await.context("switch over")?;
    story.pass(Phase::Switched).await;
    let failover = story.lose_a_region().await.context("fail over")?;
    story.pass(Phase::Survivors).await;
    let rejoin = story.bring_it_back(&failover.lost).await.context("bring the region back")?;
    story.pass(Phase::Together).await;
    story.prove(Report { switchover, failover, rejoin, ..Report::default() }).await
}

struct Story<'a> {
    config: &'a DemoConfig,
    clock: Clock,
    narrator: Narrator,
    scene: watch::Receiver<Scene>,
    tally: Arc<Tally>,
    workload: Option<Workload>,
    directory: directory::Client,
    /// The poller, who tells of runs, and the clients that go past the gateway.
    tasks: JoinSet<()>,
    regions: Regions,
}

impl<'a> Story<'a> {
    async fn begin(config: &'a DemoConfig, stage: Stage) -> anyhow::Result<Self> {
        let Stage { clock, narrator, scene } = stage;
        let world = config.regions();
        let names = world.names.clone();
        let views: Vec<RegionView> = names.iter().map(|name| RegionView::new(name)).collect();
        scene.send_modify(|scene| {
            scene.title = config.title();
            scene.regions = views;
        });
        narrator.say(Tone::Plain, format!("making three regions: {}", names.join(", ")));
        let mut regions = Regions::create(world).await?;
        let tally = Arc::new(Tally::new(names.len()));
        let poller = Poller {
            observer: regions.observer().clone(),
            tally: tally.clone(),
            narrator: narrator.clone(),
            clock,
            partitions: config.division().partitions(),
        };
        let mut tasks = JoinSet::new();
        let watching = scene.subscribe();
        tasks.spawn(poller.run(scene));
        narrator.say(Tone::Plain, "three PostgreSQL clusters are up; starting the agents");
        regions.start_all().await?;
        let directory = directory::Client::embedded(&regions.directory().to_string())?;
        tasks.spawn(runs::narrate(directory.clone(), narrator.clone()));
        let mut story = Self {
            config,
            clock,
            narrator,
            scene: watching,
            tally,
            workload: None,
            directory,
            tasks,
            regions,
        };
        story.open_the_bank();
        Ok(story)
    }

    fn open_the_bank(&mut self) {
        let names = self.regions.names().to_vec();
        let branches = self.config.division().branches();
        let homes = (0..names.len()).collect();
        self.workload = Some(self.clients(branches.clone(), homes, self.config.clients, THINK));
        let bypass = Bypass {
            postgres: names.iter().map(|name| self.regions.postgres(name)).collect(),
            branches,
            scene: self.scene.clone(),
            tally: self.tally.clone(),
        };
        self.tasks.spawn(bypass.run());
        let text = format!("{} clients in each region open the bank", self.config.clients);
        self.narrator.say(Tone::Good, text);
    }

    fn clients(
        &self,
        branches: Vec<Branch>,
        homes: Vec<usize>,
        clients_per_region: usize,
        think: Duration,
    ) -> Workload {
        let names = self.regions.names().to_vec();
        let gateways = names.iter().map(|name| self.regions.gateway(name)).collect();
        let config = WorkloadConfig { gateways, names, branches, homes, clients_per_region, think };
        Workload::start(config, self.tally.clone(), self.clock)
    }

    /// Adds clients that write to these partitions nearly without a break: between the others'
    /// writes a pause could not be told from nobody asking.
    async fn watch_closely(&self, partitions: &[u32], homes: Vec<usize>) -> Workload {
        let branches = self.config.division().branches().into_iter();
        let meant = branches.filter(|branch| partitions.contains(&branch.partition)).collect();
        let watchers = self.clients(meant, homes, WATCHERS, WATCHERS_THINK);
        tokio::time::sleep(WATCHERS_LEAD).await;
        watchers
    }

    fn enter(&self, phase: Phase) -> Time {
        self.tally.set_phase(phase);
        self.clock.now()
    }

    /// Lets the bank work for a while.
    async fn pass(&self, phase: Phase) {
        self.enter(phase);
        let before = self.tally.totals();
        let length = self.config.pace(phase);
        tokio::time::sleep(length).await;
        let after = self.tally.totals();
        let writes = after.acknowledged - before.acknowledged;
        let text = format!(
            "{writes} writes in {:.0} s, {} writes at the wrong region refused so far",
            length.as_secs_f64(),
            after.refused_as_promised
        );
        self.narrator.say(Tone::Plain, text);
    }

    async fn switchover(&mut self) -> anyhow::Result<Switchover> {
        let (from, to) = (self.largest_owner()?, self.smallest_owner()?);
        let partitions = self.owned_by(from);
        let (from_name, to_name) = (self.name(from), self.name(to));
        let watchers = self.watch_closely(&partitions, vec![to]).await;
        let begin = self.enter(Phase::Switchover);
        let text = format!("moving {} of {from_name} to {to_name}", count(&partitions));
        self.narrator.say(Tone::Deed, text);
        self.command(&["switchover", "--from", &from_name, "--to", &to_name]).await?;
        self.served_by_others(&partitions, from, begin).await?;
        watchers.stop().await;
        let end = self.clock.now();
        let acknowledged = self.tally.acknowledged();
        let result = Switchover {
            pause_ms: pause_ms(&acknowledged, &partitions, from, begin),
            slowest_statement_ms: slowest_ms(&acknowledged, begin, end),
            client_errors: self.tally.errors_in(Phase::Switchover),
            partitions,
            from: from_name,
            to: to_name.clone(),
        };
        let text = format!(
            "{to_name} owns them: pause {} ms, slowest statement {} ms, {} errors",
            result.pause_ms.unwrap_or(0),
            result.slowest_statement_ms,
            result.client_errors
        );
        self.narrator.say(Tone::Good, text);
        Ok(result)
    }

    async fn lose_a_region(&mut self) -> anyhow::Result<Failover> {
        let lost = self.largest_owner()?;
        let (partitions, name) = (self.owned_by(lost), self.name(lost));
        if self.config.rpo != Rpo::Zero {
            self.regions.links().stop_shipping(&name);
            let text = format!("nobody can read the log of {name} any more; its clients write on");
            self.narrator.say(Tone::Deed, text);
            tokio::time::sleep(TAIL).await;
        }
        let others = (0..self.regions.names().len()).filter(|region| *region != lost).collect();
        let watchers = self.watch_closely(&partitions, others).await;
        let killed_at = self.enter(Phase::Failover);
        let text = format!("SIGKILL to {name}: its agent and every process of its PostgreSQL");
        self.narrator.say(Tone::Bad, text);
        self.regions.kill_region(&name);
        self.served_by_others(&partitions, lost, killed_at).await?;
        watchers.stop().await;
        let all_at = self.clock.now();
        let acknowledged = self.tally.acknowledged();
        let last = acknowledged
            .iter()
            .filter(|ack| ack.region == lost && partitions.contains(&ack.partition))
            .map(|ack| ack.at)
            .max();
        let rto_ms = pause_ms(&acknowledged, &partitions, lost, killed_at);
        let text = format!(
            "writes to {} of {name} are answered again after {:.1} s",
            count(&partitions),
            rto_ms.unwrap_or(0) as f64 / 1000.0
        );
        self.narrator.say(Tone::Good, text);
        let estimated = runs::estimated_loss_ms(&self.directory, &name).await?;
        Ok(Failover {
            lost: name,
            partitions,
            rto_ms,
            rto_all_ms: last.map(|last| all_at.0 - last.0),
            estimated_loss: estimated.map(|ms| Loss { ms, operations: None }),
            measured_loss: Loss::default(),
            killed_at,
            client_errors: self.tally.errors_in(Phase::Failover),
        })
    }

    async fn bring_it_back(&mut self, lost: &str) -> anyhow::Result<Rejoin> {
        let begin = self.enter(Phase::Rejoin);
        self.narrator.say(Tone::Deed, format!("{lost} is repaired: starting its processes"));
        self.regions.links().rejoin(lost);
        self.regions.start_region(lost).await?;
        let partitions = self.config.division().partitions();
        let back = |statuses: &Statuses| {
            unready(statuses, partitions)?;
            caught_up(statuses, lost)
        };
        self.regions.wait_until("that the region is back", RETURN_WAIT_MAX, back).await?;
        let took_ms = self.clock.now().0 - begin.0;
        let text = format!("{lost} follows again after {:.1} s", took_ms as f64 / 1000.0);
        self.narrator.say(Tone::Good, text);
        Ok(Rejoin { took_ms, ..Rejoin::default() })
    }

    async fn prove(mut self, mut report: Report) -> anyhow::Result<Report> {
        self.enter(Phase::Proof);
        self.narrator.say(Tone::Plain, "the bank closes; comparing every row of every region");
        if let Some(workload) = self.workload.take() {
            workload.stop().await;
        }
        let proof = self.compare().await.context("compare the regions")?;
        if let Some(books) = proof.regions.get(&report.failover.lost) {
            report.rejoin.journaled = books.journal_entries;
            report.rejoin.repaired = books.journal_rows;
        }
        self.config.describe(&mut report);
        report.judge(&self.tally, &proof);
        report.duration_s = self.clock.now().0 as f64 / 1000.0;
        let (tone, text) = if report.kept() {
            (Tone::Good, "every promise was kept")
        } else {
            (Tone::Bad, "a promise was broken")
        };
        self.narrator.say(tone, text);
        Ok(report)
    }

    /// Reads all regions until they agree, or until waiting longer would not help.
    async fn compare(&self) -> anyhow::Result<Proof> {
        let deadline = tokio::time::Instant::now() + PROOF_WAIT_MAX;
        let acknowledged = self.tally.acknowledged();
        loop {
            let mut books = BTreeMap::new();
            for name in self.regions.names() {
                let client = self.regions.connect(name).await?;
                books.insert(name.clone(), Books::read(&client).await?);
            }
            let proof = Proof::of(books, &acknowledged, self.config.division().start_money());
            let settled = proof.checksums_equal() && proof.lost.len() as u64 == proof.journaled;
            if settled || tokio::time::Instant::now() >= deadline {
                return Ok(proof);
            }
            tokio::time::sleep(10 * LOOK_AGAIN).await;
        }
    }

    /// Runs one of our own commands as an operator would.
    async fn command(&self, arguments: &[&str]) -> anyhow::Result<serde_json::Value> {
        let what = arguments[0];
        let file = self.regions.config_file(&self.regions.names()[0]);
        let output = tokio::process::Command::new(self.regions.binary())
            .args(arguments)
            .arg("--config")
            .arg(file)
            .arg("--json")
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(COMMAND_WAIT_MAX, output)
            .await
            .with_context(|| format!("wait for domicile {what}"))?
            .with_context(|| format!("start domicile {what}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("domicile {what} refused: {said}");
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("read what {what} printed"))
    }

    /// Waits until every one of the partitions was written at another region than `old`.
    async fn served_by_others(
        &self,
        partitions: &[u32],
        old: usize,
        since: Time,
    ) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + SERVED_WAIT_MAX;
        let unserved = || {
            partitions.iter().find(|partition| {
                !self
                    .tally
                    .served_since(since, |ack| ack.partition == **partition && ack.region != old)
            })
        };
        while let Some(partition) = unserved() {
            if tokio::time::Instant::now() >= deadline {
                let seconds = SERVED_WAIT_MAX.as_secs();
                bail!(
                    "no write to partition {partition} was answered by a new owner in {seconds} s"
                );
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    fn name(&self, region: usize) -> String {
        self.regions.names()[region].clone()
    }

    fn owned_by(&self, region: usize) -> Vec<u32> {
        let scene = self.scene.borrow();
        let owners = (0_u32..).zip(&scene.owners);
        owners
            .filter(|(_, owner)| **owner == Some(region))
            .map(|(partition, _)| partition)
            .collect()
    }

    /// The region that owns most; the first of equals.
    fn largest_owner(&self) -> anyhow::Result<usize> {
        let regions = 0..self.regions.names().len();
        let largest = regions.rev().max_by_key(|region| self.owned_by(*region).len());
        let largest = largest.filter(|region| !self.owned_by(*region).is_empty());
        largest.context("find a region that owns a partition")
    }

    /// The region that owns least; the second of three equals.
    fn smallest_owner(&self) -> anyhow::Result<usize> {
        let regions = 1..self.regions.names().len();
        regions.min_by_key(|region| self.owned_by(*region).len()).context("find another region")
    }
}

/// Returns what the region still lacks: repairs, or rows that the others wrote meanwhile.
fn caught_up(statuses: &Statuses, lost: &str) -> Result<(), String> {
    for (region, status) in statuses {
        let status = status.as_ref().map_err(Clone::clone)?;
        if region == lost && status.repairs_pending > 0 {
            return Err(format!("region \"{lost}\" still repairs {} rows", status.repairs_pending));
        }
        if region == lost && status.says(UNSETTLED) {
            return Err(format!("region \"{lost}\" still looks for what it alone has"));
        }
        let behind = status.peers.iter().find(|peer| peer.region == lost);
        if let Some(peer) = behind.filter(|peer| peer.staleness_ms > CURRENT_MS) {
            return Err(format!(
                "region \"{lost}\" is {} ms behind region {region}",
                peer.staleness_ms
            ));
        }
    }
    Ok(())
}

fn count(partitions: &[u32]) -> String {
    match partitions {
        [_] => "the partition".to_owned(),
        several => format!("{} partitions", several.len()),
    }
}
