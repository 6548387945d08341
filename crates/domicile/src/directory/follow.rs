//! What does the directory say now, as far as this region can tell?
//!
//! Reads everything under a prefix, then watches from the revision of that read. Whatever ends
//! the watch (a lost connection, a restarted directory, events no longer kept), the answer is
//! the same: read again, watch again. There is no shorter way back that could hide a gap.
//!
//! **Invariant:** while one watch lasts, the view's revision only rises. If a new read shows a
//! past other than the one already seen, the view says so for good: a directory restored from
//! an older copy could hand out an epoch twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::Snapshot;
use super::client::{Client, DirectoryError, End};
use super::events::Event;

/// First and longest pause before reading again; each failure doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The documents under one prefix, as last heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Key -> value, revision of the document.
    pub documents: BTreeMap<String, (Bytes, u64)>,
    /// Everything under the prefix up to this revision of the store is in `documents`.
    pub revision: u64,
    /// See [`Snapshot::store`].
    pub store: u64,
    /// Whether changes are arriving; when not, the documents are the last ones heard.
    pub connected: bool,
    /// The store once showed an older or another past than it had shown before. Stays set.
    pub regressed: bool,
}

impl View {
    /// Returns the view after everything was read again.
    fn reread(&self, snapshot: Snapshot) -> Self {
        let regressed = self.regressed || self.contradicts(&snapshot);
        let lift = |document: super::Document| (document.key, (document.value, document.revision));
        let documents = snapshot.documents.into_iter().map(lift).collect();
        let Snapshot { revision, store, .. } = snapshot;
        Self { documents, revision, store, connected: true, regressed }
    }

    /// Returns whether `snapshot` cannot be a later state of the store this view was read from.
    ///
    /// A restored store may have been written to since, and be past our revision again. But a
    /// document that is as old as our view must then have been in it. One that was restored under
    /// another name is another store in any case.
    fn contradicts(&self, snapshot: &Snapshot) -> bool {
        let unseen = |document: &super::Document| {
            let seen = self.documents.get(&document.key);
            seen.is_none_or(|(value, at)| *at != document.revision || *value != document.value)
        };
        let mut documents = snapshot.documents.iter();
        // The embedded one, which has no name, may have moved into one that has: it goes on with its revisions.
        let was_named = self.revision > 0 && self.store != 0;
        (was_named && snapshot.store != self.store)
            || snapshot.revision < self.revision
            || documents.any(|document| document.revision <= self.revision && unseen(document))
    }

    /// Takes the changes of whole revisions; those that are already in the view change nothing.
    fn apply(&mut self, events: Vec<Event>) {
        let seen = self.revision;
        for Event { key, value, revision } in events {
            if revision <= seen {
                continue;
            }
            self.revision = revision;
            match value {
                Some(value) => _ = self.documents.insert(key, (value, revision)),
                None => _ = self.documents.remove(&key),
            }
        }
    }
}

pub(super) fn start(
    client: Client,
    prefix: String,
    shutdown: CancellationToken,
) -> watch::Receiver<Arc<View>> {
    let (views, receiver) = watch::channel(Arc::new(View::default()));
    let follower = Follower { client, prefix, views, backoff: BACKOFF_MIN, lost: false };
    tokio::spawn(async move {
        let unwanted = follower.views.clone();
        tokio::select! {
            () = follower.run() => (),
            () = unwanted.closed() => (),
            () = shutdown.cancelled() => (),
        }
    });
    receiver
}

struct Follower {
    client: Client,
    prefix: String,
    views: watch::Sender<Arc<View>>,
    backoff: Duration,
    /// Whether the loss was logged: once for each, however often reading fails after it.
    lost: bool,
}

