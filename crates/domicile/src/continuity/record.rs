//! What do we remember of the slot, and of whose region it is, and where does it stand on the disk?
//!
//! One frame (see `core::frame`) in `<data>/slot`, overwritten in place: its position is how far we
//! have read, its payload the rest as JSON. It fits a sector, which a disk writes whole or not at
//! all. Should that ever fail, the checksum shows it, and only what our log proves counts.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use domicile_core::continuity::Known;
use domicile_core::frame::{self, Taken};
use domicile_core::id::RegionId;
use domicile_core::lsn::Lsn;
use serde::{Deserialize, Serialize};

const FILE: &str = "slot";
/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Serialize, Deserialize)]
struct Document {
    incarnation: u32,
    system: u64,
    timeline: u32,
    slot: String,
    behind: Option<u64>,
    /// Absent where an older version wrote it.
    #[serde(default)]
    region: Option<String>,
}

/// What a region's agent remembers, in a folder that is no other region's.
pub struct Record {
    path: PathBuf,
    file: File,
    region: RegionId,
    known: Option<Known>,
}

impl Record {
    /// Fails where the folder is another region's: its logs are that one's history.
    pub fn open(data: &Path, region: &RegionId) -> anyhow::Result<Self> {
        std::fs::create_dir_all(data).with_context(|| format!("make {}", data.display()))?;
        let path = data.join(FILE);
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| format!("open {}", path.display()))?;
        let folder = File::open(data).and_then(|folder| folder.sync_all());
        folder.with_context(|| format!("flush {}", data.display()))?;
        let mut bytes = [0; SECTOR_BYTES];
        let len = file.read_at(&mut bytes, 0);
        let len = len.with_context(|| format!("read {}", path.display()))?;
        let (known, of) = lift(&bytes[..len]).unzip();
        if known.is_none() && len > 0 {
            tracing::warn!(path = %path.display(), "what was remembered of the slot is damaged");
        }
        if let Some(other) = of.flatten().filter(|other| other != region.as_str()) {
            bail!(
                "{} is region {other}'s, and a region's name cannot change: call it {other} again in every \
                 domicile.toml, or give {region} a folder and a database of its own and add it \
                 (domicile region add {region})",
                data.display()
            );
        }
        Ok(Self { path, file, region: region.clone(), known })
    }

    pub(super) fn known(&self) -> Option<&Known> {
        self.known.as_ref()
    }

    /// Remembers `known`, durably.
    pub(super) fn write(&mut self, known: Known) -> anyhow::Result<()> {
        let Known { incarnation, system, timeline, slot, read, behind } = known.clone();
        let behind = behind.map(|lsn| lsn.0);
        let region = Some(self.region.to_string());
        let document = Document { incarnation, system, timeline, slot, behind, region };
        let document = serde_json::to_vec(&document)?;
        let mut bytes = Vec::with_capacity(SECTOR_BYTES);
        frame::append(&mut bytes, read, &document);
        ensure!(bytes.len() <= SECTOR_BYTES, "what is remembered of the slot fits a sector");
        let written = self.file.write_all_at(&bytes, 0).and_then(|()| self.file.sync_data());
        written.with_context(|| format!("write {}", self.path.display()))?;
        self.known = Some(known);
        Ok(())
    }
}

/// Returns also whose it is.
fn lift(bytes: &[u8]) -> Option<(Known, Option<String>)> {
    let Taken::Whole { lsn: read, payload, parts: None, .. } = frame::take(bytes) else {
        return None;
    };
    let document: Document = serde_json::from_slice(payload).ok()?;
    let Document { incarnation, system, timeline, slot, behind, region } = document;
    Some((Known { incarnation, system, timeline, slot, read, behind: behind.map(Lsn) }, region))
}

#[cfg(test)]
mod tests {
    use domicile_core::id::REGION_NAME_BYTES_MAX;

    use super::*;

    fn open(data: &Path) -> anyhow::Result<Record> {
        Record::open(data, &"r".repeat(REGION_NAME_BYTES_MAX).parse()?)
    }

    #[test]
    fn what_is_remembered_is_there_again_and_damage_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let known = Known {
            incarnation: u32::MAX,
            system: u64::MAX,
            timeline: u32::MAX,
            slot: "s".repeat(63),
            read: Lsn(9),
            behind: Some(Lsn(u64::MAX)),
        };
        let mut record = open(folder.path()).unwrap();
        assert_eq!(record.known(), None);
        record.write(known.clone()).unwrap();
        let shorter = Known { slot: "s".to_owned(), read: Lsn(10), ..known.clone() };
        record.write(shorter.clone()).unwrap();
        assert_eq!(open(folder.path()).unwrap().known(), Some(&shorter));

        let other = Record::open(folder.path(), &"us".parse().unwrap()).err().unwrap();
        assert!(other.to_string().contains("a region's name cannot change"), "{other}");

        record.file.write_all_at(&[0xff], 20).unwrap();
        assert_eq!(open(folder.path()).unwrap().known(), None);
    }
}
