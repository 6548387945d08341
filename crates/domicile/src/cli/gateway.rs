//! Where does a gateway send a statement, and why?

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::Color;
use domicile_core::config::{Config, Region};
use domicile_core::id::RegionId;
use domicile_core::ownership::Ownership;
use domicile_core::partition::Scheme;
use domicile_core::route::owner_of_all;
use domicile_core::route::rows::{Given, Operand, keys, partitions};
use serde::Serialize;

use super::output::trimmed;
use super::outside::read_ownership;
use super::{Context, Exit, UsageError, connect};
use crate::gateway::{Columns, KeyTypes, touched};

/// Longer texts are shown up to here.
const SHOWN_CHARS: usize = 100;

#[derive(Debug, Args)]
pub struct GatewayCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say where a gateway would send a statement, and why
    Explain(Explain),
    /// Say of the statements that a region has run where a gateway would send them
    Statements(Statements),
}

#[derive(Debug, Args)]
#[command(
    after_help = "What is known is what stands in the statement: parameters ($1) and functions are not.
docs/operating/gateway.md says what becomes of each.

Examples:
  domicile gateway explain \"UPDATE account SET balance = 0 WHERE branch = 42\"
  domicile gateway explain --json \"INSERT INTO account (id, branch) VALUES (1, 42)\""
)]
pub struct Explain {
    sql: String,
    /// Whose PostgreSQL says what types key columns have; by default the first region's
    #[arg(long, value_name = "NAME")]
    region: Option<RegionId>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Reads pg_stat_statements, an extension of PostgreSQL that has to be there: look at it before your
clients go through gateways, to find the statements that will not find their owner by themselves.

Examples:
  domicile gateway statements --region eu
  domicile gateway statements --region eu --json | jq '.[] | select(.goes == \"tried_here\")'"
)]
pub struct Statements {
    /// The region whose PostgreSQL has run them; by default the first
    #[arg(long, value_name = "NAME")]
    region: Option<RegionId>,
    /// How many of those that are tried here are shown, the most frequent first
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    limit: usize,
}

/// What becomes of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Goes {
    /// It begins at the owner of its rows.
    ToOwner,
    /// It is tried in the session's region, whose guard refuses it where it is another's.
    TriedHere,
    /// In the session's region it is right.
    Stays,
}

impl Goes {
    fn words(self) -> &'static str {
        match self {
            Self::ToOwner => "begins at the owner",
            Self::TriedHere => "is tried in the session's region first",
            Self::Stays => "stays in the session's region",
        }
    }
}

#[derive(Debug, Serialize)]
struct Explained {
    goes: Goes,
    why: String,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    partitions: BTreeSet<u32>,
    /// Absent where that is not known, or nobody may write now.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
}

impl Explained {
    fn new(goes: Goes, why: &str) -> Self {
        Self { goes, why: why.to_owned(), partitions: BTreeSet::new(), owner: None }
    }
}

impl GatewayCommand {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        match self.command {
            Command::Explain(explain) => explain.run(context, &config).await,
            Command::Statements(statements) => statements.run(context, &config).await,
        }
    }
}

impl Explain {
    async fn run(self, context: &Context, config: &Config) -> anyhow::Result<Exit> {
        let mut explained = by_text(config, &self.sql);
        if explained.goes == Goes::ToOwner && config.layout.scheme != Scheme::Whole {
            let region = region(config, self.region.as_ref())?;
            let columns = Columns::of_postgres(&region.postgres, config.tables.clone());
            let (_, types) = columns.known().await.context("read the types of keys")?;
            explained = by_value(config, &types, &self.sql, &read_ownership(config).await?);
        }
        if context.output.is_json() {
            context.output.print_json(&explained)?;
        } else {
            let Explained { goes, why, .. } = &explained;
            context.output.print(&format!("It {}: {why}.", goes.words()))?;
        }
        Ok(Exit::Done)
    }
}

/// What the text alone says.
fn by_text(config: &Config, sql: &str) -> Explained {
    if config.layout.scheme == Scheme::Whole {
        return Explained::new(Goes::ToOwner, "everything has one owner, and sessions are there");
    }
    let Some(touched) = touched(sql.as_bytes()) else {
        return Explained::new(Goes::TriedHere, "it is not understood, or too long");
    };
    match keys(&touched, &config.tables) {
        None => Explained::new(Goes::TriedHere, "it does not say all of its rows' keys"),
        Some(keys) if keys.is_empty() => {
            Explained::new(Goes::Stays, "it writes nothing that has an owner, as far as is seen")
        }
        Some(_) => Explained::new(Goes::ToOwner, "it says whose rows it writes"),
    }
}

