//! A row wants a value that must be unique and that another has: which one is shown?
//!
//! `core::conflict::unique` decides. The other row is hidden: taken out of its table and kept
//! aside, with its version, where whatever comes later of it still finds it.

use domicile_core::conflict::Image;
use domicile_core::conflict::unique::Rank;
use domicile_core::conflict::version::Version;
use domicile_core::id::TableName;

use super::row::{self, Knowledge};
use super::sql::{Call, Sql};
use crate::apply::is_transient;
use crate::postgres::session::quote_name;
use crate::postgres::shared::state;
use crate::postgres::shared::table::{Table, UniqueIndex};

/// How often hidden rows are gone through until nothing more changes.
const PASSES_MAX: usize = 64;
const UNIQUE_VIOLATION: &str = "23505";

/// A row beside its table: about to be shown, or just hidden.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// As `domicile.version` has it.
    pub key_text: String,
    pub key: Vec<String>,
    pub version: Version,
    pub image: Image,
}

impl Candidate {
    pub fn rank(&self) -> Rank {
        Rank::of(&self.version, &self.key_text)
    }

    /// What is known of it where it lives, or is kept `aside`.
    fn knowledge<'a>(&'a self, table: &'a TableName, aside: Option<&'a Image>) -> Knowledge<'a> {
        Knowledge { table, key: &self.key_text, version: &self.version, deleted: false, aside }
    }
}

/// What became of a row that should be shown.
pub enum Shown {
    /// It is, in place of these.
    InPlaceOf(Vec<Candidate>),
    /// These are in its way, and at least one outranks it.
    Hidden(Vec<Candidate>),
    /// For another reason than a unique value.
    Refused(String),
}

/// Puts a row into its table, or finds out why it stays outside. Does not touch its version.
pub async fn show(
    sql: &mut Sql<'_>,
    table: &Table,
    candidate: &Candidate,
) -> anyhow::Result<Shown> {
    let mut displaced = Vec::new();
    loop {
        let reason = match attempt(sql, [row::insert(table, &candidate.image)]).await? {
            Ok(()) => return Ok(Shown::InPlaceOf(displaced)),
            Err(refusal) if refusal.unique => refusal.reason,
            Err(refusal) => return restore(sql, table, displaced, refusal.reason).await,
        };
        let others = in_the_way(sql, table, candidate).await?;
        if others.is_empty() {
            let here = sql.read(row::lock(table, &[&candidate.key])).await?;
            if !here.is_empty() {
                anyhow::bail!("a row of {} appeared while it was applied", table.name);
            }
            return restore(sql, table, displaced, reason).await;
        }
        let ranks: Vec<Rank> = others.iter().map(Candidate::rank).collect();
        if !candidate.rank().displaces(&ranks) {
            put_back(sql, table, displaced).await?;
            return Ok(Shown::Hidden(others));
        }
        for other in others {
            if let Err(refusal) = attempt(sql, [row::delete(table, &other.key)]).await? {
                return restore(sql, table, displaced, refusal.reason).await;
            }
            other.knowledge(&table.name, Some(&other.image)).save(sql).await?;
            displaced.push(other);
        }
    }
}

async fn restore(
    sql: &mut Sql<'_>,
    table: &Table,
    displaced: Vec<Candidate>,
    reason: String,
) -> anyhow::Result<Shown> {
    put_back(sql, table, displaced).await?;
    Ok(Shown::Refused(reason))
}

async fn put_back(
    sql: &mut Sql<'_>,
    table: &Table,
    displaced: Vec<Candidate>,
) -> anyhow::Result<()> {
    for other in displaced {
        let knowledge = other.knowledge(&table.name, None).replace();
        sql.all(&[row::insert(table, &other.image), knowledge]).await?;
    }
    Ok(())
}

/// Shows every hidden row of a table that can be shown. Returns those, and those that were hidden
/// in their place.
pub async fn settle(
    sql: &mut Sql<'_>,
    table: &Table,
) -> anyhow::Result<(Vec<Candidate>, Vec<(Candidate, Candidate)>)> {
    let (mut returned, mut displaced) = (Vec::new(), Vec::new());
    for _ in 0..PASSES_MAX {
        let mut moved = false;
        for candidate in hidden(sql, &table.name).await? {
            // Not tried in vain: PostgreSQL's log has a line for each refusal.
            let others = in_the_way(sql, table, &candidate).await?;
            let ranks: Vec<Rank> = others.iter().map(Candidate::rank).collect();
            if !ranks.is_empty() && !candidate.rank().displaces(&ranks) {
                continue;
            }
            if let Shown::InPlaceOf(others) = show(sql, table, &candidate).await? {
                moved = true;
                candidate.knowledge(&table.name, None).save(sql).await?;
                displaced.extend(others.into_iter().map(|other| (other, candidate.clone())));
                returned.push(candidate);
            }
        }
        if !moved {
            break;
        }
    }
    Ok((returned, displaced))
}

