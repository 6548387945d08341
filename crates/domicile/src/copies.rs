//! Remembers in the data folder whether the copies here hold all that they once held, and has the directory know
//! that folder; `core::copies` judges.
//!
//! **Invariant:** a copy that may have become shorter is remembered as short before it is cut, and counts as whole
//! only after that is on disk.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use domicile_core::config::Config;
use domicile_core::copies::{COPIES_SHORT, Copies as Known, Named, NotSealed};
use domicile_core::id::{Origin, RegionId};
use domicile_core::lsn::Lsn;
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
/// How often the directory is asked while something is lacking, or not known.
const LOOK_SOON: Duration = Duration::from_millis(500);
/// And else: somebody may have taken the holder out of the cluster.
const LOOK_AT_LEISURE: Duration = Duration::from_secs(10);

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
    short: BTreeSet<String>,
    silent_to: BTreeSet<String>,
}

impl Copies {
    /// Reads what the folder `data` remembers; one that remembers nothing is given a name.
    pub fn open(data: &Path, rpo: Rpo) -> anyhow::Result<Self> {
        let path = data.join(FILE);
        let (folder, known) = match fs::read(&path) {
            Ok(bytes) => lift(&bytes).with_context(|| format!("read {}", path.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let new = (uuid::Uuid::now_v7().to_string(), Known::default());
                // The directory is told of no name that is not on disk.
                write(&path, &new.0, &new.1)?;
                new
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let (writing, known) = (Mutex::default(), watch::Sender::new(known));
        Ok(Self { shared: Arc::new(Shared { rpo, path, folder, writing, known }) })
    }

    /// May it be promised to take nothing more of `region`, and told what is held of it?
    pub fn may_seal(&self, region: &RegionId) -> Result<(), NotSealed> {
        self.shared.known.borrow().may_seal(self.shared.rpo, region)
    }

    /// Is `region` told nothing of how far its logs are held here?
    pub fn is_silent_to(&self, region: &RegionId) -> bool {
        self.shared.known.borrow().silent_to.contains(region)
    }

    /// The copy of `origin` has had all that its home holds, if `still` finds it whole; see
    /// [`Known::caught_up`].
    pub fn caught_up(
        &self,
        origin: &Origin,
        (home_end, shown): (Lsn, Lsn),
        still: impl FnOnce() -> bool,
    ) -> anyhow::Result<()> {
        // It is told with every heartbeat.
        if self.shared.known.borrow().short.is_empty() {
            return Ok(());
        }
        self.shared.change(|known| {
            // Looked at here, so that no damage is noted in between.
            if still() {
                known.caught_up(origin, home_end, shown);
            }
        })
    }

    /// The copy of `origin` is about to be cut where it is damaged.
    pub fn damaged(&self, origin: &Origin) -> anyhow::Result<()> {
        self.shared.change(|known| _ = known.short.insert(origin.clone()))
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Known)) -> anyhow::Result<()> {
        // It guards a file, which is written before it is known.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.known.borrow().clone();
        let mut known = before.clone();
        change(&mut known);
        // Where the disk is full, what was on it is known all the same.
        if known != (Known { asked: known.asked, ..before }) {
            write(&self.path, &self.folder, &known)?;
        }
        self.known.send_if_modified(|before| {
            let news = *before != known;
            *before = known;
            news
        });
        Ok(())
    }
}

fn lift(bytes: &[u8]) -> anyhow::Result<(String, Known)> {
    let Document { folder, claimed, short, silent_to } = serde_json::from_slice(bytes)?;
    let short = short.iter().map(|origin| origin.parse()).collect::<Result<_, _>>()?;
    let silent_to = silent_to.iter().map(|region| region.parse()).collect::<Result<_, _>>()?;
    Ok((folder, Known { asked: false, claimed, short, silent_to }))
}

fn write(path: &Path, folder: &str, known: &Known) -> anyhow::Result<()> {
    let document = Document {
        folder: folder.to_owned(),
        claimed: known.claimed,
        short: known.short.iter().map(ToString::to_string).collect(),
        silent_to: known.silent_to.iter().map(ToString::to_string).collect(),
    };
    files::replace(path, &json(&document)).with_context(|| format!("write {}", path.display()))
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
        let mut complaint = Complaint::default();
        loop {
            let looked = tokio::select! {
                () = shutdown.cancelled() => return,
                looked = self.look() => looked,
            };
            match looked {
                Ok(()) => complaint.settled(),
                Err(error) => complaint.info("it is not known yet whose folder this is", &error),
            }
            self.tell();
            let settled = {
                let known = known.borrow_and_update();
                known.asked && known.short.is_empty() && known.silent_to.is_empty()
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = known.changed() => {}
                () = tokio::time::sleep(if settled { LOOK_AT_LEISURE } else { LOOK_SOON }) => {}
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
        self.remember(named)?;
        if named != Named::This {
            let value = Some(json(&FolderDocument { folder: shared.folder.clone() }));
            let written = self.directory.write(&key, revision, value).await?;
            ensure!(matches!(written, Written::At(_)), "somebody else has changed \"{key}\"");
            self.remember(Named::This)?;
        }
        Ok(())
    }

    fn remember(&self, named: Named) -> anyhow::Result<()> {
        let others = || {
            let view = self.incarnations.borrow();
            origins::due(&self.config, &self.logs, &view, &self.holder).into_iter().collect()
        };
        let view = self.ownership.borrow().clone();
        let ownership = view.ownership.as_ref().filter(|_| view.connected);
        self.copies.shared.change(|known| *known = known.judge(named, others, ownership))
    }

    fn tell(&self) {
        let view = self.ownership.borrow();
        let Some(ownership) = &view.ownership else { return };
        let lacking = self.copies.shared.known.borrow().lacking(ownership.members());
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
