//! As whom does a cluster run, and may that user reach its folder?
//!
//! PostgreSQL refuses to run as root, but containers and CI often are root. Then, and only then,
//! its programs run as another user, who owns the data and needs to get there.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Uid, User};

use super::LabError;

/// The user that PostgreSQL's programs run as.
#[derive(Clone, Debug)]
pub enum Account {
    /// Whoever we are.
    Ours,
    /// We are root, so somebody else.
    Other(User),
}

impl Account {
    /// Chooses `DOMICILE_PG_USER`, `postgres` or `nobody`, in this order, when we are root.
    pub fn choose() -> Result<Self, LabError> {
        if !Uid::effective().is_root() {
            return Ok(Self::Ours);
        }
        if let Ok(name) = std::env::var("DOMICILE_PG_USER") {
            return lookup(&name).map(Self::Other).ok_or(LabError::NoSuchUser { name });
        }
        lookup("postgres")
            .or_else(|| lookup("nobody"))
            .map(Self::Other)
            .ok_or(LabError::NoSuchUser { name: "nobody".to_owned() })
    }

    /// Makes the command run as this user.
    pub fn apply(&self, command: &mut Command) {
        if let Self::Other(user) = self {
            // The standard library also drops root's supplementary groups when the user changes.
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
    }

    /// Gives one file or folder to this user.
    pub fn own(&self, path: &Path) -> Result<(), LabError> {
        match self {
            Self::Ours => Ok(()),
            Self::Other(user) => chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                .map_err(LabError::file("change the owner of", path)),
        }
    }

    /// Checks that this user may enter every folder above `folder`, which is absolute.
    ///
    /// Without this check PostgreSQL reports a missing folder that everybody can see.
    pub(super) fn check_reach(&self, folder: &Path) -> Result<(), LabError> {
        let Self::Other(user) = self else { return Ok(()) };
        for above in folder.ancestors().skip(1) {
            let metadata =
                std::fs::metadata(above).map_err(LabError::file("look at folder", above))?;
            let search_bit = if metadata.uid() == user.uid.as_raw() {
                0o100
            } else if metadata.gid() == user.gid.as_raw() {
                0o010
            } else {
                0o001
            };
            if metadata.mode() & search_bit == 0 {
                let folder = above.to_owned();
                return Err(LabError::NotSearchable { folder, user: user.name.clone() });
            }
        }
        Ok(())
    }
}

fn lookup(name: &str) -> Option<User> {
    User::from_name(name).ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_below_a_closed_one_is_refused_by_name() {
        let Account::Other(user) = Account::choose().unwrap() else { return };
        let closed = tempfile::tempdir().unwrap();
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(closed.path(), mode).unwrap();
        let name = user.name.clone();
        let error = Account::Other(user).check_reach(&closed.path().join("cluster")).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(&name), "{error}");
        assert!(error.contains(&closed.path().display().to_string()), "{error}");
    }
}
