//! How does an agent talk SQL to its region's PostgreSQL?
//!
//! Every session pins what the text form of a value depends on, and commits locally: an agent
//! that waited for the acknowledgement of a synchronous standby would wait for itself.

use std::time::Duration;

use anyhow::Context;
use domicile_core::id::TableName;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::database::Database;

/// Settings that text output and input depend on, pinned on every connection.
pub const PINNED: &[(&str, &str)] = &[
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("TimeZone", "UTC"),
    ("lc_monetary", "C"),
    ("array_nulls", "on"),
    ("xmloption", "content"),
];

/// What a database or a role may set by default and an agent cannot work with.
const CONDUCT: &[(&str, &str)] = &[
    ("synchronous_commit", "local"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("search_path", "pg_catalog"),
    ("client_min_messages", "warning"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_isolation", "read\\ committed"),
    ("standard_conforming_strings", "on"),
    // What the agent of a lost machine holds is let go.
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "10s"),
    // What an agent asks is short, however dear a catalogue's functions look to the planner.
    ("jit", "off"),
];

/// Lifts the time limit on whole transactions, of PostgreSQL 17 and later. No startup option: what an
/// older one does not know, it refuses a session for.
pub const LIFT_TRANSACTION_TIMEOUT: &str =
    "SELECT pg_catalog.set_config('transaction_timeout', '0', false)
     WHERE pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL";

/// More of a name PostgreSQL does not keep.
const NAME_BYTES_MAX: usize = 63;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// With the login. A busy server takes its time for that.
const LOG_IN_WITHIN: Duration = Duration::from_secs(30);
/// A server whose machine does not acknowledge anything for so long is gone, with this connection: a new one
/// may reach what took its place. What the connection string says goes before.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Reads a connection string and adds what every session of ours has.
pub fn configure(connection: &str, application: &str) -> anyhow::Result<Database> {
    let mut database: Database = connection.parse().context("read the connection string")?;
    let config = &mut database.config;
    let options = options(config, PINNED.iter().chain(CONDUCT));
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(SILENCE_MAX);
    }
    if config.get_keepalives_idle() > SILENCE_MAX {
        config.keepalives_idle(SILENCE_MAX / 2).keepalives_interval(SILENCE_MAX / 5);
        config.keepalives_retries(3);
    }
    config.options(options).application_name(application).connect_timeout(CONNECT_TIMEOUT);
    Ok(database)
}

/// The startup options of `config`, and [`PINNED`].
pub fn pinned_options(config: &tokio_postgres::Config) -> String {
    options(config, PINNED)
}

/// Ours come last, where they win.
fn options<'a>(
    config: &tokio_postgres::Config,
    settings: impl IntoIterator<Item = &'a (&'a str, &'a str)>,
) -> String {
    let theirs = config.get_options().map(str::to_owned);
    let ours = settings.into_iter().map(|(name, value)| format!("-c {name}={value}"));
    theirs.into_iter().chain(ours).collect::<Vec<_>>().join(" ")
}

/// Opens a session; its connection is driven by a task that ends with the client.
pub async fn connect(connection: &str, application: &str) -> anyhow::Result<Client> {
    let database = configure(connection, application)?;
    let connector = database.encryption()?.connector();
    // A server may take connections and say nothing.
    let opened = timeout(LOG_IN_WITHIN, database.config.connect(connector)).await;
    let opened = opened.context("no session in time").and_then(|opened| Ok(opened?));
    let (client, driver) = opened.context("connect to PostgreSQL")?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "session with PostgreSQL ended");
        }
    });
    client.batch_execute(LIFT_TRANSACTION_TIMEOUT).await.context("lift transaction_timeout")?;
    Ok(client)
}

/// Has PostgreSQL give up what `client` asked last. It may have been done by then.
pub async fn cancel(connection: &str, client: &Client) {
    let canceled = async {
        let database: Database = connection.parse().context("read the connection string")?;
        client.cancel_token().cancel_query(database.encryption()?.connector()).await?;
        anyhow::Ok(())
    };
    match timeout(CONNECT_TIMEOUT, canceled).await {
        Ok(Ok(())) => {}
        other => tracing::debug!("what was given up goes on in PostgreSQL: {other:?}"),
    }
}

/// Quotes a name for SQL.
pub fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The function of ours that does `what` for `table`, quoted. PostgreSQL cuts names silently, and two
/// long ones may be alike up to there.
pub fn function_for(what: &str, table: &TableName) -> String {
    let mut name = format!("{what} {table}");
    if name.len() > NAME_BYTES_MAX {
        let told_apart = format!(" {:08x}", crc32c::crc32c(name.as_bytes()));
        let fits = (0..=NAME_BYTES_MAX - told_apart.len()).rev();
        name.truncate(fits.into_iter().find(|at| name.is_char_boundary(*at)).unwrap_or(0));
        name += &told_apart;
    }
    format!("domicile.{}", quote_name(&name))
}

/// Quotes a text for SQL, also where backslashes would be special.
pub fn quote_text(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// Every time limit that an administrator may have set, shorter than what an agent waits for.
#[cfg(test)]
pub const TIMEOUTS_OF_A_ROLE: &str = "DO $$ BEGIN
    EXECUTE format('ALTER ROLE %I SET statement_timeout = 20', current_user);
    EXECUTE format('ALTER ROLE %I SET lock_timeout = 20', current_user);
    EXECUTE format('ALTER ROLE %I SET idle_session_timeout = 20', current_user);
    EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = 1', current_user);
    IF current_setting('server_version_num')::int >= 170000 THEN
        EXECUTE format('ALTER ROLE %I SET transaction_timeout = 500', current_user);
    END IF;
END $$";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cluster::temporary_cluster;

    #[test]
    fn tables_whose_names_begin_alike_have_functions_of_their_own() {
        let long = |last: char| TableName::new("public", format!("{}{last}", "ä".repeat(31)));
        let of = |last| function_for("guard", &long(last));
        assert_ne!(of('a'), of('b'));
        assert_eq!(of('a'), of('a'));
        let name = of('a').strip_prefix("domicile.").unwrap().trim_matches('"').to_owned();
        assert!(name.len() <= NAME_BYTES_MAX && name.starts_with("guard public.ää"), "{name}");
        let short = TableName::new("public", "account");
        assert_eq!(function_for("guard", &short), "domicile.\"guard public.account\"");
    }

    #[tokio::test]
    async fn a_session_keeps_the_options_it_was_given_and_outlives_the_timeouts_of_its_role() {
        let (cluster, _folder) = temporary_cluster("session", &[]).await.unwrap();
        let role = cluster.connect().await.unwrap();
        role.batch_execute(TIMEOUTS_OF_A_ROLE).await.unwrap();
        let connection =
            format!("{} options='-c work_mem=7MB -c lock_timeout=1'", cluster.connection_string());
        let client = connect(&connection, "test").await.unwrap();
        for (name, value) in [
            ("work_mem", "7MB"),
            ("idle_session_timeout", "0"),
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
            ("idle_in_transaction_session_timeout", "0"),
        ] {
            let shown = client.query_one(&format!("SHOW {name}"), &[]).await.unwrap();
            assert_eq!(shown.get::<_, &str>(0), value, "{name}");
        }
        let sql = "SELECT coalesce(current_setting('transaction_timeout', true), '0')";
        let shown = client.query_one(sql, &[]).await.unwrap();
        assert_eq!(shown.get::<_, &str>(0), "0", "transaction_timeout");
    }
}
