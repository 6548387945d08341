//! Which messages in the WAL are the guard's, and not somebody's who writes the same?
//!
//! Whoever may connect may emit logical messages under any prefix. So the guard's have a key with them: a number
//! at random that stands in a register which its rights alone can read.

use anyhow::Context;
use domicile_core::change::Stamp;
use domicile_core::id::{Epoch, PartitionId, RunId};
use tokio_postgres::Client;

use super::session::quote_text;

/// The prefix of what says to which partition a transaction was admitted.
pub const STAMP_PREFIX: &str = "domicile.stamp";
/// The prefix of what says that the writers of a run's partitions have ended.
pub const BARRIER_PREFIX: &str = "domicile.barrier";

/// The key, as SQL of a role that may read it.
const KEY: &str = "pg_sequence_last_value('domicile.stamp_key')";

/// Draws the key where there is none yet. Its guard is installed behind that.
const DRAW: &str = "
    SELECT setval('domicile.stamp_key', ('x0' || substr(translate(gen_random_uuid()::text, '-', ''), 1, 11)
                                              || substr(translate(gen_random_uuid()::text, '-', ''), 1, 4))::bit(64)::bigint)
    WHERE pg_sequence_last_value('domicile.stamp_key') IS NULL";

/// Remembers whose transactions may have been admitted by a guard that knew of no key: those before the first
/// transaction that can begin now.
const SINCE: &str = "
    SELECT setval('domicile.stamped_since', pg_snapshot_xmax(pg_current_snapshot())::text::bigint)
    WHERE pg_sequence_last_value('domicile.stamped_since') IS NULL";

/// What the guard's messages are known by.
#[derive(Clone, Copy, Debug)]
pub struct StampKey {
    key: i64,
    /// Transactions before this one may have none.
    since: u32,
}

impl StampKey {
    pub async fn draw(client: &Client) -> anyhow::Result<()> {
        client.batch_execute(DRAW).await.context("draw the key of the guard's stamps")
    }

    /// From now on the guard stamps with the key.
    pub async fn in_force(client: &Client) -> anyhow::Result<()> {
        client.batch_execute(SINCE).await.context("note since when the guard's stamps have a key")
    }

    pub async fn read(client: &Client) -> anyhow::Result<Self> {
        let sql = format!(
            "SELECT {KEY}, pg_sequence_last_value('domicile.stamped_since') & x'ffffffff'::bigint"
        );
        let row =
            client.query_one(&sql, &[]).await.context("read the key of the guard's stamps")?;
        let read = |column| row.get::<_, Option<i64>>(column).context("no guard is installed");
        Ok(Self { key: read(0)?, since: u32::try_from(read(1)?)? })
    }

    /// The stamp that transaction `xid` has by this message, if the guard has written it.
    pub fn stamp(&self, xid: u32, message: &str) -> Option<Stamp> {
        let (partition, rest) = message.split_once(':')?;
        let epoch = self.keyed(xid, rest)?;
        Some(Stamp {
            partition: PartitionId(partition.parse().ok()?),
            epoch: Epoch(epoch.parse().ok()?),
        })
    }

    /// The run whose barrier this message is, if it is one.
    pub fn barrier(&self, xid: u32, message: &str) -> Option<RunId> {
        self.keyed(xid, message).map(|run| RunId(run.to_owned()))
    }

    fn keyed<'m>(&self, xid: u32, message: &'m str) -> Option<&'m str> {
        if let Some((content, key)) = message.rsplit_once(':')
            && key.parse() == Ok(self.key)
        {
            return Some(content);
        }
        // As PostgreSQL compares the numbers of transactions, which begin anew.
        let is_older = (self.since.wrapping_sub(xid) as i32) > 0;
        is_older.then_some(message)
    }
}

/// As SQL, has this transaction say that it was admitted.
pub fn emit_stamp(Stamp { partition, epoch }: Stamp) -> String {
    emit(STAMP_PREFIX, &format!("{partition}:{epoch}"))
}

/// As SQL, has this transaction be the barrier of a run.
pub fn emit_barrier(RunId(run): &RunId) -> String {
    emit(BARRIER_PREFIX, run)
}

fn emit(prefix: &str, content: &str) -> String {
    let content = quote_text(content);
    format!("SELECT pg_logical_emit_message(true, '{prefix}', {content} || ':' || {KEY})")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: StampKey = StampKey { key: 77, since: 1000 };

    fn stamp(partition: u32, epoch: u64) -> Option<Stamp> {
        Some(Stamp { partition: PartitionId(partition), epoch: Epoch(epoch) })
    }

    #[test]
    fn a_message_without_the_key_is_nobodys() {
        assert_eq!(KEY.stamp(1000, "3:5:77"), stamp(3, 5));
        for forged in ["3:5", "3:5:78", "3:5:", "3:77", "77", "", "3:5:77:77x", "a:5:77", "3:b:77"]
        {
            assert_eq!(KEY.stamp(1000, forged), None, "{forged}");
        }
        assert_eq!(KEY.barrier(1000, "run/7:77"), Some(RunId("run/7".to_owned())));
        assert_eq!(KEY.barrier(1000, "run/7"), None);
    }

    #[test]
    fn what_was_admitted_before_there_was_a_key_has_none() {
        assert_eq!(KEY.stamp(999, "3:5"), stamp(3, 5));
        assert_eq!(KEY.stamp(999, "3:5:77"), stamp(3, 5));
        assert_eq!(KEY.barrier(999, "run/7"), Some(RunId("run/7".to_owned())));
        // Numbers begin anew behind the highest.
        let key = StampKey { since: 5, ..KEY };
        assert_eq!(key.stamp(u32::MAX, "3:5"), stamp(3, 5));
        assert_eq!(key.stamp(6, "3:5"), None);
    }
}
