//! How is a record found again in a file, and what if it is not whole?
//!
//! ```text
//!  0      4        8         9        17
//!  | len  | crc32c | version | lsn    | payload ...    |
//!                  '-------------- len bytes ----------'   all little-endian
//! ```
//!
//! The checksum covers everything after it. A length that was changed makes it cover other bytes,
//! so that is noticed too. Nothing here panics on bytes from a disk: they are whole, partial or
//! broken, and the reader of the file decides what that means.

use thiserror::Error;

use crate::lsn::Lsn;

/// The only version there is; a reader refuses every other.
pub const FRAME_VERSION: u8 = 1;

/// The longest frame, header included. It bounds what a broken length can make a reader allocate.
pub const FRAME_BYTES_MAX: usize = 1 << 30;

/// What a frame adds to its payload.
pub const FRAME_OVERHEAD_BYTES: usize = PREFIX_BYTES + BODY_BYTES_MIN;

/// The longest payload that fits a frame.
pub const PAYLOAD_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_OVERHEAD_BYTES;

/// Length and checksum: the part that the length does not count.
const PREFIX_BYTES: usize = 8;

/// Version and LSN: what every frame has after the checksum.
const BODY_BYTES_MIN: usize = 9;

/// What the front of some bytes holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken<'a> {
    Whole {
        lsn: Lsn,
        payload: &'a [u8],
        /// Where the next frame begins.
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
    #[error("version is {found}, expected {FRAME_VERSION}")]
    Version { found: u8 },
}

/// Appends `payload` to `out` as one frame.
///
/// Panics when the payload is longer than [`PAYLOAD_BYTES_MAX`]: the caller checks that first.
pub fn append(out: &mut Vec<u8>, lsn: Lsn, payload: &[u8]) {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a payload fits its frame");
    let start = out.len();
    out.reserve(FRAME_OVERHEAD_BYTES + payload.len());
    // Below 1 GiB by the assertion, so nothing is cut off.
    out.extend_from_slice(&((BODY_BYTES_MIN + payload.len()) as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.push(FRAME_VERSION);
    out.extend_from_slice(&lsn.0.to_le_bytes());
    out.extend_from_slice(payload);
    let crc = crc32c::crc32c(&out[start + PREFIX_BYTES..]);
    out[start + 4..start + PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
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
    if version != FRAME_VERSION {
        return Taken::Broken(Broken::Version { found: version });
    }
    Taken::Whole { lsn: Lsn(u64::from_le_bytes(*lsn)), payload, consumed }
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
        rest.get(PREFIX_BYTES) == Some(&FRAME_VERSION) && matches!(take(rest), Taken::Whole { .. })
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
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(take(&bytes), Taken::Broken(Broken::Version { found: 2 }));
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
                let Taken::Whole { lsn: got, payload: bytes, consumed } = take(rest) else {
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
            if let Taken::Whole { payload, consumed, .. } = take(&bytes) {
                prop_assert_eq!(consumed, payload.len() + FRAME_OVERHEAD_BYTES);
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
