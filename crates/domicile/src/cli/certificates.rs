//! How does one get certificates, where there is no authority of one's own?

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use domicile_core::config::{Config, Directory};
use serde_json::json;

use super::{Context, Exit, UsageError};
use crate::tls::authority::{CA, Holder, issue};

/// Of whoever runs commands elsewhere than beside an agent.
const OPERATOR: &str = "operator";
const DIRECTORY: &str = "directory";

#[derive(Debug, Args)]
#[command(
    after_help = "Makes an authority (ca.pem, ca.key) in FOLDER unless one is there, and signs a certificate for each
region, for the embedded directory, and for whoever runs commands elsewhere. To renew them run it again:
agents take up new files without a restart. Keep ca.key where no agent runs.

Example:
  domicile certificates pki
  scp pki/ca.pem eu.example:/etc/domicile/ca.pem
  scp pki/eu.pem eu.example:/etc/domicile/region.pem
  scp pki/eu.key eu.example:/etc/domicile/region.key

and in every region's domicile.toml:
  [tls]
  ca = \"/etc/domicile/ca.pem\"
  certificate = \"/etc/domicile/region.pem\"
  key = \"/etc/domicile/region.key\""
)]
pub struct Certificates {
    /// Where the authority is, or will be, and the certificates go
    folder: PathBuf,
    /// How long they are good for
    #[arg(long, value_name = "DAYS", default_value = "365",
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=3650))]
    days: u32,
}

impl Certificates {
    pub fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let holders = holders(&config)?;
        let founded = issue(&self.folder, &config.cluster, &holders, self.days)?;
        let names: Vec<&str> = holders.iter().map(|holder| holder.name.as_str()).collect();
        if context.output.is_json() {
            let told = json!({
                "folder": self.folder, "authority": CA, "new_authority": founded,
                "certificates": names, "days": self.days,
            });
            context.output.print_json(&told)?;
            return Ok(Exit::Done);
        }
        let authority = if founded { "a new authority" } else { "the authority that was there" };
        context.output.print(&format!(
            "In {}, signed by {authority}, good for {} days: {}.\n\
             Each has .pem and .key; everybody needs {CA}; ca.key stays with you.",
            self.folder.display(),
            self.days,
            names.join(", "),
        ))?;
        Ok(Exit::Done)
    }
}

fn holders(config: &Config) -> anyhow::Result<Vec<Holder>> {
    let mut holders = Vec::new();
    let mut add = |name: &str, addresses: &[&str]| {
        let hosts = addresses.iter().map(|address| host(address)).collect::<Result<_, _>>()?;
        holders.push(Holder { name: name.to_owned(), hosts });
        anyhow::Ok(())
    };
    for (holder, address) in config.holders() {
        if [DIRECTORY, OPERATOR, "ca"].contains(&holder.as_str()) {
            let text = format!("\"{holder}\": its files would be another's");
            return Err(UsageError(text).into());
        }
        add(holder.as_str(), &[address])?;
    }
    if let Directory::Embedded { address, .. } = &config.directory {
        add(DIRECTORY, &[address])?;
    }
    add(OPERATOR, &[])?;
    Ok(holders)
}

/// Of `host:port`, as in `db.example` or `::1`.
fn host(address: &str) -> anyhow::Result<String> {
    let (host, _) = address.rsplit_once(':').with_context(|| format!("{address} has no port"))?;
    Ok(host.trim_start_matches('[').trim_end_matches(']').to_owned())
}