/// The hidden rows of a table, the highest rank first.
async fn hidden(sql: &mut Sql<'_>, table: &TableName) -> anyhow::Result<Vec<Candidate>> {
    let statement = "SELECT key, state, image FROM domicile.version
                     WHERE relation = $1 AND NOT deleted AND image IS NOT NULL
                     ORDER BY key FOR UPDATE";
    let rows = sql.rows(statement, &[Some(&table.to_string())]).await?;
    let mut hidden = Vec::with_capacity(rows.len());
    for row in rows {
        let key_text: String = row.get(0);
        hidden.push(Candidate {
            key: serde_json::from_str(&key_text)?,
            key_text,
            version: state::lift(row.get(1))?,
            image: row::lift_image(row.get(2))?,
        });
    }
    hidden.sort_by_key(|candidate| std::cmp::Reverse(candidate.rank()));
    Ok(hidden)
}

/// The other rows that have a value of the candidate's in a unique index.
async fn in_the_way(
    sql: &mut Sql<'_>,
    table: &Table,
    candidate: &Candidate,
) -> anyhow::Result<Vec<Candidate>> {
    let image = row::lower_image(&candidate.image).to_string();
    let mut found: Vec<Candidate> = Vec::new();
    for index in &table.unique_indexes {
        let statement = colliding(table, index);
        for row in sql.rows(&statement, &[Some(&image), Some(&candidate.key_text)]).await? {
            let key_text: String = row.get(0);
            if found.iter().any(|other| other.key_text == key_text) {
                continue;
            }
            let read = sql.read(row::know(&[(&table.name, &key_text)])).await?;
            let known = row::known(&read)?.pop().map(|(_, known)| known);
            found.push(Candidate {
                key: serde_json::from_str(&key_text)?,
                key_text,
                version: known.map(|known| known.version).unwrap_or_default(),
                image: row::lift_image(row.get(1))?,
            });
        }
    }
    Ok(found)
}

/// Compares the row in `$1` with those of the table by one unique index, by its own operators;
/// `$2` is the row's key.
fn colliding(table: &Table, index: &UniqueIndex) -> String {
    let (name, record) = (table.rows(), table.record("$1"));
    let parts = || index.parts.iter().enumerate();
    let expressions: Vec<String> =
        parts().map(|(i, part)| format!("({}) AS value_{i}", part.expression)).collect();
    let expressions = expressions.join(", ");
    let written = table.columns.iter().map(|column| format!("made.{}", quote_name(&column.name)));
    let computed = table.generated.iter();
    let computed = computed.map(|g| format!("({}) AS {}", g.expression, quote_name(&g.name)));
    let columns: Vec<String> = written.chain(computed).collect();
    let predicate = index.predicate.as_deref().unwrap_or("true");
    let equal: Vec<String> = parts()
        .map(|(i, part)| {
            let (ours, theirs) = (format!("ours.value_{i}"), format!("theirs.value_{i}"));
            let equal = format!("{ours} {} {theirs}", part.equals);
            match index.nulls_equal {
                false => equal,
                true => format!("({equal} OR ({ours} IS NULL AND {theirs} IS NULL))"),
            }
        })
        .collect();
    format!(
        "SELECT {key}, {image}
         FROM {name} row_,
              LATERAL (SELECT {expressions} FROM (SELECT row_.*) it WHERE {predicate}) theirs,
              (SELECT {expressions}
               FROM (SELECT {columns}
                     FROM (SELECT ({record}).*) made) it
               WHERE {predicate}) ours
         WHERE {equal} AND {key} <> $2::text
         FOR UPDATE OF row_",
        columns = columns.join(", "),
        key = table.key_expression("row_"),
        image = table.image_expression("row_"),
        equal = equal.join(" AND "),
    )
}

pub struct Refusal {
    pub unique: bool,
    pub reason: String,
}

/// Tries a statement; a refusal undoes only that.
pub async fn attempt(
    sql: &mut Sql<'_>,
    call: impl IntoIterator<Item = Call>,
) -> anyhow::Result<Result<(), Refusal>> {
    Ok(match sql.attempt(call).await? {
        Ok(_) => Ok(()),
        Err(error) => {
            let unique = error.code().is_some_and(|code| code.code() == UNIQUE_VIOLATION);
            Err(Refusal { unique, reason: refused(error)? })
        }
    })
}

/// PostgreSQL's reason; an error that passes by itself stays an error.
pub fn refused(error: tokio_postgres::Error) -> anyhow::Result<String> {
    let reason = error.as_db_error().map(|refusal| refusal.message().to_owned());
    let error = anyhow::Error::new(error);
    match reason {
        Some(reason) if !is_transient(&error) => Ok(reason),
        _ => Err(error),
    }
}
