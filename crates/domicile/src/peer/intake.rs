//! May this record enter our copy of its origin's log?
//!
//! `core::history::accept` decides; here the decision, the append and the seal are kept from
//! overtaking one another. A seal is on disk before it is promised, and once it is promised no
//! record that it forbids can slip in behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use domicile_core::history::{Refused, Seal, accept, may_go_on_from};
use domicile_core::id::{Epoch, Origin, PartitionRange, RegionId};
use domicile_core::lsn::{Cut, Lsn};
use domicile_core::ownership::Ownership;
use domicile_core::promise::{self, Ask};
use domicile_core::record;
use domicile_core::time::Millis;
use serde::{Deserialize, Serialize};
use tokio::sync::{RwLock, watch};

use super::arrival::{Arrival, Arrived, Step};
use crate::copies::Copies;
use crate::directory::view::OwnershipView;
use crate::files::replace;
use crate::log::{Frame, Log, Logs, Record};
use crate::promises::Given;

/// The copies of other origins' logs, and what was promised about them and their owners.
pub struct Intake {
    logs: Logs,
    ownership: watch::Receiver<Arc<OwnershipView>>,
    /// Read while appending, written while sealing.
    seals: RwLock<SealFile>,
    promises: Given,
    copies: Copies,
}

/// What a seal says.
#[derive(Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Up to where each log of the region is held here.
    pub held: Vec<Cut>,
    /// For how long the region may still live on what was promised to it here.
    pub promised: Millis,
}

/// What became of a batch of records.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything of the batch that belongs to the history is durable.
    Taken,
    /// The rest of the batch is refused for now: its epoch is sealed and its cut not known yet.
    Sealed,
}

impl Intake {
    pub fn open(
        logs: Logs,
        ownership: watch::Receiver<Arc<OwnershipView>>,
        promises: Given,
        copies: Copies,
        data: &Path,
    ) -> anyhow::Result<Self> {
        let seals = SealFile::open(data.join("seals.json"))?;
        Ok(Self { logs, ownership, seals: RwLock::new(seals), promises, copies })
    }

    /// Appends framed records of `origin`, leaving out what is known to lie outside the history.
    ///
    /// `arrival` remembers, from one call to the next, a large record that is not complete.
    pub async fn append(
        &self,
        origin: &Origin,
        arrival: &mut Arrival,
        frames: &Bytes,
    ) -> anyhow::Result<Outcome> {
        let seals = self.seals.read().await;
        let view = self.ownership.borrow().clone();
        // Without knowing who owns what there is no telling what a seal or a cut forbids.
        let Some(known) = &view.ownership else { return Ok(Outcome::Sealed) };
        let judge = |lsn, payload: &[u8]| judge(&seals.seals, known, origin, lsn, payload);
        let log = self.logs.get_or_create(origin)?;
        let mut batch = Vec::new();
        let mut upto = log.end();
        let mut rest = frames.clone();
        while !rest.is_empty() {
            let before = upto;
            let broken = || format!("a peer sent a broken frame after {before}");
            let frame = Frame::take(&rest).with_context(broken)?;
            rest = rest.slice(frame.bytes.len()..);
            if arrival.is_open() {
                match arrival.part(frame).await? {
                    Step::More => continue,
                    Step::Passed(lsn) => upto = upto.max(lsn),
                    Step::Whole(arrived) => {
                        let Arrived { lsn, payload, parts } = *arrived;
                        match judge(lsn, &payload)? {
                            Judged::Take => {
                                let since = arrival.since;
                                log.append_large_since(since, lsn, payload, parts).await?;
                            }
                            Judged::LeaveOut => {}
                            Judged::Sealed => return Ok(Outcome::Sealed),
                        }
                        upto = upto.max(lsn);
                    }
                }
                continue;
            }
            // What does not unpack here would not for our tables either: it is not held.
            let mut taken = Vec::new();
            for Record { lsn, payload, parts } in frame.records().with_context(broken)? {
                let judged = if lsn <= upto { Judged::LeaveOut } else { judge(lsn, &payload)? };
                match (judged, parts) {
                    (Judged::Take, None) => taken.push((lsn, payload)),
                    (Judged::LeaveOut, None) => {}
                    (Judged::Take, Some(parts)) => {
                        append_batch(&log, arrival, &mut batch).await?;
                        arrival.begin(lsn, payload, parts, Some(&log))?;
                        continue;
                    }
                    (Judged::LeaveOut, Some(parts)) => {
                        arrival.begin(lsn, payload, parts, None)?;
                        continue;
                    }
                    (Judged::Sealed, _) => {
                        batch.extend(taken.iter().map(|(lsn, payload)| Frame::of(*lsn, payload)));
                        append_batch(&log, arrival, &mut batch).await?;
                        return Ok(Outcome::Sealed);
                    }
                }
                upto = upto.max(lsn);
            }
            if taken.len() == frame.count() {
                batch.push(frame);
            } else {
                batch.extend(taken.iter().map(|(lsn, payload)| Frame::of(*lsn, payload)));
            }
        }
        append_batch(&log, arrival, &mut batch).await?;
        Ok(Outcome::Taken)
    }

