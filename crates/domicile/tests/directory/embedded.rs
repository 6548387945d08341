//! What can only the embedded directory be asked: its own protocol, its port, its folder?

use bytes::Bytes;
use domicile::directory::{KEY_BYTES_MAX, VALUE_BYTES_MAX, Written};
use domicile::proto;
use domicile::proto::directory_client::DirectoryClient;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::transport::Channel;

use crate::world::{Running, put, set, within};

async fn start(folder: &TempDir) -> Running {
    Running::start_at(folder.path(), "127.0.0.1:0".parse().expect("address")).await
}

async fn directory() -> (TempDir, Running) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let running = start(&folder).await;
    (folder, running)
}

async fn calls(directory: &Running) -> DirectoryClient<Channel> {
    DirectoryClient::connect(format!("http://{}", directory.address)).await.expect("connect")
}

#[tokio::test]
async fn what_a_hostile_client_sends_is_refused_and_writes_nothing() {
    let (_folder, directory) = directory().await;
    let mut calls = calls(&directory).await;
    for (key, value) in [
        ("k".repeat(KEY_BYTES_MAX + 1), None),
        ("a\nb".to_owned(), Some(Bytes::new())),
        ("a".to_owned(), Some(Bytes::from(vec![0; VALUE_BYTES_MAX + 1]))),
    ] {
        let request = proto::WriteRequest { key, expected_revision: 0, value };
        let status = calls.write(request).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    assert_eq!(directory.client().read("").await.expect("read").revision, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_every_event_once_and_in_order_while_writers_write() {
    const WRITERS: u64 = 4;
    const WRITES: u64 = 100;
    let (_folder, directory) = directory().await;
    let request = proto::WatchRequest { prefix: "w".to_owned(), from_revision: 0 };
    let mut stream = calls(&directory).await.watch(request).await.expect("watch").into_inner();
    for writer in 0..WRITERS {
        let client = directory.client();
        tokio::spawn(async move {
            let (key, mut seen) = (format!("w{writer}"), 0);
            for i in 0..WRITES {
                seen = put(&client, &key, seen, &i.to_string()).await;
            }
        });
    }
    let mut revisions = Vec::new();
    while revisions.len() < (WRITERS * WRITES) as usize {
        let message = within(stream.message()).await.expect("stream").expect("message");
        revisions.extend(message.events.iter().map(|event| event.revision));
    }
    assert_eq!(revisions, (1..=WRITERS * WRITES).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_told_to_read_again() {
    let (folder, directory) = directory().await;
    let client = directory.client();
    for (i, key) in ["a", "b", "c"].into_iter().enumerate() {
        assert_eq!(set(&client, key, 0, "v").await, Written::At(i as u64 + 1));
    }
    directory.stop().await;
    let directory = start(&folder).await;
    let mut calls = calls(&directory).await;
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
async fn a_second_server_on_the_same_folder_is_refused() {
    let (folder, directory) = directory().await;
    set(&directory.client(), "a", 0, "one").await;
    let second = start(&folder).await;
    let error = within(second.task).await.expect("no panic").expect_err("refused");
    assert!(format!("{error:#}").contains("in use by another process"), "{error:#}");
}
