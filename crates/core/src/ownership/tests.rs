//! What may and may not happen to ownership.

use super::*;

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

fn run(name: &str) -> RunId {
    RunId(name.into())
}

fn cut(name: &str, lsn: u64) -> Cut {
    Cut { origin: Origin::new(region(name), 1), lsn: Lsn(lsn) }
}

fn three() -> Ownership {
    Ownership::initial(9, &[region("ap"), region("eu"), region("us")])
}

fn stamp(partition: u32, epoch: u64) -> Stamp {
    Stamp { partition: PartitionId(partition), epoch: Epoch(epoch) }
}

fn owner(ownership: &Ownership, partition: u32) -> Option<String> {
    ownership.entry(PartitionId(partition)).unwrap().owner().map(ToString::to_string)
}

fn fenced_and_granted() -> Ownership {
    let r = run("1");
    three()
        .apply(&OwnershipChange::Fence { from: region("eu"), run: r.clone() })
        .and_then(|o| o.apply(&OwnershipChange::Cut { run: r.clone(), cut: cut("eu", 100) }))
        .and_then(|o| o.apply(&OwnershipChange::Grant { run: r, to: region("us") }))
        .unwrap()
}

#[test]
fn partitions_are_dealt_out_evenly() {
    let ownership = three();
    assert_eq!(ownership.total(), 9);
    let ranges: Vec<_> = ownership.entries().iter().map(|e| e.range.to_string()).collect();
    assert_eq!(ranges, ["0-2", "3-5", "6-8"]);
    let few = Ownership::initial(1, &[region("ap"), region("eu")]);
    assert_eq!(few.entries().len(), 1);
}

#[test]
fn a_planned_hand_over_goes_by_the_barrier() {
    let r = run("1");
    let range = PartitionRange::new(4, 4);
    let moving = three()
        .apply(&OwnershipChange::HandOver { range, to: region("us"), run: r.clone() })
        .unwrap();
    assert_eq!(owner(&moving, 4), Some("eu".into()), "the old owner writes until it has drained");
    assert_eq!(
        moving.apply(&OwnershipChange::Grant { run: r.clone(), to: region("us") }),
        Err(OwnershipRefusal::NoCut(range))
    );
    let drained =
        moving.apply(&OwnershipChange::Barrier { run: r.clone(), barrier: cut("eu", 70) }).unwrap();
    assert_eq!(owner(&drained, 4), None);
    let granted = drained.apply(&OwnershipChange::Grant { run: r, to: region("us") }).unwrap();
    assert_eq!(owner(&granted, 4), Some("us".into()));
    assert_eq!(granted.entry(PartitionId(4)).unwrap().epoch, Epoch(2));
    assert_eq!(owner(&granted, 3), Some("eu".into()), "its neighbours stay");
    assert_eq!(granted.entry(PartitionId(3)).unwrap().epoch, Epoch(1));
}

#[test]
fn what_the_old_owner_wrote_past_the_cut_is_not_history() {
    let ownership = fenced_and_granted();
    let eu = Origin::new(region("eu"), 1);
    assert_eq!(ownership.verdict(&eu, Lsn(100), stamp(4, 1)), Verdict::InHistory);
    assert_eq!(ownership.verdict(&eu, Lsn(101), stamp(4, 1)), Verdict::BeyondCut(cut("eu", 100)));
    assert_eq!(ownership.verdict(&eu, Lsn(101), stamp(4, 2)), Verdict::NeverGranted);
    let us = Origin::new(region("us"), 1);
    assert_eq!(ownership.verdict(&us, Lsn(5), stamp(4, 2)), Verdict::InHistory);
    assert_eq!(ownership.verdict(&us, Lsn(5), stamp(4, 3)), Verdict::Undecided);
    assert_eq!(ownership.verdict(&us, Lsn(5), stamp(99, 1)), Verdict::NeverGranted);
}

