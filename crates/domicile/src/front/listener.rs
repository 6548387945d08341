//! How are connections taken, encrypted, counted, and ended at the end?
//!
//! Nothing that a client sends ends the listener: each connection is a task of its own, within limits.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{future, io};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::{Door, visit};
use crate::gateway::{Other, STARTUP_WAIT_MAX, Secure, Socket};
use crate::keepalive;

/// How many connections a door serves at once; more are closed.
const CONNECTIONS_MAX: usize = 10_000;
/// After a failed accept (no file descriptors left, say) the next try waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the head of a request may take, and a connection may be idle before it.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(30);
/// A head in HTTP/1.1 may be as long.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The same in HTTP/2.
const HEADERS_BYTES_MAX: u32 = 64 << 10;
/// Requests at once on one connection in HTTP/2.
const STREAMS_MAX: u32 = 100;
/// A connection in HTTP/2 that nothing is heard of for so long is asked.
const PING_EVERY: Duration = Duration::from_secs(20);
/// The first byte of a handshake of TLS.
const HANDSHAKE: u8 = 0x16;

/// Who is at the other end of a connection.
#[derive(Clone)]
pub struct Guest {
    pub address: IpAddr,
    pub other: Other,
    /// Its place among [`CONNECTIONS_MAX`].
    pub place: Arc<OwnedSemaphorePermit>,
}

/// Serves until the door's shutdown; requests that are under way then have [`Door::shutdown_timeout`].
pub async fn serve(listener: TcpListener, door: Door) {
    let (door, room) = (Arc::new(door), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = door.shutdown.cancelled() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection of the door for HTTP broke off");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    let Ok(place) = room.clone().try_acquire_owned() else { continue };
                    // A socket for both families gives addresses of IPv4 as ones of IPv6.
                    let address = from.ip().to_canonical();
                    connections.spawn(connection(stream, address, place, door.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the door for HTTP failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(door.shutdown_timeout, all_ended).await.is_err() {
        tracing::info!(connections = connections.len(), "requests are cut off as the door closes");
    }
}

async fn connection(
    stream: TcpStream,
    address: IpAddr,
    place: OwnedSemaphorePermit,
    door: Arc<Door>,
) {
    let opened = tokio::time::timeout(STARTUP_WAIT_MAX, open(stream, &door.secure)).await;
    let (socket, other) = match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(%address, "a client of HTTP is not served: {error}");
            return;
        }
    };
    let guest = Guest { address, other, place: Arc::new(place) };
    let has_asked = AtomicBool::new(false);
    let service = service_fn(|request| {
        has_asked.store(true, Ordering::Relaxed);
        let (door, guest) = (door.clone(), guest.clone());
        async move { Ok::<_, Infallible>(visit::answer(&door, guest, request).await) }
    });
    let builder = builder();
    let served = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
    let mut served = std::pin::pin!(served);
    let silent = async {
        tokio::time::sleep(STARTUP_WAIT_MAX).await;
        if has_asked.load(Ordering::Relaxed) {
            future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = silent => return,
        () = door.shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, "a connection of HTTP broke off: {error}");
    }
}

/// Encrypts the connection if the client begins so.
async fn open(stream: TcpStream, secure: &Secure) -> io::Result<(Box<dyn Socket>, Other)> {
    keepalive::set(&stream)?;
    let mut first = [0];
    stream.peek(&mut first).await?;
    if first != [HANDSHAKE] || !secure.can_encrypt() {
        return Ok((Box::new(stream), Other::Clear));
    }
    let accepted = secure.accept(stream).await?;
    Ok((Box::new(accepted.socket), accepted.other))
}

/// HTTP/1.1 and HTTP/2, whichever the client begins with.
fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX);
    builder
}
