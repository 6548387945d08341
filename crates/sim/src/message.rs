//! What do agents say to one another and to the directory?

use std::rc::Rc;

use domicile_core::history::Seal;
use domicile_core::id::RunId;
use domicile_core::lsn::{Cut, Lsn};
use domicile_core::outage::{Probe, Sighting};
use domicile_core::ownership::Ownership;
use domicile_core::progress::Progress;
use domicile_core::promise::Ask;
use domicile_core::time::{Millis, Time};

use crate::directory::{RunDocument, Snapshot};
use crate::disk::Record;
use crate::setup::Key;

#[derive(Clone, Debug)]
pub enum Message {
    // to the directory
    /// Comes back in the answer: an answer must not pass for that to a later question.
    Renew {
        token: Time,
    },
    Read,
    SwapOwnership {
        expected: u64,
        value: Rc<Ownership>,
    },
    PutRun(Rc<RunDocument>),
    // from the directory
    Renewed {
        token: Time,
        revision: u64,
    },
    State(Rc<Snapshot>),
    /// A watched document changed: time to read.
    Changed,
    // between agents
    /// Asks for what follows `after`; says how far the asker is with this origin, by the ownership
    /// of which revision.
    Fetch {
        origin: usize,
        after: Lsn,
        progress: Progress,
        revision: u64,
    },
    /// The records between `after` and `upto`: all there are in the origin's history, as the sender
    /// knows it by the ownership at `revision`.
    Records {
        revision: u64,
        origin: usize,
        after: Lsn,
        upto: Lsn,
        records: Vec<Rc<Record>>,
    },
    Report(Rc<Report>),
    SealThese {
        run: RunId,
        seals: Vec<Seal>,
    },
    Sealed {
        run: RunId,
        held: Vec<Cut>,
        /// For how long what the sender has promised may still be lived on.
        promised: Millis,
    },
    /// A lease in the directory's stead. The token comes back, as that of a renewal does.
    AskPromise {
        token: Time,
        ask: Ask,
    },
    Promised {
        token: Time,
    },
    WriteCanary(RunId),
    CanaryWritten(RunId),
    /// In a drill.
    WriteLate(RunId),
    LateWritten(RunId),
    ProbeGuard,
    Probed(Probe),
    AskRows(Vec<Key>),
    Rows(Rc<Rows>),
}

/// What is a message sent for?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Leases, reports and records: whether anything is amiss or not.
    EveryDay,
    /// Reads of the directory's documents, and their answers.
    Read,
    /// What a run, and what leads to it, is made of.
    Failover,
}

impl Message {
    pub fn errand(&self) -> Errand {
        match self {
            Self::Renew { .. }
            | Self::Renewed { .. }
            | Self::AskPromise { .. }
            | Self::Promised { .. }
            | Self::Fetch { .. }
            | Self::Records { .. }
            | Self::Report(_) => Errand::EveryDay,
            Self::Read | Self::State(_) => Errand::Read,
            Self::SwapOwnership { .. }
            | Self::PutRun(_)
            | Self::Changed
            | Self::SealThese { .. }
            | Self::Sealed { .. }
            | Self::WriteCanary(_)
            | Self::CanaryWritten(_)
            | Self::WriteLate(_)
            | Self::LateWritten(_)
            | Self::ProbeGuard
            | Self::Probed(_)
            | Self::AskRows(_)
            | Self::Rows(_) => Errand::Failover,
        }
    }
}

/// What an agent tells every other one, several times a second.
#[derive(Clone, Debug)]
pub struct Report {
    /// By origin. `applied` is durable.
    pub progress: Vec<Progress>,
    /// The revision of the ownership that it has read.
    pub ownership_read: u64,
    /// The revision of the ownership that its guard goes by.
    pub ownership_seen: u64,
    pub sightings: Vec<(usize, Sighting)>,
}

/// A peer's rows, and how far its tables were when they were read.
#[derive(Clone, Debug)]
pub struct Rows {
    pub rows: Vec<(Key, u32)>,
    pub applied: Vec<Lsn>,
    /// The end of the peer's own log, once all its commits were captured.
    pub own: Lsn,
    pub ownership_revision: u64,
}
