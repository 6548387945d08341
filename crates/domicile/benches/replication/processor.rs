//! How much processor time have a server and an agent used so far?
//!
//! As Linux counts it: of every process that lives, and of those of a server that ended. A
//! postmaster waits for its children, so theirs is counted with its own.

use anyhow::Context;

/// Linux tells programs so many ticks a second, whatever its own are.
const TICKS_PER_SECOND: f64 = 100.0;

/// What one line of `/proc/PID/stat` says.
struct Process {
    parent: u32,
    own_ticks: u64,
    /// Of children that ended.
    childrens_ticks: u64,
}

/// Of a server with all its processes, in seconds. Asked while sessions neither begin nor end.
pub fn server_s(postmaster: u32) -> anyhow::Result<f64> {
    let server = read(postmaster).context("look at a postmaster")?;
    let mut ticks = server.own_ticks + server.childrens_ticks;
    for entry in std::fs::read_dir("/proc").context("list processes")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended meanwhile is not of interest.
        if let Some(process) = read(pid).filter(|process| process.parent == postmaster) {
            ticks += process.own_ticks;
        }
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// Of one process, in seconds.
pub fn process_s(pid: u32) -> anyhow::Result<f64> {
    let process = read(pid).context("look at an agent")?;
    Ok((process.own_ticks + process.childrens_ticks) as f64 / TICKS_PER_SECOND)
}

/// Reads `pid (name) state parent ...`, where the name may itself hold spaces and brackets.
fn read(pid: u32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Process {
        parent: u32::try_from(number(1)?).ok()?,
        own_ticks: number(11)? + number(12)?,
        childrens_ticks: number(13)? + number(14)?,
    })
}
