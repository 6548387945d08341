//! What comes next, read and planned while PostgreSQL is busy with what is being applied.
//!
//! One batch ahead and no more: memory holds two.

use anyhow::Context;
use domicile_core::change::Transaction;
use domicile_core::lsn::Lsn;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::plan::{Planned, plan};
use super::target::Targets;
use crate::log::Log;
use crate::pieces::{Piece, Pieces};

/// A log, and the batch of it that comes next.
pub struct Ahead {
    /// Unchanged since the last read began.
    end: watch::Receiver<Lsn>,
    bytes_max: usize,
    state: State,
}

enum State {
    Idle(Box<Pieces>),
    Reading(AbortOnDropHandle<(Box<Pieces>, anyhow::Result<Option<Next>>)>),
    /// The task that had the log has failed.
    Gone,
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
    pub planned: Option<Vec<Planned>>,
}

impl Ahead {
    /// Reads `log` behind `after`, in batches of about `bytes_max` bytes.
    pub fn new(log: &Log, after: Lsn, bytes_max: usize) -> Self {
        let state = State::Idle(Box::new(Pieces::new(log.read(after))));
        Self { end: log.watch_end(), bytes_max, state }
    }

    /// Begins to read what comes next. Nothing happens when that is under way.
    pub fn start(&mut self, targets: &Targets) {
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Idle(pieces) => {
                self.end.mark_unchanged();
                let task = tokio::spawn(read(pieces, self.bytes_max, targets.clone()));
                State::Reading(AbortOnDropHandle::new(task))
            }
            other => other,
        };
    }

    /// Returns what comes next; `None` at the end of the log as it was when it was read.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self, targets: &Targets) -> anyhow::Result<Option<Next>> {
        self.start(targets);
        let State::Reading(task) = &mut self.state else { anyhow::bail!("the log is gone") };
        let (pieces, next) = task.await.context("read ahead")?;
        self.state = State::Idle(pieces);
        next
    }

    /// Returns once the log has grown since the last read began.
    pub async fn grown(&mut self) -> anyhow::Result<()> {
        self.end.changed().await.context("the log is closed")
    }

    /// The log, for the pieces of a large transaction: while nothing is read ahead.
    pub fn pieces(&mut self) -> anyhow::Result<&mut Pieces> {
        match &mut self.state {
            State::Idle(pieces) => Ok(pieces),
            State::Reading(_) | State::Gone => anyhow::bail!("the log is being read"),
        }
    }
}

async fn read(
    mut pieces: Box<Pieces>,
    bytes_max: usize,
    targets: Targets,
) -> (Box<Pieces>, anyhow::Result<Option<Next>>) {
    let next = match pieces.next_batch(bytes_max).await {
        Ok(Some(batch)) => prepare(batch, targets).await.map(Some),
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    (pieces, next)
}

async fn prepare(mut batch: Vec<Piece>, targets: Targets) -> anyhow::Result<Next> {
    if !batch[0].is_whole() {
        return Ok(Next::Large(batch.swap_remove(0)));
    }
    let prepare = move || {
        let transactions: Vec<Transaction> =
            batch.into_iter().map(|piece| piece.transaction).collect();
        let planned = plan(&transactions, &targets).ok();
        Next::Batch(Batch { transactions, planned })
    };
    tokio::task::spawn_blocking(prepare).await.context("plan what comes next")
}
