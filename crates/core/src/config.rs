//! What did the operator ask for, once checked? Resolved values only; every limit has a name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::admission::Admission;
use crate::conflict::policy::Policy;
use crate::freshness::Freshness;
use crate::front::rule::Rule;
use crate::id::{PartitionId, RegionId, TableName};
use crate::lease::LeaseTerms;
use crate::ownership::Ownership;
use crate::partition::{Layout, Scheme};
use crate::progress::Rpo;
use crate::retention::LogTerms;
use crate::runbook::drill::DrillTerms;
use crate::time::Millis;

/// A single region replicates nothing; sixteen is as far as this was designed for.
pub const REGIONS_MAX: usize = 16;

/// One cluster: the same in every region, but for addresses as seen from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Peers of another cluster are refused.
    pub cluster: String,
    pub layout: Layout,
    pub rpo: Rpo,
    pub sequences: Sequences,
    pub lease: LeaseTerms,
    pub failover: FailoverPolicy,
    pub log: LogTerms,
    pub directory: Directory,
    /// Without it agents, the embedded directory and commands speak in the clear.
    pub tls: Option<MutualTls>,
    pub gateway: Gateway,
    pub http: Http,
    /// Without it no names are answered.
    pub dns: Option<Dns>,
    pub regions: Vec<Region>,
    pub witnesses: Vec<Witness>,
    pub tables: BTreeMap<TableName, TableKind>,
    /// How long a slot has to be lost before the log begins anew without a person. Without it none does.
    pub reseed_after: Option<Millis>,
    /// How long an entry of the conflict journal is kept at least.
    pub journal_keep: Millis,
    /// How long a deleted row of a shared table is remembered at least.
    pub tombstones_keep: Millis,
    /// The folder of the programs that runbooks may run.
    pub programs: Option<String>,
    /// Whom runbooks may tell, by name.
    pub webhooks: BTreeMap<String, Webhook>,
    /// Without them no drill starts by itself.
    pub drills: Option<DrillTerms>,
}

/// What becomes of the sequences that replicated tables draw from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequences {
    /// Each region draws its own values, in steps.
    Interleave,
    Leave,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverPolicy {
    /// Fail over a confirmed outage without a person.
    pub automatic: bool,
    /// How many other regions must agree that a region is gone.
    pub observers: usize,
    /// How long a lease must be silent before an observer says so.
    pub suspect_after: Millis,
}

/// How gateways speak with clients, and with whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// What clients are shown; without it they speak in the clear.
    pub identity: Option<Identity>,
    /// No session begins in the clear.
    pub require_tls: bool,
    /// Who may come in, and how many.
    pub admission: Admission,
    pub console: Console,
    /// Without it each client has a server of its own.
    pub sharing: Option<Sharing>,
    /// How long transactions, and requests of HTTP, may go on when the agent is told to stop.
    pub shutdown_timeout: Millis,
}

/// Who may come to a gateway's console, as what PostgreSQL lets them in as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Console {
    /// They see everything, and have clients wait or leave.
    pub admins: BTreeSet<String>,
    /// They see everything.
    pub viewers: BTreeSet<String>,
}

/// What somebody may do in a gateway's console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Look,
    Change,
}

impl Console {
    /// Nobody may come.
    pub fn is_closed(&self) -> bool {
        self.admins.is_empty() && self.viewers.is_empty()
    }

    /// Returns what `role` may do there; `None` where it may not come.
    pub fn right(&self, role: &str) -> Option<Right> {
        if self.admins.contains(role) {
            Some(Right::Change)
        } else {
            self.viewers.contains(role).then_some(Right::Look)
        }
    }
}

/// How clients share servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    pub mode: PoolMode,
    /// So many servers at most, for each role, database and set of startup parameters. At least 1.
    pub servers_max: usize,
    /// A server that nobody has used for so long is closed.
    pub idle_max: Millis,
}

