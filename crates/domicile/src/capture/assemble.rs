//! Which transaction do these pgoutput messages make up?
//!
//! Small transactions come whole when they commit, between Begin and Commit. Large ones are
//! streamed in blocks while they run, several of them interleaved, and may be undone in part.
//!
//! What our own applier did is known by its replication origin, and by the checkpoint that it
//! writes: PostgreSQL leaves the origin out of a streamed transaction that begins with a change of
//! the catalogue, as TRUNCATE does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domicile_core::change::{Column, Identity, Relation, Transaction};
use domicile_core::id::TableName;
use domicile_core::lsn::Lsn;
use domicile_core::record::Field;
use domicile_core::time::PgTime;
use domicile_pg::pgoutput::{self, Decoded, Message, Old, ReplicaIdentity, Tuple};

use super::body::{Body, Place};
use crate::log::{Log, LogError};
use crate::postgres::guard::progress_table;
use crate::postgres::setup;
use crate::postgres::stamp::{BARRIER_PREFIX, STAMP_PREFIX, StampKey};

/// Replication origins of our own applier start with this.
pub const ORIGIN_PREFIX: &str = "domicile_";

/// Bytes of streamed transactions, taken together, that are held in memory.
const OPEN_BYTES_MAX: usize = 32 << 20;

/// A committed transaction with something to replicate.
pub struct Captured {
    /// Everything but the changes.
    pub head: Transaction,
    pub body: Body,
}

/// What one message completed.
pub enum Assembled {
    /// Nothing yet.
    Open,
    /// A local transaction that has something to replicate.
    Transaction(Box<Captured>),
    /// A transaction of no interest ended here: empty, or applied by ourselves.
    Nothing(Lsn),
}

