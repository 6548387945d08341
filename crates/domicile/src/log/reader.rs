//! What comes after this LSN, as far as it is flushed?
//!
//! A reader remembers the last LSN that it gave out and, as a shortcut, where in which file it
//! stood. It takes the lock only to look up what is flushed; meanwhile the log may be appended to,
//! trimmed or truncated, and the reader finds its place again by LSN.
//!
//! **Invariant:** each record is checked against its checksum and its order on every read, so a
//! disk that changes its mind gives an error and never a wrong record.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use domicile_core::frame::{self, FRAME_OVERHEAD_BYTES, Parts, Taken};
use domicile_core::lsn::Lsn;

use super::error::{LogError, io};
use super::extent::{Extent, Extents, Shared};
use super::parts::{self, PartReader};
use super::segment::{self, Scan, Step};
use super::standing::Standing;

/// One record as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub lsn: Lsn,
    pub payload: Bytes,
    /// Header and payload: what a peer can be sent as it is.
    pub frame: Bytes,
    /// What stands outside of it: to be had from [`Reader::parts`].
    pub parts: Option<Parts>,
}

/// Goes through a log, following it into new segments.
pub struct Reader {
    shared: Arc<Shared>,
    after: Lsn,
    place: Option<Place>,
}

/// Where the record after `Reader::after` begins, if nothing was taken back since.
#[derive(Clone)]
struct Place {
    file: Arc<File>,
    base: Lsn,
    offset: u64,
    rewrites: u64,
}

/// What one look at the extents says about the next read.
enum Next {
    /// Nothing more is flushed.
    End,
    Read {
        extent: Extent,
        rewrites: u64,
        seek: Seek,
    },
}

enum Seek {
    Here(Place),
    First,
    /// Some records of the segment are not after `Reader::after`.
    Inside,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, after: Lsn) -> Self {
        Self { shared, after, place: None }
    }

    /// Returns the LSN after which the next batch begins.
    pub fn after(&self) -> Lsn {
        self.after
    }

    /// Returns the next records, about `bytes_max` bytes of them and at least one.
    ///
    /// A large record, which has parts, is the last of its batch. `None` at the flushed end as it
    /// is now. The bytes of a batch are kept in memory while any of
    /// its frames is. Dropping the future loses nothing.
    pub async fn next_batch(&mut self, bytes_max: usize) -> Result<Option<Vec<Frame>>, LogError> {
        if self.after >= self.shared.end() {
            return Ok(None);
        }
        let (shared, after, place) = (self.shared.clone(), self.after, self.place.clone());
        let read = tokio::task::spawn_blocking(move || read(&shared, after, place, bytes_max));
        let Some((frames, place)) = read.await.map_err(|_| LogError::Stopped)?? else {
            return Ok(None);
        };
        self.after = frames.last().map_or(self.after, |frame| frame.lsn);
        self.place = Some(place);
        Ok(Some(frames))
    }

    /// Returns the parts of a large record that this reader gave out; `None` of any other.
    pub fn parts(&self, frame: &Frame) -> Result<Option<PartReader>, LogError> {
        let Some(parts) = frame.parts else { return Ok(None) };
        let opened = PartReader::open(parts::path(&self.shared.folder, frame.lsn), parts);
        let begin = self.shared.look(|extents| extents.list.first().map(|extent| extent.base));
        match (opened, begin) {
            (Err(LogError::Corrupt { .. }), Some(begin)) if frame.lsn < begin => {
                Err(LogError::Trimmed { after: frame.lsn, trimmed: Lsn(begin.0 - 1) })
            }
            (opened, _) => opened.map(Some),
        }
    }
}

fn read(
    shared: &Shared,
    after: Lsn,
    mut place: Option<Place>,
    bytes_max: usize,
) -> Result<Option<(Vec<Frame>, Place)>, LogError> {
    loop {
        let Next::Read { extent, rewrites, seek } =
            shared.look(|extents| next(extents, after, place.take()))?
        else {
            return Ok(None);
        };
        let result = read_segment(shared, &extent, rewrites, seek, after, bytes_max);
        // What was taken back while it was read is not to be trusted, and a segment that was
        // trimmed before it could be opened is no error: look again.
        let stands = shared.look(|extents| {
            let here = || extents.list.iter().any(|e| e.base == extent.base);
            extents.rewrites == rewrites && (result.is_ok() || here())
        });
        if stands {
            if let Err(error @ LogError::Corrupt { .. }) = &result {
                shared.stands(Standing::Corrupt(error.to_string()));
            }
            return result.map(Some);
        }
    }
}

