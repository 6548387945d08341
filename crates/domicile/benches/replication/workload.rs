//! What is replicated: which tables, and what is written to them?

use anyhow::Context;
use clap::ValueEnum;
use tokio_postgres::Client;

use crate::load::{self, Pgbench};

/// pgbench's own measure: this many branches, 100,000 accounts each.
const SCALE: u32 = 10;
const ACCOUNTS: u32 = SCALE * 100_000;
const DOCUMENTS: u32 = 5_000;
const INSERTED_ROWS: u32 = 20_000;

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Transactions that update one row each
    Updates,
    /// TPC-B, as pgbench plays it
    Tpcb,
    /// Transactions that insert 20,000 rows each
    Inserts,
    /// Updates of JSON documents of 8 kB that lie in TOAST
    Toast,
    /// Single-row updates, every second one on one of ten rows
    Hot,
}

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Self::Updates => "updates",
            Self::Tpcb => "tpcb",
            Self::Inserts => "inserts",
            Self::Toast => "toast",
            Self::Hot => "hot",
        }
    }

    /// How many transactions make a backlog.
    pub fn transactions(self) -> u32 {
        match self {
            Self::Updates => 200_000,
            Self::Tpcb => 40_000,
            Self::Inserts => 50,
            Self::Toast => 10_000,
            Self::Hot => 100_000,
        }
    }

    /// How many rows are changed by one transaction.
    pub fn rows(self) -> u32 {
        match self {
            Self::Updates | Self::Toast | Self::Hot => 1,
            Self::Tpcb => 4,
            Self::Inserts => INSERTED_ROWS,
        }
    }

    /// The replicated tables, and whether they have a key; the marker comes on top.
    pub fn tables(self) -> &'static [(&'static str, bool)] {
        match self {
            Self::Updates | Self::Tpcb | Self::Hot => &[
                ("pgbench_branches", true),
                ("pgbench_tellers", true),
                ("pgbench_accounts", true),
                ("pgbench_history", false),
            ],
            Self::Inserts => &[("event", true)],
            Self::Toast => &[("document", true)],
        }
    }

    /// Makes the tables with the rows that are there from the beginning, the same everywhere.
    pub async fn fill(self, postgres: &str) -> anyhow::Result<()> {
        let (client, driver) = tokio_postgres::connect(postgres, tokio_postgres::NoTls).await?;
        let driver = tokio::spawn(driver);
        let sql = match self {
            Self::Updates | Self::Tpcb | Self::Hot => {
                load::initialize(postgres, SCALE).await?;
                String::new()
            }
            Self::Inserts => "CREATE TABLE event (
                    id bigint PRIMARY KEY,
                    device integer NOT NULL,
                    at timestamptz NOT NULL,
                    value double precision NOT NULL,
                    note text)"
                .to_owned(),
            // Hexadecimal digits at random: nothing that PostgreSQL could compress away.
            Self::Toast => format!(
                "CREATE FUNCTION body(seed integer) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
                 $$ SELECT jsonb_build_object('seed', seed, 'text', string_agg(md5(seed || ':' || i), ''))
                    FROM generate_series(1, 250) i $$;
                 CREATE TABLE document (id integer PRIMARY KEY, body jsonb NOT NULL);
                 INSERT INTO document SELECT id, body(id) FROM generate_series(1, {DOCUMENTS}) id"
            ),
        };
        let marker = "CREATE TABLE marker (id bigint PRIMARY KEY)";
        client.batch_execute(&format!("{sql};\n{marker}")).await.context("fill the tables")?;
        drop(client);
        driver.await??;
        Ok(())
    }

    /// Writes one backlog; `round` makes every one of them another.
    pub async fn write(self, postgres: &str, client: &Client, round: u32) -> anyhow::Result<()> {
        let pgbench = Pgbench { postgres, transactions: self.transactions(), seed: round };
        match self {
            Self::Updates => pgbench.script(&updates()).await,
            Self::Tpcb => pgbench.tpcb().await,
            Self::Inserts => {
                for part in 0..self.transactions() {
                    let first = (round * self.transactions() + part) * INSERTED_ROWS;
                    let last = first + INSERTED_ROWS - 1;
                    let sql = format!(
                        "INSERT INTO event
                         SELECT id, id % 1000, '2026-01-01'::timestamptz + id * interval '1 second',
                                sin(id), 'reading ' || md5(id::text)
                         FROM generate_series({first}, {last}) id"
                    );
                    client.batch_execute(&sql).await.context("insert rows")?;
                }
                Ok(())
            }
            Self::Toast => {
                pgbench
                    .script(&format!(
                        "\\set id random(1, {DOCUMENTS})\n\\set seed random(1, 1000000000)\n\
                         UPDATE document SET body = body(:seed) WHERE id = :id;\n"
                    ))
                    .await
            }
            Self::Hot => {
                pgbench
                    .script(&format!(
                        "\\set hot random(1, 2)\n\
                         \\set aid CASE WHEN :hot = 1 THEN random(1, 10) * {} ELSE random(1, {ACCOUNTS}) END\n\
                         \\set delta random(-5000, 5000)\n\
                         UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n",
                        ACCOUNTS / 10
                    ))
                    .await
            }
        }
    }
}

/// A transaction that updates one row at random, for pgbench.
pub fn updates() -> String {
    format!(
        "\\set aid random(1, {ACCOUNTS})\n\\set delta random(-5000, 5000)\n\
         UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n"
    )
}
