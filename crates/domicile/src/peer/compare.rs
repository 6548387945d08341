//! How do checksums and rows travel from region to region? One lift and one lower.

use anyhow::Context;
use domicile_core::compare::{By, Column, Layout, Seen, Shape, Sum};
use domicile_core::config::Config;
use domicile_core::id::{Origin, PartitionId, TableName};
use domicile_core::lsn::{Frontier, Lsn};
use serde_json::{Map, Value as Json};

use super::Client;
use super::server::{lift_value, lower_value};
use crate::postgres::compare::{self, Buckets, Comparison, Key, Look, Looked, Range};
use crate::postgres::{journal, session};
use crate::proto::compare_request::{self as ask, Ask};
use crate::proto::{
    CompareRequest, CompareResponse, DescribeRequest, DescribeResponse, MarkRequest, Position,
    RepairRequest, Value, compare_response as answer, describe_response,
};

/// Who asks waits for the answer: a table that somebody holds is told of, and not waited for without end.
const LOCK_WAIT: &str = "SET lock_timeout = '30s'";

async fn open(postgres: &str) -> anyhow::Result<tokio_postgres::Client> {
    let client = session::connect(postgres, "domicile compare").await?;
    client.batch_execute(LOCK_WAIT).await.context("wait for no table without end")?;
    Ok(client)
}

/// Answers what this region's table is like.
pub async fn describe(
    postgres: &str,
    request: DescribeRequest,
) -> anyhow::Result<DescribeResponse> {
    let client = open(postgres).await?;
    let table = TableName::new(request.schema, request.table);
    let Some((shape, rows_estimate)) = compare::shape(&client, &table).await? else {
        return Ok(DescribeResponse::default());
    };
    let columns = shape.columns.into_iter();
    let keys = shape.keys.into_iter();
    Ok(DescribeResponse {
        columns: columns
            .map(|c| describe_response::Column { name: c.name, order: c.order })
            .collect(),
        keys: keys.map(|columns| describe_response::Key { columns }).collect(),
        encoding: shape.encoding,
        rows_estimate,
    })
}

/// Answers from this region's rows.
pub async fn answer(
    postgres: &str,
    config: &Config,
    request: CompareRequest,
) -> anyhow::Result<CompareResponse> {
    let mut client = open(postgres).await?;
    let table = TableName::new(request.schema, request.table);
    let (columns, key) = (&request.columns, &request.key);
    let comparison = Comparison::new(&client, config, &table, columns, key).await?;
    let mut response = CompareResponse::default();
    match request.ask.context("nothing was asked")? {
        Ask::Split(ask::Split { range, every, limit }) => {
            let range = lift_range(range.unwrap_or_default());
            anyhow::ensure!(every > 0, "a range is divided into parts of at least one row");
            let keys = comparison.split(&client, &range, every, limit).await?;
            response.rows = keys.into_iter().map(|key| lower_row(key, 0)).collect();
        }
        Ask::SumRanges(ask::Ranges { ranges }) => {
            for range in ranges {
                let sum = comparison.sum_range(&client, &lift_range(range)).await?;
                response.sums.push(lower_sum(0, sum));
            }
        }
        Ask::ListRange(range) => {
            let rows = comparison.list_range(&client, &lift_range(range)).await?;
            response.rows = rows.into_iter().map(|(key, hash)| lower_row(key, hash)).collect();
        }
        Ask::SumBuckets(ask::Buckets { modulus, .. }) => {
            anyhow::ensure!(modulus > 0, "there is at least one bucket");
            let sums = comparison.sum_buckets(&client, modulus).await?;
            response.sums = sums.into_iter().map(|(bucket, sum)| lower_sum(bucket, sum)).collect();
        }
        Ask::ListBuckets(ask::Buckets { modulus, remainders }) => {
            anyhow::ensure!(modulus > 0, "there is at least one bucket");
            let rows = comparison.list_buckets(&client, &Buckets { modulus, remainders }).await?;
            response.rows = rows.into_iter().map(|(key, hash)| lower_row(key, hash)).collect();
        }
        Ask::Look(ask::Keys { keys }) => {
            let keys: Vec<Key> = keys.into_iter().map(|key| lift_key(key.values)).collect();
            let Look { rows, applied, shown, settled_xid } =
                comparison.look(&mut client, &keys).await?;
            response.rows = rows.into_iter().map(lower_looked).collect();
            response.applied = applied.iter().map(|(o, lsn)| position(o, lsn)).collect();
            response.shown = shown.iter().map(|(o, lsn)| position(o, lsn)).collect();
            response.settled_xid = settled_xid;
        }
    }
    Ok(response)
}