/// How long a client has a server to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// From its first statement until it leaves.
    Session,
    /// While its transaction lasts.
    Transaction,
}

/// How doors take requests of HTTP to the region that owns what they are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// What clients are shown; without it they speak in the clear.
    pub identity: Option<Identity>,
    /// The first that fits a request holds for it.
    pub rules: Vec<Rule>,
    /// Of a body, in bytes, that is kept until its request is answered, so that it can be sent elsewhere.
    pub replay_body_max: u64,
    /// How long a request waits for an owner.
    pub wait: Millis,
    /// How long an answer may take to begin, after the last of the request was sent.
    pub answer_within: Millis,
    /// A line for each request.
    pub access_log: bool,
}

/// Somebody whom runbooks may tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    pub url: Url,
    /// Name -> where its value is kept.
    pub headers: BTreeMap<String, Secret>,
    /// File with the certificates of those who may sign its own; without one, those whom the system trusts.
    pub ca: Option<String>,
}

/// At which address somebody is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Url {
    Given(String),
    /// Who knows it may send.
    Kept(Secret),
}

/// Where a secret is kept: never in the configuration itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// The path of a file.
    File(String),
    /// The name of a variable of the agent's environment.
    Environment(String),
}

/// The zone that agents answer for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// As in `db.example.com`.
    pub zone: String,
    /// How long an answer may be kept: whole seconds.
    pub ttl: Millis,
    /// An answer leads to one region, drawn by capacity, and not to all that take clients.
    pub one: bool,
}

/// Where the owners of all partitions are agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directory {
    /// A process of ours, on one machine.
    Embedded {
        /// `host:port` at which agents reach the directory, and at which it listens.
        address: String,
        /// Folder of its data.
        data: String,
        /// Where everything goes by etcd as soon as a person has had it moved there.
        next: Option<Etcd>,
    },
    Etcd(Etcd),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// `host:port` of its members, the one that is asked first in front; at least one.
    pub endpoints: Vec<String>,
    pub tls: Option<Tls>,
    pub login: Option<Login>,
}

/// Files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Who signs the members' certificates.
    pub ca: String,
    pub identity: Option<Identity>,
}

/// What we show of ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// What both ends of a connection show each other. Files in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutualTls {
    /// Who signs everybody's certificates.
    pub ca: String,
    pub identity: Identity,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    /// A file that holds nothing else.
    pub password_file: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pub id: RegionId,
    /// Connection string of the region's PostgreSQL, for its own agent.
    pub postgres: String,
    /// `host:port` at which the other agents reach this one.
    pub peer: String,
    /// `host:port` at which this agent listens for peers; usually the same.
    pub peer_listen: String,
    /// `host:port` of the region's gateway, for clients and for other gateways.
    pub gateway: String,
    pub gateway_listen: String,
    /// Where it listens beside, for whom it is settled how new reads have to be.
    pub gateway_ports: Vec<GatewayPort>,
    /// `host:port` at which the agent gives its metrics, if it does.
    pub metrics: Option<String>,
    /// `host:port` at which the agent answers questions for names, if it does.
    pub dns: Option<String>,
    /// Those of the gateway that names are answered with.
    pub addresses: Vec<IpAddr>,
    /// Whose clients names lead here while the region takes any.
    pub clients: Vec<IpNet>,
    /// `host:port` at which the agent answers load balancers, if it does.
    pub health: Option<String>,
    /// The region's door for HTTP: every region has one, or none.
    pub http: Option<Door>,
    /// How many commits a second it is made for, where somebody has said so.
    pub capacity: Option<u64>,
    /// Folder of the agent's replication logs and seals.
    pub data: String,
}

/// A further address of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayPort {
    /// `host:port`.
    pub listen: String,
    /// What sessions that come in there ask of their reads, unless they say otherwise.
    pub freshness: Freshness,
}

