//! How is a plan shown to a person who is to approve it?

use domicile_core::id::RunId;
use domicile_core::runbook::caution::{Caution, cautions};
use domicile_core::runbook::file::{Call, CallError};
use domicile_core::runbook::plan::{Move, Refusal, check};
use domicile_core::runbook::safety::{self, Override, Undertaking, Violation};
use domicile_core::runbook::{Estimate, Facts, Held, Plan, PlanId};
use domicile_core::time::Millis;
use indicatif::HumanBytes;
use serde_json::{Value as Json, json};

use super::runbook::past::Past;
use crate::directory::documents::{OverrideDocument, lower_override};
use crate::operate::plan_id;

/// What a call comes to, as things stand.
pub struct Planned {
    plan: Plan,
    id: PlanId,
    moves: Vec<Move>,
    reasons_against: Vec<Refusal>,
    /// What runs exactly this.
    command: String,
    past: Option<Past>,
    cautions: Vec<Caution>,
    /// What the rules of safety say, where a person does not heed it.
    overridden: Vec<Violation>,
}

impl Planned {
    /// `name` is how the runbook was called on the command line.
    pub fn new(name: &str, call: &Call, facts: &Facts) -> Result<Self, CallError> {
        let plan = call.plan(&RunId("planned".into()))?;
        let id = plan_id(&plan, facts);
        let moves = plan.moves(&facts.ownership);
        let arguments = call.arguments.iter().map(|(name, value)| format!("{name}={value}"));
        let words = std::iter::once(name.to_owned()).chain(arguments);
        let words: Vec<String> = words.map(|word| quoted(&word)).collect();
        let mut command = format!("domicile runbook run {} --plan {}", words.join(" "), id.0);
        let mut overridden = Vec::new();
        if let Some(Override { reason, .. }) = &facts.overridden {
            command.push_str(&format!(" --override-safety {}", quoted(reason)));
            overridden = safety::against(&Undertaking::of_plan(&plan, facts), &facts.safety);
        }
        let (plan, reasons_against) = match check(plan.clone(), facts) {
            Ok(plan) => (plan, Vec::new()),
            Err(reasons) => (plan, reasons),
        };
        let cautions = cautions(&plan, facts);
        Ok(Self { plan, id, moves, reasons_against, command, past: None, cautions, overridden })
    }

    /// Says how long the runbook took before.
    pub fn remembering(self, past: Option<Past>) -> Self {
        Self { past, ..self }
    }

    /// Says another command that runs exactly this.
    pub fn run_by(self, command: String) -> Self {
        Self { command, ..self }
    }

    /// The age of the oldest acknowledged write that may be lost; zero where it is refused.
    pub fn loss(&self) -> Millis {
        self.plan.estimate.loss.age
    }

    /// How a run's document says that the rules of safety are not heeded.
    pub fn overrides(&self, facts: &Facts) -> Option<OverrideDocument> {
        let against = self.overridden.iter().map(ToString::to_string).collect();
        facts.overridden.as_ref().map(|by_hand| lower_override(by_hand, against))
    }

    /// What the runbook promises, beside what is expected of this run; of one that is refused nothing is.
    fn objectives(&self) -> Vec<Held> {
        let objectives = &self.plan.objectives;
        if self.is_refused() {
            return objectives.held(None, None);
        }
        let before = self.past.as_ref().and_then(|past| past.writes_paused_ms);
        objectives.expected(&self.plan.estimate, before.map(Millis))
    }

    pub fn is_refused(&self) -> bool {
        !self.reasons_against.is_empty()
    }

    pub fn json(&self) -> Json {
        let estimate = (!self.is_refused()).then_some(self.plan.estimate);
        let steps = self.plan.steps.iter();
        let steps = steps.map(|step| json!({"name": step.name(), "explain": step.explain()}));
        let moves = self.moves.iter().map(|each| {
            json!({
                "partitions": each.range.to_string(),
                "epoch": each.epoch.0,
                "from": each.from.as_str(),
                "to": each.to.as_str(),
            })
        });
        let against = self.reasons_against.iter().map(ToString::to_string);
        let objectives = self.objectives().into_iter().map(|held| {
            json!({
                "objective": held.objective.to_string().to_lowercase(),
                "limit_ms": held.limit.0,
                "expected_ms": held.figure.map(|figure| figure.0),
                "met": held.met(),
            })
        });
        json!({
            "plan": self.id.0,
            "intent": self.plan.intent.to_string(),
            "steps": steps.collect::<Vec<_>>(),
            "moves": moves.collect::<Vec<_>>(),
            "estimated_loss_ms": estimate.map(|e| e.loss.age.0),
            "estimated_loss_commits": estimate.map(|e| e.loss.commits),
            "estimated_loss_bytes": estimate.map(|e| e.loss.bytes),
            "lease_wait_ms": estimate.map(|e| e.lease_wait.0),
            "silent_ms": estimate.map(|e| e.silent_for.0),
            "objectives": objectives.collect::<Vec<_>>(),
            "cautions": self.cautions.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "overridden": self.overridden.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "reasons_against": against.collect::<Vec<_>>(),
            "past": self.past,
            "command": (!self.is_refused()).then_some(&self.command),
        })
    }

    pub fn text(&self) -> String {
        let mut lines = vec![format!("Plan {}: {}", self.id.0, self.plan.intent)];
        for (i, step) in self.plan.steps.iter().enumerate() {
            lines.push(format!("  {}. {:<15} {}", i + 1, step.name(), step.explain()));
        }
        for Move { range, epoch, from, to } in &self.moves {
            lines.push(format!("  partition {range}: from {from} (epoch {epoch}) to {to}"));
        }
        if self.is_refused() {
            lines.extend(self.reasons_against.iter().map(|why| format!("  refused: {why}")));
        } else {
            let Estimate { loss, lease_wait, .. } = self.plan.estimate;
            lines.push(format!(
                "  estimated loss: {} of acknowledged writes ({} commits, {} of WAL); wait for the old \
                 lease: {lease_wait}",
                loss.age,
                loss.commits,
                HumanBytes(loss.bytes)
            ));
            let objectives = self.objectives();
            lines.extend(objectives.iter().map(|held| {
                let Held { objective, .. } = held;
                match held.met() {
                    Some(false) => format!("  objective {objective} would be missed: {held}"),
                    _ => format!("  objective {objective}, as expected: {held}"),
                }
            }));
            lines.extend(self.overridden.iter().map(|why| format!("  overridden: {why}")));
            lines.extend(self.cautions.iter().map(|caution| format!("  caution: {caution}")));
            lines.extend(self.past.iter().map(|past| format!("  {}", past.text())));
            lines.push(format!("  to run it: {}", self.command));
        }
        lines.join("\n")
    }
}

/// A word as a shell takes it for one.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=".contains(c);
    if word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_with_a_space_stays_one_word() {
        assert_eq!(quoted("partitions=4-7"), "partitions=4-7");
        assert_eq!(quoted("it's mine.toml"), "'it'\\''s mine.toml'");
    }
}
