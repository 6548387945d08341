//! How does one region see itself and the others? The document behind `domicile status --json`.

use std::collections::{BTreeMap, BTreeSet};

use domicile_core::continuity::halts;
use domicile_core::id::{Origin, RegionId};
use domicile_core::lsn::{Frontier, Lsn};
use domicile_core::outage::Probe;
use domicile_core::progress::{Exposure, Pace};
use domicile_core::runbook::{OpenWriter, Seeding};
use domicile_core::time::Millis;
use serde::{Deserialize, Serialize};

use crate::apply;
use crate::log::Logs;

/// One region, as its own agent sees it. Durations are in milliseconds, LSNs as PostgreSQL prints
/// them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RegionStatus {
    pub region: String,
    /// It holds logs and has no PostgreSQL: much of what follows says nothing then.
    #[serde(default)]
    pub witness: bool,
    /// The origin of what this region writes now, as in `eu-1`.
    pub origin: String,
    pub postgres_reachable: bool,
    /// Version number as `server_version_num`; 0 while unknown.
    pub postgres_version: u32,
    /// May this region's PostgreSQL admit writes to what it owns, right now?
    pub lease_live: bool,
    /// The regions that renew its lease while the directory does not.
    #[serde(default)]
    pub promised_by: Vec<String>,
    pub owns: Vec<OwnedRange>,
    /// Those of them that nobody may write yet.
    #[serde(default)]
    pub not_opened: Vec<String>,
    /// Whether it owns the canary partition, of which `owns` does not speak; absent where an older
    /// Domicile runs, which knows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owns_canary: Option<bool>,
    /// The directory's revision of ownership that guard and gateway go by.
    pub ownership_seen: u64,
    /// The revision of ownership that this status goes by, or a later one.
    #[serde(default)]
    pub ownership_read: u64,
    pub directory_connected: bool,
    /// Where the directory is to move to etcd, or has moved; absent where nothing is to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_move: Option<DirectoryMoveStatus>,
    /// End of this region's own replication log.
    pub log_end: String,
    /// Up to where PostgreSQL was told that its commits are safe.
    pub confirmed: String,
    /// Origin -> end of our copy of its log.
    pub flushed: BTreeMap<String, String>,
    /// Origin -> what our tables show.
    pub applied: BTreeMap<String, String>,
    /// Origin -> what our tables would show after a crash of PostgreSQL.
    #[serde(default)]
    pub durable: BTreeMap<String, String>,
    /// Origin -> up to where our copy of its log is trimmed.
    #[serde(default)]
    pub trimmed: BTreeMap<String, String>,
    /// Bytes of all logs on this region's disk.
    #[serde(default)]
    pub log_bytes: u64,
    pub peers: Vec<PeerStatus>,
    pub captured_transactions_total: u64,
    /// Commits of this region's own, in the mean of the last minute.
    #[serde(default)]
    pub commits_per_s: u64,
    /// Bytes of their WAL, likewise.
    #[serde(default)]
    pub wal_bytes_per_s: u64,
    /// Its transactions that hold up a hand-over, the oldest first; ten at most.
    #[serde(default)]
    pub open_writers: Vec<OpenWriterStatus>,
    pub applied_transactions_total: u64,
    /// Rows in this region's conflict journal.
    pub journal_entries: u64,
    /// Those of them that wait for a person.
    #[serde(default)]
    pub journal_open: u64,
    /// The same entries, by kind and by what became of them.
    #[serde(default)]
    pub journal: Vec<JournalCount>,
    /// Rows that still wait to be repaired from a peer.
    pub repairs_pending: u64,
    /// The newest migration that this region has run; 0 without one.
    #[serde(default)]
    pub migration: i64,
    /// Of each member: could it be lost now, as this region sees it?
    #[serde(default)]
    pub readiness: Vec<ReadinessStatus>,
    #[serde(default)]
    pub drills: DrillsStatus,
    /// Of the whole cluster; absent where owners may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<FreezeStatus>,
    /// Named states that a person may want to know of.
    pub conditions: Vec<Condition>,
    /// Of a region that is not a member of the cluster yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeding: Option<SeedingStatus>,
}

