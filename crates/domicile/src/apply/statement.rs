//! Which SQL statement makes this change again?
//!
//! Values travel as PostgreSQL's text, so that every type its catalogue knows works. A value that
//! the origin did not send is left out of the statement, never set to null.

use std::error::Error;
use std::fmt::Write as _;

use bytes::BytesMut;
use domicile_core::change::{Change, Identity, Relation, Row, Transaction, Value};
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use crate::postgres::session::quote_name;

/// One statement with its parameters in order.
#[derive(Debug)]
pub struct Statement<'a> {
    pub sql: String,
    pub parameters: Vec<Text<'a>>,
}

/// A parameter in PostgreSQL's text form, whatever its type; `None` is null.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Text<'a>(pub Option<&'a [u8]>);

impl ToSql for Text<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        Ok(match self.0 {
            Some(text) => {
                out.extend_from_slice(text);
                IsNull::No
            }
            None => IsNull::Yes,
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// Returns the statement for `change`, or `None` when it names a relation the record lacks.
pub fn statement<'a>(transaction: &'a Transaction, change: &'a Change) -> Option<Statement<'a>> {
    let relation = |index: &u32| transaction.relations.get(*index as usize);
    match change {
        Change::Insert { relation: r, new } => Some(insert(relation(r)?, new, "DO NOTHING")),
        Change::Update { relation: r, old, new } => {
            let relation = relation(r)?;
            Some(update(relation, old.as_ref().unwrap_or(new), new))
        }
        Change::Delete { relation: r, old } => Some(delete(relation(r)?, old)),
        Change::Truncate { relations, restart_identity } => {
            let tables: Option<Vec<String>> = relations
                .iter()
                .map(|r| relation(r).map(|relation| format!("ONLY {}", table(relation))))
                .collect();
            let identity = if *restart_identity { "RESTART IDENTITY" } else { "" };
            let sql = format!("TRUNCATE {} {identity}", tables?.join(", "));
            Some(Statement { sql, parameters: Vec::new() })
        }
    }
}

/// `on_conflict` is `DO NOTHING`: a row in the way is noticed by the count of rows.
fn insert<'a>(relation: &Relation, new: &'a Row, on_conflict: &str) -> Statement<'a> {
    let (mut columns, mut places, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
    for (column, value) in relation.columns.iter().zip(new) {
        if let Some(text) = sent(value) {
            columns.push(quote_name(&column.name));
            parameters.push(text);
            places.push(format!("${}", parameters.len()));
        }
    }
    let (columns, places) = (columns.join(", "), places.join(", "));
    let table = table(relation);
    let sql = format!(
        "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({places}) \
         ON CONFLICT {on_conflict}"
    );
    Statement { sql, parameters }
}

/// Sets what was sent, in the row that `identity` identifies.
pub fn update<'a>(relation: &Relation, identity: &'a Row, new: &'a Row) -> Statement<'a> {
    let (mut sets, mut parameters) = (Vec::new(), Vec::new());
    for (column, value) in relation.columns.iter().zip(new) {
        if let Some(text) = sent(value) {
            parameters.push(text);
            sets.push(format!("{} = ${}", quote_name(&column.name), parameters.len()));
        }
    }
    let mut sql = format!("UPDATE ONLY {} SET {}", table(relation), sets.join(", "));
    identify(relation, identity, &mut sql, &mut parameters);
    Statement { sql, parameters }
}

fn delete<'a>(relation: &Relation, old: &'a Row) -> Statement<'a> {
    let mut statement =
        Statement { sql: format!("DELETE FROM ONLY {}", table(relation)), parameters: Vec::new() };
    identify(relation, old, &mut statement.sql, &mut statement.parameters);
    statement
}

/// Selects the row as JSON, locked, by its identity.
pub fn select<'a>(relation: &Relation, identity: &'a Row) -> Statement<'a> {
    let mut statement = Statement {
        sql: format!("SELECT to_jsonb(row_) FROM ONLY {} row_", table(relation)),
        parameters: Vec::new(),
    };
    identify(relation, identity, &mut statement.sql, &mut statement.parameters);
    statement.sql.push_str(" LIMIT 1");
    statement
}

fn identify<'a>(
    relation: &Relation,
    row: &'a Row,
    sql: &mut String,
    parameters: &mut Vec<Text<'a>>,
) {
    // Without a key (identity FULL) nulls are compared too.
    let equals = if relation.identity == Identity::Full { "IS NOT DISTINCT FROM" } else { "=" };
    let mut word = " WHERE";
    for (i, value) in relation.key_of(row) {
        if let Some(text) = sent(value) {
            parameters.push(text);
            let name = quote_name(&relation.columns[i].name);
            let _ = write!(sql, "{word} {name} {equals} ${}", parameters.len());
            word = " AND";
        }
    }
    if word == " WHERE" {
        // No identity at all: touch nothing rather than everything.
        sql.push_str(" WHERE false");
    }
}

fn sent(value: &Value) -> Option<Text<'_>> {
    match value {
        Value::Unchanged => None,
        Value::Null => Some(Text(None)),
        Value::Text(text) => Some(Text(Some(text))),
    }
}

/// The table's name as SQL writes it.
pub fn table(relation: &Relation) -> String {
    let name = &relation.table;
    format!("{}.{}", quote_name(&name.schema), quote_name(&name.name))
}

#[cfg(test)]
mod tests {
    use domicile_core::change::Column;
    use domicile_core::id::TableName;

    use super::*;

    fn accounts(identity: Identity) -> Relation {
        let column = |name: &str, key| Column { name: name.into(), key };
        Relation {
            table: TableName::new("public", "accounts"),
            identity,
            columns: vec![column("id", true), column("na\"me", false), column("note", false)],
        }
    }

    #[test]
    fn an_unchanged_value_is_left_out_of_an_update() {
        let relation = accounts(Identity::Default);
        let new = vec![Value::text("7"), Value::Null, Value::Unchanged];
        let statement = update(&relation, &new, &new);
        assert_eq!(
            statement.sql,
            "UPDATE ONLY \"public\".\"accounts\" SET \"id\" = $1, \"na\"\"me\" = $2 WHERE \"id\" = $3"
        );
        assert_eq!(statement.parameters, [Text(Some(b"7")), Text(None), Text(Some(b"7"))]);
    }

    #[test]
    fn a_row_without_identity_touches_nothing() {
        let mut relation = accounts(Identity::Nothing);
        relation.columns[0].key = false;
        let old = vec![Value::text("7"), Value::Null, Value::Null];
        let statement = delete(&relation, &old);
        assert!(statement.sql.ends_with("WHERE false"), "{}", statement.sql);
    }
}
