//! What does a client cost that is connected and does nothing?
//!
//! Many come to an agent whose gateway shares servers, and to PgBouncer with `pool_mode = transaction`, each with one
//! query; then they wait while others come and go. What counts is the process's resident memory.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use domicile::lab::cluster::PgBin;
use domicile::lab::regions::{Regions, RegionsConfig};
use domicile::tls::authority::CA;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::contender::{self, Contender};

/// So many log in at a time: each needs a session at PostgreSQL for that.
const AT_ONCE: usize = 8;
/// For those who come and go: one that has gone may count for a moment still.
const ROOM: usize = 1000;
/// What a process keeps for itself and gives back late is gone by then.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);
const MESSAGE_BYTES_MAX: u32 = 1 << 20;

/// One way to come in.
#[derive(Serialize)]
pub struct Idle {
    encrypted: bool,
    clients: usize,
    came_and_went: usize,
    pub ours: Memory,
    pub pgbouncer: Option<Memory>,
}

#[derive(Clone, Copy, Serialize)]
pub struct Memory {
    before_mib: f64,
    idle_mib: f64,
    /// When others had come and gone beside them.
    later_mib: f64,
    pub each_kib: f64,
    logins_per_second: f64,
}

impl Idle {
    pub fn line(&self) -> String {
        let how = if self.encrypted { "TLS" } else { "in the clear" };
        let said = |it: &Memory| {
            let Memory { before_mib, idle_mib, later_mib, each_kib, logins_per_second } = it;
            format!(
                "{idle_mib:.0} MiB ({before_mib:.0} before them, {each_kib:.1} KiB each), {later_mib:.0} MiB after {} \
                 more came and went, {logins_per_second:.0} logins a second",
                self.came_and_went
            )
        };
        let theirs = self.pgbouncer.as_ref().map_or("not measured".to_owned(), said);
        let ours = said(&self.ours);
        format!("{} idle clients, {how}:\n  ours      {ours}\n  PgBouncer {theirs}", self.clients)
    }
}

/// Measures `clients` idle clients at each, encrypted and not, while `passing` come and go.
pub async fn measure(
    binary: &Path,
    clients: usize,
    passing: usize,
    mut each: impl FnMut(Idle) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut regions = world(binary, clients).await?;
    let authority = regions.folder().join("certificates").join(CA);
    for connector in [None, Some(trusting(&authority)?)] {
        // What the last clients left in its memory counts for none of these.
        regions.kill_agent("eu");
        regions.start_agent("eu")?;
        regions.wait_until_ready().await?;
        let pid = regions.agent_pid("eu").context("no agent")?;
        let port = regions.gateway("eu").port();
        let crowd = Crowd { connector: connector.as_ref(), clients, passing };
        let ours = crowd.measure(Contender::Ours, port, pid).await?;
        let opened = pgbouncer(&regions, clients).await;
        let pgbouncer = match opened {
            Ok((port, pgbouncer)) => {
                let pid = pgbouncer.id().context("it has ended")?;
                Some(crowd.measure(Contender::Pgbouncer, port, pid).await?)
            }
            Err(error) => {
                eprintln!("bench: PgBouncer is left out: {error:#}");
                None
            }
        };
        let encrypted = connector.is_some();
        each(Idle { encrypted, clients, came_and_went: passing, ours, pgbouncer })?;
    }
    Ok(())
}

/// Two regions that share their gateways' servers, in one place.
async fn world(binary: &Path, clients: usize) -> anyhow::Result<Regions> {
    let mut config = RegionsConfig::three(binary.to_owned(), PgBin::find(None)?, "", 6);
    config.names = ["eu", "us"].map(str::to_owned).to_vec();
    config.partition = "hash(id, 6)".to_owned();
    config.rpo = "none".to_owned();
    config.round_trip = Duration::ZERO;
    config.automatic_failover = false;
    config.tls = true;
    config.gateway = format!("sharing = \"transaction\"\nconnections = {}\n", clients + ROOM);
    let mut regions = Regions::create(config).await?;
    regions.start_all().await?;
    regions.wait_until_ready().await?;
    Ok(regions)
}

