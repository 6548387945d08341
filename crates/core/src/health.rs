//! May a load balancer send somebody here?
//!
//! The questions are those that load balancers ask of Patroni, with the answers of a region that owns
//! some partitions and follows the owners of the others.

use std::collections::BTreeMap;
use std::fmt;

use crate::id::{PartitionId, PartitionRange, RegionId};
use crate::time::Millis;

/// The named state of a region that no new clients are to be led to.
pub const DRAINED: &str = "drained";

/// What is asked of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Does its agent run?
    Alive,
    /// May clients come to its gateway?
    Ready,
    /// Does its PostgreSQL answer?
    Healthy,
    /// May everything be written at its PostgreSQL?
    Primary,
    /// May this partition be written at its PostgreSQL, or any one?
    Writable(Option<PartitionId>),
    /// May anything be read at its PostgreSQL that is not older than this?
    Readable(Option<Lag>),
    /// The same, where not everything is written there.
    Replica(Option<Lag>),
}

/// The most that a region may be behind those that it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    Age(Millis),
    /// Of the owner's WAL.
    Bytes(u64),
}

/// What a region knows of itself.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub postgres_reachable: bool,
    /// It is a member of the cluster, not on its way to become one.
    pub member: bool,
    /// Somebody wants no new clients to come.
    pub drained: bool,
    pub lease_live: bool,
    /// How many partitions there are.
    pub partitions: u32,
    /// Those that its guard lets clients write.
    pub open: Vec<PartitionRange>,
    /// How far it is behind each other region that owns something, `None` where that does not say so; `None` in
    /// all where it is not known which regions these are.
    pub behind: Option<BTreeMap<RegionId, Option<Behind>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Of the oldest commit that is not shown here.
    pub age: Millis,
    pub bytes: u64,
}

/// Why nobody should be sent here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum No {
    #[error("PostgreSQL does not answer")]
    PostgresUnreachable,
    #[error("the region is not a member of the cluster yet")]
    NotMember,
    #[error("the region is drained")]
    Drained,
    #[error("the lease of the region is over")]
    LeaseOver,
    #[error("other regions own partitions")]
    NotEverything,
    #[error("the region may write nothing")]
    Nothing,
    #[error("partition {} is another region's, or not open here", .0.0)]
    NotOpen(PartitionId),
    #[error("the region may write everything")]
    Everything,
    #[error("who owns what is not known here yet")]
    OwnersUnknown,
    #[error("region \"{0}\" does not say how far this one is behind")]
    Unknown(RegionId),
    #[error("{0}")]
    TooFarBehind(TooFarBehind),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooFarBehind {
    pub of: RegionId,
    pub behind: Behind,
}

impl fmt::Display for TooFarBehind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of, behind: Behind { age, bytes } } = self;
        write!(f, "{age} and {bytes} bytes behind region \"{of}\"")
    }
}

/// Answers by what a region knows of itself.
pub fn answer(question: Question, seen: &Seen) -> Result<(), No> {
    match question {
        Question::Alive => Ok(()),
        Question::Healthy => seen.is_healthy(),
        Question::Ready => seen.takes_clients(),
        Question::Primary => seen.is_healthy().and(seen.may_write_everything()),
        Question::Writable(partition) => seen.is_healthy().and(seen.may_write(partition)),
        Question::Readable(lag) => {
            seen.takes_clients()?;
            lag.map_or(Ok(()), |lag| seen.is_within(lag))
        }
        Question::Replica(lag) => match seen.may_write_everything() {
            Ok(()) => Err(No::Everything),
            Err(_) => answer(Question::Readable(lag), seen),
        },
    }
}

impl Seen {
    fn is_healthy(&self) -> Result<(), No> {
        if self.postgres_reachable { Ok(()) } else { Err(No::PostgresUnreachable) }
    }

    fn is_member(&self) -> Result<(), No> {
        if self.member { Ok(()) } else { Err(No::NotMember) }
    }

    /// Who writes has to come to the owner, drained or not; who reads, or comes to a gateway, has not.
    fn takes_clients(&self) -> Result<(), No> {
        self.is_healthy().and(self.is_member())?;
        if self.drained { Err(No::Drained) } else { Ok(()) }
    }

    fn holds_lease(&self) -> Result<(), No> {
        if self.lease_live { Ok(()) } else { Err(No::LeaseOver) }
    }

    fn may_write_everything(&self) -> Result<(), No> {
        let open: u32 = self.open.iter().map(PartitionRange::count).sum();
        if open < self.partitions || open == 0 {
            return Err(No::NotEverything);
        }
        self.holds_lease()
    }

