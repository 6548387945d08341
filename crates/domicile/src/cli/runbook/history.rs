//! What became of the runs, as their journals in the directory say?

use anyhow::Context as _;
use comfy_table::Color;
use domicile_core::config::Config;
use serde_json::{Value as Json, json};

use super::Format;
use super::report::{Story, html, markdown};
use crate::cli::output::{print_text, trimmed};
use crate::cli::{Context, Exit, UsageError};
use crate::directory;
use crate::directory::documents::{RUN_PREFIX, RunDocument, RunState};

/// How much of a run's id is printed: enough to tell it from others by.
const ID_PRINTED: usize = 13;

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
                "started_at": story.started_at,
                "started_by": story.started_by,
                "took_ms": story.took_ms,
                "without_owner_ms": story.without_owner_ms,
            })
        });
        output.print_json(&each.collect::<Vec<Json>>())?;
        return Ok(Exit::Done);
    }
    let mut table = output.table(["RUN", "STARTED", "RUNBOOK", "STATE", "TOOK", "BY"]);
    for story in &stories {
        let colour = match story.state {
            RunState::Succeeded => Color::Green,
            RunState::Running => Color::Reset,
            RunState::CalledOff | RunState::Overruled => Color::Yellow,
            RunState::Aborted | RunState::Unapproved | RunState::Escalated => Color::Yellow,
            RunState::Failed => Color::Red,
        };
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
            plain(&story.started_by),
        ]);
    }
    output.print(&trimmed(&table))?;
    Ok(Exit::Done)
}

pub async fn report(context: &Context, run: &str, format: Format) -> anyhow::Result<Exit> {
    let config = context.config()?;
    let story = Story::of(&find(&config, run).await?);
    match format {
        Format::Markdown => print_text(&markdown(&story))?,
        Format::Html => print_text(&html(&story))?,
        Format::Json => context.output.print_json(&story)?,
    }
    Ok(Exit::Done)
}

/// Returns the run whose id begins like this, or the last one that was started.
pub async fn find(config: &Config, name: &str) -> anyhow::Result<RunDocument> {
    let mut runs = newest_first(config).await?;
    if name == "last" {
        // One that another run has begun was not started by anybody.
        runs.retain(|document| !document.run.contains('/'));
        let text = || UsageError("there has been no run yet".to_owned());
        return Ok(runs.into_iter().next().ok_or_else(text)?);
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
