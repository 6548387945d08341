//! A run, asked again and again while the facts change, goes through its steps once each.

use std::collections::BTreeMap;

use super::*;
use crate::id::{Epoch, Origin, PartitionRange, RunId};
use crate::lsn::{Cut, Lsn};
use crate::outage::Outage;
use crate::ownership::{Entry, Ownership, OwnershipRefusal};
use crate::progress::Rpo;
use crate::runbook::file::{Arguments, Runbook};
use crate::runbook::plan::{Refusal, check};
use crate::runbook::safety::Safety;
use crate::runbook::{Answer, Approval, PlanId, RegionFacts, Successor, Unwell};
use crate::runbook::{part_of, plan, range_of_part};
use crate::time::{Millis, Time};

pub(in crate::runbook) fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

fn eu() -> Origin {
    Origin::new(region("eu"), 1)
}

pub(in crate::runbook) fn facts(rpo: Rpo) -> Facts {
    let names = ["ap", "eu", "us"];
    let regions: Vec<RegionId> = names.iter().map(|n| region(n)).collect();
    let alive = |r: &RegionId| {
        let mut seen =
            RegionFacts { reachable: true, lease_over_at: Some(Time(9000)), ..Default::default() };
        let held = if r.as_str() == "us" { 100 } else { 90 };
        seen.flushed.advance(&eu(), Lsn(held));
        seen.applied.advance(&eu(), Lsn(80));
        (r.clone(), seen)
    };
    Facts {
        now: Time(1000),
        rpo,
        ownership: Ownership::initial(9, &regions),
        ownership_revision: 1,
        regions: regions.iter().map(alive).collect(),
        witnesses: BTreeMap::new(),
        seals: Default::default(),
        promises_over_at: None,
        canary_written: false,
        late_write_kept_out: false,
        seed_given_up: false,
        safety: Safety::default(),
        overridden: None,
        approvals: Vec::new(),
        run_known_for: Millis(0),
        successor: Successor::NotBegun,
        answers: BTreeMap::new(),
        parts: BTreeMap::new(),
    }
}

pub(in crate::runbook) fn lose_eu(facts: &mut Facts) {
    let eu = facts.regions.get_mut(&region("eu")).unwrap();
    eu.reachable = false;
    eu.outage = Some(Outage::Confirmed { by: vec![region("ap"), region("us")] });
}

/// Performs an effect as the edge would.
pub(in crate::runbook) fn perform(facts: &mut Facts, effect: Effect) {
    match effect {
        Effect::Change(change) => {
            facts.ownership = facts.ownership.apply(&change).unwrap();
            facts.ownership_revision += 1;
        }
        Effect::Seal { regions, .. } => {
            for region in regions {
                let lsn = facts.regions[&region].flushed.get(&eu());
                facts.seals.insert(region, vec![Cut { origin: eu(), lsn }]);
            }
        }
        Effect::WriteCanary { .. } => facts.canary_written = true,
        Effect::WriteLate { .. } => facts.late_write_kept_out = true,
        Effect::Exec { number, .. }
        | Effect::Send { number, .. }
        | Effect::WarmUp { number, .. } => {
            let again = facts.answers.insert(number, Answer::Passed);
            assert_eq!(again, None, "what has passed is not done again");
        }
        Effect::Seed { region, .. } => {
            facts.ownership = facts.ownership.apply(&OwnershipChange::Join { region }).unwrap();
        }
        Effect::GiveUpSeed { .. } => {
            assert!(!facts.seed_given_up, "it is given up once");
            facts.seed_given_up = true;
        }
        Effect::Begin { intent: Intent::Failover { .. }, .. } => {
            assert_eq!(facts.successor, Successor::NotBegun, "it is begun once");
            facts.successor = Successor::UnderWay;
        }
        Effect::Begin { intent, .. } => {
            let Intent::Switchover { range, .. } = intent else { panic!("{intent}") };
            assert_eq!(facts.parts.insert(range, None), None, "each is begun once");
        }
    }
}

/// Lets the world do what it does by itself.
pub(in crate::runbook) fn settle(facts: &mut Facts, blocker: &Blocker, plan: &Plan) {
    match blocker {
        Blocker::LeaseLive { over_at, .. } => facts.now = *over_at,
        Blocker::Behind { region, needs, .. } => {
            facts.regions.get_mut(region).unwrap().applied.advance(&needs.origin, needs.lsn);
        }
        Blocker::NotRerouted { regions } => {
            for region in regions {
                facts.regions.get_mut(region).unwrap().ownership_seen = facts.ownership_revision;
            }
        }
        Blocker::NotOpened { region } => {
            facts.regions.get_mut(region).unwrap().not_opened = false;
        }
        Blocker::Draining { region } => {
            let barrier = Cut { origin: Origin::new(region.clone(), 1), lsn: Lsn(120) };
            let change = OwnershipChange::Barrier { run: plan.run.clone(), barrier };
            facts.ownership = facts.ownership.apply(&change).unwrap();
        }
        Blocker::Unapproved { role, missing } => {
            let person = |i| Approval { role: role.clone(), by: format!("person {i}") };
            facts.approvals.extend((0..*missing).map(person));
        }
        // The first part that is on its way ends well.
        Blocker::OnTheirWay { .. } => {
            let mut parts = facts.parts.iter_mut();
            let (range, end) = parts.find(|(_, end)| end.is_none()).unwrap();
            *end = Some(Outcome::Succeeded);
            let to = match &plan.intent {
                // It gives back what it has moved.
                Intent::Switchover { .. } | Intent::ForcedDrill { .. } => {
                    let moved = facts.ownership.entry(crate::id::PartitionId(range.first)).unwrap();
                    moved.closed.last().unwrap().by.clone()
                }
                intent => intent.to().clone(),
            };
            let intent = Intent::Switchover { range: *range, to };
            let moved = Plan::ready(&part_of(&plan.run, *range), &intent);
            let mut part = Facts { parts: BTreeMap::new(), ..facts.clone() };
            assert_eq!(play(&moved, &mut part).1, Outcome::Succeeded);
            facts.ownership = part.ownership;
        }
        other => panic!("nothing settles {other}"),
    }
}

pub(in crate::runbook) fn play(plan: &Plan, facts: &mut Facts) -> (Vec<String>, Outcome) {
    go_on(plan, false, facts)
}

pub(in crate::runbook) fn recorded(started: bool) -> Recorded {
    Recorded { started, ..Recorded::default() }
}

/// Goes on with a run of which the journal says whether it was `started`.
pub(in crate::runbook) fn go_on(
    plan: &Plan,
    started: bool,
    facts: &mut Facts,
) -> (Vec<String>, Outcome) {
    go_on_with(plan, recorded(started), facts)
}

pub(in crate::runbook) fn go_on_with(
    plan: &Plan,
    mut recorded: Recorded,
    facts: &mut Facts,
) -> (Vec<String>, Outcome) {
    let mut story = Vec::new();
    for _ in 0..40 {
        recorded.started |= facts.ownership.ranges_of(&plan.run).next().is_some();
        match next(plan, &recorded, facts) {
            Next::Do { step, effect } => {
                story.push(format!("do {}", plan.steps[step].name()));
                perform(facts, effect);
            }
            Next::Wait { step, blocker } => {
                story.push(format!("wait {}", plan.steps[step].name()));
                settle(facts, &blocker, plan);
            }
            Next::Finished(outcome) => return (story, outcome),
        }
    }
    panic!("the run does not end: {story:?}");
}

/// Goes on until a step is due that is `meant`, and returns its place.
fn go_up_to(plan: &Plan, facts: &mut Facts, meant: fn(&Step) -> bool) -> usize {
    loop {
        match next(plan, &recorded(facts.ownership.had_its_turn(&plan.run)), facts) {
            Next::Do { step, .. } if meant(&plan.steps[step]) => return step,
            Next::Do { effect, .. } => perform(facts, effect),
            Next::Wait { blocker, .. } => settle(facts, &blocker, plan),
            Next::Finished(outcome) => panic!("{outcome:?}"),
        }
    }
}

pub(in crate::runbook) fn run() -> RunId {
    RunId("1".into())
}

pub(in crate::runbook) fn failover(facts: &Facts) -> Plan {
    let intent = Intent::Failover { from: region("eu"), to: region("us"), attested: false };
    plan(&run(), &intent, facts).unwrap()
}

pub(in crate::runbook) fn owner(facts: &Facts, partition: u32) -> String {
    let entry = facts.ownership.entry(crate::id::PartitionId(partition)).unwrap();
    entry.owner().unwrap().to_string()
}

#[test]
fn a_failover_at_rpo_zero_seals_instead_of_waiting_for_the_lease() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let (story, outcome) = play(&failover(&facts), &mut facts);
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(
        story,
        ["do fence", "do seal", "do cut", "wait catch_up", "do grant", "wait reroute", "do verify"]
    );
    assert_eq!(owner(&facts, 4), "us");
    let closed = &facts.ownership.entry(crate::id::PartitionId(4)).unwrap().closed[0];
    assert_eq!(closed.cut, Cut { origin: eu(), lsn: Lsn(100) }, "what the fuller survivor held");
}

#[test]
fn without_remote_copies_a_failover_waits_for_the_lease() {
    let mut facts = facts(Rpo::None);
    lose_eu(&mut facts);
    let (story, outcome) = play(&failover(&facts), &mut facts);
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(story[..3], ["do fence", "do seal", "wait seal"]);
    assert!(facts.now >= Time(9000));
}

#[test]
fn at_rpo_zero_a_missing_seal_blocks_however_long_it_takes() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let plan = failover(&facts);
    facts.regions.get_mut(&region("ap")).unwrap().reachable = false;
    let Next::Do { effect, .. } = next(&plan, &recorded(false), &facts) else { panic!() };
    perform(&mut facts, effect);
    let Next::Do { effect, .. } = next(&plan, &recorded(true), &facts) else { panic!() };
    assert_eq!(effect, Effect::Seal { regions: vec![region("us")], from: region("eu") });
    perform(&mut facts, effect);
    facts.now = Time(1_000_000);
    facts.regions.get_mut(&region("us")).unwrap().lease_over_at = Some(Time(2_000_000));
    let missing = Blocker::SealMissing { regions: vec![region("ap")] };
    assert_eq!(next(&plan, &recorded(true), &facts), Next::Wait { step: 2, blocker: missing });
}

