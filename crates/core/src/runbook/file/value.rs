//! What may stand after an equals sign of a step: a value, or a parameter that will have one?

use std::fmt;

use super::NAME_BYTES_MAX;
use crate::id::{PartitionRange, RegionId};
use crate::time::Millis;

const NUMBER_MAX: u32 = 1000;
const DURATION_UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
/// Thirty days: whoever has not come by then has forgotten it.
const DURATION_MAX: Millis = Millis(30 * 24 * 3_600_000);

/// What a value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Region,
    Partitions,
    Flag,
    Number,
    Duration,
    Name,
}

impl Kind {
    pub const ALL: &[Self] =
        &[Self::Region, Self::Partitions, Self::Flag, Self::Number, Self::Duration, Self::Name];

    /// As a parameter's `type` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Partitions => "partitions",
            Self::Flag => "flag",
            Self::Number => "number",
            Self::Duration => "duration",
            Self::Name => "name",
        }
    }

    /// With an example, for whoever wrote something else.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Region => "the name of a region, as in \"eu\"",
            Self::Partitions => "partitions, as in \"4\" or \"4-7\"",
            Self::Flag => "true or false",
            Self::Number => "a number from 1 on",
            Self::Duration => "a duration in quotes, as in \"15m\"",
            Self::Name => "a name in quotes, as in \"dba\"",
        }
    }

    /// Returns what is wrong with a text that is to be of this kind.
    pub fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::Region => RegionId::read(text).map(drop),
            Self::Partitions => PartitionRange::read(text).map(drop),
            Self::Flag => bool::read(text).map(drop),
            Self::Number => u32::read(text).map(drop),
            Self::Duration => Millis::read(text).map(drop),
            Self::Name => String::read(text).map(drop),
        }
    }
}

/// Something that a step can be told.
pub trait Argument: Clone + Sized {
    const KIND: Kind;

    /// Reads what a person wrote.
    fn read(text: &str) -> Result<Self, String>;
}

impl Argument for RegionId {
    const KIND: Kind = Kind::Region;

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::id::RegionNameError| error.to_string())
    }
}

impl Argument for PartitionRange {
    const KIND: Kind = Kind::Partitions;

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::id::PartitionRangeError| error.to_string())
    }
}

impl Argument for bool {
    const KIND: Kind = Kind::Flag;

    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("\"{text}\" is neither true nor false"))
    }
}

impl Argument for u32 {
    const KIND: Kind = Kind::Number;

    fn read(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(number @ 1..=NUMBER_MAX) => Ok(number),
            _ => Err(format!("\"{text}\" is not a number from 1 to {NUMBER_MAX}")),
        }
    }
}

impl Argument for Millis {
    const KIND: Kind = Kind::Duration;

    fn read(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = DURATION_UNITS.iter().find(|(name, _)| *name == unit);
        let duration = unit.and_then(|(_, ms)| number.parse::<u64>().ok()?.checked_mul(*ms));
        duration.filter(|ms| (1..=DURATION_MAX.0).contains(ms)).map(Millis).ok_or_else(|| {
            format!(
                "\"{text}\" is not a duration: expected a number and ms, s, m or h, as in \"15m\""
            )
        })
    }
}

impl Argument for String {
    const KIND: Kind = Kind::Name;

    fn read(text: &str) -> Result<Self, String> {
        let letters =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(letters);
        fits.then(|| text.to_owned()).ok_or_else(|| {
            format!(
                "\"{text}\" is not a name: use 1 to {NAME_BYTES_MAX} lowercase letters, digits, hyphens \
                 and underscores"
            )
        })
    }
}

/// Prints a duration as one would write it in the file.
pub fn written(duration: Millis) -> String {
    let fits = |(_, ms): &&(&str, u64)| duration.0 >= *ms && duration.0.is_multiple_of(*ms);
    let (unit, ms) = DURATION_UNITS.iter().rev().find(fits).unwrap_or(&DURATION_UNITS[0]);
    format!("{}{unit}", duration.0 / ms)
}

/// Prints what a step was told of a duration.
pub(super) fn told(duration: &Value<Millis>) -> String {
    match duration {
        Value::Given(duration) => written(*duration),
        parameter @ Value::Parameter(_) => parameter.to_string(),
    }
}

/// What a step was told in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<T> {
    Given(T),
    /// The parameter of this name says it.
    Parameter(String),
}

impl<T: fmt::Display> fmt::Display for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(value) => write!(f, "{value}"),
            Self::Parameter(name) => write!(f, "{{{name}}}"),
        }
    }
}
