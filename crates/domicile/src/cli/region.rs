//! How does a region or a witness come into the cluster, and how does it leave?

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use domicile_core::config::Config;
use domicile_core::copies::COPIES_SHORT;
use domicile_core::id::{Origin, RegionId};
use domicile_core::lsn::{Frontier, Lsn};
use domicile_core::membership::{Obstacle, addable, against_newcomer, counted_on, obstacles};
use domicile_core::ownership::OwnershipChange;
use domicile_core::retention::LeftBehind;
use domicile_core::runbook::Facts;
use domicile_core::runbook::safety::{self, Undertaking};
use domicile_core::time::Millis;
use indicatif::ProgressBar;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::outside::{Outside, ask, read_ownership};
use super::runs::Overriding;
use super::{Context, Exit, UsageError};
use crate::directory::change::change_ownership;
use crate::directory::documents::{folder_key, lower_left_behind, reseed_key};
use crate::directory::safety::Grounds;
use crate::directory::{self, Written};
use crate::seed::{self, ask::Wanted};

/// How long a new witness may take to hold what there was when it came.
const COPY_WAIT_MAX: Duration = Duration::from_secs(600);
/// Until the agent of a new member has started anew and made its slot.
const LEASE_WAIT_MAX: Duration = Duration::from_secs(120);
/// PostgreSQL does not wait for the region's agent, and the RPO asks for that.
const ACK_FENCE_OFF: &str = "ack_fence_off";
/// An agent looks again at each renewal of its lease: what was set just now shows after that.
const FENCE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Until an agent goes on by the folder that it has.
const ACCEPT_WAIT_MAX: Duration = Duration::from_secs(10);
/// A region that is behind by no more shows what the others show.
const KEEPS_UP: Millis = Millis(1000);
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct RegionCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy what the cluster shows to a new region, under writes, and make it a member; or count on a
    /// witness
    Add(Add),
    /// Keep nothing for a region any more, so that it can be taken out of the configuration
    Remove(Remove),
    /// Count on a region or a witness by what it holds now, and give up what it may have lost
    Accept(Accept),
}

#[derive(Debug, Args)]
#[command(
    after_help = "The region need not be there. What it owned must have moved to others, its agent must be stopped, and
every other region must show what any of them holds of its log. Of the others' logs, as many copies as
`copies` asks for must be in regions that stay. Then the others let go of their logs without waiting
for it. Take it out of domicile.toml next, and restart the agents one by one
(docs/operating/regions.md).

A region that said reseed_needed comes back: its rows stay, and it stays in domicile.toml; move its
agent's folder away, start it again, and have it seeded with \"domicile region add ap --replace\".

Ends with 3 when it is refused, with the reasons.

Examples:
  domicile region remove ap
  domicile region remove ap --comes-back"
)]
pub struct Remove {
    region: RegionId,
    /// How long to wait until the others hold what it held
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// It will be added again: it may be the home of rows
    #[arg(long)]
    comes_back: bool,
    #[command(flatten)]
    overriding: Overriding,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Every domicile.toml names the new region already, and every agent was restarted with that; so was the
new region's own, which waits. Its database has the schema and no rows.

Its agent copies the tables of one region as a single snapshot shows them, and meanwhile the logs of
all; then it applies what came after the snapshot, and may own partitions. Nobody waits for any of it.
It goes on when this command ends early: the same command then shows how far it is.

A witness has no tables: its copies of the logs count at once, and the command waits until it holds
what there was (docs/operating/witness.md).

Ends with 3 when it is refused, with the reasons (docs/operating/regions.md).

Examples:
  domicile region add ap
  domicile region add ap --from eu
  domicile region add ap --replace
  domicile region add metro"
)]
pub struct Add {
    region: RegionId,
    /// The region whose rows are copied; by default the first that answers
    #[arg(long, value_name = "NAME")]
    from: Option<RegionId>,
    /// Remove the rows that the new region's tables have already
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    overriding: Overriding,
}

#[derive(Debug, Args)]
#[command(
    after_help = "A region or a witness whose agent has lost its folder, or a piece of it, says copies_short: it may lack
records that it alone held. It gets them again from where they were written, and then counts as before.
Where that region is gone for good, nobody can say what is lacking, and no failover of it goes on
before a person has said so with this command. Commits that were acknowledged may be lost by it.

Look first whether the lost region's agent, or at least its folder, can be started again: it needs no
PostgreSQL to hand on its log (docs/operating/recover.md).

Examples:
  domicile region accept us"
)]
pub struct Accept {
    region: RegionId,
}

impl RegionCommand {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        match self.command {
            Command::Add(add) => add.run(context, &config).await,
            Command::Remove(remove) => remove.run(context, &config).await,
            Command::Accept(accept) => accept.run(context, &config).await,
        }
    }
}

