//! Where does a test have this agent die in the middle of a run?
//!
//! In a build with debug assertions a file `kill-at` in the agent's folder names a point of a step, as
//! in `grant between`; who comes there removes it and kills itself, as somebody else would. Other builds
//! look for nothing.

use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, raise};

pub struct KillAt {
    file: PathBuf,
}

/// A point of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It is decided what is done next.
    Before,
    /// It is done and not written down yet, or the other way round.
    Between,
    After,
    /// The step has something to wait for.
    Waits,
}

impl KillAt {
    pub fn new(folder: &Path) -> Self {
        Self { file: folder.join("kill-at") }
    }

    pub fn reached(&self, step: &str, moment: Moment) {
        if !cfg!(debug_assertions) {
            return;
        }
        let moment = match moment {
            Moment::Before => "before",
            Moment::Between => "between",
            Moment::After => "after",
            Moment::Waits => "waits",
        };
        let named = std::fs::read_to_string(&self.file).unwrap_or_default();
        if named == format!("{step} {moment}") && std::fs::remove_file(&self.file).is_ok() {
            let _ = raise(Signal::SIGKILL);
        }
    }
}
