//! How does one get a real etcd of one's own, break it, and be rid of it without a trace?
//!
//! ```text
//! <folder>/<member>/data     what that member keeps
//! <folder>/<member>/log      what it said, over all its starts
//! ```
//!
//! Invariant: every member is our child and ends with its [`Etcd`], also when we are killed with
//! SIGKILL; only the folder stays then.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, timeout};
use tonic::transport::Endpoint;

use super::cluster::{LabError, TemporaryFolder, free_port};
use super::guarded::Guarded;
use crate::proto::etcd as proto;
use proto::maintenance_client::MaintenanceClient;

/// From the start of a member until it answers, an election included.
const START_WAIT_MAX: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);
const LOG_LINES_SHOWN: usize = 15;

/// What etcd should be.
#[derive(Clone, Debug, Default)]
pub struct EtcdConfig {
    /// Further arguments of every member.
    pub arguments: Vec<String>,
    /// Arguments that turn TLS for clients on stand among them.
    pub tls: bool,
    /// Kept afterwards; a temporary one that goes when it is absent.
    pub folder: Option<PathBuf>,
}

/// An etcd cluster; killed when dropped.
#[derive(Debug)]
pub struct Etcd {
    program: PathBuf,
    members: Vec<Member>,
    folder: PathBuf,
    /// Goes last.
    _temporary: Option<TemporaryFolder>,
}

#[derive(Debug)]
struct Member {
    name: String,
    client: u16,
    arguments: Vec<String>,
    log: PathBuf,
    running: Option<Guarded>,
}