impl Add {
    async fn run(self, context: &Context, config: &Config) -> anyhow::Result<Exit> {
        check_configured(&self.region, config)?;
        if config.witness(&self.region).is_some() {
            return self.add_witness(context, config).await;
        }
        let outside = Outside::look(config).await?;
        let facts = outside.facts(config);
        if !facts.ownership.members().contains(&self.region) {
            if let Some(refused) = against_safety(context, &self.overriding, &facts)? {
                return Ok(refused);
            }
            let from = match addable(&self.region, self.from.as_ref(), &facts) {
                Ok(from) => from,
                Err(found) => return refuse(context, &found),
            };
            let (region, exactly) = (self.region.clone(), self.from.is_some());
            let (replace, overridden) = (self.replace, self.overriding.by_hand());
            let wanted = Wanted { region, from, exactly, replace, run: None, overridden };
            let seed = seed::ask::ask(&outside.directory, &wanted, &facts).await?;
            if let Some(why) = self.follow(context, config, &seed).await? {
                let way_out = "it goes on by itself once that is done";
                return print_refusals(context, &[(why, way_out.to_owned())]);
            }
        }
        self.wait_until_it_keeps_up(context, config).await?;
        let region = &self.region;
        match context.output.is_json() {
            true => context.output.print_json(&json!({ "added": region.as_str() }))?,
            false => context.output.print(&format!(
                "region \"{region}\" is a member; give it partitions with \"domicile switchover --to {region}\""
            ))?,
        }
        Ok(Exit::Done)
    }

    async fn add_witness(&self, context: &Context, config: &Config) -> anyhow::Result<Exit> {
        let witness = &self.region;
        if self.from.is_some() || self.replace {
            return Err(UsageError(format!("{witness} is a witness: it has no rows")).into());
        }
        let outside = Outside::look(config).await?;
        let facts = outside.facts(config);
        if !facts.ownership.witnesses().contains(witness) {
            let found = against_newcomer(witness, &facts);
            if !found.is_empty() {
                return refuse(context, &found);
            }
            if let Some(refused) = against_safety(context, &self.overriding, &facts)? {
                return Ok(refused);
            }
            let change = OwnershipChange::Witness { witness: witness.clone() };
            let known = (&outside.ownership, outside.ownership_revision);
            let (cluster, grounds) = (&config.cluster, self.overriding.grounds());
            let changed = change_ownership(&outside.directory, cluster, &change, known, &grounds);
            if !changed.await?.0.witnesses().contains(witness) {
                bail!("a failover is being decided: try again");
            }
        }
        let there = counted_on(witness, &facts);
        let deadline = Instant::now() + COPY_WAIT_MAX;
        let spinner = context.output.spinner("waiting until it holds the logs");
        loop {
            let facts = Outside::look(config).await?.facts(config);
            let held = facts.witnesses.get(witness).map(|seen| &seen.flushed);
            let lacks =
                there.iter().find(|(origin, end)| held.is_none_or(|h| h.get(origin) < *end));
            let Some((origin, end)) = lacks else { break };
            if Instant::now() >= deadline {
                bail!("{witness} is a witness and does not hold {origin} up to {end} yet");
            }
            spinner.set_message(format!("waiting until it holds {origin} up to {end}"));
            tokio::time::sleep(LOOK_EVERY).await;
        }
        spinner.finish_and_clear();
        match context.output.is_json() {
            true => context.output.print_json(&json!({ "added": witness.as_str() }))?,
            false => {
                context.output.print(&format!("\"{witness}\" is a witness: its copies count"))?
            }
        }
        Ok(Exit::Done)
    }

