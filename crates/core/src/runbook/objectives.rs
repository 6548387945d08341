//! What does a runbook promise of itself, and is that kept?
//!
//! An objective decides nothing: a run that misses one goes on, and has succeeded all the same.

use std::fmt;

use super::Estimate;
use super::file::written;
use crate::time::Millis;

/// What a runbook's file promises; nothing where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objectives {
    /// For how long nobody may be able to write: from when the region fell silent, or from when its partitions
    /// were taken from an owner that is well, until there is a new owner.
    pub rto: Option<Millis>,
    /// How old the oldest acknowledged write may be that is lost. Zero: none may be.
    pub rpo: Option<Millis>,
}

/// Recovery time or recovery point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    Rto,
    Rpo,
}

/// A figure beside what was promised of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub objective: Objective,
    /// The most that it may be.
    pub limit: Millis,
    /// `None`: nothing is known of it, or not yet.
    pub figure: Option<Millis>,
}

impl Objectives {
    /// Holds figures against what was promised: for how long nobody could write, and what was lost.
    pub fn held(&self, pause: Option<Millis>, loss: Option<Millis>) -> Vec<Held> {
        let of = |objective, limit: Option<Millis>, figure| {
            limit.map(|limit| Held { objective, limit, figure })
        };
        let all = [of(Objective::Rto, self.rto, pause), of(Objective::Rpo, self.rpo, loss)];
        all.into_iter().flatten().collect()
    }

    /// The same for a run that has not begun; `before` is how long nobody could write in earlier ones.
    pub fn expected(&self, estimate: &Estimate, before: Option<Millis>) -> Vec<Held> {
        self.held(estimate.pause(before), Some(estimate.loss.age))
    }
}

impl Held {
    /// Is it kept, as far as is known?
    pub fn met(&self) -> Option<bool> {
        self.figure.map(|figure| figure <= self.limit)
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rto => "RTO",
            Self::Rpo => "RPO",
        })
    }
}

/// As in `720 ms of 1s: met`.
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = match self.limit {
            Millis(0) => "0".to_owned(),
            limit => written(limit),
        };
        match self.figure {
            None => write!(f, "unknown, of {limit}"),
            Some(figure) if figure <= self.limit => write!(f, "{} ms of {limit}: met", figure.0),
            Some(figure) => write!(f, "{} ms of {limit}: missed", figure.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{PartitionRange, RunId};
    use crate::progress::{Exposure, Rpo};
    use crate::runbook::run::tests::{facts, lose_eu, region};
    use crate::runbook::{Intent, plan};

    const BOTH: Objectives = Objectives { rto: Some(Millis(5000)), rpo: Some(Millis(0)) };

    fn told(held: &[Held]) -> Vec<String> {
        held.iter().map(|held| format!("{} {held}", held.objective)).collect()
    }

    #[test]
    fn a_figure_is_held_against_what_was_promised_and_nothing_else_is() {
        let exactly = BOTH.held(Some(Millis(5000)), Some(Millis(0)));
        assert_eq!(told(&exactly), ["RTO 5000 ms of 5s: met", "RPO 0 ms of 0: met"]);
        let more = BOTH.held(Some(Millis(5001)), Some(Millis(1)));
        assert_eq!(told(&more), ["RTO 5001 ms of 5s: missed", "RPO 1 ms of 0: missed"]);
        let unknown = BOTH.held(None, None);
        assert_eq!(told(&unknown), ["RTO unknown, of 5s", "RPO unknown, of 0"]);
        assert!(unknown.iter().all(|held| held.met().is_none()));
        assert_eq!(Objectives::default().held(Some(Millis(1)), Some(Millis(1))), []);
    }

    #[test]
    fn what_is_expected_is_no_less_than_what_has_passed_and_has_to_be_waited_for() {
        let loss = Exposure { age: Millis(40), ..Exposure::default() };
        let estimate =
            |silent, wait| Estimate { loss, lease_wait: Millis(wait), silent_for: Millis(silent) };
        let pause = |estimate, before| BOTH.expected(&estimate, before)[0].figure;
        assert_eq!(pause(estimate(0, 0), None), None, "nothing is known of it");
        assert_eq!(pause(estimate(0, 0), Some(Millis(70))), Some(Millis(70)));
        assert_eq!(pause(estimate(2000, 1100), None), Some(Millis(3100)));
        assert_eq!(pause(estimate(2000, 1100), Some(Millis(2900))), Some(Millis(3100)));
        assert_eq!(pause(estimate(2000, 0), Some(Millis(2900))), Some(Millis(2900)));
        let held = BOTH.expected(&estimate(0, 0), None);
        assert_eq!((held[1].figure, held[1].met()), (Some(Millis(40)), Some(false)));
    }

    #[test]
    fn a_failover_counts_from_when_the_region_was_last_heard_and_a_hand_over_from_itself() {
        let mut facts = facts(Rpo::None);
        facts.regions.get_mut(&region("eu")).unwrap().silent_for = Millis(2100);
        let (run, range) = (RunId("1".into()), PartitionRange::new(0, 0));
        let moved = Intent::Switchover { range, to: region("us") };
        assert_eq!(plan(&run, &moved, &facts).unwrap().estimate.silent_for, Millis(0));
        lose_eu(&mut facts);
        let lost = Intent::Failover { from: region("eu"), to: region("us"), attested: false };
        assert_eq!(plan(&run, &lost, &facts).unwrap().estimate.silent_for, Millis(2100));
    }
}
