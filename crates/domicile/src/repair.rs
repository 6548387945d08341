//! Makes rows right again whose local image is not the history's.
//!
//! Their keys stand in `domicile.repair`. Apply is held, the rows are read from a peer that shows
//! at least what we show, together with that peer's frontier, and written in one transaction.
//! Then apply goes on: up to that frontier the rows may already show what is applied, and that is
//! no conflict.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domicile_core::config::Config;
use domicile_core::history::covered;
use domicile_core::id::{Origin, PartitionId, RegionId, TableName};
use domicile_core::lsn::{Frontier, Lsn};
use domicile_core::opening::Open;
use domicile_core::ownership::Ownership;
use serde_json::{Map, Value as Json};
use tokio::sync::{RwLock, watch};
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient, Row, Transaction};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::apply::{ApplierConfig, Text, open_session};
use crate::complain::Complaint;
use crate::continuity::Continuity;
use crate::directory::view::OwnershipView;
use crate::log::Logs;
use crate::notices::Notices;
use crate::peer;
use crate::peer::mark::Marker;
use crate::postgres::guard::{self, NOBODY_YET};
use crate::postgres::journal;
use crate::postgres::rows::Key;
use crate::postgres::written::Written;
use crate::proto::{FetchRowsRequest, FetchRowsResponse, Value, fetch_rows_request};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const ROWS_PER_REPAIR_MAX: i64 = 5000;
/// Rows that are refused one by one before the rest waits for the next time: apply is held meanwhile.
const REFUSED_MAX: usize = 16;
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
const LOGS_TIMEOUT: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// After so long without a repair it is told: a peer may be away for a moment.
const TELL_AFTER: Duration = Duration::from_secs(5);
/// Under which the notice stands.
const PART: &str = "repair";
/// Rows cannot be repaired.
const REPAIR_FAILS: &str = "repair_fails";

pub struct Repairer {
    pub config: Arc<Config>,
    pub postgres: String,
    pub region: RegionId,
    pub origin: Origin,
    pub peers: Vec<(RegionId, peer::Client)>,
    pub marker: Marker,
    pub logs: Logs,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    /// Taken for writing: no row is applied meanwhile.
    pub gate: Arc<RwLock<()>>,
    /// Counts repairs, for the appliers.
    pub repairs: watch::Sender<u64>,
    pub diverted: watch::Receiver<u64>,
    pub continuity: Continuity,
    pub notices: Notices,
}

/// Rows of one table that are read from the same place at once.
struct Part {
    table: TableName,
    /// Clients may be writing them here: what they commit is to stay.
    written_here: bool,
    rows: Vec<Pending>,
}

impl Part {
    /// None where every row of the table is in question.
    fn keys(&self) -> Vec<Key> {
        let keys: Vec<Key> = self.rows.iter().map(|row| lift_key(&row.key)).collect();
        if keys.iter().any(Vec::is_empty) { Vec::new() } else { keys }
    }
}

struct Pending {
    id: i64,
    key: Json,
    /// The region that owns the row's partition, when only its word counts.
    owner: Option<(RegionId, i32)>,
}

/// A peer that is slow to answer holds apply up, of all regions' rows: for half of the time at most.
fn pause_after(held: Duration) -> Duration {
    held.max(LOOK_EVERY)
}

impl Repairer {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let (mut complaint, mut failing) = (Complaint::default(), None);
        // Behind this one next time: rows that cannot be repaired hold up none behind them.
        let (mut last, mut waiting) = (0, false);
        loop {
            let began = Instant::now();
            let repaired = self.repair_some(&mut last, &mut waiting).await;
            let held = began.elapsed();
            if repaired.is_ok() {
                failing = None;
                self.notices.clear(PART);
            }
            match repaired {
                Ok(0) => complaint.settled(),
                Ok(rows) => {
                    tracing::info!("repaired {rows} rows");
                    continue;
                }
                Err(error) => {
                    complaint.warn("rows are not repaired yet", &error);
                    let since = failing.get_or_insert_with(Instant::now);
                    if waiting && since.elapsed() >= TELL_AFTER {
                        let detail = format!(
                            "rows that stand in domicile.repair are not repaired: {error:#}"
                        );
                        self.notices.post(PART, REPAIR_FAILS, detail);
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause_after(held)) => {}
                _ = self.diverted.changed(), if held < LOOK_EVERY => {}
            }
        }
    }

