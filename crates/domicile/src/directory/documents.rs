//! What do the directory's documents say? Their JSON, and one lift and lower for each.
//!
//! Core types are never serialized: renaming one must not change what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use anyhow::{Context, bail};
use bytes::Bytes;
use domicile_core::id::{Epoch, Origin, PartitionRange, RegionId, RunId};
use domicile_core::lease::HolderTerms;
use domicile_core::lsn::Cut;
use domicile_core::ownership::{CameTo, Closed, Entry, Ownership, State, Turn};
use domicile_core::progress::Rpo;
use domicile_core::retention::LeftBehind;
use domicile_core::time::Millis;
use serde::{Deserialize, Serialize};

mod chain;
mod run;
mod safety;

pub use chain::{Break, Chain, LinkDocument, Verified, last_end, verify};

pub use run::{
    AnswerDocument, ApprovalDocument, IntentDocument, RunDocument, RunEntry, RunState,
    RunbookDocument, StepDocument, WishDocument, lift_answers, lift_approvals, lift_drill,
    lift_outcome, lift_plan, lift_wish, lower_answer,
};

pub use safety::{
    BEGUN_KEY, FreezeDocument, FrozenDocument, OverrideDocument, POLICY_KEY, PolicyDocument,
    SAFETY_PREFIX, lift_override, lift_safety, lower_begun, lower_override,
};

/// The one document that says who owns what.
pub const OWNERSHIP_KEY: &str = "ownership";
pub const PLACES_KEY: &str = "sequences";
/// The secret with which gateways sign tokens; it has to stay one.
pub const TOKEN_SECRET_KEY: &str = "token/secret";
pub const MIGRATION_KEY: &str = "migration";
pub const LEASE_PREFIX: &str = "lease/";
pub const RUN_PREFIX: &str = "run/";
pub const RESEED_PREFIX: &str = "reseed/";
pub const INCARNATION_PREFIX: &str = "incarnation/";
pub const SEED_PREFIX: &str = "seed/";
const FOLDER_PREFIX: &str = "folder/";

pub fn lease_key(region: &RegionId) -> String {
    format!("{LEASE_PREFIX}{region}")
}

pub fn run_key(run: &RunId) -> String {
    format!("{RUN_PREFIX}{run}")
}

pub fn incarnation_key(region: &RegionId) -> String {
    format!("{INCARNATION_PREFIX}{region}")
}

pub fn seed_key(region: &RegionId) -> String {
    format!("{SEED_PREFIX}{region}")
}

pub fn folder_key(holder: &RegionId) -> String {
    format!("{FOLDER_PREFIX}{holder}")
}

pub fn reseed_key(region: &RegionId, origin: &Origin) -> String {
    format!("{RESEED_PREFIX}{region}/{origin}")
}

/// The newest migration, and where it ran first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationDocument {
    pub number: i64,
    pub region: String,
}

/// A region that is no longer waited for: it has to be seeded again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReseedDocument {
    pub region: String,
    pub origin: String,
    /// Records up to here may be gone. A region that shows them all has lost nothing.
    pub upto: String,
    /// The region that keeps them no longer.
    pub by: String,
}

pub fn lower_left_behind(left: &LeftBehind, by: &RegionId) -> Bytes {
    json(&ReseedDocument {
        region: left.region.to_string(),
        origin: left.origin.to_string(),
        upto: left.upto.to_string(),
        by: by.to_string(),
    })
}

pub fn lift_left_behind(value: &[u8]) -> anyhow::Result<LeftBehind> {
    let document: ReseedDocument =
        serde_json::from_slice(value).context("read a reseed document")?;
    Ok(LeftBehind {
        region: document.region.parse()?,
        origin: document.origin.parse()?,
        upto: document.upto.parse()?,
    })
}

/// Which incarnation of a region's log is written now; the first one when there is no document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncarnationDocument {
    pub incarnation: u32,
}

/// What a region that joins is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedDocument {
    /// Tells one seeding of a region from another.
    pub id: String,
    /// The region whose rows are copied.
    pub from: String,
    /// Rows that are there already go.
    pub replace: bool,
    /// The run that has asked; nobody else's abort takes it back. Absent where a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Who has it become a member although the rules of safety are against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety_override: Option<OverrideDocument>,
}

/// The folder in which a region or a witness holds logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderDocument {
    /// No other folder's name.
    pub folder: String,
}

/// A region's lease. What counts is the document's revision, which every renewal changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseDocument {
    /// The agent process that holds it.
    pub agent: String,
    pub renewals: u64,
    /// Absent where an older Domicile holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<TermsDocument>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermsDocument {
    ttl_ms: u64,
    /// 0 where a commit waits for none.
    copies: usize,
    /// How old a commit may be that no copy holds; absent where it may be any age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    loss_max_ms: Option<u64>,
}

