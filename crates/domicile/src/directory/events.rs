//! What changed lately, in which order, and may a watcher go on from where it stopped?
//!
//! ```text
//!   forgotten | floor+1 | floor+2 | ... | last       one event for each revision, no gap
//!             ^ a watcher that has seen `floor` or later goes on; an older one reads again
//! ```
//!
//! **Invariant:** an event enters once it is durable, and in the order of revisions. Watchers
//! read from here at their own pace, so a slow one costs no memory: it is told that it fell
//! behind instead.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

/// Most events kept for watchers that are behind.
pub(super) const HISTORY_EVENTS_MAX: usize = 4096;

/// Most bytes of keys and values kept for watchers that are behind.
pub(super) const HISTORY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most events handed to a watcher at once.
const BATCH_EVENTS_MAX: usize = 256;

/// A batch that has reached this many bytes is not added to.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// One successful write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub key: String,
    /// Absent when the document was deleted.
    pub value: Option<Bytes>,
    pub revision: u64,
}

impl Event {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// The next events for one watcher.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Those under the watcher's prefix, perhaps none.
    pub events: Vec<Event>,
    /// How far the watcher has now come, counting what its prefix left out.
    pub seen: u64,
}

/// The watcher asked for events that are no longer kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compacted;

/// The latest events, for every watcher.
pub(super) struct Events {
    history: Mutex<History>,
    last: watch::Sender<u64>,
}

impl Events {
    /// Starts empty behind `floor`, the revision the store was opened at.
    pub(super) fn new(floor: u64) -> Self {
        let history = History::new(floor, HISTORY_EVENTS_MAX, HISTORY_BYTES_MAX);
        Self { history: Mutex::new(history), last: watch::Sender::new(floor) }
    }

    /// Adds the event of a durable write and wakes the watchers.
    pub(super) fn publish(&self, event: Event) {
        let revision = event.revision;
        self.history().push(event);
        self.last.send_replace(revision);
    }

    /// Returns what follows `seen` under `prefix`; `seen` unchanged means nothing yet.
    pub(super) fn after(&self, seen: u64, prefix: &str) -> Result<Batch, Compacted> {
        self.history().after(seen, prefix)
    }

    /// Returns a handle that learns of each new last revision.
    pub(super) fn last(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // Nothing in `History` panics halfway through a change.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct History {
    /// The event at index i has revision floor + 1 + i.
    events: VecDeque<Event>,
    floor: u64,
    bytes: usize,
    events_max: usize,
    bytes_max: usize,
}

impl History {
    fn new(floor: u64, events_max: usize, bytes_max: usize) -> Self {
        Self { events: VecDeque::new(), floor, bytes: 0, events_max, bytes_max }
    }

    fn push(&mut self, event: Event) {
        let next = self.floor + self.events.len() as u64 + 1;
        assert_eq!(event.revision, next, "events follow one another without a gap");
        self.bytes += event.bytes();
        self.events.push_back(event);
        while self.events.len() > self.events_max || self.bytes > self.bytes_max {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.floor = oldest.revision;
        }
    }

    fn after(&self, seen: u64, prefix: &str) -> Result<Batch, Compacted> {
        let skip = seen.checked_sub(self.floor).ok_or(Compacted)?;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(self.events.len());
        let mut batch = Batch { events: Vec::new(), seen };
        let mut bytes = 0;
        for event in self.events.range(skip..) {
            if batch.events.len() == BATCH_EVENTS_MAX || bytes >= BATCH_BYTES_MAX {
                break;
            }
            if event.key.starts_with(prefix) {
                bytes += event.bytes();
                batch.events.push(event.clone());
            }
            batch.seen = event.revision;
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, key: &str) -> Event {
        Event { key: key.to_owned(), value: Some(Bytes::from_static(b"12345678")), revision }
    }

    fn history(events: u64) -> History {
        let mut history = History::new(10, 4, 1000);
        for i in 1..=events {
            history.push(event(10 + i, if i % 2 == 0 { "even" } else { "odd" }));
        }
        history
    }

    fn revisions(batch: &Batch) -> Vec<u64> {
        batch.events.iter().map(|event| event.revision).collect()
    }

    #[test]
    fn a_watcher_gets_what_it_has_not_seen() {
        let batch = history(3).after(11, "").expect("kept");
        assert_eq!((revisions(&batch), batch.seen), (vec![12, 13], 13));
    }

    #[test]
    fn a_watcher_passes_events_outside_its_prefix() {
        let batch = history(3).after(10, "even").expect("kept");
        assert_eq!((revisions(&batch), batch.seen), (vec![12], 13));
    }

    #[test]
    fn a_watcher_that_has_seen_all_waits_where_it_is() {
        let batch = history(3).after(13, "").expect("kept");
        assert_eq!(batch, Batch { events: Vec::new(), seen: 13 });
    }

    #[test]
    fn a_watcher_that_starts_before_the_store_was_opened_is_compacted() {
        assert_eq!(history(0).after(9, ""), Err(Compacted));
        assert!(history(0).after(10, "").is_ok());
    }

    #[test]
    fn more_events_than_kept_compact_the_oldest() {
        let history = history(6);
        assert_eq!(history.after(11, ""), Err(Compacted));
        assert_eq!(revisions(&history.after(12, "").expect("kept")), [13, 14, 15, 16]);
    }

    #[test]
    fn more_bytes_than_kept_compact_the_oldest() {
        let mut history = History::new(0, 100, 20);
        history.push(event(1, "a"));
        history.push(event(2, "a"));
        assert!(history.after(0, "").is_ok());
        history.push(event(3, "a"));
        assert_eq!(history.after(0, ""), Err(Compacted));
        assert_eq!(history.bytes, 18);
    }

    #[test]
    fn a_long_history_comes_in_several_batches_without_a_gap() {
        let mut history = History::new(0, 10_000, usize::MAX);
        (1..=1000).for_each(|revision| history.push(event(revision, "a")));
        let (mut seen, mut got) = (0, Vec::new());
        loop {
            let batch = history.after(seen, "").expect("kept");
            if batch.seen == seen {
                break;
            }
            assert!(batch.events.len() <= BATCH_EVENTS_MAX);
            got.extend(revisions(&batch));
            seen = batch.seen;
        }
        assert_eq!(got, (1..=1000).collect::<Vec<_>>());
    }
}
