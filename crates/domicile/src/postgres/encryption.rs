//! How does a connection to PostgreSQL become one that nobody reads along with?
//!
//! One handshake for all who connect: sessions (through tokio-postgres), replication, and the gateway for
//! its clients. Nothing that came before it is taken for something that came encrypted.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as Waker, Poll};
use std::time::Duration;

use anyhow::Context as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_postgres::config::SslNegotiation;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::{TlsConnector, client};

use super::database::{Database, Root, SslMode, Tls};
use crate::tls::{self, Ends, Files};
use domicile_pg::startup;

/// What PostgreSQL calls its protocol since 17; others do not mind.
const ALPN: &[u8] = b"postgresql";
/// A server that has accepted encryption and does not go on is as good as gone.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// What the files of a connection string come to.
#[derive(Clone)]
pub struct Loaded {
    client: Arc<ClientConfig>,
    /// When the certificate that is shown ends, if one is.
    ends: Option<OffsetDateTime>,
}

impl Ends for Loaded {
    fn ends(&self) -> Option<OffsetDateTime> {
        self.ends
    }
}

/// The files behind each setting that was used so far. Whoever connects by the same one shares what was
/// read, so that files which do not go together replace nothing for anybody.
static SHARED: Mutex<Vec<(Tls, Arc<Files<Loaded>>)>> = Mutex::new(Vec::new());

impl Tls {
    /// Returns the files to connect by; `None` where nothing is encrypted.
    pub fn files(&self) -> anyhow::Result<Option<Arc<Files<Loaded>>>> {
        if self.mode == SslMode::Disable {
            return Ok(None);
        }
        // Only what is whole is pushed.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, files)) = shared.iter().find(|(tls, _)| tls == self) {
            return Ok(Some(files.clone()));
        }
        let mut paths = Vec::new();
        if let Some(Root::File(path)) = &self.root {
            paths.push(path.clone());
        }
        if let Some(identity) = &self.identity {
            paths.extend([identity.certificate.clone(), identity.key.clone()]);
        }
        let tls = self.clone();
        let files = Arc::new(Files::read(paths, move || load(&tls))?);
        shared.push((self.clone(), files.clone()));
        Ok(Some(files))
    }
}

fn load(tls: &Tls) -> anyhow::Result<Loaded> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let trust = match &tls.root {
        None => None,
        Some(Root::File(path)) => Some(Trust {
            roots: tls::roots("sslrootcert", path)?,
            given: tls::certificates("sslrootcert", path)?,
        }),
        Some(Root::System) => {
            let roots = tls::roots_of_the_system().context("sslrootcert=system")?;
            Some(Trust { roots, given: Vec::new() })
        }
    };
    let verifier = Verifier {
        trust,
        named: tls.mode == SslMode::VerifyFull,
        algorithms: provider.signature_verification_algorithms,
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let (mut client, ends) = match &tls.identity {
        None => (config.with_no_client_auth(), None),
        Some(identity) => {
            let keys = ["sslcert", "sslkey"];
            let (chain, secret, ends) = tls::identity(keys, identity)?;
            let client = config.with_client_auth_cert(chain, secret).with_context(|| {
                format!("sslkey: {} and sslcert do not go together", identity.key)
            })?;
            (client, Some(ends))
        }
    };
    client.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Loaded { client: Arc::new(client), ends })
}

/// Believes what the mode of the connection asks for, and no less.
#[derive(Debug)]
struct Verifier {
    /// Without any, anybody is believed: that keeps out who reads along, not who stands between.
    trust: Option<Trust>,
    /// Whether the certificate has to name the host.
    named: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    /// The certificates that were given as roots. A server may show one of them itself, also where it says
    /// that it is an authority's, as one does that signs itself.
    given: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn verify_chain(
        &self,
        trust: &Trust,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if trust.given.iter().any(|given| given == shown) {
            return verify_time(shown, now);
        }
        let shown = ParsedCertificate::try_from(shown)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &shown,
            &trust.roots,
            intermediates,
            now,
            algorithms,
        )
    }
}