/// How far the directory is on its way from the embedded one to etcd, as this agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryMoveStatus {
    /// This agent goes by etcd.
    pub moved: bool,
    /// Why it could not, by what it saw last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
}

/// Could another region take over now what this one owns?
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReadinessStatus {
    /// The region that would be lost.
    pub lost: String,
    pub ready: bool,
    /// What is in the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<String>,
}

/// A person has had it that no owner changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FreezeStatus {
    /// `planned` leaves failovers alone, `all` does not.
    pub of: String,
    pub by: String,
    pub reason: String,
}

/// Drills, as far as the region knows. Unix time in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DrillsStatus {
    /// When the last one was started that has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_at_ms: Option<u64>,
    /// When the next one starts by itself, if nothing is in the way; absent where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at_ms: Option<u64>,
}

/// Entries of the conflict journal that are alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JournalCount {
    /// As in `update_origin_differs`.
    pub conflict: String,
    /// As in `settled` or `open`.
    pub status: String,
    pub entries: u64,
}

/// How far a region is on its way into the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SeedingStatus {
    /// Which seeding; empty until somebody asks for one.
    pub seed: String,
    /// The region whose rows are copied.
    pub from: String,
    /// What it is at.
    pub step: String,
    /// Why it does not go on before a person does something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    pub rows: u64,
    /// About so many rows there are; they may be more.
    pub rows_estimate: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OwnedRange {
    /// As in `4` or `4-7`.
    pub partitions: String,
    pub epoch: u64,
}

/// How far a peer is with *our* log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub region: String,
    /// It has no tables: what it holds is all that it could show.
    #[serde(default)]
    pub witness: bool,
    /// The peer is subscribed to our log.
    pub connected: bool,
    pub flushed: String,
    pub applied: String,
    /// Bytes of our WAL that the peer's tables do not show yet.
    pub lag_bytes: u64,
    /// Age of our oldest commit that the peer's log does not hold: what losing us would cost.
    pub exposure_ms: u64,
    /// How many commits of ours the peer's log does not hold.
    #[serde(default)]
    pub exposure_commits: u64,
    /// Bytes of our WAL that the peer's log does not hold.
    #[serde(default)]
    pub exposure_bytes: u64,
    /// Age of our oldest commit that the peer's tables do not show.
    pub staleness_ms: u64,
    /// How long we have seen no renewal of the peer's lease.
    pub lease_silent_ms: u64,
    /// What became of our last write through the peer's guard, tried once its lease fell silent:
    /// `written`, `refused`, `unreachable`; `promised` while the peer lives on a promise of ours; empty
    /// while it is not tried.
    #[serde(default)]
    pub probe: String,
    /// How long no failover chooses the peer by itself, where there is another: it came and went.
    #[serde(default)]
    pub probation_ms: u64,
    /// How often the peer was suspected and heard again, since this agent began.
    #[serde(default)]
    pub losses: u64,
    /// Of these, how often within ten seconds.
    #[serde(default)]
    pub brief_losses: u64,
    /// Records that the peer lacks may be gone: nobody waits for it any more.
    #[serde(default)]
    pub reseed_needed: bool,
    /// What the peer said of itself when it was heard last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heard: Option<LastHeard>,
}

/// What remains known of a region that does not answer any more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LastHeard {
    pub ago_ms: u64,
    /// What losing it would have cost then.
    pub exposure_ms: u64,
    pub exposure_commits: u64,
    pub exposure_bytes: u64,
    pub commits_per_s: u64,
    pub wal_bytes_per_s: u64,
}

impl LastHeard {
    /// What losing the region may cost, which may have written on until `silent` ago.
    pub fn exposure(&self, silent: Millis) -> Exposure {
        let told = Exposure {
            age: Millis(self.exposure_ms),
            commits: self.exposure_commits,
            bytes: self.exposure_bytes,
        };
        told.after(Millis(self.ago_ms.saturating_sub(silent.0)), self.pace())
    }

