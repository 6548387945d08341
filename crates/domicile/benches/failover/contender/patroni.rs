//! Patroni: three PostgreSQL servers that stream to one another over links as long as ours, an etcd
//! beside them, and HAProxy in front, set up as Patroni's documentation has it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use domicile::lab::cluster::{Account, Guardian, PgBin, TemporaryFolder, free_port, kill_server};
use domicile::lab::etcd::{Etcd, EtcdConfig};
use domicile::lab::guarded::Guarded;
use domicile::lab::relay::Relay;

use super::wait_until;
use crate::clients::connect;

const NODES: [&str; 3] = ["one", "two", "three"];
const SCOPE: &str = "bench";
const START_WAIT_MAX: Duration = Duration::from_secs(120);

/// In seconds, as Patroni's and HAProxy's configurations name them.
#[derive(Clone, Copy)]
pub struct Timing {
    ttl: u32,
    loop_wait: u32,
    retry_timeout: u32,
    /// How often HAProxy asks who is the leader, and how often it hears otherwise before it
    /// believes it.
    check_ms: u32,
    fall: u32,
    rise: u32,
}

pub const DEFAULT: Timing =
    Timing { ttl: 30, loop_wait: 10, retry_timeout: 10, check_ms: 3000, fall: 3, rise: 2 };
pub const FASTEST: Timing =
    Timing { ttl: 7, loop_wait: 2, retry_timeout: 2, check_ms: 500, fall: 1, rise: 1 };

pub struct Patroni {
    _proxy: Guarded,
    entry: u16,
    nodes: Vec<Node>,
    account: Account,
    _etcd: Etcd,
    /// Goes last.
    folder: TemporaryFolder,
}

struct Node {
    name: &'static str,
    port: u16,
    rest: u16,
    /// Over which the others reach this one.
    link: Relay,
    data: PathBuf,
    patroni: Option<Guarded>,
    /// Of the server that Patroni has started.
    guardian: Option<Guardian>,
}

impl Drop for Patroni {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
    }
}

impl Patroni {
    /// Nothing where Patroni or HAProxy is not installed.
    pub async fn start(timing: Timing, round_trip: Duration) -> anyhow::Result<Option<Self>> {
        if which("patroni").is_none() || which("haproxy").is_none() {
            return Ok(None);
        }
        let folder = TemporaryFolder::create("patroni")?;
        let account = Account::choose()?;
        account.own(folder.path())?;
        let etcd = Etcd::start(1, EtcdConfig::default()).await?;
        let bin = PgBin::find(None)?;
        let mut nodes = Vec::new();
        for name in NODES {
            let (port, rest) = (free_port(), free_port());
            let link = Relay::start(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
            link.control().set_delay(round_trip / 2);
            let data = folder.path().join(name);
            nodes.push(Node { name, port, rest, link, data, patroni: None, guardian: None });
        }
        let entry = free_port();
        for node in &nodes {
            let text = configuration(node, timing, &etcd.endpoints(), &bin, folder.path());
            fs::write(node.configuration(), text)?;
        }
        let proxy_file = folder.path().join("haproxy.cfg");
        fs::write(&proxy_file, proxy_configuration(entry, timing, &nodes))?;
        let mut proxy = Command::new(which("haproxy").context("find haproxy")?);
        proxy.arg("-db").arg("-f").arg(&proxy_file);
        let _proxy = spawn(&mut proxy, &folder.path().join("haproxy.log"))?;
        let mut patroni = Self { _proxy, entry, nodes, account, _etcd: etcd, folder };
        patroni.start_all()?;
        patroni.wait_until_whole(START_WAIT_MAX).await?;
        let leader = patroni.leader().await?;
        connect(&patroni.postgres(&leader)).await?.batch_execute(super::TABLE).await?;
        patroni.wait_until_led(START_WAIT_MAX).await?;
        Ok(Some(patroni))
    }

    fn start_all(&mut self) -> anyhow::Result<()> {
        let log = self.folder.path().join("patroni.log");
        for node in self.nodes.iter_mut().filter(|node| node.patroni.is_none()) {
            let mut command = Command::new(which("patroni").context("find patroni")?);
            command.arg(node.configuration());
            self.account.apply(&mut command);
            node.patroni = Some(spawn(&mut command, &log)?);
            node.guardian = Some(Guardian::watch(&node.data)?);
        }
        Ok(())
    }

    fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("one of the three")
    }

    pub fn postgres(&self, node: &str) -> String {
        self.node(node).postgres()
    }

