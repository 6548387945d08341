//! Which runbooks are there, what does one do, and is a file sound?

use std::path::PathBuf;

use comfy_table::Color;
use domicile_core::runbook::Objectives;
use domicile_core::runbook::file::{
    Action, Condition, Mistake, Parameter, Runbook, steps, written,
};
use domicile_core::time::Millis;
use serde_json::{Value as Json, json};

use super::files::{self, Found};
use crate::cli::output::trimmed;
use crate::cli::{Context, Exit};

pub fn list(context: &Context) -> anyhow::Result<Exit> {
    let found = files::all(&context.config_file)?;
    let output = &context.output;
    if output.is_json() {
        output.print_json(&found.iter().map(listed).collect::<Vec<Json>>())?;
        return Ok(Exit::Done);
    }
    let mut table = output.table(["NAME", "ABOUT", "FROM"]);
    for found in &found {
        let about = match Runbook::parse(&found.text) {
            Ok(runbook) => output.cell(&runbook.about, Color::Reset),
            Err(mistakes) => output.cell(&in_short(&mistakes), Color::Red),
        };
        let plain = |text: &str| output.cell(text, Color::Reset);
        table.add_row([plain(&found.name), about, plain(&found.place())]);
    }
    output.print(&trimmed(&table))?;
    Ok(Exit::Done)
}

fn listed(found: &Found) -> Json {
    let parsed = Runbook::parse(&found.text);
    json!({
        "name": found.name,
        "file": found.file,
        "about": parsed.as_ref().ok().map(|runbook| &runbook.about),
        "mistakes": parsed.err().map_or_else(Vec::new, |mistakes| mistakes_json(&mistakes)),
    })
}

fn in_short(mistakes: &[Mistake]) -> String {
    format!("has mistakes ({}): domicile runbook lint tells them", mistakes.len())
}

pub fn show(context: &Context, name: &str, toml: bool) -> anyhow::Result<Exit> {
    let found = files::find(&context.config_file, name)?;
    if toml {
        crate::cli::output::print_text(&found.text)?;
        return Ok(Exit::Done);
    }
    let runbook = found.parse()?;
    if context.output.is_json() {
        let actions = runbook.actions.iter().enumerate();
        let steps = actions.map(|(i, action)| step_json(action, runbook.conditions.get(&i)));
        let steps: Vec<Json> = steps.collect();
        context.output.print_json(&json!({
            "name": found.name,
            "file": found.file,
            "about": runbook.about,
            "objectives": objectives_json(&runbook.objectives),
            "parameters": runbook.parameters.iter().map(parameter_json).collect::<Vec<_>>(),
            "steps": steps,
        }))?;
        return Ok(Exit::Done);
    }
    let mut lines = vec![format!("{}: {}", found.name, runbook.about)];
    let objectives = promised(&runbook.objectives);
    if !objectives.is_empty() {
        let each = objectives.iter().map(|(name, limit)| format!(" {name}={limit}"));
        lines.push(format!("Objectives:{}", each.collect::<String>()));
    }
    if !runbook.parameters.is_empty() {
        lines.push("Parameters:".to_owned());
    }
    for Parameter { name, kind, about, default } in &runbook.parameters {
        let default =
            default.as_ref().map_or_else(String::new, |value| format!(" (unless told: {value})"));
        lines.push(format!("  {name:<15} {:<11} {about}{default}", kind.name()));
    }
    lines.push("Steps:".to_owned());
    for (i, action) in runbook.actions.iter().enumerate() {
        let told = action.told().into_iter().map(|(key, value)| format!(" {key}={value}"));
        let condition = runbook.conditions.get(&i).map(|it| format!(" if={it}"));
        let told = told.chain(condition).collect::<String>();
        lines.push(format!("  {}. {}{told}", i + 1, action.name()));
    }
    context.output.print(&lines.join("\n"))?;
    Ok(Exit::Done)
}

/// As the file writes them.
fn promised(objectives: &Objectives) -> Vec<(&'static str, String)> {
    let text = |limit: Millis| if limit.0 == 0 { "0".to_owned() } else { written(limit) };
    let Objectives { rto, rpo } = *objectives;
    let named = [("rto", rto), ("rpo", rpo)].into_iter();
    named.filter_map(|(name, limit)| Some((name, text(limit?)))).collect()
}

fn objectives_json(objectives: &Objectives) -> Json {
    let Objectives { rto, rpo } = *objectives;
    json!({ "rto_ms": rto.map(|limit| limit.0), "rpo_ms": rpo.map(|limit| limit.0) })
}

fn parameter_json(parameter: &Parameter) -> Json {
    json!({
        "name": parameter.name,
        "type": parameter.kind.name(),
        "about": parameter.about,
        "default": parameter.default,
    })
}

fn step_json(action: &Action, condition: Option<&Condition>) -> Json {
    let told: serde_json::Map<String, Json> =
        action.told().into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
    let meaning = steps::step(action.name()).map(|step| step.meaning);
    let condition = condition.map(ToString::to_string);
    json!({ "name": action.name(), "told": told, "if": condition, "meaning": meaning })
}

pub fn lint(context: &Context, files: &[PathBuf]) -> anyhow::Result<Exit> {
    let mut reports = Vec::new();
    let mut sound = true;
    for file in files {
        let found = files::read(file)?;
        let mistakes = Runbook::parse(&found.text).err().unwrap_or_default();
        sound &= mistakes.is_empty();
        let file = file.display();
        if context.output.is_json() {
            let mistakes = mistakes_json(&mistakes);
            reports.push(json!({ "file": file.to_string(), "mistakes": mistakes }));
        } else if mistakes.is_empty() {
            context.output.print(&format!("{file}: sound"))?;
        }
        for mistake in mistakes.iter().filter(|_| !context.output.is_json()) {
            context.output.print(&format!("{file}: {mistake}"))?;
        }
    }
    if context.output.is_json() {
        context.output.print_json(&reports)?;
    }
    Ok(if sound { Exit::Done } else { Exit::Refused })
}

fn mistakes_json(mistakes: &[Mistake]) -> Vec<Json> {
    let each = mistakes.iter();
    each.map(|m| json!({ "path": m.path, "line": m.line, "text": m.text })).collect()
}
