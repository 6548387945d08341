//! Does this text change the session itself, so that a move to another server must repeat it?
//!
//! Never guesses on the side of danger: a text that mixes settings with other statements cannot
//! be repeated, so the session that sent it stays bound to its server. What functions do to a
//! session (`set_config`) is not seen.

use domicile_pg::startup::Startup;

/// Settings that only the gateway goes by.
pub mod ours {
    pub const FRESHNESS: &str = "domicile.freshness";
    pub const KEY: &str = "domicile.key";
    pub const REPORT: &str = "domicile.report_token";
    pub const TOKEN: &str = "domicile.token";
    pub const WAIT: &str = "domicile.freshness_wait";
    // Those can only be shown.
    pub const ROUTE: &str = "domicile.route";
    pub const STALENESS: &str = "domicile.staleness";
    pub const TRANSACTION: &str = "domicile.transaction";

    pub const SET: [&str; 5] = [FRESHNESS, KEY, REPORT, TOKEN, WAIT];
    pub const SHOWN: [&str; 8] =
        [FRESHNESS, KEY, REPORT, TOKEN, WAIT, ROUTE, STALENESS, TRANSACTION];
}

/// Does a text with this key set one of [`ours`], and nothing else?
pub fn is_ours(key: &[u8]) -> bool {
    let set = |name: &&str| key.eq_ignore_ascii_case(format!("SET {name}").as_bytes());
    ours::SET.iter().any(set)
}

/// Does the gateway go by an assignment to this name?
pub fn is_heard(name: &str) -> bool {
    name == ALL || ours::SET.contains(&name)
}

/// The name of what `RESET ALL` and `DISCARD ALL` set back.
const ALL: &str = "all";

/// What a text means for the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The session is as it was.
    Nothing,
    /// Settings and nothing else; a later text with the same key replaces this one.
    Settings { key: Vec<u8> },
    /// The session is as if it had just begun.
    DiscardAll,
    /// All prepared statements are gone.
    DeallocateAll,
    /// The session holds something that exists only on its server, or that cannot be repeated.
    Bound,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    Setting,
    DiscardAll,
    DeallocateAll,
    Bound,
}

/// Returns what `sql`, one or more statements, means for the session.
pub fn read(sql: &[u8]) -> Meaning {
    if is_plain(sql) {
        return Meaning::Nothing;
    }
    let statements = statements(sql);
    let kinds: Vec<Kind> = statements.iter().map(|words| kind(words)).collect();
    match kinds.as_slice() {
        [] => Meaning::Nothing,
        [Kind::DiscardAll] => Meaning::DiscardAll,
        [Kind::DeallocateAll] => Meaning::DeallocateAll,
        [Kind::Setting] => Meaning::Settings { key: statements[0].join(&b' ') },
        all if all.iter().all(|kind| *kind == Kind::Other) => Meaning::Nothing,
        all if all.iter().all(|kind| *kind == Kind::Setting) => {
            Meaning::Settings { key: sql.to_vec() }
        }
        _ => Meaning::Bound,
    }
}

/// Texts without any of these leave nothing behind that [`read`] does not see.
const HINTS: [&[u8]; 3] = [b"set_config", b"advisory_lock", b"temp"];

fn hints(text: &[u8]) -> bool {
    let has = |hint: &&[u8]| text.windows(hint.len()).any(|part| part.eq_ignore_ascii_case(hint));
    HINTS.iter().any(has)
}

/// May `sql` set something for the open transaction alone? What functions other than `set_config` do is not seen.
pub fn sets_locally(sql: &[u8]) -> bool {
    let has = |text: &[u8], word: &[u8]| {
        text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
    };
    if !has(sql, b"local") && !has(sql, b"set_config") {
        return false;
    }
    let mut sets = false;
    all_tokens(sql).any(|token| {
        // The body of a DO block is not read closer.
        let body = token.starts_with(b"$") && has(token, b"set");
        let local = std::mem::replace(&mut sets, token.eq_ignore_ascii_case(b"set"))
            && token.eq_ignore_ascii_case(b"local");
        body || local || has(token, b"set_config")
    })
}

