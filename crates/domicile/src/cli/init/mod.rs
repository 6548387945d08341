//! What would a configuration for this database look like?
//!
//! [`propose`] decides, [`write`] words it; nothing in the database changes.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use comfy_table::{Cell, Color};
use domicile_core::id::RegionId;
use serde_json::{Value, json};

use super::connect::connect;
use super::output::trimmed;
use super::{Context, Exit, Output, UsageError};
use crate::postgres::catalog;
use crate::postgres::database::Database;
use crate::settings::{self, Partition};

pub mod propose;
#[cfg(test)]
mod tests;
pub mod write;

use propose::{Place, Proposal, ProposedTable};
use write::GivenRegion;

const STANDARD_OUTPUT: &str = "-";

#[derive(Debug, Args)]
#[command(
    after_help = "Reads the catalogue of one database and writes a commented domicile.toml: how rows are divided
among regions, where each table's key comes from, and what cannot be replicated. Changes nothing
in the database, and never writes over a file.

Examples:
  domicile init --from postgres://postgres@db.example/shop
  domicile init --from 'host=10.0.0.1 user=postgres dbname=shop' \\
      --region eu='host=10.0.0.1 user=postgres dbname=shop' \\
      --region us='host=10.0.1.1 user=postgres dbname=shop'
  domicile init --from postgres://postgres@db.example/shop --partition 'hash(tenant_id, 64)' --to -"
)]
pub struct Init {
    /// The database to read
    #[arg(long, value_name = "CONNECTION")]
    from: String,
    /// Write here instead of the configuration file; - is standard output
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// A region and its database; repeat for each one
    #[arg(long = "region", value_name = "NAME=CONNECTION", value_parser = given_region)]
    regions: Vec<GivenRegion>,
    /// Use this scheme: whole, hash(column, n) or home(column)
    #[arg(long, value_name = "SCHEME")]
    partition: Option<Partition>,
}

fn given_region(text: &str) -> Result<GivenRegion, String> {
    let (name, postgres) = text
        .split_once('=')
        .ok_or_else(|| "expected NAME=CONNECTION, as in eu=postgres://host/db".to_owned())?;
    let id: RegionId = name.parse().map_err(|wrong| format!("{wrong}"))?;
    if let Err(wrong) = postgres.parse::<Database>() {
        // Not the text itself: there may be a password in it.
        return Err(format!("the connection string of region \"{id}\": {wrong}"));
    }
    Ok(GivenRegion { id, postgres: postgres.to_owned(), made_up: false })
}

impl Init {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let output = context.output;
        let file = self.to.clone().unwrap_or_else(|| context.config_file.clone());
        let to_output = file.as_os_str() == STANDARD_OUTPUT;
        if to_output && output.is_json() {
            bail!(UsageError("--to - and --json both want standard output".into()));
        }
        if !to_output && file.exists() {
            bail!(UsageError(format!(
                "{} exists: move it away, or name another file with --to",
                file.display()
            )));
        }
        let regions = self.regions()?;
        let (proposal, cluster) = read(output, &self.from, regions.len(), &self.partition).await?;
        let text = write::file(&proposal, &cluster, &regions);
        check(&text)?;
        if to_output {
            super::output::print_text(&text)?;
            return Ok(Exit::Done);
        }
        save(&file, &text)?;
        match output.is_json() {
            true => output.print_json(&as_json(&proposal, &file))?,
            false => print(output, &proposal, &file)?,
        }
        Ok(Exit::Done)
    }

    /// The given ones; without any, the database that is read and one that a person must name.
    fn regions(&self) -> anyhow::Result<Vec<GivenRegion>> {
        if let [_] = self.regions.as_slice() {
            bail!(UsageError("one --region is none: name at least two".into()));
        }
        if !self.regions.is_empty() {
            return Ok(self.regions.clone());
        }
        let second = "host=two.example user=postgres dbname=postgres".to_owned();
        Ok(vec![
            GivenRegion { id: "one".parse()?, postgres: self.from.clone(), made_up: false },
            GivenRegion { id: "two".parse()?, postgres: second, made_up: true },
        ])
    }
}

