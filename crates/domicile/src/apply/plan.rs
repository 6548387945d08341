//! What has to be asked of PostgreSQL so that its rows end as after all these transactions?
//!
//! Reads and asks nothing, so it can be made while PostgreSQL is busy with what comes before.

use std::error::Error;

use bytes::{Bytes, BytesMut};
use domicile_core::change::{Change, Transaction};
use domicile_core::fold::{Parted, Step, Touched, fold, part};
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use super::set::set;
use super::statement::{self, Text, statement};
use crate::postgres::target::Targets;

/// One request.
#[derive(Debug)]
pub enum Planned {
    /// A statement, its parameters, and how many rows it must find.
    Statement {
        sql: String,
        parameters: Vec<Parameter>,
        finds: Option<u64>,
    },
    /// The same of one that changes rows and may be part of another: `RETURNING` can follow it.
    Set {
        sql: String,
        parameters: Vec<Parameter>,
        finds: u64,
    },
    Copy {
        sql: String,
        data: Vec<Bytes>,
    },
}

/// A parameter in one of PostgreSQL's two forms.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// `None` is null.
    value: Option<Bytes>,
    is_binary: bool,
}

impl Parameter {
    pub fn text(value: Option<Bytes>) -> Self {
        Self { value, is_binary: false }
    }

    pub fn binary(value: Bytes) -> Self {
        Self { value: Some(value), is_binary: true }
    }

    fn bytes(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len)
    }
}

impl ToSql for Parameter {
    fn to_sql(
        &self,
        of: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        Text(self.value.as_deref()).to_sql(of, out)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        if self.is_binary { Format::Binary } else { Format::Text }
    }

    to_sql_checked!();
}

/// A batch as one PostgreSQL transaction.
#[derive(Debug)]
pub struct Plan {
    /// What need not wait for the batch ahead.
    pub early: Vec<Planned>,
    /// What comes after it.
    pub late: Vec<Planned>,
}

impl Plan {
    /// Returns its only request, if it has no other.
    pub fn only(&self) -> Option<&Planned> {
        match (self.early.as_slice(), self.late.as_slice()) {
            ([only], []) | ([], [only]) => Some(only),
            _ => None,
        }
    }

    /// Has it more than `bytes` of values?
    pub fn is_larger_than(&self, bytes: usize) -> bool {
        let mut sum = 0;
        self.early.iter().chain(&self.late).any(|planned| {
            sum += planned.bytes();
            sum > bytes
        })
    }
}

impl Planned {
    fn bytes(&self) -> usize {
        match self {
            Self::Statement { parameters, .. } | Self::Set { parameters, .. } => {
                parameters.iter().map(Parameter::bytes).sum()
            }
            Self::Copy { data, .. } => data.iter().map(Bytes::len).sum(),
        }
    }
}

/// Plans `batch`, which follows on one that has touched `ahead`, and tells what it touches itself.
/// Fails where a table is not known.
pub fn plan(
    batch: &[Transaction],
    ahead: &Touched,
    targets: &Targets,
) -> (Touched, anyhow::Result<Plan>) {
    let Parted { early, late, touched } = part(fold(batch), ahead);
    let plan = || {
        anyhow::Ok(Plan {
            early: requests(&early, batch, targets)?,
            late: requests(&late, batch, targets)?,
        })
    };
    (touched, plan())
}

fn requests(
    steps: &[Step<'_>],
    batch: &[Transaction],
    targets: &Targets,
) -> anyhow::Result<Vec<Planned>> {
    steps.iter().map(|step| request(step, batch, targets)).collect()
}

fn request(step: &Step<'_>, batch: &[Transaction], targets: &Targets) -> anyhow::Result<Planned> {
    match step {
        Step::One { transaction, change } => {
            let statement = statement(targets, transaction, change)?;
            let parameters = statement.parameters.iter().map(|text| text.0);
            let parameters =
                parameters.map(|text| Parameter::text(text.map(Bytes::copy_from_slice))).collect();
            let finds = match change {
                Change::Truncate { .. } => None,
                _ => Some(1),
            };
            Ok(Planned::Statement { sql: statement.sql, parameters, finds })
        }
        Step::Rows { relation, deed, rows } => {
            set(relation, statement::target(targets, relation)?, deed, rows, batch)
        }
    }
}
