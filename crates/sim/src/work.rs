//! How long does core take over ownership in so many ranges?
//!
//! Measured on this machine, and the only figure here that differs from run to run.

use std::fmt;
use std::time::{Duration, Instant};

use domicile_core::id::{Origin, RegionId, RunId};
use domicile_core::lsn::{Cut, Lsn};
use domicile_core::ownership::OwnershipChange;

use crate::setup::alternating;

/// What is done by whoever carries out a failover, and by each region that hears of it.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Fence, cut and grant.
    pub changes: Duration,
    /// Is what was read older than what was known?
    pub forgets: Duration,
    /// Does the guard, or the gateway, let in whom it did not?
    pub gives: Duration,
    /// What lies beyond a cut that is new?
    pub first_new_cut: Duration,
}

/// Takes the worst there is: as many partitions, of which no two stand together.
pub fn work(ranges: u32) -> Work {
    let regions = ["ap", "eu", "us"].map(|name| name.parse::<RegionId>().expect("a region name"));
    let [from, to, _] = regions.clone();
    let run = RunId("run001".to_owned());
    let origin = Origin::new(from.clone(), 1);
    let cut = Cut { origin: origin.clone(), lsn: Lsn(1) };
    let before = alternating(ranges, &regions);
    let changes = [
        OwnershipChange::Fence { from: from.clone(), run: run.clone() },
        OwnershipChange::Cut { run: run.clone(), cut },
        OwnershipChange::Grant { run, to: to.clone() },
    ];
    let began = Instant::now();
    let changed = changes.iter().try_fold(before.clone(), |value, change| value.apply(change));
    let after = changed.expect("a region that owns something can be fenced, cut and granted");
    let changes = began.elapsed();
    let (forgotten, forgets) = timed(|| after.forgets(&before));
    let (gives, gives_took) = timed(|| before.gives(&after, &to) || after.gives(&before, &to));
    let (new, first_new_cut) = timed(|| after.first_new_cut(Some(&after), &origin));
    assert!(forgotten.is_none() && gives && new.is_none(), "a failover takes nothing back");
    Work { changes, forgets, gives: gives_took, first_new_cut }
}

fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let answer = what();
    (answer, began.elapsed())
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { changes, forgets, gives, first_new_cut } = self;
        write!(
            f,
            "fence, cut and grant {changes:.1?}, forgets {forgets:.1?}, gives {gives:.1?}, \
             first new cut {first_new_cut:.1?}"
        )
    }
}
