//! How does a region go on whose slot does not follow on what was read?

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use domicile_core::config::{Config, Region};
use domicile_core::continuity::RESEEDABLE;
use domicile_core::id::{Origin, RegionId};
use tokio::time::Instant;

use super::outside::ask;
use super::verify::Verify;
use super::{Context, Exit, UsageError};
use crate::directory;
use crate::directory::change::begin_incarnation;
use crate::status::RegionStatus;

/// Until the agent has started anew, made its slot and applied what its tables lost.
const BEGIN_WAIT_MAX: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(
    after_help = "For a region that says slot_lost, slot_skipped, timeline_behind, capture_fails or log_lost; refused
for any other.

The region's log begins another incarnation with a slot of its own, as in eu-2. What its PostgreSQL
lost of its own log is applied again from there. Then every table is compared between all regions,
as by \"domicile verify --repair\": rows that differ become what their owners have, and what was there
goes to the conflict journal. The agent starts anew: sessions through its gateway end.

With reseed.after in domicile.toml a region that says slot_lost or slot_skipped does so by
itself after so long.

Example:
  domicile reseed --region eu"
)]
pub struct Reseed {
    /// The region whose log begins anew
    #[arg(long, value_name = "NAME")]
    region: RegionId,
}

impl Reseed {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let region = config.region(&self.region).ok_or_else(|| {
            UsageError(format!("region \"{}\" is not in the configuration", self.region))
        })?;
        let status = ask(&config, &region.peer).await.context("ask the region's agent")?;
        let before: Origin = status.origin.parse()?;
        if broken(&status).is_none() {
            let known = status.conditions.iter().map(|c| c.name.as_str()).collect::<Vec<_>>();
            let said = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
            let states = RESEEDABLE.join(", ");
            let text = format!("region {} says {said}: this is for {states}", self.region);
            match context.output.is_json() {
                true => context.output.print_json(&serde_json::json!({ "refused": text }))?,
                false => context.output.print(&text)?,
            }
            return Ok(Exit::Refused);
        }
        let directory = directory::Client::open(&config)?;
        begin_incarnation(&directory, &before.region, before.incarnation).await?;
        self.wait_until_begun(&config, region, &before).await?;
        Verify::all().run(context).await
    }

    async fn wait_until_begun(
        &self,
        config: &Config,
        region: &Region,
        before: &Origin,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + BEGIN_WAIT_MAX;
        loop {
            let missing = match ask(config, &region.peer).await {
                Ok(status) => match status.origin.parse::<Origin>() {
                    Ok(now) if now <= *before => format!("it still writes {before}"),
                    Err(_) => "its agent starts".to_owned(),
                    Ok(_) if status.lease_live && broken(&status).is_none() => return Ok(()),
                    Ok(_) => match status.conditions.first() {
                        Some(condition) => format!("{}: {}", condition.name, condition.detail),
                        None => "it has no lease yet".to_owned(),
                    },
                },
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() >= deadline {
                bail!("region {} has not begun anew: {missing}", self.region);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// The state for which this is the way out, if it holds.
fn broken(status: &RegionStatus) -> Option<&str> {
    let names = status.conditions.iter().map(|condition| condition.name.as_str());
    names.into_iter().find(|name| RESEEDABLE.contains(name))
}