#[test]
fn an_unconfirmed_outage_is_refused_unless_a_person_vouches() {
    let facts = facts(Rpo::None);
    let intent = Intent::Failover { from: region("eu"), to: region("us"), attested: false };
    assert!(plan(&run(), &intent, &facts).is_err());
    let intent = Intent::Failover { from: region("eu"), to: region("us"), attested: true };
    assert!(plan(&run(), &intent, &facts).is_ok());
}

#[test]
fn every_reason_against_a_plan_is_given_at_once() {
    let mut facts = facts(Rpo::None);
    lose_eu(&mut facts);
    let intent = Intent::Failover { from: region("mars"), to: region("eu"), attested: false };
    assert_eq!(plan(&run(), &intent, &facts).unwrap_err().len(), 3);
}

pub(in crate::runbook) fn switchover(facts: &Facts) -> Plan {
    let range = PartitionRange::new(3, 5);
    plan(&run(), &Intent::Switchover { range, to: region("us") }, facts).unwrap()
}

#[test]
fn a_plan_is_another_one_once_what_it_would_do_has_changed() {
    let facts = facts(Rpo::None);
    let planned = switchover(&facts);
    let decided = planned.decided(&facts.ownership);
    assert!(decided.ends_with("partition 3-5: epoch 1, from eu to us\n"), "{decided}");
    let elsewhere = |range: PartitionRange| {
        let mut facts = facts.clone();
        let intent = Intent::Switchover { range, to: region("ap") };
        let other = plan(&RunId("2".into()), &intent, &facts).unwrap();
        play(&other, &mut facts);
        planned.decided(&facts.ownership)
    };
    assert_eq!(elsewhere(PartitionRange::new(7, 8)), decided, "that is none of its business");
    assert_ne!(elsewhere(PartitionRange::new(4, 4)), decided);
    let to_ap = Intent::Switchover { range: PartitionRange::new(3, 5), to: region("ap") };
    let to_ap = plan(&run(), &to_ap, &facts).unwrap();
    assert_ne!(to_ap.decided(&facts.ownership), decided);
}

#[test]
fn a_switchover_waits_for_the_drain_and_for_the_barrier_to_be_applied() {
    let mut facts = facts(Rpo::None);
    let (story, outcome) = play(&switchover(&facts), &mut facts);
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(
        story,
        [
            "do hand_over",
            "wait hand_over",
            "wait catch_up",
            "do grant",
            "wait reroute",
            "do verify"
        ]
    );
    assert_eq!(owner(&facts, 4), "us");
}

#[test]
fn a_switchover_whose_target_dies_gives_the_partitions_back() {
    let mut facts = facts(Rpo::None);
    let plan = switchover(&facts);
    let Next::Do { effect, .. } = next(&plan, &recorded(false), &facts) else { panic!() };
    perform(&mut facts, effect);
    facts.regions.get_mut(&region("us")).unwrap().lease_over_at = Some(Time(0));
    let (story, outcome) = play(&plan, &mut facts);
    assert_eq!(story, ["wait hand_over", "do hand_over"]);
    assert_eq!(outcome, Outcome::CalledOff { back_to: region("eu") });
    assert_eq!(owner(&facts, 4), "eu");
    assert_eq!(facts.ownership.entry(crate::id::PartitionId(4)).unwrap().epoch.0, 2);
}

#[test]
fn a_run_that_another_agent_continues_at_any_point_ends_the_same() {
    let mut whole = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut whole);
    let plan = failover(&whole);
    let (_, outcome) = play(&plan, &mut whole);
    for stop in 0..7 {
        let mut facts = facts(Rpo::Zero { copies: 1 });
        lose_eu(&mut facts);
        for i in 0..stop {
            match next(&plan, &recorded(i > 0), &facts) {
                Next::Do { effect, .. } => perform(&mut facts, effect),
                Next::Wait { blocker, .. } => settle(&mut facts, &blocker, &plan),
                Next::Finished(_) => break,
            }
        }
        // The next executor starts without what the last one kept in memory.
        facts.seals.clear();
        facts.canary_written = false;
        let (_, resumed) = go_on(&plan, stop > 0, &mut facts);
        assert_eq!(resumed, outcome, "stopped after {stop}");
        assert_eq!(facts.ownership, whole.ownership, "stopped after {stop}");
    }
}

#[test]
fn nobody_fails_over_a_region_that_owns_nothing() {
    use crate::config::FailoverPolicy;
    use crate::runbook::failover::automatic;
    use crate::time::Millis;
    let policy = FailoverPolicy { automatic: true, observers: 2, suspect_after: Millis(2000) };
    let mut facts = facts(Rpo::None);
    assert_eq!(automatic(&policy, &facts), []);
    lose_eu(&mut facts);
    let expected = Intent::Failover { from: region("eu"), to: region("us"), attested: false };
    assert_eq!(automatic(&policy, &facts), [expected], "us holds most of eu's log");
    let ap = facts.regions.get_mut(&region("ap")).unwrap();
    let before = std::mem::replace(&mut ap.reachable, false);
    ap.outage = Some(Outage::Confirmed { by: vec![region("us")] });
    let both = ["ap", "eu"].map(|from| Intent::Failover {
        from: region(from),
        to: region("us"),
        attested: false,
    });
    assert_eq!(automatic(&policy, &facts), both, "neither waits for the other");
    let ap = facts.regions.get_mut(&region("ap")).unwrap();
    (ap.reachable, ap.outage) = (before, None);
    let plan = failover(&facts);
    play(&plan, &mut facts);
    assert_eq!(automatic(&policy, &facts), []);
}

#[test]
fn regions_that_each_leave_it_to_the_other_do_so_for_a_while_only() {
    use crate::config::FailoverPolicy;
    use crate::runbook::failover::started_by;
    use crate::time::Millis;
    let policy = FailoverPolicy { automatic: true, observers: 2, suspect_after: Millis(2000) };
    // us has seen ap come and go, and ap has seen us.
    let known_to = |here: &str| {
        let mut facts = facts(Rpo::None);
        lose_eu(&mut facts);
        for name in ["us", "ap"] {
            let seen = facts.regions.get_mut(&region(name)).unwrap();
            (seen.lease_over_at, seen.on_probation) = (Some(Time(99_000)), name == here);
        }
        facts
    };
    for (here, other) in [("us", "ap"), ("ap", "us")] {
        let mut facts = known_to(here);
        let starts = |at: &str, facts: &Facts| {
            started_by(&region(at), &policy, facts).first().map(|intent| intent.to().clone())
        };
        assert_eq!(starts(other, &facts), Some(region(other)), "it is the better one");
        assert_eq!(starts(here, &facts), None, "it leaves it to the other");
        let over_at = facts.regions[&region("eu")].lease_over_at.unwrap();
        facts.now = over_at + Millis(1999);
        assert_eq!(starts(here, &facts), None);
        facts.now = over_at + Millis(2000);
        assert_eq!(starts(here, &facts), Some(region(here)));
        let could_not: [fn(&mut RegionFacts); 2] =
            [|it| it.left_behind = true, |it| it.cannot_write = true];
        for could_not in could_not {
            let mut facts = facts.clone();
            could_not(facts.regions.get_mut(&region(here)).unwrap());
            assert_eq!(starts(here, &facts), None, "it could not take over");
        }
    }
}

fn change(facts: &mut Facts, change: OwnershipChange) {
    perform(facts, Effect::Change(change));
}

/// `eu` is fenced by the run and owns partition 0 anew, of a later epoch.
fn fenced_and_given_more(facts: &mut Facts) {
    change(facts, OwnershipChange::Fence { from: region("eu"), run: run() });
    let (more, range) = (RunId("2".into()), PartitionRange::new(0, 0));
    let barrier = Cut { origin: Origin::new(region("ap"), 1), lsn: Lsn(5) };
    let to = region("eu");
    change(facts, OwnershipChange::HandOver { range, to: to.clone(), run: more.clone() });
    change(facts, OwnershipChange::Barrier { run: more.clone(), barrier });
    change(facts, OwnershipChange::Grant { run: more, to });
}

#[test]
fn a_run_fences_once_and_not_what_the_region_is_given_later() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let plan = failover(&facts);
    fenced_and_given_more(&mut facts);
    let (story, outcome) = go_on(&plan, true, &mut facts);
    assert_eq!(story[0], "do seal");
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(owner(&facts, 0), "eu");
    assert_eq!(owner(&facts, 4), "us");
}

#[test]
fn a_failover_that_has_granted_does_not_look_back() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let plan = failover(&facts);
    fenced_and_given_more(&mut facts);
    change(&mut facts, OwnershipChange::Cut { run: run(), cut: Cut { origin: eu(), lsn: Lsn(9) } });
    change(&mut facts, OwnershipChange::Grant { run: run(), to: region("us") });
    facts.regions.get_mut(&region("eu")).unwrap().outage = Some(Outage::None);
    let (story, outcome) = go_on(&plan, true, &mut facts);
    assert_eq!(story, ["wait reroute", "do verify"]);
    assert_eq!(outcome, Outcome::Succeeded);
}

#[test]
fn a_failover_whose_target_has_lost_everything_again_ends() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let plan = failover(&facts);
    play(&plan, &mut facts);
    facts.canary_written = false;
    change(&mut facts, OwnershipChange::Fence { from: region("us"), run: RunId("2".into()) });
    assert_eq!(next(&plan, &recorded(true), &facts), Next::Finished(Outcome::Overruled));
}

