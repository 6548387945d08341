//! How is what lost written again, without overwriting what came later?
//!
//! It is an ordinary write: the owner's guard admits it, other regions get it as any other, and in
//! a shared table it follows everything that is known there.

use clap::Args;
use domicile_core::config::{Config, Region};
use domicile_core::id::{RegionId, TableName};
use domicile_core::route::Refusal;
use domicile_pg::sqlstate;
use serde_json::{Map, Value};
use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;

use super::entry::{self, Entry};
use super::{find, images, print_entry};
use crate::apply::Text;
use crate::cli::connect;
use crate::cli::{Context, Exit};
use crate::postgres::rows::{Key, columns, matching, qualified, written};
use crate::postgres::session::quote_name;

#[derive(Debug, Args)]
pub struct Replay {
    /// The entry's number
    id: i64,
    /// The region whose journal it is in; may be left out when only one has such an entry
    #[arg(long, value_name = "NAME")]
    region: Option<RegionId>,
    /// Write it whatever the row is now
    #[arg(long)]
    force: bool,
    /// Only look whether it could be written
    #[arg(long)]
    dry_run: bool,
}

type Image = Map<String, Value>;

/// What is to be written.
struct Wish {
    table: TableName,
    key: Key,
    /// Absent: the row goes.
    row: Option<Image>,
    /// What the row must still be.
    expected: Expected,
}

enum Expected {
    Row(Image),
    Absent,
    Unknown,
    Anything,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("region \"{}\" does not own the row", .by)]
    Elsewhere { by: RegionId, owner: Option<RegionId> },
    #[error("{0}; see it with \"domicile journal show\", or write over it with --force")]
    Changed(String),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl Replay {
    pub async fn run(self, context: &Context, config: &Config) -> anyhow::Result<Exit> {
        let entry = find(config, self.id, self.region.as_ref()).await?;
        let wish = Wish::of(&entry, self.force)?;
        if self.dry_run && !context.output.is_json() {
            print_entry(context, &entry)?;
        }
        let mut region = known(config, &entry.region.parse()?)?;
        let mut asked = Vec::new();
        loop {
            asked.push(region.id.clone());
            match self.write(&entry, &wish, region).await {
                Ok(()) => break,
                Err(Refused::Elsewhere { owner: Some(owner), .. }) if !asked.contains(&owner) => {
                    region = known(config, &owner)?;
                }
                Err(refused) => return Err(refused.into()),
            }
        }
        if !self.dry_run && entry.region != region.id.as_str() {
            let client = connect::connect(&known(config, &entry.region.parse()?)?.postgres).await?;
            entry::close(&client, &[entry.id]).await?;
        }
        let done = if self.dry_run { "could be written" } else { "written" };
        let key = images::short(&entry.key);
        if context.output.is_json() {
            let done = serde_json::json!({
                "id": entry.id, "journal": entry.region, "region": region.id.as_str(),
                "relation": entry.relation, "key": entry.key, "written": !self.dry_run,
            });
            context.output.print_json(&done)?;
        } else {
            let text = format!("{} {key}: {done} in region \"{}\"", entry.relation, region.id);
            context.output.print(&text)?;
        }
        Ok(Exit::Done)
    }

    /// Writes in one transaction, which also closes the entry if that is in the same database.
    async fn write(&self, entry: &Entry, wish: &Wish, region: &Region) -> Result<(), Refused> {
        let mut client = connect::connect(&region.postgres).await.map_err(anyhow::Error::from)?;
        let transaction = client.transaction().await.map_err(anyhow::Error::from)?;
        let told = |error: anyhow::Error| owner_in(&error, region).unwrap_or(error.into());
        let now = wish.read(&transaction).await?;
        wish.expected.check(now.as_ref())?;
        wish.write(&transaction, now.as_ref()).await.map_err(told)?;
        if entry.region == region.id.as_str() {
            entry::close(&transaction, &[entry.id]).await.map_err(anyhow::Error::from)?;
        }
        let ended = if self.dry_run {
            transaction.rollback()
        } else {
            return commit(transaction).await.map_err(told);
        };
        ended.await.map_err(|error| anyhow::Error::from(error).into())
    }
}

async fn commit(transaction: tokio_postgres::Transaction<'_>) -> anyhow::Result<()> {
    Ok(transaction.commit().await?)
}

fn known<'a>(config: &'a Config, region: &RegionId) -> anyhow::Result<&'a Region> {
    let known = config.region(region);
    known.ok_or_else(|| anyhow::anyhow!("region \"{region}\" is not in the configuration"))
}

/// What a guard said when it refused.
fn owner_in(error: &anyhow::Error, by: &Region) -> Option<Refused> {
    let said = error.downcast_ref::<tokio_postgres::Error>()?.as_db_error()?;
    if !sqlstate::READ_ONLY_SQL_TRANSACTION.is(said.code().code()) {
        return None;
    }
    let owner = Refusal::read(said.detail()?)?.owner;
    Some(Refused::Elsewhere { by: by.id.clone(), owner })
}

