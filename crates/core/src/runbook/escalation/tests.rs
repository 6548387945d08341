//! A planned run whose source is lost ends by force, once, whenever that happens and whoever goes on with it.

use super::*;
use crate::id::{Origin, PartitionId, PartitionRange};
use crate::lsn::{Cut, Lsn};
use crate::ownership::OwnershipChange;
use crate::progress::Rpo;
use crate::runbook::run::next;
use crate::runbook::run::tests::{
    drill, evacuation, facts, failover, go_on, go_on_with, lose_eu, owner, perform, play, recorded,
    region, run, settle, switchover,
};
use crate::runbook::{Facts, ended, part_of, plan};

const RPO: Rpo = Rpo::Zero { copies: 1 };

fn wish(attested: bool) -> Recorded {
    let wish = Wish::Escalate { by: "ada".into(), from: region("eu"), attested };
    Recorded { wish: Some(wish), ..recorded(true) }
}

fn to_us(attested: bool) -> Intent {
    Intent::Failover { from: region("eu"), to: region("us"), attested }
}

/// A switchover of 3-5 from eu to us, with eu lost while it drains.
fn in_the_middle() -> (Facts, Plan) {
    let mut facts = facts(RPO);
    let plan = switchover(&facts);
    let Next::Do { effect, .. } = next(&plan, &recorded(false), &facts) else { panic!() };
    perform(&mut facts, effect);
    lose_eu(&mut facts);
    (facts, plan)
}

fn begins(plan: &Plan, recorded: &Recorded, facts: &Facts) -> bool {
    let begun = Effect::Begin { run: forced_of(&plan.run), intent: to_us(false) };
    next(plan, recorded, facts) == Next::Do { step: 1, effect: begun }
}

/// What the forced run of `plan` does, of itself: it has facts of its own.
fn forced(plan: &Plan) -> Plan {
    Plan::ready(&forced_of(&plan.run), &to_us(false))
}

#[test]
fn the_source_loses_everything_to_the_target_and_the_planned_run_says_so() {
    let (mut facts, plan) = in_the_middle();
    assert_eq!(escalation(&plan, true, false, &facts), Ok(to_us(false)));
    assert!(begins(&plan, &wish(false), &facts));
    let Next::Do { effect, .. } = next(&plan, &wish(false), &facts) else { panic!() };
    perform(&mut facts, effect);
    assert!(matches!(next(&plan, &wish(false), &facts), Next::Wait { .. }), "it is begun once");
    let (story, outcome) = play(&forced(&plan), &mut facts);
    assert_eq!((story[0].as_str(), outcome), ("do fence", Outcome::Succeeded));
    let waits = Next::Wait { step: 1, blocker: Blocker::Escalated { run: forced_of(&run()) } };
    assert_eq!(next(&plan, &wish(false), &facts), waits);
    facts.successor = Successor::Ended;
    assert_eq!(next(&plan, &wish(false), &facts), Next::Finished(Outcome::Escalated));
    let entry = facts.ownership.entry(PartitionId(4)).unwrap();
    assert_eq!((owner(&facts, 4).as_str(), entry.epoch.0, entry.closed.len()), ("us", 2, 1));
}

#[test]
fn wherever_the_forced_run_is_the_planned_one_changes_nothing_any_more() {
    for stop in 1..8 {
        let (mut facts, plan) = in_the_middle();
        facts.successor = Successor::UnderWay;
        let by_force = forced(&plan);
        for i in 0..stop {
            match next(&by_force, &recorded(i > 0), &facts) {
                Next::Do { effect, .. } => perform(&mut facts, effect),
                Next::Wait { blocker, .. } => settle(&mut facts, &blocker, &by_force),
                Next::Finished(_) => break,
            }
            let planned = next(&plan, &wish(false), &facts);
            assert!(matches!(planned, Next::Wait { .. }), "{stop}: {planned:?}");
        }
        // Another agent goes on with both.
        facts.seals.clear();
        facts.canary_written = false;
        assert_eq!(go_on(&by_force, true, &mut facts).1, Outcome::Succeeded);
        facts.successor = Successor::Ended;
        let (story, outcome) = go_on_with(&plan, wish(false), &mut facts);
        assert_eq!((story.len(), outcome), (0, Outcome::Escalated), "{stop}");
    }
}

#[test]
fn a_source_that_is_back_in_time_hands_over_as_planned() {
    for successor in [Successor::NotBegun, Successor::UnderWay, Successor::Ended] {
        let (mut facts, plan) = in_the_middle();
        facts.successor = successor;
        let eu = facts.regions.get_mut(&region("eu")).unwrap();
        (eu.reachable, eu.outage) = (true, Some(Outage::None));
        let (_, outcome) = go_on_with(&plan, wish(false), &mut facts);
        assert_eq!((owner(&facts, 4).as_str(), outcome), ("us", Outcome::Succeeded));
        // What was begun takes nothing: nobody vouches that the region is gone.
        let (_, forced) = play(&forced(&plan), &mut facts);
        assert_eq!(forced, Outcome::Overruled, "eu owns nothing that is left to take");
    }
}

#[test]
fn what_is_against_the_forced_run_is_waited_for_and_nothing_else_is() {
    let (mut facts, plan) = in_the_middle();
    facts.regions.get_mut(&region("eu")).unwrap().outage =
        Some(Outage::Suspected { by: vec![region("ap")] });
    let draining = Blocker::Draining { region: region("eu") };
    let waits = Next::Wait { step: 1, blocker: draining };
    assert_eq!(next(&plan, &wish(false), &facts), waits);
    let begins = |facts: &Facts| matches!(next(&plan, &wish(true), facts), Next::Do { .. });
    assert!(begins(&facts), "a person vouches for it");
    facts.regions.get_mut(&region("us")).unwrap().reachable = false;
    assert!(!begins(&facts), "who takes over has to be there");
}

