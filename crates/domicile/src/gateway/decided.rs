//! Where did a session's last transaction go, and why? The answer to `SHOW domicile.route`.
//!
//! Whoever asks wants to know of what he did before, and not of his question. So a transaction that begins
//! with a question to the gateway changes nothing here.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use domicile_core::id::{PartitionId, RegionId};
use domicile_core::route::{Mode, reads};
use domicile_pg::frontend::{self, Frontend, Named, tag as from_client};

use super::cut;
use super::session::Session;

/// What has led a transaction where it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing leads elsewhere.
    Local,
    OwnsEverything,
    /// The region is as new as the session asks.
    FreshEnough,
    /// `domicile.key` leads to partitions of this owner.
    Key(BTreeSet<PartitionId>),
    /// The statement names keys that lead to them.
    Statement(BTreeSet<PartitionId>),
    /// The guard of another region has refused it, and named this one.
    Refused {
        by: RegionId,
    },
    /// PostgreSQL has refused it in this region, which the session only reads.
    OnlyRead {
        by: RegionId,
    },
    /// It says that it writes, as in `BEGIN READ WRITE`.
    SaysItWrites,
    /// The session only reads here, and its statement is taken for one that writes.
    Writes(reads::Why),
}

/// The last decision.
#[derive(Debug, Default)]
pub struct Decided {
    last: Option<(RegionId, Why)>,
    /// The transaction that runs now begins with a question to the gateway.
    asks: bool,
}

impl Decided {
    /// A transaction begins in `region`.
    fn begins(&mut self, region: &RegionId, why: Why) {
        self.asks = false;
        self.last = Some((region.clone(), why));
    }

    /// Something leads the transaction to `region`.
    pub fn leads(&mut self, region: &RegionId, why: Why) {
        if !self.asks {
            self.last = Some((region.clone(), why));
        }
    }

    /// What `SHOW` says: nothing before the first transaction.
    pub fn shown(&self) -> String {
        self.last.as_ref().map(|(region, why)| format!("{region}: {why}")).unwrap_or_default()
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("nothing leads elsewhere"),
            Self::OwnsEverything => f.write_str("the owner of everything"),
            Self::FreshEnough => f.write_str("as new as the session asks"),
            Self::Key(of) => write!(f, "the owner of {}, where domicile.key leads", named(of)),
            Self::Statement(of) => {
                write!(f, "the owner of {}, which the statement names", named(of))
            }
            Self::Refused { by } => write!(f, "the owner, by the guard of {by}, which refused it"),
            Self::OnlyRead { by } => {
                write!(
                    f,
                    "the owner, because it writes, and {by}, where it was tried, is only read"
                )
            }
            Self::Writes(why) => write!(f, "the owner, because {why}"),
            Self::SaysItWrites => f.write_str("the owner, because it says that it writes"),
        }
    }
}

fn named(partitions: &BTreeSet<PartitionId>) -> String {
    let each: Vec<String> = partitions.iter().map(ToString::to_string).collect();
    let noun = if each.len() == 1 { "partition" } else { "partitions" };
    format!("{noun} {}", each.join(", "))
}

impl Session {
    /// Takes note of where a transaction begins with this message of the client.
    pub fn decide(&mut self, tag: u8, raw: &Bytes) {
        match self.is_question(tag, raw) {
            Some(true) => self.decided.asks = true,
            Some(false) => {
                let why = match self.shared.config.mode {
                    _ if self.reading.is_here() => Why::FreshEnough,
                    Mode::FollowOwner => Why::OwnsEverything,
                    Mode::Local => Why::Local,
                };
                self.decided.begins(&self.home.region, why);
            }
            None => {}
        }
    }

    /// Does the message only ask what the gateway answers? `None` where it says nothing of that.
    fn is_question(&self, tag: u8, raw: &Bytes) -> Option<bool> {
        let body = cut::body(raw);
        match frontend::read(tag, &body).ok()? {
            Frontend::Query(sql) | Frontend::Parse { sql, .. } => Some(self.reworded.is_asked(sql)),
            Frontend::Bind { statement, .. } | Frontend::Describe(Named::Statement(statement)) => {
                let Some(parse) = self.memory.prepared().get(statement) else { return Some(false) };
                match frontend::read(from_client::PARSE, &cut::body(parse)).ok()? {
                    Frontend::Parse { sql, .. } => Some(self.reworded.is_asked(sql)),
                    _ => None,
                }
            }
            Frontend::FunctionCall => Some(false),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_changes_nothing() {
        let [eu, us]: [RegionId; 2] = ["eu", "us"].map(|name| name.parse().unwrap());
        let mut decided = Decided::default();
        assert_eq!(decided.shown(), "");
        decided.begins(&eu, Why::Local);
        assert_eq!(decided.shown(), "eu: nothing leads elsewhere");
        decided.leads(&us, Why::Key(BTreeSet::from([PartitionId(7)])));
        assert_eq!(decided.shown(), "us: the owner of partition 7, where domicile.key leads");
        decided.asks = true;
        decided.leads(&eu, Why::Refused { by: us.clone() });
        assert_eq!(decided.shown(), "us: the owner of partition 7, where domicile.key leads");
        decided.begins(&eu, Why::Local);
        decided.leads(&us, Why::Refused { by: eu });
        assert_eq!(decided.shown(), "us: the owner, by the guard of eu, which refused it");
    }
}
