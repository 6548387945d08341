//! How does PostgreSQL itself refuse a write that is not this region's to make?
//!
//! The guard is an early, clear refusal; the replicated history is the safety. It consists of
//! triggers on every guarded table and each of its table partitions, a map from partition to
//! owner, and registers that say how long this region may act as owner.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, ensure};
use domicile_core::change::Stamp;
use domicile_core::config::{Config, KeySource, TableKind};
use domicile_core::id::{Epoch, PartitionId, PartitionRange, RegionId, RunId, TableName};
use domicile_core::opening::{Open, Repairs, without};
use domicile_core::ownership::{Ownership, State};
use domicile_core::partition::{Layout, Scheme};
use domicile_core::standby::StandbyNames;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::session::{function_for, quote_name, quote_text};
use super::shared;
use super::stamp::{StampKey, emit_stamp};
use crate::capture::APPLICATION_NAME;

/// The schema of everything that is Domicile's in a database.
pub const SCHEMA: &str = "domicile";

/// Held by the one agent that may act for a database.
const AGENT_LOCK: i64 = 0x646f_6d69_6369_6c65;

const SCHEMA_SQL: &str = include_str!("sql/schema.sql");
const ADMIT_SQL: &str = include_str!("sql/admit.sql");

/// A wait that is cancelled is told in a WARNING alone, so nobody may leave it out: gateways make an
/// error of it.
const WAIT_FOR_COPIES: &str = "
    PERFORM set_config('synchronous_commit', 'on', true);
    IF current_setting('client_min_messages') = 'error' THEN
        PERFORM set_config('client_min_messages', 'warning', true);
    END IF;";

/// Who stands in the map as the owner of what is ours and not opened: no region has this name.
pub const NOBODY_YET: &str = "";

/// The table of canary writes: guarded by its own partition number.
pub fn canary_table() -> TableName {
    TableName::new("domicile", "canary")
}

/// The table of apply checkpoints: a transaction that writes to it was applied here.
pub fn progress_table() -> TableName {
    TableName::new("domicile", "progress")
}

/// Makes `client` the session of the one agent that acts for its database, until it is closed.
pub async fn be_alone(client: &Client) -> anyhow::Result<()> {
    let alone = client.query_one("SELECT pg_try_advisory_lock($1)", &[&AGENT_LOCK]).await?;
    ensure!(alone.get::<_, bool>(0), "another agent is acting for this database");
    Ok(())
}

/// Installs schema, functions and triggers. Changes nothing that is in place already, so that it
/// takes no lock on tables that are guarded.
pub async fn install(client: &Client, config: &Config, region: &RegionId) -> anyhow::Result<()> {
    client.batch_execute(SCHEMA_SQL).await.context("create schema domicile")?;
    StampKey::draw(client).await?;
    let sync = if config.rpo.waits_for_capture() { WAIT_FOR_COPIES } else { "" };
    let applier: String = client.query_one("SELECT session_user::text", &[]).await?.get(0);
    let admit = ADMIT_SQL
        .replace("{region}", &quote_text(region.as_str()))
        .replace("{applier}", &quote_text(&applier))
        .replace("{sync}", sync);
    client.batch_execute(&partition_function(&config.layout)).await?;
    let mapped = client.query_one("SELECT to_regproc('domicile.entry')::text", &[]).await?;
    if mapped.get::<_, Option<String>>(0).is_none() {
        // Until the directory is read, nothing is ours.
        client.batch_execute(&map_function(&[])).await?;
    }
    client.batch_execute(&admit).await.context("create the guard's functions")?;
    StampKey::in_force(client).await?;
    shared::install(client, config, region).await?;
    install_triggers(client, config).await
}

