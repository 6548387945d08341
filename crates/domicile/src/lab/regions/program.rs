//! How does one Domicile process of the lab start, stop and never outlive us?
//!
//! Invariant: the process ends with its [`Program`]. If we are killed with SIGKILL nothing of ours
//! runs any more, so the process watches its standard input, which the kernel closes then.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::error::{RegionsError, log_tail};

/// One process of our own binary, with its log in a file.
#[derive(Debug)]
pub(super) struct Program {
    /// As in `agent of region "eu"`.
    name: String,
    binary: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    /// Standard input stays open in here for as long as the process may live.
    child: Option<Child>,
}

impl Program {
    pub(super) fn new(name: String, binary: &Path, arguments: Vec<String>, log: PathBuf) -> Self {
        Self {
            name,
            binary: binary.to_owned(),
            arguments,
            environment: Vec::new(),
            log,
            child: None,
        }
    }

    pub(super) fn with_environment(mut self, environment: Vec<(String, String)>) -> Self {
        self.environment = environment;
        self
    }

    /// Starts the process; one that runs already is left alone.
    pub(super) fn start(&mut self) -> Result<(), RegionsError> {
        if self.ended().is_none() && self.child.is_some() {
            return Ok(());
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(RegionsError::file("open log", &self.log))?;
        // A group of its own: Ctrl-C is for us, we stop our processes in our own order.
        let child = Command::new(&self.binary)
            .args(&self.arguments)
            .arg("--exit-with-stdin")
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|source| RegionsError::Spawn {
                name: self.name.clone(),
                program: self.binary.clone(),
                source,
            })?;
        self.child = Some(child);
        Ok(())
    }

    /// Kills the process with SIGKILL and returns when it is gone.
    pub(super) fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = killpg(pid_of(&child), Signal::SIGKILL);
        let _ = child.wait();
    }

    /// Stops the process as a hung machine would; it runs on after [`Self::resume`].
    pub(super) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(super) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            let _ = kill(pid_of(child), signal);
        }
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Returns how the process ended, if it ended by itself.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Refuses a process that ended by itself, with the end of its log.
    pub(super) fn check(&mut self) -> Result<(), RegionsError> {
        let Some(status) = self.ended() else { return Ok(()) };
        let (name, status) = (self.name.clone(), status.to_string());
        Err(RegionsError::Ended { name, status, log: log_tail(&self.log) })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("process ids fit pid_t"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path, script: &str) -> Program {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        Program::new("sh".to_owned(), Path::new("/bin/sh"), arguments, folder.join("log"))
    }

    #[test]
    fn a_killed_program_is_gone_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let mut program = shell(folder.path(), "sleep 600 & wait");
        program.start().unwrap();
        let group = Pid::from_raw(i32::try_from(program.pid().unwrap()).unwrap());
        assert!(killpg(group, None).is_ok());
        program.kill();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // The orphan is collected by init; only a container without one keeps it as a zombie.
        while killpg(group, None).is_ok() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(program.pid().is_none());
    }

    #[test]
    fn a_program_that_ends_by_itself_is_reported_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut program = shell(folder.path(), "echo no such region >&2; exit 3");
        program.start().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while program.ended().is_none() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let error = program.check().unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("no such region"), "{error}");
    }
}
