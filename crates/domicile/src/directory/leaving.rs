//! Which directory is asked where everything moves from the embedded one to etcd?
//!
//! The embedded one, until its document [`MOVED_KEY`] says that all is there. Once it does not answer any more,
//! which it need not after that, what etcd says of it: [`ARRIVED_KEY`]. As neither is ever taken back, whoever has
//! gone over never returns.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::View;
use super::call::CALL_DEADLINE;
use super::client::{Client, DirectoryError, Store};
use super::relocate::{ARRIVED_KEY, ArrivedDocument, MOVED_KEY, MovedDocument};

/// How often etcd is looked at before it is needed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How far a directory is on its way to another one, as far as is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveState {
    /// It has not moved, and the other one could be reached or not, and why.
    Here {
        other: Result<(), String>,
    },
    Gone,
}

/// Cheap to clone. Whatever it keeps running ends with the last clone.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    from: Arc<Client>,
    to: Arc<Client>,
    /// Whether all has moved; `None` while neither has said.
    gone: watch::Receiver<Option<bool>>,
    other: watch::Receiver<Result<(), String>>,
}

impl Leaving {
    /// Both are clients of one directory.
    pub(super) fn start(from: Client, to: Client) -> Self {
        let (told, gone) = watch::channel(None);
        let (looked, other) = watch::channel(Err("nobody has looked yet".to_owned()));
        let (from, to) = (Arc::new(from), Arc::new(to));
        let lookout = Lookout { from: from.clone(), to: to.clone(), told, looked };
        tokio::spawn(lookout.run());
        Self { from, to, gone, other }
    }

    pub(super) fn state(&self) -> MoveState {
        match *self.gone.borrow() {
            Some(true) => MoveState::Gone,
            _ => MoveState::Here { other: self.other.borrow().clone() },
        }
    }

    /// The one that would be asked now.
    pub(super) fn now(&self) -> &Client {
        if *self.gone.borrow() == Some(true) { &self.to } else { &self.from }
    }

    pub(super) async fn store(&self) -> Result<Store, DirectoryError> {
        let mut gone = self.gone.clone();
        let told = tokio::time::timeout(CALL_DEADLINE, gone.wait_for(Option::is_some)).await;
        match told {
            Ok(Ok(_)) => Ok(self.now().one().expect("neither leaves for another").clone()),
            _ => Err(DirectoryError::Unreachable {
                address: self.from.address().to_owned(),
                reason: format!("nor does {} say that everything is there", self.to.address()),
            }),
        }
    }

    /// Waits until everything has moved.
    pub(super) async fn has_left(&self) {
        let mut gone = self.gone.clone();
        if gone.wait_for(|gone| *gone == Some(true)).await.is_err() {
            // The runtime ends.
            std::future::pending().await
        }
    }
}

/// Waits for the move of one directory.
struct Lookout {
    from: Arc<Client>,
    to: Arc<Client>,
    told: watch::Sender<Option<bool>>,
    looked: watch::Sender<Result<(), String>>,
}

impl Lookout {
    async fn run(self) {
        let unwanted = CancellationToken::new();
        let _ends_with_us = unwanted.clone().drop_guard();
        let mut views = self.from.follow(MOVED_KEY, unwanted);
        let mut pause = Duration::ZERO;
        loop {
            let view = views.borrow_and_update().clone();
            if view.connected {
                self.tell(has_moved(&view));
            }
            let changed = tokio::select! {
                () = self.told.closed() => return,
                changed = views.changed() => changed.is_ok(),
                arrived = self.look(pause) => {
                    pause = LOOK_EVERY;
                    if arrived {
                        self.tell(true);
                    }
                    true
                }
            };
            if *self.told.borrow() == Some(true) || !changed {
                return;
            }
        }
    }

    fn tell(&self, gone: bool) {
        let changed = self.told.send_if_modified(|told| {
            let before = *told;
            *told = Some(gone);
            before != *told
        });
        if gone && changed {
            info!(to = self.to.address(), "the directory has moved");
        }
    }

    /// Has everything arrived, if the other one says so?
    async fn look(&self, pause: Duration) -> bool {
        tokio::time::sleep(pause).await;
        let found = self.to.get(ARRIVED_KEY).await;
        let arrived = match &found {
            Ok(Some(found)) => serde_json::from_slice(&found.value).ok(),
            Ok(None) | Err(_) => None,
        };
        let _ = self.looked.send_replace(found.map(drop).map_err(|error| error.to_string()));
        arrived.is_some_and(|arrived: ArrivedDocument| arrived.complete)
    }
}

fn has_moved(view: &View) -> bool {
    let found = view.documents.get(MOVED_KEY);
    let moved = found.and_then(|(value, _)| serde_json::from_slice(value).ok());
    moved.is_some_and(|moved: MovedDocument| moved.complete)
}
