//! How is something that stands in files read again when they change?

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

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
    /// When each file was changed last; `None` where it is not there.
    stamps: Vec<Option<SystemTime>>,
    held: T,
    /// Why the files as they are now cannot be used.
    fault: Option<String>,
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
        let mut state = self.lock();
        let stamps = stamps(&self.paths);
        if stamps != state.stamps {
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

fn stamps(paths: &[String]) -> Vec<Option<SystemTime>> {
    let changed = |path: &String| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    paths.iter().map(changed).collect()
}
