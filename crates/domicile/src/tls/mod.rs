//! Who is at the other end, and who else can read along?
//!
//! Agents, the embedded directory and commands show each other certificates of one authority, and
//! speak in TLS 1.3 only. Whoever connects also wants the name of the address that it connects to.
//!
//! A gateway shows its clients another certificate, and wants none of theirs: PostgreSQL asks who they are.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use domicile_core::config::{Config, Identity, MutualTls};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use time::OffsetDateTime;

pub mod authority;
mod ends;
mod files;
mod watch;

pub use ends::{channel, incoming};
pub use files::{Ends, Files};
pub use watch::watch;

/// HTTP/2, which is all that is spoken over these connections.
const ALPN: &[u8] = b"h2";

/// Between gateways, so that a gateway knows its like from a client.
pub const HOP_ALPN: &[u8] = b"domicile-hop";

/// What this process shows of itself, and whom it trusts.
pub type Credentials = Files<Loaded>;

#[derive(Clone)]
pub struct Loaded {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
    /// The same between gateways.
    pub hop: Hop,
    /// When our own certificate ends.
    pub ends: OffsetDateTime,
}

#[derive(Clone)]
pub struct Hop {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
}

impl Ends for Loaded {
    fn ends(&self) -> Option<OffsetDateTime> {
        Some(self.ends)
    }
}

impl Credentials {
    /// Returns what the configuration names; `None` where it names nothing, and all is sent in the
    /// clear.
    pub fn of(config: &Config) -> anyhow::Result<Option<Arc<Self>>> {
        config.tls.as_ref().map(|files| Self::open(files).map(Arc::new)).transpose()
    }

    pub fn open(files: &MutualTls) -> anyhow::Result<Self> {
        let Identity { certificate, key } = &files.identity;
        let paths = vec![files.ca.clone(), certificate.clone(), key.clone()];
        let files = files.clone();
        Self::read(paths, move || load(&files))
    }
}

fn load(files: &MutualTls) -> anyhow::Result<Loaded> {
    let roots = Arc::new(roots("tls.ca", &files.ca)?);
    let (chain, key, ends) = identity(["tls.certificate", "tls.key"], &files.identity)?;
    let path = &files.identity.key;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mismatch = || format!("tls.key: {path} and tls.certificate do not go together");
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain.clone(), key.clone_key())
        .with_context(mismatch)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .with_context(mismatch)?;
    let (mut hop_client, mut hop_server) = (client.clone(), server.clone());
    hop_client.alpn_protocols = vec![HOP_ALPN.to_vec()];
    hop_server.alpn_protocols = vec![HOP_ALPN.to_vec()];
    let hop = Hop { client: Arc::new(hop_client), server: Arc::new(hop_server) };
    client.alpn_protocols = vec![ALPN.to_vec()];
    server.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Loaded { client: Arc::new(client), server: Arc::new(server), hop, ends })
}

/// What a gateway or a door shows its clients.
pub type Shown = Files<ForClients>;

#[derive(Clone)]
pub struct ForClients {
    pub server: Arc<ServerConfig>,
    /// Ours, without those that signed it.
    pub certificate: CertificateDer<'static>,
    pub ends: OffsetDateTime,
}

impl Ends for ForClients {
    fn ends(&self) -> Option<OffsetDateTime> {
        Some(self.ends)
    }
}

/// What is spoken with clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Postgres,
    Http,
}

impl Protocol {
    /// What clients say before (PostgreSQL's: 17 and newer, those that begin with TLS at once).
    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Postgres => vec![b"postgresql".to_vec()],
            Self::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }

    /// The keys of the configuration.
    fn keys(self) -> [&'static str; 2] {
        match self {
            Self::Postgres => ["gateway.certificate", "gateway.key"],
            Self::Http => ["http.certificate", "http.key"],
        }
    }
}

impl Shown {
    pub fn open_shown(identity: &Identity, protocol: Protocol) -> anyhow::Result<Self> {
        let paths = vec![identity.certificate.clone(), identity.key.clone()];
        let identity = identity.clone();
        Self::read(paths, move || load_shown(&identity, protocol))
    }
}

fn load_shown(shown: &Identity, protocol: Protocol) -> anyhow::Result<ForClients> {
    let [named, key] = protocol.keys();
    let (chain, secret, ends) = identity([named, key], shown)?;
    let certificate = chain[0].clone();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .with_context(|| format!("{key}: {} and {named} do not go together", shown.key))?;
    server.alpn_protocols = protocol.alpn();
    Ok(ForClients { server: Arc::new(server), certificate, ends })
}

/// Reads those who may sign, from a file that `key` names.
pub fn roots(key: &str, path: &str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, path)? {
        roots.add(certificate).with_context(|| format!("{key}: {path}"))?;
    }
    Ok(roots)
}

/// Returns whom this machine's system trusts.
pub fn roots_of_the_system() -> anyhow::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        bail!("the system trusts no authority{why}");
    }
    Ok(roots)
}

/// Reads what is shown of oneself, and when it ends, from files that these keys name.
pub fn identity(
    [certificate, key]: [&str; 2],
    files: &Identity,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, OffsetDateTime)> {
    let chain = certificates(certificate, &files.certificate)?;
    let ends =
        ends_at(&chain[0]).with_context(|| format!("{certificate}: read {}", files.certificate))?;
    let secret = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("{key}: read {}", files.key))?;
    Ok((chain, secret, ends))
}

/// At least one.
pub fn certificates(key: &str, path: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.with_context(|| format!("{key}: read {path}"))?;
    if certificates.is_empty() {
        bail!("{key}: {path} holds no certificate in PEM");
    }
    Ok(certificates)
}

fn ends_at(certificate: &CertificateDer<'_>) -> anyhow::Result<OffsetDateTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)?;
    Ok(parsed.validity().not_after.to_datetime())
}

/// Says where somebody finds the files, in the way of [`MutualTls`].
pub fn files(ca: &Path, certificate: &Path, key: &Path) -> MutualTls {
    let text = |path: &Path| path.display().to_string();
    let identity = Identity { certificate: text(certificate), key: text(key) };
    MutualTls { ca: text(ca), identity }
}

#[cfg(test)]
mod tests;
