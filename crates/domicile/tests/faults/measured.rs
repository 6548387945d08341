//! What did clients feel of each fault, when somebody measured it last?
//!
//! `UPDATE=1 cargo test -p domicile --test faults` measures all of them anew and writes the file beside
//! this one; a second time it writes the page that shows it.
//!
//! Of tests elsewhere only the day is known on which they passed last: with `PASSED=FILE`, what `cargo test` said of a
//! run of everything, that is taken from there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::pages::root;

/// By fault, as the function that tries it is called.
pub type Measured = BTreeMap<String, Felt>;

/// Of all writers together, between the fault before and the moment at which all were asked to rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Felt {
    /// The longest time in which nobody's write to some entity was acknowledged. Each is tried about once
    /// a second.
    pub pause_ms: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Sheet {
    /// When, where and with what.
    pub made: String,
    pub faults: Measured,
    /// By function: the day on which a test passed last.
    #[serde(default)]
    pub passed: BTreeMap<String, String>,
}

impl Sheet {
    /// Takes in what a run of everything said, which ended when it was last written to.
    pub fn take_in(&mut self, said: &Path) {
        let ended = std::fs::metadata(said).and_then(|of| of.modified()).unwrap();
        let day = OffsetDateTime::from(ended).date().to_string();
        for line in std::fs::read_to_string(said).unwrap().lines() {
            let name = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... ok"));
            if let Some(function) = name.and_then(|name| name.rsplit("::").next()) {
                self.passed.insert(function.to_owned(), day.clone());
            }
        }
    }
}

fn file() -> PathBuf {
    root().join("tests/faults/measured.json")
}

pub fn read() -> Option<Sheet> {
    serde_json::from_slice(&std::fs::read(file()).ok()?).ok()
}

pub fn write(sheet: &Sheet) {
    let mut text = serde_json::to_string_pretty(sheet).unwrap();
    text.push('\n');
    std::fs::write(file(), text).unwrap();
}

impl std::fmt::Display for Felt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pause_ms, acknowledged, refused, unknown } = self;
        let pause = *pause_ms as f64 / 1000.0;
        write!(
            f,
            "no entity went unwritten for more than {pause:.1} s; {acknowledged} acknowledged, all there; {refused} refused, {unknown} unknown"
        )
    }
}
