//! What came of it: a table for a person, figures for a machine.
//!
//! A figure that was not measured is absent, never zero.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use comfy_table::{Cell, CellAlignment, Table, presets};
use domicile::lab::cluster::PgBin;
use serde::Serialize;

use crate::group::{Backlog, SETTINGS, System};
use crate::statistics::median;
use crate::workload::Workload;
use crate::{cpu, lag, retained, slow_down};

#[derive(Serialize)]
pub struct Report {
    machine: Machine,
    postgres: String,
    /// Of every cluster.
    settings: BTreeMap<&'static str, &'static str>,
    conditions: &'static [&'static str],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workloads: Vec<Figures>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lag: Vec<lag::Figures>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slow_down: Vec<slow_down::Figures>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpu: Vec<cpu::Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained: Option<retained::Figures>,
}

#[derive(Serialize)]
struct Machine {
    cores: usize,
    processor: Option<String>,
}

/// One workload with one kind of backlog.
#[derive(Serialize)]
pub struct Figures {
    pub name: &'static str,
    pub backlog: Backlog,
    transactions: u32,
    rows: u32,
    /// Medians.
    ours_s: Option<f64>,
    native_s: Option<f64>,
    pglogical_s: Option<f64>,
    /// Native seconds by ours.
    ratio: Option<f64>,
    /// In the order in which they were measured.
    runs_s: BTreeMap<System, Vec<f64>>,
}

const CONDITIONS: &[&str] = &[
    "two clusters for each system, all on one machine, the systems by turns",
    "a run begins with VACUUM ANALYZE at both ends; each workload has clusters of its own",
    "the backlog is made with synchronous_commit = off and fsync = off; a CHECKPOINT follows at both ends with fsync = on",
    "time is from the start of what was down (processes included) until the target shows a marker that was committed last",
    "after every run the rows of all tables are compared by checksum",
    "peer_down: the target's agent was down, the source's agent was up; agent_down: both agents were down",
    "native and pglogical: the subscription was disabled, in both cases; otherwise their defaults",
    "ours: rpo = \"none\", partition = \"whole\", no link or relay between the regions",
    "lag: from when the answer to a probe's COMMIT is here until an answer of the target shows it, by one clock; the target is asked every millisecond; a probe every 5 ms, inserted beside pgbench's updates",
    "lag, slow_down, cpu: single-row updates at random by 8 clients, synchronous_commit = on, fsync = on, a CHECKPOINT before",
    "slow_down: latency is pgbench's, from when the transaction was due; both ends run on the machine, so the target's work takes its share",
    "cpu: of a server and its agent, children that ended included; the directory's is not; with the backlog only draining counts, at a steady rate the writing, too",
    "retained: single-row updates while the peer is down, ten CHECKPOINTs afterwards",
];

impl Report {
    pub fn new() -> anyhow::Result<Self> {
        let version = Command::new(PgBin::find(None)?.program("postgres"))
            .arg("--version")
            .output()
            .context("ask for the version")?;
        let processor = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        Ok(Self {
            machine: Machine {
                cores: std::thread::available_parallelism().map_or(0, usize::from),
                processor,
            },
            postgres: String::from_utf8_lossy(&version.stdout).trim().to_owned(),
            settings: SETTINGS.into_iter().chain([("wal_level", "logical")]).collect(),
            conditions: CONDITIONS,
            workloads: Vec::new(),
            lag: Vec::new(),
            slow_down: Vec::new(),
            cpu: Vec::new(),
            retained: None,
        })
    }

    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).context("make the report's folder")?;
        }
        std::fs::write(file, serde_json::to_string_pretty(self)? + "\n").context("write the report")
    }

    /// Where it was measured, in one line.
    pub fn about(&self) -> String {
        let version = self.postgres.split_whitespace().nth(2).unwrap_or_default();
        format!("PostgreSQL {version}, both ends on one machine with {} cores", self.machine.cores)
    }

    /// All of it, for a person.
    pub fn words(&self) -> String {
        let mut words = Vec::new();
        if !self.workloads.is_empty() {
            words.push(self.catch_up().to_string());
        }
        if !self.lag.is_empty() {
            words.push(lag::show(&self.lag).to_string());
            words.extend(lag::bar(&self.lag));
        }
        if !self.slow_down.is_empty() {
            words.push(slow_down::show(&self.slow_down).to_string());
        }
        if !self.cpu.is_empty() {
            words.push(cpu::show(&self.cpu).to_string());
        }
        words.extend(self.retained.as_ref().map(|figures| retained::show(figures).to_string()));
        words.join("\n\n")
    }

    fn catch_up(&self) -> Table {
        let mut table =
            table(["workload", "backlog", "ours s", "native s", "pglogical s", "native / ours"]);
        for figures in &self.workloads {
            table.add_row([
                Cell::new(figures.name),
                Cell::new(figures.backlog.words()),
                number(figures.ours_s, 2),
                number(figures.native_s, 2),
                number(figures.pglogical_s, 2),
                number(figures.ratio, 2),
            ]);
        }
        table
    }
}

/// An empty table that can be put into a page.
pub fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    table
}

/// A cell with a figure of so many decimals, or with none.
pub fn number(value: Option<f64>, decimals: usize) -> Cell {
    let text = value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"));
    Cell::new(text).set_alignment(CellAlignment::Right)
}

impl Figures {
    pub fn new(workload: Workload, backlog: Backlog, runs_s: BTreeMap<System, Vec<f64>>) -> Self {
        let of = |system| runs_s.get(&system).and_then(|runs| median(runs));
        let (ours_s, native_s) = (of(System::Ours), of(System::Native));
        Self {
            name: workload.name(),
            backlog,
            transactions: workload.transactions(),
            rows: workload.transactions() * workload.rows(),
            ours_s,
            native_s,
            pglogical_s: of(System::Pglogical),
            ratio: ours_s.zip(native_s).map(|(ours, native)| native / ours),
            runs_s,
        }
    }

    /// The median of one system.
    pub fn seconds(&self, system: System) -> Option<f64> {
        match system {
            System::Ours => self.ours_s,
            System::Native => self.native_s,
            System::Pglogical => self.pglogical_s,
        }
    }
}
