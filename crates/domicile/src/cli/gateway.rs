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
use domicile_core::route::reads::{Catalogue, Said, Why};
use domicile_core::route::rows::{Given, Operand, keys, partitions};
use serde::Serialize;

use super::output::trimmed;
use super::outside::read_ownership;
use super::{Context, Exit, UsageError, connect};
use crate::gateway::{Columns, Functions, KeyTypes, said, touched};

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
    after_help = "What is known is what stands in the statement, parameters ($1) are not. Of functions, and of
views by the functions that they call, it is known whether they are VOLATILE; what is unclear is
taken for a write. docs/operating/gateway.md says what becomes of each.

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
    /// How many of those that do not say where they belong are shown, the most frequent first
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
    /// It may only read, and what it calls does not say so: it begins at the owner.
    Unclear,
    /// In the session's region it is right.
    Stays,
}

impl Goes {
    /// Does the statement not say where it belongs?
    fn is_ambiguous(self) -> bool {
        matches!(self, Self::TriedHere | Self::Unclear)
    }

    fn words(self) -> &'static str {
        match self {
            Self::ToOwner => "begins at the owner",
            Self::TriedHere => "is tried in the session's region first",
            Self::Unclear => "begins at the owner, though it may only read",
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
    /// The same in a session that reads in its own region; absent where every region writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    near: Option<Near>,
}

#[derive(Debug, Serialize)]
struct Near {
    goes: Goes,
    why: String,
}

impl Explained {
    fn new(goes: Goes, why: &str) -> Self {
        Self { goes, why: why.to_owned(), partitions: BTreeSet::new(), owner: None, near: None }
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
        let calls = match said(self.sql.as_bytes()) {
            Said::Asks { functions, relations } => !functions.is_empty() || !relations.is_empty(),
            Said::Writes(_) | Said::Unclear => false,
        };
        let catalogue = match calls {
            true => catalogue(region(config, self.region.as_ref())?).await?,
            false => Catalogue::default(),
        };
        let mut explained = by_text(config, &catalogue, &self.sql);
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
            if let Some(Near { goes, why }) = &explained.near {
                let words = goes.words();
                context
                    .output
                    .print(&format!("In a session that reads near it {words}: {why}."))?;
            }
        }
        Ok(Exit::Done)
    }
}

/// What the text alone says.
fn by_text(config: &Config, catalogue: &Catalogue, sql: &str) -> Explained {
    let writes = catalogue.writes(&said(sql.as_bytes()));
    if config.layout.scheme == Scheme::Whole {
        let why = "everything has one owner, and sessions are there";
        return Explained { near: Some(near(writes)), ..Explained::new(Goes::ToOwner, why) };
    }
    let Some(touched) = touched(sql.as_bytes()) else {
        return Explained::new(Goes::TriedHere, "it is not understood, or too long");
    };
    match keys(&touched, &config.tables) {
        None => Explained::new(Goes::TriedHere, "it does not say all of its rows' keys"),
        Some(keys) if keys.is_empty() => match writes.filter(may_write_owned) {
            Some(why) => Explained::new(Goes::TriedHere, &format!("{why}, and may write any rows")),
            None => {
                let why = "it writes nothing that has an owner, as far as is seen";
                Explained::new(Goes::Stays, why)
            }
        },
        Some(_) => Explained::new(Goes::ToOwner, "it says whose rows it writes"),
    }
}

/// What becomes of a statement of a session that reads in its own region, where another one owns everything.
fn near(writes: Option<Why>) -> Near {
    let goes = match writes {
        None => Goes::Stays,
        Some(Why::Command(_)) => Goes::ToOwner,
        Some(_) => Goes::Unclear,
    };
    let why = writes.map(|why| why.to_string());
    Near { goes, why: why.unwrap_or_else(|| "it only reads, as far as is seen".to_owned()) }
}

/// Does it run what may write rows that its text does not name?
fn may_write_owned(why: &Why) -> bool {
    match why {
        Why::Command(command) => matches!(command.as_str(), "CALL" | "DO"),
        Why::Unclear
        | Why::Volatile { .. }
        | Why::UnknownFunction(_)
        | Why::View { .. }
        | Why::Refused => true,
    }
}

/// What the PostgreSQL of a region says of functions and views.
async fn catalogue(region: &Region) -> anyhow::Result<Catalogue> {
    let functions = Functions::of_postgres(&region.postgres);
    functions.catalogue().await.with_context(|| format!("ask region {} about functions", region.id))
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
    let owner = owner.map(ToString::to_string);
    Explained { partitions: numbers, owner, ..Explained::new(goes, &why) }
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
        let catalogue = catalogue(region).await?;
        let ran = rows.iter().map(|row| {
            let (calls, statement): (i64, String) = (row.get(0), row.get(1));
            let Explained { goes, why, near, .. } = by_text(config, &catalogue, &statement);
            // Where one region owns everything, the others are there to be read.
            let Near { goes, why } = near.unwrap_or(Near { goes, why });
            Ran { goes, why, calls, statement }
        });
        let ran: Vec<Ran> = ran.collect();
        if context.output.is_json() {
            context.output.print_json(&ran)?;
            return Ok(Exit::Done);
        }
        if config.layout.scheme == Scheme::Whole {
            context.output.print("In sessions that ask how new their reads have to be:\n")?;
        }
        context.output.print(&counted(context, &ran))?;
        let mut tried = ran.iter().filter(|ran| ran.goes.is_ambiguous()).peekable();
        if let Some(Ran { goes, .. }) = tried.peek() {
            let heading = if *goes == Goes::Unclear { "MAY ONLY READ" } else { "TRIED HERE" };
            let mut table = context.output.table(["CALLS", heading, "BECAUSE"]);
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
        let colour = if goes.is_ambiguous() { Color::Yellow } else { Color::Reset };
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
