//! Does Domicile keep its promises on this machine, before your eyes?
//!
//! Three regions with real PostgreSQL and slow links between them, a bank whose clients never
//! rest, a planned switchover, an outage, a return, and a proof that nothing was lost.
//!
//! Invariant: however the demo ends, by itself, by a key, by a signal or by an error, no process
//! and no folder stays behind unless the folder was asked for.

use domicile_core::time::Millis;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

mod bank;
mod bypass;
mod proof;
mod report;
mod runs;
mod scene;
mod screen;
mod story;
mod tally;
mod workload;

use bank::Division;
pub use report::{Promise, Report};
use scene::{Narrator, Scene};
use story::Stage;
use tally::Phase;

use crate::clock::Clock;
use crate::lab::cluster::PgBin;
use crate::lab::regions::RegionsConfig;

/// How the regions share the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// One owner for the whole database; the others follow.
    ActivePassive,
    /// Every region owns some partitions.
    ActiveActive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpo {
    Zero,
    Within(Millis),
    None,
}

/// How the story is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Display {
    Screen,
    /// One line for each event.
    Lines,
    /// Only what comes of it.
    Nothing,
}

#[derive(Clone, Debug)]
pub struct DemoConfig {
    pub pattern: Pattern,
    pub rpo: Rpo,
    pub round_trip: Duration,
    /// Clients in each region.
    pub clients: usize,
    /// How many partitions an active-active world has.
    pub partitions: u32,
    pub display: Display,
    /// Spend no more time than the proof needs.
    pub short: bool,
    pub keep: Option<PathBuf>,
    pub bin: PgBin,
    /// The `domicile` program itself.
    pub binary: PathBuf,
}

impl DemoConfig {
    fn division(&self) -> Division {
        match self.pattern {
            Pattern::ActivePassive => Division::Whole,
            Pattern::ActiveActive => Division::ByBranch(self.partitions),
        }
    }

    fn regions(&self) -> RegionsConfig {
        let division = self.division();
        let world = RegionsConfig::three(
            self.binary.clone(),
            self.bin.clone(),
            "branch_id",
            division.partitions(),
        );
        RegionsConfig {
            partition: division.setting(),
            rpo: self.rpo_name(),
            round_trip: self.round_trip,
            keep: self.keep.clone(),
            seed_sql: division.seed_sql(),
            tables: division.tables_toml(),
            ..world
        }
    }

    fn pattern_name(&self) -> &'static str {
        match self.pattern {
            Pattern::ActivePassive => "active-passive",
            Pattern::ActiveActive => "active-active",
        }
    }

    fn rpo_name(&self) -> String {
        match self.rpo {
            Rpo::Zero => "0".to_owned(),
            Rpo::Within(age) => format!("{}ms", age.0),
            Rpo::None => "none".to_owned(),
        }
    }

    fn title(&self) -> String {
        let round_trip = self.round_trip.as_millis();
        format!("{}, rpo {}, {round_trip} ms apart", self.pattern_name(), self.rpo_name())
    }

    fn describe(&self, report: &mut Report) {
        report.pattern = self.pattern_name().to_owned();
        report.rpo = self.rpo_name();
        report.loss_max_ms = match self.rpo {
            Rpo::Within(most) => Some(most.0),
            Rpo::Zero | Rpo::None => None,
        };
        report.round_trip_ms = u64::try_from(self.round_trip.as_millis()).unwrap_or(u64::MAX);
    }

    /// How long a quiet phase is shown.
    fn pace(&self, phase: Phase) -> Duration {
        let seconds = match (self.short, phase) {
            (true, _) => 4,
            (false, Phase::Steady) => 12,
            (false, _) => 8,
        };
        Duration::from_secs(seconds)
    }
}

/// How the demo ended.
#[derive(Debug)]
pub enum Outcome {
    Told(Box<Report>),
    /// Somebody pressed a key or sent a signal.
    Interrupted,
}

/// Plays the demo. Whatever it started is gone when this returns.
pub async fn run(config: DemoConfig) -> anyhow::Result<Outcome> {
    let clock = Clock::new();
    let narrator = Narrator::new(clock, config.display == Display::Lines);
    let (scene, _) = watch::channel(Scene::default());
    let (mut interrupt, mut terminate, mut hangup) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    let mut screen = match config.display {
        Display::Screen => Some(screen::Screen::open(scene.subscribe())?),
        Display::Lines | Display::Nothing => None,
    };
    let stage = Stage { clock, narrator, scene };
    tokio::select! {
        told = story::tell(&config, stage) => {
            drop(screen);
            told.map(|report| Outcome::Told(Box::new(report)))
        }
        () = screen::quit(&mut screen) => Ok(Outcome::Interrupted),
        _ = interrupt.recv() => Ok(Outcome::Interrupted),
        _ = terminate.recv() => Ok(Outcome::Interrupted),
        _ = hangup.recv() => Ok(Outcome::Interrupted),
    }
}
