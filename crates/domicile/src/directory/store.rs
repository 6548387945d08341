//! What do the documents say, durably? One redb file, one writer at a time.
//!
//! **Invariant:** a write is on disk before anyone hears of it, and its event is published
//! before the next write begins. So the order of events is the order of revisions, and whoever
//! has read revision R misses nothing by watching from R.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use thiserror::Error;

use super::events::{Event, Events};
use super::limits::{OutOfLimits, check_prefix, check_write};
use super::relocate::MOVED_KEY;
use super::{Document, READ_BYTES_MAX, Snapshot, Written};

const FILE_NAME: &str = "directory.redb";

/// Layout of the two tables below; a file with another number is refused.
const FORMAT: u64 = 1;

/// Key -> revision of the last write, value.
const DOCUMENTS: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("documents");

/// `format` and `revision`, the counter of the whole store.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

#[derive(Debug, Error)]
pub(super) enum StoreError {
    #[error(transparent)]
    OutOfLimits(OutOfLimits),
    #[error(
        "everything moves, or has moved, to another directory: nothing is written here any more"
    )]
    Moved,
    #[error("directory in {folder} is in use by another process")]
    InUse { folder: String },
    #[error("directory file has format {found}, expected {FORMAT}")]
    Format { found: u64 },
    #[error("create folder {folder}")]
    Folder { folder: String, source: std::io::Error },
    /// After a failed commit the state of the disk is unknown: the store must not go on.
    #[error("directory file: {0}")]
    Disk(#[source] Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Disk(Box::new(error.into()))
    }
}

/// The documents and their recent events. Every call blocks on the disk.
pub(super) struct Store {
    database: Database,
    events: Events,
    /// Held from before a commit until its event is published.
    writer: Mutex<()>,
}

impl Store {
    /// Opens the store in `folder`, creating both when there are none.
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        let shown = || folder.display().to_string();
        std::fs::create_dir_all(folder)
            .map_err(|source| StoreError::Folder { folder: shown(), source })?;
        let database = Database::create(folder.join(FILE_NAME)).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { folder: shown() },
            other => other.into(),
        })?;
        let revision = prepare(&database)?;
        Ok(Self { database, events: Events::new(revision), writer: Mutex::new(()) })
    }

    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    /// Returns the store's revision, which is on disk.
    pub(super) fn revision(&self) -> Result<u64, StoreError> {
        let transaction = self.database.begin_read()?;
        Ok(revision_in(&transaction.open_table(META)?)?)
    }

    /// Returns every document whose key starts with `prefix`; the empty prefix means all.
    pub(super) fn read(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        check_prefix(prefix).map_err(StoreError::OutOfLimits)?;
        let transaction = self.database.begin_read()?;
        let revision = revision_in(&transaction.open_table(META)?)?;
        let mut documents = Vec::new();
        let mut bytes = 0;
        for entry in transaction.open_table(DOCUMENTS)?.range(prefix..)? {
            let (key, stored) = entry?;
            if !key.value().starts_with(prefix) {
                break;
            }
            let (revision, value) = stored.value();
            bytes += key.value().len() + value.len();
            if bytes > READ_BYTES_MAX {
                let prefix = prefix.to_owned();
                return Err(StoreError::OutOfLimits(OutOfLimits::ReadTooLong { prefix }));
            }
            let (key, value) = (key.value().to_owned(), Bytes::copy_from_slice(value));
            documents.push(Document { key, value, revision });
        }
        Ok(Snapshot { documents, revision, store: 0 })
    }

    /// Sets or deletes one document if its revision is still `expected`; 0 means there is none.
    pub(super) fn write(
        &self,
        key: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<Written, StoreError> {
        check_write(key, expected, value.as_ref()).map_err(StoreError::OutOfLimits)?;
        // Guards no data of its own: a writer that panicked left an aborted transaction.
        let _one_writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = self.database.begin_write()?;
        let revision = {
            let mut documents = transaction.open_table(DOCUMENTS)?;
            if key != MOVED_KEY && documents.get(MOVED_KEY)?.is_some() {
                return Err(StoreError::Moved);
            }
            let current = documents.get(key)?.map_or(0, |stored| stored.value().0);
            if current != expected {
                return Ok(Written::Conflict(current));
            }
            let mut meta = transaction.open_table(META)?;
            let revision = revision_in(&meta)? + 1;
            meta.insert("revision", revision)?;
            match &value {
                Some(value) => documents.insert(key, (revision, value.as_ref()))?,
                None => documents.remove(key)?,
            };
            revision
        };
        // redb's default durability: returns after fsync.
        transaction.commit()?;
        self.events.publish(Event { key: key.to_owned(), value, revision });
        Ok(Written::At(revision))
    }
}

/// Creates the tables in a new file, checks the format of an old one, returns its revision.
fn prepare(database: &Database) -> Result<u64, StoreError> {
    let transaction = database.begin_write()?;
    let revision = {
        transaction.open_table(DOCUMENTS)?;
        let mut meta = transaction.open_table(META)?;
        let found = meta.get("format")?.map(|format| format.value());
        match found {
            None => _ = meta.insert("format", FORMAT)?,
            Some(FORMAT) => (),
            Some(found) => return Err(StoreError::Format { found }),
        }
        revision_in(&meta)?
    };
    transaction.commit()?;
    Ok(revision)
}