    /// Repairs up to [`ROWS_PER_REPAIR_MAX`] rows that were marked after the row `last`, from the first on
    /// when there are none, and moves it to the last of them. Returns how many were repaired; `waiting` says whether
    /// there were any when that was known last.
    async fn repair_some(&self, last: &mut i64, waiting: &mut bool) -> anyhow::Result<usize> {
        let config = ApplierConfig {
            postgres: self.postgres.clone(),
            region: self.region.clone(),
            origin: self.origin.clone(),
            cluster: self.config.clone(),
            continuity: self.continuity.clone(),
        };
        let mut client =
            crate::postgres::session::connect(&self.postgres, "domicile repair").await?;
        *waiting = !marked(&client, 0).await?.is_empty();
        if !*waiting {
            return Ok(0);
        }
        let _held = self.gate.write().await;
        open_session(&client, &config).await?;
        let mut rows = marked(&client, *last).await?;
        if rows.is_empty() {
            rows = marked(&client, 0).await?;
        }
        *last = rows.last().map_or(0, |row| row.get(0));
        let open = guard::read_open(&client, &self.region).await?;
        let (mut repaired, mut failed) = (0, None);
        for (source, parts) in by_source(&rows, &open)? {
            match self.repair_apart(&mut client, source.as_ref(), parts).await {
                Ok(rows) => repaired += rows,
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if repaired == 0 => Err(error),
            _ => Ok(repaired),
        }
    }

    /// Repairs from `source`. Rows that PostgreSQL refuses here, or that the peer cannot read, hold up
    /// no others: what waits for those is not opened. Returns how many rows were repaired.
    async fn repair_apart(
        &self,
        client: &mut Client,
        source: Option<&RegionId>,
        mut parts: Vec<Part>,
    ) -> anyhow::Result<usize> {
        let (mut repaired, mut refused) = (0, Vec::new());
        while let Some(part) = parts.pop()
            && refused.len() < REFUSED_MAX
        {
            match self.repair_from(client, source, &part).await {
                Ok(rows) => repaired += rows,
                Err(error) if is_refusal(&error) => match halves(part) {
                    Some(halves) => parts.extend(halves),
                    None => refused.push(error),
                },
                Err(error) => {
                    let is_of_all = concerns_all(&error);
                    refused.push(error);
                    if is_of_all {
                        break;
                    }
                }
            }
        }
        match refused.pop() {
            Some(error) if repaired == 0 => Err(error),
            _ => Ok(repaired),
        }
    }

    /// Repairs from `source`, or from the first peer that can tell of any of the rows; returns of how many.
    async fn repair_from(
        &self,
        client: &mut Client,
        source: Option<&RegionId>,
        part: &Part,
    ) -> anyhow::Result<usize> {
        let mut refused = match source {
            Some(source) => anyhow::anyhow!("there is no region {source} to ask"),
            None => anyhow::anyhow!("no peer answers"),
        };
        for (region, peer) in self.peers.iter().filter(|(r, _)| source.is_none_or(|s| s == r)) {
            let repaired = match self.take_over(client, (region, peer), part, Order::InPlace).await
            {
                Err(error) if is_taken(&error) => {
                    self.take_over(client, (region, peer), part, Order::AllAnew).await
                }
                other => other,
            };
            match repaired {
                Ok(rows) => {
                    self.repairs.send_modify(|n| *n += 1);
                    return Ok(rows);
                }
                Err(error) if is_refusal(&error) => return Err(error),
                Err(error) => refused = error.context(format!("ask region {region}")),
            }
        }
        Err(refused)
    }

    /// Makes the rows what they are at a peer; returns how many it could tell of.
    async fn take_over(
        &self,
        client: &mut Client,
        (region, peer): (&RegionId, &peer::Client),
        part: &Part,
        order: Order,
    ) -> anyhow::Result<usize> {
        let postgres = client.transaction().await?;
        postgres.batch_execute("SET LOCAL synchronous_commit = local").await?;
        let written = Written::new(&postgres, &part.table).await?;
        let (keys, mut absent) = (part.keys(), BTreeSet::new());
        let mut needed = self.needed(&postgres, region).await?;
        if part.written_here {
            // Whoever writes these rows from now on writes them after us, and who did so before has
            // committed: the peer must show it.
            if keys.is_empty() {
                written.hold_all().await?;
            }
            for (i, key) in keys.iter().enumerate() {
                if written.hold(key).await? == 0 {
                    absent.insert(i);
                }
            }
            needed.advance(&self.origin, self.marker.mark().await?.end);
        }
        let Fetched { answer, frontier } = self.fetch(peer, region, part, &keys, &needed).await?;
        if keys.is_empty() {
            written.delete_all().await?;
            for row in &answer.rows {
                written.insert(named(&answer.columns, &row.values)).await?;
            }
        }
        let in_question = |i: usize| !keys.is_empty() && answer.rows[i].in_question;
        let told: Vec<usize> = (0..part.rows.len()).filter(|i| !in_question(*i)).collect();
        anyhow::ensure!(!told.is_empty(), "the rows wait to be repaired there, too");
        let mut kept = self.displace(&written, &part.rows, &keys, &answer, &frontier).await?;
        kept.extend((0..part.rows.len()).filter(|i| in_question(*i)));
        replace(&written, &keys, &answer, Places { kept, absent }, order).await?;
        // Only these: more may have been marked meanwhile.
        let done: Vec<i64> = told.iter().map(|i| part.rows[*i].id).collect();
        postgres.execute("DELETE FROM domicile.repair WHERE id = ANY ($1)", &[&done]).await?;
        for (origin, lsn) in frontier.iter().filter(|(origin, _)| origin.region != self.region) {
            postgres
                .execute(
                    "INSERT INTO domicile.progress AS progress (origin, applied, converge_to)
                     VALUES ($1, '0/0', $2::text::pg_lsn)
                     ON CONFLICT (origin) DO UPDATE
                     SET converge_to = greatest(progress.converge_to, excluded.converge_to)",
                    &[&origin.to_string(), &lsn.to_string()],
                )
                .await?;
        }
        postgres.commit().await.context("commit the repair")?;
        Ok(told.len())
    }

    /// Reads the rows from one peer, which must show all that is `needed`: so its rows are no older than
    /// ours.
    async fn fetch(
        &self,
        peer: &peer::Client,
        region: &RegionId,
        part: &Part,
        keys: &[Key],
        needed: &Frontier,
    ) -> anyhow::Result<Fetched> {
        let deadline = Instant::now() + LOGS_TIMEOUT;
        loop {
            let view = self.ownership.borrow().clone();
            let request = FetchRowsRequest {
                schema: part.table.schema.clone(),
                table: part.table.name.clone(),
                keys: keys.iter().map(lower_key).collect(),
                ownership: view.revision,
            };
            let mut peer = peer.clone();
            let answer = tokio::time::timeout(FETCH_TIMEOUT, peer.fetch_rows(request));
            let answer = answer.await.context("the peer is silent")??.into_inner();
            anyhow::ensure!(
                keys.is_empty() || answer.rows.len() == keys.len(),
                "the peer does not answer what was asked"
            );
            let mut frontier = Frontier::default();
            for position in &answer.frontier {
                frontier.advance(&position.origin.parse()?, Lsn(position.lsn));
            }
            let ownership = view.ownership.as_ref();
            if covered(needed, &frontier, region, None, ownership) {
                self.wait_for_logs(&frontier, ownership).await?;
                return Ok(Fetched { answer, frontier });
            }
            // What was committed here just now is on its way to it.
            if !part.written_here || Instant::now() >= deadline {
                match frontier.missing(needed, region) {
                    Some((origin, lsn)) => {
                        anyhow::bail!("it does not show {origin} up to {lsn} yet")
                    }
                    None => anyhow::bail!("it does not show what is needed yet"),
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Waits until our logs hold everything that the peer's rows show: else a commit that was
    /// never shipped, and may yet turn out to be no history, would come in with them.
    ///
    /// Where a history has ended, no more of it will come, and the peer has taken out what it had.
    async fn wait_for_logs(
        &self,
        shown: &Frontier,
        ownership: Option<&Ownership>,
    ) -> anyhow::Result<()> {
        for (origin, lsn) in shown.iter().filter(|(origin, _)| origin.region != self.region) {
            let log = self.logs.get_or_create(origin)?;
            let mut end = log.watch_end();
            let has_ended = |end| ownership.is_some_and(|known| known.ends_at(origin, end));
            let reached = end.wait_for(|end| *end >= lsn || has_ended(*end));
            let reached = tokio::time::timeout(LOGS_TIMEOUT, reached).await;
            reached.with_context(|| format!("our log of {origin} does not reach {lsn} yet"))??;
        }
        Ok(())
    }

    /// What a peer must show so that its rows are not older than ours.
    async fn needed(
        &self,
        client: &impl GenericClient,
        peer: &RegionId,
    ) -> anyhow::Result<Frontier> {
        let mut ours = Frontier::default();
        let rows = client.query("SELECT origin, applied::text FROM domicile.progress", &[]).await?;
        for row in rows {
            let origin: Origin = row.get::<_, &str>(0).parse()?;
            if origin.region != *peer {
                ours.advance(&origin, row.get::<_, &str>(1).parse()?);
            }
        }
        // Of our own history, everything up to the last cut: what lies beyond is not history.
        let view = self.ownership.borrow().clone();
        for entry in view.ownership.iter().flat_map(|o| o.entries()) {
            for cut in entry.closed.iter().map(|c| &c.cut).chain(entry.state.cut()) {
                if cut.origin.region == self.region {
                    ours.advance(&cut.origin, cut.lsn);
                }
            }
        }
        Ok(ours)
    }

    /// Journals rows that differ from their owner's, before they are replaced. Returns the places
    /// of those that stay as they are, because the owner is another region by now.
    async fn displace(
        &self,
        written: &Written<'_, Transaction<'_>>,
        rows: &[Pending],
        keys: &[Key],
        answer: &FetchRowsResponse,
        shown: &Frontier,
    ) -> anyhow::Result<BTreeSet<usize>> {
        let mut kept = BTreeSet::new();
        for (i, ((row, key), theirs)) in rows.iter().zip(keys).zip(&answer.rows).enumerate() {
            let Some((owner, partition)) = &row.owner else { continue };
            // Locked before the owner is looked up: whoever owns the row after that writes it after
            // this transaction, and onto what it leaves behind.
            let local = written.lock(key, &answer.columns).await?;
            let now = written.postgres;
            let now = now.query_one("SELECT owner FROM domicile.entry($1)", &[partition]).await?;
            // What is ours and not opened was written by nobody since.
            let counts = |now| now == owner.as_str() || now == NOBODY_YET;
            if !now.get::<_, Option<&str>>(0).is_some_and(counts) {
                tracing::warn!(table = %written.table, partition, "a row is not repaired: its owner has changed");
                kept.insert(i);
                continue;
            }
            let texts: Vec<Option<String>> =
                theirs.values.iter().cloned().map(peer::server::lift_value).collect();
            let right = (!texts.is_empty()).then_some(&texts);
            if local.as_ref().map(|(values, _)| values) == right {
                continue;
            }
            let members = answer.columns.iter().cloned().zip(texts.iter().cloned());
            let image: Json =
                members.map(|(c, v)| (c, Json::from(v))).collect::<Map<_, _>>().into();
            let from = shown.iter().filter(|(origin, _)| origin.region == *owner).last();
            let replaced = journal::Replaced {
                from: from.context("the owner tells its own position")?,
                table: written.table,
                key: &row.key,
                local: local.as_ref().map(|(_, image)| image),
                owners: right.map(|_| &image),
            };
            journal::replaced(written.postgres, &replaced).await?;
        }
        Ok(kept)
    }
}

struct Fetched {
    answer: FetchRowsResponse,
    /// Up to here the rows may already show what we are still to apply.
    frontier: Frontier,
}

/// How rows become what they are at the peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// A row that stays is updated, so that a statement that waits for it still finds it.
    InPlace,
    /// All go before the first comes: rows may have exchanged what no two of them may have.
    AllAnew,
}

/// Has our PostgreSQL refused what a peer has?
fn is_refusal(error: &anyhow::Error) -> bool {
    let mut causes =
        error.chain().filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>());
    causes.any(|cause| cause.as_db_error().is_some())
}

/// Is a unique value taken by another row?
fn is_taken(error: &anyhow::Error) -> bool {
    let mut codes = error.chain().filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>());
    codes.any(|cause| {
        let taken = [SqlState::UNIQUE_VIOLATION, SqlState::EXCLUSION_VIOLATION];
        cause.code().is_some_and(|code| taken.contains(code))
    })
}

/// Would other rows fare the same, because a peer, or our PostgreSQL, is silent?
fn concerns_all(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        if let Some(status) = cause.downcast_ref::<tonic::Status>() {
            return !matches!(status.code(), Code::Internal | Code::FailedPrecondition);
        }
        let postgres = cause.downcast_ref::<tokio_postgres::Error>();
        cause.is::<Elapsed>() || postgres.is_some_and(|error| error.as_db_error().is_none())
    })
}

