//! Who holds the lock that apply waits for?
//!
//! Apply waits as long as it must: it never ends a client's transaction. But everything from that
//! origin waits with it, so a person is told whom to ask.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use tokio_postgres::{Client, Row};

use crate::notices::Notices;

/// The state that `domicile status` shows.
pub(super) const CONDITION: &str = "apply_blocked";
/// The appliers' sessions are called this, followed by the origin.
pub(super) const APPLICATION_PREFIX: &str = "domicile apply ";

const BLOCKED: &str = include_str!("blocked.sql");
/// Shorter waits are everyday life.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Tells who holds the appliers up, for as long as that lasts.
pub struct Blocked {
    notices: Notices,
    told: BTreeSet<String>,
}

impl Blocked {
    pub fn new(notices: Notices) -> Self {
        Self { notices, told: BTreeSet::new() }
    }

    /// Looks who it is now.
    pub async fn look(&mut self, client: &Client) -> anyhow::Result<()> {
        let wait_ms = WAIT_MAX.as_secs_f64() * 1000.0;
        let rows = client
            .query(BLOCKED, &[&APPLICATION_PREFIX, &wait_ms])
            .await
            .context("ask who holds the locks that apply waits for")?;
        let mut told = BTreeSet::new();
        for row in &rows {
            let part = format!("lock {}", row.get::<_, &str>("origin"));
            self.notices.post(&part, CONDITION, detail(row));
            told.insert(part);
        }
        for over in self.told.difference(&told) {
            self.notices.clear(over);
        }
        self.told = told;
        Ok(())
    }
}

/// What was asked stays where it is: the status is shown to more people than statements may be.
fn detail(row: &Row) -> String {
    let text = |name: &str| row.get::<_, &str>(name);
    let waits = format!("what comes from {} waits since {}", text("origin"), text("since"));
    let pid: i32 = row.get("pid");
    // A prepared transaction belongs to no process.
    if pid == 0 {
        return format!(
            "{waits} for a lock of a prepared transaction (pg_prepared_xacts): COMMIT PREPARED or \
             ROLLBACK PREPARED it"
        );
    }
    format!(
        "{waits} for a lock of \"{}\" (pid {pid}, role \"{}\", {}), whose transaction began {}, its last \
         statement {}: have it end, or SELECT pg_terminate_backend({pid})",
        text("application"),
        text("role"),
        text("state"),
        text("began"),
        text("asked")
    )
}
