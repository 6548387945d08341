//! Whose rows does a statement write, as far as its text says?
//!
//! Advice and no more. Whoever goes by it asks the right owner first, and the guard there has the last word:
//! what is not plain is simply not known, and a wrong guess costs a round trip.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{KeySource, TableKind};
use crate::id::{PartitionId, TableName};
use crate::partition::Layout;

/// Rows of one table that a statement writes or locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Where the text says it.
    pub schema: Option<String>,
    pub table: String,
    /// For each row, or each set of rows that agree in it: what some of their columns equal.
    pub rows: Vec<Row>,
}

/// By column.
pub type Row = BTreeMap<String, Operand>;

/// What a column equals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A constant, without quotes.
    Literal(String),
    /// A parameter of the statement, counted from 0.
    Parameter(usize),
}

/// What a value was given as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given<'a> {
    Text(&'a [u8]),
    /// In the binary format of the protocol.
    Binary(&'a [u8]),
}

/// The types of key columns whose values are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// `smallint`, `integer` and `bigint`.
    Integer,
    /// `text`, `varchar` and every enum.
    Text,
    Uuid,
}

impl KeyType {
    /// Returns a value as PostgreSQL writes it: `007` is `7` there. `None` when it is none of this type.
    pub fn text(self, given: Given<'_>) -> Option<Vec<u8>> {
        match (self, given) {
            (Self::Text, Given::Text(text) | Given::Binary(text)) => Some(text.to_vec()),
            (Self::Integer, Given::Text(text)) => {
                let number: i64 = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
                Some(number.to_string().into_bytes())
            }
            (Self::Integer, Given::Binary(bytes)) => {
                let number = match *bytes {
                    [a, b] => i64::from(i16::from_be_bytes([a, b])),
                    [a, b, c, d] => i64::from(i32::from_be_bytes([a, b, c, d])),
                    _ => i64::from_be_bytes(bytes.try_into().ok()?),
                };
                Some(number.to_string().into_bytes())
            }
            (Self::Uuid, Given::Text(text)) => {
                let digits = text.iter().filter(|byte| **byte != b'-');
                let digits: Vec<u8> = digits.map(u8::to_ascii_lowercase).collect();
                uuid(digits)
            }
            (Self::Uuid, Given::Binary(bytes)) => {
                uuid(bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect())
            }
        }
    }
}

/// Puts its hyphens between 32 digits.
fn uuid(digits: Vec<u8>) -> Option<Vec<u8>> {
    let sound = digits.len() == 32 && digits.iter().all(u8::is_ascii_hexdigit);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    sound.then(|| parts.map(|part| &digits[part]).join(&b'-'))
}

/// Whose rows some of those are that a statement touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// They are of reference tables, which have one owner together.
    Reference,
    /// All columns of the key of this table, in order.
    Columns(&'a TableName, Vec<(&'a str, &'a Operand)>),
}

/// Returns the keys of all owned rows among those `touched`, none where nobody owns what is; `None` where
/// the statement does not say all of them.
pub fn keys<'a>(
    touched: &'a [Touched],
    tables: &'a BTreeMap<TableName, TableKind>,
) -> Option<Vec<Key<'a>>> {
    let mut found = Vec::new();
    for Touched { schema, table, rows } in touched {
        let Some((name, kind)) = named(tables, schema.as_deref(), table) else { continue };
        match kind {
            TableKind::Reference => found.push(Key::Reference),
            TableKind::Owned(KeySource::Columns(columns)) if !rows.is_empty() => {
                for row in rows {
                    let key =
                        columns.iter().map(|column| Some((column.as_str(), row.get(column)?)));
                    found.push(Key::Columns(name, key.collect::<Option<_>>()?));
                }
            }
            // Or which row is its parent stands elsewhere.
            TableKind::Owned(_) => return None,
            TableKind::Shared(_) | TableKind::Local => {}
        }
    }
    Some(found)
}

/// Returns to which partitions the rows with these keys belong; `None` where that is not known of one.
/// `value` gives what an operand of a column comes to, as PostgreSQL writes it.
pub fn partitions(
    keys: &[Key<'_>],
    layout: &Layout,
    value: impl Fn(&TableName, &str, &Operand) -> Option<Vec<u8>>,
) -> Option<BTreeSet<PartitionId>> {
    let of = |key: &Key<'_>| match key {
        Key::Reference => layout.reference(),
        Key::Columns(table, columns) => {
            let key = columns.iter().map(|(column, operand)| value(table, column, operand));
            let key: Vec<Vec<u8>> = key.collect::<Option<_>>()?;
            let key: Vec<&[u8]> = key.iter().map(Vec::as_slice).collect();
            layout.partition_of(&key).ok()
        }
    };
    keys.iter().map(of).collect()
}

