//! Which frames were flushed a moment ago?
//!
//! Whoever follows a log is nearly always at its end. To read a small record back from the disk
//! costs two changes of thread, which is more than everything else that is done with it; so the
//! newest frames are kept in memory as well.
//!
//! **Invariant:** what is kept is flushed, follows one another without a hole, and ends where the
//! log ends.

use std::collections::VecDeque;

use bytes::Bytes;
use domicile_core::lsn::Lsn;

use super::frame::Frame;

/// Of a batch that takes more than this part of what is kept, the disk gives back enough at once.
const BATCH_MAX: usize = 4;

#[derive(Clone, Debug)]
pub(super) struct Recent {
    /// The frames are those after this.
    after: Lsn,
    frames: VecDeque<Flushed>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Clone, Debug)]
struct Flushed {
    frame: Frame,
    /// Where it ends: the segment that begins at `base`, the offset there.
    base: Lsn,
    end: u64,
}

/// Frames that follow one another, and where the log goes on behind them.
pub(super) struct Found {
    pub frames: Vec<Frame>,
    pub base: Lsn,
    pub offset: u64,
}

impl Recent {
    /// Of a log that ends at `end`: keeps about `bytes_max` bytes of what will follow.
    pub fn new(end: Lsn, bytes_max: usize) -> Self {
        Self { after: end, frames: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Keeps nothing up to `end`, where the log ends.
    pub fn forget(&mut self, end: Lsn) {
        *self = Self::new(end, self.bytes_max);
    }

    /// Where what is kept ends.
    pub fn end(&self) -> Lsn {
        self.frames.back().map_or(self.after, |last| last.frame.last)
    }

    /// Keeps `batch`, which was flushed at `offset` of the segment that begins at `base`, or as
    /// much of it as is worth it.
    pub fn push(&mut self, batch: &[u8], base: Lsn, mut offset: u64, end: Lsn) {
        if batch.len() > self.bytes_max / BATCH_MAX {
            return self.forget(end);
        }
        let mut rest = Bytes::copy_from_slice(batch);
        while !rest.is_empty() {
            let Ok(frame) = Frame::take(&rest) else { return self.forget(end) };
            rest = rest.split_off(frame.bytes.len());
            offset += frame.bytes.len() as u64;
            self.bytes += frame.bytes.len();
            self.frames.push_back(Flushed { frame, base, end: offset });
        }
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.frames.pop_front()
        {
            self.bytes -= oldest.frame.bytes.len();
            self.after = oldest.frame.last;
        }
    }

    /// Returns frames behind `after`, which lies before the end: the first of them, and those that
    /// follow it while `fits` says so. `None` when what comes next is not kept.
    pub fn behind(&self, after: Lsn, mut fits: impl FnMut(&Frame) -> bool) -> Option<Found> {
        if after < self.after {
            return None;
        }
        let first = self.frames.partition_point(|kept| kept.frame.last <= after);
        let mut found: Option<Found> = None;
        for Flushed { frame, base, end } in self.frames.range(first..) {
            let (base, offset) = (*base, *end);
            let fits = fits(frame);
            match &mut found {
                None => found = Some(Found { frames: vec![frame.clone()], base, offset }),
                // A batch is of one segment, as those that are read are.
                Some(found) if fits && found.base == base => {
                    found.frames.push(frame.clone());
                    found.offset = offset;
                }
                Some(_) => break,
            }
            if frame.parts.is_some() {
                break;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Lsn = Lsn(1);
    const BYTES_MAX: usize = 100_000;

    /// One frame for each.
    fn batch(lsns: &[u64], payload: &[u8]) -> Vec<u8> {
        lsns.iter().flat_map(|lsn| Frame::of(Lsn(*lsn), payload).bytes).collect()
    }

    fn lsns(found: Option<&Found>) -> Option<Vec<u64>> {
        found.map(|found| found.frames.iter().map(|frame| frame.last.0).collect())
    }

    #[test]
    fn what_follows_a_place_is_found_as_far_as_it_is_wanted() {
        let (mut recent, bytes) = (Recent::new(Lsn(5), BYTES_MAX), batch(&[10, 20, 30], b"row"));
        recent.push(&bytes, BASE, 100, Lsn(30));
        assert_eq!(recent.end(), Lsn(30));
        let all = recent.behind(Lsn(5), |_| true).unwrap();
        assert_eq!(lsns(Some(&all)), Some(vec![10, 20, 30]));
        assert_eq!((all.base, all.offset), (BASE, 100 + bytes.len() as u64));
        let one = recent.behind(Lsn(12), |_| false).unwrap();
        assert_eq!(lsns(Some(&one)), Some(vec![20]));
        assert_eq!(one.offset, 100 + bytes.len() as u64 / 3 * 2);
        assert_eq!(lsns(recent.behind(Lsn(4), |_| true).as_ref()), None, "there is more between");
    }

    #[test]
    fn the_oldest_give_way_and_nothing_is_passed_over() {
        let mut recent = Recent::new(Lsn::ZERO, BYTES_MAX);
        let payload = vec![7; 1000];
        for lsn in 1..=1000 {
            recent.push(&batch(&[lsn * 10], &payload), BASE, lsn * 2000, Lsn(lsn * 10));
            assert!(recent.bytes <= BYTES_MAX);
        }
        assert_eq!(recent.end(), Lsn(10_000));
        assert!(recent.behind(Lsn(10), |_| true).is_none());
        let after = recent.after;
        let found = recent.behind(after, |_| true).unwrap();
        assert_eq!(found.frames[0].last, Lsn(after.0 + 10));
        assert_eq!(found.frames.len(), recent.frames.len());
    }

    #[test]
    fn of_a_large_batch_nothing_is_kept() {
        let mut recent = Recent::new(Lsn::ZERO, BYTES_MAX);
        recent.push(&batch(&[10], b"row"), BASE, 0, Lsn(10));
        recent.push(&batch(&[20], &vec![7; BYTES_MAX / BATCH_MAX]), BASE, 50, Lsn(20));
        assert_eq!(recent.end(), Lsn(20));
        assert!(recent.behind(Lsn(0), |_| true).is_none());
        recent.push(&batch(&[30], b"row"), BASE, 70_000, Lsn(30));
        assert_eq!(lsns(recent.behind(Lsn(20), |_| true).as_ref()), Some(vec![30]));
    }

    #[test]
    fn a_batch_ends_with_its_segment() {
        let mut recent = Recent::new(Lsn::ZERO, BYTES_MAX);
        recent.push(&batch(&[10], b"row"), BASE, 0, Lsn(10));
        recent.push(&batch(&[20], b"row"), Lsn(11), 0, Lsn(20));
        let found = recent.behind(Lsn(0), |_| true).unwrap();
        assert_eq!((lsns(Some(&found)), found.base), (Some(vec![10]), BASE));
    }
}
