//! Is everything still in its place that an agent has put into its region's database?
//!
//! New table partitions need a guard, and one that somebody disabled is put back; the same for a
//! sequence that somebody set, and for the publication. What guarded transactions leave behind is
//! swept out, and so are old entries of the conflict journal.
//!
//! This has its own session: adding a trigger may wait for a long transaction, and the lease must
//! not wait with it.

use std::sync::Arc;
use std::time::Duration;

use domicile_core::config::Config;
use domicile_core::publication::PASSED_OVER;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::complain::Complaint;
use crate::notices::Notices;
use crate::postgres::passed_over::{self, PassedOver};
use crate::postgres::sequences::{self, Look};
use crate::postgres::setup::{self, NotPutBack};
use crate::postgres::{guard, journal, session};
use crate::tenure::TenureState;

/// How often all tables are looked over.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Under which the notice stands.
const PART: &str = "publication";

/// Looks all tables over until `shutdown`.
pub async fn keep(
    postgres: String,
    config: Arc<Config>,
    tenure: watch::Receiver<TenureState>,
    notices: Notices,
    noted: watch::Sender<Vec<PassedOver>>,
    shutdown: CancellationToken,
) {
    let mut complaint = Complaint::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let place = tenure.borrow().place;
        let looked = async {
            let mut client = session::connect(&postgres, "domicile guards").await?;
            // First of all: what is written is passed over until then.
            let published = setup::publish(&mut client, &config).await;
            match &published {
                Ok(()) => notices.clear(PART),
                Err(error) if error.is::<NotPutBack>() => {
                    let detail = format!(
                        "somebody changed the publication, and it cannot be put back: {error}. What \
                         is written here meanwhile may be passed over"
                    );
                    notices.post(PART, PASSED_OVER, detail);
                }
                Err(_) => {}
            }
            let passed = passed_over::all(&client).await?;
            noted.send_if_modified(|known| {
                let changed = *known != passed;
                *known = passed;
                changed
            });
            guard::install_triggers(&client, &config).await?;
            if let Some(place) = place {
                sequences::keep(&mut client, &config, place, Look::Sequences).await?;
            }
            guard::sweep(&client).await?;
            journal::prune(&client, config.journal_keep).await?;
            published
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            looked = looked => match looked {
                Ok(()) => complaint.settled(),
                Err(error) => complaint.warn("the guards are not looked over", &error),
            }
        }
    }
}
