//! What has a run cost those who write, as its journal tells, and is that what its runbook promises?
//!
//! Times are of the wall clocks of whoever started and performed it: for people, never for decisions.

use domicile_core::runbook::{Held, Objectives};
use domicile_core::time::Millis;
use serde::Serialize;

use crate::directory::documents::{IntentDocument, RunDocument, RunEntry, RunState, lift_plan};

/// The steps that take partitions away from their owner.
const TAKE: &[&str] = &["fence", "fence_canary", "hand_over"];
/// The steps that only a grant comes before.
const GRANTED: &[&str] = &["reroute", "verify", "give_back"];

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// From the first change that took partitions away until the grant.
    pub without_owner_ms: Option<u64>,
    /// For how long nobody could write: in a failover from when the region was last heard.
    pub writes_paused_ms: Option<u64>,
}

/// One objective of a run, for whoever reads its report.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ObjectiveDocument {
    /// `rto` or `rpo`.
    pub objective: String,
    pub limit_ms: u64,
    /// Of an `rpo`: what the plan expected to be lost. Absent where nothing is known yet.
    pub measured_ms: Option<u64>,
    pub met: Option<bool>,
}

impl Measured {
    pub fn of(document: &RunDocument) -> Self {
        let granted = granted_at(document);
        let since = |at: Option<u64>| Some(granted?.saturating_sub(at?));
        let without_owner_ms = since(taken_at(&document.journal));
        let writes_paused_ms = match &document.intent {
            // Nobody could write before it was started either.
            IntentDocument::Failover { .. } if document.started_at_ms > 0 => {
                since(Some(document.started_at_ms)).map(|ms| ms + document.silent_ms)
            }
            _ => without_owner_ms,
        };
        Self { without_owner_ms, writes_paused_ms }
    }
}

/// Holds a run against what its runbook promises; nothing where that promises nothing, or cannot be read here.
pub fn held(document: &RunDocument) -> Vec<Held> {
    let Ok(plan) = lift_plan(document) else { return Vec::new() };
    if plan.objectives == Objectives::default() {
        return Vec::new();
    }
    let pause = Measured::of(document).writes_paused_ms.map(Millis);
    plan.objectives.held(pause, Some(Millis(document.estimated_loss_ms)))
}

pub fn lower_held(held: &Held) -> ObjectiveDocument {
    ObjectiveDocument {
        objective: held.objective.to_string().to_lowercase(),
        limit_ms: held.limit.0,
        measured_ms: held.figure.map(|figure| figure.0),
        met: held.met(),
    }
}

fn did(journal: &[RunEntry], steps: &[&str]) -> Option<u64> {
    let did = |entry: &&RunEntry| steps.contains(&entry.step.as_str()) && entry.did_something();
    journal.iter().find(did).map(|entry| entry.at_ms)
}

/// What a step did is written down after it was done: whoever died in between has not.
fn taken_at(journal: &[RunEntry]) -> Option<u64> {
    let first = || journal.iter().find(|entry| TAKE.contains(&entry.step.as_str()));
    did(journal, TAKE).or_else(|| first().map(|entry| entry.at_ms))
}

