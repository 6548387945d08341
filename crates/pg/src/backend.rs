//! What does the server say? Messages from PostgreSQL, read and built as deep as a relay needs.
//!
//! Of rows only one that is a single value is looked at; row descriptions and COPY data are not.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::frame;
use crate::sqlstate::SqlState;

pub mod tag {
    //! The first bytes of server messages, for a relay that looks at nothing else.

    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const ROW_DESCRIPTION: u8 = b'T';
    pub const DATA_ROW: u8 = b'D';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const READY_FOR_QUERY: u8 = b'Z';
}

/// The message is cut short or says something that a server never says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BackendError {
    #[error("message '{}' ends too early", .0.escape_ascii())]
    Short(u8),
    #[error("transaction status '{}' is none of I, T and E", .0.escape_ascii())]
    Status(u8),
}

/// Where a session stands between two statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// No transaction is open.
    Idle,
    /// A transaction block is open.
    Open,
    /// A transaction block is open and has failed: only its ROLLBACK is taken.
    Failed,
}

/// Reads ReadyForQuery.
pub fn ready_for_query(body: &[u8]) -> Result<TransactionStatus, BackendError> {
    match body.first() {
        Some(b'I') => Ok(TransactionStatus::Idle),
        Some(b'T') => Ok(TransactionStatus::Open),
        Some(b'E') => Ok(TransactionStatus::Failed),
        Some(unknown) => Err(BackendError::Status(*unknown)),
        None => Err(BackendError::Short(tag::READY_FOR_QUERY)),
    }
}

/// Appends ReadyForQuery.
pub fn put_ready_for_query(out: &mut BytesMut, status: TransactionStatus) {
    let status = match status {
        TransactionStatus::Idle => b'I',
        TransactionStatus::Open => b'T',
        TransactionStatus::Failed => b'E',
    };
    frame::put(out, tag::READY_FOR_QUERY, |body| body.put_u8(status));
}

/// What the server wants to know of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing more: the client is who it says.
    Ok,
    CleartextPassword,
    Md5Password {
        salt: [u8; 4],
    },
    /// SCRAM: the list of mechanisms follows.
    Sasl,
    SaslContinue,
    SaslFinal,
    /// Kerberos, GSS, SSPI, or something newer.
    Other(u32),
}

/// Reads an authentication request.
pub fn authentication(body: &[u8]) -> Result<Authentication, BackendError> {
    let short = BackendError::Short(tag::AUTHENTICATION);
    let (kind, rest) = body.split_first_chunk::<4>().ok_or(short)?;
    Ok(match u32::from_be_bytes(*kind) {
        0 => Authentication::Ok,
        3 => Authentication::CleartextPassword,
        5 => Authentication::Md5Password { salt: *rest.first_chunk::<4>().ok_or(short)? },
        10 => Authentication::Sasl,
        11 => Authentication::SaslContinue,
        12 => Authentication::SaslFinal,
        other => Authentication::Other(other),
    })
}

/// Appends AuthenticationOk.
pub fn put_authentication_ok(out: &mut BytesMut) {
    put_authentication(out, 0, |_| {});
}

/// Appends AuthenticationSASL.
pub fn put_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    put_authentication(out, 10, |body| {
        mechanisms.iter().for_each(|mechanism| put_text(body, mechanism.as_bytes()));
        body.put_u8(0);
    });
}

/// Appends AuthenticationSASLContinue.
pub fn put_sasl_continue(out: &mut BytesMut, message: &str) {
    put_authentication(out, 11, |body| body.put_slice(message.as_bytes()));
}

/// Appends AuthenticationSASLFinal.
pub fn put_sasl_final(out: &mut BytesMut, message: &str) {
    put_authentication(out, 12, |body| body.put_slice(message.as_bytes()));
}

fn put_authentication(out: &mut BytesMut, kind: u32, more: impl FnOnce(&mut BytesMut)) {
    frame::put(out, tag::AUTHENTICATION, |body| {
        body.put_u32(kind);
        more(body);
    });
}

/// What comes in an AuthenticationSASLContinue or an AuthenticationSASLFinal.
pub fn sasl_message(body: &[u8]) -> &[u8] {
    body.get(4..).unwrap_or_default()
}

/// Returns whether the AuthenticationSASL of `body` offers `mechanism`.
pub fn offers(body: &[u8], mechanism: &[u8]) -> bool {
    authentication(body) == Ok(Authentication::Sasl)
        && mechanisms(body).any(|name| name == mechanism)
}

/// A mechanism without a name ends the list.
fn mechanisms(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    sasl_message(body).split(|b| *b == 0).take_while(|name| !name.is_empty())
}

