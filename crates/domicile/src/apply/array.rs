//! How do the values of a column travel to PostgreSQL as one parameter?
//!
//! As an array. Where a value's text is its binary form, or is easily made so, the array is binary:
//! PostgreSQL need not look at each letter twice.

use anyhow::Context;
use bytes::{BufMut, BytesMut};
use domicile_core::change::Value;

use super::plan::Parameter;

/// The type of an array's elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Element {
    Int2,
    Int4,
    Int8,
    /// Of these OIDs, with the text as binary form.
    Text(u32),
    Jsonb,
    /// Any other type that has arrays of the form `{a,b}`.
    Other,
    /// Each value is a text to be cast: of a type that has no such array.
    #[default]
    AsText,
}

/// PostgreSQL's OIDs for types that are the same everywhere.
mod oid {
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const JSON: u32 = 114;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const JSONB: u32 = 3802;
}

/// Of the binary form of jsonb.
const JSONB_VERSION: u8 = 1;

impl Element {
    /// `has_array` tells whether PostgreSQL knows an array of the type that can be written `{a,b}`.
    pub fn new(type_oid: u32, has_array: bool) -> Self {
        match type_oid {
            _ if !has_array => Self::AsText,
            oid::INT2 => Self::Int2,
            oid::INT4 => Self::Int4,
            oid::INT8 => Self::Int8,
            oid::TEXT | oid::JSON | oid::BPCHAR | oid::VARCHAR => Self::Text(type_oid),
            oid::JSONB => Self::Jsonb,
            _ => Self::Other,
        }
    }

    /// Returns the array of these values. Fails on a number that is none.
    pub fn array<'v>(
        self,
        values: impl ExactSizeIterator<Item = &'v Value> + Clone,
    ) -> anyhow::Result<Parameter> {
        match self {
            Self::Other => Ok(text_array(values)),
            Self::Int2 => binary(oid::INT2, values, put_number::<i16>),
            Self::Int4 => binary(oid::INT4, values, put_number::<i32>),
            Self::Int8 => binary(oid::INT8, values, put_number::<i64>),
            Self::Text(oid) => binary(oid, values, put_text),
            Self::AsText => binary(oid::TEXT, values, put_text),
            Self::Jsonb => binary(oid::JSONB, values, |out, text| {
                out.put_i32(i32::try_from(text.len() + 1)?);
                out.put_u8(JSONB_VERSION);
                out.put_slice(text);
                Ok(())
            }),
        }
    }
}

/// As `array_recv` reads it: one dimension, and each element with its length.
fn binary<'v>(
    oid: u32,
    values: impl ExactSizeIterator<Item = &'v Value> + Clone,
    put: impl Fn(&mut BytesMut, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<Parameter> {
    const DIMENSIONS: i32 = 1;
    const LOWER_BOUND: i32 = 1;
    let bytes = values.clone().map(|value| match value {
        Value::Text(text) => text.len() + 8,
        Value::Null | Value::Unchanged => 4,
    });
    let mut out = BytesMut::with_capacity(bytes.sum::<usize>() + 20);
    let has_null = values.clone().any(|value| !matches!(value, Value::Text(_)));
    out.put_i32(DIMENSIONS);
    out.put_i32(has_null.into());
    out.put_u32(oid);
    out.put_i32(i32::try_from(values.len())?);
    out.put_i32(LOWER_BOUND);
    for value in values {
        match value {
            Value::Text(text) => put(&mut out, text)?,
            Value::Null | Value::Unchanged => out.put_i32(-1),
        }
    }
    Ok(Parameter::binary(out.freeze()))
}

fn put_text(out: &mut BytesMut, text: &[u8]) -> anyhow::Result<()> {
    out.put_i32(i32::try_from(text.len())?);
    out.put_slice(text);
    Ok(())
}

fn put_number<N>(out: &mut BytesMut, text: &[u8]) -> anyhow::Result<()>
where
    N: std::str::FromStr<Err = std::num::ParseIntError> + Into<i64>,
{
    let number: i64 = std::str::from_utf8(text)?.parse::<N>().context("read a number")?.into();
    let bytes = size_of::<N>();
    out.put_i32(i32::try_from(bytes)?);
    out.put_int(number, bytes);
    Ok(())
}

fn text_array<'v>(values: impl ExactSizeIterator<Item = &'v Value>) -> Parameter {
    let mut out = BytesMut::with_capacity(values.len() * 8 + 2);
    out.put_u8(b'{');
    for (n, value) in values.enumerate() {
        if n > 0 {
            out.put_u8(b',');
        }
        put_element(&mut out, value);
    }
    out.put_u8(b'}');
    Parameter::text(Some(out.freeze()))
}

/// Writes one element of an array's text form.
fn put_element(out: &mut BytesMut, value: &Value) {
    let Value::Text(text) = value else { return out.put_slice(b"NULL") };
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'+' | b'.' | b':' | b'_');
    if !text.is_empty() && text.iter().all(plain) && !text.eq_ignore_ascii_case(b"null") {
        return out.put_slice(text);
    }
    out.put_u8(b'"');
    let mut rest: &[u8] = text;
    while let Some(at) = rest.iter().position(|b| matches!(b, b'"' | b'\\')) {
        out.put_slice(&rest[..at]);
        out.put_slice(&[b'\\', rest[at]]);
        rest = &rest[at + 1..];
    }
    out.put_slice(rest);
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_looks_like_null_is_none() {
        let mut out = BytesMut::new();
        for value in [Value::text("NULL"), Value::text(""), Value::text("a\"b\\"), Value::Null] {
            put_element(&mut out, &value);
            out.put_u8(b' ');
        }
        assert_eq!(out, "\"NULL\" \"\" \"a\\\"b\\\\\" NULL ");
    }

    #[test]
    fn numbers_keep_their_sign_and_nulls_their_place() {
        let values = [Value::text("-2"), Value::Null, Value::text("32767")];
        let head = [0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 21, 0, 0, 0, 3, 0, 0, 0, 1];
        let rows = [0, 0, 0, 2, 255, 254, 255, 255, 255, 255, 0, 0, 0, 2, 127, 255];
        let bytes = [head.as_slice(), &rows].concat();
        let array = Element::Int2.array(values.iter()).unwrap();
        assert_eq!(array, Parameter::binary(bytes.into()));
        assert!(Element::Int2.array([Value::text("32768")].iter()).is_err());
    }
}
