//! Which region, origin, partition, table, run is meant? Newtypes that cannot be mixed up.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The longest region name, in bytes: it becomes part of slot names, which PostgreSQL limits to 63.
pub const REGION_NAME_BYTES_MAX: usize = 32;

/// A name that is not a region's: lowercase letters, digits and hyphens, starting with a letter.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "\"{0}\" is not a region name: use 1 to 32 lowercase letters, digits and hyphens, starting with a letter"
)]
pub struct RegionNameError(pub String);

/// A place with one PostgreSQL, one agent and one gateway. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(Arc<str>);

impl RegionId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RegionId {
    type Err = RegionNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let fits = (1..=REGION_NAME_BYTES_MAX).contains(&name.len());
        let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
        let allowed =
            name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if fits && starts && allowed {
            Ok(Self(name.into()))
        } else {
            Err(RegionNameError(name.to_owned()))
        }
    }
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One unbroken history of a region's PostgreSQL: printed and parsed as `eu-1`.
///
/// An incarnation ends when the continuity of the slot breaks: then LSNs start to mean something
/// else, so they must not be compared with those of another incarnation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    pub region: RegionId,
    pub incarnation: u32,
}

impl Origin {
    pub fn new(region: RegionId, incarnation: u32) -> Self {
        Self { region, incarnation }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.region, self.incarnation)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is not an origin such as `eu-1`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "\"{0}\" is not an origin: expected a region name, a hyphen and an incarnation, as in eu-1"
)]
pub struct OriginNameError(pub String);

impl FromStr for Origin {
    type Err = OriginNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let broken = || OriginNameError(text.to_owned());
        let (region, incarnation) = text.rsplit_once('-').ok_or_else(broken)?;
        Ok(Self {
            region: region.parse().map_err(|_| broken())?,
            incarnation: incarnation.parse().map_err(|_| broken())?,
        })
    }
}

/// The unit of ownership: the rows that exactly one region may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

impl PartitionId {
    /// The partition of nobody's rows, there for drills: the last number that PostgreSQL's `integer`
    /// has, so no layout ever comes near it.
    pub const CANARY: Self = Self(i32::MAX as u32);
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Partitions `first` to `last`, both included: printed and parsed as `4`, `4-7` or `canary`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionRange {
    pub first: u32,
    pub last: u32,
}

const CANARY_NAME: &str = "canary";

impl PartitionRange {
    /// Of [`PartitionId::CANARY`] alone.
    pub const CANARY: Self = Self { first: PartitionId::CANARY.0, last: PartitionId::CANARY.0 };

    /// Panics when `first` is past `last`: a range is never empty.
    pub fn new(first: u32, last: u32) -> Self {
        assert!(first <= last, "a partition range is never empty");
        Self { first, last }
    }

    pub fn contains(&self, partition: PartitionId) -> bool {
        (self.first..=self.last).contains(&partition.0)
    }

    /// Returns the part that both ranges share, if any.
    pub fn overlap(&self, other: &Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (first <= last).then_some(Self { first, last })
    }

    /// How many partitions the range holds: at least 1.
    pub fn count(&self) -> u32 {
        self.last - self.first + 1
    }
}

impl fmt::Display for PartitionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::CANARY {
            f.write_str(CANARY_NAME)
        } else if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A text that is not a partition or a range of them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is not a partition range: expected a number or two, as in 4 or 4-7")]
pub struct PartitionRangeError(pub String);

impl FromStr for PartitionRange {
    type Err = PartitionRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == CANARY_NAME {
            return Ok(Self::CANARY);
        }
        let broken = || PartitionRangeError(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first = first.parse().map_err(|_| broken())?;
        let last = last.parse().map_err(|_| broken())?;
        if first <= last { Ok(Self { first, last }) } else { Err(broken()) }
    }
}

/// Counts the owner changes of one partition; the higher one wins. The first grant is epoch 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A table as PostgreSQL knows it: schema and name, exactly as stored (no quotes).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A text that names no table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is not a table name: expected schema.table, as in public.accounts")]
pub struct TableNameError(pub String);

impl FromStr for TableName {
    type Err = TableNameError;

    /// Reads `schema.table` or `table` (then in schema `public`), without quoting rules.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (schema, name) = text.split_once('.').unwrap_or(("public", text));
        if schema.is_empty() || name.is_empty() || name.contains('.') {
            return Err(TableNameError(text.to_owned()));
        }
        Ok(Self::new(schema, name))
    }
}

/// One execution of a runbook. Sorts by the time at which the run was created.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub String);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_survives_printing_even_when_the_region_has_hyphens() {
        let origin = Origin::new("us-east-1".parse().unwrap(), 7);
        assert_eq!(origin.to_string(), "us-east-1-7");
        assert_eq!("us-east-1-7".parse::<Origin>().unwrap(), origin);
    }

    #[test]
    fn a_region_name_that_could_break_a_slot_name_is_refused() {
        for name in ["", "EU", "eu_west", "1eu", "e u", &"a".repeat(33)] {
            assert!(name.parse::<RegionId>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_backwards_range_is_refused() {
        assert!("7-4".parse::<PartitionRange>().is_err());
        assert_eq!("4-7".parse::<PartitionRange>().unwrap(), PartitionRange::new(4, 7));
    }
}
