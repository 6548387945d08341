//! Is a transaction that is too large for memory in the log as a whole, or not at all?

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use domicile::clock::Clock;
use domicile::copies::Copies;
use domicile::directory::view::OwnershipView;
use domicile::log::{Frame, LOG_SEGMENT_BYTES, Log, LogConfig, LogState, Logs, Spooled};
use domicile::peer::arrival::Arrival;
use domicile::peer::intake::{Intake, Outcome};
use domicile::pieces::Pieces;
use domicile::promises::Given;
use domicile_core::change::{Change, Identity, Relation, Stamp, Transaction, Value};
use domicile_core::frame::Compression;
use domicile_core::id::{Epoch, Origin, PartitionId, PartitionRange, RegionId, TableName};
use domicile_core::lease::LeaseTerms;
use domicile_core::lsn::Lsn;
use domicile_core::ownership::Ownership;
use domicile_core::progress::Rpo;
use domicile_core::record::{self, Changes};
use domicile_core::time::{DriftPpm, Millis};
use tokio::sync::watch;

const LARGE: Lsn = Lsn(20);
const PARTS: usize = 3;

fn open(folder: &Path) -> (Log, LogState) {
    let config = LogConfig { segment_bytes: 100, ..LogConfig::new(folder) };
    let (log, opened) = Log::open(config).unwrap();
    (log, opened.state)
}

fn head(lsn: Lsn) -> Transaction {
    let table = TableName::new("public", "t");
    Transaction {
        lsn,
        stamps: vec![Stamp { partition: PartitionId(0), epoch: Epoch(1) }],
        relations: vec![Arc::new(Relation {
            table,
            identity: Identity::Default,
            columns: Vec::new(),
        })],
        ..Transaction::default()
    }
}

fn insert(number: u64) -> Change {
    Change::Insert { relation: 0, new: vec![Value::text(number.to_string())] }
}

fn small(lsn: u64) -> (Lsn, Bytes) {
    let transaction = Transaction { changes: vec![insert(lsn)], ..head(Lsn(lsn)) };
    (Lsn(lsn), record::encode(&transaction).into())
}

fn part(numbers: impl IntoIterator<Item = u64>) -> Bytes {
    let mut changes = Changes::default();
    for number in numbers {
        changes.push(&insert(number));
    }
    Bytes::copy_from_slice(changes.as_bytes())
}

/// Rows 1 to 6, two in each part.
async fn parts(log: &Log) -> Spooled {
    let mut spool = log.spool().unwrap();
    for i in 0..PARTS as u64 {
        spool.push(part([2 * i + 1, 2 * i + 2])).await.unwrap();
    }
    spool.finish().await.unwrap()
}

async fn append_large(log: &Log, lsn: Lsn) {
    let payload = record::encode_large(&head(lsn)).into();
    let spooled = parts(log).await;
    assert_eq!(log.append_large(lsn, payload, spooled).await.unwrap(), lsn);
}

/// A log with a small record, a large and a small one.
async fn three(folder: &Path) -> Log {
    let (log, _) = open(folder);
    log.append(vec![small(10)]).await.unwrap();
    append_large(&log, LARGE).await;
    log.append(vec![small(30)]).await.unwrap();
    log
}

/// What the log says: the LSN, the first change's number, the changes, and whether it ends there.
async fn read(log: &Log) -> anyhow::Result<Vec<(u64, u64, usize, bool)>> {
    let begin = log.first().map_or(0, |first| first.0 - 1);
    let mut pieces = Pieces::new(log.read(Lsn(begin)));
    let mut seen = Vec::new();
    while let Some(batch) = pieces.next_batch(1 << 20).await? {
        seen.extend(batch.iter().map(|piece| {
            let transaction = &piece.transaction;
            assert_eq!(transaction.relations.len(), 1);
            let changes = transaction.changes.len();
            (transaction.lsn.0, piece.changes_before, changes, piece.last)
        }));
    }
    Ok(seen)
}

const ALL: [(u64, u64, usize, bool); 5] =
    [(10, 0, 1, true), (20, 0, 2, false), (20, 2, 2, false), (20, 4, 2, true), (30, 0, 1, true)];

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn parts_file(folder: &Path) -> PathBuf {
    folder.join(format!("{:016x}.parts", LARGE.0))
}

