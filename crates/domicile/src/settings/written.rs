//! What may stand in the file? Its shape only: every field optional, unknown keys refused.

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    pub cluster: Option<String>,
    pub partition: Option<String>,
    pub rpo: Option<WrittenRpo>,
    pub copies: Option<i64>,
    pub sequences: Option<String>,
    pub directory: Option<WrittenDirectory>,
    pub tls: Option<WrittenTls>,
    pub gateway: Option<WrittenGateway>,
    pub http: Option<WrittenHttp>,
    pub dns: Option<WrittenDns>,
    pub lease: Option<WrittenLease>,
    pub failover: Option<WrittenFailover>,
    pub log: Option<WrittenLog>,
    pub reseed: Option<WrittenReseed>,
    pub journal: Option<WrittenJournal>,
    pub shared: Option<WrittenShared>,
    pub runbook: Option<WrittenRunbook>,
    pub drills: Option<WrittenDrills>,
    #[serde(default)]
    pub webhook: Vec<WrittenWebhook>,
    #[serde(default)]
    pub region: Vec<WrittenRegion>,
    #[serde(default)]
    pub witness: Vec<WrittenWitness>,
    #[serde(default)]
    pub table: Vec<WrittenTable>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum WrittenRpo {
    Number(i64),
    Text(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenDirectory {
    pub address: Option<String>,
    pub data: Option<String>,
    pub endpoints: Option<Names>,
    pub ca: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
    pub user: Option<String>,
    pub password_file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenTls {
    pub ca: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenGateway {
    pub certificate: Option<String>,
    pub key: Option<String>,
    pub require_tls: Option<bool>,
    pub admins: Option<Names>,
    pub viewers: Option<Names>,
    pub connections: Option<i64>,
    pub connections_per_user: Option<i64>,
    pub connections_per_database: Option<i64>,
    #[serde(default)]
    pub allow: Vec<WrittenAllowRule>,
    pub sharing: Option<String>,
    pub servers_max: Option<i64>,
    pub servers_idle: Option<String>,
    pub shutdown_timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenAllowRule {
    pub address: Option<Names>,
    pub database: Option<Names>,
    pub user: Option<Names>,
    pub tls: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenHttp {
    pub certificate: Option<String>,
    pub key: Option<String>,
    pub replay_body_max: Option<String>,
    pub wait: Option<String>,
    pub answer_within: Option<String>,
    pub access_log: Option<bool>,
    #[serde(default)]
    pub route: Vec<WrittenRoute>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenRoute {
    pub path: Option<String>,
    pub methods: Option<Names>,
    pub key: Option<Names>,
    pub owner: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenDns {
    pub zone: Option<String>,
    pub ttl: Option<String>,
    pub answer: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenRunbook {
    pub programs: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenDrills {
    pub every: Option<String>,
    pub days: Option<Names>,
    pub hours: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenWebhook {
    pub name: Option<String>,
    pub url: Option<String>,
    pub headers: Option<BTreeMap<String, String>>,
    pub ca: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenLease {
    pub ttl: Option<String>,
    pub renew: Option<String>,
    pub margin: Option<String>,
    pub drift_ppm: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenFailover {
    pub automatic: Option<bool>,
    pub observers: Option<i64>,
    pub suspect_after: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenLog {
    pub keep: Option<String>,
    pub size_max: Option<String>,
    pub segment: Option<String>,
    pub on_full: Option<String>,
    pub compression: Option<String>,
    pub drop_after: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenReseed {
    pub after: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenJournal {
    pub keep: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenShared {
    pub tombstones: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenRegion {
    pub name: Option<String>,
    pub postgres: Option<String>,
    pub peer: Option<String>,
    pub peer_listen: Option<String>,
    pub gateway: Option<String>,
    pub gateway_listen: Option<String>,
    #[serde(default)]
    pub gateway_port: Vec<WrittenGatewayPort>,
    pub metrics: Option<String>,
    pub dns: Option<String>,
    pub addresses: Option<Names>,
    pub clients: Option<Names>,
    pub health: Option<String>,
    pub http: Option<String>,
    pub http_listen: Option<String>,
    pub app: Option<String>,
    pub capacity: Option<i64>,
    pub data: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenGatewayPort {
    pub listen: Option<String>,
    pub freshness: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenWitness {
    pub name: Option<String>,
    pub peer: Option<String>,
    pub peer_listen: Option<String>,
    pub metrics: Option<String>,
    pub data: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenTable {
    pub name: Option<String>,
    pub kind: Option<String>,
    pub key: Option<Names>,
    pub parent: Option<WrittenParent>,
    pub policy: Option<String>,
    pub columns: Option<BTreeMap<String, String>>,
    pub update_delete: Option<String>,
    pub prefer: Option<Names>,
    pub function: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenParent {
    pub table: Option<String>,
    pub columns: Option<Names>,
    pub references: Option<Names>,
}

/// One name, or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Names {
    One(String),
    Many(Vec<String>),
}

impl Names {
    pub(super) fn list(&self) -> Vec<String> {
        match self {
            Self::One(name) => vec![name.clone()],
            Self::Many(names) => names.clone(),
        }
    }
}
