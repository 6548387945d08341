//! How does DDL get to one position of the log, and so to the same position in every region?
//!
//! ```text
//!   read the file   every statement is one that may run everywhere alike      statement
//!   settle          what was written under the older schema has arrived
//!   run             in one region, in one transaction with a row that says it; PostgreSQL's
//!                   catalogue tells what became of the tables                   schema
//!   follow          each region's applier runs it where that row stands in the log
//! ```
//!
//! The directory counts migrations, by compare-and-set, so no two are under way at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use domicile_core::config::{Config, Region};
use domicile_core::id::{Origin, RegionId};
use domicile_core::lsn::{Frontier, Lsn};
use domicile_core::ownership::Ownership;
use domicile_pg::script;
use serde::Serialize;
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::apply::MIGRATION_FAILED as CONDITION;
use crate::directory::documents::{MIGRATION_KEY, MigrationDocument, json};
use crate::directory::{self, Written};
use crate::peer;
use crate::postgres::migration::{self, Migration};
use crate::postgres::rows::qualified;
use crate::postgres::session;
use crate::proto::{MarkRequest, StatusRequest};
use crate::status::RegionStatus;
use crate::tls::Credentials;

mod schema;
mod statement;

use schema::{Schema, Writers};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// More DDL than this is several migrations.
const SQL_BYTES_MAX: usize = 1 << 20;

/// Why something may not be run, and what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The statement's beginning, or the table and what became of it.
    pub what: String,
    pub reason: String,
    pub instead: String,
}

impl Refusal {
    fn new(what: &str, reason: &str, instead: &str) -> Self {
        let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
        let short: String = what.chars().take(WHAT_CHARS_MAX).collect();
        let what = if short.len() < what.len() { short + "..." } else { what };
        Self { what, reason: reason.to_owned(), instead: instead.to_owned() }
    }
}

const WHAT_CHARS_MAX: usize = 100;

/// Reads a file's statements; `Err` inside are those that may not run.
pub fn read(sql: &str) -> Result<Script<'_>, Vec<Refusal>> {
    let refuse = |reason: &str, instead: &str| Err(vec![Refusal::new("the file", reason, instead)]);
    if sql.len() > SQL_BYTES_MAX {
        return refuse("it is longer than 1 MiB", "divide it into several migrations");
    }
    let statements = match script::statements(sql) {
        Ok(statements) if statements.is_empty() => {
            return refuse("it has no statement", "write one");
        }
        Ok(statements) => statements,
        Err(error) => return refuse(&error.to_string(), "close it"),
    };
    let refused: Vec<Refusal> = statements.iter().filter_map(statement::refuse).collect();
    if !refused.is_empty() {
        return Err(refused);
    }
    Ok(Script { sql, statements })
}

/// Statements that may run.
pub struct Script<'a> {
    sql: &'a str,
    statements: Vec<script::Statement<'a>>,
}

/// What became of a migration in the region where it runs first.
pub enum Ran {
    /// It is committed there, under this number.
    Done(i64),
    /// It would have been; nothing was changed.
    Could,
    Refused(Vec<Refusal>),
}

/// Runs migrations of one cluster.
pub struct Migrator<'a> {
    pub config: &'a Config,
    pub directory: directory::Client,
    pub ownership: Ownership,
    /// Where they run first.
    pub region: &'a Region,
    /// How long a statement may wait for a table, and all who come behind it wait with it.
    pub lock_timeout: Duration,
}

