//! What does a new connection ask for in its first packet?
//!
//! The first packet has no tag: a length, which counts itself, and a code. Everything here comes
//! from somebody who has not said who they are, so the packet is limited like in PostgreSQL.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::frame;

/// PostgreSQL refuses a longer first packet too.
pub const STARTUP_PACKET_BYTES_MAX: usize = 10_000;
/// The shortest cancel key: that of protocol 3.0.
pub const CANCEL_KEY_BYTES_MIN: usize = 4;
/// The longest cancel key: protocol 3.2 allows this much.
pub const CANCEL_KEY_BYTES_MAX: usize = 256;

/// The major version that everybody speaks; there is no other one.
pub const PROTOCOL_MAJOR: u16 = 3;
/// Options whose name starts like this extend the protocol; unknown ones are refused by name.
pub const PROTOCOL_OPTION_PREFIX: &str = "_pq_.";

/// The answer to [`FirstPacket::SslRequest`]: begin the handshake.
pub const ENCRYPTION_ACCEPTED: u8 = b'S';
/// The answer to [`FirstPacket::SslRequest`] and [`FirstPacket::GssEncRequest`]: go on in the clear.
pub const ENCRYPTION_REFUSED: u8 = b'N';

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// What a new connection asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// Answered by one byte; the next packet is a first packet again.
    SslRequest,
    /// Answered by one byte; the next packet is a first packet again.
    GssEncRequest,
    Cancel(CancelRequest),
    Startup(Startup),
}

/// Stop what the session with this key is doing. No answer is ever sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CancelRequest {
    pub pid: u32,
    /// 4 to 256 bytes.
    pub key: Bytes,
}

/// Begin a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    pub major: u16,
    pub minor: u16,
    /// In the order in which they were sent; the last one of a name counts.
    pub parameters: Vec<(String, String)>,
}

/// The first packet is not one: the connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StartupError {
    #[error("first packet has length {0}, expected 8 to {STARTUP_PACKET_BYTES_MAX}")]
    Length(u32),
    #[error("encryption request has {0} bytes too many")]
    Encryption(usize),
    #[error("cancel key has {0} bytes, expected {CANCEL_KEY_BYTES_MIN} to {CANCEL_KEY_BYTES_MAX}")]
    CancelKey(usize),
    #[error("startup parameters do not end where they should")]
    Parameters,
    #[error("startup parameter is not valid UTF-8")]
    Encoding,
}

