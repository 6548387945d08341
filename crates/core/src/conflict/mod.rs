//! Two regions wrote the same row of a shared table: what is the row now, and who lost?
//!
//! The simple answer, to apply another region's changes as they come and to settle those that do
//! not fit, ends differently in each region: which one "comes second" depends on the network. So
//! nothing here depends on an order. Each write carries all that is known of its row
//! ([`Version`]), and [`meet`] joins two such values; whatever arrives first, twice, or by way of
//! another region, the result is the same. Three cases:
//!
//! ```text
//!   incoming has seen all that is here    -> it takes the row's place: no conflict
//!   here has seen all that is incoming    -> it is known: nothing to do
//!   neither                               -> joined, as the table's policy says
//! ```

pub mod hlc;
pub mod one_key;
pub mod policy;
pub mod unique;
pub mod version;
pub mod write;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use policy::{Cell, ColumnPolicy, Columns, Deletes, Policy, last_write_wins};
use version::{ROW, Sibling, Version};

/// Column -> value in PostgreSQL's text form; `None` is null.
pub type Image = BTreeMap<String, Option<String>>;

/// A row as the writes make it, whether or not it can be seen in its table.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Logical {
    pub version: Version,
    /// Also of a deleted row: a write that comes later may bring it back. Absent when nothing is
    /// known.
    pub image: Option<Image>,
}

/// What the other region did, for the conflict's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

/// What comes of a write from another region and the row that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// All of it is here already.
    Known,
    /// It has seen all that is here and takes its place.
    Follows,
    /// Neither has seen the other.
    Joined(Box<Joined>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub version: Version,
    /// Is the row there? A deleted one keeps its content aside.
    pub alive: bool,
    pub content: Content,
    /// Absent when nothing was lost.
    pub conflict: Option<Conflict>,
}

/// How the joined row is made of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A column that is not named stays as it is.
    Cells(BTreeMap<String, Cell>),
    /// The whole row of one of the writes.
    Row(Image),
    /// What the function makes of the first image and each of the others in turn.
    Fold { first: Image, then: Vec<(Image, Option<Image>)> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub kind: Kind,
    pub winner: Winner,
    /// A person must decide.
    pub open: bool,
}

/// PostgreSQL 18's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    InsertExists,
    UpdateExists,
    UpdateMissing,
    UpdateDeleted,
    UpdateOriginDiffers,
    DeleteOriginDiffers,
    MultipleUniqueConflicts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Winner {
    Local,
    Incoming,
    /// Something of each.
    Both,
}

impl Kind {
    pub fn slug(self) -> &'static str {
        match self {
            Self::InsertExists => "insert_exists",
            Self::UpdateExists => "update_exists",
            Self::UpdateMissing => "update_missing",
            Self::UpdateDeleted => "update_deleted",
            Self::UpdateOriginDiffers => "update_origin_differs",
            Self::DeleteOriginDiffers => "delete_origin_differs",
            Self::MultipleUniqueConflicts => "multiple_unique_conflicts",
        }
    }
}

impl Winner {
    pub fn slug(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Incoming => "incoming",
            Self::Both => "both",
        }
    }
}

impl Policy {
    /// The name under which the conflict journal keeps it.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Merge(columns) => match columns.rest {
                ColumnPolicy::Row | ColumnPolicy::Own => "last_write_wins",
                ColumnPolicy::Delta => "delta",
                ColumnPolicy::Greatest => "greatest",
                ColumnPolicy::Least => "least",
            },
            Self::OwnerWins(_) => "owner_wins",
            Self::Sql { .. } => "sql",
            Self::Manual(_) => "manual",
        }
    }

    /// Is the row there, by what is known of its writes?
    pub fn alive(&self, version: &Version) -> bool {
        match self {
            Self::Merge(columns) => columns.deletes.alive(version),
            _ if version.siblings.is_empty() => Deletes::Latest.alive(version),
            _ => !self.shown(&version.siblings).is_empty(),
        }
    }

    /// The siblings that make up the row that is shown, in order: none when it is deleted.
    fn shown(&self, siblings: &[Sibling]) -> Vec<usize> {
        let picked = match self {
            Self::Merge(_) => None,
            Self::OwnerWins(order) => policy::owner_wins::pick(siblings, order),
            Self::Manual(deletes) => policy::manual::pick(siblings, *deletes),
            Self::Sql { deletes, .. } => return policy::sql::fold(siblings, *deletes),
        };
        picked.filter(|i| siblings[*i].image.is_some()).into_iter().collect()
    }
}

