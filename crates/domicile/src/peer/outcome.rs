//! What is known here of a transaction whose client was not told?
//!
//! PostgreSQL is asked where the transaction ran, then the log of its origin and the conflict journal: what has ended
//! by the first answer stands in one of the two by then, or this says that it does not yet.

use std::time::Duration;

use domicile_core::change::{Stamp, Transaction};
use domicile_core::id::{Epoch, Origin, PartitionId};
use domicile_core::lsn::Lsn;
use domicile_core::outcome::{InLog, RanHere, Status, Token, Told};
use domicile_core::record;
use tokio::time::timeout;

use super::server::{Desk, Tables};
use crate::log::Log;
use crate::postgres::{outcome, session};
use crate::proto::outcome_response::{self as wire, Log as WireLog};
use crate::proto::{OutcomeRequest, OutcomeResponse};

/// A PostgreSQL that does not answer for so long says nothing.
const POSTGRES_WAIT_MAX: Duration = Duration::from_secs(10);
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Says all that is known here of the transaction. Fails where the log cannot be read.
pub async fn tell(desk: &Desk, token: &Token) -> anyhow::Result<Told> {
    let tables = desk.tables.as_ref().filter(|tables| !tables.newcomer);
    let mut ran_here = match tables.filter(|_| token.origin == desk.origin) {
        None => None,
        Some(tables) => {
            said_in_time("how a transaction ended", ran_here(desk, tables, token)).await
        }
    };
    let log = match desk.logs.get(&token.origin) {
        None => InLog::NoLog,
        Some(log) => in_log(desk, &log, token, ran_here).await?,
    };
    let journaled = match tables {
        None => None,
        Some(tables) => said_in_time("what is journaled", is_journaled(tables, token)).await,
    };
    if let (Some(ran), None) = (&mut ran_here, journaled) {
        // It may be there.
        ran.captured = false;
    }
    Ok(Told { origin: desk.origin.clone(), ran_here, log, journaled: journaled == Some(true) })
}

/// Nobody has to wait for a PostgreSQL that is gone: others may know.
async fn said_in_time<T>(what: &str, said: impl Future<Output = anyhow::Result<T>>) -> Option<T> {
    match timeout(POSTGRES_WAIT_MAX, said).await {
        Ok(Ok(said)) => Some(said),
        Ok(Err(error)) => {
            tracing::info!("PostgreSQL does not say {what}: {error:#}");
            None
        }
        Err(_) => {
            tracing::info!("PostgreSQL does not say {what} in time");
            None
        }
    }
}

async fn ran_here(desk: &Desk, tables: &Tables, token: &Token) -> anyhow::Result<RanHere> {
    let client = session::connect(&tables.postgres, "domicile outcome").await?;
    let status = outcome::status(&client, token.xid).await?;
    let captured = match tables.marker.mark().await {
        Err(error) => {
            tracing::debug!("what was committed is not captured: {error:#}");
            false
        }
        Ok(marked) => match desk.logs.get(&desk.origin) {
            None => false,
            Some(log) => log.watch_end().wait_for(|end| *end >= marked.end).await.is_ok(),
        },
    };
    Ok(RanHere { status, captured })
}

async fn is_journaled(tables: &Tables, token: &Token) -> anyhow::Result<bool> {
    let client = session::connect(&tables.postgres, "domicile outcome").await?;
    outcome::is_journaled(&client, token).await
}

async fn in_log(
    desk: &Desk,
    log: &Log,
    token: &Token,
    ran_here: Option<RanHere>,
) -> anyhow::Result<InLog> {
    // Before it is read: what comes meanwhile was not looked through to its end.
    let (upto, trimmed) = (log.end(), log.trimmed());
    let Some(Transaction { lsn, stamps, .. }) = find(log, token.after.max(trimmed), token).await?
    else {
        return Ok(match trimmed > token.after {
            true => InLog::Trimmed { upto: trimmed },
            false => InLog::Absent { upto },
        });
    };
    let shown = match ran_here {
        Some(RanHere { status, .. }) => status == Some(Status::Committed),
        None => desk.positions.frontier().get(&token.origin) >= lsn,
    };
    Ok(InLog::Found { lsn, stamps, shown })
}