impl Etcd {
    /// Starts a cluster of so many members and returns once each of them knows the leader.
    pub async fn start(members: usize, config: EtcdConfig) -> Result<Self, LabError> {
        let (folder, temporary) = match config.folder {
            Some(folder) => (folder, None),
            None => {
                let temporary = TemporaryFolder::create("etcd")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let ports: Vec<(u16, u16)> = (0..members).map(|_| (free_port(), free_port())).collect();
        let all = ports.iter().enumerate();
        let all: Vec<String> =
            all.map(|(i, (_, peer))| format!("m{i}=http://127.0.0.1:{peer}")).collect();
        let scheme = if config.tls { "https" } else { "http" };
        let member = |(i, (client, peer)): (usize, &(u16, u16))| {
            let name = format!("m{i}");
            let own = folder.join(&name);
            let (client_url, peer_url) =
                (format!("{scheme}://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let mut arguments = Vec::new();
            for (key, value) in [
                ("name", name.as_str()),
                ("data-dir", &own.join("data").display().to_string()),
                ("listen-client-urls", &client_url),
                ("advertise-client-urls", &client_url),
                ("listen-peer-urls", &peer_url),
                ("initial-advertise-peer-urls", &peer_url),
                ("initial-cluster", &all.join(",")),
                ("initial-cluster-token", &folder.display().to_string()),
                ("logger", "zap"),
                ("log-outputs", "stderr"),
            ] {
                arguments.extend([format!("--{key}"), value.to_owned()]);
            }
            arguments.extend(config.arguments.iter().cloned());
            Member { name, client: *client, arguments, log: own.join("log"), running: None }
        };
        let members = ports.iter().enumerate().map(member).collect();
        let mut etcd = Self { program: find()?, members, folder, _temporary: temporary };
        for i in 0..etcd.members.len() {
            etcd.start_member(i)?;
        }
        etcd.wait_for_leader(START_WAIT_MAX).await?;
        Ok(etcd)
    }

    /// Returns where clients reach the members, as `host:port`.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Starts a member, which need not be ready yet when this returns; one that runs is left alone.
    pub fn start_member(&mut self, i: usize) -> Result<(), LabError> {
        let member = &mut self.members[i];
        if member.running.is_none() {
            member.running = Some(member.start(&self.program)?);
        }
        Ok(())
    }

    /// Kills a member with SIGKILL and returns when it is gone.
    pub fn kill_member(&mut self, i: usize) {
        self.members[i].running = None;
    }

    /// Lets a member hang as a stalled machine would: its sockets stay open and say nothing.
    pub fn pause_member(&self, i: usize) {
        self.signal(i, Signal::SIGSTOP);
    }

    pub fn resume_member(&self, i: usize) {
        self.signal(i, Signal::SIGCONT);
    }

    fn signal(&self, i: usize, signal: Signal) {
        if let Some(running) = &self.members[i].running {
            running.signal(signal);
        }
    }

    /// Returns which member leads, as the others see it; `None` while there is none, or while
    /// nobody says so. Without TLS only.
    pub async fn leader(&self) -> Option<usize> {
        let mut seen = Vec::new();
        for (i, member) in self.members.iter().enumerate() {
            if member.running.is_some() {
                seen.push((i, member.leader().await));
            }
        }
        let (_, Some((_, leader))) = seen.iter().find(|(_, leader)| leader.is_some())? else {
            return None;
        };
        seen.iter().find(|(_, of)| of.is_some_and(|(id, _)| id == *leader)).map(|(i, _)| *i)
    }

    /// Waits until every running member knows a leader that runs: one that was killed is not taken for
    /// it by those who have not noticed yet.
    pub async fn wait_for_leader(&mut self, at_most: Duration) -> Result<(), LabError> {
        let deadline = Instant::now() + at_most;
        loop {
            let (mut ids, mut leaders, mut missing) = (Vec::new(), Vec::new(), None);
            for member in self.members.iter_mut().filter(|member| member.running.is_some()) {
                member.check()?;
                if member.speaks_tls() {
                    // Nobody but its clients can ask it: then it is ready when it says so.
                    missing = missing.or((!member.says_it_is_ready()).then_some(&*member));
                    continue;
                }
                match member.leader().await {
                    Some((id, leader)) => {
                        ids.push(id);
                        leaders.push((leader, &*member));
                    }
                    None => missing = Some(&*member),
                }
            }
            let gone = leaders.iter().find(|(leader, _)| !ids.contains(leader));
            let Some(missing) = missing.or(gone.map(|(_, member)| *member)) else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(LabError::NoAnswer {
                    name: missing.name.clone(),
                    seconds: at_most.as_secs(),
                    last: "it knows no leader".to_owned(),
                    log: missing.log_tail(),
                });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Member {
    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client)
    }

    fn start(&self, program: &Path) -> Result<Guarded, LabError> {
        let own = self.log.parent().expect("a file is in a folder");
        std::fs::create_dir_all(own).map_err(LabError::file("make folder", own))?;
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(LabError::file("open log", &self.log))?;
        let mut command = Command::new(program);
        for (key, _) in std::env::vars_os() {
            if key.as_encoded_bytes().starts_with(b"ETCD") {
                command.env_remove(key);
            }
        }
        Guarded::spawn(command.args(&self.arguments).stdout(Stdio::null()).stderr(log))
    }

    /// Refuses a member that ended by itself, with the end of its log.
    fn check(&mut self) -> Result<(), LabError> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let Some(status) = running.ended() else { return Ok(()) };
        let (name, status, log) = (self.name.clone(), status.to_string(), self.log_tail());
        Err(LabError::EndedAtStart { name, status, log })
    }

    fn speaks_tls(&self) -> bool {
        self.arguments.iter().any(|argument| argument.starts_with("https://"))
    }

    fn says_it_is_ready(&self) -> bool {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.contains("ready to serve client requests")
            || log.contains("serving client traffic securely")
    }

    /// Returns this member's number and its leader's, if it knows one.
    async fn leader(&self) -> Option<(u64, u64)> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.endpoint())).ok()?;
        let ask = async {
            let mut client = MaintenanceClient::connect(endpoint).await.ok()?;
            Some(client.status(proto::StatusRequest {}).await.ok()?.into_inner())
        };
        let status = timeout(ANSWER_WAIT_MAX, ask).await.ok()??;
        (status.leader != 0).then_some((status.header?.member_id, status.leader))
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

/// Finds etcd: `DOMICILE_ETCD` names the program, else it is on the PATH.
fn find() -> Result<PathBuf, LabError> {
    if let Some(program) = std::env::var_os("DOMICILE_ETCD") {
        let program = PathBuf::from(program);
        return match program.exists() {
            true => Ok(program),
            false => Err(LabError::NoEtcd { looked_at: program.display().to_string() }),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = [PathBuf::from("/usr/bin"), PathBuf::from("/opt/homebrew/bin")];
    let mut folders = std::env::split_paths(&path).chain(usual);
    let found = folders.find_map(|folder| {
        let program = folder.join(OsStr::new("etcd"));
        program.is_file().then_some(program)
    });
    found.ok_or_else(|| LabError::NoEtcd { looked_at: "PATH".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_killed_leader_is_succeeded_and_comes_back() {
        let mut etcd = Etcd::start(3, EtcdConfig::default()).await.unwrap();
        let leader = etcd.leader().await.unwrap();
        etcd.kill_member(leader);
        let deadline = Instant::now() + START_WAIT_MAX;
        let next = loop {
            match etcd.leader().await {
                Some(next) => break next,
                None => assert!(Instant::now() < deadline, "nobody leads"),
            }
        };
        assert_ne!(next, leader);
        etcd.start_member(leader).unwrap();
        etcd.wait_for_leader(START_WAIT_MAX).await.unwrap();
        let folder = etcd.folder().to_owned();
        drop(etcd);
        assert!(!folder.exists());
    }
}
