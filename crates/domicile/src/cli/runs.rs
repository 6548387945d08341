//! How does a person start a run, see its plan first, and watch it?

use std::time::Duration;

use anyhow::Context as _;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use domicile_core::config::Config;
use domicile_core::id::{PartitionRange, RegionId, RunId};
use domicile_core::ownership::State;
use domicile_core::runbook::file::Call;
use domicile_core::runbook::safety::Override;
use domicile_core::runbook::{Facts, Intent, PlanId};

use super::outside::Outside;
use super::planned::{Planned, quoted};
use super::{Context, Exit, UsageError};
use crate::directory::Client as Directory;
use crate::directory::documents::{RunDocument, RunState, run_key};
use crate::directory::safety::Grounds;
use crate::operate::{Prepared, Start};

const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
#[command(
    after_help = "Takes everything that a lost region owns. Refused unless several other regions
confirm the outage; --attest takes your word for it instead.

Examples:
  domicile plan failover --from eu --to us
  domicile failover --from eu --to us
  domicile failover --from eu --to us --override-safety \"eu is lost for good\""
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
    #[command(flatten)]
    overriding: Overriding,
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
    #[command(flatten)]
    overriding: Overriding,
}

/// What all commands share that begin something.
#[derive(Clone, Debug, Default, Args)]
pub struct Overriding {
    /// Begin although the rules of safety are against it (domicile safety); a run's report says why
    #[arg(long, value_name = "REASON", value_parser = NonEmptyStringValueParser::new())]
    override_safety: Option<String>,
}

impl Overriding {
    /// The same, as if the person who types had said it.
    pub fn by_hand(&self) -> Option<Override> {
        let reason = self.override_safety.clone()?;
        Some(Override { by: person(), reason })
    }

    /// For a change that no run makes.
    pub fn grounds(&self) -> Grounds {
        Grounds { loss: None, overridden: self.by_hand() }
    }

    /// What says the same again, behind a command.
    pub fn words(&self) -> String {
        let reason = self.override_safety.as_ref();
        reason.map_or_else(String::new, |why| format!(" --override-safety {}", quoted(why)))
    }
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
    fn calls(&self) -> Vec<Call> {
        let (from, to) = (self.from.clone(), self.to.clone());
        vec![Call::ready(&Intent::Failover { from, to, attested: self.attest })]
    }

    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let outside = Outside::look(&config).await?;
        let facts = facts(&outside, &config, &self.overriding);
        start_and_follow(context, &outside, &facts, &self.calls(), None).await
    }
}

impl Switchover {
    /// One call for each range that the region owns.
    fn calls(&self, outside: &Outside) -> anyhow::Result<Vec<Call>> {
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
        let to = |range| Call::ready(&Intent::Switchover { range, to: self.to.clone() });
        Ok(ranges.into_iter().map(to).collect())
    }

    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let outside = Outside::look(&config).await?;
        let calls = self.calls(&outside)?;
        let facts = facts(&outside, &config, &self.overriding);
        start_and_follow(context, &outside, &facts, &calls, None).await
    }
}

impl Plan {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let outside = Outside::look(&config).await?;
        let (name, calls, overriding) = match &self.command {
            PlanCommand::Failover(failover) => ("failover", failover.calls(), &failover.overriding),
            PlanCommand::Switchover(switchover) => {
                ("switchover", switchover.calls(&outside)?, &switchover.overriding)
            }
        };
        let facts = facts(&outside, &config, overriding);
        let plans = calls.iter().map(|call| Planned::new(name, call, &facts));
        let plans = plans.collect::<Result<Vec<Planned>, _>>()?;
        if context.output.is_json() {
            context.output.print_json(&plans.iter().map(Planned::json).collect::<Vec<_>>())?;
        } else {
            for plan in &plans {
                context.output.print(&plan.text())?;
            }
        }
        let refused = plans.iter().any(Planned::is_refused);
        Ok(if refused { Exit::Refused } else { Exit::Done })
    }
}

/// What a plan is made of, when a person has said that.
pub fn facts(outside: &Outside, config: &Config, overriding: &Overriding) -> Facts {
    Facts { overridden: overriding.by_hand(), ..outside.facts(config) }
}

/// Starts a run for each call, or none when one is refused, and tells what happens until all have ended.
///
/// `approved` is the id of the plan that a person has seen.
pub async fn start_and_follow(
    context: &Context,
    outside: &Outside,
    facts: &Facts,
    calls: &[Call],
    approved: Option<&str>,
) -> anyhow::Result<Exit> {
    let mut all = Vec::new();
    for call in calls {
        let prepared = match Prepared::new(call, facts, &person()) {
            Ok(prepared) => prepared,
            Err(Start::Failed(error)) => return Err(error),
            Err(Start::Refused(reasons)) => {
                let intent = call.plan(&RunId("refused".into()))?.intent;
                for reason in reasons {
                    eprintln!("domicile: {intent} refused: {reason}");
                }
                return Ok(Exit::Refused);
            }
        };
        let PlanId(now) = prepared.plan();
        if approved.is_some_and(|approved| approved != now) {
            eprintln!(
                "domicile: refused: it would not do any more what was planned: look at plan {now}"
            );
            return Ok(Exit::Refused);
        }
        all.push(prepared);
    }
    let mut runs = Vec::new();
    for prepared in all {
        runs.push(prepared.start(&outside.directory).await?);
    }
    let mut documents = Vec::new();
    for run in &runs {
        documents.push(follow(context, &outside.directory, run).await?);
    }
    if context.output.is_json() {
        context.output.print_json(&documents)?;
    }
    let succeeded = documents.iter().all(|d| d.state == RunState::Succeeded);
    Ok(if succeeded { Exit::Done } else { Exit::Failed })
}

/// Who types, as far as the operating system says: for the record, not for permission.
pub fn person() -> String {
    let named = |name: &str| std::env::var(name).ok().filter(|name| !name.is_empty());
    named("USER").or_else(|| named("LOGNAME")).unwrap_or_else(|| "somebody".to_owned())
}

/// Prints a run's journal as it grows, on standard error, until the run has ended.
pub async fn follow(
    context: &Context,
    directory: &Directory,
    run: &RunId,
) -> anyhow::Result<RunDocument> {
    let mut told = 0;
    let mut started = None;
    loop {
        let document = directory.get(&run_key(run)).await?;
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
