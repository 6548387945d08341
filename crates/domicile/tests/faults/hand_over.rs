//! Planned hand-overs: two at once, through an open transaction, and of regions that are lost in the
//! middle.

use domicile_core::id::PartitionId;
use domicile_core::ownership::State;
use tokio_postgres::error::SqlState;

use super::regions::eventually;
use super::world::{World, exit_code, owners_of, succeeds};

pub async fn try_all(world: &mut World) {
    two_runs_for_one_partition_leave_one_owner(world).await;
    a_transaction_that_stays_open_is_terminated(world).await;
    an_owner_that_is_lost_while_it_hands_over_is_taken_over(world).await;
    an_owner_that_is_lost_behind_its_barrier_costs_nothing(world).await;
    an_owner_that_is_lost_as_its_partition_is_granted_is_not_missed(world).await;
    a_target_that_is_lost_gets_nothing(world).await;
}

/// F30. Each gets it in turn and says so, or is refused while the other one has it.
async fn two_runs_for_one_partition_leave_one_owner(world: &mut World) {
    let before = world.owners().await[0].clone();
    assert_eq!(before.0.as_deref(), Some("eu"));
    let runs =
        ["us", "ap"].map(|to| world.begin(&["switchover", "--partitions", "0", "--to", to], to));
    for run in runs {
        let code = exit_code(run).await;
        assert!([0, 3].contains(&code), "done in turn, or refused, and not {code}");
    }
    eventually("it has an owner, and not the old one", async || {
        let owners = owners_of(&world.ownership().await?);
        match owners[0].0.as_deref() {
            Some("us" | "ap") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    world.holds("two runs for one partition leave one owner").await;
}

/// F35.
async fn a_transaction_that_stays_open_is_terminated(world: &mut World) {
    let (branch, partition) = world.branch_of("eu").await;
    let open = world.client("eu").await;
    let write = format!("BEGIN; INSERT INTO payment VALUES ({branch}, 1, 'open')");
    open.batch_execute(&write).await.unwrap();
    let range = partition.to_string();
    let moved = world.run(&["switchover", "--partitions", &range, "--to", "us"]);
    assert!(moved.status.success(), "{moved:?}");
    let error = open.batch_execute("COMMIT").await.unwrap_err();
    let told = error.code().is_none_or(|code| *code == SqlState::ADMIN_SHUTDOWN);
    assert!(told, "{error:?}");
    world.all_go_on("when the transaction is gone").await;
    world.no_payment("open").await;
    world.holds("a transaction that stays open is terminated").await;
}

/// F27: the hand-over is in the directory, and the owner dies before it has drained.
async fn an_owner_that_is_lost_while_it_hands_over_is_taken_over(world: &mut World) {
    let (_, partition) = world.branch_of("us").await;
    world.regions.pause_agent("us");
    let range = partition.to_string();
    let run = world.begin(&["switchover", "--partitions", &range, "--to", "ap"], "eu");
    world.is_handing_over(partition).await;
    world.regions.kill_region("us");
    world.is_taken_over("us").await;
    world.others_go_on(&["us"], "while us is gone").await;
    world.regions.start_region("us").await.unwrap();
    // Whatever became of it, it ends.
    succeeds(run).await;
    world.holds("an owner that is lost while it hands over is taken over").await;
}

/// F27: the writers have ended, the target lacks the last of what they wrote, and only a third region has it.
async fn an_owner_that_is_lost_behind_its_barrier_costs_nothing(world: &mut World) {
    let (_, partition) = world.branch_of("us").await;
    world.regions.links().stop_reading("ap");
    let range = partition.to_string();
    let run = world.begin(&["switchover", "--partitions", &range, "--to", "ap"], "eu");
    eventually("its last write has a name", async || {
        let ownership = world.ownership().await?;
        let entry = ownership.entry(PartitionId(partition)).expect("it is one of them");
        match &entry.state {
            State::HandingOver { barrier: Some(_), .. } => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    world.regions.kill_region("us");
    world.regions.links().resume_reading("ap");
    world.is_taken_over("us").await;
    world.others_go_on(&["us"], "while us is gone").await;
    world.regions.start_region("us").await.unwrap();
    // By itself, or a failover took it over: it ends.
    succeeds(run).await;
    world.holds("an owner that is lost behind its barrier costs nothing").await;
}

/// F27: the new owner is named, and the old one dies before it can have heard.
async fn an_owner_that_is_lost_as_its_partition_is_granted_is_not_missed(world: &mut World) {
    let (_, partition) = world.branch_of("us").await;
    let range = partition.to_string();
    let run = world.begin(&["switchover", "--partitions", &range, "--to", "eu"], "ap");
    eventually("it is granted", async || {
        match world.owners().await[partition as usize].0.as_deref() {
            Some("eu") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    world.regions.kill_region("us");
    assert!(succeeds(run).await, "nothing of it needs the old owner any more");
    world.is_taken_over("us").await;
    world.others_go_on(&["us"], "while us is gone").await;
    world.regions.start_region("us").await.unwrap();
    world.holds("an owner that is lost as its partition is granted is not missed").await;
}

/// F28: the target cannot have applied the barrier before it is lost.
async fn a_target_that_is_lost_gets_nothing(world: &mut World) {
    let (_, partition) = world.branch_of("ap").await;
    let epoch = world.owners().await[partition as usize].1;
    world.regions.links().stop_reading("us");
    let range = partition.to_string();
    let run = world.begin(&["switchover", "--partitions", &range, "--to", "us"], "eu");
    world.is_handing_over(partition).await;
    world.regions.kill_region("us");
    eventually("the owner has it back", async || {
        let owner = world.owners().await[partition as usize].clone();
        if owner == (Some("ap".to_owned()), epoch + 1) { Ok(()) } else { Err(format!("{owner:?}")) }
    })
    .await;
    assert!(!succeeds(run).await, "a run that was called off is no success");
    world.is_taken_over("us").await;
    world.others_go_on(&["us"], "while us is gone").await;
    world.regions.links().resume_reading("us");
    world.regions.start_region("us").await.unwrap();
    world.holds("a target that is lost gets nothing").await;
}
