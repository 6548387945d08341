//! What happened in this run, in an order that a person can follow?
//!
//! The same seed must give the same lines, byte for byte: `meta` compares their digests.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};

use crate::clock::Micros;

/// How many lines are kept for the report of a violation.
pub const TRACE_LINES_KEPT: usize = 40;

pub struct Trace {
    last: VecDeque<String>,
    /// Every line, when asked for.
    whole: Option<String>,
    digest: u64,
}

impl Trace {
    pub fn new(keep_whole: bool) -> Self {
        Self {
            last: VecDeque::with_capacity(TRACE_LINES_KEPT),
            whole: keep_whole.then(String::new),
            digest: 0xCBF2_9CE4_8422_2325,
        }
    }

    pub fn line(&mut self, now: Micros, what: fmt::Arguments<'_>) {
        let spare = self.last.len() >= TRACE_LINES_KEPT;
        let mut line = if spare { self.last.pop_front() } else { None }.unwrap_or_default();
        line.clear();
        // Writing to a String cannot fail.
        let _ = write!(line, "{:>10.3} {what}", now as f64 / 1000.0);
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        if let Some(whole) = &mut self.whole {
            whole.push_str(&line);
            whole.push('\n');
        }
        self.last.push_back(line);
    }

    /// The last lines, oldest first.
    pub fn tail(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }

    /// Every line, when they were to be kept.
    pub fn text(&self) -> Option<&str> {
        self.whole.as_deref()
    }

    /// FNV-1a over every line.
    pub fn digest(&self) -> u64 {
        self.digest
    }
}
