//! Which file holds which records, and which of its bytes are whole records?
//!
//! A segment is named after the lowest LSN that it may hold: one past the end of the segment
//! before it, 1 for a log that was never trimmed. So the names alone show that no segment is
//! missing between two others, and how far a log was trimmed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use domicile_core::frame::{self, Pack, Parts, Taken};
use domicile_core::lsn::Lsn;

use super::error::{LogError, io};
use super::extent::{Extent, Run};

const SUFFIX: &str = ".segment";

/// How much is read at once; a longer record is read whole.
const SCAN_BYTES: usize = 1 << 20;

pub(super) fn path(folder: &Path, base: Lsn) -> PathBuf {
    folder.join(format!("{:016x}{SUFFIX}", base.0))
}

/// Returns the bases of all segments, in order.
pub(super) fn list(folder: &Path) -> Result<Vec<Lsn>, LogError> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(folder).map_err(io("list folder", folder))? {
        let name = entry.map_err(io("list folder", folder))?.file_name();
        bases.extend(name.to_str().and_then(base_of));
    }
    bases.sort_unstable();
    Ok(bases)
}

fn base_of(name: &str) -> Option<Lsn> {
    let digits = name.strip_suffix(SUFFIX)?;
    let base = u64::from_str_radix(digits, 16).ok()?;
    (digits.len() == 16 && base > 0).then_some(Lsn(base))
}

/// Makes created, renamed and removed files of `folder` durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), LogError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(io("flush folder", folder))
}

/// Creates the empty segment that follows `end`, durably.
pub(super) fn create(folder: &Path, end: Lsn) -> Result<(File, Extent), LogError> {
    let extent = Extent::empty_after(end);
    let path = path(folder, extent.base);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(io("create segment", &path))?;
    sync_folder(folder)?;
    Ok((file, extent))
}

pub(super) fn open(folder: &Path, base: Lsn) -> Result<File, LogError> {
    let path = path(folder, base);
    File::options().read(true).write(true).open(&path).map_err(io("open segment", &path))
}

/// Removes a segment, durably. One at a time, as a hole must never be seen after a crash.
pub(super) fn remove(folder: &Path, base: Lsn) -> Result<(), LogError> {
    let path = path(folder, base);
    fs::remove_file(&path).map_err(io("remove segment", &path))?;
    sync_folder(folder)
}

/// What stands at one place of a segment.
pub(super) enum Step {
    /// A frame, of one record or several.
    Records {
        run: Run,
        bytes: u64,
        parts: Option<Parts>,
    },
    End,
    Damaged,
}

/// Goes through the frames of a segment from its beginning, with a bounded buffer.
pub(super) struct Scan<'a> {
    file: &'a File,
    /// Bytes at and after this are not looked at.
    upto: u64,
    /// The records that were seen, all of them whole.
    pub extent: Extent,
    buffer: Vec<u8>,
    /// The part of `buffer` that is already in `extent`.
    done: usize,
}

impl<'a> Scan<'a> {
    pub fn new(file: &'a File, base: Lsn, upto: u64) -> Self {
        let extent = Extent::empty_after(Lsn(base.0 - 1));
        Self { file, upto, extent, buffer: Vec::new(), done: 0 }
    }

    /// Steps over the next frame. Stays where it is once it answered `End` or `Damaged`.
    pub fn step(&mut self) -> std::io::Result<Step> {
        loop {
            let (run, parts, consumed) = match frame::take(&self.buffer[self.done..]) {
                Taken::Whole { lsn, parts, consumed, .. } => (Run::of(lsn), parts, consumed),
                Taken::Packed { pack, consumed, .. } => {
                    let Pack { first, last, count, .. } = pack;
                    (Run { first, last, count: count.into() }, None, consumed)
                }
                Taken::Broken(_) => return Ok(Step::Damaged),
                Taken::Partial { needed } => {
                    let left = self.upto.saturating_sub(self.extent.bytes);
                    if left == 0 {
                        return Ok(Step::End);
                    }
                    if left < needed as u64 {
                        return Ok(Step::Damaged);
                    }
                    self.fill(needed)?;
                    continue;
                }
            };
            // A record out of order is as wrong as one that does not add up.
            if run.first <= self.extent.last {
                return Ok(Step::Damaged);
            }
            self.done += consumed;
            let bytes = consumed as u64;
            self.extent.add(run, bytes, parts);
            return Ok(Step::Records { run, bytes, parts });
        }
    }

    /// Reads on until the buffer has `needed` bytes after `done`, which the file has.
    fn fill(&mut self, needed: usize) -> std::io::Result<()> {
        self.buffer.drain(..self.done);
        self.done = 0;
        let have = self.buffer.len();
        let left = self.upto - self.extent.bytes - have as u64;
        let more = (needed - have).max(SCAN_BYTES);
        let more = usize::try_from(left).map_or(more, |left| more.min(left));
        self.buffer.resize(have + more, 0);
        self.file.read_exact_at(&mut self.buffer[have..], self.extent.bytes + have as u64)
    }
}
