//! Statements of one session, each prepared once.

use std::collections::BTreeMap;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use crate::apply::Text;

/// Prepared statements that one session keeps.
const STATEMENTS_MAX: usize = 512;

/// Runs statements whose parameters are all text, whatever their type.
pub struct Sql<'c> {
    client: &'c Client,
    prepared: &'c mut Prepared,
}

/// What a session has prepared.
#[derive(Default)]
pub struct Prepared(BTreeMap<String, Statement>);

impl<'c> Sql<'c> {
    pub fn new(client: &'c Client, prepared: &'c mut Prepared) -> Self {
        Self { client, prepared }
    }

    pub fn client(&self) -> &'c Client {
        self.client
    }

    /// The schema may have changed under what is prepared.
    pub fn forget(&mut self) {
        self.prepared.0.clear();
    }

    pub async fn rows(&mut self, sql: &str, values: &[Option<&str>]) -> Result<Vec<Row>, Error> {
        let statement = self.prepare(sql).await?;
        let values = texts(values);
        self.client.query(&statement, &parameters(&values)).await
    }

    /// Returns how many rows the statement touched.
    pub async fn run(&mut self, sql: &str, values: &[Option<&str>]) -> Result<u64, Error> {
        let statement = self.prepare(sql).await?;
        let values = texts(values);
        self.client.execute(&statement, &parameters(&values)).await
    }

    pub async fn command(&mut self, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await
    }

    async fn prepare(&mut self, sql: &str) -> Result<Statement, Error> {
        if let Some(prepared) = self.prepared.0.get(sql) {
            return Ok(prepared.clone());
        }
        if self.prepared.0.len() >= STATEMENTS_MAX {
            self.forget();
        }
        let prepared = self.client.prepare(sql).await?;
        self.prepared.0.insert(sql.to_owned(), prepared.clone());
        Ok(prepared)
    }
}

fn texts<'v>(values: &[Option<&'v str>]) -> Vec<Text<'v>> {
    values.iter().map(|value| Text(value.map(str::as_bytes))).collect()
}

fn parameters<'v>(values: &'v [Text<'_>]) -> Vec<&'v (dyn ToSql + Sync)> {
    values.iter().map(|value| value as _).collect()
}
