//! When may a deleted row be forgotten?
//!
//! Too early, and a write that did not know of the deletion would bring the row back. So a region
//! forgets it only when
//!
//! - every other region has said that it shows all that was shown here when the row was counted,
//! - and that word has arrived here: with it, by the order of the log, everything that the other
//!   region had written before.
//!
//! Each region says so in its row of `domicile.horizon`, which is replicated.

use std::collections::BTreeMap;

use anyhow::Context;
use domicile_core::config::Config;
use domicile_core::id::{Origin, RegionId};
use domicile_core::lsn::Lsn;
use serde_json::Value as Json;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// Rows that are counted or forgotten at a time.
const ROWS_MAX: i64 = 10_000;
/// While a region is away rounds wait; their rows are simply kept.
const ROUNDS_MAX: i64 = 100;
const WAITING: &str = "waiting";

/// Forgets what may be forgotten, counts what is old enough, and tells the others what is shown
/// here when somebody waits for that. `applier` writes for this region alone.
pub async fn forget(
    applier: &Client,
    speaker: &Client,
    config: &Config,
    own: &Origin,
) -> anyhow::Result<()> {
    let horizons = horizons(applier).await?;
    for row in applier.query("SELECT id, frontier FROM domicile.round ORDER BY id", &[]).await? {
        let counted = frontier(&row.get(1))?;
        let others = config.regions.iter().map(|region| &region.id).filter(|id| **id != own.region);
        let heard = |region: &RegionId| {
            horizons.get(region).is_some_and(|horizon| shows(horizon, &counted, region))
        };
        if others.clone().all(heard) {
            collect(applier, row.get(0)).await?;
        }
    }
    count(applier, config, own).await?;
    let waiting = applier.query_one("SELECT EXISTS (SELECT FROM domicile.round)", &[]).await?;
    let waiting: bool = waiting.get(0);
    let asked = horizons.iter().any(|(region, horizon)| {
        *region != own.region
            && horizon.waiting
            && horizons
                .get(&own.region)
                .is_none_or(|ours| !shows(ours, &horizon.frontier, &own.region))
    });
    let said = horizons.get(&own.region).is_some_and(|ours| ours.waiting);
    if waiting || asked || said {
        tell(speaker, own, waiting).await?;
    }
    Ok(())
}

/// What a region said last.
struct Horizon {
    frontier: BTreeMap<Origin, Lsn>,
    waiting: bool,
}

/// Does `region` show all of `frontier`? Its own writes it always does.
fn shows(horizon: &Horizon, frontier: &BTreeMap<Origin, Lsn>, region: &RegionId) -> bool {
    frontier
        .iter()
        .filter(|(origin, _)| origin.region != *region)
        .all(|(origin, lsn)| horizon.frontier.get(origin).is_some_and(|at| at >= lsn))
}

async fn horizons(client: &Client) -> anyhow::Result<BTreeMap<RegionId, Horizon>> {
    let rows = client
        .query("SELECT region, frontier FROM domicile.horizon", &[])
        .await
        .context("read what regions show")?;
    let lift = |row: &tokio_postgres::Row| {
        let said: Json = row.get(1);
        let waiting = said.get(WAITING).and_then(Json::as_bool).unwrap_or(false);
        let horizon = Horizon { frontier: frontier(&said)?, waiting };
        Ok((row.get::<_, &str>(0).parse()?, horizon))
    };
    rows.iter().map(lift).collect()
}

fn frontier(json: &Json) -> anyhow::Result<BTreeMap<Origin, Lsn>> {
    let members = json.as_object().into_iter().flatten();
    members
        .filter_map(|(origin, lsn)| Some((origin, lsn.as_str()?)))
        .map(|(origin, lsn)| Ok((origin.parse()?, lsn.parse()?)))
        .collect()
}

/// What is shown here, as SQL over the name of our own origin: all that may be in a row now.
const SHOWN_HERE: &str = "
    (SELECT coalesce(jsonb_object_agg(origin, applied::text), '{}') FROM domicile.progress)
        || jsonb_build_object($1::text, pg_current_wal_insert_lsn()::text)";

/// Counts deleted rows that are old enough into a new round.
async fn count(client: &Client, config: &Config, own: &Origin) -> anyhow::Result<()> {
    let keep = i64::try_from(config.tombstones_keep.0).unwrap_or(i64::MAX).saturating_mul(1000);
    let due = client
        .query_one(
            "SELECT EXISTS (SELECT FROM domicile.version
                            WHERE deleted AND round IS NULL AND hlc <= domicile.now_us() - $1)
                 AND (SELECT count(*) FROM domicile.round) < $2",
            &[&keep, &ROUNDS_MAX],
        )
        .await?;
    if !due.get::<_, bool>(0) {
        return Ok(());
    }
    // One snapshot for the rows and for what is shown: a row that changes meanwhile is left for
    // the next round.
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    let sql = format!(
        "WITH made AS (INSERT INTO domicile.round (frontier) SELECT {SHOWN_HERE} RETURNING id)
         UPDATE domicile.version v SET round = made.id
         FROM made, (SELECT relation, key FROM domicile.version
                     WHERE deleted AND round IS NULL AND hlc <= domicile.now_us() - $2
                     ORDER BY hlc LIMIT $3) due
         WHERE v.relation = due.relation AND v.key = due.key"
    );
    match client.execute(&sql, &[&own.to_string(), &keep, &ROWS_MAX]).await {
        Ok(_) => client.batch_execute("COMMIT").await.context("commit"),
        Err(error) => {
            client.batch_execute("ROLLBACK").await?;
            let changed = error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE);
            if changed { Ok(()) } else { Err(error).context("count deleted rows") }
        }
    }
}

/// Forgets the rows of a round that nobody has written since.
async fn collect(client: &Client, round: i64) -> anyhow::Result<()> {
    client
        .execute(
            "WITH gone AS (
                 DELETE FROM domicile.version WHERE deleted AND round = $1 RETURNING state
             ), closed AS (
                 DELETE FROM domicile.round WHERE id = $1
             )
             INSERT INTO domicile.forgotten AS f (region, hlc)
             SELECT seen.key, max(seen.value::bigint)
             FROM gone, jsonb_each_text(gone.state -> 'seen') seen
             GROUP BY seen.key
             ON CONFLICT (region) DO UPDATE SET hlc = greatest(f.hlc, excluded.hlc)",
            &[&round],
        )
        .await
        .context("forget deleted rows")?;
    Ok(())
}

async fn tell(client: &Client, own: &Origin, waiting: bool) -> anyhow::Result<()> {
    let sql = format!(
        "INSERT INTO domicile.horizon AS h (region, frontier)
         SELECT $2, {SHOWN_HERE} || jsonb_build_object('{WAITING}', $3::boolean)
         ON CONFLICT (region) DO UPDATE SET frontier = excluded.frontier"
    );
    client
        .execute(&sql, &[&own.to_string(), &own.region.as_str(), &waiting])
        .await
        .context("say what is shown here")?;
    Ok(())
}
