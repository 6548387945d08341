//! How does one run the agent of a region, or of a witness?

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

The agent of a witness has no PostgreSQL: it holds the regions' logs, observes and
seals (docs/operating/witness.md).

Examples:
  domicile --config /etc/domicile.toml agent --region eu
  domicile --config /etc/domicile.toml agent --region metro --log-only")]
pub struct Agent {
    /// The region that this machine is in, or the witness that it is
    #[arg(long, env = "DOMICILE_REGION", value_name = "NAME")]
    region: RegionId,
    /// Refuse to run unless it is a witness, which only holds logs
    #[arg(long)]
    log_only: bool,
    #[command(flatten)]
    lifetime: Lifetime,
}

impl Agent {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        if let Some(witness) = config.witness(&self.region).cloned() {
            crate::witness::run(config, &witness, self.lifetime.token()?).await?;
            return Ok(Exit::Done);
        }
        let known: Vec<&str> = match self.log_only {
            true => config.witnesses.iter().map(|witness| witness.id.as_str()).collect(),
            false => config.holders().map(|(holder, _)| holder.as_str()).collect(),
        };
        if !known.contains(&self.region.as_str()) {
            let what = if self.log_only { "witness" } else { "region or witness" };
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let text = format!("no {what} {}: there is {known}", self.region);
            return Err(UsageError(text).into());
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
