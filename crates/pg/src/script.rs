//! Which statements does an SQL text consist of, and of which words?
//!
//! Divides and reads no further: comments are dropped, strings and quoted names are kept as what
//! they say, and a semicolon inside of any of them ends nothing. The grammar is PostgreSQL's
//! business.

/// One statement, without its semicolon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement<'a> {
    /// As it stands in the text, comments included.
    pub text: &'a str,
    pub tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    /// How many parentheses are open around it.
    pub depth: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A keyword or a name that is not quoted, in lower case; a number too.
    Word(String),
    /// A quoted name.
    Name(String),
    /// A string, without what quotes it; escapes are left as they are.
    Text(String),
    Symbol(char),
}

/// Why a text cannot be divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    #[error("a string, a quoted name or a comment has no end")]
    Open,
    #[error("the text has a byte that is zero")]
    Zero,
}

/// Divides `sql`. A text of comments alone has no statement.
pub fn statements(sql: &str) -> Result<Vec<Statement<'_>>, ScriptError> {
    if sql.contains('\0') {
        return Err(ScriptError::Zero);
    }
    let mut lexer = Lexer { rest: sql };
    let mut all = Vec::new();
    let mut begin = sql;
    let (mut tokens, mut depth) = (Vec::new(), 0_u32);
    // A function's body that is written as SQL has statements of its own.
    let mut bodies = 0_u32;
    loop {
        let before = lexer.rest;
        let kind = lexer.next()?;
        match &kind {
            Some(Kind::Symbol('(')) => depth += 1,
            Some(Kind::Symbol(')')) => depth = depth.saturating_sub(1),
            Some(Kind::Word(word)) if word == "atomic" || (word == "case" && bodies > 0) => {
                bodies += 1;
            }
            Some(Kind::Word(word)) if word == "end" => bodies = bodies.saturating_sub(1),
            _ => {}
        }
        match kind {
            None | Some(Kind::Symbol(';')) if bodies == 0 || kind.is_none() => {
                if !tokens.is_empty() {
                    let text = begin[..begin.len() - before.len()].trim();
                    all.push(Statement { text, tokens: std::mem::take(&mut tokens) });
                }
                (begin, depth) = (lexer.rest, 0);
                if kind.is_none() {
                    return Ok(all);
                }
            }
            Some(kind) => tokens.push(Token { kind, depth }),
            None => return Ok(all),
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Result<Option<Kind>, ScriptError> {
        self.skip_blanks()?;
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        let second = self.rest[first.len_utf8()..].chars().next();
        Ok(Some(match first {
            '\'' => Kind::Text(self.quoted('\'', false)?.to_owned()),
            'e' | 'E' if second == Some('\'') => {
                self.rest = &self.rest[1..];
                Kind::Text(self.quoted('\'', true)?.to_owned())
            }
            '"' => Kind::Name(self.quoted('"', false)?.replace("\"\"", "\"")),
            '$' if dollar_tag(self.rest).is_some() => {
                let tag = dollar_tag(self.rest).unwrap_or_default();
                let body = &self.rest[tag.len()..];
                let end = body.find(tag).ok_or(ScriptError::Open)?;
                self.rest = &body[end + tag.len()..];
                Kind::Text(body[..end].to_owned())
            }
            c if is_of_word(c) => {
                let end = self.rest.find(|c| !is_of_word(c) && c != '$');
                let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                self.rest = rest;
                Kind::Word(word.to_lowercase())
            }
            c => {
                self.rest = &self.rest[c.len_utf8()..];
                Kind::Symbol(c)
            }
        }))
    }

    fn skip_blanks(&mut self) -> Result<(), ScriptError> {
        loop {
            self.rest = self.rest.trim_start();
            if self.rest.starts_with("--") {
                self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end..]);
            } else if self.rest.starts_with("/*") {
                self.rest = &self.rest[comment_end(self.rest).ok_or(ScriptError::Open)?..];
            } else {
                return Ok(());
            }
        }
    }

    /// What stands between two quotes; a doubled one is part of it.
    fn quoted(&mut self, quote: char, escapes: bool) -> Result<&'a str, ScriptError> {
        let body = &self.rest[1..];
        let mut chars = body.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if escapes && c == '\\' {
                chars.next();
            } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
                self.rest = &body[at + 1..];
                return Ok(&body[..at]);
            }
        }
        Err(ScriptError::Open)
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || !c.is_ascii()
}

/// `$$` or `$tag$`, if the text begins with one.
fn dollar_tag(text: &str) -> Option<&str> {
    let end = text[1..].find('$')? + 2;
    let tag = &text[1..end - 1];
    let named = tag.chars().all(is_of_word) && !tag.starts_with(|c: char| c.is_ascii_digit());
    named.then_some(&text[..end])
}

/// Comments are nested.
fn comment_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut open) = (0, 0_u32);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (at, open) = (at + 2, open + 1),
            [b'*', b'/', ..] => {
                (at, open) = (at + 2, open - 1);
                if open == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(sql: &str) -> Vec<&str> {
        statements(sql).unwrap().into_iter().map(|statement| statement.text).collect()
    }

    #[test]
    fn only_a_semicolon_outside_of_everything_ends_a_statement() {
        assert_eq!(
            texts("a ';' ; -- b; c\n/* d; /* e; */ */ f \";\" ;; E'\\';' g; $$;$$; $x$ $$; $x$"),
            ["a ';'", "-- b; c\n/* d; /* e; */ */ f \";\"", "E'\\';' g", "$$;$$", "$x$ $$; $x$"]
        );
        let body = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN a THEN b END; END";
        assert_eq!(texts(&format!("{body}; next")), [body, "next"]);
        assert_eq!(texts("-- nothing\n"), Vec::<&str>::new());
    }

    #[test]
    fn what_does_not_end_is_told() {
        for open in ["'a", "\"a", "/* a", "$a$ a", "E'a\\'"] {
            assert_eq!(statements(open), Err(ScriptError::Open), "{open}");
        }
    }

    #[test]
    fn words_are_told_from_strings_and_names() {
        let all = statements("ALTER tAble \"a\"\"B\" (x 'now')").unwrap();
        let kinds: Vec<&Kind> = all[0].tokens.iter().map(|token| &token.kind).collect();
        let word = |text: &str| Kind::Word(text.to_owned());
        let (name, text) = (Kind::Name("a\"B".into()), Kind::Text("now".into()));
        let (open, close) = (Kind::Symbol('('), Kind::Symbol(')'));
        assert_eq!(
            kinds,
            [&word("alter"), &word("table"), &name, &open, &word("x"), &text, &close]
        );
        assert_eq!(all[0].tokens[4].depth, 1);
    }

    proptest! {
        #[test]
        fn any_text_is_divided_or_refused(sql in "[a-z'\"$;/*\\-\\\\ \né(){}E]{0,60}") {
            drop(statements(&sql));
        }
    }
}
