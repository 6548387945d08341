//! What stands between pgbench and PostgreSQL?

use std::any::Any;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use domicile::gateway::{
    Columns, Config, Console, Functions, Gateway, Mode, Roles, Routes, Secure, Target, WarmUps,
};
use domicile::lab::cluster::{Cluster, free_port};
use domicile_core::admission::Admission;
use domicile_core::partition::{Layout, Scheme};
use domicile_core::progress::Rpo;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How long a door may take to open.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Contender {
    Direct,
    Ours,
    Pgbouncer,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Ours => "ours",
            Self::Pgbouncer => "PgBouncer",
        })
    }
}

/// Somewhere to connect to; closed when dropped.
pub struct Door {
    pub contender: Contender,
    pub port: u16,
    /// What keeps it open.
    _held: Box<dyn Any>,
}

impl Door {
    pub async fn open(
        contender: Contender,
        cluster: &Cluster,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let (port, held): (u16, Box<dyn Any>) = match contender {
            Contender::Direct => (cluster.port(), Box::new(())),
            Contender::Ours => ours(cluster).await?,
            Contender::Pgbouncer => pgbouncer(cluster, folder).await?,
        };
        Ok(Self { contender, port, _held: held })
    }
}

/// As an agent has it where every region writes.
async fn ours(cluster: &Cluster) -> anyhow::Result<(u16, Box<dyn Any>)> {
    let (routes, seen) = watch::channel(Arc::new(Routes::default()));
    let config = Config {
        region: "eu".parse()?,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        ports: Vec::new(),
        local: Target::Tcp { host: "127.0.0.1".to_owned(), port: cluster.port() },
        peers: Default::default(),
        park_budget: Duration::from_secs(10),
        shutdown_timeout: Duration::from_secs(5),
        mode: Mode::Local,
        layout: Layout { scheme: Scheme::Hash { count: 8 }, has_reference: false },
        rpo: Rpo::None,
        secure: Secure::default(),
        admission: Admission::default(),
        console: Console::default(),
        columns: Columns::default(),
        functions: Functions::default(),
        roles: Roles::default(),
        staleness: None,
        sharing: None,
        warm_ups: WarmUps::default(),
    };
    let gateway = Gateway::bind(config, seen).await?;
    let port = gateway.address().port();
    let served = tokio::spawn(gateway.run(CancellationToken::new()));
    Ok((port, Box::new((routes, AbortOnDropHandle::new(served)))))
}

/// One session at PostgreSQL for each client.
async fn pgbouncer(cluster: &Cluster, folder: &Path) -> anyhow::Result<(u16, Box<dyn Any>)> {
    let settings = "pool_mode = session\ndefault_pool_size = 250\nmax_client_conn = 1000\n";
    let (port, child) = start_pgbouncer(cluster.port(), folder, settings).await?;
    Ok((port, Box::new(child)))
}

/// With its defaults, but for `settings` and what it needs to be let in.
pub async fn start_pgbouncer(
    postgres: u16,
    folder: &Path,
    settings: &str,
) -> anyhow::Result<(u16, Child)> {
    let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];
    let program = program.into_iter().find(|program| Path::new(program).exists());
    let program = program.context("it is not installed")?;
    let port = free_port();
    let settings = format!(
        "[databases]\n\
         postgres = host=127.0.0.1 port={postgres} dbname=postgres user=postgres\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = any\n\
         {settings}"
    );
    let file = folder.join("pgbouncer.ini");
    fs::write(&file, settings)?;
    readable_by_all(folder, std::slice::from_ref(&file))?;
    let mut command = Command::new(program);
    // It does not run as root.
    if nix::unistd::geteuid().is_root() {
        command.args(["-u", "nobody"]);
    }
    let mut child = command.arg("-q").arg(&file).kill_on_drop(true).spawn()?;
    let opened = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(OPEN_WAIT_MAX, opened).await.context("it does not listen")?;
    ensure!(child.try_wait()?.is_none(), "it has ended");
    Ok((port, child))
}

/// Lets somebody who is not root read what root has made.
pub fn readable_by_all(folder: &Path, files: &[PathBuf]) -> anyhow::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for file in files {
        fs::set_permissions(file, fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}