#[test]
fn only_a_planned_run_with_something_in_its_hands_is_escalated() {
    let against = |plan: &Plan, started: bool, facts: &Facts| {
        escalation(plan, started, true, facts).unwrap_err()
    };
    let (mut facts, plan) = in_the_middle();
    let mut before = crate::runbook::run::tests::facts(RPO);
    assert_eq!(against(&plan, false, &before), NotEscalated::NothingTaken);
    let unstarted = Recorded { started: false, ..wish(true) };
    let takes = next(&plan, &unstarted, &before);
    assert!(
        matches!(takes, Next::Do { effect: Effect::Change(_), .. }),
        "what is wished all the same, as before people have approved, forces nothing: {takes:?}"
    );
    assert_eq!(against(&failover(&facts), false, &facts), NotEscalated::Forced);
    assert_eq!(against(&drill(&mut before), false, &before), NotEscalated::Drill);

    let eu = facts.regions.get_mut(&region("eu")).unwrap();
    (eu.reachable, eu.outage) = (true, Some(Outage::None));
    play(&plan, &mut facts);
    assert_eq!(against(&plan, true, &facts), NotEscalated::Granted);
    let ended = next(&plan, &wish(true), &facts);
    assert_eq!(ended, Next::Finished(Outcome::Succeeded), "whoever did not know that yet");
}

#[test]
fn of_several_sources_the_one_that_is_gone_is_taken_from() {
    let mut facts = facts(RPO);
    let range = PartitionRange::new(0, 5);
    let plan = plan(&run(), &Intent::Switchover { range, to: region("us") }, &facts).unwrap();
    let Next::Do { effect, .. } = next(&plan, &recorded(false), &facts) else { panic!() };
    perform(&mut facts, effect);
    let unclear = NotEscalated::Unclear(vec![region("ap"), region("eu")]);
    assert_eq!(escalation(&plan, true, true, &facts), Err(unclear));
    lose_eu(&mut facts);
    assert_eq!(escalation(&plan, true, false, &facts), Ok(to_us(false)));
    facts.successor = Successor::UnderWay;
    play(&forced(&plan), &mut facts);
    facts.successor = Successor::Ended;
    facts.canary_written = false;
    // What ap hands over goes its way.
    let (story, outcome) = go_on_with(&plan, wish(false), &mut facts);
    assert!(story.contains(&"do grant".to_owned()), "{story:?}");
    assert_eq!(outcome, Outcome::Escalated);
    assert_eq!((owner(&facts, 0).as_str(), owner(&facts, 4).as_str()), ("us", "us"));
}

#[test]
fn an_evacuation_becomes_the_failover_of_all_that_is_left() {
    let mut facts = facts(RPO);
    let plan = evacuation(&mut facts);
    // Its parts have partitions in their hands, and it never has.
    let wished = Recorded { started: false, ..wish(false) };
    assert_eq!(escalation(&plan, false, true, &facts), Err(NotEscalated::NothingTaken));
    let Next::Do { effect, .. } = next(&plan, &recorded(false), &facts) else { panic!() };
    let Effect::Begin { run: part, intent } = effect.clone() else { panic!("{effect:?}") };
    perform(&mut facts, effect);
    let Intent::Switchover { range, to } = intent else { panic!("{intent}") };
    assert_eq!(part, part_of(&plan.run, range));
    let taken = OwnershipChange::HandOver { range, to, run: part.clone() };
    facts.ownership = facts.ownership.apply(&taken).unwrap();
    lose_eu(&mut facts);
    assert_eq!(escalation(&plan, false, false, &facts), Ok(to_us(false)));
    let Next::Do { effect, .. } = next(&plan, &wished, &facts) else { panic!() };
    assert_eq!(effect, Effect::Begin { run: forced_of(&plan.run), intent: to_us(false) });
    perform(&mut facts, effect);
    let alone = Facts { parts: Default::default(), ..facts.clone() };
    let mut by_force = alone.clone();
    assert_eq!(play(&forced(&plan), &mut by_force).1, Outcome::Succeeded);
    facts.ownership = by_force.ownership;
    facts.successor = Successor::Ended;
    let moved = Plan::ready(&part, &Intent::Switchover { range, to: region("us") });
    let mut apart = Facts { ownership: facts.ownership.clone(), ..alone };
    let (story, end) = go_on(&moved, true, &mut apart);
    assert!(!story.contains(&"do grant".to_owned()), "{story:?}");
    let waits = next(&plan, &wished, &facts);
    assert!(matches!(waits, Next::Wait { blocker: Blocker::OnTheirWay { .. }, .. }), "{waits:?}");
    assert!(ended(&part, Some(&end), &facts.ownership));
    facts.parts.insert(range, Some(end));
    assert_eq!(next(&plan, &wished, &facts), Next::Finished(Outcome::Escalated));
    assert!(!facts.ownership.owns_anything(&region("eu")));
}

#[test]
fn a_barrier_that_comes_too_late_is_refused() {
    let (mut facts, plan) = in_the_middle();
    let fence = OwnershipChange::Fence { from: region("eu"), run: forced_of(&plan.run) };
    perform(&mut facts, Effect::Change(fence));
    let origin = Origin::new(region("eu"), 1);
    let barrier = Cut { origin, lsn: Lsn(120) };
    let late = OwnershipChange::Barrier { run: plan.run.clone(), barrier };
    assert!(facts.ownership.apply(&late).is_err());
    let grant = OwnershipChange::Grant { run: plan.run.clone(), to: region("us") };
    assert!(facts.ownership.apply(&grant).is_err());
}