/// Takes the first packet from the front of `buffer`, or leaves the buffer as it is.
///
/// A startup of any version is returned as it is: refusing a major version is the caller's part.
pub fn take(buffer: &mut BytesMut) -> Result<Option<FirstPacket>, StartupError> {
    let Some(&length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(length);
    let whole = usize::try_from(length).unwrap_or(usize::MAX);
    if !(8..=STARTUP_PACKET_BYTES_MAX).contains(&whole) {
        return Err(StartupError::Length(length));
    }
    if buffer.len() < whole {
        return Ok(None);
    }
    let mut body = buffer.split_to(whole).freeze();
    body.advance(4);
    let code = body.get_u32();
    let packet = match code {
        SSL_REQUEST => encryption(&body, FirstPacket::SslRequest)?,
        GSSENC_REQUEST => encryption(&body, FirstPacket::GssEncRequest)?,
        CANCEL_REQUEST => FirstPacket::Cancel(cancel(body)?),
        version => {
            let [a, b, c, d] = version.to_be_bytes();
            FirstPacket::Startup(Startup {
                major: u16::from_be_bytes([a, b]),
                minor: u16::from_be_bytes([c, d]),
                parameters: parameters(&body)?,
            })
        }
    };
    Ok(Some(packet))
}

fn encryption(rest: &[u8], packet: FirstPacket) -> Result<FirstPacket, StartupError> {
    if rest.is_empty() { Ok(packet) } else { Err(StartupError::Encryption(rest.len())) }
}

fn cancel(mut body: Bytes) -> Result<CancelRequest, StartupError> {
    let key_bytes = body.len().saturating_sub(4);
    if !(CANCEL_KEY_BYTES_MIN..=CANCEL_KEY_BYTES_MAX).contains(&key_bytes) {
        return Err(StartupError::CancelKey(key_bytes));
    }
    let pid = body.get_u32();
    Ok(CancelRequest { pid, key: body })
}

fn parameters(mut rest: &[u8]) -> Result<Vec<(String, String)>, StartupError> {
    let mut pairs = Vec::new();
    loop {
        let name = text(&mut rest)?;
        if name.is_empty() {
            break;
        }
        pairs.push((name, text(&mut rest)?));
    }
    if rest.is_empty() { Ok(pairs) } else { Err(StartupError::Parameters) }
}

fn text(rest: &mut &[u8]) -> Result<String, StartupError> {
    let end = rest.iter().position(|b| *b == 0).ok_or(StartupError::Parameters)?;
    let text = std::str::from_utf8(&rest[..end]).map_err(|_| StartupError::Encoding)?;
    *rest = &rest[end + 1..];
    Ok(text.to_owned())
}

impl CancelRequest {
    pub fn put(&self, out: &mut BytesMut) {
        put_packet(out, CANCEL_REQUEST, |body| {
            body.put_u32(self.pid);
            body.put_slice(&self.key);
        });
    }
}

impl Startup {
    /// The database that is meant: as to PostgreSQL, an empty name or none is the user's.
    pub fn database(&self) -> &str {
        let given = self.get("database").filter(|name| !name.is_empty());
        given.or_else(|| self.get("user")).unwrap_or_default()
    }

    /// Returns the value of the last parameter called `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Removes every parameter called `name` and returns the value that counted.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let value = self.get(name).map(str::to_owned);
        self.parameters.retain(|(n, _)| n != name);
        value
    }

    /// Comes down to protocol 3.0 and returns what to tell the client, if it asked for more.
    pub fn settle(&mut self) -> Option<Negotiation> {
        let is_option = |pair: &(String, String)| pair.0.starts_with(PROTOCOL_OPTION_PREFIX);
        let refused: Vec<String> =
            self.parameters.iter().filter(|p| is_option(p)).map(|p| p.0.clone()).collect();
        let asked_for_more = self.minor > 0 || !refused.is_empty();
        self.parameters.retain(|pair| !is_option(pair));
        self.minor = 0;
        asked_for_more.then_some(Negotiation { refused })
    }

    /// Appends the packet. A name or value with a zero byte ends early, an empty name ends the
    /// list: neither can come from [`take`].
    pub fn put(&self, out: &mut BytesMut) {
        let code = u32::from(self.major) << 16 | u32::from(self.minor);
        put_packet(out, code, |body| {
            for (name, value) in &self.parameters {
                for text in [name, value] {
                    body.put_slice(text.split('\0').next().unwrap_or_default().as_bytes());
                    body.put_u8(0);
                }
            }
            body.put_u8(0);
        });
    }
}

/// Asks for encryption; the answer is one byte.
pub fn put_ssl_request(out: &mut BytesMut) {
    put_packet(out, SSL_REQUEST, |_| {});
}

/// What the client is told when it asked for more than protocol 3.0.
///
/// The version is always our own and never the one that was asked for: libpq 19 asks for 3.9999
/// on purpose, to find servers that repeat what they hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiation {
    /// The protocol options that are not offered, by name.
    pub refused: Vec<String>,
}

impl Negotiation {
    /// Appends NegotiateProtocolVersion, answering 3.0.
    pub fn put(&self, out: &mut BytesMut) {
        frame::put(out, b'v', |body| {
            body.put_u32(u32::from(PROTOCOL_MAJOR) << 16);
            body.put_u32(u32::try_from(self.refused.len()).unwrap_or(u32::MAX));
            for name in &self.refused {
                body.put_slice(name.as_bytes());
                body.put_u8(0);
            }
        });
    }
}