impl Migrator<'_> {
    /// Runs the script in the migrator's region. `dry_run` takes the same locks and rolls back.
    pub async fn run(&self, script: &Script<'_>, name: &str, dry_run: bool) -> anyhow::Result<Ran> {
        let (counted, revision) = counted(&self.directory).await?;
        let client = session::connect(&self.region.postgres, "domicile migrate").await?;
        let here = migration::latest(&client).await?;
        if here < counted {
            return Ok(Ran::Refused(vec![Refusal::new(
                &format!("migration {counted}"),
                &format!("region {} does not have it yet", self.region.id),
                &format!(
                    "wait until it has (domicile status), then try again; where no region has it, a command \
                     ended before its COMMIT: domicile migrate --pass {counted} --region NAME, in each"
                ),
            )]));
        }
        let number = here.max(counted) + 1;
        let migration = Migration { number, name: name.to_owned(), sql: script.sql.to_owned() };
        client.batch_execute("BEGIN; SET LOCAL synchronous_commit = on").await?;
        let refused = self.attempt(&client, script).await?;
        if !refused.is_empty() || dry_run {
            client.batch_execute("ROLLBACK").await?;
            return Ok(if refused.is_empty() { Ran::Could } else { Ran::Refused(refused) });
        }
        migration::conclude(&client, self.config, &migration).await?;
        // Last, so that a number is not given to what then fails.
        let document = MigrationDocument { number, region: self.region.id.to_string() };
        match self.directory.write(MIGRATION_KEY, revision, Some(json(&document))).await? {
            Written::At(_) => {}
            Written::Conflict(_) => {
                client.batch_execute("ROLLBACK").await?;
                return Ok(Ran::Refused(vec![Refusal::new(
                    name,
                    "another migration has begun meanwhile",
                    "wait until every region has it, then try again",
                )]));
            }
        }
        client.batch_execute("COMMIT").await.context("commit the migration")?;
        Ok(Ran::Done(number))
    }

    /// Runs the statements in the open transaction, and judges of each what it did: of what two of them do
    /// together the end alone does not tell.
    async fn attempt(&self, client: &Client, script: &Script<'_>) -> anyhow::Result<Vec<Refusal>> {
        let lock_timeout = format!("{}ms", self.lock_timeout.as_millis());
        let writers =
            Writers { config: self.config, ownership: &self.ownership, region: &self.region.id };
        let mut before = Schema::read(client).await?;
        migration::prepare(client, &lock_timeout).await?;
        let mut refused = Vec::new();
        for statement in &script.statements {
            if let Err(error) = client.batch_execute(statement.text).await {
                let said = error.as_db_error().context("run the migration")?;
                let instead = match *said.code() {
                    SqlState::ACTIVE_SQL_TRANSACTION => "run it in each region by itself",
                    SqlState::LOCK_NOT_AVAILABLE => {
                        "somebody uses the table: look for long transactions, or give it more time \
                         (--lock-timeout)"
                    }
                    _ => "mend it; nothing was changed in any region",
                };
                refused.push(Refusal::new(statement.text, said.message(), instead));
                return Ok(refused);
            }
            let after = Schema::read(client).await?;
            refused.extend(schema::refusals(&writers, &before, &after, statement));
            for table in after.attached(self.config, &before) {
                let rows = format!("SELECT EXISTS (SELECT FROM {})", qualified(&table));
                if client.query_one(&rows, &[]).await?.get(0) {
                    refused.push(Refusal::new(
                        &format!("{table} is attached"),
                        "its rows were written while it was not replicated: no other region has them",
                        "attach it empty, and insert its rows at their owner",
                    ));
                }
            }
            before = after;
        }
        Ok(refused)
    }
}

/// The number of the newest migration, and the revision of the document that says it.
pub async fn counted(directory: &directory::Client) -> anyhow::Result<(i64, u64)> {
    let Some(found) = directory.get(MIGRATION_KEY).await? else { return Ok((0, 0)) };
    let document: MigrationDocument =
        serde_json::from_slice(&found.value).context("read the newest migration's number")?;
    Ok((document.number, found.revision))
}

