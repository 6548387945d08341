//! What did PostgreSQL's `pgoutput` plugin say?
//!
//! Covers protocol versions 1 to 4. The decoder's only state is whether it stands inside a
//! stream block (Stream Start to Stream Stop), because there each change message begins with the
//! id of its transaction. Row values are slices of the message: nothing is copied. Any bytes are
//! answered by a message or an error, and no count is believed before the bytes are there.

use bytes::{Buf, Bytes};
use thiserror::Error;

#[cfg(test)]
mod encode;
mod message;
#[cfg(test)]
mod tests;

pub use message::{
    Begin, Column, Commit, Decoded, Message, Old, Prepare, Relation, ReplicaIdentity,
    RollbackPrepared, StreamAbort, Tuple, Value,
};

/// The bytes do not follow the protocol: the stream cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PgoutputError {
    #[error("pgoutput message is empty")]
    Empty,
    #[error("pgoutput message '{}' is not known", .0.escape_ascii())]
    UnknownMessage(u8),
    #[error("pgoutput message '{}' ends inside {field}", tag.escape_ascii())]
    Short { tag: u8, field: &'static str },
    #[error("pgoutput message '{}' has {extra} bytes after its end", tag.escape_ascii())]
    Trailing { tag: u8, extra: usize },
    #[error("pgoutput message '{}' has '{}' as {field}", tag.escape_ascii(), value.escape_ascii())]
    UnknownByte { tag: u8, field: &'static str, value: u8 },
    #[error("pgoutput message '{}' has {field} that is not UTF-8", tag.escape_ascii())]
    NotUtf8 { tag: u8, field: &'static str },
    #[error("pgoutput message '{}' stands inside a stream block", .0.escape_ascii())]
    InsideStream(u8),
    #[error("pgoutput message '{}' stands outside a stream block", .0.escape_ascii())]
    OutsideStream(u8),
}

/// Reads the messages of one replication connection, in their order.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    in_stream: bool,
}

impl Decoder {
    /// A decoder for the start of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes one message: the payload of one XLogData.
    ///
    /// After an error the decoder stands where it stood before, but the stream is broken.
    pub fn decode(&mut self, bytes: Bytes) -> Result<Decoded, PgoutputError> {
        let (&tag, _) = bytes.split_first().ok_or(PgoutputError::Empty)?;
        let mut reader = Reader { tag, rest: bytes.slice(1..) };
        let is_change = b"RYIUDTM".contains(&tag);
        if self.in_stream && !is_change && !b"OE".contains(&tag) {
            return Err(PgoutputError::InsideStream(tag));
        }
        if !self.in_stream && tag == b'E' {
            return Err(PgoutputError::OutsideStream(tag));
        }
        let stream_xid = match self.in_stream && is_change {
            true => Some(reader.u32("transaction id")?),
            false => None,
        };
        let message = reader.message()?;
        if !reader.rest.is_empty() {
            return Err(PgoutputError::Trailing { tag, extra: reader.rest.len() });
        }
        match message {
            Message::StreamStart { .. } => self.in_stream = true,
            Message::StreamStop => self.in_stream = false,
            _ => {}
        }
        Ok(Decoded { stream_xid, message })
    }
}

/// Takes fields from the front of one message.
struct Reader {
    tag: u8,
    rest: Bytes,
}

impl Reader {
    fn message(&mut self) -> Result<Message, PgoutputError> {
        Ok(match self.tag {
            b'B' => Message::Begin(Begin {
                final_lsn: self.u64("final LSN")?,
                commit_time: self.i64("commit time")?,
                xid: self.u32("transaction id")?,
            }),
            b'C' => Message::Commit(self.commit()?),
            b'O' => Message::Origin { lsn: self.u64("LSN")?, name: self.text("name")? },
            b'R' => Message::Relation(self.relation()?),
            b'Y' => Message::Type {
                oid: self.u32("type")?,
                namespace: self.text("namespace")?,
                name: self.text("name")?,
            },
            b'I' => Message::Insert { relation: self.u32("relation")?, new: self.new_tuple()? },
            b'U' => Message::Update {
                relation: self.u32("relation")?,
                old: self.old_tuple()?,
                new: self.new_tuple()?,
            },
            b'D' => self.delete()?,
            b'T' => self.truncate()?,
            b'M' => self.logical()?,
            b'S' => Message::StreamStart {
                xid: self.u32("transaction id")?,
                first: self.u8("first segment")? == 1,
            },
            b'E' => Message::StreamStop,
            b'c' => {
                Message::StreamCommit { xid: self.u32("transaction id")?, commit: self.commit()? }
            }
            b'A' => Message::StreamAbort(self.stream_abort()?),
            b'b' => Message::BeginPrepare(self.prepare()?),
            b'P' => Message::Prepare(self.flags().and_then(|()| self.prepare())?),
            b'p' => Message::StreamPrepare(self.flags().and_then(|()| self.prepare())?),
            b'K' => Message::CommitPrepared {
                commit: self.commit()?,
                xid: self.u32("transaction id")?,
                gid: self.text("gid")?,
            },
            b'r' => Message::RollbackPrepared(self.rollback_prepared()?),
            unknown => return Err(PgoutputError::UnknownMessage(unknown)),
        })
    }

    fn commit(&mut self) -> Result<Commit, PgoutputError> {
        self.flags()?;
        Ok(Commit {
            commit_lsn: self.u64("commit LSN")?,
            end_lsn: self.u64("end LSN")?,
            commit_time: self.i64("commit time")?,
        })
    }

    fn relation(&mut self) -> Result<Relation, PgoutputError> {
        Ok(Relation {
            id: self.u32("relation")?,
            namespace: self.text("namespace")?,
            name: self.text("name")?,
            identity: match self.u8("replica identity")? {
                b'd' => ReplicaIdentity::Default,
                b'n' => ReplicaIdentity::Nothing,
                b'f' => ReplicaIdentity::Full,
                b'i' => ReplicaIdentity::Index,
                value => return Err(self.unknown("replica identity", value)),
            },
            columns: self.columns()?,
        })
    }

    fn columns(&mut self) -> Result<Vec<Column>, PgoutputError> {
        // Flags, an empty name, a type and its modifier.
        let count = self.count_u16("columns", 1 + 1 + 4 + 4)?;
        (0..count).map(|_| self.column()).collect()
    }

    fn column(&mut self) -> Result<Column, PgoutputError> {
        Ok(Column {
            key: self.u8("column flags")? & 1 != 0,
            name: self.text("column name")?,
            type_oid: self.u32("column type")?,
            type_modifier: self.u32("type modifier")?.cast_signed(),
        })
    }

    fn new_tuple(&mut self) -> Result<Tuple, PgoutputError> {
        match self.u8("new row")? {
            b'N' => self.tuple(),
            value => Err(self.unknown("new row", value)),
        }
    }

    fn old_tuple(&mut self) -> Result<Old, PgoutputError> {
        let kind = self.rest.first().copied();
        if matches!(kind, Some(b'K' | b'O')) {
            self.rest.advance(1);
        }
        Ok(match kind {
            Some(b'K') => Old::Key(self.tuple()?),
            Some(b'O') => Old::Full(self.tuple()?),
            _ => Old::None,
        })
    }

    fn tuple(&mut self) -> Result<Tuple, PgoutputError> {
        let count = self.count_u16("row", 1)?;
        (0..count).map(|_| self.value()).collect()
    }

    fn value(&mut self) -> Result<Value, PgoutputError> {
        Ok(match self.u8("value kind")? {
            b'n' => Value::Null,
            b'u' => Value::Unchanged,
            b't' => Value::Text(self.sized_bytes("text value")?),
            b'b' => Value::Binary(self.sized_bytes("binary value")?),
            value => return Err(self.unknown("value kind", value)),
        })
    }

    fn delete(&mut self) -> Result<Message, PgoutputError> {
        let relation = self.u32("relation")?;
        match self.old_tuple()? {
            Old::None => match self.u8("old row") {
                Ok(value) => Err(self.unknown("old row", value)),
                Err(short) => Err(short),
            },
            old => Ok(Message::Delete { relation, old }),
        }
    }

    fn truncate(&mut self) -> Result<Message, PgoutputError> {
        let count = self.u32("relations")?;
        let flags = self.u8("flags")?;
        if count as usize > self.rest.len() / 4 {
            return Err(self.short("relations"));
        }
        let relations = (0..count).map(|_| self.u32("relations")).collect::<Result<_, _>>()?;
        let (cascade, restart_identity) = (flags & 1 != 0, flags & 2 != 0);
        Ok(Message::Truncate { relations, cascade, restart_identity })
    }

    fn logical(&mut self) -> Result<Message, PgoutputError> {
        Ok(Message::Logical {
            transactional: self.u8("flags")? & 1 != 0,
            lsn: self.u64("LSN")?,
            prefix: self.text("prefix")?,
            content: self.sized_bytes("content")?,
        })
    }

    fn stream_abort(&mut self) -> Result<StreamAbort, PgoutputError> {
        Ok(StreamAbort {
            xid: self.u32("transaction id")?,
            subxid: self.u32("subtransaction id")?,
            at: match self.rest.is_empty() {
                true => None,
                false => Some((self.u64("abort LSN")?, self.i64("abort time")?)),
            },
        })
    }

    fn prepare(&mut self) -> Result<Prepare, PgoutputError> {
        Ok(Prepare {
            prepare_lsn: self.u64("prepare LSN")?,
            end_lsn: self.u64("end LSN")?,
            prepare_time: self.i64("prepare time")?,
            xid: self.u32("transaction id")?,
            gid: self.text("gid")?,
        })
    }

    fn rollback_prepared(&mut self) -> Result<RollbackPrepared, PgoutputError> {
        self.flags()?;
        Ok(RollbackPrepared {
            prepare_end_lsn: self.u64("prepare end LSN")?,
            rollback_end_lsn: self.u64("rollback end LSN")?,
            prepare_time: self.i64("prepare time")?,
            rollback_time: self.i64("rollback time")?,
            xid: self.u32("transaction id")?,
            gid: self.text("gid")?,
        })
    }

    /// Takes a flags byte that no version uses: a bit set there would mean what we cannot know.
    fn flags(&mut self) -> Result<(), PgoutputError> {
        match self.u8("flags")? {
            0 => Ok(()),
            value => Err(self.unknown("flags", value)),
        }
    }

    /// Takes a count of things that have at least `least` bytes each, and checks that they can be there.
    fn count_u16(&mut self, field: &'static str, least: usize) -> Result<usize, PgoutputError> {
        let count = usize::from(u16::from_be_bytes(self.array(field)?));
        match count <= self.rest.len() / least {
            true => Ok(count),
            false => Err(self.short(field)),
        }
    }

    fn sized_bytes(&mut self, field: &'static str) -> Result<Bytes, PgoutputError> {
        let length = self.u32(field)? as usize;
        match length <= self.rest.len() {
            true => Ok(self.rest.split_to(length)),
            false => Err(self.short(field)),
        }
    }

    fn text(&mut self, field: &'static str) -> Result<String, PgoutputError> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or_else(|| self.short(field))?;
        let text = self.rest.split_to(end);
        self.rest.advance(1);
        match std::str::from_utf8(&text) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(PgoutputError::NotUtf8 { tag: self.tag, field }),
        }
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, PgoutputError> {
        Ok(u8::from_be_bytes(self.array(field)?))
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, PgoutputError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, PgoutputError> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }

    fn i64(&mut self, field: &'static str) -> Result<i64, PgoutputError> {
        Ok(i64::from_be_bytes(self.array(field)?))
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], PgoutputError> {
        let array = *self.rest.first_chunk::<N>().ok_or_else(|| self.short(field))?;
        self.rest.advance(N);
        Ok(array)
    }

    fn short(&self, field: &'static str) -> PgoutputError {
        PgoutputError::Short { tag: self.tag, field }
    }

    fn unknown(&self, field: &'static str, value: u8) -> PgoutputError {
        PgoutputError::UnknownByte { tag: self.tag, field, value }
    }
}