/// Two parts of what is to be repaired; none of a single row.
fn halves(part: Part) -> Option<[Part; 2]> {
    let Part { table, written_here, mut rows } = part;
    if rows.len() < 2 {
        return None;
    }
    let other = rows.split_off(rows.len() / 2);
    let half = |rows| Part { table: table.clone(), written_here, rows };
    Some([rows, other].map(half))
}

/// Up to [`ROWS_PER_REPAIR_MAX`] rows that were marked after the row `last`.
async fn marked(client: &Client, last: i64) -> anyhow::Result<Vec<Row>> {
    let sql = "SELECT id, schema_name, table_name, key, source, partition, touched
               FROM domicile.repair WHERE id > $1 ORDER BY id LIMIT $2";
    let rows = client.query(sql, &[&last, &ROWS_PER_REPAIR_MAX]).await;
    rows.context("read what is to be repaired")
}

/// What is to be repaired, by where it is read from. Clients write here what is `open`.
fn by_source(rows: &[Row], open: &[Open]) -> anyhow::Result<BTreeMap<Option<RegionId>, Vec<Part>>> {
    let is_open = |number: &i32| {
        let partition = u32::try_from(*number).map(PartitionId);
        partition.is_ok_and(|partition| open.iter().any(|open| open.range.contains(partition)))
    };
    let mut sources: BTreeMap<Option<RegionId>, Vec<Part>> = BTreeMap::new();
    for row in rows {
        let source: Option<RegionId> = row.get::<_, Option<&str>>(4).map(str::parse).transpose()?;
        let touched: Option<Vec<i32>> = row.get(6);
        let may_be_open = touched.map_or(!open.is_empty(), |touched| touched.iter().any(is_open));
        let written_here = source.is_none() && may_be_open;
        let table = TableName::new(row.get::<_, &str>(1), row.get::<_, &str>(2));
        let owner = source.clone().zip(row.get(5));
        let pending = Pending { id: row.get(0), key: row.get(3), owner };
        let parts = sources.entry(source).or_default();
        let alike = |part: &&mut Part| part.table == table && part.written_here == written_here;
        match parts.iter_mut().find(alike) {
            Some(part) => part.rows.push(pending),
            None => parts.push(Part { table, written_here, rows: vec![pending] }),
        }
    }
    Ok(sources)
}

