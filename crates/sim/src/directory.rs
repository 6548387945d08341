//! What does the directory hold, and who may change it?
//!
//! Documents with one revision counter, changed by compare-and-set; reads are always of the
//! latest state. The directory itself never fails here: regions that are cut from it see the
//! same as an outage, and all of them may be. Its clock does not matter: nobody asks it for a time.

use std::collections::BTreeMap;
use std::rc::Rc;

use domicile_core::id::{PartitionRange, RunId};
use domicile_core::ownership::Ownership;
use domicile_core::runbook::{
    Approval, Outcome, Plan, PlanId, Recorded, Successor, Wish, ended, forced_of, range_of_part,
};

/// `run/<id>`: a plan that is being carried out.
#[derive(Clone, Debug)]
pub struct RunDocument {
    pub revision: u64,
    pub plan: Rc<Plan>,
    /// What the plan decided when it was made.
    pub decided: Rc<str>,
    /// The run has, or had, partitions in its hands.
    pub started: bool,
    /// The revision of the ownership that said so.
    pub started_revision: u64,
    pub wish: Option<Wish>,
    pub approvals: Vec<Approval>,
    pub outcome: Option<Outcome>,
}

impl RunDocument {
    pub fn recorded(&self, ownership: &Ownership) -> Recorded {
        Recorded {
            started: self.started,
            started_revision: self.started_revision,
            wish: self.wish.clone(),
            planned: Some(PlanId(self.decided.to_string())),
            would_do: PlanId(self.plan.decided(ownership)),
        }
    }
}

pub type Runs = BTreeMap<RunId, Rc<RunDocument>>;

/// All documents, as read at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub revision: u64,
    pub ownership: Rc<Ownership>,
    /// The revision of the ownership document.
    pub ownership_revision: u64,
    /// The revision of each region's lease; 0 when it has none.
    pub leases: Vec<u64>,
    /// All runs, also those that have ended.
    pub runs: Rc<Runs>,
}

impl Snapshot {
    pub fn open_runs(&self) -> impl Iterator<Item = &Rc<RunDocument>> {
        let open =
            |run: &&Rc<RunDocument>| !ended(&run.plan.run, run.outcome.as_ref(), &self.ownership);
        self.runs.values().filter(open)
    }
}

impl Snapshot {
    /// The runs that `run` has begun, and how they ended.
    pub fn parts_of(&self, run: &RunId) -> BTreeMap<PartitionRange, Option<Outcome>> {
        let parts = self.runs.iter().filter_map(|(id, part)| {
            let noted = part.outcome.clone();
            let end = noted.filter(|noted| ended(id, Some(noted), &self.ownership));
            Some((range_of_part(run, id)?, end))
        });
        parts.collect()
    }

    /// What became of the forced run that `run` was turned into.
    pub fn successor_of(&self, run: &RunId) -> Successor {
        let id = forced_of(run);
        match self.runs.get(&id) {
            None => Successor::NotBegun,
            Some(run) if ended(&id, run.outcome.as_ref(), &self.ownership) => Successor::Ended,
            Some(_) => Successor::UnderWay,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Directory {
    now: Snapshot,
}

impl Directory {
    pub fn new(regions: usize, ownership: Ownership) -> Self {
        let now = Snapshot {
            revision: 1,
            ownership: Rc::new(ownership),
            ownership_revision: 1,
            leases: vec![0; regions],
            runs: Rc::default(),
        };
        Self { now }
    }

    pub fn read(&self) -> &Snapshot {
        &self.now
    }

    pub fn renew(&mut self, region: usize) {
        self.now.revision += 1;
        self.now.leases[region] = self.now.revision;
    }

    /// Returns whether the document was still at `expected`.
    pub fn swap_ownership(&mut self, expected: u64, value: Rc<Ownership>) -> bool {
        let fits = self.now.ownership_revision == expected;
        if fits {
            self.now.revision += 1;
            self.now.ownership_revision = self.now.revision;
            self.now.ownership = value;
        }
        fits
    }

    /// Writes a run whose document is still at its revision; 0 creates it.
    pub fn put_run(&mut self, document: &RunDocument) -> bool {
        let id = &document.plan.run;
        let at = self.now.runs.get(id).map_or(0, |d| d.revision);
        if at != document.revision {
            return false;
        }
        self.now.revision += 1;
        let revision = self.now.revision;
        let document = Rc::new(RunDocument { revision, ..document.clone() });
        Rc::make_mut(&mut self.now.runs).insert(document.plan.run.clone(), document);
        true
    }
}
