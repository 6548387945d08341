//! How does a program of the operator run for a step of a run, and what does it say?
//!
//! Only programs of the folder that the configuration names: a runbook names one without its path.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use domicile_core::runbook::Answer;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

/// Of what it prints, the end is kept: a run's journal stands in the directory.
const SAID_BYTES_MAX: usize = 1000;

/// Runs a program to its end, or kills it and what it has started, and returns what its end means and what
/// to write down about it.
pub async fn run(
    folder: Option<&Path>,
    program: &str,
    environment: &[(&str, String)],
    within: Duration,
) -> (Answer, String) {
    let Some(folder) = folder else {
        return (Answer::Failed, "has not run: runbook.programs names no folder".to_owned());
    };
    let mut command = Command::new(folder.join(program));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(environment.iter().map(|(name, value)| (*name, value.as_str())));
    // A group of its own, to be killed as a whole.
    let mut child = match command.process_group(0).kill_on_drop(true).spawn() {
        Ok(child) => child,
        Err(error) => return (Answer::Failed, format!("has not run: {error}")),
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let whole = async { tokio::join!(child.wait(), end_of(out), end_of(err)) };
    match timeout(within, whole).await {
        Ok((Ok(status), out, err)) => {
            let answer = if status.success() { Answer::Passed } else { Answer::Failed };
            (answer, format!("{status}{}", told(&[out, err].concat())))
        }
        Ok((Err(error), ..)) => (Answer::Failed, format!("is lost: {error}")),
        Err(_) => {
            let _ = group.map(|group| killpg(group, Signal::SIGKILL));
            (Answer::Failed, format!("took longer than {within:?}, and was killed"))
        }
    }
}

async fn end_of(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let (mut end, mut piece) = (Vec::new(), [0; 4096]);
    let Some(mut stream) = stream else { return end };
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        end.extend_from_slice(&piece[..length]);
        let over = end.len().saturating_sub(SAID_BYTES_MAX);
        end.drain(..over);
    }
    end
}

fn told(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    if said.trim().is_empty() { String::new() } else { format!(": {}", said.trim()) }
}
