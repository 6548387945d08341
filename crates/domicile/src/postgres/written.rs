//! How is one row of a table locked and written, found by its key, all values in their text form?

use anyhow::Context;
use domicile_core::id::TableName;
use serde_json::Value as Json;
use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;

use super::rows::{Key, matching, qualified, written};
use super::session::quote_name;
use crate::apply::Text;

/// One table that is written.
pub struct Written<'a, C> {
    pub postgres: &'a C,
    pub table: &'a TableName,
    /// As UPDATE and DELETE name it.
    name: String,
}

impl<'a, C: GenericClient> Written<'a, C> {
    pub async fn new(postgres: &'a C, table: &'a TableName) -> anyhow::Result<Self> {
        Ok(Self { postgres, table, name: written(postgres, table).await? })
    }

    /// Locks the row with this key and returns its values, as text and as JSON.
    pub async fn lock(
        &self,
        key: &Key,
        columns: &[String],
    ) -> anyhow::Result<Option<(Vec<Option<String>>, Json)>> {
        let (condition, parameters) = matching(key);
        let texts: Vec<String> =
            columns.iter().map(|c| format!("row_.{}::text", quote_name(c))).collect();
        let sql = format!(
            "SELECT to_jsonb(row_), {} FROM {} row_ WHERE {condition} LIMIT 1 FOR UPDATE",
            texts.join(", "),
            self.name
        );
        let parameters = as_sql(&parameters);
        let row = self.postgres.query_opt(&sql, &parameters).await.context("lock a row")?;
        Ok(row.map(|row| ((1..row.len()).map(|i| row.get(i)).collect(), row.get(0))))
    }

    /// Sets these columns of the row with this key; none of them means that it only has to be there.
    /// Returns how many rows have the key.
    pub async fn update<'t>(
        &self,
        key: &'t Key,
        values: impl IntoIterator<Item = (&'t str, Text<'t>)>,
    ) -> anyhow::Result<u64> {
        let (condition, mut parameters) = matching(key);
        let mut sets = Vec::new();
        for (column, value) in values {
            parameters.push(value);
            sets.push(format!("{} = ${}", quote_name(column), parameters.len()));
        }
        if sets.is_empty() {
            sets.extend(key.iter().take(1).map(|(name, _)| format!("{0} = {0}", quote_name(name))));
        }
        let sql = format!("UPDATE {} SET {} WHERE {condition}", self.name, sets.join(", "));
        self.execute(&sql, &parameters).await
    }

    pub async fn insert<'t>(
        &self,
        values: impl IntoIterator<Item = (&'t str, Text<'t>)>,
    ) -> anyhow::Result<u64> {
        let (mut names, mut places, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
        for (column, value) in values {
            parameters.push(value);
            names.push(quote_name(column));
            places.push(format!("${}", parameters.len()));
        }
        let sql = format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})",
            qualified(self.table),
            names.join(", "),
            places.join(", ")
        );
        self.execute(&sql, &parameters).await
    }

    pub async fn delete(&self, key: &Key) -> anyhow::Result<u64> {
        let (condition, parameters) = matching(key);
        self.execute(&format!("DELETE FROM {} WHERE {condition}", self.name), &parameters).await
    }

    pub async fn delete_all(&self) -> anyhow::Result<u64> {
        self.execute(&format!("DELETE FROM {}", self.name), &[]).await
    }

    async fn execute(&self, sql: &str, values: &[Text<'_>]) -> anyhow::Result<u64> {
        let written = self.postgres.execute(sql, &as_sql(values)).await;
        written.with_context(|| format!("write a row of {}", self.table))
    }
}

fn as_sql<'v>(values: &'v [Text<'_>]) -> Vec<&'v (dyn ToSql + Sync)> {
    values.iter().map(|value| value as _).collect()
}
