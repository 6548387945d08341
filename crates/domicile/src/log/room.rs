//! How much do all logs of this region take together, and may they take more?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by the logs that share one limit. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Room {
    shared: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    used: AtomicU64,
    bytes_max: u64,
}

impl Room {
    pub fn of(bytes_max: u64) -> Self {
        Self { shared: Arc::new(Inner { used: AtomicU64::new(0), bytes_max }) }
    }

    pub fn unlimited() -> Self {
        Self::of(u64::MAX)
    }

    pub fn bytes_max(&self) -> u64 {
        self.shared.bytes_max
    }

    /// Bytes of sound records, in all logs.
    pub fn used(&self) -> u64 {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// Returns whether there is any room: the limit may be passed by one batch of each log.
    pub(super) fn is_left(&self) -> bool {
        self.used() < self.shared.bytes_max
    }

    /// A log that took `before` bytes now takes `after`.
    pub(super) fn changed(&self, before: u64, after: u64) {
        // Wrapping: what is added later makes up for it.
        self.shared.used.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }
}
