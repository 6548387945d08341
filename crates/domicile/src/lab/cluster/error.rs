//! What can go wrong with a PostgreSQL cluster of the lab's own, in words a person can act on?

use std::path::{Path, PathBuf};

/// Why the lab could not find, make, start or stop a cluster.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("no PostgreSQL 14 or newer with initdb and postgres found; looked at:\n{}\n{INSTALL}", looked_at.join("\n"))]
    NoPostgres {
        /// One line for each place, with what was wrong there.
        looked_at: Vec<String>,
    },
    #[error("no etcd found; looked at {looked_at}\n{INSTALL_ETCD}")]
    NoEtcd { looked_at: String },
    #[error("no libfaketime found, which makes clocks wrong\n{INSTALL_FAKETIME}")]
    NoFaketime,
    #[error("{what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("start {}: {source}", program.display())]
    Spawn { program: PathBuf, source: std::io::Error },
    #[error("initdb refused to make {}: {said}", folder.display())]
    Initdb { folder: PathBuf, said: String },
    #[error(
        "user \"{name}\" does not exist; PostgreSQL does not run as root, so name another in DOMICILE_PG_USER"
    )]
    NoSuchUser { name: String },
    #[error(
        "user \"{user}\", as whom PostgreSQL would run, may not enter {}; choose a folder below one that everybody may enter",
        folder.display()
    )]
    NotSearchable { folder: PathBuf, user: String },
    #[error("cluster \"{name}\" is already running")]
    AlreadyRunning { name: String },
    #[error("cluster \"{name}\" ended while it started ({status}); its log ends with:\n{log}")]
    EndedAtStart { name: String, status: String, log: String },
    #[error(
        "cluster \"{name}\" did not answer within {seconds} s ({last}); its log ends with:\n{log}"
    )]
    NoAnswer { name: String, seconds: u64, last: String, log: String },
    #[error("cluster \"{name}\" did not stop within {seconds} s and was killed")]
    KilledAtStop { name: String, seconds: u64 },
    #[error("no disk of its own can be made here: {said}")]
    NoDisk { said: String },
    #[error("connect to cluster \"{name}\": {source}")]
    Connect { name: String, source: tokio_postgres::Error },
}

const INSTALL: &str = "install it (Debian, Ubuntu: apt install postgresql; Fedora: dnf install postgresql-server; \
macOS: brew install postgresql@17) or name the folder of its programs in DOMICILE_PG_BIN";

const INSTALL_ETCD: &str = "install it (Debian, Ubuntu: apt install etcd-server; \
macOS: brew install etcd) or name the program in DOMICILE_ETCD";

const INSTALL_FAKETIME: &str = "install it (Debian, Ubuntu: apt install libfaketime) or name the library in \
DOMICILE_FAKETIME";

impl LabError {
    /// Returns a closure for `map_err` that says what was done to which path.
    pub(in crate::lab) fn file(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}
