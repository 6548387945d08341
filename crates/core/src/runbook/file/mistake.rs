//! Where in a runbook's file is a mistake, and what is it?

use std::fmt;

/// One thing to correct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// As in `step[2].to`; steps are counted from 1. Empty when the text is not TOML at all.
    pub path: String,
    /// From 1.
    pub line: usize,
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

/// Collects mistakes, and knows on which line each byte of the text stands.
pub(super) struct Mistakes {
    /// Where each line begins.
    lines: Vec<usize>,
    list: Vec<Mistake>,
}

impl Mistakes {
    pub(super) fn of(text: &str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { lines: std::iter::once(0).chain(after_breaks).collect(), list: Vec::new() }
    }

    pub(super) fn line(&self, byte: usize) -> usize {
        self.lines.partition_point(|begin| *begin <= byte)
    }

    pub(super) fn add(&mut self, path: &str, line: usize, text: impl Into<String>) {
        self.list.push(Mistake { path: path.to_owned(), line, text: text.into() });
    }

    pub(super) fn none(&self) -> bool {
        self.list.is_empty()
    }

    /// In the order of the file.
    pub(super) fn into_list(mut self) -> Vec<Mistake> {
        self.list.sort_by_key(|mistake| mistake.line);
        self.list
    }
}
