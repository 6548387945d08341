//! What did one origin commit?

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{Epoch, PartitionId, RunId, TableName};
use crate::lsn::{Frontier, Lsn};
use crate::time::PgTime;

/// One committed transaction of one origin, with all that a reader needs to apply it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Transaction {
    /// End of the commit record in the origin's WAL.
    pub lsn: Lsn,
    pub xid: u32,
    /// By the origin's PostgreSQL clock.
    pub committed_at: PgTime,
    /// What the origin had applied of the others when this committed: apply waits for it.
    pub needs: Frontier,
    /// The guard's word on which partitions were written, and under which epoch.
    pub stamps: Vec<Stamp>,
    /// Set on the last transaction of an owner that hands its partitions over.
    pub barrier: Option<RunId>,
    /// The tables that `changes` speak of, by index: the same ones come again and again.
    pub relations: Vec<Arc<Relation>>,
    pub changes: Vec<Change>,
}

/// What the guard wrote into the WAL beside the rows: this write was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    pub partition: PartitionId,
    pub epoch: Epoch,
}

/// A table as it was when the change was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub table: TableName,
    pub identity: Identity,
    pub columns: Vec<Column>,
}

/// PostgreSQL's replica identity: what an old row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The primary key.
    Default,
    /// No old row at all: only inserts can be replicated.
    Nothing,
    /// Every column.
    Full,
    /// The columns of a chosen unique index.
    Index,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// Part of the replica identity.
    pub key: bool,
}

/// One row change. `relation` is an index into [`Transaction::relations`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Insert {
        relation: u32,
        new: Row,
    },
    /// `old` is absent when the key did not change and the identity is not `Full`.
    Update {
        relation: u32,
        old: Option<Row>,
        new: Row,
    },
    /// `old` has at least the key.
    Delete {
        relation: u32,
        old: Row,
    },
    /// Exactly the listed tables; CASCADE is never replayed.
    Truncate {
        relations: Vec<u32>,
        restart_identity: bool,
    },
}

/// One value for each column of the relation, in its order.
pub type Row = Vec<Value>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    /// A TOASTed value that this update did not touch: the origin did not send it. In an old row
    /// that carries the key alone, the columns outside the key are `Unchanged` too.
    Unchanged,
    /// PostgreSQL's text form, under the pinned output settings.
    Text(Bytes),
}

impl Value {
    pub fn text(text: impl Into<Vec<u8>>) -> Self {
        Self::Text(Bytes::from(text.into()))
    }
}

impl Change {
    /// The relations that this change touches.
    pub fn relations(&self) -> &[u32] {
        match self {
            Self::Insert { relation, .. }
            | Self::Update { relation, .. }
            | Self::Delete { relation, .. } => std::slice::from_ref(relation),
            Self::Truncate { relations, .. } => relations,
        }
    }
}

impl Relation {
    /// Returns the key columns of `row` by position, in the relation's order.
    pub fn key_of<'r>(&self, row: &'r Row) -> impl Iterator<Item = (usize, &'r Value)> {
        self.columns
            .iter()
            .zip(row)
            .enumerate()
            .filter(|(_, (c, _))| c.key)
            .map(|(i, (_, v))| (i, v))
    }
}
