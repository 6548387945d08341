//! Does every table still carry its guard, and every sequence its step?
//!
//! New table partitions need a guard, and one that somebody disabled is put back; the same for a
//! sequence that somebody set. What guarded transactions leave behind is swept out.
//!
//! This has its own session: adding a trigger may wait for a long transaction, and the lease must
//! not wait with it.

use std::sync::Arc;
use std::time::Duration;

use domicile_core::config::Config;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::complain::Complaint;
use crate::postgres::sequences::{self, Look};
use crate::postgres::{guard, session};
use crate::tenure::TenureState;

/// How often all tables are looked over.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// After something was gained: clients that waited for it come first.
const LOOK_AFTER_GAIN: Duration = Duration::from_secs(1);

/// Looks all tables over until `shutdown`.
pub async fn keep(
    postgres: String,
    config: Arc<Config>,
    mut tenure: watch::Receiver<TenureState>,
    shutdown: CancellationToken,
) {
    let mut complaint = Complaint::default();
    // The revisions with which something was gained that was looked over, and successfully so.
    let (mut looked_at, mut advanced_at) = (0, 0);
    loop {
        let gained = async {
            if tenure.wait_for(|state| state.gained_at > looked_at).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LOOK_AFTER_GAIN).await;
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = gained => {}
        }
        let TenureState { place, gained_at, .. } = *tenure.borrow();
        looked_at = gained_at;
        let looked = async {
            let mut client = session::connect(&postgres, "domicile guards").await?;
            guard::sweep(&client).await?;
            guard::install_triggers(&client, &config).await?;
            if let Some(place) = place {
                // What others have written to partitions that are now ours: sequences go on behind
                // it. Nothing waits for that, regions draw different values in any case.
                let look = if gained_at > advanced_at { Look::Columns } else { Look::Sequences };
                sequences::keep(&mut client, &config, place, look).await?;
            }
            anyhow::Ok(())
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            looked = looked => match looked {
                Ok(()) => {
                    complaint.settled();
                    advanced_at = gained_at;
                }
                Err(error) => complaint.warn("the guards are not looked over", &error),
            }
        }
    }
}
