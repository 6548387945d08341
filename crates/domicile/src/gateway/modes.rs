//! Does a text choose for itself whether its transaction may write, and does it make temporary tables?
//!
//! What a session reads near its clients is read-only there by `default_transaction_read_only`, which stands behind what
//! a transaction says of itself: `BEGIN READ WRITE`. What functions and procedures choose is not seen; once a query has
//! begun PostgreSQL lets nobody choose any more.

use super::setting::all_tokens;

/// What a text says of whether its transaction may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// It is to.
    Writes,
    /// It is not to.
    Reads,
    /// It asks whether it may.
    Asks,
}

const CHOSEN: &[u8] = b"transaction_read_only";
const DEFAULT: &[u8] = b"default_transaction_read_only";

/// Spares most texts the closer look.
const HINTS: [&[u8]; 5] = [b"write", b"only", CHOSEN, b"characteristics", b"reset"];

/// Returns what `sql`, one or more statements, says; most say nothing.
pub fn read(sql: &[u8]) -> Option<Says> {
    if !HINTS.iter().any(|hint| has(sql, hint)) {
        return None;
    }
    let tokens: Vec<&[u8]> = all_tokens(sql).collect();
    let statements = tokens.split(|token| *token == b";").filter(|words| !words.is_empty());
    let (mut reads, mut asks, mut sets_default) = (false, false, false);
    for (number, words) in statements.enumerate() {
        match of_statement(words) {
            Of::Writes => return Some(Says::Writes),
            Of::Reads => reads = true,
            Of::Asks => asks = true,
            Of::SetsDefault => sets_default = true,
            Of::Nothing => {}
        }
        // The text may go on to another transaction.
        if sets_default && number > 0 {
            return Some(Says::Writes);
        }
    }
    match (asks, reads) {
        (true, _) => Some(Says::Asks),
        (false, true) => Some(Says::Reads),
        (false, false) => None,
    }
}

enum Of {
    Nothing,
    Writes,
    Reads,
    Asks,
    /// Of the transactions that come next; the server says that it did.
    SetsDefault,
}

fn of_statement(words: &[&[u8]]) -> Of {
    let is = |at: usize, word: &[u8]| words.get(at).is_some_and(|w| w.eq_ignore_ascii_case(word));
    let chosen = || {
        let pairs = |second: &[u8]| {
            let is = |p: &[&[u8]]| {
                p[0].eq_ignore_ascii_case(b"read") && p[1].eq_ignore_ascii_case(second)
            };
            words.windows(2).any(is)
        };
        match (pairs(b"write"), pairs(b"only")) {
            (true, _) => Of::Writes,
            (false, true) => Of::Reads,
            (false, false) => Of::Nothing,
        }
    };
    if is(0, b"begin") || is(0, b"start") {
        return chosen();
    }
    if is(0, b"set") || is(0, b"reset") {
        let at = if is(1, b"local") || is(1, b"session") { 2 } else { 1 };
        let named = words.get(at).map(|word| unquoted(word)).unwrap_or_default();
        return match named.as_slice() {
            b"transaction" => chosen(),
            CHOSEN => Of::Writes,
            DEFAULT | b"all" => Of::SetsDefault,
            _ if words.iter().any(|w| w.eq_ignore_ascii_case(b"characteristics")) => {
                Of::SetsDefault
            }
            _ => Of::Nothing,
        };
    }
    // A body may end its transaction and begin another one.
    if is(0, b"do") && words.iter().any(|word| has(word, b"write")) {
        return Of::Writes;
    }
    if words.iter().any(|word| has(word, CHOSEN)) { Of::Asks } else { Of::Nothing }
}

/// Returns the names of what `sql` makes for its session alone.
pub fn temporary(sql: &[u8]) -> Vec<Vec<u8>> {
    if !has(sql, b"temp") {
        return Vec::new();
    }
    const BEFORE: [&[u8]; 5] = [b"create", b"into", b"replace", b"local", b"global"];
    const BETWEEN: [&[u8]; 7] =
        [b"table", b"view", b"recursive", b"sequence", b"if", b"not", b"exists"];
    let (mut names, mut before) = (Vec::new(), Vec::new());
    let mut tokens = all_tokens(sql);
    while let Some(token) = tokens.next() {
        let word = unquoted(token);
        let is_made = matches!(word.as_slice(), b"temp" | b"temporary")
            && BEFORE.contains(&before.as_slice());
        if is_made {
            let name = tokens.by_ref().find(|token| !BETWEEN.contains(&unquoted(token).as_slice()));
            names.extend(name.map(last_part));
        } else if word.starts_with(b"pg_temp") {
            names.push(last_part(token));
        }
        before = word;
    }
    names
}

