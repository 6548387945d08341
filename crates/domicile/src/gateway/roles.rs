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
use tokio_postgres::{Client, Row, Statement};

use crate::postgres::session;

/// A login is not held up for longer; without its key a session stays where it is.
const READ_WAIT_MAX: Duration = Duration::from_secs(1);
/// So long nothing is asked of a PostgreSQL that may not tell verifiers, or does not answer.
const FORBIDDEN_FOR: Duration = Duration::from_secs(60);
const SILENT_FOR: Duration = Duration::from_secs(5);
/// Meanwhile PostgreSQL lets everybody in itself.
const ACCOUNT_SILENT_FOR: Duration = Duration::from_secs(1);
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
    /// A session that is kept, for what is asked at each login.
    asker: tokio::sync::Mutex<Option<Arc<Asker>>>,
    state: Mutex<State>,
}

struct Asker {
    client: Client,
    account: Statement,
    defaults: Statement,
}

#[derive(Default)]
struct State {
    verifiers: BTreeMap<String, Verifier>,
    /// Until then PostgreSQL is not asked for more of them.
    ask_again_at: Option<Instant>,
    /// Until then it is not asked whom it would let in.
    account_again_at: Option<Instant>,
    /// By role and database: as of when.
    defaults: BTreeMap<(String, String), (Instant, Defaults)>,
}

/// Settings of the gateway's own that a role, or a database, begins with (`ALTER ROLE ... SET`), in the order in
/// which they override each other.
pub type Defaults = Arc<Vec<(String, String)>>;

/// What decides at PostgreSQL whether, and how, a role gets into a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// `None` where no password of the role is kept as `scram-sha-256`.
    pub verifier: Option<Verifier>,
    pub ids: Ids,
    /// Changes with everything else that counts: PostgreSQL's configuration, what the role begins with, and of which
    /// roles it is a member, by which `pg_hba.conf` may know it.
    circumstances: String,
}

/// Which role and which database a name means: it may come to mean another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ids {
    role: u32,
    database: u32,
}

/// PostgreSQL does not say now, or not to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

const ACCOUNT: &str = "
    SELECT a.rolpassword, r.oid, d.oid, concat_ws(
        ' ', pg_postmaster_start_time(), pg_conf_load_time(), pg_is_in_recovery(), r.rolsuper,
        r.rolconnlimit, d.datconnlimit, (
            SELECT string_agg(concat(s.setrole, s.setdatabase, s.setconfig), ' '
                              ORDER BY s.setrole, s.setdatabase)
            FROM pg_db_role_setting s WHERE s.setrole IN (0, r.oid) AND s.setdatabase IN (0, d.oid)),
        (WITH RECURSIVE of AS (
             SELECT m.roleid FROM pg_auth_members m WHERE m.member = r.oid
             UNION SELECT m.roleid FROM pg_auth_members m JOIN of ON m.member = of.roleid)
         SELECT string_agg(of.roleid::text, ',' ORDER BY of.roleid) FROM of))
    FROM pg_roles r JOIN pg_authid a ON a.rolname = r.rolname JOIN pg_database d ON d.datname = $2::text
    WHERE r.rolname = $1::text AND r.rolcanlogin AND d.datallowconn
        AND coalesce(r.rolvaliduntil > now(), true) AND has_database_privilege(r.oid, d.oid, 'CONNECT')";

/// As PostgreSQL has it: a role's come after a database's, and a role's in a database last.
const DEFAULTS: &str = "
    SELECT unnest(s.setconfig)
    FROM pg_db_role_setting s
    LEFT JOIN pg_roles r ON r.oid = s.setrole
    LEFT JOIN pg_database d ON d.oid = s.setdatabase
    WHERE (s.setrole = 0 OR r.rolname = $1::text) AND (s.setdatabase = 0 OR d.datname = $2::text)
    ORDER BY s.setrole <> 0, s.setdatabase <> 0";

