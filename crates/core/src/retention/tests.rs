use proptest::prelude::*;

use super::*;
use crate::id::RunId;
use crate::lsn::Cut;
use crate::ownership::OwnershipChange;

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

fn origin(name: &str) -> Origin {
    Origin::new(region(name), 1)
}

const FAR: Lsn = Lsn(u64::MAX);

/// Five segments of 10 bytes that end at 10, 20, .. 50; us and ap show all of it.
fn log(name: &str) -> KeptLog {
    let segment = |n: u64| KeptSegment { last: Lsn(n * 10), bytes: 10 };
    KeptLog {
        origin: origin(name),
        segments: (1..=5).map(segment).collect(),
        aged: FAR,
        judged: FAR,
        shipped: FAR,
        applied: [(region("us"), Lsn(50)), (region("ap"), Lsn(50))].into(),
        stalled: ["eu", "us", "ap"].map(region).into(),
    }
}

fn terms(size_max: u64, on_full: OnFull) -> LogTerms {
    let (drop_after, compression) = (Millis(1000), Compression::None);
    LogTerms { keep: Millis(1000), size_max, segment_bytes: 10, on_full, drop_after, compression }
}

/// Decides in region eu.
fn decide(terms: LogTerms, logs: &[KeptLog]) -> Retention {
    retain(&terms, &region("eu"), logs, &BTreeSet::new())
}

fn trimmed(retention: &Retention, name: &str) -> u64 {
    retention.trim.get(&origin(name)).map_or(0, |lsn| lsn.0)
}

const ROOMY: u64 = 1000;

#[test]
fn what_every_region_shows_goes_once_it_is_old_enough() {
    let roomy = terms(ROOMY, OnFull::DropPeer);
    assert_eq!(trimmed(&decide(roomy, &[log("eu")]), "eu"), 40, "the open segment stays");
    let young = KeptLog { aged: Lsn(25), ..log("eu") };
    assert_eq!(trimmed(&decide(roomy, &[young]), "eu"), 20, "whole segments only");
}

#[test]
fn the_slowest_region_holds_the_records_that_it_lacks() {
    let mut slow = log("eu");
    slow.applied.insert(region("ap"), Lsn(30));
    let retention = decide(terms(ROOMY, OnFull::DropPeer), &[slow]);
    assert_eq!((trimmed(&retention, "eu"), retention.leave.len()), (30, 0));
}

#[test]
fn a_survivor_keeps_a_lost_regions_log_for_the_other_survivors() {
    let mut lost = log("ap");
    lost.applied = [(region("eu"), Lsn(50)), (region("us"), Lsn(10))].into();
    let retention = decide(terms(ROOMY, OnFull::DropPeer), &[lost]);
    assert_eq!(trimmed(&retention, "ap"), 10);
}

#[test]
fn a_full_disk_takes_young_records_first_from_the_longest_log() {
    let young = |name: &str| KeptLog { aged: Lsn::ZERO, ..log(name) };
    let mut longer = young("eu");
    longer.segments[4].bytes = 15;
    let retention = decide(terms(105, OnFull::DropPeer), &[young("us"), longer]);
    assert_eq!((trimmed(&retention, "eu"), trimmed(&retention, "us")), (10, 0));
    assert_eq!((retention.leave, retention.no_room), (vec![], None));
}

#[test]
fn a_region_that_stays_away_is_left_behind_before_its_records_go() {
    let mut away = log("eu");
    away.applied.insert(region("ap"), Lsn(5));
    let terms = terms(55, OnFull::DropPeer);
    let retention = decide(terms, &[away.clone()]);
    let left = LeftBehind { region: region("ap"), origin: origin("eu"), upto: Lsn(10) };
    assert_eq!((trimmed(&retention, "eu"), retention.leave), (0, vec![left]));

    let known = [(region("ap"), origin("eu"))].into();
    let retention = retain(&terms, &region("eu"), &[away], &known);
    assert_eq!((trimmed(&retention, "eu"), retention.leave.len()), (40, 0));
}

#[test]
fn regions_that_are_equally_far_behind_are_left_behind_together() {
    let mut away = log("eu");
    away.applied = [(region("us"), Lsn(5)), (region("ap"), Lsn(5))].into();
    away.shipped = Lsn(20);
    assert_eq!(decide(terms(55, OnFull::DropPeer), &[away]).leave.len(), 2);
}

