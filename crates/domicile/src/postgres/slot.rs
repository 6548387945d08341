//! Which slot does capture read, and what does the server say of it and of itself?

use anyhow::Context;
use domicile_core::config::Config;
use domicile_core::continuity::{PLUGIN, Server, Slot};
use domicile_core::id::Origin;
use domicile_core::lsn::Lsn;
use tokio_postgres::{Client, Row};

/// The slot's name: slots belong to the whole server.
pub fn slot_name(config: &Config) -> String {
    format!("domicile_{}", config.cluster.replace('-', "_"))
}

/// Asks the server for everything by which its history and the slot are judged. `known` is the
/// timeline that we know. Fails on a standby.
pub async fn survey(
    client: &Client,
    slot: &str,
    incarnation: u32,
    known: Option<u32>,
) -> anyhow::Result<Server> {
    let row = client
        .query_one(
            "SELECT system, timeline, wal_end::text, to_regclass('domicile.slot') IS NOT NULL
             FROM (SELECT pg_current_wal_flush_lsn() wal_end,
                          left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) timeline) wal,
                  (SELECT system_identifier system FROM pg_control_system()) control",
            &[],
        )
        .await
        .context("ask the server who it is")?;
    let system = row.get::<_, i64>(0).cast_unsigned();
    let timeline = u32::from_str_radix(row.get(1), 16).context("read the timeline")?;
    let wal_end = row.get::<_, &str>(2).parse()?;
    let read_before = row.get(3) && noted(client, slot, system, incarnation).await?;
    let ended = match known {
        Some(known) if known != timeline => history(client, timeline).await,
        _ => Some(Vec::new()),
    };
    let found = client
        .query_opt(
            "SELECT plugin::text, wal_status IS NOT DISTINCT FROM 'lost',
                    confirmed_flush_lsn::text, nullif(database, current_database())::text
             FROM pg_replication_slots WHERE slot_name = $1",
            &[&slot],
        )
        .await
        .context("look for the slot")?;
    if let Some(of) = found.as_ref().and_then(|row| row.get::<_, Option<&str>>(3)) {
        anyhow::bail!(
            "slot {slot} is of database \"{of}\" on this server: every region needs a server of its own"
        );
    }
    let slot = found.as_ref().map(lift).transpose()?;
    Ok(Server { system, timeline, ended, wal_end, read_before, slot })
}

fn lift(row: &Row) -> anyhow::Result<Slot> {
    let confirmed = row.get::<_, Option<&str>>(2).map(str::parse).transpose()?;
    Ok(Slot { plugin: row.get(0), invalidated: row.get(1), confirmed })
}

/// Returns the server's system identifier.
pub async fn system(client: &Client) -> anyhow::Result<u64> {
    let row = client
        .query_one("SELECT system_identifier FROM pg_control_system()", &[])
        .await
        .context("ask the server who it is")?;
    Ok(row.get::<_, i64>(0).cast_unsigned())
}

/// Has the tables show the log of an earlier incarnation up to `applied`, for its applier.
pub async fn resume(client: &Client, before: &Origin, applied: Lsn) -> anyhow::Result<()> {
    client
        .execute(
            "INSERT INTO domicile.progress (origin, applied) VALUES ($1, $2::text::pg_lsn)
             ON CONFLICT (origin) DO UPDATE SET applied = excluded.applied",
            &[&before.to_string(), &applied.to_string()],
        )
        .await
        .context("note how much of the earlier log is shown")?;
    Ok(())
}

/// Drops this database's slot, if there is one that nobody reads.
pub async fn remove(client: &Client, slot: &str) -> anyhow::Result<()> {
    let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
               WHERE slot_name = $1 AND database = current_database()";
    client.execute(sql, &[&slot]).await.context("drop the slot")?;
    Ok(())
}