/// Where a region takes requests of HTTP, and who answers them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// `host:port`, for clients and for the other regions' doors.
    pub address: String,
    /// `host:port` at which it listens; usually the same.
    pub listen: String,
    /// `host:port` of the region's application.
    pub app: String,
}

/// A place without a PostgreSQL whose agent holds every region's log, observes, and seals: it makes
/// copies and majorities where there are too few regions for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// None of the regions' either.
    pub id: RegionId,
    /// `host:port` at which the other agents reach this one.
    pub peer: String,
    /// `host:port` at which this agent listens for peers; usually the same.
    pub peer_listen: String,
    /// `host:port` at which the agent gives its metrics, if it does.
    pub metrics: Option<String>,
    /// Folder of the agent's replication logs and seals.
    pub data: String,
}

/// Who may write a table's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// Each row belongs to a partition, by its key.
    Owned(KeySource),
    /// One owner for the whole table.
    Reference,
    /// Every region writes it; conflicts are decided by this policy.
    Shared(Policy),
    /// Not replicated, not guarded.
    Local,
}

/// Where a row's partition key is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The whole database is one partition: no key is needed.
    Whole,
    /// In the row itself.
    Columns(Vec<String>),
    /// In the row of `table` whose `references` equal this row's `columns`.
    Parent { table: TableName, columns: Vec<String>, references: Vec<String> },
}

impl Config {
    pub fn region(&self, id: &RegionId) -> Option<&Region> {
        self.regions.iter().find(|r| r.id == *id)
    }

    pub fn region_ids(&self) -> Vec<RegionId> {
        self.regions.iter().map(|r| r.id.clone()).collect()
    }

    pub fn witness(&self, id: &RegionId) -> Option<&Witness> {
        self.witnesses.iter().find(|witness| witness.id == *id)
    }

    /// All that hold logs, with where their agents are reached: regions, then witnesses.
    pub fn holders(&self) -> impl Iterator<Item = (&RegionId, &str)> {
        let regions = self.regions.iter().map(|region| (&region.id, region.peer.as_str()));
        regions.chain(self.witnesses.iter().map(|witness| (&witness.id, witness.peer.as_str())))
    }

    pub fn kind(&self, table: &TableName) -> Option<&TableKind> {
        self.tables.get(table)
    }

    /// Is a write to this table only valid under the guard?
    pub fn guarded(&self, table: &TableName) -> bool {
        matches!(self.kind(table), Some(TableKind::Owned(_) | TableKind::Reference))
    }

    /// Its policy, if every region writes this table.
    pub fn shared(&self, table: &TableName) -> Option<&Policy> {
        match self.kind(table) {
            Some(TableKind::Shared(policy)) => Some(policy),
            _ => None,
        }
    }

    /// The columns of an owned table whose rows have one owner when they agree in all of these; `None` where
    /// the whole table has one owner, or none.
    pub fn owned_by(&self, table: &TableName) -> Option<&[String]> {
        match self.kind(table)? {
            TableKind::Owned(KeySource::Columns(columns) | KeySource::Parent { columns, .. }) => {
                Some(columns)
            }
            _ => None,
        }
    }

    /// The owners at the very beginning, of a cluster of all these regions: partitions dealt out
    /// among them; everything that cannot be divided goes to the first one, and the canary.
    pub fn initial_ownership(&self) -> Ownership {
        let (ids, total) = (self.region_ids(), self.layout.total());
        let ownership = match self.layout.scheme {
            Scheme::Whole => Ownership::initial(total, &ids[..1]),
            Scheme::Hash { .. } | Scheme::Home { .. } => match self.layout.reference() {
                None => Ownership::initial(total, &ids),
                Some(PartitionId(reference)) => {
                    Ownership::initial(reference, &ids).with_last(ids[0].clone())
                }
            },
        };
        let first = ids[0].clone();
        let witnesses = self.witnesses.iter().map(|witness| witness.id.clone());
        ownership.with_members(ids).with_witnesses(witnesses).with_canary(first)
    }
}
