//! How does a small file change so that a crash leaves the old content or the new?

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

/// Replaces the whole content of `path`, durably. What is written first lies beside it as `.new`.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
