//! How is a transaction applied that is too large to be held?
//!
//! Piece by piece, in one transaction of PostgreSQL: rows and apply checkpoint become visible
//! together at its end.

use anyhow::Context;
use domicile_core::id::Origin;

use super::conflict;
use super::executor::save_checkpoint;
use super::writer::{Deferred, Writer};
use crate::pieces::{Piece, Pieces};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Fails on the first surprise.
    Fast,
    /// Settles conflicts, change by change.
    Slow(Deferred),
    /// It is not history: only the checkpoint moves.
    PassOver,
}

impl Writer {
    /// Applies the large transaction that begins with `first` and goes on in `pieces`.
    ///
    /// When this fails nothing is applied.
    pub(super) async fn apply_large(
        &mut self,
        origin: &Origin,
        first: Piece,
        pieces: &mut Pieces,
        way: Way,
    ) -> anyhow::Result<()> {
        let slow = matches!(way, Way::Slow(_));
        if slow {
            self.forget_schema();
        }
        if slow || way == Way::Fast && self.shared.concerns(&first.transaction) {
            self.compare_schema(&first.transaction).await?;
        }
        self.executor.begin().await?;
        let lsn = first.transaction.lsn;
        let made = async {
            let executor = self.executor.clone();
            if way == Way::Slow(Deferred::AtOnce) {
                executor.check_deferred().await?;
            }
            self.apply_pieces(origin, first, pieces, way).await?;
            if slow { executor.check_deferred().await } else { Ok(()) }
        };
        let made = made.await;
        self.executor.end(made).await?;
        self.applied = lsn;
        Ok(())
    }

    async fn apply_pieces(
        &mut self,
        origin: &Origin,
        first: Piece,
        pieces: &mut Pieces,
        way: Way,
    ) -> anyhow::Result<()> {
        let mut piece = first;
        let mut part = match way != Way::PassOver && self.shared.concerns(&piece.transaction) {
            true => {
                Some(self.shared.begin(&self.executor.client, origin, &piece.transaction).await?)
            }
            false => None,
        };
        loop {
            let (lsn, last) = (piece.transaction.lsn, piece.last);
            if let Some(part) = &mut part {
                self.shared.take(part, &piece)?;
                piece = self.shared.rest(piece);
            }
            match way {
                Way::Fast => {
                    let plan = self.plan(std::slice::from_ref(&piece.transaction)).await?;
                    self.executor.execute(&plan.late).await?;
                }
                Way::Slow(_) => {
                    let converging = lsn <= self.converge_to;
                    conflict::apply(
                        &*self.executor.client,
                        &self.targets,
                        origin,
                        &piece,
                        converging,
                    )
                    .await?;
                }
                Way::PassOver => {}
            }
            if last {
                if let Some(part) = &part {
                    self.shared.apply(&self.executor, &mut self.targets, part).await?;
                }
                return save_checkpoint(&*self.executor.client, origin, lsn).await;
            }
            piece = pieces.next_part().await?.context("a large transaction breaks off")?;
        }
    }
}