/// Marks rows of this region to be read again from their owner.
pub async fn mark_rows(postgres: &str, request: RepairRequest) -> anyhow::Result<()> {
    let client = session::connect(postgres, "domicile repair").await?;
    let table = TableName::new(request.schema, request.table);
    let source = request.source.parse()?;
    for row in request.rows {
        let values = row.values.into_iter().map(lift_value);
        let members = row.columns.into_iter().zip(values);
        let key = members.map(|(column, value)| (column, value.into())).collect::<Map<_, _>>();
        let partition = PartitionId(row.partition);
        journal::mark_from(&client, &table, &Json::Object(key), &source, partition).await?;
    }
    Ok(())
}

/// One table in one region, as another side asks for it.
#[derive(Clone)]
pub struct RemoteTable {
    client: Client,
    table: TableName,
    layout: Layout,
}

impl RemoteTable {
    pub fn new(client: Client, table: TableName, layout: Layout) -> Self {
        Self { client, table, layout }
    }

    pub async fn split(&self, range: &Range, every: u64, limit: u32) -> anyhow::Result<Vec<Key>> {
        let range = Some(lower_range(range));
        let answer = self.ask(Ask::Split(ask::Split { range, every, limit })).await?;
        Ok(answer.rows.into_iter().map(|row| lift_key(row.key)).collect())
    }

    pub async fn sum_ranges(&self, ranges: &[Range]) -> anyhow::Result<Vec<Sum>> {
        let ranges = ranges.iter().map(lower_range).collect();
        let answer = self.ask(Ask::SumRanges(ask::Ranges { ranges })).await?;
        answer.sums.iter().map(|sum| Ok(lift_sum(sum)?.1)).collect()
    }

    pub async fn list_range(&self, range: &Range) -> anyhow::Result<Vec<(Key, i64)>> {
        let answer = self.ask(Ask::ListRange(lower_range(range))).await?;
        Ok(answer.rows.into_iter().map(|row| (lift_key(row.key), row.hash)).collect())
    }

    pub async fn sum_buckets(&self, modulus: u64) -> anyhow::Result<Vec<(u64, Sum)>> {
        let buckets = ask::Buckets { modulus, remainders: Vec::new() };
        let answer = self.ask(Ask::SumBuckets(buckets)).await?;
        answer.sums.iter().map(lift_sum).collect()
    }

    pub async fn list_buckets(&self, buckets: &Buckets) -> anyhow::Result<Vec<(Key, i64)>> {
        let Buckets { modulus, remainders } = buckets.clone();
        let answer = self.ask(Ask::ListBuckets(ask::Buckets { modulus, remainders })).await?;
        Ok(answer.rows.into_iter().map(|row| (lift_key(row.key), row.hash)).collect())
    }

    pub async fn look(&self, keys: &[Key]) -> anyhow::Result<Look> {
        let keys = keys.iter().map(|key| ask::keys::Key { values: lower_key(key) }).collect();
        let answer = self.ask(Ask::Look(ask::Keys { keys })).await?;
        let applied = lift_frontier(&answer.applied)?;
        let shown = lift_frontier(&answer.shown)?;
        let rows = answer.rows.into_iter().map(|row| Looked {
            index: row.index as usize,
            seen: Seen { hash: row.hash, version: row.version },
            partition: row.partition,
        });
        Ok(Look { rows: rows.collect(), applied, shown, settled_xid: answer.settled_xid })
    }

