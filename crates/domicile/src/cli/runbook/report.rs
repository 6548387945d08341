//! What happened in a run, told as a story with its timeline drawn?
//!
//! Times are of the executors' own wall clocks: for people. When another agent went on with a run,
//! its clock may be off the first one's.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use domicile_core::id::RunId;
use domicile_core::runbook::step::Skipped;
use domicile_core::runbook::{Held, Objective, Step, forced_of};
use domicile_core::time::Wall;
use serde::Serialize;

use crate::directory::documents::{
    ApprovalDocument, Chain, OverrideDocument, RunDocument, RunEntry, RunState, WishDocument,
    lift_plan,
};
use crate::objectives::{Measured, ObjectiveDocument, held, lower_held};

/// Width of a bar in Markdown.
const BAR_CHARACTERS: u64 = 40;
/// Width of the drawn timeline, without its names.
const BAR_PIXELS: u64 = 600;
const NAMES_PIXELS: u64 = 130;
const ROW_PIXELS: u64 = 26;

#[derive(Debug, Serialize)]
pub struct Story {
    pub run: String,
    pub runbook: String,
    pub arguments: BTreeMap<String, String>,
    /// The plan that was approved.
    pub plan: String,
    pub state: RunState,
    /// It is running, and a person has it wait.
    pub paused: bool,
    /// As in `2026-11-27 14:03:21 UTC`.
    pub started_at: String,
    pub started_by: String,
    /// Until its last line.
    pub took_ms: u64,
    /// From the first change that took partitions away until the grant.
    pub without_owner_ms: Option<u64>,
    /// For how long nobody could write: in a failover from when the region was last heard.
    pub writes_paused_ms: Option<u64>,
    /// What its runbook promises, and what came of that.
    pub objectives: Vec<ObjectiveDocument>,
    #[serde(skip)]
    pub held: Vec<Held>,
    pub estimated_loss_ms: u64,
    /// Who has turned it into a forced one, and what became of it.
    pub escalation: Option<Escalation>,
    pub approvals: Vec<ApprovalDocument>,
    /// Who has had it begin although the rules of safety were against it.
    pub safety_override: Option<OverrideDocument>,
    /// The steps that a flag has left out of it, as in `2. approve: urgent is true`.
    pub skipped: Vec<String>,
    /// Is it as it was written? Absent where nobody has looked.
    pub chain: Option<Chain>,
    pub timeline: Vec<Span>,
    pub journal: Vec<Line>,
}

/// A person has had what was planned taken by force.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Escalation {
    pub by: String,
    /// The region that was lost.
    pub from: String,
    /// He vouched for that himself.
    pub attested: bool,
    pub estimated_loss_ms: u64,
    /// The forced run.
    pub run: String,
}

impl Escalation {
    fn of(document: &RunDocument) -> Option<Self> {
        let Some(WishDocument::Escalate { by, from, attested, estimated_loss_ms }) = &document.wish
        else {
            return None;
        };
        Some(Self {
            by: by.clone(),
            from: from.clone(),
            attested: *attested,
            estimated_loss_ms: *estimated_loss_ms,
            run: forced_of(&RunId(document.run.clone())).to_string(),
        })
    }

    fn text(&self) -> String {
        let Self { by, from, estimated_loss_ms, run, .. } = self;
        let vouched = if self.attested { ", who vouched for it" } else { "" };
        format!(
            "{by}{vouched}: region {from} is gone; estimated loss {estimated_loss_ms} ms; run {run}"
        )
    }
}

/// A step while it was at work.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    pub step: String,
    pub explain: String,
    /// After the start of the run.
    pub from_ms: u64,
    pub until_ms: u64,
}

#[derive(Debug, Serialize)]
pub struct Line {
    /// After the start of the run.
    pub at_ms: u64,
    pub executor: String,
    pub step: String,
    pub what: String,
}

