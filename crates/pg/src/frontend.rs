//! What does a client say? Messages from the client, read only as deep as a relay needs.
//!
//! Texts stay bytes: a client may speak any encoding. COPY data is never looked at, and values of
//! parameters only by who asks for them.

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use crate::frame;

/// One message of a client, borrowed from its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frontend<'a> {
    /// The simple protocol: one or more statements in one text.
    Query(&'a [u8]),
    /// Prepares `sql` as `statement`; an empty name is the unnamed statement.
    Parse {
        statement: &'a [u8],
        sql: &'a [u8],
    },
    /// Makes `portal` from `statement`.
    Bind {
        portal: &'a [u8],
        statement: &'a [u8],
    },
    Execute {
        portal: &'a [u8],
    },
    Describe(Named<'a>),
    Close(Named<'a>),
    /// Ends a series of extended messages; answered by ReadyForQuery.
    Sync,
    Flush,
    /// The old call of a function by its number; answered by ReadyForQuery.
    FunctionCall,
    CopyData,
    CopyDone,
    CopyFail,
    /// A password or a SASL or GSS answer: which one depends on what was asked.
    Password,
    Terminate,
}

/// A prepared statement or a portal, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    Statement(&'a [u8]),
    Portal(&'a [u8]),
}

/// What a Bind gives for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// Not in its text form.
    pub is_binary: bool,
    /// `None` is null.
    pub bytes: Option<&'a [u8]>,
}

/// The message is not one that a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrontendError {
    #[error("message '{}' is none that a client sends", .0.escape_ascii())]
    Tag(u8),
    #[error("message '{}' ends too early", .0.escape_ascii())]
    Short(u8),
    #[error("message '{}' names neither a statement nor a portal", .0.escape_ascii())]
    Kind(u8),
}

pub mod tag {
    //! The first bytes of client messages, for a relay that looks at nothing else.

    pub const QUERY: u8 = b'Q';
    pub const PARSE: u8 = b'P';
    pub const BIND: u8 = b'B';
    pub const EXECUTE: u8 = b'E';
    pub const DESCRIBE: u8 = b'D';
    pub const CLOSE: u8 = b'C';
    pub const SYNC: u8 = b'S';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const PASSWORD: u8 = b'p';
    pub const TERMINATE: u8 = b'X';
}

/// Reads one message of a client.
pub fn read(tag: u8, body: &[u8]) -> Result<Frontend<'_>, FrontendError> {
    let mut rest = body;
    Ok(match tag {
        tag::QUERY => Frontend::Query(text(tag, &mut rest)?),
        tag::PARSE => {
            Frontend::Parse { statement: text(tag, &mut rest)?, sql: text(tag, &mut rest)? }
        }
        tag::BIND => {
            Frontend::Bind { portal: text(tag, &mut rest)?, statement: text(tag, &mut rest)? }
        }
        tag::EXECUTE => Frontend::Execute { portal: text(tag, &mut rest)? },
        tag::DESCRIBE => Frontend::Describe(named(tag, &mut rest)?),
        tag::CLOSE => Frontend::Close(named(tag, &mut rest)?),
        tag::SYNC => Frontend::Sync,
        tag::FLUSH => Frontend::Flush,
        tag::FUNCTION_CALL => Frontend::FunctionCall,
        tag::COPY_DATA => Frontend::CopyData,
        tag::COPY_DONE => Frontend::CopyDone,
        tag::COPY_FAIL => Frontend::CopyFail,
        tag::PASSWORD => Frontend::Password,
        tag::TERMINATE => Frontend::Terminate,
        unknown => return Err(FrontendError::Tag(unknown)),
    })
}

/// Of which values a Bind says that they are not in their text form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formats(Vec<usize>);

impl Formats {
    fn read(rest: &mut &[u8]) -> Result<Self, FrontendError> {
        (0..count(rest)?).map(|_| count(rest)).collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether the value of this place, from 0, is not in its text form.
    pub fn is_binary(&self, place: usize) -> bool {
        // None for all as text, one for all alike.
        match self.0.as_slice() {
            [] => false,
            [all] => *all == 1,
            each => each.get(place) == Some(&1),
        }
    }
}

/// Reads the values of a Bind.
pub fn bind_values(body: &[u8]) -> Result<Vec<Value<'_>>, FrontendError> {
    values(&mut &*body)
}

