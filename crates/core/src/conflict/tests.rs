//! Do regions that exchange their writes in any order end with the same rows?
//!
//! A small world: each region has rows, a clock that may be wrong, and a log. Writes are made at
//! random, and logs are read at random: in the causal order that apply keeps, and in any other.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::hlc::Hlc;
use super::policy::{Cell, ColumnPolicy, Columns, Deletes, Policy};
use super::unique::{self, Rank};
use super::version::{ROW, Version};
use super::write::{Write, stamp, touch};
use super::{Content, Image, Logical, Meeting, Operation, Winner, meet};
use crate::id::RegionId;

const NAMES: [&str; 5] = ["ap", "eu", "in", "sa", "us"];
const KEYS: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    Write {
        region: usize,
        key: usize,
        what: What,
        value: i64,
    },
    /// Reads the next write of `from`'s log.
    Read {
        region: usize,
        from: usize,
    },
    /// Turns a region's clock.
    Turn {
        region: usize,
        by: i64,
    },
}

#[derive(Clone, Copy, Debug)]
enum What {
    Insert,
    /// Which columns.
    Update(u8),
    Delete,
    /// To another key.
    Move(usize),
    /// Nothing, but it is shipped: also of a row that cannot be seen.
    Touch,
}

#[derive(Clone)]
struct Shipped {
    rows: Vec<(usize, Logical, Operation)>,
    /// What its region had read of the others.
    needs: Vec<usize>,
}

#[derive(Clone, Default)]
struct Region {
    rows: BTreeMap<usize, Logical>,
    /// Keys of rows that are there but for a unique value.
    hidden: BTreeSet<usize>,
    clock: i64,
    heard: i64,
    read: Vec<usize>,
    log: Vec<Shipped>,
}

struct World {
    policy: Policy,
    /// Is there a unique index on `u`?
    unique: bool,
    regions: Vec<Region>,
    conflicts: Vec<Winner>,
}

fn id(region: usize) -> RegionId {
    NAMES[region].parse().unwrap()
}

fn image(values: &[(&str, i64)]) -> Image {
    values.iter().map(|(name, value)| ((*name).to_owned(), Some(value.to_string()))).collect()
}

fn number(image: &Image, column: &str) -> i64 {
    image[column].as_ref().unwrap().parse().unwrap()
}

fn add(a: &str, b: &str) -> String {
    (a.parse::<i64>().unwrap() + b.parse::<i64>().unwrap()).to_string()
}

/// `v`, `u`: the row's; `w`: its own; `n`: a counter; `hi`, `lo`: extremes.
fn columns(deletes: Deletes) -> Columns {
    let named = [
        ("w", ColumnPolicy::Own),
        ("n", ColumnPolicy::Delta),
        ("hi", ColumnPolicy::Greatest),
        ("lo", ColumnPolicy::Least),
    ];
    let named = named.into_iter().map(|(name, policy)| (name.to_owned(), policy)).collect();
    Columns { rest: ColumnPolicy::Row, named, deletes }
}

impl World {
    fn new(count: usize, policy: Policy, unique: bool) -> Self {
        let region = Region { read: vec![0; count], ..Region::default() };
        Self { policy, unique, regions: vec![region; count], conflicts: Vec::new() }
    }

    fn here(&self, region: usize, key: usize) -> bool {
        let region = &self.regions[region];
        let there = |row: &Logical| self.policy.alive(&row.version) && row.image.is_some();
        !region.hidden.contains(&key) && region.rows.get(&key).is_some_and(there)
    }