/// Adds the guard to tables and table partitions that lack it or had it disabled.
///
/// Returns without a lock when nothing is missing, so it may be called often.
pub async fn install_triggers(client: &Client, config: &Config) -> anyhow::Result<()> {
    guard_table(client, &canary_table(), "partition", None).await?;
    for (table, kind) in &config.tables {
        let reference = config.layout.reference().map_or(0, |p| p.0).to_string();
        match kind {
            TableKind::Local | TableKind::Shared(_) => {}
            TableKind::Reference => {
                guard_table(client, table, &reference, Some(&reference)).await?
            }
            TableKind::Owned(_) => {
                let key = KeyExpression::of(config, table)?;
                let from = key.from.clone();
                guard_table_with(client, table, &key.expression, &from, None).await?;
            }
        }
    }
    shared::install_triggers(client, config).await
}

/// The partition of a row called `row_` as an SQL expression, and the joins to its parents that the
/// expression reads.
pub fn partition_of_row(config: &Config, table: &TableName) -> anyhow::Result<(String, String)> {
    match config.kind(table) {
        Some(TableKind::Owned(_)) => {
            let key = KeyExpression::of(config, table)?;
            Ok((key.expression, key.from))
        }
        _ => Ok((config.layout.reference().map_or(0, |p| p.0).to_string(), String::new())),
    }
}

async fn guard_table(
    client: &Client,
    table: &TableName,
    expression: &str,
    truncate: Option<&str>,
) -> anyhow::Result<()> {
    guard_table_with(client, table, expression, "", truncate).await
}

/// How a row's partition is found, as SQL over a transition table called `row_`.
struct KeyExpression {
    expression: String,
    /// Joins to the parents.
    from: String,
}

impl KeyExpression {
    fn of(config: &Config, table: &TableName) -> anyhow::Result<Self> {
        let mut from = String::new();
        let mut alias = "row_".to_owned();
        let mut table = table.clone();
        // A chain of parents is as long as there are tables, at most.
        for depth in 0..=config.tables.len() {
            match config.kind(&table) {
                Some(TableKind::Owned(KeySource::Whole)) => {
                    return Ok(Self { expression: "0".into(), from });
                }
                Some(TableKind::Owned(KeySource::Columns(columns))) => {
                    let key: Vec<String> = columns
                        .iter()
                        .map(|c| format!("{alias}.{}::text", quote_name(c)))
                        .collect();
                    let key = key.join(" || chr(31) || ");
                    return Ok(Self { expression: format!("domicile.partition_of({key})"), from });
                }
                Some(TableKind::Owned(KeySource::Parent {
                    table: parent,
                    columns,
                    references,
                })) => {
                    let next = format!("parent_{depth}");
                    let on: Vec<String> = columns
                        .iter()
                        .zip(references)
                        .map(|(c, r)| {
                            format!("{next}.{} = {alias}.{}", quote_name(r), quote_name(c))
                        })
                        .collect();
                    let name = qualified(parent);
                    write!(from, " LEFT JOIN {name} {next} ON {}", on.join(" AND "))?;
                    (alias, table) = (next, parent.clone());
                }
                _ => anyhow::bail!("table {table} has no partition key"),
            }
        }
        anyhow::bail!("the parents of table {table} form a circle")
    }
}

