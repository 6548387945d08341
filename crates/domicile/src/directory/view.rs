//! Who owns what, as this region last heard?

use std::sync::Arc;

use domicile_core::ownership::Ownership;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Client;
use super::documents::{OWNERSHIP_KEY, lift_ownership};

/// The ownership document, lifted. Revisions only rise.
#[derive(Clone, Debug, Default)]
pub struct OwnershipView {
    /// `None` until the directory was read for the first time.
    pub ownership: Option<Ownership>,
    pub revision: u64,
    pub connected: bool,
    /// The directory's content is older than what was seen before: nothing of it is believed.
    pub regressed: bool,
}

/// Follows the ownership document for as long as somebody holds the receiver.
pub fn follow(
    client: &Client,
    cluster: &str,
    shutdown: CancellationToken,
) -> watch::Receiver<Arc<OwnershipView>> {
    let mut documents = client.follow(OWNERSHIP_KEY, shutdown);
    let cluster = cluster.to_owned();
    let (sender, receiver) = watch::channel(Arc::new(OwnershipView::default()));
    tokio::spawn(async move {
        loop {
            let seen = documents.borrow_and_update().clone();
            let before = sender.borrow().clone();
            let mut now = OwnershipView {
                connected: seen.connected,
                regressed: seen.regressed,
                ..(*before).clone()
            };
            if let Some((value, revision)) = seen.documents.get(OWNERSHIP_KEY)
                && *revision > now.revision
                && !seen.regressed
            {
                match lift_ownership(&cluster, value) {
                    Ok(ownership) => {
                        (now.ownership, now.revision) = (Some(ownership), *revision);
                    }
                    Err(error) => tracing::error!("ownership is unreadable: {error:#}"),
                }
            }
            sender.send_replace(Arc::new(now));
            if sender.is_closed() || documents.changed().await.is_err() {
                return;
            }
        }
    });
    receiver
}
