//! Domicile: three regions, of which one owns everything; clients come in by another one's gateway.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use domicile::directory::documents::{RunDocument, RunEntry};
use domicile::lab::cluster::PgBin;
use domicile::lab::regions::{Regions, RegionsConfig, partitions_of};
use tokio::process::Command;
use tokio::time::Instant;

/// The exit code of what is not begun.
const REFUSED: i32 = 3;
/// A region that was lost is given nothing before its rows are history.
const REPAIRED_WITHIN: Duration = Duration::from_secs(60);

pub struct Ours(Regions);

/// What an operator chooses.
pub struct Profile {
    /// All of one region.
    pub partitions: u32,
    pub rpo: &'static str,
    pub lease: Duration,
    pub suspect_after: Duration,
    /// What its configuration says of gateways.
    pub gateway: &'static str,
}

impl Ours {
    pub async fn start(
        profile: Profile,
        round_trip: Duration,
        binary: &Path,
    ) -> anyhow::Result<Self> {
        let mut config = RegionsConfig::three(binary.to_owned(), PgBin::find(None)?, "", 1);
        let whole = profile.partitions == 1;
        config.partition = match whole {
            true => "whole".to_owned(),
            false => format!("hash(id, {})", profile.partitions),
        };
        config.rpo = profile.rpo.to_owned();
        config.lease = profile.lease;
        config.suspect_after = profile.suspect_after;
        config.round_trip = round_trip;
        config.gateway = profile.gateway.to_owned();
        config.seed_sql = super::TABLE.to_owned();
        config.tables = match whole {
            true => "[[table]]\nname = \"entry\"\n".to_owned(),
            false => "[[table]]\nname = \"entry\"\nkey = \"id\"\n".to_owned(),
        };
        let ours = Self(Regions::start(config).await?);
        if !whole {
            ours.gather().await?;
        }
        Ok(ours)
    }

    /// Many partitions are dealt out among the regions: gives all of them to one.
    async fn gather(&self) -> anyhow::Result<()> {
        let (to, others) = self.0.names().split_first().context("there are no regions")?;
        for from in others {
            self.switch_over(from, to).await?;
        }
        Ok(())
    }

    pub fn postgres(&self, region: &str) -> String {
        self.0.postgres(region)
    }

    pub async fn leader(&self) -> anyhow::Result<String> {
        let statuses = self.0.observer().all().await;
        let owner = statuses.into_iter().find(|(_, status)| {
            status.as_ref().is_ok_and(|status| partitions_of(status).next().is_some())
        });
        Ok(owner.context("no region owns anything")?.0)
    }

    fn another(&self, than: &str) -> &str {
        let others = self.0.names().iter().filter(|name| *name != than);
        others.map(String::as_str).next().expect("there are three")
    }

    pub fn entry(&self, leader: &str) -> String {
        let gateway = self.0.gateway(self.another(leader));
        let (host, port) = (gateway.ip(), gateway.port());
        format!("host={host} port={port} user=postgres dbname=postgres")
    }

    pub fn kill(&mut self, region: &str) {
        self.0.kill_region(region);
    }

    /// Returns when which of its steps began.
    pub async fn hand_over(&self, from: &str) -> anyhow::Result<String> {
        self.switch_over(from, self.another(from)).await
    }

    async fn switch_over(&self, from: &str, to: &str) -> anyhow::Result<String> {
        let deadline = Instant::now() + REPAIRED_WITHIN;
        loop {
            let output = Command::new(self.0.binary())
                .arg("--config")
                .arg(self.0.config_file(to))
                .args(["--json", "switchover", "--from", from, "--to", to])
                .output()
                .await?;
            if output.status.success() {
                return steps_of(&output.stdout).context("read what the runs tell");
            }
            let refused = output.status.code() == Some(REFUSED);
            let told = String::from_utf8_lossy(&output.stderr);
            let ended = format!("the switchover ended with {}: {told}", output.status);
            ensure!(refused && Instant::now() < deadline, "{ended}");
            tokio::time::sleep(super::LOOK_AGAIN).await;
        }
    }

    pub async fn heal(&mut self) -> anyhow::Result<()> {
        for region in self.0.names().to_vec() {
            self.0.start_region(&region).await?;
        }
        Ok(self.0.wait_until_ready().await?)
    }
}

/// Returns when which step of the first run began, from when its first one had begun.
fn steps_of(runs: &[u8]) -> anyhow::Result<String> {
    let runs: Vec<RunDocument> = serde_json::from_slice(runs)?;
    let journal = &runs.first().context("there was none")?.journal;
    let began = journal.first().map_or(0, |entry| entry.at_ms);
    let told = |entry: &RunEntry| {
        let waits = entry.what.strip_prefix("waits: ").map(|for_what| format!(" ({for_what})"));
        format!("{} +{} ms{}", entry.step, entry.at_ms - began, waits.unwrap_or_default())
    };
    Ok(journal.iter().map(told).collect::<Vec<_>>().join(", "))
}
