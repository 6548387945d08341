//! Parses the command line and runs one command.

use std::process::ExitCode;

use clap::Parser;
use domicile::cli::{Cli, Exit};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("DOMICILE_LOG").unwrap_or(EnvFilter::new(cli.log_default())),
        )
        .with_writer(std::io::stderr)
        .with_ansi(cli.colour_on_stderr())
        // A complaint that standard error cannot be written to would go there, and panic.
        .log_internal_errors(false)
        .init();
    domicile::sockets::receive();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("domicile: start runtime: {error}");
            return Exit::Failed.into();
        }
    };
    match runtime.block_on(cli.run()) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("domicile: {error:#}");
            Exit::of(&error).into()
        }
    }
}