impl Story {
    pub fn of(document: &RunDocument) -> Self {
        let first = document.journal.first().map_or(0, |entry| entry.at_ms);
        let start = if document.started_at_ms > 0 { document.started_at_ms } else { first };
        let after = |at_ms: u64| at_ms.saturating_sub(start);
        let line = |entry: &RunEntry| Line {
            at_ms: after(entry.at_ms),
            executor: entry.executor.clone(),
            step: entry.step.clone(),
            what: entry.what.clone(),
        };
        let journal: Vec<Line> = document.journal.iter().map(line).collect();
        let runbook = document.runbook.as_ref();
        let (measured, held) = (Measured::of(document), held(document));
        Self {
            run: document.run.clone(),
            runbook: document.runbook_name().to_owned(),
            arguments: runbook.map(|called| called.arguments.clone()).unwrap_or_default(),
            plan: runbook.map(|called| called.plan.clone()).unwrap_or_default(),
            state: document.state,
            paused: document.state == RunState::Running
                && matches!(document.wish, Some(WishDocument::Pause { .. })),
            started_at: Wall(start).to_string(),
            started_by: document.started_by.clone(),
            took_ms: journal.last().map_or(0, |line| line.at_ms),
            without_owner_ms: measured.without_owner_ms,
            writes_paused_ms: measured.writes_paused_ms,
            objectives: held.iter().map(lower_held).collect(),
            held,
            estimated_loss_ms: document.estimated_loss_ms,
            escalation: Escalation::of(document),
            approvals: document.approvals.clone(),
            safety_override: document.safety_override.clone(),
            skipped: skipped(document),
            chain: None,
            timeline: timeline(document, &journal),
            journal,
        }
    }

    /// As it was called: the runbook with its arguments.
    pub fn called(&self) -> String {
        let told = self.arguments.iter().map(|(name, value)| format!(" {name}={value}"));
        format!("{}{}", self.runbook, told.collect::<String>())
    }

    pub fn state_name(&self) -> &'static str {
        match self.state {
            RunState::Running if self.paused => "paused",
            RunState::Running => "running",
            RunState::Succeeded => "succeeded",
            RunState::CalledOff => "called off",
            RunState::Overruled => "overruled",
            RunState::Aborted => "aborted",
            RunState::Unapproved => "unapproved",
            RunState::Failed => "failed",
            RunState::Escalated => "escalated",
        }
    }

    /// Could nobody write before it took anything, either?
    fn is_forced(&self) -> bool {
        self.writes_paused_ms != self.without_owner_ms
    }

    /// What came of its objectives, in a word or two; empty where there are none or none is known.
    pub fn objectives_in_short(&self) -> String {
        let missed = self.held.iter().filter(|held| held.met() == Some(false));
        let missed: Vec<String> = missed.map(|held| held.objective.to_string()).collect();
        let known = !self.held.is_empty() && self.held.iter().all(|held| held.met().is_some());
        match missed.is_empty() {
            false => format!("missed: {}", missed.join(", ")),
            true if known => "met".to_owned(),
            true => String::new(),
        }
    }

    /// What is worth knowing before the details.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("Run", self.run.clone()),
            ("Called", self.called()),
            ("Plan", self.plan.clone()),
            ("Started", self.started_at.clone()),
            ("By", self.started_by.clone()),
            ("State", self.state_name().to_owned()),
            ("Took", format!("{} ms", self.took_ms)),
        ];
        if let Some(without) = self.without_owner_ms {
            facts.push(("Without an owner", format!("{without} ms")));
        }
        if let (Some(paused), true) = (self.writes_paused_ms, self.is_forced()) {
            facts.push(("Nobody could write", format!("{paused} ms")));
        }
        for held in &self.held {
            let name = match held.objective {
                Objective::Rto => "Objective RTO",
                Objective::Rpo => "Objective RPO",
            };
            facts.push((name, held.to_string()));
        }
        facts.extend(self.skipped.iter().map(|step| ("Skipped", step.clone())));
        for ApprovalDocument { role, by } in &self.approvals {
            facts.push(("Approved", format!("{by}, as {role}")));
        }
        if let Some(OverrideDocument { by, reason, against }) = &self.safety_override {
            let against = against.iter().map(|why| format!("; {why}"));
            let text = format!("{by}: {reason}{}", against.collect::<String>());
            facts.push(("Safety overridden", text));
        }
        if let Some(escalation) = &self.escalation {
            facts.push(("Escalated", escalation.text()));
        }
        facts.push(("Estimated loss", format!("{} ms", self.estimated_loss_ms)));
        if let Some(chain) = &self.chain {
            facts.push(("Journal", chain.to_string()));
        }
        facts.retain(|(_, value)| !value.is_empty());
        facts
    }
}

fn skipped(document: &RunDocument) -> Vec<String> {
    let Ok(plan) = lift_plan(document) else { return Vec::new() };
    let steps = (1..).zip(&plan.steps).filter_map(|(number, step)| match step {
        Step::Skipped(Skipped { name, because }) => Some(format!("{number}. {name}: {because}")),
        _ => None,
    });
    steps.collect()
}

