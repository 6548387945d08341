//! Who is at the other end, and who else can read along?
//!
//! Agents, the embedded directory and commands show each other certificates of one authority, and
//! speak in TLS 1.3 only. Whoever connects also wants the name of the address that it connects to.
//!
//! **Invariant:** new files are taken up at the next connection, and those that do not go together,
//! or cannot be read, never take the place of those that do.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use domicile_core::config::{Config, MutualTls};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use time::OffsetDateTime;

pub mod authority;
mod ends;
mod watch;

pub use ends::{channel, incoming};
pub use watch::watch;

/// HTTP/2, which is all that is spoken over these connections.
const ALPN: &[u8] = b"h2";

/// What this process shows of itself, and whom it trusts.
pub struct Credentials {
    files: MutualTls,
    state: Mutex<State>,
}

struct State {
    stamps: Stamps,
    loaded: Loaded,
    /// Why the files as they are now cannot be used.
    fault: Option<String>,
}

/// When each file was changed last; `None` where it is not there.
type Stamps = [Option<SystemTime>; 3];

#[derive(Clone)]
pub struct Loaded {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
    /// When our own certificate ends.
    pub ends: OffsetDateTime,
}

impl Credentials {
    /// Returns what the configuration names; `None` where it names nothing, and all is sent in the
    /// clear.
    pub fn of(config: &Config) -> anyhow::Result<Option<Arc<Self>>> {
        config.tls.as_ref().map(|files| Self::open(files).map(Arc::new)).transpose()
    }

    pub fn open(files: &MutualTls) -> anyhow::Result<Self> {
        // Before they are read: what changes meanwhile is read again.
        let stamps = stamps(files);
        let loaded = load(files)?;
        Ok(Self { files: files.clone(), state: Mutex::new(State { stamps, loaded, fault: None }) })
    }

    /// Returns what holds now, and why the newest files do not.
    pub fn current(&self) -> (Loaded, Option<String>) {
        let mut state = self.lock();
        let stamps = stamps(&self.files);
        if stamps != state.stamps {
            state.stamps = stamps;
            match load(&self.files) {
                Ok(loaded) => {
                    tracing::info!(ends = %loaded.ends, "a new certificate is shown from now on");
                    (state.loaded, state.fault) = (loaded, None);
                }
                Err(error) => state.fault = Some(format!("{error:#}")),
            }
        }
        (state.loaded.clone(), state.fault.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamps(files: &MutualTls) -> Stamps {
    let paths = [&files.ca, &files.identity.certificate, &files.identity.key];
    paths.map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
}

fn load(files: &MutualTls) -> anyhow::Result<Loaded> {
    let roots = Arc::new(roots(&files.ca)?);
    let chain = certificates("tls.certificate", &files.identity.certificate)?;
    let ends = ends_at(&chain[0])
        .with_context(|| format!("tls.certificate: read {}", files.identity.certificate))?;
    let path = &files.identity.key;
    let key =
        || PrivateKeyDer::from_pem_file(path).with_context(|| format!("tls.key: read {path}"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mismatch = || format!("tls.key: {path} and tls.certificate do not go together");
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain.clone(), key()?)
        .with_context(mismatch)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key()?)
        .with_context(mismatch)?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    server.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Loaded { client: Arc::new(client), server: Arc::new(server), ends })
}

fn roots(path: &str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls.ca", path)? {
        roots.add(certificate).with_context(|| format!("tls.ca: {path}"))?;
    }
    Ok(roots)
}

/// At least one.
fn certificates(key: &str, path: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
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
    let identity =
        domicile_core::config::Identity { certificate: text(certificate), key: text(key) };
    MutualTls { ca: text(ca), identity }
}

#[cfg(test)]
mod tests;
