use super::*;
use crate::progress::Exposure;
use crate::runbook::plan::{Refusal, plan};
use crate::runbook::run::next;
use crate::runbook::run::tests::{facts, lose_eu, perform, play, recorded, region, run, settle};
use crate::runbook::{Blocker, Effect, Next, Outcome, Recorded, Wish, part_of};

const LOSSY: Rpo = Rpo::None;
const NOW: Wall = Wall(1_000_000);

/// Three regions with three partitions each: of eu are 3 to 5, and the canary.
fn world(policy: Policy) -> Facts {
    let mut facts = facts(LOSSY);
    facts.ownership = facts.ownership.with_canary(region("eu"));
    facts.safety = Safety { policy, begun: Vec::new(), now: NOW };
    facts
}

fn frozen(of: Frozen) -> Policy {
    let (by, reason) = ("ada".to_owned(), "the sale".to_owned());
    Policy { freeze: Some(Freeze { of, by, reason }), ..Policy::default() }
}

fn to_us(first: u32, last: u32) -> Intent {
    Intent::Switchover { range: PartitionRange::new(first, last), to: region("us") }
}

fn of_canary() -> Intent {
    Intent::Switchover { range: PartitionRange::CANARY, to: region("us") }
}

fn forced_drill() -> Intent {
    Intent::ForcedDrill { from: region("eu"), to: region("us") }
}

fn evacuation() -> Intent {
    Intent::Evacuation { from: region("eu"), to: region("us") }
}

fn failover() -> Intent {
    Intent::Failover { from: region("eu"), to: region("us"), attested: false }
}

/// What the rules say against it; there is nothing else against it.
fn refused(intent: &Intent, facts: &Facts) -> Vec<Violation> {
    let Err(reasons) = plan(&run(), intent, facts) else { return Vec::new() };
    let violation = |reason: Refusal| match reason {
        Refusal::Safety(violation) => violation,
        other => panic!("{other}"),
    };
    reasons.into_iter().map(violation).collect()
}

fn overridden(facts: &Facts) -> Facts {
    let by_hand = Override { by: "ben".into(), reason: "it burns".into() };
    Facts { overridden: Some(by_hand), ..facts.clone() }
}

fn begun(by: &str, first: u32, last: u32, ago: u64) -> Begun {
    let range = PartitionRange::new(first, last);
    Begun { run: RunId(by.into()), range, at: Wall(NOW.0 - ago) }
}

fn exposed(facts: &mut Facts, age: u64) {
    let eu = facts.regions.get_mut(&region("eu")).unwrap();
    eu.exposure = Exposure { age: Millis(age), ..Exposure::default() };
}

/// Goes on until the run waits for something, or has ended.
fn until_it_waits(intent: &Intent, facts: &mut Facts) -> Next {
    let plan = Plan::ready(&run(), intent);
    loop {
        match next(&plan, &recorded(facts.in_hands(&run())), facts) {
            Next::Do { effect, .. } => perform(facts, effect),
            waits => return waits,
        }
    }
}

#[test]
fn what_is_planned_does_not_begin_while_it_is_frozen() {
    let facts = world(frozen(Frozen::Planned));
    let Policy { freeze: Some(freeze), .. } = frozen(Frozen::Planned) else { unreachable!() };
    for intent in [to_us(3, 5), evacuation(), of_canary(), forced_drill()] {
        let expected = Violation::Frozen(freeze.clone());
        assert_eq!(refused(&intent, &facts), std::slice::from_ref(&expected), "{intent}");
        assert_eq!(refused(&intent, &overridden(&facts)), [], "{intent}");
        assert_eq!(refused(&intent, &world(Policy::default())), [], "{intent}");
        assert!(expected.to_string().contains("as ada wanted: the sale"), "{expected}");
    }
}

#[test]
fn a_failover_begins_though_what_is_planned_is_frozen_and_not_while_all_is() {
    for (of, refusals) in [(Frozen::Planned, 0), (Frozen::All, 1)] {
        let mut facts = world(frozen(of));
        lose_eu(&mut facts);
        assert_eq!(refused(&failover(), &facts).len(), refusals, "{of}");
        assert_eq!(refused(&failover(), &overridden(&facts)), []);
    }
}

#[test]
fn a_run_that_has_taken_nothing_waits_for_the_end_of_a_freeze() {
    for intent in [to_us(3, 5), forced_drill()] {
        let mut facts = world(frozen(Frozen::Planned));
        // It was planned before.
        let waits = until_it_waits(&intent, &mut facts);
        let Next::Wait { blocker, .. } = &waits else { panic!("{waits:?}") };
        assert!(blocker.to_string().contains("the sale"), "{blocker}");
        assert!(!facts.in_hands(&run()));
        facts.safety.policy = Policy::default();
        until_it_waits(&intent, &mut facts);
        assert!(facts.in_hands(&run()), "{intent}");
    }
    let mut facts = world(frozen(Frozen::All));
    lose_eu(&mut facts);
    let waits = until_it_waits(&failover(), &mut facts);
    let against_safety =
        |next: &Next| matches!(next, Next::Wait { blocker: Blocker::AgainstSafety { .. }, .. });
    assert!(against_safety(&waits), "{waits:?}");
    assert!(!against_safety(&until_it_waits(&failover(), &mut overridden(&facts))));
}

