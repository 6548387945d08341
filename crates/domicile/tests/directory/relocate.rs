//! Does everything move from one directory to the other, whatever breaks off?

use std::sync::Arc;

use domicile::directory::relocate::{ARRIVED_KEY, MOVED_KEY, call_off, relocate};
use domicile::directory::{Client, DirectoryError, Document, MoveState, View, Written};
use tokio_util::sync::CancellationToken;

use crate::world::{World, put};

async fn fill(client: &Client) {
    for (key, value) in [("lease/eu", "1"), ("ownership", "who owns what"), ("run/1", "{}")] {
        put(client, key, 0, value).await;
    }
}

async fn content(client: &Client) -> Vec<(String, String)> {
    let documents = client.read("").await.expect("read").documents;
    let text = |d: Document| (d.key, String::from_utf8(d.value.to_vec()).expect("text"));
    let marks = [MOVED_KEY, ARRIVED_KEY];
    let ours = documents.into_iter().filter(|d| !marks.contains(&d.key.as_str()));
    ours.map(text).collect()
}

async fn is_closed(client: &Client) {
    for key in ["new", "lease/eu"] {
        let error = client.write(key, 0, Some("x".into())).await.expect_err("closed");
        assert!(matches!(error, DirectoryError::Closed { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_moves_and_the_old_directory_is_closed() {
    let (mut old, new) = (World::embedded().await, World::etcd().await);
    let (from, to) = (old.client(), new.client());
    fill(&from).await;
    let before = content(&from).await;
    assert_eq!(relocate(&from, &to).await.expect("move"), 3);
    assert_eq!(content(&to).await, before);
    is_closed(&from).await;
    old.stop().await;
    old.start().await;
    let from = old.client();
    is_closed(&from).await;
    let error = call_off(&from).await.expect_err("refused");
    assert!(error.to_string().contains("moved to"), "{error}");
    let elsewhere = World::etcd().await;
    let error = relocate(&from, &elsewhere.client()).await.expect_err("refused");
    assert!(error.to_string().contains("already"), "{error}");
    // Nothing of it is done again.
    let here = to.get("run/1").await.expect("get").expect("there");
    to.write("run/1", here.revision, Some("later".into())).await.expect("write");
    assert_eq!(relocate(&from, &to).await.expect("again"), 3);
    assert_eq!(to.get("run/1").await.expect("get").expect("there").value, "later");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_the_old_directory_goes_on_in_the_new_one() {
    let (mut old, new) = (World::embedded().await, World::etcd().await);
    let (from, to) = (old.client(), new.client());
    fill(&from).await;
    let stop = CancellationToken::new();
    let client = Client::leaving(from.clone(), to.clone());
    let mut views = client.follow("", stop.clone());
    let all = |view: &Arc<View>| view.connected && view.documents.contains_key("ownership");
    views.wait_for(all).await.expect("followed");
    let mut renewed = client.get("lease/eu").await.expect("get").expect("there").revision;
    // To more than the new directory has ever counted.
    for _ in 0..100 {
        let written = client.write("lease/eu", renewed, Some("2".into())).await.expect("written");
        let Written::At(at) = written else { panic!("nobody else writes") };
        renewed = at;
    }

    relocate(&from, &to).await.expect("move");
    let moved = |view: &Arc<View>| view.connected && view.store != 0;
    let after = views.wait_for(moved).await.expect("followed").clone();
    assert!(!after.regressed);
    let (value, revision) = &after.documents["lease/eu"];
    assert_eq!(value, "2");
    assert!(*revision > renewed && after.revision >= *revision, "{after:?}");
    old.stop().await;
    // What it has read last may be written upon, and what it had read before may not.
    let stale = client.write("lease/eu", renewed, Some("3".into())).await.expect("heard");
    assert_eq!(stale, Written::Conflict(*revision));
    let written = client.write("lease/eu", *revision, Some("3".into())).await.expect("heard");
    assert!(matches!(written, Written::At(at) if at > *revision), "{written:?}");
    let told = |view: &Arc<View>| view.documents["lease/eu"].0 == "3";
    views.wait_for(told).await.expect("followed");

    // Without the old one whoever begins is told by the new one; and it counts like the others.
    let late = Client::leaving(old.client(), new.client());
    assert_eq!(late.get("lease/eu").await.expect("get"), to.get("lease/eu").await.expect("get"));
    assert_eq!(late.move_state(), Some(MoveState::Gone));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_only_half_moved_is_not_left() {
    let (mut old, new) = (World::embedded().await, World::etcd().await);
    let (from, to) = (old.client(), new.client());
    fill(&from).await;
    let closed = format!("{{\"to\":\"{}\",\"complete\":false}}", new.address());
    from.write(MOVED_KEY, 0, Some(closed.into())).await.expect("close");
    put(&to, ARRIVED_KEY, 0, r#"{"after":1000,"complete":false}"#).await;
    put(&to, "lease/eu", 0, "1").await;
    let client = Client::leaving(from.clone(), to.clone());
    assert_eq!(client.read("").await.expect("read").store, 0);
    old.stop().await;
    let late = Client::leaving(old.client(), to.clone());
    let error = late.read("").await.expect_err("neither says that all is there");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error}");
    old.start().await;
    relocate(&old.client(), &to).await.expect("goes on");
    assert_ne!(late.read("").await.expect("read").store, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_broke_off_goes_on_or_is_called_off() {
    let (old, mut new) = (World::embedded().await, World::etcd().await);
    let (from, to) = (old.client(), new.client());
    fill(&from).await;
    let before = content(&from).await;
    // Found empty, and then gone.
    put(&to, "here", 0, "").await;
    let error = relocate(&from, &to).await.expect_err("not empty");
    assert!(error.to_string().contains("is not empty"), "{error}");
    assert_eq!(content(&from).await, before, "nothing has begun");
    let here = to.get("here").await.expect("get").expect("there").revision;
    to.write("here", here, None).await.expect("delete");

    let marked = Some(format!("{{\"to\":\"{}\",\"complete\":false}}", new.address()).into());
    from.write(MOVED_KEY, 0, marked).await.expect("close");
    put(&to, "lease/eu", 0, "1").await;
    new.stop().await;
    relocate(&from, &to).await.expect_err("nobody answers");
    is_closed(&from).await;
    call_off(&from).await.expect("called off");
    assert_eq!(content(&from).await, before);
    let error = call_off(&from).await.expect_err("refused");
    assert!(error.to_string().contains("nothing is being moved"), "{error}");

    let marked = Some(format!("{{\"to\":\"{}\",\"complete\":false}}", new.address()).into());
    from.write(MOVED_KEY, 0, marked).await.expect("close");
    new.start().await;
    assert_eq!(relocate(&from, &new.client()).await.expect("goes on"), 3);
    assert_eq!(content(&new.client()).await, before);
}
