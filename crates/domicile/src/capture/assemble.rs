//! Which transaction do these pgoutput messages make up?

use std::collections::BTreeMap;

use domicile_core::change::{Change, Column, Identity, Relation, Row, Stamp, Transaction, Value};
use domicile_core::id::{Epoch, PartitionId, RunId, TableName};
use domicile_core::lsn::Lsn;
use domicile_core::time::PgTime;
use domicile_pg::pgoutput::{self, Message, Old, ReplicaIdentity, Tuple};

use crate::postgres::guard::{BARRIER_PREFIX, STAMP_PREFIX};

/// Replication origins of our own applier start with this.
pub const ORIGIN_PREFIX: &str = "domicile_";

/// What one message completed.
#[derive(Debug, PartialEq)]
pub enum Assembled {
    /// The transaction goes on.
    Open,
    /// A local transaction that has something to replicate.
    Transaction(Transaction),
    /// A transaction of no interest ended here: empty, or applied by ourselves.
    Nothing(Lsn),
}

/// The stream breaks a rule that PostgreSQL keeps.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error("message outside a transaction: {0}")]
    OutsideTransaction(&'static str),
    #[error("relation {0} was never described")]
    UnknownRelation(u32),
    #[error("unexpected message in this protocol version: {0}")]
    Unexpected(&'static str),
}

/// Puts transactions together. One per stream.
#[derive(Default)]
pub struct Assembler {
    relations: BTreeMap<u32, Relation>,
    open: Option<Open>,
}

struct Open {
    transaction: Transaction,
    /// Relation ids of `transaction.relations`, by index.
    used: Vec<u32>,
    /// Applied here from another origin's log.
    applied: bool,
}

impl Assembler {
    /// Is a transaction open in the stream?
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub fn take(&mut self, message: Message) -> Result<Assembled, AssembleError> {
        match message {
            Message::Begin(begin) => {
                let transaction = Transaction {
                    xid: begin.xid,
                    committed_at: PgTime(begin.commit_time),
                    ..Transaction::default()
                };
                self.open = Some(Open { transaction, used: Vec::new(), applied: false });
            }
            Message::Commit(commit) => return self.commit(Lsn(commit.end_lsn)),
            Message::Origin { name, .. } => {
                self.open("origin")?.applied |= name.starts_with(ORIGIN_PREFIX);
            }
            Message::Relation(relation) => {
                self.relations.insert(relation.id, lift_relation(relation));
                self.redescribed();
            }
            Message::Type { .. } => {}
            Message::Logical { transactional, prefix, content, .. } => {
                if transactional {
                    self.message(&prefix, &content)?;
                }
            }
            Message::Insert { relation, new } => {
                let relation = self.relation(relation)?;
                self.push(Change::Insert { relation, new: lift_row(new) })?;
            }
            Message::Update { relation, old, new } => {
                let relation = self.relation(relation)?;
                let old = self.lift_old(relation, old)?;
                self.push(Change::Update { relation, old, new: lift_row(new) })?;
            }
            Message::Delete { relation, old } => {
                let relation = self.relation(relation)?;
                let old = self.lift_old(relation, old)?.unwrap_or_default();
                self.push(Change::Delete { relation, old })?;
            }
            Message::Truncate { relations, restart_identity, .. } => {
                let relations =
                    relations.into_iter().map(|id| self.relation(id)).collect::<Result<_, _>>()?;
                self.push(Change::Truncate { relations, restart_identity })?;
            }
            _ => return Err(AssembleError::Unexpected("streamed or prepared transaction")),
        }
        Ok(Assembled::Open)
    }

    fn commit(&mut self, end: Lsn) -> Result<Assembled, AssembleError> {
        let open = self.open.take().ok_or(AssembleError::OutsideTransaction("commit"))?;
        let transaction = Transaction { lsn: end, ..open.transaction };
        let empty = transaction.changes.is_empty() && transaction.barrier.is_none();
        if open.applied || empty {
            return Ok(Assembled::Nothing(end));
        }
        Ok(Assembled::Transaction(transaction))
    }

    fn message(&mut self, prefix: &str, content: &[u8]) -> Result<(), AssembleError> {
        let open = self.open("message")?;
        let Ok(content) = std::str::from_utf8(content) else { return Ok(()) };
        if prefix == STAMP_PREFIX {
            // Anybody may emit such a message. One that does not parse is none of the guard's; a
            // false one is judged against the directory like a true one.
            let stamp = content.split_once(':').and_then(|(partition, epoch)| {
                let partition = PartitionId(partition.parse().ok()?);
                Some(Stamp { partition, epoch: Epoch(epoch.parse().ok()?) })
            });
            if let Some(stamp) = stamp
                && !open.transaction.stamps.contains(&stamp)
            {
                open.transaction.stamps.push(stamp);
            }
        } else if prefix == BARRIER_PREFIX {
            open.transaction.barrier = Some(RunId(content.to_owned()));
        }
        Ok(())
    }

    fn push(&mut self, change: Change) -> Result<(), AssembleError> {
        self.open("change")?.transaction.changes.push(change);
        Ok(())
    }

    fn open(&mut self, what: &'static str) -> Result<&mut Open, AssembleError> {
        self.open.as_mut().ok_or(AssembleError::OutsideTransaction(what))
    }

    /// Returns the index of relation `id` in the open transaction, adding it when it is new.
    fn relation(&mut self, id: u32) -> Result<u32, AssembleError> {
        let open = self.open.as_mut().ok_or(AssembleError::OutsideTransaction("change"))?;
        let index = match open.used.iter().position(|used| *used == id) {
            Some(index) => index,
            None => {
                let relation = self.relations.get(&id).ok_or(AssembleError::UnknownRelation(id))?;
                open.transaction.relations.push(relation.clone());
                open.used.push(id);
                open.used.len() - 1
            }
        };
        Ok(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// A relation may change its columns within a transaction: later rows use the new ones.
    fn redescribed(&mut self) {
        if let Some(open) = &mut self.open {
            for (id, index) in open.used.iter_mut().zip(0..) {
                let now = self.relations.get(id);
                if now.is_some_and(|now| open.transaction.relations.get(index) != Some(now)) {
                    *id = u32::MAX;
                }
            }
        }
    }

    fn lift_old(&mut self, relation: u32, old: Old) -> Result<Option<Row>, AssembleError> {
        let relation = &self.open("change")?.transaction.relations[relation as usize];
        Ok(match old {
            Old::None => None,
            Old::Full(tuple) => Some(lift_row(tuple)),
            Old::Key(tuple) => {
                let columns = &relation.columns;
                let key = |(value, column): (pgoutput::Value, &Column)| {
                    if column.key { lift_value(value) } else { Value::Unchanged }
                };
                Some(tuple.into_iter().zip(columns).map(key).collect())
            }
        })
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

fn lift_row(tuple: Tuple) -> Row {
    tuple.into_iter().map(lift_value).collect()
}

fn lift_value(value: pgoutput::Value) -> Value {
    match value {
        pgoutput::Value::Null => Value::Null,
        pgoutput::Value::Unchanged => Value::Unchanged,
        pgoutput::Value::Text(text) | pgoutput::Value::Binary(text) => Value::Text(text.to_vec()),
    }
}
