//! What do both directories promise?

use std::sync::Arc;

use bytes::Bytes;
use domicile::directory::documents::{OWNERSHIP_KEY, lift_ownership, lower_ownership};
use domicile::directory::{
    Client, DirectoryError, KEY_BYTES_MAX, READ_BYTES_MAX, VALUE_BYTES_MAX, Written,
};
use domicile::lab::relay::Relay;
use domicile_core::id::{Epoch, Origin, PartitionRange, RegionId, RunId};
use domicile_core::lsn::{Cut, Lsn};
use domicile_core::ownership::{Entry, Ownership, OwnershipChange, State};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::world::{World, as_documents, document, put, set, view_that, within};

macro_rules! both {
    ($($name:ident,)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::World::embedded().await).await;
            })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::World::etcd().await).await;
            })*
        }
    };
}

both! {
    a_document_is_created_changed_and_deleted_by_compare_and_set,
    what_is_too_long_or_malformed_is_refused_and_writes_nothing,
    a_read_that_is_too_long_is_refused,
    ownership_of_many_partitions_is_small_and_one_that_is_too_large_is_refused,
    concurrent_increments_lose_nothing,
    a_follower_ends_with_what_the_writers_wrote,
    a_follower_sees_deletes_and_only_its_prefix,
    a_follower_outlives_a_restart_and_ends_with_the_same_documents,
    a_follower_notices_a_directory_restored_from_an_older_copy,
    a_follower_that_missed_more_than_is_kept_reads_again,
    a_follower_notices_a_silent_network_split_and_catches_up_after_it,
    a_follower_ends_with_its_token,
    documents_and_revisions_outlive_a_restart,
    a_directory_that_accepts_and_says_nothing_is_unreachable_within_the_deadline,
}

async fn a_document_is_created_changed_and_deleted_by_compare_and_set(world: World) {
    let client = world.client();
    let before = client.read("").await.expect("read");
    assert_eq!(before.documents, []);
    let at = |n: u64| before.revision + n;
    assert_eq!(client.get("a").await.expect("get"), None);
    assert_eq!(set(&client, "a", at(9), "none").await, Written::Conflict(0));
    assert_eq!(set(&client, "a", 0, "one").await, Written::At(at(1)));
    assert_eq!(set(&client, "a", 0, "again").await, Written::Conflict(at(1)));
    assert_eq!(set(&client, "a", at(1), "two").await, Written::At(at(2)));
    assert_eq!(set(&client, "a", at(1), "late").await, Written::Conflict(at(2)));
    assert_eq!(set(&client, "ab", 0, "").await, Written::At(at(3)));
    assert_eq!(client.get("a").await.expect("get"), Some(document("a", "two", at(2))));
    assert_eq!(client.write("a", at(1), None).await.expect("delete"), Written::Conflict(at(2)));
    assert_eq!(client.write("a", at(2), None).await.expect("delete"), Written::At(at(4)));
    assert_eq!(client.write("a", at(2), None).await.expect("delete"), Written::Conflict(0));
    let snapshot = client.read("").await.expect("read");
    assert_eq!((snapshot.documents, snapshot.revision), (vec![document("ab", "", at(3))], at(4)));
}

async fn what_is_too_long_or_malformed_is_refused_and_writes_nothing(world: World) {
    let client = world.client();
    let before = client.read("").await.expect("read");
    let long_key = "k".repeat(KEY_BYTES_MAX + 1);
    for (key, value) in [
        ("", Some(Bytes::new())),
        (&long_key, Some(Bytes::new())),
        ("a\nb", Some(Bytes::new())),
        ("a", Some(Bytes::from(vec![0; VALUE_BYTES_MAX + 1]))),
        ("a", Some(Bytes::from(vec![0; 8 * VALUE_BYTES_MAX]))),
        ("a", None),
    ] {
        let error = client.write(key, 0, value).await.expect_err("refused");
        assert!(matches!(error, DirectoryError::Refused { .. }), "{error}");
    }
    assert!(matches!(client.read(&long_key).await, Err(DirectoryError::Refused { .. })));
    assert_eq!(client.read("").await.expect("read"), before);

    let largest = Bytes::from(vec![7; VALUE_BYTES_MAX]);
    let key = "k".repeat(KEY_BYTES_MAX);
    let written = client.write(&key, 0, Some(largest.clone())).await.expect("write");
    assert_eq!(written, Written::At(before.revision + 1));
    assert_eq!(client.get(&key).await.expect("get").expect("there").value, largest);
}

async fn a_read_that_is_too_long_is_refused(world: World) {
    let client = world.client();
    let value = Bytes::from(vec![0; VALUE_BYTES_MAX]);
    for i in 0..=READ_BYTES_MAX / VALUE_BYTES_MAX {
        client.write(&format!("a/{i}"), 0, Some(value.clone())).await.expect("write");
    }
    let error = client.read("a/").await.expect_err("refused");
    assert!(error.to_string().contains("are more than"), "{error}");
    assert_eq!(client.read("a/1/").await.expect("read").documents, []);
}

