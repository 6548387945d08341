//! The two ends of an encrypted connection: who connects, and who is connected to.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::Credentials;
use crate::complain::Complaint;

/// Whoever does not show a certificate within this is not waited for.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Handshakes under way; more wait in the system's queue.
const HANDSHAKES_MAX: usize = 64;
/// After the system had no connection to give, as where files are used up.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Returns a channel that connects at its first call, in the clear where there are no credentials.
pub fn channel(endpoint: &Endpoint, credentials: Option<&Arc<Credentials>>) -> Channel {
    let Some(credentials) = credentials.cloned() else { return endpoint.connect_lazy() };
    endpoint.connect_with_connector_lazy(service_fn(move |uri| connect(credentials.clone(), uri)))
}

pub(super) async fn connect(
    credentials: Arc<Credentials>,
    uri: Uri,
) -> io::Result<TokioIo<client::TlsStream<TcpStream>>> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let name = match host.parse::<IpAddr>() {
        Ok(address) => ServerName::from(address),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
    };
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or_default())).await?;
    stream.set_nodelay(true)?;
    let (loaded, _) = credentials.current();
    let connector = TlsConnector::from(loaded.client);
    Ok(TokioIo::new(connector.connect(name, stream).await?))
}

/// Returns the connections of those who showed a certificate of our authority.
///
/// One that does not, or takes too long, is closed and holds nobody up.
pub fn incoming(
    listener: TcpListener,
    credentials: Arc<Credentials>,
) -> impl Stream<Item = io::Result<server::TlsStream<TcpStream>>> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(accept(listener, credentials, sender));
    ReceiverStream::new(receiver)
}

async fn accept(
    listener: TcpListener,
    credentials: Arc<Credentials>,
    sender: mpsc::Sender<io::Result<server::TlsStream<TcpStream>>>,
) {
    let room = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut complaint = Complaint::default();
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                complaint.warn("no connection is accepted", &error.into());
                tokio::time::sleep(RETRY_AFTER).await;
                continue;
            }
        };
        let (loaded, _) = credentials.current();
        let sender = sender.clone();
        tokio::spawn(async move {
            let shaken = handshake(stream, TlsAcceptor::from(loaded.server)).await;
            drop(place);
            match shaken {
                // Nobody takes it any more at the end.
                Ok(stream) => drop(sender.send(Ok(stream)).await),
                Err(error) => tracing::info!(%from, "a connection is refused: {error}"),
            }
        });
    }
}

async fn handshake(
    stream: TcpStream,
    acceptor: TlsAcceptor,
) -> io::Result<server::TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let shaken = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await;
    shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
