//! The door of a region: clients speak PostgreSQL to it, and it finds the server that may answer.
//!
//! ```text
//! client ──> listener ──> door (first packets) ──> session ──> home: local PostgreSQL,
//!                           │                        │               or the owner's gateway
//!                           └──> cancel              ├───────> other: the owner of one statement
//!                                                    └───────> console, in the place of all these
//! ```
//!
//! Where to go is decided in `core::route`. The gateway never decides who may write: the guard in
//! PostgreSQL does, and a gateway that is wrong costs time, not rows.
//!
//! A session with LISTEN, temporary tables, SQL-level
//! PREPARE or cursors WITH HOLD is ended, with a reason, when it would have to move; settings made
//! by functions (`set_config`), and session-level advisory locks, are not seen and stay behind, unless
//! clients share servers (`sharing`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::admission::Admission;
use domicile_core::config::Sharing;
use domicile_core::freshness::Freshness;
use domicile_core::id::RegionId;
use domicile_core::partition::Layout;
use domicile_core::progress::Rpo;
pub use domicile_core::route::{Mode, Routes};
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod ahead;
mod attempt;
mod backend;
mod calls;
mod cancel;
mod catalogue;
mod columns;
mod comment;
mod console;
mod cut;
mod decided;
mod door;
mod gate;
mod key;
mod link;
mod listener;
mod login;
mod memory;
mod modes;
mod moving;
mod names;
mod only_reads;
mod own;
mod pool;
mod pulse;
mod reading;
mod recorder;
mod redirect;
mod refusals;
mod relay;
mod reworded;
mod rewound;
mod roles;
mod secure;
mod session;
mod sessions;
mod setters;
mod setting;
mod sharing;
mod sql;
mod stand_in;
mod statement;
mod statements;
mod statuses;
mod tally;
mod target;
mod track;
mod transaction;
mod turns;
mod unconfirmed;
mod writing;

pub use ahead::{WarmUps, WarmedUp};
pub use calls::said;
use cancel::Cancels;
pub use catalogue::Functions;
pub use columns::{Columns, Types as KeyTypes};
use gate::Gate;
pub use link::Socket;
pub use pool::{Counts, Login, Pools};
use pulse::Silent;
pub use roles::Roles;
pub use secure::{Other, Secure};
pub use sessions::Figures;
use sessions::Sessions;
pub use sql::touched;
pub use tally::{Counted, Tally};
pub use target::Target;
use turns::Turns;

use crate::clock::Clock;
use crate::notices::Notices;
use crate::sockets;
use crate::staleness::Staleness;
use crate::status::RegionStatus;

/// The database that is no database: who wants it comes to the console.
pub const CONSOLE: &str = "domicile";
/// How long a client may take to say what it wants.
pub const STARTUP_WAIT_MAX: Duration = Duration::from_secs(10);

/// What a gateway should be.
#[derive(Clone, Debug)]
pub struct Config {
    pub region: RegionId,
    /// Port 0 takes any free one: see [`Gateway::address`].
    pub listen: SocketAddr,
    /// Where it listens beside, and how new reads have to be of who comes in there and says nothing else.
    pub ports: Vec<(SocketAddr, Freshness)>,
    /// The region's own PostgreSQL.
    pub local: Target,
    /// The other regions' gateways.
    pub peers: BTreeMap<RegionId, Target>,
    /// How long a session waits for an owner before it gets an error. 10 s is a good value.
    pub park_budget: Duration,
    /// How long sessions may go on after the gateway was told to stop.
    pub shutdown_timeout: Duration,
    pub mode: Mode,
    /// To which partition a key leads.
    pub layout: Layout,
    /// Where keys stand in statements.
    pub columns: Columns,
    /// What the functions do that statements call.
    pub functions: Functions,
    /// Whether a commit is a success only once another region holds it.
    pub rpo: Rpo,
    pub secure: Secure,
    /// Who may come in, and how many.
    pub admission: Admission,
    pub console: Console,
    /// What roles begin with, and with what their sessions log in at other regions.
    pub roles: Roles,
    /// How old what the region shows is; absent where nobody knows.
    pub staleness: Option<Staleness>,
    /// How clients share the servers of `local`; absent where each has its own.
    pub sharing: Option<Sharing>,
    /// By which its sessions hear where all will go on.
    pub warm_ups: WarmUps,
}

