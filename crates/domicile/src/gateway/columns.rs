//! Which columns are keys, and of which types? So that their values in a statement can be read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use domicile_core::config::{KeySource, TableKind};
use domicile_core::id::TableName;
use domicile_core::route::rows::KeyType;
use tokio::time::{Instant, timeout};

use crate::postgres::session;

/// A statement is not held up for longer.
const READ_WAIT_MAX: Duration = Duration::from_secs(1);
/// So long after a column was given another type, statements may go where its old one led.
const KNOWN_FOR: Duration = Duration::from_secs(60);
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The types of key columns, as far as they are understood.
#[derive(Clone, Debug, Default)]
pub struct Types(BTreeMap<TableName, BTreeMap<String, KeyType>>);

impl Types {
    pub fn get(&self, table: &TableName, column: &str) -> Option<KeyType> {
        self.0.get(table)?.get(column).copied()
    }
}

/// The tables that statements are held against. Cheap to clone.
#[derive(Clone, Default)]
pub struct Columns {
    shared: Option<Arc<Shared>>,
}

struct Shared {
    /// How to ask PostgreSQL.
    postgres: String,
    tables: BTreeMap<TableName, TableKind>,
    types: Mutex<Option<AsOf>>,
    /// Held by the one who asks: all others would ask the same.
    asking: tokio::sync::Mutex<()>,
}

/// What was known, and since when; no types where PostgreSQL did not tell.
type AsOf = (Instant, Option<Arc<Types>>);

impl Columns {
    /// Of these tables, as the PostgreSQL of this connection string has them. By default nothing is known.
    pub fn of_postgres(connection: &str, tables: BTreeMap<TableName, TableKind>) -> Self {
        let postgres = connection.to_owned();
        let shared =
            Shared { postgres, tables, types: Mutex::default(), asking: Default::default() };
        Self { shared: Some(Arc::new(shared)) }
    }

    /// The tables, and the types of their key columns; `None` while they are not known.
    pub async fn known(&self) -> Option<(&BTreeMap<TableName, TableKind>, Arc<Types>)> {
        let shared = self.shared.as_ref()?;
        Some((&shared.tables, shared.types().await?))
    }
}

impl Shared {
    async fn types(&self) -> Option<Arc<Types>> {
        let before = self.as_of();
        if let Some(known) = before.as_ref().filter(|known| is_recent(known)) {
            return known.1.clone();
        }
        let asking = match (self.asking.try_lock(), &before) {
            (Ok(asking), _) => asking,
            // Somebody asks already: meanwhile things are as they were.
            (Err(_), Some((_, types))) => return types.clone(),
            (Err(_), None) => self.asking.lock().await,
        };
        if let Some(known) = self.as_of().filter(is_recent) {
            return known.1;
        }
        let read = self.read().await.map(Arc::new);
        if let Err(error) = &read {
            tracing::warn!("keys in statements are not looked at: {error:#}");
        }
        let types = read.ok().or_else(|| before.and_then(|(_, types)| types));
        let now = Some((Instant::now(), types.clone()));
        *self.types.lock().unwrap_or_else(PoisonError::into_inner) = now;
        drop(asking);
        types
    }

    fn as_of(&self) -> Option<AsOf> {
        self.types.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn read(&self) -> anyhow::Result<Types> {
        let keys = self.tables.iter().flat_map(|(table, kind)| {
            let columns = match kind {
                TableKind::Owned(KeySource::Columns(columns)) => columns.as_slice(),
                _ => &[],
            };
            columns.iter().map(move |column| (table, column))
        });
        let keys: Vec<(&TableName, &String)> = keys.collect();
        let (mut schemas, mut names, mut columns) = (Vec::new(), Vec::new(), Vec::new());
        for (table, column) in &keys {
            schemas.push(table.schema.as_str());
            names.push(table.name.as_str());
            columns.push(column.as_str());
        }
        let asking = async {
            let client = session::connect(&self.postgres, "domicile keys").await?;
            // A domain is what it is made of.
            let sql = "SELECT k.number, t.typname, t.typtype::text
                       FROM unnest($1::text[], $2::text[], $3::text[])
                            WITH ORDINALITY k (schema, name, attribute, number)
                       JOIN pg_namespace n ON n.nspname = k.schema
                       JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = k.name
                       JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = k.attribute
                       JOIN pg_type d ON d.oid = a.atttypid
                       JOIN pg_type t ON t.oid = coalesce(nullif(d.typbasetype, 0), d.oid)";
            client.query(sql, &[&schemas, &names, &columns]).await.context("read the types of keys")
        };
        let rows = timeout(READ_WAIT_MAX, asking).await.context("PostgreSQL is silent")??;
        let mut types = Types::default();
        for row in &rows {
            let (number, name, kind): (i64, &str, &str) = (row.get(0), row.get(1), row.get(2));
            let key_type = match (name, kind) {
                ("int2" | "int4" | "int8", _) => KeyType::Integer,
                ("text" | "varchar", _) | (_, "e") => KeyType::Text,
                ("uuid", _) => KeyType::Uuid,
                _ => continue,
            };
            let (table, column) = keys[number as usize - 1];
            types.0.entry(table.clone()).or_default().insert(column.clone(), key_type);
        }
        Ok(types)
    }
}

fn is_recent((at, types): &AsOf) -> bool {
    at.elapsed() < if types.is_some() { KNOWN_FOR } else { ASK_AGAIN_AFTER }
}

impl fmt::Debug for Columns {
    /// Without the connection string, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Columns").finish_non_exhaustive()
    }
}
