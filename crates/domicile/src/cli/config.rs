//! What may the configuration file say, and does ours say it right?

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Context, Exit};
use crate::settings::mistake::Mistake;
use crate::settings::{self, SettingsError};

#[derive(Debug, Args)]
pub struct ConfigCommand {
    #[command(subcommand)]
    command: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    /// Check the file without connecting to anything
    #[command(after_help = "Example:
  domicile --config other.toml config check")]
    Check,
    /// Print the reference of all keys, as Markdown
    Reference,
}

#[derive(Serialize)]
struct Checked<'a> {
    file: String,
    mistakes: &'a [Mistake],
}

impl ConfigCommand {
    pub fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self.command {
            Which::Check => check(context),
            Which::Reference => {
                super::output::print_text(&settings::keys::reference())?;
                Ok(Exit::Done)
            }
        }
    }
}

fn check(context: &Context) -> anyhow::Result<Exit> {
    let (output, file) = (context.output, context.config_file.display().to_string());
    match context.config() {
        Ok(config) => {
            if output.is_json() {
                output.print_json(&Checked { file, mistakes: &[] })?;
            } else {
                output.print(&format!(
                    "{file}: cluster \"{}\", {} regions, {} tables, {} partitions",
                    config.cluster,
                    config.regions.len(),
                    config.tables.len(),
                    config.layout.total()
                ))?;
            }
            Ok(Exit::Done)
        }
        Err(SettingsError::Mistakes { mistakes, .. }) if output.is_json() => {
            output.print_json(&Checked { file, mistakes: &mistakes })?;
            Ok(Exit::Usage)
        }
        Err(error) => Err(error.into()),
    }
}