#[test]
fn a_region_that_was_cut_and_owns_nothing_ends_there() {
    let (eu, us) = (Origin::new(region("eu"), 1), Origin::new(region("us"), 1));
    let ownership = fenced_and_granted();
    assert!(ownership.ends_at(&eu, Lsn(100)));
    assert!(!ownership.ends_at(&eu, Lsn(99)), "there is more up to the cut");
    assert!(!ownership.ends_at(&us, Lsn(100)), "it goes on");
    assert!(!three().ends_at(&eu, Lsn(100)));
}

#[test]
fn a_new_incarnation_of_the_old_owner_lies_past_the_cut() {
    let ownership = fenced_and_granted();
    let reborn = Origin::new(region("eu"), 2);
    assert!(matches!(ownership.verdict(&reborn, Lsn(1), stamp(4, 1)), Verdict::BeyondCut(_)));
}

#[test]
fn nothing_is_decided_between_fence_and_cut() {
    let fenced =
        three().apply(&OwnershipChange::Fence { from: region("eu"), run: run("1") }).unwrap();
    let eu = Origin::new(region("eu"), 1);
    assert_eq!(owner(&fenced, 4), None);
    assert_eq!(fenced.verdict(&eu, Lsn(1), stamp(4, 1)), Verdict::Undecided);
    assert!(!fenced.is_closed(stamp(4, 1)));
    let us = Origin::new(region("us"), 1);
    assert_eq!(
        fenced.verdict(&us, Lsn(1), stamp(4, 2)),
        Verdict::Undecided,
        "the grant of epoch 2 may just not be known here"
    );
    assert_eq!(owner(&fenced, 0), Some("ap".into()), "other owners go on");
}

#[test]
fn members_neither_come_nor_go_while_a_cut_is_decided() {
    let (sa, eu, r) = (region("sa"), region("eu"), run("1"));
    let join = OwnershipChange::Join { region: sa.clone() };
    let leave = OwnershipChange::Leave { region: sa.clone() };
    let fence = OwnershipChange::Fence { from: eu.clone(), run: r.clone() };
    let cut = OwnershipChange::Cut { run: r.clone(), cut: cut("eu", 100) };
    let open = Err(OwnershipRefusal::NoCut(PartitionRange::new(3, 5)));
    let fenced = three().apply(&fence).unwrap();
    assert_eq!(fenced.apply(&join), open);
    let joined = fenced.apply(&cut).unwrap().apply(&join).unwrap();
    assert!(joined.members().contains(&sa));
    assert_eq!(joined.apply(&join), Err(OwnershipRefusal::IsMember(sa.clone())));
    let fenced = three().apply(&join).unwrap().apply(&fence).unwrap();
    // Until it is granted, it may be on its way to the one that leaves.
    let given = |ownership: &Ownership| {
        matches!(ownership.apply(&leave), Err(OwnershipRefusal::NotOwned { .. }))
    };
    assert!(given(&fenced));
    let ended = fenced.apply(&cut).unwrap();
    assert!(given(&ended));
    let grant = OwnershipChange::Grant { run: r, to: region("us") };
    let left = ended.apply(&grant).unwrap().apply(&leave).unwrap();
    assert!(!left.members().contains(&sa));
    assert_eq!(left.apply(&leave), Err(OwnershipRefusal::NotMember(sa)));
}

