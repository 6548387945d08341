//! Do the seeds that once failed still hold? And would the invariants notice if they did not?
//!
//! A seed that fails goes into the list, with what it showed, and stays there. A seed stands for
//! one run only as long as the world draws its numbers in the same order: the list also is
//! twenty-odd different worlds that every change must survive.

use domicile_sim::{Kind, Options, Sabotage, explain, run, run_twice};

const SEEDS: &[u64] = &[
    0, // a failover waited for an outage that was over
    1, 2, 3, 6,  // without copies, the lease of a fenced region that came back was waited for
    15, // rows overwritten past the guard in every region
    36, // two regions waited for a position that a diverted write had left behind
    60, // a failover fenced its region twice, under seals of the first time
    71, // a switchover waited for a partition that a failover had taken
    95, 105, // a canary for a partition without rows
    121, 128, 135, // an answer to an earlier renewal set the guard
    182, // a switchover to a region that owned part of it already
    205, 215, 251,
    305, // a new owner's writes were refused by who knew the fence but no grant
    363, 376, // a run was called off while it was fencing
    764, 988, 2813, // a hand-over by two owners was called off, and one got it all
    1580, // a new owner lacked what was written before an owner that wrote nothing
];

fn hold(seed: u64) {
    let report = run(seed, Options::default());
    assert!(report.violation.is_none(), "{}", explain(seed, &report));
}

#[test]
fn the_seeds_hold() {
    SEEDS.iter().copied().for_each(hold);
}

#[test]
fn the_same_seed_always_gives_the_same_run() {
    for seed in [7, 60, 305] {
        let report = run_twice(seed, Options::default());
        assert!(report.violation.is_none(), "{}", explain(seed, &report));
    }
}

/// Breaks a rule on purpose in up to 400 worlds; some invariant must notice.
fn is_noticed(sabotage: Sabotage, kind: Kind) {
    let options = Options { sabotage: Some(sabotage), ..Options::default() };
    let broken = |seed| run(seed, options).violation.is_some_and(|broken| broken.kind == kind);
    assert!((0..400).any(broken), "every seed survives {sabotage:?}");
}

#[test]
fn peers_that_forget_their_seals_are_noticed() {
    is_noticed(Sabotage::SkipSeal, Kind::Safety);
}

#[test]
fn agents_that_ignore_a_cut_are_noticed() {
    is_noticed(Sabotage::IgnoreCut, Kind::Liveness);
}

#[test]
fn a_guard_that_outlives_its_lease_is_noticed() {
    is_noticed(Sabotage::ExtendLease, Kind::Safety);
}

#[test]
fn confirming_what_was_diverted_is_noticed() {
    is_noticed(Sabotage::ConfirmDiverted, Kind::Safety);
}

#[test]
fn running_ahead_without_a_bound_is_noticed() {
    is_noticed(Sabotage::ForgetAge, Kind::Safety);
}

#[test]
fn counting_a_position_before_its_cuts_are_known_is_noticed() {
    is_noticed(Sabotage::CountEarly, Kind::Safety);
}

#[test]
fn counting_the_copies_of_a_region_that_is_no_member_is_noticed() {
    is_noticed(Sabotage::CountStrangers, Kind::Safety);
}

#[test]
fn a_failover_without_the_seal_of_the_witness_is_noticed() {
    is_noticed(Sabotage::ForgetWitness, Kind::Safety);
}

#[test]
fn repairing_from_just_any_peer_is_noticed() {
    is_noticed(Sabotage::RepairBlindly, Kind::Safety);
}