fn granted_at(document: &RunDocument) -> Option<u64> {
    let succeeded = document.state == RunState::Succeeded && document.started;
    let after = |entry: &&RunEntry| GRANTED.contains(&entry.step.as_str());
    let last = || document.journal.last().filter(|_| succeeded);
    let later = || document.journal.iter().find(after).or_else(last).map(|entry| entry.at_ms);
    did(&document.journal, &["grant"]).or_else(later)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::documents::{RunbookDocument, StepDocument};

    fn document(forced: bool, state: RunState, journal: &[(u64, &str, &str)]) -> RunDocument {
        let intent = match forced {
            true => IntentDocument::Failover {
                from: "eu".to_owned(),
                to: "us".to_owned(),
                attested: false,
            },
            false => IntentDocument::Switchover { range: "0-3".to_owned(), to: "us".to_owned() },
        };
        let entry = |(at_ms, step, what): &(u64, &str, &str)| RunEntry {
            at_ms: 1000 + at_ms,
            executor: "us".to_owned(),
            step: (*step).to_owned(),
            what: (*what).to_owned(),
            covers: None,
            hash: None,
        };
        RunDocument {
            run: "r".to_owned(),
            intent,
            runbook: None,
            started_at_ms: 1000,
            started_by: String::new(),
            from: Vec::new(),
            state,
            started: true,
            started_revision: 1,
            wish: None,
            approvals: Vec::new(),
            safety_override: None,
            answers: Default::default(),
            executor: None,
            estimated_loss_ms: 40,
            silent_ms: if forced { 2500 } else { 0 },
            after: None,
            steps: Vec::<StepDocument>::new(),
            journal: journal.iter().map(entry).collect(),
        }
    }

    #[test]
    fn what_is_waited_for_before_partitions_are_taken_keeps_nobody_from_writing() {
        let moved = [
            (10, "hand_over", "waits: partition 0-3 would be refused: region us is behind"),
            (900, "hand_over", "does: has partition 0-3 handed over to us"),
            (950, "grant", "is held up: the directory does not answer"),
            (970, "grant", "does: grants them to us"),
            (990, "run", "succeeded"),
        ];
        let measured = Measured::of(&document(false, RunState::Succeeded, &moved));
        assert_eq!((measured.without_owner_ms, measured.writes_paused_ms), (Some(70), Some(70)));
        let unfinished = Measured::of(&document(false, RunState::Running, &moved[..3]));
        assert_eq!(unfinished, Measured::default());
    }

    #[test]
    fn a_grant_that_was_not_written_down_was_before_what_follows_it() {
        let died = [
            (900, "hand_over", "waits: region eu is draining its writers"),
            (980, "verify", "does: writes a canary in region us"),
        ];
        let measured = Measured::of(&document(false, RunState::Running, &died));
        assert_eq!(measured.without_owner_ms, Some(80));
        let ended = [(900, "hand_over", "does: has it handed over"), (985, "run", "succeeded")];
        let measured = Measured::of(&document(false, RunState::Succeeded, &ended));
        assert_eq!(measured.without_owner_ms, Some(85));
        let back = [(900, "hand_over", "does: gives them back"), (985, "run", "aborted")];
        assert_eq!(Measured::of(&document(false, RunState::Aborted, &back)).without_owner_ms, None);
    }

    #[test]
    fn a_failover_is_measured_from_when_the_region_was_last_heard() {
        let journal = [
            (100, "fence", "does: fences eu"),
            (2400, "grant", "does: grants them to us"),
            (2450, "run", "succeeded"),
        ];
        let run = document(true, RunState::Succeeded, &journal);
        let measured = Measured::of(&run);
        assert_eq!(measured.without_owner_ms, Some(2300));
        assert_eq!(measured.writes_paused_ms, Some(4900));
        let told: Vec<String> = held(&run).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["4900 ms of 5s: met"], "as the ready-made runbook promises");
        let slower = RunDocument { silent_ms: 2700, ..run };
        let missed = lower_held(&held(&slower)[0]);
        let expected = ObjectiveDocument {
            objective: "rto".to_owned(),
            limit_ms: 5000,
            measured_ms: Some(5100),
            met: Some(false),
        };
        assert_eq!(missed, expected);
    }

    #[test]
    fn an_objective_of_a_file_is_held_against_its_own_runs() {
        let text =
            "name = \"mine\"\nabout = \"Mine.\"\n[objectives]\nrto = \"5s\"\nrpo = \"30ms\"\n
                    [[step]]\ndo = \"confirm_outage\"\n
                    [[step]]\ndo = \"fence\"\nfrom = \"eu\"\nto = \"us\"\n
                    [[step]]\ndo = \"seal\"\n[[step]]\ndo = \"cut\"\n[[step]]\ndo = \"catch_up\"\n
                    [[step]]\ndo = \"grant\"\n";
        let mut run = document(true, RunState::Running, &[]);
        run.runbook = Some(RunbookDocument {
            name: "mine".to_owned(),
            text: text.to_owned(),
            arguments: Default::default(),
            plan: String::new(),
        });
        let told: Vec<String> = held(&run).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["unknown, of 5s", "40 ms of 30ms: missed"]);
    }
}
