//! How does a log get shorter, at either end, so that a crash in the middle leaves no hole?
//!
//! ```text
//!   trim: lowest first ──>  [ ][ ][ ][ ][ ]  <── highest first: truncate, set aside
//! ```
//!
//! Each file operation is made durable before the next one, so what a crash leaves behind is always
//! one unbroken run of segments. The mark moves back before records are taken away, or their
//! absence would look like damage.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use domicile_core::lsn::Lsn;

use super::error::{LogError, io};
use super::extent::{Extent, Run};
use super::frame::{Frame, Record};
use super::judge::{self, Damage, Judged, Verdict};
use super::parts;
use super::segment::{self, Scan, Step};
use super::standing::Standing;
use super::writer::Writer;

impl Writer {
    pub(super) fn begin_after(&mut self, lsn: Lsn) -> Result<(), LogError> {
        self.refuse()?;
        let end = self.shared.end();
        if end > Lsn::ZERO || self.shared.look(|extents| !extents.list.is_empty()) {
            return Err(LogError::NotEmpty { end });
        }
        let created = segment::create(&self.shared.folder, lsn);
        let (file, extent) = self.poison_on_error(created)?;
        self.tail = Some(file);
        self.shared.publish(|extents| extents.list.push(extent));
        Ok(())
    }

    pub(super) fn skip_to(&mut self, lsn: Lsn) -> Result<(), LogError> {
        self.refuse()?;
        let end = self.shared.end();
        if lsn <= end {
            return Err(LogError::OutOfOrder { lsn, end });
        }
        let skipped = self.begin_anew(lsn);
        self.poison_on_error(skipped)
    }

    /// From the first step on the log claims to reach `lsn`: whatever a crash leaves of it is seen
    /// to lack something, and never passes for a log that begins at its beginning.
    fn begin_anew(&mut self, lsn: Lsn) -> Result<(), LogError> {
        self.mark.set(lsn)?;
        let mut old = Vec::new();
        self.shared.publish(|extents| {
            old = std::mem::replace(&mut extents.list, vec![Extent::empty_after(lsn)]);
            extents.rewrites += 1;
        });
        for extent in old {
            segment::remove(&self.shared.folder, extent.base)?;
        }
        let (file, _) = segment::create(&self.shared.folder, lsn)?;
        parts::remove(&self.shared.folder, |of| of <= lsn)?;
        self.tail = Some(file);
        Ok(())
    }

    pub(super) fn trim_before(&mut self, lsn: Lsn) -> Result<u64, LogError> {
        // Readers are told first: the one that has a segment open goes on, no other begins.
        let mut trimmed = 0;
        self.shared.publish(|extents| {
            let but_last = extents.list.len().saturating_sub(1);
            let gone = extents.list[..but_last].iter().take_while(|e| e.last <= lsn).count();
            trimmed = extents.list.drain(..gone).count() as u64;
        });
        let base = self.shared.look(|extents| extents.list.first().map(|extent| extent.base));
        let Some(base) = base.filter(|_| trimmed > 0) else { return Ok(0) };
        // Also what could not be removed before, and the oldest first: a segment that is missing between two
        // would be damage.
        let mut left = segment::list(&self.shared.folder)?;
        left.retain(|old| *old < base);
        for old in left {
            segment::remove(&self.shared.folder, old)?;
        }
        parts::remove(&self.shared.folder, |lsn| lsn < base)?;
        Ok(trimmed)
    }

    pub(super) fn truncate_after(&mut self, lsn: Lsn) -> Result<u64, LogError> {
        self.refuse()?;
        if lsn >= self.shared.end() {
            return Ok(0);
        }
        let list = self.shared.look(|extents| extents.list.clone());
        let total: u64 = list.iter().map(|extent| extent.records).sum();
        // The last segment that may hold a record to keep; none when all of them begin later.
        let (kept, torn) = match list.iter().rposition(|extent| extent.base.0 - 1 <= lsn.0) {
            Some(last) => {
                let mut kept = list[..last].to_vec();
                let (front, torn) = front(&self.shared.folder, &list[last], lsn)?;
                kept.push(front);
                (kept, torn)
            }
            None => (vec![Extent::empty_after(lsn)], Vec::new()),
        };
        let removed =
            total - kept.iter().map(|extent| extent.records).sum::<u64>() - torn.len() as u64;
        let shortened = self.shorten_to(&list, kept, &torn);
        self.poison_on_error(shortened)?;
        Ok(removed)
    }

