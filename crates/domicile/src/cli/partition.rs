//! Who owns which partition, and how does one move it?

use clap::{Args, Subcommand};
use comfy_table::Color;
use domicile_core::id::{PartitionRange, RegionId};
use domicile_core::ownership::{Entry, State};
use domicile_core::runbook::Intent;
use domicile_core::runbook::file::Call;
use serde::Serialize;

use super::output::trimmed;
use super::outside::Outside;
use super::runs::{Overriding, facts, start_and_follow};
use super::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  domicile partition list
  domicile partition show 7
  domicile partition move 4-7 --to us")]
pub struct Partition {
    #[command(subcommand)]
    command: PartitionCommand,
}

#[derive(Debug, Subcommand)]
enum PartitionCommand {
    /// List all partitions with their owners
    List,
    /// Show one partition with its past owners
    Show {
        #[arg(value_name = "NUMBER")]
        partition: PartitionRange,
    },
    /// Move partitions to another region, without losing or refusing a write
    Move {
        #[arg(value_name = "NUMBER or FIRST-LAST")]
        range: PartitionRange,
        #[arg(long, value_name = "REGION")]
        to: RegionId,
        #[command(flatten)]
        overriding: Overriding,
    },
}

#[derive(Serialize)]
struct Row {
    partitions: String,
    epoch: u64,
    /// Absent while nobody may write.
    owner: Option<String>,
    state: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    closed: Vec<ClosedRow>,
}

#[derive(Serialize)]
struct ClosedRow {
    epoch: u64,
    owner: String,
    /// Where the epoch ends, as in `eu-1@0/16B3748`.
    cut: String,
}

impl Partition {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let outside = Outside::look(&config).await?;
        match self.command {
            PartitionCommand::List => {
                let rows: Vec<Row> =
                    outside.ownership.entries().iter().map(|e| Row::of(e, false)).collect();
                print(context, &rows)?;
            }
            PartitionCommand::Show { partition } => {
                let entries = outside.ownership.entries().iter();
                let rows: Vec<Row> = entries
                    .filter(|e| e.range.overlap(&partition).is_some())
                    .map(|e| Row::of(e, true))
                    .collect();
                anyhow::ensure!(!rows.is_empty(), "there is no partition {partition}");
                print(context, &rows)?;
            }
            PartitionCommand::Move { range, to, overriding } => {
                let calls = [Call::ready(&Intent::Switchover { range, to })];
                let facts = facts(&outside, &config, &overriding);
                return start_and_follow(context, &outside, &facts, &calls, None).await;
            }
        }
        Ok(Exit::Done)
    }
}

impl Row {
    fn of(entry: &Entry, with_past: bool) -> Self {
        let state = match &entry.state {
            State::Owned { .. } => "owned".to_owned(),
            State::HandingOver { to, .. } => format!("handing over to {to}"),
            State::Fenced { from, .. } => format!("fenced from {from}"),
        };
        let closed = entry.closed.iter().map(|closed| ClosedRow {
            epoch: closed.epoch.0,
            owner: closed.by.to_string(),
            cut: closed.cut.to_string(),
        });
        Self {
            partitions: entry.range.to_string(),
            epoch: entry.epoch.0,
            owner: entry.owner().map(ToString::to_string),
            state,
            closed: if with_past { closed.collect() } else { Vec::new() },
        }
    }
}

fn print(context: &Context, rows: &[Row]) -> anyhow::Result<()> {
    let output = &context.output;
    if output.is_json() {
        return output.print_json(&rows);
    }
    let mut table = output.table(["PARTITIONS", "EPOCH", "OWNER", "STATE"]);
    for row in rows {
        let plain = |text: &str| output.cell(text, Color::Reset);
        let owner = match &row.owner {
            Some(owner) => plain(owner),
            None => output.cell("nobody", Color::Yellow),
        };
        table.add_row([
            plain(&row.partitions),
            plain(&row.epoch.to_string()),
            owner,
            plain(&row.state),
        ]);
        for closed in &row.closed {
            let was = format!("until {}", closed.cut);
            let epoch = closed.epoch.to_string();
            table.add_row([plain(""), plain(&epoch), plain(&closed.owner), plain(&was)]);
        }
    }
    output.print(&trimmed(&table))
}
