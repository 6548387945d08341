//! How does one get a real PostgreSQL cluster of one's own, and be rid of it without a trace?
//!
//! Layout of a cluster's folder:
//!
//! ```text
//! <folder>/data/            what initdb made; belongs to the user that PostgreSQL runs as
//! <folder>/postgres.log     what the server said
//! <folder>/.s.PGSQL.<port>  its socket
//! ```
//!
//! Invariant: a running postmaster is our child and ends with its [`Cluster`], also when we are
//! killed with SIGKILL; only the folder stays then. A killed cluster is gone completely when [`Cluster::kill`] returns, so
//! it may be started again at once.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

mod account;
mod disk;
mod error;
mod guardian;
mod pg_bin;
mod port;
mod process;
mod temporary;
#[cfg(test)]
mod tests;

pub use account::Account;
pub use disk::Disk;
pub use error::LabError;
pub use guardian::Guardian;
pub use pg_bin::PgBin;
pub use port::free_port;
pub use process::kill_server;
pub use temporary::{TemporaryFolder, temporary_cluster};

/// A start may include crash recovery on a busy machine.
const START_WAIT_MAX: Duration = Duration::from_secs(60);
const STOP_WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// A Unix socket's path is limited to 103 bytes on macOS, 107 on Linux.
const SOCKET_PATH_BYTES_MAX: usize = 103;
/// How much of the server's log an error shows.
const LOG_TAIL_LINES: usize = 20;

/// What a cluster should be.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    pub bin: PgBin,
    /// Made if it is missing; holds the data, the log and the socket.
    pub folder: PathBuf,
    pub port: u16,
    /// Shown in the process list and in errors.
    pub name: String,
    /// Go after the lab's own settings in `postgresql.conf`, so they win.
    pub settings: Vec<(String, String)>,
    /// The size of a disk that holds its WAL and nothing else; absent, it is beside the data.
    pub wal_disk_bytes: Option<u64>,
    /// Of the server's process.
    pub environment: Vec<(String, String)>,
}

/// How a running cluster is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Ends sessions, rolls back what is open, writes a checkpoint.
    Fast,
    /// Ends at once; the next start recovers from the WAL.
    Immediate,
}

/// A PostgreSQL cluster in a folder of its own; killed when dropped.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    account: Account,
    postmaster: Option<Child>,
    guardian: Option<Guardian>,
    wal_disk: Option<Disk>,
    /// Goes after the postmaster: `Drop` kills before fields are dropped.
    kept: Option<Arc<TemporaryFolder>>,
}

impl Cluster {
    /// Makes the cluster with `initdb` and writes its settings; does not start it.
    ///
    /// The superuser is `postgres`, everybody on this machine is trusted, encoding is UTF-8 and
    /// the locale is C, so that texts sort alike everywhere.
    pub async fn create(mut config: ClusterConfig) -> Result<Self, LabError> {
        let account = Account::choose()?;
        std::fs::create_dir_all(&config.folder)
            .map_err(LabError::file("make folder", &config.folder))?;
        config.folder = std::fs::canonicalize(&config.folder)
            .map_err(LabError::file("resolve folder", &config.folder))?;
        account.check_reach(&config.folder)?;
        account.own(&config.folder)?;
        let wal_disk =
            config.wal_disk_bytes.map(|bytes| Disk::make_for(&account, bytes)).transpose()?;
        let (postmaster, guardian, kept) = (None, None, None);
        let cluster = Self { config, account, postmaster, guardian, wal_disk, kept };
        cluster.initdb().await?;
        cluster.write_settings()?;
        Ok(cluster)
    }

