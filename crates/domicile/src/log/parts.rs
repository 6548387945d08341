//! Where does the bulk of a large record stand, and is it all there?
//!
//! Beside its segment, in a file of its own named after the record's LSN. It is durable before the
//! record is, and goes when the record's segment goes: a record without its parts is damage, parts
//! without a record are left over and removed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use domicile_core::frame::{self, FRAME_BYTES_MAX, FRAME_OVERHEAD_BYTES, Parts, Taken};
use domicile_core::lsn::Lsn;

use super::error::{LogError, io};
use super::extent::Shared;
use super::frame::{Frame, Record};
use super::segment;
use super::standing::Standing;

const SUFFIX: &str = ".parts";

pub(super) fn path(folder: &Path, lsn: Lsn) -> PathBuf {
    folder.join(format!("{:016x}{SUFFIX}", lsn.0))
}

/// Returns the LSNs of all records in `folder` that have parts, or had.
pub(super) fn list(folder: &Path) -> Result<Vec<Lsn>, LogError> {
    let mut lsns = Vec::new();
    for entry in fs::read_dir(folder).map_err(io("list folder", folder))? {
        let name = entry.map_err(io("list folder", folder))?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        lsns.extend(digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).map(Lsn));
    }
    Ok(lsns)
}

/// Removes the parts of the records that `gone` names; their records are gone already.
pub(super) fn remove(folder: &Path, gone: impl Fn(Lsn) -> bool) -> Result<(), LogError> {
    let mut removed = false;
    for lsn in list(folder)?.into_iter().filter(|lsn| gone(*lsn)) {
        let path = path(folder, lsn);
        fs::remove_file(&path).map_err(io("remove parts", &path))?;
        removed = true;
    }
    if removed { segment::sync_folder(folder) } else { Ok(()) }
}

/// Reads the parts of the record at `lsn`. Returns whether they are what the record says.
pub(super) fn are_sound(folder: &Path, lsn: Lsn, parts: &Parts) -> Result<bool, LogError> {
    let path = path(folder, lsn);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io("open parts", &path)(error)),
    };
    let mut walk = Walk::new(*parts);
    while walk.seen.count < parts.count {
        if walk.step(&file).map_err(io("read parts", &path))?.is_none() {
            return Ok(false);
        }
    }
    Ok(walk.is_whole())
}

/// Gives out the parts of one large record, in order, one in memory at a time.
pub struct PartReader {
    file: Arc<File>,
    path: PathBuf,
    walk: Walk,
    /// The log that stands as damaged where the parts are.
    log: Option<Arc<Shared>>,
}

impl PartReader {
    pub(super) fn open(path: PathBuf, parts: Parts) -> Result<Self, LogError> {
        let file = match File::open(&path) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(LogError::Corrupt { segment: path, offset: 0 });
            }
            Err(error) => return Err(io("open parts", &path)(error)),
        };
        Ok(Self { file, path, walk: Walk::new(parts), log: None })
    }

    /// Has damage be told of as the log's.
    pub(super) fn of(self, log: Arc<Shared>) -> Self {
        Self { log: Some(log), ..self }
    }

    fn corrupt(&self, offset: u64) -> LogError {
        let error = LogError::Corrupt { segment: self.path.clone(), offset };
        if let Some(log) = &self.log {
            log.stands(Standing::Corrupt(error.to_string()));
        }
        error
    }

    pub fn is_at_end(&self) -> bool {
        self.walk.seen.count >= self.walk.parts.count
    }

    /// Returns the next part, with its number in place of an LSN; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Record>, LogError> {
        let before = self.walk;
        let Some(frame) = self.next_frame().await? else { return Ok(None) };
        match frame.records() {
            Ok(records) => Ok(records.into_iter().next()),
            Err(_) => {
                self.walk = before;
                Err(self.corrupt(before.seen.bytes))
            }
        }
    }

    /// Returns the same as it stands in the file, to be passed on.
    ///
    /// Each is checked by its own checksum, and the last one by what all of them add up to.
    pub async fn next_frame(&mut self) -> Result<Option<Frame>, LogError> {
        if self.is_at_end() {
            return Ok(None);
        }
        let (file, path, mut walk) = (self.file.clone(), self.path.clone(), self.walk);
        let read = tokio::task::spawn_blocking(move || {
            let part = walk.step(&file).map_err(io("read parts", &path))?;
            let is_last = walk.seen.count == walk.parts.count;
            Ok(part.filter(|_| !is_last || walk.is_whole()).map(|part| (part, walk)))
        });
        match read.await.map_err(|_| LogError::Stopped)?? {
            Some((part, walk)) => {
                self.walk = walk;
                Ok(Some(part))
            }
            None => Err(self.corrupt(self.walk.seen.bytes)),
        }
    }
}

/// How far the parts of one record have been read.
#[derive(Clone, Copy)]
struct Walk {
    parts: Parts,
    seen: Parts,
}

impl Walk {
    fn new(parts: Parts) -> Self {
        Self { parts, seen: Parts::default() }
    }

    /// Reads the next part; `None` when it is not a whole one.
    fn step(&mut self, file: &File) -> std::io::Result<Option<Frame>> {
        let mut header = [0; FRAME_OVERHEAD_BYTES];
        if !read_at(file, &mut header, self.seen.bytes)? {
            return Ok(None);
        }
        let length = match frame::take(&header) {
            Taken::Partial { needed } => needed,
            Taken::Whole { consumed, .. } | Taken::Packed { consumed, .. } => consumed,
            Taken::Broken(_) => return Ok(None),
        };
        // No allocation on the word of a length that the record's own does not cover.
        let fits = self.seen.bytes + length as u64 <= self.parts.bytes;
        if !fits || length > FRAME_BYTES_MAX {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        if !read_at(file, &mut bytes, self.seen.bytes)? {
            return Ok(None);
        }
        let Ok(part) = Frame::take(&Bytes::from(bytes)) else { return Ok(None) };
        if !is_part(&part, &self.seen) {
            return Ok(None);
        }
        self.seen.add(&part.bytes);
        Ok(Some(part))
    }

    fn is_whole(&self) -> bool {
        self.seen == self.parts
    }
}

/// Can this frame be the part that follows on what `seen` adds up?
pub(super) fn is_part(frame: &Frame, seen: &Parts) -> bool {
    frame.parts.is_none() && frame.count() == 1 && frame.last == seen.next()
}

/// Returns whether the file has so many bytes there.
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<bool> {
    match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
