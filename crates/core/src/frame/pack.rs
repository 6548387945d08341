//! How do many records become fewer bytes, and themselves again?
//!
//! One record by itself hardly gets shorter: what repeats are the tables, columns and positions
//! that each names anew. So those that are flushed together are packed together.
//!
//! ```text
//!   packed:  n * (lsn u64 | len u32 | payload)     all little-endian, by LZ4 as one block
//! ```
//!
//! The records are not laid out as frames: bytes that LZ4 leaves as they are would pass for some,
//! and a torn tail for damage in the middle.
//!
//! **Invariant:** nobody's word for a length is believed. What unpacks to anything else than the
//! frame says is broken, and no more is allocated for it than [`PACKED_BYTES_MAX`].

use bytes::Bytes;

use super::{Broken, FRAME_VERSION_PACKED, append, close, open};
use crate::lsn::Lsn;

/// Records are packed together until they have so many bytes: LZ4 looks back no further than half
/// of that, and who wants one of them unpacks all.
pub const GROUP_BYTES: usize = 128 << 10;

/// More bytes than this are not packed: it would take them in memory three times.
pub const PACKED_BYTES_MAX: usize = 16 << 20;

/// Fewer bytes than this are not worth a try.
const PACKED_BYTES_MIN: usize = 128;

/// LSN and length of each record.
const RECORD_OVERHEAD_BYTES: usize = 12;

/// What [`FRAME_VERSION_PACKED`] has before what is packed.
pub(super) const PACK_BYTES: usize = 16;

/// LZ4 says no more than so many bytes with one.
const RATIO_MAX: usize = 255;

/// May records be packed before they enter the log?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    #[default]
    None,
    Lz4,
}

/// What a frame says of the records that are packed in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pack {
    pub first: Lsn,
    pub last: Lsn,
    pub count: u32,
    /// What they unpack to.
    pub bytes: u32,
}

impl Pack {
    /// Reads what stands before `packed` in a frame of `last`; `None` when it cannot be true.
    pub(super) fn lift(last: Lsn, header: &[u8; PACK_BYTES], packed: &[u8]) -> Option<Self> {
        let (first, rest) = header.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let pack = Self {
            first: Lsn(u64::from_le_bytes(*first)),
            last,
            count: u32::from_le_bytes(*count),
            bytes: u32::from_le_bytes(rest.try_into().ok()?),
        };
        let (count, bytes) = (pack.count as usize, pack.bytes as usize);
        let orderly =
            pack.first <= last && count > 0 && (count as u64 - 1) <= last.0 - pack.first.0;
        let least = count.checked_mul(RECORD_OVERHEAD_BYTES)?;
        let most = packed.len().saturating_mul(RATIO_MAX).min(PACKED_BYTES_MAX);
        (orderly && (least..=most).contains(&bytes)).then_some(pack)
    }

    /// Returns the records, in order; they share one allocation.
    pub fn unpack(&self, packed: &[u8]) -> Result<Vec<(Lsn, Bytes)>, Broken> {
        let mut plain = vec![0; self.bytes as usize];
        match lz4_flex::block::decompress_into(packed, &mut plain) {
            Ok(written) if written == plain.len() => self.split(&plain.into()),
            _ => Err(Broken::Packed),
        }
    }

    fn split(&self, plain: &Bytes) -> Result<Vec<(Lsn, Bytes)>, Broken> {
        // `lift` saw that so many fit.
        let mut records: Vec<(Lsn, Bytes)> = Vec::with_capacity(self.count as usize);
        let mut rest = &plain[..];
        while !rest.is_empty() {
            let (lsn, payload, after) = split_record(rest).ok_or(Broken::Packed)?;
            let expected = match records.last() {
                Some((before, _)) => lsn > *before,
                None => lsn == self.first,
            };
            if !expected || records.len() == self.count as usize {
                return Err(Broken::Packed);
            }
            records.push((lsn, plain.slice_ref(payload)));
            rest = after;
        }
        let ends_well = records.last().is_some_and(|(lsn, _)| *lsn == self.last);
        if ends_well && records.len() == self.count as usize {
            Ok(records)
        } else {
            Err(Broken::Packed)
        }
    }
}

fn split_record(bytes: &[u8]) -> Option<(Lsn, &[u8], &[u8])> {
    let (lsn, rest) = bytes.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (payload, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some((Lsn(u64::from_le_bytes(*lsn)), payload, rest))
}

/// Writes records as frames, packed where that makes them shorter.
#[derive(Debug, Default)]
pub struct Packer {
    compression: Compression,
    /// Of one group; kept for the next.
    plain: Vec<u8>,
}

impl Packer {
    pub fn new(compression: Compression) -> Self {
        Self { compression, plain: Vec::new() }
    }

    /// Appends `records`, whose LSNs increase, to `out`.
    ///
    /// Panics when a payload is longer than [`super::PAYLOAD_BYTES_MAX`]: the caller checks that
    /// first.
    pub fn append(&mut self, out: &mut Vec<u8>, mut records: &[(Lsn, Bytes)]) {
        while !records.is_empty() {
            let (group, rest) = records.split_at(group(records));
            if !self.packs(out, group) {
                for (lsn, payload) in group {
                    append(out, *lsn, payload);
                }
            }
            records = rest;
        }
    }

    /// Appends `group` as one frame, if that is worth it.
    fn packs(&mut self, out: &mut Vec<u8>, group: &[(Lsn, Bytes)]) -> bool {
        let bytes: usize = group.iter().map(bytes_of).sum();
        let ([(first, _), ..], [.., (last, _)]) = (group, group) else { return false };
        let size = PACKED_BYTES_MIN..=PACKED_BYTES_MAX;
        if self.compression == Compression::None || !size.contains(&bytes) {
            return false;
        }
        self.plain.clear();
        self.plain.reserve(bytes);
        for (lsn, payload) in group {
            self.plain.extend_from_slice(&lsn.0.to_le_bytes());
            self.plain.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            self.plain.extend_from_slice(payload);
        }
        let start = open(out, FRAME_VERSION_PACKED, *last);
        out.extend_from_slice(&first.0.to_le_bytes());
        out.extend_from_slice(&(group.len() as u32).to_le_bytes());
        out.extend_from_slice(&(bytes as u32).to_le_bytes());
        let at = out.len();
        out.resize(at + lz4_flex::block::get_maximum_output_size(bytes), 0);
        let packed = lz4_flex::block::compress_into(&self.plain, &mut out[at..]);
        self.plain.clear();
        self.plain.shrink_to(2 * GROUP_BYTES);
        // An eighth less, or who reads them unpacks them for nothing.
        match packed {
            Ok(length) if length < bytes / 8 * 7 => {
                out.truncate(at + length);
                close(out, start);
                true
            }
            _ => {
                out.truncate(start);
                false
            }
        }
    }
}

/// How many records at the front go together, at least one.
fn group(records: &[(Lsn, Bytes)]) -> usize {
    let mut bytes = 0;
    let fits = records.iter().take_while(|record| {
        bytes += bytes_of(record);
        bytes <= GROUP_BYTES
    });
    fits.count().max(1)
}

fn bytes_of((_, payload): &(Lsn, Bytes)) -> usize {
    RECORD_OVERHEAD_BYTES + payload.len()
}

#[cfg(test)]
mod tests;
