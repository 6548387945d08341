//! Does every acknowledged statement happen once while owners change under many sessions?

use std::sync::atomic::{AtomicBool, Ordering};

use crate::*;

const CLIENTS: usize = 8;
const HAND_OVERS: u64 = 12;
/// So many statements are acknowledged between two hand-overs.
const BETWEEN: i64 = 150;

#[tokio::test(flavor = "multi_thread")]
async fn owners_change_without_an_error_or_a_lost_or_repeated_write_in_active_passive() {
    hand_over_under_load(Wanted::new(Mode::FollowOwner).owner("eu")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_change_without_an_error_or_a_lost_or_repeated_write_in_active_active() {
    hand_over_under_load(Wanted::new(Mode::Local)).await;
}

async fn hand_over_under_load(wanted: Wanted) {
    let (eu, us) = wanted.two_regions().await;
    eu.guard("eu", 1, true).await;
    us.guard("eu", 1, false).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..CLIENTS {
        let at = if writer % 2 == 0 { &eu } else { &us };
        writers.push(tokio::spawn(write_until(at.connect().await, writer, stop.clone())));
    }
    let mut regions = [&eu, &us];
    for epoch in 2..2 + HAND_OVERS {
        let [from, to] = regions;
        let before = rows(from).await + rows(to).await;
        let enough = async { while rows(from).await + rows(to).await < before + BETWEEN {} };
        within(enough).await;
        hand_over(from, to, epoch).await;
        regions = [to, from];
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = 0;
    for writer in writers {
        acknowledged += within(writer).await.unwrap();
    }
    assert_eq!(rows(&eu).await + rows(&us).await, acknowledged);
    let shared = rows(&eu).await.min(rows(&us).await);
    assert!(shared > 0, "both regions took writes");
}

async fn rows(region: &Region) -> i64 {
    region.count("SELECT count(*) FROM note").await
}

/// As the agents do it: close the guard, say that nobody owns, open the other guard, say who does.
async fn hand_over(from: &Region, to: &Region, epoch: u64) {
    let closed =
        |owner: &str| format!("UPDATE guard SET owner = '{owner}', epoch = {epoch}, open = false");
    from.run(&closed("none")).await;
    for region in [from, to] {
        region.publish(Routes { version: 2 * epoch, settling: true, ..Routes::default() });
    }
    to.run(&closed(to.name.as_str())).await;
    from.run(&closed(to.name.as_str())).await;
    to.run("UPDATE guard SET open = true").await;
    for region in [from, to] {
        region.publish(owned_by(2 * epoch + 1, Some(to.name.as_str())));
    }
}

/// Writes one row after the other, each with a number of its own; returns how many were
/// acknowledged. A row that was written twice would break the primary key.
async fn write_until(mut client: Client, writer: usize, stop: Arc<AtomicBool>) -> i64 {
    let insert = client.prepare("INSERT INTO note VALUES ($1)").await.unwrap();
    let mut acknowledged = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = i32::try_from(writer).unwrap() * 10_000_000 + acknowledged;
        let writing = async {
            match id % 3 {
                0 => client.batch_execute(&format!("INSERT INTO note VALUES ({id})")).await,
                1 => client.execute(&insert, &[&id]).await.map(drop),
                _ => {
                    let transaction = client.transaction().await?;
                    transaction.execute(&insert, &[&id]).await?;
                    transaction.commit().await
                }
            }
        };
        within(writing).await.unwrap_or_else(|e| panic!("{id}: {e:?}"));
        acknowledged += 1;
    }
    acknowledged.into()
}

#[tokio::test]
async fn pgbench_runs_in_all_three_protocols() {
    let eu = Wanted::new(Mode::Local).region().await;
    let run = async |arguments: &[&str]| {
        let mut pgbench = tokio::process::Command::new(eu.cluster.bin().program("pgbench"));
        pgbench.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &eu.address.port().to_string()]);
        let output = within(pgbench.args(arguments).arg("postgres").output()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    };
    run(&["-i", "-q", "-s", "1"]).await;
    for protocol in ["simple", "extended", "prepared"] {
        run(&["-n", "-c", "8", "-t", "100", "-M", protocol]).await;
    }
    assert_eq!(eu.count("SELECT count(*) FROM pgbench_history").await, 2400);
}
