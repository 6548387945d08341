//! How does a program that knows nothing of us end when we do?
//!
//! A shell of ours reads from a pipe whose other end only we hold: the kernel closes it when we are
//! gone, however that happened, and the shell kills the program.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cluster::LabError;

const GUARDIAN: &str = r#"while read -r _; do :; done; kill -KILL "$1""#;

/// A process that is killed when this is dropped, and when we are. The guardian goes before the
/// process whose number it knows.
#[derive(Debug)]
pub struct Guarded {
    guardian: Child,
    process: Child,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        for child in [&mut self.guardian, &mut self.process] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Guarded {
    /// Starts a program, in a group of its own: Ctrl-C is for us, who stop processes in our own
    /// order.
    pub fn spawn(command: &mut Command) -> Result<Self, LabError> {
        let mut process = start(command.stdin(Stdio::null()))?;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", GUARDIAN, "guardian", &process.id().to_string()]);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        match start(&mut shell) {
            Ok(guardian) => Ok(Self { guardian, process }),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).expect("process ids fit pid_t");
        let _ = kill(Pid::from_raw(pid), signal);
    }

    /// Returns how it ended, if it did so by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }
}

fn start(command: &mut Command) -> Result<Child, LabError> {
    let program = PathBuf::from(command.get_program());
    command
        .current_dir(Path::new("/"))
        .process_group(0)
        .spawn()
        .map_err(|source| LabError::Spawn { program, source })
}
