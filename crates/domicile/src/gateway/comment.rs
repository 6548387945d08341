//! What does a statement say of itself, in a comment at its beginning?
//!
//! ```sql
//! /* domicile.freshness=bounded(5s), domicile.key='shop-7' */ SELECT ...
//! ```
//!
//! PostgreSQL passes comments over, and so do drivers and pools: who can change nothing but the text can still say it.
//! It counts for the transaction that begins with the statement, whatever the session has set.
//!
//! Comments are everybody's: what is in one and does not begin as a setting of the gateway's own is not looked at.

use domicile_core::freshness::Freshness;
use domicile_pg::frontend::{self, Frontend, tag as from_client};

use super::session::Session;
use super::setting::ours::{FRESHNESS, KEY};
use super::{cut, setting};

/// Longer comments are not looked at, with the space before them. Of a large message so much is always there.
const BYTES_MAX: usize = 512;

/// What a statement says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub freshness: Option<Freshness>,
    /// An empty one is none, whatever the session has set.
    pub key: Option<String>,
}

/// What a comment says, or what is wrong with that.
pub type Comment = Result<Said, String>;

/// May the text begin with a comment? Mostly its first byte says no.
pub fn may_begin(sql: &[u8]) -> bool {
    sql.trim_ascii_start().starts_with(b"/*")
}

/// Returns what `sql` says of itself, if it does. What ends a transaction says nothing of one.
pub fn read(sql: &[u8]) -> Option<Comment> {
    if !may_begin(sql) {
        return None;
    }
    let begun = sql.trim_ascii_start();
    let room = (BYTES_MAX + begun.len()).saturating_sub(sql.len());
    let (comment, rest) = begun.split_at(setting::comment(begun));
    let inside = comment.strip_prefix(b"/*")?.strip_suffix(b"*/")?;
    if comment.len() > room || ends_transaction(rest) {
        return None;
    }
    said(&String::from_utf8_lossy(inside)).transpose()
}

fn said(comment: &str) -> Result<Option<Said>, String> {
    let (mut said, mut rest) = (None, comment);
    while let Some((name, after)) = rest.split_once('=') {
        // Before a comma stands what has no value.
        let name = name.rsplit(',').next().unwrap_or(name).trim().to_ascii_lowercase();
        let invalid = |why: String| format!("invalid value for parameter \"{name}\": {why}");
        let (value, after) = value(after);
        rest = after;
        if !name.starts_with("domicile.") {
            continue;
        }
        let value = value.map_err(invalid)?;
        let said = said.get_or_insert_with(Said::default);
        match name.as_str() {
            FRESHNESS => {
                let freshness = value.parse::<Freshness>();
                said.freshness = Some(freshness.map_err(|error| invalid(error.to_string()))?);
            }
            KEY => said.key = Some(value),
            _ => {
                return Err(format!(
                    "parameter \"{name}\" cannot be set in a comment: {FRESHNESS} and {KEY} can"
                ));
            }
        }
    }
    Ok(said)
}

/// Takes a value from the front, and what goes up to the next name. In quotes stands whatever does not end there.
fn value(text: &str) -> (Result<String, String>, &str) {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('\'') else {
        let (value, rest) = text.split_once(',').unwrap_or((text, ""));
        let value = value.trim();
        return match value.contains(char::is_whitespace) {
            true => (Err(format!("\"{value}\" has to be in quotes, as in 'a b'")), rest),
            false => (Ok(value.to_owned()), rest),
        };
    };
    let (mut value, mut rest) = (String::new(), quoted);
    while let Some((part, after)) = rest.split_once('\'') {
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => {
                let (left, next) = after.split_once(',').unwrap_or((after, ""));
                return match left.trim() {
                    "" => (Ok(value), next),
                    left => (Err(format!("\"{left}\" comes behind its end")), next),
                };
            }
        }
    }
    (Err("its quotes are not closed".to_owned()), "")
}

fn begins_with(sql: &[u8], words: &[&[u8]]) -> bool {
    let sql = sql.trim_ascii_start();
    words.iter().any(|word| {
        let (begin, rest) = sql.split_at(word.len().min(sql.len()));
        begin.eq_ignore_ascii_case(word) && !rest.first().is_some_and(u8::is_ascii_alphanumeric)
    })
}

fn ends_transaction(sql: &[u8]) -> bool {
    begins_with(sql, &[b"COMMIT", b"END", b"ROLLBACK", b"ABORT"])
}

fn begins_transaction(sql: &[u8]) -> bool {
    begins_with(sql, &[b"BEGIN", b"START"])
}

impl Session {
    /// A transaction begins with the next message, or none does: what was said of the one before is over.
    pub fn forget_comment(&mut self) {
        self.reading.said = None;
        self.key.said = None;
    }

    /// Takes in what a statement says of itself that begins a transaction, or goes on with one. Fails where that
    /// cannot be, with the reason.
    pub fn take_comment(&mut self, comment: Option<Comment>) -> Result<(), String> {
        let Some(comment) = comment else { return Ok(()) };
        let Said { freshness, key } = comment?;
        if key.is_some() {
            self.key.said = key;
        }
        let Some(asked) = freshness else { return Ok(()) };
        if self.track.is_idle() {
            self.reading.said = Some(asked);
            return Ok(());
        }
        match self.reading.freshness() {
            Some(begun) if begun == asked => Ok(()),
            begun => {
                let begun = begun.map_or("none".to_owned(), |begun| begun.to_string());
                Err(format!(
                    "invalid value for parameter \"{FRESHNESS}\": {asked} is not what the transaction \
                     began with, which is {begun}"
                ))
            }
        }
    }