async fn guard_table_with(
    client: &Client,
    table: &TableName,
    expression: &str,
    joins: &str,
    truncate: Option<&str>,
) -> anyhow::Result<()> {
    let root = qualified(table);
    let function = function_for("guard", table);
    let truncated = truncate.map_or_else(
        || "ARRAY(SELECT generate_series(0, domicile.partitions() - 1))".to_owned(),
        |partition| format!("ARRAY[{partition}]"),
    );
    // A child whose parent was deleted in this same transaction has nothing left to name its
    // partition: the parent's own guard has admitted the deletion.
    let orphans = "IF TG_OP = 'DELETE' AND coalesce(current_setting('domicile.touched', true), '') <> '' THEN \
                   wanted := array_remove(wanted, NULL); END IF;";
    let orphans = if joins.is_empty() { "" } else { orphans };
    let expression = if expression == "partition" { "row_.partition" } else { expression };
    let find = if expression.bytes().all(|b| b.is_ascii_digit()) {
        // The partition is known without a row: so even a write that finds none is refused where
        // it may just not have arrived yet.
        format!("wanted := ARRAY[{expression}];")
    } else {
        format!(
            "IF TG_OP = 'INSERT' THEN
                 SELECT array_agg(DISTINCT {expression}) INTO wanted FROM new_rows row_{joins};
             ELSIF TG_OP = 'UPDATE' THEN
                 SELECT array_agg(DISTINCT number) INTO wanted
                 FROM (SELECT {expression} FROM new_rows row_{joins}
                       UNION ALL
                       SELECT {expression} FROM old_rows row_{joins}) rows (number);
             ELSIF TG_OP = 'DELETE' THEN
                 SELECT array_agg(DISTINCT {expression}) INTO wanted FROM old_rows row_{joins};
                 {orphans}
             ELSE
                 wanted := {truncated};
             END IF;"
        )
    };
    let body = format!(
        "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
         LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
         $guard$
         DECLARE
             wanted integer[];
             admitted boolean;
         BEGIN
             {find}
             admitted := domicile.admit(wanted);
             IF TG_OP = 'TRUNCATE' THEN
                 PERFORM domicile.admit_truncate(TG_RELID);
             END IF;
             RETURN NULL;
         END
         $guard$"
    );
    let source = body.split("$guard$").nth(1).unwrap_or_default();
    let known = client
        .query_opt(
            "SELECT FROM pg_proc WHERE oid = to_regproc($1) AND prosrc = $2",
            &[&function, &source],
        )
        .await?;
    if known.is_none() {
        client
            .batch_execute(&body)
            .await
            .with_context(|| format!("create the guard of {table}"))?;
    }
    let missing = client
        .query(
            "SELECT relid::regclass::text
             FROM (SELECT relid FROM pg_partition_tree(to_regclass($1))
                   UNION SELECT to_regclass($1)) tree
             -- A table that is not here yet has nothing to guard.
             WHERE relid IS NOT NULL AND (SELECT count(*) FROM pg_trigger
                    WHERE tgrelid = relid AND tgname LIKE 'domicile\\_guard\\_%'
                      AND tgenabled = 'A' AND tgfoid = to_regproc($2)) < 4",
            &[&root, &function],
        )
        .await
        .with_context(|| format!("look for the guards of {table}"))?;
    for row in missing {
        let Some(leaf) = row.get::<_, Option<String>>(0) else {
            anyhow::bail!("table {table} does not exist");
        };
        client
            .batch_execute(&trigger_statements(&leaf, &function))
            .await
            .with_context(|| format!("guard table {leaf}"))?;
    }
    Ok(())
}

/// One request, and so one transaction, or a part of the one that is open.
fn trigger_statements(table: &str, function: &str) -> String {
    let mut sql = String::new();
    let transitions = [
        ("insert", "REFERENCING NEW TABLE AS new_rows"),
        ("update", "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"),
        ("delete", "REFERENCING OLD TABLE AS old_rows"),
        ("truncate", ""),
    ];
    for (event, referencing) in transitions {
        let name = format!("domicile_guard_{event}");
        // A row may not be truncated first and refused afterwards: that guard runs before.
        let when = if event == "truncate" { "BEFORE" } else { "AFTER" };
        let _ = write!(
            sql,
            "CREATE OR REPLACE TRIGGER {name} {when} {event} ON {table} {referencing} \
             FOR EACH STATEMENT EXECUTE FUNCTION {function}(); \
             ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}; "
        );
    }
    sql
}

fn qualified(table: &TableName) -> String {
    format!("{}.{}", quote_name(&table.schema), quote_name(&table.name))
}

