//! What does the log take, and in which bytes?
//!
//! Records of its own origin are packed here; frames of another copy, and parts that are spooled,
//! stay as they are.

use bytes::Bytes;
use domicile_core::frame::{self, LARGE_PAYLOAD_BYTES_MAX, Parts};
use domicile_core::lsn::Lsn;

use super::error::LogError;
use super::extent::Run;
use super::frame::Frame;
use super::spool::Spooled;
use super::writer::{Since, Writer};

/// An encoding buffer that one large batch made longer than this is given back.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

impl Writer {
    pub(super) fn append(&mut self, batch: &[(Lsn, Bytes)]) -> Result<Lsn, LogError> {
        self.prepare(None)?;
        let mut end = self.shared.end();
        for (lsn, payload) in batch {
            if *lsn <= end {
                return Err(LogError::OutOfOrder { lsn: *lsn, end });
            }
            if payload.len() > LARGE_PAYLOAD_BYTES_MAX {
                return Err(LogError::TooLarge { lsn: *lsn, bytes: payload.len() });
            }
            end = *lsn;
        }
        let Some((first, _)) = batch.first() else { return Ok(end) };
        self.buffer.clear();
        self.packer.append(&mut self.buffer, batch);
        let run = Run { first: *first, last: end, count: batch.len() as u64 };
        let written = self.write();
        self.add(written, run, None)
    }

    pub(super) fn append_frames(
        &mut self,
        frames: &[Frame],
        since: Since,
    ) -> Result<Lsn, LogError> {
        self.prepare(since)?;
        let (mut end, mut count) = (self.shared.end(), 0);
        self.buffer.clear();
        for frame in frames {
            if frame.first <= end {
                return Err(LogError::OutOfOrder { lsn: frame.first, end });
            }
            end = frame.last;
            count += frame.count() as u64;
            self.buffer.extend_from_slice(&frame.bytes);
        }
        let Some(first) = frames.first() else { return Ok(end) };
        let written = self.write();
        self.add(written, Run { first: first.first, last: end, count }, None)
    }

    /// The parts take their place first: a record is never there without them.
    pub(super) fn append_large(
        &mut self,
        lsn: Lsn,
        payload: &[u8],
        spooled: Spooled,
        since: Since,
    ) -> Result<Lsn, LogError> {
        self.prepare(since)?;
        let end = self.shared.end();
        if lsn <= end {
            return Err(LogError::OutOfOrder { lsn, end });
        }
        if payload.len() > LARGE_PAYLOAD_BYTES_MAX {
            return Err(LogError::TooLarge { lsn, bytes: payload.len() });
        }
        let parts = spooled.parts();
        self.buffer.clear();
        frame::append_large(&mut self.buffer, lsn, &parts, payload);
        let written = spooled.settle(&self.shared.folder, lsn).and_then(|()| self.write());
        self.add(written, Run::of(lsn), Some(parts))
    }

    /// Lets readers see what stood in the buffer, if it was `written`, and returns the new end.
    fn add(
        &mut self,
        written: Result<(), LogError>,
        run: Run,
        parts: Option<Parts>,
    ) -> Result<Lsn, LogError> {
        self.heal_later(written)?;
        let bytes = self.buffer.len() as u64;
        self.shared.publish(|extents| {
            if let Some(extent) = extents.list.last_mut() {
                extents.recent.push(&self.buffer, extent.base, extent.bytes, run.last);
                extent.add(run, bytes, parts);
            }
        });
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        Ok(run.last)
    }
}