#[tokio::test]
async fn a_large_record_comes_back_in_pieces_also_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let log = three(folder.path()).await;
    assert_eq!(read(&log).await.unwrap(), ALL);
    assert!(log.bytes() > fs::metadata(parts_file(folder.path())).unwrap().len());
    let bytes = log.bytes();
    drop(log);
    let (log, state) = open(folder.path());
    assert_eq!((state, log.bytes()), (LogState::Sound, bytes));
    assert_eq!(read(&log).await.unwrap(), ALL);
}

#[tokio::test]
async fn parts_can_be_taken_back_before_the_transaction_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = open(folder.path());
    let mut spool = log.spool().unwrap();
    for i in 0..4 {
        spool.push(part([10 * i])).await.unwrap();
    }
    assert_eq!(spool.read(2).await.unwrap(), part([20]));
    spool.cut(2).await.unwrap();
    assert!(spool.read(2).await.is_err());
    spool.push(part([7, 8])).await.unwrap();
    let payload = record::encode_large(&head(LARGE)).into();
    log.append_large(LARGE, payload, spool.finish().await.unwrap()).await.unwrap();
    assert_eq!(read(&log).await.unwrap(), [(20, 0, 1, false), (20, 1, 1, false), (20, 2, 2, true)]);
}

#[tokio::test]
async fn what_never_committed_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = open(folder.path());
    let spool = folder.path().join("spool");
    let dropped = parts(&log).await;
    let late = log.append_large(Lsn(0), Bytes::new(), parts(&log).await).await;
    assert!(late.is_err(), "it is not after the end");
    assert_eq!(files(&spool).len(), 1);
    drop(dropped);
    assert!(files(&spool).is_empty());
    drop(log);

    // As a process leaves it that died in the middle, before and after the parts took their place.
    fs::write(spool.join("4"), "half a part").unwrap();
    fs::write(parts_file(folder.path()), "parts without a record").unwrap();
    let (log, state) = open(folder.path());
    assert_eq!((log.end(), state), (Lsn::ZERO, LogState::Sound));
    assert!(files(&spool).is_empty() && !parts_file(folder.path()).exists());
}

#[tokio::test]
async fn damaged_or_lost_parts_are_damage_to_their_record_and_are_fetched_again() {
    for lost in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let log = three(folder.path()).await;
        let path = parts_file(folder.path());
        if lost {
            fs::rename(&path, folder.path().join("elsewhere")).unwrap();
        } else {
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.write_all_at(b"!", 60).unwrap();
        }
        assert!(read(&log).await.is_err(), "a reader notices by itself");
        drop(log);
        let (log, state) = open(folder.path());
        let LogState::Corrupt { resumes_at, .. } = state else { panic!("{state:?}") };
        assert_eq!((log.end(), resumes_at), (Lsn(10), Lsn(30)));
        assert_eq!(log.set_aside_corrupt().await.unwrap(), Lsn(10));
        assert_eq!(read(&log).await.unwrap(), ALL[..1]);
        append_large(&log, LARGE).await;
        log.append(vec![small(30)]).await.unwrap();
        assert_eq!(read(&log).await.unwrap(), ALL);
        drop(log);
        assert_eq!(open(folder.path()).1, LogState::Sound);
    }
}

#[tokio::test]
async fn parts_go_when_their_record_goes() {
    for truncate in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let log = three(folder.path()).await;
        append_large(&log, Lsn(40)).await;
        let mut reader = log.read(Lsn(10));
        let frames = reader.next_batch(1 << 20).await.unwrap().unwrap();
        let of_a_slow_reader = reader.parts(&frames[0]).unwrap();
        if truncate {
            log.truncate_after(Lsn(19)).await.unwrap();
            assert_eq!(read(&log).await.unwrap(), ALL[..1]);
        } else {
            log.trim_before(Lsn(35)).await.unwrap();
            assert!(reader.parts(&frames[0]).is_err(), "a reader that comes late is told");
        }
        assert!(!parts_file(folder.path()).exists());
        let mut slow = of_a_slow_reader.unwrap();
        let mut left = 0;
        while slow.next().await.unwrap().is_some() {
            left += 1;
        }
        assert_eq!(left, PARTS, "who was reading reads to the end");
        drop(log);
        assert_eq!(open(folder.path()).1, LogState::Sound);
    }
}

/// A region that takes in eu's log.
struct Receiver {
    logs: Logs,
    intake: Intake,
    eu: Origin,
    _folder: tempfile::TempDir,
}