#[test]
fn an_owner_that_asked_for_fewer_copies_is_sealed_by_as_many_as_that_takes() {
    let mut facts = facts(Rpo::Zero { copies: 2 });
    lose_eu(&mut facts);
    let plan = failover(&facts);
    while facts.ownership.ranges_of(&plan.run).next().is_none() {
        take_a_step(&plan, &mut facts);
    }
    let seal = crate::runbook::step::Seal { run: run(), from: region("eu") };
    facts.seals.insert(region("us"), vec![Cut { origin: eu(), lsn: Lsn(100) }]);
    assert!(seal.done(&facts), "any two of two survivors have one that sealed");
    let eu = |facts: &mut Facts, rpo| facts.regions.get_mut(&region("eu")).unwrap().rpo = rpo;
    eu(&mut facts, Some(Rpo::Zero { copies: 1 }));
    assert!(!seal.done(&facts), "what only ap holds may have been acknowledged");
    facts.seals.insert(region("ap"), vec![Cut { origin: self::eu(), lsn: Lsn(90) }]);
    assert!(seal.done(&facts));
    eu(&mut facts, Some(Rpo::None));
    assert!(matches!(seal.blocked(&facts), Some(Blocker::LeaseLive { .. })));
}

#[test]
fn another_survivor_takes_over_where_the_target_is_lost_behind_the_fence() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let plan = failover(&facts);
    let cut = |facts: &Facts| {
        let mut in_hands = facts.ownership.ranges_of(&plan.run).peekable();
        in_hands.peek().is_some() && in_hands.all(|entry| entry.state.cut().is_some())
    };
    while !cut(&facts) {
        take_a_step(&plan, &mut facts);
    }
    let us = facts.regions.get_mut(&region("us")).unwrap();
    (us.reachable, us.lease_over_at) = (false, Some(facts.now));
    let behind = next(&plan, &recorded(true), &facts);
    let Next::Wait { blocker: Blocker::Behind { region: waits, .. }, .. } = &behind else {
        panic!("{behind:?}")
    };
    assert_eq!(*waits, region("ap"), "it stands in once it shows all");
    facts.regions.get_mut(&region("ap")).unwrap().applied.advance(&eu(), Lsn(100));
    take_a_step(&plan, &mut facts);
    assert!(owner_is_not(&facts, 3, "us") && !owner_is_not(&facts, 3, "ap"));
    assert_eq!(next(&plan, &recorded(true), &facts), Next::Finished(Outcome::Overruled));
}

#[test]
fn another_survivor_takes_over_where_the_target_cannot_apply_the_rest() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let plan = failover(&facts);
    while !facts.ownership.ranges_of(&plan.run).any(|entry| entry.state.cut().is_some()) {
        take_a_step(&plan, &mut facts);
    }
    let waits_for = |facts: &Facts| match next(&plan, &recorded(true), facts) {
        Next::Wait { blocker: Blocker::Behind { region, .. }, .. } => region.to_string(),
        other => panic!("{other:?}"),
    };
    let stuck = |facts: &mut Facts, name: &str, stuck| {
        facts.regions.get_mut(&region(name)).unwrap().cannot_apply = stuck;
    };
    assert_eq!(waits_for(&facts), "us");
    stuck(&mut facts, "us", true);
    assert_eq!(waits_for(&facts), "ap");
    stuck(&mut facts, "ap", true);
    assert_eq!(waits_for(&facts), "us", "nobody is better");
    stuck(&mut facts, "ap", false);
    let mut applied = facts.clone();
    applied.regions.get_mut(&region("us")).unwrap().applied.advance(&eu(), Lsn(100));
    take_a_step(&plan, &mut applied);
    assert!(!owner_is_not(&applied, 3, "us"), "what it cannot apply is another's");
    facts.regions.get_mut(&region("ap")).unwrap().applied.advance(&eu(), Lsn(100));
    take_a_step(&plan, &mut facts);
    assert!(!owner_is_not(&facts, 3, "ap"));
}

#[test]
fn nothing_is_handed_over_to_whom_cannot_apply_what_others_wrote() {
    let mut facts = facts(Rpo::None);
    let us = region("us");
    let intent = Intent::Switchover { range: PartitionRange::new(3, 3), to: us.clone() };
    assert!(plan(&run(), &intent, &facts).is_ok());
    facts.regions.get_mut(&us).unwrap().cannot_apply = true;
    assert_eq!(plan(&run(), &intent, &facts), Err(vec![Refusal::CannotApply(us)]));
}

#[test]
fn what_stands_in_the_log_before_a_new_one_is_applied_before_others_write() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let second = Origin::new(region("eu"), 2);
    facts.regions.get_mut(&region("us")).unwrap().flushed.advance(&second, Lsn(7));
    // What us holds ends at 100. The others may have what it has left out, or what nobody can have.
    for (other, end) in [("ap", 120), ("eu", 500)] {
        facts.regions.get_mut(&region(other)).unwrap().flushed.advance(&eu(), Lsn(end));
    }
    let plan = failover(&facts);
    while !facts.in_hands(&plan.run) {
        take_a_step(&plan, &mut facts);
    }
    change(
        &mut facts,
        OwnershipChange::Cut {
            run: plan.run.clone(),
            cut: Cut { origin: second.clone(), lsn: Lsn(7) },
        },
    );
    let needs = |facts: &Facts| match next(&plan, &recorded(true), facts) {
        Next::Wait { blocker: Blocker::Behind { needs, .. }, .. } => {
            Some((needs.origin, needs.lsn))
        }
        Next::Do { .. } => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(needs(&facts), Some((second.clone(), Lsn(7))));
    facts.regions.get_mut(&region("us")).unwrap().applied.advance(&second, Lsn(7));
    assert_eq!(needs(&facts), Some((eu(), Lsn(100))));
    facts.regions.get_mut(&region("us")).unwrap().applied.advance(&eu(), Lsn(100));
    assert_eq!(needs(&facts), None);
}

#[test]
fn nobody_is_chosen_who_cannot_apply_what_others_wrote_where_another_can() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let (us, ap) = (region("us"), region("ap"));
    assert_eq!(successor(&region("eu"), &facts), Some(us.clone()));
    facts.regions.get_mut(&us).unwrap().cannot_apply = true;
    assert_eq!(successor(&region("eu"), &facts), Some(ap.clone()));
    let intent = Intent::Failover { from: region("eu"), to: us.clone(), attested: true };
    let refused = plan(&run(), &intent, &facts);
    assert_eq!(refused, Err(vec![Refusal::CannotApply(us.clone())]));
    facts.regions.get_mut(&ap).unwrap().cannot_apply = true;
    assert_eq!(successor(&region("eu"), &facts), Some(us));
    assert!(plan(&run(), &intent, &facts).is_ok(), "nobody else could");
}

#[test]
fn a_run_whose_target_has_left_takes_nothing_from_anybody() {
    let mut facts = facts(Rpo::None);
    lose_eu(&mut facts);
    let plans = [failover(&facts), with_approval()];
    for plan in &plans {
        assert_ne!(next(plan, &recorded(false), &facts), Next::Finished(Outcome::Overruled));
    }
    let all = facts.ownership.entries().iter().find(|e| e.owner() == Some(&region("us")));
    let range = all.unwrap().range;
    let handed = RunId("first".into());
    for moved in [
        OwnershipChange::HandOver { range, to: region("ap"), run: handed.clone() },
        OwnershipChange::Barrier {
            run: handed.clone(),
            barrier: Cut { origin: Origin::new(region("us"), 1), lsn: Lsn(1) },
        },
        OwnershipChange::Grant { run: handed, to: region("ap") },
        OwnershipChange::Leave { region: region("us") },
    ] {
        change(&mut facts, moved);
    }
    for plan in plans {
        let ended = next(&plan, &recorded(false), &facts);
        assert_eq!(ended, Next::Finished(Outcome::Overruled), "{:?}", plan.intent);
    }
}

#[test]
fn of_two_failovers_of_one_region_the_slower_one_ends() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let slower = failover(&facts);
    change(&mut facts, OwnershipChange::Fence { from: region("eu"), run: RunId("2".into()) });
    assert_eq!(next(&slower, &recorded(false), &facts), Next::Finished(Outcome::Overruled));
}

#[test]
fn a_failover_ends_when_the_region_comes_back_before_the_fence() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let plan = failover(&facts);
    facts.regions.get_mut(&region("eu")).unwrap().outage = Some(Outage::None);
    let back_to = region("eu");
    assert_eq!(
        next(&plan, &recorded(false), &facts),
        Next::Finished(Outcome::CalledOff { back_to })
    );
}

#[test]
fn a_fenced_region_that_came_back_and_knows_the_fence_is_not_waited_for() {
    let mut facts = facts(Rpo::None);
    lose_eu(&mut facts);
    let plan = failover(&facts);
    change(&mut facts, OwnershipChange::Fence { from: region("eu"), run: run() });
    for survivor in ["ap", "us"] {
        facts.seals.insert(region(survivor), Vec::new());
    }
    let revision = facts.ownership_revision;
    let back = facts.regions.get_mut(&region("eu")).unwrap();
    back.reachable = true;
    facts.seals.insert(region("eu"), Vec::new());
    assert!(matches!(
        next(&plan, &recorded(true), &facts),
        Next::Wait { blocker: Blocker::LeaseLive { .. }, .. }
    ));
    facts.regions.get_mut(&region("eu")).unwrap().ownership_seen = revision;
    assert!(
        matches!(next(&plan, &recorded(true), &facts), Next::Do { step: 3, .. }),
        "it goes on to the cut"
    );
}

#[test]
fn a_cut_waits_for_the_longest_promise_where_acknowledgements_run_ahead() {
    let within = Rpo::Within { copies: 1, age: Millis(250) };
    for rpo in [Rpo::None, within, Rpo::Zero { copies: 1 }] {
        let mut facts = facts(rpo);
        lose_eu(&mut facts);
        let plan = failover(&facts);
        facts.now = Time(9000);
        change(&mut facts, OwnershipChange::Fence { from: region("eu"), run: run() });
        for survivor in ["ap", "us"] {
            facts.seals.insert(region(survivor), Vec::new());
        }
        facts.promises_over_at = Some(Time(9500));
        let waits = matches!(
            next(&plan, &recorded(true), &facts),
            Next::Wait { blocker: Blocker::LeaseLive { over_at: Time(9500), .. }, .. }
        );
        assert_eq!(waits, rpo.runs_ahead(), "{rpo:?}");
        facts.now = Time(9500);
        assert!(matches!(next(&plan, &recorded(true), &facts), Next::Do { step: 3, .. }));
    }
}

