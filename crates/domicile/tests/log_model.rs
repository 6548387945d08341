//! Does the log equal a plain list, whatever is done to it in whatever order?

use std::collections::VecDeque;

use bytes::Bytes;
use domicile::log::{Log, LogConfig, LogError, LogState, Reader};
use domicile_core::frame::Compression;
use domicile_core::lsn::Lsn;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Deed {
    /// For each record, how far its LSN is past the one before, and how long it is.
    Append(Vec<(u64, usize)>),
    Reopen,
    TruncateAfter(u64),
    TrimBefore(u64),
    ReadAfter(u64, usize),
    /// The one reader that follows reads so many bytes at a time, to the end.
    Follow(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => prop::collection::vec((1..20_u64, 0..60_usize), 0..6).prop_map(Deed::Append),
        1 => Just(Deed::Reopen),
        1 => (0..300_u64).prop_map(Deed::TruncateAfter),
        1 => (0..300_u64).prop_map(Deed::TrimBefore),
        2 => (0..300_u64, 0..200_usize).prop_map(|(after, max)| Deed::ReadAfter(after, max)),
        2 => (0..200_usize).prop_map(Deed::Follow),
    ]
}

/// What the log should be.
#[derive(Default)]
struct Model {
    records: VecDeque<(Lsn, Bytes)>,
    /// Where the log begins: everything up to here was trimmed, or never was.
    begins_after: Lsn,
}

impl Model {
    fn end(&self) -> Lsn {
        self.records.back().map_or(self.begins_after, |(lsn, _)| *lsn)
    }

    /// These were read after `after`.
    fn check(&self, records: Result<Vec<(Lsn, Bytes)>, LogError>, after: Lsn) {
        match records {
            Err(LogError::Trimmed { trimmed, .. }) => {
                assert_eq!(trimmed, self.begins_after);
                assert!(after < trimmed);
            }
            records => {
                let expected = self.records.iter().filter(|(lsn, _)| *lsn > after);
                assert_eq!(records.unwrap(), expected.cloned().collect::<Vec<_>>());
            }
        }
    }

    fn truncate_after(&mut self, lsn: Lsn) -> u64 {
        let before = self.records.len();
        self.records.retain(|(at, _)| *at <= lsn);
        self.begins_after = self.begins_after.min(lsn);
        (before - self.records.len()) as u64
    }

    /// Whole segments go, so the log says how far it went; never further than asked.
    fn trimmed_to(&mut self, first: Option<Lsn>, lsn: Lsn) {
        while let Some((at, _)) = self.records.front().filter(|(at, _)| Some(*at) != first) {
            assert!(*at <= lsn, "{at} was trimmed, asked was {lsn}");
            self.begins_after = *at;
            self.records.pop_front();
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    compression: Compression,
    recent_bytes: usize,
}

fn kind() -> impl Strategy<Value = Kind> {
    let compression = prop_oneof![Just(Compression::None), Just(Compression::Lz4)];
    let recent_bytes = prop_oneof![Just(0), Just(400), Just(100_000)];
    (compression, recent_bytes)
        .prop_map(|(compression, recent_bytes)| Kind { compression, recent_bytes })
}

fn open(folder: &std::path::Path, kind: Kind) -> Log {
    let Kind { compression, recent_bytes } = kind;
    let config =
        LogConfig { segment_bytes: 150, compression, recent_bytes, ..LogConfig::new(folder) };
    let (log, opened) = Log::open(config).unwrap();
    assert_eq!((opened.state, opened.torn_bytes), (LogState::Sound, 0));
    log
}

async fn read(log: &Log, after: Lsn, bytes_max: usize) -> Result<Vec<(Lsn, Bytes)>, LogError> {
    read_on(&mut log.read(after), bytes_max).await
}

async fn read_on(reader: &mut Reader, bytes_max: usize) -> Result<Vec<(Lsn, Bytes)>, LogError> {
    let mut records = Vec::new();
    while let Some(frames) = reader.next_batch(bytes_max).await? {
        records.extend(frames.into_iter().map(|frame| (frame.lsn, frame.payload)));
    }
    Ok(records)
}

async fn run(kind: Kind, deeds: Vec<Deed>) {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, mut model) = (open(folder.path(), kind), Model::default());
    let mut follower = log.read(Lsn::ZERO);
    for deed in deeds {
        match deed {
            Deed::Append(steps) => {
                let mut at = model.end().0;
                let batch: Vec<_> = steps
                    .into_iter()
                    .map(|(step, len)| {
                        at += step;
                        (Lsn(at), Bytes::from(vec![at as u8; len]))
                    })
                    .collect();
                assert_eq!(log.append(batch.clone()).await.unwrap(), Lsn(at));
                model.records.extend(batch);
            }
            Deed::Reopen => {
                drop(log);
                log = open(folder.path(), kind);
                follower = log.read(follower.after());
            }
            Deed::TruncateAfter(lsn) => {
                let expected = model.truncate_after(Lsn(lsn).min(model.end()));
                assert_eq!(log.truncate_after(Lsn(lsn)).await.unwrap(), expected);
            }
            Deed::TrimBefore(lsn) => {
                log.trim_before(Lsn(lsn)).await.unwrap();
                model.trimmed_to(log.first(), Lsn(lsn));
            }
            Deed::ReadAfter(after, bytes_max) => {
                let records = read(&log, Lsn(after), bytes_max).await;
                model.check(records, Lsn(after));
            }
            Deed::Follow(bytes_max) => {
                let after = follower.after();
                let records = read_on(&mut follower, bytes_max).await;
                if records.is_err() {
                    follower = log.read(model.begins_after);
                }
                model.check(records, after);
            }
        }
        assert_eq!(log.end(), model.end());
        assert_eq!(log.first(), model.records.front().map(|(lsn, _)| *lsn));
    }
    drop(log);
    let log = open(folder.path(), kind);
    let records = Vec::from(model.records);
    assert_eq!(records, read(&log, model.begins_after, 100).await.unwrap());

    // Shipped as it stands, it is the same on the other side.
    let folder = tempfile::tempdir().unwrap();
    let copy = open(folder.path(), Kind { compression: Compression::None, ..kind });
    copy.begin_after(model.begins_after).await.unwrap();
    let mut reader = log.read(model.begins_after);
    while let Some(frames) = reader.next_frames(100).await.unwrap() {
        copy.append_frames(None, frames).await.unwrap();
    }
    assert_eq!(records, read(&copy, model.begins_after, 100).await.unwrap());
    assert_eq!(log.bytes(), copy.bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_log_equals_a_plain_list(
        kind in kind(),
        deeds in prop::collection::vec(deed(), 0..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(kind, deeds));
    }
}