/// May `sql` leave something on its server that is not in its first words: settings by `set_config` that outlast
/// the transaction, advisory locks of the session, temporary tables? What other functions do is not seen.
pub fn leaves_something(sql: &[u8]) -> bool {
    if !hints(sql) {
        return false;
    }
    let mut before = Vec::new();
    let mut tokens = all_tokens(sql);
    while let Some(token) = tokens.next() {
        let word = token.to_ascii_lowercase();
        let unquoted: Vec<u8> = word.iter().copied().filter(|byte| *byte != b'"').collect();
        let name = unquoted.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        let leaves = match name {
            // The body of a DO block is not read closer.
            _ if word.starts_with(b"$") => hints(&word),
            b"set_config" => !is_local(&mut tokens),
            b"temp" | b"temporary" => {
                const BEFORE: [&[u8]; 5] = [b"create", b"into", b"replace", b"local", b"global"];
                BEFORE.contains(&before.as_slice())
            }
            name => {
                name.ends_with(b"advisory_lock")
                    || name.ends_with(b"advisory_lock_shared")
                    || unquoted.starts_with(b"pg_temp")
            }
        };
        if leaves {
            return true;
        }
        before = word;
    }
    false
}

/// Is the third argument of a call, which begins here, the word `true`?
fn is_local<'a>(tokens: &mut impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut depth, mut commas, mut third) = (0_usize, 0, Vec::new());
    for token in tokens {
        match token {
            b"(" => depth += 1,
            b")" if depth <= 1 => break,
            b")" => depth -= 1,
            b"," if depth == 1 => commas += 1,
            _ if commas == 2 => third.push(token),
            _ => {}
        }
    }
    matches!(third.as_slice(), [word] if word.eq_ignore_ascii_case(b"true"))
}

pub fn all_tokens(sql: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = sql;
    let token = move || {
        let (token, after) =
            rest.split_at(token_bytes(rest).clamp(usize::from(!rest.is_empty()), rest.len()));
        rest = after;
        (!token.is_empty()).then_some(token)
    };
    std::iter::from_fn(token).filter(|token| {
        !matches!(token, [b'-', b'-', ..] | [b'/', b'*', ..]) && !token[0].is_ascii_whitespace()
    })
}

/// What a startup packet sets, with names in small letters.
pub fn at_startup(startup: &Startup) -> impl Iterator<Item = (String, String)> {
    let options = startup.get("options").map(options).unwrap_or_default();
    let alone = startup.parameters.iter().cloned();
    options.into_iter().chain(alone).map(|(name, value)| (name.to_ascii_lowercase(), value))
}

/// The settings in the startup parameter `options`: `-c name=value`, `-cname=value` and `--name=value`, where a
/// backslash keeps a space in its word.
fn options(text: &str) -> Vec<(String, String)> {
    let (mut words, mut word, mut chars) = (Vec::new(), String::new(), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.extend(chars.next()),
            c if c.is_whitespace() => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut all = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next(),
            Some(setting) => Some(setting.to_owned()),
            None => None,
        };
        if let Some((name, value)) = setting.as_deref().and_then(|s| s.split_once('=')) {
            // As PostgreSQL does.
            all.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    all
}

/// What a statement sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// In small letters; of `RESET ALL`, and of `DISCARD ALL`, it is [`ALL`].
    pub name: String,
    /// `None` where it is set back.
    pub value: Option<String>,
    /// Up to the end of the transaction.
    pub local: bool,
}

/// Returns what `sql` sets, in order.
pub fn assignments(sql: &[u8]) -> Vec<Assignment> {
    if is_plain(sql) {
        return Vec::new();
    }
    tokens(sql).iter().filter_map(|statement| assignment(statement)).collect()
}

