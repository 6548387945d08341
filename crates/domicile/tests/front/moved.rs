//! Does a request find its owner, or wait for one, while everything is handed over?

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::process::Command;

use crate::{send, world};

#[tokio::test(flavor = "multi_thread")]
async fn while_everything_is_handed_over_no_request_fails_and_none_is_done_twice() {
    let world = world("whole", 1, "wait = \"30s\"").await;
    let (next, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let writers = ["eu", "us", "ap", "us"].map(|region| {
        let (door, next, done) = (world.regions.door(region), next.clone(), done.clone());
        tokio::spawn(async move {
            let mut answered = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let path = format!("/notes/{}", next.fetch_add(1, Ordering::Relaxed));
                let answer = send(door, "POST", &path, &[], b"").await;
                assert_eq!(answer.status, 200, "{path} {answer:?}");
                answered.push(answer.header("domicile-region").to_owned());
            }
            answered
        })
    });
    let mut switchover = Command::new(world.regions.binary());
    switchover.args(["switchover", "--from", "eu", "--to", "us", "--config"]);
    switchover.arg(world.regions.config_file("us")).stdout(Stdio::null());
    assert!(switchover.status().await.unwrap().success());
    done.store(true, Ordering::Relaxed);
    let mut answered = Vec::new();
    for writer in writers {
        answered.extend(writer.await.unwrap());
    }
    assert_eq!(
        send(world.regions.door("ap"), "POST", "/notes/-1", &[], b"")
            .await
            .header("domicile-region"),
        "us"
    );
    assert!(answered.iter().any(|region| region == "eu"), "{answered:?}");
    let us = world.regions.connect("us").await.unwrap();
    let rows: i64 = us.query_one("SELECT count(*) FROM note", &[]).await.unwrap().get(0);
    assert_eq!(usize::try_from(rows).unwrap(), answered.len() + 1);
}
