//! Does the replication log keep what it acknowledged, and say so when it cannot?

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use domicile::lab::cluster::Disk;
use domicile::log::{Frame, Log, LogConfig, LogError, LogState, Opened, Record, Room, Standing};
use domicile_core::frame::Compression;
use domicile_core::lsn::Lsn;
use tempfile::TempDir;

/// Three of the test's records fit a segment.
const SEGMENT_BYTES: u64 = 100;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(folder: &Path) -> (Log, Opened) {
    let config =
        LogConfig { segment_bytes: SEGMENT_BYTES, recent_bytes: 0, ..LogConfig::new(folder) };
    Log::open(config).unwrap()
}

fn record(lsn: u64) -> (Lsn, Bytes) {
    (Lsn(lsn), format!("record {lsn:05}").into())
}

/// Bytes that one [`record`] takes.
const RECORD_BYTES: u64 = 17 + 12;

async fn append(log: &Log, lsns: impl IntoIterator<Item = u64>) {
    for lsn in lsns {
        assert_eq!(log.append(vec![record(lsn)]).await.unwrap(), Lsn(lsn));
    }
}

async fn try_all(log: &Log, after: u64) -> Result<Vec<u64>, LogError> {
    let mut reader = log.read(Lsn(after));
    let mut lsns = Vec::new();
    while let Some(frames) = reader.next_batch(64).await? {
        for Record { lsn, payload, .. } in frames {
            assert_eq!((lsn, payload), record(lsn.0));
            lsns.push(lsn.0);
        }
    }
    Ok(lsns)
}

async fn all(log: &Log) -> Vec<u64> {
    let first = log.first().map_or(0, |first| first.0 - 1);
    try_all(log, first).await.unwrap()
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(ending))
        .collect();
    files.sort();
    files
}