    /// As PostgreSQL would: a write that breaks a rule, or finds no row, does nothing.
    fn write(&mut self, region: usize, key: usize, what: What, value: i64) {
        let here = self.here(region, key);
        let mut rows = Vec::new();
        match what {
            What::Insert if !here => {
                let new = image(&[
                    ("id", key as i64),
                    ("v", value),
                    ("u", value % 3),
                    ("w", value),
                    ("n", value % 10),
                    ("hi", value),
                    ("lo", value),
                ]);
                if self.collides(region, key, &new) {
                    return;
                }
                rows.push(self.stamped(region, key, Operation::Insert, None, new));
            }
            What::Update(which) if here => {
                let old = self.regions[region].rows[&key].image.clone().unwrap();
                let new = self.changed(&old, which, value);
                if self.collides(region, key, &new) {
                    return;
                }
                rows.push(self.stamped(region, key, Operation::Update, Some(&old), new));
            }
            What::Delete if here => {
                let old = self.regions[region].rows[&key].image.clone().unwrap();
                rows.push(self.stamped(region, key, Operation::Delete, Some(&old), old.clone()));
            }
            What::Touch if self.regions[region].rows.contains_key(&key) => {
                let place = &mut self.regions[region];
                place.clock += 1;
                let (clock, heard) = (Hlc(place.clock), Hlc(place.heard));
                let Some(row) = place.rows.get_mut(&key) else { return };
                row.version = touch(&row.version, &id(region), clock, heard);
                rows.push((key, row.clone(), Operation::Update));
            }
            What::Move(to) if here && to != key && !self.here(region, to) => {
                let old = self.regions[region].rows[&key].image.clone().unwrap();
                rows.push(self.stamped(region, key, Operation::Delete, Some(&old), old.clone()));
                let mut new = old;
                new.insert("id".into(), Some(to.to_string()));
                rows.push(self.stamped(region, to, Operation::Insert, None, new));
            }
            _ => return,
        }
        // Not before the statement's end: a row that moves takes the place of one that it hid.
        self.settle(region);
        let region = &mut self.regions[region];
        let needs = region.read.clone();
        region.log.push(Shipped { rows, needs });
    }

    fn changed(&self, old: &Image, which: u8, value: i64) -> Image {
        let mut new = old.clone();
        let mut set = |name: &str, value: i64| new.insert(name.into(), Some(value.to_string()));
        if which & 1 != 0 {
            set("v", value);
        }
        if which & 2 != 0 {
            set("w", value);
        }
        if which & 4 != 0 {
            set("n", number(old, "n") + value % 5);
        }
        if which & 8 != 0 {
            // What steps back is lifted where it is written.
            set("hi", value.max(number(old, "hi")));
            set("lo", value.min(number(old, "lo")));
        }
        if which & 16 != 0 {
            set("u", value % 3);
        }
        new
    }

    fn collides(&self, region: usize, key: usize, new: &Image) -> bool {
        let others = self.regions[region].rows.iter();
        self.unique
            && others
                .filter(|(other, _)| **other != key && self.here(region, **other))
                .any(|(_, row)| row.image.as_ref().is_some_and(|image| image["u"] == new["u"]))
    }

    /// Writes a row as the trigger does, and returns what is shipped.
    fn stamped(
        &mut self,
        region: usize,
        key: usize,
        operation: Operation,
        old: Option<&Image>,
        new: Image,
    ) -> (usize, Logical, Operation) {
        let here = self.here(region, key);
        let (columns, deltas) = self.written(operation, old, &new);
        let before = matches!(self.policy, Policy::Sql { .. }).then(|| old.cloned()).flatten();
        let write = Write { operation, columns, deltas, before };
        let place = &mut self.regions[region];
        place.clock += 1;
        let (clock, heard) = (Hlc(place.clock), Hlc(place.heard));
        let known = place.rows.get(&key).map(|row| (&row.version, here));
        let version = stamp(known, &write, &id(region), clock, heard, add);
        let row = Logical { version, image: Some(new) };
        place.rows.insert(key, row.clone());
        place.hidden.remove(&key);
        (key, row, operation)
    }

    fn written(
        &self,
        operation: Operation,
        old: Option<&Image>,
        new: &Image,
    ) -> (BTreeSet<String>, BTreeMap<String, String>) {
        let (mut written, mut deltas) = (BTreeSet::new(), BTreeMap::new());
        let Policy::Merge(columns) = &self.policy else { return (written, deltas) };
        if operation == Operation::Delete {
            return (written, deltas);
        }
        for name in new.keys().filter(|name| *name != "id") {
            let changed = old.is_none_or(|old| old[name] != new[name]);
            match columns.of(name) {
                ColumnPolicy::Row if changed => drop(written.insert(ROW.to_owned())),
                ColumnPolicy::Own if changed => drop(written.insert(name.clone())),
                ColumnPolicy::Delta if changed => {
                    let delta = number(new, name) - old.map_or(0, |old| number(old, name));
                    deltas.insert(name.clone(), delta.to_string());
                }
                _ => {}
            }
        }
        (written, deltas)
    }

