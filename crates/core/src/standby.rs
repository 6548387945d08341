//! Does PostgreSQL wait for one certain standby before it acknowledges a commit?
//!
//! Read from `synchronous_standby_names`, in PostgreSQL's own notation:
//! <https://www.postgresql.org/docs/current/runtime-config-replication.html>.

/// A value of `synchronous_standby_names`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyNames {
    /// How many of them are waited for.
    count: usize,
    names: Vec<String>,
}

impl StandbyNames {
    /// Returns the value's meaning; `None` where PostgreSQL would not take it.
    pub fn read(value: &str) -> Option<Self> {
        let mut words = words(value)?.into_iter().peekable();
        let mut method = None;
        if let Some(Word::Name(name)) = words.peek()
            && KEYWORDS.iter().any(|known| name.eq_ignore_ascii_case(known))
        {
            method = words.next();
        }
        let all: Vec<Word> = words.collect();
        let (count, list) = match all.as_slice() {
            [Word::Name(count), Word::Open, list @ .., Word::Close] => (count.parse().ok()?, list),
            list if method.is_none() => (1, list),
            _ => return None,
        };
        let mut names = Vec::new();
        for (i, word) in list.iter().enumerate() {
            match (i % 2, word) {
                (0, Word::Name(name) | Word::Quoted(name)) => names.push(name.clone()),
                (1, Word::Comma) => {}
                _ => return None,
            }
        }
        let ends_well = list.is_empty() || list.len() % 2 == 1;
        ends_well.then_some(Self { count, names })
    }

    /// Does no commit return without `name`? Only where all that are named are waited for: otherwise
    /// another one may take its place while it is away. Names are compared as PostgreSQL does.
    pub fn always_waits_for(&self, name: &str) -> bool {
        let (is, is_any) = (|n: &String| n.eq_ignore_ascii_case(name), |n: &String| n == "*");
        self.names.iter().any(is)
            && !self.names.iter().any(is_any)
            && self.count >= self.names.len()
    }

    /// The value that waits for all that this one names, and for `name`.
    pub fn with(&self, name: &str) -> String {
        let names = self.names.iter().map(String::as_str);
        let others = names.filter(|other| !other.eq_ignore_ascii_case(name) && *other != "*");
        let names: Vec<String> = [name].into_iter().chain(others).map(written).collect();
        match names.as_slice() {
            [only] => only.clone(),
            names => format!("FIRST {} ({})", names.len(), names.join(", ")),
        }
    }
}

fn written(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_lowercase() || b == b'_';
    let is_plain = name.bytes().next().is_some_and(plain)
        && name.bytes().all(|b| plain(b) || b.is_ascii_digit())
        && !KEYWORDS.contains(&name);
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

const KEYWORDS: [&str; 2] = ["first", "any"];

#[derive(Debug, PartialEq)]
enum Word {
    Name(String),
    Quoted(String),
    Comma,
    Open,
    Close,
}

fn words(value: &str) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    let mut rest = value.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, length) = match first {
            ',' => (Word::Comma, 1),
            '(' => (Word::Open, 1),
            ')' => (Word::Close, 1),
            '"' => {
                let (name, length) = quoted(rest)?;
                (Word::Quoted(name), length)
            }
            _ => {
                let ends = |c: char| c.is_whitespace() || ",()\"".contains(c);
                let length = rest.find(ends).unwrap_or(rest.len());
                (Word::Name(rest[..length].to_owned()), length)
            }
        };
        words.push(word);
        rest = rest[length..].trim_start();
    }
    Some(words)
}

/// Reads a name in quotes, a doubled one standing for one, and how long it is as it is written.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' if characters.next_if(|(_, next)| *next == '"').is_some() => name.push('"'),
            '"' => return Some((name, at + 1)),
            other => name.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(value: &str) -> bool {
        StandbyNames::read(value).is_some_and(|names| names.always_waits_for("domicile"))
    }

    #[test]
    fn only_who_has_no_substitute_is_always_waited_for() {
        for value in [
            "domicile",
            "  Domicile ",
            "\"domicile\"",
            "FIRST 1 (domicile)",
            "1(domicile)",
            "first 2 (replica1, domicile)",
            "ANY 2 (domicile, \"replica 1\")",
        ] {
            assert!(waits(value), "{value}");
        }
        for value in [
            "",
            "replica1",
            "domicile_dr",
            "\"domicile\"\"\"",
            "domicile, replica1",
            "replica1, domicile",
            "FIRST 1 (domicile, replica1)",
            "ANY 1 (replica1, domicile)",
            "2 (domicile, replica1, replica2)",
            "*",
            "FIRST 2 (domicile, *)",
            "FIRST 1 (domicile",
            "FIRST (domicile)",
            "domicile,",
            "\"domicile",
        ] {
            assert!(!waits(value), "{value}");
        }
    }

    #[test]
    fn the_value_that_is_proposed_waits_for_all() {
        for (value, wanted) in [
            ("", "domicile"),
            ("*", "domicile"),
            ("replica1, domicile", "FIRST 2 (domicile, replica1)"),
            ("ANY 1 (\"Any\", \"b \"\"c\")", "FIRST 3 (domicile, \"Any\", \"b \"\"c\")"),
        ] {
            let proposed = StandbyNames::read(value).unwrap().with("domicile");
            assert_eq!(proposed, wanted);
            assert!(waits(&proposed), "{proposed}");
        }
    }
}
