//! What has to be asked of PostgreSQL so that its rows end as after all these transactions?
//!
//! Reads and asks nothing, so it can be made while PostgreSQL is busy with what comes before.

use bytes::Bytes;
use domicile_core::change::{Change, Transaction};
use domicile_core::fold::{Step, fold};

use super::set::set;
use super::statement::{self, statement};
use super::target::Targets;

/// One request.
#[derive(Debug)]
pub enum Planned {
    /// A statement, its parameters as text, and how many rows it must find.
    Statement {
        sql: String,
        parameters: Vec<Option<Bytes>>,
        finds: Option<u64>,
    },
    Copy {
        sql: String,
        data: Vec<Bytes>,
    },
}

/// Plans `batch` as one PostgreSQL transaction. Fails where a table is not known.
pub fn plan(batch: &[Transaction], targets: &Targets) -> anyhow::Result<Vec<Planned>> {
    fold(batch).iter().map(|step| request(step, targets)).collect()
}

fn request(step: &Step<'_>, targets: &Targets) -> anyhow::Result<Planned> {
    match step {
        Step::One { transaction, change } => {
            let statement = statement(targets, transaction, change)?;
            let parameters = statement.parameters.iter().map(|text| text.0);
            let parameters = parameters.map(|text| text.map(Bytes::copy_from_slice)).collect();
            let finds = match change {
                Change::Truncate { .. } => None,
                _ => Some(1),
            };
            Ok(Planned::Statement { sql: statement.sql, parameters, finds })
        }
        Step::Rows { relation, deed, rows } => {
            set(relation, statement::target(targets, relation)?, deed, rows)
        }
    }
}