/// Decides what the row is once `incoming` is in it.
///
/// `local` without a version is a row that was there before the table was watched, or no row.
pub fn meet(policy: &Policy, local: &Logical, incoming: &Logical, operation: Operation) -> Meeting {
    if local.version.seen.covers(&incoming.version.seen) {
        return Meeting::Known;
    }
    if incoming.version.seen.covers(&local.version.seen) {
        return Meeting::Follows;
    }
    let joined = match policy {
        Policy::Merge(columns) => merge(columns, local, incoming, operation),
        _ => gather(policy, local, incoming, operation),
    };
    Meeting::Joined(Box::new(joined))
}

/// Joins column by column.
fn merge(columns: &Columns, local: &Logical, incoming: &Logical, operation: Operation) -> Joined {
    let (ours, theirs) = (&local.version, &incoming.version);
    let version = ours.join(theirs);
    let alive = columns.deletes.alive(&version);
    let (cells, lost) = if ours.life == theirs.life {
        cells(columns, local, incoming)
    } else {
        // An earlier life loses as a whole, also what it added to a counter that comes to the same.
        let later = theirs.life > ours.life;
        let (cell, loser) = if later { (Cell::Incoming, ours) } else { (Cell::Local, theirs) };
        let differ = local.image != incoming.image || !loser.sums.is_empty();
        let lost = Lost { local: differ && later, incoming: differ && !later };
        (names(local, incoming).map(|name| (name, cell.clone())).collect(), lost)
    };
    let (here, there) = (columns.deletes.alive(ours), columns.deletes.alive(theirs));
    let unknown = |write: &Option<hlc::Dot>, to: &Version| {
        write.as_ref().is_some_and(|write| !to.seen.has(write))
    };
    let conflict = match (here, there) {
        (true, true) => lost.winner().map(|winner| {
            let kind = match operation {
                Operation::Insert => Kind::InsertExists,
                // Of another row, that was deleted before this one had its key.
                _ if theirs.life < ours.life => Kind::UpdateDeleted,
                _ => Kind::UpdateOriginDiffers,
            };
            Conflict { kind, winner, open: false }
        }),
        // A write and a deletion: one of them is undone.
        (true, false) if theirs.life >= ours.life && unknown(&ours.alive, theirs) => {
            let winner = if alive { Winner::Local } else { Winner::Incoming };
            Some(Conflict { kind: Kind::DeleteOriginDiffers, winner, open: false })
        }
        (false, true) if theirs.life <= ours.life && unknown(&theirs.alive, ours) => {
            let winner = if alive { Winner::Incoming } else { Winner::Local };
            Some(Conflict { kind: Kind::UpdateDeleted, winner, open: false })
        }
        _ => None,
    };
    Joined { version, alive, content: Content::Cells(cells), conflict }
}

/// Which side's values are gone.
#[derive(Clone, Copy, Default)]
struct Lost {
    local: bool,
    incoming: bool,
}

impl Lost {
    fn winner(self) -> Option<Winner> {
        match (self.local, self.incoming) {
            (false, false) => None,
            (true, false) => Some(Winner::Incoming),
            (false, true) => Some(Winner::Local),
            (true, true) => Some(Winner::Both),
        }
    }
}

