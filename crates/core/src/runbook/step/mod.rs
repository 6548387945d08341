//! One file per step, the same four functions in each.
//!
//! `explain` is one sentence in the operator's words; `done` whether the postcondition holds;
//! `blocked` what must become true first; `effect` what to change, once nothing blocks.

use super::{Blocker, Effect, Facts, Seeding};

mod approve;
mod catch_up;
mod check;
mod confirm_outage;
mod cut;
mod exec;
mod fence;
mod fence_canary;
mod for_each;
mod give_back;
mod grant;
mod hand_over;
mod late_write;
mod notify;
mod reroute;
mod seal;
mod seed;
mod skipped;
mod verify;
mod warm_up;
mod webhook;

pub use approve::Approve;
pub use catch_up::CatchUp;
pub use check::Check;
pub use confirm_outage::ConfirmOutage;
pub use cut::Cut;
pub use exec::Exec;
pub use fence::Fence;
pub use fence_canary::FenceCanary;
pub use for_each::ForEach;
pub use give_back::GiveBack;
pub use grant::Grant;
pub use hand_over::HandOver;
pub use late_write::LateWrite;
pub use notify::Notify;
pub use reroute::Reroute;
pub use seal::Seal;
pub use seed::Seed;
pub use skipped::Skipped;
pub use verify::Verify;
pub use warm_up::WarmUp;
pub use webhook::Webhook;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Approve(Approve),
    Check(Check),
    Exec(Exec),
    Webhook(Webhook),
    Notify(Notify),
    ConfirmOutage(ConfirmOutage),
    WarmUp(WarmUp),
    HandOver(HandOver),
    Fence(Fence),
    FenceCanary(FenceCanary),
    ForEach(ForEach),
    Seed(Seed),
    Seal(Seal),
    Cut(Cut),
    LateWrite(LateWrite),
    CatchUp(CatchUp),
    Grant(Grant),
    Reroute(Reroute),
    Verify(Verify),
    GiveBack(GiveBack),
    Skipped(Skipped),
}

macro_rules! each_step {
    ($self:ident, $step:ident => $answer:expr) => {
        match $self {
            Step::Approve($step) => $answer,
            Step::Check($step) => $answer,
            Step::Exec($step) => $answer,
            Step::Webhook($step) => $answer,
            Step::Notify($step) => $answer,
            Step::ConfirmOutage($step) => $answer,
            Step::WarmUp($step) => $answer,
            Step::HandOver($step) => $answer,
            Step::Fence($step) => $answer,
            Step::FenceCanary($step) => $answer,
            Step::ForEach($step) => $answer,
            Step::Seed($step) => $answer,
            Step::Seal($step) => $answer,
            Step::Cut($step) => $answer,
            Step::LateWrite($step) => $answer,
            Step::CatchUp($step) => $answer,
            Step::Grant($step) => $answer,
            Step::Reroute($step) => $answer,
            Step::Verify($step) => $answer,
            Step::GiveBack($step) => $answer,
            Step::Skipped($step) => $answer,
        }
    };
}

impl Step {
    /// The step's name in runbooks, journals and reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Approve(_) => "approve",
            Self::Check(_) => "check",
            Self::Exec(_) => "exec",
            Self::Webhook(_) => "webhook",
            Self::Notify(_) => "notify",
            Self::ConfirmOutage(_) => "confirm_outage",
            Self::WarmUp(_) => "warm_up",
            Self::HandOver(_) => "hand_over",
            Self::Fence(_) => "fence",
            Self::FenceCanary(_) => "fence_canary",
            Self::ForEach(_) => "for_each",
            Self::Seed(_) => "seed",
            Self::Seal(_) => "seal",
            Self::Cut(_) => "cut",
            Self::LateWrite(_) => "late_write",
            Self::CatchUp(_) => "catch_up",
            Self::Grant(_) => "grant",
            Self::Reroute(_) => "reroute",
            Self::Verify(_) => "verify",
            Self::GiveBack(_) => "give_back",
            Self::Skipped(skipped) => skipped.name,
        }
    }

    pub fn explain(&self) -> String {
        each_step!(self, step => step.explain())
    }

    pub fn done(&self, facts: &Facts) -> bool {
        each_step!(self, step => step.done(facts))
    }

    pub fn blocked(&self, facts: &Facts) -> Option<Blocker> {
        each_step!(self, step => step.blocked(facts))
    }

    /// Returns what to change, once nothing blocks. A step that only waits changes nothing.
    pub fn effect(&self, facts: &Facts) -> Option<Effect> {
        each_step!(self, step => step.effect(facts))
    }

    /// Returns whether the run ends with this step: somebody outside has said no.
    pub fn failed(&self, facts: &Facts) -> bool {
        match self {
            Self::Exec(exec) => exec.failed(facts),
            Self::Webhook(webhook) => webhook.failed(facts),
            _ => false,
        }
    }
}
