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
//!   where      u8: 'w' the changes follow, 'p' they stand in parts
//!   changes    (kind u8, ...) to the end
//! ```
//!
//! A transaction that is too large to be held in memory is laid out in parts: the record itself
//! ends after `where`, and each part is nothing but `changes`, in order, which speak of the
//! record's relations. The parts stand beside the segment (`frame::Parts`) and are read one at a
//! time; they are one transaction all the same, with one LSN, durable and applied as a whole.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::change::{Change, Column, Identity, Relation, Row, Stamp, Transaction, Value};
use crate::id::{Epoch, Origin, PartitionId, RunId, TableName};
use crate::lsn::{Frontier, Lsn};
use crate::time::PgTime;

const VERSION: u8 = 2;

const WHOLE: u8 = b'w';
const IN_PARTS: u8 = b'p';

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
    /// Its changes are to be read one part at a time.
    #[error("record is in parts")]
    InParts,
}

pub fn encode(transaction: &Transaction) -> Vec<u8> {
    let mut changes = Changes::default();
    for change in &transaction.changes {
        changes.push(change);
    }
    encode_with(transaction, &changes)
}

/// Encodes `head` with changes that are encoded already, in place of its own.
pub fn encode_with(head: &Transaction, changes: &Changes) -> Vec<u8> {
    let mut out = encode_before_changes(head, changes.len());
    out.u8(WHOLE);
    out.0.extend_from_slice(changes.as_bytes());
    out.0
}

/// Encodes a transaction whose changes stand in parts.
pub fn encode_large(head: &Transaction) -> Vec<u8> {
    let mut out = encode_before_changes(head, 0);
    out.u8(IN_PARTS);
    out.0
}

fn encode_before_changes(head: &Transaction, more: usize) -> Writer {
    let mut out = Writer(Vec::with_capacity(256 + more));
    out.u8(VERSION);
    out.u64(head.lsn.0);
    out.u32(head.xid);
    out.u64(head.committed_at.0 as u64);
    out.list(head.needs.iter(), |out, (origin, lsn)| {
        out.text(origin.region.as_str().as_bytes());
        out.u32(origin.incarnation);
        out.u64(lsn.0);
    });
    out.list(&head.stamps, |out, stamp| {
        out.u32(stamp.partition.0);
        out.u64(stamp.epoch.0);
    });
    out.u8(u8::from(head.barrier.is_some()));
    if let Some(RunId(run)) = &head.barrier {
        out.text(run.as_bytes());
    }
    out.list(&head.relations, |out, relation| out.relation(relation));
    out
}

/// Reads records one after the other. Tables that many of them speak of are read once.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    /// As they were encoded, and what that means.
    relations: Vec<(Bytes, Arc<Relation>)>,
}

/// Tables that a decoder remembers: each is compared with what comes.
const RELATIONS_MAX: usize = 16;

impl Decoder {
    /// Reads a whole payload, whose bytes the values share. Never panics, whatever the bytes.
    pub fn decode(&mut self, payload: &Bytes) -> Result<Transaction, RecordError> {
        let mut bytes = Reader::new(payload);
        let head = self.before_changes(&mut bytes)?;
        match bytes.u8("where")? {
            WHOLE => Ok(Transaction { changes: bytes.changes(head.relations.len())?, ..head }),
            IN_PARTS => Err(RecordError::InParts),
            _ => Err(RecordError::Broken("where")),
        }
    }

    /// Reads the payload of a large record: everything but the changes.
    pub fn decode_large(&mut self, payload: &Bytes) -> Result<Transaction, RecordError> {
        let mut bytes = Reader::new(payload);
        let head = self.before_changes(&mut bytes)?;
        match (bytes.u8("where")?, bytes.rest.len()) {
            (IN_PARTS, 0) => Ok(head),
            (IN_PARTS, more) => Err(RecordError::Long(more)),
            _ => Err(RecordError::Broken("where")),
        }
    }

    fn before_changes(&mut self, bytes: &mut Reader<'_>) -> Result<Transaction, RecordError> {
        let head = bytes.head()?;
        let relations = bytes.list("relations", |bytes| self.relation(bytes))?;
        Ok(Transaction { relations, ..head })
    }

    fn relation(&mut self, bytes: &mut Reader<'_>) -> Result<Arc<Relation>, RecordError> {
        // An encoded relation says where it ends, so what begins with one is that one.
        let known = |(encoded, _): &&(Bytes, Arc<Relation>)| bytes.rest.starts_with(encoded);
        if let Some((encoded, relation)) = self.relations.iter().find(known) {
            bytes.rest = &bytes.rest[encoded.len()..];
            return Ok(relation.clone());
        }
        let before = bytes.rest;
        let relation = Arc::new(bytes.relation()?);
        if self.relations.len() >= RELATIONS_MAX {
            self.relations.clear();
        }
        let encoded = &before[..before.len() - bytes.rest.len()];
        self.relations.push((Bytes::copy_from_slice(encoded), relation.clone()));
        Ok(relation)
    }
}

/// As [`Decoder::decode`], for a record by itself.
pub fn decode(payload: &Bytes) -> Result<Transaction, RecordError> {
    Decoder::default().decode(payload)
}

/// Reads changes that were encoded by themselves: a part of a large record whose transaction has
/// so many `relations`.
pub fn decode_changes(bytes: &Bytes, relations: usize) -> Result<Vec<Change>, RecordError> {
    Reader::new(bytes).changes(relations)
}

/// Reads only what stands before the tables and rows: enough to judge and to order a record.
pub fn decode_head(payload: &[u8]) -> Result<Transaction, RecordError> {
    // No value is read, so none can share it.
    Reader { whole: &Bytes::new(), rest: payload }.head()
}