/// Appends the AuthenticationSASL of `body` without `mechanism`. Returns whether that was in it, and appends
/// nothing else.
pub fn put_sasl_without(out: &mut BytesMut, body: &[u8], mechanism: &[u8]) -> bool {
    let Some((kind, _)) = body.split_first_chunk::<4>() else { return false };
    if !offers(body, mechanism) {
        return false;
    }
    frame::put(out, tag::AUTHENTICATION, |out| {
        out.put_slice(kind);
        mechanisms(body).filter(|name| *name != mechanism).for_each(|name| put_text(out, name));
        out.put_u8(0);
    });
    true
}

/// What a client needs in order to cancel what this session does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendKeyData {
    pub pid: u32,
    /// 4 bytes in protocol 3.0, up to 256 in 3.2.
    pub key: Bytes,
}

/// Reads BackendKeyData. A session keeps it, and would keep all that it was read with otherwise.
pub fn backend_key_data(body: &[u8]) -> Result<BackendKeyData, BackendError> {
    let short = BackendError::Short(tag::BACKEND_KEY_DATA);
    let (pid, key) = body.split_first_chunk::<4>().ok_or(short)?;
    if key.len() < 4 {
        return Err(short);
    }
    Ok(BackendKeyData { pid: u32::from_be_bytes(*pid), key: Bytes::copy_from_slice(key) })
}

/// Appends BackendKeyData.
pub fn put_backend_key_data(out: &mut BytesMut, data: &BackendKeyData) {
    frame::put(out, tag::BACKEND_KEY_DATA, |body| {
        body.put_u32(data.pid);
        body.put_slice(&data.key);
    });
}

/// Reads ParameterStatus: a setting and its present value.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), BackendError> {
    let mut rest = body;
    let name = text(tag::PARAMETER_STATUS, &mut rest)?;
    Ok((name, text(tag::PARAMETER_STATUS, &mut rest)?))
}

/// Appends ParameterStatus.
pub fn put_parameter_status(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    frame::put(out, tag::PARAMETER_STATUS, |body| {
        put_text(body, name);
        put_text(body, value);
    });
}

/// What a column of a row description holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    Text,
    /// `bigint`.
    Number,
}

/// A column of a row description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    pub name: &'a [u8],
    pub of: ColumnType,
    /// Its values are not in their text form.
    pub is_binary: bool,
}

/// Appends RowDescription. More columns than a message can count are left out.
pub fn put_row_description<'a>(
    out: &mut BytesMut,
    columns: impl ExactSizeIterator<Item = Column<'a>>,
) {
    const TEXT_OID: u32 = 25;
    const BIGINT_OID: u32 = 20;
    frame::put(out, tag::ROW_DESCRIPTION, |body| {
        let count = u16::try_from(columns.len()).unwrap_or(u16::MAX);
        body.put_u16(count);
        for column in columns.take(usize::from(count)) {
            put_text(body, column.name);
            // Of no table.
            body.put_u32(0);
            body.put_u16(0);
            let (oid, bytes) = match column.of {
                ColumnType::Text => (TEXT_OID, -1),
                ColumnType::Number => (BIGINT_OID, 8),
            };
            body.put_u32(oid);
            body.put_i16(bytes);
            // Without a modifier.
            body.put_i32(-1);
            body.put_u16(u16::from(column.is_binary));
        }
    });
}

/// Appends DataRow; `None` is null.
pub fn put_row<'a>(out: &mut BytesMut, values: impl ExactSizeIterator<Item = Option<&'a [u8]>>) {
    frame::put(out, tag::DATA_ROW, |body| {
        let count = u16::try_from(values.len()).unwrap_or(u16::MAX);
        body.put_u16(count);
        for value in values.take(usize::from(count)) {
            let Some(value) = value else {
                body.put_i32(-1);
                continue;
            };
            body.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
            body.put_slice(value);
        }
    });
}

/// Appends the whole answer to a query that returns one text: its description, one row, and what was done.
pub fn put_one_text(out: &mut BytesMut, column: &[u8], value: &[u8], command: &[u8]) {
    let column = Column { name: column, of: ColumnType::Text, is_binary: false };
    put_row_description(out, std::iter::once(column));
    put_row_of_one(out, value);
    put_command_complete(out, command);
}

/// Appends a row of one value.
pub fn put_row_of_one(out: &mut BytesMut, value: &[u8]) {
    put_row(out, std::iter::once(Some(value)));
}

/// Appends a message that says nothing but what it is: ParseComplete, BindComplete, CloseComplete, NoData or
/// EmptyQueryResponse.
pub fn put_bare(out: &mut BytesMut, tag: u8) {
    frame::put(out, tag, |_| {});
}

