//! Is this the folder in which the witness has held logs before?
//!
//! What it holds may be all that there is of a commit. With an empty folder in place of that one it would seal
//! that it holds nothing, and a failover would end the lost region's history too early. So the directory knows
//! the folder by a name, and another one is refused until the witness is taken out, which asks the others first.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use domicile_core::id::RegionId;

use crate::complain::Complaint;
use crate::directory::documents::{WitnessDocument, json, witness_key};
use crate::directory::{Client, Written};
use crate::files;

const FILE: &str = "witness.json";
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Returns once the directory has agreed that `data` is the folder of `witness`; waits for the directory.
pub async fn claim(data: &Path, directory: &Client, witness: &RegionId) -> anyhow::Result<()> {
    let (path, mut complaint) = (data.join(FILE), Complaint::default());
    let mut ours = read(&path)?;
    let key = witness_key(witness);
    loop {
        let asked = directory.get(&key).await;
        let known = match asked {
            Ok(known) => known,
            Err(error) => {
                complaint.warn("it is not known yet whose folder this is", &error.into());
                tokio::time::sleep(RETRY_AFTER).await;
                continue;
            }
        };
        let known = known.map(|document| serde_json::from_slice(&document.value));
        let known: Option<WitnessDocument> = known.transpose().context("read its document")?;
        match (&ours, known) {
            (Some(ours), Some(known)) if *ours == known => return Ok(()),
            (_, Some(_)) => bail!(
                "{} is not the folder in which witness {witness} has held logs: what it held may be all \
                 that there is of a commit. Give it that folder back; if that is lost: domicile region \
                 remove {witness}, start its agent again, domicile region add {witness}",
                data.display()
            ),
            (Some(ours), None) => match directory.write(&key, 0, Some(json(ours))).await {
                Ok(Written::At(_)) => return Ok(()),
                // Whoever was faster, or whatever it was, is seen in the next look.
                Ok(Written::Conflict(_)) | Err(_) => {}
            },
            (None, None) => {
                let new = WitnessDocument { folder: uuid::Uuid::now_v7().to_string() };
                files::replace(&path, &json(&new))
                    .with_context(|| format!("write {}", path.display()))?;
                ours = Some(new);
            }
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Option<WitnessDocument>> {
    match fs::read(path) {
        Ok(bytes) => {
            let read = serde_json::from_slice(&bytes);
            read.map(Some).with_context(|| format!("read {}", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}
