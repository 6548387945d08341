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
    /// What this region's disk says was seen before this process, perhaps not the last of it.
    pub remembered: Option<Arc<Ownership>>,
    pub revision: u64,
    pub connected: bool,
    /// The directory's content is older than what was seen before: nothing of it is believed.
    pub regressed: bool,
}

impl OwnershipView {
    /// Returns whether `found`, `None` where there is no ownership, cannot have come after what is
    /// known here.
    pub fn contradicts(&self, found: Option<&Ownership>) -> bool {
        let mut known = self.ownership.iter().chain(self.remembered.as_deref());
        known.any(|known| found.is_none_or(|found| found.forgets(known).is_some()))
    }
}

/// Follows the ownership document for as long as somebody holds the receiver; believes no directory
/// that is older than what is `remembered`.
pub fn follow(
    client: &Client,
    cluster: &str,
    remembered: Option<Arc<Ownership>>,
    shutdown: CancellationToken,
) -> watch::Receiver<Arc<OwnershipView>> {
    let mut documents = client.follow(OWNERSHIP_KEY, shutdown);
    let cluster = cluster.to_owned();
    let first = OwnershipView { remembered, ..OwnershipView::default() };
    let (sender, receiver) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        loop {
            let seen = documents.borrow_and_update().clone();
            let before = sender.borrow().clone();
            let mut now = OwnershipView {
                connected: seen.connected,
                regressed: before.regressed || seen.regressed,
                ..(*before).clone()
            };
            let found = seen.documents.get(OWNERSHIP_KEY);
            let news = found.filter(|(_, revision)| *revision > now.revision && !now.regressed);
            match news.map(|(value, revision)| (lift_ownership(&cluster, value), *revision)) {
                Some((Ok(ownership), _)) if before.contradicts(Some(&ownership)) => {
                    now.regressed = true;
                }
                Some((Ok(ownership), revision)) => {
                    (now.ownership, now.revision) = (Some(ownership), revision);
                }
                Some((Err(error), _)) => tracing::error!("ownership is unreadable: {error:#}"),
                None => {
                    let gone = found.is_none() && seen.connected;
                    now.regressed |= gone && before.contradicts(None);
                }
            }
            if now.regressed && !before.regressed {
                tracing::error!(
                    "the directory knows less of who owns what than was seen before: was it restored \
                     from an older copy? Nothing of it is believed"
                );
            }
            sender.send_replace(Arc::new(now));
            if sender.is_closed() || documents.changed().await.is_err() {
                return;
            }
        }
    });
    receiver
}
