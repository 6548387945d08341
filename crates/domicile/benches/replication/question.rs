//! What can be asked, and under which name?

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::workload::Workload;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    CatchUp(Workload),
    Lag,
    SlowDown,
    Cpu,
    Retained,
}

impl Question {
    /// What takes not more than half an hour together.
    pub fn by_default() -> Vec<Self> {
        let is_rare = |question: &&Self| matches!(question, Self::Cpu | Self::Retained);
        Self::value_variants().iter().filter(|question| !is_rare(question)).copied().collect()
    }
}

impl ValueEnum for Question {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::CatchUp(Workload::Updates),
            Self::CatchUp(Workload::Tpcb),
            Self::CatchUp(Workload::Inserts),
            Self::CatchUp(Workload::Toast),
            Self::CatchUp(Workload::Hot),
            Self::Lag,
            Self::SlowDown,
            Self::Cpu,
            Self::Retained,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::CatchUp(workload) => workload.to_possible_value(),
            Self::Lag => {
                named("lag", "How long after its commit a write is shown, under a steady load")
            }
            Self::SlowDown => named("slow-down", "What those who write at the source are given"),
            Self::Cpu => {
                named("cpu", "What a row costs in processor time, with 1, 2 and 4 targets")
            }
            Self::Retained => named("retained", "What the source keeps while its peer is down"),
        }
    }
}

fn named(name: &'static str, help: &'static str) -> Option<PossibleValue> {
    Some(PossibleValue::new(name).help(help))
}