#[test]
fn only_a_member_is_given_anything_and_only_who_owns_nothing_leaves() {
    let (sa, eu, us) = (region("sa"), region("eu"), region("us"));
    let give = OwnershipChange::HandOver {
        range: PartitionRange::new(4, 4),
        to: sa.clone(),
        run: run("1"),
    };
    assert_eq!(three().apply(&give), Err(OwnershipRefusal::NotMember(sa.clone())));
    let moving = three().with_members([sa.clone()]).apply(&give).unwrap();
    for region in [eu, sa.clone(), us] {
        let refusal = OwnershipRefusal::OwnsSomething(region.clone());
        assert_eq!(moving.apply(&OwnershipChange::Leave { region }), Err(refusal));
    }
    let grant = OwnershipChange::Grant { run: run("2"), to: sa.clone() };
    let fence = OwnershipChange::Fence { from: region("eu"), run: run("2") };
    let cut = OwnershipChange::Cut { run: run("2"), cut: cut("eu", 100) };
    let fenced = three().apply(&fence).and_then(|o| o.apply(&cut)).unwrap();
    assert_eq!(fenced.apply(&grant), Err(OwnershipRefusal::NotMember(sa)));
}

#[test]
fn a_witness_holds_logs_and_is_never_given_anything() {
    let (metro, us, r) = (region("metro"), region("us"), run("1"));
    let witness = OwnershipChange::Witness { witness: metro.clone() };
    let witnessed = three().apply(&witness).unwrap();
    assert!(witnessed.holders().any(|holder| *holder == metro));
    assert!(!witnessed.members().contains(&metro));
    let range = PartitionRange::new(3, 5);
    let not_member = Err(OwnershipRefusal::NotMember(metro.clone()));
    let give = OwnershipChange::HandOver { range, to: metro.clone(), run: r.clone() };
    assert_eq!(witnessed.apply(&give), not_member);
    let fence = OwnershipChange::Fence { from: region("eu"), run: r.clone() };
    let fenced = witnessed.apply(&fence).unwrap();
    let leave = OwnershipChange::Leave { region: metro.clone() };
    // Its seal may be the one that counts.
    assert!(matches!(fenced.apply(&leave), Err(OwnershipRefusal::NotOwned { .. })));
    let late = OwnershipChange::Witness { witness: region("late") };
    assert_eq!(fenced.apply(&late), Err(OwnershipRefusal::NoCut(range)));
    let cut = OwnershipChange::Cut { run: r.clone(), cut: cut("eu", 100) };
    let ended = fenced.apply(&cut).unwrap();
    assert_eq!(ended.apply(&OwnershipChange::Grant { run: r, to: metro.clone() }), not_member);
    for known in [&metro, &us] {
        let refusals = [
            OwnershipChange::Join { region: known.clone() },
            OwnershipChange::Witness { witness: known.clone() },
        ];
        assert!(refusals.iter().all(|change| witnessed.apply(change).is_err()), "{known}");
    }
    assert_eq!(witnessed.apply(&leave), Ok(three()));
}

#[test]
fn a_cut_is_immutable() {
    let r = run("1");
    let cut_once = three()
        .apply(&OwnershipChange::Fence { from: region("eu"), run: r.clone() })
        .and_then(|o| o.apply(&OwnershipChange::Cut { run: r.clone(), cut: cut("eu", 100) }))
        .unwrap();
    assert!(cut_once.apply(&OwnershipChange::Cut { run: r, cut: cut("eu", 200) }).is_err());
}

#[test]
fn a_fence_overrules_a_hand_over() {
    let range = PartitionRange::new(3, 5);
    let moving = three()
        .apply(&OwnershipChange::HandOver { range, to: region("us"), run: run("1") })
        .unwrap();
    let fenced =
        moving.apply(&OwnershipChange::Fence { from: region("eu"), run: run("2") }).unwrap();
    assert!(fenced.apply(&OwnershipChange::Grant { run: run("1"), to: region("us") }).is_err());
    assert_eq!(fenced.entry(PartitionId(4)).unwrap().epoch, Epoch(2));
}

#[test]
fn repeating_a_grant_changes_nothing() {
    let ownership = fenced_and_granted();
    let again = ownership.apply(&OwnershipChange::Grant { run: run("1"), to: region("ap") });
    assert_eq!(again, Err(OwnershipRefusal::NothingToDo(run("1"))));
}

