//! How does an agent talk SQL to its region's PostgreSQL?
//!
//! Every session pins what the text form of a value depends on, and commits locally: an agent
//! that waited for the acknowledgement of a synchronous standby would wait for itself.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use tokio_postgres::{Client, NoTls};

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
    ("search_path", "pg_catalog"),
    ("client_min_messages", "warning"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_isolation", "read\\ committed"),
    ("standard_conforming_strings", "on"),
    // What an agent asks is short, however dear a catalogue's functions look to the planner.
    ("jit", "off"),
];

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a connection string and adds what every session of ours has.
pub fn configure(connection: &str, application: &str) -> anyhow::Result<tokio_postgres::Config> {
    let mut config =
        tokio_postgres::Config::from_str(connection).context("read the connection string")?;
    config
        .options(options(PINNED.iter().chain(CONDUCT)))
        .application_name(application)
        .connect_timeout(CONNECT_TIMEOUT);
    Ok(config)
}

/// [`PINNED`] as a startup option.
pub fn pinned_options() -> String {
    options(PINNED)
}

fn options<'a>(settings: impl IntoIterator<Item = &'a (&'a str, &'a str)>) -> String {
    let each: Vec<String> =
        settings.into_iter().map(|(name, value)| format!("-c {name}={value}")).collect();
    each.join(" ")
}

/// Opens a session; its connection is driven by a task that ends with the client.
pub async fn connect(connection: &str, application: &str) -> anyhow::Result<Client> {
    let config = configure(connection, application)?;
    let (client, driver) = config.connect(NoTls).await.context("connect to PostgreSQL")?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "session with PostgreSQL ended");
        }
    });
    Ok(client)
}

/// Quotes a name for SQL.
pub fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
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
