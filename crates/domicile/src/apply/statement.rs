//! Which SQL statement makes this change again?
//!
//! Values travel as PostgreSQL's text, so that every type its catalogue knows works. A value that
//! the origin did not send is left out of the statement, never set to null.

use std::collections::BTreeSet;
use std::error::Error;

use bytes::BytesMut;
use domicile_core::change::{Change, Column, Identity, Relation, Row, Stamp, Transaction, Value};
use domicile_core::id::TableName;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use crate::postgres::rows::text_of;
use crate::postgres::session::{quote_name, quote_text};
use crate::postgres::target::{Target, Targets};

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

/// Why there is no statement.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum NoStatement {
    #[error("the change names a relation that the record lacks")]
    NoRelation,
    #[error("table {0} does not exist")]
    NoTable(TableName),
}

/// Returns the statement for `change`, as the tables are here.
pub fn statement<'a>(
    targets: &Targets,
    transaction: &'a Transaction,
    change: &'a Change,
) -> Result<Statement<'a>, NoStatement> {
    let relation =
        |index: &u32| transaction.relations.get(*index as usize).ok_or(NoStatement::NoRelation);
    match change {
        Change::Insert { relation: r, new } => {
            let relation = relation(r)?;
            Ok(insert(target(targets, relation)?, relation, new))
        }
        Change::Update { relation: r, old, new } => {
            let relation = relation(r)?;
            let target = target(targets, relation)?;
            Ok(update(target, relation, old.as_ref(), new, &transaction.stamps))
        }
        Change::Delete { relation: r, old } => {
            let relation = relation(r)?;
            Ok(delete(target(targets, relation)?, relation, old, &transaction.stamps))
        }
        Change::Truncate { relations, restart_identity } => {
            let tables: Result<Vec<String>, NoStatement> =
                relations.iter().map(|r| Ok(target(targets, relation(r)?)?.rows())).collect();
            let identity = if *restart_identity { "RESTART IDENTITY" } else { "" };
            let sql = format!("TRUNCATE {} {identity}", tables?.join(", "));
            Ok(Statement { sql, parameters: Vec::new() })
        }
    }
}

pub fn target<'t>(targets: &'t Targets, relation: &Relation) -> Result<&'t Target, NoStatement> {
    targets.get(&relation.table).ok_or_else(|| NoStatement::NoTable(relation.table.clone()))
}

/// A row in the way is noticed by the count of rows, or where `ON CONFLICT` cannot be said, by
/// PostgreSQL's error.
pub fn insert<'a>(target: &Target, relation: &Relation, new: &'a Row) -> Statement<'a> {
    let (mut columns, mut places, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
    for (column, value) in relation.columns.iter().zip(new) {
        if let Some(text) = sent(value) {
            columns.push(quote_name(&column.name));
            places.push(place(&mut parameters, text));
        }
    }
    let (columns, places) = (columns.join(", "), places.join(", "));
    let on_conflict = target.on_conflict();
    let sql = format!(
        "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({places}){on_conflict}",
        target.name
    );
    Statement { sql, parameters }
}

