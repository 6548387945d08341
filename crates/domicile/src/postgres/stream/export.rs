//! How does one see exactly what was committed up to a position of the WAL?
//!
//! Only a slot that is being made knows: it waits for the transactions that are open, and exports a
//! snapshot in which those that the WAL shows before it are visible, and no other.

use bytes::{Buf, Bytes};
use domicile_core::lsn::Lsn;

use super::StreamError;
use super::connection::{self, Address, Connection};
use crate::postgres::database::Database;
use crate::postgres::encryption::Encryption;

/// A snapshot that can be taken over until this is dropped.
pub struct Export {
    /// Transactions whose commit record ends here or before are visible.
    pub upto: Lsn,
    pub snapshot: String,
    /// Closing it drops the slot.
    _connection: Connection,
}

impl Export {
    /// Makes a slot called `slot` for as long as the export lives. Returns once every transaction
    /// that is open now has ended.
    pub async fn begin(database: &Database, slot: &str) -> Result<Self, StreamError> {
        let encryption = connection::encryption(database)?;
        let mut failure = StreamError::Settings("no host is named");
        for address in Address::all(&database.config) {
            match Self::begin_at(&address, &encryption, &database.config, slot).await {
                Err(error @ (StreamError::Connect { .. } | StreamError::Closed)) => failure = error,
                answer => return answer,
            }
        }
        Err(failure)
    }

    async fn begin_at(
        address: &Address,
        encryption: &Encryption,
        config: &tokio_postgres::Config,
        slot: &str,
    ) -> Result<Self, StreamError> {
        let mut connection = Connection::open(address, encryption).await?;
        connection.log_in(config, "domicile snapshot", None).await?;
        let command = format!(
            "CREATE_REPLICATION_SLOT \"{}\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT",
            slot.replace('"', "\"\"")
        );
        let row = connection.query(&command).await?;
        // Name of the slot, consistent point, snapshot, plugin.
        let values = row.and_then(values).ok_or(UNREADABLE)?;
        let [_, Some(upto), Some(snapshot), ..] = values.as_slice() else { return Err(UNREADABLE) };
        let upto = upto.parse().map_err(|_| UNREADABLE)?;
        Ok(Self { upto, snapshot: snapshot.clone(), _connection: connection })
    }
}

const UNREADABLE: StreamError = StreamError::Answer("CREATE_REPLICATION_SLOT");

/// Reads a DataRow message of texts.
fn values(mut row: Bytes) -> Option<Vec<Option<String>>> {
    let count = usize::from(row.try_get_u16().ok()?);
    let mut values = Vec::new();
    for _ in 0..count {
        let value = match usize::try_from(row.try_get_i32().ok()?) {
            Ok(length) if length <= row.len() => {
                Some(String::from_utf8(row.split_to(length).to_vec()).ok()?)
            }
            Ok(_) => return None,
            Err(_) => None,
        };
        values.push(value);
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::lab::cluster::temporary_cluster;
    use crate::postgres::session;

    /// A walsender is a session of the role like any other, and waits in it as any other.
    #[tokio::test]
    async fn a_snapshot_outlives_the_timeouts_of_its_role() {
        let logical = [("wal_level", "logical"), ("fsync", "off")];
        let (cluster, _folder) = temporary_cluster("export", &logical).await.unwrap();
        let role = cluster.connect().await.unwrap();
        role.batch_execute(session::TIMEOUTS_OF_A_ROLE).await.unwrap();
        let connection = cluster.connection_string();
        let writer = session::connect(&connection, "test").await.unwrap();
        writer.batch_execute("BEGIN; CREATE TABLE public.held ()").await.unwrap();
        let settings = session::configure(&connection, "test").unwrap();
        let export = tokio::spawn(async move { Export::begin(&settings, "domicile_test").await });
        let looker = session::connect(&connection, "test").await.unwrap();
        let long = |since: &str, of: &str| {
            format!("SELECT count(*) FROM {of} AND {since} < clock_timestamp() - interval '100 ms'")
        };
        let waits = long("l.waitstart", "pg_locks l WHERE NOT l.granted");
        wait_for(&looker, &waits, || export.is_finished()).await;
        writer.batch_execute("COMMIT").await.unwrap();
        let export = export.await.unwrap().unwrap();
        let idle = long(
            "a.state_change",
            "pg_stat_activity a WHERE backend_type = 'walsender' AND a.state LIKE 'idle%'",
        );
        wait_for(&looker, &idle, || false).await;
        let take = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{}'",
            export.snapshot
        );
        looker.batch_execute(&take).await.unwrap();
    }

    async fn wait_for(client: &tokio_postgres::Client, sql: &str, over: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 && !over() {
            assert!(Instant::now() < deadline, "never: {sql}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[test]
    fn a_row_is_read_and_a_broken_one_refused() {
        let row = b"\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0";
        let read = values(Bytes::from_static(row));
        assert_eq!(read, Some(vec![Some("ab".into()), None, Some(String::new())]));
        for end in 0..row.len() {
            assert_eq!(values(Bytes::copy_from_slice(&row[..end])), None, "cut at {end}");
        }
    }
}
