//! What is a directory to the suite: either of the two, and what can be done to it?

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domicile::directory::server::{DirectoryConfig, serve};
use domicile::directory::{Client, Document, View, Written};
use domicile::lab::cluster::free_port;
use domicile::lab::etcd::{Etcd, EtcdConfig};
use domicile::proto::etcd as proto;
use domicile_core::config;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use proto::kv_client::KvClient;

/// Longest wait for a fact; far more than any of them takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that runs, unless it was stopped.
pub struct World {
    pub folder: TempDir,
    kind: Kind,
}

enum Kind {
    Embedded { address: SocketAddr, running: Option<Running> },
    Etcd(Etcd),
}

impl World {
    pub async fn embedded() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let running = Some(Running::start_at(&folder.path().join("data"), address).await);
        Self { folder, kind: Kind::Embedded { address, running } }
    }

    pub async fn etcd() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let config = EtcdConfig { folder: Some(folder.path().join("etcd")), ..Default::default() };
        let etcd = Etcd::start(1, config).await.expect("etcd");
        Self { folder, kind: Kind::Etcd(etcd) }
    }

    pub fn client(&self) -> Client {
        self.client_at(self.address())
    }

    /// Returns a client that reaches the directory at `address`.
    pub fn client_at(&self, address: SocketAddr) -> Client {
        match &self.kind {
            Kind::Embedded { .. } => Client::embedded(&address.to_string()).expect("client"),
            Kind::Etcd(_) => client_of(&[address.to_string()]),
        }
    }

    pub fn address(&self) -> SocketAddr {
        match &self.kind {
            Kind::Embedded { address, .. } => *address,
            Kind::Etcd(etcd) => etcd.endpoints()[0].parse().expect("address"),
        }
    }

    pub async fn stop(&mut self) {
        match &mut self.kind {
            Kind::Embedded { running, .. } => {
                if let Some(running) = running.take() {
                    running.stop().await;
                }
            }
            Kind::Etcd(etcd) => etcd.kill_member(0),
        }
    }

    pub async fn start(&mut self) {
        let data = self.data();
        match &mut self.kind {
            Kind::Embedded { address, running } => {
                *running = Some(Running::start_at(&data, *address).await);
            }
            Kind::Etcd(etcd) => {
                etcd.start_member(0).expect("start");
                etcd.wait_for_leader(PATIENCE).await.expect("leader");
            }
        }
    }

    /// Nobody can watch from before now any more.
    pub async fn forget_events(&mut self) {
        let address = self.address();
        match &self.kind {
            Kind::Embedded { .. } => {
                self.stop().await;
                self.start().await;
            }
            Kind::Etcd(_) => {
                let revision = self.client().read("").await.expect("read").revision;
                let mut client =
                    KvClient::connect(format!("http://{address}")).await.expect("connect");
                let revision = i64::try_from(revision).expect("revision");
                client.compact(proto::CompactionRequest { revision }).await.expect("compact");
            }
        }
    }

    /// Copies all that the directory keeps; it is down for as long as that takes.
    pub async fn copy(&mut self) -> TempDir {
        self.stop().await;
        let copy = tempfile::tempdir().expect("temporary folder");
        copy_tree(&self.data(), copy.path());
        self.start().await;
        copy
    }

    /// Puts what the directory keeps back to what it was.
    pub async fn restore(&mut self, copy: &TempDir) {
        self.stop().await;
        fs::remove_dir_all(self.data()).expect("remove");
        copy_tree(copy.path(), &self.data());
        self.start().await;
    }

    fn data(&self) -> PathBuf {
        match &self.kind {
            Kind::Embedded { .. } => self.folder.path().join("data"),
            Kind::Etcd(etcd) => etcd.folder().join("m0").join("data"),
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make folder");
    for entry in fs::read_dir(from).expect("list") {
        let entry = entry.expect("entry");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type().expect("type").is_dir() {
            true => copy_tree(&from, &to),
            false => drop(fs::copy(from, to).expect("copy")),
        }
    }
}

/// The embedded directory's server, in this process.
pub struct Running {
    pub address: SocketAddr,
    stop: CancellationToken,
    pub task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub async fn start_at(folder: &Path, listen: SocketAddr) -> Self {
        let config = DirectoryConfig { listen, data: folder.to_owned(), credentials: None };
        let listener = config.bind().await.expect("bind");
        let address = listener.local_addr().expect("address");
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(config, listener, stop.clone()));
        Self { address, stop, task }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        within(self.task).await.expect("server did not panic").expect("server ended well");
    }

    pub fn client(&self) -> Client {
        Client::embedded(&self.address.to_string()).expect("client")
    }
}

pub fn etcd_config(endpoints: &[String]) -> config::Etcd {
    config::Etcd { endpoints: endpoints.to_vec(), tls: None, login: None }
}

pub fn client_of(endpoints: &[String]) -> Client {
    Client::etcd(&etcd_config(endpoints), "lab").expect("client")
}

pub async fn within<T>(fact: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, fact).await.expect("in time")
}

pub async fn view_that(
    views: &mut watch::Receiver<Arc<View>>,
    holds: impl FnMut(&Arc<View>) -> bool,
) -> Arc<View> {
    within(views.wait_for(holds)).await.expect("follower lives").clone()
}

pub async fn set(client: &Client, key: &str, expected: u64, value: &str) -> Written {
    let value = Bytes::copy_from_slice(value.as_bytes());
    client.write(key, expected, Some(value)).await.expect("write")
}

/// Sets what must be possible, and returns the new revision.
pub async fn put(client: &Client, key: &str, expected: u64, value: &str) -> u64 {
    match set(client, key, expected, value).await {
        Written::At(revision) => revision,
        Written::Conflict(revision) => panic!("{key} is at {revision}, not at {expected}"),
    }
}

pub fn document(key: &str, value: &'static str, revision: u64) -> Document {
    Document { key: key.to_owned(), value: Bytes::from_static(value.as_bytes()), revision }
}

pub fn as_documents(view: &View) -> Vec<Document> {
    let documents = view.documents.iter();
    documents
        .map(|(key, (value, revision))| Document {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
        })
        .collect()
}
