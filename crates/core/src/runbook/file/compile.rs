//! What does a runbook come to, once its parameters have values?

use thiserror::Error;

use super::{Action, Argument, Arguments, Condition, Kind, Runbook, Value};
use crate::id::{PartitionRange, RunId};
use crate::runbook::step::{
    Approve, CatchUp, Check, ConfirmOutage, Cut, Exec, Fence, FenceCanary, ForEach, GiveBack,
    Grant, HandOver, LateWrite, Notify, Reroute, Seal, Seed, Skipped, Verify, WarmUp, Webhook,
};
use crate::runbook::{Intent, Plan, Step};

/// What is wrong with what a run is told.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ArgumentError {
    #[error("there is no parameter \"{name}\"; there are: {known}")]
    Unknown { name: String, known: String },
    #[error("{name}: missing: expected {}", kind.expected())]
    Missing { name: String, kind: Kind },
    #[error("{name}: {wrong}")]
    Wrong { name: String, wrong: String },
}

impl Runbook {
    /// Returns what `run` would do when it is told `given`, or everything that is wrong with that.
    ///
    /// The steps follow from the text and the arguments alone, so any agent can go on with a run
    /// from its record.
    pub fn plan(&self, run: &RunId, given: &Arguments) -> Result<Plan, Vec<ArgumentError>> {
        let bound = Bound(self.bind(given)?);
        let intent = self.intent(&bound);
        let actions = self.actions.iter().enumerate();
        let steps = actions.map(|(number, action)| {
            let because = self.conditions.get(&number).and_then(|it| bound.unless(it));
            match because {
                Some(because) => Step::Skipped(Skipped { name: action.name(), because }),
                None => step(number, action, run, &intent, &bound),
            }
        });
        let steps = steps.collect();
        Ok(Plan::new(run, intent, steps, self.objectives))
    }

    /// Fills in the defaults.
    fn bind(&self, given: &Arguments) -> Result<Arguments, Vec<ArgumentError>> {
        let mut errors = Vec::new();
        for name in given.keys() {
            if self.parameters.iter().all(|parameter| parameter.name != *name) {
                let known: Vec<&str> = self.parameters.iter().map(|p| p.name.as_str()).collect();
                let (name, known) = (name.clone(), known.join(", "));
                errors.push(ArgumentError::Unknown { name, known });
            }
        }
        let mut bound = Arguments::new();
        for parameter in &self.parameters {
            let name = parameter.name.clone();
            match given.get(&name).or(parameter.default.as_ref()) {
                None => errors.push(ArgumentError::Missing { name, kind: parameter.kind }),
                Some(value) => match parameter.kind.check(value) {
                    Ok(()) => drop(bound.insert(name, value.clone())),
                    Err(wrong) => errors.push(ArgumentError::Wrong { name, wrong }),
                },
            }
        }
        if errors.is_empty() { Ok(bound) } else { Err(errors) }
    }

    /// What the runbook is for: the step that takes says it, or the one that seeds.
    fn intent(&self, bound: &Bound) -> Intent {
        let attested = self.actions.iter().any(|action| match action {
            Action::ConfirmOutage { attest } => bound.value(attest),
            _ => false,
        });
        let mut intents = self.actions.iter().filter_map(|action| match action {
            Action::HandOver { partitions, to } => {
                Some(Intent::Switchover { range: bound.value(partitions), to: bound.value(to) })
            }
            Action::Fence { from, to } => {
                Some(Intent::Failover { from: bound.value(from), to: bound.value(to), attested })
            }
            Action::FenceCanary { from, to } => {
                Some(Intent::ForcedDrill { from: bound.value(from), to: bound.value(to) })
            }
            Action::Seed { region, .. } => Some(Intent::Addition { region: bound.value(region) }),
            Action::ForEach { range_of, to, .. } => {
                Some(Intent::Evacuation { from: bound.value(range_of), to: bound.value(to) })
            }
            _ => None,
        });
        intents.next().expect("a sound runbook has a step that takes, or one that seeds")
    }
}

/// Every parameter with its value, which is of its kind.
struct Bound(Arguments);

impl Bound {
    /// Returns why a step that stands under this condition is left out, if it is.
    fn unless(&self, condition: &Condition) -> Option<String> {
        let flag = self.value::<bool>(&Value::Parameter(condition.flag.clone()));
        (flag != condition.is).then(|| format!("{} is {flag}", condition.flag))
    }