/// Leaves nothing of what this database was before it is seeded: neither the slot nor what is noted of
/// it, and of replication origins those that nobody uses.
pub async fn forget(client: &Client, slot: &str) -> anyhow::Result<()> {
    remove(client, slot).await?;
    let sql = "DELETE FROM domicile.slot WHERE name = $1";
    client.execute(sql, &[&slot]).await.context("forget the slot")?;
    drop_origins(client, "domicile\\_%").await?;
    Ok(())
}

/// Drops the replication origins whose names are like `pattern`, and which no session has. PostgreSQL
/// keeps room for so many, in use or not. Returns whether none is left.
pub async fn drop_origins(client: &Client, pattern: &str) -> anyhow::Result<bool> {
    let mut all = true;
    let sql = "SELECT roname FROM pg_replication_origin WHERE roname LIKE $1";
    for row in client.query(sql, &[&pattern]).await.context("look for replication origins")? {
        let name: &str = row.get(0);
        let dropped = client.execute("SELECT pg_replication_origin_drop($1)", &[&name]).await;
        if let Err(error) = dropped {
            tracing::debug!(origin = name, "is not dropped: {error}");
            all = false;
        }
    }
    Ok(all)
}

/// Makes the slot. Returns once it can be read from: transactions that are open now are waited for.
pub async fn make(client: &Client, slot: &str) -> anyhow::Result<()> {
    client
        .execute("SELECT pg_create_logical_replication_slot($1, $2::text::name)", &[&slot, &PLUGIN])
        .await
        .context("create the slot")?;
    Ok(())
}

/// Has the database remember that its slot is read, for an agent that does not.
pub async fn note(
    client: &Client,
    slot: &str,
    system: u64,
    incarnation: u32,
) -> anyhow::Result<()> {
    client
        .execute(
            "INSERT INTO domicile.slot (name, system, incarnation) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE
             SET system = excluded.system, incarnation = excluded.incarnation, at = excluded.at
             WHERE (slot.system, slot.incarnation) <> (excluded.system, excluded.incarnation)",
            &[&slot, &system.to_string(), &i64::from(incarnation)],
        )
        .await
        .context("note the slot")?;
    Ok(())
}

/// Was a slot of this name ever read here, as a member?
pub async fn was_read(client: &Client, slot: &str) -> anyhow::Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM domicile.slot WHERE name = $1)";
    let noted = client.query_one(sql, &[&slot]).await.context("read what is noted of the slot")?;
    Ok(noted.get(0))
}

/// A copy of the database in another cluster carries the note of the first one.
async fn noted(client: &Client, slot: &str, system: u64, incarnation: u32) -> anyhow::Result<bool> {
    let sql = "SELECT FROM domicile.slot WHERE name = $1 AND system = $2 AND incarnation >= $3";
    let (system, incarnation) = (system.to_string(), i64::from(incarnation));
    let row = client.query_opt(sql, &[&slot, &system, &incarnation]).await;
    Ok(row.context("read what is noted of the slot")?.is_some())
}

/// Returns where earlier timelines ended in the history of `timeline`, if this role may read it.
async fn history(client: &Client, timeline: u32) -> Option<Vec<(u32, Lsn)>> {
    let file = format!("pg_wal/{timeline:08X}.history");
    match client.query_one("SELECT pg_read_file($1)", &[&file]).await {
        Ok(row) => Some(lift_history(row.get(0))),
        Err(error) => {
            tracing::debug!(%file, "the timeline's history cannot be read: {error}");
            None
        }
    }
}

/// Reads lines of `timeline`, LSN and a reason; others are comments.
fn lift_history(text: &str) -> Vec<(u32, Lsn)> {
    let lines = text.lines().map(str::split_whitespace);
    lines
        .filter_map(|mut words| Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timelines_history_is_read_as_postgres_writes_it() {
        let text = "# made by hand\n1\t0/3000158\tno recovery target specified\n\n\
                    2\t1/5000000\tbefore 2026-11-25 02:00:00+00\n";
        assert_eq!(lift_history(text), [(1, Lsn(0x300_0158)), (2, Lsn(0x1_0500_0000))]);
    }
}