fn revision_in(meta: &impl ReadableTable<&'static str, u64>) -> Result<u64, redb::StorageError> {
    Ok(meta.get("revision")?.map_or(0, |revision| revision.value()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::VALUE_BYTES_MAX;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(folder.path()).expect("open");
        (folder, store)
    }

    fn set(store: &Store, key: &str, expected: u64) -> Written {
        store.write(key, expected, Some(Bytes::from_static(b"v"))).expect("write")
    }

    #[test]
    fn each_write_takes_the_next_revision_of_the_store() {
        let (_folder, store) = store();
        assert_eq!(set(&store, "a", 0), Written::At(1));
        assert_eq!(set(&store, "b", 0), Written::At(2));
        assert_eq!(set(&store, "a", 1), Written::At(3));
        assert_eq!(store.revision().expect("read"), 3);
    }

    #[test]
    fn a_conflict_changes_nothing_and_takes_no_revision() {
        let (_folder, store) = store();
        set(&store, "a", 0);
        assert_eq!(set(&store, "a", 0), Written::Conflict(1));
        assert_eq!(set(&store, "b", 7), Written::Conflict(0));
        assert_eq!(store.revision().expect("read"), 1);
    }

    #[test]
    fn a_delete_takes_a_revision_and_leaves_no_document() {
        let (_folder, store) = store();
        set(&store, "a", 0);
        assert_eq!(store.write("a", 1, None).expect("delete"), Written::At(2));
        assert_eq!(
            store.read("").expect("read"),
            Snapshot { documents: vec![], revision: 2, store: 0 }
        );
        assert_eq!(set(&store, "a", 1), Written::Conflict(0));
    }

    #[test]
    fn a_prefix_selects_its_documents_in_order() {
        let (_folder, store) = store();
        for key in ["lease/us", "region/eu", "lease/eu", "lease0"] {
            set(&store, key, 0);
        }
        let snapshot = store.read("lease/").expect("read");
        let keys: Vec<_> =
            snapshot.documents.iter().map(|document| document.key.as_str()).collect();
        assert_eq!((keys, snapshot.revision), (vec!["lease/eu", "lease/us"], 4));
    }

    #[test]
    fn a_second_opener_is_told_that_the_folder_is_in_use() {
        let (folder, _store) = store();
        let error = Store::open(folder.path()).err().expect("refused");
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    }

    #[test]
    fn a_file_of_another_format_is_refused() {
        let (folder, store) = store();
        let transaction = store.database.begin_write().expect("begin");
        transaction.open_table(META).expect("open").insert("format", 9).expect("insert");
        transaction.commit().expect("commit");
        drop(store);
        let error = Store::open(folder.path()).err().expect("refused");
        assert!(matches!(error, StoreError::Format { found: 9 }), "{error}");
    }

    #[test]
    fn a_full_disk_takes_back_nothing_and_is_enough_for_a_new_start_once_it_has_room() {
        let mut disk = match crate::lab::cluster::Disk::make(16 << 20) {
            Ok(disk) => disk,
            Err(error) => return println!("not tried: {error}"),
        };
        let folder = disk.path().join("directory");
        let mut written = Vec::new();
        for bytes in [10, 500, 3000, 5000, 20_000, 100_000].repeat(2) {
            let store = Store::open(&folder).expect("open");
            disk.fill().expect("fill");
            // The file has room of its own for some.
            let error = loop {
                let key = format!("a/{:04}", written.len());
                let value = Bytes::from(vec![1; bytes]);
                match store.write(&key, 0, Some(value.clone())) {
                    Ok(Written::At(revision)) => written.push(Document { key, value, revision }),
                    Ok(conflict) => panic!("{conflict:?}"),
                    Err(error) => break error,
                }
                assert!(written.len() < 9000, "no room is no error");
            };
            assert!(matches!(error, StoreError::Disk(_)), "{error}");
            drop(store);
            if let Ok(store) = Store::open(&folder) {
                assert_eq!(store.read("a/").expect("read").documents, written);
            }
            disk.free().expect("free");
            let store = Store::open(&folder).expect("open");
            assert_eq!(store.read("a/").expect("read").documents, written);
        }
    }

    #[test]
    fn a_read_that_is_too_long_is_refused() {
        let (_folder, store) = store();
        let value = Bytes::from(vec![0; VALUE_BYTES_MAX]);
        for i in 0..=READ_BYTES_MAX / VALUE_BYTES_MAX {
            store.write(&format!("a/{i}"), 0, Some(value.clone())).expect("write");
        }
        let error = store.read("").expect_err("refused");
        assert!(matches!(error, StoreError::OutOfLimits(OutOfLimits::ReadTooLong { .. })));
        assert_eq!(store.read("a/1/").expect("read").documents, []);
    }
}