/// Changes as they stand in a record, put there without being taken apart first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(Writer);

/// One value of a row, where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    Null,
    Unchanged,
    Text(&'a [u8]),
}

impl Changes {
    /// Goes on after changes that were encoded before.
    pub fn resume(bytes: Vec<u8>) -> Self {
        Self(Writer(bytes))
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0.0
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.0.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    /// Takes back what was put after the changes were `len` bytes long.
    pub fn cut(&mut self, len: usize) {
        self.0.0.truncate(len);
    }

    pub fn insert<'a>(&mut self, relation: u32, new: impl IntoIterator<Item = Field<'a>>) {
        self.0.u8(b'I');
        self.0.u32(relation);
        self.0.row(new);
    }

    pub fn update<'a>(
        &mut self,
        relation: u32,
        old: Option<impl IntoIterator<Item = Field<'a>>>,
        new: impl IntoIterator<Item = Field<'a>>,
    ) {
        self.0.u8(b'U');
        self.0.u32(relation);
        self.0.u8(u8::from(old.is_some()));
        if let Some(old) = old {
            self.0.row(old);
        }
        self.0.row(new);
    }

    pub fn delete<'a>(&mut self, relation: u32, old: impl IntoIterator<Item = Field<'a>>) {
        self.0.u8(b'D');
        self.0.u32(relation);
        self.0.row(old);
    }

    pub fn truncate(&mut self, relations: &[u32], restart_identity: bool) {
        self.0.u8(b'T');
        self.0.u8(u8::from(restart_identity));
        self.0.list(relations, |out, relation| out.u32(*relation));
    }

    pub fn push(&mut self, change: &Change) {
        match change {
            Change::Insert { relation, new } => self.insert(*relation, fields(new)),
            Change::Update { relation, old, new } => {
                self.update(*relation, old.as_ref().map(fields), fields(new));
            }
            Change::Delete { relation, old } => self.delete(*relation, fields(old)),
            Change::Truncate { relations, restart_identity } => {
                self.truncate(relations, *restart_identity);
            }
        }
    }
}

fn fields(row: &Row) -> impl Iterator<Item = Field<'_>> {
    row.iter().map(|value| match value {
        Value::Null => Field::Null,
        Value::Unchanged => Field::Unchanged,
        Value::Text(text) => Field::Text(text),
    })
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

    fn row<'a>(&mut self, row: impl IntoIterator<Item = Field<'a>>) {
        self.list(row, |out, field| match field {
            Field::Null => out.u8(b'n'),
            Field::Unchanged => out.u8(b'u'),
            Field::Text(text) => {
                out.u8(b't');
                out.text(text);
            }
        });
    }
}

struct Reader<'a> {
    whole: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(whole: &'a Bytes) -> Self {
        Self { whole, rest: whole }
    }

    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(RecordError::Short(what))?;
        self.rest = rest;
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
        let mut items = Vec::with_capacity(count.min(self.rest.len()));
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

    fn changes(&mut self, relations: usize) -> Result<Vec<Change>, RecordError> {
        let mut changes = Vec::new();
        while !self.rest.is_empty() {
            changes.push(self.change(relations)?);
        }
        Ok(changes)
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
            b't' => Ok(Value::Text(bytes.whole.slice_ref(bytes.bytes("value")?))),
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
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::text),
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
                relations: [("a", Identity::Default), ("b", Identity::Full)]
                    .map(|(name, identity)| Arc::new(relation(name, identity))).into(),
                changes,
            }
        }
    }

    proptest! {
        #[test]
        fn a_transaction_survives_the_log(transaction in transaction()) {
            let payload = Bytes::from(encode(&transaction));
            let mut decoder = Decoder::default();
            for _ in 0..2 {
                prop_assert_eq!(decoder.decode(&payload).unwrap(), transaction.clone());
            }
            let head = decode_head(&payload).unwrap();
            prop_assert_eq!((head.lsn, head.stamps), (transaction.lsn, transaction.stamps));
        }

        #[test]
        fn a_transaction_in_parts_is_the_same_transaction(transaction in transaction(), at in any::<prop::sample::Index>()) {
            let head = Transaction { changes: Vec::new(), ..transaction.clone() };
            let payload = Bytes::from(encode_large(&head));
            prop_assert_eq!(decode(&payload), Err(RecordError::InParts));
            let mut decoder = Decoder::default();
            prop_assert_eq!(decoder.decode_large(&payload).unwrap(), head.clone());
            prop_assert!(decoder.decode_large(&encode(&transaction).into()).is_err());

            let mut changes = Changes::default();
            let mut ends = vec![0];
            for change in &transaction.changes {
                changes.push(change);
                ends.push(changes.len());
            }
            prop_assert_eq!(encode_with(&head, &changes), encode(&transaction));
            let mut second = Bytes::copy_from_slice(changes.as_bytes());
            let first = second.split_to(*at.get(&ends));
            let count = transaction.relations.len();
            let mut read = decode_changes(&first, count).unwrap();
            read.extend(decode_changes(&second, count).unwrap());
            prop_assert_eq!(read, transaction.changes);
        }

        #[test]
        fn hostile_bytes_are_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes);
            let _ = decode(&bytes);
            let _ = Decoder::default().decode_large(&bytes);
            let _ = decode_changes(&bytes, 2);
        }

        #[test]
        fn a_damaged_record_never_panics(transaction in transaction(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut payload = encode(&transaction);
            let i = at.index(payload.len());
            payload[i] ^= 1_u8 << bit;
            let payload = Bytes::from(payload);
            let _ = decode(&payload);
            let _ = decode(&payload.slice(..i));
        }
    }
}
