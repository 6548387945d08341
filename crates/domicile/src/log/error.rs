//! What can go wrong with a log, and what does it mean for the one who asked?

use std::path::{Path, PathBuf};

use domicile_core::frame::LARGE_PAYLOAD_BYTES_MAX;
use domicile_core::lsn::Lsn;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum LogError {
    /// Nothing was dropped. The records from here on must be fetched again from a peer, after
    /// [`Log::set_aside_corrupt`](super::Log::set_aside_corrupt).
    #[error("segment {} is corrupt at byte {offset}", segment.display())]
    Corrupt { segment: PathBuf, offset: u64 },

    #[error("failed to {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    /// After a write or flush that failed nobody knows what the disk holds behind the last record
    /// that was flushed before: it is cut off before another is taken.
    #[error("log takes no records since an earlier failure: {why}")]
    Poisoned { why: String },

    #[error("logs take {used} bytes, log.size_max is {bytes_max}")]
    NoRoom { used: u64, bytes_max: u64 },

    /// Records were taken back since: what follows them would leave a gap.
    #[error("log was rewritten since it was looked at")]
    Rewritten,

    #[error("record {lsn} is not after {end}")]
    OutOfOrder { lsn: Lsn, end: Lsn },

    #[error("record {lsn} has {bytes} bytes, the limit is {LARGE_PAYLOAD_BYTES_MAX}")]
    TooLarge { lsn: Lsn, bytes: usize },

    /// The reader would miss records: it has to be seeded again.
    #[error("records up to {trimmed} are trimmed, reading after {after} would miss some")]
    Trimmed { after: Lsn, trimmed: Lsn },

    #[error("log already has records or a start, it ends at {end}")]
    NotEmpty { end: Lsn },

    #[error("log folder {} is in use by another process", folder.display())]
    InUse { folder: PathBuf },

    #[error("log is stopped")]
    Stopped,
}

/// Gives an I/O error the context without which it says nothing.
pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LogError {
    move |source| LogError::Io { action, path: path.to_owned(), source }
}