/// Waits until every region that answers shows what every other had committed before: then no row
/// that was written under the schema before the last migration is on its way any more. Returns those
/// that did not come so far in time.
pub async fn settle(config: &Config, at_most: Duration) -> anyhow::Result<BTreeSet<RegionId>> {
    let mut marks = Frontier::default();
    for region in &config.regions {
        // A region that does not answer is not waited for: its log is kept until it is back.
        if let Some((origin, end)) = position(config, region).await? {
            marks.advance(&origin, end);
        }
    }
    let deadline = Instant::now() + at_most;
    loop {
        let statuses = statuses(config).await;
        let behind = |region: &RegionId, status: &RegionStatus| {
            marks
                .iter()
                .any(|(origin, lsn)| origin.region != *region && !shows(status, origin, lsn))
        };
        let behind: BTreeSet<RegionId> = statuses
            .iter()
            .filter(|(region, status)| status.as_ref().is_some_and(|s| behind(region, s)))
            .map(|(region, _)| region.clone())
            .collect();
        if behind.is_empty() || Instant::now() >= deadline {
            return Ok(behind);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Where a region's log ends with all that it has committed; `None` when it does not answer.
async fn position(config: &Config, region: &Region) -> anyhow::Result<Option<(Origin, Lsn)>> {
    let mut peer = peer::channel(&region.peer, Credentials::of(config)?.as_ref())?;
    let Ok(Ok(answer)) = timeout(ANSWER_TIMEOUT, peer.mark(MarkRequest {})).await else {
        return Ok(None);
    };
    let Some(end) = answer.into_inner().log_end else { return Ok(None) };
    Ok(Some((end.origin.parse()?, Lsn(end.lsn))))
}

fn shows(status: &RegionStatus, origin: &Origin, lsn: Lsn) -> bool {
    let applied = status.applied.get(&origin.to_string());
    applied.and_then(|applied| applied.parse::<Lsn>().ok()).is_some_and(|applied| applied >= lsn)
}

/// How one region is with a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Standing {
    Applied,
    /// With the states that the region is in, which may say why.
    Waits {
        because: Vec<String>,
    },
    Failed {
        because: String,
    },
    Unreachable,
}

/// A migration that is committed where it ran first.
pub struct Committed<'a> {
    config: &'a Config,
    pub number: i64,
    pub region: &'a RegionId,
    /// The log ends here behind it; absent when that region's agent does not answer.
    pub position: Option<(Origin, Lsn)>,
}

impl<'a> Committed<'a> {
    pub async fn find(config: &'a Config, number: i64, region: &'a Region) -> anyhow::Result<Self> {
        let position = position(config, region).await?;
        Ok(Self { config, number, region: &region.id, position })
    }

    /// Asks every region how it is with it.
    pub async fn standings(&self) -> BTreeMap<RegionId, Standing> {
        let statuses = statuses(self.config).await;
        let each = statuses.iter();
        each.map(|(region, status)| (region.clone(), self.standing(region, status.as_ref())))
            .collect()
    }

    fn standing(&self, region: &RegionId, status: Option<&RegionStatus>) -> Standing {
        if region == self.region {
            return Standing::Applied;
        }
        let Some(status) = status else { return Standing::Unreachable };
        let position = self.position.as_ref();
        let shown = position.is_some_and(|(origin, lsn)| shows(status, origin, *lsn));
        if shown || status.migration >= self.number {
            return Standing::Applied;
        }
        match status.conditions.iter().find(|condition| condition.name == CONDITION) {
            Some(failed) => Standing::Failed { because: failed.detail.clone() },
            None => Standing::Waits {
                because: status.conditions.iter().map(|c| c.name.clone()).collect(),
            },
        }
    }
}

async fn statuses(config: &Config) -> BTreeMap<RegionId, Option<RegionStatus>> {
    let asked = config.regions.iter().map(|region| async move {
        let ask = async {
            let credentials = Credentials::of(config).ok()?;
            let mut peer = peer::channel(&region.peer, credentials.as_ref()).ok()?;
            let answer = peer.status(StatusRequest {}).await.ok()?;
            serde_json::from_str(&answer.into_inner().json).ok()
        };
        (region.id.clone(), timeout(ANSWER_TIMEOUT, ask).await.ok().flatten())
    });
    futures_util::future::join_all(asked).await.into_iter().collect()
}
