//! Which functions may do something, and which views call those, as the region's own PostgreSQL says?
//!
//! Asked for when a session that reads near has something to run, and again now and then, beside what sessions do. What
//! became of a text is kept with it, and forgotten with it: so is that one was refused which only seemed to read.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use domicile_core::route::reads::{Catalogue, Volatility, Why};
use tokio::time::{Instant, timeout};

use super::calls::said;
use crate::postgres::session;

/// A statement is not held up for longer, and only while nothing is known.
const READ_WAIT_MAX: Duration = Duration::from_secs(1);
/// So long after a function was made, or became another one, it counts for what it was.
const KNOWN_FOR: Duration = Duration::from_secs(60);
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// More than a database has that anybody still understands; beyond, nothing is looked at.
const FUNCTIONS_MAX: usize = 100_000;
/// Of texts whose verdict is kept.
const VERDICT_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What is known of the functions of one database. Cheap to clone; by default that is nothing.
#[derive(Clone, Default)]
pub struct Functions {
    shared: Option<Arc<Shared>>,
}

struct Shared {
    /// How to ask PostgreSQL.
    postgres: String,
    known: Mutex<Option<Arc<Known>>>,
    /// Held by the one who asks: all others would ask the same.
    asking: Arc<tokio::sync::Mutex<()>>,
}

/// What was known at one time.
struct Known {
    at: Instant,
    /// None where PostgreSQL did not tell.
    told: Option<Told>,
    /// Something was refused that only seemed to read.
    is_wrong: AtomicBool,
    verdicts: Mutex<Verdicts>,
}

struct Told {
    database: String,
    catalogue: Catalogue,
}

#[derive(Default)]
struct Verdicts {
    by_text: HashMap<Vec<u8>, Option<Why>>,
    bytes: usize,
}

impl Functions {
    /// Of the database of this connection string.
    pub fn of_postgres(connection: &str) -> Self {
        let shared = Shared {
            postgres: connection.to_owned(),
            known: Mutex::default(),
            asking: Arc::default(),
        };
        Self { shared: Some(Arc::new(shared)) }
    }

    /// Returns why a text of a session of `database` is taken for one that writes; `None` where it only reads, or
    /// where nothing is known of that.
    pub async fn why_writes(&self, database: &str, text: &[u8]) -> Option<Why> {
        let known = self.shared.as_ref()?.known().await?;
        let told = known.told.as_ref().filter(|told| told.database == database)?;
        let mut verdicts = known.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verdict) = verdicts.by_text.get(text) {
            return verdict.clone();
        }
        let verdict = told.catalogue.writes(&said(text));
        verdicts.keep(text, verdict.clone());
        verdict
    }

    /// A text was refused where nothing can be written.
    pub fn was_refused(&self, text: &[u8]) {
        let Some(known) = self.shared.as_ref().and_then(|shared| shared.as_known()) else { return };
        let mut verdicts = known.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        match verdicts.by_text.get(text) {
            Some(Some(_)) => {}
            verdict => {
                let is_wrong = verdict.is_some();
                verdicts.keep(text, Some(Why::Refused));
                known.is_wrong.store(is_wrong, Ordering::Relaxed);
            }
        }
    }

    /// Returns what PostgreSQL says now.
    pub async fn catalogue(&self) -> anyhow::Result<Catalogue> {
        let shared = self.shared.as_ref().context("nobody knows it here")?;
        Ok(shared.read().await?.catalogue)
    }
}

impl Verdicts {
    fn keep(&mut self, text: &[u8], verdict: Option<Why>) {
        if self.bytes + text.len() > VERDICT_BYTES_MAX {
            *self = Self::default();
        }
        if self.by_text.insert(text.to_vec(), verdict).is_none() {
            self.bytes += text.len() + size_of::<(Vec<u8>, Option<Why>)>();
        }
    }
}

impl Shared {
    /// Waits only where nothing was ever known.
    async fn known(self: &Arc<Self>) -> Option<Arc<Known>> {
        match self.as_known() {
            Some(known) if known.is_recent() => Some(known),
            Some(known) => {
                if let Ok(asking) = self.asking.clone().try_lock_owned() {
                    let shared = self.clone();
                    tokio::spawn(async move {
                        shared.ask().await;
                        drop(asking);
                    });
                }
                Some(known)
            }
            None => {
                let _asking = self.asking.lock().await;
                if self.as_known().is_none() {
                    self.ask().await;
                }
                self.as_known()
            }
        }
    }

    fn as_known(&self) -> Option<Arc<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn ask(&self) {
        let told = self.read().await;
        if let Err(error) = &told {
            tracing::warn!("it is not looked at what functions do: {error:#}");
        }
        let known = Known {
            at: Instant::now(),
            told: told.ok(),
            is_wrong: AtomicBool::new(false),
            verdicts: Mutex::default(),
        };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(known));
    }

    async fn read(&self) -> anyhow::Result<Told> {
        let asking = async {
            let client = session::connect(&self.postgres, "domicile functions").await?;
            let database = client.query_one("SELECT current_database()::text", &[]).await?;
            let sql = "SELECT n.nspname::text, p.proname::text, bool_or(p.provolatile = 'v')
                       FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                       GROUP BY 1, 2 LIMIT $1";
            let functions = client.query(sql, &[&(FUNCTIONS_MAX as i64)]).await?;
            let views = client.query(include_str!("catalogue/views.sql"), &[]).await?;
            anyhow::Ok((database.get(0), functions, views))
        };
        let asked = timeout(READ_WAIT_MAX, asking).await.context("PostgreSQL is silent")?;
        let (database, functions, views) = asked.context("read the volatility of functions")?;
        anyhow::ensure!(functions.len() < FUNCTIONS_MAX, "there are too many functions");
        let mut catalogue = Catalogue::default();
        for row in &functions {
            let volatility = if row.get(2) { Volatility::Volatile } else { Volatility::Looks };
            catalogue.knows(row.get(0), row.get(1), volatility);
        }
        for row in &views {
            catalogue.calls((row.get(0), row.get(1)), (row.get(2), row.get(3)));
        }
        Ok(Told { database, catalogue })
    }
}

impl Known {
    fn is_recent(&self) -> bool {
        let is_good = self.told.is_some() && !self.is_wrong.load(Ordering::Relaxed);
        self.at.elapsed() < if is_good { KNOWN_FOR } else { ASK_AGAIN_AFTER }
    }
}

impl fmt::Debug for Functions {
    /// Without the connection string, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Functions").finish_non_exhaustive()
    }
}
