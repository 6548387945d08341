//! How do the rows of a snapshot come into this region's tables?

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use bytes::Bytes;
use domicile_core::config::Config;
use domicile_core::id::TableName;
use domicile_core::seeding::{Piece, Relation, pieces};
use futures_util::SinkExt;
use futures_util::future::try_join_all;
use tokio::sync::watch;
use tokio_postgres::Client;

use super::wire::lower_name;
use crate::apply::become_applier;
use crate::capture::ORIGIN_PREFIX;
use crate::peer;
use crate::postgres::rows::qualified;
use crate::postgres::session::{self, quote_name};
use crate::postgres::target;
use crate::proto::CopyOutRequest;
use crate::status::SeedingStatus;

/// Pieces that are copied at a time.
const WORKERS: usize = 4;
/// Replication origins that a seeding takes: one for each of them, one for the session that directs all.
pub const ORIGINS: usize = WORKERS + 1;
/// 128 MiB of a table.
const PIECE_BLOCKS: u32 = 16 * 1024;
/// What stands in `domicile.seeding` beside the pieces that were copied.
pub const EMPTIED: &str = "emptied";
pub const SEEDED: &str = "seeded";

/// A replication origin of our own. `number` 0 is that of who directs the copying.
pub fn origin_name(number: usize) -> String {
    format!("{ORIGIN_PREFIX}seed_{number}")
}

/// Copies what another region shows.
pub struct Copy<'a> {
    pub config: &'a Config,
    pub postgres: &'a str,
    pub from: &'a peer::Client,
    /// Under which this seeding is remembered.
    pub seed: &'a str,
    pub snapshot: &'a str,
    pub status: &'a watch::Sender<SeedingStatus>,
}

impl Copy<'_> {
    /// Copies every piece that is not `done`.
    pub async fn run(&self, relations: &[Relation], done: &BTreeSet<String>) -> anyhow::Result<()> {
        let (copied, due): (Vec<Piece>, Vec<Piece>) = pieces(relations, PIECE_BLOCKS)
            .into_iter()
            .partition(|piece| done.contains(&piece.to_string()));
        let rows = |pieces: &[Piece]| pieces.iter().map(|piece| piece.rows_estimate).sum::<u64>();
        self.status.send_modify(|status| {
            status.step = "copies rows".to_owned();
            status.rows = rows(&copied);
            status.rows_estimate = rows(&copied) + rows(&due);
        });
        let queue = Mutex::new(VecDeque::from(due));
        try_join_all((1..=WORKERS).map(|number| self.work(number, &queue))).await?;
        Ok(())
    }

    async fn work(&self, number: usize, queue: &Mutex<VecDeque<Piece<'_>>>) -> anyhow::Result<()> {
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(mut piece) = next() else { return Ok(()) };
        let client = session::connect(self.postgres, "domicile seed").await?;
        become_applier(&client, &origin_name(number)).await?;
        loop {
            self.copy(&client, &piece).await.with_context(|| format!("copy {piece}"))?;
            let Some(following) = next() else { break };
            piece = following;
        }
        let reset = "SELECT pg_replication_origin_session_reset()";
        client.execute(reset, &[]).await.context("let go of the replication origin")?;
        Ok(())
    }

    /// Copies one piece, and remembers that with its rows.
    async fn copy(&self, client: &Client, piece: &Piece<'_>) -> anyhow::Result<()> {
        let request = CopyOutRequest {
            cluster: self.config.cluster.clone(),
            snapshot: self.snapshot.to_owned(),
            relation: Some(lower_name(&piece.relation.name)),
            first: piece.first,
            end: piece.end,
        };
        let answer = self.from.clone().copy_out(request).await;
        let mut rows =
            answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?.into_inner();
        client.batch_execute("BEGIN").await?;
        let sink = client.copy_in::<_, Bytes>(&copy_in(piece.relation)).await?;
        let mut sink = std::pin::pin!(sink);
        loop {
            let Some(message) = rows.message().await? else {
                bail!("the other region broke off");
            };
            if message.rows.is_empty() {
                break;
            }
            // A line end within a value is written otherwise.
            let count = message.rows.iter().filter(|byte| **byte == b'\n').count() as u64;
            sink.send(message.rows).await?;
            self.status.send_modify(|status| status.rows += count);
        }
        sink.finish().await?;
        remember(client, self.seed, self.snapshot, &piece.to_string()).await?;
        client.batch_execute("COMMIT").await?;
        Ok(())
    }
}

fn copy_in(relation: &Relation) -> String {
    let columns: Vec<String> = relation.columns.iter().map(|name| quote_name(name)).collect();
    format!("COPY {} ({}) FROM STDIN", qualified(&relation.table), columns.join(", "))
}

/// Notes what was done for a seeding.
pub async fn remember(
    client: &Client,
    seed: &str,
    snapshot: &str,
    what: &str,
) -> anyhow::Result<()> {
    let sql = "INSERT INTO domicile.seeding (seed, snapshot, done) VALUES ($1, $2, $3)";
    client.execute(sql, &[&seed, &snapshot, &what]).await.context("remember what was done")?;
    Ok(())
}

/// Is there a row in this table?
pub async fn has_rows(client: &Client, table: &TableName) -> anyhow::Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT FROM {})", target::read(client, table).await?.rows());
    Ok(client.query_one(&sql, &[]).await.with_context(|| format!("look into {table}"))?.get(0))
}
