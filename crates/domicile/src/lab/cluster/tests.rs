//! Does a cluster keep what it acknowledged, and leave nothing behind?

use super::*;

async fn count(cluster: &Cluster) -> i64 {
    let client = cluster.connect().await.unwrap();
    client.query_one("SELECT count(*) FROM kept", &[]).await.unwrap().get(0)
}

async fn setting(cluster: &Cluster, name: &str) -> String {
    let client = cluster.connect().await.unwrap();
    client.query_one("SELECT current_setting($1)", &[&name]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_killed_cluster_starts_again_at_once_with_all_it_committed() {
    let (mut cluster, _folder) = temporary_cluster("killed", &[]).await.unwrap();
    let client = cluster.connect().await.unwrap();
    client.batch_execute("CREATE TABLE kept (id int)").await.unwrap();
    for round in 1..=3 {
        insert_one(&cluster).await;
        // A busy backend does not look whether its postmaster is still there.
        let busy = cluster.connect().await.unwrap();
        let spin = "DO $$ BEGIN LOOP END LOOP; END $$";
        let spinning = tokio::spawn(async move { busy.batch_execute(spin).await });
        wait_for_spinning(&cluster).await;
        cluster.kill();
        assert!(spinning.await.unwrap().is_err());
        cluster.start().await.unwrap();
        assert_eq!(count(&cluster).await, round);
    }
}

#[tokio::test]
async fn a_cluster_that_is_gone_leaves_no_shared_memory_behind() {
    let (cluster, _folder) = temporary_cluster("dropped", &[]).await.unwrap();
    let file = std::fs::read_to_string(cluster.data().join("postmaster.pid")).unwrap();
    let segment = file.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned();
    let is_there = || {
        let all = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
        all.lines().any(|line| line.split_whitespace().nth(1) == Some(&segment))
    };
    assert!(is_there());
    drop(cluster);
    assert!(!is_there());
}

async fn insert_one(cluster: &Cluster) {
    let client = cluster.connect().await.unwrap();
    client.batch_execute("INSERT INTO kept VALUES (1)").await.unwrap();
}

async fn wait_for_spinning(cluster: &Cluster) {
    let client = cluster.connect().await.unwrap();
    let sql =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active')";
    let look = async {
        while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), look).await.unwrap();
}

#[tokio::test]
async fn a_stopped_cluster_starts_again_in_both_modes() {
    let (mut cluster, _folder) = temporary_cluster("stopped", &[("fsync", "off")]).await.unwrap();
    let client = cluster.connect().await.unwrap();
    client.batch_execute("CREATE TABLE kept (id int)").await.unwrap();
    for mode in [StopMode::Fast, StopMode::Immediate] {
        cluster.stop(mode).await.unwrap();
        assert!(!cluster.is_running());
        assert!(cluster.connect().await.is_err());
        cluster.start().await.unwrap();
        assert_eq!(count(&cluster).await, 0);
    }
}

#[tokio::test]
async fn the_callers_settings_win_over_the_labs() {
    let settings = [("wal_level", "replica"), ("search_path", "it's, fine")];
    let (cluster, _folder) = temporary_cluster("settings", &settings).await.unwrap();
    assert_eq!(setting(&cluster, "wal_level").await, "replica");
    assert_eq!(setting(&cluster, "search_path").await, "it's, fine");
    assert_eq!(setting(&cluster, "fsync").await, "on");
    assert_eq!(setting(&cluster, "server_encoding").await, "UTF8");
}

#[tokio::test]
async fn a_dropped_cluster_leaves_no_process_and_no_folder() {
    let (cluster, folder) = temporary_cluster("dropped", &[("fsync", "off")]).await.unwrap();
    let path = folder.path().to_owned();
    let pid = i32::try_from(cluster.pid().unwrap()).unwrap();
    drop(folder);
    assert!(path.exists(), "the cluster still needs it");
    drop(cluster);
    assert!(!path.exists());
    assert!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err());
}

#[tokio::test]
async fn a_cluster_ends_when_the_one_who_started_it_is_gone() {
    let (mut cluster, _folder) = temporary_cluster("orphan", &[("fsync", "off")]).await.unwrap();
    // What the kernel does for a process that was killed.
    drop(cluster.guardian.as_mut().unwrap().0.stdin.take());
    let ended = async {
        while cluster.is_running() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap();
    // The next one is watched again.
    cluster.start().await.unwrap();
    cluster.stop(StopMode::Fast).await.unwrap();
}

#[tokio::test]
async fn a_setting_that_the_server_refuses_is_shown_with_the_servers_words() {
    let error = temporary_cluster("refused", &[("wal_level", "sometimes")]).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, LabError::EndedAtStart { .. }), "{text}");
    assert!(text.contains("invalid value for parameter \"wal_level\""), "{text}");
}

#[tokio::test]
async fn a_running_cluster_is_not_started_twice() {
    let (mut cluster, _folder) = temporary_cluster("twice", &[("fsync", "off")]).await.unwrap();
    let error = cluster.start().await.unwrap_err();
    assert!(matches!(error, LabError::AlreadyRunning { .. }), "{error}");
    assert!(cluster.is_running());
}
