//! Does an agent that is told to stop end, though everybody is still connected to it, and take its place again?

use domicile::lab::regions::Regions;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

mod regions;
use regions::{LOOK_AGAIN, PATIENCE, assert_alike, config, eventually, settle, start};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_to_stop_ends_and_is_missed_by_nobody_once_it_is_back() {
    let mut config = config(&["eu", "us", "ap"], "hash(id, 6)", 6);
    config.seed_sql = "CREATE TABLE item (id int PRIMARY KEY, note text)".to_owned();
    config.tables = "[[table]]\nname = \"item\"\n".to_owned();
    let mut regions = Regions::create(config).await.unwrap();
    start(&mut regions).await;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        for region in regions.names().to_vec() {
            let pid = regions.agent_pid(&region).unwrap();
            kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
            let deadline = Instant::now() + PATIENCE;
            while !regions.agent_has_ended(&region) {
                assert!(Instant::now() < deadline, "{region} goes on after {signal}");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            regions.start_agent(&region).unwrap();
            regions.wait_until_ready().await.unwrap();
        }
    }
    for region in regions.names().to_vec() {
        let client = regions.connect(&region).await.unwrap();
        let write = "INSERT INTO item SELECT id, 'from here' FROM generate_series(1, 60) id
                     WHERE (domicile.entry(domicile.partition_of(id::text))).owner = $1";
        eventually("each region writes what it owned before", async || {
            let written = client.execute(write, &[&region]).await.map_err(|e| e.to_string())?;
            if written > 0 { Ok(()) } else { Err(format!("{region} owns nothing")) }
        })
        .await;
    }
    settle(&regions, "at the end").await;
    assert_alike(&regions, &["item"]).await;
}