    async fn ask(&self, ask: Ask) -> anyhow::Result<CompareResponse> {
        let key = match &self.layout.by {
            By::Key(key) | By::KeyHash(key) => key.clone(),
            By::Row => Vec::new(),
        };
        let request = CompareRequest {
            schema: self.table.schema.clone(),
            table: self.table.name.clone(),
            columns: self.layout.columns.clone(),
            key,
            ask: Some(ask),
        };
        let answer = self.client.clone().compare(request).await;
        Ok(answer.map_err(said)?.into_inner())
    }
}

/// Asks a region what its table is like; `None` when it has none of this name.
pub async fn shape_of(
    mut client: Client,
    table: &TableName,
) -> anyhow::Result<Option<(Shape, u64)>> {
    let (schema, table) = (table.schema.clone(), table.name.clone());
    let answer = client.describe(DescribeRequest { schema, table }).await.map_err(said)?;
    let DescribeResponse { columns, keys, encoding, rows_estimate } = answer.into_inner();
    if columns.is_empty() {
        return Ok(None);
    }
    let columns = columns.into_iter().map(|c| Column { name: c.name, order: c.order }).collect();
    let keys = keys.into_iter().map(|key| key.columns).collect();
    Ok(Some((Shape { columns, keys, encoding }, rows_estimate)))
}

/// Up to where another region must show a region's history to show all that it has committed.
#[derive(Clone, Debug)]
pub struct Mark {
    pub origin: Origin,
    pub log_end: Lsn,
    pub next_xid: u64,
}

pub async fn mark_of(mut client: Client) -> anyhow::Result<Mark> {
    let answer = client.mark(MarkRequest {}).await.map_err(said)?.into_inner();
    let end = answer.log_end.context("a mark has a position")?;
    Ok(Mark { origin: end.origin.parse()?, log_end: Lsn(end.lsn), next_xid: answer.next_xid })
}

fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

fn position(origin: &Origin, lsn: Lsn) -> Position {
    Position { origin: origin.to_string(), lsn: lsn.0 }
}

fn lift_frontier(positions: &[Position]) -> anyhow::Result<Frontier> {
    positions.iter().map(|p| Ok((p.origin.parse()?, Lsn(p.lsn)))).collect()
}

fn lift_key(values: Vec<Value>) -> Key {
    values.into_iter().map(lift_value).collect()
}

fn lower_key(key: &Key) -> Vec<Value> {
    key.iter().cloned().map(lower_value).collect()
}

fn lift_range(range: ask::Range) -> Range {
    Range { after: lift_key(range.after), upto: lift_key(range.upto) }
}

fn lower_range(range: &Range) -> ask::Range {
    ask::Range { after: lower_key(&range.after), upto: lower_key(&range.upto) }
}

fn lift_sum(sum: &answer::Sum) -> anyhow::Result<(u64, Sum)> {
    let hash = sum.hash.parse().context("read a sum")?;
    Ok((sum.bucket, Sum { rows: sum.rows, hash }))
}

fn lower_sum(bucket: u64, sum: Sum) -> answer::Sum {
    answer::Sum { bucket, rows: sum.rows, hash: sum.hash.to_string() }
}

fn lower_row(key: Key, hash: i64) -> answer::Row {
    answer::Row { key: lower_key(&key), hash, ..answer::Row::default() }
}

fn lower_looked(row: Looked) -> answer::Row {
    answer::Row {
        index: u32::try_from(row.index).unwrap_or(u32::MAX),
        hash: row.seen.hash,
        version: row.seen.version,
        partition: row.partition,
        key: Vec::new(),
    }
}