/// The stream breaks a rule that PostgreSQL keeps, or the spool fails.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error("message outside a transaction: {0}")]
    OutsideTransaction(&'static str),
    #[error("relation {0} was never described")]
    UnknownRelation(u32),
    #[error("a prepared transaction came although none was asked for")]
    Prepared,
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Puts transactions together. One per stream: what is open when the stream breaks comes again.
pub struct Assembler {
    log: Log,
    key: StampKey,
    relations: BTreeMap<u32, Arc<Relation>>,
    /// Where apply keeps its checkpoints, once it was described.
    progress: Option<u32>,
    /// Relations of which nothing is captured.
    private: BTreeSet<u32>,
    /// Between Begin and Commit.
    open: Option<Open>,
    /// By transaction id: those that are streamed and have not ended.
    streamed: BTreeMap<u32, Open>,
    /// Between Stream Start and Stream Stop: whose block this is.
    block: Option<u32>,
}

impl Assembler {
    pub fn new(log: Log, key: StampKey) -> Self {
        let (relations, streamed) = (BTreeMap::new(), BTreeMap::new());
        let (progress, private) = (None, BTreeSet::new());
        Self { log, key, relations, progress, private, open: None, streamed, block: None }
    }

    /// Has a transaction committed of which some messages are still to come?
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Is this message of no interest, because it is a change that we have applied ourselves? Then
    /// it needs no decoding.
    pub fn passes_over(&mut self, message: &[u8]) -> bool {
        let is_row_change = matches!(message.first(), Some(b'I' | b'U' | b'D'));
        match self.current("change") {
            Ok((open, _)) if open.applied && is_row_change => {
                open.changes += 1;
                true
            }
            _ => false,
        }
    }

    /// How many changes of the transaction that is being sent have come so far.
    pub fn changes(&self) -> usize {
        let open = match self.block {
            Some(xid) => self.streamed.get(&xid),
            None => self.open.as_ref(),
        };
        open.map_or(0, |open| open.changes)
    }

    pub async fn take(&mut self, decoded: Decoded) -> Result<Assembled, AssembleError> {
        let Decoded { stream_xid, message } = decoded;
        match message {
            Message::Begin(begin) => self.open = Some(Open::new(begin.xid)),
            Message::Commit(commit) => {
                let open = self.open.take().ok_or(AssembleError::OutsideTransaction("commit"))?;
                return Ok(open.commit(&commit));
            }
            Message::StreamStart { xid, first } => {
                self.block = Some(xid);
                if first {
                    self.streamed.insert(xid, Open::new(xid));
                }
            }
            Message::StreamStop => {
                self.block = None;
                self.relieve().await?;
            }
            Message::StreamCommit { xid, commit } => {
                let open = self.streamed.remove(&xid);
                let mut open = open.ok_or(AssembleError::OutsideTransaction("stream commit"))?;
                self.relations.append(&mut open.relations);
                return Ok(open.commit(&commit));
            }
            Message::StreamAbort(abort) if abort.subxid == abort.xid => {
                self.streamed.remove(&abort.xid);
            }
            Message::StreamAbort(abort) => {
                if let Some(open) = self.streamed.get_mut(&abort.xid) {
                    open.undo(abort.subxid).await?;
                }
            }
            Message::Relation(relation) => self.describe(relation)?,
            Message::Type { .. } | Message::Logical { transactional: false, .. } => {}
            Message::BeginPrepare(_)
            | Message::Prepare(_)
            | Message::StreamPrepare(_)
            | Message::CommitPrepared { .. }
            | Message::RollbackPrepared(_) => return Err(AssembleError::Prepared),
            Message::Origin { name, .. } => {
                self.current("origin")?.0.applied |= name.starts_with(ORIGIN_PREFIX);
            }
            Message::Logical { prefix, content, .. } => {
                let key = self.key;
                let (open, _) = self.current("message")?;
                open.mark(stream_xid);
                open.note(&key, &prefix, &content);
            }
            Message::Insert { .. }
            | Message::Update { .. }
            | Message::Delete { .. }
            | Message::Truncate { .. } => self.change(stream_xid, message).await?,
        }
        Ok(Assembled::Open)
    }

    /// The transaction that messages belong to now, and the relations known to everyone.
    fn current(
        &mut self,
        what: &'static str,
    ) -> Result<(&mut Open, &BTreeMap<u32, Arc<Relation>>), AssembleError> {
        let open = match self.block {
            Some(xid) => self.streamed.get_mut(&xid),
            None => self.open.as_mut(),
        };
        Ok((open.ok_or(AssembleError::OutsideTransaction(what))?, &self.relations))
    }

    /// What a block describes is known to its transaction alone until that commits.
    fn describe(&mut self, relation: pgoutput::Relation) -> Result<(), AssembleError> {
        let (id, relation) = (relation.id, Arc::new(lift_relation(relation)));
        if relation.table == progress_table() {
            self.progress = Some(id);
        }
        if setup::is_private(&relation.table) {
            self.private.insert(id);
        }
        if self.block.is_some() {
            let (open, _) = self.current("relation")?;
            open.redescribed(id, &relation);
            open.relations.insert(id, relation);
        } else {
            if let Some(open) = &mut self.open {
                open.redescribed(id, &relation);
            }
            self.relations.insert(id, relation);
        }
        Ok(())
    }

    async fn change(
        &mut self,
        stream_xid: Option<u32>,
        message: Message,
    ) -> Result<(), AssembleError> {
        let (progress, message) = (self.progress, self.without_private(message));
        let (open, relations) = self.current("change")?;
        open.changes += 1;
        let Some(message) = message.filter(|_| !open.applied) else { return Ok(()) };
        open.mark(stream_xid);
        if let Message::Insert { relation, .. } | Message::Update { relation, .. } = &message
            && Some(*relation) == progress
        {
            open.applied = true;
            return Ok(());
        }
        match message {
            Message::Insert { relation, new } => {
                let relation = open.relation(relation, relations)?;
                open.body.changes().insert(relation, fields(&new));
            }
            Message::Update { relation, old, new } => {
                let relation = open.relation(relation, relations)?;
                let columns = &open.head.relations[relation as usize].columns;
                let old = old_fields(&old, columns);
                open.body.changes().update(relation, old, fields(&new));
            }
            Message::Delete { relation, old } => {
                let relation = open.relation(relation, relations)?;
                let columns = &open.head.relations[relation as usize].columns;
                let old = old_fields(&old, columns);
                open.body.changes().delete(relation, old.into_iter().flatten());
            }
            Message::Truncate { relations: truncated, restart_identity, .. } => {
                let truncated = truncated.into_iter().map(|id| open.relation(id, relations));
                let truncated = truncated.collect::<Result<Vec<u32>, _>>()?;
                open.body.changes().truncate(&truncated, restart_identity);
            }
            _ => {}
        }
        if open.body.is_full() {
            let log = self.log.clone();
            self.current("change")?.0.body.spill(&log).await?;
        }
        Ok(())
    }

    fn without_private(&self, message: Message) -> Option<Message> {
        match message {
            Message::Insert { relation, .. }
            | Message::Update { relation, .. }
            | Message::Delete { relation, .. }
                if self.private.contains(&relation) =>
            {
                None
            }
            Message::Truncate { mut relations, restart_identity, cascade } => {
                relations.retain(|relation| !self.private.contains(relation));
                let some = !relations.is_empty();
                some.then_some(Message::Truncate { relations, restart_identity, cascade })
            }
            other => Some(other),
        }
    }

    /// Keeps what many open transactions hold in memory within its bound.
    async fn relieve(&mut self) -> Result<(), AssembleError> {
        while self.streamed.values().map(|open| open.body.bytes()).sum::<usize>() > OPEN_BYTES_MAX {
            let largest = self.streamed.values_mut().max_by_key(|open| open.body.bytes());
            let Some(largest) = largest else { return Ok(()) };
            largest.body.spill(&self.log).await?;
        }
        Ok(())
    }
}

/// A transaction that is being read.
struct Open {
    head: Transaction,
    body: Body,
    /// Relation id -> index in `head.relations`, of those that are still as they were.
    used: BTreeMap<u32, u32>,
    /// Described in this transaction's own blocks.
    relations: BTreeMap<u32, Arc<Relation>>,
    /// Where each subtransaction began, in that order, as long as it may still be undone.
    parts: Vec<(u32, Mark)>,
    part_of: BTreeMap<u32, usize>,
    /// Applied here from another origin's log.
    applied: bool,
    /// How many changes have come, of interest or not.
    changes: usize,
}

/// How much there was of a transaction at some point.
struct Mark {
    place: Place,
    stamps: u32,
    relations: u32,
    barrier: bool,
    applied: bool,
}

impl Open {
    fn new(xid: u32) -> Self {
        Self {
            head: Transaction { xid, ..Transaction::default() },
            body: Body::default(),
            used: BTreeMap::new(),
            relations: BTreeMap::new(),
            parts: Vec::new(),
            part_of: BTreeMap::new(),
            applied: false,
            changes: 0,
        }
    }

    fn commit(self, commit: &pgoutput::Commit) -> Assembled {
        let lsn = Lsn(commit.end_lsn);
        let committed_at = PgTime(commit.commit_time);
        let empty = self.head.relations.is_empty() && self.head.barrier.is_none();
        if self.applied || empty {
            return Assembled::Nothing(lsn);
        }
        let head = Transaction { lsn, committed_at, ..self.head };
        Assembled::Transaction(Box::new(Captured { head, body: self.body }))
    }

    /// A message of subtransaction `xid` comes: remembers where the first one stands.
    fn mark(&mut self, xid: Option<u32>) {
        let Some(xid) = xid.filter(|xid| *xid != self.head.xid) else { return };
        if self.parts.last().is_some_and(|(last, _)| *last == xid)
            || self.part_of.contains_key(&xid)
        {
            return;
        }
        let mark = Mark {
            place: self.body.place(),
            stamps: self.head.stamps.len() as u32,
            relations: self.head.relations.len() as u32,
            barrier: self.head.barrier.is_some(),
            applied: self.applied,
        };
        self.part_of.insert(xid, self.parts.len());
        self.parts.push((xid, mark));
    }

    /// Subtransaction `xid` is rolled back. Everything since its first message is part of it:
    /// nothing outside of it can be done while it is open, and what was done within it goes too.
    async fn undo(&mut self, xid: u32) -> Result<(), LogError> {
        // It had nothing for us, or went with one that it was part of.
        let Some(index) = self.part_of.get(&xid).copied() else { return Ok(()) };
        for (xid, _) in self.parts.drain(index + 1..) {
            self.part_of.remove(&xid);
        }
        let Some((xid, mark)) = self.parts.pop() else { return Ok(()) };
        self.part_of.remove(&xid);
        self.head.stamps.truncate(mark.stamps as usize);
        self.head.relations.truncate(mark.relations as usize);
        self.used.retain(|_, index| *index < mark.relations);
        self.head.barrier.take_if(|_| !mark.barrier);
        self.applied = mark.applied;
        self.body.cut(mark.place).await
    }

    /// Takes in a logical message: anybody may emit one.
    fn note(&mut self, key: &StampKey, prefix: &str, content: &[u8]) {
        let Ok(content) = std::str::from_utf8(content) else { return };
        let xid = self.head.xid;
        if prefix == STAMP_PREFIX {
            let stamp = key.stamp(xid, content);
            self.head.stamps.extend(stamp.filter(|stamp| !self.head.stamps.contains(stamp)));
        } else if prefix == BARRIER_PREFIX
            && let Some(run) = key.barrier(xid, content)
        {
            self.head.barrier = Some(run);
        }
    }

    /// Returns the index of relation `id` in this transaction, adding it when it is new.
    fn relation(
        &mut self,
        id: u32,
        known: &BTreeMap<u32, Arc<Relation>>,
    ) -> Result<u32, AssembleError> {
        if let Some(index) = self.used.get(&id) {
            return Ok(*index);
        }
        let relation = self.relations.get(&id).or_else(|| known.get(&id));
        let relation = relation.ok_or(AssembleError::UnknownRelation(id))?;
        let index = self.head.relations.len() as u32;
        self.head.relations.push(relation.clone());
        self.used.insert(id, index);
        Ok(index)
    }

    /// A relation may change its columns within a transaction: later rows use the new ones.
    fn redescribed(&mut self, id: u32, now: &Arc<Relation>) {
        let before = self.used.get(&id).and_then(|i| self.head.relations.get(*i as usize));
        if before.is_some_and(|before| before != now) {
            self.used.remove(&id);
        }
    }
}

fn lift_relation(relation: pgoutput::Relation) -> Relation {
    Relation {
        table: TableName::new(relation.namespace, relation.name),
        identity: match relation.identity {
            ReplicaIdentity::Default => Identity::Default,
            ReplicaIdentity::Nothing => Identity::Nothing,
            ReplicaIdentity::Full => Identity::Full,
            ReplicaIdentity::Index => Identity::Index,
        },
        columns: relation
            .columns
            .into_iter()
            .map(|column| Column { name: column.name, key: column.key })
            .collect(),
    }
}

fn fields(tuple: &Tuple) -> impl Iterator<Item = Field<'_>> {
    tuple.iter().map(|value| match value {
        pgoutput::Value::Null => Field::Null,
        pgoutput::Value::Unchanged => Field::Unchanged,
        pgoutput::Value::Text(text) | pgoutput::Value::Binary(text) => Field::Text(text),
    })
}

/// The old row: of a key alone, the other columns were not sent.
fn old_fields<'a>(old: &'a Old, columns: &'a [Column]) -> Option<impl Iterator<Item = Field<'a>>> {
    let (tuple, all) = match old {
        Old::None => return None,
        Old::Full(tuple) => (tuple, true),
        Old::Key(tuple) => (tuple, false),
    };
    let sent = columns.iter().map(move |column| all || column.key);
    Some(fields(tuple).zip(sent).map(|(field, sent)| if sent { field } else { Field::Unchanged }))
}
