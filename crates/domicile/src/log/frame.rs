//! What stands in the log, and travels, as one piece?
//!
//! A frame holds one record, or several that are packed together. It is made once, by the log of
//! the origin; who forwards it or stores it for another does not look inside.

use bytes::Bytes;
use domicile_core::frame::{self, Broken, Pack, Parts, Taken};
use domicile_core::lsn::Lsn;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Of its only record, or the first.
    pub first: Lsn,
    /// Of its only record, or the last.
    pub last: Lsn,
    /// As it stands in the log: what a peer can be sent.
    pub bytes: Bytes,
    /// What stands outside of it: to be had from [`Reader::parts_of`](super::Reader::parts_of).
    pub parts: Option<Parts>,
    inside: Inside,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Inside {
    Payload(Bytes),
    Packed(Pack, Bytes),
}

/// One record, as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub lsn: Lsn,
    pub payload: Bytes,
    /// What stands outside of it: to be had from [`Reader::parts`](super::Reader::parts).
    pub parts: Option<Parts>,
}

/// Why there is no frame at the front of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFrame {
    #[error("it goes on after the last byte")]
    Partial {
        /// At least so many bytes are needed to say more.
        needed: usize,
    },
    #[error(transparent)]
    Broken(Broken),
}

impl Frame {
    /// Takes the frame at the front of `bytes`.
    pub fn take(bytes: &Bytes) -> Result<Self, NoFrame> {
        match frame::take(bytes) {
            Taken::Whole { lsn, payload, parts, consumed } => {
                let inside = Inside::Payload(bytes.slice_ref(payload));
                let bytes = bytes.slice(..consumed);
                Ok(Self { first: lsn, last: lsn, bytes, parts, inside })
            }
            Taken::Packed { pack, packed, consumed } => {
                let inside = Inside::Packed(pack, bytes.slice_ref(packed));
                let bytes = bytes.slice(..consumed);
                Ok(Self { first: pack.first, last: pack.last, bytes, parts: None, inside })
            }
            Taken::Partial { needed } => Err(NoFrame::Partial { needed }),
            Taken::Broken(broken) => Err(NoFrame::Broken(broken)),
        }
    }

    /// Makes a frame of one record, which fits it.
    pub fn of(lsn: Lsn, payload: &[u8]) -> Self {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, lsn, payload);
        let bytes = Bytes::from(bytes);
        let inside = Inside::Payload(bytes.slice(bytes.len() - payload.len()..));
        Self { first: lsn, last: lsn, bytes, parts: None, inside }
    }

    pub fn count(&self) -> usize {
        match &self.inside {
            Inside::Payload(_) => 1,
            Inside::Packed(pack, _) => pack.count as usize,
        }
    }

    /// How many bytes its records have in memory, about.
    pub fn plain_bytes(&self) -> usize {
        match &self.inside {
            Inside::Payload(payload) => payload.len(),
            Inside::Packed(pack, _) => pack.bytes as usize,
        }
    }

    /// Returns its records, in order.
    pub fn records(&self) -> Result<Vec<Record>, Broken> {
        match &self.inside {
            Inside::Payload(payload) => {
                Ok(vec![Record { lsn: self.last, payload: payload.clone(), parts: self.parts }])
            }
            Inside::Packed(pack, packed) => {
                let records = pack.unpack(packed)?.into_iter();
                Ok(records.map(|(lsn, payload)| Record { lsn, payload, parts: None }).collect())
            }
        }
    }
}
