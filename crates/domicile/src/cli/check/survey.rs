//! What is true of one region's database? Reads and tries; judges nothing.
//!
//! Rights are probed by doing the thing, not by looking at a role's attributes: managed services
//! hand them out in ways of their own. Every probe undoes what it did, and nothing of another's
//! is touched.

use std::collections::BTreeMap;

use domicile_core::config::{Config, Region};
use domicile_core::conflict::policy::Policy;
use domicile_core::id::RegionId;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use crate::cli::connect::{cause, connect};
use crate::postgres::catalog::{self, Catalog};
use crate::postgres::database::Database;
use crate::postgres::shared::{self, function};

const SERVER: &str = include_str!("server.sql");
const BASIS: &str = include_str!("basis.sql");
/// `has_parameter_privilege` came with 15; before, only superusers may alter the system.
const PARAMETER_PRIVILEGES_SINCE: i32 = 150_000;
const DATABASE_COLLATION_VERSION_SINCE: i32 = 150_000;
const COLLATION_MOVED: &str = "
    SELECT actual FROM pg_database, pg_database_collation_actual_version(oid) actual
    WHERE datname = current_database() AND datcollversion <> actual";

/// One region's database, or why nothing is known of it.
#[derive(Clone, Debug)]
pub struct Survey {
    pub region: RegionId,
    pub reached: Result<Reached, String>,
}

#[derive(Clone, Debug)]
pub struct Reached {
    pub server: Server,
    /// Nothing that is said to it leaves the machine.
    pub is_local: bool,
    pub basis: Basis,
    pub probes: Probes,
    pub catalog: Catalog,
    /// Functions that should decide conflicts and cannot, and why.
    pub doubts: BTreeMap<String, &'static str>,
    /// What PostgreSQL keeps of the passwords of other roles, hashed; absent where this one may not read it.
    pub passwords: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub version_num: i32,
    pub version: String,
    pub database: String,
    pub database_oid: u32,
    pub role: String,
    pub encoding: String,
    /// Absent when the role may not read it.
    pub system_identifier: Option<i64>,
    /// Tells a server from its copies, which share the identifier.
    pub started: String,
    pub in_recovery: bool,
    pub wal_level: String,
    /// Ours are named `domicile...`, as all of ours below.
    pub slots: Room,
    pub senders: Room,
    /// WAL senders left out, and what is kept back from this role.
    pub sessions: Room,
    pub sessions_reserved: i64,
    /// By the role's CONNECTION LIMIT, WAL senders included; absent where nothing limits it.
    pub role_sessions: Option<Room>,
    /// The same of the database.
    pub database_sessions: Option<Room>,
    pub origins: Room,
    /// That we have made so far, earlier incarnations' too.
    pub origins_ours: i64,
    pub prepared_transactions_max: i64,
    /// As PostgreSQL prints it; `-1` is no limit.
    pub slot_keep_size: String,
    pub standby_names: String,
    pub may_create_schema: bool,
    pub may_set_standby_names: bool,
    /// The session was encrypted, as PostgreSQL saw it.
    pub encrypted: bool,
    pub superuser: bool,
    pub bypasses_row_security: bool,
    pub large_objects: i64,
}

/// What tables rest on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Basis {
    /// Provider, locale and version of the database's collation.
    pub sorts_by: String,
    /// The version that the system has now, where the recorded one is another.
    pub collation_moved_to: Option<String>,
    /// The same of collations that columns name.
    pub collations: BTreeMap<String, String>,
    /// Labels in their order, by type.
    pub enums: BTreeMap<String, Vec<String>>,
    /// Versions.
    pub extensions: BTreeMap<String, String>,
}

/// Places that the server has, and how many of them others than Domicile take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub max: i64,
    pub used: i64,
}

impl Room {
    pub fn left(self) -> i64 {
        self.max - self.used
    }
}

/// What happened when the role tried; the error is what the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probes {
    pub slot: Result<(), String>,
    pub origin: Result<(), String>,
    pub replica_role: Result<(), String>,
}

pub async fn survey(config: &Config, region: &Region) -> Survey {
    let reached = reach(config, region).await.map_err(|error| format!("{error:#}"));
    Survey { region: region.id.clone(), reached }
}

async fn reach(config: &Config, region: &Region) -> anyhow::Result<Reached> {
    let is_local = region.postgres.parse::<Database>()?.is_local();
    let client = connect(&region.postgres).await?;
    let server = read_server(&client).await?;
    let basis = read_basis(&client, server.version_num).await?;
    let catalog = catalog::read(&client).await?;
    let doubts = read_doubts(&client, config).await?;
    let passwords = read_passwords(&client).await?;
    let probes = probe(&client).await;
    Ok(Reached { server, is_local, basis, probes, catalog, doubts, passwords })
}