async fn read(
    output: Output,
    from: &str,
    regions: usize,
    asked: &Option<Partition>,
) -> anyhow::Result<(Proposal, String)> {
    let spinner = output.spinner("reading the catalogue");
    let client = connect(from).await?;
    let row = client.query_one("SELECT current_database()::text", &[]).await;
    let database: String = row.context("read name of database")?.get(0);
    let catalog = catalog::read(&client).await?;
    spinner.finish_and_clear();
    if catalog.tables.is_empty() {
        bail!("database \"{database}\" has no tables");
    }
    Ok((propose::propose(&catalog, regions, asked.as_ref()), cluster_name(&database)))
}

/// The database's name, as far as a cluster may be called so.
fn cluster_name(database: &str) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let name: String = database.to_lowercase().chars().filter(|c| allowed(*c)).take(32).collect();
    if name.is_empty() { "main".to_owned() } else { name }
}

/// What we write must be what we read.
fn check(text: &str) -> anyhow::Result<()> {
    match settings::parse(text) {
        Ok(_) => Ok(()),
        Err(mistakes) => {
            let lines: Vec<String> = mistakes.iter().map(|m| format!("  {m}")).collect();
            bail!(UsageError(format!(
                "the configuration would have mistakes:\n{}",
                lines.join("\n")
            )))
        }
    }
}

fn save(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = std::fs::File::options();
    options.write(true).create_new(true);
    // Connection strings may hold passwords.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let opened = options.open(file);
    opened
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", file.display()))
}

fn print(output: Output, proposal: &Proposal, file: &Path) -> anyhow::Result<()> {
    output.print(&format!("partition = \"{}\"", proposal.partition))?;
    output.print(&format!("{}\n", proposal.why.join("\n")))?;
    let mut table = output.table(["table", "rows", "owned", "notes"]);
    for proposed in &proposal.tables {
        let notes = proposed.notes.join("\n");
        table.add_row(vec![
            Cell::new(&proposed.name),
            Cell::new(format!("{:.0}", proposed.rows)),
            Cell::new(owned(proposed)),
            output.cell(&notes, Color::Yellow),
        ]);
    }
    output.print(&trimmed(&table))?;
    for (name, reason) in &proposal.left_out {
        output.print(&format!("not replicated: {name}, {reason}"))?;
    }
    output.print(&format!(
        "\nwrote {}; correct the addresses in it, then: domicile --config {} check",
        file.display(),
        file.display()
    ))
}

fn owned(table: &ProposedTable) -> String {
    match &table.place {
        Place::Whole => "with everything".to_owned(),
        Place::Key(columns) => format!("by {}", columns.join(", ")),
        Place::Parent { table, columns, .. } => format!("with {table} ({})", columns.join(", ")),
        Place::Reference => "as a whole".to_owned(),
        Place::Local => "not replicated".to_owned(),
    }
}

fn as_json(proposal: &Proposal, file: &Path) -> Value {
    let tables: Vec<Value> = proposal.tables.iter().map(table_as_json).collect();
    let left_out: Vec<Value> = proposal
        .left_out
        .iter()
        .map(|(name, reason)| json!({ "name": name.to_string(), "reason": reason }))
        .collect();
    json!({
        "file": file.display().to_string(),
        "partition": proposal.partition.to_string(),
        "why": proposal.why,
        "tables": tables,
        "left_out": left_out,
    })
}

fn table_as_json(table: &ProposedTable) -> Value {
    let (kind, key, parent) = match &table.place {
        Place::Whole => ("owned", None, None),
        Place::Key(columns) => ("owned", Some(columns), None),
        Place::Parent { table, columns, references } => {
            let table = table.to_string();
            let parent = json!({ "table": table, "columns": columns, "references": references });
            ("owned", None, Some(parent))
        }
        Place::Reference => ("reference", None, None),
        Place::Local => ("local", None, None),
    };
    json!({
        "name": table.name.to_string(),
        "rows": table.rows,
        "kind": kind,
        "key": key,
        "parent": parent,
        "notes": table.notes,
    })
}
