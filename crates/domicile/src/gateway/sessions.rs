//! Who is in, and what is everybody doing?
//!
//! Each session has a record that it alone writes, in atomics: the lock of the list is taken when somebody comes or
//! goes, or looks. Limits are counted here, too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domicile_core::admission::{Admission, Applicant, Full, Refusal, Served};
use domicile_core::id::RegionId;
use domicile_core::time::{Millis, Time, Wall};
use tokio_util::sync::CancellationToken;

use super::recorder::Recorder;
use super::secure::Other;
use crate::clock::{self, Clock};

/// So many may be in the console at once. They are no clients, so that limits keep no operator out.
const CONSOLES_MAX: usize = 20;

/// All that are in. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sessions(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    present: BTreeMap<u64, Arc<Record>>,
    counts: BTreeMap<Kind, Counts>,
    /// What sessions did that have left, by database.
    past: BTreeMap<String, Figures>,
    refused: BTreeMap<&'static str, usize>,
}

/// How many of one kind are in. To count ten thousand anew for each that comes would take longer than its login.
#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of_user: BTreeMap<String, usize>,
    of_database: BTreeMap<String, usize>,
}

/// One session.
#[derive(Debug)]
pub struct Record {
    /// No two sessions of a gateway have the same.
    pub id: u64,
    pub who: Who,
    pub since: Wall,
    doing: AtomicU8,
    /// Since when it does that, by the gateway's clock.
    doing_since: AtomicU64,
    pub counters: Counters,
    servers: Mutex<Vec<Server>>,
    readiness: AtomicU8,
    /// Somebody wants it to end.
    pub ended: CancellationToken,
}

/// Whose session it is.
#[derive(Clone, Debug)]
pub struct Who {
    pub kind: Kind,
    pub user: String,
    pub database: String,
    /// As the client called itself when it came; empty where it did not.
    pub application: String,
    pub address: SocketAddr,
    pub other: Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Client,
    /// Another region's gateway.
    Peer,
    Console,
}

/// What a session is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Doing {
    /// It begins, and has not said who it is.
    Login,
    Idle,
    IdleInTransaction,
    /// A statement runs.
    Active,
    /// A statement waits in the gateway for an owner.
    Waiting,
    /// A statement, or a login, waits in the gateway while its database is paused.
    Paused,
}

impl Doing {
    /// Each at the place that its number says.
    pub const ALL: [Self; 6] = [
        Self::Login,
        Self::Idle,
        Self::IdleInTransaction,
        Self::Active,
        Self::Waiting,
        Self::Paused,
    ];

    /// In the words of `pg_stat_activity`, where it has one.
    pub fn word(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Idle => "idle",
            Self::IdleInTransaction => "idle in transaction",
            Self::Active => "active",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
        }
    }

    /// Is it held up in the gateway?
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::Waiting | Self::Paused)
    }
}

/// Does a session have a connection where all will go on?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Readiness {
    /// It needs none.
    Needless,
    /// It has not heard of it.
    Unasked,
    Opening,
    Ready,
    Failed,
}

impl Readiness {
    /// Each at the place that its number says.
    const ALL: [Self; 5] =
        [Self::Needless, Self::Unasked, Self::Opening, Self::Ready, Self::Failed];

    pub fn is_wanted(self) -> bool {
        self != Self::Needless
    }

    pub fn is_waited_for(self) -> bool {
        matches!(self, Self::Unasked | Self::Opening)
    }
}

/// A connection to a server that a session holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub region: RegionId,
    /// As in `10.0.0.1:5432`, or the folder of a socket and its port.
    pub address: String,
    /// Of its process; absent while it has not told it.
    pub pid: Option<u32>,
    /// What the session says goes there now.
    pub in_use: bool,
}

/// What a session has done so far; written by it alone.
#[derive(Debug, Default)]
pub struct Counters {
    pub transactions: AtomicU64,
    pub queries: AtomicU64,
    pub received: AtomicU64,
    pub sent: AtomicU64,
    pub transaction_ms: AtomicU64,
    pub query_ms: AtomicU64,
    pub wait_ms: AtomicU64,
    pub led_by_key: AtomicU64,
    pub led_by_statement: AtomicU64,
    pub led_by_guard: AtomicU64,
}

/// What sessions have done. Durations are sums of differences of a clock that counts milliseconds: each may be off
/// by one, and all together are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub transactions: u64,
    pub queries: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub transaction_time: Millis,
    pub query_time: Millis,
    pub wait_time: Millis,
    pub led: Led,
}

/// How many transactions went on in another region, by what has led there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Led {
    pub by_key: u64,
    pub by_statement: u64,
    /// Another region had refused them first.
    pub by_guard: u64,
}

impl Sessions {
    /// Lets somebody in, unless that is against the terms.
    pub fn enter(
        &self,
        who: Who,
        admission: &Admission,
        clock: Clock,
    ) -> Result<Recorder, Refusal> {
        let mut state = self.lock();
        let served = state.served(&who);
        let admitted = match who.kind {
            Kind::Client => admission.admit(&who.applicant(), served),
            Kind::Console if served.all >= CONSOLES_MAX => Err(Refusal::Full(Full::All)),
            Kind::Console => admission.allow(&who.applicant()),
            Kind::Peer => Ok(()),
        };
        if let Err(why) = admitted {
            *state.refused.entry(word(why)).or_default() += 1;
            return Err(why);
        }
        state.last_id += 1;
        let record = Arc::new(Record {
            id: state.last_id,
            who,
            since: clock::unix(),
            doing: AtomicU8::new(Doing::Login as u8),
            doing_since: AtomicU64::new(clock.now().0),
            counters: Counters::default(),
            servers: Mutex::default(),
            readiness: AtomicU8::new(Readiness::Needless as u8),
            ended: CancellationToken::new(),
        });
        state.counts.entry(record.who.kind).or_default().add(&record.who);
        state.present.insert(record.id, record.clone());
        drop(state);
        Ok(Recorder::new(self.clone(), record, clock))
    }