    /// Takes in what is said behind a BEGIN that drivers send together with the first statement. What is wrong there
    /// is told in its place.
    pub fn take_comment_behind(&mut self, tag: u8, body: &[u8]) {
        if self.client.incoming.is_empty() {
            return;
        }
        let comment = self.comment_behind(tag, body).and_then(Result::ok);
        let _ = self.take_comment(comment.map(Ok));
    }

    fn comment_behind(&self, tag: u8, body: &[u8]) -> Option<Comment> {
        let begin = match frontend::read(tag, body).ok()? {
            Frontend::Parse { statement, sql } if begins_transaction(sql) => statement,
            Frontend::Bind { statement, .. } => {
                let parse = cut::body(self.memory.prepared().get(statement)?);
                match frontend::read(from_client::PARSE, &parse).ok()? {
                    Frontend::Parse { sql, .. } if begins_transaction(sql) => statement,
                    _ => return None,
                }
            }
            _ => return None,
        };
        for (tag, body) in cut::ahead(&self.client.incoming) {
            match frontend::read(tag, body).ok()? {
                Frontend::Parse { sql, .. } => return read(sql),
                Frontend::Bind { statement, .. } if statement != begin => {
                    return self.setters.comment(statement).cloned();
                }
                Frontend::Sync | Frontend::Query(_) | Frontend::FunctionCall => return None,
                _ => {}
            }
        }
        None
    }

    /// Does the next message of the client say something of itself? It has to wait for the end of what was asked
    /// before: only then is it known whether it begins a transaction.
    pub fn is_commented_next(&self) -> bool {
        let [tag, _, _, _, _, body @ ..] = &self.client.incoming[..] else { return false };
        if self.client_cutter.is_inside() {
            return false;
        }
        match *tag {
            from_client::QUERY => may_begin(body),
            from_client::PARSE => {
                let name = body.iter().position(|byte| *byte == 0);
                name.is_some_and(|end| may_begin(&body[end + 1..]))
            }
            from_client::BIND => match frontend::read(*tag, body) {
                Ok(Frontend::Bind { statement, .. }) => self.setters.comment(statement).is_some(),
                _ => false,
            },
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use domicile_core::time::Millis;
    use proptest::prelude::*;

    use super::*;

    fn key(key: &str) -> Option<Comment> {
        Some(Ok(Said { freshness: None, key: Some(key.to_owned()) }))
    }

    #[test]
    fn what_stands_in_the_first_comment_is_said() {
        let both = Said {
            freshness: Some(Freshness::Bounded(Millis(5000))),
            key: Some("shop-7".to_owned()),
        };
        for sql in [
            "/* domicile.freshness=bounded(5s), domicile.key='shop-7' */ SELECT 1",
            "\n /*domicile.key=shop-7,Domicile.Freshness = 'bounded(5s)'*/BEGIN",
            "/* action='a=b, c', domicile.key='shop-7', who, domicile.freshness=bounded(5s) */ COPY t",
            "/* domicile.key=1, domicile.key='shop-7', domicile.freshness = 'Bounded(5 s)' */",
        ] {
            assert_eq!(read(sql.as_bytes()), Some(Ok(both.clone())), "{sql}");
        }
        for (sql, expected) in [
            ("/* domicile.key='it''s, so' */ SELECT 1", "it's, so"),
            ("/* domicile.key='' */ SELECT 1", ""),
            ("/* domicile.key=a/b */ ENDLESS", "a/b"),
        ] {
            assert_eq!(read(sql.as_bytes()), key(expected), "{sql}");
        }
    }

    #[test]
    fn what_is_nobodys_business_is_passed_over() {
        let long = format!("/* {} domicile.key=7 */ SELECT 1", " ".repeat(BYTES_MAX));
        let far = format!("{}/* domicile.key=7 */ SELECT 1", " ".repeat(BYTES_MAX));
        for sql in [
            "",
            "SELECT 1 /* domicile.key=7 */",
            "/* one */ /* domicile.key=7 */ SELECT 1",
            "-- domicile.key=7\nSELECT 1",
            "/*+ SeqScan(t) */ SELECT 1",
            "/* see domicile.key */ SELECT 1",
            "/* the domicile.key=7 */ SELECT 1",
            "/* a='unclosed, domicile.key=7 */ SELECT 1",
            "/* domicile.key=7",
            "/*/ domicile.key=7",
            "/* domicile.key=7 */ commit",
            "/* domicile.key=7 */ROLLBACK TO a",
            &long,
            &far,
        ] {
            assert_eq!(read(sql.as_bytes()), None, "{sql}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_the_name_of_the_setting() {
        for (sql, name) in [
            ("/* domicile.freshness=soon */", "\"domicile.freshness\""),
            ("/* domicile.freshness= */", "\"domicile.freshness\""),
            ("/* domicile.key=7 and more */", "\"domicile.key\""),
            ("/* domicile.key='7' 8 */", "\"domicile.key\""),
            ("/* domicile.key='7 */", "\"domicile.key\""),
            ("/* domicile.keys=7 */", "\"domicile.keys\""),
            ("/* domicile.key=7, domicile.token=8 */", "\"domicile.token\""),
        ] {
            let wrong = read(sql.as_bytes()).unwrap().unwrap_err();
            assert!(wrong.contains(name), "{sql}: {wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(inside in "[ ,='*/a\u{e4}]{0,40}", raw: Vec<u8>) {
            for text in [inside.clone(), format!("domicile.key={inside}"), format!("{inside}*/")] {
                let _ = read(format!("/*{text}").as_bytes());
            }
            let _ = read(&[b"/*", raw.as_slice(), b"*/"].concat());
        }
    }
}
