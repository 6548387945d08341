//! Can this log take records, and if not, why?
//!
//! What went wrong passes by itself where it can: whoever wants to append asks again, and the
//! writer looks whether the disk takes bytes now.

use std::io::{Error, ErrorKind};

/// How a log stands, with a reason for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    #[default]
    Sound,
    /// The disk has no room.
    Full(String),
    /// The disk failed to write or to flush.
    Failed(String),
    /// A record that was flushed is not what it was.
    Corrupt(String),
}

impl Standing {
    pub(super) fn after(source: &Error, why: String) -> Self {
        let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];
        if full.contains(&source.kind()) { Self::Full(why) } else { Self::Failed(why) }
    }
}