/// Sets what was sent, in the row that `old` identifies, or `new` where the key stays, if the
/// transaction that has these `stamps` may have meant it; without any stamp it may mean any.
pub fn update<'a>(
    target: &Target,
    relation: &Relation,
    old: Option<&'a Row>,
    new: &'a Row,
    stamps: &[Stamp],
) -> Statement<'a> {
    let mut parameters = Vec::new();
    let (mut sets, mut key_sets) = (Vec::new(), Vec::new());
    let mut same = String::new();
    for (i, (column, value)) in relation.columns.iter().zip(new).enumerate() {
        let Some(text) = sent(value) else { continue };
        let name = quote_name(&column.name);
        let stays = match old {
            Some(old) => old.get(i) == Some(value),
            None => column.key && relation.identity != Identity::Full,
        };
        let always = target.column(&column.name).is_some_and(|column| column.identity_always);
        if always && !stays {
            match old {
                // Only PostgreSQL itself may set it in an UPDATE.
                Some(old) if column.key => {
                    return replace(target, relation, old, new, stamps);
                }
                // A change of it is noticed by the count of rows.
                _ => {
                    same += &format!(
                        " AND {}",
                        is_same(target, "", &column.name, text, &mut parameters)
                    )
                }
            }
        } else if stays && !always {
            key_sets.push((name, text));
        } else if !always {
            sets.push(format!("{name} = {}", place(&mut parameters, text)));
        }
    }
    if sets.is_empty() {
        // A row that is all key is right if it is there; this counts it.
        let each = key_sets.into_iter();
        sets =
            each.map(|(name, text)| format!("{name} = {}", place(&mut parameters, text))).collect();
    }
    let condition = identify(target, relation, old.unwrap_or(new), &mut parameters);
    let condition = format!("{condition}{same}{}", meant(target, relation, stamps));
    let (rows, sets) = (target.rows(), sets.join(", "));
    let sql = match sets.as_str() {
        "" => format!("SELECT FROM {rows} row_ WHERE {condition}"),
        sets => format!("UPDATE {rows} row_ SET {sets} WHERE {condition}"),
    };
    Statement { sql, parameters }
}

/// Makes the row that `old` identifies `new`, where an UPDATE may not: an identity column that is
/// always generated was given another value. What was not sent stays.
pub fn replace<'a>(
    target: &Target,
    relation: &Relation,
    old: &'a Row,
    new: &'a Row,
    stamps: &[Stamp],
) -> Statement<'a> {
    let mut parameters = Vec::new();
    let condition =
        identify(target, relation, old, &mut parameters) + &meant(target, relation, stamps);
    let (mut columns, mut values) = (Vec::new(), Vec::new());
    for (column, value) in relation.columns.iter().zip(new) {
        let name = quote_name(&column.name);
        values.push(match sent(value) {
            Some(text) => {
                let place = place(&mut parameters, text);
                cast(target, &column.name, &place)
            }
            None => format!("gone_.{name}"),
        });
        columns.push(name);
    }
    let sql = format!(
        "WITH gone_ AS (DELETE FROM {} row_ WHERE {condition} RETURNING row_.*) \
         INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone_",
        target.rows(),
        target.name,
        columns.join(", "),
        values.join(", ")
    );
    Statement { sql, parameters }
}

fn delete<'a>(
    target: &Target,
    relation: &Relation,
    old: &'a Row,
    stamps: &[Stamp],
) -> Statement<'a> {
    let mut parameters = Vec::new();
    let condition =
        identify(target, relation, old, &mut parameters) + &meant(target, relation, stamps);
    Statement { sql: format!("DELETE FROM {} row_ WHERE {condition}", target.rows()), parameters }
}

/// Selects the row by its identity: its texts as JSON, and its partition where that may not be the one
/// that is meant.
pub fn select<'a>(target: &Target, relation: &Relation, identity: &'a Row) -> Statement<'a> {
    let mut parameters = Vec::new();
    let condition = identify(target, relation, identity, &mut parameters);
    let (rows, row) = (target.rows(), image(target, relation));
    Statement {
        sql: format!("SELECT {row} FROM {rows} row_ WHERE {condition} LIMIT 1"),
        parameters,
    }
}

/// Selects the same of a row that need not be there. What was not sent is taken for null.
pub fn select_incoming<'a>(target: &Target, relation: &Relation, row: &'a Row) -> Statement<'a> {
    let mut parameters = Vec::new();
    let each = relation.columns.iter().zip(row).map(|(column, value)| {
        let place = place(&mut parameters, sent(value).unwrap_or(Text(None)));
        format!("{} AS {}", cast(target, &column.name, &place), quote_name(&column.name))
    });
    let given = each.collect::<Vec<_>>().join(", ");
    let sql = format!("SELECT {} FROM (SELECT {given}) row_", image(target, relation));
    Statement { sql, parameters }
}

