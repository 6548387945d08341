//! Who speaks TLS with a gateway, and as what?
//!
//! Clients are shown a certificate and show none: PostgreSQL asks who they are. Gateways show each other
//! the certificates of the cluster, and say so before (ALPN): only who has shown one counts as a gateway.
//! PostgreSQL is shown nothing, or clients could log in with what is the agent's.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, server};

use super::link::Link;
use crate::postgres::database::Database;
use crate::postgres::encryption::Secured;
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
    /// How the region's own PostgreSQL is reached. Nothing is shown to it: whoever logs in over such a
    /// connection is not us.
    pub database: Option<Arc<Database>>,
}

/// Somebody who has come in over TLS.
pub struct Accepted<S> {
    pub socket: server::TlsStream<S>,
    pub other: Other,
    /// What a client was shown.
    pub certificate: Option<CertificateDer<'static>>,
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
    pub async fn accept<S>(&self, socket: S) -> io::Result<Accepted<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let hello = begun.client_hello();
        let is_hop = hello.alpn().is_some_and(|mut names| names.any(|name| name == tls::HOP_ALPN));
        let (config, other, certificate) = match (is_hop, &self.gateways, &self.clients) {
            (true, Some(gateways), _) => (gateways.current().0.hop.server, Other::Gateway, None),
            (false, _, Some(clients)) => {
                let (shown, _) = clients.current();
                (shown.server, Other::Client, Some(shown.certificate))
            }
            _ => return Err(io::Error::other("there is no certificate to show to such a client")),
        };
        Ok(Accepted { socket: begun.into_stream(config).await?, other, certificate })
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

    /// Encrypts a connection to the region's own PostgreSQL, as its connection string says.
    pub async fn reach(&self, stream: TcpStream, host: &str) -> io::Result<Link> {
        let Some(database) = &self.database else { return Ok(Link::new(stream)) };
        let encryption =
            database.encryption().map_err(|error| io::Error::other(format!("{error:#}")))?;
        Ok(match encryption.begin(stream, host).await? {
            Secured::Clear(stream) => Link::new(stream),
            Secured::Encrypted(stream) => {
                let certificate = stream.certificate();
                let mut link = Link::new(*stream);
                link.certificate = certificate;
                link
            }
        })
    }
}
