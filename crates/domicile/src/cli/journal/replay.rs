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
                // One would have to write what is the other's.
                Err(Refused::Elsewhere { by, owner: Some(owner) }) => anyhow::bail!(
                    "the row that stands under this key and the one that lost have two owners, \
                     \"{owner}\" and \"{by}\": delete the one that stands at its owner first, or write \
                     the one that lost under another key"
                ),
                Err(refused) => return Err(refused.into()),
            }
        }
        if !self.dry_run && entry.region != region.id.as_str() {
            let client = connect::connect(&known(config, &entry.region.parse()?)?.postgres).await?;
            entry::close(&client, &[entry.id]).await?;
        }
        let done = match (&wish.row, self.dry_run) {
            (Some(_), false) => "written",
            (Some(_), true) => "could be written",
            (None, false) => "deleted",
            (None, true) => "could be deleted",
        };
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
        anyhow::ensure!(
            force || entry.status != "resolved",
            "the entry is resolved: it was replayed, or somebody found the row right as it is; \
             see it with \"domicile journal show\", or write it all the same with --force"
        );
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
            // The key alone says which row it was, not what it was.
            (None, Some(old)) if old.keys().any(|column| !key.contains_key(column)) => {
                Expected::Row(old)
            }
            (None, None) if entry.operation == "insert" => Expected::Absent,
            (None, _) => Expected::Unknown,
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
                if written.update(&self.key, texts(differs)).await? == 0 {
                    // An identity column that is always generated can only be given by an INSERT.
                    let mut whole = now.clone();
                    whole.extend(row.clone());
                    written.delete(&self.key).await?;
                    written.insert(texts(whole.iter())).await?;
                }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Of a tail that was cut off, about the row 1.
    fn entry(operation: &str, old: Option<Value>, new: Option<Value>) -> Entry {
        Entry {
            region: "eu".to_owned(),
            id: 7,
            at: "2026-03-01T12:00:00.000Z".to_owned(),
            origin: "eu-1".to_owned(),
            lsn: None,
            xid: None,
            relation: "public.accounts".to_owned(),
            operation: operation.to_owned(),
            key: Some(json!({"id": "1"})),
            old,
            new,
            local: None,
            conflict: "beyond_cut".to_owned(),
            reason: None,
            policy: None,
            winner: None,
            status: "open".to_owned(),
        }
    }

    fn image(value: &Value) -> Image {
        value.as_object().unwrap().clone()
    }

    /// What is said to a person who does not insist, with the row as it is now.
    fn refusal(entry: &Entry, now: Option<&Value>) -> Option<String> {
        let now = now.map(image);
        let checked = Wish::of(entry, false).and_then(|wish| wish.expected.check(now.as_ref()));
        checked.err().map(|error| error.to_string())
    }

    #[test]
    fn a_deletion_of_which_only_the_key_is_known_is_not_replayed_by_itself() {
        let now = json!({"id": "1", "balance": "9"});
        let deletion = entry("delete", Some(json!({"id": "1"})), None);
        let said = refusal(&deletion, Some(&now)).unwrap();
        assert!(said.contains("does not say what the row was"), "{said}");
        let forced = Wish::of(&deletion, true).unwrap();
        assert!(forced.row.is_none() && forced.expected.check(Some(&image(&now))).is_ok());

        let full = entry("delete", Some(json!({"id": "1", "balance": "7"})), None);
        let said = refusal(&full, Some(&now)).unwrap();
        assert!(said.contains("has changed since, in column \"balance\""), "{said}");
        assert_eq!(refusal(&full, Some(&json!({"id": "1", "balance": "7"}))), None);
    }

    #[test]
    fn an_update_of_which_only_the_key_is_known_is_not_replayed_by_itself() {
        let new = Some(json!({"id": "1", "balance": "9"}));
        for old in [None, Some(json!({"id": "1"}))] {
            let update = entry("update", old, new.clone());
            let said = refusal(&update, Some(&json!({"id": "1", "balance": "7"}))).unwrap();
            assert!(said.contains("does not say what the row was"), "{said}");
        }
        let insert = entry("insert", None, new);
        assert_eq!(refusal(&insert, None), None);
    }

    #[test]
    fn a_resolved_entry_is_replayed_only_by_force() {
        let mut insert = entry("insert", None, Some(json!({"id": "1", "balance": "9"})));
        insert.status = "resolved".to_owned();
        let said = refusal(&insert, None).unwrap();
        assert!(said.contains("the entry is resolved") && said.contains("--force"), "{said}");
        assert!(Wish::of(&insert, true).is_ok());
    }
}
