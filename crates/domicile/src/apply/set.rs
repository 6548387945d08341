//! How are many rows of one table changed by one statement?
//!
//! The values of a column travel as one array in PostgreSQL's text form and are joined to the table
//! by the key; many new rows are copied in. Types are looked up in the local catalogue by the
//! column's name: what the origin calls a column may have another OID here, or another place.

use std::borrow::Cow;

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use domicile_core::change::{Relation, Row, Value};
use domicile_core::fold::Deed;

use super::plan::Planned;
use super::target::{Column, Target};
use crate::postgres::session::quote_name;

/// From this many rows on, copying them in costs less than a statement.
const COPY_ROWS_MIN: usize = 50;
/// How much is handed to PostgreSQL at a time.
const COPY_BYTES: usize = 64 * 1024;

/// Returns the statement that does `deed` to all of `rows`.
pub fn set(
    relation: &Relation,
    target: &Target,
    deed: &Deed,
    rows: &[Cow<'_, Row>],
) -> anyhow::Result<Planned> {
    let keys: Vec<usize> =
        (0..relation.columns.len()).filter(|i| relation.columns[*i].key).collect();
    Ok(match deed {
        Deed::Insert if rows.len() >= COPY_ROWS_MIN => copy(relation, target, rows)?,
        Deed::Insert => {
            let all: Vec<usize> = (0..relation.columns.len()).collect();
            let given = Given::new(relation, target, &all)?;
            let sql = format!(
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}{}",
                target.name,
                given.names().join(", "),
                given.values().join(", "),
                given.unnest(),
                target.on_conflict()
            );
            given.request(sql, rows)
        }
        Deed::Delete => {
            let given = Given::new(relation, target, &keys)?;
            let sql = format!(
                "DELETE FROM {} row_ USING {} WHERE {}",
                target.rows(),
                given.unnest(),
                given.same_row(relation)
            );
            given.request(sql, rows)
        }
        Deed::Update { columns } => {
            let given = Given::new(relation, target, columns)?;
            let (named, given_rows) = (target.rows(), given.unnest());
            let same = given.same_row(relation);
            let sql = match given.sets(relation).as_str() {
                // A row that is all key is right if it is there; this counts it.
                "" => format!("SELECT FROM {named} row_, {given_rows} WHERE {same}"),
                sets => format!("UPDATE {named} row_ SET {sets} FROM {given_rows} WHERE {same}"),
            };
            given.request(sql, rows)
        }
    })
}

/// The columns whose values a statement is given, as `given.v0`, `given.v1`, ...
struct Given<'a> {
    columns: &'a [usize],
    names: Vec<String>,
    types: Vec<&'a Column>,
}

