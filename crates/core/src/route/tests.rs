//! Do sessions and refused statements go where they can be served, and nowhere in circles?

use super::*;

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

fn owned_by(owner: Option<&str>) -> Routes {
    Routes { version: 1, owner_of_whole: owner.map(region), settling: false, ..Routes::default() }
}

fn settling(owner: Option<&str>) -> Routes {
    Routes { settling: true, ..owned_by(owner) }
}

fn names(owner: Option<&str>, epoch: u64) -> Refusal {
    Refusal { owner: owner.map(region), epoch: Epoch(epoch) }
}

fn ask(name: &str) -> Next {
    Next::Ask(region(name))
}

fn redirect() -> Redirect {
    Redirect::new(Time(100), Millis(1000))
}

const NOW: Time = Time(200);

#[test]
fn a_session_follows_the_owner_and_waits_while_there_is_none() {
    let at = |routes| home(Mode::FollowOwner, Caller::Client, &region("eu"), &routes);
    assert_eq!(at(owned_by(Some("us"))), Home::At(region("us")));
    assert_eq!(at(owned_by(Some("eu"))), Home::At(region("eu")));
    assert_eq!(at(owned_by(None)), Home::Wait);
}

#[test]
fn a_new_owner_takes_sessions_once_its_guard_is_open() {
    let at = |routes| home(Mode::FollowOwner, Caller::Client, &region("eu"), &routes);
    assert_eq!(at(settling(Some("eu"))), Home::Wait);
    assert_eq!(at(Routes { live: true, ..settling(Some("eu")) }), Home::At(region("eu")));
}

#[test]
fn an_active_active_session_stays_where_it_arrived() {
    for routes in [owned_by(Some("us")), owned_by(None), settling(None)] {
        let at = home(Mode::Local, Caller::Client, &region("eu"), &routes);
        assert_eq!(at, Home::At(region("eu")));
    }
}

#[test]
fn a_peers_session_is_served_here_or_waits_and_never_travels_on() {
    let at = |routes| home(Mode::FollowOwner, Caller::Peer, &region("eu"), &routes);
    assert_eq!(at(owned_by(Some("us"))), Home::At(region("eu")));
    assert_eq!(at(settling(Some("us"))), Home::At(region("eu")));
    assert_eq!(at(owned_by(None)), Home::At(region("eu")));
    assert_eq!(at(settling(None)), Home::Wait);
    assert_eq!(at(settling(Some("eu"))), Home::Wait);
}

#[test]
fn what_is_opened_is_given_up_where_it_leads_to_the_wrong_place_and_else_goes_on() {
    let overtakes = |mode, caller, before: &Routes, now: &Routes| {
        overtakes(mode, caller, &region("eu"), before, now)
    };
    let client = |before, now| overtakes(Mode::FollowOwner, Caller::Client, &before, &now);
    assert!(client(owned_by(Some("us")), owned_by(None)), "us is lost");
    assert!(client(owned_by(Some("us")), owned_by(Some("eu"))));
    assert!(client(owned_by(None), owned_by(Some("us"))));
    let opened = |owner| Routes { live: true, ..owned_by(owner) };
    assert!(!client(Routes { settling: true, ..opened(Some("eu")) }, opened(Some("eu"))));
    assert!(!client(owned_by(Some("us")), opened(Some("us"))), "a lease that is this region's");
    let peer = |before, now| overtakes(Mode::FollowOwner, Caller::Peer, &before, &now);
    assert!(!peer(owned_by(Some("eu")), owned_by(Some("us"))), "it asks for this region");
    let local = |before, now| overtakes(Mode::Local, Caller::Client, &before, &now);
    assert!(local(owned_by(None), settling(None)));
    assert!(!local(owned_by(None), Routes { version: 2, ..owned_by(None) }));
}

#[test]
fn only_clients_of_an_active_passive_cluster_go_where_everything_goes() {
    assert!(follows_owner(Mode::FollowOwner, Caller::Client));
    assert!(!follows_owner(Mode::FollowOwner, Caller::Peer));
    assert!(!follows_owner(Mode::Local, Caller::Client));
}

#[test]
fn the_guards_detail_is_read_and_no_other() {
    let detail = "Owner region: us-east, epoch: 12.";
    assert_eq!(Refusal::read(detail), Some(names(Some("us-east"), 12)));
    assert_eq!(Refusal::read(detail).unwrap().to_string(), detail);
    let detail = "Owner region: none, epoch: 3.";
    assert_eq!(Refusal::read(detail), Some(names(None, 3)));
    assert_eq!(Refusal::read(detail).unwrap().to_string(), detail);
    for other in [
        "",
        "Owner region: us, epoch: .",
        "Owner region: us, epoch: 1",
        "Owner region: US, epoch: 1.",
        "Owner region: , epoch: 1.",
        "owner region: us, epoch: 1.",
        "Owner region: us, epoch: -1.",
    ] {
        assert_eq!(Refusal::read(other), None, "{other}");
    }
}

#[test]
fn a_refused_statement_goes_to_the_owner_that_was_named() {
    let next = redirect().refused(&region("eu"), names(Some("us"), 4), &owned_by(None), NOW);
    assert_eq!(next, ask("us"));
}

#[test]
fn a_refusal_that_names_nobody_or_the_refuser_is_waited_out() {
    for owner in [None, Some("eu")] {
        let next = redirect().refused(&region("eu"), names(owner, 4), &owned_by(None), NOW);
        assert_eq!(next, Next::Wait);
    }
}

