//! Is everything that was acknowledged there, in every region, exactly once, and is all money?
//!
//! The regions are read after the last client has stopped. An acknowledged operation is in the
//! tables of every region, or it is in the conflict journal of one, or the proof fails.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use tokio_postgres::Client;
use uuid::Uuid;

use super::bank::{START_BALANCE, TABLES};
use super::tally::Acknowledged;

/// What one region's tables say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Table -> rows and a sum over the hashes of all rows, which does not depend on their order.
    pub checksums: BTreeMap<String, String>,
    /// Operations on record.
    pub operations: BTreeSet<Uuid>,
    /// Operations in the conflict journal, as inserts that lost.
    pub journaled: BTreeSet<Uuid>,
    /// Entries of the conflict journal, and how many different rows they are about.
    pub journal_entries: u64,
    pub journal_rows: u64,
    pub money: i64,
    pub deposited: i64,
    /// Accounts whose balance is not the sum of what is on record: applied twice, or by half.
    pub wrong_accounts: i64,
    /// Receipts whose ledger entry is missing; applying does not check foreign keys.
    pub orphans: i64,
}

impl Books {
    pub async fn read(client: &Client) -> anyhow::Result<Self> {
        let mut books = Self::default();
        for table in TABLES {
            let sql = format!(
                "SELECT count(*) || ':' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {table} t"
            );
            let row = client.query_one(&sql, &[]).await.context("sum up a table")?;
            books.checksums.insert(table.to_owned(), row.get(0));
        }
        let sql = "SELECT op_id::text FROM ledger UNION ALL SELECT op_id::text FROM transfers";
        books.operations = operations(client, sql).await?;
        let sql = "SELECT (SELECT sum(balance) FROM accounts)::bigint, \
                   (SELECT coalesce(sum(amount), 0) FROM ledger)::bigint, \
                   (SELECT count(*) FROM receipts LEFT JOIN ledger USING (op_id) \
                    WHERE ledger.op_id IS NULL), \
                   to_regclass('domicile.journal') IS NOT NULL";
        let row = client.query_one(sql, &[]).await.context("sum up the money")?;
        (books.money, books.deposited, books.orphans) = (row.get(0), row.get(1), row.get(2));
        if row.get(3) {
            let sql = "SELECT DISTINCT new ->> 'op_id' FROM domicile.journal \
                       WHERE operation = 'insert' AND new ? 'op_id' AND NOT new ? 'receipt_id'";
            books.journaled = operations(client, sql).await?;
            let sql = "SELECT count(*), count(DISTINCT (relation, key)) FROM domicile.journal";
            let row = client.query_one(sql, &[]).await.context("count the journal")?;
            let count = |index| u64::try_from(row.get::<_, i64>(index)).unwrap_or(0);
            (books.journal_entries, books.journal_rows) = (count(0), count(1));
        }
        let row = client.query_one(include_str!("books.sql"), &[&START_BALANCE]).await;
        books.wrong_accounts = row.context("compare balances with the record")?.get(0);
        Ok(books)
    }
}

async fn operations(client: &Client, sql: &str) -> anyhow::Result<BTreeSet<Uuid>> {
    let rows = client.query(sql, &[]).await.context("list operations")?;
    rows.iter().map(|row| Ok(row.get::<_, &str>(0).parse()?)).collect()
}

/// What the regions' books say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    pub regions: BTreeMap<String, Books>,
    /// Acknowledged, and not in the tables of every region.
    pub lost: Vec<Acknowledged>,
    /// How many of those are in the conflict journal.
    pub journaled: u64,
    pub start_money: i64,
}

impl Proof {
    pub fn of(
        regions: BTreeMap<String, Books>,
        acknowledged: &[Acknowledged],
        start_money: i64,
    ) -> Self {
        let everywhere = |op: &Uuid| regions.values().all(|books| books.operations.contains(op));
        let in_journal = |op: &Uuid| regions.values().any(|books| books.journaled.contains(op));
        let lost: Vec<Acknowledged> =
            acknowledged.iter().filter(|ack| !everywhere(&ack.op)).copied().collect();
        let journaled = lost.iter().filter(|ack| in_journal(&ack.op)).count() as u64;
        Self { regions, lost, journaled, start_money }
    }

    pub fn checksums_equal(&self) -> bool {
        let mut books = self.regions.values();
        let Some(first) = books.next() else { return false };
        books.all(|other| other.checksums == first.checksums)
    }

    /// Table -> region -> checksum.
    pub fn tables(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut tables: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (region, books) in &self.regions {
            for (table, sum) in &books.checksums {
                tables.entry(table.clone()).or_default().insert(region.clone(), sum.clone());
            }
        }
        tables
    }

    /// Returns what is wrong with the money, region by region; nothing when all of it is there.
    pub fn money_missing(&self) -> Vec<String> {
        let wrong = self.regions.iter().filter_map(|(region, books)| {
            let expected = self.start_money + books.deposited;
            let sound =
                books.money == expected && books.wrong_accounts == 0 && books.orphans == 0;
            (!sound).then(|| {
                format!(
                    "{region} has {} of {expected}, {} accounts that do not add up, {} receipts of nothing",
                    books.money, books.wrong_accounts, books.orphans
                )
            })
        });
        wrong.collect()
    }
}

#[cfg(test)]
mod tests;
