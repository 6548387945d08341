//! How are messages cut out of a byte stream, and put into one?
//!
//! After startup every message of PostgreSQL's protocol is a tag byte, a length (which counts
//! itself but not the tag) and a body. Nothing here looks inside a body.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

/// A tagged message as it stands on the wire after startup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Bytes,
}

/// The stream does not follow the protocol: the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("message '{}' has length {length}, less than the 4 bytes of the length itself", tag.escape_ascii())]
    TooShort { tag: u8, length: i32 },
    #[error("message '{}' has length {length}, more than the limit of {limit} bytes", tag.escape_ascii())]
    TooLong { tag: u8, length: i32, limit: usize },
}

/// Takes the next whole message from the front of `buffer`, or leaves the buffer as it is.
///
/// `limit` bounds the length field, so that a hostile length costs no memory.
pub fn take(buffer: &mut BytesMut, limit: usize) -> Result<Option<Message>, FrameError> {
    let Some((&tag, rest)) = buffer.split_first() else { return Ok(None) };
    let Some(&length) = rest.first_chunk::<4>() else { return Ok(None) };
    let length = i32::from_be_bytes(length);
    let Some(body) = usize::try_from(length).ok().and_then(|l| l.checked_sub(4)) else {
        return Err(FrameError::TooShort { tag, length });
    };
    if body + 4 > limit {
        return Err(FrameError::TooLong { tag, length, limit });
    }
    if buffer.len() < 1 + 4 + body {
        buffer.reserve(1 + 4 + body - buffer.len());
        return Ok(None);
    }
    let message = buffer.split_to(1 + 4 + body).freeze();
    Ok(Some(Message { tag, body: message.slice(5..) }))
}

/// Appends one message whose body `write` appends.
///
/// Panics when the body passes 2 GiB: only a bug builds such a message.
pub fn put(out: &mut BytesMut, tag: u8, write: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let start = out.len();
    out.put_i32(0);
    write(out);
    let length = i32::try_from(out.len() - start).expect("a message is shorter than 2 GiB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_wire_however_it_is_cut() {
        let mut wire = BytesMut::new();
        put(&mut wire, b'Q', |body| body.put_slice(b"SELECT 1\0"));
        let whole = wire.clone();
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            assert_eq!(take(&mut part, 1024).unwrap(), None);
            part.extend_from_slice(&whole[cut..]);
            let message = take(&mut part, 1024).unwrap().unwrap();
            assert_eq!((message.tag, &message.body[..]), (b'Q', &b"SELECT 1\0"[..]));
            assert!(part.is_empty());
        }
    }

    #[test]
    fn a_hostile_length_is_refused_before_memory_is_spent() {
        let mut wire = BytesMut::from(&b"Q\x7f\xff\xff\xff"[..]);
        assert!(matches!(take(&mut wire, 1024), Err(FrameError::TooLong { .. })));
        let mut wire = BytesMut::from(&b"Q\x00\x00\x00\x03"[..]);
        assert!(matches!(take(&mut wire, 1024), Err(FrameError::TooShort { .. })));
    }
}
