//! Remembers in the data folder whether the copies here hold all that they once held, and has the directory know
//! that folder; `core::copies` judges.
//!
//! **Invariant:** a copy that may have become shorter is remembered as short before it is cut, and counts as whole
//! only after that is on disk.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use domicile_core::config::Config;
use domicile_core::copies::{COPIES_SHORT, Copies as Known, Judged, Named, Short};
use domicile_core::id::{Origin, RegionId};
use domicile_core::progress::Rpo;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::complain::Complaint;
use crate::directory::documents::{FolderDocument, folder_key, json};
use crate::directory::view::OwnershipView;
use crate::directory::{Client, View, Written};
use crate::files;
use crate::log::Logs;
use crate::notices::Notices;
use crate::origins;

const FILE: &str = "copies.json";
/// Under which the notice stands.
const PART: &str = "copies";
/// How often the directory is asked while that matters.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Cheap to clone.
#[derive(Clone)]
pub struct Copies {
    shared: Arc<Shared>,
}

struct Shared {
    rpo: Rpo,
    path: PathBuf,
    /// No other folder's name.
    folder: String,
    /// Held while the file is written.
    writing: Mutex<()>,
    known: watch::Sender<Known>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    folder: String,
    claimed: bool,
    short: Option<BTreeSet<String>>,
}

impl Copies {
    /// Reads what the folder `data` remembers; one that remembers nothing is given a name.
    pub fn open(data: &Path, rpo: Rpo) -> anyhow::Result<Self> {
        let path = data.join(FILE);
        let document = match fs::read(&path) {
            Ok(bytes) => Some(serde_json::from_slice::<Document>(&bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => Some(Err(serde_json::Error::io(error))),
        };
        let document = document.transpose().with_context(|| format!("read {}", path.display()))?;
        let new = document.is_none();
        let Document { folder, claimed, short } = document.unwrap_or_else(|| Document {
            folder: uuid::Uuid::now_v7().to_string(),
            claimed: false,
            short: None,
        });
        let lift = |short: BTreeSet<String>| short.iter().map(|origin| origin.parse()).collect();
        let short = short.map(lift).transpose().context("read whose copies are short")?;
        let known = Known { claimed, short };
        let shared = Shared {
            rpo,
            path,
            folder,
            writing: Mutex::default(),
            known: watch::Sender::new(known.clone()),
        };
        if new {
            shared.write(&known)?;
        }
        Ok(Self { shared: Arc::new(shared) })
    }

    /// May it be promised to take nothing more of `region`, and told what is held of it?
    pub fn may_seal(&self, region: &RegionId) -> Result<(), Short> {
        self.shared.known.borrow().may_seal(self.shared.rpo, region)
    }

    /// The copy of `origin` holds all that its home holds.
    pub fn caught_up(&self, origin: &Origin) -> anyhow::Result<()> {
        let lacked = |known: &Known| known.short.as_ref().is_some_and(|s| s.contains(origin));
        if !lacked(&self.shared.known.borrow()) {
            return Ok(());
        }
        self.shared.change(|known| known.short.iter_mut().for_each(|s| _ = s.remove(origin)))
    }

    /// The copy of `origin` is about to be cut where it is damaged.
    pub fn damaged(&self, origin: &Origin) -> anyhow::Result<()> {
        self.shared
            .change(|known| known.short.iter_mut().for_each(|s| _ = s.insert(origin.clone())))
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Known)) -> anyhow::Result<()> {
        let _writing = self.lock();
        let mut known = self.known.borrow().clone();
        change(&mut known);
        self.write(&known)?;
        self.known.send_replace(known);
        Ok(())
    }

    fn write(&self, known: &Known) -> anyhow::Result<()> {
        let names = |short: &BTreeSet<Origin>| short.iter().map(ToString::to_string).collect();
        let (folder, claimed) = (self.folder.clone(), known.claimed);
        let document = Document { folder, claimed, short: known.short.as_ref().map(names) };
        files::replace(&self.path, &json(&document))
            .with_context(|| format!("write {}", self.path.display()))
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // It guards a file, which is written before it is known.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the directory whose folder this is, and says which copies are short.
pub struct Keeper {
    pub copies: Copies,
    pub config: Arc<Config>,
    /// Whose agent this is.
    pub holder: RegionId,
    pub logs: Logs,
    pub directory: Client,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    pub incarnations: watch::Receiver<Arc<View>>,
    pub notices: Notices,
}

impl Keeper {
    pub async fn run(self, shutdown: CancellationToken) {
        let mut known = self.copies.shared.known.subscribe();
        let (mut asked, mut complaint) = (false, Complaint::default());
        loop {
            let settled = {
                let known = known.borrow_and_update();
                known.claimed && known.short.as_ref().is_some_and(BTreeSet::is_empty)
            };
            // Another one may have become the holder's folder while this one was away.
            if !asked || !settled {
                let looked = tokio::select! {
                    () = shutdown.cancelled() => return,
                    looked = self.look() => looked,
                };
                match looked {
                    Ok(()) => {
                        asked = true;
                        complaint.settled();
                    }
                    Err(error) => {
                        complaint.info("it is not known yet whose folder this is", &error)
                    }
                }
            }
            self.tell();
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = known.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY), if !asked || !settled => {}
            }
        }
    }

    async fn look(&self) -> anyhow::Result<()> {
        let (key, shared) = (folder_key(&self.holder), &self.copies.shared);
        let document = self.directory.get(&key).await?;
        let revision = document.as_ref().map_or(0, |document| document.revision);
        let named = document.map(|document| serde_json::from_slice(&document.value));
        let named: Option<FolderDocument> = named.transpose().context("read its document")?;
        let named = match named {
            None => Named::None,
            Some(named) if named.folder == shared.folder => Named::This,
            Some(_) => Named::Another,
        };
        let mut incarnations = self.incarnations.clone();
        incarnations.wait_for(|view| view.connected).await.context("the directory is closed")?;
        let others = || {
            let view = self.incarnations.borrow();
            origins::due(&self.config, &self.logs, &view, &self.holder).into_iter().collect()
        };
        let judge = |known: &Known, named| {
            let view = self.ownership.borrow();
            known.judge(named, others, view.ownership.as_ref().map(|known| known.members()))
        };
        let Judged { claim, copies } = judge(&shared.known.borrow(), named);
        if claim {
            let value = Some(json(&FolderDocument { folder: shared.folder.clone() }));
            let written = self.directory.write(&key, revision, value).await?;
            ensure!(matches!(written, Written::At(_)), "somebody else has changed \"{key}\"");
        }
        if *shared.known.borrow() != copies {
            // Judged anew, because copies may have been caught up with meanwhile.
            let named = if claim && named == Named::Another { Named::This } else { named };
            shared.change(|known| *known = judge(known, named).copies)?;
        }
        Ok(())
    }

    fn tell(&self) {
        let view = self.ownership.borrow();
        let members = view.ownership.as_ref().map(|known| known.members());
        let lacking = self.copies.shared.known.borrow().lacking(members).unwrap_or_default();
        if lacking.is_empty() {
            return self.notices.clear(PART);
        }
        let lacking: Vec<String> = lacking.iter().map(ToString::to_string).collect();
        let detail = format!(
            "the folder here is not the one in which {} has held logs, or it was damaged: records of {} may be \
             lacking until they were had again from where they are written",
            self.holder,
            lacking.join(", ")
        );
        self.notices.post(PART, COPIES_SHORT, detail);
    }
}
