//! Is a sound file understood, every mistake of another one told, and no text able to do harm?

use proptest::prelude::*;

use super::*;
use crate::id::RunId;
use crate::progress::Rpo;
use crate::runbook::run::tests::{facts, lose_eu, play, region};
use crate::runbook::{Blocker, Effect, Intent, Next, Outcome, Plan, Recorded, Step, next, ready};

fn run() -> RunId {
    RunId("1".into())
}

fn arguments(list: &[(&str, &str)]) -> Arguments {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn mistakes(text: &str) -> Vec<String> {
    Runbook::parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

/// A sound file whose steps are these lines.
fn with_steps(steps: &str) -> String {
    format!("name = \"mine\"\nabout = \"Mine.\"\n{steps}")
}

const HAND_OVER: &str = "[[step]]\ndo = \"hand_over\"\npartitions = \"4-7\"\nto = \"us\"\n";
const REST: &str = "[[step]]\ndo = \"catch_up\"\n[[step]]\ndo = \"grant\"\n";

#[test]
fn what_comes_with_domicile_is_sound_and_named_as_its_file() {
    for (name, text) in ready::READY {
        assert_eq!(Runbook::parse(text).unwrap().name, *name);
        assert!(text.len() <= TEXT_BYTES_MAX);
    }
}

#[test]
fn the_examples_of_the_operators_page_are_sound() {
    let page =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operating/runbooks.md");
    let page = std::fs::read_to_string(page).unwrap();
    let examples: Vec<&str> =
        page.split("```toml\n").skip(1).filter_map(|after| after.split("```").next()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        assert_eq!(Runbook::parse(example).err(), None, "{example}");
    }
}

#[test]
fn the_ready_made_runbooks_are_what_their_intents_mean() {
    let (eu, us) = (|| "eu".parse().unwrap(), || "us".parse().unwrap());
    let range = PartitionRange::new(4, 7);
    let intents = [
        Intent::Failover { from: eu(), to: us(), attested: false },
        Intent::Failover { from: eu(), to: us(), attested: true },
        Intent::Switchover { range, to: us() },
        Intent::Evacuation { from: eu(), to: us() },
    ];
    for intent in intents {
        assert_eq!(Plan::ready(&run(), &intent).intent, intent);
    }
}

#[test]
fn a_value_may_stand_where_a_parameter_may() {
    let runbook = Runbook::parse(&with_steps(&format!("{HAND_OVER}{REST}"))).unwrap();
    let plan = runbook.plan(&run(), &Arguments::new()).unwrap();
    let range = PartitionRange::new(4, 7);
    assert_eq!(plan.intent, Intent::Switchover { range, to: "us".parse().unwrap() });
    let names: Vec<&str> = plan.steps.iter().map(|step| step.name()).collect();
    assert_eq!(names, ["hand_over", "catch_up", "grant"]);
}

#[test]
fn every_mistake_is_told_at_once_and_on_its_line() {
    let text = r#"name = "My Runbook"
steps = 3

[parameter.to]
type = "regoin"
about = "New owner"

[parameter.what]
type = "partitions"
default = "7-4"

[parameter.spare]
type = "flag"
about = "Nobody asks"

[[step]]
do = "hand_over"
partitions = "{to}"
to = "{too}"
from = "eu"

[[step]]
do = "fence"
from = "EU"
to = 7

[[step]]
do = "grant"
"#;
    assert_eq!(
        mistakes(text),
        [
            "line 1: name: \"My Runbook\" is not a runbook's name: use 1 to 64 lowercase letters, digits and hyphens",
            "line 1: about: missing",
            "line 2: steps: unknown key; known here: name, about, objectives, parameter, step",
            "line 5: parameter.to.type: \"regoin\" is not a type: expected region, partitions, flag, number, duration, name",
            "line 8: parameter.what.about: missing",
            "line 10: parameter.what.default: \"7-4\" is not a partition range: expected a number or two, as in 4 or 4-7",
            "line 12: parameter.spare: no step uses it",
            "line 19: step[1].to: there is no parameter \"too\": [parameter.too] is one",
            "line 20: step[1].from: unknown key; known here: do, partitions, to",
            "line 22: step[2]: step[1] is a hand_over: a runbook moves something once",
            "line 24: step[2].from: \"EU\" is not a region name: use 1 to 32 lowercase letters, digits and hyphens, starting with a letter",
            "line 25: step[2].to: expected the name of a region, as in \"eu\", found a number",
            "line 27: step[3]: no catch_up comes before grant: the new owner may lack what the old one wrote",
        ]
    );
}

/// An approval that is not waited for when it is urgent, and a message that is sent then alone.
const URGENT: &str =
    "[parameter.urgent]\ntype = \"flag\"\ndefault = false\nabout = \"Wait for nobody\"\n
    [[step]]\ndo = \"approve\"\nrole = \"dba\"\nif = \"!{urgent}\"\n
    [[step]]\ndo = \"notify\"\nwebhook = \"team\"\nif = \"{urgent}\"\n";

#[test]
fn a_flag_leaves_steps_out_and_the_others_keep_their_numbers() {
    let text = with_steps(&format!("{URGENT}{HAND_OVER}{REST}"));
    let runbook = Runbook::parse(&text).unwrap();
    let plan = |urgent: &str| runbook.plan(&run(), &arguments(&[("urgent", urgent)])).unwrap();
    let told = |plan: &Plan| {
        let steps = plan.steps[..2].iter().map(|step| (step.name(), step.explain()));
        steps.filter(|(_, explained)| explained.starts_with("skipped")).collect::<Vec<_>>()
    };
    let (calm, urgent) = (plan("false"), plan("true"));
    assert_eq!(told(&calm), [("notify", "skipped: urgent is false".to_owned())]);
    assert_eq!(told(&urgent), [("approve", "skipped: urgent is true".to_owned())]);
    assert_eq!(runbook.plan(&run(), &Arguments::new()).unwrap(), calm, "unless told otherwise");
    assert!(matches!(&urgent.steps[1], Step::Notify(notify) if notify.number == 1));
    assert_eq!(runbook.conditions[&0].to_string(), "!{urgent}");
    let ownership = facts(Rpo::None).ownership;
    assert_ne!(calm.decided(&ownership), urgent.decided(&ownership), "it is another plan");
}

#[test]
fn a_run_does_not_wait_for_a_step_that_is_left_out() {
    let text = with_steps(&format!("{URGENT}{HAND_OVER}{REST}"));
    let runbook = Runbook::parse(&text).unwrap();
    let what_is_next = |urgent: &str| {
        let plan = runbook.plan(&run(), &arguments(&[("urgent", urgent)])).unwrap();
        next(&plan, &Recorded::default(), &facts(Rpo::None))
    };
    let waits =
        |next: &Next| matches!(next, Next::Wait { step: 0, blocker: Blocker::Unapproved { .. } });
    assert!(waits(&what_is_next("false")), "{:?}", what_is_next("false"));
    let tells = |next: &Next| matches!(next, Next::Do { step: 1, effect: Effect::Send { .. } });
    assert!(tells(&what_is_next("true")), "{:?}", what_is_next("true"));
}

#[test]
fn a_step_is_left_out_by_a_flag_alone_and_only_where_nobody_s_writes_depend_on_it() {
    let flag = "[parameter.urgent]\ntype = \"flag\"\nabout = \"Now\"\n";
    let name = "[parameter.urgent]\ntype = \"name\"\nabout = \"Now\"\n";
    let approve = "[[step]]\ndo = \"approve\"\nrole = \"dba\"\nif = ";
    let cases = [
        (flag, "\"urgent\"", "step[1].if: expected a flag that a run is told"),
        (flag, "true", "step[1].if: expected a flag that a run is told"),
        (flag, "\"!{urgen}\"", "step[1].if: there is no parameter \"urgen\""),
        (name, "\"{urgent}\"", "step[1].if: parameter \"urgent\" is of type name: expected flag"),
    ];
    for (parameter, condition, expected) in cases {
        let told =
            mistakes(&with_steps(&format!("{parameter}{approve}{condition}\n{HAND_OVER}{REST}")));
        assert!(told.iter().any(|told| told.contains(expected)), "{expected}: {told:#?}");
    }
    let grant = format!("{flag}{HAND_OVER}{REST}if = \"{{urgent}}\"\n");
    let told = mistakes(&with_steps(&grant));
    assert!(told.iter().any(|told| told.contains("step[3].if: unknown key")), "{told:#?}");
}

const FORCED: &str = "[[step]]\ndo = \"confirm_outage\"\n
    [[step]]\ndo = \"fence\"\nfrom = \"eu\"\nto = \"us\"\n
    [[step]]\ndo = \"seal\"\n[[step]]\ndo = \"cut\"\n";

#[test]
fn what_a_file_promises_is_part_of_its_plan_and_not_of_what_is_approved() {
    let plan = |text: &str| {
        let runbook = Runbook::parse(&with_steps(text)).unwrap();
        runbook.plan(&run(), &Arguments::new()).unwrap()
    };
    let promised = |text: &str| plan(text).objectives;
    let both = "[objectives]\nrto = \"5s\"\nrpo = \"250ms\"\n";
    let (rto, rpo) = (Some(Millis(5000)), Some(Millis(250)));
    assert_eq!(promised(&format!("{both}{FORCED}{REST}")), Objectives { rto, rpo });
    let none = both.replace("250ms", "0");
    let rpo = Some(Millis(0));
    assert_eq!(promised(&format!("{none}{FORCED}{REST}")), Objectives { rto, rpo });
    let planned = format!("[objectives]\nrto = \"5s\"\n{HAND_OVER}{REST}");
    assert_eq!(promised(&planned), Objectives { rto, rpo: None });
    assert_eq!(promised(&format!("{HAND_OVER}{REST}")), Objectives::default());
    let ownership = facts(Rpo::None).ownership;
    let without = plan(&format!("{HAND_OVER}{REST}"));
    assert_eq!(plan(&planned).decided(&ownership), without.decided(&ownership));
}

#[test]
fn what_cannot_be_missed_or_measured_is_no_objective() {
    let for_each = "[[step]]\ndo = \"for_each\"\nrange_of = \"eu\"\nto = \"us\"\n";
    let seed = "[[step]]\ndo = \"seed\"\nregion = \"us\"\n";
    let (forced, planned) = (format!("{FORCED}{REST}"), format!("{HAND_OVER}{REST}"));
    let cases = [
        ("[objectives]", &*forced, "line 3: objectives: nothing is promised"),
        ("[objectives]\nrto = 5", &forced, "line 4: objectives.rto: expected a duration in quotes"),
        ("[objectives]\nrto = \"0\"", &forced, "line 4: objectives.rto: \"0\" is not a duration"),
        ("[objectives]\nrpo = \"5\"", &forced, "line 4: objectives.rpo: \"5\" is not a duration"),
        ("[objectives]\nrto = \"5s\"\nrta = 1", &forced, "line 5: objectives.rta: unknown key"),
        ("objectives = \"5s\"", &forced, "line 3: objectives: expected [objectives], found a text"),
        ("[objectives]\nrpo = \"5s\"", &planned, "line 4: objectives.rpo: nothing can be lost"),
        ("[objectives]\nrto = \"5s\"", for_each, "line 4: objectives.rto: each range is moved"),
        ("[objectives]\nrto = \"5s\"", seed, "line 4: objectives.rto: nobody waits while"),
    ];
    for (objectives, steps, expected) in cases {
        let told = mistakes(&with_steps(&format!("{objectives}\n{steps}")));
        assert!(told.len() == 1 && told[0].starts_with(expected), "{expected}: {told:#?}");
    }
}

#[test]
fn steps_that_could_lose_a_write_or_the_owner_are_refused() {
    let step = |name: &str| format!("[[step]]\ndo = \"{name}\"\n");
    let fence = "[[step]]\ndo = \"fence\"\nfrom = \"eu\"\nto = \"us\"\n".to_owned();
    let fence_canary = fence.replace("\"fence\"", "\"fence_canary\"");
    let hand_over = HAND_OVER.to_owned();
    let for_each = || "[[step]]\ndo = \"for_each\"\nrange_of = \"eu\"\nto = \"us\"\n".to_owned();
    let exec = || "[[step]]\ndo = \"exec\"\nprogram = \"drain\"\n".to_owned();
    let webhook = || "[[step]]\ndo = \"webhook\"\nwebhook = \"team\"\n".to_owned();
    let notify = || "[[step]]\ndo = \"notify\"\nwebhook = \"team\"\n".to_owned();
    let check = || "[[step]]\ndo = \"check\"\nregion = \"us\"\n".to_owned();
    let approve = || "[[step]]\ndo = \"approve\"\nrole = \"dba\"\n".to_owned();
    let cases = [
        (vec![step("grant")], "nothing says where the old owner's history ends"),
        (vec![hand_over.clone(), step("grant")], "no catch_up comes before grant"),
        (
            vec![hand_over.clone(), step("warm_up"), step("catch_up"), step("grant")],
            "no hand_over comes after warm_up",
        ),
        (vec![hand_over.clone(), step("catch_up")], "no grant comes after hand_over"),
        (
            vec![
                step("confirm_outage"),
                fence.clone(),
                step("cut"),
                step("catch_up"),
                step("grant"),
            ],
            "no seal comes before cut",
        ),
        (
            vec![
                step("confirm_outage"),
                fence.clone(),
                step("seal"),
                step("catch_up"),
                step("grant"),
            ],
            "no hand_over or cut comes before catch_up",
        ),
        (
            vec![hand_over.clone(), step("verify"), step("catch_up"), step("grant")],
            "no grant comes before verify",
        ),
        (
            vec![step("confirm_outage"), hand_over.clone(), step("catch_up"), step("grant")],
            "a runbook with confirm_outage has a fence",
        ),
        (
            vec![hand_over.clone(), step("catch_up"), step("grant"), hand_over.clone()],
            "hand_over stands in step[1] already",
        ),
        (
            vec![hand_over.clone(), step("catch_up"), step("grant"), fence.clone()],
            "step[1] is a hand_over",
        ),
        (vec![step("reroute")], "nothing moves"),
        (
            vec![hand_over.clone(), step("give_back"), step("catch_up"), step("grant")],
            "no grant comes before give_back",
        ),
        (
            vec![
                step("confirm_outage"),
                fence.clone(),
                step("seal"),
                step("cut"),
                step("catch_up"),
                step("grant"),
                step("give_back"),
            ],
            "no hand_over or fence_canary comes before give_back",
        ),
        (
            vec![
                step("confirm_outage"),
                fence.clone(),
                step("seal"),
                step("cut"),
                step("late_write"),
                step("catch_up"),
                step("grant"),
            ],
            "no fence_canary comes before late_write: somebody's rows would be written",
        ),
        (
            vec![
                fence_canary.clone(),
                step("seal"),
                step("cut"),
                step("catch_up"),
                step("grant"),
                step("late_write"),
            ],
            "the canary has a new owner by then: it comes before grant",
        ),
        (vec![for_each(), step("verify")], "verify follows it"),
        (
            vec![hand_over.clone(), for_each(), step("catch_up"), step("grant")],
            "step[1] is a hand_over",
        ),
        (
            vec![hand_over.clone(), exec(), step("catch_up"), step("grant")],
            "nobody could write while a program runs: it comes before hand_over or after grant",
        ),
        (
            vec![hand_over.clone(), webhook(), step("catch_up"), step("grant")],
            "nobody could write while a webhook is called: it comes before hand_over or after grant",
        ),
        (
            vec![hand_over.clone(), step("catch_up"), notify(), step("grant")],
            "nobody could write while somebody is told: it comes before hand_over or after grant",
        ),
        (
            vec![hand_over.clone(), check(), step("catch_up"), step("grant")],
            "nobody could write while a region is waited for: it comes before hand_over",
        ),
        (
            vec![hand_over.clone(), approve(), step("catch_up"), step("grant")],
            "nobody could write while people are waited for: it comes before hand_over",
        ),
    ];
    for (steps, expected) in cases {
        let told = mistakes(&with_steps(&steps.concat()));
        assert!(told.iter().any(|mistake| mistake.contains(expected)), "{expected}: {told:#?}");
    }
}

#[test]
fn what_is_no_runbook_at_all_is_told_as_such() {
    let deep = format!("name = {}1{}", "[".repeat(9000), "]".repeat(7000));
    for (text, expected) in [
        ("", "step: missing"),
        ("name = ", "line 1: "),
        ("step = 3\nname = \"a\"\nabout = \"b\"", "expected [[step]], found a number"),
        ("step = [3]\nname = \"a\"\nabout = \"b\"", "step[1]: expected [[step]], found a number"),
        ("name = \"a\"\nabout = \"b\"\n[[step]]\n", "step[1].do: missing"),
        ("name = \"a\"\nabout = \"b\"\nparameter = 3", "expected [parameter.NAME], found a number"),
        ("name = \"a\"\nname = \"b\"", "duplicate key"),
        (&with_steps("[[step]]\ndo = \"grnat\"\n"), "\"grnat\" is not a step"),
        (&"#".repeat(TEXT_BYTES_MAX + 1), "at most 16384 bytes"),
        (&deep, "line 1: "),
    ] {
        let told = mistakes(text);
        assert!(told.iter().any(|mistake| mistake.contains(expected)), "{expected}: {told:#?}");
    }
}

#[test]
fn people_are_asked_for_within_limits() {
    let step = |told: &str| {
        let text = format!("[[step]]\ndo = \"approve\"\nrole = \"dba\"\n{told}\n{HAND_OVER}{REST}");
        Runbook::parse(&with_steps(&text))
    };
    for sound in ["", "count = 2", "within = \"500ms\"", "count = 1000\nwithin = \"720h\""] {
        assert!(step(sound).is_ok(), "{sound}: {:?}", step(sound));
    }
    let runbook = step("count = 2\nwithin = \"90m\"").unwrap();
    let plan = runbook.plan(&run(), &Arguments::new()).unwrap();
    let explained = plan.steps[0].explain();
    assert_eq!(explained, "wait for 2 people of role dba to approve, for 90m at most");
    for wrong in [
        "count = 0",
        "count = -1",
        "count = 0x2",
        "count = 1001",
        "count = 99999999999999999999",
        "count = 1.5",
        "count = \"2\"",
        "within = 15",
        "within = \"15\"",
        "within = \"0s\"",
        "within = \"721h\"",
        "within = \"99999999999999999999h\"",
        "within = \"15 minutes\"",
        "role = \"DBA\"",
    ] {
        assert!(step(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_runbook_can_be_shown_as_it_was_written() {
    for (_, text) in ready::READY {
        for action in Runbook::parse(text).unwrap().actions {
            let keys: Vec<&str> = action.told().iter().map(|(key, _)| *key).collect();
            let listed = steps::step(action.name()).unwrap().keys.iter();
            assert_eq!(keys, listed.map(|key| key.name).collect::<Vec<_>>());
            for (key, told) in action.told() {
                assert!(text.contains(&format!("{key} = \"{told}\"")), "{key} = {told}");
            }
        }
    }
}

#[test]
fn what_a_run_is_told_is_checked_as_a_whole() {
    let failover = Runbook::parse(ready::text("failover").unwrap()).unwrap();
    let told = arguments(&[("from", "EU"), ("attest", "perhaps"), ("force", "true")]);
    let errors = failover.plan(&run(), &told).unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "there is no parameter \"force\"; there are: from, to, attest",
            "from: \"EU\" is not a region name: use 1 to 32 lowercase letters, digits and hyphens, starting with a letter",
            "to: missing: expected the name of a region, as in \"eu\"",
            "attest: \"perhaps\" is neither true nor false",
        ]
    );
}

#[test]
fn every_step_that_is_listed_can_be_read() {
    for kind in steps::STEPS {
        let keys = kind.keys.iter().map(|key| {
            let value = match key.kind {
                Kind::Region => "\"us\"",
                Kind::Partitions => "\"4\"",
                Kind::Flag => "true",
                Kind::Number => "2",
                Kind::Duration => "\"15m\"",
                Kind::Name => "\"dba\"",
            };
            format!("{} = {value}\n", key.name)
        });
        let step = format!("[[step]]\ndo = \"{}\"\n{}", kind.name, keys.collect::<String>());
        // Alone it may be out of order, but nothing else is wrong with it.
        for mistake in Runbook::parse(&with_steps(&step)).err().unwrap_or_default() {
            assert!(["step", "step[1]"].contains(&mistake.path.as_str()), "{mistake}");
        }
    }
}

#[test]
fn the_reference_page_is_current() {
    let page =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/runbooks.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&page, steps::reference()).unwrap();
    }
    let stands = std::fs::read_to_string(&page).unwrap_or_default();
    assert_eq!(stands, steps::reference(), "{} is stale: UPDATE=1 rewrites it", page.display());
}

/// Steps as a file may have them, in any order and number.
fn any_steps() -> impl Strategy<Value = Vec<&'static str>> {
    let all: Vec<&str> = steps::STEPS.iter().map(|kind| kind.name).collect();
    let shuffled = Just(all.clone()).prop_shuffle();
    let some = prop::collection::vec(prop::sample::select(all.clone()), 1..9);
    // As listed, with some left out: the only ones that can be sound.
    let sorted = prop::sample::subsequence(all, 1..9);
    prop_oneof![1 => shuffled, 2 => some, 4 => sorted]
}

proptest! {
    /// Whatever order is accepted moves what it says, and leaves an owner to everything.
    #[test]
    fn an_order_that_is_accepted_ends_with_an_owner_for_everything(steps in any_steps()) {
        let text: String = steps.iter().map(|name| {
            let keys = match *name {
                "approve" => "role = \"dba\"\n",
                "check" => "region = \"us\"\n",
                "exec" => "program = \"drain\"\n",
                "webhook" | "notify" => "webhook = \"team\"\n",
                "hand_over" => "partitions = \"3-5\"\nto = \"us\"\n",
                "fence" | "fence_canary" => "from = \"eu\"\nto = \"us\"\n",
                "for_each" => "range_of = \"eu\"\nto = \"us\"\n",
                "seed" => "region = \"us\"\n",
                _ => "",
            };
            format!("[[step]]\ndo = \"{name}\"\n{keys}")
        }).collect();
        if let Ok(runbook) = Runbook::parse(&with_steps(&text)) {
            let plan = runbook.plan(&run(), &Arguments::new()).unwrap();
            let mut facts = facts(Rpo::Zero { copies: 1 });
            facts.ownership = facts.ownership.with_canary(region("eu"));
            if matches!(plan.intent, Intent::Failover { .. }) {
                lose_eu(&mut facts);
            }
            let (_, outcome) = play(&plan, &mut facts);
            prop_assert_eq!(outcome, Outcome::Succeeded);
            for entry in facts.ownership.entries() {
                prop_assert!(entry.owner().is_some(), "{:?}", entry);
            }
            let moved = facts.ownership.entry(crate::id::PartitionId(4)).unwrap();
            let stays = ["give_back", "seed", "fence_canary"].iter().any(|step| steps.contains(step));
            let expected = if stays { "eu" } else { "us" };
            prop_assert_eq!(moved.owner().unwrap().as_str(), expected);
        }
    }

    #[test]
    fn no_text_does_harm(text in "\\PC*") {
        let _ = Runbook::parse(&text);
    }

    /// Nearly sound texts get further into the reader than noise does.
    #[test]
    fn a_damaged_file_is_sound_or_told_its_mistakes(
        which in 0..ready::READY.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0..4, any::<char>()), 1..6),
    ) {
        let mut lines: Vec<String> = ready::READY[which].1.lines().map(str::to_owned).collect();
        for (at, how, letter) in damage {
            let at = at.index(lines.len());
            match how {
                0 => lines[at].clear(),
                1 => { let line = lines[at].clone(); lines.insert(at, line) }
                2 => { let last = lines.len() - 1; lines.swap(at, last) }
                _ => {
                    let cut = lines[at].char_indices().nth(3).map_or(0, |(i, _)| i);
                    lines[at].insert(cut, letter);
                }
            }
        }
        // The letter may be a line feed, so the lines are counted in the text.
        let text = lines.join("\n");
        let count = text.split('\n').count();
        match Runbook::parse(&text) {
            Ok(runbook) => {
                let told = arguments(&[("from", "eu"), ("to", "us"), ("partitions", "4")]);
                let _ = runbook.plan(&run(), &told);
            }
            Err(mistakes) => {
                prop_assert!(!mistakes.is_empty());
                for mistake in mistakes {
                    prop_assert!((1..=count).contains(&mistake.line), "{}", mistake);
                }
            }
        }
    }
}
