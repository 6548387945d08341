//! A model of regions that write and apply one row, looked at in rounds that cover one another.

use proptest::prelude::*;

use super::*;

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

fn sum(rows: u64, hash: i128) -> Sum {
    Sum { rows, hash }
}

#[test]
fn a_range_is_divided_until_its_rows_can_be_listed() {
    assert_eq!(next(&[sum(5, 1), sum(5, 1)], 10), Next::Done);
    assert_eq!(next(&[sum(5, 1), sum(5, 2)], 10), Next::List);
    assert_eq!(next(&[sum(0, 0), sum(11, 2), sum(4, 0)], 10), Next::Split(1));
}

#[test]
fn the_owner_is_believed() {
    let (eu, us, ap) = (region("eu"), region("us"), region("ap"));
    let of = |owners: [Option<&RegionId>; 3]| {
        let regions = [&eu, &us, &ap].into_iter().zip(owners);
        authority(&regions.map(|(r, o)| (r.clone(), o.cloned())).collect::<Vec<_>>())
    };
    assert_eq!(of([Some(&us), Some(&us), Some(&us)]), Ok(us.clone()));
    assert_eq!(of([Some(&us), None, Some(&us)]), Ok(us.clone()), "the owner has deleted it");
    assert_eq!(of([Some(&us), Some(&us), Some(&eu)]), Ok(us.clone()), "the key itself is damaged");
    assert_eq!(of([Some(&eu), Some(&us), None]), Err(Disputed));
    assert_eq!(of([Some(&us), None, Some(&eu)]), Err(Disputed));
    assert_eq!(of([None, None, None]), Err(Disputed));
}

fn shape(columns: &[(&str, Option<&str>)], keys: &[&[&str]]) -> Shape {
    let column = |(name, order): &(&str, Option<&str>)| Column {
        name: (*name).to_owned(),
        order: order.map(str::to_owned),
    };
    Shape {
        columns: columns.iter().map(column).collect(),
        keys: keys.iter().map(|key| key.iter().map(|c| (*c).to_owned()).collect()).collect(),
        encoding: "UTF8".to_owned(),
    }
}

fn compared(a: Shape, b: Shape) -> Result<Layout, String> {
    layout(&[(region("eu"), a), (region("us"), b)])
}

#[test]
fn a_table_is_compared_by_a_key_that_all_regions_sort_alike() {
    let int = ("id", Some("int4"));
    let a = shape(&[int, ("t", Some("text C"))], &[&["id"], &["t"]]);
    let b = shape(&[("t", Some("text C")), int], &[&["t"], &["id"]]);
    let both = compared(a.clone(), b).unwrap();
    assert_eq!(both.columns, ["id", "t"]);
    assert_eq!(both.by, By::Key(vec!["id".to_owned()]));

    let other_order = shape(&[int, ("t", Some("text de"))], &[&["t"]]);
    assert_eq!(compared(a.clone(), other_order).unwrap().by, By::KeyHash(vec!["t".to_owned()]));
    let keyless = shape(&[int, ("t", None)], &[]);
    assert_eq!(compared(a.clone(), keyless).unwrap().by, By::Row);

    let more = shape(&[int, ("t", None), ("u", None)], &[&["id"]]);
    assert_eq!(compared(a, more).unwrap_err(), "column \"u\" is in region us, not in eu");
}

/// The row's history: what each change made of it. 0 is no row.
type History = Vec<i64>;

/// One region of the model: how many changes of the history it shows, and of the row's origin how
/// many are committed but not visible yet.
#[derive(Clone, Debug)]
struct World {
    history: History,
    /// Committed so far, by the origin: region 0.
    committed: usize,
    /// Changes visible in each region.
    visible: Vec<usize>,
    /// A region whose row is not what it should be.
    broken: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Commit,
    Show(usize),
    Look(usize),
}

impl World {
    fn seen(&self, region: usize) -> Option<Seen> {
        let visible = self.visible[region];
        let value = visible.checked_sub(1).map_or(0, |last| self.history[last]);
        let value = if self.broken == Some(region) { value + 1000 } else { value };
        (value != 0).then(|| Seen { hash: value, version: visible.to_string() })
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Commit => self.committed = (self.committed + 1).min(self.history.len()),
            Event::Show(region) => {
                self.visible[region] = (self.visible[region] + 1).min(self.committed);
            }
            Event::Look(_) => {}
        }
    }

    /// Plays the events and looks at every region once in each of `rounds`, each covering the
    /// one before: what was committed by the end of a round is visible in the next.
    fn look(mut self, events: &[Event], rounds: usize) -> Vec<Round> {
        let regions = self.visible.len();
        let mut events = events.iter().copied();
        let mut looked = Vec::new();
        for _ in 0..rounds {
            let mut round: Vec<Option<Option<Seen>>> = vec![None; regions];
            let must_show = self.committed;
            while round.contains(&None) {
                let event = events.next();
                if let Some(event) = event {
                    self.step(event);
                }
                // Without events left, whoever is missing looks now.
                let region = match event {
                    Some(Event::Look(region)) => region,
                    Some(_) => continue,
                    None => round.iter().position(Option::is_none).unwrap(),
                };
                if round[region].is_none() {
                    self.visible[region] = self.visible[region].max(must_show);
                    round[region] = Some(self.seen(region));
                }
            }
            looked.push(round.into_iter().flatten().collect());
        }
        looked
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        2 => Just(Event::Commit),
        3 => (0..3_usize).prop_map(Event::Show),
        3 => (0..3_usize).prop_map(Event::Look),
    ];
    prop::collection::vec(event, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn what_is_on_its_way_is_never_called_a_difference(
        history in prop::collection::vec(0..3_i64, 1..12),
        events in events(),
        rounds in 1..6_usize,
    ) {
        let world = World { history, committed: 0, visible: vec![0; 3], broken: None };
        let rounds = world.look(&events, rounds);
        prop_assert_ne!(judge(&rounds), Judgement::Differs, "{:?}", rounds);
    }

    #[test]
    fn a_row_that_rests_and_differs_is_found_in_three_rounds(
        history in prop::collection::vec(0..3_i64, 1..12),
        broken in 0..3_usize,
    ) {
        let count = history.len();
        let world =
            World { history, committed: count, visible: vec![count; 3], broken: Some(broken) };
        prop_assert_eq!(judge(&world.look(&[], 3)), Judgement::Differs);
    }
}