impl Follower {
    async fn run(mut self) {
        loop {
            match self.read_and_watch().await {
                // Changes are merely arriving faster than they are read.
                End::Compacted => debug!(prefix = self.prefix, "directory compacted"),
                End::Lost(reason) => self.note_loss(&reason),
            }
            tokio::time::sleep(self.backoff).await;
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn read_and_watch(&mut self) -> End {
        let snapshot = match self.client.read(&self.prefix).await {
            Ok(snapshot) => snapshot,
            Err(error) => return End::Lost(error),
        };
        let seen = snapshot.revision;
        let mut changes = match self.client.watch(&self.prefix, seen).await {
            Ok(changes) => changes,
            Err(end) => return end,
        };
        self.note_read(snapshot);
        loop {
            match changes.next().await {
                Ok(events) if events.is_empty() => {}
                Ok(events) => self.views.send_modify(|view| Arc::make_mut(view).apply(events)),
                Err(end) => return end,
            }
        }
    }

    fn note_read(&mut self, snapshot: Snapshot) {
        let before = self.views.borrow().clone();
        let view = before.reread(snapshot);
        if view.regressed && !before.regressed {
            error!(
                prefix = self.prefix,
                seen = before.revision,
                found = view.revision,
                "directory shows another past than before: was it restored from an older copy?"
            );
        }
        if self.lost {
            info!(prefix = self.prefix, revision = view.revision, "directory is back");
        }
        self.lost = false;
        self.backoff = BACKOFF_MIN;
        self.views.send_replace(Arc::new(view));
    }

    fn note_loss(&mut self, reason: &DirectoryError) {
        if !self.lost {
            warn!(prefix = self.prefix, address = self.client.address(), "{reason}");
        }
        self.lost = true;
        self.views.send_if_modified(|view| {
            let was_connected = view.connected;
            if was_connected {
                Arc::make_mut(view).connected = false;
            }
            was_connected
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Document;

    fn snapshot(revision: u64, documents: &[(&str, &'static str, u64)]) -> Snapshot {
        let document = |&(key, value, revision): &(&str, &'static str, u64)| Document {
            key: key.to_owned(),
            value: Bytes::from_static(value.as_bytes()),
            revision,
        };
        Snapshot { documents: documents.iter().map(document).collect(), revision, store: 7 }
    }

    fn view() -> View {
        View::default().reread(snapshot(10, &[("a", "one", 4), ("b", "two", 9)]))
    }

    fn event(key: &str, value: Option<&'static str>, revision: u64) -> Event {
        let value = value.map(|value| Bytes::from_static(value.as_bytes()));
        Event { key: key.to_owned(), value, revision }
    }

    #[test]
    fn a_later_read_of_the_same_store_is_no_regression() {
        assert!(!view().reread(snapshot(12, &[("a", "one", 4), ("c", "new", 12)])).regressed);
        assert!(!view().reread(snapshot(10, &[("a", "one", 4), ("b", "two", 9)])).regressed);
    }

    #[test]
    fn a_lower_revision_is_a_regression_and_stays_one() {
        let regressed = view().reread(snapshot(9, &[("a", "one", 4)]));
        assert!(regressed.regressed);
        assert_eq!((regressed.revision, regressed.documents.len()), (9, 1));
        assert!(regressed.reread(snapshot(20, &[])).regressed);
    }

    #[test]
    fn a_restored_store_that_grew_past_us_is_a_regression() {
        let another_value = snapshot(30, &[("a", "one", 4), ("b", "other", 9)]);
        assert!(view().reread(another_value).regressed);
        let another_key = snapshot(30, &[("a", "one", 4), ("c", "other", 8)]);
        assert!(view().reread(another_key).regressed);
    }

    #[test]
    fn an_event_that_was_already_read_changes_nothing() {
        let mut after = view();
        after.apply(vec![event("a", Some("older"), 10)]);
        assert_eq!(after, view());
    }

    #[test]
    fn events_set_and_delete_documents() {
        let mut view = view();
        view.apply(vec![event("a", None, 11)]);
        view.apply(vec![event("c", Some("new"), 12)]);
        let keys: Vec<_> = view.documents.keys().map(String::as_str).collect();
        assert_eq!((keys, view.revision), (vec!["b", "c"], 12));
    }

    #[test]
    fn all_changes_of_one_revision_are_taken() {
        let mut view = view();
        view.apply(vec![event("c", Some("new"), 11), event("d", Some("new"), 11)]);
        assert_eq!((view.documents.len(), view.revision), (4, 11));
    }

    #[test]
    fn another_store_is_a_regression_even_where_it_says_the_same() {
        let same = [("a", "one", 4), ("b", "two", 9)];
        assert!(!view().reread(snapshot(10, &same)).regressed);
        assert!(view().reread(Snapshot { store: 8, ..snapshot(10, &same) }).regressed);
    }
}
