use proptest::prelude::*;

use super::*;
use crate::id::{Epoch, PartitionId, PartitionRange, RunId};
use crate::ownership::OwnershipChange;

const AFTER: Lsn = Lsn(100);
const CUT: Lsn = Lsn(200);

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

fn origin(name: &str) -> Origin {
    Origin::new(region(name), 1)
}

fn token() -> Token {
    Token { cluster: "shop".to_owned(), origin: origin("eu"), xid: (1 << 32) + 7, after: AFTER }
}

fn owned() -> Ownership {
    Ownership::initial(2, &[region("eu"), region("us")])
}

fn run() -> RunId {
    RunId("1".to_owned())
}

fn fenced() -> Ownership {
    owned().apply(&OwnershipChange::Fence { from: region("eu"), run: run() }).unwrap()
}

/// us has taken over from eu.
fn taken_over() -> Ownership {
    let cut = Cut { origin: origin("eu"), lsn: CUT };
    let cut = fenced().apply(&OwnershipChange::Cut { run: run(), cut }).unwrap();
    cut.apply(&OwnershipChange::Grant { run: run(), to: region("us") }).unwrap()
}

fn says(name: &str, log: InLog) -> (RegionId, Told) {
    let told = Told { origin: origin(name), ran_here: None, log, journaled: false };
    (region(name), told)
}

fn absent(upto: u64) -> InLog {
    InLog::Absent { upto: Lsn(upto) }
}

fn found(lsn: u64) -> InLog {
    let stamps = vec![Stamp { partition: PartitionId(0), epoch: Epoch(1) }];
    InLog::Found { lsn: Lsn(lsn), stamps, shown: true }
}

/// eu, where it ran, with what its PostgreSQL knows.
fn ran(status: Option<Status>, log: InLog) -> (RegionId, Told) {
    let (region, told) = says("eu", log);
    (region, Told { ran_here: Some(RanHere { status, captured: true }), ..told })
}

fn decided<const N: usize>(told: [(RegionId, Told); N], ownership: &Ownership) -> Outcome {
    outcome(&token(), &BTreeMap::from(told), ownership)
}

fn committed(held: &[&str]) -> Outcome {
    let held: Vec<RegionId> = held.iter().copied().map(region).collect();
    Outcome::Committed { shown: held.clone(), held }
}

fn not_history() -> Outcome {
    Outcome::NotHistory { end: Cut { origin: origin("eu"), lsn: CUT } }
}

#[test]
fn what_a_survivor_holds_of_the_history_is_committed_whoever_is_gone() {
    for ownership in [owned(), taken_over()] {
        assert_eq!(decided([says("us", found(150))], &ownership), committed(&["us"]));
    }
    let rolled_back_since = ran(Some(Status::RolledBack), InLog::NoLog);
    let told = [rolled_back_since, says("us", found(150))];
    assert_eq!(decided(told, &owned()), committed(&["us"]), "eu came back with less than it had");
}

#[test]
fn a_commit_that_waits_for_a_copy_is_in_progress_until_there_is_one() {
    let waits = ran(Some(Status::InProgress), found(150));
    assert_eq!(decided([waits.clone(), says("us", absent(120))], &owned()), Outcome::InProgress);
    let copied = decided([waits, says("us", found(150))], &owned());
    assert_eq!(copied, committed(&["eu", "us"]));
    let open = ran(Some(Status::InProgress), absent(120));
    assert_eq!(decided([open], &owned()), Outcome::InProgress);
}

#[test]
fn what_lies_beyond_the_cut_is_passed_over_though_postgresql_says_committed() {
    let tail = ran(Some(Status::Committed), found(201));
    let told = [tail.clone(), says("us", absent(200))];
    assert_eq!(decided(told, &taken_over()), Outcome::PassedOver { journaled: Vec::new() });
    let (eu, told) = ran(Some(Status::Committed), absent(200));
    let journaled = [(eu, Told { journaled: true, ..told })];
    let by_journal = Outcome::PassedOver { journaled: vec![region("eu")] };
    assert_eq!(decided(journaled, &taken_over()), by_journal);
    assert_eq!(decided([tail], &fenced()), Outcome::Unknown(Unknown::Undecided));
}

#[test]
fn postgresql_says_what_no_log_has() {
    assert_eq!(
        decided([ran(Some(Status::RolledBack), absent(150))], &owned()),
        Outcome::RolledBack
    );
    let no_rows = decided([ran(Some(Status::Committed), absent(150))], &owned());
    assert_eq!(no_rows, committed(&[]));
    let (eu, mut told) = ran(Some(Status::Committed), absent(150));
    told.ran_here = Some(RanHere { status: Some(Status::Committed), captured: false });
    let behind = decided([(eu, told)], &owned());
    assert_eq!(behind, Outcome::Unknown(Unknown::NotCaptured), "it may be a tail");
}