#[test]
fn a_planned_hand_over_waits_for_no_target_that_is_far_behind() {
    let mut facts = facts(Rpo::None);
    let to = region("us");
    let intent = Intent::Switchover { range: PartitionRange::new(3, 3), to: to.clone() };
    let mut behind = |by| {
        let owner = facts.regions.get_mut(&region("eu")).unwrap();
        owner.staleness.insert(to.clone(), Millis(by));
        plan(&run(), &intent, &facts).err()
    };
    assert_eq!(behind(5000), None);
    let refusal =
        Refusal::TooFarBehind { to: region("us"), owner: region("eu"), staleness: Millis(120_000) };
    assert_eq!(behind(120_000), Some(vec![refusal.clone()]));

    // Once, however many epochs there are.
    let (run, range) = (RunId("other".to_owned()), PartitionRange::new(4, 4));
    let change = OwnershipChange::HandOver { range, to: to.clone(), run };
    facts.ownership = facts.ownership.apply(&change).unwrap();
    let intent = Intent::Switchover { range: PartitionRange::new(3, 5), to };
    assert_eq!(plan(&self::run(), &intent, &facts).err(), Some(vec![refusal]));
}

#[test]
fn what_speaks_against_a_hand_over_is_asked_again_before_anybody_is_kept_from_writing() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    let plan = switchover(&facts);
    let behind = |facts: &mut Facts, by: u64| {
        let owner = facts.regions.get_mut(&region("eu")).unwrap();
        owner.staleness.insert(region("us"), Millis(by));
    };
    // It waited for a person, or for a program, meanwhile.
    behind(&mut facts, 120_000);
    let Next::Wait { blocker: Blocker::NotNow { reasons, .. }, .. } =
        next(&plan, &recorded(false), &facts)
    else {
        panic!("it is begun")
    };
    assert!(matches!(reasons.as_slice(), [Refusal::TooFarBehind { .. }]), "{reasons:?}");
    behind(&mut facts, 100);
    assert!(matches!(next(&plan, &recorded(false), &facts), Next::Do { .. }));
    // It does not come as a surprise once the target is back, either.
    let us = facts.regions.get_mut(&region("us")).unwrap();
    us.outage = Some(Outage::Confirmed { by: vec![region("ap"), region("eu")] });
    let called_off = Outcome::CalledOff { back_to: region("eu") };
    assert_eq!(next(&plan, &recorded(false), &facts), Next::Finished(called_off));
}

#[test]
fn no_canary_is_written_to_a_region_that_does_not_answer() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    let plan = switchover(&facts);
    let verify = go_up_to(&plan, &mut facts, |step| matches!(step, Step::Verify(_)));
    facts.regions.get_mut(&region("us")).unwrap().reachable = false;
    let blocker = Blocker::Unwell { region: region("us"), why: Unwell::Silent };
    let waits = Next::Wait { step: verify, blocker };
    assert_eq!(next(&plan, &recorded(true), &facts), waits);
}

#[test]
fn a_region_whose_rows_are_not_all_history_is_given_nothing_while_another_could_have_it() {
    use crate::runbook::plan::Refusal;
    let mut facts = facts(Rpo::None);
    let us = region("us");
    let range = PartitionRange::new(3, 3);
    let planned = Intent::Switchover { range, to: us.clone() };
    facts.regions.get_mut(&us).unwrap().unsettled = true;
    let refusals = plan(&run(), &planned, &facts).err();
    assert_eq!(refusals, Some(vec![Refusal::Unsettled(us.clone())]));
    facts.regions.get_mut(&us).unwrap().repairs_pending = 2;
    let unrepaired = vec![Refusal::Unrepaired { to: us.clone(), rows: 2 }];
    assert_eq!(plan(&run(), &planned, &facts).err(), Some(unrepaired.clone()));

    lose_eu(&mut facts);
    let forced = Intent::Failover { from: region("eu"), to: us.clone(), attested: false };
    assert_eq!(plan(&run(), &forced, &facts).err(), Some(unrepaired));
    let successor = |facts: &Facts| crate::runbook::failover::successor(&region("eu"), facts);
    assert_eq!(successor(&facts), Some(region("ap")), "though us holds more");
    facts.regions.get_mut(&region("ap")).unwrap().repairs_pending = 1;
    assert_eq!(successor(&facts), Some(us));
    assert!(plan(&run(), &forced, &facts).is_ok(), "nobody is better");
}

#[test]
fn a_region_that_comes_and_goes_takes_over_only_where_there_is_no_other() {
    let mut facts = facts(Rpo::None);
    let successor = |facts: &Facts| crate::runbook::failover::successor(&region("eu"), facts);
    assert_eq!(successor(&facts), Some(region("us")));
    facts.regions.get_mut(&region("us")).unwrap().on_probation = true;
    assert_eq!(successor(&facts), Some(region("ap")), "though us holds more");
    facts.regions.get_mut(&region("ap")).unwrap().reachable = false;
    assert_eq!(successor(&facts), Some(region("us")));
}

#[test]
fn a_run_ends_when_the_new_owner_has_opened_what_it_was_given() {
    let mut facts = facts(Rpo::None);
    let range = PartitionRange::new(3, 3);
    let plan = plan(&run(), &Intent::Switchover { range, to: region("us") }, &facts).unwrap();
    facts.regions.get_mut(&region("us")).unwrap().not_opened = true;
    let (story, outcome) = play(&plan, &mut facts);
    assert_eq!(story[story.len() - 2..], ["wait verify", "do verify"]);
    assert_eq!(outcome, Outcome::Succeeded);
}

#[test]
fn a_region_whose_rows_others_may_lack_hands_nothing_over_and_can_still_be_replaced() {
    let mut facts = facts(Rpo::None);
    facts.regions.get_mut(&region("eu")).unwrap().passed_over = true;
    let intent = Intent::Switchover { range: PartitionRange::new(3, 3), to: region("us") };
    let refusal = Refusal::PassedOver(region("eu"));
    assert_eq!(plan(&run(), &intent, &facts).err(), Some(vec![refusal]));
    lose_eu(&mut facts);
    let intent = Intent::Failover { from: region("eu"), to: region("us"), attested: false };
    assert!(plan(&run(), &intent, &facts).is_ok());
}

#[test]
fn a_hand_over_that_leaves_no_room_for_failovers_waits_with_its_reason() {
    let mut facts = facts(Rpo::None);
    let range = PartitionRange::new(0, 0);
    let intent = Intent::Switchover { range, to: region("us") };
    let planned = plan(&run(), &intent, &facts).unwrap();
    // No two ranges stand together.
    let entry = |number: u32| Entry {
        range: PartitionRange::new(2 * number, 2 * number + 1),
        epoch: Epoch(1),
        state: State::Owned { by: region(["eu", "us", "ap"][number as usize % 3]) },
        closed: Vec::new(),
    };
    let members = facts.ownership.members().clone();
    facts.ownership = Ownership::from_entries(members, (0..2000).map(entry).collect()).unwrap();
    let reasons = plan(&run(), &intent, &facts).unwrap_err();
    let [Refusal::Scattered(refusal)] = reasons.as_slice() else { panic!("{reasons:?}") };
    assert!(matches!(refusal, OwnershipRefusal::TooScattered { .. }), "{refusal}");
    let blocker = Blocker::NotNow { range, reasons };
    assert_eq!(next(&planned, &recorded(false), &facts), Next::Wait { step: 1, blocker });
    lose_eu(&mut facts);
    let intent = Intent::Failover { from: region("eu"), to: region("us"), attested: false };
    let plan = plan(&run(), &intent, &facts).unwrap();
    assert_eq!(go_on(&plan, false, &mut facts).1, Outcome::Succeeded);
}

#[test]
fn a_switchover_goes_on_with_what_no_failover_took_from_it() {
    let mut facts = facts(Rpo::None);
    let range = PartitionRange::new(2, 3);
    let plan = plan(&run(), &Intent::Switchover { range, to: region("us") }, &facts).unwrap();
    change(&mut facts, OwnershipChange::HandOver { range, to: region("us"), run: run() });
    change(&mut facts, OwnershipChange::Fence { from: region("eu"), run: RunId("2".into()) });
    let draining = Blocker::Draining { region: region("ap") };
    assert_eq!(next(&plan, &recorded(true), &facts), Next::Wait { step: 1, blocker: draining });
    let barrier = Cut { origin: Origin::new(region("ap"), 1), lsn: Lsn(5) };
    change(&mut facts, OwnershipChange::Barrier { run: run(), barrier });
    let (story, outcome) = go_on(&plan, true, &mut facts);
    assert_eq!(story[..2], ["wait catch_up", "do grant"]);
    assert_eq!(outcome, Outcome::Overruled, "partition 3 is in other hands");
    assert_eq!(owner(&facts, 2), "us");
}

#[test]
fn a_switchover_that_went_back_is_not_begun_again_by_who_missed_it() {
    let before = facts(Rpo::Zero { copies: 1 });
    let plan = switchover(&before);
    let Next::Do { effect: Effect::Change(late), .. } = next(&plan, &recorded(false), &before)
    else {
        panic!("it hands over");
    };
    let mut facts = before.clone();
    change(&mut facts, late.clone());
    let barrier = Cut { origin: eu(), lsn: Lsn(90) };
    change(&mut facts, OwnershipChange::Barrier { run: run(), barrier });
    change(&mut facts, OwnershipChange::HandBack { run: run() });
    assert!(
        facts.ownership.apply(&late).is_err(),
        "its barrier lies before what was written since"
    );
    let back = Outcome::CalledOff { back_to: region("eu") };
    assert_eq!(next(&plan, &recorded(true), &facts), Next::Finished(back.clone()));
    assert_eq!(
        next(&plan, &recorded(false), &facts),
        Next::Finished(back),
        "by a journal that was read before"
    );
    let settling = Next::Wait { step: 0, blocker: Blocker::Settling };
    let newer = Recorded { started_revision: 2, ..recorded(true) };
    assert_eq!(next(&plan, &newer, &before), settling, "by an ownership that was read before");
}