/// As after moving every `step`th of `total` partitions by itself.
fn moved(total: u32, step: usize) -> Ownership {
    let region = |name: &str| -> RegionId { name.parse().expect("region") };
    let mut ownership = Ownership::initial(total, &["eu", "us", "ap"].map(region));
    let owner = ownership.entries()[0].owner().cloned().expect("owner");
    let to = region("us");
    let third = total / 3;
    for partition in (0..third).step_by(step) {
        let (range, run) =
            (PartitionRange::new(partition, partition), RunId(partition.to_string()));
        let origin = Origin::new(owner.clone(), 1);
        let barrier = Cut { origin, lsn: Lsn(u64::from(partition) << 20) };
        for change in [
            OwnershipChange::HandOver { range, to: to.clone(), run: run.clone() },
            OwnershipChange::Barrier { run: run.clone(), barrier },
            OwnershipChange::Grant { run, to: to.clone() },
        ] {
            ownership = ownership.apply(&change).expect("change");
        }
    }
    ownership
}

async fn ownership_of_many_partitions_is_small_and_one_that_is_too_large_is_refused(world: World) {
    let client = world.client();
    let many = moved(100_000, 1000);
    let value = lower_ownership("lab", &many);
    // 34 partitions moved one by one out of 100,000: each costs two ranges.
    assert!(value.len() < 16 * 1024, "{} bytes", value.len());
    let written = client.write(OWNERSHIP_KEY, 0, Some(value)).await.expect("write");
    let Written::At(revision) = written else { panic!("{written:?}") };
    let found = client.get(OWNERSHIP_KEY).await.expect("get").expect("there");
    assert_eq!(lift_ownership("lab", &found.value).expect("lift"), many);

    // So many ranges are more than one document holds: that is told, and what stood stands.
    let scattered = scattered(30_000);
    let value = lower_ownership("lab", &scattered);
    assert!(value.len() > VALUE_BYTES_MAX, "{} bytes", value.len());
    let text = format!("document \"ownership\" would have {} bytes", value.len());
    let error = client.write(OWNERSHIP_KEY, revision, Some(value)).await.expect_err("refused");
    assert!(matches!(error, DirectoryError::Refused { .. }), "{error}");
    assert!(error.to_string().contains(&text), "{error}");
    assert_eq!(client.get(OWNERSHIP_KEY).await.expect("get"), Some(found));
}

/// No two neighbours have the same owner.
fn scattered(total: u32) -> Ownership {
    let regions = ["eu", "us"].map(|name| name.parse::<RegionId>().expect("region"));
    let entry = |i: u32| Entry {
        range: PartitionRange::new(i, i),
        epoch: Epoch(1),
        state: State::Owned { by: regions[i as usize % 2].clone() },
        closed: Vec::new(),
    };
    let entries = (0..total).map(entry).collect();
    Ownership::from_entries(regions.iter().cloned().collect(), entries).expect("no gaps")
}

async fn increment(client: &Client, key: &str) {
    loop {
        let current = client.get(key).await.expect("get");
        let (count, seen) = current.map_or((0, 0), |document| {
            let text = std::str::from_utf8(&document.value).expect("text").to_owned();
            (text.parse::<u32>().expect("number"), document.revision)
        });
        if let Written::At(_) = set(client, key, seen, &(count + 1).to_string()).await {
            return;
        }
    }
}

async fn concurrent_increments_lose_nothing(world: World) {
    let before = world.client().read("").await.expect("read").revision;
    let writers: Vec<_> = (0..50)
        .map(|_| {
            let client = world.client();
            tokio::spawn(async move { increment(&client, "count").await })
        })
        .collect();
    for writer in writers {
        within(writer).await.expect("increment");
    }
    let count = world.client().get("count").await.expect("get").expect("there");
    assert_eq!((count.value, count.revision), (Bytes::from_static(b"50"), before + 50));
}

async fn a_follower_ends_with_what_the_writers_wrote(world: World) {
    const WRITERS: u64 = 4;
    const WRITES: u64 = 100;
    let before = world.client().read("").await.expect("read").revision;
    let mut views = world.client().follow("w", CancellationToken::new());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = world.client();
            tokio::spawn(async move {
                let (key, mut seen) = (format!("w{writer}"), 0);
                for i in 0..WRITES {
                    seen = put(&client, &key, seen, &i.to_string()).await;
                }
            })
        })
        .collect();
    let end = before + WRITERS * WRITES;
    let mut last = 0;
    let view = view_that(&mut views, |view| {
        assert!(view.revision >= last && !view.regressed, "{view:?}");
        last = view.revision;
        view.revision == end
    });
    let view = view.await;
    for writer in writers {
        within(writer).await.expect("writer");
    }
    let snapshot = world.client().read("w").await.expect("read");
    assert_eq!(as_documents(&view), snapshot.documents);
}

