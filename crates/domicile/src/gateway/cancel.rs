//! Which server works for the session that a cancel request means?
//!
//! A client only knows the key that it was given first. Its session may have moved since, or its
//! statement may be with another region: the slot of the session says where to send the request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use domicile_pg::backend::BackendKeyData;
use domicile_pg::startup::CancelRequest;
use tokio::sync::Notify;

use super::secure::Secure;
use super::target::Target;

/// A server answers a cancel request by closing; nobody waits longer than this for it.
const CANCEL_WAIT_MAX: Duration = Duration::from_secs(5);

type Key = (u32, Bytes);

/// All sessions that can be cancelled through this gateway.
#[derive(Clone, Debug, Default)]
pub struct Cancels(Arc<Mutex<HashMap<Key, Arc<Slot>>>>);

/// Where one session's statements run.
#[derive(Debug, Default)]
struct Slot {
    at: Mutex<Option<(Target, BackendKeyData)>>,
    called: Notify,
}

/// A session's own side of its slot; the session is forgotten when this is dropped.
#[derive(Debug)]
pub struct Cancellable {
    cancels: Cancels,
    key: Option<Key>,
    slot: Arc<Slot>,
}

impl Cancels {
    /// Passes the request on to the server that works for the session, if there is such a session.
    pub async fn forward(&self, request: &CancelRequest, secure: &Secure) {
        let slot = lock(&self.0).get(&(request.pid, request.key.clone())).cloned();
        let Some(slot) = slot else {
            tracing::debug!(pid = request.pid, "cancel request for no session of this gateway");
            return;
        };
        slot.called.notify_waiters();
        let at = lock(&slot.at).clone();
        let Some((target, key)) = at else { return };
        let send = async {
            let mut link = target.connect(secure).await?;
            CancelRequest { pid: key.pid, key: key.key }.put(&mut link.outgoing);
            while !link.has_ended() {
                link.moved().await;
            }
            std::io::Result::Ok(())
        };
        if !matches!(tokio::time::timeout(CANCEL_WAIT_MAX, send).await, Ok(Ok(()))) {
            tracing::debug!(%target, "a cancel request did not reach its server");
        }
    }

    /// Makes the slot of a session that has no key yet.
    pub fn session(&self) -> Cancellable {
        Cancellable { cancels: self.clone(), key: None, slot: Arc::default() }
    }
}

impl Cancellable {
    /// The session is now at `target`, which gave it `key`. The first key is the client's.
    pub fn moved(&mut self, target: &Target, key: &BackendKeyData) {
        *lock(&self.slot.at) = Some((target.clone(), key.clone()));
        if self.key.is_none() {
            let key = (key.pid, key.key.clone());
            lock(&self.cancels.0).insert(key.clone(), self.slot.clone());
            self.key = Some(key);
        }
    }

    /// Waits for a cancel request from now on.
    pub async fn called(&self) {
        self.slot.called.notified().await;
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        let Some(key) = &self.key else { return };
        let mut sessions = lock(&self.cancels.0);
        // Two servers may give out the same key: only what is ours is removed.
        if sessions.get(key).is_some_and(|slot| Arc::ptr_eq(slot, &self.slot)) {
            sessions.remove(key);
        }
    }
}

/// Nothing that is done under these locks can be left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