    /// Starts the server and returns once it answers a query.
    pub async fn start(&mut self) -> Result<(), LabError> {
        if self.is_running() {
            return Err(LabError::AlreadyRunning { name: self.config.name.clone() });
        }
        let log_file = self.log_file();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log_file)
            .map_err(LabError::file("open log", &log_file))?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).stdout(Stdio::null()).stderr(log);
        command.envs(self.config.environment.iter().cloned());
        let child = command.spawn().map_err(|source| LabError::Spawn {
            program: self.config.bin.program("postgres"),
            source,
        })?;
        self.postmaster = Some(child);
        let guardian = Guardian::watch(&self.data());
        self.guardian =
            Some(guardian.map_err(|source| LabError::Spawn { program: "/bin/sh".into(), source })?);
        let answered = self.wait_for_answer().await;
        if answered.is_err() {
            self.kill();
        }
        answered
    }

    /// Asks the server to stop and waits until it has; does nothing to one that does not run.
    pub async fn stop(&mut self, mode: StopMode) -> Result<(), LabError> {
        let Some(child) = &mut self.postmaster else { return Ok(()) };
        process::signal(
            child,
            match mode {
                StopMode::Fast => Signal::SIGINT,
                StopMode::Immediate => Signal::SIGQUIT,
            },
        );
        let deadline = Instant::now() + STOP_WAIT_MAX;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                self.kill();
                return Err(LabError::KilledAtStop {
                    name: self.config.name.clone(),
                    seconds: STOP_WAIT_MAX.as_secs(),
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        (self.postmaster, self.guardian) = (None, None);
        Ok(())
    }

    /// Kills the server and all its processes with SIGKILL, as a power failure would, and returns
    /// when all of them are gone.
    pub fn kill(&mut self) {
        self.guardian = None;
        if let Some(mut child) = self.postmaster.take() {
            process::kill_tree(&mut child);
        }
    }

    /// Lets the server and all its processes hang: connections are accepted by the system, and nobody
    /// answers.
    pub fn pause(&self) {
        self.postmaster.as_ref().into_iter().for_each(process::pause_tree);
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.postmaster.as_ref().into_iter().for_each(process::resume_tree);
    }

    /// Removes the segment that a killed server leaves, of which a machine has a few thousand. One that
    /// is started again does that itself.
    fn free_shared_memory(&self) {
        let file = self.data().join("postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        // Its seventh line has the key and the number of the segment.
        let segment = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1));
        if let Some(segment) = segment {
            let mut remove = Command::new("ipcrm");
            remove.args(["-m", segment]).stdout(Stdio::null()).stderr(Stdio::null());
            // The machine may have no such program: then it stays.
            let _ = remove.status();
        }
    }

    /// Returns whether the postmaster is there; one that ended by itself counts as stopped.
    pub fn is_running(&mut self) -> bool {
        let running =
            self.postmaster.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !running {
            self.postmaster = None;
        }
        running
    }

    /// Opens a session as the superuser; its connection runs as a task until the client is dropped.
    pub async fn connect(&self) -> Result<tokio_postgres::Client, LabError> {
        let parameters = self.connection_string();
        let (client, connection) = tokio_postgres::connect(&parameters, tokio_postgres::NoTls)
            .await
            .map_err(|source| LabError::Connect { name: self.config.name.clone(), source })?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                // Expected: the lab kills servers under their sessions.
                tracing::debug!(%error, "a session of the lab ended");
            }
        });
        Ok(client)
    }

    pub fn connection_string(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.config.port)
    }

    pub fn name(&self) -> &str {
        &self.config.name
    }

    pub fn port(&self) -> u16 {
        self.config.port
    }

    /// Returns the postmaster's process id, if it was started.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.as_ref().map(Child::id)
    }

    /// Returns the cluster's folder, absolute.
    pub fn folder(&self) -> &Path {
        &self.config.folder
    }

    pub fn log_file(&self) -> PathBuf {
        self.config.folder.join("postgres.log")
    }

    pub fn bin(&self) -> &PgBin {
        &self.config.bin
    }

    /// Returns the disk of its WAL, if that has one of its own.
    pub fn wal_disk(&mut self) -> Option<&mut Disk> {
        self.wal_disk.as_mut()
    }

    fn keep(&mut self, folder: Arc<TemporaryFolder>) {
        self.kept = Some(folder);
    }

    fn data(&self) -> PathBuf {
        self.config.folder.join("data")
    }

    /// Prepares one of PostgreSQL's programs, free of what our own environment says to it.
    fn command(&self, program: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.config.bin.program(program));
        for (key, _) in std::env::vars_os() {
            if key.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(key);
            }
        }
        // A group of its own: Ctrl-C is for us, we stop our clusters in our own order.
        // Folder: ours may be one that the other user cannot enter.
        command
            .env("LC_ALL", "C")
            .current_dir(&self.config.folder)
            .stdin(Stdio::null())
            .process_group(0);
        self.account.apply(&mut command);
        command
    }

    async fn initdb(&self) -> Result<(), LabError> {
        let mut command = self.command("initdb");
        command
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"])
            .args(["--no-sync", "--no-instructions", "--pgdata"])
            .arg(self.data());
        if let Some(disk) = &self.wal_disk {
            command.arg("--waldir").arg(disk.path().join("wal"));
        }
        let program = self.config.bin.program("initdb");
        let output = self.config.folder.join("initdb.log");
        let log = std::fs::File::create(&output).map_err(LabError::file("make log", &output))?;
        command.stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(|source| LabError::Spawn { program, source })?;
        // Not tokio's child: when this wait is abandoned, initdb and its own children must be
        // gone before the folder goes.
        let mut child = process::KilledOnDrop(child);
        let status = loop {
            match child.0.try_wait().map_err(LabError::file("wait for initdb in", &self.data()))? {
                Some(status) => break status,
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        };
        if status.success() {
            return Ok(());
        }
        let said = std::fs::read(&output).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        Err(LabError::Initdb { folder: self.data(), said })
    }

    fn write_settings(&self) -> Result<(), LabError> {
        let file = self.data().join("postgresql.conf");
        let lines: String = self
            .settings()
            .iter()
            .map(|(key, value)| format!("{key} = '{}'\n", value.replace('\'', "''")))
            .collect();
        let mut text =
            std::fs::read_to_string(&file).map_err(LabError::file("read settings", &file))?;
        text.push_str("\n# the lab's settings; the last of two wins\n");
        text.push_str(&lines);
        std::fs::write(&file, text).map_err(LabError::file("write settings", &file))
    }

    fn settings(&self) -> Vec<(String, String)> {
        let folder = self.config.folder.display().to_string();
        let socket = format!("{folder}/.s.PGSQL.{}.lock", self.config.port);
        let socket_folder = if socket.len() <= SOCKET_PATH_BYTES_MAX {
            format!("\"{folder}\"")
        } else {
            String::new()
        };
        let port = self.config.port.to_string();
        let ours = [
            ("cluster_name", self.config.name.as_str()),
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", &socket_folder),
            ("wal_level", "logical"),
            ("max_wal_senders", "16"),
            ("max_replication_slots", "16"),
            ("max_connections", "200"),
            ("shared_buffers", "64MB"),
            ("timezone", "UTC"),
            ("log_lock_waits", "on"),
            ("log_timezone", "UTC"),
            ("log_line_prefix", "%m [%p] %a "),
        ];
        let ours = ours.map(|(key, value)| (key.to_owned(), value.to_owned()));
        ours.into_iter().chain(self.config.settings.iter().cloned()).collect()
    }

    async fn wait_for_answer(&mut self) -> Result<(), LabError> {
        let deadline = Instant::now() + START_WAIT_MAX;
        loop {
            if let Some(child) = &mut self.postmaster
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(LabError::EndedAtStart {
                    name: self.config.name.clone(),
                    status: status.to_string(),
                    log: self.log_tail(),
                });
            }
            let Err(last) = self.ask().await else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(LabError::NoAnswer {
                    name: self.config.name.clone(),
                    seconds: START_WAIT_MAX.as_secs(),
                    last: last.to_string(),
                    log: self.log_tail(),
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn ask(&self) -> Result<(), LabError> {
        let client = self.connect().await?;
        client
            .simple_query("SELECT 1")
            .await
            .map(drop)
            .map_err(|source| LabError::Connect { name: self.config.name.clone(), source })
    }

    fn log_tail(&self) -> String {
        let bytes = std::fs::read(self.log_file()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
        self.free_shared_memory();
    }
}
