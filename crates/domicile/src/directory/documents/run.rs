//! What does the directory know of a run?

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use domicile_core::id::{RegionId, RunId};
use domicile_core::ownership::Ownership;
use domicile_core::runbook::drill::{self, PastDrill};
use domicile_core::runbook::file::Call;
use domicile_core::runbook::{Answer, Approval, Intent, Outcome, Plan, Step, Wish};
use domicile_core::time::Wall;
use serde::{Deserialize, Serialize};

use super::{LinkDocument, OverrideDocument};

/// One execution of a runbook: what was wanted, and what was done so far. Any agent can continue
/// it from here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunDocument {
    pub run: String,
    /// What it is for, in short: its runbook says it in full.
    pub intent: IntentDocument,
    /// Absent in a run from before runbooks were files: the ready-made one for its intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook: Option<RunbookDocument>,
    /// Unix time in milliseconds by the wall clock of whoever started it: for people, and for when the
    /// next drill is due.
    #[serde(default)]
    pub started_at_ms: u64,
    /// Who started it.
    #[serde(default)]
    pub started_by: String,
    /// Who owned then what it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    pub state: RunState,
    /// It has had partitions in its hands: what was granted is not asked about again.
    pub started: bool,
    /// The directory's revision of the ownership that said so.
    #[serde(default)]
    pub started_revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish: Option<WishDocument>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<ApprovalDocument>,
    /// Who has it begin although the rules of safety are against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety_override: Option<OverrideDocument>,
    /// By the numbers of its steps: what those that act outside came to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answers: BTreeMap<usize, AnswerDocument>,
    /// The region whose agent performs it now.
    pub executor: Option<String>,
    /// What the plan expected to be lost, in milliseconds of acknowledged work.
    pub estimated_loss_ms: u64,
    /// For how long the region that is lost had been silent when it was planned.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub silent_ms: u64,
    /// The run that ended before this one ended, as far as whoever noted that knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<LinkDocument>,
    pub steps: Vec<StepDocument>,
    pub journal: Vec<RunEntry>,
}

fn is_zero(ms: &u64) -> bool {
    *ms == 0
}

/// Begins the line of a step that does something.
const DOES: &str = "does: ";

impl RunEntry {
    /// What a line says of a step that does this.
    pub fn does(what: &str) -> String {
        format!("{DOES}{what}")
    }