/// Checks what is left to check of a certificate that is trusted as it is.
fn verify_time(certificate: &CertificateDer<'_>, time: UnixTime) -> Result<(), rustls::Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
    let at = |time: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    };
    let validity = parsed.validity();
    let (not_before, not_after) = (at(validity.not_before), at(validity.not_after));
    if time < not_before {
        return Err(CertificateError::NotValidYetContext { time, not_before }.into());
    }
    if time > not_after {
        return Err(CertificateError::ExpiredContext { time, not_after }.into());
    }
    Ok(())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trust) = &self.trust {
            self.verify_chain(trust, shown, intermediates, now)?;
            if self.named {
                verify_server_name(&ParsedCertificate::try_from(shown)?, host)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    // Whoever is believed must hold the key of what it shows: a password is bound to that.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// How the next connections to a database are made. What its files hold is as of when it was asked for.
#[derive(Clone, Debug)]
pub struct Encryption {
    mode: SslMode,
    at_once: bool,
    client: Option<Arc<ClientConfig>>,
}

impl Database {
    pub fn encryption(&self) -> anyhow::Result<Encryption> {
        Ok(Encryption {
            mode: self.tls.mode,
            at_once: self.config.get_ssl_negotiation() == SslNegotiation::Direct,
            client: self.tls.files()?.map(|files| files.current().0.client),
        })
    }
}

impl Encryption {
    /// Begins a connection to `host`, on which nothing was said yet.
    pub async fn begin<S>(&self, mut socket: S, host: &str) -> io::Result<Secured<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(client) = &self.client else { return Ok(Secured::Clear(socket)) };
        let begun = async {
            if self.at_once || self.is_accepted(&mut socket).await? {
                let shaken = shake(client.clone(), host, socket).await?;
                return Ok(Secured::Encrypted(Box::new(shaken)));
            }
            Ok(Secured::Clear(socket))
        };
        let begun = tokio::time::timeout(HANDSHAKE_MAX, begun).await;
        begun.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Asks the server. Its answer is one byte, and no more is read here: what lies behind it has to be
    /// the server's part of the handshake, or there is none.
    async fn is_accepted(
        &self,
        socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> io::Result<bool> {
        let mut request = bytes::BytesMut::new();
        startup::put_ssl_request(&mut request);
        socket.write_all(&request).await?;
        match socket.read_u8().await? {
            startup::ENCRYPTION_ACCEPTED => Ok(true),
            startup::ENCRYPTION_REFUSED if self.mode == SslMode::Prefer => Ok(false),
            startup::ENCRYPTION_REFUSED => Err(io::Error::other(format!(
                "the server does not speak TLS, and sslmode={} demands it",
                self.mode
            ))),
            // An error's text could be anybody's.
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the answer to a request for encryption is none of PostgreSQL's",
            )),
        }
    }

    /// The same for [`tokio_postgres::Config::connect`].
    pub fn connector(self) -> Connector {
        Connector { client: self.client }
    }
}

async fn shake<S>(client: Arc<ClientConfig>, host: &str, socket: S) -> io::Result<Encrypted<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = match host.parse::<IpAddr>() {
        Ok(address) => ServerName::from(address),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
    };
    let shaken =
        tokio::time::timeout(HANDSHAKE_MAX, TlsConnector::from(client).connect(name, socket));
    Ok(Encrypted(shaken.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?))
}

/// A connection that has begun.
pub enum Secured<S> {
    Clear(S),
    Encrypted(Box<Encrypted<S>>),
}

/// A connection that nobody reads along with.
pub struct Encrypted<S>(client::TlsStream<S>);

impl<S> Encrypted<S> {
    /// Returns what the server has shown.
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        let (_, connection) = self.0.get_ref();
        Some(connection.peer_certificates()?.first()?.clone().into_owned())
    }

    /// Returns what a login over this connection can be bound to (RFC 5929, `tls-server-end-point`);
    /// `None` where it is not defined for such a certificate.
    pub fn binding(&self) -> Option<Vec<u8>> {
        end_point(&self.certificate()?)
    }
}

/// Hashes a certificate by what it is signed with.
fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    match parsed.signature_algorithm.algorithm.to_id_string().as_str() {
        // RSA and ECDSA. MD5 and SHA-1 are too weak to be used again.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Some(Sha256::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => {
            Some(Sha224::digest(certificate).to_vec())
        }
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => {
            Some(Sha384::digest(certificate).to_vec())
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => {
            Some(Sha512::digest(certificate).to_vec())
        }
        _ => None,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Waker<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Waker<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.binding().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

/// What tokio-postgres encrypts its connections with.
#[derive(Clone)]
pub struct Connector {
    client: Option<Arc<ClientConfig>>,
}

/// The same for one connection.
pub struct Handshake {
    client: Option<Arc<ClientConfig>>,
    host: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Connector {
    type Stream = Encrypted<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        Ok(Handshake { client: self.client.clone(), host: host.to_owned() })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, socket: S) -> Self::Future {
        Box::pin(async move {
            let client = self.client.ok_or_else(|| io::Error::other("TLS is switched off"))?;
            shake(client, &self.host, socket).await
        })
    }
}

#[cfg(test)]
mod tests;
