//! What has become of the requests that came?

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domicile_core::id::RegionId;
use domicile_core::time::Millis;
use prometheus_client::metrics::histogram::Histogram;

/// Upper ends of classes, in seconds: from what an application answers at once to what waits for an owner.
const CLASSES: [f64; 12] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// The requests of a door. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tally {
    counts: Arc<Mutex<Counts>>,
    under_way: Arc<AtomicUsize>,
    times: Histogram,
}

/// What a request ended in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// An answer, by the first digit of its status.
    Answer(u16),
    /// Nobody waits for an answer any more.
    Gone,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(digit) => write!(f, "{digit}xx"),
            Self::Gone => f.write_str("gone"),
        }
    }
}

/// By the region that has answered, none where the door or nobody did so.
type Ended = BTreeMap<(Option<RegionId>, Ending), u64>;
/// By why, in the words of programs.
type Refused = BTreeMap<String, u64>;

#[derive(Debug, Default)]
struct Counts {
    ended: Ended,
    refused: Refused,
}

/// A request that is under way for as long as this lives. Who drops it before its end does not wait any more.
pub struct UnderWay<'a> {
    tally: &'a Tally,
    has_ended: bool,
}

impl Default for Tally {
    fn default() -> Self {
        let times = Histogram::new(CLASSES);
        Self { counts: Arc::default(), under_way: Arc::default(), times }
    }
}

impl Tally {
    pub fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay { tally: self, has_ended: false }
    }

    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    pub fn ended(&self) -> (Ended, Refused) {
        let counts = self.lock();
        (counts.ended.clone(), counts.refused.clone())
    }

    /// How long requests took until their answers began.
    pub fn times(&self) -> Histogram {
        self.times.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nothing that is done under this lock can be left half done.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay<'_> {
    /// It is answered with this status, after so long: by a region's application, or by a door, which has said why.
    pub fn end(
        mut self,
        region: Option<&RegionId>,
        refused: Option<&str>,
        status: u16,
        took: Millis,
    ) {
        self.has_ended = true;
        self.tally.times.observe(took.0 as f64 / 1000.0);
        let mut counts = self.tally.lock();
        if let Some(why) = refused {
            *counts.refused.entry(why.to_owned()).or_default() += 1;
        }
        *counts.ended.entry((region.cloned(), Ending::Answer(status / 100))).or_default() += 1;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.tally.under_way.fetch_sub(1, Ordering::Relaxed);
        if !self.has_ended {
            *self.tally.lock().ended.entry((None, Ending::Gone)).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_once_also_where_nobody_waits_for_its_answer() {
        let tally = Tally::default();
        tally.begin().end(None, Some("circle"), 508, Millis(1));
        drop(tally.begin());
        let (ended, _) = tally.ended();
        let expected = [((None, Ending::Answer(5)), 1), ((None, Ending::Gone), 1)];
        assert_eq!(ended, expected.into());
        assert_eq!(tally.under_way(), 0);
    }
}
