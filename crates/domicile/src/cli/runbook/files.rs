//! Where does a runbook stand?

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use domicile_core::runbook::file::Runbook;
use domicile_core::runbook::ready;

use crate::cli::UsageError;

/// The folder of one's own runbooks, beside domicile.toml.
const FOLDER: &str = "runbooks";
const EXTENSION: &str = "toml";

/// A runbook that was found; its text may have mistakes.
pub struct Found {
    pub name: String,
    pub text: String,
    /// `None`: it comes with Domicile.
    pub file: Option<PathBuf>,
}

/// Returns every runbook that can be named: the ready-made ones, then one's own by name.
pub fn all(config_file: &Path) -> anyhow::Result<Vec<Found>> {
    let ready = ready::READY.iter().map(|(name, text)| Found {
        name: (*name).to_owned(),
        text: (*text).to_owned(),
        file: None,
    });
    let mut all: Vec<Found> = ready.collect();
    let folder = folder(config_file);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(all),
        Err(error) => return Err(error).with_context(|| format!("read {}", folder.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.with_context(|| format!("read {}", folder.display()))?.path();
        if file.extension().is_some_and(|extension| extension == EXTENSION) {
            files.push(file);
        }
    }
    files.sort();
    for file in files {
        all.push(read(&file)?);
    }
    Ok(all)
}

/// Returns the runbook of this name, or in the file of this path.
pub fn find(config_file: &Path, name: &str) -> anyhow::Result<Found> {
    if name.contains('/') || name.ends_with(".toml") {
        return read(Path::new(name));
    }
    if let Some(text) = ready::text(name) {
        return Ok(Found { name: name.to_owned(), text: text.to_owned(), file: None });
    }
    let file = folder(config_file).join(name).with_extension(EXTENSION);
    if file.exists() {
        return read(&file);
    }
    let known: Vec<String> = all(config_file)?.into_iter().map(|found| found.name).collect();
    let text = format!("there is no runbook \"{name}\"; there are: {}", known.join(", "));
    Err(UsageError(text).into())
}

impl Found {
    /// Reads the runbook; its mistakes are the user's to correct.
    pub fn parse(&self) -> Result<Runbook, UsageError> {
        Runbook::parse(&self.text).map_err(|mistakes| {
            let many = if mistakes.len() == 1 { "mistake" } else { "mistakes" };
            let lines: Vec<String> = mistakes.iter().map(|m| format!("\n  {m}")).collect();
            let text = format!("{} has {} {many}:{}", self.place(), mistakes.len(), lines.concat());
            UsageError(text)
        })
    }

    /// For people.
    pub fn place(&self) -> String {
        match &self.file {
            Some(file) => file.display().to_string(),
            None => "comes with Domicile".to_owned(),
        }
    }
}

pub fn read(file: &Path) -> anyhow::Result<Found> {
    let text = std::fs::read_to_string(file);
    // Without it the command line is wrong, whatever it was to do.
    let text = text.map_err(|error| UsageError(format!("read {}: {error}", file.display())))?;
    let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    Ok(Found { name: name.unwrap_or_default(), text, file: Some(file.to_owned()) })
}

fn folder(config_file: &Path) -> PathBuf {
    config_file.parent().unwrap_or(Path::new("")).join(FOLDER)
}
