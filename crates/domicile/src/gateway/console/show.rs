//! What does each `SHOW` of the console show?
//!
//! Columns are called as in PgBouncer where they mean the same.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;
use domicile_core::config::PoolMode;
use domicile_core::ownership::Entry;
use domicile_core::time::Millis;
use domicile_pg::backend::ColumnType::{self, Number, Text};
use domicile_pg::frontend::Formats;

use super::command::HELP;
use super::doing;
use super::table::{self, Cell, Row};
use crate::gateway::Shared;
use crate::gateway::secure::Other;
use crate::gateway::sessions::{Doing, Figures, Kind, Record};
use crate::status::PeerStatus;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Clients,
    Servers,
    Pools,
    Databases,
    Stats,
    StatsTotals,
    Partitions,
    Lag,
    State,
    Config,
    Version,
    Help,
}

/// How clients use servers, in the words of pools.
fn pool_mode(shared: &Shared) -> Cell {
    Cell::text(match shared.config.sharing.map(|sharing| sharing.mode) {
        Some(PoolMode::Transaction) => "transaction",
        Some(PoolMode::Session) | None => "session",
    })
}

impl View {
    pub const ALL: [Self; 12] = [
        Self::Clients,
        Self::Servers,
        Self::Pools,
        Self::Databases,
        Self::Stats,
        Self::StatsTotals,
        Self::Partitions,
        Self::Lag,
        Self::State,
        Self::Config,
        Self::Version,
        Self::Help,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Servers => "servers",
            Self::Pools => "pools",
            Self::Databases => "databases",
            Self::Stats => "stats",
            Self::StatsTotals => "stats_totals",
            Self::Partitions => "partitions",
            Self::Lag => "lag",
            Self::State => "state",
            Self::Config => "config",
            Self::Version => "version",
            Self::Help => "help",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|view| view.name() == name)
    }

    fn columns(self) -> &'static [(&'static str, ColumnType)] {
        match self {
            Self::Clients => &[
                ("type", Text),
                ("user", Text),
                ("database", Text),
                ("state", Text),
                ("addr", Text),
                ("port", Number),
                ("connect_time", Text),
                ("wait", Number),
                ("wait_us", Number),
                ("region", Text),
                ("tls", Text),
                ("application_name", Text),
                ("id", Number),
            ],
            Self::Servers => &[
                ("type", Text),
                ("user", Text),
                ("database", Text),
                ("state", Text),
                ("addr", Text),
                ("port", Number),
                ("region", Text),
                ("link", Number),
                ("remote_pid", Number),
            ],
            Self::Pools => &[
                ("database", Text),
                ("user", Text),
                ("cl_active", Number),
                ("cl_waiting", Number),
                ("sv_active", Number),
                ("sv_idle", Number),
                ("sv_login", Number),
                ("maxwait", Number),
                ("maxwait_us", Number),
                ("pool_mode", Text),
            ],
            Self::Databases => &[
                ("name", Text),
                ("host", Text),
                ("port", Number),
                ("database", Text),
                ("pool_mode", Text),
                ("max_client_connections", Number),
                ("current_client_connections", Number),
                ("paused", Number),
            ],
            Self::Stats => &[
                ("database", Text),
                ("total_xact_count", Number),
                ("total_query_count", Number),
                ("total_received", Number),
                ("total_sent", Number),
                ("total_xact_time", Number),
                ("total_query_time", Number),
                ("total_wait_time", Number),
            ],
            Self::StatsTotals => &[
                ("database", Text),
                ("xact_count", Number),
                ("query_count", Number),
                ("bytes_received", Number),
                ("bytes_sent", Number),
                ("xact_time", Number),
                ("query_time", Number),
                ("wait_time", Number),
            ],
            Self::Partitions => {
                &[("partitions", Text), ("epoch", Number), ("owner", Text), ("state", Text)]
            }
            Self::Lag => &[
                ("region", Text),
                ("connected", Text),
                ("flushed", Text),
                ("applied", Text),
                ("lag_bytes", Number),
                ("exposure_ms", Number),
                ("staleness_ms", Number),
                ("lease_silent_ms", Number),
            ],
            Self::State | Self::Config => &[("key", Text), ("value", Text)],
            Self::Version => &[("version", Text)],
            Self::Help => &[("command", Text), ("what it does", Text)],
        }
    }

    pub fn describe(self, out: &mut BytesMut, formats: &Formats) {
        table::put_description(out, self.columns(), formats);
    }

    pub fn rows(self, shared: &Shared) -> Vec<Row> {
        match self {
            Self::Clients => clients(shared),
            Self::Servers => servers(shared),
            Self::Pools => pools(shared),
            Self::Databases => databases(shared),
            Self::Stats | Self::StatsTotals => stats(shared),
            Self::Partitions => partitions(shared),
            Self::Lag => lag(shared),
            Self::State => whole_state(shared),
            Self::Config => config(shared),
            Self::Version => {
                vec![vec![Cell::text(concat!("Domicile ", env!("CARGO_PKG_VERSION")))]]
            }
            Self::Help => {
                HELP.iter().map(|line| vec![Cell::text(line.0), Cell::text(line.1)]).collect()
            }
        }
    }
}

