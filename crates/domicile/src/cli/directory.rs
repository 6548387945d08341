//! How does one run the embedded directory?

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

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
}

impl Directory {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let directory = context.config()?.directory;
        let listen = resolve(self.listen.as_deref().unwrap_or(&directory.address)).await?;
        let config = DirectoryConfig { listen, data: directory.data.into() };
        let listener = config.bind().await?;
        let shutdown = CancellationToken::new();
        let signalled = cancel_on_signal(shutdown.clone())?;
        let served = server::serve(config, listener, shutdown).await;
        signalled.abort();
        served.map(|()| Exit::Done)
    }
}

async fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let found = tokio::net::lookup_host(address).await;
    let found = found.with_context(|| format!("look up {address}"))?.next();
    found.with_context(|| format!("look up {address}: it has no address"))
}

/// Cancels the token at the first SIGTERM or SIGINT.
pub(super) fn cancel_on_signal(
    token: CancellationToken,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
        token.cancel();
    }))
}
