//! What lost against another region's change, and why?
//!
//! Each region has its own conflict journal, in its own database: entry 7 of one region has
//! nothing to do with entry 7 of another.

use clap::{Args, Subcommand};
use comfy_table::Color;
use domicile_core::config::{Config, Region};
use domicile_core::id::{RegionId, TableName};

use super::connect;
use super::output::trimmed;
use super::{Context, Exit, UsageError};

mod entry;
mod images;
mod replay;
#[cfg(test)]
mod tests;

use entry::{Entry, Filter, JournalError};
use replay::Replay;

const STATUSES: [&str; 6] = ["settled", "hidden", "returned", "open", "parked", "resolved"];

#[derive(Debug, Args)]
pub struct Journal {
    #[command(subcommand)]
    command: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    /// List entries, the newest first
    #[command(after_help = "Examples:
  domicile journal list
  domicile journal list --region eu --relation public.accounts --limit 100
  domicile journal list --json | jq -r '.[] | select(.conflict == \"beyond_cut\") | .key'")]
    List(List),
    /// Show one entry with its row images side by side
    #[command(after_help = "Example:
  domicile journal show 7 --region eu")]
    Show(Show),
    /// Close entries: the rows are right as they are
    #[command(after_help = "Examples:
  domicile journal resolve 7 8 9 --region eu
  domicile journal list --region eu --status open --json | jq '.[].id' |
      xargs domicile journal resolve --region eu")]
    Resolve(Resolve),
    /// Write again what lost, as an ordinary write at the owner, and close the entry
    #[command(
        after_help = "What lost is written only if the row still is what the entry says, and the entry is not resolved;
--force overwrites it as it is. --dry-run shows what would be written.

Examples:
  domicile journal replay 7 --region eu --dry-run
  domicile journal replay 7 --region eu"
    )]
    Replay(Replay),
}

#[derive(Debug, Args)]
struct List {
    /// Only this region's journal
    #[arg(long, value_name = "NAME")]
    region: Option<RegionId>,
    /// Only this table's entries
    #[arg(long, value_name = "TABLE")]
    relation: Option<TableName>,
    /// Only changes that were first committed there: a region, or an origin such as eu-1
    #[arg(long, value_name = "NAME")]
    origin: Option<String>,
    /// Only entries that are settled, hidden, returned, open, parked or resolved
    #[arg(long, value_name = "STATUS", value_parser = STATUSES)]
    status: Option<String>,
    /// At most this many entries of each region
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

#[derive(Debug, Args)]
struct Resolve {
    /// The entries' numbers
    #[arg(required = true)]
    ids: Vec<i64>,
    /// The region whose journal they are in
    #[arg(long, value_name = "NAME")]
    region: RegionId,
}

#[derive(Debug, Args)]
struct Show {
    /// The entry's number
    id: i64,
    /// The region whose journal it is in; may be left out when only one has such an entry
    #[arg(long, value_name = "NAME")]
    region: Option<RegionId>,
}

impl Journal {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        match self.command {
            Which::List(list) => list.run(context, &config).await,
            Which::Show(show) => show.run(context, &config).await,
            Which::Resolve(resolve) => resolve.run(context, &config).await,
            Which::Replay(replay) => replay.run(context, &config).await,
        }
    }
}

impl List {
    async fn run(self, context: &Context, config: &Config) -> anyhow::Result<Exit> {
        let filter = Filter {
            id: None,
            relation: self.relation.map(|table| table.to_string()),
            origin: self.origin,
            status: self.status,
            limit: self.limit.into(),
        };
        let (mut entries, failed) =
            read_all(&regions(config, self.region.as_ref())?, &filter).await;
        entries.sort_by(|a, b| b.at.cmp(&a.at));
        for error in &failed {
            eprintln!("domicile: {error}");
        }
        if context.output.is_json() {
            context.output.print_json(&entries)?;
        } else if entries.is_empty() && failed.is_empty() {
            context.output.print("no entries")?;
        } else if !entries.is_empty() {
            print_list(context, &entries)?;
        }
        Ok(if failed.is_empty() { Exit::Done } else { Exit::Failed })
    }
}

fn print_list(context: &Context, entries: &[Entry]) -> anyhow::Result<()> {
    let header =
        ["region", "id", "at", "origin", "table", "operation", "key", "conflict", "status"];
    let mut table = context.output.table(header);
    for entry in entries {
        table.add_row(vec![
            entry.region.as_str().into(),
            entry.id.to_string().into(),
            entry.at.as_str().into(),
            entry.origin.as_str().into(),
            entry.relation.as_str().into(),
            entry.operation.as_str().into(),
            images::short(&entry.key).into(),
            context.output.cell(&entry.conflict, Color::Yellow),
            context.output.cell(&entry.status, colour_of(&entry.status)),
        ]);
    }
    context.output.print(&trimmed(&table))
}

