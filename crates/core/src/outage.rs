//! Do enough observers agree that a region is gone?
//!
//! One observer may itself be the one that is cut off. A region is confirmed down when enough
//! *other* regions report that its lease fell silent and that a write through its guard does not
//! succeed; a single successful probe disputes the outage, and so does a promise that the region lives
//! on: it was asked for a moment ago.

use crate::id::RegionId;
use crate::lease::LeaseTerms;
use crate::time::Millis;

/// What one observer has seen of one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub observer: RegionId,
    /// How long the observer has seen no renewal of the region's lease.
    pub silent_for: Millis,
    pub probe: Probe,
}

/// The result of the last write through the region's guard, asked for by the observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    Written,
    Refused,
    Unreachable,
    /// Not tried: the observer has just promised the region its lease, in the directory's stead.
    Promised,
}

impl Probe {
    /// What it says after `age`: by then a promise may be over.
    pub fn after(self, age: Millis, terms: &LeaseTerms) -> Self {
        match self {
            Self::Promised if age > terms.drift.outlast(terms.ttl) => Self::Unreachable,
            probe => probe,
        }
    }
}

/// The verdict of several observers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outage {
    None,
    /// Silent, but too few observers say so.
    Suspected {
        by: Vec<RegionId>,
    },
    /// Its lease is silent, yet somebody could write there, or has promised it another: no failover.
    Disputed {
        by: RegionId,
    },
    Confirmed {
        by: Vec<RegionId>,
    },
}

/// Judges `region` by what the others saw. `observers` is how many must agree.
pub fn judge(
    region: &RegionId,
    sightings: &[Sighting],
    suspect_after: Millis,
    observers: usize,
) -> Outage {
    let silent: Vec<&Sighting> = sightings
        .iter()
        .filter(|s| s.observer != *region && s.silent_for >= suspect_after)
        .collect();
    if silent.is_empty() {
        return Outage::None;
    }
    let alive = |s: &&Sighting| match s.probe {
        Probe::Written => s.silent_for >= suspect_after,
        // Whoever promises hears the region, even one that cannot hear the directory.
        Probe::Promised => true,
        Probe::Refused | Probe::Unreachable => false,
    };
    if let Some(witness) = sightings.iter().filter(|s| s.observer != *region).find(alive) {
        return Outage::Disputed { by: witness.observer.clone() };
    }
    let by: Vec<RegionId> = silent.iter().map(|s| s.observer.clone()).collect();
    if by.len() >= observers { Outage::Confirmed { by } } else { Outage::Suspected { by } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::DriftPpm;

    fn saw(observer: &str, silent_ms: u64, probe: Probe) -> Sighting {
        Sighting { observer: observer.parse().unwrap(), silent_for: Millis(silent_ms), probe }
    }

    fn judge_eu(sightings: &[Sighting]) -> Outage {
        judge(&"eu".parse().unwrap(), sightings, Millis(2000), 2)
    }

    #[test]
    fn one_observer_is_not_enough() {
        let outage =
            judge_eu(&[saw("us", 3000, Probe::Unreachable), saw("ap", 100, Probe::Unreachable)]);
        assert_eq!(outage, Outage::Suspected { by: vec!["us".parse().unwrap()] });
    }

    #[test]
    fn two_observers_confirm() {
        let outage =
            judge_eu(&[saw("us", 3000, Probe::Unreachable), saw("ap", 2000, Probe::Refused)]);
        assert!(matches!(outage, Outage::Confirmed { by } if by.len() == 2));
    }

    #[test]
    fn a_region_that_still_takes_writes_is_not_failed_over() {
        let outage =
            judge_eu(&[saw("us", 3000, Probe::Unreachable), saw("ap", 3000, Probe::Written)]);
        assert_eq!(outage, Outage::Disputed { by: "ap".parse().unwrap() });
    }

    #[test]
    fn a_region_that_lives_on_a_promise_is_not_failed_over() {
        let promised = saw("sa", 0, Probe::Promised);
        let silent = ["us", "ap"].map(|observer| saw(observer, 3000, Probe::Unreachable));
        let sightings = [&silent[..], &[promised]].concat();
        assert_eq!(judge_eu(&sightings), Outage::Disputed { by: "sa".parse().unwrap() });
    }

    #[test]
    fn nobody_lives_on_the_promise_of_somebody_who_is_gone() {
        let terms = LeaseTerms {
            ttl: Millis(3000),
            renew_every: Millis(1000),
            margin: Millis(200),
            drift: DriftPpm(200),
        };
        let after = |ms: u64| Probe::Promised.after(Millis(ms), &terms);
        assert_eq!(after(terms.ttl.0), Probe::Promised);
        assert_eq!(after(2 * terms.ttl.0), Probe::Unreachable);
        assert_eq!(Probe::Written.after(Millis(2 * terms.ttl.0), &terms), Probe::Written);
    }

    #[test]
    fn a_region_does_not_testify_against_itself() {
        let outage =
            judge_eu(&[saw("eu", 9000, Probe::Unreachable), saw("us", 3000, Probe::Unreachable)]);
        assert!(matches!(outage, Outage::Suspected { .. }));
    }
}