#[test]
fn a_run_takes_partitions_once_only() {
    let ownership = fenced_and_granted();
    let range = PartitionRange::new(6, 8);
    let had_its_turn = Err(OwnershipRefusal::HadItsTurn(run("1")));
    let again = OwnershipChange::HandOver { range, to: region("eu"), run: run("1") };
    assert_eq!(ownership.apply(&again), had_its_turn);
    let again = OwnershipChange::Fence { from: region("us"), run: run("1") };
    assert_eq!(ownership.apply(&again), had_its_turn, "whoever decided on that was late");
    let mut ownership = ownership;
    for i in 2..=RUNS_MAX + 2 {
        assert!(ownership.had_its_turn(&run("1")) == (i < RUNS_MAX + 2));
        let (r, range) = (run(&i.to_string()), PartitionRange::new(4, 4));
        let to = if owner(&ownership, 4) == Some("us".into()) { "eu" } else { "us" };
        let barrier = cut(if to == "us" { "eu" } else { "us" }, i as u64);
        ownership = ownership
            .apply(&OwnershipChange::HandOver { range, to: region(to), run: r.clone() })
            .and_then(|o| o.apply(&OwnershipChange::Barrier { run: r.clone(), barrier }))
            .and_then(|o| o.apply(&OwnershipChange::Grant { run: r, to: region(to) }))
            .unwrap();
    }
    assert_eq!(ownership.turns().len(), RUNS_MAX);
}

#[test]
fn each_grant_raises_the_epoch_by_one() {
    let mut ownership = three();
    for (i, to) in ["us", "ap", "eu", "us"].iter().enumerate() {
        let (r, range) = (run(&i.to_string()), PartitionRange::new(4, 4));
        let by = ownership.entry(PartitionId(4)).unwrap().owner().unwrap().to_string();
        ownership = ownership
            .apply(&OwnershipChange::HandOver { range, to: region(to), run: r.clone() })
            .and_then(|o| {
                let barrier = cut(&by, 10 * (i as u64 + 1));
                o.apply(&OwnershipChange::Barrier { run: r.clone(), barrier })
            })
            .and_then(|o| o.apply(&OwnershipChange::Grant { run: r, to: region(to) }))
            .unwrap();
        assert_eq!(ownership.entry(PartitionId(4)).unwrap().epoch, Epoch(i as u64 + 2));
    }
    assert_eq!(ownership.entry(PartitionId(4)).unwrap().closed.len(), 4);
}

#[test]
fn a_hand_over_leaves_alone_what_the_target_owns_already() {
    let (r, range) = (run("1"), PartitionRange::new(5, 6));
    let to = region("us");
    let moving = three()
        .apply(&OwnershipChange::HandOver { range, to: to.clone(), run: r.clone() })
        .unwrap();
    let in_hands: Vec<_> = moving.ranges_of(&r).map(|e| e.range).collect();
    assert_eq!(in_hands, [PartitionRange::new(5, 5)]);
    let range = PartitionRange::new(6, 7);
    let nothing = three().apply(&OwnershipChange::HandOver { range, to: to.clone(), run: r });
    assert_eq!(nothing, Err(OwnershipRefusal::AlreadyOwner { range, to }));
}

#[test]
fn a_hand_over_of_two_owners_goes_back_to_each() {
    let (r, range) = (run("1"), PartitionRange::new(2, 3));
    let ownership = three()
        .apply(&OwnershipChange::HandOver { range, to: region("us"), run: r.clone() })
        .and_then(|o| o.apply(&OwnershipChange::Barrier { run: r.clone(), barrier: cut("ap", 5) }))
        .unwrap();
    let back = OwnershipChange::HandBack { run: r.clone() };
    let open = PartitionRange::new(3, 3);
    assert_eq!(ownership.apply(&back), Err(OwnershipRefusal::NoCut(open)), "eu still writes");
    let ownership = ownership
        .apply(&OwnershipChange::Barrier { run: r, barrier: cut("eu", 7) })
        .and_then(|o| o.apply(&back))
        .unwrap();
    assert_eq!(owner(&ownership, 2), Some("ap".into()));
    assert_eq!(owner(&ownership, 3), Some("eu".into()));
    assert_eq!(ownership.entry(PartitionId(3)).unwrap().epoch, Epoch(2));
}