/// Appends the ParameterDescription of a statement that takes none.
pub fn put_no_parameters(out: &mut BytesMut) {
    frame::put(out, tag::PARAMETER_DESCRIPTION, |body| body.put_u16(0));
}

/// Returns the value of a row that has only this one, and not NULL.
pub fn row_of_one(body: &[u8]) -> Option<&[u8]> {
    let (&columns, rest) = body.split_first_chunk::<2>()?;
    let (&length, value) = rest.split_first_chunk::<4>()?;
    let is_whole = usize::try_from(u32::from_be_bytes(length)) == Ok(value.len());
    (u16::from_be_bytes(columns) == 1 && is_whole).then_some(value)
}

/// Appends CommandComplete.
pub fn put_command_complete(out: &mut BytesMut, command: &[u8]) {
    frame::put(out, tag::COMMAND_COMPLETE, |body| put_text(body, command));
}

/// Reads CommandComplete: what was done, as in `INSERT 0 1`.
pub fn command_complete(body: &[u8]) -> Result<&[u8], BackendError> {
    let mut rest = body;
    text(tag::COMMAND_COMPLETE, &mut rest)
}

/// How bad it is. Notices have other words; a relay does not tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, and with it the transaction.
    Error,
    /// The session is over.
    Fatal,
    /// The whole server starts again.
    Panic,
    /// WARNING, NOTICE, DEBUG, INFO, LOG: nothing failed.
    Notice,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
            // What we have to say without failing is worth reading.
            Self::Notice => "WARNING",
        }
    }

    fn of(word: &str) -> Self {
        match word {
            "ERROR" => Self::Error,
            "FATAL" => Self::Fatal,
            "PANIC" => Self::Panic,
            _ => Self::Notice,
        }
    }
}

/// The fields of an ErrorResponse or a NoticeResponse, in the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report<'a> {
    pub fields: Vec<(u8, Cow<'a, str>)>,
}

/// The letters that name the fields of a report.
pub mod field {
    /// Severity in the server's language.
    pub const SEVERITY: u8 = b'S';
    /// Severity in English, always.
    pub const SEVERITY_PLAIN: u8 = b'V';
    pub const CODE: u8 = b'C';
    pub const MESSAGE: u8 = b'M';
    pub const DETAIL: u8 = b'D';
    pub const HINT: u8 = b'H';
    /// The call stack inside the server, one call a line.
    pub const CONTEXT: u8 = b'W';
    pub const SCHEMA: u8 = b's';
    pub const TABLE: u8 = b't';
    pub const CONSTRAINT: u8 = b'n';
    /// The file of the server's source that says so.
    pub const FILE: u8 = b'F';
}

impl<'a> Report<'a> {
    /// Reads the body of an ErrorResponse or a NoticeResponse.
    ///
    /// Bytes that are not UTF-8 are replaced: a report is for people, and its codes are ASCII.
    pub fn read(body: &'a [u8]) -> Result<Self, BackendError> {
        let mut rest = body;
        let mut fields = Vec::new();
        loop {
            let short = BackendError::Short(tag::ERROR_RESPONSE);
            let (&kind, after) = rest.split_first().ok_or(short)?;
            rest = after;
            if kind == 0 {
                return Ok(Self { fields });
            }
            let value = text(tag::ERROR_RESPONSE, &mut rest)?;
            fields.push((kind, String::from_utf8_lossy(value)));
        }
    }

    /// Begins a report of our own.
    pub fn new(severity: Severity, code: SqlState, message: impl Into<Cow<'a, str>>) -> Self {
        let word = severity.word();
        Self {
            fields: vec![
                (field::SEVERITY, word.into()),
                (field::SEVERITY_PLAIN, word.into()),
                (field::CODE, code.0.into()),
                (field::MESSAGE, message.into()),
            ],
        }
    }

    /// Adds a full sentence that says more.
    #[must_use]
    pub fn detail(self, detail: impl Into<Cow<'a, str>>) -> Self {
        self.with(field::DETAIL, detail)
    }

    /// Adds a full sentence that says what to do.
    #[must_use]
    pub fn hint(self, hint: impl Into<Cow<'a, str>>) -> Self {
        self.with(field::HINT, hint)
    }

    /// Adds any field.
    #[must_use]
    pub fn with(mut self, kind: u8, value: impl Into<Cow<'a, str>>) -> Self {
        self.fields.push((kind, value.into()));
        self
    }

    /// Returns the first field of this kind.
    pub fn get(&self, kind: u8) -> Option<&str> {
        self.fields.iter().find(|(k, _)| *k == kind).map(|(_, value)| value.as_ref())
    }

