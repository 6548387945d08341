//! Links and the directory: long, cut one way, cut between two, gone.

use std::path::Path;
use std::time::Duration;

use super::regions::eventually;
use super::world::{LEASE, NAMES, World};
use super::writers::By;

pub async fn try_all(world: &mut World) {
    an_agent_that_is_back_at_once_stays_the_owner(world).await;
    long_links_move_no_owner(world).await;
    an_owner_that_nobody_can_read_waits_and_stays(world).await;
    two_that_do_not_see_each_other_hear_of_each_other_over_the_third(world).await;
    without_the_directory_owners_write_on_and_none_changes(world).await;
    an_owner_without_the_directory_lives_on_promises(world).await;
    an_owner_on_promises_that_is_cut_off_is_taken_over(world).await;
    an_owner_that_is_cut_off_is_taken_over(world).await;
    an_old_copy_of_the_directory_is_not_believed(world).await;
}

/// F01.
async fn an_agent_that_is_back_at_once_stays_the_owner(world: &mut World) {
    let before = world.owners().await;
    world.regions.kill_agent("eu");
    world.regions.start_agent("eu").unwrap();
    world.all_go_on("when the agent of eu is back").await;
    assert_eq!(world.owners().await, before);
    world.holds("an agent that is back at once stays the owner").await;
}

/// F24.
async fn long_links_move_no_owner(world: &mut World) {
    let before = world.owners().await;
    world.regions.links().set_delay(Duration::from_millis(100));
    world.all_go_on("over long links").await;
    world.regions.links().set_delay(Duration::ZERO);
    assert_eq!(world.owners().await, before);
    world.holds("long links move no owner").await;
}

/// F09.
async fn an_owner_that_nobody_can_read_waits_and_stays(world: &mut World) {
    let before = world.owners().await;
    world.regions.links().stop_shipping("eu");
    let client = world.regions.connect("eu").await.unwrap();
    let longer = format!("{} milliseconds", 2 * LEASE.as_millis());
    eventually("commits wait for longer than a lease lasts", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'
                   AND clock_timestamp() - state_change > $1::text::interval";
        let row = client.query_one(sql, &[&longer]).await.map_err(|e| e.to_string())?;
        if row.get::<_, i64>(0) > 0 { Ok(()) } else { Err("none does".to_owned()) }
    })
    .await;
    for region in ["us", "ap"] {
        world.writer(region, By::Direct).goes_on("while nobody can read eu").await;
    }
    assert_eq!(world.owners().await, before);
    world.regions.links().resume_shipping("eu");
    world.all_go_on("when eu can be read again").await;
    assert_eq!(world.owners().await, before);
    world.holds("an owner that nobody can read waits and stays").await;
}

/// F13.
async fn two_that_do_not_see_each_other_hear_of_each_other_over_the_third(world: &mut World) {
    let before = world.owners().await;
    world.regions.links().cut("us", "ap");
    for (from, to) in [("us", "ap"), ("ap", "us")] {
        let writer = world.writer(from, By::Direct);
        writer.goes_on("while us and ap are cut").await;
        let newest = writer.newest().unwrap();
        let client = world.regions.connect(to).await.unwrap();
        eventually(&format!("{to} shows what {from} wrote"), async || {
            let sql = "SELECT FROM op WHERE id = $1";
            let rows = client.query(sql, &[&newest]).await.map_err(|e| e.to_string())?;
            if rows.is_empty() { Err(newest.to_string()) } else { Ok(()) }
        })
        .await;
    }
    assert_eq!(world.owners().await, before);
    world.regions.links().heal("us", "ap");
    world.holds("two that do not see each other hear of each other over the third").await;
}

