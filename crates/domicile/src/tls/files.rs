//! How is something that stands in files read again when they change?

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;

/// What ends some day, or may.
pub trait Ends {
    fn ends(&self) -> Option<OffsetDateTime>;
}

/// What files hold that belong together.
///
/// **Invariant:** new files are taken up at the next look, and those that do not go together, or cannot
/// be read, never take the place of those that do.
pub struct Files<T> {
    paths: Vec<String>,
    read: Box<dyn Fn() -> anyhow::Result<T> + Send + Sync>,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// `None` where a file is not there.
    stamps: Vec<Option<Stamp>>,
    held: T,
    /// Why the files as they are now cannot be used.
    fault: Option<String>,
}

/// What is different about a file that has changed. Its time alone may be kept from the one that it replaces.
#[derive(PartialEq)]
struct Stamp {
    place: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl<T: Clone + Ends> Files<T> {
    /// `read` reads the files of these `paths`.
    pub fn read(
        paths: Vec<String>,
        read: impl Fn() -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        // Before they are read: what changes meanwhile is read again.
        let stamps = stamps(&paths);
        let held = read()?;
        let state = Mutex::new(State { stamps, held, fault: None });
        Ok(Self { paths, read: Box::new(read), state })
    }

    /// Returns what holds now, and why the newest files do not.
    pub fn current(&self) -> (T, Option<String>) {
        self.look(|_| false)
    }

    /// The same; files that could not be used are read once more, though they have not changed: it may have been for
    /// want of a file descriptor, or in the middle of a change.
    pub fn tried_again(&self) -> (T, Option<String>) {
        self.look(|state| state.fault.is_some())
    }

    fn look(&self, anew: impl FnOnce(&State<T>) -> bool) -> (T, Option<String>) {
        let mut state = self.lock();
        let stamps = stamps(&self.paths);
        if stamps != state.stamps || anew(&state) {
            state.stamps = stamps;
            match (self.read)() {
                Ok(held) => {
                    tracing::info!(ends = ?held.ends(), files = ?self.paths, "new certificates hold from now on");
                    (state.held, state.fault) = (held, None);
                }
                Err(error) => state.fault = Some(format!("{error:#}")),
            }
        }
        (state.held.clone(), state.fault.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Every change leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> std::fmt::Debug for Files<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("paths", &self.paths).finish_non_exhaustive()
    }
}

fn stamps(paths: &[String]) -> Vec<Option<Stamp>> {
    let stamp = |path: &String| std::fs::metadata(path).ok().as_ref().map(Stamp::of);
    paths.iter().map(stamp).collect()
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            place: (file.dev(), file.ino()),
            size: file.size(),
            written: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}
