//! Is what lies on the disk the log that was written?
//!
//! ```text
//!   [ r r r r ] [ r r x r ] [ r r r r ]    corrupt: valid records after the bad one
//!   [ r r r r ] [ r r r r ] [ r r r x      torn tail: nothing valid after it, mark before it
//!                     mark ─────────^      corrupt: it was flushed once
//! ```
//!
//! A large record counts as bad when one of its parts is.
//!
//! Every byte of every segment is read, at the speed of the disk or about 4 GB/s from memory: a
//! log of 100 GB on a disk of 1 GB/s takes 100 s to open. Reading less would let old damage lie
//! until the day on which a peer needs that record.
//!
//! A batch that a power loss cut short can look corrupt, when the disk kept a later part of it and
//! not an earlier one. That errs on the safe side: records are fetched again, none is dropped.

use std::path::Path;

use domicile_core::frame::{self, Taken};
use domicile_core::lsn::Lsn;

use super::error::{LogError, io};
use super::extent::Extent;
use super::parts;
use super::segment::{self, Scan, Step};

#[derive(Debug)]
pub(super) struct Judged {
    /// What is sound, without a hole: up to the damage, if there is any.
    pub extents: Vec<Extent>,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Sound,
    /// The last segment ends in so many bytes that are no record.
    Torn {
        bytes: u64,
    },
    Damaged(Damage),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// The segment's base.
    pub segment: Lsn,
    pub offset: u64,
    /// The highest LSN that is known to have been here.
    pub resumes_at: Lsn,
}

/// Reads the whole log in `folder`, of which everything up to `mark` was flushed once.
pub(super) fn judge(folder: &Path, mark: Lsn) -> Result<Judged, LogError> {
    let bases = segment::list(folder)?;
    let mut extents: Vec<Extent> = Vec::new();
    for (i, &base) in bases.iter().enumerate() {
        if let Some(before) = extents.last().filter(|before| before.last.0 + 1 != base.0) {
            let (segment, offset) = (before.base, before.bytes);
            let known = highest(folder, &bases[i..], 0)?.unwrap_or_default();
            let resumes_at = known.max(mark).max(Lsn(base.0 - 1));
            let verdict = Verdict::Damaged(Damage { segment, offset, resumes_at });
            return Ok(Judged { extents, verdict });
        }
        let (extent, file_bytes) = scan(folder, base)?;
        extents.push(extent);
        if extent.bytes == file_bytes {
            continue;
        }
        let last = bases.len() == i + 1;
        let known = highest(folder, &bases[i..], extent.bytes)?;
        let verdict = if last && known.is_none() && mark <= extent.last {
            Verdict::Torn { bytes: file_bytes - extent.bytes }
        } else {
            let resumes_at = known.unwrap_or_default().max(mark).max(extent.last);
            Verdict::Damaged(Damage { segment: base, offset: extent.bytes, resumes_at })
        };
        return Ok(Judged { extents, verdict });
    }
    let end = extents.last().copied().unwrap_or(Extent::empty_after(Lsn::ZERO));
    let verdict = if mark > end.last {
        Verdict::Damaged(Damage { segment: end.base, offset: end.bytes, resumes_at: mark })
    } else {
        Verdict::Sound
    };
    Ok(Judged { extents, verdict })
}

/// Returns the sound front of a segment, and the length of its file.
fn scan(folder: &Path, base: Lsn) -> Result<(Extent, u64), LogError> {
    let path = segment::path(folder, base);
    let file = segment::open(folder, base)?;
    let bytes = file.metadata().map_err(io("read size of segment", &path))?.len();
    let mut scan = Scan::new(&file, base, bytes);
    loop {
        let before = scan.extent;
        match scan.step().map_err(io("read segment", &path))? {
            Step::Records { run, parts: Some(parts), .. }
                if !parts::are_sound(folder, run.last, &parts)? =>
            {
                return Ok((before, bytes));
            }
            Step::Records { .. } => {}
            Step::End | Step::Damaged => return Ok((scan.extent, bytes)),
        }
    }
}

/// Returns the highest LSN that any segment from byte `from` of the first of `bases` on shows.
///
/// A later segment counts even when it is empty: it proves that all before its base was flushed.
fn highest(folder: &Path, bases: &[Lsn], from: u64) -> Result<Option<Lsn>, LogError> {
    let mut highest = None;
    for (i, &base) in bases.iter().enumerate() {
        let path = segment::path(folder, base);
        let bytes = std::fs::read(&path).map_err(io("read segment", &path))?;
        let mut at = 0;
        if i == 0 {
            at = usize::try_from(from).unwrap_or(usize::MAX);
        } else {
            highest = highest.max(Some(Lsn(base.0 - 1)));
        }
        while let Some(found) = frame::find_next(&bytes, at) {
            let (lsn, consumed) = match frame::take(&bytes[found..]) {
                Taken::Whole { lsn, consumed, .. } => (lsn, consumed),
                Taken::Packed { pack, consumed, .. } => (pack.last, consumed),
                Taken::Partial { .. } | Taken::Broken(_) => break,
            };
            highest = highest.max(Some(lsn));
            at = found + consumed;
        }
    }
    Ok(highest)
}