#[test]
fn a_region_that_moves_on_is_waited_for_however_slow() {
    let mut slow = log("eu");
    slow.applied.insert(region("ap"), Lsn(5));
    slow.stalled.remove(&region("ap"));
    let retention = decide(terms(55, OnFull::DropPeer), &[slow]);
    assert!(retention.leave.is_empty() && retention.no_room.is_some());
}

#[test]
fn a_region_is_stalled_when_it_has_not_moved_for_long() {
    let (mut stalls, after) = (Stalls::default(), Millis(1000));
    let mut stalled = |lsn, now| {
        let applied = [(region("ap"), Lsn(lsn))].into();
        stalls.note(&origin("eu"), &applied, &BTreeSet::new(), after, Time(now))
    };
    assert!(stalled(5, 0).is_empty());
    assert!(stalled(6, 900).is_empty());
    assert!(stalled(0, 1800).is_empty(), "0 is not known");
    assert_eq!(stalled(6, 1900), [region("ap")].into());
    assert!(stalled(7, 2000).is_empty());
}

#[test]
fn a_region_that_was_seeded_again_is_given_time_to_say_what_it_shows() {
    let (mut stalls, after) = (Stalls::default(), Millis(1000));
    let (left, none) = ([(region("ap"), origin("eu"))].into(), BTreeSet::new());
    let mut stalled = |left: &BTreeSet<_>, now| {
        stalls.note(&origin("eu"), &[(region("ap"), Lsn(5))].into(), left, after, Time(now))
    };
    assert!(stalled(&none, 0).is_empty());
    assert_eq!(stalled(&none, 1000), [region("ap")].into());
    assert!(stalled(&left, 9000).is_empty());
    assert!(stalled(&none, 9500).is_empty(), "or it would be left behind as it comes back");
    assert_eq!(stalled(&none, 10_000), [region("ap")].into());
}

#[test]
fn with_on_full_block_nobody_is_left_behind() {
    let mut away = log("eu");
    away.applied.insert(region("ap"), Lsn(5));
    let retention = decide(terms(55, OnFull::Block), &[away]);
    let no_room = NoRoom { origin: origin("eu"), held_by: HeldBy::Region(region("ap")) };
    assert_eq!((retention.trim.len(), retention.leave.len()), (0, 0));
    assert_eq!(retention.no_room, Some(no_room));
}

#[test]
fn what_no_other_region_holds_is_never_trimmed() {
    let mut alone = log("eu");
    alone.applied = [(region("us"), Lsn(0)), (region("ap"), Lsn(0))].into();
    alone.shipped = Lsn::ZERO;
    let retention = decide(terms(30, OnFull::DropPeer), &[alone.clone()]);
    assert_eq!((retention.trim.len(), retention.leave.len()), (0, 0));
    assert!(retention.no_room.is_some());
    let both = [(region("us"), origin("eu")), (region("ap"), origin("eu"))].into();
    let retention = retain(&terms(30, OnFull::DropPeer), &region("eu"), &[alone], &both);
    assert_eq!(retention.trim.len(), 0);
    assert_eq!(retention.no_room.unwrap().held_by, HeldBy::Unshipped);
}

#[test]
fn what_we_do_not_show_ourselves_is_not_trimmed_and_leaves_nobody_behind() {
    let mut copy = log("us");
    copy.applied = [(region("eu"), Lsn(5)), (region("ap"), Lsn(50))].into();
    let retention = decide(terms(30, OnFull::DropPeer), &[copy]);
    assert_eq!((retention.trim.len(), retention.leave.len()), (0, 0));
    assert_eq!(retention.no_room.unwrap().held_by, HeldBy::Region(region("eu")));
}

#[test]
fn nothing_goes_that_a_cut_may_still_have_to_judge() {
    let eu = region("eu");
    let owned = Ownership::initial(2, &[eu.clone(), region("us")]);
    assert_eq!(judged(None, &origin("eu"), None), Lsn::ZERO);
    assert_eq!(judged(Some(&owned), &origin("eu"), None), FAR);
    let run = RunId("1".into());
    let fence = OwnershipChange::Fence { from: eu, run: run.clone() };
    let fenced = owned.apply(&fence).unwrap();
    assert_eq!(judged(Some(&fenced), &origin("eu"), None), Lsn::ZERO, "the cut is not known");
    assert_eq!(judged(Some(&fenced), &origin("us"), None), FAR);
    let cut = Cut { origin: origin("eu"), lsn: Lsn(30) };
    let cut = fenced.apply(&OwnershipChange::Cut { run, cut }).unwrap();
    assert_eq!(
        judged(Some(&cut), &origin("eu"), Some(&fenced)),
        Lsn(30),
        "known, not looked up yet"
    );
    assert_eq!(judged(Some(&cut), &origin("eu"), Some(&cut)), FAR);
    let kept = KeptLog { judged: Lsn(30), ..log("eu") };
    assert_eq!(trimmed(&decide(terms(20, OnFull::DropPeer), &[kept]), "eu"), 30);
}