async fn read_passwords(client: &Client) -> anyhow::Result<Option<BTreeMap<String, String>>> {
    let sql = "SELECT has_column_privilege('pg_authid', 'rolname', 'SELECT')
                      AND has_column_privilege('pg_authid', 'rolpassword', 'SELECT')";
    if !client.query_one(sql, &[]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let sql = "SELECT r.rolname::text, encode(sha256(convert_to(a.rolpassword, 'UTF8')), 'hex')
               FROM pg_roles r JOIN pg_authid a ON a.rolname = r.rolname
               WHERE r.rolcanlogin AND a.rolpassword IS NOT NULL AND r.rolname <> current_user";
    let rows = client.query(sql, &[]).await?;
    Ok(Some(rows.iter().map(|row| (row.get(0), row.get(1))).collect()))
}

async fn read_basis(client: &Client, version_num: i32) -> anyhow::Result<Basis> {
    let row = client.query_one(BASIS, &[]).await?;
    let moved_to = if version_num >= DATABASE_COLLATION_VERSION_SINCE {
        client.query_opt(COLLATION_MOVED, &[]).await?.map(|row| row.get(0))
    } else {
        None
    };
    Ok(Basis {
        sorts_by: row.get("sorts_by"),
        collation_moved_to: moved_to,
        collations: serde_json::from_value(row.get("collations"))?,
        enums: serde_json::from_value(row.get("enums"))?,
        extensions: serde_json::from_value(row.get("extensions"))?,
    })
}

async fn read_doubts(
    client: &Client,
    config: &Config,
) -> anyhow::Result<BTreeMap<String, &'static str>> {
    let mut doubts = BTreeMap::new();
    for (_, policy) in shared::tables(config) {
        let Policy::Sql { function, .. } = policy else { continue };
        if let Some(doubt) = function::look_up(client, function).await? {
            doubts.insert(function.clone(), doubt);
        }
    }
    Ok(doubts)
}

async fn read_server(client: &Client) -> anyhow::Result<Server> {
    let row = client.query_one(SERVER, &[]).await?;
    let version_num: i32 = row.get("version_num");
    let may_alter = if version_num >= PARAMETER_PRIVILEGES_SINCE {
        let sql = "SELECT has_parameter_privilege('synchronous_standby_names', 'ALTER SYSTEM')";
        client.query_one(sql, &[]).await?.get(0)
    } else {
        row.get("superuser")
    };
    Ok(lift(&row, may_alter && row.get("may_reload")))
}

fn lift(row: &Row, may_set_standby_names: bool) -> Server {
    let number = |name: &str, suffix| row.get::<_, i64>(format!("{name}_{suffix}").as_str());
    let room = |name| Room { max: number(name, "max"), used: number(name, "used") };
    // PostgreSQL's -1 is no limit.
    let limited = |name| Some(room(name)).filter(|room| room.max >= 0);
    Server {
        version_num: row.get("version_num"),
        version: row.get("version"),
        database: row.get("database"),
        database_oid: row.get("database_oid"),
        role: row.get("role"),
        encoding: row.get("encoding"),
        system_identifier: row.get("system_identifier"),
        started: row.get("started"),
        in_recovery: row.get("in_recovery"),
        wal_level: row.get("wal_level"),
        slots: room("slots"),
        senders: room("senders"),
        sessions: room("sessions"),
        sessions_reserved: row.get("sessions_reserved"),
        role_sessions: limited("role_sessions"),
        database_sessions: limited("database_sessions"),
        origins: room("origins"),
        origins_ours: row.get("origins_ours"),
        prepared_transactions_max: row.get("prepared_transactions_max"),
        slot_keep_size: row.get("slot_keep_size"),
        standby_names: row.get("standby_names"),
        may_create_schema: row.get("may_create_schema"),
        may_set_standby_names,
        encrypted: row.get("encrypted"),
        superuser: row.get("superuser"),
        bypasses_row_security: row.get("bypasses_row_security"),
        large_objects: row.get("large_objects"),
    }
}

async fn probe(client: &Client) -> Probes {
    let name = format!("domicile_check_{}", uuid::Uuid::now_v7().simple());
    // A slot waits for the transactions that are open now; a probe should not.
    let _ = client.batch_execute("SET statement_timeout = '5s'").await;
    let make = format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput', true)");
    let slot = match client.batch_execute(&make).await {
        Ok(()) => run(client, &[&format!("SELECT pg_drop_replication_slot('{name}')")]).await,
        // Only who may make one comes to wait.
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Ok(()),
        Err(error) => Err(cause(&error)),
    };
    let origin = run(
        client,
        &[
            &format!("SELECT pg_replication_origin_create('{name}')"),
            &format!("SELECT pg_replication_origin_session_setup('{name}')"),
            "SELECT pg_replication_origin_session_reset()",
            &format!("SELECT pg_replication_origin_drop('{name}')"),
        ],
    )
    .await;
    if origin.is_err() {
        let drop = format!(
            "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin \
             WHERE roname = '{name}'"
        );
        let _ = client.batch_execute(&drop).await;
    }
    let replica_role =
        run(client, &["SET session_replication_role = replica", "RESET session_replication_role"])
            .await;
    Probes { slot, origin, replica_role }
}

/// Runs one statement after another, each in a transaction of its own, up to the first error.
async fn run(client: &Client, statements: &[&str]) -> Result<(), String> {
    for statement in statements {
        client.batch_execute(statement).await.map_err(|error| cause(&error))?;
    }
    Ok(())
}
