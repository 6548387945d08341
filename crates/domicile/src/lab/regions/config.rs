//! What world should the lab make?

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::lab::cluster::{LabError, PgBin};
use crate::lab::skew;

/// What world to make.
#[derive(Clone, Debug)]
pub struct RegionsConfig {
    pub names: Vec<String>,
    /// Those that only hold logs.
    pub witnesses: Vec<String>,
    /// As in `hash(branch_id, 12)` or `whole`.
    pub partition: String,
    /// How many partitions that makes, one for all reference tables included.
    pub partitions: u32,
    /// `0`, a duration or `none`.
    pub rpo: String,
    /// There and back between two regions.
    pub round_trip: Duration,
    /// Whether there are links, which may be slow and may be cut; else regions meet directly.
    pub links: bool,
    pub lease: Duration,
    pub automatic_failover: bool,
    /// How long a region is silent before another one calls it so.
    pub suspect_after: Duration,
    pub bin: PgBin,
    /// Regions whose PostgreSQL is another than `bin`.
    pub other_bins: BTreeMap<String, PgBin>,
    /// Go after the lab's own settings in every region's `postgresql.conf`, so they win.
    pub postgres: Vec<(String, String)>,
    /// Goes after the lab's own connection string where agents and commands read it, so it wins.
    pub login: String,
    /// The size of a disk for each server's WAL and of one for each agent's logs, which can be
    /// filled; absent, they are in the folder.
    pub disk_bytes: Option<u64>,
    /// Members of an etcd that is the directory; without any there is an embedded one. Each region asks
    /// another one first.
    pub etcd: Vec<String>,
    /// Whether processes speak with each other in TLS.
    pub tls: bool,
    /// Where the application of each region answers HTTP; regions have doors where there is one.
    pub apps: BTreeMap<String, SocketAddr>,
    /// Gateways take no session in the clear.
    pub require_tls: bool,
    /// More of the configuration's `[gateway]`, a key a line.
    pub gateway: String,
    /// Kept afterwards; a temporary one that goes when it is absent.
    pub keep: Option<PathBuf>,
    /// How many seconds the clock of a region's machine is ahead of the others', of its agent and its server; behind
    /// where it is negative.
    pub clocks: BTreeMap<String, i64>,
    /// Runs in every region before its agent starts, so it must do the same everywhere.
    pub seed_sql: String,
    /// The zone that agents answer for, if they do.
    pub zone: Option<String>,
    /// More of the configuration, as in `[log]`.
    pub more: String,
    /// The `[[table]]` part of the configuration.
    pub tables: String,
    /// The `domicile` program: in a test `env!("CARGO_BIN_EXE_domicile")`, else ourselves.
    pub binary: PathBuf,
}

impl RegionsConfig {
    /// Three regions 40 ms apart that share `partitions` partitions by the hash of `column`.
    pub fn three(binary: PathBuf, bin: PgBin, column: &str, partitions: u32) -> Self {
        Self {
            names: ["eu", "us", "ap"].map(str::to_owned).to_vec(),
            witnesses: Vec::new(),
            partition: format!("hash({column}, {partitions})"),
            partitions,
            rpo: "0".to_owned(),
            round_trip: Duration::from_millis(40),
            links: true,
            lease: Duration::from_secs(3),
            automatic_failover: true,
            suspect_after: Duration::from_secs(2),
            bin,
            other_bins: BTreeMap::new(),
            postgres: Vec::new(),
            login: String::new(),
            disk_bytes: None,
            etcd: Vec::new(),
            tls: false,
            apps: BTreeMap::new(),
            require_tls: false,
            gateway: String::new(),
            keep: None,
            clocks: BTreeMap::new(),
            seed_sql: String::new(),
            zone: None,
            more: String::new(),
            tables: String::new(),
            binary,
        }
    }

    /// Of all processes of a region.
    pub(super) fn environment(&self, region: &str) -> Result<Vec<(String, String)>, LabError> {
        self.clocks.get(region).map_or(Ok(Vec::new()), |seconds| skew::environment(*seconds))
    }
}