pub fn lower_terms(terms: &HolderTerms) -> TermsDocument {
    let HolderTerms { ttl, rpo } = terms;
    let loss_max_ms = rpo.loss_max().map(|age| age.0);
    TermsDocument { ttl_ms: ttl.0, copies: rpo.copies(), loss_max_ms }
}

pub fn lift_terms(terms: &TermsDocument) -> HolderTerms {
    let TermsDocument { ttl_ms, copies, loss_max_ms } = *terms;
    let rpo = match loss_max_ms {
        Some(0) => Rpo::Zero { copies },
        Some(age) => Rpo::Within { copies, age: Millis(age) },
        None => Rpo::None,
    };
    HolderTerms { ttl: Millis(ttl_ms), rpo }
}

/// Region -> its place in every step of a sequence, from 1 on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacesDocument {
    pub places: BTreeMap<String, i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct OwnershipDocument {
    version: u32,
    cluster: String,
    members: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    witnesses: Vec<String>,
    partitions: Vec<EntryDocument>,
    #[serde(default)]
    runs: Vec<String>,
    /// Of each run, in the same order; absent where an older Domicile wrote it.
    #[serde(default)]
    came_to: Vec<CameToDocument>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CameToDocument {
    Unknown,
    Overruled,
    Granted,
}

const OWNERSHIP_VERSION: u32 = 2;
/// Whoever knows no witnesses must not decide without their seals.
const OWNERSHIP_VERSION_WITH_WITNESSES: u32 = 3;

#[derive(Debug, Serialize, Deserialize)]
struct EntryDocument {
    range: String,
    epoch: u64,
    state: StateDocument,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    closed: Vec<ClosedDocument>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum StateDocument {
    Owned { by: String },
    HandingOver { by: String, to: String, run: String, barrier: Option<CutDocument> },
    Fenced { from: String, run: String, cut: Option<CutDocument> },
}

#[derive(Debug, Serialize, Deserialize)]
struct ClosedDocument {
    epoch: u64,
    by: String,
    cut: CutDocument,
}

#[derive(Debug, Serialize, Deserialize)]
struct CutDocument {
    origin: String,
    lsn: String,
}

/// Lowers ownership to what is stored.
pub fn lower_ownership(cluster: &str, ownership: &Ownership) -> Bytes {
    let witnesses: Vec<String> = ownership.witnesses().iter().map(RegionId::to_string).collect();
    json(&OwnershipDocument {
        version: match witnesses.is_empty() {
            true => OWNERSHIP_VERSION,
            false => OWNERSHIP_VERSION_WITH_WITNESSES,
        },
        cluster: cluster.to_owned(),
        members: ownership.members().iter().map(RegionId::to_string).collect(),
        witnesses,
        partitions: ownership.entries().iter().map(lower_entry).collect(),
        runs: ownership.turns().iter().map(|turn| turn.run.0.clone()).collect(),
        came_to: ownership.turns().iter().map(|turn| lower_came_to(turn.came_to)).collect(),
    })
}

/// Lifts stored ownership; refuses another cluster's.
pub fn lift_ownership(cluster: &str, value: &[u8]) -> anyhow::Result<Ownership> {
    let document: OwnershipDocument =
        serde_json::from_slice(value).context("read the ownership document")?;
    let versions = OWNERSHIP_VERSION..=OWNERSHIP_VERSION_WITH_WITNESSES;
    if !versions.contains(&document.version) {
        bail!("ownership document has version {}, expected {versions:?}", document.version);
    }
    if document.cluster != cluster {
        bail!("the directory serves cluster \"{}\", not \"{cluster}\"", document.cluster);
    }
    let regions = |names: &[String]| {
        names.iter().map(|name| Ok(name.parse()?)).collect::<anyhow::Result<BTreeSet<RegionId>>>()
    };
    let (members, witnesses) = (regions(&document.members)?, regions(&document.witnesses)?);
    let entries = document.partitions.iter().map(lift_entry).collect::<anyhow::Result<Vec<_>>>()?;
    let ownership = Ownership::from_entries(members, entries);
    let ownership = ownership.context("ownership document has gaps or overlaps")?;
    let turns = lift_turns(document.runs, &document.came_to);
    Ok(ownership.with_witnesses(witnesses).with_turns(turns))
}

fn lower_came_to(came_to: CameTo) -> CameToDocument {
    match came_to {
        CameTo::Unknown => CameToDocument::Unknown,
        CameTo::Overruled => CameToDocument::Overruled,
        CameTo::Granted => CameToDocument::Granted,
    }
}

fn lift_turns(runs: Vec<String>, came_to: &[CameToDocument]) -> Vec<Turn> {
    let lift = |(i, run): (usize, String)| {
        let came_to = match came_to.get(i) {
            None | Some(CameToDocument::Unknown) => CameTo::Unknown,
            Some(CameToDocument::Overruled) => CameTo::Overruled,
            Some(CameToDocument::Granted) => CameTo::Granted,
        };
        Turn { run: RunId(run), came_to }
    };
    runs.into_iter().enumerate().map(lift).collect()
}

fn lower_entry(entry: &Entry) -> EntryDocument {
    let state = match &entry.state {
        State::Owned { by } => StateDocument::Owned { by: by.to_string() },
        State::HandingOver { by, to, run, barrier } => StateDocument::HandingOver {
            by: by.to_string(),
            to: to.to_string(),
            run: run.to_string(),
            barrier: barrier.as_ref().map(lower_cut),
        },
        State::Fenced { from, run, cut } => StateDocument::Fenced {
            from: from.to_string(),
            run: run.to_string(),
            cut: cut.as_ref().map(lower_cut),
        },
    };
    let closed = entry.closed.iter().map(|closed| ClosedDocument {
        epoch: closed.epoch.0,
        by: closed.by.to_string(),
        cut: lower_cut(&closed.cut),
    });
    EntryDocument {
        range: entry.range.to_string(),
        epoch: entry.epoch.0,
        state,
        closed: closed.collect(),
    }
}

fn lift_entry(entry: &EntryDocument) -> anyhow::Result<Entry> {
    let state = match &entry.state {
        StateDocument::Owned { by } => State::Owned { by: by.parse()? },
        StateDocument::HandingOver { by, to, run, barrier } => State::HandingOver {
            by: by.parse()?,
            to: to.parse()?,
            run: RunId(run.clone()),
            barrier: barrier.as_ref().map(lift_cut).transpose()?,
        },
        StateDocument::Fenced { from, run, cut } => State::Fenced {
            from: from.parse()?,
            run: RunId(run.clone()),
            cut: cut.as_ref().map(lift_cut).transpose()?,
        },
    };
    let closed = entry.closed.iter().map(|closed| {
        let cut = lift_cut(&closed.cut)?;
        Ok(Closed { epoch: Epoch(closed.epoch), by: closed.by.parse()?, cut })
    });
    Ok(Entry {
        range: PartitionRange::from_str(&entry.range)?,
        epoch: Epoch(entry.epoch),
        state,
        closed: closed.collect::<anyhow::Result<_>>()?,
    })
}

fn lower_cut(cut: &Cut) -> CutDocument {
    CutDocument { origin: cut.origin.to_string(), lsn: cut.lsn.to_string() }
}

fn lift_cut(cut: &CutDocument) -> anyhow::Result<Cut> {
    Ok(Cut { origin: cut.origin.parse()?, lsn: cut.lsn.parse()? })
}

/// Encodes any document of ours.
pub fn json(document: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(document).expect("a document of plain fields is always JSON"))
}

#[cfg(test)]
mod tests {
    use domicile_core::id::Origin;
    use domicile_core::lsn::Lsn;
    use domicile_core::ownership::OwnershipChange;

    use super::*;

    #[test]
    fn terms_come_back_as_they_were() {
        for rpo in [Rpo::Zero { copies: 2 }, Rpo::Within { copies: 1, age: Millis(250) }, Rpo::None]
        {
            let terms = HolderTerms { ttl: Millis(3000), rpo };
            assert_eq!(lift_terms(&lower_terms(&terms)), terms);
        }
    }

    #[test]
    fn ownership_survives_the_directory_in_every_state() {
        let regions: Vec<RegionId> = ["ap", "eu", "us"].map(|r| r.parse().unwrap()).to_vec();
        let run = RunId("1".into());
        let cut = Cut { origin: Origin::new(regions[1].clone(), 1), lsn: Lsn(77) };
        let start = Ownership::initial(9, &regions);
        let fenced = start
            .apply(&OwnershipChange::Fence { from: regions[1].clone(), run: run.clone() })
            .unwrap();
        let cut = fenced.apply(&OwnershipChange::Cut { run: run.clone(), cut }).unwrap();
        let granted = cut
            .apply(&OwnershipChange::Grant { run: run.clone(), to: regions[2].clone() })
            .unwrap();
        let range = PartitionRange::new(4, 4);
        let moving = granted
            .apply(&OwnershipChange::HandOver {
                range,
                to: regions[0].clone(),
                run: RunId("2".into()),
            })
            .unwrap();
        let overruled = moving
            .apply(&OwnershipChange::Fence { from: regions[2].clone(), run: RunId("3".into()) })
            .unwrap();
        let joined =
            granted.apply(&OwnershipChange::Join { region: "sa".parse().unwrap() }).unwrap();
        let witness = OwnershipChange::Witness { witness: "metro".parse().unwrap() };
        let witnessed = granted.apply(&witness).unwrap();
        for ownership in [start, fenced, cut, granted, moving, overruled, joined, witnessed] {
            let stored = lower_ownership("shop", &ownership);
            assert_eq!(lift_ownership("shop", &stored).unwrap(), ownership);
            let spare = ownership.bytes().checked_sub(stored.len());
            assert!(spare.is_some_and(|spare| spare < 128), "{spare:?} of {}", stored.len());
            assert!(lift_ownership("other", &stored).is_err(), "another cluster's");
        }
    }
}