#[test]
fn what_is_in_the_hands_of_a_run_goes_on_though_all_is_frozen() {
    for intent in [to_us(3, 5), of_canary(), failover()] {
        let mut facts = world(Policy::default());
        if let Intent::Failover { .. } = intent {
            lose_eu(&mut facts);
        }
        let plan = plan(&run(), &intent, &facts).unwrap();
        loop {
            match next(&plan, &recorded(false), &facts) {
                Next::Do { effect, .. } => perform(&mut facts, effect),
                Next::Wait { blocker, .. } => settle(&mut facts, &blocker, &plan),
                Next::Finished(outcome) => panic!("{outcome:?}"),
            }
            if facts.in_hands(&run()) {
                break;
            }
        }
        facts.safety.policy = frozen(Frozen::All);
        let (story, outcome) = play(&plan, &mut facts);
        assert_eq!(outcome, Outcome::Succeeded, "{intent}: {story:?}");
    }
}

#[test]
fn a_forced_run_that_may_lose_too_much_does_not_begin() {
    let mut facts = world(Policy { loss_max: Some(Millis(250)), ..Policy::default() });
    lose_eu(&mut facts);
    exposed(&mut facts, 250);
    assert_eq!(refused(&failover(), &facts), []);
    exposed(&mut facts, 251);
    let (loss, max) = (Millis(251), Millis(250));
    assert_eq!(refused(&failover(), &facts), [Violation::TooLossy { loss, max }]);
    assert_eq!(refused(&failover(), &overridden(&facts)), []);
    let waits = until_it_waits(&failover(), &mut facts);
    let Next::Wait { blocker: Blocker::AgainstSafety { violations }, .. } = waits else {
        panic!("{waits:?}")
    };
    assert_eq!(violations, [Violation::TooLossy { loss, max }]);
    facts.safety.policy.loss_max = None;
    assert_eq!(refused(&failover(), &facts), []);
}

#[test]
fn a_loss_that_nobody_knows_is_as_much_as_the_rpo_allows() {
    let policy = Policy { loss_max: Some(Millis(250)), ..Policy::default() };
    let within = |age| Rpo::Within { copies: 1, age: Millis(age) };
    let (loss, max) = (Millis(300), Millis(250));
    for (rpo, expected) in [
        (Rpo::Zero { copies: 1 }, None),
        (within(200), None),
        (within(300), Some(Violation::TooLossy { loss, max })),
        (Rpo::None, Some(Violation::LossUnknown { max })),
    ] {
        let mut facts = world(policy.clone());
        facts.rpo = rpo;
        lose_eu(&mut facts);
        facts.regions.get_mut(&region("eu")).unwrap().unheard = true;
        let refused = refused(&failover(), &facts);
        assert_eq!(refused.first(), expected.as_ref(), "{rpo:?}");
    }
}

#[test]
fn partitions_do_not_move_again_before_the_interval_is_over() {
    let mut facts = world(Policy { interval_min: Some(Millis(5000)), ..Policy::default() });
    facts.safety.begun = vec![begun("other", 5, 6, 4999), begun("other", 3, 3, 5000)];
    let (range, ago, min) = (PartitionRange::new(5, 5), Millis(4999), Millis(5000));
    assert_eq!(refused(&to_us(3, 5), &facts), [Violation::TooSoon { range, ago, min }]);
    assert_eq!(refused(&to_us(3, 4), &facts), [], "of these it is over");
    assert_eq!(refused(&to_us(3, 5), &overridden(&facts)), []);
    // What the run itself has said before is not another hand-over.
    facts.safety.begun[0].run = run();
    assert_eq!(refused(&to_us(3, 5), &facts), []);
    facts.safety.begun[0].run = RunId("other".into());
    lose_eu(&mut facts);
    assert_eq!(refused(&failover(), &facts), [], "a failover does not wait");
}

#[test]
fn only_so_many_partitions_move_within_a_minute() {
    let max = 4;
    let mut facts = world(Policy { partitions_per_minute_max: Some(max), ..Policy::default() });
    facts.safety.begun = vec![begun("other", 0, 1, 59_999), begun("another", 6, 8, 60_000)];
    assert_eq!(refused(&to_us(3, 4), &facts), []);
    let too_many = Violation::TooMany { partitions: 3, before: 2, max };
    assert_eq!(refused(&to_us(3, 5), &facts), [too_many]);
    assert_eq!(refused(&to_us(3, 5), &overridden(&facts)), []);
    assert_eq!(refused(&of_canary(), &facts), [], "nobody's rows are not counted");
    assert_eq!(refused(&evacuation(), &facts), [], "each of its ranges is asked about by itself");
    lose_eu(&mut facts);
    assert_eq!(refused(&failover(), &facts), [], "a failover does not wait");
}

