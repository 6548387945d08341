//! Is this the PostgreSQL whose history our log holds, and may the slot be read on?
//!
//! Asked whenever a session with it begins; `core::continuity` judges. While the answer is no,
//! nothing is captured, acknowledged or owned here, and the state says why; what other regions send
//! is still applied where that is safe. A slot is made for a region that never had one, and never
//! again silently.
//!
//! The slot is also confirmed past the end of our log, where commits carry nothing for it. So that
//! this can be told from a slot that somebody else has moved, such a position is remembered first.
//!
//! **Invariant:** the slot is told no position that the log or the record does not hold durably.

mod record;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use domicile_core::config::Config;
use domicile_core::continuity::{Break, Known, Ours, Server, Verdict, judge, shown};
use domicile_core::id::{Origin, TableName};
use domicile_core::lsn::Lsn;
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::complain::Complaint;
use crate::log::{Log, Logs};
use crate::notices::Notices;
use crate::postgres::passed_over::By;
use crate::postgres::{guard, passed_over, setup, slot};
pub use record::Record;

/// Under which the notice stands.
const PART: &str = "slot";
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How often a position is remembered when no commit waits for it.
const AT_LEISURE: Duration = Duration::from_secs(1);

/// Why nothing is captured or owned here.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {0}", name = .0.name())]
pub struct Halted(Break);

/// Cheap to clone.
#[derive(Clone)]
pub struct Continuity {
    shared: Arc<Shared>,
}

struct Shared {
    origin: Origin,
    slot: String,
    /// What is captured.
    tables: Vec<TableName>,
    log: Log,
    /// Of the incarnation before this one.
    before: Option<(Origin, Log)>,
    /// How far our log was known to reach before damage to it was set aside.
    must_reach: Lsn,
    record: Mutex<Record>,
    /// What the record holds durably.
    read: watch::Sender<Lsn>,
    /// What it should hold.
    wanted: watch::Sender<Lsn>,
    pause: Duration,
    broken: watch::Sender<Option<Break>>,
    notices: Notices,
}

