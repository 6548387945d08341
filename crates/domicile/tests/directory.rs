//! Does the embedded directory keep what it promises, over a real socket and a real disk?

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile::directory::server::{DirectoryConfig, serve};
use domicile::directory::{
    Client, DirectoryError, Document, KEY_BYTES_MAX, VALUE_BYTES_MAX, View, Written,
};
use domicile::lab::relay::Relay;
use domicile::proto;
use domicile::proto::directory_client::DirectoryClient;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

/// Longest wait for a fact; far more than any of them takes.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn start(folder: &Path) -> Self {
        Self::start_at(folder, "127.0.0.1:0".parse().expect("address")).await
    }

    async fn start_at(folder: &Path, listen: SocketAddr) -> Self {
        let config = DirectoryConfig { listen, data: folder.to_owned() };
        let listener = config.bind().await.expect("bind");
        let address = listener.local_addr().expect("address");
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(config, listener, stop.clone()));
        Self { address, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        within(self.task).await.expect("server did not panic").expect("server ended well");
    }

    fn client(&self) -> Client {
        Client::new(&self.address.to_string()).expect("client")
    }

    /// The protocol itself, for what the client does not show.
    async fn calls(&self) -> DirectoryClient<Channel> {
        DirectoryClient::connect(format!("http://{}", self.address)).await.expect("connect")
    }
}

async fn directory() -> (TempDir, Running) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let running = Running::start(folder.path()).await;
    (folder, running)
}

/// A directory whose port nobody else takes while it is down: each test that restarts one has
/// a loopback address of its own.
async fn directory_to_restart(host: &str) -> (TempDir, Running) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let listen = format!("{host}:0").parse().expect("address");
    let running = Running::start_at(folder.path(), listen).await;
    (folder, running)
}

async fn within<T>(fact: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, fact).await.expect("in time")
}

async fn view_that(
    views: &mut watch::Receiver<Arc<View>>,
    holds: impl FnMut(&Arc<View>) -> bool,
) -> Arc<View> {
    within(views.wait_for(holds)).await.expect("follower lives").clone()
}

async fn set(client: &Client, key: &str, expected: u64, value: &str) -> Written {
    let value = Bytes::copy_from_slice(value.as_bytes());
    client.write(key, expected, Some(value)).await.expect("write")
}

fn document(key: &str, value: &'static str, revision: u64) -> Document {
    Document { key: key.to_owned(), value: Bytes::from_static(value.as_bytes()), revision }
}

#[tokio::test]
async fn a_document_is_created_changed_and_deleted_by_compare_and_set() {
    let (_folder, directory) = directory().await;
    let client = directory.client();
    assert_eq!(client.get("a").await.expect("get"), None);
    assert_eq!(set(&client, "a", 0, "one").await, Written::At(1));
    assert_eq!(set(&client, "a", 0, "again").await, Written::Conflict(1));
    assert_eq!(set(&client, "a", 1, "two").await, Written::At(2));
    assert_eq!(set(&client, "a", 1, "late").await, Written::Conflict(2));
    assert_eq!(set(&client, "ab", 0, "").await, Written::At(3));
    assert_eq!(client.get("a").await.expect("get"), Some(document("a", "two", 2)));
    assert_eq!(client.write("a", 1, None).await.expect("delete"), Written::Conflict(2));
    assert_eq!(client.write("a", 2, None).await.expect("delete"), Written::At(4));
    let snapshot = client.read("").await.expect("read");
    assert_eq!((snapshot.documents, snapshot.revision), (vec![document("ab", "", 3)], 4));
}

