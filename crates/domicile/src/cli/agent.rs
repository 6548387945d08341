//! How does one run a region's agent?

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use clap::Args;
use domicile_core::id::RegionId;

use super::lifetime::Lifetime;
use super::{Context, Exit, UsageError};
use crate::agent::Ended;

#[derive(Debug, Args)]
#[command(after_help = "Runs until it gets SIGTERM or SIGINT. Prepares the region's PostgreSQL by
itself: schema domicile, guards, publication, slot. Waits for PostgreSQL and the
directory when they are not there yet.

Example:
  domicile --config /etc/domicile.toml agent --region eu")]
pub struct Agent {
    /// The region that this machine is in
    #[arg(long, env = "DOMICILE_REGION", value_name = "NAME")]
    region: RegionId,
    #[command(flatten)]
    lifetime: Lifetime,
}

impl Agent {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        if config.region(&self.region).is_none() {
            let known: Vec<String> = config.region_ids().iter().map(ToString::to_string).collect();
            let known = known.join(", ");
            return Err(UsageError(format!("no region {}: there are {known}", self.region)).into());
        }
        let shutdown = self.lifetime.token()?;
        match crate::agent::run(config, self.region, shutdown).await? {
            Ended::Stopped => Ok(Exit::Done),
            Ended::Anew => start_anew(),
        }
    }
}

/// Puts the same program in the place of this one: its files, locks and sessions end with it.
fn start_anew() -> anyhow::Result<Exit> {
    let program = std::env::current_exe().context("find our own program")?;
    let failed = Command::new(program).args(std::env::args_os().skip(1)).exec();
    Err(failed).context("start the agent anew")
}
