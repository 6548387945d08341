//! Do the sequences of replicated tables give out this region's values only?
//!
//! What they should be is decided by `core::sequence`. Most looks find nothing to do and take no
//! lock; a sequence that is set is locked against everybody who draws from it, for a moment.

use std::collections::BTreeMap;

use anyhow::Context;
use domicile_core::config::{Config, TableKind};
use domicile_core::sequence::{Place, STEP, Sequence};
use tokio_postgres::Client;

use super::rows::qualified;

const SEQUENCES_SQL: &str = include_str!("sql/sequences.sql");
/// Setting a sequence waits for transactions that have drawn from it; those who want to draw queue
/// behind it meanwhile.
const LOCK_WAIT_MAX_MS: u32 = 200;

/// How hard to look for values that are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// At the sequences alone.
    Sequences,
    /// At columns too, where an index tells the outermost value.
    Columns,
}

struct Found {
    /// As SQL writes it.
    name: String,
    sequence: Sequence,
    columns: Vec<Column>,
}

struct Column {
    table: String,
    name: String,
    indexed: bool,
}

/// Makes every sequence keep to `place`. Returns how many could not be set: those are complained about.
pub async fn keep(
    client: &mut Client,
    config: &Config,
    place: Place,
    look: Look,
) -> anyhow::Result<usize> {
    let mut wrong = Vec::new();
    let found = find(client, config).await?;
    let used = match look {
        Look::Sequences => vec![None; found.len()],
        Look::Columns => used_by_all(client, &found).await?,
    };
    for (found, used) in found.into_iter().zip(used) {
        match found.sequence.keep_to(place, used) {
            Ok(None) => {}
            Ok(Some(_)) => wrong.push(found),
            Err(error) => complain(&found, &error.into()),
        }
    }
    if wrong.is_empty() || set(client, &wrong, place).await.is_ok() {
        return Ok(0);
    }
    // One that somebody holds, or that has no value left, is not to hold up the others.
    let mut left = 0;
    for found in &wrong {
        if let Err(error) = set(client, std::slice::from_ref(found), place).await {
            complain(found, &error);
            left += 1;
        }
    }
    Ok(left)
}

fn complain(found: &Found, error: &anyhow::Error) {
    tracing::warn!(sequence = %found.name, "two regions may draw the same value: {error:#}");
}

async fn find(client: &Client, config: &Config) -> anyhow::Result<Vec<Found>> {
    let tables: Vec<String> = config
        .tables
        .iter()
        .filter(|(_, kind)| !matches!(kind, TableKind::Local))
        .map(|(table, _)| qualified(table))
        .collect();
    let rows = client.query(SEQUENCES_SQL, &[&tables]).await.context("look for sequences")?;
    let mut found: BTreeMap<u32, Found> = BTreeMap::new();
    for row in &rows {
        let entry = found.entry(row.get("oid")).or_insert_with(|| Found {
            name: row.get("sequence_name"),
            sequence: Sequence {
                increment: row.get("increment"),
                min: row.get("min"),
                max: row.get("max"),
                start: row.get("start"),
                cycles: row.get("cycles"),
                last: 0,
                is_called: false,
            },
            columns: Vec::new(),
        });
        if row.get("counts") {
            let (table, name) = (row.get("table_name"), row.get("column_name"));
            entry.columns.push(Column { table, name, indexed: row.get("indexed") });
        }
    }
    let mut found: Vec<Found> = found.into_values().collect();
    let each: Vec<String> = found
        .iter()
        .enumerate()
        .map(|(i, one)| format!("SELECT {i}, last_value, is_called FROM {}", one.name))
        .collect();
    if each.is_empty() {
        return Ok(found);
    }
    for row in client.query(&each.join(" UNION ALL "), &[]).await.context("read sequences")? {
        let one = &mut found[usize::try_from(row.get::<_, i32>(0))?].sequence;
        (one.last, one.is_called) = (row.get(1), row.get(2));
    }
    Ok(found)
}

