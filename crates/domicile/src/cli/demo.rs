//! How does one see Domicile keep its promises, with one command and nothing installed but
//! PostgreSQL?

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::{Context, Exit};
use crate::demo::{self, DemoConfig, Display, Outcome, Pattern, Rpo};
use crate::lab::cluster::PgBin;
use crate::settings::{duration, rpo};

#[derive(Debug, Args)]
#[command(
    after_help = "Makes three regions on this machine, each with a PostgreSQL and an agent of its own and
slow links between them. Bank clients write in all of them through a planned switchover, the
SIGKILL of a whole region, its automatic failover and its return. In the end every row of every
region is compared and every acknowledged write is looked for.

Exits with 0 only if every promise was kept. Leaves nothing behind. Press q to stop early.

Examples:
  domicile demo                                    three regions that all write
  domicile demo --pattern active-passive           one that writes, two that follow
  domicile demo --rpo none                         asynchronous: see what is journaled
  domicile demo --rpo 250ms                        no more than that is lost
  domicile demo --ci --report report.json          for a pipeline"
)]
pub struct Demo {
    /// How the regions share the work
    #[arg(long, value_enum, default_value = "active-active")]
    pattern: PatternName,

    /// What may be lost of what was acknowledged when a region is lost
    /// (0, a duration or none): what was not shipped in time ends in the conflict journal
    #[arg(long, value_name = "RPO", default_value = "0", value_parser = parse_rpo)]
    rpo: Rpo,

    /// How long a message takes from one region to another and back
    #[arg(long, value_name = "DURATION", default_value = "40ms", value_parser = parse_duration)]
    round_trip: Duration,

    /// Bank clients in each region
    #[arg(long, value_name = "NUMBER", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=50))]
    clients: u16,

    /// Partitions of an active-active world
    #[arg(long, value_name = "NUMBER", default_value = "12", value_parser = clap::value_parser!(u32).range(3..=500))]
    partitions: u32,

    /// No screen, one line for each event, and no longer than the proof needs
    #[arg(long)]
    ci: bool,

    /// Write all figures and promises to this file, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Work in this folder and keep it: configurations, logs, data
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,

    /// Folder of PostgreSQL's programs, 14 or newer; else they are looked for
    #[arg(long, value_name = "FOLDER")]
    pg_bin: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PatternName {
    ActivePassive,
    ActiveActive,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    duration(text).map(|millis| Duration::from_millis(millis.0))
}

fn parse_rpo(text: &str) -> Result<Rpo, String> {
    match text {
        "none" => Ok(Rpo::None),
        bound => rpo(bound).map(|age| if age.0 == 0 { Rpo::Zero } else { Rpo::Within(age) }),
    }
}

impl Demo {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let report_file = self.report.clone();
        match demo::run(self.config(context)?).await? {
            Outcome::Interrupted => {
                eprintln!("interrupted: everything that was started is gone");
                Ok(Exit::Failed)
            }
            Outcome::Told(report) => {
                if let Some(file) = report_file {
                    let json = serde_json::to_vec_pretty(&report).context("print the report")?;
                    std::fs::write(&file, json)
                        .with_context(|| format!("write {}", file.display()))?;
                }
                if context.output.is_json() {
                    context.output.print_json(&report)?;
                } else {
                    context.output.print(&report.summary())?;
                }
                Ok(if report.kept() { Exit::Done } else { Exit::Failed })
            }
        }
    }

    fn config(self, context: &Context) -> anyhow::Result<DemoConfig> {
        let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
        let display = match (context.output.is_json(), terminal && !self.ci) {
            (true, _) => Display::Nothing,
            (false, true) => Display::Screen,
            (false, false) => Display::Lines,
        };
        Ok(DemoConfig {
            pattern: match self.pattern {
                PatternName::ActivePassive => Pattern::ActivePassive,
                PatternName::ActiveActive => Pattern::ActiveActive,
            },
            rpo: self.rpo,
            round_trip: self.round_trip,
            clients: usize::from(self.clients),
            partitions: self.partitions,
            display,
            short: self.ci,
            keep: self.keep,
            bin: PgBin::find(self.pg_bin.as_deref())?,
            binary: std::env::current_exe().context("find our own program")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use domicile_core::time::Millis;

    use super::*;

    #[test]
    fn the_demo_takes_the_bounds_that_a_configuration_takes() {
        assert_eq!(parse_rpo("0"), Ok(Rpo::Zero));
        assert_eq!(parse_rpo("0ms"), Ok(Rpo::Zero));
        assert_eq!(parse_rpo("none"), Ok(Rpo::None));
        assert_eq!(parse_rpo("250ms"), Ok(Rpo::Within(Millis(250))));
        assert_eq!(parse_rpo("5ms").unwrap_err(), "is too short: below 10ms it is \"0\"");
        assert!(parse_rpo("soon").is_err());
    }
}