/// Is one of these names in `sql`?
pub fn mentions(sql: &[u8], names: &[Vec<u8>]) -> bool {
    !names.is_empty() && all_tokens(sql).any(|token| names.contains(&last_part(token)))
}

fn last_part(name: &[u8]) -> Vec<u8> {
    unquoted(name).rsplit(|byte| *byte == b'.').next().unwrap_or_default().to_vec()
}

/// In small letters, with quotes or without: two names that differ in that only are held for one.
fn unquoted(token: &[u8]) -> Vec<u8> {
    token.iter().filter(|byte| **byte != b'"').map(u8::to_ascii_lowercase).collect()
}

fn has(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_chooses_to_write_is_told_from_who_asks() {
        for sql in [
            "BEGIN READ WRITE",
            "start transaction isolation level serializable, read /* and */ write",
            "SELECT 1; BEGIN READ\nWRITE; INSERT INTO note VALUES (1)",
            "SET TRANSACTION READ WRITE",
            "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE",
            "SET LOCAL TRANSACTION ISOLATION LEVEL SERIALIZABLE READ WRITE",
            "SET transaction_read_only = off",
            "SET LOCAL \"transaction_read_only\" TO 'off'",
            "RESET transaction_read_only",
            "SET default_transaction_read_only = off; COMMIT; INSERT INTO note VALUES (1)",
            "SELECT 1; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            "DO $$ BEGIN COMMIT; SET TRANSACTION READ WRITE; END $$",
        ] {
            let said = read(sql.as_bytes());
            assert_eq!(said, Some(Says::Writes), "{sql}");
        }
        for sql in [
            "SHOW transaction_read_only",
            "SHOW default_transaction_read_only",
            "SELECT current_setting('transaction_read_only')",
            "SELECT 1; SELECT setting FROM pg_settings WHERE name = 'default_transaction_read_only'",
        ] {
            assert_eq!(read(sql.as_bytes()), Some(Says::Asks), "{sql}");
        }
        for sql in ["BEGIN READ ONLY; SELECT 1", "SET TRANSACTION READ ONLY"] {
            assert_eq!(read(sql.as_bytes()), Some(Says::Reads), "{sql}");
        }
        for sql in [
            "BEGIN",
            "BEGIN ISOLATION LEVEL READ COMMITTED -- only",
            "SELECT 'BEGIN READ WRITE', written FROM note -- READ WRITE",
            "SET default_transaction_read_only = on",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            "RESET ALL",
            "INSERT INTO note VALUES (1)",
        ] {
            assert_eq!(read(sql.as_bytes()), None, "{sql}");
        }
    }

    #[test]
    fn what_is_made_for_a_session_alone_is_known_by_its_name() {
        let made = |sql: &str| {
            let names = temporary(sql.as_bytes());
            names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
        };
        for (sql, names) in [
            ("CREATE TEMP TABLE IF NOT EXISTS Found (id int)", vec!["found"]),
            ("create temporary table \"found\" as select 1; create temp view v as table found", {
                vec!["found", "v"]
            }),
            ("SELECT * INTO TEMP found FROM note", vec!["found"]),
            ("SELECT * INTO TEMP TABLE found FROM note", vec!["found"]),
            ("CREATE TABLE pg_temp.found (id int)", vec!["found"]),
            ("CREATE TABLE temp (id int)", vec![]),
            ("SELECT temp FROM weather", vec![]),
        ] {
            assert_eq!(made(sql), names, "{sql}");
        }
        let names = temporary(b"CREATE TEMP TABLE found (id int)");
        assert!(mentions(b"DROP TABLE IF EXISTS \"found\"", &names));
        assert!(mentions(b"CREATE INDEX ON pg_temp.found (id)", &names));
        assert!(!mentions(b"DROP TABLE note", &names) && !mentions(b"DROP TABLE note", &[]));
    }
}
