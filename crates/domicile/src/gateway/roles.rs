//! What does the region's PostgreSQL keep of the roles that log in at its gateway?
//!
//! Their verifiers, with which a session logs in elsewhere, and the settings that they begin with. Asked when a
//! role logs in, and remembered: a login must not wait for it again and again.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use domicile_pg::scram::{Overheard, Verifier};
use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;

use crate::postgres::session;

/// A login is not held up for longer; without its key a session stays where it is.
const READ_WAIT_MAX: Duration = Duration::from_secs(1);
/// So long nothing is asked of a PostgreSQL that may not tell verifiers, or does not answer.
const FORBIDDEN_FOR: Duration = Duration::from_secs(60);
const SILENT_FOR: Duration = Duration::from_secs(5);
/// So long after `ALTER ROLE ... SET` new sessions may begin as before.
const DEFAULTS_KNOWN_FOR: Duration = Duration::from_secs(5);

/// What the region's PostgreSQL keeps of the roles that log in here. Cheap to clone.
#[derive(Clone, Default)]
pub struct Roles {
    shared: Option<Arc<Shared>>,
}

struct Shared {
    /// How to ask PostgreSQL.
    postgres: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    verifiers: BTreeMap<String, Verifier>,
    /// Until then PostgreSQL is not asked for more of them.
    ask_again_at: Option<Instant>,
    /// By role and database: as of when.
    defaults: BTreeMap<(String, String), (Instant, Defaults)>,
}

/// Settings of the gateway's own that a role, or a database, begins with (`ALTER ROLE ... SET`), in the order in
/// which they override each other.
pub type Defaults = Arc<Vec<(String, String)>>;

impl Roles {
    /// As the PostgreSQL of this connection string has them; for verifiers its role needs the right to read
    /// `pg_authid`. By default there are none.
    pub fn of_postgres(connection: &str) -> Self {
        let shared = Shared { postgres: connection.to_owned(), state: Mutex::default() };
        Self { shared: Some(Arc::new(shared)) }
    }

    /// Returns what sessions of `role` begin with, as it was some seconds ago at most.
    pub async fn defaults(&self, role: &str, database: &str) -> Defaults {
        let Some(shared) = &self.shared else { return Defaults::default() };
        let which = (role.to_owned(), database.to_owned());
        let known = shared.state().defaults.get(&which).cloned();
        if let Some((at, defaults)) = &known
            && at.elapsed() < DEFAULTS_KNOWN_FOR
        {
            return defaults.clone();
        }
        match in_time(shared.read_defaults(role, database)).await {
            Ok(read) => {
                let read = Defaults::new(read);
                shared.state().defaults.insert(which, (Instant::now(), read.clone()));
                read
            }
            Err(error) => {
                tracing::warn!("what role \"{role}\" begins with is not known: {error:#}");
                let as_before = known.map(|(_, defaults)| defaults).unwrap_or_default();
                // The next one need not wait for the same.
                shared.state().defaults.insert(which, (Instant::now(), as_before.clone()));
                as_before
            }
        }
    }

    /// Returns the verifier by which `role` has logged in.
    pub async fn verifier(&self, role: &str, overheard: &Overheard) -> Option<Verifier> {
        let shared = self.shared.as_ref()?;
        let known = shared.state().verifiers.get(role).cloned();
        if let Some(known) = known.filter(|known| overheard.is_by(known)) {
            return Some(known);
        }
        if shared.state().ask_again_at.is_some_and(|at| Instant::now() < at) {
            return None;
        }
        match in_time(shared.read_verifier(role)).await {
            Ok(read) => {
                let verifier: Verifier = read?.parse().ok()?;
                shared.state().verifiers.insert(role.to_owned(), verifier.clone());
                Some(verifier)
            }
            Err(error) => {
                let pause = if is_forbidden(&error) { FORBIDDEN_FOR } else { SILENT_FOR };
                shared.state().ask_again_at = Some(Instant::now() + pause);
                tracing::warn!(
                    "sessions of role \"{role}\" reach no other region that asks for a password: {error:#}"
                );
                None
            }
        }
    }
}

async fn in_time<T>(reading: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(READ_WAIT_MAX, reading).await.context("PostgreSQL is silent")?
}

impl Shared {
    async fn read_verifier(&self, role: &str) -> anyhow::Result<Option<String>> {
        let client = session::connect(&self.postgres, "domicile login").await?;
        let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
        let row = client.query_opt(sql, &[&role]).await.context("read its verifier")?;
        Ok(row.and_then(|row| row.get(0)))
    }

    async fn read_defaults(
        &self,
        role: &str,
        database: &str,
    ) -> anyhow::Result<Vec<(String, String)>> {
        let client = session::connect(&self.postgres, "domicile login").await?;
        // As PostgreSQL has it: a role's come after a database's, and a role's in a database last.
        let sql = "SELECT unnest(s.setconfig)
                   FROM pg_db_role_setting s
                   LEFT JOIN pg_roles r ON r.oid = s.setrole
                   LEFT JOIN pg_database d ON d.oid = s.setdatabase
                   WHERE (s.setrole = 0 OR r.rolname = $1) AND (s.setdatabase = 0 OR d.datname = $2)
                   ORDER BY s.setrole <> 0, s.setdatabase <> 0";
        let rows = client.query(sql, &[&role, &database]).await.context("read its settings")?;
        let settings = rows.iter().filter_map(|row| row.get::<_, &str>(0).split_once('='));
        let ours = settings.filter(|(name, _)| name.starts_with("domicile."));
        Ok(ours.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whatever panicked: what is in there was read whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Roles {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roles").finish_non_exhaustive()
    }
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    let mut causes =
        error.chain().filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>());
    causes.any(|cause| cause.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE))
}
