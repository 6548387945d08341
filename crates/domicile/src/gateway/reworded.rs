//! How does PostgreSQL answer, in its place among other answers, what only the gateway knows?
//!
//! In a pipeline only PostgreSQL knows what comes before what, what an error makes of the transaction and what is
//! skipped after it. So it is asked something else: for a word that nobody else can say, and the
//! gateway puts the value where the word comes back; or for what cannot be done, and the gateway puts the reason into
//! that error.
//!
//! ```text
//! client   SHOW domicile.token ──>  SELECT '<mark>domicile.token'  ──> PostgreSQL
//!          2.c2hvcA           <──      <mark>domicile.token       <──
//! ```
//!
//! The mark is the session's: what it asks for itself is all that it can have replaced.

use bytes::{Bytes, BytesMut};
use domicile_pg::backend::{self, Report, field, tag};
use domicile_pg::frontend::{self, Frontend};

use super::cut;
use super::setting::ours::TRANSACTION;
use super::transaction;

/// How each question begins, before the mark.
const ASKED: &[u8] = b"SELECT '";

/// What one session is asked otherwise, and how its answers are known.
#[derive(Debug)]
pub struct Reworded {
    mark: String,
    /// The row of a value has come, and not yet what was done.
    shown: bool,
}

/// What the gateway has to put where an answer of PostgreSQL is.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// The value of this setting, with what PostgreSQL says of it.
    Value(String),
    /// That the setting was shown.
    Shown,
    /// The error that a setting cannot have its value, for this reason.
    Wrong(String),
}

impl Reworded {
    pub fn new() -> Self {
        Self { mark: uuid::Uuid::new_v4().simple().to_string(), shown: false }
    }

    /// Returns what to ask instead of a Query or a Parse, `raw`, that shows one of the gateway's own settings.
    pub fn show(&self, raw: &Bytes, name: &str) -> Bytes {
        let asked = String::from_utf8_lossy(ASKED);
        let sql = match name {
            // PostgreSQL has something to say of it itself.
            TRANSACTION => {
                format!("{asked}{}{name} {}') AS \"{name}\"", self.mark, transaction::ASKED)
            }
            name => format!("{asked}{}{name}' AS \"{name}\"", self.mark),
        };
        let (mut out, body) = (BytesMut::new(), cut::body(raw));
        match raw.first() {
            Some(&frontend::tag::PARSE) => {
                frontend::put_parse_with(&mut out, &body, sql.as_bytes());
            }
            _ => frontend::put_query(&mut out, sql.as_bytes()),
        }
        out.freeze()
    }

    /// Is this what is asked instead?
    pub fn is_asked(&self, sql: &[u8]) -> bool {
        sql.strip_prefix(ASKED).is_some_and(|rest| rest.starts_with(self.mark.as_bytes()))
    }

    /// Returns what to ask instead of a Query or a Bind, `raw`, that sets one of them to what it cannot be.
    pub fn refuse(&self, raw: &Bytes, why: &str) -> Bytes {
        let (mut out, body, mark) = (BytesMut::new(), cut::body(raw), &self.mark);
        match raw.first().map(|tag| frontend::read(*tag, &body)) {
            Some(Ok(Frontend::Bind { portal, .. })) => {
                let nobodys = format!("{mark}{why}{mark}");
                frontend::put_bind(&mut out, portal, nobodys.as_bytes());
            }
            _ => {
                let why = why.replace('\\', r"\\").replace('\'', "''");
                let sql = format!("SELECT E'{mark}{why}{mark}'::int");
                frontend::put_query(&mut out, sql.as_bytes());
            }
        }
        out.freeze()
    }

    /// Returns what belongs where PostgreSQL says this; mostly it is that itself.
    pub fn place(&mut self, tag: u8, raw: &Bytes) -> Option<Place> {
        let body = cut::body(raw);
        match tag {
            tag::DATA_ROW => {
                let name = backend::row_of_one(&body)?.strip_prefix(self.mark.as_bytes())?;
                self.shown = true;
                Some(Place::Value(String::from_utf8_lossy(name).into_owned()))
            }
            tag::COMMAND_COMPLETE => std::mem::take(&mut self.shown).then_some(Place::Shown),
            tag::PORTAL_SUSPENDED => {
                self.shown = false;
                None
            }
            tag::ERROR_RESPONSE => {
                self.shown = false;
                let report = Report::read(&body).ok()?;
                let mut parts = report.get(field::MESSAGE)?.split(&self.mark);
                // Around it stand PostgreSQL's own words, in its language.
                let why = parts.nth(1)?.to_owned();
                parts.next().map(|_| Place::Wrong(why))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use domicile_pg::backend::Severity;
    use domicile_pg::sqlstate;

    use super::*;

    fn answer(put: impl FnOnce(&mut BytesMut)) -> (u8, Bytes) {
        let mut out = BytesMut::new();
        put(&mut out);
        (out[0], out.freeze())
    }

    fn row(text: &str) -> (u8, Bytes) {
        answer(|out| backend::put_row_of_one(out, text.as_bytes()))
    }

    fn done() -> (u8, Bytes) {
        answer(|out| backend::put_command_complete(out, b"SELECT 1"))
    }

    #[test]
    fn a_value_has_its_place_where_the_word_comes_back_and_nowhere_else() {
        let (mut ours, mut other) = (Reworded::new(), Reworded::new());
        let (tag, marked) = row(&format!("{}domicile.key", ours.mark));
        let (_, plain) = row("domicile.key");
        assert_eq!(other.place(tag, &marked), None);
        assert_eq!(ours.place(tag, &plain), None);
        let (end, completed) = done();
        assert_eq!(ours.place(end, &completed), None);
        assert_eq!(ours.place(tag, &marked), Some(Place::Value("domicile.key".to_owned())));
        assert_eq!(ours.place(end, &completed), Some(Place::Shown));
        assert_eq!(ours.place(end, &completed), None);
        // Who asks for one row has it, and what is done next is something else.
        ours.place(tag, &marked);
        let (suspended, nothing) = answer(|out| out.extend_from_slice(b"s\0\0\0\x04"));
        assert_eq!(ours.place(suspended, &nothing), None);
        assert_eq!(ours.place(end, &completed), None);
    }

    #[test]
    fn a_reason_is_found_in_an_error_of_any_language() {
        let (mut ours, other) = (Reworded::new(), Reworded::new());
        let (mark, others) = (ours.mark.clone(), other.mark);
        let mut said = |message: String| {
            let report = Report::new(Severity::Error, sqlstate::UNDEFINED_OBJECT, message);
            let (tag, raw) = answer(|out| report.put_error(out));
            ours.place(tag, &raw)
        };
        let wrong = Some(Place::Wrong("5 s".to_owned()));
        assert_eq!(said(format!("»{mark}5 s{mark}« gibt es nicht")), wrong);
        assert_eq!(said(format!("cut short: {mark}5 s")), None);
        assert_eq!(said(format!("somebody else's: {others}5 s{others}")), None);
        assert_eq!(said("nothing of ours".to_owned()), None);
    }
}
