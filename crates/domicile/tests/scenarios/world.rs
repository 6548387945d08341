//! One pair of regions, and what the steps of a scenario do to it.
//!
//! `eu` owns everything (`partition = "whole"`), `us` follows. Both databases have the settings
//! set against us that change how values are printed and read, and `us` is read-only by default.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use domicile::lab::regions::Regions;
use domicile::postgres::guard;
use domicile::postgres::session::{PINNED, quote_name};
use domicile_core::id::TableName;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::{FromSql, Type};

use crate::regions::{PATIENCE, config, start};
use crate::script::{Case, Place, Step};

/// Against whoever reads values as text without saying how.
const HOSTILE: &str = "
    ALTER DATABASE postgres SET DateStyle = 'SQL, DMY';
    ALTER DATABASE postgres SET IntervalStyle = 'sql_standard';
    ALTER DATABASE postgres SET bytea_output = 'escape';
    ALTER DATABASE postgres SET extra_float_digits = -3;
    ALTER DATABASE postgres SET TimeZone = 'Asia/Tokyo';
    ALTER DATABASE postgres SET xmloption = 'document';
    ALTER DATABASE postgres SET standard_conforming_strings = off;
    ALTER DATABASE postgres SET backslash_quote = off;
    ALTER DATABASE postgres SET escape_string_warning = off;
    ALTER DATABASE postgres SET transform_null_equals = on;
    ALTER DATABASE postgres SET array_nulls = off;";
const HOSTILE_FOLLOWER: &str = "
    ALTER DATABASE postgres SET default_transaction_read_only = on;
    ALTER DATABASE postgres SET default_transaction_isolation = 'serializable';";
/// Says for a scenario's own statements what it would otherwise say itself again and again.
const CLIENT: &str = "
    SET default_transaction_read_only = off;
    SET standard_conforming_strings = on;
    SET array_nulls = on;";
/// Lets a session write as an applier does, past the guard and unseen by capture.
const BECOME_APPLIER: &str = "
    SELECT pg_replication_origin_create('domicile_scenarios')
    WHERE pg_replication_origin_oid('domicile_scenarios') IS NULL;
    SELECT pg_replication_origin_session_setup('domicile_scenarios');";
const BECOME_CLIENT: &str = "SELECT pg_replication_origin_session_reset()";
/// How much of a row a failure shows.
const SHOWN: usize = 300;

pub struct World {
    regions: Regions,
    /// The newest journal entry of each region that a scenario has accounted for.
    journaled: BTreeMap<&'static str, i64>,
    settled: u32,
}

impl World {
    pub async fn start(cases: &[Case]) -> Self {
        let mut config = config(&["eu", "us"], "whole", 1);
        config.rpo = "none".to_owned();
        config.tables = cases.iter().flat_map(|case| &case.tables).map(entry).collect();
        let mut regions = Regions::create(config).await.unwrap();
        for case in cases {
            for (at, sql) in &case.first {
                for region in at.regions() {
                    let client = regions.connect(region).await.unwrap();
                    let done = client.batch_execute(sql).await;
                    done.unwrap_or_else(|e| panic!("{}: {}", case.title, said(&e)));
                }
            }
        }
        for (region, sql) in [("eu", HOSTILE), ("us", HOSTILE), ("us", HOSTILE_FOLLOWER)] {
            regions.connect(region).await.unwrap().batch_execute(sql).await.unwrap();
        }
        start(&mut regions).await;
        let journaled = ["eu", "us"].map(|region| (region, 0)).into();
        Self { regions, journaled, settled: 0 }
    }

    /// Runs one scenario. Whatever it was, in the end both regions show the same, nothing stands
    /// in a journal that the scenario does not name, and apply goes on.
    pub async fn run(&mut self, case: &Case) -> Result<(), String> {
        let ended = self.steps(case).await;
        let expected = case.steps.iter().filter_map(|step| match step {
            Step::Journals { at, count, conflict } => Some((at, conflict.as_str(), *count)),
            _ => None,
        });
        let each = expected.flat_map(|(at, conflict, count)| {
            at.regions().iter().map(move |region| (*region, conflict, count))
        });
        let journals = self.journals(&each.collect::<Vec<_>>()).await;
        match (ended, journals) {
            (Err(wrong), Err(also)) => Err(format!("{wrong}\n  {also}")),
            (ended, journals) => ended.and(journals),
        }
    }

