//! Where are PostgreSQL's server programs on this machine?
//!
//! Distributions keep `initdb` and `postgres` off the PATH, in a folder per major version. An
//! answer given by a person (argument or environment) is final: if it is wrong, say so rather
//! than run another version than the one that was asked for.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::LabError;

/// Older ones lack what capture needs (streaming of large transactions, binary messages).
const MAJOR_MIN: u32 = 14;

/// Parents whose subfolders are named after a version.
const VERSIONED: [(&str, &str, &str); 4] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
];

/// A folder with PostgreSQL's server programs, 14 or newer.
#[derive(Clone, Debug)]
pub struct PgBin {
    folder: PathBuf,
    major: u32,
}

impl PgBin {
    /// Finds the programs: the given folder, `DOMICILE_PG_BIN`, or the places where distributions
    /// put them (the highest version first), `pg_config --bindir`, PATH.
    pub fn find(explicit: Option<&Path>) -> Result<Self, LabError> {
        let named = explicit
            .map(Path::to_owned)
            .or_else(|| std::env::var_os("DOMICILE_PG_BIN").map(PathBuf::from));
        let candidates = match named {
            Some(folder) => vec![folder],
            None => usual_places(),
        };
        let mut looked_at = Vec::new();
        for folder in candidates {
            match judge(&folder) {
                Ok(major) => return Ok(Self { folder, major }),
                Err(reason) => looked_at.push(format!("  {}: {reason}", folder.display())),
            }
        }
        if looked_at.is_empty() {
            looked_at.extend(
                VERSIONED.map(|(parent, prefix, bin)| format!("  {parent}/{prefix}*/{bin}")),
            );
            looked_at.push("  pg_config --bindir, PATH".to_owned());
        }
        Err(LabError::NoPostgres { looked_at })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The servers' major version: 14 or more.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Returns the path of one program. A client's, such as `psql` or `pgbench`, that is not in
    /// this folder is taken from the usual places: it need not be of the server's version. It may
    /// be missing, only `initdb` and `postgres` were looked for.
    pub fn program(&self, name: &str) -> PathBuf {
        let here = self.folder.join(name);
        if here.exists() {
            return here;
        }
        let elsewhere = usual_places().into_iter().map(|folder| folder.join(name));
        elsewhere.into_iter().find(|program| program.exists()).unwrap_or(here)
    }
}

fn usual_places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> =
        VERSIONED.iter().flat_map(|(parent, prefix, bin)| versioned(parent, prefix, bin)).collect();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        places.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path).filter(|folder| folder.join("initdb").exists()));
    places
}

/// Returns `<parent>/<prefix><version>/<bin>` for every version there, the highest first.
fn versioned(parent: &str, prefix: &str, bin: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join(bin)))
        })
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, folder)| folder).collect()
}

fn judge(folder: &Path) -> Result<u32, String> {
    if let Some(missing) = ["initdb", "postgres"].iter().find(|name| !folder.join(name).exists()) {
        return Err(format!("has no {missing}"));
    }
    let output = Command::new(folder.join("postgres"))
        .arg("--version")
        .output()
        .map_err(|error| format!("postgres does not run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match major_version(&text) {
        Some(major) if major >= MAJOR_MIN => Ok(major),
        Some(major) => Err(format!("is PostgreSQL {major}, too old")),
        None => Err(format!("says \"{text}\" instead of its version")),
    }
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `... 19devel`, `... 18beta1`.
fn major_version(text: &str) -> Option<u32> {
    let number = text.split("(PostgreSQL) ").nth(1)?;
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_releases_betas_and_development_builds() {
        assert_eq!(major_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_version("postgres (PostgreSQL) 14"), Some(14));
        assert_eq!(major_version("postgres (Something else) 14"), None);
    }

    #[test]
    fn a_named_folder_without_the_programs_is_refused_and_not_replaced_by_another() {
        let empty = tempfile::tempdir().unwrap();
        let error = PgBin::find(Some(empty.path())).unwrap_err().to_string();
        assert!(error.contains(&format!("{}: has no initdb", empty.path().display())), "{error}");
        assert!(error.contains("DOMICILE_PG_BIN"), "{error}");
    }

    #[test]
    fn this_machine_has_one() {
        let bin = PgBin::find(None).unwrap();
        assert!(bin.program("postgres").exists());
    }
}
