//! What has become of the requests that came?

use std::collections::BTreeMap;
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

/// By the region that has answered, none where the door did so, and the first digit of the status.
type Answered = BTreeMap<(Option<RegionId>, u16), u64>;
/// By why, in the words of programs.
type Refused = BTreeMap<String, u64>;

#[derive(Debug, Default)]
struct Counts {
    answered: Answered,
    refused: Refused,
}

/// A request that is under way for as long as this lives.
pub struct UnderWay<'a>(&'a Tally);

impl Default for Tally {
    fn default() -> Self {
        let times = Histogram::new(CLASSES);
        Self { counts: Arc::default(), under_way: Arc::default(), times }
    }
}

impl Tally {
    pub fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(self)
    }

    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    pub fn answers(&self) -> (Answered, Refused) {
        let counts = self.lock();
        (counts.answered.clone(), counts.refused.clone())
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
    pub fn end(self, region: Option<&RegionId>, refused: Option<&str>, status: u16, took: Millis) {
        self.0.times.observe(took.0 as f64 / 1000.0);
        let mut counts = self.0.lock();
        if let Some(why) = refused {
            *counts.refused.entry(why.to_owned()).or_default() += 1;
        }
        *counts.answered.entry((region.cloned(), status / 100)).or_default() += 1;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
