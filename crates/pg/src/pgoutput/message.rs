//! What are pgoutput's messages?
//!
//! LSNs are plain `u64`; times are microseconds since 2000-01-01 UTC, by the server's clock.

use bytes::Bytes;

/// A message, and the transaction it belongs to if that is not the one opened by Begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Inside a stream block: the (sub)transaction that the change belongs to. A relation or
    /// type described there is known for that transaction only until it commits.
    pub stream_xid: Option<u32>,
    pub message: Message,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Begin(Begin),
    Commit(Commit),
    /// The transaction was applied from elsewhere. Comes right after Begin or Stream Start.
    Origin {
        lsn: u64,
        name: String,
    },
    Relation(Relation),
    Type {
        oid: u32,
        namespace: String,
        name: String,
    },
    Insert {
        relation: u32,
        new: Tuple,
    },
    Update {
        relation: u32,
        old: Old,
        new: Tuple,
    },
    /// `old` is never [`Old::None`].
    Delete {
        relation: u32,
        old: Old,
    },
    Truncate {
        relations: Vec<u32>,
        cascade: bool,
        restart_identity: bool,
    },
    /// What `pg_logical_emit_message` wrote.
    Logical {
        transactional: bool,
        lsn: u64,
        prefix: String,
        content: Bytes,
    },
    StreamStart {
        xid: u32,
        /// The first block of this transaction.
        first: bool,
    },
    StreamStop,
    StreamCommit {
        xid: u32,
        commit: Commit,
    },
    StreamAbort(StreamAbort),
    BeginPrepare(Prepare),
    Prepare(Prepare),
    CommitPrepared {
        commit: Commit,
        xid: u32,
        gid: String,
    },
    RollbackPrepared(RollbackPrepared),
    StreamPrepare(Prepare),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Start of the commit record: equals [`Commit::commit_lsn`] of the same transaction.
    pub final_lsn: u64,
    pub commit_time: i64,
    pub xid: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Start of the commit record.
    pub commit_lsn: u64,
    /// The first byte after the commit record: what a slot is confirmed to.
    pub end_lsn: u64,
    pub commit_time: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub id: u32,
    /// Empty for `pg_catalog`.
    pub namespace: String,
    pub name: String,
    pub identity: ReplicaIdentity,
    pub columns: Vec<Column>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    Default,
    Nothing,
    Full,
    Index,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Part of the replica identity.
    pub key: bool,
    pub name: String,
    pub type_oid: u32,
    /// -1 when the type has none.
    pub type_modifier: i32,
}

/// One value for each column of the relation, in its order.
pub type Tuple = Vec<Value>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    /// A TOASTed value that the update did not touch, so it was not sent. Not a NULL.
    Unchanged,
    Text(Bytes),
    Binary(Bytes),
}

/// What an update or delete tells of the row before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Old {
    /// The key did not change.
    None,
    /// The replica identity's columns; the others are [`Value::Null`].
    Key(Tuple),
    /// Every column (`REPLICA IDENTITY FULL`).
    Full(Tuple),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamAbort {
    pub xid: u32,
    /// What is undone: the transaction itself when it equals `xid`, else this part of it.
    pub subxid: u32,
    /// LSN and time of the abort, sent only with `streaming 'parallel'`.
    pub at: Option<(u64, i64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    pub prepare_lsn: u64,
    pub end_lsn: u64,
    pub prepare_time: i64,
    pub xid: u32,
    pub gid: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackPrepared {
    pub prepare_end_lsn: u64,
    pub rollback_end_lsn: u64,
    pub prepare_time: i64,
    pub rollback_time: i64,
    pub xid: u32,
    pub gid: String,
}
