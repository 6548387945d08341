//! How are connections taken, counted, and ended at the end?
//!
//! Nothing that a client does ends the listener: each connection is a task of its own.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{CONNECTIONS_MAX, SHUTDOWN_WAIT_MAX, Shared, door};

/// So many more connections are told why they are not served; beyond, they are just closed.
const REFUSALS_MAX: usize = 100;
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
                Ok((stream, _)) => take(stream, &mut connections, &shared),
                Err(error) => {
                    tracing::warn!(%error, "the gateway failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_WAIT_MAX, all_ended).await.is_err() {
        tracing::info!(sessions = connections.len(), "sessions are cut off as the gateway stops");
    }
}

fn take(stream: TcpStream, connections: &mut JoinSet<()>, shared: &Shared) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client was gone before it was served");
        return;
    }
    let shared = shared.clone();
    if connections.len() < CONNECTIONS_MAX {
        connections.spawn(door::serve(stream, shared));
    } else if connections.len() < CONNECTIONS_MAX + REFUSALS_MAX {
        connections.spawn(door::refuse(stream, shared));
    }
}