    /// Somebody has left.
    pub fn leave(&self, record: &Record) {
        let mut state = self.lock();
        state.present.remove(&record.id);
        state.counts.entry(record.who.kind).or_default().take(&record.who);
        let figures = record.counters.figures();
        // Names of those who never got in are anybody's, and without end.
        if figures.queries > 0 && record.who.kind != Kind::Console {
            state.past.entry(record.who.database.clone()).or_default().add(&figures);
        }
    }

    /// All that are in, in the order in which they came.
    pub fn present(&self) -> Vec<Arc<Record>> {
        self.lock().present.values().cloned().collect()
    }

    pub fn find(&self, id: u64) -> Option<Arc<Record>> {
        self.lock().present.get(&id).cloned()
    }

    /// What was done in each database, by who is in and who has left.
    pub fn figures(&self) -> BTreeMap<String, Figures> {
        let state = self.lock();
        let mut figures = state.past.clone();
        for record in state.present.values().filter(|record| record.who.kind != Kind::Console) {
            let database = figures.entry(record.who.database.clone()).or_default();
            let done = record.counters.figures();
            // What is not kept when it leaves does not count before either: sums never fall.
            if done.queries > 0 {
                database.add(&done);
            }
        }
        figures
    }

    /// How many were not let in so far, by why.
    pub fn refused(&self) -> BTreeMap<&'static str, usize> {
        self.lock().refused.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

fn word(why: Refusal) -> &'static str {
    match why {
        Refusal::NoRule => "no_rule",
        Refusal::NotEncrypted => "not_encrypted",
        Refusal::Full(Full::All) => "connections",
        Refusal::Full(Full::User) => "connections_per_user",
        Refusal::Full(Full::Database) => "connections_per_database",
    }
}

impl State {
    /// Those that count against the limits that `who` meets.
    fn served(&self, who: &Who) -> Served {
        let Some(counts) = self.counts.get(&who.kind) else { return Served::default() };
        let of = |counts: &BTreeMap<String, usize>, name| counts.get(name).copied();
        Served {
            all: counts.all,
            of_user: of(&counts.of_user, &who.user).unwrap_or_default(),
            of_database: of(&counts.of_database, &who.database).unwrap_or_default(),
        }
    }
}

impl Counts {
    fn add(&mut self, who: &Who) {
        self.all += 1;
        *self.of_user.entry(who.user.clone()).or_default() += 1;
        *self.of_database.entry(who.database.clone()).or_default() += 1;
    }

    /// Names are anybody's, and without end: of those that nobody has none is kept.
    fn take(&mut self, who: &Who) {
        self.all -= 1;
        for (counts, name) in
            [(&mut self.of_user, &who.user), (&mut self.of_database, &who.database)]
        {
            if let Some(count) = counts.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(name);
                }
            }
        }
    }
}

impl Who {
    pub fn applicant(&self) -> Applicant<'_> {
        Applicant {
            address: self.address.ip(),
            user: &self.user,
            database: &self.database,
            encrypted: self.other != Other::Clear,
        }
    }
}

impl Record {
    pub fn doing(&self) -> Doing {
        // In one order with the gate: see there.
        Doing::ALL[usize::from(self.doing.load(Ordering::SeqCst))]
    }

    pub fn does(&self, doing: Doing, now: Time) {
        self.doing_since.store(now.0, Ordering::Relaxed);
        self.doing.store(doing as u8, Ordering::SeqCst);
    }

    /// How long it has been at that.
    pub fn doing_for(&self, now: Time) -> Millis {
        now.since(Time(self.doing_since.load(Ordering::Relaxed)))
    }

    /// How long it has waited in the gateway; zero where it does not.
    pub fn waits(&self, now: Time) -> Millis {
        if self.doing().is_waiting() { self.doing_for(now) } else { Millis(0) }
    }

    pub fn readiness(&self) -> Readiness {
        Readiness::ALL[usize::from(self.readiness.load(Ordering::SeqCst))]
    }

    pub fn is(&self, readiness: Readiness) {
        self.readiness.store(readiness as u8, Ordering::SeqCst);
    }

    pub fn servers(&self) -> Vec<Server> {
        lock(&self.servers).clone()
    }

    pub fn holds(&self, servers: Vec<Server>) {
        *lock(&self.servers) = servers;
    }
}

impl Counters {
    fn figures(&self) -> Figures {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            transactions: count(&self.transactions),
            queries: count(&self.queries),
            received_bytes: count(&self.received),
            sent_bytes: count(&self.sent),
            transaction_time: Millis(count(&self.transaction_ms)),
            query_time: Millis(count(&self.query_ms)),
            wait_time: Millis(count(&self.wait_ms)),
            led: Led {
                by_key: count(&self.led_by_key),
                by_statement: count(&self.led_by_statement),
                by_guard: count(&self.led_by_guard),
            },
        }
    }
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.transactions += other.transactions;
        self.queries += other.queries;
        self.received_bytes += other.received_bytes;
        self.sent_bytes += other.sent_bytes;
        self.transaction_time = self.transaction_time + other.transaction_time;
        self.query_time = self.query_time + other.query_time;
        self.wait_time = self.wait_time + other.wait_time;
        self.led.by_key += other.led.by_key;
        self.led.by_statement += other.led.by_statement;
        self.led.by_guard += other.led.by_guard;
    }
}

/// Nothing that is done under these locks can be left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
