use proptest::prelude::*;

use super::*;
use crate::id::{PartitionId, RunId};
use crate::ownership::OwnershipChange;

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

fn origin(name: &str) -> Origin {
    Origin::new(region(name), 1)
}

fn frontier(places: &[(&str, u64)]) -> Frontier {
    places.iter().map(|(name, lsn)| (origin(name), Lsn(*lsn))).collect()
}

fn answer(name: &str, end: u64, owns: &[(u32, u32)], shown: &[(&str, u64)]) -> Answer {
    Answer {
        owns: owns.iter().map(|(first, last)| PartitionRange::new(*first, *last)).collect(),
        end: Cut { origin: origin(name), lsn: Lsn(end) },
        shown: frontier(shown),
    }
}

#[test]
fn a_freshness_is_read_as_it_is_written() {
    for (text, freshness) in [
        ("strong", Freshness::Strong),
        (" Session ", Freshness::Session),
        ("eventual", Freshness::Eventual),
        ("bounded(5s)", Freshness::Bounded(Millis(5000))),
        ("bounded( 250 ms )", Freshness::Bounded(Millis(250))),
        ("BOUNDED(2min)", Freshness::Bounded(Millis(120_000))),
        ("bounded(0ms)", Freshness::Bounded(Millis(0))),
    ] {
        assert_eq!(text.parse(), Ok(freshness), "{text}");
        assert_eq!(freshness.to_string().parse(), Ok(freshness));
    }
    for text in ["", "fresh", "bounded", "bounded()", "bounded(5)", "bounded(-1s)", "bounded(5w)"] {
        assert_eq!(text.parse::<Freshness>(), Err(FreshnessError(text.to_owned())));
    }
    assert!(format!("bounded({}h)", u64::MAX).parse::<Freshness>().is_err());
}

#[test]
fn a_bound_counts_from_the_beginning_of_the_transaction() {
    let now = Time(10_000);
    assert_eq!(Freshness::Strong.as_of(now), Some(Time(10_001)), "this millisecond is not over");
    assert_eq!(Freshness::Bounded(Millis(4000)).as_of(now), Some(Time(6001)));
    assert_eq!(Freshness::Bounded(Millis(u64::MAX)).as_of(now), Some(Time(0)));
    assert_eq!(Freshness::Session.as_of(now), None);
}

#[test]
fn every_partition_needs_the_word_of_its_owner() {
    let eu = || answer("eu", 50, &[(0, 2)], &[("us", 7)]);
    let us = || answer("us", 60, &[(3, 7)], &[("eu", 9)]);
    assert_eq!(read_index(8, vec![eu()]), None);
    assert_eq!(read_index(8, vec![us()]), None);
    assert_eq!(read_index(8, vec![]), None);
    let both = read_index(8, vec![us(), eu()]);
    assert_eq!(both, Some(frontier(&[("eu", 50), ("us", 60)])));
    let idle = answer("ap", 99, &[], &[("eu", 999)]);
    assert_eq!(read_index(8, vec![eu(), us(), idle]), both, "it owns nothing");
    let gap = answer("us", 60, &[(4, 7)], &[]);
    assert_eq!(read_index(8, vec![eu(), gap]), None);
}

#[test]
fn what_an_owner_took_over_counts_as_far_as_it_shows_it() {
    let taken = read_index(4, vec![answer("us", 60, &[(0, 3)], &[("eu", 41)])]);
    assert_eq!(taken, Some(frontier(&[("eu", 41), ("us", 60)])));
}

#[test]
fn a_region_is_as_new_as_the_last_question_whose_answer_it_shows() {
    let (own, mut as_of) = (region("ap"), AsOf::default());
    assert_eq!(as_of.shown(&frontier(&[]), &own, None), None);
    as_of.answered(Time(20), frontier(&[("eu", 9), ("ap", 1000)]));
    as_of.answered(Time(10), frontier(&[("eu", 5)]));
    assert_eq!(as_of.shown(&frontier(&[("eu", 4)]), &own, None), None);
    assert_eq!(as_of.shown(&frontier(&[("eu", 5)]), &own, None), Some(Time(10)));
    assert_eq!(
        as_of.shown(&frontier(&[("eu", 9)]), &own, None),
        Some(Time(20)),
        "its own is there"
    );
    as_of.answered(Time(15), frontier(&[]));
    assert_eq!(as_of.shown(&frontier(&[("eu", 9)]), &own, None), Some(Time(20)), "never back");
}