/// Decides which segment to read next, and from where.
fn next(extents: &Extents, after: Lsn, place: Option<Place>) -> Result<Next, LogError> {
    let trimmed = extents.trimmed();
    if after < trimmed {
        return Err(LogError::Trimmed { after, trimmed });
    }
    // The first segment with a record after `after`: they are in order, without overlap.
    let at = extents.list.partition_point(|extent| extent.last <= after);
    let Some(&extent) = extents.list.get(at) else { return Ok(Next::End) };
    let rewrites = extents.rewrites;
    let seek = match place {
        Some(place) if place.rewrites == rewrites && place.base == extent.base => Seek::Here(place),
        _ if extent.base > after => Seek::First,
        _ => Seek::Inside,
    };
    Ok(Next::Read { extent, rewrites, seek })
}

fn read_segment(
    shared: &Shared,
    extent: &Extent,
    rewrites: u64,
    seek: Seek,
    after: Lsn,
    bytes_max: usize,
) -> Result<(Vec<Frame>, Place), LogError> {
    let path = segment::path(&shared.folder, extent.base);
    let open = || File::open(&path).map(Arc::new).map_err(io("open segment", &path));
    let base = extent.base;
    let mut place = match seek {
        Seek::Here(place) => place,
        Seek::First => Place { file: open()?, base, offset: 0, rewrites },
        Seek::Inside => {
            let file = open()?;
            let offset = offset_after(&file, extent, after, &path)?;
            Place { file, base, offset, rewrites }
        }
    };
    let frames = frames(&place, extent.bytes, after, bytes_max, path)?;
    place.offset += frames.iter().map(|frame| frame.frame.len() as u64).sum::<u64>();
    Ok((frames, place))
}

/// Returns where the first record after `after` begins, reading the segment up to there.
fn offset_after(file: &File, extent: &Extent, after: Lsn, path: &Path) -> Result<u64, LogError> {
    let mut scan = Scan::new(file, extent.base, extent.bytes);
    loop {
        let offset = scan.extent.bytes;
        match scan.step().map_err(io("read segment", path))? {
            Step::Record { lsn, .. } if lsn <= after => {}
            Step::Record { .. } => return Ok(offset),
            Step::End | Step::Damaged => {
                return Err(LogError::Corrupt { segment: path.to_owned(), offset });
            }
        }
    }
}

/// Returns the frames at `place`; the segment is flushed up to byte `upto`.
fn frames(
    place: &Place,
    upto: u64,
    after: Lsn,
    bytes_max: usize,
    path: PathBuf,
) -> Result<Vec<Frame>, LogError> {
    let left = usize::try_from(upto.saturating_sub(place.offset)).unwrap_or(usize::MAX);
    let mut want = bytes_max.max(FRAME_OVERHEAD_BYTES).min(left);
    loop {
        let mut bytes = vec![0; want];
        if let Err(source) = place.file.read_exact_at(&mut bytes, place.offset) {
            // Shorter than what was flushed: the file system lost some of it.
            return Err(if source.kind() == std::io::ErrorKind::UnexpectedEof {
                LogError::Corrupt { segment: path, offset: place.offset }
            } else {
                io("read segment", &path)(source)
            });
        }
        let bytes = Bytes::from(bytes);
        let (frames, stopped) = split(&bytes, after);
        match stopped {
            _ if !frames.is_empty() => return Ok(frames),
            // The record is longer than the caller's batch: it is given whole, by itself.
            Taken::Partial { needed } if want < needed && needed <= left => want = needed,
            _ => return Err(LogError::Corrupt { segment: path, offset: place.offset }),
        }
    }
}

/// Splits off the whole frames at the front, and tells what stands behind them.
fn split(bytes: &Bytes, mut after: Lsn) -> (Vec<Frame>, Taken<'_>) {
    let (mut frames, mut at) = (Vec::new(), 0);
    loop {
        match frame::take(&bytes[at..]) {
            Taken::Whole { lsn, payload, parts, consumed } if lsn > after => {
                let payload = bytes.slice_ref(payload);
                frames.push(Frame { lsn, payload, frame: bytes.slice(at..at + consumed), parts });
                (after, at) = (lsn, at + consumed);
                if parts.is_some() {
                    return (frames, Taken::Partial { needed: 0 });
                }
            }
            stopped => return (frames, stopped),
        }
    }
}
