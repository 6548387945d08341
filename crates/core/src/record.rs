//! How is a transaction laid out in the replication log?
//!
//! The payload stays close to what pgoutput sent, with the tables it speaks of, so that capture
//! does little work and a reader needs nothing else. All integers are little-endian; texts and
//! lists carry a `u32` length. The first byte is the version of this layout; `frame` wraps the
//! payload with its length, checksum and LSN.
//!
//! ```text
//!   version u8 | lsn u64 | xid u32 | committed_at i64
//!   needs      n * (region text, incarnation u32, lsn u64)
//!   stamps     n * (partition u32, epoch u64)
//!   barrier    u8 present, run text
//!   relations  n * (schema text, name text, identity u8, n * (column text, key u8))
//!   changes    n * (kind u8, ...)
//! ```

use thiserror::Error;

use crate::change::{Change, Column, Identity, Relation, Row, Stamp, Transaction, Value};
use crate::id::{Epoch, Origin, PartitionId, RunId, TableName};
use crate::lsn::{Frontier, Lsn};
use crate::time::PgTime;

const VERSION: u8 = 1;

/// A payload that is not a transaction of this version.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    #[error("record has layout version {0}, expected {VERSION}")]
    Version(u8),
    #[error("record ends in the middle of {0}")]
    Short(&'static str),
    #[error("record has a broken {0}")]
    Broken(&'static str),
    #[error("record goes on after its end: {0} bytes")]
    Long(usize),
}

pub fn encode(transaction: &Transaction) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(256));
    out.u8(VERSION);
    out.u64(transaction.lsn.0);
    out.u32(transaction.xid);
    out.u64(transaction.committed_at.0 as u64);
    out.list(transaction.needs.iter(), |out, (origin, lsn)| {
        out.text(origin.region.as_str().as_bytes());
        out.u32(origin.incarnation);
        out.u64(lsn.0);
    });
    out.list(&transaction.stamps, |out, stamp| {
        out.u32(stamp.partition.0);
        out.u64(stamp.epoch.0);
    });
    out.u8(u8::from(transaction.barrier.is_some()));
    if let Some(RunId(run)) = &transaction.barrier {
        out.text(run.as_bytes());
    }
    out.list(&transaction.relations, Writer::relation);
    out.list(&transaction.changes, Writer::change);
    out.0
}

/// Reads a whole payload. Never panics, whatever the bytes.
pub fn decode(payload: &[u8]) -> Result<Transaction, RecordError> {
    let mut bytes = Reader(payload);
    let transaction = Transaction { ..bytes.head()? };
    let relations = bytes.list("relations", Reader::relation)?;
    let count = relations.len();
    let changes = bytes.list("changes", |bytes| bytes.change(count))?;
    if bytes.0.is_empty() {
        Ok(Transaction { relations, changes, ..transaction })
    } else {
        Err(RecordError::Long(bytes.0.len()))
    }
}

/// Reads only what stands before the tables and rows: enough to judge and to order a record.
pub fn decode_head(payload: &[u8]) -> Result<Transaction, RecordError> {
    Reader(payload).head()
}

struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        self.length(text.len());
        self.0.extend_from_slice(text);
    }

    fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).expect("PostgreSQL's values and lists are below 4 GiB"));
    }

    fn list<T>(&mut self, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        let at = self.0.len();
        self.u32(0);
        let mut count = 0_u32;
        for item in items {
            write(self, item);
            count += 1;
        }
        self.0[at..at + 4].copy_from_slice(&count.to_le_bytes());
    }

    fn relation(&mut self, relation: &Relation) {
        self.text(relation.table.schema.as_bytes());
        self.text(relation.table.name.as_bytes());
        self.u8(match relation.identity {
            Identity::Default => b'd',
            Identity::Nothing => b'n',
            Identity::Full => b'f',
            Identity::Index => b'i',
        });
        self.list(&relation.columns, |out, column| {
            out.text(column.name.as_bytes());
            out.u8(u8::from(column.key));
        });
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Insert { relation, new } => {
                self.u8(b'I');
                self.u32(*relation);
                self.row(new);
            }
            Change::Update { relation, old, new } => {
                self.u8(b'U');
                self.u32(*relation);
                self.u8(u8::from(old.is_some()));
                if let Some(old) = old {
                    self.row(old);
                }
                self.row(new);
            }
            Change::Delete { relation, old } => {
                self.u8(b'D');
                self.u32(*relation);
                self.row(old);
            }
            Change::Truncate { relations, restart_identity } => {
                self.u8(b'T');
                self.u8(u8::from(*restart_identity));
                self.list(relations, |out, relation| out.u32(*relation));
            }
        }
    }

    fn row(&mut self, row: &Row) {
        self.list(row, |out, value| match value {
            Value::Null => out.u8(b'n'),
            Value::Unchanged => out.u8(b'u'),
            Value::Text(text) => {
                out.u8(b't');
                out.text(text);
            }
        });
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(RecordError::Short(what))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, RecordError> {
        Ok(self.take(1, what)?[0])
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, RecordError> {
        let bytes = self.take(4, what)?.first_chunk().ok_or(RecordError::Short(what))?;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, RecordError> {
        let bytes = self.take(8, what)?.first_chunk().ok_or(RecordError::Short(what))?;
        Ok(u64::from_le_bytes(*bytes))
    }

    fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], RecordError> {
        let length = self.u32(what)? as usize;
        self.take(length, what)
    }

    fn text(&mut self, what: &'static str) -> Result<&'a str, RecordError> {
        std::str::from_utf8(self.bytes(what)?).map_err(|_| RecordError::Broken(what))
    }

    /// Every item takes at least a byte, so a hostile count cannot ask for much memory.
    fn list<T>(
        &mut self,
        what: &'static str,
        mut read: impl FnMut(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        let count = self.u32(what)? as usize;
        let mut items = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }

    fn flag(&mut self, what: &'static str) -> Result<bool, RecordError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RecordError::Broken(what)),
        }
    }

    fn head(&mut self) -> Result<Transaction, RecordError> {
        let version = self.u8("version")?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let lsn = Lsn(self.u64("lsn")?);
        let xid = self.u32("xid")?;
        let committed_at = PgTime(self.u64("commit time")? as i64);
        let needs: Frontier = self
            .list("needs", |bytes| {
                let region = bytes.text("origin")?.parse();
                let region = region.map_err(|_| RecordError::Broken("origin"))?;
                let origin = Origin::new(region, bytes.u32("incarnation")?);
                Ok((origin, Lsn(bytes.u64("lsn")?)))
            })?
            .into_iter()
            .collect();
        let stamps = self.list("stamps", |bytes| {
            let partition = PartitionId(bytes.u32("partition")?);
            Ok(Stamp { partition, epoch: Epoch(bytes.u64("epoch")?) })
        })?;
        let has_barrier = self.flag("barrier")?;
        let barrier =
            if has_barrier { Some(RunId(self.text("barrier")?.to_owned())) } else { None };
        Ok(Transaction { lsn, xid, committed_at, needs, stamps, barrier, ..Transaction::default() })
    }

    fn relation(&mut self) -> Result<Relation, RecordError> {
        let schema = self.text("schema")?;
        let table = TableName::new(schema, self.text("table")?);
        let identity = match self.u8("identity")? {
            b'd' => Identity::Default,
            b'n' => Identity::Nothing,
            b'f' => Identity::Full,
            b'i' => Identity::Index,
            _ => return Err(RecordError::Broken("identity")),
        };
        let columns = self.list("columns", |bytes| {
            let name = bytes.text("column")?.to_owned();
            Ok(Column { name, key: bytes.flag("key")? })
        })?;
        Ok(Relation { table, identity, columns })
    }

    fn change(&mut self, relations: usize) -> Result<Change, RecordError> {
        let kind = self.u8("change")?;
        if kind == b'T' {
            let restart_identity = self.flag("truncate")?;
            let relations = self.list("truncate", |bytes| bytes.relation_index(relations))?;
            return Ok(Change::Truncate { relations, restart_identity });
        }
        let relation = self.relation_index(relations)?;
        match kind {
            b'I' => Ok(Change::Insert { relation, new: self.row()? }),
            b'U' => {
                let old = if self.flag("old row")? { Some(self.row()?) } else { None };
                Ok(Change::Update { relation, old, new: self.row()? })
            }
            b'D' => Ok(Change::Delete { relation, old: self.row()? }),
            _ => Err(RecordError::Broken("change")),
        }
    }

    fn relation_index(&mut self, relations: usize) -> Result<u32, RecordError> {
        let index = self.u32("relation")?;
        if (index as usize) < relations { Ok(index) } else { Err(RecordError::Broken("relation")) }
    }

    fn row(&mut self) -> Result<Row, RecordError> {
        self.list("row", |bytes| match bytes.u8("value")? {
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::Unchanged),
            b't' => Ok(Value::Text(bytes.bytes("value")?.to_vec())),
            _ => Err(RecordError::Broken("value")),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values() -> impl Strategy<Value = Row> {
        let value = prop_oneof![
            Just(Value::Null),
            Just(Value::Unchanged),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::Text),
        ];
        proptest::collection::vec(value, 0..5)
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            values().prop_map(|new| Change::Insert { relation: 0, new }),
            (proptest::option::of(values()), values()).prop_map(|(old, new)| Change::Update {
                relation: 1,
                old,
                new
            }),
            values().prop_map(|old| Change::Delete { relation: 1, old }),
            any::<bool>().prop_map(|restart_identity| Change::Truncate {
                relations: vec![1, 0],
                restart_identity
            }),
        ]
    }

    prop_compose! {
        fn transaction()(
            lsn in any::<u64>(), xid in any::<u32>(), at in any::<i64>(),
            needs in any::<Option<u64>>(), stamps in proptest::collection::vec((any::<u32>(), any::<u64>()), 0..3),
            barrier in any::<Option<String>>(), columns in proptest::collection::vec((any::<String>(), any::<bool>()), 0..4),
            changes in proptest::collection::vec(change(), 0..6),
        ) -> Transaction {
            let relation = |name: &str, identity| Relation {
                table: TableName::new("public", name),
                identity,
                columns: columns.iter().map(|(name, key)| Column { name: name.clone(), key: *key }).collect(),
            };
            Transaction {
                lsn: Lsn(lsn),
                xid,
                committed_at: PgTime(at),
                needs: needs.map(|lsn| ("us-1".parse().unwrap(), Lsn(lsn))).into_iter().collect(),
                stamps: stamps.iter().map(|(p, e)| Stamp { partition: PartitionId(*p), epoch: Epoch(*e) }).collect(),
                barrier: barrier.map(RunId),
                relations: vec![relation("a", Identity::Default), relation("b", Identity::Full)],
                changes,
            }
        }
    }

    proptest! {
        #[test]
        fn a_transaction_survives_the_log(transaction in transaction()) {
            let payload = encode(&transaction);
            prop_assert_eq!(decode(&payload).unwrap(), transaction.clone());
            let head = decode_head(&payload).unwrap();
            prop_assert_eq!((head.lsn, head.stamps), (transaction.lsn, transaction.stamps));
        }

        #[test]
        fn hostile_bytes_are_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn a_damaged_record_never_panics(transaction in transaction(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut payload = encode(&transaction);
            let i = at.index(payload.len());
            payload[i] ^= 1_u8 << bit;
            let _ = decode(&payload);
            let _ = decode(&payload[..i]);
        }
    }
}
