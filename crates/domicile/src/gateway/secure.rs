//! Who speaks TLS with a gateway, and as what?
//!
//! Clients are shown a certificate and show none: PostgreSQL asks who they are. Gateways show each other
//! the certificates of the cluster, and say so before (ALPN): only who has shown one counts as a gateway.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, server};

use super::link::Link;
use crate::tls::{self, Credentials, Shown};

/// What a gateway shows, and what it wants.
#[derive(Clone, Debug, Default)]
pub struct Secure {
    /// For clients; without it they speak in the clear.
    pub clients: Option<Arc<Shown>>,
    /// For other gateways; without it they speak in the clear.
    pub gateways: Option<Arc<Credentials>>,
    /// No session begins in the clear.
    pub required: bool,
}

/// Who is at the other end of a connection, and who else may read along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// Anybody, and anybody.
    Clear,
    /// Anybody, and nobody.
    Client,
    /// A gateway of this cluster, and nobody.
    Gateway,
}

impl Secure {
    /// Is there anything to show to whoever asks for encryption?
    pub fn can_encrypt(&self) -> bool {
        self.clients.is_some() || self.gateways.is_some()
    }

    /// Is it to be believed that a connection comes from another gateway, when it says so?
    pub fn believes(&self, other: Other) -> bool {
        other == Other::Gateway || self.gateways.is_none()
    }

    /// May a session begin with this one?
    pub fn admits(&self, other: Other) -> bool {
        !self.required || other != Other::Clear
    }

    /// Takes a handshake that the other side begins.
    pub async fn accept<S>(&self, socket: S) -> io::Result<(server::TlsStream<S>, Other)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let hello = begun.client_hello();
        let is_hop = hello.alpn().is_some_and(|mut names| names.any(|name| name == tls::HOP_ALPN));
        let (config, other) = match (is_hop, &self.gateways, &self.clients) {
            (true, Some(gateways), _) => (gateways.current().0.hop.server, Other::Gateway),
            (false, _, Some(clients)) => (clients.current().0.server, Other::Client),
            _ => return Err(io::Error::other("there is no certificate to show to such a client")),
        };
        Ok((begun.into_stream(config).await?, other))
    }

    /// Encrypts a connection to another gateway, whose certificate has to name `host`; leaves it as it is
    /// where the cluster has no certificates.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> io::Result<Link> {
        let Some(gateways) = &self.gateways else { return Ok(Link::new(stream)) };
        let name = match host.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        };
        let connector = TlsConnector::from(gateways.current().0.hop.client);
        Ok(Link::new(connector.connect(name, stream).await?))
    }
}