    pub fn pace(&self) -> Pace {
        Pace { commits_per_s: self.commits_per_s, bytes_per_s: self.wal_bytes_per_s }
    }
}

/// A transaction that has written and not ended for a second or longer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenWriterStatus {
    pub pid: i32,
    pub role: String,
    pub open_ms: u64,
}

impl RegionStatus {
    /// Does the state of this name hold?
    pub fn says(&self, state: &str) -> bool {
        self.conditions.iter().any(|condition| condition.name == state)
    }

    /// Does it hold no lease, or a state in which nothing is captured?
    pub fn cannot_write(&self) -> bool {
        !self.lease_live || self.conditions.iter().any(|condition| halts(&condition.name))
    }

    /// Is it in a state in which what comes from another region waits for a person?
    pub fn cannot_apply(&self) -> bool {
        self.conditions.iter().any(|condition| apply::waits_for_a_person(&condition.name))
    }

    /// What losing this region would cost: what it has committed and no peer has flushed.
    pub fn exposure(&self) -> Exposure {
        let exposures = self.peers.iter().map(|peer| Exposure {
            age: Millis(peer.exposure_ms),
            commits: peer.exposure_commits,
            bytes: peer.exposure_bytes,
        });
        exposures.min().unwrap_or_default()
    }

    pub fn pace(&self) -> Pace {
        Pace { commits_per_s: self.commits_per_s, bytes_per_s: self.wal_bytes_per_s }
    }

    pub fn open_writers(&self) -> Vec<OpenWriter> {
        let open = self.open_writers.iter().map(|writer| OpenWriter {
            pid: writer.pid,
            role: writer.role.clone(),
            open_for: Millis(writer.open_ms),
        });
        open.collect()
    }

    /// The others that its agent is configured with.
    pub fn aware_of(&self) -> BTreeSet<RegionId> {
        self.peers.iter().filter_map(|peer| peer.region.parse().ok()).collect()
    }

    /// How far it is, where it was asked to be seeded.
    pub fn asked_seeding(&self) -> Option<Seeding> {
        let seeding = self.seeding.as_ref().filter(|seeding| !seeding.seed.is_empty())?;
        Some(Seeding { step: seeding.step.clone(), refused: seeding.refused.clone() })
    }

    /// By peer: the age of our oldest commit that its tables do not show.
    pub fn staleness(&self) -> BTreeMap<RegionId, Millis> {
        let lift = |peer: &PeerStatus| Some((peer.region.parse().ok()?, Millis(peer.staleness_ms)));
        self.peers.iter().filter_map(lift).collect()
    }
}

impl PeerStatus {
    /// What a probe of this peer says about it; one that was not made says nothing good.
    pub fn probed(&self) -> Probe {
        match self.probe.as_str() {
            WRITTEN => Probe::Written,
            REFUSED => Probe::Refused,
            PROMISED => Probe::Promised,
            _ => Probe::Unreachable,
        }
    }
}

const WRITTEN: &str = "written";
const REFUSED: &str = "refused";
const PROMISED: &str = "promised";

/// What [`RegionStatus::flushed`] says, as of now.
pub fn log_ends(logs: &Logs) -> BTreeMap<String, String> {
    logs.all().iter().map(|(o, log)| (o.to_string(), log.end().to_string())).collect()
}

/// Reads positions as they stand in a status; what is none is left out.
pub fn lift_frontier(positions: &BTreeMap<String, String>) -> Frontier {
    positions
        .iter()
        .filter_map(|(origin, lsn)| {
            Some((origin.parse::<Origin>().ok()?, lsn.parse::<Lsn>().ok()?))
        })
        .collect()
}

/// Lowers a probe to [`PeerStatus::probe`].
pub fn probe_word(probe: Option<Probe>) -> String {
    match probe {
        None => "",
        Some(Probe::Written) => WRITTEN,
        Some(Probe::Refused) => REFUSED,
        Some(Probe::Unreachable) => "unreachable",
        Some(Probe::Promised) => PROMISED,
    }
    .to_owned()
}

/// A state with a name, as in `postgres_unreachable`, and what to do about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    pub name: String,
    pub detail: String,
}
