//! How does a person have a planned run forced, whose source is lost?
//!
//! As with any wish, agents do it: the command tells what it would cost, writes it down and looks on.

use std::io::{IsTerminal as _, stdin};
use std::time::Duration;

use anyhow::Context as _;
use domicile_core::id::RunId;
use domicile_core::runbook::file::Call;
use domicile_core::runbook::{Intent, NotEscalated, Plan, Step, escalation, forced_of};

use super::asking::{Asked, ask};
use super::{Escalate, history};
use crate::cli::outside::Outside;
use crate::cli::planned::Planned;
use crate::cli::runs::{facts, follow, person};
use crate::cli::{Context, Exit};
use crate::directory::Client as Directory;
use crate::directory::documents::{RunDocument, RunState, WishDocument, lift_plan, run_key};

const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) async fn escalate(context: &Context, typed: &Escalate) -> anyhow::Result<Exit> {
    let Escalate { run: name, attest, yes, overriding } = typed;
    let (attest, yes) = (*attest, *yes);
    let config = context.config()?;
    let document = history::find(&config, name).await?;
    let run = RunId(document.run.clone());
    let outside = Outside::look(&config).await?;
    if read(&outside.directory, &forced_of(&run)).await?.is_some() {
        // Whoever asks again wants to know what becomes of it.
        return see_through(context, &outside.directory, &run).await;
    }
    if document.state != RunState::Running {
        return refuse(&run, "it has ended");
    }
    let facts = facts(&outside, &config, overriding);
    let plan = lift_plan(&document)?;
    let intent = match escalation(&plan, document.started, attest, &facts) {
        Ok(intent) => intent,
        Err(why) => return refuse(&run, &explained(&why, &plan)),
    };
    let vouches = if attest { " --attest" } else { "" };
    let command = format!("domicile runbook escalate {run}{vouches}{} --yes", overriding.words());
    let planned = Planned::new("failover", &Call::ready(&intent), &facts)?.run_by(command);
    match (context.output.is_json(), yes) {
        (true, true) => {}
        (true, false) => context.output.print_json(&planned.json())?,
        (false, _) => context.output.print(&planned.text())?,
    }
    if planned.is_refused() {
        return refuse(&run, "what it would become is refused");
    }
    if !yes && !is_confirmed(&run)? {
        return refuse(&run, "nothing was changed: --yes does it");
    }
    let by = person();
    let overrides = planned.overrides(&facts);
    let Intent::Failover { from, .. } = &intent else { unreachable!("{intent} is forced") };
    let wish = WishDocument::Escalate {
        by: by.clone(),
        from: from.to_string(),
        attested: attest,
        estimated_loss_ms: planned.loss().0,
    };
    let what =
        format!("asks to escalate: region {from} is gone, estimated loss {}", planned.loss());
    let asked = ask(context, &run.0, &by, |document| {
        document.wish = Some(wish.clone());
        if let Some(overrides) = &overrides {
            document.note_override(overrides.clone());
        }
        Ok(what.clone())
    });
    match asked.await? {
        Asked::Heeded(_) => see_through(context, &outside.directory, &run).await,
        refused => refused.tell(context, ""),
    }
}

/// The canary may be moved for good, too: such a run is no drill to whoever started it.
fn explained(why: &NotEscalated, plan: &Plan) -> String {
    let gives_back = plan.steps.iter().any(|step| matches!(step, Step::GiveBack(_)));
    match why {
        NotEscalated::Drill if !gives_back => {
            "it moves the canary partition alone, in which nobody has rows: abort it, or name the \
             run that moves rows (domicile runbook history)"
                .to_owned()
        }
        why => why.to_string(),
    }
}

fn refuse(run: &RunId, why: &str) -> anyhow::Result<Exit> {
    eprintln!("domicile: run {run} is not escalated: {why}");
    Ok(Exit::Refused)
}

/// Asks whoever sits at the terminal; nobody does where there is none.
fn is_confirmed(run: &RunId) -> anyhow::Result<bool> {
    if !stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("Escalate run {run}? [y/N] ");
    let mut answer = String::new();
    stdin().read_line(&mut answer).context("read the answer")?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// Tells what happens until it is over, one way or the other: a source that is back in time hands over as
/// it was planned.
async fn see_through(
    context: &Context,
    directory: &Directory,
    run: &RunId,
) -> anyhow::Result<Exit> {
    let mut ended = match begun(directory, run).await? {
        true => follow(context, directory, &forced_of(run)).await?,
        false => follow(context, directory, run).await?,
    };
    if ended.state != RunState::Succeeded && ended.run != run.0 {
        ended = follow(context, directory, run).await?;
    }
    if context.output.is_json() {
        context.output.print_json(&ended)?;
    }
    Ok(if ended.state == RunState::Succeeded { Exit::Done } else { Exit::Failed })
}

/// Waits until the forced run is begun; returns whether it is, or the planned one has ended without it.
async fn begun(directory: &Directory, run: &RunId) -> anyhow::Result<bool> {
    loop {
        // In this order: one that has ended begins no other.
        let planned = read(directory, run).await?.with_context(|| format!("run {run} is gone"))?;
        if read(directory, &forced_of(run)).await?.is_some() {
            return Ok(true);
        }
        if planned.state != RunState::Running {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn read(directory: &Directory, run: &RunId) -> anyhow::Result<Option<RunDocument>> {
    let Some(found) = directory.get(&run_key(run)).await? else { return Ok(None) };
    let document = serde_json::from_slice(&found.value);
    document.with_context(|| format!("read run {run}"))
}

#[cfg(test)]
mod tests {
    use domicile_core::id::PartitionRange;

    use super::*;

    #[test]
    fn only_a_run_that_gives_the_canary_back_is_called_a_drill() {
        let (run, from, to) = (RunId("1".to_owned()), "eu".parse().unwrap(), "us".parse().unwrap());
        let moved = Intent::Switchover { range: PartitionRange::CANARY, to };
        let said = explained(&NotEscalated::Drill, &Plan::ready(&run, &moved));
        assert!(said.contains("the canary partition alone") && !said.contains("drill"), "{said}");
        let drill = Intent::ForcedDrill { from, to: "us".parse().unwrap() };
        let said = explained(&NotEscalated::Drill, &Plan::ready(&run, &drill));
        assert!(said.contains("it is a drill"), "{said}");
    }
}
