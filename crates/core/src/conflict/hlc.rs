//! Which of two writes is the later one, and did one know of the other?
//!
//! Wall clocks of two machines disagree, so a time alone would let a write lose against one that
//! it had seen. A hybrid logical clock never does: a write's time is the region's clock, but
//! always after everything that the row has seen. `domicile.write` in PostgreSQL does the same.

use std::collections::BTreeMap;

use crate::id::RegionId;
use crate::time::Millis;

/// Microseconds since 1970 by the writing region's clock, or later where the row had seen later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc(pub i64);

impl Hlc {
    /// The time of a write at `clock`, in a region that has heard of `heard`, to a row that was
    /// last written at `row`.
    pub fn next(clock: Hlc, heard: Hlc, row: Option<Hlc>) -> Hlc {
        let after_row = row.map_or(clock, |row| Hlc(row.0.saturating_add(1)));
        clock.max(heard).max(after_row)
    }

    /// How far this time is ahead of a clock; zero when it is not.
    pub fn ahead_of(self, clock: Hlc) -> Millis {
        Millis(u64::try_from(self.0.saturating_sub(clock.0)).unwrap_or(0) / 1000)
    }
}

/// One write of one row. Later ones are greater; of two at the same time, the one of the region
/// whose name sorts first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dot {
    pub hlc: Hlc,
    pub region: RegionId,
}

impl Dot {
    pub fn new(hlc: Hlc, region: RegionId) -> Self {
        Self { hlc, region }
    }
}

impl Ord for Dot {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.hlc.cmp(&other.hlc).then_with(|| other.region.cmp(&self.region))
    }
}

impl PartialOrd for Dot {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Region -> its last write of a row that is known of. All earlier ones are known too.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Seen(BTreeMap<RegionId, Hlc>);

impl Seen {
    pub fn note(&mut self, dot: &Dot) {
        let at = self.0.entry(dot.region.clone()).or_insert(dot.hlc);
        *at = (*at).max(dot.hlc);
    }

    pub fn has(&self, dot: &Dot) -> bool {
        self.of(&dot.region).is_some_and(|at| at >= dot.hlc)
    }

    pub fn of(&self, region: &RegionId) -> Option<Hlc> {
        self.0.get(region).copied()
    }

    /// Is everything that `other` has seen seen here?
    pub fn covers(&self, other: &Seen) -> bool {
        other.0.iter().all(|(region, at)| self.of(region).is_some_and(|here| here >= *at))
    }

    pub fn join(&mut self, other: &Seen) {
        for (region, at) in &other.0 {
            let here = self.0.entry(region.clone()).or_insert(*at);
            *here = (*here).max(*at);
        }
    }

    /// The latest write of any region.
    pub fn latest(&self) -> Option<Hlc> {
        self.0.values().max().copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&RegionId, Hlc)> {
        self.0.iter().map(|(region, at)| (region, *at))
    }
}

impl FromIterator<(RegionId, Hlc)> for Seen {
    fn from_iter<I: IntoIterator<Item = (RegionId, Hlc)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(hlc: i64, region: &str) -> Dot {
        Dot::new(Hlc(hlc), region.parse().unwrap())
    }

    #[test]
    fn a_write_is_after_what_it_has_seen_whatever_the_clock_says() {
        assert_eq!(Hlc::next(Hlc(50), Hlc(0), None), Hlc(50));
        assert_eq!(Hlc::next(Hlc(50), Hlc(70), None), Hlc(70), "another region's clock is ahead");
        assert_eq!(Hlc::next(Hlc(50), Hlc(0), Some(Hlc(90))), Hlc(91), "our clock stepped back");
        assert_eq!(Hlc(9_000_000).ahead_of(Hlc(2_000_000)), Millis(7000));
        assert_eq!(Hlc(1).ahead_of(Hlc(2)), Millis(0));
    }

    #[test]
    fn a_tie_goes_to_the_region_whose_name_sorts_first() {
        assert!(dot(5, "ap") > dot(5, "eu"));
        assert!(dot(6, "eu") > dot(5, "ap"));
    }

    #[test]
    fn what_was_seen_never_gets_less() {
        let mut seen = Seen::default();
        assert!(seen.covers(&Seen::default()) && !seen.has(&dot(1, "eu")));
        seen.note(&dot(5, "eu"));
        seen.note(&dot(3, "eu"));
        assert!(seen.has(&dot(4, "eu")) && !seen.has(&dot(6, "eu")) && !seen.has(&dot(1, "us")));
        let other: Seen = [("us".parse().unwrap(), Hlc(9))].into_iter().collect();
        assert!(!seen.covers(&other));
        seen.join(&other);
        assert!(seen.covers(&other));
        assert_eq!(seen.latest(), Some(Hlc(9)));
    }
}