/// A step is at work from its first line until another one's.
fn timeline(document: &RunDocument, journal: &[Line]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for line in journal {
        if let Some(last) = spans.last_mut() {
            last.until_ms = line.at_ms.max(last.from_ms);
        }
        let known = document.steps.iter().find(|step| step.name == line.step);
        let goes_on = spans.last().is_some_and(|last| last.step == line.step);
        if let (Some(step), false) = (known, goes_on) {
            let (from_ms, until_ms) = (line.at_ms, line.at_ms);
            let (step, explain) = (step.name.clone(), step.explain.clone());
            spans.push(Span { step, explain, from_ms, until_ms });
        }
    }
    spans
}

pub fn markdown(story: &Story) -> String {
    let mut page = format!("# {}\n\n| | |\n| --- | --- |\n", cell(&story.called()));
    for (name, value) in story.facts() {
        let _ = writeln!(page, "| {name} | {} |", cell(&value));
    }
    page.push_str("\n## Timeline\n\n```text\n");
    for span in &story.timeline {
        let (before, length) = placed(span, story.took_ms, BAR_CHARACTERS);
        let bar = format!("{}{}", " ".repeat(before as usize), "#".repeat(length as usize));
        let (width, lasted) = (BAR_CHARACTERS as usize, span.until_ms - span.from_ms);
        let _ =
            writeln!(page, "{:<15} {:>7} ms |{bar:<width$}| {lasted} ms", span.step, span.from_ms);
    }
    page.push_str(
        "```\n\n## Journal\n\n| after | by | step | what |\n| ---: | --- | --- | --- |\n",
    );
    for Line { at_ms, executor, step, what } in &story.journal {
        let _ = writeln!(page, "| {at_ms} ms | {executor} | {step} | {} |", cell(what));
    }
    page
}

/// Where a bar begins and how long it is, of `width` in all; what happened is always seen.
fn placed(span: &Span, took_ms: u64, width: u64) -> (u64, u64) {
    let scale = |ms: u64| (u128::from(ms) * u128::from(width) / u128::from(took_ms.max(1))) as u64;
    let begin = scale(span.from_ms).min(width - 1);
    (begin, (scale(span.until_ms).min(width) - begin.min(scale(span.until_ms))).max(1))
}

/// Text that stays within its cell of a table, and is no HTML.
fn cell(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

pub fn html(story: &Story) -> String {
    let title = escaped(&story.called());
    let mut page = format!("{HTML_HEAD}<title>{title}</title>\n<h1>{title}</h1>\n<table>\n");
    for (name, value) in story.facts() {
        let _ = writeln!(page, "<tr><th>{name}</th><td>{}</td></tr>", escaped(&value));
    }
    let _ = write!(page, "</table>\n<h2>Timeline</h2>\n{}", drawn(story));
    page.push_str(
        "<h2>Journal</h2>\n<table>\n<tr><th>after</th><th>by</th><th>step</th><th>what</th></tr>\n",
    );
    for Line { at_ms, executor, step, what } in &story.journal {
        let (executor, step, what) = (escaped(executor), escaped(step), escaped(what));
        let _ = writeln!(
            page,
            "<tr><td>{at_ms} ms</td><td>{executor}</td><td>{step}</td><td>{what}</td></tr>"
        );
    }
    page.push_str("</table>\n</html>\n");
    page
}

fn drawn(story: &Story) -> String {
    let (width, height) =
        (NAMES_PIXELS + BAR_PIXELS + 90, ROW_PIXELS * story.timeline.len() as u64);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" role=\"img\" aria-label=\"timeline\">\n"
    );
    for (row, span) in (0..).zip(&story.timeline) {
        let (before, length) = placed(span, story.took_ms, BAR_PIXELS);
        let (top, x) = (ROW_PIXELS * row, NAMES_PIXELS + before);
        let (base, after, lasted) = (top + 17, x + length + 6, span.until_ms - span.from_ms);
        let (step, explain) = (escaped(&span.step), escaped(&span.explain));
        let _ = writeln!(
            svg,
            "<g><title>{explain}</title><text x=\"0\" y=\"{base}\">{step}</text>\
             <rect x=\"{x}\" y=\"{}\" width=\"{length}\" height=\"{}\"/>\
             <text x=\"{after}\" y=\"{base}\">{lasted} ms</text></g>",
            top + 4,
            ROW_PIXELS - 8,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const HTML_HEAD: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta name=\"color-scheme\" content=\"light dark\">
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: 2px 1em 2px 0; }
svg { max-width: 100%; } svg text { font-size: 13px; fill: currentColor; } svg rect { fill: #3a7bd5; }
</style>
";

#[cfg(test)]
mod tests;
