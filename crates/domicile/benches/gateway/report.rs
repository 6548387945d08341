//! What came of it: a table for a person, figures for a machine.
//!
//! A figure that was not measured is absent, never zero.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::contender::Contender;
use crate::idle::Idle;
use crate::pgbench::Sample;
use crate::statistics::median;

const CONDITIONS: &[&str] = &[
    "one PostgreSQL with fsync off, pgbench and what is between them on one machine, by turns",
    "pgbench at scale 10 with two threads at most; medians of all runs",
    "ours: in one process with the benchmark, no TLS, every region writes, one session at PostgreSQL for each client",
    "PgBouncer: pool_mode = session, its defaults otherwise",
    "added: what a transaction takes more than directly",
    "idle clients: an agent with sharing = \"transaction\", PgBouncer with pool_mode = transaction, one query each, no password",
];

#[derive(Serialize)]
pub struct Report {
    cores: usize,
    postgres: String,
    runs_each: u32,
    seconds_each: u32,
    conditions: &'static [&'static str],
    pub runs: Vec<Run>,
    pub idle: Vec<Idle>,
}

type Figure = fn(&Sample) -> f64;

/// One load.
#[derive(Serialize)]
pub struct Run {
    name: String,
    ours_tps: Option<f64>,
    direct_tps: Option<f64>,
    pgbouncer_tps: Option<f64>,
    ratio_direct: Option<f64>,
    ratio_pgbouncer: Option<f64>,
    p50_added_us: Option<f64>,
    p99_added_us: Option<f64>,
    pgbouncer_p50_added_us: Option<f64>,
    pgbouncer_p99_added_us: Option<f64>,
    #[serde(skip)]
    samples: BTreeMap<Contender, Vec<Sample>>,
}

impl Run {
    pub fn new(name: String) -> Self {
        Self {
            name,
            ours_tps: None,
            direct_tps: None,
            pgbouncer_tps: None,
            ratio_direct: None,
            ratio_pgbouncer: None,
            p50_added_us: None,
            p99_added_us: None,
            pgbouncer_p50_added_us: None,
            pgbouncer_p99_added_us: None,
            samples: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, contender: Contender, sample: Sample) {
        self.samples.entry(contender).or_default().push(sample);
        let of = |contender, figure: Figure| {
            let figures: Vec<f64> = self.samples.get(&contender)?.iter().map(figure).collect();
            median(&figures)
        };
        let tps = |contender| of(contender, |sample| sample.tps);
        let added =
            |contender, figure| Some(of(contender, figure)? - of(Contender::Direct, figure)?);
        let by = |one: Option<f64>, other: Option<f64>| Some(one? / other?);
        let (ours, direct) = (tps(Contender::Ours), tps(Contender::Direct));
        let pgbouncer = tps(Contender::Pgbouncer);
        let (p50, p99): (Figure, Figure) = (|sample| sample.p50_us, |sample| sample.p99_us);
        let added = [
            added(Contender::Ours, p50),
            added(Contender::Ours, p99),
            added(Contender::Pgbouncer, p50),
            added(Contender::Pgbouncer, p99),
        ];
        (self.ours_tps, self.direct_tps, self.pgbouncer_tps) = (ours, direct, pgbouncer);
        (self.ratio_direct, self.ratio_pgbouncer) = (by(ours, direct), by(ours, pgbouncer));
        [
            self.p50_added_us,
            self.p99_added_us,
            self.pgbouncer_p50_added_us,
            self.pgbouncer_p99_added_us,
        ] = added;
    }

    /// While it is measured.
    pub fn line(&self) -> String {
        let figure = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.0}"));
        format!(
            "{}: ours {}, direct {}, PgBouncer {} transactions a second",
            self.name,
            figure(self.ours_tps),
            figure(self.direct_tps),
            figure(self.pgbouncer_tps)
        )
    }
}

impl Report {
    pub fn new(postgres: String, runs_each: u32, seconds_each: u32) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let (runs, idle) = (Vec::new(), Vec::new());
        Self { cores, postgres, runs_each, seconds_each, conditions: CONDITIONS, runs, idle }
    }

    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(fs::write(file, serde_json::to_string_pretty(self)? + "\n")?)
    }

    pub fn words(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header([
            "load",
            "direct /s",
            "ours /s",
            "PgBouncer /s",
            "ours / direct",
            "ours / PgBouncer",
            "added p50, ours (PgBouncer)",
            "added p99",
        ]);
        let number = |value: Option<f64>, digits: usize| {
            value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        for run in &self.runs {
            let added = |ours, theirs| format!("{} ({}) µs", number(ours, 0), number(theirs, 0));
            let mut row = vec![Cell::new(&run.name)];
            let figures = [
                number(run.direct_tps, 0),
                number(run.ours_tps, 0),
                number(run.pgbouncer_tps, 0),
                number(run.ratio_direct, 2),
                number(run.ratio_pgbouncer, 2),
                added(run.p50_added_us, run.pgbouncer_p50_added_us),
                added(run.p99_added_us, run.pgbouncer_p99_added_us),
            ];
            row.extend(figures.map(|text| Cell::new(text).set_alignment(CellAlignment::Right)));
            table.add_row(row);
        }
        let conditions: String =
            self.conditions.iter().map(|condition| format!("- {condition}\n")).collect();
        let idle: String = self.idle.iter().map(|idle| idle.line() + "\n").collect();
        format!(
            "{table}\n{idle}\nPostgreSQL {}, {} cores.\n{conditions}",
            self.postgres, self.cores
        )
    }
}