async fn a_follower_sees_deletes_and_only_its_prefix(world: World) {
    let client = world.client();
    let mut views = client.follow("a/", CancellationToken::new());
    let first = put(&client, "a/1", 0, "one").await;
    put(&client, "b/1", 0, "other").await;
    put(&client, "a0", 0, "behind").await;
    view_that(&mut views, |view| view.documents.contains_key("a/1")).await;
    client.write("a/1", first, None).await.expect("delete");
    let view = view_that(&mut views, |view| view.revision == first + 3).await;
    assert!(view.connected && view.documents.is_empty(), "{view:?}");
}

async fn a_follower_outlives_a_restart_and_ends_with_the_same_documents(mut world: World) {
    let client = world.client();
    let mut views = client.follow("", CancellationToken::new());
    let one = put(&client, "a", 0, "one").await;
    let two = put(&client, "b", 0, "two").await;
    view_that(&mut views, |view| view.revision == two && view.connected).await;

    world.stop().await;
    let view = view_that(&mut views, |view| !view.connected).await;
    assert_eq!((view.documents.len(), view.revision), (2, two));
    let error = client.read("").await.expect_err("nobody listens");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error}");

    world.start().await;
    // The connection may be in its pause before the next attempt.
    let view = view_that(&mut views, |view| view.connected).await;
    assert_eq!(view.documents.len(), 2);
    let three = put(&client, "a", one, "three").await;
    let four = client.write("b", two, None).await.expect("delete");
    assert_eq!(four, Written::At(three + 1));
    let view = view_that(&mut views, |view| view.revision == three + 1).await;
    assert!(view.connected && !view.regressed, "{view:?}");
    assert_eq!(as_documents(&view), client.read("").await.expect("read").documents);
}

async fn a_follower_notices_a_directory_restored_from_an_older_copy(mut world: World) {
    put(&world.client(), "a", 0, "one").await;
    let copy = world.copy().await;
    let client = world.client();
    let mut views = client.follow("", CancellationToken::new());
    let two = put(&client, "b", 0, "two").await;
    view_that(&mut views, |view| view.revision == two).await;

    world.restore(&copy).await;
    let view = view_that(&mut views, |view| view.connected && view.documents.len() == 1).await;
    assert!(view.regressed && view.revision < two, "{view:?}");
}

async fn a_follower_that_missed_more_than_is_kept_reads_again(mut world: World) {
    let relay = Relay::start(world.address()).await.expect("relay");
    let mut views = world.client_at(relay.address()).follow("", CancellationToken::new());
    let client = world.client();
    let one = put(&client, "a", 0, "one").await;
    let two = put(&client, "b", 0, "two").await;
    view_that(&mut views, |view| view.revision == two && view.connected).await;

    relay.control().cut();
    view_that(&mut views, |view| !view.connected).await;
    let three = put(&client, "a", one, "three").await;
    client.write("b", two, None).await.expect("delete");
    let five = put(&client, "c", 0, "five").await;
    world.forget_events().await;

    relay.control().heal();
    let view = view_that(&mut views, |view| view.connected).await;
    assert_eq!(as_documents(&view), [document("a", "three", three), document("c", "five", five)]);
    assert!(!view.regressed);
    // And goes on from there.
    let six = put(&world.client(), "c", five, "six").await;
    view_that(&mut views, |view| view.revision == six).await;
}

async fn a_follower_notices_a_silent_network_split_and_catches_up_after_it(world: World) {
    let relay = Relay::start(world.address()).await.expect("relay");
    let far = world.client_at(relay.address());
    let mut views = far.follow("", CancellationToken::new());
    let one = put(&world.client(), "a", 0, "one").await;
    view_that(&mut views, |view| view.revision == one && view.connected).await;

    relay.control().cut();
    let two = put(&world.client(), "a", one, "two").await;
    let view = view_that(&mut views, |view| !view.connected).await;
    assert_eq!(view.revision, one);
    let error = far.read("").await.expect_err("split");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error}");

    relay.control().heal();
    let view = view_that(&mut views, |view| view.connected).await;
    assert_eq!((view.revision, view.regressed), (two, false));
}

async fn a_follower_ends_with_its_token(world: World) {
    let shutdown = CancellationToken::new();
    let mut views = world.client().follow("", shutdown.clone());
    view_that(&mut views, |view| view.connected).await;
    shutdown.cancel();
    let ended = async { while views.changed().await.is_ok() {} };
    within(ended).await;
}

async fn documents_and_revisions_outlive_a_restart(mut world: World) {
    let one = put(&world.client(), "a", 0, "one").await;
    let two = put(&world.client(), "a", one, "two").await;
    world.stop().await;
    world.start().await;
    let snapshot = world.client().read("").await.expect("read");
    assert_eq!((snapshot.documents, snapshot.revision), (vec![document("a", "two", two)], two));
    assert_eq!(set(&world.client(), "b", 0, "three").await, Written::At(two + 1));
}

async fn a_directory_that_accepts_and_says_nothing_is_unreachable_within_the_deadline(
    world: World,
) {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let client = Arc::new(world.client_at(silent.local_addr().expect("address")));
    let error = within(client.read("")).await.expect_err("no answer");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error}");
    let error = within(client.write("a", 0, Some(Bytes::new()))).await.expect_err("no answer");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error}");
}