    /// Shows how far it is until the region is a member; or why it does not become one.
    async fn follow(
        &self,
        context: &Context,
        config: &Config,
        seed: &str,
    ) -> anyhow::Result<Option<String>> {
        let region = config.region(&self.region).context("it is configured")?;
        let bar = context.output.bar("");
        let mut waiting = Waiting::new(context, &bar);
        waiting.say("asks the agent");
        let directory = directory::Client::open(config)?;
        loop {
            // Before it is looked whether that was done.
            let asked = seed::ask::asked(&directory, &self.region).await?;
            if read_ownership(config).await?.members().contains(&self.region) {
                bar.finish_and_clear();
                return Ok(None);
            }
            if asked.as_deref() != Some(seed) {
                bar.finish_and_clear();
                let why = if asked.is_some() {
                    "somebody else asks for it by now"
                } else {
                    "that was taken back"
                };
                return Ok(Some(format!("it is not added by this command any more: {why}")));
            }
            match ask(config, &region.peer).await {
                Ok(status) => {
                    let seeding = status.seeding.unwrap_or_default();
                    let ours = seeding.seed == seed;
                    if let Some(refused) = seeding.refused.filter(|_| ours) {
                        bar.finish_and_clear();
                        return Ok(Some(refused));
                    }
                    let held_up = status.conditions.first().map(|condition| &condition.detail);
                    bar.set_length(seeding.rows_estimate.max(seeding.rows));
                    bar.set_position(seeding.rows);
                    waiting.say(held_up.filter(|_| ours).unwrap_or(&seeding.step));
                }
                // It starts anew once it has joined.
                Err(error) => waiting.say(&format!("{error:#}")),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Its agent starts anew as a member's, makes its slot and takes a lease; then it applies what
    /// came while rows were copied.
    async fn wait_until_it_keeps_up(
        &self,
        context: &Context,
        config: &Config,
    ) -> anyhow::Result<()> {
        let spinner = context.output.spinner("");
        let mut waiting = Waiting::new(context, &spinner);
        waiting.say("waits until it has a lease");
        let deadline = Instant::now() + LEASE_WAIT_MAX;
        let mut writes = false;
        let mut unfenced_since: Option<Instant> = None;
        loop {
            let facts = Outside::look(config).await?.facts(config);
            let region = config.region(&self.region).context("it is configured")?;
            let status = ask(config, &region.peer).await;
            let off = status
                .iter()
                .flat_map(|status| &status.conditions)
                .find(|condition| condition.name == ACK_FENCE_OFF);
            if let Some(off) = off {
                let text = format!("{ACK_FENCE_OFF}: {}", off.detail);
                waiting.say(&text);
                if unfenced_since.get_or_insert_with(Instant::now).elapsed() >= FENCE_WAIT_MAX {
                    bail!(
                        "region {} is a member and cannot write: {text}. Do that in its PostgreSQL; \
                         the region then goes on by itself",
                        self.region
                    );
                }
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            unfenced_since = None;
            writes |= status.as_ref().is_ok_and(|s| s.seeding.is_none() && s.lease_live);
            let behind = facts.regions.values().filter_map(|seen| seen.staleness.get(&self.region));
            let behind = behind.max().copied().unwrap_or_default();
            if writes && behind <= KEEPS_UP {
                break;
            }
            if writes {
                waiting.say("applies what came meanwhile");
                spinner.set_message(format!("applies what came meanwhile, {behind} behind"));
            } else if Instant::now() >= deadline {
                let missing = match status {
                    Ok(status) => status.conditions.first().map_or_else(
                        || "it has no lease yet".to_owned(),
                        |condition| format!("{}: {}", condition.name, condition.detail),
                    ),
                    Err(error) => format!("{error:#}"),
                };
                bail!("region {} is a member and cannot write: {missing}", self.region);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        spinner.finish_and_clear();
        Ok(())
    }
}

/// Says what is waited for: beside what is drawn, or, where nothing is, in a line for each change.
struct Waiting<'a> {
    bar: &'a ProgressBar,
    in_lines: bool,
    said: String,
}

impl<'a> Waiting<'a> {
    fn new(context: &Context, bar: &'a ProgressBar) -> Self {
        let in_lines = bar.is_hidden() && !context.output.is_json();
        Self { bar, in_lines, said: String::new() }
    }

    fn say(&mut self, what: &str) {
        if self.said == what {
            return;
        }
        what.clone_into(&mut self.said);
        self.bar.set_message(what.to_owned());
        if self.in_lines && !what.is_empty() {
            eprintln!("{what}");
        }
    }
}

fn check_configured(region: &RegionId, config: &Config) -> Result<(), UsageError> {
    match config.holders().any(|(holder, _)| holder == region) {
        true => Ok(()),
        false => Err(UsageError(format!("region \"{region}\" is not in the configuration"))),
    }
}

impl Remove {
    async fn run(self, context: &Context, config: &Config) -> anyhow::Result<Exit> {
        let region = &self.region;
        check_configured(region, config)?;
        let (scheme, comes_back) = (&config.layout.scheme, self.comes_back);
        let seen = Outside::look(config).await?.facts(config);
        let mut found = obstacles(region, comes_back, scheme, &seen, &Frontier::default());
        if let Some(refused) = against_safety(context, &self.overriding, &seen)? {
            return Ok(refused);
        }
        found.retain(|obstacle| !obstacle.passes());
        if !found.is_empty() {
            return refuse(context, &found);
        }
        let counted_on = counted_on(region, &Outside::look(config).await?.facts(config));
        let deadline = Instant::now() + Duration::from_secs(self.wait);
        let spinner = context.output.spinner("waiting until the others hold what it held");
        let outside = loop {
            let outside = Outside::look(config).await?;
            let found = obstacles(region, comes_back, scheme, &outside.facts(config), &counted_on);
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
        leave(region, &outside, config, &self.overriding.grounds()).await?;
        if config.region(region).is_some() {
            leave_behind(region, &outside, config).await?;
        }
        forget_folder(region, &outside.directory).await?;
        spinner.finish_and_clear();
        if context.output.is_json() {
            context.output.print_json(&json!({ "removed": region.as_str() }))?;
        } else {
            let next = match comes_back {
                true => format!(
                    "move its agent's folder away, start it, and \"domicile region add {region} --replace\""
                ),
                false => {
                    "take it out of every domicile.toml, and restart the agents one by one".into()
                }
            };
            let text = format!("nothing is kept for \"{region}\" any more: {next}");
            context.output.print(&text)?;
        }
        Ok(Exit::Done)
    }
}

impl Accept {
    async fn run(self, context: &Context, config: &Config) -> anyhow::Result<Exit> {
        let holder = &self.region;
        check_configured(holder, config)?;
        let peer = config.holders().find_map(|(of, peer)| (of == holder).then_some(peer));
        let peer = peer.context("it is configured")?;
        let short = async || -> anyhow::Result<Option<String>> {
            let conditions = ask(config, peer).await?.conditions;
            let short = conditions.into_iter().find(|condition| condition.name == COPIES_SHORT);
            Ok(short.map(|condition| condition.detail))
        };
        let Some(lacking) = short().await? else {
            match context.output.is_json() {
                true => context.output.print_json(&json!({ "accepted": null }))?,
                false => context.output.print(&format!("\"{holder}\" lacks nothing"))?,
            }
            return Ok(Exit::Done);
        };
        forget_folder(holder, &directory::Client::open(config)?).await?;
        let deadline = Instant::now() + ACCEPT_WAIT_MAX;
        while short().await?.is_some() {
            if Instant::now() >= deadline {
                bail!(
                    "the agent of {holder} still says {COPIES_SHORT}: does it reach the directory?"
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        match context.output.is_json() {
            true => context.output.print_json(&json!({ "accepted": lacking }))?,
            false => context
                .output
                .print(&format!("\"{holder}\" counts by what it holds now. Given up: {lacking}"))?,
        }
        Ok(Exit::Done)
    }
}

/// Makes the region one that nobody counts on, and that nobody seeds.
async fn leave(
    region: &RegionId,
    outside: &Outside,
    config: &Config,
    grounds: &Grounds,
) -> anyhow::Result<()> {
    let change = OwnershipChange::Leave { region: region.clone() };
    let known = (&outside.ownership, outside.ownership_revision);
    let (directory, cluster) = (&outside.directory, &config.cluster);
    let (now, _) = change_ownership(directory, cluster, &change, known, grounds).await?;
    if now.holders().any(|holder| holder == region) {
        bail!("a failover is being decided, or region {region} is given partitions: try again");
    }
    // Nor is one seeded that was on its way.
    seed::ask::give_up(&outside.directory, region).await
}

/// An agent of this name may begin with any folder.
async fn forget_folder(holder: &RegionId, directory: &directory::Client) -> anyhow::Result<()> {
    let key = folder_key(holder);
    if let Some(document) = directory.get(&key).await? {
        directory.write(&key, document.revision, None).await?;
    }
    Ok(())
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

/// Says which rules of safety are against it that a holder comes or goes.
fn against_safety(
    context: &Context,
    overriding: &Overriding,
    facts: &Facts,
) -> anyhow::Result<Option<Exit>> {
    let against = safety::against(&Undertaking::Membership, &facts.safety);
    if against.is_empty() || overriding.by_hand().is_some() {
        return Ok(None);
    }
    let way_out = "domicile safety show";
    let found: Vec<_> = against.iter().map(|why| (why.to_string(), way_out.to_owned())).collect();
    print_refusals(context, &found).map(Some)
}

fn refuse(context: &Context, found: &[Obstacle]) -> anyhow::Result<Exit> {
    let found: Vec<_> = found.iter().map(|o| (o.to_string(), o.way_out())).collect();
    print_refusals(context, &found)
}

/// Prints reasons, each with what to do about it.
fn print_refusals(context: &Context, found: &[(String, String)]) -> anyhow::Result<Exit> {
    if context.output.is_json() {
        let each = found.iter().map(|(why, instead)| json!({ "reason": why, "instead": instead }));
        context.output.print_json(&json!({ "refused": each.collect::<Vec<Json>>() }))?;
    } else {
        let each =
            found.iter().map(|(why, instead)| format!("refused: {why}\n  instead: {instead}"));
        context.output.print(&each.collect::<Vec<_>>().join("\n"))?;
    }
    Ok(Exit::Refused)
}