/// Reads in which formats a Bind wants what is returned.
pub fn result_formats(body: &[u8]) -> Result<Formats, FrontendError> {
    let mut rest = body;
    values(&mut rest)?;
    Formats::read(&mut rest)
}

fn values<'a>(rest: &mut &'a [u8]) -> Result<Vec<Value<'a>>, FrontendError> {
    let (_portal, _statement) = (text(tag::BIND, rest)?, text(tag::BIND, rest)?);
    let formats = Formats::read(rest)?;
    let values = count(rest)?;
    let value = |i| Ok(Value { is_binary: formats.is_binary(i), bytes: value(rest)? });
    (0..values).map(value).collect()
}

fn count(rest: &mut &[u8]) -> Result<usize, FrontendError> {
    let (bytes, after) = rest.split_first_chunk::<2>().ok_or(FrontendError::Short(tag::BIND))?;
    *rest = after;
    Ok(usize::from(u16::from_be_bytes(*bytes)))
}

fn value<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, FrontendError> {
    let short = FrontendError::Short(tag::BIND);
    let (bytes, after) = rest.split_first_chunk::<4>().ok_or(short)?;
    *rest = after;
    let Ok(length) = usize::try_from(i32::from_be_bytes(*bytes)) else { return Ok(None) };
    let (value, after) = rest.split_at_checked(length).ok_or(short)?;
    *rest = after;
    Ok(Some(value))
}

/// Returns whether a SASLInitialResponse says that its sender could bind the login to its connection, and
/// that the server does not offer it (SCRAM's flag `y`). A server that does refuses such a login.
pub fn misses_binding(body: &[u8]) -> bool {
    let mut rest = body;
    let mechanism = text(tag::PASSWORD, &mut rest);
    // Behind the mechanism the length of what it says.
    mechanism.is_ok_and(|name| name == b"SCRAM-SHA-256") && rest.get(4) == Some(&b'y')
}

fn named<'a>(tag: u8, rest: &mut &'a [u8]) -> Result<Named<'a>, FrontendError> {
    let (&kind, after) = rest.split_first().ok_or(FrontendError::Short(tag))?;
    *rest = after;
    match kind {
        b'S' => Ok(Named::Statement(text(tag, rest)?)),
        b'P' => Ok(Named::Portal(text(tag, rest)?)),
        _ => Err(FrontendError::Kind(tag)),
    }
}

fn text<'a>(tag: u8, rest: &mut &'a [u8]) -> Result<&'a [u8], FrontendError> {
    let end = rest.iter().position(|b| *b == 0).ok_or(FrontendError::Short(tag))?;
    let text = &rest[..end];
    *rest = &rest[end + 1..];
    Ok(text)
}

/// Appends a simple query; `sql` ends at its first zero byte, as it would at the server.
pub fn put_query(out: &mut BytesMut, sql: &[u8]) {
    frame::put(out, tag::QUERY, |body| put_text(body, sql));
}

/// Appends the Parse of `body` with another text; its name and its types stay. Appends nothing where `body` is
/// none.
pub fn put_parse_with(out: &mut BytesMut, body: &[u8], sql: &[u8]) {
    let mut types = body;
    let statement = text(tag::PARSE, &mut types);
    let (Ok(statement), Ok(_)) = (statement, text(tag::PARSE, &mut types)) else { return };
    frame::put(out, tag::PARSE, |body| {
        put_text(body, statement);
        put_text(body, sql);
        body.put_slice(types);
    });
}

/// Appends the Parse of `body` under another name; its text and its types stay. Appends nothing where `body` is
/// none.
pub fn put_parse_as(out: &mut BytesMut, body: &[u8], statement: &[u8]) {
    let Some(rest) = body.iter().position(|byte| *byte == 0) else { return };
    frame::put(out, tag::PARSE, |out| {
        put_text(out, statement);
        out.put_slice(&body[rest + 1..]);
    });
}

/// Appends a Bind of another statement. `raw` is all of it or its beginning, as it stands on the wire, with both
/// names. Appends nothing where it is none.
pub fn put_bind_of(out: &mut BytesMut, raw: &[u8], statement: &[u8]) {
    let Some((&[tag::BIND, a, b, c, d], body)) = raw.split_first_chunk::<5>() else { return };
    let mut rest = body;
    let names = (text(tag::BIND, &mut rest), text(tag::BIND, &mut rest));
    let (Ok(portal), Ok(bound)) = names else { return };
    let length = i64::from(i32::from_be_bytes([a, b, c, d]));
    let change = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
    let length = length - change(bound.len()) + change(statement.len());
    let Ok(length) = i32::try_from(length) else { return };
    out.put_u8(tag::BIND);
    out.put_i32(length);
    put_text(out, portal);
    put_text(out, statement);
    out.put_slice(rest);
}

