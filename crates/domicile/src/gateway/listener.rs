//! How are connections taken, counted, and ended at the end?
//!
//! Nothing that a client does ends the listener: each connection is a task of its own.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Shared, door};
use crate::keepalive;

/// Beside the clients that may be served there is room for so many that have not said who they are, or are other
/// gateways, or are just told why they are not served. Beyond, connections are closed without a word.
const OTHERS_MAX: usize = 10_000;
/// After a failed accept (no file descriptors left, say) the next try waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub async fn run(listener: TcpListener, shared: Shared) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a session of the gateway broke off");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => take(stream, address, &mut connections, &shared),
                Err(error) => {
                    tracing::warn!(%error, "the gateway failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(shared.config.shutdown_timeout, all_ended).await.is_err() {
        tracing::info!(sessions = connections.len(), "sessions are cut off as the gateway stops");
    }
}

fn take(stream: TcpStream, address: SocketAddr, connections: &mut JoinSet<()>, shared: &Shared) {
    if let Err(error) = keepalive::set(&stream) {
        tracing::debug!(%error, "a client was gone before it was served");
        return;
    }
    if connections.len() < shared.config.admission.limits.connections + OTHERS_MAX {
        connections.spawn(door::serve(stream, address, shared.clone()));
    }
}
