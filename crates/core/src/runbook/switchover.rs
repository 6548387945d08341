//! The planned runbook: partitions move to another region and no write is lost or refused.

use super::step::{CatchUp, Grant, HandOver, Reroute, Step, Verify};
use crate::id::{PartitionRange, RegionId, RunId};

/// The steps, in the order in which they are asked.
pub fn steps(run: &RunId, range: PartitionRange, to: &RegionId) -> Vec<Step> {
    let (run, to) = (run.clone(), to.clone());
    vec![
        Step::HandOver(HandOver { run: run.clone(), range, to: to.clone() }),
        Step::CatchUp(CatchUp { run: run.clone(), to: to.clone() }),
        Step::Grant(Grant { run: run.clone(), to: to.clone() }),
        Step::Reroute(Reroute { run: run.clone() }),
        Step::Verify(Verify { run, to }),
    ]
}
