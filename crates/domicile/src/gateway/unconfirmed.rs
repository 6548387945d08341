//! What does a client hear of a commit whose wait for a copy was cancelled?
//!
//! PostgreSQL cannot take such a commit back: it says WARNING, and then that all went well. With an
//! RPO that would be an acknowledgement of what no other region is known to hold. So the warning
//! becomes the error that answers the query, and all else that belongs to its success is left out.

use bytes::Bytes;
use domicile_core::id::RegionId;
use domicile_core::progress::Rpo;
use domicile_pg::backend::{Report, Severity, field, tag};
use domicile_pg::sqlstate;

use super::{cut, refusals};

/// Where PostgreSQL waits for standbys. Nothing else there warns anybody, and unlike what the warning
/// says, the name of a source file is in no language.
const SOURCE_FILE: &str = "syncrep.c";
const WARNING: &str = "WARNING";

/// What a client is told of one message of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    AsItIs,
    /// Instead of it that the outcome is [`unknown`].
    Unknown,
    Nothing,
    /// The server waits for data that a client which was told an error will not send.
    End,
}

/// Follows the answers to one query after the other.
#[derive(Debug)]
pub struct Unconfirmed {
    /// Commits wait for a copy.
    waits: bool,
    /// The client was told an error; what comes until the server is ready again is not for it.
    failed: bool,
}

impl Unconfirmed {
    pub fn new(rpo: Rpo) -> Self {
        Self { waits: rpo.waits_for_capture(), failed: false }
    }

    /// Returns whether the client was told that its query failed, though the server goes on with it.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// A message came from the server.
    pub fn tell(&mut self, tag: u8, raw: &Bytes) -> Told {
        match tag {
            tag::READY_FOR_QUERY => {
                self.failed = false;
                Told::AsItIs
            }
            tag::NOTICE_RESPONSE if self.waits && is_of_cancelled_wait(raw) => {
                // Of several commits in one query one error is enough.
                match std::mem::replace(&mut self.failed, true) {
                    true => Told::Nothing,
                    false => Told::Unknown,
                }
            }
            // They come at any time and are no answer.
            tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE | tag::PARAMETER_STATUS => {
                Told::AsItIs
            }
            tag::COPY_IN_RESPONSE if self.failed => Told::End,
            tag::ERROR_RESPONSE if self.failed && ends_session(raw) => Told::AsItIs,
            _ if self.failed => Told::Nothing,
            _ => Told::AsItIs,
        }
    }
}

fn is_of_cancelled_wait(raw: &Bytes) -> bool {
    let body = cut::body(raw);
    let Ok(report) = Report::read(&body) else { return false };
    report.get(field::SEVERITY_PLAIN) == Some(WARNING)
        && report.get(field::FILE) == Some(SOURCE_FILE)
}

fn ends_session(raw: &Bytes) -> bool {
    Report::read(&cut::body(raw)).is_ok_and(|report| report.ends_session())
}

/// Not of a class that frameworks repeat by themselves, as 40003 is: it may be done twice then.
pub fn unknown(region: &RegionId, token: Option<&str>) -> Report<'static> {
    Report::new(
        Severity::Error,
        sqlstate::TRANSACTION_RESOLUTION_UNKNOWN,
        format!(
            "transaction is committed in region \"{region}\" and not known to be held elsewhere"
        ),
    )
    .detail(
        "Its wait for a copy was cancelled. Until there is one, it may be lost with the region.",
    )
    .hint(refusals::find_out(token).unwrap_or_else(|| {
        "Look whether the transaction took effect before repeating it.".to_owned()
    }))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    const ROWS: &[u8] = b"\0";

    fn notice(severity: &'static str, file: &'static str) -> Bytes {
        let report = Report {
            fields: vec![
                (field::SEVERITY, "WARNUNG".into()),
                (field::SEVERITY_PLAIN, severity.into()),
                (field::CODE, "01000".into()),
                (field::MESSAGE, "storniere Warten auf synchrone Replikation".into()),
                (field::FILE, file.into()),
            ],
        };
        let mut raw = BytesMut::new();
        report.put_notice(&mut raw);
        raw.freeze()
    }

    fn raw(body: &[u8]) -> Bytes {
        [&[0; cut::HEADER_BYTES][..], body].concat().into()
    }

    #[test]
    fn a_cancelled_wait_is_known_in_any_language_and_ends_with_its_query() {
        let mut unconfirmed = Unconfirmed::new(Rpo::Zero { copies: 1 });
        let warning = notice("WARNING", "syncrep.c");
        assert_eq!(unconfirmed.tell(b'N', &warning), Told::Unknown);
        for tag in *b"CTDE" {
            assert_eq!(unconfirmed.tell(tag, &raw(ROWS)), Told::Nothing);
        }
        assert_eq!(unconfirmed.tell(b'N', &warning), Told::Nothing);
        assert_eq!(unconfirmed.tell(b'N', &notice("WARNING", "xact.c")), Told::AsItIs);
        assert_eq!(unconfirmed.tell(b'E', &raw(b"VFATAL\0\0")), Told::AsItIs);
        assert_eq!(unconfirmed.tell(b'G', &raw(ROWS)), Told::End);
        assert_eq!(unconfirmed.tell(b'Z', &raw(b"I")), Told::AsItIs);
        assert_eq!(unconfirmed.tell(b'C', &raw(b"COMMIT\0")), Told::AsItIs);
    }

    #[test]
    fn other_warnings_are_told_as_they_are() {
        let mut unconfirmed = Unconfirmed::new(Rpo::Zero { copies: 1 });
        for (severity, file) in [("WARNING", "pl_exec.c"), ("LOG", "syncrep.c")] {
            assert_eq!(unconfirmed.tell(b'N', &notice(severity, file)), Told::AsItIs);
        }
        let mut unconfirmed = Unconfirmed::new(Rpo::None);
        assert_eq!(unconfirmed.tell(b'N', &notice("WARNING", "syncrep.c")), Told::AsItIs);
    }
}