    async fn steps(&mut self, case: &Case) -> Result<(), String> {
        let mut sessions = BTreeMap::new();
        for region in ["eu", "us"] {
            let client = self.regions.connect(region).await.unwrap();
            client.batch_execute(CLIENT).await.unwrap();
            sessions.insert(region, client);
        }
        for step in &case.steps {
            match step {
                Step::Run { at, sql } => {
                    for client in at.regions().iter().map(|region| &sessions[region]) {
                        let done = client.batch_execute(sql).await;
                        done.map_err(|e| format!("{}\n{sql}", said(&e)))?;
                    }
                }
                Step::Behind { at, sql } => {
                    for client in at.regions().iter().map(|region| &sessions[region]) {
                        for sql in [BECOME_APPLIER, sql.as_str(), BECOME_CLIENT] {
                            let done = client.batch_execute(sql).await;
                            done.map_err(|e| format!("{}\n{sql}", said(&e)))?;
                        }
                    }
                }
                Step::Refuses { at, sqlstate, sql } => {
                    for client in at.regions().iter().map(|region| &sessions[region]) {
                        refuses(client, sqlstate, sql).await?;
                    }
                }
                Step::Shows { at, sql } => {
                    for client in at.regions().iter().map(|region| &sessions[region]) {
                        shows(client, sql).await?;
                    }
                }
                Step::Says { at, condition } => self.says(*at, condition, true).await?,
                Step::Done { at, condition } => self.says(*at, condition, false).await?,
                Step::Journals { .. } => {}
                Step::Alike => self.alike(case).await?,
            }
        }
        self.alike(case).await
    }