    /// The revision of the ownership by which records are taken and left out now, once one is known.
    pub fn revision(&self) -> Option<u64> {
        let view = self.ownership.borrow();
        view.ownership.as_ref().map(|_| view.revision)
    }

    /// Waits until a copy whose keeper goes by the ownership at `revision` may be gone on from here.
    pub async fn catch_up_with(&self, revision: u64) -> anyhow::Result<()> {
        let mut ownership = self.ownership.clone();
        let known = |view: &Arc<OwnershipView>| {
            let ours = view.ownership.as_ref().map_or(0, |_| view.revision);
            may_go_on_from(revision, ours)
        };
        ownership.wait_for(known).await.context("the directory is closed")?;
        Ok(())
    }

    /// Waits until everything that was judged by an older ownership than the one known now is in
    /// its log.
    pub async fn settled(&self) {
        drop(self.seals.write().await);
    }

    /// Promises a region its lease, unless something it counts on may have changed. A seal ends that, and
    /// says what is left of it: neither can overtake the other.
    pub async fn promise(&self, ask: &Ask) -> Result<(), promise::Refused> {
        let seals = self.seals.read().await;
        promise::judge(ask, self.revision(), &seals.seals, self.promises.terms())?;
        self.promises.give(&ask.from);
        Ok(())
    }

    /// Promises durably to take nothing more of these epochs of `region`. Fails where copies are short.
    pub async fn seal(
        &self,
        region: &RegionId,
        epochs: &[(PartitionRange, Epoch)],
    ) -> anyhow::Result<Sealed> {
        let mut seals = self.seals.write().await;
        self.copies.may_seal(region)?;
        let held: Vec<Cut> = self
            .logs
            .all()
            .into_iter()
            .filter(|(origin, _)| origin.region == *region)
            .map(|(origin, log)| Cut { origin, lsn: log.end() })
            .collect();
        let new = epochs.iter().filter_map(|(range, epoch)| {
            let seal =
                Seal { region: region.clone(), range: *range, epoch: *epoch, held: held.clone() };
            let known = |s: &Seal| {
                s.region == seal.region && s.range == seal.range && s.epoch == seal.epoch
            };
            (!seals.seals.iter().any(known)).then_some(seal)
        });
        let new: Vec<Seal> = new.collect();
        if !new.is_empty() {
            seals.add(new)?;
            tracing::info!(%region, ?held, "sealed");
        }
        Ok(Sealed { held, promised: self.promises.left(region) })
    }
}

enum Judged {
    Take,
    LeaveOut,
    Sealed,
}

fn judge(
    seals: &[Seal],
    known: &Ownership,
    origin: &Origin,
    lsn: Lsn,
    payload: &[u8],
) -> anyhow::Result<Judged> {
    let head = record::decode_head(payload).context("read a peer's record")?;
    Ok(match accept(seals, known, origin, lsn, &head.stamps) {
        Ok(()) => Judged::Take,
        Err(Refused::Outside(reason)) => {
            tracing::info!(%origin, %lsn, "left out, {}", reason.slug());
            Judged::LeaveOut
        }
        Err(Refused::Sealed { stamp }) => {
            tracing::info!(%origin, %lsn, partition = %stamp.partition, "refused, sealed");
            Judged::Sealed
        }
    })
}

async fn append_batch(log: &Log, arrival: &Arrival, batch: &mut Vec<Frame>) -> anyhow::Result<()> {
    if !batch.is_empty() {
        log.append_frames(arrival.since, std::mem::take(batch)).await?;
    }
    Ok(())
}

/// The seals on disk: rewritten whole, they are few.
struct SealFile {
    path: PathBuf,
    seals: Vec<Seal>,
}

#[derive(Serialize, Deserialize)]
struct SealDocument {
    region: String,
    range: String,
    epoch: u64,
    /// Origin and LSN.
    held: Vec<(String, String)>,
}

impl SealFile {
    fn open(path: PathBuf) -> anyhow::Result<Self> {
        let documents: Vec<SealDocument> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("read seals {}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("read seals {}", path.display()));
            }
        };
        let seals = documents.iter().map(lift).collect::<anyhow::Result<_>>()?;
        Ok(Self { path, seals })
    }

    fn add(&mut self, new: Vec<Seal>) -> anyhow::Result<()> {
        let documents: Vec<SealDocument> = self.seals.iter().chain(&new).map(lower).collect();
        let bytes = serde_json::to_vec_pretty(&documents)?;
        replace(&self.path, &bytes)
            .with_context(|| format!("write seals {}", self.path.display()))?;
        self.seals.extend(new);
        Ok(())
    }
}

fn lift(document: &SealDocument) -> anyhow::Result<Seal> {
    let held = document
        .held
        .iter()
        .map(|(origin, lsn)| Ok(Cut { origin: origin.parse()?, lsn: lsn.parse()? }));
    Ok(Seal {
        region: document.region.parse()?,
        range: document.range.parse()?,
        epoch: Epoch(document.epoch),
        held: held.collect::<anyhow::Result<_>>()?,
    })
}

fn lower(seal: &Seal) -> SealDocument {
    SealDocument {
        region: seal.region.to_string(),
        range: seal.range.to_string(),
        epoch: seal.epoch.0,
        held: seal.held.iter().map(|h| (h.origin.to_string(), h.lsn.to_string())).collect(),
    }
}