impl Wish {
    fn of(entry: &Entry, force: bool) -> anyhow::Result<Self> {
        let object = |image: &Option<Value>| image.as_ref().and_then(Value::as_object).cloned();
        let key = object(&entry.key).filter(|key| !key.is_empty());
        let Some(key) = key else {
            anyhow::bail!("the entry names no row: it can only be resolved");
        };
        let (old, lost, stayed) =
            (object(&entry.old), object(entry.lost()), object(entry.stayed()));
        let (is_delete, merged) =
            (entry.operation == "delete", entry.winner.as_deref() == Some("both"));
        // Of a shared table the entry always says what lost: if no row, a deletion.
        let known = entry.winner.is_some() || is_delete || lost.is_some();
        anyhow::ensure!(known, "the entry does not say what lost");
        let expected = match (stayed, old) {
            _ if force => Expected::Anything,
            _ if merged => Expected::Unknown,
            (Some(stayed), _) => Expected::Row(stayed),
            (None, Some(old)) => Expected::Row(old),
            (None, None) if entry.operation == "insert" => Expected::Absent,
            (None, None) => Expected::Unknown,
        };
        Ok(Self {
            table: entry.relation.parse()?,
            key: key.iter().map(|(column, value)| (column.clone(), text(value))).collect(),
            row: lost,
            expected,
        })
    }

    /// The row as it is now, locked.
    async fn read(&self, client: &impl GenericClient) -> anyhow::Result<Option<Image>> {
        let columns = columns(client, &self.table).await?;
        let list: Vec<String> =
            columns.iter().map(|c| format!("row_.{}::text", quote_name(c))).collect();
        let (condition, parameters) = matching(&self.key);
        let from = written(client, &self.table).await?;
        let sql =
            format!("SELECT {} FROM {from} row_ WHERE {condition} FOR UPDATE", list.join(", "));
        let Some(row) = client.query_opt(&sql, &as_sql(&parameters)).await? else {
            return Ok(None);
        };
        let value = |i: usize| row.get::<_, Option<String>>(i).map_or(Value::Null, Value::String);
        Ok(Some(columns.into_iter().enumerate().map(|(i, c)| (c, value(i))).collect()))
    }

    async fn write(&self, client: &impl GenericClient, now: Option<&Image>) -> anyhow::Result<()> {
        let name = qualified(&self.table);
        let (sql, values, key) = match (&self.row, now) {
            (None, None) => return Ok(()),
            (None, Some(_)) => (format!("DELETE FROM {name} WHERE "), Vec::new(), true),
            (Some(row), Some(now)) => {
                let differs = row.iter().filter(|(column, value)| now.get(*column) != Some(*value));
                let set: Vec<(&String, Option<String>)> =
                    differs.map(|(column, value)| (column, text(value))).collect();
                if set.is_empty() {
                    return Ok(());
                }
                // Numbered behind the key's parameters.
                let behind = self.key.iter().filter(|(_, value)| value.is_some()).count();
                let each = set.iter().enumerate();
                let each: Vec<String> = each
                    .map(|(i, (column, _))| format!("{} = ${}", quote_name(column), behind + i + 1))
                    .collect();
                let values = set.into_iter().map(|(_, value)| value).collect();
                (format!("UPDATE {name} SET {} WHERE ", each.join(", ")), values, true)
            }
            (Some(row), None) => {
                let names: Vec<String> = row.keys().map(|column| quote_name(column)).collect();
                let numbers: Vec<String> = (1..=row.len()).map(|i| format!("${i}")).collect();
                let sql = format!(
                    "INSERT INTO {name} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
                    names.join(", "),
                    numbers.join(", ")
                );
                (sql, row.values().map(text).collect(), false)
            }
        };
        let (condition, mut parameters) =
            if key { matching(&self.key) } else { Default::default() };
        parameters.extend(values.iter().map(|value| Text(value.as_deref().map(str::as_bytes))));
        client.execute(&format!("{sql}{condition}"), &as_sql(&parameters)).await?;
        Ok(())
    }
}

impl Expected {
    fn check(&self, now: Option<&Image>) -> Result<(), Refused> {
        let changed = match (self, now) {
            (Self::Anything, _) | (Self::Absent, None) => return Ok(()),
            (Self::Absent, Some(_)) => "there is such a row by now".to_owned(),
            (Self::Unknown, _) => "the entry does not say what the row was".to_owned(),
            (Self::Row(_), None) => "the row is gone".to_owned(),
            (Self::Row(was), Some(now)) => {
                let mut differs = was
                    .iter()
                    .filter(|(column, value)| now.get(*column).is_some_and(|now| now != *value));
                match differs.next() {
                    None => return Ok(()),
                    Some((column, _)) => {
                        format!("the row has changed since, in column \"{column}\"")
                    }
                }
            }
        };
        Err(Refused::Changed(changed))
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn as_sql<'a>(parameters: &'a [Text<'a>]) -> Vec<&'a (dyn ToSql + Sync)> {
    parameters.iter().map(|parameter| parameter as _).collect()
}
