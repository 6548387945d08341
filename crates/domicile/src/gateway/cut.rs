//! How is a stream cut into messages when some of them are larger than we want to hold?
//!
//! A message of moderate size comes whole; a large one comes in pieces as they arrive, so that
//! a value of 1 GiB costs no more memory than a small one.

use bytes::{Bytes, BytesMut};
use domicile_pg::frame::FrameError;

/// PostgreSQL's own limit for one message.
pub const MESSAGE_BYTES_MAX: usize = 0x3FFF_FFFF;
/// Up to this size, with its header, a message comes whole.
pub const WHOLE_BYTES_MAX: usize = 256 * 1024;
/// The beginning of a large message is at least so long: the names in it stand there.
const HEAD_BYTES_MIN: usize = 1024;
/// The tag and the length.
pub const HEADER_BYTES: usize = 5;

const _: () = assert!(WHOLE_BYTES_MAX <= super::link::BUFFER_BYTES_MAX, "else a link gets stuck");

/// All of a message or a part of it, as it stands on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Tag, length and body.
    Whole { tag: u8, raw: Bytes },
    /// Tag, length and the beginning of the body.
    Head { tag: u8, raw: Bytes },
    /// More of the body.
    Rest { raw: Bytes },
}

/// Remembers how much of a large message is still to come.
#[derive(Debug, Default)]
pub struct Cutter {
    left: usize,
}

impl Cutter {
    /// Returns whether a large message has begun and not ended.
    pub fn is_inside(&self) -> bool {
        self.left > 0
    }

    /// Takes the next piece from the front of `buffer`; `None` asks for more bytes.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Piece>, FrameError> {
        if buffer.is_empty() {
            return Ok(None);
        }
        if self.left > 0 {
            let taken = self.left.min(buffer.len());
            self.left -= taken;
            return Ok(Some(Piece::Rest { raw: buffer.split_to(taken).freeze() }));
        }
        let Some((tag, size)) = measure(buffer)? else { return Ok(None) };
        if size <= buffer.len() {
            return Ok(Some(Piece::Whole { tag, raw: buffer.split_to(size).freeze() }));
        }
        if size <= WHOLE_BYTES_MAX {
            buffer.reserve(size - buffer.len());
            return Ok(None);
        }
        if buffer.len() < HEAD_BYTES_MIN {
            return Ok(None);
        }
        self.left = size - buffer.len();
        Ok(Some(Piece::Head { tag, raw: buffer.split().freeze() }))
    }
}

/// Returns the tag of the first message and its size with its header.
fn measure(buffer: &[u8]) -> Result<Option<(u8, usize)>, FrameError> {
    let Some(&[tag, a, b, c, d]) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = i32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        Ok(counted) if counted > MESSAGE_BYTES_MAX => {
            Err(FrameError::TooLong { tag, length, limit: MESSAGE_BYTES_MAX })
        }
        Ok(counted) if counted >= 4 => Ok(Some((tag, 1 + counted))),
        Ok(_) | Err(_) => Err(FrameError::TooShort { tag, length }),
    }
}

/// The bodies of the messages that stand whole at the front of `buffer`, with their tags.
pub fn ahead(buffer: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        let (tag, size) = measure(rest).ok()??;
        let (message, after) = rest.split_at_checked(size)?;
        rest = after;
        Some((tag, &message[HEADER_BYTES..]))
    })
}

/// Returns the body of a message that stands whole on the wire.
pub fn body(raw: &Bytes) -> Bytes {
    raw.slice(HEADER_BYTES.min(raw.len())..)
}

#[cfg(test)]
mod tests {
    use domicile_pg::frame;
    use proptest::prelude::*;

    use super::*;

    fn message(tag: u8, bytes: usize) -> BytesMut {
        let mut wire = BytesMut::new();
        frame::put(&mut wire, tag, |out| out.resize(out.len() + bytes, b'x'));
        wire
    }

    #[test]
    fn a_message_of_moderate_size_comes_whole_and_a_large_one_in_pieces() {
        let mut wire = message(b'Q', 10);
        wire.unsplit(message(b'd', WHOLE_BYTES_MAX));
        wire.unsplit(message(b'S', 0));
        let whole = wire.clone().freeze();
        let last = wire.split_off(wire.len() - 105);
        let mut cutter = Cutter::default();
        let first = cutter.next(&mut wire).unwrap().unwrap();
        assert_eq!(first, Piece::Whole { tag: b'Q', raw: whole.slice(..15) });
        let head = cutter.next(&mut wire).unwrap().unwrap();
        assert!(matches!(head, Piece::Head { tag: b'd', .. }) && cutter.is_inside());
        wire.unsplit(last);
        let rest = cutter.next(&mut wire).unwrap().unwrap();
        assert_eq!(rest, Piece::Rest { raw: whole.slice(whole.len() - 105..whole.len() - 5) });
        let end = cutter.next(&mut wire).unwrap().unwrap();
        assert!(matches!(end, Piece::Whole { tag: b'S', .. }) && !cutter.is_inside());
        assert_eq!(cutter.next(&mut wire), Ok(None));
    }

    #[test]
    fn a_large_message_begins_with_more_than_its_header() {
        let mut wire = message(b'B', WHOLE_BYTES_MAX);
        let mut rest = wire.split_off(HEAD_BYTES_MIN - 1);
        let mut cutter = Cutter::default();
        assert_eq!(cutter.next(&mut wire), Ok(None));
        wire.unsplit(rest.split_to(1));
        let head = cutter.next(&mut wire).unwrap().unwrap();
        assert!(matches!(head, Piece::Head { tag: b'B', raw } if raw.len() == HEAD_BYTES_MIN));
    }

    #[test]
    fn a_hostile_length_is_refused_before_its_bytes_come() {
        for length in [i32::MIN, -1, 0, 3, 0x4000_0000, i32::MAX] {
            let mut wire = BytesMut::from(&b"Q"[..]);
            wire.extend_from_slice(&length.to_be_bytes());
            assert!(Cutter::default().next(&mut wire).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn the_pieces_together_are_the_stream(bytes: Vec<u8>, cuts in prop::collection::vec(1usize..9, 1..50)) {
            let mut cutter = Cutter::default();
            let (mut buffer, mut out) = (BytesMut::new(), Vec::new());
            let mut rest = &bytes[..];
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                buffer.extend_from_slice(now);
                rest = later;
                while let Ok(Some(piece)) = cutter.next(&mut buffer) {
                    let (Piece::Whole { raw, .. } | Piece::Head { raw, .. } | Piece::Rest { raw }) = piece;
                    out.extend_from_slice(&raw);
                }
            }
            out.extend_from_slice(&buffer);
            prop_assert_eq!(&out[..], &bytes[..bytes.len() - rest.len()]);
        }
    }
}
