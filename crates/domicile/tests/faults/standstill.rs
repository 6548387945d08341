//! What stands still across a failover and goes on: an agent, PostgreSQL, one backend.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::regions::eventually;
use super::world::{World, comes_to_an_end};
use super::writers::connect;

pub async fn try_all(world: &mut World) {
    an_agent_that_was_dead_to_the_world_gives_up_by_itself(world).await;
    a_postmaster_that_hangs_alone_is_taken_over(world).await;
    a_postgres_that_was_dead_to_the_world_commits_nothing_late(world).await;
    a_backend_that_is_held_behind_its_last_check_is_told_no_success(world).await;
    an_agent_without_its_postgres_is_taken_over(world).await;
}

/// F03 and F25: a region that comes and goes gets nothing back by itself, nor instead of another.
async fn an_agent_that_was_dead_to_the_world_gives_up_by_itself(world: &mut World) {
    let (branch, partition) = world.branch_of("eu").await;
    let client = world.client("eu").await;
    world.regions.pause_agent("eu");
    world.is_taken_over("eu").await;
    // Nobody is there to close it.
    let error = world.refuses(&client, branch).await;
    assert!(error.as_db_error().unwrap().message().contains("lease is over"), "{error:?}");
    world.others_go_on(&["eu"], "while the agent of eu stands still").await;
    let taken = world.owners().await;
    let owner = taken[partition as usize].0.clone().unwrap();
    world.regions.resume_agent("eu");
    world.refuses_in_favour_of(&client, branch, &owner).await;
    for _ in 0..2 {
        world.regions.pause_agent("eu");
        world.is_probed(&owner, "eu", "unreachable").await;
        world.regions.resume_agent("eu");
        world.is_probed(&owner, "eu", "").await;
        world.refuses_in_favour_of(&client, branch, &owner).await;
    }
    assert_eq!(world.owners().await, taken, "it comes and goes, and nothing moves");
    world.is_on_probation(&owner, "eu").await;
    world.regions.kill_agent(&owner);
    world.is_taken_over(&owner).await;
    let owners = world.owners().await;
    let with_eu = owners.iter().filter(|(owner, _)| owner.as_deref() == Some("eu")).count();
    assert_eq!(with_eu, 0, "there is another than who comes and goes: {owners:?}");
    world.regions.start_agent(&owner).unwrap();
    world.holds("an agent that was dead to the world gives up by itself").await;
}

/// F04; with a statement that is under way there for a client of another region's gateway.
async fn a_postgres_that_was_dead_to_the_world_commits_nothing_late(world: &mut World) {
    let (branch, partition) = world.branch_of("us").await;
    let holder = world.client("us").await;
    holder.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    let gateway = world.regions.gateway("eu");
    let address = format!("host={} port={} user=app dbname=postgres", gateway.ip(), gateway.port());
    let sent_on = connect(&address).await.unwrap();
    // The guard of eu refuses it before it has an answer, so it may go on.
    let sql = format!(
        "INSERT INTO payment VALUES ({branch}, 6, 'sent on'); INSERT INTO held_up VALUES (1)"
    );
    let sent_on = tokio::spawn(async move { sent_on.batch_execute(&sql).await });
    eventually("it waits in us", async || {
        let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        let row = holder.query_one(sql, &[]).await.map_err(|e| e.to_string())?;
        if row.get::<_, i64>(0) == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    world.regions.pause_postgres("us");
    world.is_taken_over("us").await;
    let error = comes_to_an_end(sent_on).await.expect_err("it was told a success");
    assert_eq!(error.code().map(|code| code.code()), Some("08007"), "{error:?}");
    for region in ["eu", "ap"] {
        world.new_sessions_write_everything(region).await;
    }
    let owner = world.owners().await[partition as usize].0.clone().unwrap();
    world.regions.resume_postgres("us");
    drop(holder);
    let client = world.client("us").await;
    world.refuses_in_favour_of(&client, branch, &owner).await;
    world.holds("a postgres that was dead to the world commits nothing late").await;
}

/// F05: the only place that the guard cannot see. The transaction comes behind its partition's cut.
async fn a_backend_that_is_held_behind_its_last_check_is_told_no_success(world: &mut World) {
    let (branch, _) = world.branch_of("ap").await;
    let holder = world.regions.connect("ap").await.unwrap();
    holder.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    let late = world.client("ap").await;
    let row = late.query_one("SELECT pg_backend_pid()", &[]).await.unwrap();
    let backend: i32 = row.get(0);
    // The guard's check is asked for first, so it comes first.
    let sql = format!(
        "BEGIN; INSERT INTO payment VALUES ({branch}, 5, 'late'); INSERT INTO held_up VALUES (1); COMMIT"
    );
    let late = tokio::spawn(async move { late.batch_execute(&sql).await });
    eventually("it is behind the guard's check", async || {
        let sql = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND locktype = 'advisory' AND NOT granted";
        let row = holder.query_one(sql, &[&backend]).await.map_err(|e| e.to_string())?;
        if row.get::<_, i64>(0) == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    kill(Pid::from_raw(backend), Signal::SIGSTOP).unwrap();
    holder.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    world.regions.links().isolate("ap");
    world.is_taken_over("ap").await;
    kill(Pid::from_raw(backend), Signal::SIGCONT).unwrap();
    eventually("it has committed, too late", async || {
        let sql = "SELECT wait_event FROM pg_stat_activity WHERE pid = $1";
        let row = holder.query_one(sql, &[&backend]).await.map_err(|e| e.to_string())?;
        match row.get::<_, Option<String>>(0).as_deref() {
            Some("SyncRep") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(!late.is_finished(), "nobody holds it but its region");
    world.regions.links().rejoin("ap");
    assert!(comes_to_an_end(late).await.is_err(), "it was told a success");
    world.is_journaled("ap", "late").await;
    world.holds("a backend that is held behind its last check is told no success").await;
}

/// F11, without a lease that is given up.
async fn an_agent_without_its_postgres_is_taken_over(world: &mut World) {
    world.regions.kill_postgres("eu");
    world.is_taken_over("eu").await;
    world.others_go_on(&["eu"], "while eu has no PostgreSQL").await;
    world.regions.start_postgres("eu").await.unwrap();
    world.holds("an agent without its postgres is taken over").await;
}

/// F07: sessions that stand go on, and nobody new is answered.
async fn a_postmaster_that_hangs_alone_is_taken_over(world: &mut World) {
    let (branch, partition) = world.branch_of("us").await;
    let stands = world.client("us").await;
    let postmaster = Pid::from_raw(world.regions.postgres_pid("us").unwrap() as i32);
    kill(postmaster, Signal::SIGSTOP).unwrap();
    world.says("us", "postgres_takes_no_connections").await;
    world.is_taken_over("us").await;
    let owner = world.owners().await[partition as usize].0.clone().unwrap();
    world.refuses_in_favour_of(&stands, branch, &owner).await;
    world.others_go_on(&["us"], "while the postmaster of us hangs").await;
    kill(postmaster, Signal::SIGCONT).unwrap();
    world.holds("a postmaster that hangs alone is taken over").await;
}
