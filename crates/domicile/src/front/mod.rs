//! The door of a region for HTTP: whole requests come to it, and each is answered by the application of one region.
//!
//! ```text
//! client ──> listener ──> visit (one request) ──> the application here
//!                           ^    │
//!                    replay └────┴─────────────> another region's door ──> the application there
//! ```
//!
//! A transaction of many statements crosses the ocean once, as a request, and not once for each of them. Where to go is
//! decided in `core::front`. Bodies pass as they come, both ways.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::config::Http;
use domicile_core::id::RegionId;
use domicile_core::partition::Layout;
use domicile_core::route::Routes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod answer;
mod body;
mod headers;
mod health;
mod listener;
mod tally;
mod tunnel;
mod upstream;
mod visit;

pub use body::Room;
pub use health::Health;
pub use listener::serve;
pub use tally::Tally;
pub use upstream::Upstream;

use crate::clock::Clock;
use crate::gateway::Secure;

/// After that an owner is looked for again, though nothing is known to have changed.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What all requests that come to a region have in common.
pub struct Door {
    pub region: RegionId,
    pub cluster: String,
    /// All of them, in the order of the configuration.
    pub regions: Vec<RegionId>,
    pub layout: Layout,
    pub config: Http,
    pub secure: Secure,
    /// The application here, and the doors of the others.
    pub upstreams: BTreeMap<RegionId, Upstream>,
    pub health: Health,
    pub tally: Tally,
    pub room: Room,
    pub routes: watch::Receiver<Arc<Routes>>,
    pub clock: Clock,
    pub shutdown: CancellationToken,
    pub shutdown_timeout: Duration,
}
