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

use super::entry::{self, Entry};
use super::{find, images, print_entry};
use crate::apply::Text;
use crate::cli::connect;
use crate::cli::{Context, Exit};
use crate::postgres::rows::{Key, columns};
use crate::postgres::written::Written;

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
        let written = async {
            wish.write(&transaction).await?;
            if entry.region == region.id.as_str() {
                entry::close(&transaction, &[entry.id]).await?;
            }
            if self.dry_run {
                transaction.rollback().await?
            } else {
                transaction.commit().await?
            }
            anyhow::Ok(())
        };
        written.await.map_err(|error| Refused::of(error, region))
    }
}

fn known<'a>(config: &'a Config, region: &RegionId) -> anyhow::Result<&'a Region> {
    let known = config.region(region);
    known.ok_or_else(|| anyhow::anyhow!("region \"{region}\" is not in the configuration"))
}

impl Refused {
    /// What a guard said when it refused, and otherwise the error itself.
    fn of(error: anyhow::Error, by: &Region) -> Self {
        let said = error.downcast_ref::<tokio_postgres::Error>().and_then(|e| e.as_db_error());
        let said = said.filter(|e| sqlstate::READ_ONLY_SQL_TRANSACTION.is(e.code().code()));
        match said.and_then(|e| e.detail()).and_then(Refusal::read) {
            Some(Refusal { owner, .. }) => Self::Elsewhere { by: by.id.clone(), owner },
            None => Self::Other(error),
        }
    }
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
            key: key
                .iter()
                .map(|(column, value)| (column.clone(), text(value).map(str::to_owned)))
                .collect(),
            row: lost,
            expected,
        })
    }

    async fn write(&self, client: &impl GenericClient) -> anyhow::Result<()> {
        let written = Written::new(client, &self.table).await?;
        let columns = columns(client, &self.table).await?;
        let now = written.lock(&self.key, &columns).await?.map(|(values, _)| {
            columns.iter().cloned().zip(values.into_iter().map(Value::from)).collect::<Image>()
        });
        self.expected.check(now.as_ref())?;
        match (&self.row, &now) {
            (None, None) => {}
            (None, Some(_)) => _ = written.delete(&self.key).await?,
            (Some(row), None) => _ = written.insert(texts(row.iter())).await?,
            (Some(row), Some(now)) => {
                let differs = row.iter().filter(|(column, value)| now.get(*column) != Some(*value));
                _ = written.update(&self.key, texts(differs)).await?;
            }
        }
        Ok(())
    }
}

impl Expected {
    fn check(&self, now: Option<&Image>) -> anyhow::Result<()> {
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
        anyhow::bail!(
            "{changed}; see it with \"domicile journal show\", or write over it with --force"
        )
    }
}

fn text(value: &Value) -> Option<&str> {
    // A journaled image has texts and nulls only.
    value.as_str()
}

fn texts<'v>(
    image: impl Iterator<Item = (&'v String, &'v Value)>,
) -> impl Iterator<Item = (&'v str, Text<'v>)> {
    image.map(|(column, value)| (column.as_str(), Text(text(value).map(str::as_bytes))))
}