#[test]
fn a_run_that_an_older_domicile_has_granted_comes_to_its_end() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    let plan = switchover(&facts);
    play(&plan, &mut facts);
    facts.canary_written = false;
    // It did not remember who had had a turn.
    facts.ownership = facts.ownership.with_turns(Vec::new());
    let (story, outcome) = go_on(&plan, true, &mut facts);
    assert_eq!((story, outcome), (vec!["do verify".to_owned()], Outcome::Succeeded));
}

/// Partition 4 is wanted by two at once.
fn two_at_once(facts: &Facts) -> [Plan; 2] {
    let range = PartitionRange::new(4, 4);
    [("1", "us"), ("2", "ap")].map(|(run, to)| {
        plan(&RunId(run.into()), &Intent::Switchover { range, to: region(to) }, facts).unwrap()
    })
}

#[test]
fn of_two_that_want_one_partition_the_second_waits_until_the_first_has_it() {
    let mut facts = facts(Rpo::None);
    let [first, second] = two_at_once(&facts);
    let Next::Do { effect, .. } = next(&first, &recorded(false), &facts) else { panic!() };
    perform(&mut facts, effect);
    let range = PartitionRange::new(4, 4);
    let blocker = Blocker::InOtherHands { range, run: first.run.clone() };
    assert_eq!(next(&second, &recorded(false), &facts), Next::Wait { step: 1, blocker });
    assert_eq!(go_on(&first, true, &mut facts).1, Outcome::Succeeded);
    facts.canary_written = false;
    assert_eq!(go_on(&second, false, &mut facts).1, Outcome::Succeeded);
    assert_eq!(owner(&facts, 4), "ap");
}

#[test]
fn the_canary_goes_after_partitions_whose_writers_wait() {
    let mut facts = facts(Rpo::None);
    let owner = facts.ownership.entry(PartitionId(4)).unwrap().owner().unwrap().clone();
    facts.ownership = facts.ownership.with_canary(owner);
    let [data, _] = two_at_once(&facts);
    let intent = Intent::Switchover { range: PartitionRange::CANARY, to: region("us") };
    let canary = plan(&RunId("canary".into()), &intent, &facts).unwrap();
    let Next::Do { effect, .. } = next(&data, &recorded(false), &facts) else { panic!() };
    perform(&mut facts, effect);
    let blocker = Blocker::WritersFirst { range: PartitionRange::new(4, 4) };
    assert_eq!(next(&canary, &recorded(false), &facts), Next::Wait { step: 1, blocker });
    assert_eq!(go_on(&data, true, &mut facts).1, Outcome::Succeeded);
    facts.canary_written = false;
    assert_eq!(go_on(&canary, false, &mut facts).1, Outcome::Succeeded);
}

#[test]
fn who_takes_a_partition_from_its_new_owner_does_not_undo_the_hand_over() {
    for taken in 1..=3 {
        let mut facts = facts(Rpo::None);
        let [first, second] = two_at_once(&facts);
        while owner_is_not(&facts, 4, "us") {
            take_a_step(&first, &mut facts);
        }
        // The first has not looked at its end yet, and the second is under way, or done.
        for _ in 0..taken {
            take_a_step(&second, &mut facts);
        }
        assert_eq!(go_on(&first, true, &mut facts).1, Outcome::Succeeded, "after {taken}");
        facts.canary_written = false;
        assert_eq!(go_on(&second, true, &mut facts).1, Outcome::Succeeded, "after {taken}");
        assert_eq!(owner(&facts, 4), "ap");
    }
}

fn take_a_step(plan: &Plan, facts: &mut Facts) {
    match next(plan, &recorded(false), facts) {
        Next::Do { effect, .. } => perform(facts, effect),
        Next::Wait { blocker, .. } => settle(facts, &blocker, plan),
        Next::Finished(outcome) => panic!("{outcome:?}"),
    }
}

fn owner_is_not(facts: &Facts, partition: u32, region: &str) -> bool {
    let entry = facts.ownership.entry(crate::id::PartitionId(partition)).unwrap();
    entry.owner().is_none_or(|owner| owner.as_str() != region)
}

#[test]
fn a_run_with_partitions_in_its_hands_has_not_ended() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let plan = failover(&facts);
    let noted = Outcome::Overruled;
    assert!(ended(&plan.run, Some(&noted), &facts.ownership));
    assert!(!ended(&plan.run, None, &facts.ownership));
    change(&mut facts, OwnershipChange::Fence { from: region("eu"), run: run() });
    assert!(!ended(&plan.run, Some(&noted), &facts.ownership));
}

#[test]
fn a_new_owner_shows_also_what_was_written_before_an_owner_that_wrote_nothing() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let first = failover(&facts);
    play(&first, &mut facts);
    let ends_at = Lsn(100);
    assert_eq!(facts.regions[&region("us")].applied.get(&eu()), ends_at);
    let us = facts.regions.get_mut(&region("us")).unwrap();
    us.reachable = false;
    us.outage = Some(Outage::Confirmed { by: vec![region("ap")] });
    facts.seals.clear();
    let second = RunId("2".into());
    change(&mut facts, OwnershipChange::Fence { from: region("us"), run: second.clone() });
    let nothing = Cut { origin: Origin::new(region("us"), 1), lsn: Lsn::ZERO };
    change(&mut facts, OwnershipChange::Cut { run: second.clone(), cut: nothing });
    let to = region("ap");
    let catch_up = crate::runbook::step::CatchUp { run: second, to: to.clone() };
    assert_eq!(
        catch_up.blocked(&facts),
        Some(Blocker::Behind {
            region: to.clone(),
            needs: Cut { origin: eu(), lsn: ends_at },
            has: Lsn(80)
        })
    );
    facts.regions.get_mut(&to).unwrap().applied.advance(&eu(), ends_at);
    assert!(catch_up.done(&facts));
}

#[test]
fn the_survivor_that_shows_most_takes_over_and_of_equals_the_one_that_holds_most() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let successor = |facts: &Facts| crate::runbook::failover::successor(&region("eu"), facts);
    assert_eq!(successor(&facts), Some(region("us")), "both show 80, us holds 100");
    facts.regions.get_mut(&region("ap")).unwrap().applied.advance(&eu(), Lsn(90));
    assert_eq!(successor(&facts), Some(region("ap")));
    facts.regions.get_mut(&region("ap")).unwrap().reachable = false;
    assert_eq!(successor(&facts), Some(region("us")));
}

/// A switchover of partitions 3 to 5 that two people of one role have to approve.
fn with_approval() -> Plan {
    let text = "name = \"mine\"\nabout = \"Mine.\"\n
        [[step]]\ndo = \"approve\"\nrole = \"dba\"\ncount = 2\nwithin = \"15m\"\n
        [[step]]\ndo = \"hand_over\"\npartitions = \"3-5\"\nto = \"us\"\n
        [[step]]\ndo = \"catch_up\"\n[[step]]\ndo = \"grant\"";
    Runbook::parse(text).unwrap().plan(&run(), &Arguments::new()).unwrap()
}

#[test]
fn a_region_that_is_back_gets_nothing_before_it_is_well() {
    let mut facts = facts(Rpo::None);
    let text = crate::runbook::ready::text("failback").unwrap();
    let told = [("partitions", "3-5"), ("to", "us"), ("lag", "2s")];
    let told = told.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let plan = Runbook::parse(text).unwrap().plan(&run(), &told).unwrap();
    let waits = |facts: &Facts| match next(&plan, &recorded(false), facts) {
        Next::Wait { step: 0, blocker } => blocker.to_string(),
        other => panic!("{other:?}"),
    };
    let us = |facts: &mut Facts, change: &dyn Fn(&mut RegionFacts)| {
        change(facts.regions.get_mut(&region("us")).unwrap());
    };
    let owner = |facts: &mut Facts, name: &str, by: u64, reachable: bool| {
        let owner = facts.regions.get_mut(&region(name)).unwrap();
        owner.staleness.insert(region("us"), Millis(by));
        owner.reachable = reachable;
    };
    let before = facts.clone();
    us(&mut facts, &|us| us.reachable = false);
    assert_eq!(waits(&facts), "region us does not answer");
    us(&mut facts, &|us| us.lease_over_at = Some(Time(0)));
    us(&mut facts, &|us| us.reachable = true);
    assert_eq!(waits(&facts), "region us holds no live lease");
    us(&mut facts, &|us| us.cannot_write = true);
    assert_eq!(waits(&facts), "region us could not write: domicile status says why");
    facts = before.clone();
    us(&mut facts, &|us| us.left_behind = true);
    assert_eq!(waits(&facts), "region us lacks records that are gone: it has to be seeded again");
    facts = before;
    owner(&mut facts, "ap", 2001, true);
    assert_eq!(waits(&facts), "region us is 2001ms behind region ap; 2000ms is the most");
    owner(&mut facts, "ap", 2001, false);
    let Next::Do { step: 2, effect } = next(&plan, &recorded(false), &facts) else { panic!() };
    perform(&mut facts, effect);
    owner(&mut facts, "ap", 2001, true);
    let (story, outcome) = go_on(&plan, true, &mut facts);
    assert_eq!(story[0], "wait hand_over", "nobody writes now: it is not asked again");
    assert_eq!(outcome, Outcome::Succeeded);
}

/// A program runs before a switchover, and another after it.
fn with_programs() -> Plan {
    let text = "name = \"mine\"\nabout = \"Mine.\"\n
        [[step]]\ndo = \"exec\"\nprogram = \"first\"\n
        [[step]]\ndo = \"hand_over\"\npartitions = \"3-5\"\nto = \"us\"\n
        [[step]]\ndo = \"catch_up\"\n[[step]]\ndo = \"grant\"\n
        [[step]]\ndo = \"exec\"\nprogram = \"last\"\nwithin = \"5s\"\n";
    Runbook::parse(text).unwrap().plan(&run(), &Arguments::new()).unwrap()
}

