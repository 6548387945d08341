//! Is every change found that somebody could make to the history, and none seen where there is none?

use super::*;
use crate::directory::documents::{ApprovalDocument, IntentDocument};

fn run(id: &str, ended_at_ms: u64, after: Option<LinkDocument>) -> RunDocument {
    let mut run = RunDocument {
        run: id.to_owned(),
        intent: IntentDocument::Switchover { range: "0-3".to_owned(), to: "us".to_owned() },
        runbook: None,
        started_at_ms: ended_at_ms - 100,
        started_by: "ada".to_owned(),
        from: vec!["eu".to_owned()],
        state: RunState::Running,
        started: true,
        started_revision: 7,
        wish: None,
        approvals: vec![ApprovalDocument { role: "dba".to_owned(), by: "ada".to_owned() }],
        safety_override: None,
        answers: Default::default(),
        executor: Some("us".to_owned()),
        estimated_loss_ms: 0,
        silent_ms: 0,
        after: None,
        steps: Vec::new(),
        journal: Vec::new(),
    };
    run.note(ended_at_ms - 50, "us", "hand_over", "does: has it handed over".to_owned());
    run.note(ended_at_ms - 20, "us", "grant", "does: grants them to us".to_owned());
    run.state = RunState::Succeeded;
    run.close(ended_at_ms, "us", "succeeded".to_owned(), after);
    run
}

/// Three runs, one after the other.
fn history() -> Vec<RunDocument> {
    let mut runs: Vec<RunDocument> = Vec::new();
    for (id, ended_at_ms) in [("a", 1000), ("b", 2000), ("c", 3000)] {
        let after = last_end(runs.iter());
        runs.push(run(id, ended_at_ms, after));
    }
    runs
}

fn verified(runs: &[RunDocument]) -> Verified {
    let stored: Vec<Vec<u8>> = runs.iter().map(|run| serde_json::to_vec(run).unwrap()).collect();
    verify(stored.iter().map(Vec::as_slice)).unwrap()
}

fn told(runs: &[RunDocument]) -> Vec<String> {
    let broken = verified(runs).broken.into_iter();
    let line = |entry: Option<usize>| entry.map_or("run".to_owned(), |entry| entry.to_string());
    broken.map(|it| format!("{} {}: {}", it.run, line(it.entry), it.why)).collect()
}

#[test]
fn what_was_not_changed_holds() {
    let runs = history();
    let verified = verified(&runs);
    assert_eq!((verified.chained, verified.unchained.len(), verified.broken.len()), (3, 0, 0));
    assert_eq!(verified.last, runs[2].end());
    assert_eq!(runs[1].after, runs[0].end());
    assert_eq!(told(&[]), [""; 0]);
}

#[test]
fn a_change_to_any_part_of_a_run_is_found() {
    type Change = fn(&mut RunDocument);
    let line = "this line, what stood before it or the head of the run was changed";
    let beside = "what the document says beside its journal was changed after its end";
    let cases: &[(Change, &str, &str)] = &[
        (|run| run.journal[0].what = "does: nothing".to_owned(), "b 1", line),
        (|run| run.journal[1].at_ms -= 1, "b 2", line),
        (|run| run.journal[1].executor = "ap".to_owned(), "b 2", line),
        (|run| drop(run.journal.remove(1)), "b 2", line),
        (|run| run.journal.swap(0, 1), "b 1", line),
        (|run| run.journal[1].hash = None, "b 2", "it has no hash, and lines before it do"),
        (|run| run.started_by = "bob".to_owned(), "b 1", line),
        (|run| run.from.clear(), "b 1", line),
        (|run| run.approvals[0].by = "eve".to_owned(), "b run", beside),
        (|run| run.state = RunState::Failed, "b run", beside),
        (|run| run.after = None, "b run", beside),
    ];
    for (change, place, why) in cases {
        let mut runs = history();
        change(&mut runs[1]);
        assert_eq!(told(&runs), [format!("{place}: {why}")]);
    }
}

#[test]
fn a_run_that_is_written_anew_or_taken_out_is_missed_by_the_one_that_ended_next() {
    let mut runs = history();
    let after = runs[0].end();
    runs[1] = run("b", 1990, after);
    let expected = "c run: run b ended before it, and not as it stands in the history now";
    assert_eq!(told(&runs), [expected]);

    let mut runs = history();
    runs[1].journal.truncate(2);
    let ended = "b run: the line with which it ended is not there any more";
    assert_eq!(told(&runs), [ended, expected]);

    let mut runs = history();
    for entry in &mut runs[1].journal {
        (entry.hash, entry.covers) = (None, None);
    }
    assert_eq!(told(&runs), [expected], "an older Domicile has not written it");

    let mut runs = history();
    runs.remove(1);
    let expected = "c run: run b ended before it, and was taken out of the history";
    assert_eq!(told(&runs), [expected]);
}

#[test]
fn the_oldest_runs_may_be_forgotten() {
    let mut runs = history();
    runs.remove(0);
    assert_eq!((told(&runs), verified(&runs).chained), (Vec::new(), 2));
    runs.remove(0);
    assert_eq!((told(&runs), verified(&runs).chained), (Vec::new(), 1));
}

#[test]
fn a_run_from_before_there_were_hashes_is_unchained_and_what_is_added_to_it_chained() {
    let mut old = run("a", 1000, None);
    for entry in &mut old.journal {
        (entry.hash, entry.covers) = (None, None);
    }
    let of = |run: &RunDocument| verified(std::slice::from_ref(run));
    assert_eq!((of(&old).unchained, of(&old).broken), (vec!["a".to_owned()], Vec::new()));
    old.state = RunState::Running;
    old.note(1100, "us", "run", "goes on".to_owned());
    assert_eq!((of(&old).unchained.len(), of(&old).broken.len()), (1, 0));
    old.journal[0].what = "does: nothing".to_owned();
    assert_eq!(of(&old).broken[0].entry, Some(4), "the first line that is chained says so");
}

#[test]
fn a_run_that_goes_on_after_its_end_was_noted_breaks_nothing() {
    let mut runs = history();
    runs[1].state = RunState::Running;
    assert_eq!(told(&runs), [""; 0]);
    runs[1].note(3100, "ap", "grant", "does: grants them to us".to_owned());
    runs[1].state = RunState::Succeeded;
    let after = runs[2].end();
    runs[1].close(3200, "ap", "succeeded".to_owned(), after);
    assert_eq!(told(&runs), [""; 0]);
    assert_eq!(verified(&runs).last, runs[1].end());
}

#[test]
fn what_another_version_adds_to_a_document_counts() {
    let runs = history();
    let mut stored = serde_json::to_value(&runs[0]).unwrap();
    stored["newer"] = "field".into();
    let broken = verify([stored.to_string().as_bytes()].into_iter()).unwrap().broken;
    assert_eq!(broken.len(), 1);
}