    /// Returns the SQLSTATE; empty when there is none.
    pub fn code(&self) -> &str {
        self.get(field::CODE).unwrap_or_default()
    }

    pub fn severity(&self) -> Severity {
        let word = self.get(field::SEVERITY_PLAIN).or_else(|| self.get(field::SEVERITY));
        Severity::of(word.unwrap_or_default())
    }

    /// Returns whether the server closes the connection after this.
    pub fn ends_session(&self) -> bool {
        matches!(self.severity(), Severity::Fatal | Severity::Panic)
    }

    /// Appends the report as an ErrorResponse.
    pub fn put_error(&self, out: &mut BytesMut) {
        frame::put(out, tag::ERROR_RESPONSE, |body| self.put_fields(body));
    }

    /// Appends the report as a NoticeResponse.
    pub fn put_notice(&self, out: &mut BytesMut) {
        frame::put(out, tag::NOTICE_RESPONSE, |body| self.put_fields(body));
    }

    fn put_fields(&self, body: &mut BytesMut) {
        for (kind, value) in self.fields.iter().filter(|(kind, _)| *kind != 0) {
            body.put_u8(*kind);
            put_text(body, value.as_bytes());
        }
        body.put_u8(0);
    }
}

fn text<'a>(tag: u8, rest: &mut &'a [u8]) -> Result<&'a [u8], BackendError> {
    let end = rest.iter().position(|b| *b == 0).ok_or(BackendError::Short(tag))?;
    let text = &rest[..end];
    *rest = &rest[end + 1..];
    Ok(text)
}