    pub fn entry(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.entry)
    }

    pub async fn leader(&self) -> anyhow::Result<String> {
        for node in &self.nodes {
            if takes_writes(&node.postgres()).await.unwrap_or(false) {
                return Ok(node.name.to_owned());
            }
        }
        anyhow::bail!("no server takes writes")
    }

    pub fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let node = self.nodes.iter_mut().find(|node| node.name == name);
        node.context("kill a server that there is")?.kill();
        Ok(())
    }

    pub async fn hand_over(&self, leader: &str) -> anyhow::Result<()> {
        let others = self.nodes.iter().filter(|node| node.name != leader);
        let to = others.map(|node| node.name).next().context("there are three")?;
        let output = tokio::process::Command::new(which("patronictl").context("find patronictl")?)
            .arg("-c")
            .arg(self.node(to).configuration())
            .args(["switchover", SCOPE, "--master", leader, "--candidate", to, "--force"])
            .output()
            .await?;
        let told = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "patronictl ended with {}: {told}", output.status);
        Ok(())
    }

    pub async fn heal(&mut self, at_most: Duration) -> anyhow::Result<()> {
        self.start_all()?;
        self.wait_until_whole(at_most).await?;
        self.wait_until_led(at_most).await
    }

    /// Waits until HAProxy has seen who is the leader, and that no other is: it believes in an old one
    /// for some of its looks, and sends every second client there.
    async fn wait_until_led(&self, at_most: Duration) -> anyhow::Result<()> {
        wait_until("HAProxy leads to the leader alone", at_most, async || {
            // It takes the servers by turns.
            for _ in 0..2 * NODES.len() {
                match takes_writes(&self.entry()).await {
                    Ok(true) => {}
                    Ok(false) => return Err("it leads to a standby, too".into()),
                    Err(error) => return Err(format!("{error:#}")),
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until one server takes writes and the others have all that it has.
    async fn wait_until_whole(&self, at_most: Duration) -> anyhow::Result<()> {
        wait_until("all servers follow the leader", at_most, async || {
            self.whole().await.map_err(|error| format!("{error:#}"))
        })
        .await
        .with_context(|| tail(&self.folder.path().join("patroni.log")))
    }

    async fn whole(&self) -> anyhow::Result<()> {
        let leader = self.leader().await?;
        let sql = "SELECT count(*) FROM pg_stat_replication
                   WHERE state = 'streaming' AND replay_lsn >= pg_current_wal_flush_lsn()";
        let row = connect(&self.postgres(&leader)).await?.query_one(sql, &[]).await?;
        let following: i64 = row.get(0);
        ensure!(following + 1 == NODES.len() as i64, "{following} follow {leader}");
        Ok(())
    }
}

impl Node {
    fn configuration(&self) -> PathBuf {
        self.data.with_extension("yml")
    }

    fn postgres(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port)
    }

    /// Patroni first, or it would start the server again.
    fn kill(&mut self) {
        (self.patroni, self.guardian) = (None, None);
        kill_server(&self.data);
    }
}

async fn takes_writes(postgres: &str) -> anyhow::Result<bool> {
    let client = connect(postgres).await?;
    Ok(!client.query_one("SELECT pg_is_in_recovery()", &[]).await?.get::<_, bool>(0))
}

fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Guarded> {
    let log = File::options().create(true).append(true).open(log)?;
    Ok(Guarded::spawn(command.stdout(log.try_clone()?).stderr(log))?)
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The last lines, for whoever wonders.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn configuration(
    node: &Node,
    timing: Timing,
    etcd: &[String],
    bin: &PgBin,
    folder: &Path,
) -> String {
    let Timing { ttl, loop_wait, retry_timeout, .. } = timing;
    let (name, port, rest, link) = (node.name, node.port, node.rest, node.link.address());
    let (etcd, bin) = (etcd.join(","), bin.folder().display());
    let (data, folder) = (node.data.display(), folder.display());
    format!(
        "scope: {SCOPE}
name: {name}
restapi:
  listen: 127.0.0.1:{rest}
  connect_address: 127.0.0.1:{rest}
etcd3:
  hosts: {etcd}
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    maximum_lag_on_failover: 1048576
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        max_connections: 200
        shared_buffers: 32MB
  initdb:
  - encoding: UTF8
  - data-checksums
  - auth: trust
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: {link}
  data_dir: {data}
  bin_dir: {bin}
  pgpass: {folder}/{name}.pgpass
  authentication:
    superuser: {{username: postgres, password: bench}}
    replication: {{username: replicator, password: bench}}
    rewind: {{username: rewinder, password: bench}}
  parameters:
    unix_socket_directories: {folder}
  pg_hba:
  - local all all trust
  - host all all 127.0.0.1/32 trust
  - host replication all 127.0.0.1/32 trust
"
    )
}

fn proxy_configuration(entry: u16, timing: Timing, nodes: &[Node]) -> String {
    let Timing { check_ms, fall, rise, .. } = timing;
    let servers = nodes.iter().map(|Node { name, port, rest, .. }| {
        format!("    server {name} 127.0.0.1:{port} maxconn 200 check port {rest}\n")
    });
    let servers: String = servers.collect();
    format!(
        "global
    maxconn 1000
defaults
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s
listen leader
    bind 127.0.0.1:{entry}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter {check_ms}ms fall {fall} rise {rise} on-marked-down shutdown-sessions
{servers}"
    )
}
