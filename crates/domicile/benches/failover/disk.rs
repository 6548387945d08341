//! What did the disk take for a flush meanwhile?
//!
//! A hand-over stands in the directory before it goes on, several times, and each time the disk is waited for.
//! Where that is shared with others, the longest waits are the disk's.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use tempfile::NamedTempFile;
use tokio::time::Instant;

/// As long as a page of PostgreSQL's.
const BLOCK: [u8; 8192] = [0; 8192];
/// Often enough to meet what a hand-over meets, and seldom enough not to be what it waits for.
const EVERY: Duration = Duration::from_millis(10);

/// Flushes a file of its own, where the servers have theirs, until it is dropped.
pub struct Disk {
    flushes: Arc<Mutex<Vec<(Instant, Duration)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    pub fn watch() -> anyhow::Result<Self> {
        let mut file = NamedTempFile::new().context("make a file to flush")?;
        file.write_all(&BLOCK)?;
        let (flushes, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (noted, stopped) = (flushes.clone(), stop.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                let flushed = file
                    .as_file()
                    .write_all_at(&BLOCK, 0)
                    .and_then(|()| file.as_file().sync_data());
                if flushed.is_ok() {
                    let took = began.elapsed();
                    noted.lock().unwrap_or_else(PoisonError::into_inner).push((began, took));
                }
                thread::sleep(EVERY);
            }
        });
        Ok(Self { flushes, stop, thread: Some(thread) })
    }

    /// The longest one that was under way at any time between these two.
    pub fn slowest(&self, from: Instant, to: Instant) -> Duration {
        let flushes = self.flushes.lock().unwrap_or_else(PoisonError::into_inner);
        let meanwhile = flushes.iter().filter(|(began, took)| *began < to && *began + *took > from);
        meanwhile.map(|(_, took)| *took).max().unwrap_or_default()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}