    /// Waits until `us` shows everything, then compares the scenario's tables.
    async fn alike(&mut self, case: &Case) -> Result<(), String> {
        self.settle().await?;
        for (name, _) in case.tables.iter().filter(|(_, kind)| kind.as_deref() != Some("local")) {
            let table: TableName = name.parse().unwrap();
            let ours = self.content("eu", &table).await?;
            let theirs = self.content("us", &table).await?;
            if !ours.is_like(&theirs) {
                return Err(format!("table {table} differs: {}", difference(&ours, &theirs)));
            }
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), String> {
        self.settled += 1;
        let run = format!("settled {}", self.settled);
        let eu = self.regions.connect("eu").await.unwrap();
        guard::write_canary(&eu, 0, &run).await.map_err(|e| format!("{e:#}"))?;
        let us = self.regions.connect("us").await.unwrap();
        let sql = format!(
            "SELECT EXISTS (SELECT FROM domicile.canary WHERE run = '{run}')
                AND NOT EXISTS (SELECT FROM domicile.repair)"
        );
        let settled = shows(&us, &sql).await;
        match settled {
            Ok(()) => Ok(()),
            Err(late) => Err(format!("apply stalls: {late}\n{}", self.last_words("us"))),
        }
    }

    fn last_words(&self, region: &str) -> String {
        let log = std::fs::read_to_string(self.regions.agent_log(region)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    async fn says(&self, at: Place, condition: &str, holds: bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        for region in at.regions() {
            loop {
                let status = self.regions.status(region).await.map_err(|e| e.to_string())?;
                if status.conditions.iter().any(|known| known.name == condition) == holds {
                    break;
                }
                if Instant::now() > deadline {
                    let said = self.last_words(region);
                    return Err(format!("{region} says {:?}\n{said}", status.conditions));
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Compares what was journaled since the last scenario with what was to be.
    async fn journals(&mut self, expected: &[(&str, &str, usize)]) -> Result<(), String> {
        let mut wrong = String::new();
        for (region, known) in &mut self.journaled {
            let client = self.regions.connect(region).await.unwrap();
            let sql = "SELECT id, conflict,
                           concat_ws(' ', conflict, relation, operation, left(key::text, 200), reason)
                       FROM domicile.journal WHERE id > $1 ORDER BY id";
            let rows = client.query(sql, &[known]).await.unwrap();
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            let mut text = String::new();
            for row in rows {
                *known = row.get(0);
                *counts.entry(row.get(1)).or_default() += 1;
                if text.lines().count() < 10 {
                    let _ = writeln!(text, "    {}", shown(row.get(2)));
                }
            }
            let wanted: BTreeMap<String, usize> = expected
                .iter()
                .filter(|(at, _, count)| at == region && *count > 0)
                .map(|(_, conflict, count)| ((*conflict).to_owned(), *count))
                .collect();
            if counts != wanted {
                let _ = write!(wrong, "{region} journals {counts:?}, not {wanted:?}:\n{text}");
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Every row as text and, where types have one, in binary form; in no order.
    async fn content(&self, region: &str, table: &TableName) -> Result<Content, String> {
        let client = self.regions.connect(region).await.unwrap();
        let pinned: String = PINNED.iter().map(|(n, v)| format!("SET {n} = '{v}';")).collect();
        client.batch_execute(&pinned).await.unwrap();
        let name = format!("{}.{}", quote_name(&table.schema), quote_name(&table.name));
        let columns = client
            .query(
                "SELECT a.attname::text, t.typsend <> 0 AND t.oid < 16384, t.typname::text
                 FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                 WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
                 ORDER BY a.attname",
                &[&name],
            )
            .await
            .map_err(|e| said(&e))?;
        let types = columns.iter().map(|row| row.get(2)).collect();
        let columns: Vec<(String, bool)> =
            columns.iter().map(|row| (row.get(0), row.get(1))).collect();
        let list = |binary: bool| {
            let names = columns.iter().filter(|(_, has_binary)| *has_binary || !binary);
            names.map(|(name, _)| quote_name(name)).collect::<Vec<_>>().join(", ")
        };
        let sql = format!(
            "SELECT md5(row_) || ' ' || left(row_, {SHOWN})
             FROM (SELECT ROW({})::text AS row_ FROM {name}) rows_ ORDER BY 1",
            list(false)
        );
        let texts = client.query(&sql, &[]).await.map_err(|e| said(&e))?;
        let sql = format!("SELECT {} FROM {name}", list(true));
        let raw = client.query(&sql, &[]).await.map_err(|e| said(&e))?;
        let mut binary: Vec<Vec<Option<Vec<u8>>>> = raw
            .iter()
            .map(|row| (0..row.len()).map(|i| row.get::<_, Option<Raw>>(i).map(|r| r.0)).collect())
            .collect();
        binary.sort();
        let names = columns.into_iter().map(|(name, _)| name).collect();
        let texts = texts.iter().map(|row| row.get(0)).collect();
        Ok(Content { names, types, texts, binary })
    }
}

struct Content {
    names: Vec<String>,
    types: Vec<String>,
    texts: Vec<String>,
    binary: Vec<Vec<Option<Vec<u8>>>>,
}

impl Content {
    /// Values of unlike types, as while a column's type is being changed, are alike as text.
    fn is_like(&self, other: &Self) -> bool {
        let binary = self.types != other.types || self.binary == other.binary;
        self.names == other.names && self.texts == other.texts && binary
    }
}

/// A value as the server sent it.
struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn difference(eu: &Content, us: &Content) -> String {
    if eu.names != us.names {
        return format!("columns {:?} and {:?}", eu.names, us.names);
    }
    let missing = |a: &Content, b: &Content| {
        let rows = a.texts.iter().filter(|row| !b.texts.contains(row));
        rows.take(5).fold(String::new(), |text, row| text + "\n    " + shown(row))
    };
    let (only_eu, only_us) = (missing(eu, us), missing(us, eu));
    if only_eu.is_empty() && only_us.is_empty() {
        return format!("{} and {} rows, or in binary form", eu.texts.len(), us.texts.len());
    }
    format!(
        "{} and {} rows\n  only eu:{only_eu}\n  only us:{only_us}",
        eu.texts.len(),
        us.texts.len()
    )
}

/// One table of the configuration.
fn entry((name, kind): &(String, Option<String>)) -> String {
    let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let kind = kind.as_ref().map(|kind| format!("kind = {}\n", text(kind))).unwrap_or_default();
    format!("\n[[table]]\nname = {}\n{kind}", text(name))
}

async fn refuses(client: &Client, sqlstate: &str, sql: &str) -> Result<(), String> {
    match client.batch_execute(sql).await {
        Ok(()) => Err(format!("was not refused: {sql}")),
        Err(error) if error.code().is_some_and(|code| code.code() == sqlstate) => {
            client.batch_execute("ROLLBACK").await.map_err(|e| said(&e))
        }
        Err(error) => Err(format!("not {sqlstate}: {}\n{sql}", said(&error))),
    }
}

/// Asks until the answer is true.
async fn shows(client: &Client, sql: &str) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE / 3;
    loop {
        let row = client.query_opt(sql, &[]).await.map_err(|e| format!("{}\n{sql}", said(&e)))?;
        if row.and_then(|row| row.get::<_, Option<bool>>(0)) == Some(true) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("never true: {sql}"));
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{}: {}", error.code().code(), error.message()),
        None => error.to_string(),
    }
}

fn shown(text: &str) -> &str {
    text.get(..SHOWN * 3).unwrap_or(text)
}
