//! Does the text have the outline of a configuration: TOML, known keys, values of the right type?
//!
//! serde would stop at the first mistake. So the parsed text is first held against
//! [`super::keys::KEYS`], and what is wrong is noted and taken out; serde then reads a sound rest.

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::keys::{KEYS, Kind};
use super::mistake::Mistakes;
use super::written::Written;

/// Reads the text as far as it is sound; `None` when nothing can be said beyond the mistakes.
pub(super) fn read(text: &str, mistakes: &mut Mistakes) -> Option<Written> {
    let mut document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            note_toml_error(text, &error, mistakes);
            return None;
        }
    };
    Outline { text, mistakes }.keep_known(document.get_mut(), "", "");
    match Written::deserialize(Deserializer::from(document)) {
        Ok(written) => Some(written),
        Err(error) => {
            note_toml_error(text, &error, mistakes);
            None
        }
    }
}

fn note_toml_error(text: &str, error: &toml::de::Error, mistakes: &mut Mistakes) {
    let (line, column) = place(text, error.span().map_or(0, |span| span.start));
    mistakes.place("", line, column);
    mistakes.add("", error.message().trim());
}

struct Outline<'a> {
    text: &'a str,
    mistakes: &'a mut Mistakes,
}

impl Outline<'_> {
    /// Walks a table. `pattern` is where it stands among the known keys (`region[].`), `path`
    /// where it stands in the file (`region[2].`).
    fn keep_known(&mut self, table: &mut DeTable<'_>, pattern: &str, path: &str) {
        let mut wrong = Vec::new();
        for (key, value) in table.iter_mut() {
            let (line, column) = place(self.text, key.span().start);
            let name = key.get_ref().as_ref();
            let (pattern, path) = (format!("{pattern}{name}"), format!("{path}{name}"));
            self.mistakes.place(&path, line, column);
            if !self.keep_value(value, &pattern, &path) {
                wrong.push(key.clone());
            }
        }
        for key in wrong {
            table.remove(&key);
        }
    }

    /// Returns whether the value may stay.
    fn keep_value(&mut self, value: &mut Spanned<DeValue<'_>>, pattern: &str, path: &str) -> bool {
        let group = format!("{pattern}.");
        let list = format!("{pattern}[].");
        let found = kind_of(value.get_ref());
        if let Some(key) = KEYS.iter().find(|key| key.path == pattern) {
            let fits = fits(key.kind, value.get_ref());
            if !fits {
                self.mistakes.add_wrong_type(
                    path,
                    format!("expected {}, found {found}", key.kind.expected()),
                );
            }
            return fits;
        }
        if KEYS.iter().any(|key| key.path.starts_with(&group)) {
            return match value.get_mut() {
                DeValue::Table(table) => {
                    self.keep_known(table, &group, &format!("{path}."));
                    true
                }
                _ => {
                    self.mistakes.add_wrong_type(path, format!("expected a table, found {found}"));
                    false
                }
            };
        }
        if KEYS.iter().any(|key| key.path.starts_with(&list)) {
            return self.keep_list(value, &list, path);
        }
        self.mistakes.add(path, format!("unknown key; known here: {}", siblings(pattern)));
        false
    }

    fn keep_list(&mut self, value: &mut Spanned<DeValue<'_>>, list: &str, path: &str) -> bool {
        let found = kind_of(value.get_ref());
        let DeValue::Array(items) = value.get_mut() else {
            self.mistakes.add_wrong_type(path, format!("expected [[{path}]], found {found}"));
            return false;
        };
        for (i, item) in items.iter_mut().enumerate() {
            let path = format!("{path}[{}]", i + 1);
            let (line, column) = place(self.text, item.span().start);
            self.mistakes.place(&path, line, column);
            let DeValue::Table(table) = item.get_mut() else {
                self.mistakes.add_wrong_type(&path, "expected a table");
                return false;
            };
            self.keep_known(table, list, &format!("{path}."));
        }
        true
    }
}

fn fits(kind: Kind, value: &DeValue<'_>) -> bool {
    match kind {
        Kind::Text | Kind::Duration | Kind::Size => value.is_str(),
        Kind::Number => whole_number(value),
        Kind::Flag => value.is_bool(),
        Kind::Rpo => value.is_str() || whole_number(value),
        Kind::Texts => value
            .as_table()
            .is_some_and(|table| table.iter().all(|(_, value)| value.get_ref().is_str())),
        Kind::Names => match value {
            DeValue::Array(items) => items.iter().all(|item| item.get_ref().is_str()),
            other => other.is_str(),
        },
    }
}

/// TOML allows integers that no machine holds.
fn whole_number(value: &DeValue<'_>) -> bool {
    value
        .as_integer()
        .is_some_and(|number| i64::from_str_radix(number.as_str(), number.radix()).is_ok())
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The keys that are known where `pattern` stands, each once.
fn siblings(pattern: &str) -> String {
    let group = pattern.rfind('.').map_or("", |dot| &pattern[..=dot]);
    let mut names: Vec<&str> = Vec::new();
    for key in KEYS {
        let Some(rest) = key.path.strip_prefix(group) else { continue };
        let name = rest.split(['.', '[']).next().unwrap_or(rest);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(", ")
}

/// Line and column of a byte of the text, both from 1.
fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}