#[test]
fn programs_run_before_anything_is_taken_and_once_it_is_granted() {
    let (mut facts, plan) = (facts(Rpo::None), with_programs());
    let (story, outcome) = play(&plan, &mut facts);
    assert_eq!((story[0].as_str(), story.last().unwrap().as_str()), ("do exec", "do exec"));
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(facts.answers.keys().copied().collect::<Vec<_>>(), [0, 4]);
}

#[test]
fn a_program_that_fails_ends_the_run_where_every_partition_has_an_owner() {
    let (mut facts, plan) = (facts(Rpo::None), with_programs());
    let before = facts.ownership.clone();
    facts.answers.insert(0, Answer::Failed);
    assert_eq!(play(&plan, &mut facts), (Vec::new(), Outcome::Failed));
    assert_eq!(facts.ownership, before);
    facts.answers = [(0, Answer::Passed), (4, Answer::Failed)].into();
    let (_, outcome) = play(&plan, &mut facts);
    assert_eq!((owner(&facts, 4).as_str(), outcome), ("us", Outcome::Failed));
}

#[test]
fn a_program_that_may_fail_holds_nothing_up() {
    let (mut facts, mut plan) = (facts(Rpo::None), with_programs());
    for step in &mut plan.steps {
        if let Step::Exec(exec) = step {
            exec.may_fail = true;
        }
    }
    facts.answers = [(0, Answer::Failed), (4, Answer::Failed)].into();
    assert_eq!(play(&plan, &mut facts).1, Outcome::Succeeded);
}

#[test]
fn sessions_are_opened_at_the_new_owner_before_everything_is_handed_over() {
    let mut facts = facts(Rpo::None);
    let members = facts.ownership.members().clone();
    facts.ownership = Ownership::initial(1, &[region("eu")]).with_members(members);
    let intent = Intent::Switchover { range: PartitionRange::new(0, 0), to: region("us") };
    let plan = plan(&run(), &intent, &facts).unwrap();
    let warm_up = Effect::WarmUp { number: 0, to: region("us"), within: Millis(10_000) };
    let due = Next::Do { step: 0, effect: warm_up };
    assert_eq!(next(&plan, &recorded(false), &facts), due);
    let held = Next::Wait { step: 0, blocker: Blocker::Paused { by: "ada".into() } };
    assert_eq!(next(&plan, &pause(false), &facts), held);
    let aborted = Next::Finished(Outcome::Aborted);
    assert_eq!(next(&plan, &abort(false), &facts), aborted, "nothing has moved");
    let before = facts.clone();
    let (story, outcome) = play(&plan, &mut facts);
    assert_eq!(
        (&story[..2], outcome),
        (&["do warm_up", "do hand_over"].map(str::to_owned)[..], Outcome::Succeeded)
    );
    // Whoever goes on with it may not know what came of the first step.
    let mut facts = before;
    let range = PartitionRange::new(0, 0);
    change(&mut facts, OwnershipChange::HandOver { range, to: region("us"), run: run() });
    let (story, _) = go_on(&plan, true, &mut facts);
    assert_eq!(story[0], "wait hand_over", "nobody writes now: it is not asked again");
}

/// A webhook is called before a switchover, and another after it.
fn with_webhooks() -> Plan {
    let text = "name = \"mine\"\nabout = \"Mine.\"\n
        [[step]]\ndo = \"webhook\"\nwebhook = \"first\"\n
        [[step]]\ndo = \"hand_over\"\npartitions = \"3-5\"\nto = \"us\"\n
        [[step]]\ndo = \"catch_up\"\n[[step]]\ndo = \"grant\"\n
        [[step]]\ndo = \"webhook\"\nwebhook = \"last\"\nwithin = \"5s\"\n";
    Runbook::parse(text).unwrap().plan(&run(), &Arguments::new()).unwrap()
}

#[test]
fn webhooks_are_called_before_anything_is_taken_and_once_it_is_granted() {
    let (mut facts, plan) = (facts(Rpo::None), with_webhooks());
    let (story, outcome) = play(&plan, &mut facts);
    assert_eq!((story[0].as_str(), story.last().unwrap().as_str()), ("do webhook", "do webhook"));
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(facts.answers.keys().copied().collect::<Vec<_>>(), [0, 4]);
    let Step::Webhook(last) = &plan.steps[4] else { panic!("{plan:?}") };
    assert_eq!((last.webhook.as_str(), last.within), ("last", Millis(5000)));
}

#[test]
fn a_webhook_that_says_no_ends_the_run_where_every_partition_has_an_owner() {
    let (mut facts, plan) = (facts(Rpo::None), with_webhooks());
    let before = facts.ownership.clone();
    facts.answers.insert(0, Answer::Failed);
    assert_eq!(play(&plan, &mut facts), (Vec::new(), Outcome::Failed));
    assert_eq!(facts.ownership, before);
    facts.answers = [(0, Answer::Passed), (4, Answer::Failed)].into();
    let (_, outcome) = play(&plan, &mut facts);
    assert_eq!((owner(&facts, 4).as_str(), outcome), ("us", Outcome::Failed));
}

#[test]
fn whatever_comes_of_telling_somebody_the_run_goes_on() {
    let text = "name = \"mine\"\nabout = \"Mine.\"\n
        [[step]]\ndo = \"notify\"\nwebhook = \"team\"\n
        [[step]]\ndo = \"hand_over\"\npartitions = \"3-5\"\nto = \"us\"\n
        [[step]]\ndo = \"catch_up\"\n[[step]]\ndo = \"grant\"\n
        [[step]]\ndo = \"notify\"\nwebhook = \"team\"\n";
    let plan = Runbook::parse(text).unwrap().plan(&run(), &Arguments::new()).unwrap();
    let mut told = facts(Rpo::None);
    let (story, outcome) = play(&plan, &mut told);
    assert_eq!((story[0].as_str(), story.last().unwrap().as_str()), ("do notify", "do notify"));
    assert_eq!(outcome, Outcome::Succeeded);

    let mut in_vain = facts(Rpo::None);
    in_vain.answers = [(0, Answer::Failed), (4, Answer::Failed)].into();
    let (story, outcome) = play(&plan, &mut in_vain);
    assert!(!story.contains(&"do notify".to_owned()), "{story:?}");
    assert_eq!((owner(&in_vain, 4).as_str(), outcome), ("us", Outcome::Succeeded));

    // Nobody writes now: as whoever sees it has not heard of the answer yet.
    let mut taken = facts(Rpo::None);
    taken.answers.insert(0, Answer::Failed);
    let Next::Do { effect, .. } = next(&plan, &recorded(false), &taken) else { panic!() };
    perform(&mut taken, effect);
    taken.answers.clear();
    assert!(matches!(next(&plan, &recorded(true), &taken), Next::Wait { step: 1, .. }));
}

#[test]
fn no_webhook_is_called_while_nobody_may_write() {
    let (mut facts, plan) = (facts(Rpo::None), with_webhooks());
    facts.answers.insert(0, Answer::Passed);
    let Next::Do { effect, .. } = next(&plan, &recorded(false), &facts) else { panic!() };
    perform(&mut facts, effect);
    // As whoever sees it has not heard of the answer yet.
    facts.answers.clear();
    assert!(matches!(next(&plan, &recorded(true), &facts), Next::Wait { step: 1, .. }));
}

#[test]
fn a_run_is_planned_forced_or_a_drill() {
    let (from, to) = (region("eu"), region("us"));
    let over = |range| Intent::Switchover { range, to: to.clone() };
    let failover = Intent::Failover { from: from.clone(), to: to.clone(), attested: true };
    let evacuation = Intent::Evacuation { from, to: to.clone() };
    let modes =
        [over(PartitionRange::new(0, 3)), evacuation, failover, over(PartitionRange::CANARY)];
    let modes = modes.map(|intent| intent.mode().to_string());
    assert_eq!(modes, ["planned", "planned", "forced", "drill"]);
}

#[test]
fn no_program_runs_while_nobody_may_write() {
    let (mut facts, plan) = (facts(Rpo::None), with_programs());
    facts.answers.insert(0, Answer::Passed);
    let Next::Do { effect, .. } = next(&plan, &recorded(false), &facts) else { panic!() };
    perform(&mut facts, effect);
    // As whoever sees it has not heard of the answer yet.
    facts.answers.clear();
    assert!(matches!(next(&plan, &recorded(true), &facts), Next::Wait { step: 1, .. }));
}

#[test]
fn a_check_that_waits_is_aborted_without_a_trace() {
    let mut facts = facts(Rpo::None);
    let text = crate::runbook::ready::text("failback").unwrap();
    let told = [("partitions", "3-5"), ("to", "us")];
    let told = told.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let plan = Runbook::parse(text).unwrap().plan(&run(), &told).unwrap();
    facts.regions.get_mut(&region("us")).unwrap().left_behind = true;
    assert_eq!(next(&plan, &abort(false), &facts), Next::Finished(Outcome::Aborted));
}

fn abort(started: bool) -> Recorded {
    Recorded { wish: Some(Wish::Abort { by: "ada".into() }), ..recorded(started) }
}

fn pause(started: bool) -> Recorded {
    Recorded { wish: Some(Wish::Pause { by: "ada".into() }), ..recorded(started) }
}

#[test]
fn nothing_is_taken_before_enough_different_people_have_approved() {
    let (mut facts, plan) = (facts(Rpo::None), with_approval());
    let missing = |facts: &Facts| match next(&plan, &recorded(false), facts) {
        Next::Wait { step: 0, blocker: Blocker::Unapproved { missing, .. } } => missing,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing(&facts), 2);
    assert!(waits_for_people(&plan, false, &facts.approvals));
    assert!(!waits_for_people(&plan, true, &facts.approvals));
    for (role, by, left) in
        [("dba", "ada", 1), ("dba", "ada", 1), ("developer", "grace", 1), ("dba", "grace", 0)]
    {
        facts.approvals.push(Approval { role: role.into(), by: by.into() });
        if left > 0 {
            assert_eq!(missing(&facts), left, "{by} as {role}");
        }
    }
    assert!(!waits_for_people(&plan, false, &facts.approvals));
    let (story, outcome) = play(&plan, &mut facts);
    assert_eq!(story[0], "do hand_over");
    assert_eq!(outcome, Outcome::Succeeded);
}

