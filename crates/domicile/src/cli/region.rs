//! How does a region leave the cluster?

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use domicile_core::config::Config;
use domicile_core::id::{Origin, RegionId};
use domicile_core::lsn::{Frontier, Lsn};
use domicile_core::membership::{Obstacle, counted_on, obstacles};
use domicile_core::retention::LeftBehind;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::outside::Outside;
use super::{Context, Exit, UsageError};
use crate::directory::Written;
use crate::directory::documents::{lower_left_behind, reseed_key};

const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct RegionCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep nothing for a region any more, so that it can be taken out of the configuration
    Remove(Remove),
}

#[derive(Debug, Args)]
#[command(
    after_help = "The region need not be there. What it owned must have moved to others, its agent must be stopped, and
every other region must show what any of them holds of its log. Of the others' logs, as many copies as
`copies` asks for must be in regions that stay. Then the others let go of their logs without waiting
for it. Take it out of domicile.toml next, and restart the agents one by one
(docs/operating/regions.md).

Ends with 3 when it is refused, with the reasons.

Examples:
  domicile region remove ap"
)]
pub struct Remove {
    region: RegionId,
    /// How long to wait until the others hold what it held
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

impl RegionCommand {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        match self.command {
            Command::Remove(remove) => remove.run(context, &config).await,
        }
    }
}

impl Remove {
    async fn run(self, context: &Context, config: &Config) -> anyhow::Result<Exit> {
        let region = &self.region;
        if config.region(region).is_none() {
            let text = format!("region \"{region}\" is not in the configuration");
            return Err(UsageError(text).into());
        }
        let scheme = &config.layout.scheme;
        let seen = Outside::look(config).await?.facts(config);
        let mut found = obstacles(region, scheme, &seen, &Frontier::default());
        found.retain(|obstacle| !obstacle.passes());
        if !found.is_empty() {
            return refuse(context, &found);
        }
        let counted_on = counted_on(region, &Outside::look(config).await?.facts(config));
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        let spinner = context.output.spinner("waiting until the others hold what it held");
        let outside = loop {
            let outside = Outside::look(config).await?;
            let found = obstacles(region, scheme, &outside.facts(config), &counted_on);
            let waits = found.iter().all(Obstacle::passes) && Instant::now() < deadline;
            if found.is_empty() {
                break outside;
            }
            if !waits {
                spinner.finish_and_clear();
                return refuse(context, &found);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        leave_behind(region, &outside, config).await?;
        spinner.finish_and_clear();
        if context.output.is_json() {
            context.output.print_json(&json!({ "removed": region.as_str() }))?;
        } else {
            let text = format!(
                "nothing is kept for region \"{region}\" any more: take it out of every domicile.toml, \
                 and restart the agents one by one"
            );
            context.output.print(&text)?;
        }
        Ok(Exit::Done)
    }
}

/// Makes it known that `region` is waited for no more, in any log. It could only come back as one that
/// has to be seeded again.
async fn leave_behind(region: &RegionId, outside: &Outside, config: &Config) -> anyhow::Result<()> {
    let facts = outside.facts(config);
    let flushed = facts.regions.values().flat_map(|seen| seen.flushed.iter());
    let origins: BTreeSet<Origin> = flushed.map(|(origin, _)| origin.clone()).collect();
    for origin in origins.into_iter().filter(|origin| origin.region != *region) {
        let key = reseed_key(region, &origin);
        let left = LeftBehind { region: region.clone(), origin, upto: Lsn(u64::MAX) };
        let seen = outside.directory.get(&key).await?.map_or(0, |document| document.revision);
        let value = lower_left_behind(&left, region);
        if let Written::Conflict(_) = outside.directory.write(&key, seen, Some(value)).await? {
            bail!("somebody else changed \"{key}\" in the directory meanwhile: try again");
        }
    }
    Ok(())
}

fn refuse(context: &Context, found: &[Obstacle]) -> anyhow::Result<Exit> {
    if context.output.is_json() {
        let each = found.iter().map(|o| json!({ "reason": o.to_string(), "instead": o.way_out() }));
        context.output.print_json(&json!({ "refused": each.collect::<Vec<Json>>() }))?;
    } else {
        let each = found.iter().map(|o| format!("refused: {o}\n  instead: {}", o.way_out()));
        context.output.print(&each.collect::<Vec<_>>().join("\n"))?;
    }
    Ok(Exit::Refused)
}
