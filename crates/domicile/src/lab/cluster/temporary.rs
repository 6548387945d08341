//! How does a test get a cluster in one line, with nothing left behind?

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Cluster, ClusterConfig, LabError, PgBin, free_port};

/// A folder that goes when the last one who holds it goes.
#[derive(Debug)]
pub struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Makes an empty folder below the system's own, which another user may enter but not list.
    pub fn create(name: &str) -> Result<Self, LabError> {
        let unique = uuid::Uuid::now_v7().simple().to_string();
        // Short, because the path of a Unix socket may not pass about 100 bytes.
        let folder = std::env::temp_dir().join(format!("domicile-{name}-{}", &unique[20..]));
        std::fs::create_dir(&folder).map_err(LabError::file("make folder", &folder))?;
        let made = Self(folder);
        std::fs::set_permissions(made.path(), std::fs::Permissions::from_mode(0o711))
            .map_err(LabError::file("open folder to others", made.path()))?;
        Ok(made)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "a temporary folder stays behind");
        }
    }
}

/// Makes and starts a cluster in a temporary folder.
///
/// The cluster holds the folder too, so they may be dropped in any order.
pub async fn temporary_cluster(
    name: &str,
    settings: &[(&str, &str)],
) -> Result<(Cluster, Arc<TemporaryFolder>), LabError> {
    let folder = Arc::new(TemporaryFolder::create(name)?);
    let mut cluster = Cluster::create(ClusterConfig {
        bin: PgBin::find(None)?,
        folder: folder.path().to_owned(),
        port: free_port(),
        name: name.to_owned(),
        settings: settings
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
        wal_disk_bytes: None,
        environment: Vec::new(),
    })
    .await?;
    cluster.keep(folder.clone());
    cluster.start().await?;
    Ok((cluster, folder))
}
