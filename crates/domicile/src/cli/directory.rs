//! How does one run the embedded directory, and leave it for etcd?

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use domicile_core::config::{self, Config};

use super::lifetime::Lifetime;
use super::outside::ask_all;
use super::{Context, Exit, UsageError};
use crate::directory::server::{self, DirectoryConfig};
use crate::directory::{Client, relocate};
use crate::notices::Notices;
use crate::settings;
use crate::tls::{self, Credentials};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Serves until it gets SIGTERM or SIGINT. Address and folder are
directory.address and directory.data of the configuration.

Example:
  domicile --config /etc/domicile.toml directory"
)]
pub struct Directory {
    #[command(subcommand)]
    command: Option<DirectoryCommand>,
    /// Listen here instead of at directory.address
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    #[command(flatten)]
    lifetime: Lifetime,
}

#[derive(Debug, Subcommand)]
enum DirectoryCommand {
    /// Move everything from the embedded directory to etcd, while no agent runs
    Migrate(Migrate),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Stop all agents first; the embedded directory runs. It is closed, so that nobody writes there any
more, every document is copied, and what arrived is compared. What breaks off goes on when the command
is given again. Then start the agents with the new file.

Example:
  domicile --config old.toml directory migrate --to new.toml"
)]
struct Migrate {
    /// The configuration as it will be: the same, but for [directory]
    #[arg(long, value_name = "FILE", required_unless_present = "call_off")]
    to: Option<PathBuf>,
    /// Open the embedded directory again, if not everything has moved yet
    #[arg(long, conflicts_with = "to")]
    call_off: bool,
}

impl Directory {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let (address, data) = match &config.directory {
            config::Directory::Embedded { address, data } => (address, data),
            config::Directory::Etcd(etcd) => bail!(
                "directory.endpoints names etcd at {}: there is no embedded directory",
                etcd.endpoints.join(", ")
            ),
        };
        if let Some(DirectoryCommand::Migrate(migrate)) = &self.command {
            return migrate.run(&config, context).await;
        }
        let listen = resolve(self.listen.as_deref().unwrap_or(address)).await?;
        let credentials = Credentials::of(&config)?;
        let config = DirectoryConfig { listen, data: data.into(), credentials };
        let listener = config.bind().await?;
        let shutdown = self.lifetime.token()?;
        if let Some(credentials) = config.credentials.clone() {
            // It has no status of its own: its log has it.
            let notices = Notices::default();
            tokio::spawn(tls::watch(credentials, "agents", notices, shutdown.clone()));
        }
        server::serve(config, listener, shutdown).await.map(|()| Exit::Done)
    }
}

impl Migrate {
    async fn run(&self, config: &Config, context: &Context) -> anyhow::Result<Exit> {
        let from = Client::open(config)?;
        let Some(to) = &self.to else {
            relocate::call_off(&from).await?;
            context.output.print("the embedded directory is open again")?;
            return Ok(Exit::Done);
        };
        let next = settings::load(to)?;
        if !matches!(next.directory, config::Directory::Etcd(_)) || next.cluster != config.cluster {
            let text = format!(
                "{} must be of cluster \"{}\" and have directory.endpoints",
                to.display(),
                config.cluster
            );
            return Err(UsageError(text).into());
        }
        let statuses = ask_all(config).await;
        let running: Vec<String> = statuses
            .iter()
            .filter(|(_, status)| status.is_ok())
            .map(|(region, _)| region.to_string())
            .collect();
        if !running.is_empty() {
            let text = format!("agents still run: stop those of {}", running.join(", "));
            match context.output.is_json() {
                true => context.output.print_json(&serde_json::json!({ "refused": text }))?,
                false => context.output.print(&text)?,
            }
            return Ok(Exit::Refused);
        }
        let documents = relocate::relocate(&from, &Client::open(&next)?).await?;
        match context.output.is_json() {
            true => context.output.print_json(&serde_json::json!({ "documents": documents }))?,
            false => context.output.print(&format!(
                "{documents} documents have moved; start the agents with {} now",
                to.display()
            ))?,
        }
        Ok(Exit::Done)
    }
}

async fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let found = tokio::net::lookup_host(address).await;
    let found = found.with_context(|| format!("look up {address}"))?.next();
    found.with_context(|| format!("look up {address}: it has no address"))
}
