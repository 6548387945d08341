//! Which commands are there, and what do they share?
//!
//! One file per command. A command reads and prints; what it finds out is judged in values that
//! tests can make, and what changes the cluster is decided in `domicile-core`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use domicile_core::config::Config;

use crate::settings::{self, SettingsError};

mod agent;
mod certificates;
mod check;
mod completions;
mod config;
mod connect;
mod demo;
mod directory;
mod gateway;
mod http;
mod init;
mod journal;
mod lifetime;
mod migrate;
mod outcome;
mod output;
mod outside;
mod partition;
mod planned;
mod region;
mod reseed;
mod runbook;
mod runs;
mod safety;
mod status;
mod verify;

pub(crate) use output::Output;

const AFTER_HELP: &str = "\
Examples:
  domicile demo                                              see it survive an outage, here and now
  domicile init --from postgres://postgres@db.example/shop   propose a domicile.toml
  domicile check                                             is every database ready for it?
  domicile directory                                         serve the embedded directory
  domicile agent --region eu                                 run a region's agent
  domicile status                                            how is every region?
  domicile switchover --from eu --to us                      move partitions, losing nothing
  domicile runbook list                                      what can be run, ready-made and your own
  domicile safety set --freeze planned --reason \"the sale\"    let nothing move that can wait
  domicile journal list --region eu                          what lost, and why
  domicile outcome TOKEN                                     did that transaction commit?
  domicile migrate add-column.sql                            run DDL in every region
  domicile verify                                            do all regions hold the same rows?

Exit codes:
  0  done
  1  failed
  2  the command line or the configuration is wrong
  3  refused, with the reasons; or what was checked is not as it should be; or the transaction is not committed
  4  what became of the transaction is not known, or not yet

Environment:
  DOMICILE_CONFIG  the configuration file, instead of --config
  DOMICILE_LOG     what to log to standard error, as in info or domicile=debug
  NO_COLOR         no colours, not even on a terminal";

/// Every row has a home: multi-region for ordinary PostgreSQL, with one writer per row.
#[derive(Debug, Parser)]
#[command(name = "domicile", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub struct Cli {
    /// The file that describes the cluster.
    #[arg(
        long,
        global = true,
        env = "DOMICILE_CONFIG",
        value_name = "FILE",
        default_value = settings::FILE_DEFAULT
    )]
    config: PathBuf,

    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try it: three regions, a bank, an outage, and the proof that nothing was lost
    Demo(demo::Demo),
    /// Read a database and propose a configuration for it
    Init(init::Init),
    /// Say whether every region's database is ready
    Check(check::Check),
    /// Print or check the configuration
    Config(config::ConfigCommand),
    /// Make certificates for [tls], where there is no authority for them yet
    Certificates(certificates::Certificates),
    /// Serve the embedded directory, for regions on one machine
    Directory(directory::Directory),
    /// Run a region's agent
    Agent(agent::Agent),
    /// Say how every region is, and how far behind
    Status(status::Status),
    /// List, show and move partitions
    Partition(partition::Partition),
    /// Take a region or a witness into the cluster, or out of it
    Region(region::RegionCommand),
    /// Say where statements go through a gateway, and why
    Gateway(gateway::GatewayCommand),
    /// Say which region answers a request of HTTP, and why
    Http(http::HttpCommand),
    /// Say what a failover or switchover would do
    Plan(runs::Plan),
    /// Take over everything that a lost region owns
    Failover(runs::Failover),
    /// Move partitions while everything is well
    Switchover(runs::Switchover),
    /// Read, check, plan and run runbooks, and see what became of a run
    Runbook(runbook::RunbookCommand),
    /// Show and set the rules that say when no owner is to change
    Safety(safety::Safety),
    /// Show what lost against another region's change
    Journal(journal::Journal),
    /// Say what became of a transaction whose client was not told
    Outcome(outcome::Outcome),
    /// Compare the rows of all regions, and repair those that differ
    Verify(verify::Verify),
    /// Begin a region's log anew where its slot does not follow on it, and compare
    Reseed(reseed::Reseed),
    /// Run DDL at the same position of the log in every region
    Migrate(migrate::Migrate),
    /// Print a shell's completion script
    Completions(completions::Completions),
}

/// How a command ended. Errors end in [`Exit::Failed`] or [`Exit::Usage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// The answer is no, and the reasons were printed.
    Refused,
    /// Nobody can say, or not yet.
    Unknown,
}

impl Exit {
    /// The exit code for an error that a command returned.
    pub fn of(error: &anyhow::Error) -> Self {
        if error.chain().any(|cause| cause.is::<SettingsError>() || cause.is::<UsageError>()) {
            Self::Usage
        } else {
            Self::Failed
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::Unknown => 4,
        })
    }
}

/// An argument that fits its type but not the rest, such as a region that is not in the file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub String);

/// What the global options say.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub config_file: PathBuf,
    pub output: Output,
}

impl Context {
    pub fn config(&self) -> Result<Config, SettingsError> {
        settings::load(&self.config_file)
    }
}

impl Cli {
    pub fn colour_on_stderr(&self) -> bool {
        output::colour_wanted(std::io::stderr().is_terminal())
    }

    /// What is logged unless `DOMICILE_LOG` says otherwise: nothing routine over a screen, and nothing of what
    /// anybody may have a name server say with a packet.
    pub fn log_default(&self) -> &'static str {
        match self.command {
            Command::Demo(_) => "error",
            _ => "info,hickory=error",
        }
    }

    pub async fn run(self) -> anyhow::Result<Exit> {
        let context = Context { config_file: self.config, output: Output::new(self.json) };
        match self.command {
            Command::Demo(command) => command.run(&context).await,
            Command::Init(command) => command.run(&context).await,
            Command::Check(command) => command.run(&context).await,
            Command::Config(command) => command.run(&context),
            Command::Certificates(command) => command.run(&context),
            Command::Directory(command) => command.run(&context).await,
            Command::Agent(command) => command.run(&context).await,
            Command::Status(command) => command.run(&context).await,
            Command::Partition(command) => command.run(&context).await,
            Command::Region(command) => command.run(&context).await,
            Command::Gateway(command) => command.run(&context).await,
            Command::Http(command) => command.run(&context).await,
            Command::Plan(command) => command.run(&context).await,
            Command::Failover(command) => command.run(&context).await,
            Command::Switchover(command) => command.run(&context).await,
            Command::Runbook(command) => command.run(&context).await,
            Command::Safety(command) => command.run(&context).await,
            Command::Journal(command) => command.run(&context).await,
            Command::Outcome(command) => command.run(&context).await,
            Command::Verify(command) => command.run(&context).await,
            Command::Reseed(command) => command.run(&context).await,
            Command::Migrate(command) => command.run(&context).await,
            Command::Completions(command) => command.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_asked_of_a_name_server_is_not_logged() {
        let cli = Cli::parse_from(["domicile", "agent", "--region", "eu"]);
        let filter = tracing_subscriber::EnvFilter::new(cli.log_default());
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).finish();
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(target: "hickory_server::server", tracing::Level::INFO));
            assert!(tracing::enabled!(target: "domicile::dns", tracing::Level::INFO));
        });
    }

    #[test]
    fn a_wrong_configuration_is_not_a_failure_of_the_command() {
        let missing = settings::load("/nonexistent/domicile.toml".as_ref()).unwrap_err();
        assert_eq!(Exit::of(&missing.into()), Exit::Usage);
        assert_eq!(Exit::of(&anyhow::anyhow!("connect")), Exit::Failed);
    }
}
