//! What were clients told, and could a database in one place have told them that?
//!
//! Clients append to lists, and every read of a list says in which order everything before it came. Two
//! things are promised of what they saw:
//!
//! - **each entity is strictly serialisable**: what its owners answered agrees with one order of all
//!   appends, and that order with the clock on the wall;
//! - **all of them together are causal**: a snapshot anywhere that shows an effect shows its causes. It
//!   may be old, and two regions may show what is independent in different orders.
//!
//! The dependencies are inferred and their cycles looked for as in Kingsbury and Alvaro, "Elle: Inferring
//! Isolation Anomalies from Experimental Observations" (VLDB 2020), by the library `adya`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use adya::{Opts, Valid, Workload};
use serde_json::{Value, json};

/// What became of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Asked for; the answer has not come, or said nothing of it.
    Unknown,
    Acknowledged,
    /// The server said that nothing was written.
    Refused,
}

/// One access of a transaction to the list or the register of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    Append {
        branch: i32,
        id: i64,
    },
    /// By whoever owns the branch, under its lock.
    Read {
        branch: i32,
        ids: Vec<i64>,
    },
    /// From a snapshot, which may be old.
    Glance {
        branch: i32,
        ids: Vec<i64>,
    },
    /// Puts `after` where `before` was.
    Swap {
        branch: i32,
        before: Option<i64>,
        after: i64,
    },
}

/// An operation begins or ends.
#[derive(Clone, Debug)]
struct Event {
    process: u64,
    /// Whose database answers glances.
    region: &'static str,
    /// `None` where it begins.
    ended: Option<Fate>,
    accesses: Vec<Access>,
}

/// Everything that clients did and were told, in the order in which they did and heard it.
#[derive(Debug, Default)]
pub struct History {
    /// What became of every write, by its number, since the beginning.
    pub fates: BTreeMap<i64, Fate>,
    /// Lists begin anew with every chapter: reads of long ones would say little more.
    pub chapter: i32,
    events: Vec<Event>,
    /// Which branches a snapshot of a region showed half a transfer of.
    torn: Vec<(&'static str, Vec<i32>)>,
    processes: u64,
    /// When a write to an entity was acknowledged last, since everybody rested.
    written: BTreeMap<i32, Instant>,
    longest_pause: Duration,
}

impl History {
    /// A client that has done nothing yet. One whose operation ended as unknown goes on as another.
    pub fn process(&mut self) -> u64 {
        self.processes += 1;
        self.processes
    }

    /// `accesses` are what is asked for: what reads find is left open.
    pub fn begin(&mut self, process: u64, region: &'static str, accesses: Vec<Access>) {
        self.note_fates(&accesses, Fate::Unknown);
        self.events.push(Event { process, region, ended: None, accesses });
    }

    /// `accesses` are those of `begin`, with what was found.
    pub fn end(&mut self, process: u64, region: &'static str, fate: Fate, accesses: Vec<Access>) {
        self.note_fates(&accesses, fate);
        if fate == Fate::Acknowledged {
            self.note_writes(&accesses);
        }
        self.events.push(Event { process, region, ended: Some(fate), accesses });
    }

    fn note_writes(&mut self, accesses: &[Access]) {
        let now = Instant::now();
        for access in accesses.iter().filter(|access| matches!(access, Access::Append { .. })) {
            if let Some(before) = self.written.insert(access.branch(), now) {
                self.longest_pause = self.longest_pause.max(now - before);
            }
        }
    }

    /// The longest time in which no write to some entity was acknowledged.
    pub fn longest_pause(&self) -> Duration {
        self.longest_pause
    }

    /// A snapshot of a region's database: lists, and branches whose accounts do not add up.
    pub fn glance(&mut self, process: u64, region: &'static str, lists: Vec<Access>, torn: &[i32]) {
        self.begin(process, region, lists.clone());
        self.end(process, region, Fate::Acknowledged, lists);
        if !torn.is_empty() {
            self.torn.push((region, torn.to_vec()));
        }
    }

    fn note_fates(&mut self, accesses: &[Access], fate: Fate) {
        for access in accesses {
            if let Access::Append { id, .. } = access {
                self.fates.insert(*id, fate);
            }
        }
    }

    /// Ends the chapter. Whoever is at something must have ended it.
    pub fn turn_over(&mut self) {
        self.events.clear();
        self.torn.clear();
        self.written.clear();
        self.longest_pause = Duration::ZERO;
        self.chapter += 1;
    }

