//! Up to where did this log once have everything flushed?
//!
//! A bad record with a valid one after it is corruption; a bad *last* record is normally a torn
//! tail: the write that a crash cut short, which nobody was told of. But a disk can also damage a
//! last record that was acknowledged. The mark tells the two apart: it is the end of the log at
//! some time, so a log that ends before its mark has lost records.
//!
//! It is written at most once a second while records come in, a second after the last one, and
//! when the log closes. So it guarantees nothing about records of the last second before a crash:
//! if the very last of them is damaged, it passes for a torn tail. Records before the last need no
//! mark. Writing it for each append would close that gap and double the cost of every commit.
//!
//! The file is one frame without payload, overwritten in place: 17 bytes of one sector, which a
//! disk writes whole or not at all. Should that ever fail, the checksum shows it and the log is
//! opened without this second line of defence, with a warning.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use domicile_core::frame::{self, Taken};
use domicile_core::lsn::Lsn;

use super::error::{LogError, io};
use super::segment;

pub(super) struct Mark {
    path: PathBuf,
    file: File,
    at: Lsn,
}

impl Mark {
    pub fn open(folder: &Path) -> Result<Self, LogError> {
        let path = folder.join("mark");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("open mark", &path))?;
        segment::sync_folder(folder)?;
        let mut bytes = [0; frame::FRAME_OVERHEAD_BYTES];
        let len = file.read_at(&mut bytes, 0).map_err(io("read mark", &path))?;
        let at = match frame::take(&bytes[..len]) {
            Taken::Whole { lsn, .. } => lsn,
            _ if len == 0 => Lsn::ZERO,
            _ => {
                tracing::warn!(
                    path = %path.display(),
                    "mark is damaged: a damaged last record would pass for a torn tail"
                );
                Lsn::ZERO
            }
        };
        Ok(Self { path, file, at })
    }

    /// Returns the end that the log had at least; zero when nothing is known.
    pub fn at(&self) -> Lsn {
        self.at
    }

    /// Moves the mark, forward or back, durably.
    pub fn set(&mut self, at: Lsn) -> Result<(), LogError> {
        if at == self.at { Ok(()) } else { self.rewrite(at) }
    }

    /// Writes the mark whatever it was thought to be.
    pub fn rewrite(&mut self, at: Lsn) -> Result<(), LogError> {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, at, b"");
        self.file
            .write_all_at(&bytes, 0)
            .and_then(|()| self.file.sync_data())
            .map_err(io("write mark", &self.path))?;
        self.at = at;
        Ok(())
    }
}