/// Which of the tables is it? Without a schema, the only one of that name: what the session's search path
/// says is not known here.
fn named<'a>(
    tables: &'a BTreeMap<TableName, TableKind>,
    schema: Option<&str>,
    table: &str,
) -> Option<(&'a TableName, &'a TableKind)> {
    let fits =
        |name: &TableName| name.name == table && schema.is_none_or(|schema| name.schema == schema);
    let mut fitting = tables.iter().filter(|(name, _)| fits(name));
    fitting.next().filter(|_| fitting.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::Scheme;

    fn tables() -> BTreeMap<TableName, TableKind> {
        let columns = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            TableKind::Owned(KeySource::Columns(names))
        };
        BTreeMap::from([
            ("public.account".parse().unwrap(), columns(&["branch"])),
            ("public.item".parse().unwrap(), columns(&["tenant", "project"])),
            ("other.item".parse().unwrap(), columns(&["tenant"])),
            ("public.country".parse().unwrap(), TableKind::Reference),
            ("public.scratch".parse().unwrap(), TableKind::Local),
        ])
    }

    fn layout() -> Layout {
        Layout { scheme: Scheme::Hash { count: 1000 }, has_reference: true }
    }

    fn touched(schema: Option<&str>, table: &str, rows: &[&[(&str, &str)]]) -> Touched {
        let operand = |text: &str| match text.strip_prefix('$') {
            Some(number) => Operand::Parameter(number.parse::<usize>().unwrap() - 1),
            None => Operand::Literal(text.to_owned()),
        };
        let row = |row: &&[(&str, &str)]| {
            row.iter().map(|(column, text)| ((*column).to_owned(), operand(text))).collect()
        };
        Touched {
            schema: schema.map(str::to_owned),
            table: table.to_owned(),
            rows: rows.iter().map(row).collect(),
        }
    }

    fn found(touched: &[Touched]) -> Option<BTreeSet<PartitionId>> {
        let tables = tables();
        partitions(&keys(touched, &tables)?, &layout(), |_, _, operand| match operand {
            Operand::Literal(text) => Some(text.clone().into_bytes()),
            Operand::Parameter(0) => Some(b"7".to_vec()),
            Operand::Parameter(_) => None,
        })
    }

    fn of(keys: &[&[&[u8]]]) -> Option<BTreeSet<PartitionId>> {
        Some(keys.iter().map(|key| layout().partition_of(key).unwrap()).collect())
    }

    #[test]
    fn rows_that_name_all_of_their_key_have_a_partition() {
        assert_eq!(found(&[touched(None, "account", &[&[("branch", "7")]])]), of(&[&[b"7"]]));
        assert_eq!(found(&[touched(None, "account", &[&[("branch", "$1")]])]), of(&[&[b"7"]]));
        let both: &[(&str, &str)] = &[("project", "p"), ("tenant", "t"), ("note", "n")];
        assert_eq!(found(&[touched(Some("public"), "item", &[both])]), of(&[&[b"t", b"p"]]));
        let two = [touched(None, "account", &[&[("branch", "1")], &[("branch", "2")]])];
        assert_eq!(found(&two), of(&[&[b"1"], &[b"2"]]));
        let reference = Some(BTreeSet::from([PartitionId(1000)]));
        assert_eq!(found(&[touched(None, "country", &[])]), reference);
    }

    #[test]
    fn what_does_not_name_its_key_is_not_known_and_what_nobody_owns_is_of_no_interest() {
        for unknown in [
            touched(None, "account", &[&[("id", "7")]]),
            touched(None, "account", &[&[("branch", "$2")]]),
            touched(None, "account", &[]),
            touched(Some("public"), "item", &[&[("tenant", "t")]]),
        ] {
            assert_eq!(found(std::slice::from_ref(&unknown)), None, "{unknown:?}");
            let known = touched(None, "account", &[&[("branch", "7")]]);
            assert_eq!(found(&[known, unknown]), None);
        }
        for apart in ["scratch", "elsewhere"] {
            assert_eq!(found(&[touched(None, apart, &[])]), Some(BTreeSet::new()));
        }
        let which = touched(None, "item", &[&[("tenant", "t"), ("project", "p")]]);
        assert_eq!(found(&[which]), Some(BTreeSet::new()), "there are two of that name");
    }

    #[test]
    fn values_are_written_as_postgresql_writes_them() {
        let text = |kind: KeyType, given| kind.text(given).map(|t| String::from_utf8(t).unwrap());
        let integer = |given| text(KeyType::Integer, given);
        assert_eq!(integer(Given::Text(b" 007 ")).as_deref(), Some("7"));
        assert_eq!(integer(Given::Text(b"-0")).as_deref(), Some("0"));
        assert_eq!(integer(Given::Binary(&[0xff, 0xfe])).as_deref(), Some("-2"));
        assert_eq!(integer(Given::Binary(&[0, 0, 1, 0])).as_deref(), Some("256"));
        assert_eq!(integer(Given::Binary(&[0, 0, 0, 0, 0, 0, 0, 9])).as_deref(), Some("9"));
        for none in
            [Given::Text(b"7.0"), Given::Text(b""), Given::Binary(b""), Given::Binary(b"777")]
        {
            assert_eq!(integer(none), None);
        }
        let uuid = |given| text(KeyType::Uuid, given);
        let written = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        let shouted = written.to_uppercase();
        assert_eq!(uuid(Given::Text(shouted.as_bytes())).as_deref(), Some(written));
        assert_eq!(
            uuid(Given::Binary(&[0x11; 16])).unwrap(),
            "11111111-1111-1111-1111-111111111111"
        );
        assert_eq!(uuid(Given::Text(b"a0eebc99")), None);
        assert_eq!(text(KeyType::Text, Given::Text(b"Eu ")).as_deref(), Some("Eu "));
    }
}
