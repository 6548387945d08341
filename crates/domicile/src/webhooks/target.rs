//! Where does a webhook's message go, and what has its sender to show?
//!
//! Secrets are read when they are used: a new file holds from the next message on. None of them is told in
//! an error, nor is an address that is kept elsewhere.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use domicile_core::config::{Secret, Url, Webhook};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Uri, http::uri::Scheme};
use rustls::ClientConfig;

use crate::tls;

/// By which receivers know a message that they have had already.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What every message has, and what says where it ends.
const OURS: &[&str] = &[
    "connection",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "transfer-encoding",
    "user-agent",
];

/// What a webhook of the configuration comes to now.
pub struct Target {
    pub address: Address,
    pub headers: HeaderMap,
    /// Absent where the address is `http://`.
    pub tls: Option<Arc<ClientConfig>>,
}

/// An `http://` or `https://` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub encrypted: bool,
    pub host: String,
    pub port: u16,
    /// As the header `Host` has them.
    pub host_and_port: String,
    /// With the query.
    pub path: String,
}

impl Target {
    pub async fn of(webhook: &Webhook) -> anyhow::Result<Self> {
        let address = match &webhook.url {
            Url::Given(text) => address(text),
            Url::Kept(secret) => address(&read(secret).await.context("url")?),
        };
        let address = address.map_err(|wrong| anyhow::anyhow!("url: {wrong}"))?;
        let mut headers = HeaderMap::new();
        for (name, secret) in &webhook.headers {
            let value = read(secret).await.with_context(|| format!("header {name}"))?;
            let value = HeaderValue::from_str(&value);
            let mut value = value.with_context(|| format!("header {name}"))?;
            value.set_sensitive(true);
            headers.insert(header(name).map_err(anyhow::Error::msg)?, value);
        }
        let tls = match address.encrypted {
            true => Some(Arc::new(client(webhook.ca.as_deref())?)),
            false => None,
        };
        Ok(Self { address, headers, tls })
    }
}

/// Reads an address, or says what is wrong with it without repeating it.
pub fn address(text: &str) -> Result<Address, String> {
    let uri: Uri = text.parse().map_err(|error| format!("not an address: {error}"))?;
    let expected = || "expected an address that begins with http:// or https://".to_owned();
    let encrypted = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        Some(scheme) if *scheme == Scheme::HTTP => false,
        _ => return Err(expected()),
    };
    let authority = uri.authority().filter(|authority| !authority.host().is_empty());
    let authority = authority.ok_or_else(expected)?;
    if authority.as_str().contains('@') {
        return Err("a user has no place in an address: use the header Authorization".to_owned());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Ok(Address { encrypted, host, port, host_and_port: authority.to_string(), path })
}

/// Reads a header's name, which is none of those that every message has.
pub fn header(name: &str) -> Result<HeaderName, String> {
    let header: HeaderName = name.parse().map_err(|_| format!("\"{name}\" is not a header"))?;
    if OURS.contains(&header.as_str()) {
        return Err(format!("{name}: every message has this header already"));
    }
    Ok(header)
}

/// Without the space around it: an editor puts a line feed at the end of a file.
async fn read(secret: &Secret) -> anyhow::Result<String> {
    let (text, place) = match secret {
        Secret::File(path) => {
            let text = tokio::fs::read_to_string(path).await;
            (text.with_context(|| format!("read {path}"))?, path)
        }
        Secret::Environment(name) => {
            let text = std::env::var(name);
            (text.with_context(|| format!("read the environment's {name}"))?, name)
        }
    };
    match text.trim() {
        "" => bail!("{place} is empty"),
        text => Ok(text.to_owned()),
    }
}

fn client(ca: Option<&str>) -> anyhow::Result<ClientConfig> {
    let roots = match ca {
        Some(path) => tls::roots("ca", path)?,
        None => tls::roots_of_the_system()?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config?.with_root_certificates(roots).with_no_client_auth())
}
