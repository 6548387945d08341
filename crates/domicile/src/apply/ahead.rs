//! What comes next, read and planned while PostgreSQL is busy with what is being applied.
//!
//! One batch ahead and no more: memory holds two. What is at hand anyway is not read ahead: to
//! have another task do so would cost more than it takes.

use anyhow::Context;
use domicile_core::change::Transaction;
use domicile_core::fold::Touched;
use domicile_core::lsn::Lsn;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::plan::{Plan, plan};
use crate::log::{AtHand, Log};
use crate::pieces::{Piece, Pieces};
use crate::postgres::target::Targets;

/// A log, and the batch of it that comes next.
pub struct Ahead {
    /// Unchanged since the last read began.
    end: watch::Receiver<Lsn>,
    bytes_max: usize,
    state: State,
}

/// The first batches are smaller, by this: they are applied before their tables are known, so that
/// nothing overlaps.
const FIRST_SMALLER_BY: usize = 16;

enum State {
    Idle(Place),
    Reading(AbortOnDropHandle<(Place, anyhow::Result<Option<Next>>)>),
    /// The task that had the log has failed.
    Gone,
}

/// Where the log is read on.
struct Place {
    pieces: Box<Pieces>,
    /// What the newest batch touches.
    touched: Touched,
    /// Bytes of the next batch.
    bytes: usize,
}

pub enum Next {
    /// Whole transactions, at least one.
    Batch(Batch),
    /// The first piece of a large one; the others are still to be read.
    Large(Piece),
}

pub struct Batch {
    pub transactions: Vec<Transaction>,
    /// All of them as one transaction, where that could be planned without asking.
    pub plan: Option<Plan>,
}

impl Ahead {
    /// Reads `log` behind `after`, in batches of about `bytes_max` bytes.
    pub fn new(log: &Log, after: Lsn, bytes_max: usize) -> Self {
        let pieces = Box::new(Pieces::new(log.read(after)));
        let state = State::Idle(Place {
            pieces,
            touched: Touched::Everything,
            bytes: bytes_max / FIRST_SMALLER_BY,
        });
        Self { end: log.watch_end(), bytes_max, state }
    }

    /// Begins to read what comes next, where that takes a while. Nothing happens when that is under
    /// way.
    pub fn start(&mut self, targets: &Targets) {
        if matches!(&self.state, State::Idle(place) if !place.pieces.is_at_hand()) {
            self.read(targets);
        }
    }

    fn read(&mut self, targets: &Targets) {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Idle(place) => {
                self.end.mark_unchanged();
                let task = tokio::spawn(read(place, self.bytes_max, targets.clone()));
                State::Reading(AbortOnDropHandle::new(task))
            }
            other => other,
        };
    }

    /// Returns what comes next; `None` at the end of the log as it was when it was read.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self, targets: &Targets) -> anyhow::Result<Option<Next>> {
        if let State::Idle(place) = &mut self.state {
            self.end.mark_unchanged();
            match place.at_hand(self.bytes_max, targets)? {
                AtHand::Some(next) => return Ok(Some(next)),
                AtHand::End => return Ok(None),
                AtHand::OnDisk => self.read(targets),
            }
        }
        let State::Reading(task) = &mut self.state else { anyhow::bail!("the log is gone") };
        let (place, next) = task.await.context("read ahead")?;
        self.state = State::Idle(place);
        next
    }

    /// Returns once the log has grown since the last read began.
    pub async fn grown(&mut self) -> anyhow::Result<()> {
        self.end.changed().await.context("the log is closed")
    }

    /// The log, for the pieces of a large transaction: while nothing is read ahead.
    pub fn pieces(&mut self) -> anyhow::Result<&mut Pieces> {
        match &mut self.state {
            State::Idle(place) => Ok(&mut place.pieces),
            State::Reading(_) | State::Gone => anyhow::bail!("the log is being read"),
        }
    }
}

impl Place {
    /// Returns what comes next, planned, where that takes no waiting.
    fn at_hand(&mut self, bytes_max: usize, targets: &Targets) -> anyhow::Result<AtHand<Next>> {
        Ok(match self.pieces.next_at_hand(self.bytes)? {
            AtHand::Some(batch) => {
                self.bytes = (self.bytes * 2).min(bytes_max);
                let ahead = std::mem::replace(&mut self.touched, Touched::Everything);
                let (touched, next) = prepare(batch, &ahead, targets);
                self.touched = touched;
                AtHand::Some(next)
            }
            AtHand::End => AtHand::End,
            AtHand::OnDisk => AtHand::OnDisk,
        })
    }
}

async fn read(
    mut place: Place,
    bytes_max: usize,
    targets: Targets,
) -> (Place, anyhow::Result<Option<Next>>) {
    let bytes = place.bytes;
    place.bytes = (bytes * 2).min(bytes_max);
    let next = match place.pieces.next_batch(bytes).await {
        Ok(Some(batch)) => prepare_beside(batch, &mut place.touched, targets).await.map(Some),
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    (place, next)
}

async fn prepare_beside(
    mut batch: Vec<Piece>,
    touched: &mut Touched,
    targets: Targets,
) -> anyhow::Result<Next> {
    let ahead = std::mem::replace(touched, Touched::Everything);
    if !batch[0].is_whole() {
        return Ok(Next::Large(batch.swap_remove(0)));
    }
    let prepare = move || prepare(batch, &ahead, &targets);
    let (now_touched, next) =
        tokio::task::spawn_blocking(prepare).await.context("plan what comes next")?;
    *touched = now_touched;
    Ok(next)
}

/// Plans whole transactions, which follow on what has touched `ahead`.
fn prepare(batch: Vec<Piece>, ahead: &Touched, targets: &Targets) -> (Touched, Next) {
    let transactions: Vec<Transaction> = batch.into_iter().map(|piece| piece.transaction).collect();
    let (touched, plan) = plan(&transactions, ahead, targets);
    (touched, Next::Batch(Batch { transactions, plan: plan.ok() }))
}