/// What is selected of a row called `row_`.
fn image(target: &Target, relation: &Relation) -> String {
    let names = relation.columns.iter().map(|column| quote_text(&column.name));
    let texts = relation
        .columns
        .iter()
        .map(|column| text_of(&format!("row_.{}", quote_name(&column.name))));
    format!(
        "jsonb_object(ARRAY[{}]::text[], ARRAY[{}]::text[]), {}",
        names.collect::<Vec<_>>().join(", "),
        texts.collect::<Vec<_>>().join(", "),
        target.partition.as_deref().unwrap_or("NULL::integer")
    )
}

/// Holds for a row called `row_` that is of one of the partitions that were stamped, where another
/// owner may have one under the same key.
fn meant(target: &Target, relation: &Relation, stamps: &[Stamp]) -> String {
    // Who is known by all columns is known by those of the partition, too.
    let by_all = relation.identity == Identity::Full && target.primary_key.is_empty();
    match &target.partition {
        Some(partition) if !stamps.is_empty() && !by_all => {
            format!(" AND {}", is_one_of(partition, &format!("'{}'", numbers(stamps))))
        }
        _ => String::new(),
    }
}

/// Holds where `partition` is one of `numbers`, both as SQL, or is not to be found: the parent row may
/// have gone first.
pub fn is_one_of(partition: &str, numbers: &str) -> String {
    format!("coalesce({partition} = ANY ({numbers}::integer[]), true)")
}

/// The numbers of the partitions as an array of PostgreSQL's.
pub fn numbers<'s>(stamps: impl IntoIterator<Item = &'s Stamp>) -> String {
    let numbers: BTreeSet<u32> = stamps.into_iter().map(|stamp| stamp.partition.0).collect();
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}

/// A condition that holds for the one row that `row` identifies.
fn identify<'a>(
    target: &Target,
    relation: &Relation,
    row: &'a Row,
    parameters: &mut Vec<Text<'a>>,
) -> String {
    let all = || relation.columns.iter().zip(row);
    if relation.identity != Identity::Full {
        return key(target, all().filter(|(column, _)| column.key), parameters);
    }
    let in_key = |name: &String| all().any(|(column, value)| column.name == *name && known(value));
    if !target.primary_key.is_empty() && target.primary_key.iter().all(in_key) {
        let in_key = |column: &Column| target.primary_key.contains(&column.name);
        return key(target, all().filter(|(column, _)| in_key(column)), parameters);
    }
    // Of rows that are all the same one is meant, whichever. Sameness is that of the text: not
    // every type has an equality, and not every equality is sameness.
    let same: Vec<String> = all()
        .filter_map(|(column, value)| {
            Some(is_same(target, "row_.", &column.name, sent(value)?, parameters))
        })
        .collect();
    if same.is_empty() {
        return NOTHING.to_owned();
    }
    format!(
        "(tableoid, ctid) = (SELECT row_.tableoid, row_.ctid FROM {} row_ WHERE {} LIMIT 1)",
        target.rows(),
        same.join(" AND ")
    )
}

/// No identity at all: touch nothing rather than everything.
const NOTHING: &str = "false";

fn key<'a, 'c>(
    target: &Target,
    columns: impl Iterator<Item = (&'c Column, &'a Value)>,
    parameters: &mut Vec<Text<'a>>,
) -> String {
    let each: Vec<String> = columns
        .filter_map(|(column, value)| {
            let name = &column.name;
            let equals = target.column(name).map_or("=", |column| column.equals());
            let place = place(parameters, sent(value)?);
            let place = cast(target, name, &place);
            Some(format!("{} {equals} {place}", quote_name(name)))
        })
        .collect();
    if each.is_empty() { NOTHING.to_owned() } else { each.join(" AND ") }
}

/// Holds where the column's text is this one, or both are null.
fn is_same<'a>(
    target: &Target,
    of: &str,
    column: &str,
    text: Text<'a>,
    parameters: &mut Vec<Text<'a>>,
) -> String {
    let place = place(parameters, text);
    let place = cast(target, column, &place);
    let name = quote_name(column);
    format!("{of}{name}::text COLLATE \"C\" IS NOT DISTINCT FROM {place}::text")
}

