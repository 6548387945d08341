//! How does a command reach a database, and what does it say when it cannot?

use std::time::Duration;

use tokio_postgres::Client;

use crate::postgres::database::Database;

const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// No statement of a command is worth more time than this to the database, and no commit of one
/// waits for other regions: a probe should not hang because an agent is away.
const OPTIONS: &str = "-c statement_timeout=30s -c synchronous_commit=local";

/// Why there is no session. Tells the whole chain of causes in one line, without secrets.
#[derive(Debug, thiserror::Error)]
#[error("connect to {place}: {cause}")]
pub struct ConnectError {
    place: String,
    cause: String,
}

/// Opens a session; it ends when the client is dropped.
pub async fn connect(connection: &str) -> Result<Client, ConnectError> {
    let place = place(connection);
    let failed = |cause: String| ConnectError { place: place.clone(), cause };
    let mut database: Database = connection.parse().map_err(|e| failed(format!("{e}")))?;
    let encryption = database.encryption().map_err(|error| failed(format!("{error:#}")))?;
    let config = &mut database.config;
    config.application_name("domicile");
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_WAIT);
    }
    let options = match config.get_options() {
        Some(theirs) => format!("{OPTIONS} {theirs}"),
        None => OPTIONS.to_owned(),
    };
    config.options(&options);
    // The limit of the connection string is for each address, of which a host may have several, and for
    // getting through to it alone.
    let each = config.get_connect_timeout().copied().unwrap_or(CONNECT_WAIT);
    let within = each * u32::try_from(config.get_hosts().len().max(1)).unwrap_or(u32::MAX) * 4;
    let opened = tokio::time::timeout(within, config.connect(encryption.connector())).await;
    let opened = opened.map_err(|_| failed(format!("no session within {} s", within.as_secs())))?;
    let (client, session) = opened.map_err(|error| failed(cause(&error)))?;
    tokio::spawn(async move {
        if let Err(error) = session.await {
            tracing::debug!(%error, "a session ended");
        }
    });
    Ok(client)
}

/// What the database said, or what kept it from saying anything.
pub fn cause(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return said.message().to_owned();
    }
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// Names the place without user or password.
pub fn place(connection: &str) -> String {
    let Ok(Database { config, .. }) = connection.parse() else {
        return "an unreadable connection string".to_owned();
    };
    let host = config.get_hosts().first().map_or("localhost".to_owned(), host_name);
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_dbname() {
        Some(database) => format!("{host}:{port}/{database}"),
        None => format!("{host}:{port}"),
    }
}

fn host_name(host: &tokio_postgres::config::Host) -> String {
    match host {
        tokio_postgres::config::Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_names_no_secret() {
        assert_eq!(place("postgres://app:secret@db.example/shop"), "db.example:5432/shop");
        assert_eq!(place("host=10.0.0.1 port=6000 password=secret"), "10.0.0.1:6000");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_not_waited_for() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let error = connect(&format!("host=127.0.0.1 port={port} user=x connect_timeout=1"))
            .await
            .unwrap_err();
        assert!(error.to_string().ends_with("no session within 4 s"), "{error}");
    }

    #[tokio::test]
    async fn a_refused_connection_says_where_and_why() {
        let port = crate::lab::cluster::free_port();
        let error = connect(&format!("host=127.0.0.1 port={port} user=x")).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("connect to 127.0.0.1:{port}: ")), "{text}");
        assert!(text.contains("refused"), "{text}");
    }
}
