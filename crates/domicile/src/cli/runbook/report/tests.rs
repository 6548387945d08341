//! Is the story of a run told whole, whatever stands in its journal?

use std::path::Path;

use domicile_core::runbook::ready;

use super::*;
use crate::directory::documents::{IntentDocument, RunbookDocument, StepDocument, WishDocument};

fn document() -> RunDocument {
    let steps = ["hand_over", "catch_up", "grant", "reroute", "verify"]
        .map(|name| StepDocument { name: name.to_owned(), explain: format!("explains {name}") });
    let journal = [
        (40, "hand_over", "does: has partition 4-7 handed over to us"),
        (310, "hand_over", "waits: region eu is draining its writers"),
        (520, "catch_up", "waits: region us is at 0/10 | and needs <0/20>"),
        (760, "grant", "does: grants them to us"),
        (765, "verify", "does: writes a canary in region us"),
        (800, "run", "succeeded"),
    ];
    let start = 1_764_252_201_000;
    let entry = |(after, step, what): (u64, &str, &str)| RunEntry {
        at_ms: start + after,
        executor: "us".to_owned(),
        step: step.to_owned(),
        what: what.to_owned(),
        covers: None,
        hash: None,
    };
    RunDocument {
        run: "0198c3a1-0000-7000-8000-000000000001".to_owned(),
        intent: IntentDocument::Switchover { range: "4-7".to_owned(), to: "us".to_owned() },
        runbook: Some(RunbookDocument {
            name: "switchover".to_owned(),
            text: ready::text("switchover").unwrap().to_owned(),
            arguments: [("partitions", "4-7"), ("to", "us")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            plan: "3f9a1c0b2d4e".to_owned(),
        }),
        started_at_ms: start,
        started_by: "ada".to_owned(),
        from: Vec::new(),
        state: RunState::Succeeded,
        executor: Some("us".to_owned()),
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
        journal: journal.map(entry).to_vec(),
    }
}

#[test]
fn a_step_lasts_until_the_next_one_begins() {
    let story = Story::of(&document());
    let spans: Vec<(&str, u64, u64)> =
        story.timeline.iter().map(|s| (s.step.as_str(), s.from_ms, s.until_ms)).collect();
    let expected =
        [("hand_over", 40, 520), ("catch_up", 520, 760), ("grant", 760, 765), ("verify", 765, 800)];
    assert_eq!(spans, expected);
    assert_eq!((story.took_ms, story.without_owner_ms), (800, Some(720)));
    assert_eq!(story.started_at, "2025-11-27 14:03:21 UTC");
}

#[test]
fn who_has_had_a_run_forced_stands_in_its_story() {
    let mut forced = document();
    forced.state = RunState::Escalated;
    forced.wish = Some(WishDocument::Escalate {
        by: "ada".to_owned(),
        from: "eu".to_owned(),
        attested: true,
        estimated_loss_ms: 120,
    });
    let story = Story::of(&forced);
    let page = markdown(&story);
    assert!(page.contains("| State | escalated |"), "{page}");
    let told = "| Escalated | ada, who vouched for it: region eu is gone; estimated loss 120 ms; run \
                0198c3a1-0000-7000-8000-000000000001/forced |";
    assert!(page.contains(told), "{page}");
    assert_eq!(serde_json::to_value(&story).unwrap()["escalation"]["estimated_loss_ms"], 120);
    assert_eq!(Story::of(&document()).escalation, None);
}

#[test]
fn who_has_had_a_run_begin_against_the_rules_stands_in_its_story() {
    let mut run = document();
    run.note_override(OverrideDocument {
        by: "ada".to_owned(),
        reason: "the audit".to_owned(),
        against: vec!["it is frozen".to_owned()],
    });
    let page = markdown(&Story::of(&run));
    assert!(page.contains("| Safety overridden | ada: the audit; it is frozen |"), "{page}");
    assert!(page.contains("overrides the rules of safety: the audit"), "{page}");
    assert!(!markdown(&Story::of(&document())).contains("afety"));
}

#[test]
fn the_reports_are_as_they_were_reviewed() {
    let story = Story::of(&document());
    for (file, printed) in [("run.md", markdown(&story)), ("run.html", html(&story))] {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/runbook/report/golden").join(file);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &printed).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(expected, printed, "{} is stale: UPDATE=1 rewrites it", file.display());
    }
}

#[test]
fn nothing_in_a_journal_breaks_out_of_its_report() {
    let mut document = document();
    document.journal[0].what = "<script>alert(1)</script> | \n# \"a\" & b".to_owned();
    document.started_by = "<b>".to_owned();
    let story = Story::of(&document);
    let page = html(&story);
    assert!(!page.contains("<script>") && !page.contains("<b>"), "{page}");
    assert!(!page.contains("http"), "everything is in the page itself");
    let page = markdown(&story);
    assert!(page.contains("&lt;script>alert(1)&lt;/script> \\|  # \"a\" &amp; b |\n"), "{page}");
}

#[test]
fn a_run_that_has_done_nothing_and_one_whose_clocks_disagree_can_be_told() {
    let mut silent = document();
    silent.journal.clear();
    silent.state = RunState::Running;
    let mut backwards = document();
    backwards.journal[2].at_ms = 0;
    backwards.journal[5].at_ms = 3;
    for document in [silent, backwards] {
        let story = Story::of(&document);
        assert!(!markdown(&story).is_empty() && !html(&story).is_empty());
    }
}