/// `domicile.partition_of` and `domicile.partitions`: the same answers as `core::partition`.
fn partition_function(layout: &Layout) -> String {
    let body = match &layout.scheme {
        Scheme::Whole => "0".to_owned(),
        Scheme::Hash { count } => format!(
            "((hashtextextended(key COLLATE \"C\", 0) & 9223372036854775807) % {count})::integer"
        ),
        Scheme::Home { regions } => {
            let mut cases = String::from("CASE key");
            for (i, region) in regions.iter().enumerate() {
                let _ = write!(cases, " WHEN {} THEN {i}", quote_text(region.as_str()));
            }
            cases + " END"
        }
    };
    format!(
        "CREATE OR REPLACE FUNCTION domicile.partition_of(key text) RETURNS integer
         LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT {body} $$;
         CREATE OR REPLACE FUNCTION domicile.partitions() RETURNS integer
         LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT {} $$;",
        layout.total()
    )
}

/// What a guard goes by.
#[derive(Clone, Copy)]
pub struct Map<'a> {
    pub ownership: &'a Ownership,
    /// Partitions of this region into which nobody is let yet.
    pub closed: &'a [PartitionRange],
    /// Of the regions' gateways.
    pub addresses: &'a BTreeMap<RegionId, String>,
}

/// Partitions of which the map says the same.
struct Line<'a> {
    range: PartitionRange,
    epoch: Epoch,
    owner: Option<&'a str>,
    address: &'a str,
}

impl Map<'_> {
    /// The map as an SQL function: its definition is never read by an old snapshot, and looking
    /// something up costs no table access.
    pub(super) fn function(&self) -> String {
        map_function(&self.lines())
    }

    fn lines(&self) -> Vec<Line<'_>> {
        let mut lines = Vec::new();
        for entry in self.ownership.entries() {
            let line = |range, owner, address| Line { range, epoch: entry.epoch, owner, address };
            let Some(owner) = entry.state.admits() else {
                lines.push(line(entry.range, None, ""));
                continue;
            };
            let address = self.addresses.get(owner).map_or("", String::as_str);
            let open = without(entry.range, self.closed.iter().copied()).into_iter();
            lines.extend(open.map(|range| line(range, Some(owner.as_str()), address)));
            let closed = self.closed.iter().filter_map(|closed| closed.overlap(&entry.range));
            lines.extend(closed.map(|range| line(range, Some(NOBODY_YET), "")));
        }
        lines.sort_by_key(|line| line.range.first);
        lines
    }
}

fn map_function(lines: &[Line<'_>]) -> String {
    let mut body = String::new();
    search(lines, &mut body);
    format!(
        "CREATE OR REPLACE FUNCTION domicile.entry(
             number integer, OUT owner text, OUT epoch bigint, OUT address text)
         LANGUAGE plpgsql STABLE AS
         $map$
         BEGIN
             epoch := 0;
             {body}
         END
         $map$"
    )
}