/// F15.
async fn without_the_directory_owners_write_on_and_none_changes(world: &mut World) {
    let before = world.owners().await;
    world.regions.kill_directory();
    for region in NAMES {
        world.says(region, "on_promises").await;
    }
    // What the directory had granted is over long before.
    world.go_on_for(2 * LEASE, "without the directory").await;
    let refused = world.run(&["switchover", "--partitions", "0", "--to", "ap"]);
    assert!(!refused.status.success(), "{refused:?}");
    world.regions.start_directory().unwrap();
    for region in NAMES {
        world.says_no_more(region, "on_promises").await;
    }
    assert_eq!(world.owners().await, before);
    world.holds("without the directory owners write on and none changes").await;
}

/// F10.
async fn an_owner_without_the_directory_lives_on_promises(world: &mut World) {
    let before = world.owners().await;
    world.regions.links().cut_directory("us");
    world.says("us", "on_promises").await;
    world.go_on_for(2 * LEASE, "while us has no directory").await;
    assert_eq!(world.owners().await, before);
    world.regions.links().heal_directory("us");
    world.says_no_more("us", "on_promises").await;
    world.holds("an owner without the directory lives on promises").await;
}

/// F10, and then its peers do not hear it either.
async fn an_owner_on_promises_that_is_cut_off_is_taken_over(world: &mut World) {
    let (branch, _) = world.branch_of("us").await;
    let client = world.client("us").await;
    world.regions.links().cut_directory("us");
    world.says("us", "on_promises").await;
    world.regions.links().isolate("us");
    world.is_taken_over("us").await;
    world.refuses(&client, branch).await;
    world.others_go_on(&["us"], "while us is cut off").await;
    world.regions.links().rejoin("us");
    world.regions.links().heal_directory("us");
    world.holds("an owner on promises that is cut off is taken over").await;
}

/// F08.
async fn an_owner_that_is_cut_off_is_taken_over(world: &mut World) {
    let (branch, _) = world.branch_of("ap").await;
    let client = world.client("ap").await;
    world.regions.links().isolate("ap");
    world.is_taken_over("ap").await;
    let error = world.refuses(&client, branch).await;
    assert!(error.as_db_error().unwrap().message().contains("lease is over"), "{error:?}");
    world.others_go_on(&["ap"], "while ap is cut off").await;
    world.regions.links().rejoin("ap");
    world.holds("an owner that is cut off is taken over").await;
}

/// F17, for agents that saw what the copy lacks.
async fn an_old_copy_of_the_directory_is_not_believed(world: &mut World) {
    let folder = world.regions.folder().to_owned();
    let [data, old, newest] = ["directory", "directory.old", "directory.newest"];
    world.regions.kill_directory();
    copy_folder(&folder.join(data), &folder.join(old));
    world.regions.start_directory().unwrap();
    let (branch, partition) = world.branch_of("eu").await;
    let range = partition.to_string();
    eventually("a partition moves", async || {
        let moved = world.run(&["switchover", "--partitions", &range, "--to", "us"]);
        if moved.status.success() { Ok(()) } else { Err(format!("{moved:?}")) }
    })
    .await;
    let owners = world.owners().await;

    world.regions.kill_directory();
    std::fs::rename(folder.join(data), folder.join(newest)).unwrap();
    std::fs::rename(folder.join(old), folder.join(data)).unwrap();
    world.regions.start_directory().unwrap();
    for region in NAMES {
        world.says(region, "directory_regressed").await;
    }
    let client = world.client("us").await;
    let error = world.refuses(&client, branch).await;
    assert!(error.as_db_error().unwrap().message().contains("lease is over"), "{error:?}");

    world.regions.kill_directory();
    std::fs::remove_dir_all(folder.join(data)).unwrap();
    std::fs::rename(folder.join(newest), folder.join(data)).unwrap();
    world.regions.start_directory().unwrap();
    for region in NAMES {
        world.regions.kill_agent(region);
        world.regions.start_agent(region).unwrap();
    }
    world.all_go_on("when the newest copy is back").await;
    assert_eq!(world.owners().await, owners);
    world.holds("an old copy of the directory is not believed").await;
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
