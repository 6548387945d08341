//! Is nothing written in a region that is back before what it alone had is journaled and repaired?
//!
//! With `rpo = "none"`: what the old owner acknowledged and nobody else has stands in its tables, and is
//! no history. Its partitions are given back to it while that is still so. One world for all sections.

use std::process::{Command, Output};

use domicile::directory::Client as Directory;
use domicile::directory::change::change_ownership;
use domicile::directory::documents::{OWNERSHIP_KEY, lift_ownership};
use domicile::directory::safety::Grounds;
use domicile::lab::regions::Regions;
use domicile::status::RegionStatus;
use domicile_core::id::{PartitionRange, RunId};
use domicile_core::ownership::{Ownership, OwnershipChange};
use tokio_postgres::Client;
use tokio_postgres::error::{DbError, SqlState};

mod regions;
use regions::{assert_alike, config, converge, eventually, settle, start};

const SEED: &str = "
    CREATE TABLE item (id int PRIMARY KEY, n int);
    INSERT INTO item SELECT i, 0 FROM generate_series(1, 60) i;";
const TABLES: &str = "[[table]]\nname = \"item\"\n";

/// The partitions that eu owns at first.
const OF_EU: PartitionRange = PartitionRange { first: 0, last: 1 };

/// Two rows of partition 0, of which eu writes the first when nobody hears of it, and one of partition 1.
struct Rows {
    lost: i32,
    beside: i32,
    other: i32,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_back_opens_nothing_before_its_tail_is_journaled_and_repaired() {
    let (mut regions, rows) = world().await;

    a_tail_that_is_not_examined_keeps_them_closed(&mut regions, &rows).await;
    a_row_that_cannot_be_repaired_keeps_its_partition_closed(&mut regions, &rows).await;
    an_owner_that_starts_anew_stays_open(&mut regions, &rows).await;
    who_is_taken_as_a_target_has_nothing_to_repair(&mut regions, &rows).await;
}

/// us has fenced eu, and cannot show all that eu wrote: it is lost itself before it owns anything of it.
#[tokio::test(flavor = "multi_thread")]
async fn another_region_takes_over_from_one_that_is_lost_while_it_takes_over() {
    let (mut regions, rows) = world().await;
    let (eu, ap) = (regions.connect("eu").await.unwrap(), regions.connect("ap").await.unwrap());
    let holder = regions.connect("us").await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE item IN SHARE MODE").await.unwrap();
    write(&eu, rows.lost, "7").await.unwrap();
    is_shown(&ap, rows.lost, 7).await;
    let us_holds = eventually("us holds what eu wrote", async || {
        let ends = |status: &RegionStatus| status.flushed.get("eu-1").cloned();
        let (own, us) = (regions.status("eu").await, regions.status("us").await);
        let (own, us) = (own.map_err(|e| e.to_string())?, us.map_err(|e| e.to_string())?);
        if ends(&own) == ends(&us) { Ok(()) } else { Err(format!("{us:?}")) }
    });
    us_holds.await;
    regions.kill_region("eu");
    let mut failover = Command::new(regions.binary());
    failover.args(["failover", "--from", "eu", "--to", "us", "--attest"]);
    let mut failover = failover.arg("--config").arg(regions.config_file("ap")).spawn().unwrap();
    eventually("eu is fenced", async || {
        let told = run_in(&regions, "ap", &["partition", "show", "0"]);
        let told = String::from_utf8(told.stdout).unwrap();
        if told.contains("fenced") { Ok(()) } else { Err(told) }
    })
    .await;
    regions.kill_region("us");
    for id in [rows.lost, rows.other] {
        opens(&ap, id).await;
    }
    is_shown(&ap, rows.lost, 8).await;
    let ended = tokio::task::spawn_blocking(move || failover.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(1), "it did not become what was asked for");
}

async fn world() -> (Regions, Rows) {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 6)", 6);
    config.rpo = "none".to_owned();
    config.seed_sql = SEED.to_owned();
    config.tables = TABLES.to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    settle(&regions, "start").await;
    let rows = rows(&regions).await;
    (regions, rows)
}

async fn rows(regions: &Regions) -> Rows {
    let client = regions.connect("eu").await.unwrap();
    let sql = "SELECT id FROM item WHERE domicile.partition_of(id::text) = $1 ORDER BY id";
    let first = client.query(sql, &[&0]).await.unwrap();
    let other = client.query(sql, &[&1]).await.unwrap();
    Rows { lost: first[0].get(0), beside: first[1].get(0), other: other[0].get(0) }
}

