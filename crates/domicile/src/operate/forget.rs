//! Which runs that have ended does the directory keep no longer?
//!
//! It is read whole by whoever starts, and an evacuation leaves thousands.

use std::collections::{BTreeMap, BTreeSet};

use domicile_core::id::RunId;

use crate::directory::documents::{RunDocument, lift_drill, lift_outcome};

/// So many bytes of ended runs are kept.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// So many of them are kept.
const RUNS_MAX: usize = 2000;
/// Whoever follows a run wants to see how it ended.
const KEPT_FOR_MS: u64 = 60 * 60 * 1000;
/// By the last ones it is known when the next is due.
const DRILLS_KEPT: usize = 100;

/// A run as it stands in the directory.
pub struct Stored<'a> {
    pub key: &'a str,
    pub revision: u64,
    pub bytes: usize,
    pub document: RunDocument,
}

/// Returns those that may go, the oldest first: ended for a while with all that belong to them, and more than
/// are kept. A run that has partitions `in_hands` has not ended.
pub fn forgotten<'a>(
    mut stored: Vec<Stored<'a>>,
    in_hands: &BTreeSet<&RunId>,
    now_ms: u64,
) -> Vec<(&'a str, u64)> {
    stored.sort_by_key(|run| std::cmp::Reverse(run.document.started_at_ms));
    let mut open: BTreeSet<&str> = in_hands.iter().map(|run| family(&run.0)).collect();
    for run in &stored {
        let last = run.document.journal.last().map_or(run.document.started_at_ms, |e| e.at_ms);
        if lift_outcome(&run.document).is_none() || last + KEPT_FOR_MS > now_ms {
            open.insert(family(&run.document.run));
        }
    }
    let drills = stored.iter().filter(|run| lift_drill(&run.document).is_some());
    let drills: BTreeSet<&str> = drills.take(DRILLS_KEPT).map(|run| run.key).collect();
    let (mut count, mut bytes) = (0, 0);
    let mut families: BTreeMap<&str, bool> = BTreeMap::new();
    let mut forgotten = Vec::new();
    for run in &stored {
        (count, bytes) = (count + 1, bytes + run.bytes);
        let family = family(&run.document.run);
        // A family is kept or goes as one.
        let kept = *families.entry(family).or_insert(count <= RUNS_MAX && bytes <= BYTES_MAX);
        if !kept && !open.contains(family) && !drills.contains(run.key) {
            forgotten.push((run.key, run.revision));
        }
    }
    forgotten.reverse();
    forgotten
}

/// The run, the runs that it has begun, and the one that it was turned into.
fn family(run: &str) -> &str {
    run.split_once('/').map_or(run, |(first, _)| first)
}

#[cfg(test)]
mod tests {
    use domicile_core::id::PartitionRange;

    use super::*;
    use crate::directory::documents::{IntentDocument, RunState, RunbookDocument};

    const DAY: u64 = 24 * 60 * 60 * 1000;

    fn run(name: &str, started_at_ms: u64, state: RunState) -> RunDocument {
        let of = |name: &str| name.to_owned();
        RunDocument {
            run: of(name),
            intent: IntentDocument::Switchover { range: of("0-3"), to: of("us") },
            runbook: None,
            started_at_ms,
            started_by: String::new(),
            from: Vec::new(),
            state,
            started: true,
            started_revision: 1,
            wish: None,
            approvals: Vec::new(),
            safety_override: None,
            answers: BTreeMap::new(),
            executor: None,
            estimated_loss_ms: 0,
            silent_ms: 0,
            after: None,
            steps: Vec::new(),
            journal: Vec::new(),
        }
    }

    fn gone(runs: &[RunDocument], in_hands: &[&RunId], now_ms: u64) -> Vec<String> {
        let stored = runs.iter().map(|document| {
            let (key, document) = (document.run.as_str(), document.clone());
            Stored { key, revision: 1, bytes: 1000, document }
        });
        let in_hands = in_hands.iter().copied().collect();
        let gone = forgotten(stored.collect(), &in_hands, now_ms);
        gone.into_iter().map(|(key, _)| key.to_owned()).collect()
    }

    #[test]
    fn the_oldest_go_and_nothing_that_is_open_or_belongs_to_it() {
        let mut runs: Vec<RunDocument> =
            (0..2500).map(|i| run(&format!("run{i}"), i, RunState::Succeeded)).collect();
        assert!(gone(&runs[..2000], &[], DAY).is_empty());
        let names = gone(&runs, &[], DAY);
        assert_eq!((names.len(), names[0].as_str()), (500, "run0"));
        assert!(gone(&runs, &[], 1000).is_empty(), "whoever follows one sees its end");
        let names = gone(&runs, &[&RunId("run0".to_owned())], DAY);
        assert_eq!((names.len(), names[0].as_str()), (499, "run1"), "it is not over");
        runs[1].run = "run0/5".to_owned();
        runs[0].state = RunState::Running;
        let names = gone(&runs, &[], DAY);
        assert_eq!((names.len(), names[0].as_str()), (498, "run2"), "nor is what it has begun");
    }

    #[test]
    fn the_last_drills_stay() {
        let of = |i: u64| run(&format!("run{i}"), i, RunState::Succeeded);
        let mut runs: Vec<RunDocument> = (0..2500).map(of).collect();
        runs[3].intent = IntentDocument::Switchover {
            range: PartitionRange::CANARY.to_string(),
            to: "us".to_owned(),
        };
        runs[3].runbook = Some(RunbookDocument {
            name: "drill".to_owned(),
            text: String::new(),
            arguments: Default::default(),
            plan: String::new(),
        });
        let names = gone(&runs, &[], DAY);
        assert!(names.len() == 499 && !names.contains(&"run3".to_owned()));
    }
}
