//! Is everything still in its place that an agent has put into its region's database?
//!
//! New table partitions need a guard, and one that somebody disabled is put back; the same for a
//! sequence that somebody set. What guarded transactions leave behind is swept out, and so are
//! old entries of the conflict journal.
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
use crate::postgres::{guard, journal, session};
use crate::tenure::TenureState;

/// How often all tables are looked over.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks all tables over until `shutdown`.
pub async fn keep(
    postgres: String,
    config: Arc<Config>,
    tenure: watch::Receiver<TenureState>,
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
            guard::install_triggers(&client, &config).await?;
            if let Some(place) = place {
                sequences::keep(&mut client, &config, place, Look::Sequences).await?;
            }
            guard::sweep(&client).await?;
            journal::prune(&client, config.journal_keep).await?;
            anyhow::Ok(())
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
