//! How does one run the embedded directory, and leave it for etcd?

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use domicile_core::config::{self, Config, Etcd};
use domicile_core::id::RegionId;

use super::lifetime::Lifetime;
use super::outside::ask_all;
use super::{Context, Exit, UsageError};
use crate::directory::server::{self, DirectoryConfig};
use crate::directory::{Client, relocate};
use crate::notices::Notices;
use crate::settings;
use crate::status::RegionStatus;
use crate::tls::{self, Credentials};

/// Longest wait until agents go by the new directory: they hear of it at once.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

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
    /// Move everything from the embedded directory to etcd, while agents run or while none does
    Migrate(Migrate),
}

#[derive(Debug, Args)]
#[command(
    after_help = "While agents run: add directory.endpoints (and what goes with it) to [directory] of every
region's file, beside address and data, and start the agents again, one after the other. Then
give the command, with one of these files. The embedded directory is closed, every document is
copied, what arrived is compared, and all agents go over to etcd. Owners write on meanwhile, on
what their peers promise.

While none runs: give the new file, without address and data, with --to.

What breaks off goes on when the command is given again.

Examples:
  domicile --config both.toml directory migrate
  domicile --config old.toml directory migrate --to new.toml"
)]
struct Migrate {
    /// The configuration as it will be, where no agent runs: the same, but for [directory]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Open the embedded directory again, if not everything has moved yet
    #[arg(long, conflicts_with = "to")]
    call_off: bool,
}

impl Directory {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let (address, data) = match &config.directory {
            config::Directory::Embedded { address, data, .. } => (address, data),
            config::Directory::Etcd(etcd) => bail!(
                "directory.endpoints names etcd at {}: there is no embedded directory",
                etcd.endpoints.join(", ")
            ),
        };
        if let Some(DirectoryCommand::Migrate(migrate)) = &self.command {
            return migrate.run(&config, address, context).await;
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
    async fn run(&self, config: &Config, address: &str, context: &Context) -> anyhow::Result<Exit> {
        let from = Client::embedded_at(address, Credentials::of(config)?.as_ref())?;
        if self.call_off {
            relocate::call_off(&from).await?;
            context.output.print("the embedded directory is open again")?;
            return Ok(Exit::Done);
        }
        let etcd = self.destination(config)?;
        let statuses = ask_all(config).await;
        let against = match &self.to {
            Some(_) => running(&statuses),
            None => not_ready(&statuses),
        };
        if !against.is_empty() {
            match context.output.is_json() {
                true => context.output.print_json(&serde_json::json!({ "refused": against }))?,
                false => context.output.print(&against.join("\n"))?,
            }
            return Ok(Exit::Refused);
        }
        let to = Client::etcd(&etcd, &config.cluster)?;
        let documents = relocate::relocate(&from, &to).await?;
        let agents = statuses.values().filter(|status| status.is_ok()).count();
        if agents > 0 {
            let spinner = context.output.spinner("agents go over to etcd");
            let late = all_went_over(config).await;
            spinner.finish_and_clear();
            anyhow::ensure!(
                late.is_empty(),
                "{documents} documents have moved, and {} does not say that it goes by etcd: look at its log",
                late.join(", ")
            );
        }
        match context.output.is_json() {
            true => {
                let moved = serde_json::json!({ "documents": documents, "agents": agents });
                context.output.print_json(&moved)?;
            }
            false if agents > 0 => context.output.print(&format!(
                "{documents} documents have moved, and {agents} agents go by etcd: take address and data out of \
                 their [directory] now, and stop \"domicile directory\""
            ))?,
            false => context.output.print(&format!(
                "{documents} documents have moved; start the agents with directory.endpoints and without \
                 directory.address now"
            ))?,
        }
        Ok(Exit::Done)
    }

    /// The etcd that everything goes to.
    fn destination(&self, config: &Config) -> anyhow::Result<Etcd> {
        let Some(file) = &self.to else {
            return match &config.directory {
                config::Directory::Embedded { next: Some(etcd), .. } => Ok(etcd.clone()),
                _ => Err(UsageError(
                    "where to? Add directory.endpoints to the file of every region, beside directory.address; or \
                     stop all agents and give the new file with --to"
                        .to_owned(),
                )
                .into()),
            };
        };
        let next = settings::load(file)?;
        match next.directory {
            config::Directory::Etcd(etcd) if next.cluster == config.cluster => Ok(etcd),
            _ => {
                let text = format!(
                    "{} must be of cluster \"{}\" and have directory.endpoints and no directory.address",
                    file.display(),
                    config.cluster
                );
                Err(UsageError(text).into())
            }
        }
    }
}

type Statuses = BTreeMap<RegionId, Result<RegionStatus, String>>;

/// What agents know of the directory in memory does not pass over to other settings.
fn running(statuses: &Statuses) -> Vec<String> {
    let answered = statuses.iter().filter(|(_, status)| status.is_ok());
    let running: Vec<&str> = answered.map(|(holder, _)| holder.as_str()).collect();
    match running.is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "agents still run: stop those of {}, or have them go over: see \"domicile directory migrate --help\"",
            running.join(", ")
        )],
    }
}

/// Either all agents go over while they run, or none runs.
fn not_ready(statuses: &Statuses) -> Vec<String> {
    if statuses.values().all(Result::is_err) {
        return Vec::new();
    }
    let why = |status: &Result<RegionStatus, String>| match status {
        Err(silence) => Some(format!("does not answer, and others do: {silence}")),
        Ok(RegionStatus { directory_move: None, .. }) => Some(
            "has no directory.endpoints beside directory.address, or was not started since".into(),
        ),
        Ok(RegionStatus { directory_move: Some(move_), .. }) => {
            let why = move_.unreachable.as_ref();
            why.map(|why| format!("does not reach etcd: {why}"))
        }
    };
    let reasons = statuses.iter().filter_map(|(holder, status)| Some((holder, why(status)?)));
    reasons.map(|(holder, why)| format!("{holder} {why}")).collect()
}

/// Waits until every agent goes by etcd, and returns those that do not.
async fn all_went_over(config: &Config) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let statuses = ask_all(config).await;
        let went_over = |status: &Result<RegionStatus, String>| {
            let state = status.as_ref().ok().and_then(|status| status.directory_move.as_ref());
            state.is_some_and(|state| state.moved)
        };
        let late = statuses.iter().filter(|(_, status)| !went_over(status));
        let late: Vec<String> = late.map(|(holder, _)| holder.to_string()).collect();
        if late.is_empty() || begun.elapsed() >= PATIENCE {
            return late;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn resolve(address: &str) -> anyhow::Result<SocketAddr> {
    let found = tokio::net::lookup_host(address).await;
    let found = found.with_context(|| format!("look up {address}"))?.next();
    found.with_context(|| format!("look up {address}: it has no address"))
}
