//! Region to region: ship logs, seal, fetch rows, ask how things are.
//!
//! A region pulls the log of every other origin, from its home or, when that is gone, from any
//! survivor that holds it.

pub mod arrival;
pub mod client;
pub mod compare;
pub mod intake;
pub mod mark;
pub mod outcome;
pub mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::config::Config;
use domicile_core::id::{Epoch, PartitionRange, RegionId};
use tonic::transport::{Channel, Endpoint};

use crate::proto::peer_client::PeerClient;
use crate::proto::seal_request::Epochs;
use crate::tls::{self, Credentials};

/// A peer that sends nothing for this long is gone: it sends a heartbeat every
/// [`HEARTBEAT_EVERY`].
pub const SILENCE_MAX: Duration = Duration::from_millis(1500);
pub const HEARTBEAT_EVERY: Duration = Duration::from_millis(250);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Enough for the bandwidth-delay product of a fast ocean link.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// A record is at most 1 GiB; a message carries one at least.
pub const MESSAGE_BYTES_MAX: usize = (1 << 30) + (1 << 20);

pub type Client = PeerClient<Channel>;

/// Opens connections to the agents of all others that hold logs: regions and witnesses.
pub fn channels(
    config: &Config,
    here: &RegionId,
    credentials: Option<&Arc<Credentials>>,
) -> anyhow::Result<BTreeMap<RegionId, Client>> {
    let others = config.holders().filter(|(holder, _)| *holder != here);
    others.map(|(holder, address)| Ok((holder.clone(), channel(address, credentials)?))).collect()
}

/// Opens a connection to the agent at `address`, lazily: the first call connects.
pub fn channel(address: &str, credentials: Option<&Arc<Credentials>>) -> anyhow::Result<Client> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true);
    Ok(PeerClient::new(tls::channel(&endpoint, credentials))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}

/// Leaves out what is no range.
pub fn lift_epochs(epochs: &[Epochs]) -> Vec<(PartitionRange, Epoch)> {
    let ranges = epochs.iter().filter(|e| e.first <= e.last);
    ranges.map(|e| (PartitionRange::new(e.first, e.last), Epoch(e.epoch))).collect()
}

pub fn lower_epochs(epochs: &[(PartitionRange, Epoch)]) -> Vec<Epochs> {
    let lower = |(range, epoch): &(PartitionRange, Epoch)| Epochs {
        first: range.first,
        last: range.last,
        epoch: epoch.0,
    };
    epochs.iter().map(lower).collect()
}
