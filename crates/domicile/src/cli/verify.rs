//! Do all regions hold the same rows?

use std::collections::BTreeMap;

use clap::Args;
use comfy_table::Color;
use domicile_core::config::Config;
use domicile_core::id::{RegionId, TableName};
use serde::Serialize;

use super::output::trimmed;
use super::outside::read_ownership;
use super::{Context, Exit, UsageError};
use crate::postgres::compare::Key;
use crate::verify::{Compared, Differing, Then, Verifier};

/// Rows of one table that are printed as text.
const ROWS_PRINTED_MAX: usize = 20;

#[derive(Debug, Args)]
#[command(
    after_help = "Compares checksums of ranges while writes go on, and looks again at rows that differ until
everything on its way has arrived. Computed columns are not compared.

With --repair, every region that is not a row's owner reads the row again from its owner; what was
there goes to that region's conflict journal. Rows of a table without a key are not repaired.

Examples:
  domicile verify
  domicile verify --table public.accounts --json
  domicile verify --region eu --region us
  domicile verify --repair

Ends with 3 when rows differ, and with 1 when something could not be compared."
)]
pub struct Verify {
    /// Only this table; may be given several times
    #[arg(long, value_name = "TABLE")]
    table: Vec<TableName>,
    /// Only these regions, two or more
    #[arg(long, value_name = "NAME")]
    region: Vec<RegionId>,
    /// Make differing rows what their owners have
    #[arg(long)]
    repair: bool,
}

#[derive(Default, Serialize)]
struct Report {
    /// Every table was compared, and no row differs any more.
    alike: bool,
    tables: Vec<TableReport>,
}

#[derive(Default, Serialize)]
struct TableReport {
    table: String,
    /// In the region that has most of them.
    rows: u64,
    differing_total: u64,
    /// At most 1000 of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differing: Vec<RowReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<u64>,
    /// Rows that changed as long as they were looked at, or whose changes did not arrive.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    open: Vec<BTreeMap<String, Option<String>>>,
    /// Why the table cannot be alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    mismatch: Option<String>,
    /// Why it was not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct RowReport {
    key: BTreeMap<String, Option<String>>,
    /// A checksum of the row in each region; null where there is no such row.
    regions: BTreeMap<String, Option<String>>,
    /// Whose word counts; null when the regions do not agree on that.
    owner: Option<String>,
}

impl Verify {
    /// Everything everywhere, with repair.
    pub(super) fn all() -> Self {
        Self { table: Vec::new(), region: Vec::new(), repair: true }
    }

    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let verifier = Verifier::new(&config, &self.regions(&config)?)?;
        let tables = self.tables(&verifier)?;
        let bar = context.output.bar("comparing");
        for table in &tables {
            // A region that does not answer is told with its table.
            bar.inc_length(verifier.rows_estimate(table).await.unwrap_or(0));
        }
        let mut report = Report { alike: true, tables: Vec::new() };
        for table in &tables {
            bar.set_message(table.to_string());
            let advance = |rows| {
                bar.inc(rows);
                bar.set_length(bar.length().unwrap_or(0).max(bar.position()));
            };
            let entry = match self.verify(&verifier, &config, table, &advance).await {
                Ok(entry) => entry,
                Err(error) => TableReport {
                    table: table.to_string(),
                    error: Some(format!("{error:#}")),
                    ..TableReport::default()
                },
            };
            report.alike &= entry.alike();
            report.tables.push(entry);
        }
        bar.finish_and_clear();
        if context.output.is_json() {
            context.output.print_json(&report)?;
        } else {
            print(context, &report)?;
        }
        Ok(report.exit())
    }

    fn regions(&self, config: &Config) -> anyhow::Result<Vec<RegionId>> {
        if self.region.is_empty() {
            return Ok(config.region_ids());
        }
        let unknown = self.region.iter().find(|region| config.region(region).is_none());
        if let Some(region) = unknown {
            return Err(
                UsageError(format!("region \"{region}\" is not in the configuration")).into()
            );
        }
        let mut regions = self.region.clone();
        regions.sort();
        regions.dedup();
        if regions.len() < 2 {
            return Err(UsageError("one region has nothing to be compared with".into()).into());
        }
        Ok(regions)
    }

    fn tables(&self, verifier: &Verifier) -> anyhow::Result<Vec<TableName>> {
        let known = verifier.tables();
        if self.table.is_empty() {
            return Ok(known);
        }
        match self.table.iter().find(|table| !known.contains(table)) {
            Some(table) => {
                let text = format!("table \"{table}\" is not replicated by the configuration");
                Err(UsageError(text).into())
            }
            None => Ok(self.table.clone()),
        }
    }

    async fn verify(
        &self,
        verifier: &Verifier,
        config: &Config,
        table: &TableName,
        advance: &(dyn Fn(u64) + Send + Sync),
    ) -> anyhow::Result<TableReport> {
        let mut report = TableReport { table: table.to_string(), ..TableReport::default() };
        let ownership = read_ownership(config).await?;
        let then = if self.repair { Then::Repair } else { Then::Tell };
        let compared = match verifier.compare(table, &ownership, then, advance).await? {
            Ok(compared) => compared,
            Err(mismatch) => {
                report.mismatch = Some(mismatch);
                return Ok(report);
            }
        };
        let Compared { key: columns, rows, differing, differing_total, repaired, open } = compared;
        report.repaired = self.repair.then_some(repaired);
        report.rows = rows;
        report.differing_total = differing_total;
        report.differing = differing.iter().map(|row| RowReport::of(&columns, row)).collect();
        report.open = open.iter().map(|key| named(&columns, key)).collect();
        Ok(report)
    }
}

