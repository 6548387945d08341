//! Domicile: one region owns everything, the others follow; commits wait for nobody (`rpo = "none"`).

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use domicile::lab::cluster::PgBin;
use domicile::lab::regions::{Regions, RegionsConfig};
use domicile_core::lsn::Lsn;
use futures_util::future::try_join_all;

use super::{Backlog, End, LOOK_AGAIN, PATIENCE, connect, settings, wait_until_alone};
use crate::workload::Workload;

/// Writers go on without their agent for as long as the lease lasts.
const LEASE: Duration = Duration::from_secs(600);

pub struct Ours(Regions);

impl Ours {
    pub async fn create(workload: Workload, targets: usize, binary: &Path) -> anyhow::Result<Self> {
        let mut config = RegionsConfig::three(binary.to_owned(), PgBin::find(None)?, "", 1);
        let ends = [End::Source].into_iter().chain((0..targets).map(End::Target));
        config.names = ends.map(End::name).collect();
        config.partition = "whole".to_owned();
        config.rpo = "none".to_owned();
        config.links = false;
        config.lease = LEASE;
        config.automatic_failover = false;
        config.postgres = settings().iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let tables = workload.tables().iter().chain(&[("marker", true)]);
        config.tables = tables.map(|(name, _)| format!("[[table]]\nname = \"{name}\"\n")).collect();
        let mut regions = Regions::create(config).await?;
        let postgres: Vec<_> = regions.names().iter().map(|name| regions.postgres(name)).collect();
        try_join_all(postgres.iter().map(|postgres| workload.fill(postgres))).await?;
        regions.start_all().await?;
        Ok(Self(regions))
    }

    pub fn postgres(&self, end: End) -> String {
        self.0.postgres(&end.name())
    }

    pub fn targets(&self) -> usize {
        self.0.names().len() - 1
    }

    /// Of an agent that runs.
    pub fn agent_pid(&self, end: End) -> Option<u32> {
        self.0.agent_pid(&end.name())
    }

    pub async fn log_bytes(&self) -> anyhow::Result<u64> {
        Ok(self.0.status(&End::Source.name()).await?.log_bytes)
    }

    /// Kills agents with SIGKILL, when all is well.
    pub async fn stop(&mut self, backlog: Backlog) -> anyhow::Result<()> {
        self.0.wait_until_ready().await?;
        let source = End::Source.name();
        for region in self.0.names().to_vec().iter().filter(|name| **name != source) {
            self.0.kill_agent(region);
        }
        match backlog {
            Backlog::PeerDown => Ok(()),
            Backlog::AgentDown => {
                self.0.kill_agent(&source);
                wait_until_alone(&connect(&self.postgres(End::Source)).await?).await
            }
        }
    }

    /// Waits until the source's agent has the commit that began at `lsn` in its log.
    pub async fn wait_until_logged(&mut self, lsn: u64) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let end = self.0.status(&End::Source.name()).await?.log_end;
            let end: Lsn = end.parse().context("read where the log ends")?;
            if end.0 > lsn {
                return Ok(());
            }
            anyhow::ensure!(
                tokio::time::Instant::now() < deadline,
                "the source's log ends at {end}"
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Starts the agents that do not run.
    pub fn start(&mut self) -> anyhow::Result<()> {
        for region in self.0.names().to_vec() {
            self.0.start_agent(&region)?;
        }
        Ok(())
    }
}
