//! How does one get a disk that is small enough to be full?
//!
//! A file system in memory that no other process sees. A shell of ours mounts it in namespaces of
//! its own, which need no rights beforehand, and stands in it: everybody who runs as the same user
//! gets there through the shell's entry in `/proc`. It reads what to do from a pipe, so the kernel
//! ends it when we are gone, and the disk with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{Account, LabError};

/// Mounts where everybody has a folder: nobody else sees it.
const SCRIPT: &str = r#"
mount -t tmpfs -o size="$1",mode=0700 tmpfs /tmp && cd /tmp && echo done || exit
while read -r what; do
    case $what in
        fill) cat /dev/zero >>filler 2>&- ;;
        free) rm -f filler ;;
    esac
    echo done
done"#;

/// A disk that can be filled; what is on it goes when it is dropped.
#[derive(Debug)]
pub struct Disk {
    holder: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Disk {
    /// Makes one for programs that run as we do.
    pub fn make(bytes: u64) -> Result<Self, LabError> {
        Self::make_for(&Account::Ours, bytes)
    }

    /// Says why none can be made on this machine, if so.
    pub fn try_out() -> Result<(), LabError> {
        Self::make(1 << 20)?;
        Self::make_for(&Account::choose()?, 1 << 20).map(drop)
    }

    pub(super) fn make_for(account: &Account, bytes: u64) -> Result<Self, LabError> {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "disk"]);
        command.arg(bytes.to_string()).current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        account.apply(&mut command);
        let refuse = |said: String| LabError::NoDisk { said };
        let mut holder = command.spawn().map_err(|error| refuse(format!("unshare: {error}")))?;
        let pipes = (holder.stdin.take(), holder.stdout.take(), holder.stderr.take());
        let (Some(orders), Some(answers), Some(mut complaints)) = pipes else {
            unreachable!("all three are piped");
        };
        let mut disk = Self { holder, orders, answers: BufReader::new(answers) };
        if disk.answer().is_err() {
            let mut said = String::new();
            let _ = complaints.read_to_string(&mut said);
            return Err(refuse(said.trim().to_owned()));
        }
        Ok(disk)
    }

    /// Returns where it is found, by programs of the user that it was made for.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/cwd", self.holder.id()))
    }

    /// Leaves no room at all. Files may be written where they have their place already.
    pub fn fill(&mut self) -> Result<(), LabError> {
        self.order("fill")
    }

    pub fn free(&mut self) -> Result<(), LabError> {
        self.order("free")
    }

    fn order(&mut self, what: &str) -> Result<(), LabError> {
        let written = writeln!(self.orders, "{what}");
        written.and_then(|()| self.answer()).map_err(LabError::file("change disk", &self.path()))
    }

    fn answer(&mut self) -> std::io::Result<()> {
        let mut line = String::new();
        match self.answers.read_line(&mut line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_freed_and_goes_with_its_owner() {
        let mut disk = match Disk::make(1 << 20) {
            Ok(disk) => disk,
            Err(error) => return println!("not tried: {error}"),
        };
        let file = disk.path().join("kept");
        std::fs::write(&file, [1; 4096]).unwrap();
        for more in ["once", "twice"] {
            let more = disk.path().join(more);
            disk.fill().unwrap();
            let refused = std::fs::write(&more, [1; 4096]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::StorageFull);
            disk.free().unwrap();
            std::fs::write(&more, [1; 4096]).unwrap();
        }
        assert_eq!(std::fs::read(&file).unwrap(), [1; 4096]);
        drop(disk);
        assert!(!file.exists());
    }
}