#[test]
fn nothing_is_lost_before_the_whole_history_was_read() {
    let unknown = |why| Outcome::Unknown(why);
    let end = Cut { origin: origin("eu"), lsn: CUT };
    for (ownership, told, expected) in [
        (owned(), says("us", absent(200)), unknown(Unknown::Silent)),
        (fenced(), says("us", absent(200)), unknown(Unknown::Undecided)),
        (taken_over(), says("us", absent(199)), unknown(Unknown::Behind { end: end.clone() })),
        (taken_over(), says("us", InLog::NoLog), unknown(Unknown::Behind { end })),
        (
            taken_over(),
            says("us", InLog::Trimmed { upto: Lsn(150) }),
            unknown(Unknown::Trimmed { upto: Lsn(150) }),
        ),
        (taken_over(), says("us", absent(200)), not_history()),
    ] {
        assert_eq!(decided([told], &ownership), expected, "{ownership:?}");
    }
    let late = Token { after: CUT, ..token() };
    let nobody = BTreeMap::new();
    assert_eq!(outcome(&late, &nobody, &taken_over()), not_history(), "it began behind the cut");
}

#[test]
fn a_region_that_owns_something_again_may_still_have_it() {
    let back = taken_over();
    let range = PartitionRange::new(0, 0);
    let (run, to) = (RunId("2".to_owned()), region("eu"));
    let handing = OwnershipChange::HandOver { range, to: to.clone(), run: run.clone() };
    let barrier = Cut { origin: origin("us"), lsn: Lsn(5) };
    let back = [handing, OwnershipChange::Barrier { run: run.clone(), barrier }]
        .iter()
        .fold(back, |ownership, change| ownership.apply(change).unwrap());
    let back = back.apply(&OwnershipChange::Grant { run, to }).unwrap();
    let told = says("us", absent(300));
    assert_eq!(decided([told.clone()], &back), Outcome::Unknown(Unknown::Silent));
    let forgotten = ran(None, absent(300));
    assert_eq!(decided([told, forgotten], &back), Outcome::Unknown(Unknown::Forgotten));
}

#[test]
fn a_log_that_has_begun_anew_says_nothing_of_the_one_before() {
    let (eu, told) = says("eu", absent(150));
    let now = Origin::new(region("eu"), 2);
    let told = Told { origin: now.clone(), ..told };
    let outcome = decided([(eu, told)], &owned());
    assert_eq!(outcome, Outcome::Unknown(Unknown::BegunAnew { now }));
}

#[test]
fn a_token_is_read_as_it_is_written() {
    let written = token().to_string();
    assert_eq!(written, "1.eu-1@0/64.4294967303.shop");
    assert_eq!(Token::read(&written, "shop"), Ok(token()));
    assert_eq!(token().xid_in_log(), 7);
    assert_eq!(Token::read(&written, "other"), Err(TokenError::Stranger));
    let dotted = Token { cluster: "shop.example".to_owned(), ..token() };
    assert_eq!(Token::read(&dotted.to_string(), "shop.example"), Ok(dotted));
    for text in
        ["", "1.", "1.eu-1@0/64.shop", "1.eu-1.7.shop", "2.eu-1@0/64.7.shop", "1.eu@0/64.7.shop"]
    {
        assert_eq!(Token::read(text, "shop"), Err(TokenError::Malformed), "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text: String) {
        let _ = Token::read(&text, "shop");
    }

    /// Whoever is away: an answer for good is given back by no other answer later.
    #[test]
    fn who_answers_less_makes_nothing_lost_or_rolled_back(
        lsn in prop_oneof![Just(None), (101_u64..300).prop_map(Some)],
        upto in 100_u64..300,
        silent: bool,
    ) {
        let copy = match lsn {
            Some(lsn) if lsn <= upto && lsn <= CUT.0 => found(lsn),
            _ => absent(upto.min(CUT.0)),
        };
        let told: BTreeMap<_, _> = match silent {
            true => [says("us", copy)].into(),
            false => {
                let status = lsn.map_or(Status::RolledBack, |_| Status::Committed);
                [says("us", copy), ran(Some(status), lsn.map_or(absent(300), found))].into()
            }
        };
        let in_history = lsn.is_some_and(|lsn| lsn <= CUT.0);
        match outcome(&token(), &told, &taken_over()) {
            Outcome::Committed { .. } => prop_assert!(in_history),
            Outcome::Unknown(_) => prop_assert!(silent),
            Outcome::InProgress => prop_assert!(false),
            Outcome::PassedOver { .. } => prop_assert!(lsn.is_some() && !in_history),
            Outcome::RolledBack => prop_assert!(lsn.is_none()),
            Outcome::NotHistory { .. } => prop_assert!(!in_history),
        }
    }
}
