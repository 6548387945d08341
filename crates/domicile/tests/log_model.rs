//! Does the log equal a plain list, whatever is done to it in whatever order?

use std::collections::VecDeque;

use bytes::Bytes;
use domicile::log::{Log, LogConfig, LogError, LogState};
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
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => prop::collection::vec((1..20_u64, 0..60_usize), 0..6).prop_map(Deed::Append),
        1 => Just(Deed::Reopen),
        1 => (0..300_u64).prop_map(Deed::TruncateAfter),
        1 => (0..300_u64).prop_map(Deed::TrimBefore),
        2 => (0..300_u64, 0..200_usize).prop_map(|(after, max)| Deed::ReadAfter(after, max)),
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

fn open(folder: &std::path::Path, compression: Compression) -> Log {
    let config = LogConfig { segment_bytes: 150, compression, ..LogConfig::new(folder) };
    let (log, opened) = Log::open(config).unwrap();
    assert_eq!((opened.state, opened.torn_bytes), (LogState::Sound, 0));
    log
}

async fn read(log: &Log, after: Lsn, bytes_max: usize) -> Result<Vec<(Lsn, Bytes)>, LogError> {
    let mut reader = log.read(after);
    let mut records = Vec::new();
    while let Some(frames) = reader.next_batch(bytes_max).await? {
        records.extend(frames.into_iter().map(|frame| (frame.lsn, frame.payload)));
    }
    Ok(records)
}

async fn run(compression: Compression, deeds: Vec<Deed>) {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, mut model) = (open(folder.path(), compression), Model::default());
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
                log = open(folder.path(), compression);
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
                let after = Lsn(after);
                match read(&log, after, bytes_max).await {
                    Err(LogError::Trimmed { trimmed, .. }) => {
                        assert_eq!(trimmed, model.begins_after);
                        assert!(after < trimmed);
                    }
                    records => {
                        let expected: Vec<_> =
                            model.records.iter().filter(|(lsn, _)| *lsn > after).cloned().collect();
                        assert_eq!(records.unwrap(), expected);
                    }
                }
            }
        }
        assert_eq!(log.end(), model.end());
        assert_eq!(log.first(), model.records.front().map(|(lsn, _)| *lsn));
    }
    drop(log);
    let log = open(folder.path(), compression);
    let records = Vec::from(model.records);
    assert_eq!(records, read(&log, model.begins_after, 100).await.unwrap());

    // Shipped as it stands, it is the same on the other side.
    let folder = tempfile::tempdir().unwrap();
    let copy = open(folder.path(), Compression::None);
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
        compression in prop_oneof![Just(Compression::None), Just(Compression::Lz4)],
        deeds in prop::collection::vec(deed(), 0..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(compression, deeds));
    }
}