fn put_packet(out: &mut BytesMut, code: u32, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    out.put_u32(code);
    write(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn startup(minor: u16, pairs: &[(&str, &str)]) -> Startup {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Startup { major: 3, minor, parameters: pairs.iter().map(own).collect() }
    }

    fn read(bytes: &[u8]) -> Result<Option<FirstPacket>, StartupError> {
        take(&mut BytesMut::from(bytes))
    }

    #[test]
    fn a_startup_survives_the_wire_however_it_is_cut() {
        let sent = startup(0, &[("user", "ann"), ("database", "shop"), ("options", "")]);
        let mut wire = BytesMut::new();
        sent.put(&mut wire);
        for cut in 0..wire.len() {
            assert_eq!(read(&wire[..cut]).unwrap(), None);
        }
        assert_eq!(read(&wire).unwrap(), Some(FirstPacket::Startup(sent)));
    }

    #[test]
    fn encryption_requests_and_cancel_requests_are_told_apart() {
        let mut wire = BytesMut::new();
        put_ssl_request(&mut wire);
        assert_eq!(&wire[..], b"\0\0\0\x08\x04\xd2\x16\x2f");
        assert_eq!(read(&wire).unwrap(), Some(FirstPacket::SslRequest));
        let gss = b"\0\0\0\x08\x04\xd2\x16\x30";
        assert_eq!(read(gss).unwrap(), Some(FirstPacket::GssEncRequest));
        let cancel = CancelRequest { pid: 77, key: Bytes::from_static(b"key!") };
        let mut wire = BytesMut::new();
        cancel.put(&mut wire);
        assert_eq!(read(&wire).unwrap(), Some(FirstPacket::Cancel(cancel)));
    }

    #[test]
    fn a_packet_longer_than_postgres_takes_is_refused_at_its_length() {
        assert_eq!(read(b"\0\0\x27\x11"), Err(StartupError::Length(10_001)));
        assert_eq!(read(b"GET "), Err(StartupError::Length(0x4745_5420)));
        assert_eq!(read(b"\0\0\0\x07"), Err(StartupError::Length(7)));
    }

    #[test]
    fn a_cancel_key_outside_its_bounds_is_refused() {
        for (bytes, fits) in [(3, false), (4, true), (256, true), (257, false)] {
            let mut wire = BytesMut::new();
            CancelRequest { pid: 1, key: vec![7; bytes].into() }.put(&mut wire);
            assert_eq!(read(&wire).is_ok(), fits, "{bytes}");
        }
    }

    #[test]
    fn parameters_that_do_not_end_are_refused() {
        let mut wire = BytesMut::new();
        startup(0, &[("user", "ann")]).put(&mut wire);
        wire[3] -= 1;
        assert_eq!(read(&wire), Err(StartupError::Parameters));
    }

    #[test]
    fn a_client_that_asks_for_more_is_told_3_0_and_never_its_own_version() {
        let mut asked = startup(9999, &[("user", "ann"), ("_pq_.test_protocol_negotiation", "")]);
        let told = asked.settle().unwrap();
        assert_eq!(asked, startup(0, &[("user", "ann")]));
        let mut wire = BytesMut::new();
        told.put(&mut wire);
        let expected = b"v\0\0\0\x2b\0\x03\0\0\0\0\0\x01_pq_.test_protocol_negotiation\0";
        assert_eq!(&wire[..], expected);
        assert_eq!(asked.settle(), None);
    }

    #[test]
    fn the_last_parameter_of_a_name_counts() {
        let mut asked = startup(0, &[("domicile.hop", "0"), ("user", "a"), ("domicile.hop", "1")]);
        assert_eq!(asked.remove("domicile.hop").as_deref(), Some("1"));
        assert_eq!(asked.parameters.len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
            let mut framed = BytesMut::new();
            framed.put_u32(u32::try_from(bytes.len() + 4).unwrap());
            framed.put_slice(&bytes);
            let _ = read(&framed);
        }

        #[test]
        fn any_startup_survives_the_wire(
            major in 0u16..=1000,
            minor: u16,
            parameters in prop::collection::vec(("[^\0]{1,20}", "[^\0]{0,20}"), 0..20),
        ) {
            let sent = Startup { major, minor, parameters };
            let mut wire = BytesMut::new();
            sent.put(&mut wire);
            prop_assert_eq!(read(&wire).unwrap(), Some(FirstPacket::Startup(sent)));
        }
    }
}