    /// Reads the next write of another region's log, if there is one and its causes are here.
    fn read(&mut self, region: usize, from: usize, causal: bool) -> bool {
        let next = self.regions[region].read[from];
        let Some(shipped) = self.regions[from].log.get(next).cloned() else { return false };
        let reached = |(i, needed): (usize, &usize)| {
            i == region || i == from || self.regions[region].read[i] >= *needed
        };
        if region == from || (causal && !shipped.needs.iter().enumerate().all(reached)) {
            return false;
        }
        self.regions[region].read[from] += 1;
        for (key, row, operation) in &shipped.rows {
            self.take(region, *key, row, *operation);
        }
        self.settle(region);
        true
    }

    fn take(&mut self, region: usize, key: usize, incoming: &Logical, operation: Operation) {
        let heard = incoming.version.seen.latest().unwrap_or_default().0;
        let place = &mut self.regions[region];
        place.heard = place.heard.max(heard);
        let local = place.rows.get(&key).cloned().unwrap_or_default();
        let row = match meet(&self.policy, &local, incoming, operation) {
            Meeting::Known => return,
            Meeting::Follows => incoming.clone(),
            Meeting::Joined(joined) => {
                self.conflicts.extend(joined.conflict.map(|c| c.winner));
                let image = made(&joined.content, &local, incoming);
                assert_eq!(joined.alive, self.policy.alive(&joined.version));
                Logical { version: joined.version, image }
            }
        };
        self.regions[region].rows.insert(key, row);
    }

    /// Hides and shows rows, one by one, as apply does.
    fn settle(&mut self, region: usize) {
        if !self.unique {
            return;
        }
        let place = &self.regions[region];
        let rows: Vec<(usize, &Logical)> = place
            .rows
            .iter()
            .filter(|(_, row)| self.policy.alive(&row.version) && row.image.is_some())
            .map(|(key, row)| (*key, row))
            .collect();
        let ranks: Vec<Rank> =
            rows.iter().map(|(key, row)| Rank::of(&row.version, &key.to_string())).collect();
        let collide = |a: usize, b: usize| {
            let u = |i: usize| rows[i].1.image.as_ref().unwrap()["u"].clone();
            u(a) == u(b)
        };
        let shown = unique::shown(&ranks, collide);
        let hidden = (0..rows.len()).filter(|i| !shown.contains(i)).map(|i| rows[i].0).collect();
        self.regions[region].hidden = hidden;
    }

    fn run(&mut self, steps: &[Step], causal: bool) {
        for step in steps {
            let count = self.regions.len();
            match *step {
                Step::Write { region, key, what, value } => {
                    self.write(region % count, key, what, value);
                }
                Step::Read { region, from } => {
                    self.read(region % count, from % count, causal);
                }
                Step::Turn { region, by } => self.regions[region % count].clock += by,
            }
        }
    }

    /// Reads everything, each region in an order of its own.
    fn drain(&mut self, causal: bool) {
        let count = self.regions.len();
        while (0..count).any(|region| {
            (1..count).any(|step| {
                let from = (region * 2 + step * (region + 1)) % count;
                (0..count).any(|shift| self.read(region, (from + shift) % count, causal))
            })
        }) {}
    }

    fn tables(&self) -> Vec<BTreeMap<usize, Image>> {
        (0..self.regions.len())
            .map(|region| {
                (0..KEYS)
                    .filter(|key| self.here(region, *key))
                    .map(|key| (key, self.regions[region].rows[&key].image.clone().unwrap()))
                    .collect()
            })
            .collect()
    }

    fn assert_alike(&self) {
        let tables = self.tables();
        for (i, table) in tables.iter().enumerate() {
            assert_eq!(*table, tables[0], "region {i} differs from region 0");
        }
        for region in &self.regions {
            let versions = |r: &Region| {
                r.rows.iter().map(|(k, row)| (*k, row.version.clone())).collect::<Vec<_>>()
            };
            assert_eq!(versions(region), versions(&self.regions[0]));
        }
    }
}