#[test]
fn what_is_handed_over_is_lost_at_once_and_gained_with_the_grant() {
    let (r, range) = (run("1"), PartitionRange::new(5, 5));
    let (eu, us) = (region("eu"), region("us"));
    let before = three();
    let hand_over = OwnershipChange::HandOver { range, to: us.clone(), run: r.clone() };
    let moving = before.apply(&hand_over).unwrap();
    assert!(before.gives(&moving, &eu), "its guard closes");
    assert!(!moving.gives(&before, &us));
    let barrier = OwnershipChange::Barrier { run: r.clone(), barrier: cut("eu", 5) };
    let announced = moving.apply(&barrier).unwrap();
    assert!(moving.admits_like(&announced), "a barrier changes nothing for guards");
    let granted = announced.apply(&OwnershipChange::Grant { run: r, to: us.clone() }).unwrap();
    assert!(!announced.admits_like(&granted));
    assert!(granted.gives(&announced, &us));
    assert!(!granted.gives(&announced, &eu));
}

#[test]
fn a_cut_is_new_where_its_epoch_was_not_known_to_end_there() {
    let eu = cut("eu", 50).origin;
    let ended = |before: &Ownership, number: u32, name: &str| {
        let (r, range) = (run(name), PartitionRange::new(number, number));
        before
            .apply(&OwnershipChange::HandOver { range, to: region("us"), run: r.clone() })
            .and_then(|o| o.apply(&OwnershipChange::Barrier { run: r, barrier: cut("eu", 50) }))
            .unwrap()
    };
    let first = three();
    assert_eq!(first.first_new_cut(None, &eu), None, "nothing ends");
    let one = ended(&first, 3, "1");
    assert_eq!(one.first_new_cut(None, &eu), Some(Lsn(50)));
    assert_eq!(one.first_new_cut(Some(&first), &eu), Some(Lsn(50)));
    assert_eq!(one.first_new_cut(Some(&one), &eu), None);
    assert_eq!(one.first_new_cut(None, &cut("us", 1).origin), None);
    let granted = one.apply(&OwnershipChange::Grant { run: run("1"), to: region("us") }).unwrap();
    assert_eq!(granted.first_new_cut(Some(&one), &eu), None, "it ends where it was to end");
    let two = ended(&granted, 4, "2");
    let new = two.first_new_cut(Some(&granted), &eu);
    assert_eq!(new, Some(Lsn(50)), "the same place, and another partition's epoch");
    let larger = first.clone().with_last(region("eu"));
    assert_eq!(ended(&larger, 9, "1").first_new_cut(Some(&one), &eu), Some(Lsn(50)));
}

fn with_canary() -> Ownership {
    three().with_canary(region("ap"))
}

