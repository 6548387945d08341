//! Does every table still carry its guard?
//!
//! New table partitions need one, and a guard that somebody disabled is put back. This has its own
//! session: adding a trigger may wait for a long transaction, and the lease must not wait with it.

use std::sync::Arc;
use std::time::Duration;

use domicile_core::config::Config;
use tokio_util::sync::CancellationToken;

use crate::complain::Complaint;
use crate::postgres::{guard, session};

/// How often all tables are looked over.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks all tables over until `shutdown`.
pub async fn keep(postgres: String, config: Arc<Config>, shutdown: CancellationToken) {
    let mut complaint = Complaint::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let looked = async {
            let client = session::connect(&postgres, "domicile guards").await?;
            guard::install_triggers(&client, &config).await
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
