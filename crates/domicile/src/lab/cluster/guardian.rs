//! What ends a cluster when we are killed and can end nothing any more?
//!
//! PostgreSQL does not look after its parent. So a shell of ours reads from a pipe whose other end
//! only we hold: the kernel closes it when we are gone, however that happened, and the shell stops
//! the server. It asks the server's own file for the process id, which a server that has ended
//! takes away.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const SCRIPT: &str =
    r#"while read -r _; do :; done; read -r pid < "$1/postmaster.pid" && kill -QUIT "$pid""#;

/// Watches over one running cluster until it is dropped.
#[derive(Debug)]
pub struct Guardian(pub(super) Child);

impl Guardian {
    /// Of a server whose data is there.
    pub fn watch(data: &Path) -> std::io::Result<Self> {
        Command::new("/bin/sh")
            .args(["-c", SCRIPT, "guardian"])
            .arg(data)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Self)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // Before its pipe is closed, so it does nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