impl Continuity {
    pub fn open(
        config: &Config,
        record: Record,
        origin: Origin,
        logs: &Logs,
        must_reach: Lsn,
        notices: Notices,
    ) -> anyhow::Result<Self> {
        let (slot, rpo) = (slot::slot_name(config), config.rpo);
        let log = logs.get_or_create(&origin)?;
        let before = older(logs, &origin).pop();
        let ours = record.known().filter(|known| known.incarnation == origin.incarnation);
        let read = watch::Sender::new(ours.map_or(Lsn::ZERO, |known| known.read));
        let shared = Shared {
            origin,
            slot,
            tables: setup::published(config).into_iter().filter(is_users).collect(),
            before,
            log,
            must_reach,
            record: Mutex::new(record),
            read,
            wanted: watch::Sender::default(),
            pause: if rpo.waits_for_capture() { Duration::ZERO } else { AT_LEISURE },
            broken: watch::Sender::new(None),
            notices,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Has this region ever captured anything, as far as this machine knows?
    pub fn captured_before(&self) -> bool {
        self.lock().known().is_some() || self.log_end() > Lsn::ZERO
    }

    /// Looks at the server behind `client`. What it finds is shown until another look finds
    /// something else.
    pub async fn examine(&self, client: &Client) -> anyhow::Result<Verdict> {
        let held_before = (*self.shared.read.borrow()).max(self.log_end());
        let server = self.survey(client).await?;
        let known = self.lock().known().cloned();
        let ours = Ours {
            incarnation: self.shared.origin.incarnation,
            slot: self.shared.slot.clone(),
            held_before,
            log_end: self.log_end(),
            known,
        };
        let verdict = judge(&ours, &server);
        match &verdict {
            Verdict::New => {}
            Verdict::GoesOn => {
                self.remember(&server)?;
                self.tell(None);
            }
            Verdict::Broken(why) => {
                self.remember_behind(why)?;
                self.tell(Some(why.clone()));
            }
        }
        Ok(verdict)
    }

    /// Makes the slot where nothing was ever read in this incarnation.
    pub async fn begin(&self, client: &Client) -> anyhow::Result<()> {
        let mut server = self.survey(client).await?;
        let slot = &self.shared.slot;
        if let Some((before, log)) = &self.shared.before {
            // What our tables lost of it is applied again.
            let shown = self.shown(&server, log.end())?;
            slot::resume(client, before, shown).await?;
        }
        if slot::was_read(client, slot).await? {
            // Durably, before the slot is whole again: whoever compares may be interrupted.
            let since = self.shared.before.as_ref().map_or(Lsn::ZERO, |(_, log)| log.end());
            passed_over::note(client, &self.shared.tables, since, By::Slot).await?;
        }
        if self.shared.origin.incarnation > 1 {
            // Wherever it stands: what lies before its successor is compared, not captured.
            slot::remove(client, slot).await?;
            server.slot = None;
        }
        if server.slot.is_none() {
            slot::make(client, slot).await?;
        }
        let server = self.survey(client).await?;
        let made = server.slot.as_ref().and_then(|slot| slot.confirmed);
        let made = made.context("the slot is not there yet")?;
        self.shared.read.send_replace(made);
        self.remember(&server)?;
        tracing::info!(origin = %self.shared.origin, %made, "the slot is made");
        self.tell(None);
        Ok(())
    }

    /// Up to where the tables show our log of the incarnation before, which ends at `held`.
    fn shown(&self, server: &Server, held: Lsn) -> Result<Lsn, Halted> {
        // Forgotten with the data folder, and so is the log: its end is where it begins.
        let Some(known) = self.lock().known().cloned() else { return Ok(held) };
        match shown(&known, server) {
            Lsn::ZERO => {
                let (timeline, parted) = (server.timeline, Lsn::ZERO);
                let why = Break::TimelineBehind { timeline, parted, held };
                self.tell(Some(why.clone()));
                Err(Halted(why))
            }
            shown => Ok(shown.min(held)),
        }
    }

    async fn survey(&self, client: &Client) -> anyhow::Result<Server> {
        let timeline = self.lock().known().map(|known| known.timeline);
        let incarnation = self.shared.origin.incarnation;
        slot::survey(client, &self.shared.slot, incarnation, timeline).await
    }

    /// Has the database remember as well that its slot is read.
    pub async fn note(&self, client: &Client) -> anyhow::Result<()> {
        let Some(known) = self.lock().known().cloned() else { return Ok(()) };
        slot::note(client, &known.slot, known.system, known.incarnation).await
    }

    /// Refuses whoever would act while the slot cannot be read on.
    pub fn check(&self) -> Result<(), Halted> {
        match &*self.shared.broken.borrow() {
            None => Ok(()),
            Some(why) => Err(Halted(why.clone())),
        }
    }

    /// Refuses a server that is not the one whose rows these are.
    pub async fn same_system(&self, client: &Client) -> anyhow::Result<()> {
        let Some(known) = self.lock().known().map(|known| known.system) else { return Ok(()) };
        let found = slot::system(client).await?;
        if found == known {
            return Ok(());
        }
        Err(Halted(Break::OtherSystem { known, found }).into())
    }

    /// Returns why the slot cannot be read on, if so, and what this machine remembers of it.
    pub fn found(&self) -> (Option<Break>, Option<Known>) {
        let why = self.shared.broken.borrow().clone();
        let incarnation = self.shared.origin.incarnation;
        let known = self.lock().known().filter(|known| known.incarnation == incarnation).cloned();
        (why, known)
    }

    /// Returns once the slot cannot be read on and others' changes may be applied all the same.
    pub async fn broken(&self) {
        let mut broken = self.shared.broken.subscribe();
        // Its sender lives as long as `self`.
        let _ = broken.wait_for(|why| why.as_ref().is_some_and(Break::may_apply)).await;
    }

    /// Returns how much of `wanted` the slot may be told now. What is left over is remembered, and
    /// then told by [`Continuity::subscribe`].
    pub fn confirmable(&self, wanted: Lsn) -> Lsn {
        let held = self.shared.log.end().max(*self.shared.read.borrow());
        if wanted > held {
            self.shared.wanted.send_if_modified(|known| {
                let moved = wanted > *known;
                *known = wanted.max(*known);
                moved
            });
        }
        wanted.min(held)
    }

    /// Tells whenever more may be confirmed.
    pub fn subscribe(&self) -> watch::Receiver<Lsn> {
        self.shared.read.subscribe()
    }

    /// Keeps remembering what should be.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut wanted = self.shared.wanted.subscribe();
        let mut complaint = Complaint::default();
        loop {
            let read = *wanted.borrow_and_update();
            let this = self.clone();
            let written = tokio::task::spawn_blocking(move || this.advance(read)).await;
            let written = written.map_err(anyhow::Error::from).and_then(|written| written);
            let pause = match written {
                Ok(()) => {
                    complaint.settled();
                    self.shared.pause
                }
                Err(error) => {
                    complaint.warn("the slot is not confirmed past the log", &error);
                    RETRY_AFTER
                }
            };
            let more = async {
                tokio::time::sleep(pause).await;
                let behind = |wanted: &Lsn| *wanted > *self.shared.read.borrow();
                wanted.wait_for(behind).await.is_ok()
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                more = more => if !more { return },
            }
        }
    }

    /// Remembers that everything up to `read` was read.
    fn advance(&self, read: Lsn) -> anyhow::Result<()> {
        let mut record = self.lock();
        let Some(known) = record.known().filter(|known| known.read < read).cloned() else {
            return Ok(());
        };
        record.write(Known { read, ..known })?;
        self.shared.read.send_replace(read);
        Ok(())
    }

    fn remember(&self, server: &Server) -> anyhow::Result<()> {
        let mut record = self.lock();
        let read = (*self.shared.read.borrow()).max(self.log_end());
        let known = Known {
            incarnation: self.shared.origin.incarnation,
            system: server.system,
            timeline: server.timeline,
            slot: self.shared.slot.clone(),
            read,
            behind: None,
        };
        let same = |before: &Known| Known { read, ..before.clone() } == known;
        if !record.known().is_some_and(same) {
            record.write(known)?;
            self.shared.read.send_replace(read);
        }
        Ok(())
    }

    /// A timeline that is too short will not be so for long.
    fn remember_behind(&self, why: &Break) -> anyhow::Result<()> {
        let Break::TimelineBehind { timeline, parted, .. } = why else { return Ok(()) };
        let mut record = self.lock();
        match record.known().cloned() {
            Some(known) if known.timeline == *timeline && known.behind.is_none() => {
                record.write(Known { behind: Some(*parted), ..known })
            }
            _ => Ok(()),
        }
    }

    fn tell(&self, why: Option<Break>) {
        match &why {
            None => self.shared.notices.clear(PART),
            Some(why) => self.shared.notices.post(PART, why.name(), why.to_string()),
        }
        self.shared.broken.send_if_modified(|known| {
            let changed = *known != why;
            *known = why;
            changed
        });
    }

    fn log_end(&self) -> Lsn {
        self.shared.log.end().max(self.shared.must_reach)
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        // A record is written before it is known.
        self.shared.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_users(table: &TableName) -> bool {
    table.schema != guard::SCHEMA
}

/// Returns the logs of earlier incarnations of this region, oldest first.
pub fn older(logs: &Logs, origin: &Origin) -> Vec<(Origin, Log)> {
    let ours = |of: &Origin| of.region == origin.region && of.incarnation < origin.incarnation;
    logs.all().into_iter().filter(|(of, _)| ours(of)).collect()
}
