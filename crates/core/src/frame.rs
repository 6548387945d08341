//! How is a record found again in a file, and what if it is not whole?
//!
//! ```text
//!  0      4        8         9        17
//!  | len  | crc32c | 1       | lsn    | payload ...                            |
//!  | len  | crc32c | 2       | lsn    | count u32 | bytes u64 | digest u32 | payload ... |
//!  | len  | crc32c | 3       | lsn    | first u64 | count u32 | bytes u32 | packed ...  |
//!                  '-------------- len bytes ----------------------------------'   all little-endian
//! ```
//!
//! The checksum covers everything after it. A length that was changed makes it cover other bytes,
//! so that is noticed too. Nothing here panics on bytes from a disk: they are whole, partial or
//! broken, and the reader of the file decides what that means.
//!
//! A record that is too large for memory has its bulk outside, in parts: frames of version 1 that
//! are numbered from 1 where others have their LSN. Its own frame, of version 2, says how many
//! they are and what they add up to, so that neither can pass without the other.
//!
//! Frames of version 3 hold several records, or one, in fewer bytes ([`Packer`]). They are packed
//! once, where they come from: whoever stores them or passes them on does so as they are.

mod pack;

use thiserror::Error;

use crate::lsn::Lsn;
use pack::PACK_BYTES;

pub use pack::{Compression, GROUP_BYTES, PACKED_BYTES_MAX, Pack, Packer};

/// A reader refuses every version but these.
pub const FRAME_VERSION: u8 = 1;
pub const FRAME_VERSION_LARGE: u8 = 2;
pub const FRAME_VERSION_PACKED: u8 = 3;

/// The longest frame, header included. It bounds what a broken length can make a reader allocate.
pub const FRAME_BYTES_MAX: usize = 1 << 30;

/// What a frame adds to its payload.
pub const FRAME_OVERHEAD_BYTES: usize = PREFIX_BYTES + BODY_BYTES_MIN;

/// The longest payload that fits a frame.
pub const PAYLOAD_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES;

/// The same for the frame of a large record.
pub const LARGE_PAYLOAD_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - PARTS_BYTES;

/// What the frame of a large record adds to its payload.
pub const LARGE_OVERHEAD_BYTES: usize = FRAME_OVERHEAD_BYTES + PARTS_BYTES;

/// Length and checksum: the part that the length does not count.
const PREFIX_BYTES: usize = 8;

/// Version and LSN: what every frame has after the checksum.
const BODY_BYTES_MIN: usize = 9;

/// What [`FRAME_VERSION_LARGE`] has before the payload.
const PARTS_BYTES: usize = 16;

/// What belongs to a large record and stands outside its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
    pub count: u32,
    /// Of all their frames.
    pub bytes: u64,
    /// Over the checksums of their frames.
    pub digest: u32,
}

impl Parts {
    /// Adds the next part, which is this whole frame.
    pub fn add(&mut self, frame: &[u8]) {
        self.count += 1;
        self.bytes += frame.len() as u64;
        self.digest = crc32c::crc32c_append(self.digest, &frame[4..PREFIX_BYTES]);
    }

    /// What the next part has in place of an LSN.
    pub fn next(&self) -> Lsn {
        Lsn(u64::from(self.count) + 1)
    }
}

/// What the front of some bytes holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken<'a> {
    Whole {
        lsn: Lsn,
        payload: &'a [u8],
        /// Of a large record.
        parts: Option<Parts>,
        /// Where the next frame begins.
        consumed: usize,
    },
    /// A whole frame too, whose records are to be had from [`Pack::unpack`].
    Packed {
        pack: Pack,
        packed: &'a [u8],
        consumed: usize,
    },
    /// The frame goes on after the last byte; also when there is no byte at all.
    Partial {
        /// At least so many bytes are needed to say more.
        needed: usize,
    },
    Broken(Broken),
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Broken {
    #[error("length {len} is outside {BODY_BYTES_MIN} to {max}", max = FRAME_BYTES_MAX - PREFIX_BYTES)]
    Length { len: u32 },
    #[error("checksum is {found:08x}, the bytes give {computed:08x}")]
    Checksum { found: u32, computed: u32 },
    #[error("version is {found}, expected {FRAME_VERSION} to {FRAME_VERSION_PACKED}")]
    Version { found: u8 },
    #[error("what is packed is not what the frame says")]
    Packed,
}

/// Appends `payload` to `out` as one frame.
///
/// Panics when the payload is longer than [`PAYLOAD_BYTES_MAX`]: the caller checks that first.
pub fn append(out: &mut Vec<u8>, lsn: Lsn, payload: &[u8]) {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a payload fits its frame");
    out.reserve(FRAME_OVERHEAD_BYTES + payload.len());
    let start = open(out, FRAME_VERSION, lsn);
    out.extend_from_slice(payload);
    close(out, start);
}