/// Appends a Bind without parameters.
pub fn put_bind(out: &mut BytesMut, portal: &[u8], statement: &[u8]) {
    frame::put(out, tag::BIND, |body| {
        put_text(body, portal);
        put_text(body, statement);
        // Formats of parameters, parameters, formats of results.
        body.put_bytes(0, 6);
    });
}

/// Appends a Sync.
pub fn put_sync(out: &mut BytesMut) {
    frame::put(out, tag::SYNC, |_| {});
}

/// Appends a Close of a prepared statement.
pub fn put_close_statement(out: &mut BytesMut, name: &[u8]) {
    frame::put(out, tag::CLOSE, |body| {
        body.put_u8(b'S');
        put_text(body, name);
    });
}

/// Appends a Describe of a prepared statement.
pub fn put_describe_statement(out: &mut BytesMut, name: &[u8]) {
    frame::put(out, tag::DESCRIBE, |body| {
        body.put_u8(b'S');
        put_text(body, name);
    });
}

/// Appends the first answer to an AuthenticationSASL: with this mechanism, and what it begins with.
pub fn put_sasl_initial_response(out: &mut BytesMut, mechanism: &str, message: &str) {
    frame::put(out, tag::PASSWORD, |body| {
        put_text(body, mechanism.as_bytes());
        body.put_i32(i32::try_from(message.len()).expect("a message is shorter than 2 GiB"));
        body.put_slice(message.as_bytes());
    });
}

/// Appends an answer to an AuthenticationSASLContinue.
pub fn put_sasl_response(out: &mut BytesMut, message: &str) {
    frame::put(out, tag::PASSWORD, |body| body.put_slice(message.as_bytes()));
}

/// Appends a goodbye.
pub fn put_terminate(out: &mut BytesMut) {
    frame::put(out, tag::TERMINATE, |_| {});
}

