//! Statements of one session, each prepared once, and many of them sent at once.

use std::collections::BTreeMap;

use futures_util::future::join_all;
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

/// A statement and its parameters.
#[derive(Debug)]
pub struct Call {
    sql: String,
    values: Vec<Option<String>>,
}

impl Call {
    pub fn new(sql: impl Into<String>, values: &[Option<&str>]) -> Self {
        let values = values.iter().map(|value| value.map(str::to_owned)).collect();
        Self { sql: sql.into(), values }
    }
}

/// These values as the text of an array.
pub fn array<'v>(values: impl IntoIterator<Item = Option<&'v str>>) -> String {
    let mut text = String::from("{");
    for (i, value) in values.into_iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        let Some(value) = value else {
            text.push_str("NULL");
            continue;
        };
        text.push('"');
        for letter in value.chars() {
            if matches!(letter, '"' | '\\') {
                text.push('\\');
            }
            text.push(letter);
        }
        text.push('"');
    }
    text.push('}');
    text
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
        self.read(Call::new(sql, values)).await
    }

    pub async fn read(&mut self, call: Call) -> Result<Vec<Row>, Error> {
        Ok(self.all(&[call]).await?.into_iter().flatten().collect())
    }

    /// Sends all of these before the first answer is read, and returns their rows in this order. When
    /// one fails, the error is that of the first: those behind it find the transaction aborted.
    pub async fn all(&mut self, calls: &[Call]) -> Result<Vec<Vec<Row>>, Error> {
        let mut prepared = Vec::with_capacity(calls.len());
        for call in calls {
            prepared.push(self.prepare(&call.sql).await?);
        }
        let client = self.client;
        let sent = calls.iter().zip(&prepared).map(|(call, statement)| async move {
            let values = call.values.iter().map(|value| Text(value.as_deref().map(str::as_bytes)));
            let values: Vec<Text<'_>> = values.collect();
            let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
            client.query(statement, &values).await
        });
        join_all(sent).await.into_iter().collect()
    }

    /// Does the same behind a savepoint: when one of them fails, all of them are undone, and nothing
    /// else.
    pub async fn attempt(
        &mut self,
        calls: impl IntoIterator<Item = Call>,
    ) -> Result<Result<Vec<Vec<Row>>, Error>, Error> {
        let end = Call::new("RELEASE SAVEPOINT attempt", &[]);
        let calls: Vec<Call> = calls.into_iter().chain([end]).collect();
        let begin = Call::new("SAVEPOINT attempt", &[]);
        let made = match calls.iter().all(|call| self.prepared.0.contains_key(&call.sql)) {
            true => {
                let calls: Vec<Call> = [begin].into_iter().chain(calls).collect();
                self.all(&calls).await.map(|mut rows| rows.split_off(1))
            }
            false => {
                // What cannot be prepared is undone too.
                self.command(&begin.sql).await?;
                self.all(&calls).await
            }
        };
        match made {
            Ok(mut rows) => {
                rows.pop();
                Ok(Ok(rows))
            }
            Err(error) => {
                self.command("ROLLBACK TO SAVEPOINT attempt; RELEASE SAVEPOINT attempt").await?;
                Ok(Err(error))
            }
        }
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
