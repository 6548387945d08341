//! How is one row of a table locked and written, found by its key, all values in their text form?

use anyhow::Context;
use domicile_core::id::TableName;
use serde_json::Value as Json;
use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;

use super::rows::{Key, matching, qualified, text_of};
use super::session::quote_name;
use super::target::{self, Target};
use crate::apply::Text;

/// One table that is written.
pub struct Written<'a, C> {
    pub postgres: &'a C,
    pub table: &'a TableName,
    target: Target,
}

impl<'a, C: GenericClient> Written<'a, C> {
    pub async fn new(postgres: &'a C, table: &'a TableName) -> anyhow::Result<Self> {
        Ok(Self { postgres, table, target: target::read(postgres, table).await? })
    }

    /// Locks the row with this key and returns its values, as text and as JSON.
    pub async fn lock(
        &self,
        key: &Key,
        columns: &[String],
    ) -> anyhow::Result<Option<(Vec<Option<String>>, Json)>> {
        let (condition, parameters) = matching(&self.target, key);
        let texts: Vec<String> =
            columns.iter().map(|c| text_of(&format!("row_.{}", quote_name(c)))).collect();
        let sql = format!(
            "SELECT to_jsonb(row_), {} FROM {} row_ WHERE {condition} LIMIT 1 FOR UPDATE",
            texts.join(", "),
            self.target.rows()
        );
        let parameters = as_sql(&parameters);
        let row = self.postgres.query_opt(&sql, &parameters).await.context("lock a row")?;
        Ok(row.map(|row| ((1..row.len()).map(|i| row.get(i)).collect(), row.get(0))))
    }

    /// Locks the row with this key; returns how many there are.
    pub async fn hold(&self, key: &Key) -> anyhow::Result<u64> {
        let (condition, parameters) = matching(&self.target, key);
        let rows = self.target.rows();
        self.execute(&format!("SELECT FROM {rows} WHERE {condition} FOR UPDATE"), &parameters).await
    }

    /// Lets nobody else write the table's rows.
    pub async fn hold_all(&self) -> anyhow::Result<()> {
        let lock = format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", self.target.rows());
        self.postgres.batch_execute(&lock).await.with_context(|| format!("lock {}", self.table))
    }

    /// Sets these columns of the row with this key; none of them means that it only has to be there.
    /// Returns how many rows were written: none also where the row has another value of an identity
    /// column that is always generated, which no UPDATE may set.
    pub async fn update<'t>(
        &self,
        key: &'t Key,
        values: impl IntoIterator<Item = (&'t str, Text<'t>)>,
    ) -> anyhow::Result<u64> {
        let (mut condition, mut parameters) = matching(&self.target, key);
        let mut sets = Vec::new();
        for (name, value) in values {
            parameters.push(value);
            let (column, place) = (quote_name(name), format!("${}", parameters.len()));
            match self.target.column(name) {
                Some(known) if known.identity_always => {
                    condition += &format!(" AND {column} = {place}::{}", known.base_type);
                }
                _ => sets.push(format!("{column} = {place}")),
            }
        }
        let rows = self.target.rows();
        if sets.is_empty() {
            let found = format!("SELECT FROM {rows} WHERE {condition} FOR UPDATE");
            return self.execute(&found, &parameters).await;
        }
        let sql = format!("UPDATE {rows} SET {} WHERE {condition}", sets.join(", "));
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
        let (condition, parameters) = matching(&self.target, key);
        self.execute(&format!("DELETE FROM {} WHERE {condition}", self.target.rows()), &parameters)
            .await
    }

    pub async fn delete_all(&self) -> anyhow::Result<u64> {
        self.execute(&format!("DELETE FROM {}", self.target.rows()), &[]).await
    }

    async fn execute(&self, sql: &str, values: &[Text<'_>]) -> anyhow::Result<u64> {
        let written = self.postgres.execute(sql, &as_sql(values)).await;
        written.with_context(|| format!("write a row of {}", self.table))
    }
}

fn as_sql<'v>(values: &'v [Text<'_>]) -> Vec<&'v (dyn ToSql + Sync)> {
    values.iter().map(|value| value as _).collect()
}
