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
    at: Mutex<Aim>,
    called: Notify,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Aim {
    server: Option<(Target, BackendKeyData)>,
    /// Requests on their way to that server, or for all that is known.
    on_their_way: usize,
    /// The session waits in the gateway: nothing of it runs at a server that could be cancelled.
    waits: bool,
}

/// A session's own side of its slot; the session is forgotten when this is dropped.
#[derive(Debug)]
pub struct Cancellable {
    cancels: Cancels,
    key: Option<Key>,
    slot: Arc<Slot>,
}

impl Cancels {
    /// Passes the request on to the server that works for the session, if there is such a session; or to the session
    /// itself while it waits here. Its server would get to know of it later than the session, and cancel what comes next.
    pub async fn forward(&self, request: &CancelRequest, secure: &Secure) {
        let slot = lock(&self.0).get(&(request.pid, request.key.clone())).cloned();
        let Some(slot) = slot else {
            tracing::debug!(pid = request.pid, "cancel request for no session of this gateway");
            return;
        };
        let aimed = lock(&slot.at).aim();
        let Some((target, key)) = aimed else { return slot.called.notify_waiters() };
        let send = async {
            let mut link = target.connect(secure).await?;
            CancelRequest { pid: key.pid, key: key.key }.put(&mut link.outgoing);
            while !link.has_ended() {
                link.moved().await;
            }
            std::io::Result::Ok(())
        };
        match tokio::time::timeout(CANCEL_WAIT_MAX, send).await {
            Ok(sent) => {
                if let Err(error) = sent {
                    tracing::debug!(%target, %error, "a cancel request did not reach its server");
                }
                lock(&slot.at).on_their_way -= 1;
                slot.arrived.notify_one();
            }
            // It may still arrive.
            Err(_) => tracing::debug!(%target, "a cancel request was not answered"),
        }
    }

    /// Makes the slot of a session that has no key yet.
    pub fn session(&self) -> Cancellable {
        Cancellable { cancels: self.clone(), key: None, slot: Arc::default() }
    }
}

impl Aim {
    /// Returns where a request goes, which is on its way from now on.
    fn aim(&mut self) -> Option<(Target, BackendKeyData)> {
        if self.waits {
            return None;
        }
        self.on_their_way += usize::from(self.server.is_some());
        self.server.clone()
    }
}

impl Cancellable {
    /// The session is now at `target`, which gave it `key`. The first key is the client's.
    pub fn moved(&mut self, target: &Target, key: &BackendKeyData) {
        lock(&self.slot.at).server = Some((target.clone(), key.clone()));
        if self.key.is_none() {
            let key = (key.pid, key.key.clone());
            lock(&self.cancels.0).insert(key.clone(), self.slot.clone());
            self.key = Some(key);
        }
    }

    /// The session leaves its server to somebody else. Returns false where that must not be: a request is on its way
    /// there, and would meet whoever comes next.
    pub fn leave(&mut self) -> bool {
        let mut aim = lock(&self.slot.at);
        let may_leave = aim.on_their_way == 0;
        if may_leave {
            aim.server = None;
        }
        may_leave
    }

    /// Waits until a request has met its server.
    pub async fn arrived(&self) {
        self.slot.arrived.notified().await;
    }

    /// Waits for a cancel request from now on.
    pub async fn called(&self) {
        // First this, which hears of every request from now on, polled or not.
        let called = self.slot.called.notified();
        let _waits = Waits::begin(&self.slot);
        called.await;
    }
}

/// A session waits in the gateway for as long as this lives.
struct Waits<'a>(&'a Slot);

impl<'a> Waits<'a> {
    fn begin(slot: &'a Slot) -> Self {
        lock(&slot.at).waits = true;
        Self(slot)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        lock(&self.0.at).waits = false;
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

#[cfg(test)]
mod tests {
    use tokio::join;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_session_that_waits_here_is_called_and_its_server_is_left_alone() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (host, port) = ("127.0.0.1".to_owned(), server.local_addr().unwrap().port());
        let key = BackendKeyData { pid: 7, key: Bytes::from_static(b"once") };
        let cancels = Cancels::default();
        let mut session = cancels.session();
        session.moved(&Target::Tcp { host, port }, &key);
        let request = CancelRequest { pid: key.pid, key: key.key };
        let secure = Secure::default();
        join!(session.called(), cancels.forward(&request, &secure));
        assert!(session.leave(), "nothing is on its way to the server");
    }
}