fn assignment(statement: &[&[u8]]) -> Option<Assignment> {
    let word = |at: usize| statement.get(at).map(|w| w.to_ascii_lowercase()).unwrap_or_default();
    let name = |at: usize| {
        let name = word(at);
        (!name.is_empty()).then(|| String::from_utf8_lossy(&name).replace('"', ""))
    };
    match word(0).as_slice() {
        b"discard" => (word(1) == b"all").then(|| set_back(ALL.to_owned())),
        b"reset" => Some(set_back(name(1)?)),
        b"set" => {
            let local = word(1) == b"local";
            let at = if local || word(1) == b"session" { 2 } else { 1 };
            let is_set = matches!(word(at + 1).as_slice(), b"=" | b"to");
            let value = String::from_utf8_lossy(statement.get(at + 2)?);
            let value = match value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')) {
                Some(text) => Some(text.replace("''", "'")),
                None => Some(value.into_owned()).filter(|v| !v.eq_ignore_ascii_case("default")),
            };
            is_set.then(|| Some(Assignment { name: name(at)?, value, local }))?
        }
        _ => None,
    }
}

fn set_back(name: String) -> Assignment {
    Assignment { name, value: None, local: false }
}

/// Returns which of [`ours`] `sql` asks for, and for nothing else.
pub fn shown(sql: &[u8]) -> Option<&'static str> {
    if is_plain(sql) {
        return None;
    }
    let mut statements = tokens(sql).into_iter().filter(|statement| !statement.is_empty());
    let (statement, others) = (statements.next()?, statements.next());
    match statement.as_slice() {
        [show, name] if show.eq_ignore_ascii_case(b"SHOW") && others.is_none() => {
            let name = String::from_utf8_lossy(&name.to_ascii_lowercase()).replace('"', "");
            ours::SHOWN.into_iter().find(|ours| *ours == name)
        }
        _ => None,
    }
}

/// Returns which prepared statement `sql` forgets, and nothing else.
pub fn deallocated(sql: &[u8]) -> Option<Vec<u8>> {
    if is_plain(sql) {
        return None;
    }
    let mut statements = tokens(sql).into_iter().filter(|statement| !statement.is_empty());
    let (statement, others) = (statements.next()?, statements.next());
    let name = match statement.as_slice() {
        [first, name] if first.eq_ignore_ascii_case(b"DEALLOCATE") => name,
        [first, second, name]
            if first.eq_ignore_ascii_case(b"DEALLOCATE")
                && second.eq_ignore_ascii_case(b"PREPARE") =>
        {
            name
        }
        _ => return None,
    };
    let name = match name.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\"")) {
        Some(quoted) => quoted.to_vec(),
        None if name.eq_ignore_ascii_case(b"ALL") => return None,
        None => name.to_ascii_lowercase(),
    };
    others.is_none().then_some(name)
}

/// The first tokens of each statement, without comments and space. A name of several parts is one.
fn tokens(sql: &[u8]) -> Vec<Vec<&[u8]>> {
    let (mut all, mut at) = (vec![Vec::new()], 0);
    let mut name_at = None;
    while at < sql.len() {
        let begin = at;
        at += token_bytes(&sql[begin..]).clamp(1, sql.len() - begin);
        let token = &sql[begin..at];
        let goes_on = |from: &usize| sql[*from..begin].ends_with(b".") || token == b".";
        let Some(statement) = all.last_mut() else { continue };
        match (token, name_at.take().filter(goes_on)) {
            (b";", _) => all.push(Vec::new()),
            ([b'-', b'-', ..] | [b'/', b'*', ..], _) => {}
            ([first, ..], _) if first.is_ascii_whitespace() => {}
            (_, Some(from)) => {
                statement.pop();
                statement.push(&sql[from..at]);
                name_at = Some(from);
            }
            _ if statement.len() < WORDS_MAX => {
                statement.push(token);
                name_at = Some(begin);
            }
            _ => {}
        }
    }
    all
}

/// Begins of single statements that are most of what a client sends, and never a setting.
const PLAIN: [&[u8]; 7] =
    [b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"BEGIN", b"COMMIT", b"ROLLBACK"];

/// Spares the common statements the closer look.
fn is_plain(sql: &[u8]) -> bool {
    let begins =
        |word: &&[u8]| sql.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
    PLAIN.iter().any(begins) && !sql.contains(&b';')
}

