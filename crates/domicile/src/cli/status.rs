//! How is every region, and how far behind is it?

use clap::Args;
use comfy_table::{Cell, Color};
use domicile_core::id::RegionId;
use domicile_core::time::Wall;
use serde_json::json;

use super::output::trimmed;
use super::outside::ask_all;
use super::{Context, Exit, Output};
use crate::status::{FreezeStatus, RegionStatus, SeedingStatus};

#[derive(Debug, Args)]
#[command(
    after_help = "Asks every agent. Ends with 1 when a region or witness does not answer, or a region cannot
write; one that joins need not write yet.

Examples:
  domicile status
  domicile status --json | jq '.[] | {region, lease_live, journal_entries}'"
)]
pub struct Status {}

impl Status {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let statuses = ask_all(&config).await;
        let well = |status: &RegionStatus| match status.witness {
            true => status.directory_connected,
            false => status.lease_live || status.seeding.is_some(),
        };
        let well = statuses.values().all(|s| s.as_ref().is_ok_and(well));
        if context.output.is_json() {
            let all: Vec<serde_json::Value> = statuses
                .iter()
                .map(|(region, status)| match status {
                    Ok(status) => serde_json::to_value(status).unwrap_or_default(),
                    Err(why) => json!({ "region": region.as_str(), "unreachable": why }),
                })
                .collect();
            context.output.print_json(&all)?;
        } else {
            context.output.print(&regions(&context.output, &statuses))?;
            context.output.print(&links(&context.output, &statuses))?;
            let lines = frozen(&statuses).into_iter().chain(unready(&statuses));
            for line in lines.chain(drills(&statuses)) {
                context.output.print(&line)?;
            }
        }
        Ok(if well { Exit::Done } else { Exit::Failed })
    }
}

type Statuses = std::collections::BTreeMap<RegionId, Result<RegionStatus, String>>;

fn regions(output: &Output, statuses: &Statuses) -> String {
    let mut table =
        output.table(["REGION", "STATE", "OWNS", "LOG END", "JOURNAL", "TO REPAIR", "CONDITIONS"]);
    for (region, status) in statuses {
        let name = output.cell(region.as_str(), Color::Reset);
        let Ok(status) = status else {
            let why = status.as_ref().err().map_or("", String::as_str);
            table.add_row([
                name,
                output.cell("unreachable", Color::Red),
                output.cell(why, Color::Reset),
            ]);
            continue;
        };
        let state = match &status.seeding {
            Some(seeding) => output.cell(&joining(seeding), Color::Yellow),
            None if status.witness && status.directory_connected => {
                output.cell("witness", Color::Green)
            }
            None if status.witness => output.cell("witness, no directory", Color::Yellow),
            None if status.lease_live => output.cell("writable", Color::Green),
            None => output.cell("read-only", Color::Yellow),
        };
        let owns: Vec<&str> = status.owns.iter().map(|o| o.partitions.as_str()).collect();
        let conditions: Vec<&str> = status.conditions.iter().map(|c| c.name.as_str()).collect();
        let owns = if owns.is_empty() { "nothing".to_owned() } else { owns.join(" ") };
        table.add_row([
            name,
            state,
            output.cell(&owns, Color::Reset),
            output.cell(&status.log_end, Color::Reset),
            journal(output, status),
            output.cell(&status.repairs_pending.to_string(), Color::Reset),
            output.cell(&conditions.join(" "), Color::Red),
        ]);
    }
    trimmed(&table)
}

fn joining(seeding: &SeedingStatus) -> String {
    match seeding.rows_estimate.max(seeding.rows) {
        0 => format!("joining: {}", seeding.step),
        all => format!("joining: {} ({} %)", seeding.step, seeding.rows * 100 / all),
    }
}

fn journal(output: &Output, status: &RegionStatus) -> Cell {
    match (status.journal_entries, status.journal_open) {
        (all, 0) => output.cell(&all.to_string(), Color::Reset),
        (all, open) => output.cell(&format!("{all} ({open} open)"), Color::Yellow),
    }
}

fn links(output: &Output, statuses: &Statuses) -> String {
    let mut table =
        output.table(["FROM", "TO", "LINK", "LAG", "STALENESS", "EXPOSURE", "LEASE SILENT"]);
    // Nobody follows what a witness writes: it writes nothing.
    let regions =
        statuses.iter().filter_map(|(region, status)| Some((region, status.as_ref().ok()?)));
    for (region, status) in regions.filter(|(_, status)| !status.witness) {
        for peer in &status.peers {
            let link = if peer.connected {
                output.cell("up", Color::Green)
            } else {
                output.cell("down", Color::Red)
            };
            let silent = format!("{} ms", peer.lease_silent_ms);
            let lease = match peer.probation_ms.div_ceil(60_000) {
                0 if peer.witness => output.cell("-", Color::Reset),
                0 => output.cell(&silent, Color::Reset),
                left => {
                    output.cell(&format!("{silent}, on probation for {left} min"), Color::Yellow)
                }
            };
            table.add_row([
                output.cell(region.as_str(), Color::Reset),
                output.cell(&peer.region, Color::Reset),
                link,
                output.cell(&format!("{} B", peer.lag_bytes), Color::Reset),
                output.cell(&format!("{} ms", peer.staleness_ms), Color::Reset),
                output.cell(&format!("{} ms", peer.exposure_ms), Color::Reset),
                lease,
            ]);
        }
    }
    format!("\n{}", trimmed(&table))
}

/// That owners are not to change, where a person has wanted that. All regions know the same.
fn frozen(statuses: &Statuses) -> Option<String> {
    let FreezeStatus { of, by, reason } =
        statuses.values().flatten().find_map(|status| status.freeze.clone())?;
    Some(format!("ownership is frozen ({of}), as {by} wanted: {reason}"))
}

/// What each region knows to be in the way of a failover.
fn unready(statuses: &Statuses) -> Vec<String> {
    let told = statuses.iter().filter_map(|(by, status)| Some((by, status.as_ref().ok()?)));
    let lines = told.flat_map(|(by, status)| {
        let unready = status.readiness.iter().filter(|of| !of.ready);
        unready.map(move |of| {
            format!("not ready for a failover of {}, says {by}: {}", of.lost, of.against.join("; "))
        })
    });
    lines.collect()
}

/// When there was a drill last and when the next one is due. All regions know the same.
fn drills(statuses: &Statuses) -> Option<String> {
    let told = statuses.values().flatten().map(|status| &status.drills);
    let last = told.clone().filter_map(|drills| drills.last_success_at_ms).max().map(Wall);
    let next = told.filter_map(|drills| drills.next_at_ms).max().map(Wall);
    let last = last.map(|at| format!("the last one that has succeeded was started {at}"));
    let next = next.map(|at| format!("the next one is due {at}"));
    let parts: Vec<String> = last.into_iter().chain(next).collect();
    (!parts.is_empty()).then(|| format!("drills: {}", parts.join("; ")))
}
