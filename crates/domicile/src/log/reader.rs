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
use domicile_core::frame::{FRAME_OVERHEAD_BYTES, Parts};
use domicile_core::lsn::Lsn;

use super::error::{LogError, io};
use super::extent::{Extent, Extents, Shared};
use super::frame::{Frame, NoFrame, Record};
use super::parts::{self, PartReader};
use super::segment::{self, Scan, Step};
use super::standing::Standing;

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
    /// its records is. Dropping the future loses nothing.
    pub async fn next_batch(&mut self, bytes_max: usize) -> Result<Option<Vec<Record>>, LogError> {
        let Some((frames, place)) = self.read(bytes_max, Frame::plain_bytes).await? else {
            return Ok(None);
        };
        let (mut records, mut offset) = (Vec::new(), place.offset - length(&frames));
        for frame in &frames {
            let Ok(of_frame) = frame.records() else {
                let segment = segment::path(&self.shared.folder, place.base);
                let error = LogError::Corrupt { segment, offset };
                self.shared.stands(Standing::Corrupt(error.to_string()));
                return Err(error);
            };
            records.extend(of_frame.into_iter().filter(|record| record.lsn > self.after));
            offset += frame.bytes.len() as u64;
        }
        self.go_on(&frames, place);
        Ok(Some(records))
    }

    /// Returns the next frames as they stand in the log, to be passed on. The first may also hold
    /// records that are not after where this reader began.
    pub async fn next_frames(&mut self, bytes_max: usize) -> Result<Option<Vec<Frame>>, LogError> {
        let Some((frames, place)) = self.read(bytes_max, |frame| frame.bytes.len()).await? else {
            return Ok(None);
        };
        self.go_on(&frames, place);
        Ok(Some(frames))
    }

    /// Returns the parts of a large record that this reader gave out; `None` of any other.
    pub fn parts(&self, record: &Record) -> Result<Option<PartReader>, LogError> {
        self.open_parts(record.lsn, record.parts)
    }

    /// The same of a frame.
    pub fn parts_of(&self, frame: &Frame) -> Result<Option<PartReader>, LogError> {
        self.open_parts(frame.last, frame.parts)
    }

    fn open_parts(&self, lsn: Lsn, parts: Option<Parts>) -> Result<Option<PartReader>, LogError> {
        let Some(parts) = parts else { return Ok(None) };
        let opened = PartReader::open(parts::path(&self.shared.folder, lsn), parts);
        let begin = self.shared.look(|extents| extents.list.first().map(|extent| extent.base));
        match (opened, begin) {
            (Err(LogError::Corrupt { .. }), Some(begin)) if lsn < begin => {
                Err(LogError::Trimmed { after: lsn, trimmed: Lsn(begin.0 - 1) })
            }
            (opened, _) => opened.map(Some),
        }
    }

    async fn read(
        &self,
        bytes_max: usize,
        weigh: fn(&Frame) -> usize,
    ) -> Result<Option<(Vec<Frame>, Place)>, LogError> {
        if self.after >= self.shared.end() {
            return Ok(None);
        }
        let (shared, after, place) = (self.shared.clone(), self.after, self.place.clone());
        let limit = Limit { bytes_max, weigh };
        let read = tokio::task::spawn_blocking(move || read(&shared, after, place, limit));
        read.await.map_err(|_| LogError::Stopped)?
    }

    fn go_on(&mut self, frames: &[Frame], place: Place) {
        self.after = frames.last().map_or(self.after, |frame| frame.last);
        self.place = Some(place);
    }
}

/// How much is given out at once.
#[derive(Clone, Copy)]
struct Limit {
    bytes_max: usize,
    /// What a frame counts for.
    weigh: fn(&Frame) -> usize,
}

fn length(frames: &[Frame]) -> u64 {
    frames.iter().map(|frame| frame.bytes.len() as u64).sum()
}

fn read(
    shared: &Shared,
    after: Lsn,
    mut place: Option<Place>,
    limit: Limit,
) -> Result<Option<(Vec<Frame>, Place)>, LogError> {
    loop {
        let Next::Read { extent, rewrites, seek } =
            shared.look(|extents| next(extents, after, place.take()))?
        else {
            return Ok(None);
        };
        let result = read_segment(shared, &extent, rewrites, seek, after, limit);
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
    limit: Limit,
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
    let frames = frames(&place, extent.bytes, after, limit, path)?;
    place.offset += length(&frames);
    Ok((frames, place))
}

/// Returns where the frame of the first record after `after` begins, reading the segment up to there.
fn offset_after(file: &File, extent: &Extent, after: Lsn, path: &Path) -> Result<u64, LogError> {
    let mut scan = Scan::new(file, extent.base, extent.bytes);
    loop {
        let offset = scan.extent.bytes;
        match scan.step().map_err(io("read segment", path))? {
            Step::Records { run, .. } if run.last <= after => {}
            Step::Records { .. } => return Ok(offset),
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
    limit: Limit,
    path: PathBuf,
) -> Result<Vec<Frame>, LogError> {
    let left = usize::try_from(upto.saturating_sub(place.offset)).unwrap_or(usize::MAX);
    let mut want = limit.bytes_max.max(FRAME_OVERHEAD_BYTES).min(left);
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
        let (frames, stopped) = split(&bytes, after, limit);
        match stopped {
            _ if !frames.is_empty() => return Ok(frames),
            // The frame is longer than the caller's batch: it is given whole, by itself.
            Some(NoFrame::Partial { needed }) if want < needed && needed <= left => want = needed,
            _ => return Err(LogError::Corrupt { segment: path, offset: place.offset }),
        }
    }
}

/// Splits off frames at the front, as many as the limit allows, and tells why there are no more.
fn split(bytes: &Bytes, after: Lsn, limit: Limit) -> (Vec<Frame>, Option<NoFrame>) {
    let (mut frames, mut at, mut weight) = (Vec::<Frame>::new(), 0, 0);
    loop {
        let frame = match Frame::take(&bytes.slice(at..)) {
            Ok(frame) => frame,
            Err(none) => return (frames, Some(none)),
        };
        let orderly = match frames.last() {
            Some(before) => frame.first > before.last,
            None => frame.last > after,
        };
        weight += (limit.weigh)(&frame);
        if !orderly || (weight > limit.bytes_max && !frames.is_empty()) {
            return (frames, None);
        }
        at += frame.bytes.len();
        frames.push(frame);
        if frames.last().is_some_and(|frame| frame.parts.is_some()) {
            return (frames, None);
        }
    }
}