    /// Fails with what could not have been seen. A region that comes back with a tail shows it until
    /// it is repaired: glances at the `repaired` are not looked at.
    pub fn check(&self, repaired: &BTreeSet<&str>) -> Result<(), String> {
        let accesses = self.events.iter().flat_map(|event| &event.accesses);
        let branches: BTreeSet<i32> = accesses.map(Access::branch).collect();
        for branch in branches {
            let strictly = opts(&["strict-serializable"], &[]);
            let list =
                self.lines(|_, access| access.branch() == branch && access.is_of_owned_list());
            check(&list, Workload::ListAppend, &strictly)
                .map_err(|why| format!("the list of branch {branch}: {why}"))?;
            let linearizable = Opts { linearizable_keys: true, ..strictly };
            let register = self.lines(|_, access| access.branch() == branch && access.is_swap());
            check(&register, Workload::RwRegister, &linearizable)
                .map_err(|why| format!("the register of branch {branch}: {why}"))?;
        }
        if let Some((region, torn)) = self.torn.iter().find(|(of, _)| !repaired.contains(of)) {
            return Err(format!("a snapshot of {region} shows half a transfer of {torn:?}"));
        }
        let causal =
            opts(&[], &["internal", "duplicate-elements", "G1-process", "G-single-process"]);
        let lists = self.lines(|event, access| {
            let left_out = access.is_glance() && repaired.contains(event.region);
            !access.is_swap() && !left_out
        });
        check(&lists, Workload::ListAppend, &causal).map_err(|why| format!("all lists: {why}"))
    }

    /// As Elle's tools read it: one event in a line, its accesses as micro-operations.
    fn lines(&self, wanted: impl Fn(&Event, &Access) -> bool) -> String {
        let mut lines = String::new();
        for event in &self.events {
            let known = event.ended == Some(Fate::Acknowledged);
            let accesses = event.accesses.iter().filter(|access| wanted(event, access));
            let value: Vec<Value> = accesses.flat_map(|access| access.micro(known)).collect();
            let kind = match event.ended {
                None => "invoke",
                Some(Fate::Acknowledged) => "ok",
                Some(Fate::Refused) => "fail",
                Some(Fate::Unknown) => "info",
            };
            if !value.is_empty() {
                let line = json!({"type": kind, "process": event.process, "value": value});
                writeln!(lines, "{line}").unwrap();
            }
        }
        lines
    }
}

impl Access {
    fn branch(&self) -> i32 {
        match self {
            Self::Append { branch, .. }
            | Self::Read { branch, .. }
            | Self::Glance { branch, .. }
            | Self::Swap { branch, .. } => *branch,
        }
    }

    fn is_of_owned_list(&self) -> bool {
        matches!(self, Self::Append { .. } | Self::Read { .. })
    }

    fn is_glance(&self) -> bool {
        matches!(self, Self::Glance { .. })
    }

    fn is_swap(&self) -> bool {
        matches!(self, Self::Swap { .. })
    }

    /// What is read is open (`null`) until it is known.
    fn micro(&self, known: bool) -> Vec<Value> {
        match self {
            Self::Append { branch, id } => vec![json!(["append", branch, id])],
            Self::Read { branch, ids } | Self::Glance { branch, ids } => {
                vec![json!(["r", branch, known.then_some(ids)])]
            }
            Self::Swap { branch, before, after } => {
                let before = if known { *before } else { None };
                vec![json!(["r", branch, before]), json!(["w", branch, after])]
            }
        }
    }
}

fn opts(models: &[&str], anomalies: &[&str]) -> Opts {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let (models, anomalies) = (owned(models), owned(anomalies));
    Opts { models, anomalies, timeout: Duration::from_secs(20), ..Opts::default() }
}

fn check(lines: &str, workload: Workload, opts: &Opts) -> Result<(), String> {
    let history = adya::History::from_json(lines).map_err(|error| error.to_string())?;
    let report = adya::check(&history, workload, opts);
    // Nothing depends on anything: nothing is wrong either.
    if report.valid == Valid::True || report.anomaly_types == ["empty-transaction-graph"] {
        return Ok(());
    }
    let mut text = format!("{:?}", report.anomaly_types);
    for anomaly in report.anomalies.values().flatten().take(3) {
        write!(text, "\n{}: {}", anomaly.kind, anomaly.explanation).unwrap();
    }
    Err(text)
}
