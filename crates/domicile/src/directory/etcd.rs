//! How are documents kept in etcd?
//!
//! ```text
//!   document "ownership" of cluster "shop"     key "domicile/shop/ownership"
//!   revision of a document                     mod_revision of the key
//!   compare-and-set                            Txn: if mod_revision = expected then Put or DeleteRange
//!   a snapshot                                 one Range, linearizable
//!   events after revision R                    Watch from R + 1
//! ```
//!
//! What has moved here from another directory goes on with that one's revisions: all of etcd's count from
//! there, so that for whoever compares them nothing has begun anew.
//!
//! Other things may be kept in the same etcd: its revision then rises without ours, which nothing
//! here minds. etcd's own leases are not used: they count in whole seconds and are extended when
//! the leader changes.
//!
//! **Invariant:** a watch ends when its member loses the leader, so nobody takes the silence of a
//! member that was cut off for peace.

mod members;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use domicile_core::config;
use futures_util::StreamExt;
use futures_util::stream::{iter, pending};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Extensions, Request, Response, Status, Streaming};

use self::members::{Members, Repeat};
use super::client::{DirectoryError, End};
use super::documents::OWNERSHIP_KEY;
use super::events::Event;
use super::relocate::{ARRIVED_KEY, ArrivedDocument};
use super::{Document, MESSAGE_BYTES_MAX, Snapshot, Written};
use crate::proto::etcd as proto;
use proto::event::EventType;
use proto::kv_client::KvClient;
use proto::request_op::Request as Op;
use proto::response_op::Response as Did;
use proto::watch_client::WatchClient;

/// A watch whose member has no leader ends, when this is asked for.
const REQUIRE_LEADER: &str = "hasleader";

/// Clones share the connections.
#[derive(Clone, Debug)]
pub(super) struct Client {
    members: Arc<Members>,
    /// Before every key.
    root: Arc<str>,
    /// How far the directory was that has moved here: 0 if none has. Known once somebody has begun here.
    base: Arc<OnceLock<u64>>,
}

impl Client {
    pub(super) fn new(config: &config::Etcd, cluster: &str) -> Result<Self, DirectoryError> {
        let members = Arc::new(Members::new(config)?);
        let root = format!("domicile/{cluster}/").into();
        Ok(Self { members, root, base: Arc::default() })
    }

    pub(super) fn address(&self) -> &str {
        self.members.addresses()
    }

    pub(super) async fn read(&self, prefix: &str) -> Result<Snapshot, DirectoryError> {
        let base = self.base().await?;
        let (key, range_end) = self.range(prefix);
        let (address, answer) = self.look(proto::RangeRequest { key, range_end }).await?;
        let snapshot = self.lift_snapshot(answer, base);
        snapshot.map_err(|reason| DirectoryError::Refused { address, reason })
    }

    async fn look(
        &self,
        request: proto::RangeRequest,
    ) -> Result<(String, proto::RangeResponse), DirectoryError> {
        let call = |channel, metadata| {
            let request = Request::from_parts(metadata, Extensions::default(), request.clone());
            async move { kv(channel).range(request).await }
        };
        let (address, answer) = self.members.ask(Repeat::Always, call).await?;
        Ok((address, answer.into_inner()))
    }

    /// Where nobody has begun yet another directory may still move here.
    async fn base(&self) -> Result<u64, DirectoryError> {
        if let Some(base) = self.base.get() {
            return Ok(*base);
        }
        let get = async |key: &str| {
            let key = Bytes::from(format!("{}{key}", self.root));
            let request = proto::RangeRequest { key, range_end: Bytes::new() };
            let (address, found) = self.look(request).await?;
            Ok((address, found.kvs.into_iter().next().map(|kv| kv.value)))
        };
        // In this order: what has moved here has not begun before the other one was written.
        let begun = get(OWNERSHIP_KEY).await?.1.is_some();
        let (address, arrived) = get(ARRIVED_KEY).await?;
        let Some(arrived) = arrived else {
            return Ok(if begun { *self.base.get_or_init(|| 0) } else { 0 });
        };
        let unread = |error: serde_json::Error| DirectoryError::Refused {
            address,
            reason: format!("document {ARRIVED_KEY:?} is unreadable: {error}"),
        };
        let arrived: ArrivedDocument = serde_json::from_slice(&arrived).map_err(unread)?;
        Ok(*self.base.get_or_init(|| arrived.after))
    }

