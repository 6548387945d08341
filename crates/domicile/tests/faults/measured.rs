//! What did clients feel of each fault, when somebody measured it last?
//!
//! `UPDATE=1 cargo test -p domicile --test faults` measures all of them anew and writes the file beside
//! this one; a second time it writes the page that shows it.
//!
//! Of tests elsewhere only the day is known on which they passed last: with `PASSED=FILE`, what `cargo test` said of a
//! run of everything, that is taken from there.

use std::collections::{BTreeMap, BTreeSet};
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

/// What `cargo test` said of a run of everything.
pub struct Run {
    pub day: String,
    functions: BTreeSet<String>,
    /// Files whose tests have all passed: some of them try one thing after the other in one test.
    files: BTreeSet<String>,
}

impl Run {
    /// Reads what was said, and takes the day of the last word for that of the run.
    pub fn read(said: &Path) -> Self {
        let ended = std::fs::metadata(said).and_then(|of| of.modified()).unwrap();
        let day = OffsetDateTime::from(ended).date().to_string();
        let mut run = Self { day, functions: BTreeSet::new(), files: BTreeSet::new() };
        let mut running = String::new();
        for line in std::fs::read_to_string(said).unwrap().lines() {
            if let Some(file) = line.trim().strip_prefix("Running ") {
                running = file.split(' ').next().unwrap_or_default().to_owned();
            } else if line.starts_with("test result: ok") {
                run.files.insert(running.clone());
            } else if let Some(name) = line.strip_prefix("test ")
                && let Some(name) = name.strip_suffix(" ... ok")
            {
                run.functions.insert(name.rsplit("::").next().unwrap_or(name).to_owned());
            }
        }
        run
    }

    pub fn passed(&self, file: &str, function: &str) -> bool {
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        let main = format!("{folder}/main.rs");
        self.functions.contains(function) || [file, &main].iter().any(|f| self.files.contains(*f))
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
