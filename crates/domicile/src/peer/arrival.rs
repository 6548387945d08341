//! What of a large record has arrived from a peer?
//!
//! Its own frame comes first, so that it is judged before its parts are sent for nothing; then
//! the parts, one after the other. It counts as held when the last of them is durable, not before.

use anyhow::Context;
use bytes::Bytes;
use domicile_core::frame::Parts;
use domicile_core::lsn::Lsn;

use crate::log::{Frame, Log, Spool, Spooled};

/// The place in one subscription. Dropping it forgets what is incomplete.
#[derive(Default)]
pub struct Arrival {
    large: Option<Large>,
    /// How often our copy had been rewritten when the subscription began at its end.
    pub since: Option<u64>,
}

struct Large {
    lsn: Lsn,
    payload: Bytes,
    expected: Parts,
    seen: u32,
    /// None when the record is left out, as one that is held already.
    spool: Option<Spool>,
}

/// A large record that is all there, to be appended.
pub struct Arrived {
    pub lsn: Lsn,
    pub payload: Bytes,
    pub parts: Spooled,
}

/// What one more part has completed.
pub enum Step {
    More,
    /// Nothing is missing of a record that is left out.
    Passed(Lsn),
    Whole(Box<Arrived>),
}

impl Arrival {
    /// For a subscription that began when our copy had been rewritten `rewrites` times.
    pub fn since(rewrites: u64) -> Self {
        Self { large: None, since: Some(rewrites) }
    }

    /// Are there parts to come before the next record?
    pub fn is_open(&self) -> bool {
        self.large.is_some()
    }

    /// A record of which `expected` will follow. Into `log`, or nowhere.
    pub fn begin(
        &mut self,
        lsn: Lsn,
        payload: Bytes,
        expected: Parts,
        log: Option<&Log>,
    ) -> anyhow::Result<()> {
        anyhow::ensure!(expected.count > 0, "a peer sent a large record without parts at {lsn}");
        let spool = log.map(Log::spool).transpose()?;
        self.large = Some(Large { lsn, payload, expected, seen: 0, spool });
        Ok(())
    }

    pub async fn part(&mut self, frame: Frame) -> anyhow::Result<Step> {
        let large = self.large.as_mut().context("a peer sent a part of nothing")?;
        let lsn = large.lsn;
        large.seen += 1;
        let number = u64::from(large.seen);
        anyhow::ensure!(frame.last.0 == number, "a peer left out a part of {lsn}");
        if let Some(spool) = &mut large.spool {
            frame.records().with_context(|| format!("a peer sent a broken part of {lsn}"))?;
            spool.push_frame(frame).await?;
        }
        if large.seen < large.expected.count {
            return Ok(Step::More);
        }
        let Some(Large { payload, expected, spool: Some(spool), .. }) = self.large.take() else {
            return Ok(Step::Passed(lsn));
        };
        anyhow::ensure!(spool.parts() == expected, "the parts of {lsn} are not what it says");
        let parts = spool.finish().await?;
        Ok(Step::Whole(Box::new(Arrived { lsn, payload, parts })))
    }
}