/// A text ends at its first zero byte, as it would for its reader.
fn put_text(body: &mut BytesMut, text: &[u8]) {
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    body.put_slice(&text[..end]);
    body.put_u8(0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sqlstate;

    #[test]
    fn a_refusal_survives_the_wire_with_all_its_fields() {
        let refusal = Report::new(
            Severity::Error,
            sqlstate::READ_ONLY_SQL_TRANSACTION,
            "partition 4 is not owned here",
        )
        .detail("Owner region: eu, epoch: 7.")
        .hint("Connect to region eu.");
        let mut wire = BytesMut::new();
        refusal.put_error(&mut wire);
        let message = frame::take(&mut wire, 1024).unwrap().unwrap();
        let back = Report::read(&message.body).unwrap();
        assert_eq!((message.tag, &back), (tag::ERROR_RESPONSE, &refusal));
        assert_eq!(back.code(), "25006");
        assert_eq!(back.get(field::DETAIL), Some("Owner region: eu, epoch: 7."));
        assert!(!back.ends_session());
    }

    #[test]
    fn a_row_has_as_many_values_as_its_description_has_columns() {
        let mut wire = BytesMut::new();
        let column = |name, of, is_binary| Column { name, of, is_binary };
        let columns = [
            column(&b"id"[..], ColumnType::Number, true),
            column(b"state", ColumnType::Text, false),
        ];
        put_row_description(&mut wire, columns.into_iter());
        put_row(&mut wire, [Some(&b"\0\0\0\0\0\0\0\x07"[..]), None].into_iter());
        let description = frame::take(&mut wire, 1024).unwrap().unwrap();
        assert_eq!(
            &description.body[..],
            b"\0\x02id\0\0\0\0\0\0\0\0\0\0\x14\0\x08\xff\xff\xff\xff\0\x01\
              state\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"
        );
        let row = frame::take(&mut wire, 1024).unwrap().unwrap();
        assert_eq!(&row.body[..], b"\0\x02\0\0\0\x08\0\0\0\0\0\0\0\x07\xff\xff\xff\xff");
        assert!(wire.is_empty());
    }

    #[test]
    fn a_mechanism_is_left_out_of_an_offer_and_nothing_else() {
        let left = |body: &[u8]| {
            let mut wire = BytesMut::new();
            put_sasl_without(&mut wire, body, b"SCRAM-SHA-256-PLUS").then_some(wire)
        };
        let offer = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        let mut wire = left(offer).unwrap();
        let message = frame::take(&mut wire, 1024).unwrap().unwrap();
        assert_eq!(message.tag, tag::AUTHENTICATION);
        assert_eq!(&message.body[..], b"\0\0\0\x0aSCRAM-SHA-256\0\0");
        assert!(wire.is_empty());
        for other in [
            &b"\0\0\0\x0aSCRAM-SHA-256\0\0"[..],
            b"\0\0\0\x0a\0SCRAM-SHA-256-PLUS\0",
            b"\0\0\0\x0bSCRAM-SHA-256-PLUS\0\0",
            b"\0\0\0\x0a",
            b"\0\0",
        ] {
            assert_eq!(left(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_plain_severity_counts_whatever_the_language_of_the_server() {
        let body = b"SFATALE\0VFATAL\0C57P01\0\0";
        assert!(Report::read(body).unwrap().ends_session());
        assert_eq!(Report::read(b"SERROR\0\0").unwrap().severity(), Severity::Error);
        assert_eq!(Report::read(b"SWARNING\0\0").unwrap().severity(), Severity::Notice);
    }

    #[test]
    fn a_report_that_is_cut_short_is_refused() {
        for body in [&b""[..], b"S", b"SERROR", b"SERROR\0", b"SERROR\0C"] {
            assert_eq!(Report::read(body), Err(BackendError::Short(tag::ERROR_RESPONSE)));
        }
    }

    #[test]
    fn a_transaction_status_survives_the_wire() {
        use TransactionStatus::{Failed, Idle, Open};
        for status in [Idle, Open, Failed] {
            let mut wire = BytesMut::new();
            put_ready_for_query(&mut wire, status);
            let message = frame::take(&mut wire, 1024).unwrap().unwrap();
            assert_eq!(ready_for_query(&message.body), Ok(status));
        }
        assert_eq!(ready_for_query(b"X"), Err(BackendError::Status(b'X')));
    }

    #[test]
    fn a_row_of_one_value_survives_the_wire_and_others_are_none() {
        let mut wire = BytesMut::new();
        put_row_of_one(&mut wire, b"one");
        let message = frame::take(&mut wire, 1024).unwrap().unwrap();
        assert_eq!(row_of_one(&message.body), Some(&b"one"[..]));
        for other in [
            &b""[..],
            b"\0\x01",
            b"\0\x01\xff\xff\xff\xff",
            b"\0\x01\0\0\0\x02a",
            b"\0\x01\0\0\0\x01ab",
            b"\0\x02\0\0\0\x01a\0\0\0\x01b",
        ] {
            assert_eq!(row_of_one(other), None, "{other:?}");
        }
    }

    #[test]
    fn every_way_to_ask_for_a_password_is_told_apart() {
        assert_eq!(authentication(b"\0\0\0\0"), Ok(Authentication::Ok));
        assert_eq!(authentication(b"\0\0\0\x03"), Ok(Authentication::CleartextPassword));
        let md5 = Authentication::Md5Password { salt: *b"salt" };
        assert_eq!(authentication(b"\0\0\0\x05salt"), Ok(md5));
        assert_eq!(authentication(b"\0\0\0\x0aSCRAM-SHA-256\0\0"), Ok(Authentication::Sasl));
        assert_eq!(authentication(b"\0\0\0\x07"), Ok(Authentication::Other(7)));
        assert!(authentication(b"\0\0\0\x05sa").is_err());
    }

    #[test]
    fn a_cancel_key_may_be_longer_than_four_bytes() {
        let body = Bytes::from_static(b"\0\0\0\x2along key");
        let key = backend_key_data(&body).unwrap();
        assert_eq!((key.pid, &key.key[..]), (42, &b"long key"[..]));
        assert!(backend_key_data(&Bytes::from_static(b"\0\0\0\x2akey")).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(body: Vec<u8>) {
            let body = Bytes::from(body);
            let _ = Report::read(&body).map(|report| (report.ends_session(), report.code().len()));
            let _ = ready_for_query(&body);
            let _ = authentication(&body);
            let _ = backend_key_data(&body);
            let _ = parameter_status(&body);
            let _ = command_complete(&body);
            let _ = row_of_one(&body);
        }

        #[test]
        fn any_report_survives_the_wire(
            fields in prop::collection::vec((1u8.., "[^\0]{0,20}"), 0..10),
        ) {
            let report = Report { fields: fields.into_iter().map(|(k, v)| (k, v.into())).collect() };
            let mut wire = BytesMut::new();
            report.put_notice(&mut wire);
            let message = frame::take(&mut wire, 4096).unwrap().unwrap();
            prop_assert_eq!(Report::read(&message.body).unwrap(), report);
        }

        #[test]
        fn any_setting_survives_the_wire(name in "[^\0]{0,20}", value in "[^\0]{0,20}") {
            let mut wire = BytesMut::new();
            put_parameter_status(&mut wire, name.as_bytes(), value.as_bytes());
            let message = frame::take(&mut wire, 4096).unwrap().unwrap();
            let expected = (name.as_bytes(), value.as_bytes());
            prop_assert_eq!(parameter_status(&message.body), Ok(expected));
        }
    }
}