    pub(super) async fn write(
        &self,
        key: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<Written, DirectoryError> {
        let base = self.base().await?;
        let key = Bytes::from(format!("{}{key}", self.root));
        let request = compare_and_set(key, lower_revision(expected, base), value);
        let call = |channel, metadata| {
            let request = Request::from_parts(metadata, Extensions::default(), request.clone());
            async move { kv(channel).txn(request).await }
        };
        let (address, answer) = self.members.ask(Repeat::IfNeverSent, call).await?;
        let written = lift_written(answer.into_inner(), base);
        // It may have happened.
        written.map_err(|reason| DirectoryError::Unreachable { address, reason })
    }

    /// Opens the stream of events after revision `seen`.
    pub(super) async fn watch(&self, prefix: &str, seen: u64) -> Result<Changes, End> {
        let base = self.base().await.map_err(End::Lost)?;
        let (key, range_end) = self.range(prefix);
        let start_revision = lower_revision(seen.saturating_add(1), base);
        let create = proto::WatchCreateRequest { key, range_end, start_revision };
        let request_union = Some(proto::watch_request::RequestUnion::CreateRequest(create));
        let request = proto::WatchRequest { request_union };
        let call = |channel, metadata| open_watch(channel, metadata, request.clone());
        let opened = self.members.ask(Repeat::Always, call).await.map_err(End::Lost)?;
        let (address, opened) = opened;
        let (first, stream) = opened.into_inner();
        let changes = Changes { client: self.clone(), base, address, stream };
        changes.lift(first)?;
        Ok(changes)
    }

    /// The first key under `prefix`, and the first one behind them.
    fn range(&self, prefix: &str) -> (Bytes, Bytes) {
        let first = format!("{}{prefix}", self.root).into_bytes();
        let mut behind = first.clone();
        // No byte of UTF-8 is the highest one.
        if let Some(last) = behind.last_mut() {
            *last += 1;
        }
        (first.into(), behind.into())
    }

    /// Returns a document's key, without what stands before it in etcd.
    fn lift_key(&self, key: &[u8]) -> Result<String, String> {
        let ours = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&*self.root));
        let shown = || String::from_utf8_lossy(key).into_owned();
        ours.map(str::to_owned).ok_or_else(|| format!("key {:?} is none of ours", shown()))
    }

    fn lift_snapshot(&self, answer: proto::RangeResponse, base: u64) -> Result<Snapshot, String> {
        let header = answer.header.ok_or("an answer without a header")?;
        let lift = |kv: proto::KeyValue| {
            let revision = lift_revision(kv.mod_revision, base)?;
            Ok(Document { key: self.lift_key(&kv.key)?, value: kv.value, revision })
        };
        Ok(Snapshot {
            documents: answer.kvs.into_iter().map(lift).collect::<Result<_, String>>()?,
            revision: lift_revision(header.revision, base)?,
            store: header.cluster_id,
        })
    }

    fn lift_event(&self, event: proto::Event, base: u64) -> Result<Event, String> {
        let deleted = event.r#type() == EventType::Delete;
        let kv = event.kv.ok_or("an event without a key")?;
        let revision = lift_revision(kv.mod_revision, base)?;
        let value = (!deleted).then_some(kv.value);
        Ok(Event { key: self.lift_key(&kv.key)?, value, revision })
    }
}

