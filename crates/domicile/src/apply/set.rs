//! How are many rows of one table changed by one statement?
//!
//! The values of a column travel as one array and are joined to the table by the key; many new rows
//! are copied in. Types are looked up in the local catalogue by the
//! column's name: what the origin calls a column may have another OID here, or another place.

use std::borrow::Cow;

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use domicile_core::change::{Relation, Row, Transaction, Value};
use domicile_core::fold::Deed;

use super::array::Element;
use super::plan::{Parameter, Planned};
use super::statement::{is_one_of, numbers};
use crate::postgres::session::quote_name;
use crate::postgres::target::{Column, Target};

/// From this many rows on, copying them in costs less than a statement.
const COPY_ROWS_MIN: usize = 50;
/// How much is handed to PostgreSQL at a time.
const COPY_BYTES: usize = 64 * 1024;

/// Returns the statement that does `deed` to all of `rows`, which `batch` changes.
pub fn set(
    relation: &Relation,
    target: &Target,
    deed: &Deed,
    rows: &[Cow<'_, Row>],
    batch: &[Transaction],
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
            given.request(sql, rows)?
        }
        Deed::Delete => {
            let given = Given::new(relation, target, &keys)?.meant_by(batch, target);
            let sql = format!(
                "DELETE FROM {} row_ USING {} WHERE {}",
                target.rows(),
                given.unnest(),
                given.same_row(relation)
            );
            given.request(sql, rows)?
        }
        Deed::Update { columns } => {
            let given = Given::new(relation, target, columns)?.meant_by(batch, target);
            let (named, given_rows) = (target.rows(), given.unnest());
            let same = given.same_row(relation);
            let sql = match given.sets(relation).as_str() {
                // A row that is all key is right if it is there; this counts it.
                "" => {
                    let sql = format!("SELECT FROM {named} row_, {given_rows} WHERE {same}");
                    let (parameters, finds) = (given.parameters(rows)?, Some(rows.len() as u64));
                    return Ok(Planned::Statement { sql, parameters, finds });
                }
                sets => format!("UPDATE {named} row_ SET {sets} FROM {given_rows} WHERE {same}"),
            };
            given.request(sql, rows)?
        }
    })
}

/// The columns whose values a statement is given, as `given.v0`, `given.v1`, ...
struct Given<'a> {
    columns: &'a [usize],
    names: Vec<String>,
    types: Vec<&'a Column>,
    /// The partition of a row as SQL, and which partitions' rows are meant.
    meant: Option<(&'a str, Bytes)>,
}

impl<'a> Given<'a> {
    fn new(relation: &Relation, target: &'a Target, columns: &'a [usize]) -> anyhow::Result<Self> {
        let name = |i: &usize| &relation.columns[*i].name;
        let known = columns.iter().map(|i| {
            let unknown = || format!("table {} has no column \"{}\"", relation.table, name(i));
            target.column(name(i)).with_context(unknown)
        });
        let types = known.collect::<anyhow::Result<_>>()?;
        let names = columns.iter().map(|i| quote_name(name(i))).collect();
        Ok(Self { columns, names, types, meant: None })
    }

    /// Leaves the rows alone that another owner has under the same key.
    fn meant_by(mut self, batch: &[Transaction], target: &'a Target) -> Self {
        // Barriers and what is passed over change nothing, and say nothing of what is meant.
        let mut changing = batch.iter().filter(|transaction| !transaction.changes.is_empty());
        self.meant = target.partition.as_deref().and_then(|partition| {
            let stamps = changing.clone().flat_map(|transaction| &transaction.stamps);
            // One that has no stamp may mean any row.
            let all = changing.all(|transaction| !transaction.stamps.is_empty());
            all.then(|| (partition, numbers(stamps).into()))
        });
        self
    }

    fn names(&self) -> &[String] {
        &self.names
    }

    /// The arrays side by side, row by row: as a list of outputs, which PostgreSQL makes one by one,
    /// where a function in FROM would have all its rows stored first.
    fn unnest(&self) -> String {
        let arrays = self.types.iter().enumerate().map(|(i, column)| {
            let element = match column.element {
                Element::AsText => "text",
                _ => column.type_name.as_str(),
            };
            format!("unnest(${}::{element}[]) v{i}", i + 1)
        });
        format!("(SELECT {}) given", arrays.collect::<Vec<_>>().join(", "))
    }

    fn value(&self, i: usize) -> String {
        match self.types[i] {
            Column { element: Element::AsText, type_name, .. } => {
                format!("given.v{i}::{type_name}")
            }
            _ => format!("given.v{i}"),
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
        let meant = self
            .meant
            .iter()
            .map(|(partition, _)| is_one_of(partition, &format!("${}", self.columns.len() + 1)));
        each.chain(meant).collect::<Vec<_>>().join(" AND ")
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
    fn request(&self, sql: String, rows: &[Cow<'_, Row>]) -> anyhow::Result<Planned> {
        Ok(Planned::Set { sql, parameters: self.parameters(rows)?, finds: rows.len() as u64 })
    }

    fn parameters(&self, rows: &[Cow<'_, Row>]) -> anyhow::Result<Vec<Parameter>> {
        let each = self.columns.iter().zip(&self.types).map(|(column, Column { element, .. })| {
            element.array(rows.iter().map(|row| &row[*column]))
        });
        let meant =
            self.meant.iter().map(|(_, numbers)| Ok(Parameter::text(Some(numbers.clone()))));
        each.chain(meant).collect()
    }
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
    let escaped = |b: &u8| match b {
        b'\\' => Some(b'\\'),
        b'\t' => Some(b't'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        _ => None,
    };
    let mut rest: &[u8] = text;
    while let Some((at, letter)) = rest.iter().enumerate().find_map(|(i, b)| Some((i, escaped(b)?)))
    {
        out.put_slice(&rest[..at]);
        out.put_slice(&[b'\\', letter]);
        rest = &rest[at + 1..];
    }
    out.put_slice(rest);
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
        let named =
            |name: &str, element| Column { type_name: name.into(), element, ..Column::default() };
        let columns = [
            ("id", named("integer", Element::Int4)),
            ("list", named("integer[]", Element::AsText)),
        ];
        (relation, Target::plain("\"public\".\"t\"", &columns, &["id"]))
    }

    #[test]
    fn values_that_are_arrays_go_as_texts() {
        let (relation, target) = relation();
        let row: Row = vec![Value::text("1"), Value::text("{\"a\\\\b\"}")];
        let deed = Deed::Update { columns: vec![0, 1] };
        let Planned::Set { sql, parameters, finds } =
            set(&relation, &target, &deed, &[Cow::Borrowed(&row)], &[]).unwrap()
        else {
            panic!("one row is not copied")
        };
        assert_eq!(
            sql,
            "UPDATE ONLY \"public\".\"t\" row_ SET \"list\" = given.v1::integer[] \
             FROM (SELECT unnest($1::integer[]) v0, unnest($2::text[]) v1) given \
             WHERE row_.\"id\" = given.v0"
        );
        assert_eq!(finds, 1);
        let values = [Value::text("{\"a\\\\b\"}")];
        assert_eq!(parameters[1], Element::AsText.array(values.iter()).unwrap());
    }

    #[test]
    fn a_copied_field_keeps_what_would_end_it() {
        let mut out = BytesMut::new();
        put_field(&mut out, &Value::text("a\tb\nc\\N"));
        assert_eq!(out, "a\\tb\\nc\\\\N");
    }
}