impl Receiver {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (logs, _) = Logs::open(folder.path(), LOG_SEGMENT_BYTES).unwrap();
        let regions: [RegionId; 2] = ["eu".parse().unwrap(), "us".parse().unwrap()];
        let ownership = Some(Ownership::initial(2, &regions));
        let view = OwnershipView { ownership, revision: 1, ..OwnershipView::default() };
        let (_, view) = watch::channel(Arc::new(view));
        let (ttl, renew_every) = (Millis(3000), Millis(500));
        let terms = LeaseTerms { ttl, renew_every, margin: Millis(100), drift: DriftPpm(500) };
        let promises = Given::new(Clock::new(), terms);
        let copies = Copies::open(folder.path(), Rpo::None).unwrap();
        let intake = Intake::open(logs.clone(), view, promises, copies, folder.path()).unwrap();
        Self { logs, intake, eu: "eu-1".parse().unwrap(), _folder: folder }
    }

    fn log(&self) -> Log {
        self.logs.get_or_create(&self.eu).unwrap()
    }

    async fn take(&self, arrival: &mut Arrival, frames: &Bytes) -> anyhow::Result<Outcome> {
        self.intake.append(&self.eu, arrival, frames).await
    }
}

fn open_packing(folder: &Path) -> Log {
    let compression = Compression::Lz4;
    let config = LogConfig { segment_bytes: 100, compression, ..LogConfig::new(folder) };
    Log::open(config).unwrap().0
}

/// The frames of a log, in the order in which a peer sends them.
async fn sent(log: &Log) -> Vec<Bytes> {
    let mut reader = log.read(Lsn::ZERO);
    let mut sent = Vec::new();
    while let Some(frames) = reader.next_frames(1 << 20).await.unwrap() {
        for frame in frames {
            sent.push(frame.bytes.clone());
            let Some(mut parts) = reader.parts_of(&frame).unwrap() else { continue };
            while let Some(part) = parts.next_frame().await.unwrap() {
                sent.push(part.bytes);
            }
        }
    }
    sent
}

#[tokio::test]
async fn a_peer_holds_a_large_record_when_it_has_the_last_part_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let frames = sent(&three(folder.path()).await).await;
    let receiver = Receiver::new();
    let log = receiver.log();

    let mut broken_off = Arrival::default();
    for frame in &frames[..4] {
        assert_eq!(receiver.take(&mut broken_off, frame).await.unwrap(), Outcome::Taken);
        assert_eq!(log.end(), Lsn(10));
    }
    drop(broken_off);

    let mut arrival = Arrival::default();
    let expected = [10, 10, 10, 10, 20, 30];
    for (frame, end) in frames.iter().zip(expected) {
        assert_eq!(receiver.take(&mut arrival, frame).await.unwrap(), Outcome::Taken);
        assert_eq!(log.end(), Lsn(end));
    }
    // Again, as by another survivor: passed over.
    let again: Bytes = frames.concat().into();
    assert_eq!(receiver.take(&mut arrival, &again).await.unwrap(), Outcome::Taken);
    assert!(!arrival.is_open());
    assert_eq!(read(&log).await.unwrap(), ALL);
}

#[tokio::test]
async fn a_peer_believes_no_parts_that_are_not_the_records_own() {
    let folder = tempfile::tempdir().unwrap();
    let frames = sent(&three(folder.path()).await).await;
    let receiver = Receiver::new();
    let swapped: Bytes = [1, 3, 2, 4].map(|i| frames[i].clone()).concat().into();
    assert!(receiver.take(&mut Arrival::default(), &swapped).await.is_err());

    let other = tempfile::tempdir().unwrap();
    let (log, _) = open(other.path());
    let mut spool = log.spool().unwrap();
    for i in 0..PARTS as u64 {
        spool.push(part([i])).await.unwrap();
    }
    let payload = record::encode_large(&head(LARGE)).into();
    log.append_large(LARGE, payload, spool.finish().await.unwrap()).await.unwrap();
    let foreign = sent(&log).await;
    let mixed: Bytes =
        [&frames[1], &foreign[1], &foreign[2], &foreign[3]].map(Bytes::clone).concat().into();
    assert!(receiver.take(&mut Arrival::default(), &mixed).await.is_err());
    assert_eq!(receiver.log().end(), Lsn::ZERO);
}

