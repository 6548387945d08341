//! How does a person start a run, see its plan first, and watch it?

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use domicile_core::config::Config;
use domicile_core::id::{PartitionRange, RegionId, RunId};
use domicile_core::ownership::State;
use domicile_core::runbook::{Intent, plan};
use serde_json::json;

use super::outside::Outside;
use super::{Context, Exit, UsageError};
use crate::directory::documents::{RunDocument, RunState, run_key};
use crate::operate::{Start, start};

const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
#[command(
    after_help = "Takes everything that a lost region owns. Refused unless several other regions
confirm the outage; --attest takes your word for it instead.

Examples:
  domicile plan failover --from eu --to us
  domicile failover --from eu --to us"
)]
pub struct Failover {
    /// The region that is gone
    #[arg(long, value_name = "REGION")]
    from: RegionId,
    /// The region that takes over
    #[arg(long, value_name = "REGION")]
    to: RegionId,
    /// I know that the region is gone: do not ask the other regions
    #[arg(long)]
    attest: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Moves partitions while everything is well: clients see a short pause, no error.

Examples:
  domicile switchover --from eu --to us
  domicile switchover --partitions 4-7 --to us"
)]
pub struct Switchover {
    /// Move everything that this region owns
    #[arg(long, value_name = "REGION", required_unless_present = "partitions")]
    from: Option<RegionId>,
    /// Move these partitions only
    #[arg(long, value_name = "FIRST-LAST", conflicts_with = "from")]
    partitions: Option<PartitionRange>,
    /// The new owner
    #[arg(long, value_name = "REGION")]
    to: RegionId,
}

#[derive(Debug, Args)]
#[command(after_help = "Prints steps, estimates and every reason against it. Changes nothing.

Examples:
  domicile plan switchover --from eu --to us
  domicile plan failover --from eu --to us --json")]
pub struct Plan {
    #[command(subcommand)]
    command: PlanCommand,
}

#[derive(Debug, Subcommand)]
enum PlanCommand {
    /// What would a failover do?
    Failover(Failover),
    /// What would a switchover do?
    Switchover(Switchover),
}

impl Failover {
    fn intents(&self) -> Vec<Intent> {
        let (from, to) = (self.from.clone(), self.to.clone());
        vec![Intent::Failover { from, to, attested: self.attest }]
    }

    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let outside = Outside::look(&config).await?;
        start_and_follow(context, &config, &outside, &self.intents()).await
    }
}

impl Switchover {
    /// One intent for each range that the region owns.
    fn intents(&self, outside: &Outside) -> anyhow::Result<Vec<Intent>> {
        let ranges: Vec<PartitionRange> = match (&self.from, self.partitions) {
            (_, Some(range)) => vec![range],
            (Some(from), None) => outside
                .ownership
                .entries()
                .iter()
                .filter(|e| matches!(&e.state, State::Owned { by } if by == from))
                .map(|e| e.range)
                .collect(),
            (None, None) => Vec::new(),
        };
        if ranges.is_empty() {
            let from = self.from.as_ref().map_or_else(String::new, ToString::to_string);
            return Err(UsageError(format!("region {from} owns nothing to move")).into());
        }
        let to = |range| Intent::Switchover { range, to: self.to.clone() };
        Ok(ranges.into_iter().map(to).collect())
    }

    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let outside = Outside::look(&config).await?;
        let intents = self.intents(&outside)?;
        start_and_follow(context, &config, &outside, &intents).await
    }
}

impl Plan {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let outside = Outside::look(&config).await?;
        let intents = match &self.command {
            PlanCommand::Failover(failover) => failover.intents(),
            PlanCommand::Switchover(switchover) => switchover.intents(&outside)?,
        };
        let facts = outside.facts(&config);
        let mut plans = Vec::new();
        let mut refused = false;
        for intent in &intents {
            let planned = plan(&RunId("planned".into()), intent, &facts);
            refused |= planned.is_err();
            let (steps, estimate, reasons) = match &planned {
                Ok(plan) => {
                    let steps = plan.steps.iter().map(|s| (s.name(), s.explain())).collect();
                    (steps, Some(plan.estimate), Vec::new())
                }
                Err(reasons) => {
                    (Vec::new(), None, reasons.iter().map(ToString::to_string).collect())
                }
            };
            if context.output.is_json() {
                plans.push(json!({
                    "intent": intent.to_string(),
                    "steps": steps.iter().map(|(n, e): &(&str, String)| json!({"name": n, "explain": e})).collect::<Vec<_>>(),
                    "estimated_loss_ms": estimate.map(|e| e.loss.0),
                    "lease_wait_ms": estimate.map(|e| e.lease_wait.0),
                    "reasons_against": reasons,
                }));
                continue;
            }
            context.output.print(&format!("Plan: {intent}"))?;
            for (i, (name, explain)) in steps.iter().enumerate() {
                context.output.print(&format!("  {}. {name:<15} {explain}", i + 1))?;
            }
            if let Some(estimate) = estimate {
                context.output.print(&format!(
                    "  estimated loss: {} of acknowledged writes; wait for the old lease: {}",
                    estimate.loss, estimate.lease_wait
                ))?;
            }
            for reason in &reasons {
                context.output.print(&format!("  refused: {reason}"))?;
            }
        }
        if context.output.is_json() {
            context.output.print_json(&plans)?;
        }
        Ok(if refused { Exit::Refused } else { Exit::Done })
    }
}

/// Starts a run for each intent and tells what happens until all have ended.
pub async fn start_and_follow(
    context: &Context,
    config: &Config,
    outside: &Outside,
    intents: &[Intent],
) -> anyhow::Result<Exit> {
    let facts = outside.facts(config);
    let mut runs = Vec::new();
    for intent in intents {
        match start(&outside.directory, intent, &facts).await {
            Ok(run) => runs.push(run),
            Err(Start::Failed(error)) => return Err(error),
            Err(Start::Refused(reasons)) => {
                for reason in reasons {
                    eprintln!("domicile: {intent} refused: {reason}");
                }
                return Ok(Exit::Refused);
            }
        }
    }
    let mut documents = Vec::new();
    for run in &runs {
        documents.push(follow(context, outside, run).await?);
    }
    if context.output.is_json() {
        context.output.print_json(&documents)?;
    }
    let succeeded = documents.iter().all(|d| d.state == RunState::Succeeded);
    Ok(if succeeded { Exit::Done } else { Exit::Failed })
}

/// Prints a run's journal as it grows, on standard error, until the run has ended.
async fn follow(context: &Context, outside: &Outside, run: &RunId) -> anyhow::Result<RunDocument> {
    let mut told = 0;
    let mut started = None;
    loop {
        let document = outside.directory.get(&run_key(run)).await?;
        let document = document.with_context(|| format!("run {run} is gone"))?;
        let document: RunDocument = serde_json::from_slice(&document.value)?;
        for entry in &document.journal[told.min(document.journal.len())..] {
            let started = *started.get_or_insert(entry.at_ms);
            if !context.output.is_json() {
                let after = entry.at_ms.saturating_sub(started);
                eprintln!("{after:>6} ms  {:<6} {:<15} {}", entry.executor, entry.step, entry.what);
            }
        }
        told = document.journal.len();
        if document.state != RunState::Running {
            return Ok(document);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
