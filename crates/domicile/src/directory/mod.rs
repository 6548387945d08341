//! Where the owners of all partitions are agreed on: in the embedded directory or in etcd.
//!
//! Documents with revisions, in the manner of etcd: one counter for the whole store, every
//! successful write takes the next value, and a document's revision is that of its last write.
//! A write names the revision it has seen, so of two writers that read the same thing one wins.
//!
//! **Invariant:** values are opaque bytes here. What an owner, a lease or a run is, is decided
//! elsewhere; this module never looks inside.
//!
//! The embedded store is one process on one machine: it survives a crash of that process, not
//! the loss of that machine. etcd survives the loss of a minority of its members.

mod call;
pub mod change;
pub mod client;
pub mod documents;
mod embedded;
mod etcd;
mod events;
mod follow;
mod leaving;
mod limits;
pub mod places;
pub mod relocate;
pub mod safety;
pub mod server;
mod store;
pub mod view;

use bytes::Bytes;
use domicile_core::ownership::OWNERSHIP_BYTES_MAX;

pub use client::{Client, DirectoryError};
pub use follow::View;
pub use leaving::MoveState;

/// Longest key the directory accepts.
pub const KEY_BYTES_MAX: usize = 256;

/// Longest value the directory accepts.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
const _: () = assert!(VALUE_BYTES_MAX == OWNERSHIP_BYTES_MAX, "core keeps ownership within it");

/// Most bytes of keys and values that one read may return.
pub const READ_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Longest message either end decodes: the largest read, with room for its framing.
const MESSAGE_BYTES_MAX: usize = READ_BYTES_MAX * 2;

/// One document as it stood when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub key: String,
    pub value: Bytes,
    /// The store's revision at this document's last write; never 0.
    pub revision: u64,
}

/// Every document under one prefix, all read at the same instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// In the order of their keys.
    pub documents: Vec<Document>,
    /// The revision of the whole store at that instant, 0 before its first write.
    pub revision: u64,
    /// Which store that is: the cluster ID of etcd, 0 for the embedded one, which has no name.
    pub store: u64,
}

/// What became of a compare-and-set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Durable; the document, or its absence, dates from this revision.
    At(u64),
    /// Nothing changed: the document stands at this revision, 0 when there is none.
    Conflict(u64),
}