fn cast(target: &Target, column: &str, place: &str) -> String {
    match target.column(column) {
        Some(column) => format!("{place}::{}", column.base_type),
        None => place.to_owned(),
    }
}

fn place<'a>(parameters: &mut Vec<Text<'a>>, text: Text<'a>) -> String {
    parameters.push(text);
    format!("${}", parameters.len())
}

fn known(value: &Value) -> bool {
    matches!(value, Value::Text(_))
}

fn sent(value: &Value) -> Option<Text<'_>> {
    match value {
        Value::Unchanged => None,
        Value::Null => Some(Text(None)),
        Value::Text(text) => Some(Text(Some(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::target;

    fn accounts(identity: Identity) -> Relation {
        let column = |name: &str, key| Column { name: name.into(), key };
        let full = identity == Identity::Full;
        Relation {
            table: TableName::new("public", "accounts"),
            identity,
            columns: vec![column("id", true), column("na\"me", full), column("note", full)],
        }
    }

    fn here(primary_key: &[&str]) -> Target {
        let column = |base_type: &str, equality: Option<&str>| target::Column {
            base_type: base_type.to_owned(),
            equality: equality.map(str::to_owned),
            ..target::Column::default()
        };
        let columns = [
            ("id", column("pg_catalog.int4", Some("OPERATOR(pg_catalog.=)"))),
            ("na\"me", column("more.citext", None)),
            ("note", column("pg_catalog.json", None)),
        ];
        Target::plain("public.accounts", &columns, primary_key)
    }

    #[test]
    fn an_unchanged_value_is_left_out_of_an_update_and_so_is_a_key_that_stays() {
        let relation = accounts(Identity::Default);
        let new = vec![Value::text("7"), Value::Null, Value::Unchanged];
        let statement = update(&here(&["id"]), &relation, None, &new, &[]);
        assert_eq!(
            statement.sql,
            "UPDATE ONLY public.accounts row_ SET \"na\"\"me\" = $1 \
             WHERE \"id\" OPERATOR(pg_catalog.=) $2::pg_catalog.int4"
        );
        assert_eq!(statement.parameters, [Text(None), Text(Some(b"7"))]);
    }

    #[test]
    fn a_row_without_identity_touches_nothing() {
        let mut relation = accounts(Identity::Nothing);
        relation.columns[0].key = false;
        let old = vec![Value::text("7"), Value::Null, Value::Null];
        let statement = delete(&here(&[]), &relation, &old, &[]);
        assert!(statement.sql.ends_with("WHERE false"), "{}", statement.sql);
    }

    #[test]
    fn with_every_column_for_identity_one_row_is_meant() {
        let relation = accounts(Identity::Full);
        let old = vec![Value::text("7"), Value::Null, Value::text("{}")];
        let by_key = delete(&here(&["id"]), &relation, &old, &[]);
        assert_eq!(by_key.parameters, [Text(Some(b"7"))], "{}", by_key.sql);
        let by_all = delete(&here(&[]), &relation, &old, &[]);
        assert!(by_all.sql.contains("(tableoid, ctid) = (SELECT"), "{}", by_all.sql);
        assert_eq!(by_all.parameters.len(), 3);
    }

    #[test]
    fn an_identity_that_is_always_generated_is_not_set() {
        let relation = accounts(Identity::Default);
        let mut columns = here(&["id"]);
        columns.make_always("id");
        let new = vec![Value::text("7"), Value::Null, Value::Unchanged];
        let stays = update(&columns, &relation, None, &new, &[]).sql;
        assert!(!stays.contains("SET \"id\""), "{stays}");
        let old = vec![Value::text("6"), Value::Unchanged, Value::Unchanged];
        let moves = update(&columns, &relation, Some(&old), &new, &[]).sql;
        assert!(
            moves.starts_with("WITH gone_ AS (DELETE") && moves.contains("gone_.\"note\""),
            "{moves}"
        );
    }
}
