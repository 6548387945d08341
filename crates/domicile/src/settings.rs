//! What does the operator's file say, and is it sound?
//!
//! `domicile.toml` becomes [`domicile_core::config::Config`] once, at the start. A file with
//! mistakes is refused as a whole, with **all** of them and where each one is: nobody has to run a
//! command ten times to learn of ten mistakes.
//!
//! ```text
//!   text --outline--> known keys of the right type --serde--> Written --resolve--> Config
//!             \___________________________________________________/
//!                                 mistakes
//! ```

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use domicile_core::config::Config;

mod directory;
mod dns;
mod drills;
mod gateway;
mod http;
pub mod keys;
pub mod mistake;
mod outline;
mod partition;
mod regions;
mod resolve;
mod shared;
mod tables;
pub(crate) mod units;
mod webhooks;
mod written;

#[cfg(test)]
mod tests;

pub use mistake::Mistake;
use mistake::Mistakes;
pub use partition::Partition;
pub(crate) use units::{duration, rpo};

/// The file that every command reads unless told otherwise.
pub const FILE_DEFAULT: &str = "domicile.toml";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "there is no {FILE_DEFAULT} here: name another file with --config, or have one proposed from your tables: \
         domicile init --from postgres://..."
    )]
    NoneHere,
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}\n{}", heading(path, mistakes), mistake::lines(mistakes))]
    Mistakes { path: PathBuf, mistakes: Vec<Mistake> },
}

fn heading(path: &Path, mistakes: &[Mistake]) -> String {
    let many = if mistakes.len() == 1 { "mistake" } else { "mistakes" };
    format!("{} has {} {many}:", path.display(), mistakes.len())
}

/// Reads and checks the file.
pub fn load(path: &Path) -> Result<Config, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound if path == Path::new(FILE_DEFAULT) => SettingsError::NoneHere,
        _ => SettingsError::Read { path: path.to_owned(), source },
    })?;
    parse(&text).map_err(|mistakes| SettingsError::Mistakes { path: path.to_owned(), mistakes })
}

/// Turns the file's text into the configuration, or returns every mistake in it, in file order.
pub fn parse(text: &str) -> Result<Config, Vec<Mistake>> {
    let mut mistakes = Mistakes::default();
    let config = outline::read(text, &mut mistakes)
        .and_then(|written| resolve::resolve(&written, &mut mistakes));
    match (config, mistakes.into_list()) {
        (Some(config), list) if list.is_empty() => Ok(config),
        (_, list) => {
            assert!(!list.is_empty(), "a file without mistakes has a configuration");
            Err(list)
        }
    }
}