/// What the console of a gateway shows, and to whom.
#[derive(Clone, Debug, Default)]
pub struct Console {
    /// Who may come to it.
    pub roles: domicile_core::config::Console,
    /// The region's own database, in which they log in.
    pub database: String,
    /// What the region's agent says of the others; absent where nobody does.
    pub status: Option<watch::Receiver<Arc<RegionStatus>>>,
    /// Where it is told that no new clients are to come.
    pub notices: Notices,
}

impl Config {
    /// Does who asks for `database` come to the console? It hides no database of the region's.
    fn has_console(&self, database: &str) -> bool {
        database == CONSOLE && self.console.database != CONSOLE
    }
}

/// A gateway that listens and does not serve yet.
#[derive(Debug)]
pub struct Gateway {
    listener: TcpListener,
    address: SocketAddr,
    ports: Vec<(TcpListener, Freshness)>,
    shared: Shared,
    silent: watch::Sender<BTreeSet<RegionId>>,
}

/// What all sessions of a gateway have in common.
#[derive(Clone, Debug)]
struct Shared {
    config: Arc<Config>,
    routes: watch::Receiver<Arc<Routes>>,
    silent: Silent,
    cancels: Cancels,
    sessions: Sessions,
    gate: Gate,
    pools: Pools,
    turns: Turns,
    first_turns: Turns,
    secure: Secure,
    clock: Clock,
    shutdown: CancellationToken,
    /// How new reads have to be of who has come in where this session did, unless somebody says otherwise.
    freshness: Option<Freshness>,
}

impl Gateway {
    /// Takes the address. Connections wait in the listen queue until [`Gateway::run`].
    pub async fn bind(config: Config, routes: watch::Receiver<Arc<Routes>>) -> io::Result<Self> {
        let listener = sockets::listen(config.listen).await?;
        let address = listener.local_addr()?;
        let mut ports = Vec::new();
        for (address, freshness) in &config.ports {
            ports.push((sockets::listen(*address).await?, *freshness));
        }
        let (silent, seen) = watch::channel(BTreeSet::new());
        let shared = Shared {
            secure: config.secure.clone(),
            pools: Pools::new(config.sharing),
            sessions: config.warm_ups.sessions.clone(),
            config: Arc::new(config),
            routes,
            silent: seen,
            cancels: Cancels::default(),
            gate: Gate::new(),
            turns: Turns::new(),
            first_turns: Turns::new(),
            clock: Clock::new(),
            shutdown: CancellationToken::new(),
            freshness: None,
        };
        Ok(Self { listener, address, ports, shared, silent })
    }

    /// Returns where the gateway really listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns where it listens beside, in the order of [`Config::ports`].
    pub fn ports(&self) -> Vec<SocketAddr> {
        self.ports.iter().filter_map(|(listener, _)| listener.local_addr().ok()).collect()
    }

    /// Returns the servers that its clients share, to look at.
    pub fn pools(&self) -> Pools {
        self.shared.pools.clone()
    }

    /// Returns what its clients do, to be watched.
    pub fn tally(&self) -> Tally {
        let Shared { sessions, pools, clock, .. } = &self.shared;
        Tally::new(sessions.clone(), pools.clone(), *clock)
    }

    /// Serves until `shutdown`; then ends idle sessions at once, the others as they become idle
    /// or after [`Config::shutdown_timeout`].
    pub async fn run(self, shutdown: CancellationToken) {
        let _pulses = pulse::listen(&self.shared.config, self.shared.routes.clone(), &self.silent);
        let pools = self.shared.pools.clone();
        let shared = Shared { shutdown: shutdown.clone(), ..self.shared };
        let ports = self.ports.into_iter().map(|(listener, freshness)| {
            listener::run(listener, Shared { freshness: Some(freshness), ..shared.clone() })
        });
        let ports = join_all(ports.collect::<Vec<_>>());
        tokio::join!(listener::run(self.listener, shared), ports, pools.sweep(&shutdown));
    }
}

impl Shared {
    /// Returns the routes as they are now.
    fn routes(&self) -> Arc<Routes> {
        self.routes.borrow().clone()
    }

    /// Returns whether `region` has stopped answering.
    fn is_silent(&self, region: &RegionId) -> bool {
        self.silent.borrow().contains(region)
    }

    /// Returns how to reach PostgreSQL in `region`: ours directly, others through their gateway.
    fn target(&self, region: &RegionId) -> Option<&Target> {
        if *region == self.config.region {
            Some(&self.config.local)
        } else {
            self.config.peers.get(region)
        }
    }
}
