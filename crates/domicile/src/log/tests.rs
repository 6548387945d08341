use super::*;

fn origin(name: &str) -> Origin {
    name.parse().unwrap()
}

#[tokio::test]
async fn a_log_is_made_once_and_found_again() {
    let data = tempfile::tempdir().unwrap();
    let (logs, found) = Logs::open(data.path(), LOG_SEGMENT_BYTES).unwrap();
    assert!(found.is_empty());
    assert!(logs.get(&origin("eu-1")).is_none());
    let log = logs.get_or_create(&origin("eu-1")).unwrap();
    log.append(vec![(domicile_core::lsn::Lsn(7), "seven".into())]).await.unwrap();
    assert_eq!(logs.get_or_create(&origin("eu-1")).unwrap().end().0, 7);
    logs.get_or_create(&origin("us-east-1-2")).unwrap();
    drop((log, logs));

    let (logs, found) = Logs::open(data.path(), LOG_SEGMENT_BYTES).unwrap();
    let origins: Vec<_> =
        found.iter().map(|(origin, opened)| (origin.clone(), opened.end.0)).collect();
    assert_eq!(origins, [(origin("eu-1"), 7), (origin("us-east-1-2"), 0)]);
    assert_eq!(logs.all().len(), 2);
}

#[test]
fn a_folder_that_is_no_origin_is_left_alone() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir_all(data.path().join("log/lost+found")).unwrap();
    let (logs, found) = Logs::open(data.path(), LOG_SEGMENT_BYTES).unwrap();
    assert!(found.is_empty() && logs.all().is_empty());
}

#[test]
fn two_processes_never_write_one_log() {
    let data = tempfile::tempdir().unwrap();
    let config = LogConfig::new(data.path().join("eu-1"));
    let _log = Log::open(config.clone()).unwrap();
    assert!(matches!(Log::open(config), Err(LogError::InUse { .. })));
}