#[test]
fn a_run_that_nobody_approves_in_time_ends_without_having_done_anything() {
    let (mut facts, plan) = (facts(Rpo::None), with_approval());
    let before = facts.ownership.clone();
    facts.run_known_for = Millis(15 * 60_000 - 1);
    assert!(matches!(next(&plan, &recorded(false), &facts), Next::Wait { .. }));
    facts.run_known_for = Millis(15 * 60_000);
    assert_eq!(next(&plan, &recorded(false), &facts), Next::Finished(Outcome::Unapproved));
    assert_eq!(facts.ownership, before);
    // Whoever looks at a run that has begun may have known of it for long.
    let effect = plan.steps[1].effect(&facts).unwrap();
    perform(&mut facts, effect);
    assert!(!matches!(next(&plan, &recorded(true), &facts), Next::Finished(_)));
}

#[test]
fn what_was_approved_and_has_become_something_else_is_not_done() {
    let (mut facts, plan) = (facts(Rpo::None), with_approval());
    let planned = Some(PlanId("another".into()));
    let changed = Recorded { planned, ..Recorded::default() };
    assert_eq!(next(&plan, &changed, &facts), Next::Finished(Outcome::Overruled));
    // It is the run itself that has changed it.
    let (story, outcome) = play(&plan, &mut facts);
    assert_eq!((story[0].as_str(), outcome), ("wait approve", Outcome::Succeeded));
    let changed = Recorded { started: true, ..changed };
    assert_eq!(next(&plan, &changed, &facts), Next::Finished(Outcome::Succeeded));
}

#[test]
fn wherever_a_switchover_is_aborted_its_partitions_have_their_old_owner_or_the_new_one() {
    for stop in 0..8 {
        let mut facts = facts(Rpo::None);
        let plan = switchover(&facts);
        let mut journal = recorded(false);
        for _ in 0..stop {
            journal.started |= facts.ownership.ranges_of(&plan.run).next().is_some();
            match next(&plan, &journal, &facts) {
                Next::Do { effect, .. } => perform(&mut facts, effect),
                Next::Wait { blocker, .. } => settle(&mut facts, &blocker, &plan),
                Next::Finished(_) => break,
            }
        }
        journal.started |= facts.ownership.ranges_of(&plan.run).next().is_some();
        let late = too_late_to_abort(&plan, journal.started, &facts.ownership);
        let epoch = facts.ownership.entry(crate::id::PartitionId(4)).unwrap().epoch;
        facts.canary_written = false;
        let (_, outcome) = go_on_with(&plan, abort(journal.started), &mut facts);
        let entry = facts.ownership.entry(crate::id::PartitionId(4)).unwrap();
        if late.is_some() {
            assert_eq!((outcome, owner(&facts, 4).as_str()), (Outcome::Succeeded, "us"), "{stop}");
        } else {
            assert_eq!((outcome, owner(&facts, 4).as_str()), (Outcome::Aborted, "eu"), "{stop}");
            let taken = u64::from(journal.started);
            assert_eq!(entry.epoch.0, epoch.0 + taken, "given back at a new epoch");
        }
    }
}

#[test]
fn a_failover_is_aborted_before_its_fence_or_not_at_all() {
    let mut facts = facts(Rpo::Zero { copies: 1 });
    lose_eu(&mut facts);
    let plan = failover(&facts);
    assert_eq!(too_late_to_abort(&plan, false, &facts.ownership), None);
    assert_eq!(next(&plan, &abort(false), &facts), Next::Finished(Outcome::Aborted));
    change(&mut facts, OwnershipChange::Fence { from: region("eu"), run: run() });
    let late = too_late_to_abort(&plan, true, &facts.ownership);
    assert_eq!(late, Some(TooLate::Fenced(region("eu"))));
    let (_, outcome) = go_on_with(&plan, abort(true), &mut facts);
    assert_eq!(outcome, Outcome::Succeeded);
    let late = too_late_to_abort(&plan, true, &facts.ownership);
    assert_eq!(late, Some(TooLate::Granted));
}

#[test]
fn a_pause_never_leaves_a_partition_without_an_owner() {
    let mut facts = facts(Rpo::None);
    let plan = switchover(&facts);
    let paused = Blocker::Paused { by: "ada".into() };
    let held = Next::Wait { step: 1, blocker: paused.clone() };
    assert_eq!(next(&plan, &pause(false), &facts), held);
    let Next::Do { effect, .. } = next(&plan, &recorded(false), &facts) else { panic!() };
    perform(&mut facts, effect);
    let mut story = Vec::new();
    let held = loop {
        match next(&plan, &pause(true), &facts) {
            Next::Do { step, effect } => {
                story.push(plan.steps[step].name());
                perform(&mut facts, effect);
            }
            Next::Wait { step, blocker } if blocker == paused => break plan.steps[step].name(),
            Next::Wait { blocker, .. } => settle(&mut facts, &blocker, &plan),
            Next::Finished(outcome) => panic!("{outcome:?}"),
        }
    };
    assert_eq!((story.as_slice(), held), (["grant"].as_slice(), "reroute"));
    assert_eq!(owner(&facts, 4), "us");
    let (_, outcome) = go_on(&plan, true, &mut facts);
    assert_eq!(outcome, Outcome::Succeeded, "and it goes on where it stopped");
}

#[test]
fn a_paused_run_still_gives_back_what_its_lost_target_cannot_take() {
    let mut facts = facts(Rpo::None);
    let plan = switchover(&facts);
    let Next::Do { effect, .. } = next(&plan, &recorded(false), &facts) else { panic!() };
    perform(&mut facts, effect);
    facts.regions.get_mut(&region("us")).unwrap().lease_over_at = Some(Time(0));
    let (_, outcome) = go_on_with(&plan, pause(true), &mut facts);
    assert_eq!(outcome, Outcome::CalledOff { back_to: region("eu") });
}

/// ap owns the canary, and us shall have it for a while.
pub(in crate::runbook) fn drill(facts: &mut Facts) -> Plan {
    facts.ownership = facts.ownership.clone().with_canary(region("ap"));
    let text = crate::runbook::ready::text("drill").unwrap();
    let told = [("to".to_owned(), "us".to_owned())].into();
    check(Runbook::parse(text).unwrap().plan(&run(), &told).unwrap(), facts).unwrap()
}

fn canary(facts: &Facts) -> (String, u64) {
    let entry = facts.ownership.entry(crate::id::PartitionId::CANARY).unwrap();
    (entry.owner().unwrap().to_string(), entry.epoch.0)
}

#[test]
fn a_drill_hands_the_canary_over_and_back_and_touches_nothing_else() {
    let mut facts = facts(Rpo::None);
    let plan = drill(&mut facts);
    let decided = plan.decided(&facts.ownership);
    assert!(decided.ends_with("partition canary: epoch 1, from ap to us\n"), "{decided}");
    let before = facts.ownership.data().to_vec();
    let (story, outcome) = play(&plan, &mut facts);
    assert_eq!(outcome, Outcome::Succeeded);
    let there = ["do hand_over", "wait hand_over", "wait catch_up", "do grant", "wait reroute"];
    let back = ["do verify", "do give_back", "wait give_back"];
    assert_eq!(story, [&there[..], &back[..]].concat());
    assert_eq!(canary(&facts), ("ap".to_owned(), 3));
    assert_eq!(facts.ownership.data(), before);
}

#[test]
fn a_drill_whose_canary_came_from_a_region_that_has_left_ends_where_it_is() {
    let mut facts = facts(Rpo::None);
    let owners = [region("eu"), region("us")];
    let all = facts.regions.keys().cloned().collect::<Vec<_>>();
    facts.ownership = Ownership::initial(9, &owners).with_members(all);
    let plan = drill(&mut facts);
    go_up_to(&plan, &mut facts, |step| matches!(step, Step::GiveBack(_)));
    change(&mut facts, OwnershipChange::Leave { region: region("ap") });
    assert_eq!(go_on(&plan, true, &mut facts).1, Outcome::Overruled);
}

#[test]
fn a_drill_that_another_agent_continues_at_any_point_ends_the_same() {
    for stop in 0..10 {
        let mut facts = facts(Rpo::None);
        let plan = drill(&mut facts);
        let mut started = false;
        for _ in 0..stop {
            started |= facts.ownership.ranges_of(&plan.run).next().is_some();
            match next(&plan, &recorded(started), &facts) {
                Next::Do { effect, .. } => perform(&mut facts, effect),
                Next::Wait { blocker, .. } => settle(&mut facts, &blocker, &plan),
                Next::Finished(_) => break,
            }
        }
        facts.canary_written = false;
        let (_, outcome) = go_on(&plan, started, &mut facts);
        assert_eq!((outcome, canary(&facts)), (Outcome::Succeeded, ("ap".to_owned(), 3)), "{stop}");
    }
}

#[test]
fn a_drill_writes_the_canary_partition_where_it_went_whatever_else_is_there() {
    let mut facts = facts(Rpo::None);
    let plan = drill(&mut facts);
    let written = loop {
        let started = facts.ownership.had_its_turn(&plan.run);
        match next(&plan, &recorded(started), &facts) {
            Next::Do { effect: Effect::WriteCanary { region, partition }, .. } => {
                break (region, partition);
            }
            Next::Do { effect, .. } => perform(&mut facts, effect),
            Next::Wait { blocker, .. } => settle(&mut facts, &blocker, &plan),
            Next::Finished(outcome) => panic!("{outcome:?}"),
        }
    };
    assert_eq!(written, (region("us"), crate::id::PartitionId::CANARY));
}

