//! What do a walsender and its client tell each other inside CopyData?
//!
//! The server sends WAL data and keepalives; the client answers with how far it wrote, flushed
//! and applied. Any bytes are answered by an event or an error.
//!
//! LSNs are plain `u64`; times are microseconds since 2000-01-01 UTC.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::frame;

/// What the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    XLogData(XLogData),
    Keepalive(Keepalive),
}

/// A piece of the stream: with `pgoutput`, exactly one of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XLogData {
    pub start: u64,
    /// With a logical slot this equals `start`, not the end of the server's WAL.
    pub end: u64,
    pub time: i64,
    pub payload: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Everything up to here that this stream carries has been sent.
    pub end: u64,
    pub time: i64,
    /// The server gives up on us soon unless we answer. A synchronous standby answers the others
    /// too, or commits that the publication does not carry wait for seconds.
    pub reply_requested: bool,
}

/// Standby status update: what may be forgotten, and what a waiting commit may believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub write: u64,
    /// A logical slot is confirmed up to here; 0 leaves it where it is.
    pub flush: u64,
    pub apply: u64,
    pub clock: i64,
    /// Asks the server for a keepalive at once.
    pub reply_requested: bool,
}

/// The server's CopyData does not follow the protocol: the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FeedbackError {
    #[error("replication message is empty")]
    Empty,
    #[error("replication message '{}' is not known", .0.escape_ascii())]
    UnknownMessage(u8),
    #[error("replication message '{}' has {length} bytes after its tag, expected {expected}", tag.escape_ascii())]
    Length { tag: u8, length: usize, expected: &'static str },
}

const XLOG_DATA_HEADER_BYTES: usize = 24;
const KEEPALIVE_BYTES: usize = 17;

/// Reads the body of one CopyData message.
pub fn parse(body: Bytes) -> Result<Event, FeedbackError> {
    let mut rest = body;
    let Some(&tag) = rest.first() else { return Err(FeedbackError::Empty) };
    rest.advance(1);
    let length = rest.len();
    match tag {
        b'w' if length >= XLOG_DATA_HEADER_BYTES => Ok(Event::XLogData(XLogData {
            start: rest.get_u64(),
            end: rest.get_u64(),
            time: rest.get_i64(),
            payload: rest,
        })),
        b'w' => Err(FeedbackError::Length { tag, length, expected: "at least 24" }),
        b'k' if length == KEEPALIVE_BYTES => Ok(Event::Keepalive(Keepalive {
            end: rest.get_u64(),
            time: rest.get_i64(),
            reply_requested: rest.get_u8() == 1,
        })),
        b'k' => Err(FeedbackError::Length { tag, length, expected: "17" }),
        unknown => Err(FeedbackError::UnknownMessage(unknown)),
    }
}

impl Status {
    /// Appends the update as a whole CopyData message.
    pub fn put(&self, out: &mut BytesMut) {
        frame::put(out, b'd', |body| {
            body.put_u8(b'r');
            body.put_u64(self.write);
            body.put_u64(self.flush);
            body.put_u64(self.apply);
            body.put_i64(self.clock);
            body.put_u8(u8::from(self.reply_requested));
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_give_an_event_or_an_error(
            tag in prop_oneof![Just(b'w'), Just(b'k'), any::<u8>()],
            rest in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = parse(Bytes::from([vec![tag], rest].concat()));
        }

        #[test]
        fn wal_data_is_read_as_it_was_sent(
            start: u64, end: u64, time: i64, payload: Vec<u8>,
        ) {
            let mut body = BytesMut::new();
            body.put_u8(b'w');
            body.put_u64(start);
            body.put_u64(end);
            body.put_i64(time);
            body.put_slice(&payload);
            let data = XLogData { start, end, time, payload: payload.into() };
            prop_assert_eq!(parse(body.freeze()), Ok(Event::XLogData(data)));
        }

        #[test]
        fn a_keepalive_is_read_as_it_was_sent(end: u64, time: i64, reply_requested: bool) {
            let mut body = BytesMut::new();
            body.put_u8(b'k');
            body.put_u64(end);
            body.put_i64(time);
            body.put_u8(reply_requested.into());
            let keepalive = Keepalive { end, time, reply_requested };
            prop_assert_eq!(parse(body.freeze()), Ok(Event::Keepalive(keepalive)));
        }
    }

    #[test]
    fn a_message_of_the_wrong_length_is_refused() {
        assert_eq!(parse(Bytes::new()), Err(FeedbackError::Empty));
        assert_eq!(parse(Bytes::from_static(b"x")), Err(FeedbackError::UnknownMessage(b'x')));
        let short = FeedbackError::Length { tag: b'w', length: 23, expected: "at least 24" };
        assert_eq!(parse([&b"w"[..], &[0; 23]].concat().into()), Err(short));
        let long = FeedbackError::Length { tag: b'k', length: 18, expected: "17" };
        assert_eq!(parse([&b"k"[..], &[0; 18]].concat().into()), Err(long));
    }

    #[test]
    fn a_status_update_is_one_copy_data_message_of_38_bytes() {
        let mut out = BytesMut::new();
        Status { write: 1, flush: 2, apply: 3, clock: -4, reply_requested: true }.put(&mut out);
        let expected = [
            &b"d\0\0\0\x26r"[..],
            &1u64.to_be_bytes(),
            &2u64.to_be_bytes(),
            &3u64.to_be_bytes(),
            &(-4i64).to_be_bytes(),
            &[1],
        ];
        assert_eq!(out, expected.concat());
    }
}