    fn may_write(&self, partition: Option<PartitionId>) -> Result<(), No> {
        match partition {
            None if self.open.is_empty() => Err(No::Nothing),
            Some(wanted) if !self.open.iter().any(|range| range.contains(wanted)) => {
                Err(No::NotOpen(wanted))
            }
            _ => self.holds_lease(),
        }
    }

    fn is_within(&self, lag: Lag) -> Result<(), No> {
        for (of, behind) in self.behind.as_ref().ok_or(No::OwnersUnknown)? {
            let Some(behind) = *behind else { return Err(No::Unknown(of.clone())) };
            let within = match lag {
                Lag::Age(most) => behind.age <= most,
                Lag::Bytes(most) => behind.bytes <= most,
            };
            if !within {
                return Err(No::TooFarBehind(TooFarBehind { of: of.clone(), behind }));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of six partitions it may write some, and follows us.
    fn eu(open: &[(u32, u32)]) -> Seen {
        let behind = Behind { age: Millis(200), bytes: 4096 };
        Seen {
            postgres_reachable: true,
            member: true,
            drained: false,
            lease_live: true,
            partitions: 6,
            open: open.iter().map(|(first, last)| PartitionRange::new(*first, *last)).collect(),
            behind: Some([("us".parse().unwrap(), Some(behind))].into()),
        }
    }

    const EVERY: [Question; 6] = [
        Question::Ready,
        Question::Healthy,
        Question::Primary,
        Question::Writable(None),
        Question::Readable(None),
        Question::Replica(None),
    ];

    fn said(seen: &Seen) -> [bool; 6] {
        EVERY.map(|question| answer(question, seen).is_ok())
    }

    #[test]
    fn who_owns_everything_is_the_primary_and_who_owns_nothing_a_replica() {
        //                                      ready  healthy primary write  read  replica
        assert_eq!(said(&eu(&[(0, 2), (3, 5)])), [true, true, true, true, true, false]);
        assert_eq!(said(&eu(&[])), [true, true, false, false, true, true]);
        assert_eq!(said(&eu(&[(0, 2)])), [true, true, false, true, true, true]);
        let none = Seen { partitions: 0, ..eu(&[]) };
        assert!(answer(Question::Primary, &none).is_err(), "of no partitions it has none");
    }

    #[test]
    fn without_postgresql_it_is_only_alive_and_without_a_lease_it_writes_nothing() {
        let seen = Seen { postgres_reachable: false, ..eu(&[(0, 5)]) };
        assert_eq!(said(&seen), [false; 6]);
        assert_eq!(answer(Question::Alive, &seen), Ok(()));
        let seen = Seen { lease_live: false, ..eu(&[(0, 5)]) };
        assert_eq!(said(&seen), [true, true, false, false, true, true]);
        let seen = Seen { member: false, ..eu(&[]) };
        assert_eq!(said(&seen), [false, true, false, false, false, false]);
    }

    #[test]
    fn who_writes_has_to_come_to_a_drained_region_and_nobody_else_is_sent_there() {
        let seen = Seen { drained: true, ..eu(&[(0, 5)]) };
        assert_eq!(said(&seen), [false, true, true, true, false, false]);
        assert_eq!(answer(Question::Ready, &seen), Err(No::Drained));
        let seen = Seen { drained: true, ..eu(&[]) };
        assert_eq!(answer(Question::Replica(None), &seen), Err(No::Drained));
    }

    #[test]
    fn a_partition_is_written_where_it_is_open() {
        let seen = eu(&[(0, 1), (4, 4)]);
        let writable =
            |partition| answer(Question::Writable(Some(PartitionId(partition))), &seen).is_ok();
        assert_eq!([0, 1, 2, 4, 5].map(writable), [true, true, false, true, false]);
    }

    #[test]
    fn a_replica_that_is_too_far_behind_or_does_not_know_is_passed_over() {
        let seen = eu(&[]);
        let within = |lag| answer(Question::Replica(Some(lag)), &seen);
        assert_eq!(within(Lag::Age(Millis(200))), Ok(()));
        assert_eq!(within(Lag::Bytes(4096)), Ok(()));
        let too_far = "200ms and 4096 bytes behind region \"us\"";
        assert_eq!(within(Lag::Age(Millis(199))).unwrap_err().to_string(), too_far);
        assert_eq!(within(Lag::Bytes(4095)).unwrap_err().to_string(), too_far);
        let us: RegionId = "us".parse().unwrap();
        for (behind, why) in
            [(Some([(us.clone(), None)].into()), No::Unknown(us)), (None, No::OwnersUnknown)]
        {
            let unknown = Seen { behind, ..eu(&[]) };
            assert_eq!(answer(Question::Replica(Some(Lag::Bytes(9))), &unknown), Err(why));
            assert_eq!(answer(Question::Replica(None), &unknown), Ok(()));
        }
    }
}
