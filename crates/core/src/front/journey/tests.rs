//! Is a request sent on only while that is safe, and never in circles?

use std::sync::Arc;

use super::*;
use crate::id::RunId;
use crate::ownership::{Ownership, OwnershipChange};

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

fn to(name: &str) -> Step {
    Step::To(region(name))
}

/// Everything belongs to us, whose guard is open.
fn routes() -> Routes {
    let owners =
        Ownership::initial(1, &[region("us")]).with_members(["ap", "eu", "us"].map(region));
    Routes {
        owner_of_whole: Some(region("us")),
        live: true,
        owners: Some(Arc::new(owners)),
        ..Routes::default()
    }
}

/// Everything was taken from us, and nobody has it yet.
fn handed_over() -> Routes {
    let fence = OwnershipChange::Fence { from: region("us"), run: RunId("run".to_owned()) };
    let owners = routes().owners.unwrap().apply(&fence).unwrap();
    Routes { owner_of_whole: None, settling: true, owners: Some(Arc::new(owners)), ..routes() }
}

struct Door {
    routes: Routes,
    down: BTreeSet<RegionId>,
    now: Time,
}

impl Door {
    fn new(routes: Routes) -> Self {
        Self { routes, down: BTreeSet::new(), now: Time(0) }
    }

    fn step(&self, journey: &mut Journey) -> Step {
        let regions = ["eu", "us", "ap"].map(region);
        let Self { routes, down, now } = self;
        journey.step(&Sight { routes, regions: &regions, down, now: *now })
    }
}

const OWNER: Wanted = Wanted::Owner(PartitionId(0));

fn journey(caller: Caller, wanted: Wanted, repeatable: bool) -> Journey {
    Journey::new(region("eu"), caller, wanted, repeatable, Time(0), Millis(1000))
}

fn write() -> Journey {
    journey(Caller::Client, OWNER, false)
}

fn read() -> Journey {
    journey(Caller::Client, Wanted::Anywhere, true)
}

#[test]
fn a_write_goes_to_the_owner_and_a_read_stays() {
    let door = Door::new(routes());
    assert_eq!(door.step(&mut write()), to("us"));
    assert_eq!(door.step(&mut read()), to("eu"));
    assert_eq!(door.step(&mut journey(Caller::Client, Wanted::Here, false)), to("eu"));
}

#[test]
fn a_write_waits_for_an_owner_and_no_longer_than_its_budget() {
    let mut door = Door::new(handed_over());
    let mut write = write();
    assert_eq!(door.step(&mut write), Step::Wait);
    door.now = Time(999);
    assert_eq!(door.step(&mut write), Step::Wait);
    assert_eq!(write.left(door.now), Millis(1));
    door.now = Time(1000);
    assert_eq!(door.step(&mut write), Step::Answer(Why::NoOwner));
    door.routes = routes();
    assert_eq!(door.step(&mut write), to("us"));
}

#[test]
fn the_new_owner_waits_until_its_guard_opens() {
    let mut ours = Journey { here: region("us"), ..write() };
    let opening = Routes { settling: true, live: false, ..routes() };
    assert_eq!(Door::new(opening).step(&mut ours), Step::Wait);
    let closed = Routes { settling: false, live: false, ..routes() };
    assert_eq!(Door::new(closed).step(&mut ours), to("us"), "its guard says why");
}

#[test]
fn who_is_not_the_owner_any_more_sends_nothing_on_that_another_door_sent() {
    let door = Door::new(routes());
    let mut hop = journey(Caller::Peer, OWNER, false);
    assert_eq!(door.step(&mut hop), Step::Answer(Why::NotOwner { region: region("us") }));
    assert_eq!(door.step(&mut journey(Caller::Peer, Wanted::Here, false)), to("eu"));
    // Who had sent it there waits for better knowledge.
    let mut write = write();
    assert_eq!(door.step(&mut write), to("us"));
    write.failed(&region("us"), Failure::NotOwner);
    assert_eq!(door.step(&mut write), Step::Wait);
    assert_eq!(door.step(&mut write), to("us"));
}