fn lift_key(key: &Json) -> Key {
    let members = key.as_object().into_iter().flatten();
    members.map(|(column, value)| (column.clone(), value.as_str().map(str::to_owned))).collect()
}

fn lower_key(key: &Key) -> fetch_rows_request::Key {
    fetch_rows_request::Key {
        columns: key.iter().map(|(column, _)| column.clone()).collect(),
        values: key.iter().map(|(_, v)| peer::server::lower_value(v.clone())).collect(),
    }
}

/// Which of the rows are treated otherwise.
struct Places {
    /// They stay as they are.
    kept: BTreeSet<usize>,
    /// There was no row to lock: one that is there now is newer than the peer's.
    absent: BTreeSet<usize>,
}

/// Makes each row what the peer has. Rows that must go go first: others may need their values.
async fn replace(
    written: &Written<'_, Transaction<'_>>,
    keys: &[Key],
    answer: &FetchRowsResponse,
    Places { kept, absent }: Places,
    order: Order,
) -> anyhow::Result<()> {
    let rows = || {
        let rows = keys.iter().zip(&answer.rows).enumerate().filter(|(i, _)| !kept.contains(i));
        rows.map(|(i, (key, row))| (key, row, absent.contains(&i)))
    };
    for (key, row, is_absent) in rows() {
        if !is_absent && (order == Order::AllAnew || row.values.is_empty()) {
            written.delete(key).await?;
        }
    }
    for (key, row, is_absent) in rows().filter(|(_, row, _)| !row.values.is_empty()) {
        let values = || named(&answer.columns, &row.values);
        let in_place = order == Order::InPlace && !is_absent;
        if in_place && written.update(key, values()).await? > 0 {
            continue;
        }
        if !is_absent {
            written.delete(key).await?;
        }
        written.insert(values()).await?;
    }
    Ok(())
}

fn named<'v>(columns: &'v [String], row: &'v [Value]) -> impl Iterator<Item = (&'v str, Text<'v>)> {
    columns.iter().map(String::as_str).zip(row.iter().map(|value| Text(value.text.as_deref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apply_has_at_least_as_long_as_it_was_held_up_for() {
        assert_eq!(pause_after(Duration::from_millis(3)), LOOK_EVERY);
        assert_eq!(pause_after(FETCH_TIMEOUT), FETCH_TIMEOUT);
    }
}
