//! May the steps follow one another as they do?
//!
//! What is refused here could lose a write, give an epoch to two, or leave nobody as the owner.

use super::mistake::Mistakes;
use super::steps::StepKind;

/// A step where the file has it.
pub(super) struct Placed {
    pub kind: &'static StepKind,
    pub path: String,
    pub line: usize,
}

/// The steps that take partitions away from their owner.
const TAKES: &[&str] = &["hand_over", "fence", "fence_canary", "for_each"];

/// What only waits for others, perhaps for long, and for whom; any number of them.
const FIRST: &[(&str, &str)] = &[("approve", "people are"), ("check", "a region is")];

/// What acts outside, and what is waited for meanwhile; any number of them.
const OUTSIDE: &[(&str, &str)] = &[
    ("exec", "a program runs"),
    ("webhook", "a webhook is called"),
    ("notify", "somebody is told"),
];

pub(super) fn check(steps: &[Placed], mistakes: &mut Mistakes) {
    for (i, step) in steps.iter().enumerate() {
        let (before, after) = (&steps[..i], &steps[i + 1..]);
        let name = step.kind.name;
        let mut refuse = |why: String| mistakes.add(&step.path, step.line, why);
        if let Some((_, meanwhile)) = OUTSIDE.iter().find(|(outside, _)| *outside == name) {
            let taken = before.iter().find(|other| TAKES.contains(&other.kind.name));
            if let (Some(first), false) = (taken, has(before, &["grant"])) {
                let taken = first.kind.name;
                refuse(format!(
                    "nobody could write while {meanwhile}: it comes before {taken} or after grant"
                ));
            }
            continue;
        }
        if let Some((_, waited_for)) = FIRST.iter().find(|(first, _)| *first == name) {
            if let Some(first) = before.iter().find(|other| TAKES.contains(&other.kind.name)) {
                let taken = first.kind.name;
                refuse(format!(
                    "nobody could write while {waited_for} waited for: it comes before {taken}"
                ));
            }
            continue;
        }
        if let Some(first) = before.iter().find(|other| other.kind.name == name) {
            refuse(format!("{name} stands in {} already", first.path));
            continue;
        }
        if name == "warm_up" && !has(after, &["hand_over"]) {
            refuse("no hand_over comes after warm_up: nothing else has sessions move".to_owned());
        }
        if name == "seed" && has(steps, TAKES) {
            refuse(
                "a runbook that adds a region moves nothing: that is for another run".to_owned(),
            );
        }
        if TAKES.contains(&name) {
            if let Some(first) = before.iter().find(|other| TAKES.contains(&other.kind.name)) {
                let (path, other) = (&first.path, first.kind.name);
                refuse(format!("{path} is a {other}: a runbook moves something once"));
                continue;
            }
            if name != "for_each" && !has(after, &["grant"]) {
                refuse(format!("no grant comes after {name}: nobody could write any more"));
            }
        }
        if let (true, Some(next)) = (name == "for_each", after.first()) {
            let next = next.kind.name;
            refuse(format!(
                "{next} follows it: the runs that it starts do everything there is to do"
            ));
        }
        if name == "late_write" && has(before, &["grant"]) {
            refuse("the canary has a new owner by then: it comes before grant".to_owned());
        }
        if name == "confirm_outage" && !has(steps, &["fence"]) {
            refuse("nothing comes of it: a runbook with confirm_outage has a fence".to_owned());
        }
        for needs in step.kind.after.iter().filter(|needs| !has(before, needs.one_of)) {
            let names = needs.one_of.join(" or ");
            refuse(format!("no {names} comes before {name}: {}", needs.because));
        }
    }
    if !has(steps, TAKES) && !has(steps, &["seed"]) {
        let line = steps.first().map_or(1, |step| step.line);
        mistakes.add(
            "step",
            line,
            "nothing moves: a runbook has a hand_over, a fence, a fence_canary or a for_each, or a seed",
        );
    }
}

/// Does a step of this name only wait for others, or act outside, beside what moves?
pub(super) fn is_beside(name: &str) -> bool {
    FIRST.iter().chain(OUTSIDE).any(|(beside, _)| *beside == name)
}

fn has(steps: &[Placed], names: &[&str]) -> bool {
    steps.iter().any(|step| names.contains(&step.kind.name))
}