#[test]
fn a_drill_waits_for_a_way_back_that_would_be_refused_and_ends_like_one_that_failed() {
    let mut facts = facts(Rpo::None);
    let plan = drill(&mut facts);
    let at_the_end = |facts: &mut Facts| loop {
        match next(&plan, &recorded(true), facts) {
            Next::Do { effect: Effect::Begin { .. }, .. } => break,
            Next::Do { effect, .. } => perform(facts, effect),
            Next::Wait { blocker, .. } => settle(facts, &blocker, &plan),
            Next::Finished(outcome) => panic!("{outcome:?}"),
        }
    };
    change(
        &mut facts,
        OwnershipChange::HandOver { range: PartitionRange::CANARY, to: region("us"), run: run() },
    );
    at_the_end(&mut facts);
    facts.regions.get_mut(&region("ap")).unwrap().reachable = false;
    let (range, reasons) = (PartitionRange::CANARY, vec![Refusal::Unreachable(region("ap"))]);
    let blocker = Blocker::NotNow { range, reasons };
    assert_eq!(next(&plan, &recorded(true), &facts), Next::Wait { step: 5, blocker });
    facts.parts.insert(range, Some(Outcome::Overruled));
    assert_eq!(next(&plan, &recorded(true), &facts), Next::Finished(Outcome::Overruled));
}

#[test]
fn a_drill_is_refused_where_the_canary_could_not_come_back() {
    let mut facts = facts(Rpo::None);
    let plan = drill(&mut facts);
    let ap = facts.regions.get_mut(&region("ap")).unwrap();
    ap.left_behind = true;
    assert_eq!(check(plan.clone(), &facts), Err(vec![Refusal::LeftBehind(region("ap"))]));
    let ap = facts.regions.get_mut(&region("ap")).unwrap();
    (ap.left_behind, ap.reachable, ap.lease_over_at) = (false, true, Some(Time(0)));
    assert_eq!(check(plan, &facts), Err(vec![Refusal::OwnerSilent(region("ap"))]));
}

/// `eu` owns three ranges, and `us` shall have them two at a time.
pub(in crate::runbook) fn evacuation(facts: &mut Facts) -> Plan {
    for (id, partition, to) in [("2", 4, "ap"), ("3", 1, "eu")] {
        let range = PartitionRange::new(partition, partition);
        let intent = Intent::Switchover { range, to: region(to) };
        let other = plan(&RunId(id.into()), &intent, facts).unwrap();
        play(&other, facts);
        facts.canary_written = false;
    }
    let text = crate::runbook::ready::text("evacuate-region").unwrap();
    let told = [("from", "eu"), ("to", "us"), ("at_once", "2")];
    let told = told.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Runbook::parse(text).unwrap().plan(&run(), &told).unwrap()
}

#[test]
fn a_region_is_emptied_range_by_range_and_only_so_many_at_a_time() {
    let mut facts = facts(Rpo::None);
    let plan = evacuation(&mut facts);
    let (story, outcome) = play(&plan, &mut facts);
    assert_eq!(outcome, Outcome::Succeeded);
    let (begun, waited) = ("do for_each", "wait for_each");
    assert_eq!(story, [begun, begun, waited, begun, waited, waited]);
    assert!(!facts.ownership.owns_anything(&region("eu")));
    assert_eq!((owner(&facts, 1), owner(&facts, 4)), ("us".to_owned(), "ap".to_owned()));
}

#[test]
fn when_one_part_is_called_off_no_other_is_begun() {
    let mut facts = facts(Rpo::None);
    let plan = evacuation(&mut facts);
    for _ in 0..2 {
        let Next::Do { effect, .. } = next(&plan, &recorded(false), &facts) else { panic!() };
        perform(&mut facts, effect);
    }
    let called_off = Outcome::CalledOff { back_to: region("eu") };
    *facts.parts.values_mut().next().unwrap() = Some(called_off.clone());
    let runs = Blocker::OnTheirWay { runs: 1, from: region("eu") };
    assert_eq!(next(&plan, &recorded(false), &facts), Next::Wait { step: 0, blocker: runs });
    *facts.parts.values_mut().last().unwrap() = Some(Outcome::Succeeded);
    assert_eq!(next(&plan, &recorded(false), &facts), Next::Finished(called_off));
}

#[test]
fn an_evacuation_that_is_stopped_begins_no_other_part() {
    let mut facts = facts(Rpo::None);
    let plan = evacuation(&mut facts);
    assert_eq!(next(&plan, &abort(false), &facts), Next::Finished(Outcome::Aborted));
    let Next::Do { effect, .. } = next(&plan, &recorded(false), &facts) else { panic!() };
    perform(&mut facts, effect);
    let held = |next: Next| match next {
        Next::Wait { blocker, .. } => blocker.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(held(next(&plan, &pause(false), &facts)), "paused by ada");
    assert_eq!(held(next(&plan, &abort(false), &facts)), "1 on their way");
    assert_eq!(too_late_to_abort(&plan, false, &facts.ownership), None);
    *facts.parts.values_mut().next().unwrap() = Some(Outcome::Succeeded);
    assert_eq!(next(&plan, &abort(false), &facts), Next::Finished(Outcome::Aborted));
}

#[test]
fn an_evacuation_that_others_have_undone_ends() {
    let mut facts = facts(Rpo::None);
    let plan = evacuation(&mut facts);
    let (story, _) = go_on(&plan, false, &mut facts);
    assert!(!story.is_empty());
    let moved = facts.ownership.entries().iter().find(|e| e.range.first == 3).unwrap().range;
    let back = RunId("back".into());
    change(
        &mut facts,
        OwnershipChange::HandOver { range: moved, to: region("eu"), run: back.clone() },
    );
    let barrier = Cut { origin: Origin::new(region("us"), 1), lsn: Lsn(7) };
    change(&mut facts, OwnershipChange::Barrier { run: back.clone(), barrier });
    change(&mut facts, OwnershipChange::Grant { run: back, to: region("eu") });
    let next = next(&plan, &recorded(false), &facts);
    assert_eq!(next, Next::Finished(Outcome::Overruled));
}

#[test]
fn a_part_that_only_the_owners_tell_of_counts_as_on_its_way() {
    let mut facts = facts(Rpo::None);
    let plan = evacuation(&mut facts);
    for partition in [1, 3] {
        let range = PartitionRange::new(partition, partition);
        let (to, part) = (region("us"), part_of(&run(), range));
        change(&mut facts, OwnershipChange::HandOver { range, to, run: part });
    }
    let runs = Blocker::OnTheirWay { runs: 2, from: region("eu") };
    assert_eq!(next(&plan, &recorded(false), &facts), Next::Wait { step: 0, blocker: runs });
}

#[test]
fn a_part_that_would_be_refused_is_waited_for() {
    let mut facts = facts(Rpo::None);
    let plan = evacuation(&mut facts);
    let eu = facts.regions.get_mut(&region("eu")).unwrap();
    eu.staleness.insert(region("us"), Millis(60_000));
    let Next::Wait { blocker, .. } = next(&plan, &recorded(false), &facts) else { panic!() };
    assert!(blocker.to_string().contains("\"us\" is 60.0s behind"), "{blocker}");
}

#[test]
fn a_part_is_known_by_its_name() {
    let range = PartitionRange::new(3, 5);
    assert_eq!(range_of_part(&run(), &part_of(&run(), range)), Some(range));
    assert_eq!(range_of_part(&run(), &RunId("12/3-5".into())), None);
    assert_eq!(range_of_part(&run(), &run()), None);
}

/// sa waits to be added, and everybody knows of it.
fn with_newcomer() -> (Plan, Facts) {
    let (sa, mut facts) = (region("sa"), facts(Rpo::None));
    facts.regions.insert(sa.clone(), RegionFacts { reachable: true, ..Default::default() });
    for seen in facts.regions.values_mut() {
        seen.aware_of.insert(sa.clone());
    }
    (Plan::ready(&RunId("r".into()), &Intent::Addition { region: sa }), facts)
}

#[test]
fn a_region_is_asked_for_until_it_is_a_member_and_well() {
    let (plan, mut facts) = with_newcomer();
    assert!(check(plan.clone(), &facts).is_ok());
    facts.regions.get_mut(&region("us")).unwrap().aware_of.clear();
    let unaware = next(&plan, &recorded(false), &facts);
    assert!(matches!(unaware, Next::Wait { blocker: Blocker::NotAddable { .. }, .. }));
    assert!(check(plan.clone(), &facts).is_err());
    facts.regions.get_mut(&region("us")).unwrap().aware_of.insert(region("sa"));
    let asks = Effect::Seed { region: region("sa"), from: region("ap"), replace: false };
    assert_eq!(next(&plan, &recorded(false), &facts), Next::Do { step: 0, effect: asks.clone() });
    let seeding = crate::runbook::Seeding { step: "copies".into(), ..Default::default() };
    facts.regions.get_mut(&region("sa")).unwrap().seeding = Some(seeding.clone());
    let blocker = Blocker::Seeding { region: region("sa"), seeding };
    assert_eq!(next(&plan, &recorded(false), &facts), Next::Wait { step: 0, blocker });
    perform(&mut facts, asks);
    let waits = next(&plan, &recorded(false), &facts);
    assert!(matches!(waits, Next::Wait { step: 1, blocker: Blocker::Unwell { .. } }), "no lease");
    facts.regions.get_mut(&region("sa")).unwrap().lease_over_at = Some(Time(9000));
    assert_eq!(next(&plan, &recorded(false), &facts), Next::Finished(Outcome::Succeeded));
    let refused = check(plan, &facts).unwrap_err();
    assert_eq!(refused, [Refusal::IsMember(region("sa"))]);
}

#[test]
fn who_is_not_to_be_added_any_more_is_asked_for_nothing_before_the_run_ends() {
    let (plan, mut facts) = with_newcomer();
    let recorded = Recorded { wish: Some(Wish::Abort { by: "ann".into() }), ..recorded(false) };
    let effect = Effect::GiveUpSeed { region: region("sa") };
    assert_eq!(next(&plan, &recorded, &facts), Next::Do { step: 0, effect: effect.clone() });
    perform(&mut facts, effect);
    assert_eq!(next(&plan, &recorded, &facts), Next::Finished(Outcome::Aborted));
    // One that is a member by then stays one.
    facts.seed_given_up = false;
    perform(&mut facts, Effect::Change(OwnershipChange::Join { region: region("sa") }));
    assert_eq!(next(&plan, &recorded, &facts), Next::Finished(Outcome::Aborted));
}
