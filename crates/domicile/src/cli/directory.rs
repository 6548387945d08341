//! How does one run the embedded directory?

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use clap::Args;
use domicile_core::config;

use super::lifetime::Lifetime;
use super::{Context, Exit};
use crate::directory::server::{self, DirectoryConfig};

#[derive(Debug, Args)]
#[command(after_help = "Serves until it gets SIGTERM or SIGINT. Address and folder are
directory.address and directory.data of the configuration.

Example:
  domicile --config /etc/domicile.toml directory")]
pub struct Directory {
    /// Listen here instead of at directory.address
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    #[command(flatten)]
    lifetime: Lifetime,
}

impl Directory {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (address, data) = match context.config()?.directory {
            config::Directory::Embedded { address, data } => (address, data),
            config::Directory::Etcd(etcd) => bail!(
                "directory.endpoints names etcd at {}: there is no embedded directory to run",
                etcd.endpoints.join(", ")
            ),
        };
        let listen = resolve(self.listen.as_deref().unwrap_or(&address)).await?;
        let config = DirectoryConfig { listen, data: data.into() };
        let listener = config.bind().await?;
        let shutdown = self.lifetime.token()?;
        server::serve(config, listener, shutdown).await.map(|()| Exit::Done)
    }
}

async fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let found = tokio::net::lookup_host(address).await;
    let found = found.with_context(|| format!("look up {address}"))?.next();
    found.with_context(|| format!("look up {address}: it has no address"))
}