/// One watch, on one member.
pub(super) struct Changes {
    client: Client,
    base: u64,
    address: String,
    stream: Streaming<proto::WatchResponse>,
}

impl Changes {
    pub(super) async fn next(&mut self) -> Result<Vec<Event>, End> {
        let next = self.stream.message().await;
        let next = next.and_then(|message| message.ok_or(Status::unavailable("watch ended")));
        match next {
            Ok(message) => self.lift(message),
            Err(status) => {
                self.client.members.avoid(&self.address);
                Err(End::Lost(super::call::lift_error(&self.address, &status)))
            }
        }
    }

    fn lift(&self, message: proto::WatchResponse) -> Result<Vec<Event>, End> {
        if message.compact_revision != 0 {
            return Err(End::Compacted);
        }
        let lost = |reason| {
            End::Lost(DirectoryError::Unreachable { address: self.address.clone(), reason })
        };
        if message.canceled {
            return Err(lost(format!("watch ended: {}", message.cancel_reason)));
        }
        let lift = |event| self.client.lift_event(event, self.base);
        let events = message.events.into_iter().map(lift);
        events.collect::<Result<_, String>>().map_err(lost)
    }
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns the stream with its first message, which says that the watch is there.
async fn open_watch(
    channel: Channel,
    mut metadata: MetadataMap,
    request: proto::WatchRequest,
) -> Result<Response<(proto::WatchResponse, Streaming<proto::WatchResponse>)>, Status> {
    metadata.insert(REQUIRE_LEADER, tonic::metadata::MetadataValue::from_static("true"));
    // The watch lasts for as long as more could be asked.
    let requests = iter([request]).chain(pending());
    let request = Request::from_parts(metadata, Extensions::default(), requests);
    let mut client = WatchClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut stream = client.watch(request).await?.into_inner();
    let first = stream.message().await?.ok_or(Status::unavailable("watch ended"))?;
    Ok(Response::new((first, stream)))
}

fn compare_and_set(key: Bytes, expected: i64, value: Option<Bytes>) -> proto::TxnRequest {
    use proto::compare::{CompareResult, CompareTarget, TargetUnion};
    let compare = proto::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(expected)),
    };
    let range_end = Bytes::new();
    let look = Op::RequestRange(proto::RangeRequest { key: key.clone(), range_end });
    let change = match value {
        Some(value) => Op::RequestPut(proto::PutRequest { key, value }),
        None => Op::RequestDeleteRange(proto::DeleteRangeRequest { key }),
    };
    let op = |op| vec![proto::RequestOp { request: Some(op) }];
    proto::TxnRequest { compare: vec![compare], success: op(change), failure: op(look) }
}

fn lift_written(answer: proto::TxnResponse, base: u64) -> Result<Written, String> {
    if answer.succeeded {
        let header = answer.header.ok_or("an answer without a header")?;
        return Ok(Written::At(lift_revision(header.revision, base)?));
    }
    match answer.responses.into_iter().next().and_then(|did| did.response) {
        Some(Did::ResponseRange(found)) => {
            let revision = found.kvs.first().map_or(0, |kv| kv.mod_revision);
            Ok(Written::Conflict(lift_revision(revision, base)?))
        }
        _ => Err("an answer that does not say what stands in the way".to_owned()),
    }
}

/// 0 stands for none, in either.
fn lift_revision(revision: i64, base: u64) -> Result<u64, String> {
    match u64::try_from(revision) {
        Ok(0) => Ok(0),
        Ok(revision) => Ok(revision + base),
        Err(_) => Err(format!("revision {revision}")),
    }
}

/// A revision that etcd cannot have stands for none that it has; of what has moved here, for one that it does not
/// have any more.
fn lower_revision(revision: u64, base: u64) -> i64 {
    match revision {
        0 => 0,
        _ => i64::try_from(revision.saturating_sub(base).max(1)).unwrap_or(i64::MAX),
    }
}
