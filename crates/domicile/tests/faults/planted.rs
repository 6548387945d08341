//! Would the histories' check notice? Each anomaly is planted in a history that is sound without it.

use std::collections::BTreeSet;

use super::history::{Access, Fate, History};

fn append(branch: i32, id: i64) -> Access {
    Access::Append { branch, id }
}

fn read(branch: i32, ids: &[i64]) -> Access {
    Access::Read { branch, ids: ids.to_vec() }
}

fn glance(branch: i32, ids: &[i64]) -> Access {
    Access::Glance { branch, ids: ids.to_vec() }
}

fn swap(branch: i32, before: Option<i64>, after: i64) -> Access {
    Access::Swap { branch, before, after }
}

/// One operation after the other, each of a process (there is one for each region) and acknowledged.
fn history(operations: &[(&'static str, &[Access])]) -> History {
    let mut history = History::default();
    let processes = ["eu", "us", "ap"].map(|region| (region, history.process()));
    for (region, accesses) in operations {
        let process = processes.iter().find(|(of, _)| of == region).unwrap().1;
        history.begin(process, region, accesses.to_vec());
        history.end(process, region, Fate::Acknowledged, accesses.to_vec());
    }
    history
}

fn check(history: &History) -> Result<(), String> {
    history.check(&BTreeSet::new())
}

#[track_caller]
fn assert_noticed(operations: &[(&'static str, &[Access])], anomaly: &str) {
    let noticed = check(&history(operations)).expect_err(anomaly);
    assert!(noticed.contains(anomaly), "{noticed}");
}

#[test]
fn what_is_promised_is_no_anomaly() {
    let sound = history(&[
        ("eu", &[append(1, 10), read(1, &[10]), swap(1, None, 10)]),
        ("us", &[glance(1, &[]), append(2, 20), read(2, &[20])]),
        // An old snapshot, and two regions that show what is independent in different orders.
        ("eu", &[glance(1, &[10]), glance(2, &[])]),
        ("us", &[glance(1, &[]), glance(2, &[20])]),
        ("ap", &[glance(1, &[10]), append(1, 11), read(1, &[10, 11]), swap(1, Some(10), 11)]),
        ("eu", &[read(1, &[10, 11]), read(2, &[20])]),
    ]);
    check(&sound).unwrap();
}

#[test]
fn a_lost_append_is_noticed() {
    let first: &[Access] = &[append(1, 10), read(1, &[10])];
    assert_noticed(
        &[("eu", first), ("us", &[append(1, 11), read(1, &[11])])],
        "incompatible-order",
    );
    assert_noticed(&[("eu", first), ("us", &[read(1, &[])])], "G-single-item-realtime");
}

#[test]
fn an_append_that_was_refused_and_is_shown_is_noticed() {
    let mut history = History::default();
    let [eu, us] = [history.process(), history.process()];
    history.begin(eu, "eu", vec![append(1, 10)]);
    history.end(eu, "eu", Fate::Refused, vec![append(1, 10)]);
    history.begin(us, "us", vec![read(1, &[])]);
    history.end(us, "us", Fate::Acknowledged, vec![read(1, &[10])]);
    assert!(check(&history).unwrap_err().contains("G1a"));
}

#[test]
fn an_append_that_counts_twice_is_noticed() {
    assert_noticed(&[("eu", &[append(1, 10), read(1, &[10, 10])])], "duplicate-elements");
}

#[test]
fn an_effect_without_its_cause_is_noticed() {
    let cause: (_, &[Access]) = ("eu", &[append(1, 10), read(1, &[10])]);
    let effect: (_, &[Access]) = ("us", &[glance(1, &[10]), append(2, 20), read(2, &[20])]);
    let in_one_snapshot: (_, &[Access]) = ("ap", &[glance(1, &[]), glance(2, &[20])]);
    assert_noticed(&[cause, effect, in_one_snapshot], "G-single-item");
    let one_after_the_other = [("ap", &[glance(2, &[20])] as &[Access]), ("ap", &[glance(1, &[])])];
    assert_noticed(
        &[cause, effect, one_after_the_other[0], one_after_the_other[1]],
        "G-single-item-process",
    );
}

#[test]
fn a_region_that_shows_less_than_before_is_noticed() {
    let write: (_, &[Access]) = ("eu", &[append(1, 10), read(1, &[10])]);
    assert_noticed(&[write, ("eu", &[glance(1, &[])])], "G-single-item-process");
    let back = [("us", &[glance(1, &[10])] as &[Access]), ("us", &[glance(1, &[])])];
    assert_noticed(&[write, back[0], back[1]], "G-single-item-process");
}

#[test]
fn a_register_that_goes_back_is_noticed() {
    let write: (_, &[Access]) = ("eu", &[swap(1, None, 10)]);
    assert_noticed(&[write, ("us", &[swap(1, None, 11)])], "register of branch 1");
    let more = ("us", &[swap(1, Some(10), 11)] as &[Access]);
    assert_noticed(&[write, more, ("ap", &[swap(1, Some(10), 12)])], "register of branch 1");
}

#[test]
fn what_a_region_shows_of_a_tail_is_its_own() {
    let history = history(&[
        ("eu", &[append(1, 10), read(1, &[10])]),
        ("us", &[glance(1, &[9])]),
        ("eu", &[append(1, 11), read(1, &[10, 11])]),
    ]);
    assert!(check(&history).is_err());
    history.check(&BTreeSet::from(["us"])).unwrap();
}

#[test]
fn half_a_transfer_is_noticed() {
    let mut history = History::default();
    let process = history.process();
    history.glance(process, "us", vec![glance(1, &[])], &[]);
    check(&history).unwrap();
    history.glance(process, "us", vec![glance(1, &[])], &[1]);
    assert!(check(&history).unwrap_err().contains("half a transfer"));
}