#[test]
fn the_canary_moves_like_any_partition_and_changes_nothing_about_the_others() {
    let start = with_canary();
    assert_eq!((start.total(), start.data().len(), start.entries().len()), (9, 3, 4));
    let (r, range) = (run("1"), PartitionRange::CANARY);
    let moved = [
        OwnershipChange::HandOver { range, to: region("us"), run: r.clone() },
        OwnershipChange::Barrier { run: r.clone(), barrier: cut("ap", 70) },
        OwnershipChange::Grant { run: r, to: region("us") },
    ];
    let moved = moved.iter().try_fold(start.clone(), |o, change| o.apply(change)).unwrap();
    assert_eq!(moved.data(), start.data());
    assert_eq!(owner(&moved, PartitionId::CANARY.0), Some("us".into()));
    let stamp = |epoch| stamp(PartitionId::CANARY.0, epoch);
    let (ap, us) = (cut("ap", 0).origin, cut("us", 0).origin);
    assert_eq!(moved.verdict(&ap, Lsn(70), stamp(1)), Verdict::InHistory);
    assert_eq!(moved.verdict(&ap, Lsn(71), stamp(1)), Verdict::BeyondCut(cut("ap", 70)));
    assert_eq!(moved.verdict(&us, Lsn(5), stamp(2)), Verdict::InHistory);
    assert_eq!(moved.first_new_cut(Some(&start), &ap), Some(Lsn(70)));
    assert_eq!(moved.first_new_cut(Some(&moved), &ap), None);
    assert_eq!(start.forgets(&moved), Some(range));
    assert_eq!(moved.forgets(&start), None);
    assert_eq!(three().forgets(&start), Some(range), "it was there");
    assert!(start.gives(&moved, &region("ap")) && !start.gives_data(&moved, &region("ap")));
}

#[test]
fn whoever_owns_the_canary_alone_owns_something_and_nobodys_rows() {
    let r = run("1");
    let ap = region("ap");
    let gone = [
        OwnershipChange::HandOver {
            range: PartitionRange::new(0, 2),
            to: region("us"),
            run: r.clone(),
        },
        OwnershipChange::Barrier { run: r.clone(), barrier: cut("ap", 70) },
        OwnershipChange::Grant { run: r, to: region("us") },
    ];
    let gone = gone.iter().try_fold(with_canary(), |o, change| o.apply(change)).unwrap();
    assert!(gone.owns_anything(&ap) && !gone.owns_data(&ap));
    let leave = OwnershipChange::Leave { region: ap.clone() };
    assert_eq!(gone.apply(&leave), Err(OwnershipRefusal::OwnsSomething(ap.clone())));
    let fenced = gone.apply(&OwnershipChange::Fence { from: ap.clone(), run: run("2") }).unwrap();
    let taken: Vec<_> = fenced.ranges_of(&run("2")).map(|e| e.range).collect();
    assert_eq!(taken, [PartitionRange::CANARY]);
}

#[test]
fn the_canary_stands_apart_from_all_numbers() {
    let all = with_canary();
    for number in [9, 10, PartitionId::CANARY.0 - 1] {
        assert_eq!(all.entry(PartitionId(number)), None, "{number}");
    }
    for range in [(8, 9), (0, PartitionId::CANARY.0), (9, PartitionId::CANARY.0)] {
        let range = PartitionRange::new(range.0, range.1);
        let change = OwnershipChange::HandOver { range, to: region("us"), run: run("1") };
        assert_eq!(all.apply(&change), Err(OwnershipRefusal::NoSuchPartition(range)));
    }
    let change = OwnershipChange::HandOver {
        range: PartitionRange::CANARY,
        to: region("us"),
        run: run("1"),
    };
    let missing = OwnershipRefusal::NoSuchPartition(PartitionRange::CANARY);
    assert_eq!(three().apply(&change), Err(missing));
    let added = three().apply(&OwnershipChange::AddCanary { by: region("ap") }).unwrap();
    assert_eq!(added, all);
    let twice = added.apply(&OwnershipChange::AddCanary { by: region("eu") });
    assert_eq!(twice, Err(OwnershipRefusal::HasCanary));
    assert_eq!(three().forgets(&three()), None);
    assert_eq!(added.forgets(&three()), None, "an older cluster got one");
    let members = all.members().clone();
    assert_eq!(Ownership::from_entries(members.clone(), all.entries().to_vec()), Some(all.clone()));
    assert_eq!(Ownership::from_entries(members, all.entries()[1..].to_vec()), None);
    assert_eq!(all.with_last(region("eu")).total(), 10, "the others still follow on each other");
    assert_eq!("canary".parse(), Ok(PartitionRange::CANARY));
    assert_eq!(PartitionRange::CANARY.to_string(), "canary");
}
