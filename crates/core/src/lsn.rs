//! Where are we in one origin's history, and in all of them?

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::id::{Origin, RegionId};

/// A position in one origin's WAL, printed as PostgreSQL does: `0/16B3748`.
///
/// The LSN of a transaction is the *end* of its commit record: the first byte that is not part
/// of it. So "everything up to L" includes the transaction at L, and a slot that is confirmed
/// at L does not send it again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before everything: no transaction has this position.
    pub const ZERO: Self = Self(0);

    /// Bytes of WAL from `earlier` to here; 0 when `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is not an LSN: expected two hexadecimal numbers, as in 0/16B3748")]
pub struct LsnError(pub String);

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let broken = || LsnError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(broken)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| broken())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| broken())?;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

/// The last of an old owner's history that is accepted: everything of `origin` up to `lsn`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cut {
    pub origin: Origin,
    pub lsn: Lsn,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.origin, self.lsn)
    }
}

/// Origin -> LSN, for all origins: what a region has applied, or what a transaction needs.
///
/// An origin that is absent is at [`Lsn::ZERO`].
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Frontier(BTreeMap<Origin, Lsn>);

impl Frontier {
    pub fn get(&self, origin: &Origin) -> Lsn {
        self.0.get(origin).copied().unwrap_or_default()
    }

    /// Moves `origin` forward to `lsn`; an earlier `lsn` changes nothing.
    pub fn advance(&mut self, origin: &Origin, lsn: Lsn) {
        let at = self.0.entry(origin.clone()).or_default();
        *at = (*at).max(lsn);
    }

    /// Moves every origin as far forward as `other` is.
    pub fn join(&mut self, other: &Frontier) {
        for (origin, lsn) in other.iter() {
            self.advance(origin, lsn);
        }
    }

    /// Returns the first origin and LSN that `needed` asks for and this frontier has not reached.
    ///
    /// A region's own origins are never missing there: its history is in its own tables.
    pub fn missing(&self, needed: &Frontier, own: &RegionId) -> Option<(Origin, Lsn)> {
        needed
            .iter()
            .find(|(origin, lsn)| origin.region != *own && self.get(origin) < *lsn)
            .map(|(origin, lsn)| (origin.clone(), lsn))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Origin, Lsn)> {
        self.0.iter().map(|(origin, lsn)| (origin, *lsn))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Origin, Lsn)> for Frontier {
    fn from_iter<I: IntoIterator<Item = (Origin, Lsn)>>(pairs: I) -> Self {
        let mut frontier = Self::default();
        for (origin, lsn) in pairs {
            frontier.advance(&origin, lsn);
        }
        frontier
    }
}

impl fmt::Display for Frontier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (origin, lsn)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{origin}@{lsn}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(name: &str) -> Origin {
        Origin::new(name.parse().unwrap(), 1)
    }

    #[test]
    fn an_lsn_prints_as_postgres_does() {
        assert_eq!(Lsn(0x1_6B37_4800).to_string(), "1/6B374800");
        assert_eq!("1/6B374800".parse::<Lsn>().unwrap(), Lsn(0x1_6B37_4800));
        assert!("16B3748".parse::<Lsn>().is_err());
    }

    #[test]
    fn a_frontier_never_moves_back() {
        let mut frontier = Frontier::default();
        frontier.advance(&origin("eu"), Lsn(9));
        frontier.advance(&origin("eu"), Lsn(4));
        assert_eq!(frontier.get(&origin("eu")), Lsn(9));
    }

    #[test]
    fn a_region_never_waits_for_its_own_history() {
        let needed: Frontier =
            [(origin("eu"), Lsn(9)), (origin("us"), Lsn(3))].into_iter().collect();
        let here: Frontier = [(origin("us"), Lsn(2))].into_iter().collect();
        assert_eq!(here.missing(&needed, &"eu".parse().unwrap()), Some((origin("us"), Lsn(3))));
        let here: Frontier = [(origin("us"), Lsn(3))].into_iter().collect();
        assert_eq!(here.missing(&needed, &"eu".parse().unwrap()), None);
    }
}
