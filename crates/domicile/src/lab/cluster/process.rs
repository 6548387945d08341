//! How does a postmaster end together with everything it started?
//!
//! Killing its process group is not enough: every backend makes itself the leader of a session of
//! its own. And a postmaster that is killed first leaves backends behind for a moment, which keep
//! the shared memory in use, so that a restart is refused. Therefore: stop the postmaster (it can
//! then neither fork nor reap, so no process id can change its meaning), kill what descends from
//! it, kill it, and return only when all of them are gone.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for killed processes to go; only a stuck disk takes more than milliseconds.
const GONE_WAIT_MAX: Duration = Duration::from_secs(20);
/// Longest wait for a stopped postmaster to stand still.
const STILL_WAIT_MAX: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// One line of the system's process table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    /// `Z` for one that ended and was not collected, `T` for a stopped one.
    state: char,
}

/// A process that ends, with all that descends from it, when nobody waits for it any more.
#[derive(Debug)]
pub(super) struct KilledOnDrop(pub(super) Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        kill_tree(&mut self.0);
    }
}

/// Sends a signal to the process itself; that it is gone already is no error.
pub(super) fn signal(child: &Child, signal: Signal) {
    let _ = kill(pid_of(child), signal);
}

/// Kills the process and everything that descends from it, and waits until they are gone.
pub(super) fn kill_tree(child: &mut Child) {
    if let Ok(Some(_)) = child.try_wait() {
        return;
    }
    let killed = kill_from(pid_of(child));
    let _ = child.wait();
    wait_until_gone(&killed);
}

/// Does so with the server whose data is in this folder, which somebody else has started.
pub fn kill_server(data: &Path) {
    let file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let Some(Ok(postmaster)) = file.lines().next().map(str::parse::<i32>) else { return };
    wait_until_gone(&kill_from(Pid::from_raw(postmaster)));
}

/// Kills the process and everything that descends from it, and returns which these were.
fn kill_from(root: Pid) -> Vec<i32> {
    let _ = kill(root, Signal::SIGSTOP);
    wait_until(STILL_WAIT_MAX, || {
        let state = process_table().iter().find(|process| process.pid == root.as_raw()).copied();
        state.is_none_or(|process| matches!(process.state, 'T' | 'Z'))
    });
    let mut all = descendants(&process_table(), root.as_raw());
    all.push(root.as_raw());
    for pid in &all {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    all
}

fn wait_until_gone(killed: &[i32]) {
    let gone = wait_until(GONE_WAIT_MAX, || {
        // One that ended but is not collected (a container without an init) holds nothing.
        !process_table().iter().any(|process| killed.contains(&process.pid) && process.state != 'Z')
    });
    if !gone {
        tracing::warn!(postmaster = killed.last(), "killed processes are still there");
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("process ids fit pid_t"))
}

fn wait_until(at_most: Duration, done: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + at_most;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn descendants(table: &[Process], root: i32) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(table.iter().filter(|process| process.parent == parent).map(|p| p.pid));
        next += 1;
    }
    found.split_off(1)
}

/// Stops the process and everything that descends from it, as a machine that hangs would.
pub(super) fn pause_tree(child: &Child) {
    let root = pid_of(child).as_raw();
    // The root first: what it was just starting is found in the next look.
    wait_until(STILL_WAIT_MAX, || {
        let table = process_table();
        let all = [vec![root], descendants(&table, root)].concat();
        for pid in &all {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGSTOP);
        }
        let mut found = table.iter().filter(|process| all.contains(&process.pid));
        found.all(|process| matches!(process.state, 'T' | 'Z'))
    });
}

/// Lets everything that was stopped go on, the process itself last.
pub(super) fn resume_tree(child: &Child) {
    for pid in descendants(&process_table(), pid_of(child).as_raw()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
    signal(child, Signal::SIGCONT);
}

#[cfg(target_os = "linux")]
fn process_table() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .filter_map(|stat| parse_stat(&stat))
        .collect()
}

/// Reads `pid (name) state parent ...`, where the name may itself hold spaces and brackets.
#[cfg(target_os = "linux")]
fn parse_stat(stat: &str) -> Option<Process> {
    let (before, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace();
    Some(Process {
        pid: before.split_once(' ')?.0.parse().ok()?,
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
    })
}

#[cfg(not(target_os = "linux"))]
fn process_table() -> Vec<Process> {
    let output = std::process::Command::new("ps").args(["-A", "-o", "pid=,ppid=,state="]).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some(Process {
                pid: fields.next()?.parse().ok()?,
                parent: fields.next()?.parse().ok()?,
                state: fields.next()?.chars().next()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_at_every_depth_and_nobody_elses() {
        let line = |pid, parent| Process { pid, parent, state: 'S' };
        let table = [line(30, 20), line(20, 10), line(21, 10), line(10, 1), line(99, 1)];
        assert_eq!(descendants(&table, 10), [20, 21, 30]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_name_with_brackets_does_not_confuse_the_process_table() {
        let process = parse_stat("42 (a) S 7) Z 9 42 42 0 -1").unwrap();
        assert_eq!(process, Process { pid: 42, parent: 9, state: 'Z' });
    }

    // macOS has no setsid program.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_tree_of_processes_in_sessions_of_their_own_ends_as_one() {
        // The inner sleeps leave the process group; setsid is what a backend calls.
        let script = "setsid sleep 600 & sleep 600 & echo ready; wait";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let below = descendants(&process_table(), pid_of(&child).as_raw());
        assert_eq!(below.len(), 2);
        kill_tree(&mut child);
        let alive: Vec<Process> = process_table()
            .into_iter()
            .filter(|process| below.contains(&process.pid) && process.state != 'Z')
            .collect();
        assert_eq!(alive, []);
    }
}