/// The agent has lived through it all, and its journal cannot be written.
async fn a_tail_that_is_not_examined_keeps_them_closed(regions: &mut Regions, rows: &Rows) {
    let (eu, us) = (regions.connect("eu").await.unwrap(), regions.connect("us").await.unwrap());
    let holder = regions.connect("eu").await.unwrap();
    regions.links().isolate("eu");
    write(&eu, rows.lost, "100").await.unwrap();
    fails_over(regions);
    write(&us, rows.beside, "n + 1").await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE domicile.journal IN SHARE MODE").await.unwrap();
    regions.links().rejoin("eu");
    is_shown(&eu, rows.beside, 1).await;
    has_lease(regions, "eu").await;

    is_refused_as_target(regions).await;
    hand_over(regions, "unexamined").await;
    let refused = refusal(&eu, rows.lost).await;
    assert!(refused.message().contains("not opened"), "{refused:?}");
    says(regions, "eu", "not_opened", true).await;
    holder.batch_execute("COMMIT").await.unwrap();
    opens(&eu, rows.lost).await;
    says(regions, "eu", "not_opened", false).await;
    is_journaled(&eu, 100).await;
    is_whole(regions, rows, 1).await;
}

/// The agent begins anew, and PostgreSQL refuses the row that the others have.
async fn a_row_that_cannot_be_repaired_keeps_its_partition_closed(
    regions: &mut Regions,
    rows: &Rows,
) {
    let us = regions.connect("us").await.unwrap();
    regions.links().isolate("eu");
    let eu = regions.connect("eu").await.unwrap();
    write(&eu, rows.lost, "200").await.unwrap();
    write(&eu, rows.other, "300").await.unwrap();
    regions.kill_region("eu");
    fails_over(regions);
    write(&us, rows.beside, "n + 1").await.unwrap();
    regions.start_postgres("eu").await.unwrap();
    let eu = regions.connect("eu").await.unwrap();
    let Rows { lost, .. } = rows;
    let sql =
        format!("ALTER TABLE item ADD CONSTRAINT odd CHECK (id <> {lost} OR n >= 100) NOT VALID");
    eu.batch_execute(&sql).await.unwrap();
    regions.links().rejoin("eu");
    regions.start_agent("eu").unwrap();
    is_shown(&eu, rows.beside, 2).await;
    has_lease(regions, "eu").await;
    is_journaled(&eu, 200).await;
    is_journaled(&eu, 300).await;

    is_refused_as_target(regions).await;
    hand_over(regions, "unrepaired").await;
    opens(&eu, rows.other).await;
    refusal(&eu, rows.lost).await;
    says(regions, "eu", "not_opened", true).await;
    says(regions, "eu", "repair_fails", true).await;
    regions.kill_agent("eu");
    regions.start_agent("eu").unwrap();
    opens(&eu, rows.other).await;
    let refused = refusal(&eu, rows.lost).await;
    assert!(refused.message().contains("not opened"), "{refused:?}");

    eu.batch_execute("ALTER TABLE item DROP CONSTRAINT odd").await.unwrap();
    opens(&eu, rows.lost).await;
    says(regions, "eu", "repair_fails", false).await;
    is_whole(regions, rows, 2).await;
}

/// Whatever waits for repair: it has written on top of it already.
async fn an_owner_that_starts_anew_stays_open(regions: &mut Regions, rows: &Rows) {
    let eu = regions.connect("eu").await.unwrap();
    let sql = "INSERT INTO domicile.repair (schema_name, table_name, key) VALUES ('public', 'gone', '{}')";
    eu.batch_execute(sql).await.unwrap();
    regions.kill_agent("eu");
    regions.start_agent("eu").unwrap();
    has_lease(regions, "eu").await;
    opens(&eu, rows.lost).await;
    says(regions, "eu", "not_opened", false).await;
    eu.batch_execute("DELETE FROM domicile.repair WHERE table_name = 'gone'").await.unwrap();
    is_whole(regions, rows, 3).await;
}

/// It is asked for all the time while it comes back, with a long tail.
async fn who_is_taken_as_a_target_has_nothing_to_repair(regions: &mut Regions, rows: &Rows) {
    regions.links().isolate("eu");
    let eu = regions.connect("eu").await.unwrap();
    for n in 400..600 {
        write(&eu, rows.lost, &n.to_string()).await.unwrap();
    }
    regions.kill_region("eu");
    fails_over(regions);
    regions.start_postgres("eu").await.unwrap();
    let eu = regions.connect("eu").await.unwrap();
    regions.links().rejoin("eu");
    regions.start_agent("eu").unwrap();
    eventually("eu is taken as a target", async || {
        let planned = run(regions, &["plan", "switchover", "--partitions", "0-1", "--to", "eu"]);
        if planned.status.success() { Ok(()) } else { Err(format!("{planned:?}")) }
    })
    .await;
    let repairs = eu.query_one("SELECT count(*) FROM domicile.repair", &[]).await.unwrap();
    assert_eq!(repairs.get::<_, i64>(0), 0);
    is_journaled(&eu, 599).await;
    let moved = run(regions, &["switchover", "--partitions", "0-1", "--to", "eu"]);
    assert!(moved.status.success(), "{moved:?}");
    opens(&eu, rows.lost).await;
    is_whole(regions, rows, 4).await;
}

async fn write(client: &Client, id: i32, n: &str) -> Result<u64, tokio_postgres::Error> {
    client.execute(&format!("UPDATE item SET n = {n} WHERE id = {id}"), &[]).await
}

