//! Does everything move from one directory to the other, whatever breaks off?

use domicile::directory::relocate::{MOVED_KEY, call_off, relocate};
use domicile::directory::{Client, DirectoryError, Document};

use crate::world::{World, put};

async fn fill(client: &Client) {
    for (key, value) in [("lease/eu", "1"), ("ownership", "who owns what"), ("run/1", "{}")] {
        put(client, key, 0, value).await;
    }
}

async fn content(client: &Client) -> Vec<(String, String)> {
    let documents = client.read("").await.expect("read").documents;
    let text = |d: Document| (d.key, String::from_utf8(d.value.to_vec()).expect("text"));
    documents.into_iter().map(text).collect()
}

async fn is_closed(client: &Client) {
    for key in ["new", "lease/eu"] {
        let error = client.write(key, 0, Some("x".into())).await.expect_err("closed");
        assert!(matches!(error, DirectoryError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("has moved"), "{error}");
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
    for error in [relocate(&from, &to).await.map(drop), call_off(&from).await] {
        let error = error.expect_err("refused");
        assert!(error.to_string().contains("moved to"), "{error}");
    }
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