/// Sets sequences while nobody draws from them.
async fn set(client: &mut Client, wrong: &[Found], place: Place) -> anyhow::Result<()> {
    let mut read = Vec::with_capacity(wrong.len());
    for found in wrong {
        // Where no index tells it, the table is read, but before anybody has to wait; and not for a
        // sequence that has its step: it was read when that was set.
        let unread = found.sequence.increment.unsigned_abs() != STEP.unsigned_abs();
        read.push(used(client, found, |column| unread && !column.indexed).await?);
    }
    let transaction = client.transaction().await?;
    let locks: Vec<String> = wrong
        .iter()
        .map(|found| format!("ALTER SEQUENCE {} INCREMENT BY {}", found.name, found.step()))
        .collect();
    let lock = format!("SET LOCAL lock_timeout = {LOCK_WAIT_MAX_MS}; {}", locks.join("; "));
    transaction.batch_execute(&lock).await.context("lock it")?;
    let mut sets = Vec::with_capacity(wrong.len());
    for (found, read) in wrong.iter().zip(read) {
        let (name, up) = (&found.name, found.step() > 0);
        let sql = format!("SELECT last_value, is_called FROM {name}");
        let row = transaction.query_one(&sql, &[]).await?;
        let now = Sequence { last: row.get(0), is_called: row.get(1), ..found.sequence.clone() };
        let used =
            used(&transaction, found, |column| column.indexed).await?.into_iter().chain(read);
        let used = if up { used.max() } else { used.min() };
        if let Some(set) = now.keep_to(place, used)? {
            sets.push(format!(
                "ALTER SEQUENCE {name} START WITH {}; SELECT setval('{}', {}, false)",
                set.start,
                name.replace('\'', "''"),
                set.next
            ));
        }
    }
    transaction.batch_execute(&sets.join("; ")).await.context("set it")?;
    transaction.commit().await.context("set it")
}

impl Found {
    fn step(&self) -> i64 {
        if self.sequence.increment > 0 { STEP } else { -STEP }
    }

    fn outermost(&self, column: &Column) -> String {
        let outermost = if self.step() > 0 { "max" } else { "min" };
        let Column { table, name, .. } = column;
        format!("SELECT {outermost}({name})::bigint AS value FROM ONLY {table}")
    }
}

/// The outermost value behind each sequence, where an index tells it, with one question: clients
/// may be waiting for a new owner.
async fn used_by_all(client: &Client, found: &[Found]) -> anyhow::Result<Vec<Option<i64>>> {
    let mut each = Vec::new();
    for (i, one) in found.iter().enumerate() {
        for column in one.columns.iter().filter(|column| column.indexed) {
            each.push(format!("SELECT {i}, ({})", one.outermost(column)));
        }
    }
    let mut used: Vec<Option<i64>> = vec![None; found.len()];
    if each.is_empty() {
        return Ok(used);
    }
    let rows = client.query(&each.join(" UNION ALL "), &[]).await;
    for row in rows.context("read the values in use")? {
        let i = usize::try_from(row.get::<_, i32>(0))?;
        let both = used[i].into_iter().chain(row.get::<_, Option<i64>>(1));
        used[i] = if found[i].step() > 0 { both.max() } else { both.min() };
    }
    Ok(used)
}

/// The outermost value in these columns.
async fn used(
    client: &impl tokio_postgres::GenericClient,
    found: &Found,
    which: impl Fn(&Column) -> bool,
) -> anyhow::Result<Option<i64>> {
    let outermost = if found.step() > 0 { "max" } else { "min" };
    let columns = found.columns.iter().filter(|column| which(column));
    let each: Vec<String> = columns.map(|column| found.outermost(column)).collect();
    if each.is_empty() {
        return Ok(None);
    }
    let sql = format!("SELECT {outermost}(value) FROM ({}) used", each.join(" UNION ALL "));
    Ok(client.query_one(&sql, &[]).await.context("read the values in use")?.get(0))
}