#[test]
fn an_owner_that_nothing_reaches_is_tried_until_the_budget_is_over() {
    let mut door = Door::new(routes());
    let mut write = write();
    for _ in 0..3 {
        assert_eq!(door.step(&mut write), to("us"));
        write.failed(&region("us"), Failure::Unreachable);
        assert_eq!(door.step(&mut write), Step::Wait);
    }
    write.failed(&region("us"), Failure::Unreachable);
    door.now = Time(1000);
    let why = Why::RegionUnreachable { region: region("us") };
    assert!(why.is_passing());
    assert_eq!(door.step(&mut write), Step::Answer(why));
}

#[test]
fn a_write_that_may_have_been_seen_is_never_said_again() {
    for failure in [Failure::BrokeOff, Failure::Late] {
        for door in [routes(), handed_over()].map(Door::new) {
            let mut write = write();
            write.failed(&region("us"), failure);
            assert!(matches!(door.step(&mut write), Step::Answer(why) if !why.is_passing()));
        }
    }
}

#[test]
fn a_read_with_a_body_is_not_said_again_either() {
    let mut read = Journey { repeatable: false, ..read() };
    read.failed(&region("eu"), Failure::BrokeOff);
    assert!(matches!(Door::new(routes()).step(&mut read), Step::Answer(Why::BrokeOff { .. })));
}

#[test]
fn a_read_passes_over_those_that_do_not_answer() {
    let mut door = Door::new(routes());
    let mut read = read();
    read.failed(&region("eu"), Failure::BrokeOff);
    assert_eq!(door.step(&mut read), to("eu"), "once more");
    read.failed(&region("eu"), Failure::BrokeOff);
    assert_eq!(door.step(&mut read), to("us"), "the owner of everything is newest");
    read.failed(&region("us"), Failure::AppUnreachable);
    assert_eq!(door.step(&mut read), to("ap"));
    read.failed(&region("ap"), Failure::Unreachable);
    assert_eq!(door.step(&mut read), Step::Answer(Why::BrokeOff { region: region("eu") }));
    door.down = ["eu", "us"].map(region).into();
    assert_eq!(door.step(&mut self::read()), to("ap"));
}

#[test]
fn a_read_that_waited_long_enough_is_not_sent_around_the_world() {
    let mut read = read();
    read.failed(&region("eu"), Failure::Late);
    let late = Why::Late { region: region("eu") };
    assert_eq!(Door::new(routes()).step(&mut read), Step::Answer(late));
}

#[test]
fn a_write_whose_owner_has_no_application_is_told_so() {
    let door = Door::new(routes());
    let mut write = write();
    write.failed(&region("us"), Failure::AppUnreachable);
    assert_eq!(door.step(&mut write), Step::Answer(Why::AppUnreachable { region: region("us") }));
    let mut ours = Journey { here: region("us"), ..self::write() };
    ours.failed(&region("us"), Failure::Unreachable);
    assert_eq!(door.step(&mut ours), Step::Answer(Why::AppUnreachable { region: region("us") }));
}

#[test]
fn an_application_has_one_replay() {
    let door = Door::new(routes());
    let mut request = read();
    assert_eq!(request.replay(Wanted::Region(region("ap")), Time(0)), Ok(()));
    assert_eq!(door.step(&mut request), to("ap"));
    assert_eq!(request.replay(OWNER, Time(0)), Err(Why::ReplayedTwice));
}

#[test]
fn what_an_application_has_thought_about_for_long_still_waits_for_its_owner() {
    let door = Door { now: Time(5000), ..Door::new(handed_over()) };
    let mut request = read();
    assert_eq!(request.replay(OWNER, door.now), Ok(()));
    assert_eq!(door.step(&mut request), Step::Wait);
}