    /// Leaves `kept`, and behind it the records of a frame that was `torn` in two.
    fn shorten_to(
        &mut self,
        list: &[Extent],
        kept: Vec<Extent>,
        torn: &[Record],
    ) -> Result<(), LogError> {
        let Some(&last) = kept.last() else { return Ok(()) };
        let end = torn.last().map_or(last.last, |record| record.lsn);
        self.mark.set(self.mark.at().min(end))?;
        // From here on no reader trusts what it reads beyond `kept`.
        self.shared.publish(|extents| {
            extents.list.clone_from(&kept);
            extents.rewrites += 1;
        });
        let folder = self.shared.folder.clone();
        for extent in list[kept.len()..].iter().rev() {
            segment::remove(&folder, extent.base)?;
        }
        let old = list[kept.len() - 1].base;
        if !torn.is_empty() {
            self.put_back(last, torn)?;
            return parts::remove(&folder, |lsn| lsn > end);
        }
        let file = segment::open(&folder, old)?;
        let path = segment::path(&folder, old);
        file.set_len(last.bytes)
            .and_then(|()| file.sync_all())
            .map_err(io("truncate segment", &path))?;
        if old != last.base {
            rename(&path, &segment::path(&folder, last.base))?;
            segment::sync_folder(&folder)?;
        }
        parts::remove(&folder, |lsn| lsn > last.last)?;
        self.tail = Some(file);
        Ok(())
    }

    /// Ends a segment with `records` behind its front. They are on the disk all the time: until the
    /// new file has the old one's name, in the frame that is torn.
    fn put_back(&mut self, front: Extent, records: &[Record]) -> Result<(), LogError> {
        let folder = self.shared.folder.clone();
        let (path, mut extent) = (segment::path(&folder, front.base), front);
        let mut behind = Vec::new();
        for record in records {
            let frame = Frame::of(record.lsn, &record.payload);
            extent.add(Run::of(record.lsn), frame.bytes.len() as u64, None);
            behind.extend_from_slice(&frame.bytes);
        }
        let new = path.with_extension("new");
        copy_front(&path, &new, front.bytes, &behind)?;
        rename(&new, &path)?;
        segment::sync_folder(&folder)?;
        self.tail = Some(segment::open(&folder, front.base)?);
        // The file has a new body under its old name: who opened the old one opens again.
        self.shared.publish(|extents| {
            if let Some(last) = extents.list.last_mut() {
                *last = extent;
            }
            extents.rewrites += 1;
        });
        Ok(())
    }

    pub(super) fn set_aside(&mut self) -> Result<Lsn, LogError> {
        self.refuse_poisoned()?;
        let end = self.shared.end().max(self.mark.at());
        let Judged { extents, verdict } = judge::judge(&self.shared.folder, end)?;
        let Verdict::Damaged(damage) = verdict else {
            self.refuse()?;
            self.shared.stands(Standing::Sound);
            return Ok(self.shared.end());
        };
        self.damage = Some(damage);
        if let Some(last) = extents.last() {
            // Here a full disk says so, while nothing has changed yet: it is tried again.
            let path = segment::path(&self.shared.folder, last.base);
            copy_front(&path, &path.with_extension("new"), last.bytes, &[])?;
        }
        // Until all is done, a crash must leave a log that is seen to be damaged.
        self.mark.set(damage.resumes_at)?;
        self.shared.publish(|shared| {
            shared.list.clone_from(&extents);
            shared.rewrites += 1;
        });
        let moved = self.move_aside(&extents, damage);
        self.poison_on_error(moved)?;
        let marked = self.mark.set(self.shared.end());
        self.poison_on_error(marked)?;
        // The file has a new body under its old name: who opened the old one opens again.
        self.shared.publish(|shared| shared.rewrites += 1);
        self.damage = None;
        self.shared.stands(Standing::Sound);
        Ok(self.shared.end())
    }

