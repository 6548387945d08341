//! Domicile: two regions, one of them owns everything; commits wait for nobody (`rpo = "none"`).

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use domicile::lab::cluster::PgBin;
use domicile::lab::regions::{Regions, RegionsConfig};
use domicile_core::lsn::Lsn;
use tokio::try_join;

use super::{Backlog, End, LOOK_AGAIN, PATIENCE, connect, settings, wait_until_alone};
use crate::workload::Workload;

/// Writers go on without their agent for as long as the lease lasts.
const LEASE: Duration = Duration::from_secs(600);

pub struct Ours(Regions);

impl Ours {
    pub async fn create(workload: Workload, binary: &Path) -> anyhow::Result<Self> {
        let mut config = RegionsConfig::three(binary.to_owned(), PgBin::find(None)?, "", 1);
        config.names = End::BOTH.map(|end| end.name().to_owned()).to_vec();
        config.partition = "whole".to_owned();
        config.rpo = "none".to_owned();
        config.links = false;
        config.lease = LEASE;
        config.automatic_failover = false;
        config.postgres = settings().iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let tables = workload.tables().iter().chain(&[("marker", true)]);
        config.tables = tables.map(|(name, _)| format!("[[table]]\nname = \"{name}\"\n")).collect();
        let mut regions = Regions::create(config).await?;
        let (from, to) =
            (regions.postgres(End::Source.name()), regions.postgres(End::Target.name()));
        try_join!(workload.fill(&from), workload.fill(&to))?;
        regions.start_all().await?;
        Ok(Self(regions))
    }

    pub fn postgres(&self, end: End) -> String {
        self.0.postgres(end.name())
    }

    /// Kills agents with SIGKILL, when all is well.
    pub async fn stop(&mut self, backlog: Backlog) -> anyhow::Result<()> {
        self.0.wait_until_ready().await?;
        self.0.kill_agent(End::Target.name());
        match backlog {
            Backlog::PeerDown => Ok(()),
            Backlog::AgentDown => {
                self.0.kill_agent(End::Source.name());
                wait_until_alone(&connect(&self.postgres(End::Source)).await?).await
            }
        }
    }

    /// Waits until the source's agent has the commit that began at `lsn` in its log.
    pub async fn wait_until_logged(&mut self, lsn: u64) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let end = self.0.status(End::Source.name()).await?.log_end;
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
        self.0.start_agent(End::Source.name())?;
        Ok(self.0.start_agent(End::Target.name())?)
    }
}
