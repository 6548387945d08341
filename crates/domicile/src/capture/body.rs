//! Where are the changes of a transaction that is still being read?
//!
//! In memory while they are few, else in the log's spool, part after part: however large a
//! transaction is, about one part of it is held.

use domicile_core::record::Changes;

use crate::log::{Log, LogError, Spool, Spooled};

/// Changes of more bytes than this are not held in memory, nor in one record.
pub const WHOLE_BYTES_MAX: usize = 4 << 20;
/// A part is written when it has so many bytes; one change that is longer is a part by itself.
const PART_BYTES: usize = 1 << 20;

/// A position between two changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    parts: u32,
    /// Of the changes after those parts.
    bytes: u32,
}

#[derive(Default)]
pub struct Body {
    /// Those that are not in the spool.
    changes: Changes,
    spool: Option<Spool>,
}

/// All changes of a complete transaction.
pub enum Complete {
    Whole(Changes),
    Large(Spooled),
}

impl Body {
    pub fn changes(&mut self) -> &mut Changes {
        &mut self.changes
    }

    /// How much memory this takes, about.
    pub fn bytes(&self) -> usize {
        self.changes.len()
    }

    pub fn is_full(&self) -> bool {
        self.bytes() >= if self.spool.is_some() { PART_BYTES } else { WHOLE_BYTES_MAX }
    }

    /// Writes to the spool what is in memory.
    pub async fn spill(&mut self, log: &Log) -> Result<(), LogError> {
        let spool = match &mut self.spool {
            Some(spool) => spool,
            None => self.spool.insert(log.spool()?),
        };
        let changes = std::mem::take(&mut self.changes);
        if !changes.is_empty() {
            spool.push(changes.into_bytes().into()).await?;
        }
        Ok(())
    }

    pub fn place(&self) -> Place {
        let parts = self.spool.as_ref().map_or(0, |spool| spool.parts().count);
        // A part has less than 1 GiB, as every message of PostgreSQL.
        Place { parts, bytes: u32::try_from(self.bytes()).unwrap_or(u32::MAX) }
    }

    /// Takes back every change after `place`.
    pub async fn cut(&mut self, place: Place) -> Result<(), LogError> {
        let (parts, bytes) = (place.parts as usize, place.bytes as usize);
        if let Some(spool) = &mut self.spool
            && parts < spool.parts().count as usize
        {
            let part = spool.read(parts).await?;
            spool.cut(parts).await?;
            self.changes = Changes::resume(part.slice(..bytes.min(part.len())).to_vec());
        } else {
            self.changes.cut(bytes);
        }
        Ok(())
    }

    /// Returns the changes; a large transaction's are durable then.
    pub async fn complete(mut self) -> Result<Complete, LogError> {
        match self.spool.take() {
            Some(mut spool) if spool.parts().count > 0 => {
                if !self.changes.is_empty() {
                    spool.push(self.changes.into_bytes().into()).await?;
                }
                Ok(Complete::Large(spool.finish().await?))
            }
            _ => Ok(Complete::Whole(self.changes)),
        }
    }
}