/// Judges one statement by its first words, in capital letters.
fn kind(words: &[Vec<u8>]) -> Kind {
    let word = |at: usize| words.get(at).map(Vec::as_slice).unwrap_or_default();
    match (word(0), word(1)) {
        (b"SET", b"LOCAL" | b"TRANSACTION" | b"CONSTRAINTS") => Kind::Other,
        (b"SET" | b"RESET", _) => Kind::Setting,
        (b"DISCARD", b"ALL") => Kind::DiscardAll,
        (b"DEALLOCATE", b"ALL") => Kind::DeallocateAll,
        (b"DEALLOCATE", b"PREPARE") if word(2) == b"ALL" => Kind::DeallocateAll,
        (b"DEALLOCATE" | b"LISTEN" | b"UNLISTEN" | b"LOAD", _) => Kind::Bound,
        (b"PREPARE", b"TRANSACTION") => Kind::Other,
        (b"PREPARE", _) => Kind::Bound,
        (b"CREATE", b"TEMP" | b"TEMPORARY" | b"LOCAL" | b"GLOBAL") => Kind::Bound,
        (b"DECLARE", _) if words.iter().any(|word| word == b"HOLD") => Kind::Bound,
        _ => Kind::Other,
    }
}

/// So many words of a statement are looked at: `SET SESSION name`, `DECLARE .. WITH HOLD`.
const WORDS_MAX: usize = 12;

/// Returns the first words of each statement that has any. The words of `SET SESSION x = 1` are
/// `SET X`: two texts that set the same thing begin alike.
fn statements(sql: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    let mut words: Vec<Vec<u8>> = Vec::new();
    let mut rest = sql;
    while let Some(&byte) = rest.first() {
        if byte == b';' {
            finish(&mut words, &mut all);
        }
        let token = token_bytes(rest);
        let (token, after) = rest.split_at(token.clamp(1, rest.len()));
        rest = after;
        let is_word = byte == b'"' || is_word_byte(byte);
        if is_word && words.len() < WORDS_MAX {
            words.push(token.to_ascii_uppercase());
        }
    }
    finish(&mut words, &mut all);
    all
}

fn finish(words: &mut Vec<Vec<u8>>, all: &mut Vec<Vec<Vec<u8>>>) {
    let mut words = std::mem::take(words);
    if words.first().is_some_and(|word| word == b"SET" || word == b"RESET") {
        if words.get(1).is_some_and(|word| word == b"SESSION") && words.len() > 2 {
            words.remove(1);
        }
        words.truncate(2);
    }
    if !words.is_empty() {
        all.push(words);
    }
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.' || byte >= 0x80
}

