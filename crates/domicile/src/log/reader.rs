//! What comes after this LSN, as far as it is flushed?
//!
//! A reader remembers the last LSN that it gave out and, as a shortcut, where in which file it
//! stood. It takes the lock only to look up what is flushed; meanwhile the log may be appended to,
//! trimmed or truncated, and the reader finds its place again by LSN.
//!
//! The newest frames are at hand in memory, see `recent`; everything else is read from the disk.
//!
//! **Invariant:** each record that is read is checked against its checksum and its order every
//! time, so a disk that changes its mind gives an error and never a wrong record.

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
use super::recent::Found;
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
    /// `None` until something of it is read from the disk.
    file: Option<Arc<File>>,
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
        let Some((frames, place)) = self.read(Limit::plain(bytes_max)).await? else {
            return Ok(None);
        };
        self.records(&frames, place).map(Some)
    }

    /// Returns the next records as [`Reader::next_batch`] does, where that takes no waiting.
    pub fn next_at_hand(&mut self, bytes_max: usize) -> Result<AtHand<Vec<Record>>, LogError> {
        Ok(match self.at_hand(Limit::plain(bytes_max))? {
            AtHand::Some((frames, place)) => AtHand::Some(self.records(&frames, place)?),
            AtHand::End => AtHand::End,
            AtHand::OnDisk => AtHand::OnDisk,
        })
    }

    /// Would [`Reader::next_at_hand`] tell?
    pub fn is_at_hand(&self) -> bool {
        let smallest = Limit { bytes_max: 0, weigh: |_| 1 };
        !matches!(self.at_hand(smallest), Ok(AtHand::OnDisk))
    }

    fn records(&mut self, frames: &[Frame], place: Place) -> Result<Vec<Record>, LogError> {
        let (mut records, mut offset) = (Vec::new(), place.offset - length(frames));
        for frame in frames {
            let Ok(of_frame) = frame.records() else {
                let segment = segment::path(&self.shared.folder, place.base);
                let error = LogError::Corrupt { segment, offset };
                self.shared.stands(Standing::Corrupt(error.to_string()));
                return Err(error);
            };
            records.extend(of_frame.into_iter().filter(|record| record.lsn > self.after));
            offset += frame.bytes.len() as u64;
        }
        self.go_on(frames, place);
        Ok(records)
    }

    /// Returns the next frames as they stand in the log, to be passed on. The first may also hold
    /// records that are not after where this reader began.
    pub async fn next_frames(&mut self, bytes_max: usize) -> Result<Option<Vec<Frame>>, LogError> {
        let limit = Limit { bytes_max, weigh: |frame| frame.bytes.len() };
        let Some((frames, place)) = self.read(limit).await? else {
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
            (Ok(parts), _) => Ok(Some(parts.of(self.shared.clone()))),
            (Err(error), _) => {
                if matches!(error, LogError::Corrupt { .. }) {
                    self.shared.stands(Standing::Corrupt(error.to_string()));
                }
                Err(error)
            }
        }
    }

    async fn read(&self, limit: Limit) -> Result<Option<(Vec<Frame>, Place)>, LogError> {
        match self.at_hand(limit)? {
            AtHand::Some(found) => return Ok(Some(found)),
            AtHand::End => return Ok(None),
            AtHand::OnDisk => {}
        }
        let (shared, after, place) = (self.shared.clone(), self.after, self.place.clone());
        let read = tokio::task::spawn_blocking(move || read(&shared, after, place, limit));
        read.await.map_err(|_| LogError::Stopped)?
    }

    /// What is known without a look at the disk.
    fn at_hand(&self, limit: Limit) -> Result<AtHand<(Vec<Frame>, Place)>, LogError> {
        self.shared.look(|extents| {
            let (after, trimmed) = (self.after, extents.trimmed());
            if after >= extents.end() {
                return Ok(AtHand::End);
            }
            if after < trimmed {
                return Err(LogError::Trimmed { after, trimmed });
            }
            let mut weight = 0;
            let found = extents.recent.behind(after, |frame| {
                // As of a read of so many bytes, which has no more.
                weight += (limit.weigh)(frame).max(frame.bytes.len());
                weight <= limit.bytes_max
            });
            let Some(Found { frames, base, offset }) = found else { return Ok(AtHand::OnDisk) };
            let rewrites = extents.rewrites;
            let same = |place: &&Place| place.base == base && place.rewrites == rewrites;
            let file = self.place.as_ref().filter(same).and_then(|place| place.file.clone());
            Ok(AtHand::Some((frames, Place { file, base, offset, rewrites })))
        })
    }

    fn go_on(&mut self, frames: &[Frame], place: Place) {
        self.after = frames.last().map_or(self.after, |frame| frame.last);
        self.place = Some(place);
    }
}

/// What can be told at once.
pub enum AtHand<T> {
    Some(T),
    /// There is no more, as it is now.
    End,
    /// The disk has to be asked.
    OnDisk,
}

/// How much is given out at once.
#[derive(Clone, Copy)]
struct Limit {
    bytes_max: usize,
    /// What a frame counts for.
    weigh: fn(&Frame) -> usize,
}

impl Limit {
    /// Of so many bytes in memory.
    fn plain(bytes_max: usize) -> Self {
        Self { bytes_max, weigh: Frame::plain_bytes }
    }
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
        Seek::First => Place { file: None, base, offset: 0, rewrites },
        Seek::Inside => {
            let file = open()?;
            let offset = offset_after(&file, extent, after, &path)?;
            Place { file: Some(file), base, offset, rewrites }
        }
    };
    let file = match &place.file {
        Some(file) => file,
        None => place.file.insert(open()?),
    };
    let left = extent.bytes.saturating_sub(place.offset);
    let frames = frames(file, place.offset, left, after, limit, path)?;
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

/// Returns the frames at `offset` of the segment in `file`; so many bytes `left` are flushed there.
fn frames(
    file: &File,
    offset: u64,
    left: u64,
    after: Lsn,
    limit: Limit,
    path: PathBuf,
) -> Result<Vec<Frame>, LogError> {
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    let mut want = limit.bytes_max.max(FRAME_OVERHEAD_BYTES).min(left);
    loop {
        let mut bytes = vec![0; want];
        if let Err(source) = file.read_exact_at(&mut bytes, offset) {
            // Shorter than what was flushed: the file system lost some of it.
            return Err(if source.kind() == std::io::ErrorKind::UnexpectedEof {
                LogError::Corrupt { segment: path, offset }
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
            _ => return Err(LogError::Corrupt { segment: path, offset }),
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
