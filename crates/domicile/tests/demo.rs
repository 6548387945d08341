//! Does the demo keep its promises as a person starts it, and leave nothing behind?

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const STORY_WAIT_MAX: Duration = Duration::from_secs(300);
const STOP_WAIT_MAX: Duration = Duration::from_secs(60);

/// One world at a time: each has a dozen busy processes, and bounds are on time.
static MACHINE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Temporary folders go below `folder`, so that what stays behind can be seen.
fn demo(folder: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_domicile"))
        .args(["demo", "--ci"])
        .args(arguments)
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// A folder that the user PostgreSQL runs as may enter, too.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    folder
}

fn wait(child: &mut Child, at_most: Duration) -> std::process::ExitStatus {
    let deadline = Instant::now() + at_most;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = kill(pid(child), Signal::SIGINT);
    let _ = child.wait();
    panic!("the demo did not end within {} s", at_most.as_secs());
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

fn assert_nothing_stays(folder: &Path) {
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "a folder stays");
    let name = folder.display().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mine = entries.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&name)
    });
    assert_eq!(mine.count(), 0, "a process stays");
}

fn told(arguments: &[&str]) -> serde_json::Value {
    let _alone = alone();
    let (folder, report) = (folder(), tempfile::NamedTempFile::new().unwrap());
    let file = report.path().display().to_string();
    let arguments = [arguments, &["--report", &file]].concat();
    let status = wait(&mut demo(folder.path(), &arguments), STORY_WAIT_MAX);
    let report = std::fs::read_to_string(report.path()).unwrap();
    assert!(status.success(), "{report}");
    assert_nothing_stays(folder.path());
    serde_json::from_str(&report).unwrap()
}

#[test]
fn an_active_passive_world_loses_nothing_that_was_acknowledged() {
    let report = told(&["--pattern", "active-passive"]);
    assert_eq!(report["lost_acknowledged"], 0);
    assert_eq!(report["switchover"]["client_errors"], 0);
    assert!(report["failover"]["rto_ms"].is_u64());
}

#[test]
fn without_an_rpo_what_was_lost_is_in_the_journal_and_its_rows_are_repaired() {
    let report = told(&["--rpo", "none"]);
    assert!(report["lost_acknowledged"].as_u64() > Some(0), "the links were cut for a second");
    assert_eq!(report["lost_acknowledged"], report["journaled"]);
    assert!(report["rejoin"]["repaired"].as_u64() > Some(0));
    assert_eq!(report["checksums_equal"], true);
}

#[test]
fn a_signal_ends_the_demo_at_any_point_without_a_trace() {
    let _alone = alone();
    for (signal, after) in [(Signal::SIGINT, 500), (Signal::SIGTERM, 3000), (Signal::SIGHUP, 9000)]
    {
        let folder = folder();
        let mut child = demo(folder.path(), &[]);
        std::thread::sleep(Duration::from_millis(after));
        kill(pid(&child), signal).unwrap();
        let status = wait(&mut child, STOP_WAIT_MAX);
        assert_eq!(status.code(), Some(1), "{signal} is no success");
        assert_nothing_stays(folder.path());
    }
}