/// What its values say, too.
fn by_value(config: &Config, types: &KeyTypes, sql: &str, ownership: &Ownership) -> Explained {
    let touched = touched(sql.as_bytes()).unwrap_or_default();
    let keys = keys(&touched, &config.tables).unwrap_or_default();
    let found = partitions(&keys, &config.layout, |table, column, operand| match operand {
        Operand::Literal(text) => types.get(table, column)?.text(Given::Text(text.as_bytes())),
        Operand::Parameter(_) => None,
    });
    let Some(found) = found else {
        let why =
            "it says whose rows it writes, by parameters or by values of a type that is not read";
        return Explained::new(Goes::ToOwner, why);
    };
    let numbers: BTreeSet<u32> = found.iter().map(|partition| partition.0).collect();
    let list: Vec<String> = numbers.iter().map(u32::to_string).collect();
    let one = list.len() == 1;
    let named = format!("partition{} {}", if one { "" } else { "s" }, list.join(", "));
    let owner = owner_of_all(&found, ownership);
    let (goes, why) = match owner {
        Some(owner) => {
            (Goes::ToOwner, format!("{named} belong{} to {owner}", if one { "s" } else { "" }))
        }
        None => (Goes::TriedHere, format!("no region may write all of {named} at the moment")),
    };
    Explained { goes, why, partitions: numbers, owner: owner.map(ToString::to_string) }
}

/// A statement with its constants taken out.
#[derive(Debug, Serialize)]
struct Ran {
    goes: Goes,
    why: String,
    calls: i64,
    statement: String,
}

impl Statements {
    async fn run(self, context: &Context, config: &Config) -> anyhow::Result<Exit> {
        let region = region(config, self.region.as_ref())?;
        let client = connect::connect(&region.postgres).await?;
        let sql = "SELECT sum(s.calls)::bigint, s.query FROM pg_stat_statements s
                   JOIN pg_database d ON d.oid = s.dbid
                   WHERE d.datname = current_database() GROUP BY s.query ORDER BY 1 DESC, 2";
        let rows = client.query(sql, &[]).await.map_err(|error| {
            anyhow::anyhow!(
                "read pg_stat_statements of region {}: {}. Have it in shared_preload_libraries, and \
                 CREATE EXTENSION pg_stat_statements",
                region.id,
                connect::cause(&error)
            )
        })?;
        let ran = rows.iter().map(|row| {
            let (calls, statement): (i64, String) = (row.get(0), row.get(1));
            let Explained { goes, why, .. } = by_text(config, &statement);
            Ran { goes, why, calls, statement }
        });
        let ran: Vec<Ran> = ran.collect();
        if context.output.is_json() {
            context.output.print_json(&ran)?;
            return Ok(Exit::Done);
        }
        context.output.print(&counted(context, &ran))?;
        let mut tried = ran.iter().filter(|ran| ran.goes == Goes::TriedHere).peekable();
        if tried.peek().is_some() {
            let mut table = context.output.table(["CALLS", "TRIED HERE", "BECAUSE"]);
            for Ran { calls, statement, why, .. } in tried.take(self.limit) {
                let words: Vec<&str> = statement.split_whitespace().collect();
                let shown: String = words.join(" ").chars().take(SHOWN_CHARS).collect();
                table.add_row([calls.to_string(), shown, why.clone()]);
            }
            context.output.print(&format!("\n{}", trimmed(&table)))?;
        }
        Ok(Exit::Done)
    }
}

fn counted(context: &Context, ran: &[Ran]) -> String {
    let mut counts: BTreeMap<Goes, (usize, i64)> = BTreeMap::new();
    for Ran { goes, calls, .. } in ran {
        let (statements, all) = counts.entry(*goes).or_default();
        (*statements, *all) = (*statements + 1, *all + calls);
    }
    let all: i64 = counts.values().map(|(_, calls)| calls).sum();
    let mut table = context.output.table(["STATEMENTS", "CALLS", "SHARE", "WHAT BECOMES OF THEM"]);
    for (goes, (statements, calls)) in counts {
        let share = format!("{:.1} %", calls as f64 * 100.0 / all.max(1) as f64);
        let colour = if goes == Goes::TriedHere { Color::Yellow } else { Color::Reset };
        table.add_row([
            context.output.cell(&statements.to_string(), Color::Reset),
            context.output.cell(&calls.to_string(), Color::Reset),
            context.output.cell(&share, Color::Reset),
            context.output.cell(goes.words(), colour),
        ]);
    }
    trimmed(&table)
}

fn region<'a>(config: &'a Config, name: Option<&RegionId>) -> Result<&'a Region, UsageError> {
    let Some(name) = name else { return Ok(&config.regions[0]) };
    config.region(name).ok_or_else(|| UsageError(format!("no region {name}")))
}
