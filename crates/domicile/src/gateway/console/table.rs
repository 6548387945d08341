//! What does a table of the console look like on the wire?

use std::borrow::Cow;

use bytes::BytesMut;
use domicile_pg::backend::{self, Column, ColumnType};
use domicile_pg::frontend::Formats;

/// As many cells as its table has columns.
pub type Row = Vec<Cell>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Text(String),
    Number(i64),
    Null,
}

impl Cell {
    pub fn text(text: impl ToString) -> Self {
        Self::Text(text.to_string())
    }

    /// What is too large to be counted is as good as the largest number.
    pub fn number(number: impl TryInto<i64>) -> Self {
        Self::Number(number.try_into().unwrap_or(i64::MAX))
    }

    fn bytes(&self, is_binary: bool) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Text(text) => Some(text.as_bytes().into()),
            Self::Number(number) if is_binary => Some(number.to_be_bytes().to_vec().into()),
            Self::Number(number) => Some(number.to_string().into_bytes().into()),
            Self::Null => None,
        }
    }
}

pub fn put_description(
    out: &mut BytesMut,
    columns: &[(&'static str, ColumnType)],
    formats: &Formats,
) {
    let columns = columns.iter().enumerate().map(|(place, (name, of))| Column {
        name: name.as_bytes(),
        of: *of,
        is_binary: formats.is_binary(place),
    });
    backend::put_row_description(out, columns);
}

pub fn put_rows(out: &mut BytesMut, rows: &[Row], formats: &Formats) {
    for row in rows {
        let values = row.iter().enumerate();
        let values: Vec<_> = values.map(|(i, cell)| cell.bytes(formats.is_binary(i))).collect();
        backend::put_row(out, values.iter().map(Option::as_deref));
    }
}
