//! Do other regions lack what the publication, or a lost slot, has passed over?
//!
//! The look at the publication (`guards.rs`), and the begin of another incarnation (`continuity`), note which tables
//! are in question. They are compared between all members, again and again, and nothing is changed: whether this
//! region's rows are the right ones is for a person to say, who may have lost a table and made it again. Where only the
//! slot has passed changes over nobody has touched a table, and the configuration may have said beforehand
//! (`reseed.after`) that rows become what their owners have. A table that is alike everywhere is in question no more.
//!
//! **Invariant:** a comparison begins when every transaction has ended that was open when the
//! publication was put back. What such a one writes is passed over as well, and nobody sees it
//! before it commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use domicile_core::config::{Config, TableKind};
use domicile_core::continuity::repairs_by_itself;
use domicile_core::id::TableName;
use domicile_core::publication::PASSED_OVER;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::complain::Complaint;
use crate::directory::view::OwnershipView;
use crate::notices::Notices;
use crate::postgres::passed_over::{self, PassedOver};
use crate::postgres::session;
use crate::verify::{Compared, Then, Verifier};

/// Under which the notice stands.
const PART: &str = "passed over";
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two comparisons, at least; and so many times as long as one takes, because each reads
/// whole tables in every region.
const REST_MIN: Duration = Duration::from_secs(5);
const REST_FACTOR: u32 = 10;

pub struct Comparer {
    pub config: Arc<Config>,
    pub postgres: String,
    pub ownership: watch::Receiver<Arc<OwnershipView>>,
    pub notices: Notices,
    /// What is in question, whenever it was looked.
    pub noted: watch::Receiver<Vec<PassedOver>>,
}

/// What is known of each table in question.
type Found = BTreeMap<TableName, String>;

impl Comparer {
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.compare() => {}
        }
    }

    async fn compare(self) {
        let (mut noted, mut complaint) = (self.noted.clone(), Complaint::default());
        let mut found = Found::new();
        // Something may be in question since an earlier life.
        let mut in_question = true;
        loop {
            let mut rest = REST_MIN;
            if in_question {
                match self.compare_all(&mut found).await {
                    Ok(took) => {
                        complaint.settled();
                        rest = rest.max(took * REST_FACTOR);
                    }
                    Err(error) => complaint.warn("what was passed over is not compared", &error),
                }
            } else {
                self.notices.clear(PART);
            }
            tokio::select! {
                () = tokio::time::sleep(rest), if in_question => {}
                changed = noted.changed() => if changed.is_err() { return },
            }
            in_question = !noted.borrow_and_update().is_empty();
        }
    }

    /// Compares every table in question once. Returns how long that took.
    async fn compare_all(&self, found: &mut Found) -> anyhow::Result<Duration> {
        let client = session::connect(&self.postgres, "domicile compare").await?;
        let noted = passed_over::all(&client).await?;
        found.retain(|table, _| noted.iter().any(|passed| passed.table == *table));
        self.tell(&noted, found);
        self.wait_for_open(&client, &noted, found).await?;
        let began = Instant::now();
        for passed in passed_over::all(&client).await? {
            // Happened meanwhile: for the next time.
            if passed.until.is_none() {
                continue;
            }
            let how = self.differs(&passed).await;
            match how.unwrap_or_else(|error| Some(format!("not compared: {error:#}"))) {
                None => {
                    passed_over::settle(&client, &passed).await?;
                    found.remove(&passed.table);
                }
                Some(how) => {
                    found.insert(passed.table, how);
                }
            }
            self.tell(&passed_over::all(&client).await?, found);
        }
        Ok(began.elapsed())
    }

    async fn wait_for_open(
        &self,
        client: &Client,
        noted: &[PassedOver],
        found: &Found,
    ) -> anyhow::Result<()> {
        let unbounded: Vec<_> = noted.iter().filter(|passed| passed.until.is_none()).collect();
        if unbounded.is_empty() {
            return Ok(());
        }
        let xid = passed_over::next_xid(client).await?;
        while !passed_over::ended(client, xid).await? {
            tokio::time::sleep(LOOK_AGAIN).await;
            self.tell(&passed_over::all(client).await?, found);
        }
        for passed in unbounded {
            passed_over::bound(client, passed).await?;
        }
        Ok(())
    }

    /// Returns in what way the regions are not alike; `None` when they are.
    async fn differs(&self, passed: &PassedOver) -> anyhow::Result<Option<String>> {
        let table = &passed.table;
        if self.config.kind(table).is_none_or(|kind| *kind == TableKind::Local) {
            return Ok(None);
        }
        let ownership = self.ownership.borrow().ownership.clone();
        let ownership = ownership.context("the directory does not say who the members are")?;
        let members: Vec<_> = ownership.members().iter().cloned().collect();
        let unknown = members.iter().find(|member| self.config.region(member).is_none());
        if let Some(unknown) = unknown {
            bail!("member {unknown} has no [[region]] here");
        }
        let verifier = Verifier::new(&self.config, &members)?;
        let then = if self.repairs(passed) { Then::Repair } else { Then::Tell };
        Ok(match verifier.compare(table, &ownership, then, &|_| {}).await? {
            Err(mismatch) => Some(mismatch),
            Ok(compared) => {
                let Compared { differing_total, repaired, open, .. } = compared;
                if repaired > 0 {
                    tracing::warn!(%table, repaired, "rows that the lost slot has passed over are their owners' now");
                }
                match (differing_total - repaired, open.len()) {
                    (0, 0) => None,
                    (0, open) => Some(format!("{open} rows kept changing")),
                    (differing, _) => Some(format!("{differing} rows differ")),
                }
            }
        })
    }

    fn repairs(&self, passed: &PassedOver) -> bool {
        repairs_by_itself(passed.by_slot, self.config.reseed_after)
    }

    fn tell(&self, noted: &[PassedOver], found: &Found) {
        if noted.is_empty() {
            return self.notices.clear(PART);
        }
        let tables = noted.iter().map(|PassedOver { table, since, until, .. }| {
            let known = found.get(table).map_or("to be compared", String::as_str);
            match until {
                Some(until) => format!("{table} (committed between {since} and {until}): {known}"),
                None => format!(
                    "{table} (committed since {since}, or still open): compared once every \
                     transaction has ended that was open then"
                ),
            }
        });
        let tables = tables.collect::<Vec<_>>().join("; ");
        let way_out = match noted.iter().all(|passed| self.repairs(passed)) {
            true => "Rows that differ are made what their owners have",
            false => {
                "Where rows differ, \"domicile verify --repair\" makes them what their owners have"
            }
        };
        let detail = format!(
            "the publication or the slot was changed, which is mended, and other regions may lack changes \
             of {tables}. {way_out}; it ends by itself once all regions are alike"
        );
        self.notices.post(PART, PASSED_OVER, detail);
    }
}