#[tokio::test]
async fn a_seal_that_comes_between_two_parts_keeps_the_record_out() {
    let folder = tempfile::tempdir().unwrap();
    let frames = sent(&three(folder.path()).await).await;
    let receiver = Receiver::new();
    let mut arrival = Arrival::default();
    for frame in &frames[..4] {
        receiver.take(&mut arrival, frame).await.unwrap();
    }
    let epochs = [(PartitionRange::new(0, 0), Epoch(1))];
    let sealed = receiver.intake.seal(&receiver.eu.region, &epochs).await.unwrap();
    assert_eq!(sealed.held[0].lsn, Lsn(10));
    assert_eq!(receiver.take(&mut arrival, &frames[4]).await.unwrap(), Outcome::Sealed);
    let again: Bytes = frames.concat().into();
    assert_eq!(receiver.take(&mut Arrival::default(), &again).await.unwrap(), Outcome::Sealed);
    assert_eq!(receiver.log().end(), Lsn(10));
}

#[tokio::test]
async fn packed_parts_are_shipped_as_they_are_and_come_back_plain() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_packing(folder.path());
    let rows = |i: u64| 100 * i..100 * (i + 1);
    let mut spool = log.spool().unwrap();
    for i in [0, 1, 9] {
        spool.push(part(rows(i))).await.unwrap();
    }
    assert_eq!(spool.read(1).await.unwrap(), part(rows(1)));
    spool.cut(2).await.unwrap();
    spool.push(part(rows(2))).await.unwrap();
    let payload = record::encode_large(&head(LARGE)).into();
    log.append_large(LARGE, payload, spool.finish().await.unwrap()).await.unwrap();
    let (bytes, plain) = (log.bytes(), 300 * part([7]).len() as u64);
    assert!(bytes * 2 < plain, "{bytes} of {plain}");
    drop(log);
    let (log, state) = open(folder.path());
    assert_eq!((state, log.bytes()), (LogState::Sound, bytes));

    let receiver = Receiver::new();
    let mut arrival = Arrival::default();
    for frame in sent(&log).await {
        assert_eq!(receiver.take(&mut arrival, &frame).await.unwrap(), Outcome::Taken);
    }
    assert_eq!(receiver.log().bytes(), bytes);
    let all = [(20, 0, 100, false), (20, 100, 100, false), (20, 200, 100, true)];
    assert_eq!(read(&log).await.unwrap(), all);
    assert_eq!(read(&receiver.log()).await.unwrap(), all);
}

#[tokio::test]
async fn of_records_that_came_packed_a_peer_takes_those_that_it_lacks_and_may_have() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_packing(folder.path());
    log.append(vec![small(10), small(20), small(30)]).await.unwrap();
    let packed = sent(&log).await.concat();
    let held = async |receiver: &Receiver| {
        let pieces = read(&receiver.log()).await.unwrap();
        pieces.iter().map(|(lsn, ..)| *lsn).collect::<Vec<_>>()
    };

    let all = Receiver::new();
    all.take(&mut Arrival::default(), &packed.clone().into()).await.unwrap();
    assert_eq!(held(&all).await, [10, 20, 30]);
    assert_eq!(all.log().bytes(), packed.len() as u64, "as they are");

    let some = Receiver::new();
    let (lsn, payload) = small(10);
    let first = Frame::of(lsn, &payload);
    some.take(&mut Arrival::default(), &first.bytes).await.unwrap();
    some.take(&mut Arrival::default(), &packed.clone().into()).await.unwrap();
    assert_eq!(held(&some).await, [10, 20, 30]);

    let sealed = Receiver::new();
    sealed.take(&mut Arrival::default(), &first.bytes).await.unwrap();
    let epochs = [(PartitionRange::new(0, 0), Epoch(1))];
    sealed.intake.seal(&sealed.eu.region, &epochs).await.unwrap();
    let taken = sealed.take(&mut Arrival::default(), &packed.clone().into()).await.unwrap();
    assert_eq!(taken, Outcome::Sealed);
    assert_eq!(held(&sealed).await, [10]);
}

#[tokio::test]
async fn a_peer_holds_nothing_that_does_not_unpack() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_packing(folder.path());
    log.append(vec![small(10), small(20), small(30)]).await.unwrap();
    let whole = sent(&log).await.concat();
    // A right checksum over bytes that unpack to other records than the frame says.
    let mut lie = whole.clone();
    lie[17] += 1;
    let crc = crc32c::crc32c(&lie[8..]);
    lie[4..8].copy_from_slice(&crc.to_le_bytes());
    let mut flipped = whole;
    flipped[40] ^= 1;
    for bytes in [lie, flipped] {
        let receiver = Receiver::new();
        let refused = receiver.take(&mut Arrival::default(), &bytes.into()).await.unwrap_err();
        assert!(format!("{refused:#}").starts_with("a peer sent a broken frame after"));
        assert_eq!(receiver.log().end(), Lsn::ZERO);
    }
}