fn clients(shared: &Shared) -> Vec<Row> {
    let row = |record: &Record| {
        let who = &record.who;
        let servers = record.servers();
        let region = servers.iter().find(|server| server.in_use).map(|server| &server.region);
        let [wait, wait_us] = parts(waits(shared, record));
        vec![
            Cell::text(match who.kind {
                Kind::Client => "C",
                Kind::Peer => "G",
                Kind::Console => "A",
            }),
            Cell::text(&who.user),
            Cell::text(&who.database),
            Cell::text(state(record)),
            Cell::text(who.address.ip().to_canonical()),
            Cell::number(who.address.port()),
            Cell::text(record.since),
            wait,
            wait_us,
            region.map_or(Cell::Null, Cell::text),
            Cell::text(if who.other == Other::Clear { "" } else { "TLS" }),
            Cell::text(&who.application),
            Cell::number(record.id),
        ]
    };
    shared.sessions.present().iter().map(|record| row(record)).collect()
}

fn state(record: &Record) -> &'static str {
    if record.who.kind == Kind::Console { "active" } else { record.doing().word() }
}

/// How long a session has waited in the gateway; zero where it does not.
fn waits(shared: &Shared, record: &Record) -> Millis {
    record.waits(shared.clock.now())
}

/// Whole seconds, and the microseconds beyond them.
fn parts(wait: Millis) -> [Cell; 2] {
    [Cell::number(wait.0 / 1000), Cell::number(wait.0 % 1000 * 1000)]
}

fn servers(shared: &Shared) -> Vec<Row> {
    let rows = shared.sessions.present().into_iter().flat_map(|record| {
        let state = match record.doing() {
            Doing::Login => "login",
            _ if works(&record) => "active",
            _ => "idle",
        };
        record.servers().into_iter().map(move |server| {
            let (host, port) = server.address.rsplit_once(':').unwrap_or((&server.address, ""));
            vec![
                Cell::text("S"),
                Cell::text(&record.who.user),
                Cell::text(&record.who.database),
                Cell::text(if server.in_use { state } else { "idle" }),
                Cell::text(host),
                port.parse().map_or(Cell::Null, Cell::Number),
                Cell::text(&server.region),
                Cell::number(record.id),
                server.pid.map_or(Cell::Null, Cell::number),
            ]
        })
    });
    rows.collect()
}

/// Does a server work for the session now?
fn works(record: &Record) -> bool {
    matches!(record.doing(), Doing::Active | Doing::IdleInTransaction)
}

/// Sessions of one user in one database.
#[derive(Default)]
struct Pool {
    clients_active: usize,
    clients_waiting: usize,
    servers_active: usize,
    servers_idle: usize,
    servers_login: usize,
    wait_max: Millis,
}

fn pools(shared: &Shared) -> Vec<Row> {
    let mut pools: BTreeMap<(String, String), Pool> = BTreeMap::new();
    let present = shared.sessions.present();
    for record in present.iter().filter(|record| record.who.kind != Kind::Console) {
        let which = (record.who.database.clone(), record.who.user.clone());
        let pool = pools.entry(which).or_default();
        match record.doing().is_waiting() {
            true => pool.clients_waiting += 1,
            false => pool.clients_active += 1,
        }
        let servers = record.servers();
        let active = servers.iter().filter(|server| server.in_use && works(record)).count();
        pool.servers_active += active;
        match record.doing() {
            Doing::Login => pool.servers_login += servers.len(),
            _ => pool.servers_idle += servers.len() - active,
        }
        pool.wait_max = pool.wait_max.max(waits(shared, record));
    }
    for (login, counts) in shared.pools.counts() {
        let named = |name: &str| login.iter().find(|(of, _)| of == name).map(|(_, value)| value);
        let Some(user) = named("user") else { continue };
        let database = named("database").unwrap_or(user);
        pools.entry((database.clone(), user.clone())).or_default().servers_idle += counts.idle;
    }
    let row = |((database, user), pool): ((String, String), Pool)| {
        let [wait, wait_us] = parts(pool.wait_max);
        vec![
            Cell::Text(database),
            Cell::Text(user),
            Cell::number(pool.clients_active),
            Cell::number(pool.clients_waiting),
            Cell::number(pool.servers_active),
            Cell::number(pool.servers_idle),
            Cell::number(pool.servers_login),
            wait,
            wait_us,
            pool_mode(shared),
        ]
    };
    pools.into_iter().map(row).collect()
}

