//! How does the server write pgoutput's messages? Only the tests ask.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Commit, Message, Old, Prepare, Relation, ReplicaIdentity, Value};

/// Writes messages as the server does, from the documentation and not from the decoder.
pub fn encode(message: &Message, stream_xid: Option<u32>) -> Bytes {
    let mut out = BytesMut::new();
    if !put_change(&mut out, message, stream_xid) {
        put_outer(&mut out, message);
    }
    out.freeze()
}

/// Appends `message` and returns true if it is one that a stream block may carry.
fn put_change(out: &mut BytesMut, message: &Message, stream_xid: Option<u32>) -> bool {
    let put_xid = |out: &mut BytesMut| stream_xid.into_iter().for_each(|xid| out.put_u32(xid));
    match message {
        Message::Relation(relation) => {
            out.put_u8(b'R');
            put_xid(out);
            put_relation(out, relation);
        }
        Message::Type { oid, namespace, name } => {
            out.put_u8(b'Y');
            put_xid(out);
            out.put_u32(*oid);
            put_text(out, namespace);
            put_text(out, name);
        }
        Message::Insert { relation, new } => {
            out.put_u8(b'I');
            put_xid(out);
            out.put_u32(*relation);
            put_tuple(out, b'N', new);
        }
        Message::Update { relation, old, new } => {
            out.put_u8(b'U');
            put_xid(out);
            out.put_u32(*relation);
            put_old(out, old);
            put_tuple(out, b'N', new);
        }
        Message::Delete { relation, old } => {
            out.put_u8(b'D');
            put_xid(out);
            out.put_u32(*relation);
            put_old(out, old);
        }
        Message::Truncate { relations, cascade, restart_identity } => {
            out.put_u8(b'T');
            put_xid(out);
            out.put_u32(relations.len().try_into().unwrap());
            out.put_u8(u8::from(*cascade) | u8::from(*restart_identity) << 1);
            relations.iter().for_each(|id| out.put_u32(*id));
        }
        Message::Logical { transactional, lsn, prefix, content } => {
            out.put_u8(b'M');
            put_xid(out);
            out.put_u8(u8::from(*transactional));
            out.put_u64(*lsn);
            put_text(out, prefix);
            out.put_u32(content.len().try_into().unwrap());
            out.put_slice(content);
        }
        _ => return false,
    }
    true
}

fn put_outer(out: &mut BytesMut, message: &Message) {
    match message {
        Message::Begin(begin) => {
            out.put_u8(b'B');
            out.put_u64(begin.final_lsn);
            out.put_i64(begin.commit_time);
            out.put_u32(begin.xid);
        }
        Message::Commit(commit) => {
            out.put_u8(b'C');
            put_commit(out, commit);
        }
        Message::Origin { lsn, name } => {
            out.put_u8(b'O');
            out.put_u64(*lsn);
            put_text(out, name);
        }
        Message::StreamStart { xid, first } => {
            out.put_u8(b'S');
            out.put_u32(*xid);
            out.put_u8(u8::from(*first));
        }
        Message::StreamStop => out.put_u8(b'E'),
        Message::StreamCommit { xid, commit } => {
            out.put_u8(b'c');
            out.put_u32(*xid);
            put_commit(out, commit);
        }
        Message::StreamAbort(abort) => {
            out.put_u8(b'A');
            out.put_u32(abort.xid);
            out.put_u32(abort.subxid);
            if let Some((lsn, time)) = abort.at {
                out.put_u64(lsn);
                out.put_i64(time);
            }
        }
        Message::BeginPrepare(prepare) => {
            out.put_u8(b'b');
            put_prepare(out, prepare);
        }
        Message::Prepare(prepare) => {
            out.put_slice(b"P\0");
            put_prepare(out, prepare);
        }
        Message::StreamPrepare(prepare) => {
            out.put_slice(b"p\0");
            put_prepare(out, prepare);
        }
        Message::CommitPrepared { commit, xid, gid } => {
            out.put_u8(b'K');
            put_commit(out, commit);
            out.put_u32(*xid);
            put_text(out, gid);
        }
        Message::RollbackPrepared(rollback) => {
            out.put_slice(b"r\0");
            out.put_u64(rollback.prepare_end_lsn);
            out.put_u64(rollback.rollback_end_lsn);
            out.put_i64(rollback.prepare_time);
            out.put_i64(rollback.rollback_time);
            out.put_u32(rollback.xid);
            put_text(out, &rollback.gid);
        }
        change => unreachable!("{change:?} is a change"),
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

fn put_commit(out: &mut BytesMut, commit: &Commit) {
    out.put_u8(0);
    out.put_u64(commit.commit_lsn);
    out.put_u64(commit.end_lsn);
    out.put_i64(commit.commit_time);
}

fn put_prepare(out: &mut BytesMut, prepare: &Prepare) {
    out.put_u64(prepare.prepare_lsn);
    out.put_u64(prepare.end_lsn);
    out.put_i64(prepare.prepare_time);
    out.put_u32(prepare.xid);
    put_text(out, &prepare.gid);
}

fn put_relation(out: &mut BytesMut, relation: &Relation) {
    out.put_u32(relation.id);
    put_text(out, &relation.namespace);
    put_text(out, &relation.name);
    out.put_u8(match relation.identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    out.put_u16(relation.columns.len().try_into().unwrap());
    for column in &relation.columns {
        out.put_u8(column.key.into());
        put_text(out, &column.name);
        out.put_u32(column.type_oid);
        out.put_i32(column.type_modifier);
    }
}

fn put_old(out: &mut BytesMut, old: &Old) {
    match old {
        Old::None => {}
        Old::Key(tuple) => put_tuple(out, b'K', tuple),
        Old::Full(tuple) => put_tuple(out, b'O', tuple),
    }
}

fn put_tuple(out: &mut BytesMut, tag: u8, tuple: &[Value]) {
    out.put_u8(tag);
    out.put_u16(tuple.len().try_into().unwrap());
    for value in tuple {
        let (kind, bytes) = match value {
            Value::Null => (b'n', None),
            Value::Unchanged => (b'u', None),
            Value::Text(bytes) => (b't', Some(bytes)),
            Value::Binary(bytes) => (b'b', Some(bytes)),
        };
        out.put_u8(kind);
        if let Some(bytes) = bytes {
            out.put_u32(bytes.len().try_into().unwrap());
            out.put_slice(bytes);
        }
    }
}
