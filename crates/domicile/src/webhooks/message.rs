//! What is somebody told of a run?

use domicile_core::id::PartitionRange;
use domicile_core::runbook::{Intent, Plan, Step};
use serde::Serialize;

use crate::directory::documents::RunDocument;
use crate::objectives::{ObjectiveDocument, held, lower_held};

/// The JSON that is posted. Fields may be added, and none changes its meaning.
#[derive(Debug, Serialize)]
pub struct Message {
    /// One sentence for people; chats show this field alone.
    pub text: String,
    pub cluster: String,
    pub run: String,
    pub runbook: String,
    /// Which step of the run, from 1.
    pub step: usize,
    /// `planned`, `forced` or `drill`.
    pub mode: String,
    /// Who owned what the run is for when it was started; empty where an older Domicile did that.
    pub from: Vec<String>,
    pub to: String,
    /// The partitions, where a range was named.
    pub partitions: Option<String>,
    /// Has the new owner been named?
    pub granted: bool,
    /// What the plan expected to be lost of acknowledged writes.
    pub estimated_loss_ms: u64,
    /// What the runbook promises, and what came of that so far.
    pub objectives: Vec<ObjectiveDocument>,
    /// The same each time that this step of this run is sent, and no other's.
    pub token: String,
}

impl Message {
    /// `number` is the step's, from 0.
    pub fn new(cluster: &str, plan: &Plan, document: &RunDocument, number: usize) -> Self {
        let (run, runbook) = (plan.run.to_string(), document.runbook_name().to_owned());
        let (intent, to, step) = (&plan.intent, plan.intent.to().to_string(), number + 1);
        // These steps stand where no partition is in the run's hands.
        let granted = document.started;
        let seeded = plan.steps[..number].iter().any(|step| matches!(step, Step::Seed(_)));
        let becomes = match (granted, seeded) {
            (true, _) => format!(": {to} is the owner now"),
            (false, true) => format!(": {to} is a member now"),
            (false, false) => " is about to begin".to_owned(),
        };
        let partitions = match intent {
            Intent::Switchover { range, .. } => Some(range.to_string()),
            Intent::ForcedDrill { .. } => Some(PartitionRange::CANARY.to_string()),
            Intent::Failover { .. } | Intent::Evacuation { .. } | Intent::Addition { .. } => None,
        };
        let held = held(document);
        let missed = held.iter().filter(|held| held.met() == Some(false));
        let missed = missed.map(|held| format!("; {} {held}", held.objective));
        let becomes = missed.fold(becomes, |becomes, missed| becomes + &missed);
        Self {
            text: format!("{cluster}: {intent}{becomes} (runbook {runbook}, run {run})"),
            cluster: cluster.to_owned(),
            token: format!("{run}/{step}"),
            run,
            runbook,
            step,
            mode: intent.mode().to_string(),
            from: document.from.clone(),
            to,
            partitions,
            granted,
            estimated_loss_ms: document.estimated_loss_ms,
            objectives: held.iter().map(lower_held).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use domicile_core::id::RunId;
    use domicile_core::ownership::Ownership;
    use domicile_core::runbook::file::{Arguments, Runbook};

    use super::*;
    use crate::directory::documents::RunbookDocument;

    #[test]
    fn who_is_told_of_an_addition_hears_what_has_become_of_it() {
        let text = "name = \"join\"\nabout = \"Join.\"\n
                    [[step]]\ndo = \"notify\"\nwebhook = \"team\"\n
                    [[step]]\ndo = \"seed\"\nregion = \"sa\"\n
                    [[step]]\ndo = \"notify\"\nwebhook = \"team\"\n";
        let runbook = Runbook::parse(text).unwrap();
        let plan = runbook.plan(&RunId("r".into()), &Arguments::new()).unwrap();
        let called = RunbookDocument {
            name: runbook.name,
            text: text.to_owned(),
            arguments: Arguments::new(),
            plan: String::new(),
        };
        let owners = Ownership::initial(1, &["eu".parse().unwrap()]);
        let document = RunDocument::new(&plan, &owners, called, "ann");
        let told = |number| Message::new("shop", &plan, &document, number).text;
        assert_eq!(told(0), "shop: addition of region sa is about to begin (runbook join, run r)");
        assert_eq!(
            told(2),
            "shop: addition of region sa: sa is a member now (runbook join, run r)"
        );
    }
}