impl<'a> Given<'a> {
    fn new(relation: &Relation, target: &'a Target, columns: &'a [usize]) -> anyhow::Result<Self> {
        let name = |i: &usize| &relation.columns[*i].name;
        let known = columns.iter().map(|i| {
            let unknown = || format!("table {} has no column \"{}\"", relation.table, name(i));
            target.column(name(i)).with_context(unknown)
        });
        let types = known.collect::<anyhow::Result<_>>()?;
        Ok(Self { columns, names: columns.iter().map(|i| quote_name(name(i))).collect(), types })
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    fn unnest(&self) -> String {
        let (mut arrays, mut names) = (Vec::new(), Vec::new());
        for (i, column) in self.types.iter().enumerate() {
            let element = if column.has_array { column.type_name.as_str() } else { "text" };
            arrays.push(format!("${}::{element}[]", i + 1));
            names.push(format!("v{i}"));
        }
        format!("unnest({}) given ({})", arrays.join(", "), names.join(", "))
    }

    fn value(&self, i: usize) -> String {
        match self.types[i] {
            Column { has_array: true, .. } => format!("given.v{i}"),
            Column { type_name, .. } => format!("given.v{i}::{type_name}"),
        }
    }

    fn values(&self) -> Vec<String> {
        (0..self.columns.len()).map(|i| self.value(i)).collect()
    }

    /// Holds for the rows that are given, by the key. An identity that is always generated and not
    /// part of the key must be the same already: no UPDATE may set it.
    fn same_row(&self, relation: &Relation) -> String {
        let each = (0..self.columns.len()).filter_map(|i| {
            let (name, column) = (&self.names[i], self.types[i]);
            if relation.columns[self.columns[i]].key {
                Some(format!("row_.{name} {} {}", column.equals(), self.value(i)))
            } else if column.identity_always {
                Some(format!("row_.{name} IS NOT DISTINCT FROM {}", self.value(i)))
            } else {
                None
            }
        });
        each.collect::<Vec<_>>().join(" AND ")
    }

    /// Key columns stay as they are, unless there is nothing else.
    /// What is always generated stays in any case.
    fn sets(&self, relation: &Relation) -> String {
        let is_key = |i: &usize| relation.columns[self.columns[*i]].key;
        let settable = || (0..self.columns.len()).filter(|i| !self.types[*i].identity_always);
        let mut set: Vec<usize> = settable().filter(|i| !is_key(i)).collect();
        if set.is_empty() {
            set = settable().collect();
        }
        let sets: Vec<String> =
            set.into_iter().map(|i| format!("{} = {}", self.names[i], self.value(i))).collect();
        sets.join(", ")
    }

    /// Each parameter is an array with a value for each row, and each row must be found.
    fn request(&self, sql: String, rows: &[Cow<'_, Row>]) -> Planned {
        let parameters = self.parameters(rows).into_iter().map(Some).collect();
        Planned::Statement { sql, parameters, finds: Some(rows.len() as u64) }
    }

    fn parameters(&self, rows: &[Cow<'_, Row>]) -> Vec<Bytes> {
        let array = |column: &usize| {
            let mut out = BytesMut::with_capacity(rows.len() * 8 + 2);
            out.put_u8(b'{');
            for (n, row) in rows.iter().enumerate() {
                if n > 0 {
                    out.put_u8(b',');
                }
                put_element(&mut out, &row[*column]);
            }
            out.put_u8(b'}');
            out.freeze()
        };
        self.columns.iter().map(array).collect()
    }
}

/// Writes one element of an array's text form.
fn put_element(out: &mut BytesMut, value: &Value) {
    let Value::Text(text) = value else { return out.put_slice(b"NULL") };
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.' | b':' | b'_');
    if !text.is_empty() && text.iter().all(plain) && !text.eq_ignore_ascii_case(b"null") {
        return out.put_slice(text);
    }
    out.put_u8(b'"');
    for b in text {
        if matches!(b, b'"' | b'\\') {
            out.put_u8(b'\\');
        }
        out.put_u8(*b);
    }
    out.put_u8(b'"');
}

fn copy(relation: &Relation, target: &Target, rows: &[Cow<'_, Row>]) -> anyhow::Result<Planned> {
    let all: Vec<usize> = (0..relation.columns.len()).collect();
    // Asked here: a COPY that PostgreSQL refuses at its beginning ends the session.
    let names = Given::new(relation, target, &all)?.names;
    let sql = format!("COPY {} ({}) FROM STDIN", target.name, names.join(", "));
    let mut data = Vec::new();
    let mut out = BytesMut::with_capacity(COPY_BYTES);
    for row in rows {
        for (i, value) in row.iter().enumerate() {
            if i > 0 {
                out.put_u8(b'\t');
            }
            put_field(&mut out, value);
        }
        out.put_u8(b'\n');
        if out.len() >= COPY_BYTES {
            data.push(out.split().freeze());
        }
    }
    if !out.is_empty() {
        data.push(out.freeze());
    }
    Ok(Planned::Copy { sql, data })
}

/// Writes one field of COPY's text format.
fn put_field(out: &mut BytesMut, value: &Value) {
    let Value::Text(text) = value else { return out.put_slice(b"\\N") };
    for b in text {
        match b {
            b'\\' => out.put_slice(b"\\\\"),
            b'\t' => out.put_slice(b"\\t"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            _ => out.put_u8(*b),
        }
    }
}

#[cfg(test)]
mod tests {
    use domicile_core::change::{self, Identity};
    use domicile_core::id::TableName;

    use super::*;

    fn relation() -> (Relation, Target) {
        let column = |name: &str, key| change::Column { name: name.into(), key };
        let relation = Relation {
            table: TableName::new("public", "t"),
            identity: Identity::Default,
            columns: vec![column("id", true), column("list", false)],
        };
        let named = |name: &str, has_array| Column {
            type_name: name.into(),
            has_array,
            ..Column::default()
        };
        let columns = [("id", named("integer", true)), ("list", named("integer[]", false))];
        (relation, Target::plain("\"public\".\"t\"", &columns, &["id"]))
    }

    #[test]
    fn values_that_are_arrays_go_as_texts() {
        let (relation, target) = relation();
        let row: Row = vec![Value::text("1"), Value::text("{\"a\\\\b\"}")];
        let deed = Deed::Update { columns: vec![0, 1] };
        let Planned::Statement { sql, parameters, finds } =
            set(&relation, &target, &deed, &[Cow::Borrowed(&row)]).unwrap()
        else {
            panic!("one row is not copied")
        };
        assert_eq!(
            sql,
            "UPDATE ONLY \"public\".\"t\" row_ SET \"list\" = given.v1::integer[] \
             FROM unnest($1::integer[], $2::text[]) given (v0, v1) WHERE row_.\"id\" = given.v0"
        );
        assert_eq!(finds, Some(1));
        let parameters: Vec<Bytes> = parameters.into_iter().flatten().collect();
        assert_eq!(parameters[0], "{1}");
        assert_eq!(parameters[1], "{\"{\\\"a\\\\\\\\b\\\"}\"}");
    }

    #[test]
    fn a_text_that_looks_like_null_is_none() {
        let mut out = BytesMut::new();
        for value in [Value::text("NULL"), Value::text(""), Value::Null] {
            put_element(&mut out, &value);
            out.put_u8(b' ');
        }
        assert_eq!(out, "\"NULL\" \"\" NULL ");
    }

    #[test]
    fn a_copied_field_keeps_what_would_end_it() {
        let mut out = BytesMut::new();
        put_field(&mut out, &Value::text("a\tb\nc\\N"));
        assert_eq!(out, "a\\tb\\nc\\\\N");
    }
}