#[tokio::test]
async fn what_is_too_long_or_malformed_is_refused_and_writes_nothing() {
    let (_folder, directory) = directory().await;
    let client = directory.client();
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

    let mut calls = directory.calls().await;
    let request = proto::WriteRequest { key: long_key, expected_revision: 0, value: None };
    let status = calls.write(request).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);

    let largest = Bytes::from(vec![7; VALUE_BYTES_MAX]);
    let key = "k".repeat(KEY_BYTES_MAX);
    let written = client.write(&key, 0, Some(largest.clone())).await.expect("write");
    assert_eq!(written, Written::At(1));
    assert_eq!(client.get(&key).await.expect("get").expect("there").value, largest);
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

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_increments_lose_nothing() {
    let (_folder, directory) = directory().await;
    let writers: Vec<_> = (0..50)
        .map(|_| {
            let client = directory.client();
            tokio::spawn(async move { increment(&client, "count").await })
        })
        .collect();
    for writer in writers {
        within(writer).await.expect("increment");
    }
    let count = directory.client().get("count").await.expect("get").expect("there");
    assert_eq!((count.value, count.revision), (Bytes::from_static(b"50"), 50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_every_event_once_and_in_order_while_writers_write() {
    const WRITERS: u64 = 4;
    const WRITES: u64 = 100;
    let (_folder, directory) = directory().await;
    let mut views = directory.client().follow("w", CancellationToken::new());
    let request = proto::WatchRequest { prefix: "w".to_owned(), from_revision: 0 };
    let mut stream = directory.calls().await.watch(request).await.expect("watch").into_inner();
    for writer in 0..WRITERS {
        let client = directory.client();
        tokio::spawn(async move {
            let (key, mut seen) = (format!("w{writer}"), 0);
            for i in 0..WRITES {
                match set(&client, &key, seen, &i.to_string()).await {
                    Written::At(revision) => seen = revision,
                    Written::Conflict(revision) => panic!("{key} is at {revision}"),
                }
            }
        });
    }
    let mut revisions = Vec::new();
    while revisions.len() < (WRITERS * WRITES) as usize {
        let message = within(stream.message()).await.expect("stream").expect("message");
        revisions.extend(message.events.iter().map(|event| event.revision));
    }
    assert_eq!(revisions, (1..=WRITERS * WRITES).collect::<Vec<_>>());

    let view = view_that(&mut views, |view| view.revision == WRITERS * WRITES).await;
    let snapshot = directory.client().read("w").await.expect("read");
    assert_eq!(as_documents(&view), snapshot.documents);
}

fn as_documents(view: &View) -> Vec<Document> {
    let documents = view.documents.iter();
    documents
        .map(|(key, (value, revision))| Document {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
        })
        .collect()
}

#[tokio::test]
async fn a_watch_sees_deletes_and_only_its_prefix() {
    let (_folder, directory) = directory().await;
    let client = directory.client();
    let mut views = client.follow("a/", CancellationToken::new());
    set(&client, "a/1", 0, "one").await;
    set(&client, "b/1", 0, "other").await;
    view_that(&mut views, |view| view.documents.contains_key("a/1")).await;
    client.write("a/1", 1, None).await.expect("delete");
    let view = view_that(&mut views, |view| view.revision == 3).await;
    assert!(view.connected && view.documents.is_empty(), "{view:?}");
}

#[tokio::test]
async fn a_follower_outlives_a_restart_and_ends_with_the_same_documents() {
    let (folder, directory) = directory_to_restart("127.0.0.2").await;
    let (client, address) = (directory.client(), directory.address);
    let mut views = client.follow("", CancellationToken::new());
    set(&client, "a", 0, "one").await;
    set(&client, "b", 0, "two").await;
    view_that(&mut views, |view| view.revision == 2 && view.connected).await;

    directory.stop().await;
    let view = view_that(&mut views, |view| !view.connected).await;
    assert_eq!((view.documents.len(), view.revision), (2, 2));
    let error = client.read("").await.expect_err("nobody listens");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error}");

    let directory = Running::start_at(folder.path(), address).await;
    assert_eq!(set(&client, "a", 1, "three").await, Written::At(3));
    assert_eq!(client.write("b", 2, None).await.expect("delete"), Written::At(4));
    let view = view_that(&mut views, |view| view.revision == 4).await;
    assert!(view.connected && !view.regressed, "{view:?}");
    assert_eq!(as_documents(&view), client.read("").await.expect("read").documents);
    directory.stop().await;
}

#[tokio::test]
async fn a_follower_notices_a_directory_restored_from_an_older_copy() {
    let (folder, directory) = directory_to_restart("127.0.0.3").await;
    let (client, address) = (directory.client(), directory.address);
    let mut views = client.follow("", CancellationToken::new());
    set(&client, "a", 0, "one").await;
    view_that(&mut views, |view| view.revision == 1).await;
    directory.stop().await;

    let older = tempfile::tempdir().expect("temporary folder");
    let _restored = Running::start_at(older.path(), address).await;
    let view = view_that(&mut views, |view| view.connected && view.revision == 0).await;
    assert!(view.regressed && view.documents.is_empty(), "{view:?}");
    drop(folder);
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_told_to_read_again() {
    let (folder, directory) = directory().await;
    let client = directory.client();
    for (i, key) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(set(&client, key, 0, "v").await, Written::At(i as u64 + 1));
    }
    directory.stop().await;
    let directory = Running::start(folder.path()).await;
    let mut calls = directory.calls().await;
    for (from_revision, message) in [(2, "compacted"), (4, "store is at revision 3")] {
        let request = proto::WatchRequest { prefix: String::new(), from_revision };
        let status = calls.watch(request).await.expect_err("refused");
        assert_eq!((status.code(), status.message()), (Code::OutOfRange, message));
    }
    let request = proto::WatchRequest { prefix: String::new(), from_revision: 3 };
    assert!(calls.watch(request).await.is_ok());
}

#[tokio::test]
async fn garbage_on_the_port_does_not_disturb_the_server() {
    let (_folder, directory) = directory().await;
    let client = directory.client();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut huge_frame = preface.clone();
    huge_frame.extend([0xff; 4096]);
    for garbage in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        (0..=255).cycle().take(100_000).collect(),
        vec![0; 64],
        huge_frame,
    ] {
        let mut socket = TcpStream::connect(directory.address).await.expect("connect");
        // The server may hang up while we still talk: that is a fair answer to garbage.
        let _ = socket.write_all(&garbage).await;
        let _ = socket.shutdown().await;
        let _ = within(socket.read_to_end(&mut Vec::new())).await;
    }
    let _silent = TcpStream::connect(directory.address).await.expect("connect");
    let mut half = TcpStream::connect(directory.address).await.expect("connect");
    half.write_all(&preface[..10]).await.expect("write");
    assert_eq!(set(&client, "a", 0, "one").await, Written::At(1));
    directory.stop().await;
}

#[tokio::test]
async fn documents_and_revisions_outlive_the_server() {
    let (folder, directory) = directory().await;
    set(&directory.client(), "a", 0, "one").await;
    set(&directory.client(), "a", 1, "two").await;
    directory.stop().await;
    let directory = Running::start(folder.path()).await;
    let snapshot = directory.client().read("").await.expect("read");
    assert_eq!((snapshot.documents, snapshot.revision), (vec![document("a", "two", 2)], 2));
    assert_eq!(set(&directory.client(), "b", 0, "three").await, Written::At(3));
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_refused() {
    let (folder, directory) = directory().await;
    set(&directory.client(), "a", 0, "one").await;
    let second = Running::start(folder.path()).await;
    let error = within(second.task).await.expect("no panic").expect_err("refused");
    assert!(format!("{error:#}").contains("in use by another process"), "{error:#}");
}

#[tokio::test]
async fn a_directory_that_accepts_and_says_nothing_is_unreachable_within_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = silent.local_addr().expect("address");
    let client = Client::new(&address.to_string()).expect("client");
    let error = within(client.read("")).await.expect_err("no answer");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_follower_ends_with_its_token() {
    let (_folder, directory) = directory().await;
    let shutdown = CancellationToken::new();
    let mut views = directory.client().follow("", shutdown.clone());
    view_that(&mut views, |view| view.connected).await;
    shutdown.cancel();
    let ended = async { while views.changed().await.is_ok() {} };
    within(ended).await;
}

#[tokio::test]
async fn a_follower_notices_a_silent_network_split_and_catches_up_after_it() {
    let (_folder, directory) = directory().await;
    let relay = Relay::start(directory.address).await.expect("relay");
    let far = Client::new(&relay.address().to_string()).expect("client");
    let mut views = far.follow("", CancellationToken::new());
    set(&directory.client(), "a", 0, "one").await;
    view_that(&mut views, |view| view.revision == 1 && view.connected).await;

    relay.control().cut();
    set(&directory.client(), "a", 1, "two").await;
    let view = view_that(&mut views, |view| !view.connected).await;
    assert_eq!(view.revision, 1);
    let error = far.read("").await.expect_err("split");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error}");

    relay.control().heal();
    let view = view_that(&mut views, |view| view.connected).await;
    assert_eq!((view.revision, view.regressed), (2, false));
}