impl Roles {
    /// As the PostgreSQL of this connection string has them; for verifiers its role needs the right to read
    /// `pg_authid`. By default there are none.
    pub fn of_postgres(connection: &str) -> Self {
        let postgres = connection.to_owned();
        let shared = Shared { postgres, asker: Default::default(), state: Mutex::default() };
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

    /// Returns what decides now whether and how `role` gets into `database`; `None` where it does not.
    pub async fn account(&self, role: &str, database: &str) -> Result<Option<Account>, Unknown> {
        let shared = self.shared.as_ref().ok_or(Unknown)?;
        if shared.state().account_again_at.is_some_and(|at| Instant::now() < at) {
            return Err(Unknown);
        }
        match in_time(shared.read_account(role, database)).await {
            Ok(account) => {
                if let Some(verifier) = account.as_ref().and_then(|it| it.verifier.as_ref()) {
                    shared.state().verifiers.insert(role.to_owned(), verifier.clone());
                }
                Ok(account)
            }
            Err(error) => {
                // What is wrong with one name is nothing to the others.
                let pause = match (is_forbidden(&error), is_answer(&error)) {
                    (true, _) => FORBIDDEN_FOR,
                    (false, true) => Duration::ZERO,
                    (false, false) => ACCOUNT_SILENT_FOR,
                };
                shared.state().account_again_at = Some(Instant::now() + pause);
                // It may be one whose other end is gone without a word.
                if pause == ACCOUNT_SILENT_FOR
                    && let Ok(mut kept) = shared.asker.try_lock()
                {
                    *kept = None;
                }
                tracing::warn!("PostgreSQL has to let in role \"{role}\" itself: {error:#}");
                Err(Unknown)
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
    async fn read_account(&self, role: &str, database: &str) -> anyhow::Result<Option<Account>> {
        let rows = self.ask(|asker| &asker.account, role, database).await;
        let row = rows.context("read what lets it in")?.into_iter().next();
        Ok(row.map(|row| Account {
            verifier: row.get::<_, Option<&str>>(0).and_then(|verifier| verifier.parse().ok()),
            ids: Ids { role: row.get(1), database: row.get(2) },
            circumstances: row.get(3),
        }))
    }

    /// Asks in the session that is kept.
    async fn ask(
        &self,
        what: fn(&Asker) -> &Statement,
        role: &str,
        database: &str,
    ) -> anyhow::Result<Vec<Row>> {
        let mut asker = self.asker().await?;
        let mut rows = asker.client.query(what(&asker), &[&role, &database]).await;
        if rows.is_err() && asker.client.is_closed() {
            // PostgreSQL was started anew meanwhile.
            asker = self.asker().await?;
            rows = asker.client.query(what(&asker), &[&role, &database]).await;
        }
        Ok(rows?)
    }

    /// Those who come while it is opened wait for that.
    async fn asker(&self) -> anyhow::Result<Arc<Asker>> {
        let mut kept = self.asker.lock().await;
        if let Some(asker) = kept.as_ref().filter(|asker| !asker.client.is_closed()) {
            return Ok(asker.clone());
        }
        let client = session::connect(&self.postgres, "domicile login").await?;
        let account = client.prepare(ACCOUNT).await.context("read what lets it in")?;
        let defaults = client.prepare(DEFAULTS).await.context("read what it begins with")?;
        let asker = Arc::new(Asker { client, account, defaults });
        *kept = Some(asker.clone());
        Ok(asker)
    }

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
        let rows = self.ask(|asker| &asker.defaults, role, database).await;
        let rows = rows.context("read its settings")?;
        let settings = rows.iter().filter_map(|row| row.get::<_, &str>(0).split_once('='));
        let ours = settings.filter(|(name, _)| name.starts_with("domicile."));
        Ok(ours.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for Roles {
    /// Without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roles").finish_non_exhaustive()
    }
}

/// Whatever panicked: what is in there was read whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    codes(error).any(|code| *code == SqlState::INSUFFICIENT_PRIVILEGE)
}

/// Has PostgreSQL said what is wrong?
fn is_answer(error: &anyhow::Error) -> bool {
    codes(error).next().is_some()
}

fn codes(error: &anyhow::Error) -> impl Iterator<Item = &SqlState> {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>());
    causes.filter_map(tokio_postgres::Error::code)
}