#[test]
fn a_range_of_an_evacuation_waits_for_its_turn() {
    let mut facts = world(Policy { partitions_per_minute_max: Some(3), ..Policy::default() });
    facts.safety.begun = vec![begun("other", 0, 0, 1000)];
    let waits = until_it_waits(&evacuation(), &mut facts);
    let Next::Wait { blocker: blocker @ Blocker::NotNow { .. }, .. } = waits else {
        panic!("{waits:?}")
    };
    assert!(blocker.to_string().contains("after 1 within the last minute"), "{blocker}");
    facts.safety.now = Wall(NOW.0 + 59_000);
    let plan = Plan::ready(&run(), &evacuation());
    let part = part_of(&run(), PartitionRange::new(3, 5));
    let begins = Effect::Begin { run: part, intent: to_us(3, 5) };
    let next = next(&plan, &Recorded::default(), &facts);
    assert!(matches!(&next, Next::Do { effect, .. } if *effect == begins), "{next:?}");
}

#[test]
fn a_clock_that_is_wrong_by_far_forbids_nothing() {
    let policy = Policy { interval_min: Some(Millis(5000)), ..Policy::default() };
    for (ahead, refusals) in [(4999, 1), (5000, 0)] {
        let mut facts = world(policy.clone());
        facts.safety.begun = vec![begun("other", 3, 5, 0)];
        facts.safety.begun[0].at = Wall(NOW.0 + ahead);
        assert_eq!(refused(&to_us(3, 5), &facts).len(), refusals, "{ahead} ms ahead");
    }
}

#[test]
fn what_has_begun_is_noted_once_and_forgotten_when_no_rule_asks_any_more() {
    let policy = Policy { interval_min: Some(Millis(120_000)), ..Policy::default() };
    let old = [begun("older", 0, 0, 120_000), begun("old", 1, 1, 119_999), begun("1", 3, 3, 50)];
    let safety = Safety { policy, begun: old.to_vec(), now: NOW };
    let noted = safety.noting(&RunId("1".into()), &[PartitionRange::new(3, 5)]);
    assert_eq!(noted.begun, [begun("old", 1, 1, 119_999), begun("1", 3, 5, 0)]);
}

/// Whoever writes it asks by the change alone, and hears the same.
#[test]
fn a_change_that_begins_something_is_asked_about_and_none_that_ends_it() {
    let facts = world(Policy::default());
    let (run, to, from) = (run(), region("us"), region("eu"));
    let range = PartitionRange::new(2, 7);
    let asked = |change: &OwnershipChange| {
        Undertaking::of_change(change, &facts.ownership, Some(Millis(7)))
    };
    let hand_over = |range| OwnershipChange::HandOver { range, to: to.clone(), run: run.clone() };
    let of_plan = |intent: &Intent| Undertaking::of_plan(&Plan::ready(&run, intent), &facts);
    assert_eq!(asked(&hand_over(range)), Some(of_plan(&to_us(2, 7))));
    assert_eq!(asked(&hand_over(PartitionRange::CANARY)), Some(of_plan(&of_canary())));
    let fence_canary = OwnershipChange::FenceCanary { from: from.clone(), run: run.clone() };
    assert_eq!(asked(&fence_canary), Some(of_plan(&forced_drill())));
    let fence = OwnershipChange::Fence { from: from.clone(), run: run.clone() };
    assert_eq!(asked(&fence), Some(Undertaking::TakeOver { loss: Some(Millis(7)) }));
    let leave = OwnershipChange::Leave { region: from };
    assert_eq!(asked(&leave), Some(Undertaking::Membership));
    for goes_on in [
        OwnershipChange::Grant { run: run.clone(), to: to.clone() },
        OwnershipChange::HandBack { run },
        OwnershipChange::AddCanary { by: to },
    ] {
        assert_eq!(asked(&goes_on), None, "{goes_on:?}");
    }
}

#[test]
fn a_run_whose_source_is_lost_is_forced_though_all_is_frozen_when_a_person_wants_that_too() {
    let mut facts = world(Policy::default());
    until_it_waits(&to_us(3, 5), &mut facts);
    lose_eu(&mut facts);
    facts.safety.policy = frozen(Frozen::All);
    let wish = Wish::Escalate { by: "ben".into(), from: region("eu"), attested: false };
    let recorded = Recorded { wish: Some(wish), ..recorded(true) };
    let plan = Plan::ready(&run(), &to_us(3, 5));
    let begins = |facts: &Facts| {
        let next = next(&plan, &recorded, facts);
        matches!(
            next,
            Next::Do { effect: Effect::Begin { intent: Intent::Failover { .. }, .. }, .. }
        )
    };
    assert!(!begins(&facts) && begins(&overridden(&facts)));
}
