//! How does an agent talk SQL to its region's PostgreSQL?
//!
//! Every session pins what the text form of a value depends on, and commits locally: an agent
//! that waited for the acknowledgement of a synchronous standby would wait for itself.

use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use domicile_core::id::TableName;
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

/// More of a name PostgreSQL does not keep.
const NAME_BYTES_MAX: usize = 63;
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