/// Returns how many bytes the token at the front has: a word, a quoted text, a comment or one byte.
fn token_bytes(rest: &[u8]) -> usize {
    match rest {
        [b'\'' | b'"', ..] => quoted(rest),
        [b'-', b'-', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => comment(rest),
        [b'$', ..] => dollar_quoted(rest),
        [byte, ..] if is_word_byte(*byte) => {
            let is_inside = |b: &u8| is_word_byte(*b) || *b == b'$';
            let word = rest.iter().position(|b| !is_inside(b)).unwrap_or(rest.len());
            // E'..': a backslash hides a quote.
            match (&rest[..word], rest.get(word)) {
                (b"E" | b"e", Some(b'\'')) => word + escaped(&rest[word..]),
                _ => word,
            }
        }
        _ => 1,
    }
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = rest.get(at) {
        match (byte, rest.get(at + 1)) {
            // Twice it is a part of the text.
            (byte, Some(next)) if *byte == rest[0] && *next == rest[0] => at += 2,
            (byte, _) if *byte == rest[0] => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn escaped(rest: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = rest.get(at) {
        match byte {
            b'\'' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Returns how many bytes the comment at the front has, with those in it; all where it has no end.
pub fn comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

fn dollar_quoted(rest: &[u8]) -> usize {
    let Some(tag) = rest.iter().skip(1).position(|b| *b == b'$') else { return 1 };
    let mark = &rest[..tag + 2];
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80;
    if !mark[1..=tag].iter().all(is_name) {
        return 1;
    }
    let body = &rest[mark.len()..];
    let end = body.windows(mark.len()).position(|window| window == mark);
    end.map_or(rest.len(), |end| mark.len() + end + mark.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(key: &str) -> Meaning {
        Meaning::Settings { key: key.as_bytes().to_vec() }
    }

    #[test]
    fn what_is_set_for_a_transaction_is_seen() {
        for sql in [
            "SET LOCAL TimeZone = 'Asia/Tokyo'",
            "BEGIN; set /* why */ local search_path = a",
            "SELECT pg_catalog.set_config('TimeZone', 'UTC', true)",
            "DO $$ BEGIN SET LOCAL work_mem = '1MB'; END $$",
        ] {
            assert!(sets_locally(sql.as_bytes()), "{sql}");
        }
        for sql in ["UPDATE locale SET name = 'local'", "SELECT localtime", "SET a = 'local'"] {
            assert!(!sets_locally(sql.as_bytes()), "{sql}");
        }
    }

    #[test]
    fn settings_of_one_name_have_one_key_however_they_are_written() {
        for sql in [
            "SET search_path = a, b",
            "set Search_Path to a; ",
            "SET SESSION search_path='x;y'",
            "-- why\n/* a /* b */ ; */ SET search_path TO \"a;b\"",
        ] {
            assert_eq!(read(sql.as_bytes()), settings("SET SEARCH_PATH"), "{sql}");
        }
        assert_eq!(read(b"RESET ALL"), settings("RESET ALL"));
        assert_eq!(
            read(b"SET domicile.freshness = E'it\\'s;'"),
            settings("SET DOMICILE.FRESHNESS")
        );
    }

    #[test]
    fn what_is_set_is_read_with_its_value() {
        let read = |sql: &str| assignments(sql.as_bytes());
        let set = |name: &str, value: &str| Assignment {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            local: false,
        };
        for sql in [
            "SET a.b = 'x y'",
            "set session A.B to 'x y';",
            "/* why */ SET \"a\".\"b\" TO 'x y' -- so",
            "BEGIN; SET a.b = 'x y'; SELECT 1",
        ] {
            assert_eq!(read(sql), [set("a.b", "x y")], "{sql}");
        }
        assert_eq!(read("SET a = on; SET b = 7"), [set("a", "on"), set("b", "7")]);
        assert_eq!(
            read("SET LOCAL a.b = 'it''s'"),
            [Assignment { local: true, ..set("a.b", "it's") }]
        );
        assert_eq!(read("RESET a.b"), [set_back("a.b".to_owned())]);
        assert_eq!(read("SET a.b TO DEFAULT"), [set_back("a.b".to_owned())]);
        for sql in ["RESET ALL", "discard all"] {
            assert_eq!(read(sql), [set_back(ALL.to_owned())]);
        }
        for sql in ["", "SET", "SET a", "SET a =", "SELECT 'SET a = 1'", "RESET"] {
            assert_eq!(read(sql), [], "{sql}");
        }
    }

    #[test]
    fn what_is_asked_for_alone_is_known_by_its_name() {
        for sql in
            ["SHOW domicile.key", "show Domicile.KEY;", "/* why */ SHOW \"domicile\".\"key\""]
        {
            assert_eq!(shown(sql.as_bytes()), Some(ours::KEY), "{sql}");
        }
        for sql in [
            "",
            "SHOW",
            "SHOW domicile.key b",
            "SHOW domicile.key; SHOW domicile.key",
            "SHOW domicile.keys",
            "SHOW work_mem",
            "SET domicile.key = 1",
            "SELECT 1",
        ] {
            assert_eq!(shown(sql.as_bytes()), None, "{sql}");
        }
    }

    #[test]
    fn what_ends_with_the_transaction_is_no_setting() {
        for sql in [
            "",
            ";;",
            "SET LOCAL search_path = a",
            "SET TRANSACTION READ ONLY",
            "SET CONSTRAINTS ALL IMMEDIATE",
            "SELECT 'SET x = 1; SET y = 2'",
            "UPDATE t SET a = 1",
            "DO $x$ BEGIN; SET a = 1; $$ ; END $x$",
            "BEGIN; INSERT INTO t VALUES (1); COMMIT",
            "PREPARE TRANSACTION 'x'",
        ] {
            assert_eq!(read(sql.as_bytes()), Meaning::Nothing, "{sql}");
        }
    }

    #[test]
    fn several_settings_are_repeated_together_and_a_mixture_binds() {
        assert_eq!(read(b"SET a = 1; SET b = 2;"), settings("SET a = 1; SET b = 2;"));
        assert_eq!(read(b"SET a = 1; INSERT INTO t VALUES (1)"), Meaning::Bound);
        assert_eq!(read(b"DISCARD ALL"), Meaning::DiscardAll);
        assert_eq!(read(b"deallocate prepare all"), Meaning::DeallocateAll);
    }

    #[test]
    fn what_lives_on_one_server_binds_the_session_to_it() {
        for sql in [
            "LISTEN orders",
            "PREPARE p AS SELECT 1",
            "CREATE TEMP TABLE t (a int)",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        ] {
            assert_eq!(read(sql.as_bytes()), Meaning::Bound, "{sql}");
        }
    }

    #[test]
    fn what_is_deallocated_alone_is_known_by_its_name() {
        for (sql, name) in
            [("DEALLOCATE s1", "s1"), ("deallocate prepare S1;", "s1"), ("DEALLOCATE \"S1\"", "S1")]
        {
            assert_eq!(deallocated(sql.as_bytes()).as_deref(), Some(name.as_bytes()), "{sql}");
        }
        for sql in ["DEALLOCATE ALL", "DEALLOCATE PREPARE all", "DEALLOCATE a; SELECT 1", "DROP a"]
        {
            assert_eq!(deallocated(sql.as_bytes()), None, "{sql}");
        }
    }

    #[test]
    fn what_functions_leave_behind_is_seen_in_the_text() {
        for sql in [
            "SELECT set_config('a.b', 'x', false)",
            "select PG_CATALOG.Set_Config('a.b', f(1, 2), $1)",
            "SELECT set_config('a', 'x', true), set_config('b', 'x', false)",
            "SELECT set_config('a', 'x'",
            "SELECT pg_advisory_lock(7)",
            "SELECT \"pg_catalog\".\"pg_try_advisory_lock_shared\"(7)",
            "SELECT 1 AS a INTO TEMP t",
            "SELECT 1 AS a INTO /* so */ TEMPORARY TABLE t",
            "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
            "CREATE TABLE pg_temp.t (a int)",
            "DO $$ BEGIN PERFORM set_config('a.b', 'x', false); END $$",
        ] {
            assert!(leaves_something(sql.as_bytes()), "{sql}");
        }
        for sql in [
            "",
            "SELECT 1",
            "SELECT set_config('a.b', f('x', 2), TRUE), temp FROM weather",
            "SELECT pg_advisory_xact_lock(7), pg_advisory_unlock(8)",
            "SELECT 'pg_advisory_lock(7)' -- set_config('a', 'b', false)",
            "INSERT INTO temperature VALUES (1)",
        ] {
            assert!(!leaves_something(sql.as_bytes()), "{sql}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(sql in "[-;'\"$/*Ee\\\\ a-cSET\n]{0,60}", raw: Vec<u8>) {
            let _ = read(sql.as_bytes());
            let _ = read(&raw);
            let _ = (assignments(sql.as_bytes()), assignments(&raw));
            let _ = (shown(sql.as_bytes()), shown(&raw));
            let _ = (deallocated(sql.as_bytes()), deallocated(&raw));
            let call = format!("set_config({sql}");
            let _ = leaves_something(call.as_bytes());
            let _ = leaves_something(&[b"temp", raw.as_slice()].concat());
        }
    }
}
