//! What does a log say, transaction by transaction, when some are too large to be held?
//!
//! A large transaction comes in several pieces, one part of the log's each, in order, with nothing
//! between them. They are one transaction: what a reader makes of it must show whole or not at all.

use anyhow::Context;
use domicile_core::change::Transaction;
use domicile_core::record;

use crate::log::{AtHand, PartReader, Reader, Record};

/// A transaction, or the next part of a large one.
#[derive(Debug)]
pub struct Piece {
    /// All of it; or all but the changes, and these changes of it.
    pub transaction: Transaction,
    /// How many changes of the same transaction came in pieces before this one.
    pub changes_before: u64,
    /// The transaction ends here: before that, nothing of it counts as done.
    pub last: bool,
}

impl Piece {
    pub fn whole(transaction: Transaction) -> Self {
        Self { transaction, changes_before: 0, last: true }
    }

    pub fn is_whole(&self) -> bool {
        self.last && self.changes_before == 0
    }
}

/// Goes through a log.
pub struct Pieces {
    reader: Reader,
    decoder: record::Decoder,
    large: Option<LargePieces>,
}

impl Pieces {
    pub fn new(reader: Reader) -> Self {
        Self { reader, decoder: record::Decoder::default(), large: None }
    }

    /// Returns the next pieces: whole transactions of about `bytes_max` bytes and at least one, or
    /// a single piece of a large one. `None` at the end of the log as it is now.
    ///
    /// Dropping the future loses nothing.
    pub async fn next_batch(&mut self, bytes_max: usize) -> anyhow::Result<Option<Vec<Piece>>> {
        loop {
            if let Some(piece) = self.next_part().await? {
                return Ok(Some(vec![piece]));
            }
            let Some(records) = self.reader.next_batch(bytes_max).await? else { return Ok(None) };
            let pieces = self.decode(&records)?;
            if !pieces.is_empty() {
                return Ok(Some(pieces));
            }
        }
    }

    /// Returns the next whole transactions, where that takes no waiting.
    pub fn next_at_hand(&mut self, bytes_max: usize) -> anyhow::Result<AtHand<Vec<Piece>>> {
        if self.large.is_some() {
            return Ok(AtHand::OnDisk);
        }
        Ok(match self.reader.next_at_hand(bytes_max)? {
            AtHand::Some(records) => match self.decode(&records)? {
                pieces if pieces.is_empty() => AtHand::OnDisk,
                pieces => AtHand::Some(pieces),
            },
            AtHand::End => AtHand::End,
            AtHand::OnDisk => AtHand::OnDisk,
        })
    }

    /// Would [`Pieces::next_at_hand`] tell?
    pub fn is_at_hand(&self) -> bool {
        self.large.is_none() && self.reader.is_at_hand()
    }

    /// Returns the whole transactions among these; a large one, the last of them, is next.
    fn decode(&mut self, records: &[Record]) -> anyhow::Result<Vec<Piece>> {
        let mut pieces = Vec::with_capacity(records.len());
        for record in records {
            match self.reader.parts(record)? {
                None => {
                    let transaction =
                        self.decoder.decode(&record.payload).context("read a record")?;
                    pieces.push(Piece::whole(transaction));
                }
                Some(parts) => {
                    let head = self.decoder.decode_large(&record.payload);
                    let head = head.context("read a record")?;
                    self.large = Some(LargePieces::new(head, parts));
                }
            }
        }
        Ok(pieces)
    }

    /// Returns the next piece of the large transaction that is being read; `None` outside of one.
    pub async fn next_part(&mut self) -> anyhow::Result<Option<Piece>> {
        let Some(large) = &mut self.large else { return Ok(None) };
        let piece = large.next().await?;
        if piece.as_ref().is_none_or(|piece| piece.last) {
            self.large = None;
        }
        Ok(piece)
    }
}

/// The pieces of one large transaction.
pub struct LargePieces {
    head: Transaction,
    parts: PartReader,
    changes_before: u64,
}

impl LargePieces {
    pub fn new(head: Transaction, parts: PartReader) -> Self {
        Self { head, parts, changes_before: 0 }
    }

    pub async fn next(&mut self) -> anyhow::Result<Option<Piece>> {
        let Some(part) = self.parts.next().await? else { return Ok(None) };
        let changes = record::decode_changes(&part.payload, self.head.relations.len())
            .with_context(|| format!("read part {} of record {}", part.lsn.0, self.head.lsn))?;
        let changes_before = self.changes_before;
        self.changes_before += changes.len() as u64;
        let transaction = Transaction { changes, ..self.head.clone() };
        Ok(Some(Piece { transaction, changes_before, last: self.parts.is_at_end() }))
    }
}
