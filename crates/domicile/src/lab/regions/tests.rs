//! Are regions made alike, and do they leave nothing behind, even when abandoned half-way?

use super::*;
use crate::lab::cluster::PgBin;

fn two() -> RegionsConfig {
    let binary = PathBuf::from("/bin/false");
    let mut config = RegionsConfig::three(binary, PgBin::find(None).unwrap(), "id", 4);
    config.names.truncate(2);
    config.seed_sql = "CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept VALUES (7)".into();
    config
}

/// The processes whose command line names this folder.
fn processes_in(folder: &Path) -> usize {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let named = entries.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&folder.display().to_string())
    });
    named.count()
}

#[tokio::test]
async fn every_region_has_the_seed_and_a_file_in_which_the_others_are_behind_relays() {
    let regions = Regions::create(two()).await.unwrap();
    for region in ["eu", "us"] {
        let client = regions.connect(region).await.unwrap();
        let row = client.query_one("SELECT id, current_setting('cluster_name') FROM kept", &[]);
        let row = row.await.unwrap();
        assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (7, region));
    }
    let file = std::fs::read_to_string(regions.config_file("eu")).unwrap();
    let file: toml::Table = file.parse().unwrap();
    let text = |region: usize, key: &str| file["region"][region][key].as_str().unwrap().to_owned();
    assert_eq!(text(0, "peer"), text(0, "peer_listen"));
    assert_ne!(text(1, "peer"), text(1, "peer_listen"));
    assert_eq!(text(0, "gateway"), regions.gateway("eu").to_string());

    let folder = regions.folder().to_owned();
    assert!(processes_in(&folder) > 0);
    drop(regions);
    assert!(!folder.exists());
    assert_eq!(processes_in(&folder), 0);
}

#[tokio::test]
async fn an_agent_that_ends_at_once_is_reported_by_name() {
    let error = Regions::start(two()).await.unwrap_err().to_string();
    assert!(error.contains("ended unexpectedly (exit status: 1)"), "{error}");
}

#[tokio::test]
async fn a_start_that_is_abandoned_leaves_nothing_behind() {
    for after in [20, 300, 900] {
        let kept = tempfile::tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(kept.path(), mode).unwrap();
        let mut config = two();
        config.keep = Some(kept.path().to_owned());
        let start = tokio::time::timeout(Duration::from_millis(after), Regions::create(config));
        let _ = start.await;
        assert_eq!(processes_in(kept.path()), 0);
        std::fs::remove_dir_all(kept.path().join("eu")).unwrap();
    }
}