#[test]
fn a_place_behind_the_end_of_a_history_is_lost_and_not_waited_for() {
    let range = PartitionRange::new(0, 3);
    let run = RunId("1".into());
    let cut = Cut { origin: origin("eu"), lsn: Lsn(100) };
    let mut ownership = Ownership::initial(4, &[region("eu")]);
    for change in [
        OwnershipChange::Fence { from: region("eu"), run: run.clone() },
        OwnershipChange::Cut { run: run.clone(), cut: cut.clone() },
    ] {
        ownership = ownership.apply(&change).unwrap();
    }
    assert_eq!(ownership.entry(PartitionId(range.first)).map(|e| e.state.cut()), Some(Some(&cut)));
    let own = region("us");
    let at = |needed, applied, known| {
        seen(&frontier(&[("eu", needed)]), &frontier(&[("eu", applied)]), &own, None, known)
    };
    assert_eq!(at(100, 100, Some(&ownership)), Seen::Yes);
    assert_eq!(at(100, 90, Some(&ownership)), Seen::NotYet);
    let lost = Seen::Lost(Cut { origin: origin("eu"), lsn: Lsn(101) });
    assert_eq!(at(101, 100, Some(&ownership)), lost);
    assert_eq!(at(101, 100, None), Seen::NotYet, "nobody has told yet");
    let ours = |released: Option<&Cut>| {
        seen(&frontier(&[("us", 9)]), &frontier(&[]), &own, released, Some(&ownership))
    };
    assert_eq!(ours(None), Seen::Yes);
    let released = |lsn| Cut { origin: origin("us"), lsn: Lsn(lsn) };
    assert_eq!(ours(Some(&released(8))), Seen::NotYet, "it waits for a copy that shows it already");
    assert_eq!(ours(Some(&released(9))), Seen::Yes);
}

#[test]
fn a_token_is_read_where_it_was_made_for() {
    let token = Token { cluster: "a.b".to_owned(), shown: frontier(&[("eu", 9), ("us", 1 << 33)]) };
    let text = token.to_string();
    assert_eq!(text, "1.eu-1@0/9,us-1@2/0.a.b");
    assert_eq!(Token::read(&text, "a.b"), Ok(token));
    assert_eq!(Token::read(&text, "b"), Err(TokenError::Stranger));
    let empty = Token { cluster: "shop".to_owned(), shown: Frontier::default() };
    assert_eq!(Token::read(&empty.to_string(), "shop"), Ok(empty));
    for text in ["", "1", "1.", "2.eu-1@0/9.shop", "1.eu@0/9.shop", "1.eu-1.shop", "1.eu-1@9.shop"]
    {
        assert_eq!(Token::read(text, "shop"), Err(TokenError::Malformed), "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text: String, digits in 0u64..) {
        let _ = text.parse::<Freshness>();
        let _ = format!("bounded({digits}{text})").parse::<Freshness>();
        let _ = Token::read(&text, "shop");
    }

    /// Whatever is kept of the questions, no moment is claimed whose answer is not shown.
    #[test]
    fn no_moment_is_claimed_too_early(
        asked in prop::collection::vec((0u64..2000, 0u64..2000), 1..600),
        applied in 0u64..2000,
    ) {
        let (own, mut as_of) = (region("ap"), AsOf::default());
        for (at, lsn) in &asked {
            as_of.answered(Time(*at), frontier(&[("eu", *lsn)]));
        }
        let reached = as_of.shown(&frontier(&[("eu", applied)]), &own, None);
        let met = asked.iter().filter(|(_, lsn)| *lsn <= applied).map(|(at, _)| Time(*at)).max();
        prop_assert!(reached <= met);
        if asked.len() <= OPEN_MAX {
            prop_assert_eq!(reached, met);
        }
    }
}