/// Writes a binary search over `lines`.
fn search(lines: &[Line<'_>], out: &mut String) {
    match lines {
        [] => {}
        [line] => {
            if let Some(owner) = line.owner {
                let _ = write!(out, "owner := {}; ", quote_text(owner));
                let _ = write!(out, "address := {}; ", quote_text(line.address));
            }
            let _ = write!(out, "epoch := {}; ", line.epoch);
        }
        _ => {
            let (low, high) = lines.split_at(lines.len() / 2);
            let _ = write!(out, "IF number < {} THEN ", high[0].range.first);
            search(low, out);
            out.push_str("ELSE ");
            search(high, out);
            out.push_str("END IF; ");
        }
    }
}

/// Makes the guard go by `map`. What is gained counts at once; what is lost is drained first by
/// [`drain`](super::drain::drain).
///
/// Does not wait for the disk: if the map is lost in a crash the lease is too, for it names the
/// postmaster that is gone.
pub async fn set_map(client: &Client, map: Map<'_>) -> anyhow::Result<()> {
    let map = map.function();
    let script = format!("BEGIN; SET LOCAL synchronous_commit = off; {map}; COMMIT");
    client.batch_execute(&script).await.context("write the guard's map")
}

/// What the guard has open for its own region: its map outlives its agent.
pub async fn read_open(client: &Client, region: &RegionId) -> anyhow::Result<Vec<Open>> {
    let islands = "SELECT min(number), max(number), epoch
                   FROM (SELECT number, epoch,
                                number - row_number() OVER (PARTITION BY epoch ORDER BY number) AS island
                         FROM (SELECT generate_series(0, domicile.partitions() - 1) UNION ALL SELECT $2)
                              every (number), domicile.entry(number)
                         WHERE owner = $1) held
                   GROUP BY epoch, island
                   ORDER BY 1";
    let canary = i32::try_from(PartitionId::CANARY.0).context("partition number")?;
    let rows = client.query(islands, &[&region.as_str(), &canary]).await;
    let rows = rows.context("read the guard's map")?;
    let open = rows.iter().map(|row| {
        let (first, last) =
            (u32::try_from(row.get::<_, i32>(0))?, u32::try_from(row.get::<_, i32>(1))?);
        let epoch = Epoch(u64::try_from(row.get::<_, i64>(2))?);
        Ok(Open { range: PartitionRange::new(first, last), epoch })
    });
    open.collect()
}

/// The partitions of the rows that wait for repair.
pub async fn read_repairs(client: &Client) -> anyhow::Result<Repairs> {
    let partitions = "SELECT DISTINCT number
                      FROM domicile.repair
                      LEFT JOIN unnest(array_remove(array_append(touched, partition), NULL)) number
                          ON true";
    // In one round trip: clients may wait for a partition to be opened.
    let answer = client.simple_query(partitions).await.context("read what is to be repaired")?;
    let mut repairs = Repairs::default();
    for message in &answer {
        let SimpleQueryMessage::Row(row) = message else { continue };
        match row.get(0) {
            Some(number) => {
                repairs.of.insert(PartitionId(number.parse().context("partition number")?));
            }
            None => repairs.anywhere = true,
        }
    }
    Ok(repairs)
}

/// One reading of the database's clock, in microseconds since 1970.
pub async fn read_clock(client: &Client) -> anyhow::Result<i64> {
    Ok(client.query_one("SELECT domicile.now_us()", &[]).await.context("read the clock")?.get(0))
}

/// Returns why PostgreSQL may acknowledge a commit without our capture, if it may: the value that would
/// have it wait.
pub async fn does_not_wait(client: &Client) -> anyhow::Result<Option<String>> {
    let names: String = client
        .query_one("SELECT current_setting('synchronous_standby_names')", &[])
        .await
        .context("read synchronous_standby_names")?
        .get(0);
    let names = StandbyNames::read(&names).context("read synchronous_standby_names")?;
    let waits = names.always_waits_for(APPLICATION_NAME);
    Ok((!waits).then(|| names.with(APPLICATION_NAME)))
}

/// Ends the sessions whose commits wait for a capture that will not come to them: they are told nothing of
/// their outcome. Which those are is seen with `pg_read_all_stats`, and those of other roles are ended with
/// `pg_signal_backend`.
pub async fn end_waiting(client: &Client) -> anyhow::Result<()> {
    // Of every database of the server: a slot waits for them all.
    let sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    for row in client.query(sql, &[]).await.context("look for sessions whose commits wait")? {
        let pid: i32 = row.get(0);
        match client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await {
            Ok(_) => tracing::warn!(pid, "ended: its commit waited for what is not captured"),
            Err(error) => {
                tracing::warn!(pid, "waits for what is not captured, and is not ended: {error}")
            }
        }
    }
    Ok(())
}

/// Lets this region act as owner from `granted_at` until `deadline`, both by the database's
/// clock: absolute, so that a call that arrives late grants nothing.
pub async fn set_lease(client: &Client, granted_at: i64, deadline: i64) -> anyhow::Result<()> {
    client
        .query_one(
            "SELECT setval('domicile.granted_at', $1), setval('domicile.deadline', $2), \
                    setval('domicile.postmaster', domicile.postmaster_us())",
            &[&granted_at, &deadline],
        )
        .await
        .context("extend the guard's lease")?;
    Ok(())
}

/// Removes what transactions that have ended left in `domicile.commit_check`.
pub async fn sweep(client: &Client) -> anyhow::Result<()> {
    // Two requests: VACUUM stands in no transaction.
    client.batch_execute("DELETE FROM domicile.commit_check").await.context("sweep")?;
    client.batch_execute("VACUUM domicile.commit_check").await.context("sweep")
}

/// Ends the lease at once: not even a transaction that was admitted may commit.
pub async fn revoke_lease(client: &Client) -> anyhow::Result<()> {
    client
        .query_one("SELECT setval('domicile.deadline', 0)", &[])
        .await
        .context("end the guard's lease")?;
    Ok(())
}

/// Writes through the guard, as an application would.
pub async fn write_canary(client: &Client, partition: u32, run: &str) -> anyhow::Result<()> {
    let partition = i32::try_from(partition).context("partition number")?;
    // A table that has no guard yet takes what nobody captures.
    let written = client
        .execute(
            "INSERT INTO domicile.canary AS canary (partition, run)
             SELECT $1::integer, $2::text
             WHERE EXISTS (SELECT FROM pg_catalog.pg_trigger
                           WHERE tgrelid = 'domicile.canary'::regclass AND NOT tgisinternal)
             ON CONFLICT (partition) DO UPDATE SET run = excluded.run, at = clock_timestamp()",
            &[&partition, &run],
        )
        .await
        .context("write the canary")?;
    ensure!(written == 1, "the guard is not installed yet");
    Ok(())
}

/// Writes past the guard what it would have admitted under `epoch`, and returns the transaction's number.
///
/// Only this transaction sees the guard of the canary's table switched off, and whoever wants to write that
/// table meanwhile waits.
pub async fn write_late(
    client: &mut Client,
    partition: PartitionId,
    epoch: Epoch,
    run: &str,
) -> anyhow::Result<u32> {
    let (number, table) = (i32::try_from(partition.0).context("partition number")?, canary_table());
    let table = qualified(&table);
    let switch = |how: &str| {
        format!(
            "ALTER TABLE {table} {how} TRIGGER domicile_guard_insert;
             ALTER TABLE {table} {how} TRIGGER domicile_guard_update"
        )
    };
    let transaction = client.transaction().await?;
    transaction.batch_execute(&switch("DISABLE")).await.context("switch the guard off")?;
    transaction.batch_execute(&emit_stamp(Stamp { partition, epoch })).await?;
    let write = format!(
        "INSERT INTO {table} (partition, run) VALUES ($1, $2)
         ON CONFLICT (partition) DO UPDATE SET run = excluded.run, at = clock_timestamp()
         RETURNING (pg_current_xact_id()::text::bigint & x'ffffffff'::bigint)"
    );
    let xid: i64 = transaction.query_one(&write, &[&number, &run]).await?.get(0);
    transaction.batch_execute(&switch("ENABLE ALWAYS")).await.context("switch the guard on")?;
    transaction.commit().await?;
    Ok(u32::try_from(xid)?)
}

/// The runs that wait for this region to drain.
pub fn barriers_due(ownership: &Ownership, region: &RegionId) -> Vec<RunId> {
    let mut runs: Vec<RunId> = ownership
        .entries()
        .iter()
        .filter_map(|entry| match &entry.state {
            State::HandingOver { by, run, barrier: None, .. } if by == region => Some(run.clone()),
            _ => None,
        })
        .collect();
    runs.dedup();
    runs
}