/// Returns the transaction's head. Its number comes again only far behind.
async fn find(log: &Log, after: Lsn, token: &Token) -> anyhow::Result<Option<Transaction>> {
    let mut reader = log.read(after);
    while let Some(records) = reader.next_batch(READ_BYTES_MAX).await? {
        for each in &records {
            let head = record::decode_head(&each.payload)?;
            if head.xid == token.xid_in_log() {
                return Ok(Some(head));
            }
        }
    }
    Ok(None)
}

pub fn lower_asked(token: &Token) -> OutcomeRequest {
    let Token { cluster, origin, xid, after } = token;
    OutcomeRequest {
        cluster: cluster.clone(),
        origin: origin.to_string(),
        xid: *xid,
        after_lsn: after.0,
    }
}

pub fn lift_asked(asked: OutcomeRequest) -> anyhow::Result<Token> {
    let OutcomeRequest { cluster, origin, xid, after_lsn } = asked;
    Ok(Token { cluster, origin: origin.parse()?, xid, after: Lsn(after_lsn) })
}

pub fn lower(told: Told) -> OutcomeResponse {
    let Told { origin, ran_here, log, journaled } = told;
    let ran_here = ran_here.map(|ran| wire::RanHere {
        status: match ran.status {
            None => wire::Status::Forgotten,
            Some(Status::Committed) => wire::Status::Committed,
            Some(Status::RolledBack) => wire::Status::RolledBack,
            Some(Status::InProgress) => wire::Status::InProgress,
        }
        .into(),
        captured: ran.captured,
    });
    let log = match log {
        InLog::NoLog => None,
        InLog::Absent { upto } => Some(WireLog::AbsentUpto(upto.0)),
        InLog::Trimmed { upto } => Some(WireLog::TrimmedUpto(upto.0)),
        InLog::Found { lsn, stamps, shown } => {
            let stamps = stamps.iter().map(|Stamp { partition, epoch }| wire::Stamp {
                partition: partition.0,
                epoch: epoch.0,
            });
            Some(WireLog::Found(wire::Found { lsn: lsn.0, stamps: stamps.collect(), shown }))
        }
    };
    OutcomeResponse { origin: origin.to_string(), ran_here, log, journaled }
}

pub fn lift(told: OutcomeResponse) -> anyhow::Result<Told> {
    let origin: Origin = told.origin.parse()?;
    let ran_here = told.ran_here.map(|ran| RanHere {
        status: match ran.status() {
            wire::Status::Forgotten => None,
            wire::Status::Committed => Some(Status::Committed),
            wire::Status::RolledBack => Some(Status::RolledBack),
            wire::Status::InProgress => Some(Status::InProgress),
        },
        captured: ran.captured,
    });
    let log = match told.log {
        None => InLog::NoLog,
        Some(WireLog::AbsentUpto(upto)) => InLog::Absent { upto: Lsn(upto) },
        Some(WireLog::TrimmedUpto(upto)) => InLog::Trimmed { upto: Lsn(upto) },
        Some(WireLog::Found(wire::Found { lsn, stamps, shown })) => {
            let stamps = stamps.iter().map(|stamp| Stamp {
                partition: PartitionId(stamp.partition),
                epoch: Epoch(stamp.epoch),
            });
            InLog::Found { lsn: Lsn(lsn), stamps: stamps.collect(), shown }
        }
    };
    Ok(Told { origin, ran_here, log, journaled: told.journaled })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_arrives_as_it_was_told() {
        let stamps = vec![Stamp { partition: PartitionId(3), epoch: Epoch(2) }];
        let logs = [
            InLog::NoLog,
            InLog::Absent { upto: Lsn(7) },
            InLog::Trimmed { upto: Lsn(8) },
            InLog::Found { lsn: Lsn(9), stamps, shown: true },
        ];
        let statuses =
            [None, Some(Status::Committed), Some(Status::RolledBack), Some(Status::InProgress)];
        let origin: Origin = "eu-2".parse().unwrap();
        for (log, status) in logs.into_iter().zip(statuses) {
            let ran_here = Some(RanHere { status, captured: true });
            let told = Told { origin: origin.clone(), ran_here, log, journaled: true };
            assert_eq!(lift(lower(told.clone())).unwrap(), told);
        }
        let token = Token { cluster: "shop".to_owned(), origin, xid: 1 << 40, after: Lsn(5) };
        assert_eq!(lift_asked(lower_asked(&token)).unwrap(), token);
    }
}