    /// Does it say that its step did something, and not that it waits or is held up?
    pub fn did_something(&self) -> bool {
        self.what.starts_with(DOES)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Running,
    Succeeded,
    CalledOff,
    Overruled,
    Aborted,
    Unapproved,
    Failed,
    Escalated,
}

/// What a person wants of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wants", rename_all = "snake_case")]
pub enum WishDocument {
    Pause {
        by: String,
    },
    Abort {
        by: String,
    },
    Escalate {
        by: String,
        /// The region that is lost.
        from: String,
        attested: bool,
        /// What he was told that this would lose, of acknowledged work.
        estimated_loss_ms: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerDocument {
    Passed,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalDocument {
    pub role: String,
    pub by: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDocument {
    pub name: String,
    pub explain: String,
}

/// What was called, as it was approved: a newer file, or a newer Domicile, changes nothing about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunbookDocument {
    pub name: String,
    pub text: String,
    pub arguments: BTreeMap<String, String>,
    /// The id of the plan that was approved.
    pub plan: String,
}

/// One line of a run's journal: written before an effect and when a wait begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEntry {
    /// Unix time in milliseconds by the executor's wall clock: for people, never for decisions.
    pub at_ms: u64,
    pub executor: String,
    pub step: String,
    pub what: String,
    /// In the line with which a run ended: the digest of all else that its document says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covers: Option<String>,
    /// Chains it to the lines before it; absent where an older Domicile wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum IntentDocument {
    Failover { from: String, to: String, attested: bool },
    Switchover { range: String, to: String },
    Evacuation { from: String, to: String },
    Addition { region: String },
    ForcedDrill { from: String, to: String },
}

fn lower_intent(intent: &Intent) -> IntentDocument {
    match intent {
        Intent::Failover { from, to, attested } => IntentDocument::Failover {
            from: from.to_string(),
            to: to.to_string(),
            attested: *attested,
        },
        Intent::Switchover { range, to } => {
            IntentDocument::Switchover { range: range.to_string(), to: to.to_string() }
        }
        Intent::Evacuation { from, to } => {
            IntentDocument::Evacuation { from: from.to_string(), to: to.to_string() }
        }
        Intent::Addition { region } => IntentDocument::Addition { region: region.to_string() },
        Intent::ForcedDrill { from, to } => {
            IntentDocument::ForcedDrill { from: from.to_string(), to: to.to_string() }
        }
    }
}

fn lift_intent(intent: &IntentDocument) -> anyhow::Result<Intent> {
    Ok(match intent {
        IntentDocument::Failover { from, to, attested } => {
            Intent::Failover { from: from.parse()?, to: to.parse()?, attested: *attested }
        }
        IntentDocument::Switchover { range, to } => {
            Intent::Switchover { range: range.parse()?, to: to.parse()? }
        }
        IntentDocument::Evacuation { from, to } => {
            Intent::Evacuation { from: from.parse()?, to: to.parse()? }
        }
        IntentDocument::Addition { region } => Intent::Addition { region: region.parse()? },
        IntentDocument::ForcedDrill { from, to } => {
            Intent::ForcedDrill { from: from.parse()?, to: to.parse()? }
        }
    })
}

/// Returns what a run does: it follows from its document alone.
pub fn lift_plan(document: &RunDocument) -> anyhow::Result<Plan> {
    let run = RunId(document.run.clone());
    match &document.runbook {
        Some(RunbookDocument { text, arguments, .. }) => {
            let call = Call { text: text.clone(), arguments: arguments.clone() };
            call.plan(&run).with_context(|| format!("read the runbook of run {run}"))
        }
        None => Ok(Plan::ready(&run, &lift_intent(&document.intent)?)),
    }
}

/// Returns how a run ended, as far as its document says.
pub fn lift_outcome(document: &RunDocument) -> Option<Outcome> {
    match document.state {
        RunState::Running => None,
        RunState::Succeeded => Some(Outcome::Succeeded),
        // Whom it went back to is in the journal; that it ended is what counts here.
        RunState::CalledOff | RunState::Overruled => Some(Outcome::Overruled),
        RunState::Aborted => Some(Outcome::Aborted),
        RunState::Unapproved => Some(Outcome::Unapproved),
        RunState::Failed => Some(Outcome::Failed),
        RunState::Escalated => Some(Outcome::Escalated),
    }
}

/// Returns what a run is as a drill; nothing of another one.
pub fn lift_drill(document: &RunDocument) -> Option<PastDrill> {
    let intent = lift_intent(&document.intent).ok()?;
    let to = drill::goes_to(document.runbook_name(), &intent)?.clone();
    let (started_at, outcome) = (Wall(document.started_at_ms), lift_outcome(document));
    Some(PastDrill { to, started_at, outcome })
}

pub fn lift_wish(wish: &WishDocument) -> anyhow::Result<Wish> {
    Ok(match wish {
        WishDocument::Pause { by } => Wish::Pause { by: by.clone() },
        WishDocument::Abort { by } => Wish::Abort { by: by.clone() },
        WishDocument::Escalate { by, from, attested, .. } => {
            Wish::Escalate { by: by.clone(), from: from.parse()?, attested: *attested }
        }
    })
}

pub fn lift_approvals(approvals: &[ApprovalDocument]) -> Vec<Approval> {
    let lift = |ApprovalDocument { role, by }: &ApprovalDocument| Approval {
        role: role.clone(),
        by: by.clone(),
    };
    approvals.iter().map(lift).collect()
}

pub fn lower_answer(answer: Answer) -> AnswerDocument {
    match answer {
        Answer::Passed => AnswerDocument::Passed,
        Answer::Failed => AnswerDocument::Failed,
    }
}

pub fn lift_answers(answers: &BTreeMap<usize, AnswerDocument>) -> BTreeMap<usize, Answer> {
    let lift = |(number, answer): (&usize, &AnswerDocument)| match answer {
        AnswerDocument::Passed => (*number, Answer::Passed),
        AnswerDocument::Failed => (*number, Answer::Failed),
    };
    answers.iter().map(lift).collect()
}

impl RunDocument {
    /// A run that was planned and not begun.
    pub fn new(
        plan: &Plan,
        ownership: &Ownership,
        runbook: RunbookDocument,
        started_by: &str,
    ) -> Self {
        let owners: BTreeSet<RegionId> =
            plan.moves(ownership).into_iter().map(|each| each.from).collect();
        let step =
            |step: &Step| StepDocument { name: step.name().to_owned(), explain: step.explain() };
        Self {
            run: plan.run.to_string(),
            intent: lower_intent(&plan.intent),
            runbook: Some(runbook),
            started_at_ms: crate::clock::unix_ms(),
            started_by: started_by.to_owned(),
            from: owners.iter().map(RegionId::to_string).collect(),
            state: RunState::Running,
            started: false,
            started_revision: 0,
            wish: None,
            approvals: Vec::new(),
            safety_override: None,
            answers: BTreeMap::new(),
            executor: None,
            estimated_loss_ms: plan.estimate.loss.age.0,
            silent_ms: plan.estimate.silent_for.0,
            after: None,
            steps: plan.steps.iter().map(step).collect(),
            journal: Vec::new(),
        }
    }

    /// Notes that the rules of safety do not hold for it, in its journal too.
    pub fn note_override(&mut self, noted: OverrideDocument) {
        let what = format!("overrides the rules of safety: {}", noted.reason);
        self.note(crate::clock::unix_ms(), &noted.by, "run", what);
        self.safety_override = Some(noted);
    }

    pub fn runbook_name(&self) -> &str {
        match (&self.runbook, &self.intent) {
            (Some(runbook), _) => &runbook.name,
            (None, IntentDocument::Failover { .. }) => "failover",
            (None, IntentDocument::Switchover { .. }) => "switchover",
            (None, IntentDocument::Evacuation { .. }) => "evacuate-region",
            (None, IntentDocument::Addition { .. }) => "add-region",
            (None, IntentDocument::ForcedDrill { .. }) => "forced-drill",
        }
    }
}
