//! What became of the runs, as their journals in the directory say?

use anyhow::Context as _;
use comfy_table::Color;
use domicile_core::config::Config;
use domicile_core::id::PartitionRange;
use serde_json::{Value as Json, json};

use super::Format;
use super::report::{Story, html, markdown};
use crate::cli::output::{print_text, trimmed};
use crate::cli::{Context, Exit, UsageError};
use crate::directory;
use crate::directory::documents::{
    self, Break, Chain, IntentDocument, LinkDocument, RUN_PREFIX, RunDocument, RunState, Verified,
};

/// How much of a run's id is printed: enough to tell it from others by.
const ID_PRINTED: usize = 13;
/// One command starts its runs within that.
const ONE_CALL_MS: u64 = 10_000;

pub async fn list(context: &Context) -> anyhow::Result<Exit> {
    let config = context.config()?;
    let stories: Vec<Story> = newest_first(&config).await?.iter().map(Story::of).collect();
    let output = &context.output;
    if output.is_json() {
        let each = stories.iter().map(|story| {
            json!({
                "run": story.run,
                "runbook": story.runbook,
                "arguments": story.arguments,
                "plan": story.plan,
                "state": story.state,
                "paused": story.paused,
                "started_at": story.started_at,
                "started_by": story.started_by,
                "took_ms": story.took_ms,
                "without_owner_ms": story.without_owner_ms,
                "writes_paused_ms": story.writes_paused_ms,
                "objectives": story.objectives,
            })
        });
        output.print_json(&each.collect::<Vec<Json>>())?;
        return Ok(Exit::Done);
    }
    let mut table =
        output.table(["RUN", "STARTED", "RUNBOOK", "STATE", "TOOK", "OBJECTIVES", "BY"]);
    for story in &stories {
        let colour = match story.state {
            RunState::Succeeded => Color::Green,
            RunState::Running => Color::Reset,
            RunState::CalledOff | RunState::Overruled => Color::Yellow,
            RunState::Aborted | RunState::Unapproved | RunState::Escalated => Color::Yellow,
            RunState::Failed => Color::Red,
        };
        let objectives = story.objectives_in_short();
        let plain = |text: &str| output.cell(text, Color::Reset);
        let (whole, part) = story.run.split_once('/').unwrap_or((&story.run, ""));
        let mut id: String = whole.chars().take(ID_PRINTED).collect();
        if !part.is_empty() {
            id = format!("{id}/{part}");
        }
        table.add_row([
            plain(&id),
            plain(&story.started_at),
            plain(&story.called()),
            output.cell(story.state_name(), colour),
            plain(&format!("{} ms", story.took_ms)),
            output
                .cell(&objectives, if objectives == "met" { Color::Green } else { Color::Yellow }),
            plain(&story.started_by),
        ]);
    }
    output.print(&trimmed(&table))?;
    Ok(Exit::Done)
}

pub async fn report(context: &Context, run: &str, format: Format) -> anyhow::Result<Exit> {
    let config = context.config()?;
    let mut story = Story::of(&find(&config, run).await?);
    let chain = verified(&config).await?.of(&story.run);
    let broken = matches!(chain, Chain::Broken { .. });
    story.chain = Some(chain);
    match format {
        Format::Markdown => print_text(&markdown(&story))?,
        Format::Html => print_text(&html(&story))?,
        Format::Json => context.output.print_json(&story)?,
    }
    Ok(if broken { Exit::Refused } else { Exit::Done })
}

/// Says whether all runs are as they were written, or what is not.
pub async fn verify(context: &Context) -> anyhow::Result<Exit> {
    let verified = verified(&context.config()?).await?;
    if context.output.is_json() {
        context.output.print_json(&verified)?;
    } else {
        let lines: Vec<String> = told(&verified);
        context.output.print(&lines.join("\n"))?;
    }
    Ok(if verified.broken.is_empty() { Exit::Done } else { Exit::Refused })
}

fn told(Verified { chained, unchained, broken, last }: &Verified) -> Vec<String> {
    let mut lines: Vec<String> = broken
        .iter()
        .map(|Break { run, entry, why }| {
            let line = entry.map_or_else(String::new, |line| format!(", line {line}"));
            format!("run {run}{line}: {why}")
        })
        .collect();
    lines.push(format!("{chained} runs are chained, {} are broken", broken.len()));
    if !unchained.is_empty() {
        lines.push(format!(
            "{} have lines from before there were hashes: {}",
            unchained.len(),
            unchained.join(", ")
        ));
    }
    let end = last
        .iter()
        .map(|LinkDocument { run, hash }| format!("the history ends with run {run}: {hash}"));
    lines.extend(end);
    lines
}

async fn verified(config: &Config) -> anyhow::Result<Verified> {
    let directory = directory::Client::open(config)?;
    let documents = directory.read(RUN_PREFIX).await?.documents;
    let stored = documents.iter().map(|document| document.value.as_ref());
    documents::verify(stored).context("read the runs")
}

