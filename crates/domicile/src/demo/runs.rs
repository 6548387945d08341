//! What do the runs in the directory say, so that the story can tell it in plain words?
//!
//! The demo does not perform a failover and does not ask for one: it reads what the agents wrote
//! down while they did it.

use std::collections::BTreeMap;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::scene::{Narrator, Tone};
use crate::directory::Client;
use crate::directory::documents::{IntentDocument, RUN_PREFIX, RunDocument, RunState};

/// Tells each step of each run when it begins, until the task is dropped.
pub(super) async fn narrate(directory: Client, narrator: Narrator) {
    let shutdown = CancellationToken::new();
    let mut runs = directory.follow(RUN_PREFIX, shutdown.clone());
    let _ends_with_this_task = shutdown.drop_guard();
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    while runs.changed().await.is_ok() {
        let view = runs.borrow_and_update().clone();
        for (key, (value, _)) in &view.documents {
            let Ok(run) = serde_json::from_slice::<RunDocument>(value) else { continue };
            for text in told.entry(key.clone()).or_default().news(&run) {
                narrator.say(Tone::Plain, text);
            }
        }
    }
}

/// How much of one run was told.
#[derive(Debug, Default)]
struct Told {
    entries: usize,
    step: Option<String>,
    ended: bool,
}

impl Told {
    /// Returns what is new in the run, one sentence for each step that began.
    fn news(&mut self, run: &RunDocument) -> Vec<String> {
        let kind = match run.intent {
            IntentDocument::Failover { .. } => "failover",
            IntentDocument::Switchover { .. } => "switchover",
            IntentDocument::Evacuation { .. } => "evacuation",
            IntentDocument::Addition { .. } => "addition",
            IntentDocument::ForcedDrill { .. } => "forced drill",
        };
        let mut news = Vec::new();
        for entry in run.journal.iter().skip(self.entries) {
            let explained = run.steps.iter().find(|step| step.name == entry.step);
            let Some(explained) = explained else { continue };
            if self.step.as_ref() != Some(&entry.step) {
                news.push(format!("  {kind}, {}: {}", entry.step, explained.explain));
                self.step = Some(entry.step.clone());
            }
        }
        self.entries = run.journal.len();
        if run.state != RunState::Running && !self.ended {
            self.ended = true;
            let end = run.journal.last().map_or("ended", |entry| entry.what.as_str());
            news.push(format!("  {kind} {end}"));
        }
        news
    }
}

/// Returns what the plan of the failover of `lost` expected to be lost: milliseconds of
/// acknowledged work.
pub(super) async fn estimated_loss_ms(
    directory: &Client,
    lost: &str,
) -> anyhow::Result<Option<u64>> {
    let snapshot = directory.read(RUN_PREFIX).await.context("read the runs")?;
    let runs = snapshot.documents.iter().map(|d| serde_json::from_slice::<RunDocument>(&d.value));
    let meant = runs
        .flatten()
        .find(|run| matches!(&run.intent, IntentDocument::Failover { from, .. } if from == lost));
    Ok(meant.map(|run| run.estimated_loss_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::documents::{RunEntry, StepDocument};

    fn run(steps_done: &[&str], state: RunState) -> RunDocument {
        let steps = ["fence", "grant"].map(|name| StepDocument {
            name: name.to_owned(),
            explain: format!("explains {name}"),
        });
        let entry = |step: &&str| RunEntry {
            at_ms: 0,
            executor: "eu".to_owned(),
            step: step.to_string(),
            what: format!("does {step}"),
            covers: None,
            hash: None,
        };
        RunDocument {
            run: "r1".to_owned(),
            intent: IntentDocument::Failover {
                from: "us".to_owned(),
                to: "eu".to_owned(),
                attested: false,
            },
            runbook: None,
            started_at_ms: 0,
            started_by: String::new(),
            from: Vec::new(),
            state,
            executor: None,
            started: true,
            started_revision: 2,
            wish: None,
            approvals: Vec::new(),
            safety_override: None,
            answers: Default::default(),
            estimated_loss_ms: 0,
            silent_ms: 0,
            after: None,
            steps: steps.to_vec(),
            journal: steps_done.iter().map(entry).collect(),
        }
    }

    #[test]
    fn each_step_is_told_once_and_so_is_the_end() {
        let mut told = Told::default();
        let first = told.news(&run(&["fence", "fence"], RunState::Running));
        assert_eq!(first, ["  failover, fence: explains fence"]);
        assert!(told.news(&run(&["fence", "fence"], RunState::Running)).is_empty());
        let done = run(&["fence", "fence", "grant"], RunState::Succeeded);
        let last = told.news(&done);
        assert_eq!(last, ["  failover, grant: explains grant", "  failover does grant"]);
        assert!(told.news(&done).is_empty());
    }
}