#[test]
fn a_copy_begins_anew_only_where_its_tables_show_what_is_missing() {
    assert_eq!(over_gap(Lsn(30), Lsn(30)), Gap::Skip);
    assert_eq!(over_gap(Lsn(29), Lsn(30)), Gap::Reseed);
}

#[test]
fn a_record_is_old_when_it_was_there_for_the_time_to_keep() {
    let (mut ages, keep) = (Ages::default(), Millis(3200));
    assert_eq!(ages.note(Lsn(10), keep, Time(0)), Lsn::ZERO);
    for i in 1..=100 {
        let end = Lsn(10 + i);
        let aged = ages.note(end, keep, Time(i * 100));
        let exact = (i * 100).checked_sub(3200).map_or(0, |t| 10 + t / 100);
        assert_eq!(aged, Lsn(exact), "at {i}");
        assert!(ages.seen.len() <= AGE_STEPS as usize + 2);
    }
    assert_eq!(Ages::default().note(Lsn(7), Millis(0), Time(5)), Lsn(7));
}

fn kept_log(name: &'static str) -> impl Strategy<Value = KeptLog> {
    let segments = prop::collection::vec((1..20_u64, 1..30_u64), 0..8);
    let positions = prop::collection::vec(0..120_u64, 6);
    (segments, positions).prop_map(move |(segments, at)| {
        let mut last = 0;
        let segment = |(more, bytes): (u64, u64)| {
            last += more;
            KeptSegment { last: Lsn(last), bytes }
        };
        let others = ["eu", "us", "ap"].into_iter().filter(|r| *r != name);
        KeptLog {
            origin: origin(name),
            segments: segments.into_iter().map(segment).collect(),
            aged: Lsn(at[0]),
            judged: Lsn(at[1]),
            shipped: if name == "eu" { Lsn(at[2]) } else { FAR },
            applied: others.zip(&at[3..]).map(|(r, at)| (region(r), Lsn(*at))).collect(),
            stalled: ["us", "ap"].map(region).into(),
        }
    })
}

proptest! {
    #[test]
    fn nothing_that_is_needed_ever_goes(
        logs in (kept_log("eu"), kept_log("us"), kept_log("ap")),
        size_max in 0..300_u64,
        block in any::<bool>(),
        left in prop::collection::btree_set((0..2_usize, 0..3_usize), 0..4),
    ) {
        let logs = [logs.0, logs.1, logs.2];
        let names = ["us", "ap", "eu"];
        let left: BTreeSet<(RegionId, Origin)> =
            left.into_iter().map(|(r, o)| (region(names[r]), origin(names[o]))).collect();
        let on_full = if block { OnFull::Block } else { OnFull::DropPeer };
        let terms = terms(size_max, on_full);
        let retention = retain(&terms, &region("eu"), &logs, &left);
        for log in &logs {
            let Some(upto) = retention.trim.get(&log.origin) else { continue };
            prop_assert!(*upto <= log.judged && *upto <= log.shipped);
            for (region, shown) in &log.applied {
                let waited = !left.contains(&(region.clone(), log.origin.clone()));
                prop_assert!(!waited || shown >= upto, "{region} lacks what goes");
            }
            prop_assert!(log.segments.last().is_some_and(|open| open.last > *upto));
        }
        prop_assert!(!block || retention.leave.is_empty());
        prop_assert!(retention.leave.iter().all(|gone| gone.region != region("eu")));
        // Whoever is left behind makes room: once the rest was done, the next decision trims more.
        if !retention.leave.is_empty() {
            let gone = retention.leave.iter().map(|gone| (gone.region.clone(), gone.origin.clone()));
            let left = left.into_iter().chain(gone).collect();
            let trimmed = logs.map(|mut log| {
                let upto = retention.trim.get(&log.origin).copied().unwrap_or_default();
                log.segments.retain(|segment| segment.last > upto);
                log
            });
            let next = retain(&terms, &region("eu"), &trimmed, &left);
            prop_assert!(!next.trim.is_empty());
        }
    }
}