fn put_text(body: &mut BytesMut, text: &[u8]) {
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    body.put_slice(&text[..end]);
    body.put_u8(0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_survives_the_wire() {
        let mut wire = BytesMut::new();
        put_query(&mut wire, b"SELECT 1");
        let message = frame::take(&mut wire, 1024).unwrap().unwrap();
        assert_eq!(read(message.tag, &message.body), Ok(Frontend::Query(b"SELECT 1")));
    }

    #[test]
    fn the_name_of_a_prepared_statement_is_found_without_its_types() {
        let body = b"s1\0SELECT $1\0\0\x01\0\0\0\x17";
        let expected = Frontend::Parse { statement: b"s1", sql: b"SELECT $1" };
        assert_eq!(read(b'P', body), Ok(expected));
        let expected = Frontend::Bind { portal: b"", statement: b"s1" };
        assert_eq!(read(b'B', b"\0s1\0\0\0\0\0\0\0"), Ok(expected));
        assert_eq!(read(b'C', b"Ss1\0"), Ok(Frontend::Close(Named::Statement(b"s1"))));
        assert_eq!(read(b'D', b"P\0"), Ok(Frontend::Describe(Named::Portal(b""))));
    }

    #[test]
    fn a_parse_with_another_text_keeps_its_name_and_types() {
        let mut wire = BytesMut::new();
        put_parse_with(&mut wire, b"s1\0SHOW x\0\0\x01\0\0\0\x17", b"SELECT 1");
        let message = frame::take(&mut wire, 1024).unwrap().unwrap();
        assert_eq!(&message.body[..], b"s1\0SELECT 1\0\0\x01\0\0\0\x17");
        put_parse_with(&mut wire, b"s1\0SHOW x", b"SELECT 1");
        assert!(wire.is_empty());
    }

    #[test]
    fn a_statement_is_prepared_bound_and_described_by_another_name() {
        let mut wire = BytesMut::new();
        put_parse_as(&mut wire, b"s1\0SELECT 1\0\0\x01\0\0\0\x17", b"other");
        let message = frame::take(&mut wire, 1024).unwrap().unwrap();
        assert_eq!(&message.body[..], b"other\0SELECT 1\0\0\x01\0\0\0\x17");
        put_bind(&mut wire, b"p1", b"s1");
        let raw = wire.split();
        put_bind_of(&mut wire, &raw, b"other");
        put_bind(&mut wire, b"p1", b"other");
        let expected = frame::take(&mut wire, 1024).unwrap().unwrap();
        assert_eq!(frame::take(&mut wire, 1024).unwrap().unwrap(), expected);
        // Of a large one only the beginning.
        put_bind_of(&mut wire, b"B\0\x10\0\0\0s\0abc", b"other");
        assert_eq!(&wire.split()[..], b"B\0\x10\0\x04\0other\0abc");
        put_describe_statement(&mut wire, b"other");
        let message = frame::take(&mut wire, 1024).unwrap().unwrap();
        let described = Frontend::Describe(Named::Statement(b"other"));
        assert_eq!(read(message.tag, &message.body), Ok(described));
    }

    #[test]
    fn a_bind_survives_the_wire() {
        let mut wire = BytesMut::new();
        put_bind(&mut wire, b"p1", b"s1");
        let message = frame::take(&mut wire, 1024).unwrap().unwrap();
        let expected = Frontend::Bind { portal: b"p1", statement: b"s1" };
        assert_eq!(read(message.tag, &message.body), Ok(expected));
    }

    #[test]
    fn a_client_says_that_it_misses_an_offer_to_bind_its_login() {
        for (said, misses) in [
            (&b"SCRAM-SHA-256\0\0\0\0\x20y,,n=,r=abc"[..], true),
            (b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r=abc", false),
            (b"SCRAM-SHA-256-PLUS\0\0\0\0\x20y,,n=,r=abc", false),
            (b"SCRAM-SHA-256\0\0\0\0", false),
            (b"SCRAM-SHA-256", false),
            (b"yyyyyyyyyyyyyyyyyyy\0", false),
        ] {
            assert_eq!(misses_binding(said), misses, "{said:?}");
        }
    }

    #[test]
    fn the_values_of_a_bind_are_read_in_their_formats() {
        let text = |bytes| Value { is_binary: false, bytes };
        let binary = |bytes| Value { is_binary: true, bytes };
        let two = b"\0\x02\0\0\0\x017\xff\xff\xff\xff\0\0";
        let bind = |formats: &[u8]| [&b"p\0s1\0"[..], formats, two].concat();
        assert_eq!(bind_values(&bind(b"\0\0")), Ok(vec![text(Some(b"7")), text(None)]));
        assert_eq!(bind_values(&bind(b"\0\x01\0\x01")), Ok(vec![binary(Some(b"7")), binary(None)]));
        let each = bind(b"\0\x02\0\0\0\x01");
        assert_eq!(bind_values(&each), Ok(vec![text(Some(b"7")), binary(None)]));
        for end in 0..each.len() - 2 {
            assert_eq!(bind_values(&each[..end]), Err(FrontendError::Short(b'B')), "{end}");
        }
        assert_eq!(result_formats(&each), Ok(Formats::default()));
        let formats = result_formats(&[&each[..each.len() - 2], b"\0\x02\0\0\0\x01"].concat());
        let formats = formats.unwrap();
        assert_eq!([0, 1, 2].map(|i| formats.is_binary(i)), [false, true, false]);
    }

    #[test]
    fn what_is_not_from_a_client_is_named() {
        assert_eq!(read(b'Z', b"I"), Err(FrontendError::Tag(b'Z')));
        assert_eq!(read(b'Q', b"SELECT 1"), Err(FrontendError::Short(b'Q')));
        assert_eq!(read(b'C', b"Qs\0"), Err(FrontendError::Kind(b'C')));
        assert_eq!(
            read(7, b"").unwrap_err().to_string(),
            "message '\\x07' is none that a client sends"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(tag: u8, body: Vec<u8>) {
            let _ = read(tag, &body);
            let _ = bind_values(&body);
            let _ = result_formats(&body);
            let mut out = BytesMut::new();
            put_parse_as(&mut out, &body, b"other");
            put_bind_of(&mut out, &[&[tag][..], &body].concat(), b"other");
        }

        #[test]
        fn any_query_without_a_zero_byte_survives_the_wire(sql in prop::collection::vec(1u8.., 0..99)) {
            let mut wire = BytesMut::new();
            put_query(&mut wire, &sql);
            let message = frame::take(&mut wire, 1024).unwrap().unwrap();
            prop_assert_eq!(read(message.tag, &message.body), Ok(Frontend::Query(&sql)));
        }
    }
}
