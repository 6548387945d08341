//! What must be repeated on another server so that the session finds itself there?
//!
//! Named prepared statements and settings, in the order in which they were made. What cannot be
//! repeated makes the memory `Bound`: such a session ends when it would have to move, because to
//! go on without its state would be a silent error.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use domicile_pg::frontend;

use super::setting::{self, Meaning};

/// Beyond this the session cannot move: it would take too long.
const REMEMBERED_BYTES_MAX: usize = 16 * 1024 * 1024;
const SETTINGS_MAX: usize = 256;

/// A message that changes the session once the server has agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Prepare { name: Bytes, raw: Bytes },
    Forget { name: Bytes },
    Settings { key: Vec<u8>, raw: Bytes },
    DiscardAll,
    DeallocateAll,
    Bind,
}

impl Change {
    /// Returns what a simple query, whole on the wire as `raw`, will change.
    pub fn of_query(sql: &[u8], raw: &Bytes) -> Option<Self> {
        match setting::read(sql) {
            Meaning::Nothing => None,
            // They are the gateway's, wherever the session is.
            Meaning::Settings { key } if setting::is_ours(&key) => None,
            Meaning::Settings { key } => Some(Self::Settings { key, raw: raw.clone() }),
            Meaning::DiscardAll => Some(Self::DiscardAll),
            Meaning::DeallocateAll => Some(Self::DeallocateAll),
            Meaning::Bound => Some(Self::Bind),
        }
    }

    /// Returns what a prepared statement will change whenever it is executed.
    pub fn of_prepared(sql: &[u8]) -> Option<Self> {
        if setting::read(sql) == Meaning::Nothing {
            return None;
        }
        let mut raw = BytesMut::new();
        frontend::put_query(&mut raw, sql);
        Self::of_query(sql, &raw.freeze())
    }

    /// How many bytes are held for this.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Prepare { name, raw } => name.len() + raw.len(),
            Self::Settings { key, raw } => key.len() + raw.len(),
            Self::Forget { name } => name.len(),
            Self::DiscardAll | Self::DeallocateAll | Self::Bind => 0,
        }
    }
}

/// Named prepared statements: their Parse messages, whole as on the wire.
pub type Prepared = BTreeMap<Bytes, Bytes>;

/// What a session had made of itself at some time.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    pub settings_version: u64,
    pub discards: u64,
    pub prepared: Arc<Prepared>,
}

/// What a session has made of itself.
#[derive(Debug, Default)]
pub struct Memory {
    prepared: Arc<Prepared>,
    settings: Vec<(Vec<u8>, Bytes)>,
    /// Made in the transaction that is open now; gone if it rolls back.
    open: Vec<Change>,
    bytes: usize,
    bound: bool,
    settings_version: u64,
    /// What prepared statements set when they are executed, by their names. The last one of a name counts, whether
    /// or not the server agrees to prepare it.
    setters: BTreeMap<Bytes, Change>,
    discards: u64,
}

impl Memory {
    /// A statement is to be prepared that will change the session like this.
    pub fn prepares(&mut self, name: Bytes, change: Option<Change>) {
        self.setters.remove(&name);
        match change {
            Some(change @ Change::Settings { .. }) if self.setters.len() < SETTINGS_MAX => {
                self.setters.insert(Bytes::copy_from_slice(&name), change);
            }
            // Whether and when it is executed is not followed.
            Some(_) => self.bound = true,
            None => {}
        }
    }

    /// What a statement sets whenever it is executed.
    pub fn sets(&self, name: &[u8]) -> Option<Change> {
        self.setters.get(name).cloned()
    }

