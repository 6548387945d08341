//! Does this region's schema lack something that another region's rows have?
//!
//! Somebody ran DDL there and not here yet. Then apply waits, rather than journal rows that only
//! need a column: what is missing has a name, and once it is there apply goes on by itself.

use std::fmt;

use domicile_core::change::{Relation, Transaction};
use domicile_core::id::TableName;
use tokio_postgres::error::{DbError, SqlState};

use super::shared::Shared;
use crate::postgres::target::Targets;

/// The state that `domicile status` shows.
pub const CONDITION: &str = "schema_behind";

/// Apply waits until this is mended: nothing of the transaction is applied or journaled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaBehind {
    #[error("table {0} does not exist here")]
    Table(TableName),
    #[error("table {table} has no column \"{column}\" here")]
    Column { table: TableName, column: String },
    /// Told by PostgreSQL: a type, a constraint or a column is not what it is at the origin.
    #[error("table {table} is not defined here as there: {said}")]
    Differs { table: Tables, said: String },
}

/// The tables of one change: several of a TRUNCATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables(pub Vec<TableName>);

impl fmt::Display for Tables {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(TableName::to_string).collect();
        out.write_str(&names.join(", "))
    }
}

/// Fails where `transaction` speaks of a table or a column that is not known here.
pub fn compare(
    targets: &Targets,
    shared: &Shared,
    transaction: &Transaction,
) -> Result<(), SchemaBehind> {
    transaction.relations.iter().try_for_each(|relation| {
        let Some(target) = targets.get(&relation.table) else {
            return Err(SchemaBehind::Table(relation.table.clone()));
        };
        let missing = |name: &str| {
            target.column(name).is_none() || shared.lacks_column(&relation.table, name)
        };
        match relation.columns.iter().find(|column| missing(&column.name)) {
            None => Ok(()),
            Some(column) => Err(SchemaBehind::Column {
                table: relation.table.clone(),
                column: column.name.clone(),
            }),
        }
    })
}

/// Tells whether PostgreSQL refused a change for a reason that only another schema explains: the
/// origin's own PostgreSQL has taken these values.
///
/// A check that the origin lacks is left to the conflict journal, like all else that code of the
/// application says here.
pub fn explains<'r>(
    error: &anyhow::Error,
    relations: impl Iterator<Item = &'r Relation>,
) -> Option<SchemaBehind> {
    let postgres: &tokio_postgres::Error = error.downcast_ref()?;
    let said = postgres.as_db_error()?;
    if !is_of_schema(said.code()) || comes_from_function(said) {
        return None;
    }
    let table = Tables(relations.map(|relation| relation.table.clone()).collect());
    Some(SchemaBehind::Differs { table, said: said.message().to_owned() })
}

fn is_of_schema(code: &SqlState) -> bool {
    [
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_OBJECT,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::DATATYPE_MISMATCH,
        SqlState::GENERATED_ALWAYS,
        SqlState::NOT_NULL_VIOLATION,
        SqlState::INVALID_TEXT_REPRESENTATION,
        SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
        SqlState::STRING_DATA_RIGHT_TRUNCATION,
        SqlState::INVALID_DATETIME_FORMAT,
        SqlState::DATETIME_FIELD_OVERFLOW,
    ]
    .contains(code)
}

/// Triggers that fire for an applier may raise whatever they like.
fn comes_from_function(said: &DbError) -> bool {
    said.where_().is_some_and(|context| context.contains("function "))
}