#[test]
fn nothing_is_waited_for_when_the_budget_is_over() {
    let mut late = redirect();
    assert_eq!(late.left(Time(600)), Millis(500));
    assert_eq!(late.unreachable(Time(1099)), Next::Wait);
    assert_eq!(late.unreachable(Time(1100)), Next::GiveUp);
    let next = late.refused(&region("eu"), names(Some("us"), 4), &owned_by(None), Time(1100));
    assert_eq!(next, Next::GiveUp);
}

#[test]
fn two_owners_that_name_each_other_are_given_to_the_client_quickly() {
    let mut torn = redirect();
    for circle in 1..=CIRCLES_MAX {
        let routes = owned_by(None);
        assert_eq!(torn.refused(&region("eu"), names(Some("us"), 4), &routes, NOW), ask("us"));
        let next = torn.refused(&region("us"), names(Some("eu"), 6), &routes, NOW);
        let expected = if circle == CIRCLES_MAX { Next::GiveUp } else { Next::Wait };
        assert_eq!(next, expected);
    }
}

#[test]
fn two_regions_that_name_each_other_during_a_hand_over_are_waited_out() {
    let mut moving = redirect();
    for _ in 0..10 * CIRCLES_MAX {
        let routes = settling(None);
        assert_eq!(moving.refused(&region("eu"), names(Some("us"), 4), &routes, NOW), ask("us"));
        assert_eq!(moving.refused(&region("us"), names(Some("eu"), 4), &routes, NOW), Next::Wait);
    }
}

#[test]
fn a_circle_that_changes_is_not_the_same_circle() {
    let mut moving = redirect();
    for version in 0..10 {
        let routes = Routes { version, ..owned_by(None) };
        moving.refused(&region("eu"), names(Some("us"), 4), &routes, NOW);
        let next = moving.refused(&region("us"), names(Some("eu"), 4), &routes, NOW);
        assert_eq!(next, Next::Wait);
    }
}

#[test]
fn a_chain_of_names_is_followed_once_through_every_region() {
    let mut chain = redirect();
    let routes = owned_by(None);
    assert_eq!(chain.refused(&region("eu"), names(Some("us"), 4), &routes, NOW), ask("us"));
    assert_eq!(chain.refused(&region("us"), names(Some("ap"), 5), &routes, NOW), ask("ap"));
    assert_eq!(chain.refused(&region("ap"), names(Some("us"), 5), &routes, NOW), Next::Wait);
}

#[test]
fn a_read_is_near_unless_it_asks_for_the_owner() {
    use crate::freshness::Freshness::{Bounded, Eventual, Session, Strong};
    for near in [Bounded(Millis(0)), Session, Eventual] {
        assert!(reads_near(Some(near)));
        assert!([Mode::Local, Mode::FollowOwner].iter().all(|mode| waits(*mode, near)));
    }
    assert!(!reads_near(None) && !reads_near(Some(Strong)));
    assert!(waits(Mode::Local, Strong), "nobody there owns everything");
    assert!(!waits(Mode::FollowOwner, Strong));
}

#[test]
fn who_reads_near_writes_nothing_where_another_region_owns_everything() {
    let eu = region("eu");
    assert!(only_reads(Mode::FollowOwner, &eu, &owned_by(Some("us"))));
    assert!(only_reads(Mode::FollowOwner, &eu, &owned_by(None)), "nobody may write now");
    assert!(!only_reads(Mode::FollowOwner, &eu, &owned_by(Some("eu"))));
    assert!([Some("us"), None].iter().all(|owner| !only_reads(
        Mode::Local,
        &eu,
        &owned_by(*owner)
    )));
    let owners = Arc::new(Ownership::initial(1, &[region("us")]));
    let routes = Routes { owners: Some(owners), ..owned_by(Some("us")) };
    let refusal = Refusal::of_whole(&routes);
    assert_eq!(Refusal::read(&refusal.to_string()), Some(names(Some("us"), refusal.epoch.0)));
}

#[test]
fn a_key_leads_a_clients_transaction_where_every_region_writes() {
    let owners = Arc::new(Ownership::initial(4, &[region("eu"), region("us")]));
    let routes = Routes { owners: Some(owners), ..owned_by(None) };
    let partitions =
        |numbers: &[u32]| -> BTreeSet<_> { numbers.iter().copied().map(PartitionId).collect() };
    let led = |mode, caller, freshness, partition: &[u32]| {
        of_keys(mode, caller, freshness, &partitions(partition), &routes)
    };
    let us = Some(region("us"));
    assert_eq!(led(Mode::Local, Caller::Client, None, &[2]), us);
    assert_eq!(led(Mode::Local, Caller::Client, None, &[2, 3]), us);
    assert_eq!(led(Mode::Local, Caller::Client, None, &[1, 2]), None, "they are of two owners");
    assert_eq!(led(Mode::Local, Caller::Client, None, &[]), None);
    assert_eq!(led(Mode::Local, Caller::Client, None, &[2, 4]), None, "there is no partition 4");
    assert_eq!(led(Mode::FollowOwner, Caller::Client, None, &[2]), None);
    assert_eq!(led(Mode::Local, Caller::Peer, None, &[2]), None);
    assert_eq!(led(Mode::Local, Caller::Client, Some(Freshness::Eventual), &[2]), None);
    let unknown = owned_by(None);
    assert_eq!(of_keys(Mode::Local, Caller::Client, None, &partitions(&[2]), &unknown), None);
}

#[test]
fn only_the_owner_of_everything_is_asked_instead() {
    let owned = owned_by(Some("eu"));
    assert_eq!(instead(Mode::FollowOwner, &owned), Some(&region("eu")));
    assert_eq!(instead(Mode::FollowOwner, &owned_by(None)), None);
    assert_eq!(instead(Mode::Local, &owned), None);
}