/// Appends the frame of a large record whose bulk stands in `parts`.
///
/// Panics when the payload is longer than [`LARGE_PAYLOAD_BYTES_MAX`].
pub fn append_large(out: &mut Vec<u8>, lsn: Lsn, parts: &Parts, payload: &[u8]) {
    assert!(payload.len() <= LARGE_PAYLOAD_BYTES_MAX, "a payload fits its frame");
    let start = open(out, FRAME_VERSION_LARGE, lsn);
    out.extend_from_slice(&parts.count.to_le_bytes());
    out.extend_from_slice(&parts.bytes.to_le_bytes());
    out.extend_from_slice(&parts.digest.to_le_bytes());
    out.extend_from_slice(payload);
    close(out, start);
}

/// Begins a frame, and returns where it begins.
fn open(out: &mut Vec<u8>, version: u8, lsn: Lsn) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    out.push(version);
    out.extend_from_slice(&lsn.0.to_le_bytes());
    start
}

/// Writes the length and the checksum of the frame that begins at `start` and ends here.
fn close(out: &mut [u8], start: usize) {
    let frame = &mut out[start..];
    // Below 1 GiB, as the payload was, so nothing is cut off.
    let len = (frame.len() - PREFIX_BYTES) as u32;
    frame[..4].copy_from_slice(&len.to_le_bytes());
    let crc = crc32c::crc32c(&frame[PREFIX_BYTES..]);
    frame[4..PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the frame at the front of `bytes`.
pub fn take(bytes: &[u8]) -> Taken<'_> {
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else {
        return Taken::Partial { needed: PREFIX_BYTES };
    };
    let len = u32::from_le_bytes(*len);
    let body_len = len as usize;
    if !(BODY_BYTES_MIN..=FRAME_BYTES_MAX - PREFIX_BYTES).contains(&body_len) {
        return Taken::Broken(Broken::Length { len });
    }
    let consumed = PREFIX_BYTES + body_len;
    let Some((found, rest)) = rest.split_first_chunk::<4>() else {
        return Taken::Partial { needed: consumed };
    };
    let Some(body) = rest.get(..body_len) else {
        return Taken::Partial { needed: consumed };
    };
    let (found, computed) = (u32::from_le_bytes(*found), crc32c::crc32c(body));
    if found != computed {
        return Taken::Broken(Broken::Checksum { found, computed });
    }
    // The length is at least BODY_BYTES_MIN, so both of these are there.
    let Some((&[version], body)) = body.split_first_chunk::<1>() else {
        return Taken::Broken(Broken::Length { len });
    };
    let Some((lsn, payload)) = body.split_first_chunk::<8>() else {
        return Taken::Broken(Broken::Length { len });
    };
    let lsn = Lsn(u64::from_le_bytes(*lsn));
    match version {
        FRAME_VERSION => Taken::Whole { lsn, payload, parts: None, consumed },
        FRAME_VERSION_LARGE => match payload.split_first_chunk() {
            Some((parts, payload)) => {
                Taken::Whole { lsn, payload, parts: Some(lift_parts(parts)), consumed }
            }
            None => Taken::Broken(Broken::Length { len }),
        },
        FRAME_VERSION_PACKED => {
            let Some((header, packed)) = payload.split_first_chunk::<PACK_BYTES>() else {
                return Taken::Broken(Broken::Length { len });
            };
            match Pack::lift(lsn, header, packed) {
                Some(pack) => Taken::Packed { pack, packed, consumed },
                None => Taken::Broken(Broken::Packed),
            }
        }
        found => Taken::Broken(Broken::Version { found }),
    }
}

fn lift_parts(bytes: &[u8; PARTS_BYTES]) -> Parts {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    Parts {
        count: number(&bytes[..4]) as u32,
        bytes: number(&bytes[4..12]),
        digest: number(&bytes[12..]) as u32,
    }
}

/// Returns where the first valid frame at or after `from` begins.
///
/// Tells a torn tail, after which there is none, from corruption. Chance finds a frame where there
/// is none once in 2^40 places, and that errs on the safe side: the log is refused, not shortened.
/// Text in a payload cannot pass for one, as PostgreSQL's text has no zero byte and an LSN does.
pub fn find_next(bytes: &[u8], from: usize) -> Option<usize> {
    (from..bytes.len()).find(|&at| {
        let rest = &bytes[at..];
        // The version first: it is much cheaper to look at than a checksum over megabytes.
        matches!(rest.get(PREFIX_BYTES), Some(&(FRAME_VERSION..=FRAME_VERSION_PACKED)))
            && matches!(take(rest), Taken::Whole { .. } | Taken::Packed { .. })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(lsn: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        append(&mut out, Lsn(lsn), payload);
        out
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let bytes = frame(0x0102_0304_0506_0708, b"ab");
        assert_eq!(bytes[..4], [11, 0, 0, 0]);
        assert_eq!(bytes[4..8], crc32c::crc32c(&bytes[8..]).to_le_bytes());
        assert_eq!(bytes[8..], [1, 8, 7, 6, 5, 4, 3, 2, 1, b'a', b'b']);
    }

    #[test]
    fn every_prefix_of_a_frame_is_partial() {
        let bytes = frame(7, b"payload");
        for cut in 0..bytes.len() {
            assert!(
                matches!(take(&bytes[..cut]), Taken::Partial { needed } if needed > cut),
                "{cut}"
            );
        }
    }

    #[test]
    fn a_frame_of_another_version_is_refused_though_its_checksum_is_right() {
        let mut bytes = frame(7, b"payload");
        bytes[8] = 4;
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(take(&bytes), Taken::Broken(Broken::Version { found: 4 }));
    }

    #[test]
    fn a_large_record_says_what_its_parts_add_up_to() {
        let mut parts = Parts::default();
        for payload in [&b"one"[..], b"and two"] {
            parts.add(&frame(parts.next().0, payload));
        }
        assert_eq!((parts.count, parts.bytes), (2, 2 * 17 + 10));
        let mut swapped = Parts::default();
        for payload in [&b"and two"[..], b"one"] {
            swapped.add(&frame(swapped.next().0, payload));
        }
        assert_ne!(parts.digest, swapped.digest);
        let mut bytes = Vec::new();
        append_large(&mut bytes, Lsn(7), &parts, b"head");
        let consumed = bytes.len();
        assert_eq!(consumed, LARGE_OVERHEAD_BYTES + 4);
        let parts = Some(parts);
        assert_eq!(take(&bytes), Taken::Whole { lsn: Lsn(7), payload: b"head", parts, consumed });
        assert_eq!(find_next(&bytes, 0), Some(0));
    }

    #[test]
    fn a_large_frame_without_room_for_its_parts_is_broken() {
        let mut bytes = frame(7, b"payload");
        bytes[8] = FRAME_VERSION_LARGE;
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(take(&bytes), Taken::Broken(Broken::Length { len: 16 }));
    }

    #[test]
    fn a_length_past_the_limit_is_broken_and_not_partial() {
        for len in [0, 8, (FRAME_BYTES_MAX - PREFIX_BYTES + 1) as u32, u32::MAX] {
            let mut bytes = len.to_le_bytes().to_vec();
            bytes.extend_from_slice(&[0; 32]);
            assert_eq!(take(&bytes), Taken::Broken(Broken::Length { len }));
        }
    }

    #[test]
    fn zeros_hold_no_frame() {
        assert_eq!(find_next(&[0; 4096], 0), None);
    }

    #[test]
    fn text_that_looks_like_a_length_holds_no_frame() {
        let text = b"the owner of this row is eu-west since epoch 7 ".repeat(100);
        assert_eq!(find_next(&text, 0), None);
    }

    proptest! {
        #[test]
        fn frames_come_back_in_order(
            records in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..200)), 0..8)
        ) {
            let mut bytes = Vec::new();
            for (lsn, payload) in &records {
                append(&mut bytes, Lsn(*lsn), payload);
            }
            let mut rest = bytes.as_slice();
            for (lsn, payload) in &records {
                let Taken::Whole { lsn: got, payload: bytes, parts: None, consumed } = take(rest) else {
                    panic!("a frame is whole");
                };
                prop_assert_eq!((got, bytes), (Lsn(*lsn), payload.as_slice()));
                rest = &rest[consumed..];
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn every_flipped_bit_is_noticed(
            lsn in any::<u64>(),
            payload in prop::collection::vec(any::<u8>(), 0..64),
            after in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let whole = frame(lsn, &payload);
            for bit in 0..whole.len() * 8 {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes.extend_from_slice(&after);
                prop_assert!(!matches!(take(&bytes), Taken::Whole { .. }), "bit {}", bit);
            }
        }

        #[test]
        fn any_bytes_are_taken_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Taken::Whole { payload, parts, consumed, .. } = take(&bytes) {
                let overhead = if parts.is_some() { LARGE_OVERHEAD_BYTES } else { FRAME_OVERHEAD_BYTES };
                prop_assert_eq!(consumed, payload.len() + overhead);
                prop_assert!(consumed <= bytes.len());
            }
            find_next(&bytes, 0);
        }

        #[test]
        fn a_frame_is_found_again_behind_damage(
            damage in prop::collection::vec(any::<u8>(), 0..100),
            payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut bytes = damage.clone();
            bytes.extend_from_slice(&frame(7, &payload));
            prop_assert_eq!(find_next(&bytes, 0), Some(damage.len()));
            prop_assert_eq!(find_next(&bytes, damage.len() + 1), None);
        }
    }
}
