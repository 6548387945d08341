//! Is every region's database ready?
//!
//! [`survey`] reads, [`judge`] judges, this prints. Nothing stays changed in any database.

use anyhow::bail;
use clap::Args;
use comfy_table::Color;
use domicile_core::config::{Config, Region};
use domicile_core::id::RegionId;
use serde::Serialize;

use super::output::trimmed;
use super::{Context, Exit, Output, UsageError};

pub mod finding;
pub mod judge;
pub mod survey;
#[cfg(test)]
mod tests;

use finding::{Finding, Level};

#[derive(Debug, Args)]
#[command(
    after_help = "Makes and drops a temporary slot and a replication origin in each database, to see
whether it may; nothing stays changed.

Examples:
  domicile check
  domicile check --region eu
  domicile check --json | jq '.findings[] | select(.level == \"blocker\")'

Ends with 3 when there are blockers."
)]
pub struct Check {
    /// Only this region's database
    #[arg(long, value_name = "NAME")]
    region: Option<RegionId>,
}

#[derive(Serialize)]
struct Report<'a> {
    blockers: usize,
    warnings: usize,
    findings: &'a [Finding],
}

impl Check {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let regions: Vec<&Region> = match &self.region {
            None => config.regions.iter().collect(),
            Some(id) => match config.region(id) {
                Some(region) => vec![region],
                None => bail!(UsageError(format!("region \"{id}\" is not in the configuration"))),
            },
        };
        let findings = look(context.output, &config, &regions).await;
        print(context.output, &config, &findings)?;
        let blocked = findings.iter().any(|finding| finding.level == Level::Blocker);
        Ok(if blocked { Exit::Refused } else { Exit::Done })
    }
}

async fn look(output: Output, config: &Config, regions: &[&Region]) -> Vec<Finding> {
    let spinner = output.spinner("looking at every region's database");
    let surveys = regions.iter().map(|region| survey::survey(config, region));
    let surveys = futures_util::future::join_all(surveys).await;
    spinner.finish_and_clear();
    judge::judge(config, &surveys)
}

fn print(output: Output, config: &Config, findings: &[Finding]) -> anyhow::Result<()> {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (blockers, warnings) = (count(Level::Blocker), count(Level::Warn));
    if output.is_json() {
        return output.print_json(&Report { blockers, warnings, findings });
    }
    let mut table = output.table(["level", "region", "object", "finding"]);
    for finding in findings {
        let text = match finding.way_out.as_str() {
            "" => finding.what.clone(),
            way_out => format!("{}\n-> {way_out}", finding.what),
        };
        let regions = match finding.regions.len() {
            0 => "all".to_owned(),
            all if all == config.regions.len() => "all".to_owned(),
            _ => finding.regions.join(", "),
        };
        table.add_row(vec![
            level_cell(output, finding.level),
            regions.into(),
            finding.object.as_str().into(),
            text.into(),
        ]);
    }
    output.print(&trimmed(&table))?;
    output.print(&format!("\n{}", summary(blockers, warnings)))
}

fn level_cell(output: Output, level: Level) -> comfy_table::Cell {
    match level {
        Level::Blocker => output.cell("blocker", Color::Red),
        Level::Warn => output.cell("warn", Color::Yellow),
        Level::Ok => output.cell("ok", Color::Green),
    }
}

fn summary(blockers: usize, warnings: usize) -> String {
    let many = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    };
    match blockers {
        0 => format!("ready, with {}", many(warnings, "warning")),
        _ => format!("not ready: {}, {}", many(blockers, "blocker"), many(warnings, "warning")),
    }
}
