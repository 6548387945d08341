//! What does a person want of a run that is under way?
//!
//! It is written into the run's document, and whichever agent performs the run heeds it: what that
//! comes to, core decides.

use anyhow::{Context as _, bail};
use domicile_core::config::Config;
use domicile_core::id::RunId;
use domicile_core::runbook::{Step, too_late_to_abort};

use super::history;
use crate::cli::outside::read_ownership;
use crate::cli::runs::{follow, person};
use crate::cli::{Context, Exit, UsageError};
use crate::directory::documents::{
    ApprovalDocument, RunDocument, RunState, WishDocument, json, lift_plan, run_key,
};
use crate::directory::{Client as Directory, Written};

/// Attempts at a compare-and-set: the run's executor writes, too.
const ATTEMPTS: usize = 16;

pub async fn pause(context: &Context, run: &str) -> anyhow::Result<Exit> {
    let by = person();
    let pause = |run: &mut RunDocument| {
        may_wish(run)?;
        run.wish = Some(WishDocument::Pause { by: by.clone() });
        Ok("asks to pause".to_owned())
    };
    let said =
        "pauses as soon as every partition has an owner; domicile runbook resume lets it go on";
    ask(context, run, &by, pause).await?.tell(context, said)
}

pub async fn resume(context: &Context, run: &str) -> anyhow::Result<Exit> {
    let by = person();
    let resume = |run: &mut RunDocument| {
        may_wish(run)?;
        match run.wish.take() {
            Some(_) => Ok("lets it go on".to_owned()),
            None => Err("it is not paused".to_owned()),
        }
    };
    ask(context, run, &by, resume).await?.tell(context, "goes on")
}

pub async fn approve(
    context: &Context,
    run: &str,
    role: &str,
    name: Option<String>,
) -> anyhow::Result<Exit> {
    let by = name.unwrap_or_else(person);
    let approve = |run: &mut RunDocument| {
        let plan = lift_plan(run).map_err(|error| format!("{error:#}"))?;
        let roles = plan.steps.iter().filter_map(|step| match step {
            Step::Approve(approve) => Some(approve.role.as_str()),
            _ => None,
        });
        let roles: Vec<&str> = roles.collect();
        if !roles.contains(&role) {
            let roles = if roles.is_empty() { "nobody".to_owned() } else { roles.join(", ") };
            return Err(format!("it waits for no {role}; it waits for {roles}"));
        }
        let approval = ApprovalDocument { role: role.to_owned(), by: by.clone() };
        if run.approvals.contains(&approval) {
            return Err(format!("{by} has approved it as {role} already"));
        }
        run.approvals.push(approval);
        Ok("approves".to_owned())
    };
    ask(context, run, &by, approve).await?.tell(context, &format!("is approved by {by} as {role}"))
}

pub async fn abort(context: &Context, run: &str) -> anyhow::Result<Exit> {
    let (config, by) = (context.config()?, person());
    let ownership = read_ownership(&config).await?;
    let abort = |run: &mut RunDocument| {
        let plan = lift_plan(run).map_err(|error| format!("{error:#}"))?;
        if let Some(late) = too_late_to_abort(&plan, run.started, &ownership) {
            return Err(late.to_string());
        }
        if let Some(WishDocument::Escalate { by, .. }) = &run.wish {
            return Err(escalates(by));
        }
        run.wish = Some(WishDocument::Abort { by: by.clone() });
        Ok("asks to abort".to_owned())
    };
    let asked = ask(context, run, &by, abort).await?;
    let Asked::Heeded(run) = &asked else { return asked.tell(context, "") };
    let directory = Directory::open(&config)?;
    let ended = follow(context, &directory, &RunId(run.run.clone())).await?;
    if context.output.is_json() {
        context.output.print_json(&ended)?;
    }
    match ended.state {
        RunState::Aborted | RunState::CalledOff => Ok(Exit::Done),
        _ => {
            eprintln!("domicile: too late: run {} has ended before it could be aborted", run.run);
            Ok(Exit::Refused)
        }
    }
}

/// A run that is aborted or escalated goes to its end by that: nothing else is heeded.
fn may_wish(run: &RunDocument) -> Result<(), String> {
    match &run.wish {
        None | Some(WishDocument::Pause { .. }) => Ok(()),
        Some(WishDocument::Abort { by }) => Err(format!("it is being aborted, as {by} wanted")),
        Some(WishDocument::Escalate { by, .. }) => Err(escalates(by)),
    }
}

fn escalates(by: &str) -> String {
    format!("it is being escalated, as {by} wanted")
}

/// What became of a wish.
pub(super) enum Asked {
    /// It stands in the run's document now.
    Heeded(Box<RunDocument>),
    Refused {
        run: String,
        why: String,
    },
}

impl Asked {
    pub(super) fn tell(self, context: &Context, said: &str) -> anyhow::Result<Exit> {
        match self {
            Self::Refused { run, why } => {
                eprintln!("domicile: run {run} refused: {why}");
                Ok(Exit::Refused)
            }
            Self::Heeded(run) if context.output.is_json() => {
                context.output.print_json(&*run)?;
                Ok(Exit::Done)
            }
            Self::Heeded(run) => {
                context.output.print(&format!("run {} {said}", run.run))?;
                Ok(Exit::Done)
            }
        }
    }
}

/// Changes a run's document by compare-and-set, with a line in its journal that says who and what.
pub(super) async fn ask(
    context: &Context,
    name: &str,
    by: &str,
    mut change: impl FnMut(&mut RunDocument) -> Result<String, String>,
) -> anyhow::Result<Asked> {
    let config: Config = context.config()?;
    let run = history::find(&config, name).await?.run;
    let directory = Directory::open(&config)?;
    let key = run_key(&RunId(run.clone()));
    for _ in 0..ATTEMPTS {
        let found = directory.get(&key).await?;
        let found = found.ok_or_else(|| UsageError(format!("run {run} is gone")))?;
        let mut document: RunDocument =
            serde_json::from_slice(&found.value).with_context(|| format!("read \"{key}\""))?;
        if document.state != RunState::Running {
            return Ok(Asked::Refused { run, why: "it has ended".to_owned() });
        }
        let what = match change(&mut document) {
            Ok(what) => what,
            Err(why) => return Ok(Asked::Refused { run, why }),
        };
        document.note(crate::clock::unix_ms(), by, "run", what);
        let written = directory.write(&key, found.revision, Some(json(&document))).await?;
        if let Written::At(_) = written {
            return Ok(Asked::Heeded(Box::new(document)));
        }
    }
    bail!("run {run} keeps changing: try again")
}