    fn value<T: Argument>(&self, value: &Value<T>) -> T {
        match value {
            Value::Given(value) => value.clone(),
            Value::Parameter(name) => {
                T::read(&self.0[name]).expect("what is bound was checked to be of its kind")
            }
        }
    }
}

fn step(number: usize, action: &Action, run: &RunId, intent: &Intent, bound: &Bound) -> Step {
    let (run, to) = (run.clone(), intent.to().clone());
    match (action, intent) {
        (Action::Approve { role, count, within }, _) => Step::Approve(Approve {
            run,
            role: bound.value(role),
            count: bound.value(count),
            within: bound.value(within),
        }),
        (Action::Check { region, lag }, _) => {
            Step::Check(Check { run, region: bound.value(region), lag: bound.value(lag) })
        }
        (Action::Exec { program, within, may_fail }, _) => Step::Exec(Exec {
            run,
            number,
            program: bound.value(program),
            within: bound.value(within),
            may_fail: bound.value(may_fail),
        }),
        (Action::Webhook { webhook, within }, _) => {
            let (webhook, within) = (bound.value(webhook), bound.value(within));
            Step::Webhook(Webhook { run, number, webhook, within })
        }
        (Action::Notify { webhook, within }, _) => {
            let (webhook, within) = (bound.value(webhook), bound.value(within));
            Step::Notify(Notify { run, number, webhook, within })
        }
        (Action::Seed { region, replace }, _) => {
            Step::Seed(Seed { region: bound.value(region), replace: bound.value(replace) })
        }
        (Action::CatchUp, _) => Step::CatchUp(CatchUp { run, to }),
        (Action::Grant, _) => Step::Grant(Grant { run, to }),
        (Action::Reroute, _) => Step::Reroute(Reroute { run }),
        (Action::Verify, Intent::Switchover { range, .. }) => {
            Step::Verify(Verify { run, to, range: Some(*range) })
        }
        (Action::Verify, Intent::ForcedDrill { .. }) => {
            Step::Verify(Verify { run, to, range: Some(PartitionRange::CANARY) })
        }
        (Action::Verify, _) => Step::Verify(Verify { run, to, range: None }),
        (Action::GiveBack, Intent::Switchover { range, .. }) => {
            Step::GiveBack(GiveBack { run, range: *range, of: to })
        }
        (Action::GiveBack, Intent::ForcedDrill { .. }) => {
            Step::GiveBack(GiveBack { run, range: PartitionRange::CANARY, of: to })
        }
        (Action::WarmUp { within }, Intent::Switchover { range, .. }) => {
            let (range, within) = (*range, bound.value(within));
            Step::WarmUp(WarmUp { run, number, range, to, within })
        }
        (Action::HandOver { .. }, Intent::Switchover { range, .. }) => {
            Step::HandOver(HandOver { run, range: *range, to })
        }
        (Action::ForEach { at_once, .. }, Intent::Evacuation { from, .. }) => {
            let (from, at_once) = (from.clone(), bound.value(at_once));
            Step::ForEach(ForEach { run, from, to, at_once })
        }
        (Action::ConfirmOutage { .. }, Intent::Failover { from, attested, .. }) => {
            let (region, attested) = (from.clone(), *attested);
            Step::ConfirmOutage(ConfirmOutage { run, region, attested })
        }
        (Action::Fence { .. }, Intent::Failover { from, .. }) => {
            Step::Fence(Fence { run, from: from.clone() })
        }
        (Action::FenceCanary { .. }, Intent::ForcedDrill { from, .. }) => {
            Step::FenceCanary(FenceCanary { run, from: from.clone() })
        }
        (Action::LateWrite, Intent::ForcedDrill { from, .. }) => {
            Step::LateWrite(LateWrite { run, from: from.clone() })
        }
        (Action::Seal, Intent::Failover { from, .. } | Intent::ForcedDrill { from, .. }) => {
            Step::Seal(Seal { run, from: from.clone() })
        }
        (Action::Cut, Intent::Failover { from, .. } | Intent::ForcedDrill { from, .. }) => {
            Step::Cut(Cut { run, from: from.clone() })
        }
        (action, intent) => unreachable!("a sound runbook has no {action:?} for a {intent}"),
    }
}