    fn move_aside(&mut self, extents: &[Extent], damage: Damage) -> Result<(), LogError> {
        let folder = self.shared.folder.clone();
        let end = extents.last().map_or(Lsn::ZERO, |extent| extent.last);
        for lsn in parts::list(&folder)?.into_iter().filter(|lsn| *lsn > end) {
            let path = parts::path(&folder, lsn);
            rename(&path, &free_name(&path))?;
        }
        let later = segment::list(&folder)?.into_iter().filter(|base| *base > damage.segment);
        for base in later.rev() {
            let path = segment::path(&folder, base);
            rename(&path, &free_name(&path))?;
            segment::sync_folder(&folder)?;
        }
        let Some(last) = extents.last() else {
            self.tail = None;
            return Ok(());
        };
        // A second name for the damaged file, then the copy of its sound front under the first one:
        // at no time is there no file of this name.
        let path = segment::path(&folder, last.base);
        let aside = free_name(&path);
        fs::hard_link(&path, &aside).map_err(io("link segment", &aside))?;
        segment::sync_folder(&folder)?;
        rename(&path.with_extension("new"), &path)?;
        segment::sync_folder(&folder)?;
        self.tail = Some(segment::open(&folder, last.base)?);
        Ok(())
    }
}

/// Returns the part of a segment up to `lsn`, and what else is up to there, when that lies inside
/// of a frame.
fn front(folder: &Path, extent: &Extent, lsn: Lsn) -> Result<(Extent, Vec<Record>), LogError> {
    let path = segment::path(folder, extent.base);
    let file = segment::open(folder, extent.base)?;
    let mut scan = Scan::new(&file, extent.base, extent.bytes);
    let mut kept = scan.extent;
    loop {
        match scan.step().map_err(io("read segment", &path))? {
            Step::Records { run, bytes, parts } if run.last <= lsn => kept.add(run, bytes, parts),
            Step::Records { run, bytes, .. } if run.first <= lsn => {
                let mut frame = vec![0; bytes as usize];
                let read = file.read_exact_at(&mut frame, kept.bytes);
                read.map_err(io("read segment", &path))?;
                let records = Frame::take(&frame.into()).ok().and_then(|f| f.records().ok());
                let Some(mut torn) = records else {
                    return Err(LogError::Corrupt { segment: path, offset: kept.bytes });
                };
                torn.retain(|record| record.lsn <= lsn);
                return Ok((kept, torn));
            }
            Step::Records { .. } | Step::End => return Ok((kept, Vec::new())),
            Step::Damaged => {
                return Err(LogError::Corrupt { segment: path, offset: scan.extent.bytes });
            }
        }
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), LogError> {
    fs::rename(from, to).map_err(io("rename segment", from))
}

/// Returns a `.corrupt` name that no file has yet: what was set aside is never overwritten.
fn free_name(path: &Path) -> PathBuf {
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    let name = |n: u32| match n {
        0 => path.with_extension(format!("{ending}.corrupt")),
        n => path.with_extension(format!("{ending}.corrupt.{n}")),
    };
    (0..).map(name).find(|name| !name.exists()).unwrap_or_else(|| name(u32::MAX))
}

fn copy_front(from: &Path, to: &Path, bytes: u64, behind: &[u8]) -> Result<(), LogError> {
    let copy = || {
        let mut front = std::io::Read::take(File::open(from)?, bytes);
        let mut copy = File::create(to)?;
        std::io::copy(&mut front, &mut copy)?;
        copy.write_all(behind)?;
        copy.sync_all()
    };
    copy().map_err(|source| {
        // What it took of a full disk is given back.
        let _ = fs::remove_file(to);
        io("copy segment to", to)(source)
    })
}
