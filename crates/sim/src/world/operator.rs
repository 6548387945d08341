//! What does an operator do to runs that are under way?
//!
//! He pauses them, lets them go on, aborts them, has planned ones forced, approves some and lets others
//! wait until nobody waits any more. He writes into the directory, whatever the executors are at.

use std::rc::Rc;

use domicile_core::runbook::file::Call;
use domicile_core::runbook::{Approval, Intent, Wish};

use super::{Event, World};
use crate::clock::{MS, Micros};
use crate::directory::RunDocument;
use crate::rng::Rng;
use crate::setup::Setup;

/// Draws numbers of his own: a seed means the same world with and without him.
pub struct Operator {
    rng: Rng,
    /// In the other worlds nobody touches a run.
    meddles: bool,
}

impl Operator {
    pub fn choose(seed: u64) -> Self {
        let mut rng = Rng::new(seed.rotate_left(17) ^ 0x0FE2_A702);
        let meddles = rng.chance(400);
        Self { rng, meddles }
    }

    /// Returns the ready-made runbook for an intent, at times with people to be asked first.
    /// Some hand-overs become the evacuation of a whole region.
    pub fn call(&mut self, intent: &Intent, setup: &Setup) -> Call {
        let mut call = Call::ready(intent);
        if let (Intent::Switchover { to, .. }, true) = (intent, self.meddles)
            && self.rng.chance(150)
        {
            let from = setup.regions[self.rng.index(setup.count())].clone();
            call = Call::ready(&Intent::Evacuation { from, to: to.clone() });
            let at_once = self.rng.between(1, 3).to_string();
            call.arguments.insert("at_once".to_owned(), at_once);
        }
        if self.meddles && self.rng.chance(400) {
            let (count, within) = (self.rng.between(1, 2), self.rng.between(1, 6));
            let asks = format!(
                "[[step]]\ndo = \"approve\"\nrole = \"dba\"\ncount = {count}\nwithin = \"{within}s\"\n\n"
            );
            let first = call.text.find("[[step]]").expect("a runbook has steps");
            call.text.insert_str(first, &asks);
        }
        call
    }

    fn next_look_after(&mut self) -> Micros {
        self.rng.between(20, 900) * MS
    }
}

impl World {
    pub(super) fn meddle(&mut self) {
        if !self.operator.meddles || !self.working() {
            return;
        }
        let next = self.operator.next_look_after();
        self.after(next, Event::Meddle);
        let open: Vec<Rc<RunDocument>> = self.directory.read().open_runs().cloned().collect();
        let ownership = self.directory.read().ownership.clone();
        let rng = &mut self.operator.rng;
        let by = ["ada", "grace"][rng.index(2)].to_owned();
        let hands_over = open.iter().find_map(|run| {
            let mut in_hands = ownership.ranges_of(&run.plan.run);
            Some((run, in_hands.find_map(|entry| entry.state.handing_over())?))
        });
        if let (Some((run, from)), true) = (hands_over, rng.chance(300)) {
            // He may be wrong about whether anybody is gone.
            let wish = Some(Wish::Escalate { by, from, attested: rng.chance(500) });
            return self.put(&RunDocument { wish, ..(**run).clone() });
        }
        let Some(run) = open.get(rng.index(open.len())) else { return };
        let mut run = (**run).clone();
        match rng.below(10) {
            0..=1 => run.wish = Some(Wish::Pause { by }),
            2..=3 => run.wish = None,
            4 => run.wish = Some(Wish::Abort { by }),
            5 => {
                let from = self.setup.regions[rng.index(self.setup.count())].clone();
                run.wish = Some(Wish::Escalate { by, from, attested: rng.chance(500) });
            }
            _ => run.approvals.push(Approval { role: "dba".to_owned(), by }),
        }
        self.put(&run);
    }

    /// What is paused would be for ever.
    pub(super) fn resume_all(&mut self) {
        let open: Vec<Rc<RunDocument>> = self.directory.read().open_runs().cloned().collect();
        for run in open.iter().filter(|run| matches!(run.wish, Some(Wish::Pause { .. }))) {
            self.put(&RunDocument { wish: None, ..(**run).clone() });
        }
    }

    fn put(&mut self, run: &RunDocument) {
        let (id, wish, approvals) = (&run.plan.run, &run.wish, run.approvals.len());
        let line = format_args!("operator: {id} {wish:?}, {approvals} approvals");
        self.trace.line(self.now, line);
        if self.directory.put_run(run) {
            self.tell_watchers();
        }
    }
}
