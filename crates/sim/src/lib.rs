//! Proves: a seeded, single-threaded, deterministic world over `domicile-core`.
//!
//! The same seed always gives the same run. Real decisions, modelled everything else: what an
//! agent decides it asks of core; PostgreSQL, disks, clocks and the network are models that can
//! be killed, stopped, cut and set wrong.

mod clock;
mod directory;
mod disk;
mod faults;
mod invariants;
mod message;
mod network;
mod postgres;
mod region;
mod report;
mod rng;
mod setup;
mod trace;
mod work;
mod workload;
mod world;

pub use invariants::{Kind, Violation};
pub use report::{Row, json, svg, table};
pub use setup::Sabotage;
pub use work::{Work, work};
pub use world::{Cost, Deal, Failover, Report, Shape, Stage, fail_over};

use world::World;

/// How to run one seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Stop after this many events; the end is not judged then.
    pub steps: Option<u64>,
    pub keep_trace: bool,
    pub sabotage: Option<Sabotage>,
}

/// Runs one seed to its end.
pub fn run(seed: u64, options: Options) -> Report {
    World::new(seed, options.sabotage, options.keep_trace).run(options.steps)
}

/// Runs one seed twice, and compares every line of the two traces.
pub fn run_twice(seed: u64, options: Options) -> Report {
    let options = Options { keep_trace: true, ..options };
    let (first, second) = (run(seed, options), run(seed, options));
    let same =
        first.trace.digest() == second.trace.digest() && first.trace.text() == second.trace.text();
    if same {
        return first;
    }
    let violation = Violation {
        kind: Kind::Nondeterminism,
        rule: "a seed always gives the same run",
        detail: format!("{} and {} steps", first.steps, second.steps),
    };
    Report { violation: Some(violation), ..first }
}

/// What to print about a seed that failed.
pub fn explain(seed: u64, report: &Report) -> String {
    let Some(violation) = &report.violation else { return format!("seed {seed}: no violation") };
    let mut lines = report.trace.tail();
    lines.push(String::new());
    lines.push(format!("seed {seed} ({}): {}", report.setup, violation.rule));
    lines.push(format!("  {}", violation.detail));
    lines.push(format!(
        "add to the list in crates/sim/tests/seeds.rs:\n    {seed}, // {}",
        violation.rule
    ));
    lines.join("\n")
}
