//! How long did the steps of a runbook take when it ran, as an estimate of the next time?

use std::collections::BTreeMap;

use domicile_core::config::Config;
use serde::Serialize;

use super::history::newest_first;
use super::report::Story;
use crate::directory::documents::RunState;

/// Runs from longer ago say little of today.
const RUNS_MAX: usize = 10;

/// Medians of the last runs that succeeded.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Past {
    pub runs: usize,
    pub without_owner_ms: Option<u64>,
    /// In failovers from when the region was last heard.
    pub writes_paused_ms: Option<u64>,
    /// Of the steps that took long enough to leave a line.
    pub steps_ms: BTreeMap<String, u64>,
}

/// Returns what is remembered of a runbook of this name.
pub async fn of(config: &Config, runbook: &str) -> anyhow::Result<Option<Past>> {
    let stories: Vec<Story> = newest_first(config).await?.iter().map(Story::of).collect();
    Ok(sum_up(&stories, runbook))
}

fn sum_up(stories: &[Story], runbook: &str) -> Option<Past> {
    let meant = |story: &&Story| story.runbook == runbook && story.state == RunState::Succeeded;
    let meant: Vec<&Story> = stories.iter().filter(meant).take(RUNS_MAX).collect();
    let mut steps: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for story in &meant {
        let mut lasted: BTreeMap<&str, u64> = BTreeMap::new();
        for span in &story.timeline {
            *lasted.entry(&span.step).or_default() += span.until_ms - span.from_ms;
        }
        for (step, ms) in lasted {
            steps.entry(step.to_owned()).or_default().push(ms);
        }
    }
    let steps = steps.into_iter().filter_map(|(step, ms)| Some((step, median(ms)?)));
    (!meant.is_empty()).then(|| Past {
        runs: meant.len(),
        without_owner_ms: median(meant.iter().filter_map(|story| story.without_owner_ms).collect()),
        writes_paused_ms: median(meant.iter().filter_map(|story| story.writes_paused_ms).collect()),
        steps_ms: steps.collect(),
    })
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

impl Past {
    /// In one line.
    pub fn text(&self) -> String {
        let Self { runs, without_owner_ms, steps_ms, .. } = self;
        let mut parts: Vec<String> =
            steps_ms.iter().map(|(step, ms)| format!("{step} {ms} ms")).collect();
        parts.extend(without_owner_ms.map(|ms| format!("in all {ms} ms without an owner")));
        format!("median of its last runs ({runs}): {}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Span;
    use super::*;

    fn story(runbook: &str, state: RunState, spans: &[(&str, u64, u64)], without: u64) -> Story {
        let span = |(step, from_ms, until_ms): &(&str, u64, u64)| Span {
            step: (*step).to_owned(),
            explain: String::new(),
            from_ms: *from_ms,
            until_ms: *until_ms,
        };
        Story {
            run: String::new(),
            runbook: runbook.to_owned(),
            arguments: BTreeMap::new(),
            plan: String::new(),
            state,
            paused: false,
            started_at: String::new(),
            started_by: String::new(),
            took_ms: 0,
            without_owner_ms: Some(without),
            writes_paused_ms: Some(without + 1),
            objectives: Vec::new(),
            held: Vec::new(),
            estimated_loss_ms: 0,
            escalation: None,
            approvals: Vec::new(),
            safety_override: None,
            skipped: Vec::new(),
            chain: None,
            timeline: spans.iter().map(span).collect(),
            journal: Vec::new(),
        }
    }

    #[test]
    fn the_median_of_what_succeeded_is_told_and_nothing_where_there_was_nothing() {
        let done = RunState::Succeeded;
        let stories = [
            story("switchover", done, &[("hand_over", 0, 30), ("hand_over", 50, 60)], 70),
            story("switchover", done, &[("hand_over", 0, 10), ("grant", 10, 15)], 15),
            story("switchover", done, &[("hand_over", 0, 90)], 95),
            story("switchover", RunState::CalledOff, &[("hand_over", 0, 9000)], 9000),
            story("failover", done, &[("fence", 0, 5000)], 5000),
        ];
        let past = sum_up(&stories, "switchover").unwrap();
        let text = "median of its last runs (3): grant 5 ms, hand_over 40 ms, in all 70 ms without an owner";
        assert_eq!(past.text(), text);
        assert_eq!(past.writes_paused_ms, Some(71));
        assert_eq!(sum_up(&stories, "mine"), None);
    }
}