/// The joined row's values, as the edge has PostgreSQL compute them.
fn made(content: &Content, local: &Logical, incoming: &Logical) -> Option<Image> {
    let (ours, theirs) = (local.image.as_ref(), incoming.image.as_ref());
    match content {
        Content::Row(image) => Some(image.clone()),
        Content::Fold { first, then } => {
            // Neither commutative nor associative.
            let fold = |made: Image, (next, before): &(Image, Option<Image>)| {
                let before = before.as_ref().map_or(0, |b| number(b, "v"));
                let mut all = made.clone();
                let v = number(&made, "v") * 3 - number(next, "v") + before;
                all.insert("v".into(), Some(v.to_string()));
                all
            };
            Some(then.iter().fold(first.clone(), fold))
        }
        Content::Cells(cells) => {
            let mut made = ours.cloned().unwrap_or_default();
            for (name, cell) in cells {
                let (here, there) =
                    (ours.and_then(|i| i.get(name)), theirs.and_then(|i| i.get(name)));
                let value = match cell {
                    Cell::Local => here.or(there).cloned().flatten(),
                    Cell::Incoming => there.or(here).cloned().flatten(),
                    Cell::Add { plus, minus } => {
                        let sum = |all: &[String]| {
                            all.iter().map(|n| n.parse::<i64>().unwrap()).sum::<i64>()
                        };
                        let total = number(ours.unwrap(), name) + sum(plus) - sum(minus);
                        Some(total.to_string())
                    }
                    Cell::Greatest => Some(
                        number(ours.unwrap(), name).max(number(theirs.unwrap(), name)).to_string(),
                    ),
                    Cell::Least => Some(
                        number(ours.unwrap(), name).min(number(theirs.unwrap(), name)).to_string(),
                    ),
                };
                made.insert(name.clone(), value);
            }
            (!made.is_empty()).then_some(made)
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        3 => Just(What::Insert),
        6 => (1_u8..32).prop_map(What::Update),
        2 => Just(What::Delete),
        1 => (0..KEYS).prop_map(What::Move),
        1 => Just(What::Touch),
    ];
    prop_oneof![
        5 => (0_usize..5, 0..KEYS, what, 0_i64..1000)
            .prop_map(|(region, key, what, value)| Step::Write { region, key, what, value }),
        5 => (0_usize..5, 0_usize..5).prop_map(|(region, from)| Step::Read { region, from }),
        1 => (0_usize..5, -50_i64..50).prop_map(|(region, by)| Step::Turn { region, by }),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let deletes =
        prop_oneof![Just(Deletes::Latest), Just(Deletes::DeleteWins), Just(Deletes::UpdateWins)];
    (deletes, 0..5).prop_map(|(deletes, which)| match which {
        0 => Policy::Merge(Columns { deletes, ..Columns::default() }),
        1 => Policy::Merge(columns(deletes)),
        2 => Policy::OwnerWins(vec![id(4), id(1)]),
        3 => Policy::Sql { function: "f".into(), deletes },
        _ => Policy::Manual(deletes),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_causal_order_ends_in_the_same_rows(
        policy in any_policy(),
        count in 2_usize..6,
        unique in any::<bool>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(count, policy, unique);
        world.run(&steps, true);
        world.drain(true);
        world.assert_alike();
    }

    #[test]
    fn any_order_at_all_ends_in_the_same_rows(
        policy in any_policy(),
        count in 2_usize..6,
        unique in any::<bool>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new(count, policy, unique);
        world.run(&steps, false);
        world.drain(false);
        world.assert_alike();
    }

    #[test]
    fn a_counter_that_is_never_deleted_is_the_exact_sum(
        count in 2_usize..6,
        adds in prop::collection::vec((0_usize..5, -9_i64..10, 0_usize..5, 0_usize..5), 1..60),
    ) {
        let mut world = World::new(count, Policy::Merge(columns(Deletes::Latest)), false);
        let mut total = 0;
        for (region, amount, reader, from) in adds {
            let region = region % count;
            if !world.here(region, 0) {
                world.write(region, 0, What::Insert, 0);
            }
            let old = world.regions[region].rows[&0].image.clone().unwrap();
            let mut new = old.clone();
            new.insert("n".into(), Some((number(&old, "n") + amount).to_string()));
            let row = world.stamped(region, 0, Operation::Update, Some(&old), new);
            let needs = world.regions[region].read.clone();
            world.regions[region].log.push(Shipped { rows: vec![row], needs });
            total += amount;
            world.read(reader % count, from % count, true);
        }
        world.drain(true);
        world.assert_alike();
        prop_assert_eq!(number(&world.tables()[0][&0], "n"), total);
    }

    #[test]
    fn reading_a_log_again_changes_nothing(
        policy in any_policy(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut world = World::new(3, policy, false);
        world.run(&steps, true);
        world.drain(true);
        let before = world.tables();
        for region in 0..3 {
            world.regions[region].read = vec![0; 3];
        }
        world.drain(true);
        prop_assert_eq!(world.tables(), before);
    }
}

fn two(policy: Policy) -> World {
    World::new(2, policy, false)
}

fn lww() -> Policy {
    Policy::Merge(Columns::default())
}

#[test]
fn what_was_seen_is_no_conflict() {
    let mut world = two(lww());
    world.write(0, 0, What::Insert, 1);
    world.drain(true);
    world.write(1, 0, What::Update(1), 2);
    world.write(1, 0, What::Update(1), 3);
    world.drain(true);
    world.write(0, 0, What::Update(1), 4);
    world.drain(true);
    world.assert_alike();
    assert_eq!(number(&world.tables()[0][&0], "v"), 4);
    assert!(world.conflicts.is_empty());
}

#[test]
fn a_causally_later_write_wins_however_far_the_clock_is_behind() {
    let mut world = two(lww());
    world.regions[0].clock = 3_600_000_000;
    world.write(0, 0, What::Insert, 1);
    world.drain(true);
    world.write(1, 0, What::Update(1), 2);
    world.drain(true);
    world.assert_alike();
    assert_eq!(number(&world.tables()[0][&0], "v"), 2);
}

#[test]
fn a_tie_goes_the_same_way_everywhere() {
    let mut world = two(lww());
    world.write(0, 0, What::Insert, 1);
    world.write(1, 0, What::Insert, 2);
    let [ours, theirs] = [0, 1].map(|i| world.regions[i].rows[&0].version.alive.clone().unwrap());
    assert_eq!(ours.hlc, theirs.hlc);
    world.drain(true);
    world.assert_alike();
    assert_eq!(number(&world.tables()[1][&0], "v"), 1, "\"ap\" sorts before \"eu\"");
    assert_eq!(world.conflicts, [Winner::Local, Winner::Incoming]);
}

#[test]
fn the_same_values_from_two_regions_make_no_noise() {
    let mut world = two(lww());
    world.write(0, 0, What::Insert, 1);
    world.write(1, 0, What::Insert, 1);
    world.drain(true);
    world.write(0, 0, What::Delete, 0);
    world.write(1, 0, What::Delete, 0);
    world.drain(true);
    world.assert_alike();
    assert!(world.tables()[0].is_empty() && world.conflicts.is_empty());
}

#[test]
fn a_row_policy_keeps_one_row_and_column_policies_keep_both_columns() {
    for (policy, v) in [(lww(), 0), (Policy::Merge(columns(Deletes::Latest)), 7)] {
        let mut world = two(policy);
        world.write(0, 0, What::Insert, 0);
        world.drain(true);
        world.write(0, 0, What::Update(1), 7);
        world.regions[1].clock = 100;
        world.write(1, 0, What::Update(2), 8);
        world.drain(true);
        world.assert_alike();
        let row = &world.tables()[0][&0];
        assert_eq!((number(row, "v"), number(row, "w")), (v, 8));
    }
}

#[test]
fn a_deletion_and_a_write_come_to_what_the_policy_says() {
    // (policy, the deletion is the later one) -> is the row there?
    let cases = [
        (Deletes::Latest, true, false),
        (Deletes::Latest, false, true),
        (Deletes::DeleteWins, true, false),
        (Deletes::DeleteWins, false, false),
        (Deletes::UpdateWins, true, true),
        (Deletes::UpdateWins, false, true),
    ];
    for (deletes, later, there) in cases {
        let mut world = two(Policy::Merge(Columns { deletes, ..Columns::default() }));
        world.write(0, 0, What::Insert, 0);
        world.drain(true);
        world.regions[usize::from(!later)].clock = 100;
        world.write(0, 0, What::Delete, 0);
        world.regions[usize::from(later)].clock += 1;
        world.write(1, 0, What::Update(1), 7);
        if later {
            world.regions[0].clock = 200;
        }
        world.drain(true);
        world.assert_alike();
        assert_eq!(world.here(0, 0), there, "{deletes:?}, deletion later: {later}");
        assert_eq!(world.conflicts.len(), 2);
    }
}

#[test]
fn an_update_of_an_earlier_life_never_touches_a_later_one() {
    let mut world = two(Policy::Merge(columns(Deletes::Latest)));
    world.write(0, 0, What::Insert, 5);
    world.drain(true);
    world.write(0, 0, What::Delete, 0);
    world.write(0, 0, What::Insert, 9);
    world.regions[1].clock = 1000;
    world.write(1, 0, What::Update(31), 700);
    world.drain(true);
    world.assert_alike();
    let row = &world.tables()[1][&0];
    assert_eq!((number(row, "v"), number(row, "n"), number(row, "hi")), (9, 9, 9));
}

#[test]
fn what_an_earlier_life_added_is_told_of_even_where_the_values_come_to_the_same() {
    let mut world = two(Policy::Merge(columns(Deletes::Latest)));
    world.write(0, 0, What::Insert, 0);
    world.drain(true);
    let old = world.regions[1].rows[&0].image.clone().unwrap();
    let mut one = old.clone();
    one.insert("n".into(), Some("1".into()));
    world.stamped(0, 0, Operation::Delete, Some(&old), old.clone());
    let anew = world.stamped(0, 0, Operation::Insert, None, one.clone());
    let added = world.stamped(1, 0, Operation::Update, Some(&old), one);
    for (region, row) in [anew, added].into_iter().enumerate() {
        let needs = world.regions[region].read.clone();
        world.regions[region].log.push(Shipped { rows: vec![row], needs });
    }
    world.drain(true);
    world.assert_alike();
    assert_eq!(world.conflicts, [Winner::Local, Winner::Incoming]);
}

#[test]
fn the_named_region_wins_only_against_what_it_had_not_seen() {
    let mut world = two(Policy::OwnerWins(vec![id(0)]));
    world.write(0, 0, What::Insert, 0);
    world.drain(true);
    world.write(0, 0, What::Update(1), 1);
    world.regions[1].clock = 100;
    world.write(1, 0, What::Update(1), 2);
    world.drain(true);
    world.assert_alike();
    assert_eq!(number(&world.tables()[1][&0], "v"), 1);
    world.write(1, 0, What::Update(1), 3);
    world.drain(true);
    world.assert_alike();
    assert_eq!(number(&world.tables()[0][&0], "v"), 3);
}

#[test]
fn three_writes_whose_ranks_run_in_a_circle_end_alike() {
    // in before eu before us by rank; us has seen eu's: eu > us by rank, us > eu by cause.
    let mut world = World::new(5, Policy::OwnerWins(vec![id(1), id(2), id(4)]), false);
    world.write(1, 0, What::Insert, 1);
    world.read(4, 1, true);
    world.write(4, 0, What::Update(1), 4);
    world.write(2, 0, What::Insert, 2);
    world.drain(true);
    world.assert_alike();
    assert_eq!(number(&world.tables()[0][&0], "v"), 2);
}

#[test]
fn the_later_of_two_rows_has_the_unique_value_until_it_lets_go() {
    let mut world = World::new(2, lww(), true);
    world.write(0, 0, What::Insert, 3);
    world.regions[1].clock = 10;
    world.write(1, 1, What::Insert, 6);
    world.drain(true);
    world.assert_alike();
    assert_eq!(world.tables()[0].keys().collect::<Vec<_>>(), [&1]);
    world.write(0, 1, What::Delete, 0);
    world.drain(true);
    world.assert_alike();
    assert_eq!(world.tables()[1].keys().collect::<Vec<_>>(), [&0]);
}

#[test]
fn a_row_that_was_there_before_is_nobodys_write() {
    let seed = Logical { image: Some(image(&[("v", 1)])), version: Version::default() };
    let mut world = two(lww());
    for region in &mut world.regions {
        region
            .rows
            .insert(0, Logical { image: Some(image(&[("id", 0), ("v", 1)])), ..seed.clone() });
    }
    world.write(0, 0, What::Update(1), 2);
    world.drain(true);
    world.assert_alike();
    assert!(world.conflicts.is_empty());
}