fn cells(columns: &Columns, local: &Logical, incoming: &Logical) -> (BTreeMap<String, Cell>, Lost) {
    let (ours, theirs) = (&local.version, &incoming.version);
    let mut lost = Lost::default();
    let mut cells = BTreeMap::new();
    for name in names(local, incoming) {
        let here = local.image.as_ref().and_then(|image| image.get(&name));
        let there = incoming.image.as_ref().and_then(|image| image.get(&name));
        let written = |group: &str| {
            let cell = last_write_wins::cell(ours, theirs, group);
            let differ = here.is_some() && there.is_some() && here != there;
            let one = differ && last_write_wins::contested(ours, theirs, group);
            (one, cell)
        };
        let (contested, cell) = match columns.of(&name) {
            ColumnPolicy::Row => written(ROW),
            ColumnPolicy::Own => written(&name),
            ColumnPolicy::Delta => (false, policy::delta::cell(ours, theirs, &name)),
            ColumnPolicy::Greatest => (false, Cell::Greatest),
            ColumnPolicy::Least => (false, Cell::Least),
        };
        // A column that one side does not have keeps the other's value.
        let cell = match (here, there) {
            (None, _) => Cell::Incoming,
            (_, None) => Cell::Local,
            (Some(a), Some(b)) if a == b && !matches!(cell, Cell::Add { .. }) => Cell::Local,
            _ => cell,
        };
        lost.local |= contested && cell == Cell::Incoming;
        lost.incoming |= contested && cell == Cell::Local;
        cells.insert(name, cell);
    }
    (cells, lost)
}

fn names(local: &Logical, incoming: &Logical) -> impl Iterator<Item = String> {
    let images = local.image.iter().chain(&incoming.image);
    images.flat_map(|image| image.keys().cloned()).collect::<BTreeSet<_>>().into_iter()
}

/// Keeps every write that no other has seen, and shows what the policy makes of them.
fn gather(policy: &Policy, local: &Logical, incoming: &Logical, operation: Operation) -> Joined {
    let mut version = local.version.join(&incoming.version);
    let (ours, theirs) = (siblings(local), siblings(incoming));
    let life = version.life;
    let keep = |from: &Logical, other: &Version, siblings: Vec<Sibling>| {
        let in_life = from.version.life == life;
        siblings.into_iter().filter(|s| in_life && !other.seen.has(&s.dot)).collect::<Vec<_>>()
    };
    let both = ours.iter().filter(|s| theirs.iter().any(|t| t.dot == s.dot)).cloned();
    let mut all: Vec<Sibling> = both.collect();
    let ours = keep(local, &incoming.version, ours);
    let theirs = keep(incoming, &local.version, theirs);
    let differ = |s: &Sibling| ours.iter().any(|o| o.image != s.image);
    let contested = theirs.iter().any(differ);
    let dots: Vec<hlc::Dot> = theirs.iter().map(|s| s.dot.clone()).collect();
    all.extend(ours.into_iter().chain(theirs));
    all.sort_by(|a, b| a.dot.cmp(&b.dot));
    let shown = policy.shown(&all);
    let content = match shown.as_slice() {
        [] => Content::Cells(BTreeMap::new()),
        [one] => Content::Row(all[*one].image.clone().unwrap_or_default()),
        [first, then @ ..] => Content::Fold {
            first: all[*first].image.clone().unwrap_or_default(),
            then: then
                .iter()
                .map(|i| (all[*i].image.clone().unwrap_or_default(), all[*i].before.clone()))
                .collect(),
        },
    };
    let conflict = contested.then(|| {
        let winner = match shown.as_slice() {
            [one] if dots.contains(&all[*one].dot) => Winner::Incoming,
            [_] => Winner::Local,
            [] if operation == Operation::Delete => Winner::Incoming,
            [] => Winner::Local,
            _ => Winner::Both,
        };
        let here = policy.alive(&local.version);
        let kind = match operation {
            _ if !here => Kind::UpdateDeleted,
            Operation::Insert => Kind::InsertExists,
            Operation::Update => Kind::UpdateOriginDiffers,
            Operation::Delete => Kind::DeleteOriginDiffers,
        };
        Conflict { kind, winner, open: matches!(policy, Policy::Manual(_)) }
    });
    let alive = !shown.is_empty();
    match all.as_slice() {
        [one] => version.before = one.before.clone(),
        _ => (version.before, version.siblings) = (None, all),
    }
    Joined { version, alive, content, conflict }
}

/// The writes that a row is made of: one, unless it is in conflict already.
fn siblings(row: &Logical) -> Vec<Sibling> {
    let version = &row.version;
    if !version.siblings.is_empty() {
        return version.siblings.clone();
    }
    let Some(dot) = version.last() else { return Vec::new() };
    let alive = Deletes::Latest.alive(version);
    let image = row.image.clone().filter(|_| alive);
    vec![Sibling { dot: dot.clone(), image, before: version.before.clone() }]
}
