//! What can go wrong with a whole world of regions, in words a person can act on?

use std::path::{Path, PathBuf};

use crate::lab::cluster::LabError;

/// How much of a log an error shows.
const LOG_TAIL_LINES: usize = 15;

/// Why regions could not be made, started or asked.
#[derive(Debug, thiserror::Error)]
pub enum RegionsError {
    #[error(transparent)]
    Cluster(#[from] LabError),
    #[error("{what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("make certificates: {0:#}")]
    Certificates(anyhow::Error),
    #[error("start {name} ({}): {source}", program.display())]
    Spawn { name: String, program: PathBuf, source: std::io::Error },
    #[error("start the relay of a link: {0}")]
    Relay(std::io::Error),
    #[error("seed cluster \"{region}\": {source}")]
    Seed { region: String, source: tokio_postgres::Error },
    #[error("ask the agent of region \"{region}\": {reason}")]
    Ask { region: String, reason: String },
    #[error("{what} did not happen within {seconds} s: {missing}{logs}")]
    TooLate { what: String, seconds: u64, missing: String, logs: String },
    #[error("{name} ended unexpectedly ({status}){log}")]
    Ended { name: String, status: String, log: String },
}

impl RegionsError {
    /// Returns a closure for `map_err` that says what was done to which path.
    pub(super) fn file(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}

/// Returns the end of a log with a heading, or nothing when there is no log.
pub(super) fn log_tail(file: &Path) -> String {
    let bytes = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return format!("\n{} is empty", file.display());
    }
    let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
    format!("\n{} ends with:\n{tail}", file.display())
}