fn colour_of(status: &str) -> Color {
    match status {
        "open" | "parked" => Color::Red,
        "hidden" => Color::Yellow,
        _ => Color::Reset,
    }
}

impl Show {
    async fn run(self, context: &Context, config: &Config) -> anyhow::Result<Exit> {
        let entry = find(config, self.id, self.region.as_ref()).await?;
        if context.output.is_json() {
            context.output.print_json(&entry)?;
        } else {
            print_entry(context, &entry)?;
        }
        Ok(Exit::Done)
    }
}

/// The one entry with this number.
async fn find(config: &Config, id: i64, region: Option<&RegionId>) -> anyhow::Result<Entry> {
    let filter = Filter { id: Some(id), relation: None, origin: None, status: None, limit: 1 };
    let (mut entries, failed) = read_all(&regions(config, region)?, &filter).await;
    if entries.len() > 1 {
        let names: Vec<&str> = entries.iter().map(|e| e.region.as_str()).collect();
        let names = names.join(", ");
        let text = format!("journal entry {id} exists in {names}: name one with --region");
        return Err(UsageError(text).into());
    }
    match (entries.pop(), failed.as_slice()) {
        (Some(entry), _) => Ok(entry),
        (None, []) => anyhow::bail!("journal entry {id} does not exist"),
        (None, failed) => {
            let failed: Vec<String> = failed.iter().map(ToString::to_string).collect();
            anyhow::bail!("{}", failed.join("\n"))
        }
    }
}

impl Resolve {
    async fn run(self, context: &Context, config: &Config) -> anyhow::Result<Exit> {
        let region = regions(config, Some(&self.region))?[0];
        let client = connect::connect(&region.postgres).await?;
        let closed = entry::close(&client, &self.ids).await?;
        let missing: Vec<String> = self
            .ids
            .iter()
            .filter(|id| !closed.contains(id))
            .map(|id| format!("journal entry {id} does not exist in region \"{}\"", region.id))
            .collect();
        if context.output.is_json() {
            context.output.print_json(&closed)?;
        } else {
            for id in &closed {
                context.output.print(&format!("journal entry {id}: resolved"))?;
            }
        }
        anyhow::ensure!(missing.is_empty(), "{}", missing.join("\n"));
        Ok(Exit::Done)
    }
}

fn print_entry(context: &Context, entry: &Entry) -> anyhow::Result<()> {
    let mut facts = context.output.table(["entry", &entry.id.to_string()]);
    for (name, value) in [
        ("region", entry.region.clone()),
        ("at", entry.at.clone()),
        ("origin", entry.origin.clone()),
        ("LSN", entry.lsn.clone().unwrap_or_default()),
        ("transaction", entry.xid.map(|xid| xid.to_string()).unwrap_or_default()),
        ("table", entry.relation.clone()),
        ("operation", entry.operation.clone()),
        ("key", images::short(&entry.key)),
        ("conflict", entry.conflict.clone()),
        ("reason", entry.reason.clone().unwrap_or_default()),
        ("policy", entry.policy.clone().unwrap_or_default()),
        ("winner", entry.winner.clone().unwrap_or_default()),
        ("status", entry.status.clone()),
    ] {
        if !value.is_empty() {
            facts.add_row([name, &value]);
        }
    }
    context.output.print(&trimmed(&facts))?;
    let mut rows = context.output.table(["column", "before", "what lost", "what stayed"]);
    for line in images::side_by_side(&entry.old, entry.lost(), entry.stayed()) {
        let what_lost = if line.differs {
            context.output.cell(&line.new, Color::Yellow)
        } else {
            line.new.as_str().into()
        };
        rows.add_row(vec![line.column.into(), line.old.into(), what_lost, line.local.into()]);
    }
    context.output.print(&format!("\n{}", trimmed(&rows)))
}

/// Returns the regions to ask: the named one, or all.
fn regions<'a>(
    config: &'a Config,
    named: Option<&RegionId>,
) -> Result<Vec<&'a Region>, UsageError> {
    match named {
        None => Ok(config.regions.iter().collect()),
        Some(id) => match config.region(id) {
            Some(region) => Ok(vec![region]),
            None => Err(UsageError(format!("region \"{id}\" is not in the configuration"))),
        },
    }
}

/// Reads what can be read: a region that is gone does not hide the others' entries.
async fn read_all(regions: &[&Region], filter: &Filter) -> (Vec<Entry>, Vec<JournalError>) {
    let reads = regions.iter().map(|region| entry::read(&region.id, &region.postgres, filter));
    let (mut entries, mut failed) = (Vec::new(), Vec::new());
    for read in futures_util::future::join_all(reads).await {
        match read {
            Ok(found) => entries.extend(found),
            Err(error) => failed.push(error),
        }
    }
    (entries, failed)
}