/// Returns the run whose id begins like this, or the last one that was started.
pub async fn find(config: &Config, name: &str) -> anyhow::Result<RunDocument> {
    let mut runs = newest_first(config).await?;
    if name == "last" {
        let text = || UsageError("there has been no run yet".to_owned());
        return Ok(last(runs).ok_or_else(text)?);
    }
    let exact = runs.iter().any(|document| document.run == name);
    let whole = |run: &str| name.contains('/') || !run.contains('/');
    runs.retain(|document| {
        let run = document.run.as_str();
        if exact { run == name } else { run.starts_with(name) && whole(run) }
    });
    match runs.len() {
        0 => Err(UsageError(format!("there is no run {name} (domicile runbook history)")).into()),
        1 => Ok(runs.remove(0)),
        many => Err(UsageError(format!("{many} runs begin with {name}: give more of it")).into()),
    }
}

/// `domicile switchover --from` starts a run for each range, and nobody who says "last" means the
/// canary's.
fn last(mut newest_first: Vec<RunDocument>) -> Option<RunDocument> {
    // One that another run has begun was not started by anybody.
    newest_first.retain(|document| !document.run.contains('/'));
    let newest = newest_first.first()?;
    let meant = canary_goes_to(newest).and_then(|to| {
        newest_first.iter().position(|run| moves_rows_to(run, to) && of_one_call(run, newest))
    });
    Some(newest_first.swap_remove(meant.unwrap_or(0)))
}

/// Where a run hands the canary to, if it hands over nothing else.
fn canary_goes_to(run: &RunDocument) -> Option<&str> {
    match &run.intent {
        IntentDocument::Switchover { range, to } if is_canary(range) => Some(to),
        _ => None,
    }
}

fn moves_rows_to(run: &RunDocument, region: &str) -> bool {
    match &run.intent {
        IntentDocument::Switchover { range, to } => !is_canary(range) && to == region,
        _ => false,
    }
}

fn is_canary(range: &str) -> bool {
    range == PartitionRange::CANARY.to_string()
}

fn of_one_call(run: &RunDocument, other: &RunDocument) -> bool {
    run.runbook_name() == other.runbook_name()
        && (&run.started_by, &run.from) == (&other.started_by, &other.from)
        && run.started_at_ms.abs_diff(other.started_at_ms) <= ONE_CALL_MS
}

/// Ids sort by the time at which runs were started.
pub async fn newest_first(config: &Config) -> anyhow::Result<Vec<RunDocument>> {
    let directory = directory::Client::open(config)?;
    let documents = directory.read(RUN_PREFIX).await?.documents;
    let runs = documents.iter().map(|document| {
        let key = &document.key;
        serde_json::from_slice(&document.value).with_context(|| format!("read \"{key}\""))
    });
    let mut runs = runs.collect::<anyhow::Result<Vec<RunDocument>>>()?;
    runs.sort_by(|a, b| b.run.cmp(&a.run));
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::documents::RunbookDocument;

    /// A run by ada that takes `range` from eu to us.
    fn run(id: &str, runbook: &str, range: &str, started_at_ms: u64) -> RunDocument {
        RunDocument {
            run: id.to_owned(),
            intent: IntentDocument::Switchover { range: range.to_owned(), to: "us".to_owned() },
            runbook: Some(RunbookDocument {
                name: runbook.to_owned(),
                text: String::new(),
                arguments: Default::default(),
                plan: String::new(),
            }),
            started_at_ms,
            started_by: "ada".to_owned(),
            from: vec!["eu".to_owned()],
            state: RunState::Running,
            executor: None,
            started: false,
            started_revision: 0,
            wish: None,
            approvals: Vec::new(),
            safety_override: None,
            answers: Default::default(),
            estimated_loss_ms: 0,
            silent_ms: 0,
            after: None,
            steps: Vec::new(),
            journal: Vec::new(),
        }
    }

    fn last_of(newest_first: Vec<RunDocument>) -> String {
        last(newest_first).unwrap().run
    }

    #[test]
    fn the_last_run_is_the_one_that_moves_rows_of_those_that_one_command_has_started() {
        let (canary, rows) =
            (run("3", "switchover", "canary", 50_020), run("2", "switchover", "0-2", 50_000));
        let older = run("1", "switchover", "4-7", 10_000);
        assert_eq!(last_of(vec![canary.clone(), rows.clone(), older.clone()]), "2");
        // What its runs have begun is not meant either.
        let part = run("2/forced", "failover", "0-2", 50_010);
        assert_eq!(last_of(vec![canary.clone(), part, rows]), "2");
        // Asked for by itself it is.
        assert_eq!(last_of(vec![canary, older.clone()]), "3");
        let drill = run("3", "drill", "canary", 10_500);
        assert_eq!(last_of(vec![drill, older]), "3");
        assert!(last(Vec::new()).is_none());
    }
}