impl Report {
    fn exit(&self) -> Exit {
        let some = |test: fn(&TableReport) -> bool| self.tables.iter().any(test);
        if some(TableReport::differs) {
            Exit::Refused
        } else if some(|table| !table.alike()) {
            Exit::Failed
        } else {
            Exit::Done
        }
    }
}

impl TableReport {
    fn differs(&self) -> bool {
        self.mismatch.is_some() || self.differing_total > self.repaired.unwrap_or(0)
    }

    fn alike(&self) -> bool {
        !self.differs() && self.open.is_empty() && self.error.is_none()
    }

    fn state(&self) -> String {
        if let Some(error) = &self.error {
            return format!("not compared: {error}");
        }
        if let Some(mismatch) = &self.mismatch {
            return mismatch.clone();
        }
        let mut said = Vec::new();
        match (self.differing_total, self.repaired) {
            (0, _) => {}
            (differing, None) => said.push(format!("{differing} differ")),
            (differing, Some(repaired)) => {
                said.push(format!("{differing} differed, {repaired} are repaired"));
            }
        }
        if !self.open.is_empty() {
            said.push(format!("{} kept changing", self.open.len()));
        }
        if said.is_empty() { "alike".to_owned() } else { said.join(", ") }
    }
}

impl RowReport {
    fn of(columns: &[String], row: &Differing) -> Self {
        let shown = |hash: i64| format!("{hash:016x}");
        let regions = row.hashes.iter();
        Self {
            key: named(columns, &row.key),
            regions: regions.map(|(region, hash)| (region.to_string(), hash.map(shown))).collect(),
            owner: row.owner.as_ref().map(ToString::to_string),
        }
    }
}

/// A row that has no key is known by its checksum.
fn named(columns: &[String], key: &Key) -> BTreeMap<String, Option<String>> {
    if columns.is_empty() {
        return key.iter().map(|hash| ("(row)".to_owned(), hash.clone())).collect();
    }
    columns.iter().cloned().zip(key.iter().cloned()).collect()
}

fn print(context: &Context, report: &Report) -> anyhow::Result<()> {
    let output = context.output;
    let mut tables = output.table(["TABLE", "ROWS", "STATE"]);
    for table in &report.tables {
        let colour = if table.alike() { Color::Green } else { Color::Red };
        tables.add_row([
            output.cell(&table.table, Color::Reset),
            output.cell(&table.rows.to_string(), Color::Reset),
            output.cell(&table.state(), colour),
        ]);
    }
    output.print(&trimmed(&tables))?;
    if report.tables.iter().all(|table| table.differing.is_empty()) {
        return Ok(());
    }
    let mut rows = output.table(["TABLE", "KEY", "OWNER", "ROW"]);
    for table in &report.tables {
        for row in table.differing.iter().take(ROWS_PRINTED_MAX) {
            let key: Vec<String> = row
                .key
                .iter()
                .map(|(column, value)| format!("{column}={}", value.as_deref().unwrap_or("null")))
                .collect();
            let regions: Vec<String> = row
                .regions
                .iter()
                .map(|(region, hash)| format!("{region} {}", hash.as_deref().unwrap_or("none")))
                .collect();
            rows.add_row([
                output.cell(&table.table, Color::Reset),
                output.cell(&key.join(" "), Color::Reset),
                output.cell(row.owner.as_deref().unwrap_or("disputed"), Color::Reset),
                output.cell(&regions.join(", "), Color::Yellow),
            ]);
        }
        let more = table.differing_total.saturating_sub(ROWS_PRINTED_MAX as u64);
        if more > 0 {
            rows.add_row([
                table.table.clone(),
                format!("and {more} more"),
                String::new(),
                String::new(),
            ]);
        }
    }
    output.print(&format!("\n{}", trimmed(&rows)))
}
