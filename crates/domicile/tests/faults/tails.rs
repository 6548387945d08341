//! Old owners that return with what nobody else has.

use tokio_postgres::error::SqlState;

use super::regions::eventually;
use super::world::{World, comes_to_an_end};

pub async fn try_all(world: &mut World) {
    what_an_old_owner_brings_back_gives_way(world).await;
    two_owners_are_lost_one_after_the_other(world).await;
}

/// F02, F31, F32, and the forced half of F35 and F36.
async fn what_an_old_owner_brings_back_gives_way(world: &mut World) {
    let (branch, partition) = world.branch_of("eu").await;
    let (open, snapshot, alone) =
        (world.client("eu").await, world.client("eu").await, world.client("eu").await);
    let write = format!("BEGIN; INSERT INTO payment VALUES ({branch}, 30, 'open')");
    open.batch_execute(&write).await.unwrap();
    let read = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM payment";
    snapshot.batch_execute(read).await.unwrap();
    world.regions.links().stop_shipping("eu");
    let row = alone.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
    let backend: i32 = row.get(0);
    // One clashes by its key, one by what else is unique, one with nothing.
    let sql = format!(
        "INSERT INTO payment VALUES ({branch}, 10, 'theirs'), ({branch}, 11, 'both'), ({branch}, 12, 'alone')"
    );
    let alone = tokio::spawn(async move { alone.batch_execute(&sql).await });
    let look = world.regions.connect("eu").await.unwrap();
    eventually("it is committed here, and nobody else has it", async || {
        let sql = "SELECT wait_event FROM pg_stat_activity WHERE pid = $1";
        let row = look.query_one(sql, &[&backend]).await.map_err(|e| e.to_string())?;
        match row.get::<_, Option<String>>(0).as_deref() {
            Some("SyncRep") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    world.regions.kill_agent("eu");
    world.is_taken_over("eu").await;
    world.others_go_on(&["eu"], "while eu has no agent").await;
    let owner = world.owners().await[partition as usize].0.clone().unwrap();
    let new = world.client(&owner).await;
    let sql = format!("INSERT INTO payment VALUES ({branch}, 10, 'ours'), ({branch}, 20, 'both')");
    eventually("the new owner writes", async || {
        new.batch_execute(&sql).await.map_err(|e| format!("{e:?}"))
    })
    .await;
    let client = world.client("eu").await;
    world.refuses(&client, branch).await;
    let write = format!("INSERT INTO payment VALUES ({branch}, 31, 'of an old snapshot')");
    for (session, sql) in [(&open, "COMMIT"), (&snapshot, write.as_str())] {
        let error = session.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION), "{sql}: {error:?}");
    }
    assert!(!alone.is_finished(), "nobody else has it");

    world.regions.links().resume_shipping("eu");
    world.regions.start_agent("eu").unwrap();
    assert!(comes_to_an_end(alone).await.is_err(), "it was told a success");
    for reference in ["theirs", "both", "alone"] {
        world.is_journaled("eu", reference).await;
    }
    world.refuses_in_favour_of(&client, branch, &owner).await;
    world.holds("what an old owner brings back gives way").await;
    for (region, expected) in [("eu", "10 ours, 20 both"), ("us", "10 ours, 20 both")] {
        let client = world.regions.connect(region).await.unwrap();
        let sql = "SELECT string_agg(id || ' ' || reference, ', ' ORDER BY id) FROM payment
                   WHERE branch = $1 AND id >= 10";
        let row = client.query_one(sql, &[&branch]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), expected, "{region}");
    }
}

/// F26. Two of three must agree on an outage, and seal: so the first is back before the third takes
/// over, with nothing but its old epoch's log.
async fn two_owners_are_lost_one_after_the_other(world: &mut World) {
    let (_, partition) = world.branch_of("eu").await;
    let first = world.owners().await[partition as usize].1;
    world.regions.kill_region("eu");
    world.is_taken_over("eu").await;
    let second = world.owners().await[partition as usize].0.clone().unwrap();
    world.regions.kill_region(&second);
    world.regions.start_region("eu").await.unwrap();
    world.is_taken_over(&second).await;
    let (owner, epoch) = world.owners().await[partition as usize].clone();
    assert!(owner.is_some_and(|owner| owner != second) && epoch == first + 2, "{epoch}");
    world.others_go_on(&[&second], "when two were lost").await;
    world.regions.start_region(&second).await.unwrap();
    world.holds("two owners are lost one after the other").await;
}
