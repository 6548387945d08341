//! What does the failover of one region cost as regions and partitions grow?
//!
//! `UPDATE=1 cargo test -p domicile-sim --test scale the_page` counts all of it anew, for a minute or
//! more, and writes table and picture.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use domicile_core::ownership::OWNERSHIP_BYTES_MAX;
use domicile_sim::{Cost, Deal, Failover, Row, Shape, fail_over, svg, table, work};

const REGIONS: [usize; 5] = [3, 5, 10, 20, 50];
const PARTITIONS: [u32; 4] = [1, 100, 10_000, 1_000_000];
const ALTERNATING: [u32; 4] = [100, 1000, 10_000, 1_000_000];
/// What is counted again in every test run has no more regions than this.
const SMALL: usize = 5;

fn shapes() -> Vec<Shape> {
    let together = REGIONS.iter().flat_map(|regions| {
        PARTITIONS.map(|partitions| Shape { regions: *regions, partitions, deal: Deal::Together })
    });
    let alternating =
        ALTERNATING.map(|partitions| Shape { regions: 3, partitions, deal: Deal::Alternating });
    together.chain(alternating).collect()
}

fn count(shape: Shape) -> Cost {
    fail_over(shape).unwrap_or_else(|why| panic!("{shape:?}: {why}"))
}

fn failover(regions: usize, partitions: u32) -> Failover {
    let cost = count(Shape { regions, partitions, deal: Deal::Together });
    cost.failover.expect("partitions that stand together fit")
}

fn reference(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(name)
}

fn draw(page: &str) -> String {
    svg(&page.lines().filter_map(Row::parse).collect::<Vec<_>>())
}

#[test]
fn the_page_says_what_is_counted() {
    let (file, picture) = (reference("scale.md"), reference("scale.svg"));
    let mut page = fs::read_to_string(&file).unwrap();
    let update = std::env::var_os("UPDATE").is_some();
    let small = |shape: &Shape| update || shape.regions <= SMALL;
    let costs: Vec<Cost> = shapes().into_iter().filter(small).map(count).collect();
    let table = table(&costs);
    if update {
        let (before, rest) = page.split_once("| regions |").unwrap();
        let after = rest.split_once("\n\n").unwrap().1;
        page = format!("{before}{table}\n{after}");
        fs::write(&file, &page).unwrap();
        fs::write(&picture, draw(&page)).unwrap();
    }
    for line in table.lines() {
        assert!(page.contains(line), "{} lacks: {line}\nrun with UPDATE=1", file.display());
    }
    assert_eq!(fs::read_to_string(&picture).unwrap(), draw(&page), "run with UPDATE=1");
}

#[test]
fn ten_thousand_partitions_fail_over_as_one_does() {
    let (one, many) = (failover(3, 1), failover(3, 10_000));
    let within = |many: u64, one: u64| 5 * many <= 6 * one;
    assert!(within(many.first_write_ms, one.first_write_ms), "{one:?} {many:?}");
    assert!(within(many.messages, one.messages), "{one:?} {many:?}");
}

#[test]
fn messages_grow_no_faster_than_regions() {
    let (few, more) = (failover(3, 100), failover(12, 100));
    assert!(more.messages <= 4 * few.messages * 5 / 4, "{few:?} {more:?}");
    assert!(5 * more.first_write_ms <= 6 * few.first_write_ms, "{few:?} {more:?}");
}

#[test]
fn a_million_partitions_of_which_no_two_stand_together_do_not_fit() {
    let shape = Shape { regions: 3, partitions: 1_000_000, deal: Deal::Alternating };
    let cost = count(shape);
    assert_eq!(cost.ranges, 1_000_000);
    assert!(cost.failover.is_none() && cost.bytes_before > OWNERSHIP_BYTES_MAX, "{cost:?}");
}

/// To hold each range against every other would take minutes.
#[test]
fn core_takes_as_long_as_there_are_ranges() {
    let work = work(100_000);
    let took = [work.changes, work.forgets, work.gives, work.first_new_cut];
    assert!(took.iter().all(|took| *took < Duration::from_secs(3)), "{work:?}");
}