fn flip(file: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// A folder with records 10, 20, .. 90 in three segments, closed.
async fn nine() -> (TempDir, Vec<PathBuf>) {
    let folder = folder();
    let (log, _) = open(folder.path());
    append(&log, (1..=9).map(|n| n * 10)).await;
    drop(log);
    let segments = files(folder.path(), ".segment");
    assert_eq!(segments.len(), 3);
    (folder, segments)
}

/// Forgets up to where the log was flushed, as if it died within the last second.
fn forget_mark(folder: &Path) {
    fs::write(folder.join("mark"), []).unwrap();
}

#[tokio::test]
async fn what_was_appended_is_there_after_reopening() {
    let (folder, _) = nine().await;
    let (log, opened) = open(folder.path());
    assert_eq!(opened, Opened { end: Lsn(90), torn_bytes: 0, state: LogState::Sound });
    assert_eq!((log.first(), log.end(), log.bytes()), (Some(Lsn(10)), Lsn(90), 9 * RECORD_BYTES));
    assert_eq!(all(&log).await, [10, 20, 30, 40, 50, 60, 70, 80, 90]);
    assert_eq!(try_all(&log, 45).await.unwrap(), [50, 60, 70, 80, 90]);
    assert_eq!(try_all(&log, 60).await.unwrap(), [70, 80, 90]);
    assert_eq!(try_all(&log, 90).await.unwrap(), [0; 0]);
    append(&log, [100]).await;
    assert_eq!(try_all(&log, 80).await.unwrap(), [90, 100]);
}

#[tokio::test]
async fn records_out_of_order_are_refused_and_change_nothing() {
    let folder = folder();
    let (log, _) = open(folder.path());
    append(&log, [10]).await;
    for batch in [vec![record(10)], vec![record(9)], vec![record(11), record(11)]] {
        let refused = log.append(batch).await;
        assert!(matches!(refused, Err(LogError::OutOfOrder { .. })), "{refused:?}");
    }
    assert_eq!(log.append(vec![]).await.unwrap(), Lsn(10));
    append(&log, [11]).await;
    assert_eq!(all(&log).await, [10, 11]);
}

#[tokio::test]
async fn a_torn_tail_is_removed_wherever_the_write_stopped() {
    for kept in 0..RECORD_BYTES {
        let (folder, segments) = nine().await;
        let last = fs::File::options().write(true).open(&segments[2]).unwrap();
        last.set_len(2 * RECORD_BYTES + kept).unwrap();
        forget_mark(folder.path());
        let (log, opened) = open(folder.path());
        assert_eq!(opened, Opened { end: Lsn(80), torn_bytes: kept, state: LogState::Sound });
        append(&log, [90]).await;
        assert_eq!(all(&log).await.len(), 9);
    }
}

#[tokio::test]
async fn a_damaged_byte_of_the_last_write_is_a_torn_tail() {
    for at in 0..RECORD_BYTES {
        let (folder, segments) = nine().await;
        flip(&segments[2], 2 * RECORD_BYTES + at);
        forget_mark(folder.path());
        let (_, opened) = open(folder.path());
        assert_eq!((opened.end, opened.state), (Lsn(80), LogState::Sound), "byte {at}");
    }
}

#[tokio::test]
async fn a_lost_last_record_that_was_acknowledged_is_corruption() {
    for at in 0..=RECORD_BYTES {
        let (folder, segments) = nine().await;
        if at < RECORD_BYTES {
            flip(&segments[2], 2 * RECORD_BYTES + at);
        } else {
            fs::remove_file(&segments[2]).unwrap();
        }
        let (log, opened) = open(folder.path());
        let LogState::Corrupt { resumes_at, .. } = opened.state else { panic!("byte {at}") };
        assert_eq!(resumes_at, Lsn(90));
        assert!(matches!(log.append(vec![record(100)]).await, Err(LogError::Corrupt { .. })));
    }
}

#[tokio::test]
async fn damage_in_any_segment_is_named_and_nothing_is_dropped() {
    for (n, segment) in [0, 1, 2].into_iter().enumerate() {
        for at in [0, 1, 5, 8, 9, 20, RECORD_BYTES, RECORD_BYTES + 17] {
            let (folder, segments) = nine().await;
            flip(&segments[segment], at);
            forget_mark(folder.path());
            let damaged = at / RECORD_BYTES;
            let before: Vec<u64> = (1..=3 * n as u64 + damaged).map(|n| n * 10).collect();
            let end = Lsn(before.last().copied().unwrap_or(0));
            let (log, opened) = open(folder.path());
            let state = LogState::Corrupt {
                segment: segments[segment].clone(),
                offset: damaged * RECORD_BYTES,
                resumes_at: Lsn(90),
            };
            assert_eq!(opened, Opened { end, torn_bytes: 0, state });
            assert_eq!(all(&log).await, before);
            assert!(matches!(log.append(vec![record(100)]).await, Err(LogError::Corrupt { .. })));
            drop(log);
            assert_eq!(files(folder.path(), ".segment").len(), 3);

            let (log, _) = open(folder.path());
            assert_eq!(log.set_aside_corrupt().await.unwrap(), end);
            assert_eq!(files(folder.path(), ".corrupt").len(), 3 - n);
            // A peer sends again what is missing.
            append(&log, (end.0 / 10 + 1..=9).map(|n| n * 10)).await;
            assert_eq!(all(&log).await.len(), 9);
            drop(log);
            assert_eq!(open(folder.path()).1.state, LogState::Sound);
        }
    }
}

#[tokio::test]
async fn a_missing_segment_between_two_others_is_corruption() {
    let (folder, segments) = nine().await;
    fs::remove_file(&segments[1]).unwrap();
    let (log, opened) = open(folder.path());
    let LogState::Corrupt { segment, resumes_at, .. } = opened.state else { panic!() };
    assert_eq!((segment, opened.end, resumes_at), (segments[0].clone(), Lsn(30), Lsn(90)));
    assert_eq!(log.set_aside_corrupt().await.unwrap(), Lsn(30));
    append(&log, [40]).await;
    assert_eq!(all(&log).await, [10, 20, 30, 40]);
}

#[tokio::test]
async fn what_was_set_aside_is_never_overwritten() {
    let (folder, segments) = nine().await;
    for round in 1..=2 {
        flip(&segments[0], 2 * RECORD_BYTES);
        let (log, _) = open(folder.path());
        assert_eq!(log.set_aside_corrupt().await.unwrap(), Lsn(20));
        append(&log, [30]).await;
        drop(log);
        let aside = segments[0].file_name().unwrap().to_str().unwrap().to_owned() + ".corrupt";
        let kept = fs::read_dir(folder.path())
            .unwrap()
            .filter(|entry| {
                entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(&aside)
            })
            .count();
        assert_eq!(kept, round);
    }
}

#[tokio::test]
async fn setting_aside_a_sound_log_changes_nothing() {
    let (folder, _) = nine().await;
    let (log, _) = open(folder.path());
    assert_eq!(log.set_aside_corrupt().await.unwrap(), Lsn(90));
    assert!(files(folder.path(), ".corrupt").is_empty());
}

#[tokio::test]
async fn a_disk_that_changes_a_byte_of_a_running_log_gives_an_error_and_no_record() {
    let (folder, segments) = nine().await;
    let (log, _) = open(folder.path());
    flip(&segments[1], RECORD_BYTES + 20);
    let error = try_all(&log, 0).await.unwrap_err();
    let LogError::Corrupt { segment, offset } = error else { panic!("{error}") };
    assert_eq!((segment, offset), (segments[1].clone(), RECORD_BYTES));
    let mut reader = log.read(Lsn(40));
    assert!(matches!(reader.next_batch(1).await, Err(LogError::Corrupt { .. })));
    assert_eq!(log.set_aside_corrupt().await.unwrap(), Lsn(40));
    assert_eq!(reader.next_batch(1).await.unwrap(), None);
    append(&log, [50]).await;
    assert_eq!(reader.next_batch(1).await.unwrap().unwrap()[0].lsn, Lsn(50));
}

#[tokio::test]
async fn truncating_removes_what_is_after_and_lasts() {
    for lsn in (0..=95).step_by(5) {
        let (folder, _) = nine().await;
        let (log, _) = open(folder.path());
        let kept: Vec<u64> = (1..=9).map(|n| n * 10).filter(|n| *n <= lsn).collect();
        let mut reader = log.read(Lsn(0));
        while reader.next_batch(64).await.unwrap().is_some() {}
        let removed = log.truncate_after(Lsn(lsn)).await.unwrap();
        assert_eq!(removed, 9 - kept.len() as u64);
        assert_eq!(log.end(), Lsn(kept.last().copied().unwrap_or(0)));
        assert_eq!(all(&log).await, kept);
        drop(log);
        let (log, opened) = open(folder.path());
        assert_eq!(opened.state, LogState::Sound, "after {lsn}");
        append(&log, [96]).await;
        assert_eq!(try_all(&log, 90).await.unwrap(), [96]);
    }
}

#[tokio::test]
async fn trimming_deletes_whole_segments_and_never_the_last() {
    let (folder, segments) = nine().await;
    let (log, _) = open(folder.path());
    assert_eq!(log.trim_before(Lsn(29)).await.unwrap(), 0);
    assert_eq!(log.trim_before(Lsn(30)).await.unwrap(), 1);
    assert_eq!(log.first(), Some(Lsn(40)));
    assert_eq!(log.trim_before(Lsn(1000)).await.unwrap(), 1);
    assert_eq!(files(folder.path(), ".segment"), segments[2..]);
    assert_eq!(all(&log).await, [70, 80, 90]);
}

#[tokio::test]
async fn a_reader_learns_that_what_it_asks_for_is_trimmed() {
    let (folder, _) = nine().await;
    let (log, _) = open(folder.path());
    log.trim_before(Lsn(60)).await.unwrap();
    for log in [log.clone(), log] {
        let error = try_all(&log, 59).await.unwrap_err();
        assert!(matches!(error, LogError::Trimmed { trimmed: Lsn(60), .. }), "{error}");
        assert_eq!(try_all(&log, 60).await.unwrap(), [70, 80, 90]);
    }
}

#[tokio::test]
async fn a_trimmed_log_that_is_truncated_to_nothing_ends_at_the_cut() {
    let (folder, _) = nine().await;
    let (log, _) = open(folder.path());
    log.trim_before(Lsn(60)).await.unwrap();
    assert_eq!(log.truncate_after(Lsn(55)).await.unwrap(), 3);
    assert_eq!((log.end(), log.first()), (Lsn(55), None));
    drop(log);
    let (log, opened) = open(folder.path());
    assert_eq!((opened.end, opened.state), (Lsn(55), LogState::Sound));
    append(&log, [57]).await;
    assert_eq!(all(&log).await, [57]);
}

#[tokio::test]
async fn a_log_that_begins_late_says_so_to_those_who_ask_for_more() {
    let folder = folder();
    let (log, _) = open(folder.path());
    log.begin_after(Lsn(500)).await.unwrap();
    assert_eq!(log.end(), Lsn(500));
    append(&log, [510]).await;
    assert!(matches!(try_all(&log, 499).await, Err(LogError::Trimmed { .. })));
    assert_eq!(try_all(&log, 500).await.unwrap(), [510]);
    assert!(matches!(log.begin_after(Lsn(600)).await, Err(LogError::NotEmpty { .. })));
}

#[tokio::test]
async fn a_record_longer_than_a_segment_and_a_batch_is_read_whole() {
    let folder = folder();
    let (log, _) = open(folder.path());
    let long = Bytes::from(vec![7; 3 << 20]);
    log.append(vec![record(1), (Lsn(2), long.clone()), record(3)]).await.unwrap();
    drop(log);
    let (log, opened) = open(folder.path());
    assert_eq!(opened.end, Lsn(3));
    let mut reader = log.read(Lsn(1));
    assert_eq!(reader.next_batch(10).await.unwrap().unwrap()[0].payload, long);
}

#[tokio::test]
async fn a_failed_append_moves_nothing_and_poisons_the_log() {
    let folder = folder();
    let (log, _) = open(folder.path());
    append(&log, [10]).await;
    // The next segment cannot be made: its folder is gone.
    fs::remove_dir_all(folder.path()).unwrap();
    let big = (Lsn(20), Bytes::from(vec![0; 200]));
    assert!(matches!(log.append(vec![big]).await, Err(LogError::Io { .. })));
    assert!(matches!(log.append(vec![record(30)]).await, Err(LogError::Poisoned { .. })));
    assert!(matches!(log.truncate_after(Lsn(0)).await, Err(LogError::Poisoned { .. })));
    assert_eq!(log.end(), Lsn(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_follows_a_writer_sees_every_record_once() {
    const COUNT: u64 = 400;
    let folder = folder();
    let (log, _) = open(folder.path());
    let writer = tokio::spawn({
        let log = log.clone();
        async move {
            for lsn in (1..COUNT).step_by(2) {
                log.append(vec![record(lsn), record(lsn + 1)]).await.unwrap();
                log.trim_before(Lsn(lsn.saturating_sub(2 * COUNT))).await.unwrap();
            }
        }
    });
    let (mut reader, mut end) = (log.read(Lsn::ZERO), log.watch_end());
    let mut seen = Vec::new();
    while seen.len() < COUNT as usize {
        match reader.next_batch(100).await.unwrap() {
            Some(frames) => {
                assert!(frames.iter().all(|frame| frame.lsn <= log.end()));
                seen.extend(frames.iter().map(|frame| frame.lsn.0));
            }
            None => {
                let after = reader.after();
                end.wait_for(|end| *end > after).await.unwrap();
            }
        }
    }
    writer.await.unwrap();
    assert_eq!(seen, (1..=COUNT).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_is_never_misled_by_records_that_are_taken_back() {
    let folder = folder();
    let (log, _) = open(folder.path());
    append(&log, 1..=5).await;
    let writer = tokio::spawn({
        let log = log.clone();
        async move {
            for round in 0..60_u64 {
                // Other lengths each round, so that old and new records overlap in the file.
                let long = |lsn| (Lsn(lsn), Bytes::from(vec![b'x'; ((lsn + round) % 90) as usize]));
                log.append((6..=20).map(long).collect()).await.unwrap();
                log.truncate_after(Lsn(5 + round % 7)).await.unwrap();
                log.truncate_after(Lsn(5)).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let mut reader = log.read(Lsn::ZERO);
        let mut lsns = Vec::new();
        while let Some(frames) = reader.next_batch(60).await.unwrap() {
            lsns.extend(frames.iter().map(|frame| frame.lsn.0));
        }
        assert!(lsns.starts_with(&[1, 2, 3, 4, 5]) && lsns.is_sorted());
    }
    writer.await.unwrap();
    assert_eq!(all(&log).await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn setting_aside_that_a_crash_cut_short_leaves_a_log_that_is_still_corrupt() {
    for done in 1..=3 {
        let (folder, segments) = nine().await;
        flip(&segments[0], 2 * RECORD_BYTES);
        // In the order in which they are done, while the mark stays at 90.
        for segment in segments.iter().skip(1).rev().take(done) {
            fs::rename(segment, segment.with_extension("segment.corrupt")).unwrap();
        }
        if done == 3 {
            let front = fs::File::options().write(true).open(&segments[0]).unwrap();
            front.set_len(2 * RECORD_BYTES).unwrap();
        }
        let (log, opened) = open(folder.path());
        let LogState::Corrupt { resumes_at, .. } = opened.state else { panic!("after {done}") };
        assert_eq!(resumes_at, Lsn(90));
        assert_eq!(log.set_aside_corrupt().await.unwrap(), Lsn(20));
        append(&log, [30]).await;
        assert_eq!(all(&log).await, [10, 20, 30]);
    }
}

#[tokio::test]
async fn damage_that_a_full_disk_keeps_from_being_set_aside_is_set_aside_once_it_has_room() {
    let mut disk = match Disk::make(1 << 20) {
        Ok(disk) => disk,
        Err(error) => return println!("not tried: {error}"),
    };
    let folder = disk.path().join("log");
    let (log, _) = open(&folder);
    append(&log, (1..=9).map(|n| n * 10)).await;
    drop(log);
    flip(&files(&folder, ".segment")[1], RECORD_BYTES);
    let (log, _) = open(&folder);
    disk.fill().unwrap();
    for _ in 0..2 {
        let full = log.set_aside_corrupt().await.unwrap_err();
        assert!(full.to_string().contains("No space left on device"), "{full}");
        assert_eq!(files(&folder, ".segment").len(), 3, "nothing was moved");
    }
    disk.free().unwrap();
    assert_eq!(log.set_aside_corrupt().await.unwrap(), Lsn(40));
    append(&log, [50]).await;
    assert_eq!(all(&log).await, [10, 20, 30, 40, 50]);
    assert_eq!(files(&folder, ".corrupt").len(), 2);
}

#[tokio::test]
async fn a_log_opens_on_a_full_disk_and_takes_records_once_there_is_room() {
    let mut disk = match Disk::make(4 << 20) {
        Ok(disk) => disk,
        Err(error) => return println!("not tried: {error}"),
    };
    let folder = disk.path().join("log");
    let (log, _) = open(&folder);
    append(&log, [10, 20]).await;
    drop(log);
    forget_mark(&folder);
    disk.fill().unwrap();
    let (log, opened) = open(&folder);
    assert_eq!((opened.end, opened.state), (Lsn(20), LogState::Sound));
    assert!(matches!(log.standing(), Standing::Full(_)), "{:?}", log.standing());
    assert_eq!(all(&log).await, [10, 20]);
    assert!(matches!(log.append(vec![record(30)]).await, Err(LogError::Poisoned { .. })));
    disk.free().unwrap();
    append(&log, [30]).await;
    assert_eq!(log.standing(), Standing::Sound);
    drop(log);
    let (log, opened) = open(&folder);
    assert_eq!((opened.end, opened.state), (Lsn(30), LogState::Sound));
    assert_eq!(all(&log).await, [10, 20, 30]);
}

/// Names the folder for the child process of the test below.
const CHILD_FOLDER: &str = "DOMICILE_TEST_LOG_FOLDER";

#[tokio::test]
#[ignore = "runs in a child process that is killed"]
async fn a_child_appends_until_it_is_killed() {
    let folder = std::env::var(CHILD_FOLDER).unwrap();
    let (log, opened) = open(Path::new(&folder));
    for lsn in opened.end.0 + 1.. {
        append(&log, [lsn]).await;
        println!("\nappended {lsn}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_before_a_kill_is_there_after_it() {
    let folder = folder();
    let mut acknowledged = 0;
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_child_appends_until_it_is_killed", "--ignored", "--nocapture"])
            .env(CHILD_FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let Some(lsn) = line.unwrap().strip_prefix("appended ").map(str::parse::<u64>) else {
                continue;
            };
            acknowledged = lsn.unwrap();
            if acknowledged >= round * 40 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let (log, opened) = open(folder.path());
        assert_eq!(opened.state, LogState::Sound);
        assert!(opened.end >= Lsn(acknowledged));
        assert_eq!(all(&log).await, (1..=opened.end.0).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_reader_finds_its_place_again_after_a_truncation() {
    let folder = folder();
    let (log, _) = open(folder.path());
    log.append(vec![record(10), record(20), record(30)]).await.unwrap();
    let mut reader = log.read(Lsn::ZERO);
    let frames = reader.next_batch(2 * RECORD_BYTES as usize).await.unwrap().unwrap();
    assert_eq!(frames.len(), 2);
    log.truncate_after(Lsn(10)).await.unwrap();
    // Covers the place in the file where the reader stood.
    let long = Bytes::from(vec![0; 20]);
    log.append(vec![(Lsn(15), long), record(25)]).await.unwrap();
    assert_eq!(reader.next_batch(64).await.unwrap().unwrap()[0].lsn, Lsn(25));
}

#[tokio::test]
async fn a_log_that_begins_anew_forgets_what_was_before_and_tells_who_asks() {
    let (folder, _) = nine().await;
    let (log, _) = open(folder.path());
    assert!(matches!(log.skip_to(Lsn(90)).await, Err(LogError::OutOfOrder { .. })));
    let (_, rewrites) = log.end_and_rewrites();
    log.skip_to(Lsn(200)).await.unwrap();
    assert_eq!((log.end(), log.trimmed(), log.first()), (Lsn(200), Lsn(200), None));
    let missed = try_all(&log, 90).await;
    assert!(matches!(missed, Err(LogError::Trimmed { trimmed: Lsn(200), .. })), "{missed:?}");
    let late = log.append_frames(Some(rewrites), vec![Frame::of(Lsn(210), b"210")]).await;
    assert!(matches!(late, Err(LogError::Rewritten)), "{late:?}");
    append(&log, [210]).await;
    drop(log);
    let (log, opened) = open(folder.path());
    assert_eq!((opened.end, opened.state), (Lsn(210), LogState::Sound));
    assert_eq!(all(&log).await, [210]);
}

/// The mark claims what is skipped to before anything is removed: at each step in between the log
/// is seen to lack something, and never passes for one that begins at its beginning.
#[tokio::test]
async fn a_crash_while_a_log_begins_anew_never_leaves_one_that_seems_whole() {
    for removed in 0..=3 {
        let (folder, segments) = nine().await;
        let (ahead, _) = nine().await;
        let (log, _) = open(ahead.path());
        append(&log, [200]).await;
        drop(log);
        fs::copy(ahead.path().join("mark"), folder.path().join("mark")).unwrap();
        segments[..removed].iter().for_each(|segment| fs::remove_file(segment).unwrap());
        let (_, opened) = open(folder.path());
        let known = matches!(opened.state, LogState::Corrupt { resumes_at: Lsn(200), .. });
        assert!(known, "{removed}: {opened:?}");
    }
}

#[tokio::test]
async fn logs_that_share_a_room_stop_when_it_is_used_up() {
    let (one, other) = (folder(), folder());
    let room = Room::of(2 * RECORD_BYTES);
    let open = |folder: &Path| {
        let config = LogConfig { segment_bytes: SEGMENT_BYTES, ..LogConfig::new(folder) };
        Log::open(LogConfig { room: room.clone(), ..config }).unwrap().0
    };
    let (one, other) = (open(one.path()), open(other.path()));
    append(&one, [10]).await;
    append(&other, [10]).await;
    for log in [&one, &other] {
        assert!(matches!(log.append(vec![record(50)]).await, Err(LogError::NoRoom { .. })));
        assert!(log.ready().await.is_err());
    }
    assert_eq!((room.used(), one.end(), other.end()), (2 * RECORD_BYTES, Lsn(10), Lsn(10)));
    other.truncate_after(Lsn(0)).await.unwrap();
    append(&one, [50]).await;
    drop(one);
    assert_eq!(room.used(), 0);
}

fn open_packing(folder: &Path) -> (Log, Opened) {
    let compression = Compression::Lz4;
    let config =
        LogConfig { segment_bytes: SEGMENT_BYTES, recent_bytes: 0, ..LogConfig::new(folder) };
    Log::open(LogConfig { compression, ..config }).unwrap()
}

/// The records 10 to 240: each segment is one frame, of eight records.
async fn packed() -> (TempDir, Vec<PathBuf>) {
    let folder = folder();
    let (log, _) = open_packing(folder.path());
    for n in 0..3 {
        let batch: Vec<_> = (1..=8).map(|i| record(80 * n + 10 * i)).collect();
        log.append(batch).await.unwrap();
    }
    drop(log);
    let segments = files(folder.path(), ".segment");
    assert_eq!(segments.len(), 3);
    (folder, segments)
}

fn tens(upto: u64) -> Vec<u64> {
    (1..=upto / 10).map(|n| 10 * n).collect()
}

#[tokio::test]
async fn packed_records_are_there_after_reopening_in_fewer_bytes() {
    let (folder, segments) = packed().await;
    // Who does not pack reads what is.
    let (log, opened) = open(folder.path());
    assert_eq!((opened.end, opened.state), (Lsn(240), LogState::Sound));
    assert_eq!(all(&log).await, tens(240));
    let on_disk: u64 = segments.iter().map(|segment| fs::metadata(segment).unwrap().len()).sum();
    assert_eq!(log.bytes(), on_disk);
    assert!(on_disk < 24 * RECORD_BYTES * 2 / 3, "{on_disk}");
    // From the middle of a frame too, and with what is not packed behind it.
    append(&log, [250, 260]).await;
    assert_eq!(try_all(&log, 120).await.unwrap(), tens(260)[12..]);
    assert_eq!(log.trim_before(Lsn(159)).await.unwrap(), 1);
    assert_eq!((log.first(), log.trimmed()), (Some(Lsn(90)), Lsn(80)));
    assert_eq!(log.trim_before(Lsn(160)).await.unwrap(), 1);
    assert_eq!(all(&log).await, tens(260)[16..]);
}

#[tokio::test]
async fn a_packed_write_that_was_cut_short_is_a_torn_tail() {
    let (_whole, segments) = packed().await;
    for cut in 1..fs::metadata(&segments[2]).unwrap().len() {
        let (folder, segments) = packed().await;
        fs::File::options().write(true).open(&segments[2]).unwrap().set_len(cut).unwrap();
        forget_mark(folder.path());
        let (log, opened) = open_packing(folder.path());
        assert_eq!((opened.end, opened.state), (Lsn(160), LogState::Sound), "{cut} bytes");
        assert_eq!(opened.torn_bytes, cut);
        append(&log, [170]).await;
        assert_eq!(all(&log).await, tens(170));
    }
}

#[tokio::test]
async fn damage_to_packed_records_is_named_and_what_is_behind_it_is_known() {
    for at in [0, 5, 8, 9, 17, 25, 29, 40] {
        let (folder, segments) = packed().await;
        flip(&segments[1], at);
        forget_mark(folder.path());
        let (log, opened) = open_packing(folder.path());
        let LogState::Corrupt { resumes_at, .. } = opened.state else { panic!("byte {at}") };
        assert_eq!((opened.end, resumes_at), (Lsn(80), Lsn(240)));
        assert_eq!(log.set_aside_corrupt().await.unwrap(), Lsn(80));
        assert_eq!(all(&log).await, tens(80));
    }
}

#[tokio::test]
async fn truncating_inside_of_packed_records_keeps_those_before() {
    for lsn in (0..=245).step_by(5) {
        let (folder, _) = packed().await;
        let (log, _) = open_packing(folder.path());
        let mut reader = log.read(Lsn(0));
        reader.next_batch(1).await.unwrap();
        let kept = tens(lsn.min(240));
        assert_eq!(log.truncate_after(Lsn(lsn)).await.unwrap(), 24 - kept.len() as u64);
        assert_eq!(all(&log).await, kept);
        append(&log, [250]).await;
        drop(log);
        let (log, opened) = open_packing(folder.path());
        assert_eq!((opened.end, opened.state), (Lsn(250), LogState::Sound), "after {lsn}");
        assert_eq!(all(&log).await, [&kept[..], &[250]].concat());
        assert!(files(folder.path(), ".new").is_empty());
    }
}