/// Waits until the guard lets a write through; it adds one.
async fn opens(client: &Client, id: i32) {
    eventually(&format!("row {id} is written"), async || {
        write(client, id, "n + 1").await.map_err(|e| format!("{e:?}"))
    })
    .await;
}

/// Has the guard refuse a write, and returns its words.
async fn refusal(client: &Client, id: i32) -> DbError {
    let error = write(client, id, "n + 1").await.expect_err("it is not opened");
    assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION), "{error:?}");
    error.as_db_error().unwrap().clone()
}

async fn is_shown(client: &Client, id: i32, n: i32) {
    eventually(&format!("row {id} is at {n}"), async || {
        let sql = "SELECT n FROM item WHERE id = $1";
        let row = client.query_one(sql, &[&id]).await.map_err(|e| e.to_string())?;
        match row.get::<_, i32>(0) {
            seen if n == seen => Ok(()),
            seen => Err(format!("{seen}")),
        }
    })
    .await;
}

async fn is_journaled(client: &Client, n: i32) {
    eventually("what was lost is in the journal", async || {
        let sql = "SELECT count(*) FROM domicile.journal
                   WHERE conflict = 'beyond_cut' AND new ->> 'n' = $1::int::text";
        let row = client.query_one(sql, &[&n]).await.map_err(|e| e.to_string())?;
        match row.get::<_, i64>(0) {
            1 => Ok(()),
            count => Err(format!("{count} entries")),
        }
    })
    .await;
}

async fn has_lease(regions: &Regions, region: &str) {
    eventually(&format!("{region} has a lease"), async || {
        let status = regions.status(region).await.map_err(|e| e.to_string())?;
        if status.lease_live { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

async fn says(regions: &Regions, region: &str, state: &str, wanted: bool) {
    eventually(&format!("{region} says {state}: {wanted}"), async || {
        let status = regions.status(region).await.map_err(|e| e.to_string())?;
        if status.says(state) == wanted { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
    })
    .await;
}

/// The row that was lost has what history has, and what was written at eu since; all are alike.
async fn is_whole(regions: &Regions, rows: &Rows, n: i32) {
    converge(regions).await;
    for region in ["eu", "us", "ap"] {
        is_shown(&regions.connect(region).await.unwrap(), rows.lost, n).await;
    }
    let verified = run(regions, &["verify"]);
    assert!(verified.status.success(), "{verified:?}");
    assert_alike(regions, &["item"]).await;
}

fn run(regions: &Regions, arguments: &[&str]) -> Output {
    run_in(regions, "us", arguments)
}

fn run_in(regions: &Regions, region: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(regions.binary());
    command.args(arguments).arg("--config").arg(regions.config_file(region));
    command.output().unwrap()
}

fn fails_over(regions: &Regions) {
    let done = run(regions, &["failover", "--from", "eu", "--to", "us", "--attest"]);
    assert!(done.status.success(), "{done:?}");
}

async fn is_refused_as_target(regions: &Regions) {
    eventually("eu is refused as a target", async || {
        let planned = run(regions, &["plan", "switchover", "--partitions", "0-1", "--to", "eu"]);
        let told = String::from_utf8_lossy(&planned.stderr).into_owned()
            + &String::from_utf8_lossy(&planned.stdout);
        let refused = !planned.status.success() && told.contains("not history");
        if refused { Ok(()) } else { Err(told) }
    })
    .await;
}

/// Gives eu what it owned, as a run would that was decided when nothing was against it.
async fn hand_over(regions: &Regions, run: &str) {
    let directory = Directory::embedded(&regions.directory().to_string()).unwrap();
    let (run, to) = (RunId(run.to_owned()), "eu".parse().unwrap());
    let known = ownership(&directory).await.unwrap();
    let change = OwnershipChange::HandOver { range: OF_EU, to, run: run.clone() };
    let (cluster, grounds) = ("lab", Grounds::default());
    let known = (&known.0, known.1);
    change_ownership(&directory, cluster, &change, known, &grounds).await.unwrap();
    let drained = eventually("us has drained", async || {
        let known = ownership(&directory).await?;
        let drained = known.0.ranges_of(&run).all(|entry| entry.state.cut().is_some());
        if drained { Ok(known) } else { Err(format!("{:?}", known.0)) }
    })
    .await;
    let change = OwnershipChange::Grant { run, to: "eu".parse().unwrap() };
    let known = (&drained.0, drained.1);
    change_ownership(&directory, cluster, &change, known, &grounds).await.unwrap();
    eventually("eu goes by it", async || {
        let (_, revision) = ownership(&directory).await?;
        let status = regions.status("eu").await.map_err(|e| e.to_string())?;
        if status.ownership_seen >= revision { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}

async fn ownership(directory: &Directory) -> Result<(Ownership, u64), String> {
    let read = directory.get(OWNERSHIP_KEY).await.map_err(|e| e.to_string())?;
    let document = read.ok_or("there is no ownership")?;
    let lifted = lift_ownership("lab", &document.value).map_err(|e| e.to_string())?;
    Ok((lifted, document.revision))
}