async fn pgbouncer(
    regions: &Regions,
    clients: usize,
) -> anyhow::Result<(u16, tokio::process::Child)> {
    let postgres: tokio_postgres::Config = regions.postgres("eu").parse()?;
    let port = *postgres.get_ports().first().context("PostgreSQL has a port")?;
    let folder = regions.folder().join("pgbouncer");
    std::fs::create_dir_all(&folder)?;
    // It does not run as root and reads them as somebody else.
    let files = ["pem", "key"].map(|ending| folder.join(format!("eu.{ending}")));
    for file in &files {
        let name = file.file_name().context("it has a name")?;
        std::fs::copy(regions.folder().join("certificates").join(name), file)?;
    }
    contender::readable_by_all(regions.folder(), &[])?;
    contender::readable_by_all(&folder, &files)?;
    let [certificate, key] = files.map(|file| file.display().to_string());
    let settings = format!(
        "pool_mode = transaction\nmax_client_conn = {}\nclient_tls_sslmode = allow\n\
         client_tls_cert_file = {certificate}\nclient_tls_key_file = {key}\n",
        clients + ROOM
    );
    contender::start_pgbouncer(port, &folder, &settings).await
}

/// Those who come.
struct Crowd<'a> {
    connector: Option<&'a TlsConnector>,
    clients: usize,
    passing: usize,
}

impl Crowd<'_> {
    async fn measure(&self, contender: Contender, port: u16, pid: u32) -> anyhow::Result<Memory> {
        drop(come(port, self.connector).await.with_context(|| format!("come to {contender}"))?);
        tokio::time::sleep(SETTLES_WITHIN).await;
        let before_mib = resident_mib(pid)?;
        let (bar, started) = (bar(contender, self.clients), Instant::now());
        let coming = stream::iter(0..self.clients).map(|_| come(port, self.connector));
        let idle: Vec<Session> = coming
            .buffer_unordered(AT_ONCE)
            .inspect(|_| bar.inc(1))
            .try_collect()
            .await
            .with_context(|| format!("come to {contender}"))?;
        bar.finish_and_clear();
        let logins_per_second = self.clients as f64 / started.elapsed().as_secs_f64();
        tokio::time::sleep(SETTLES_WITHIN).await;
        let idle_mib = resident_mib(pid)?;
        let passing = stream::iter(0..self.passing).map(|_| come(port, self.connector));
        passing
            .buffer_unordered(AT_ONCE)
            .try_for_each(|session| async {
                drop(session);
                Ok(())
            })
            .await?;
        tokio::time::sleep(SETTLES_WITHIN).await;
        let later_mib = resident_mib(pid)?;
        drop(idle);
        let each_kib = (idle_mib - before_mib) * 1024.0 / self.clients as f64;
        Ok(Memory { before_mib, idle_mib, later_mib, each_kib, logins_per_second })
    }
}

fn bar(contender: Contender, clients: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} clients");
    let bar = ProgressBar::new(clients as u64).with_prefix(contender.to_string());
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

trait Both: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Both for T {}

type Session = Box<dyn Both>;

/// Logs in, asks one thing and waits.
///
/// Not by a driver, whose own memory ten thousand times is more than what is measured.
async fn come(port: u16, connector: Option<&TlsConnector>) -> anyhow::Result<Session> {
    let mut plain = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut session: Session = match connector {
        None => Box::new(plain),
        Some(connector) => {
            plain.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await?;
            ensure!(plain.read_u8().await? == b'S', "it does not speak TLS");
            let name = ServerName::try_from("127.0.0.1")?;
            Box::new(connector.connect(name, plain).await?)
        }
    };
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let length = parameters.len() as u32 + 8;
    session.write_all(&[&length.to_be_bytes()[..], &[0, 3, 0, 0], parameters].concat()).await?;
    until_ready(&mut session).await?;
    session.write_all(b"Q\0\0\0\x0dSELECT 1\0").await?;
    until_ready(&mut session).await?;
    Ok(session)
}

async fn until_ready(session: &mut Session) -> anyhow::Result<()> {
    loop {
        let (kind, length) = (session.read_u8().await?, session.read_u32().await?);
        ensure!((4..MESSAGE_BYTES_MAX).contains(&length), "a message of {length} bytes");
        let mut body = vec![0; length as usize - 4];
        session.read_exact(&mut body).await?;
        match kind {
            b'Z' => return Ok(()),
            b'E' => bail!("{}", String::from_utf8_lossy(&body).replace('\0', " ")),
            _ => {}
        }
    }
}

fn trusting(authority: &Path) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config?.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What of a process is in memory now.
fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.context("no resident memory")?.trim().trim_end_matches(" kB");
    Ok(kib.parse::<f64>()? / 1024.0)
}