    /// Returns whether so much more can be remembered.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes <= REMEMBERED_BYTES_MAX
    }

    /// The server agreed to `change`. Settings count once their transaction has committed.
    pub fn agreed(&mut self, change: Change) {
        match change {
            Change::Settings { .. } => self.open.push(change),
            change => self.apply(change),
        }
        if self.open.len() > SETTINGS_MAX {
            self.open.clear();
            self.bound = true;
        }
    }

    /// Has the open transaction set something?
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// No transaction is open any more, or the one that was has committed.
    pub fn committed(&mut self) {
        for change in std::mem::take(&mut self.open) {
            self.apply(change);
        }
    }

    /// The transaction is over and nothing of it remains.
    pub fn rolled_back(&mut self) {
        self.open.clear();
    }

    /// Something was changed that cannot be repeated elsewhere.
    pub fn bind(&mut self) {
        self.bound = true;
    }

    /// What there is now; costs little as long as little changes.
    pub fn remembered(&self) -> Remembered {
        Remembered {
            settings_version: self.settings_version,
            discards: self.discards,
            prepared: self.prepared.clone(),
        }
    }

    /// What it was when a transaction began, `then`, that has not ended.
    pub fn as_at(&self, then: &Remembered) -> Self {
        let settings = self.settings.iter().map(|(key, raw)| key.len() + raw.len());
        Self {
            prepared: then.prepared.clone(),
            settings: self.settings.clone(),
            open: Vec::new(),
            bytes: settings.sum::<usize>() + bytes_of(&then.prepared),
            bound: self.bound,
            settings_version: then.settings_version,
            setters: self.setters.clone(),
            discards: self.discards,
        }
    }

    /// Returns whether the session holds what exists only on its server.
    pub fn is_bound(&self) -> bool {
        self.bound
    }

    /// Grows with every change of the settings.
    pub fn settings_version(&self) -> u64 {
        self.settings_version
    }

    /// Grows with every `DISCARD ALL`.
    pub fn discards(&self) -> u64 {
        self.discards
    }

    /// The queries that make the settings, whole as on the wire, in order.
    pub fn settings(&self) -> impl Iterator<Item = &Bytes> {
        self.settings.iter().map(|(_, raw)| raw)
    }

    pub fn prepared(&self) -> &Arc<Prepared> {
        &self.prepared
    }

    fn apply(&mut self, change: Change) {
        let bytes = change.bytes();
        match change {
            Change::Prepare { name, raw } => {
                self.forget_prepared(&name);
                // Whole buffers would be kept for it otherwise.
                let (name, raw) = (Bytes::copy_from_slice(&name), Bytes::copy_from_slice(&raw));
                Arc::make_mut(&mut self.prepared).insert(name, raw);
                self.bytes += bytes;
            }
            Change::Forget { name } => self.forget_prepared(&name),
            Change::Settings { key, raw } => {
                self.forget_setting(&key);
                self.settings.push((key, Bytes::copy_from_slice(&raw)));
                self.bytes += bytes;
                self.settings_version += 1;
            }
            Change::DiscardAll => {
                let (settings_version, discards) = (self.settings_version + 1, self.discards + 1);
                *self = Self { settings_version, discards, ..Self::default() };
            }
            Change::DeallocateAll => {
                self.bytes -= bytes_of(&self.prepared);
                self.prepared = Arc::default();
            }
            Change::Bind => self.bound = true,
        }
        if self.settings.len() > SETTINGS_MAX {
            self.settings.clear();
            (self.bytes, self.bound) = (bytes_of(&self.prepared), true);
        }
    }

    fn forget_prepared(&mut self, name: &Bytes) {
        if !self.prepared.contains_key(name) {
            return;
        }
        if let Some(raw) = Arc::make_mut(&mut self.prepared).remove(name) {
            self.bytes -= name.len() + raw.len();
        }
    }

    fn forget_setting(&mut self, key: &[u8]) {
        if let Some(at) = self.settings.iter().position(|(known, _)| known == key) {
            let (key, raw) = self.settings.remove(at);
            self.bytes -= key.len() + raw.len();
        }
    }
}

fn bytes_of(prepared: &Prepared) -> usize {
    prepared.iter().map(|(name, raw)| name.len() + raw.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, raw: &'static str) -> Change {
        Change::Settings { key: key.as_bytes().to_vec(), raw: Bytes::from_static(raw.as_bytes()) }
    }

    fn prepare(name: &'static str) -> Change {
        Change::Prepare { name: Bytes::from_static(name.as_bytes()), raw: Bytes::from_static(b"P") }
    }

    #[test]
    fn the_last_setting_of_a_name_is_repeated_in_its_place() {
        let mut memory = Memory::default();
        for change in [set("a", "a=1"), set("b", "b=1"), set("a", "a=2")] {
            memory.agreed(change);
            memory.committed();
        }
        let settings: Vec<_> = memory.settings().cloned().collect();
        assert_eq!(settings, [&b"b=1"[..], b"a=2"]);
    }

    #[test]
    fn a_setting_goes_with_its_transaction() {
        let mut memory = Memory::default();
        memory.agreed(set("a", "a=1"));
        memory.rolled_back();
        memory.committed();
        assert_eq!(memory.settings().count(), 0);
    }

    #[test]
    fn a_closed_statement_is_not_prepared_again() {
        let mut memory = Memory::default();
        memory.agreed(prepare("s1"));
        memory.agreed(prepare("s2"));
        memory.agreed(Change::Forget { name: Bytes::from_static(b"s1") });
        assert_eq!((memory.prepared().len(), memory.bytes), (1, 3));
        memory.agreed(Change::DeallocateAll);
        assert_eq!((memory.prepared().len(), memory.bytes), (0, 0));
    }

    #[test]
    fn a_transaction_that_begins_anew_has_made_nothing_yet() {
        let mut memory = Memory::default();
        memory.agreed(prepare("s1"));
        let then = memory.remembered();
        memory.agreed(set("a", "a=1"));
        memory.agreed(prepare("s2"));
        memory.agreed(prepare("s2"));
        memory.agreed(Change::Forget { name: Bytes::from_static(b"s1") });
        assert_eq!((memory.prepared().len(), memory.bytes), (1, 3));
        memory = memory.as_at(&then);
        memory.committed();
        assert_eq!(
            (memory.prepared().keys().next().unwrap().as_ref(), memory.bytes),
            (&b"s1"[..], 3)
        );
        assert_eq!(memory.settings().count(), 0);
    }

    #[test]
    fn a_session_that_holds_too_much_is_bound_and_discarding_frees_it() {
        let mut memory = Memory::default();
        assert!(memory.has_room(REMEMBERED_BYTES_MAX));
        memory.agreed(prepare("s1"));
        assert!(!memory.has_room(REMEMBERED_BYTES_MAX));
        for number in 0..=SETTINGS_MAX {
            memory.agreed(set(&format!("a{number}"), "a=1"));
            memory.committed();
        }
        assert!(memory.is_bound());
        assert_eq!((memory.settings().count(), memory.prepared().len(), memory.bytes), (0, 1, 3));
        memory.agreed(Change::DiscardAll);
        assert!(!memory.is_bound());
    }
}