fn databases(shared: &Shared) -> Vec<Row> {
    let config = &shared.config;
    let (present, paused) = (shared.sessions.present(), shared.gate.paused());
    let mut names = shared.sessions.figures();
    names.entry(config.console.database.clone()).or_default();
    let local = config.local.to_string();
    let (host, port) = local.rsplit_once(':').unwrap_or((&local, ""));
    let row = |name: String| {
        let clients = present
            .iter()
            .filter(|record| record.who.kind == Kind::Client && record.who.database == name);
        vec![
            Cell::text(&name),
            Cell::text(host),
            port.parse().map_or(Cell::Null, Cell::Number),
            Cell::text(&name),
            pool_mode(shared),
            config.admission.limits.per_database.map_or(Cell::Number(0), Cell::number),
            Cell::number(clients.count()),
            Cell::number(u8::from(paused.holds(&name))),
        ]
    };
    names.into_keys().map(row).collect()
}

fn stats(shared: &Shared) -> Vec<Row> {
    let micros = |time: Millis| Cell::number(time.0.saturating_mul(1000));
    let row = |(database, figures): (String, Figures)| {
        vec![
            Cell::Text(database),
            Cell::number(figures.transactions),
            Cell::number(figures.queries),
            Cell::number(figures.received_bytes),
            Cell::number(figures.sent_bytes),
            micros(figures.transaction_time),
            micros(figures.query_time),
            micros(figures.wait_time),
        ]
    };
    shared.sessions.figures().into_iter().map(row).collect()
}

fn partitions(shared: &Shared) -> Vec<Row> {
    let routes = shared.routes();
    let entries = routes.owners.iter().flat_map(|owners| owners.entries());
    let row = |entry: &Entry| {
        vec![
            Cell::text(entry.range),
            Cell::number(entry.epoch.0),
            entry.owner().map_or(Cell::Null, Cell::text),
            Cell::text(&entry.state),
        ]
    };
    entries.map(row).collect()
}

fn lag(shared: &Shared) -> Vec<Row> {
    let Some(status) = &shared.config.console.status else { return Vec::new() };
    let status = status.borrow().clone();
    let row = |peer: &PeerStatus| {
        vec![
            Cell::text(&peer.region),
            Cell::text(if peer.connected { "yes" } else { "no" }),
            Cell::text(&peer.flushed),
            Cell::text(&peer.applied),
            Cell::number(peer.lag_bytes),
            Cell::number(peer.exposure_ms),
            Cell::number(peer.staleness_ms),
            Cell::number(peer.lease_silent_ms),
        ]
    };
    status.peers.iter().map(row).collect()
}

/// Of the gateway as a whole: single databases may be paused where it is not.
fn whole_state(shared: &Shared) -> Vec<Row> {
    let is_paused = shared.gate.paused().all;
    let is_drained = shared.config.console.notices.speaks(doing::PART);
    let lines = [("active", !is_paused), ("paused", is_paused), ("drained", is_drained)];
    let row = |(key, is)| vec![Cell::text(key), Cell::text(if is { "yes" } else { "no" })];
    lines.into_iter().map(row).collect()
}

fn config(shared: &Shared) -> Vec<Row> {
    let config = &shared.config;
    let (limits, roles) = (&config.admission.limits, &config.console.roles);
    let limit = |limit: Option<usize>| limit.map_or("none".to_owned(), |limit| limit.to_string());
    let names =
        |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let lines = [
        ("region", config.region.to_string()),
        ("listen", config.listen.to_string()),
        ("postgres", config.local.to_string()),
        ("gateway.require_tls", config.secure.required.to_string()),
        ("gateway.admins", names(&roles.admins)),
        ("gateway.viewers", names(&roles.viewers)),
        ("gateway.connections", limits.connections.to_string()),
        ("gateway.connections_per_user", limit(limits.per_user)),
        ("gateway.connections_per_database", limit(limits.per_database)),
        ("gateway.allow", format!("{} rules", config.admission.rules.len())),
    ];
    lines.into_iter().map(|(key, value)| vec![Cell::text(key), Cell::Text(value)]).collect()
}
