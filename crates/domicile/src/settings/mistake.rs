//! Where is a mistake, and what is it?
//!
//! One path has at most one mistake: the first one found, which is the more basic one (a key of
//! the wrong type is not also reported as missing).

use std::collections::BTreeMap;
use std::fmt;

/// One thing to correct in the file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Mistake {
    /// As in `table[2].key`; tables and regions are counted from 1. Empty when the text is not
    /// TOML at all.
    pub path: String,
    /// From 1; absent when the key is not in the file.
    pub line: Option<usize>,
    /// From 1.
    pub column: Option<usize>,
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.column) {
            (Some(line), Some(column)) if self.path.is_empty() => {
                write!(f, "line {line}, column {column}: ")?;
            }
            (Some(line), _) => write!(f, "line {line}: ")?,
            (None, _) => {}
        }
        match self.path.as_str() {
            "" => write!(f, "{}", self.text),
            path => write!(f, "{path}: {}", self.text),
        }
    }
}

/// One mistake a line, indented.
pub(super) fn lines(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|m| format!("  {m}")).collect::<Vec<_>>().join("\n")
}

/// Collects mistakes, and knows where each key of the file stands.
#[derive(Default)]
pub(super) struct Mistakes {
    list: Vec<Mistake>,
    /// Path -> line and column.
    places: BTreeMap<String, (usize, usize)>,
    /// Beginnings of paths, each with its final dot.
    taken_out: Vec<String>,
}

impl Mistakes {
    pub(super) fn place(&mut self, path: &str, line: usize, column: usize) {
        self.places.entry(path.to_owned()).or_insert((line, column));
    }

    pub(super) fn add(&mut self, path: impl Into<String>, text: impl Into<String>) {
        let path = path.into();
        if !self.has(&path) {
            let place = self.place_of(&path);
            let (line, column) = (place.map(|p| p.0), place.map(|p| p.1));
            self.list.push(Mistake { path, line, column, text: text.into() });
        }
    }

    /// Notes a value of the wrong type. It is taken out, so nothing below it counts as missing.
    pub(super) fn add_wrong_type(&mut self, path: &str, text: impl Into<String>) {
        self.add(path, text);
        self.taken_out.push(format!("{path}."));
    }

    /// Returns whether this key was already found wrong.
    pub(super) fn has(&self, path: &str) -> bool {
        self.list.iter().any(|m| m.path == path)
            || self.taken_out.iter().any(|above| path.starts_with(above))
    }

    /// The place of the key, or of what it is missing from.
    fn place_of(&self, path: &str) -> Option<(usize, usize)> {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return Some(*place);
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    pub(super) fn into_list(mut self) -> Vec<Mistake> {
        self.list.sort_by_key(|m| m.line.unwrap_or(0));
        self.list
    }
}
