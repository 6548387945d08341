//! Which origins does this region hold a log of?
//!
//! Every region keeps the log of every origin, each in its own folder `<data>/log/<origin>/`, so
//! that a survivor can hand a lost region's last records to another survivor. A log knows LSNs and
//! opaque payloads; what a payload means is `domicile_core::record`'s business. What is too large
//! for memory stands beside the segments, in parts.
//!
//! ```text
//!   Log (handle) ──command──> writer (one thread) ──> segments, mark
//!     │  │                       │ publishes what is flushed
//!     │  └── Reader <── extents ─┘
//!     └── Spool ── parts, then a command ──> <lsn>.parts
//! ```
//!
//! **Invariant:** only the writer's thread changes files, and a reader never sees a byte that is
//! not flushed.

mod append;
mod error;
mod extent;
mod frame;
mod handle;
mod judge;
mod mark;
mod parts;
mod reader;
mod recent;
mod room;
mod segment;
mod shorten;
mod spool;
mod standing;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domicile_core::frame::Compression;
use domicile_core::id::Origin;

pub use error::LogError;
pub use frame::{Frame, Record};
pub use handle::{LOG_SEGMENT_BYTES, Log, LogConfig, LogState, Opened};
pub use parts::PartReader;
pub use reader::{AtHand, Reader};
pub use room::Room;
pub use spool::{Spool, Spooled};
pub use standing::Standing;

use error::io;

/// The logs of all origins that this region knows. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    segment_bytes: u64,
    room: Room,
    compression: Compression,
    logs: Mutex<BTreeMap<Origin, Log>>,
}

impl Logs {
    /// Opens the log of every origin that has a folder in `<data>/log/`, reading all of them.
    ///
    /// A folder whose name is not an origin is left alone.
    pub fn open(
        data: &Path,
        segment_bytes: u64,
    ) -> Result<(Self, Vec<(Origin, Opened)>), LogError> {
        Self::open_in(data, segment_bytes, Room::unlimited(), Compression::None)
    }

    /// Does the same with logs that share `room` and pack what is appended to them so.
    pub fn open_in(
        data: &Path,
        segment_bytes: u64,
        room: Room,
        compression: Compression,
    ) -> Result<(Self, Vec<(Origin, Opened)>), LogError> {
        let folder = data.join("log");
        fs::create_dir_all(&folder).map_err(io("create folder", &folder))?;
        segment::sync_folder(data)?;
        let (mut logs, mut found) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(&folder).map_err(io("list folder", &folder))? {
            let entry = entry.map_err(io("list folder", &folder))?;
            let name = entry.file_name();
            let Some(origin) = name.to_str().and_then(|name| name.parse::<Origin>().ok()) else {
                continue;
            };
            let (folder, room) = (entry.path(), room.clone());
            let config = LogConfig { segment_bytes, room, compression, ..LogConfig::new(folder) };
            let (log, opened) = Log::open(config)?;
            logs.insert(origin.clone(), log);
            found.push((origin, opened));
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let shared = Shared { folder, segment_bytes, room, compression, logs: Mutex::new(logs) };
        Ok((Self { shared: Arc::new(shared) }, found))
    }

    pub fn get(&self, origin: &Origin) -> Option<Log> {
        self.lock().get(origin).cloned()
    }

    /// Returns the log of `origin`, which is made durably empty when there was none.
    ///
    /// Blocks for a few file operations when it has to be made, which happens once per origin.
    pub fn get_or_create(&self, origin: &Origin) -> Result<Log, LogError> {
        let mut logs = self.lock();
        if let Some(log) = logs.get(origin) {
            return Ok(log.clone());
        }
        let folder = self.shared.folder.join(origin.to_string());
        let (segment_bytes, room) = (self.shared.segment_bytes, self.shared.room.clone());
        let compression = self.shared.compression;
        let config = LogConfig { segment_bytes, room, compression, ..LogConfig::new(folder) };
        let (log, _) = Log::open(config)?;
        logs.insert(origin.clone(), log.clone());
        Ok(log)
    }

    /// Returns what all logs take together.
    pub fn room(&self) -> &Room {
        &self.shared.room
    }

    /// Returns every log, ordered by origin.
    pub fn all(&self) -> Vec<(Origin, Log)> {
        self.lock().iter().map(|(origin, log)| (origin.clone(), log.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Origin, Log>> {
        self.shared.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
