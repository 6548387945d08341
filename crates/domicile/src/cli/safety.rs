//! Which rules hold for the whole cluster, and how does a person change them?

use std::str::FromStr;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use comfy_table::Color;
use domicile_core::time::{Millis, Wall};

use super::output::trimmed;
use super::runs::person;
use super::{Context, Exit, UsageError};
use crate::clock;
use crate::directory::documents::{FreezeDocument, FrozenDocument, PolicyDocument};
use crate::directory::{Client as Directory, safety};
use crate::settings::units::{duration, written};

#[derive(Debug, Args)]
#[command(
    after_help = "The rules stand in the directory: every agent and every command goes by them from the moment they
are set. What has begun goes on to its end whatever they say. --override-safety REASON at a command
that starts a run has it begin all the same; who wanted that, and why, stands in its report
(docs/operating/safety.md).

Examples:
  domicile safety show
  domicile safety set --freeze planned --reason \"the sale\"
  domicile safety set --freeze off
  domicile safety set --max-loss 5s --min-interval 60s --max-partitions-per-minute 10000"
)]
pub struct Safety {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the rules
    Show,
    /// Set rules, or take them back with off; the others stay as they are
    Set(Set),
}

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("rule")
        .required(true)
        .multiple(true)
        .args(["freeze", "max_loss", "min_interval", "max_partitions_per_minute"]),
    after_help = "Once the command has ended, nothing begins any more that the rules forbid.

Examples:
  domicile safety set --freeze all --reason \"we move the network\"
  domicile safety set --freeze off
  domicile safety set --max-loss 5s --min-interval 60s
  domicile safety set --max-partitions-per-minute off"
)]
struct Set {
    /// Begin no change of owners: planned leaves failovers alone, all stops them too
    #[arg(long, value_enum, value_name = "WHAT")]
    freeze: Option<Freeze>,
    /// Why it is frozen
    #[arg(long, value_name = "TEXT", requires = "freeze", value_parser = NonEmptyStringValueParser::new())]
    reason: Option<String>,
    /// The most of acknowledged writes that a failover may be expected to lose
    #[arg(long, value_name = "DURATION or off")]
    max_loss: Option<Limit<Span>>,
    /// Between two planned moves of one partition
    #[arg(long, value_name = "DURATION or off")]
    min_interval: Option<Limit<Span>>,
    /// So many are moved as planned within a minute
    #[arg(long, value_name = "NUMBER or off")]
    max_partitions_per_minute: Option<Limit<u32>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Freeze {
    Planned,
    All,
    Off,
}

/// What a rule is set to, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit<T> {
    Off,
    At(T),
}

/// A duration, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span(Millis);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        duration(text).map(Self)
    }
}

impl<T: FromStr<Err: ToString>> FromStr for Limit<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            text => text.parse().map(Self::At).map_err(|error: T::Err| error.to_string()),
        }
    }
}

impl<T> Limit<T> {
    fn set(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::At(limit) => Some(limit),
        }
    }
}

impl Safety {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let directory = Directory::open(&config)?;
        let policy = match self.command {
            Command::Show => safety::read_policy(&directory).await?,
            Command::Set(set) => {
                set.check()?;
                safety::change(&directory, |policy| set.change(policy)).await?
            }
        };
        if context.output.is_json() {
            context.output.print_json(&policy)?;
        } else {
            print(context, &policy)?;
        }
        Ok(Exit::Done)
    }
}

impl Set {
    fn check(&self) -> Result<(), UsageError> {
        let wrong = match (self.freeze, &self.reason) {
            (Some(Freeze::Planned | Freeze::All), None) => "--freeze wants a --reason",
            (Some(Freeze::Off), Some(_)) => "--freeze off wants no --reason",
            _ => return Ok(()),
        };
        Err(UsageError(wrong.to_owned()))
    }

    fn change(&self, policy: &mut PolicyDocument) {
        if let Some(freeze) = self.freeze {
            policy.freeze = self.frozen(freeze);
        }
        if let Some(limit) = self.max_loss {
            policy.max_loss_ms = limit.set().map(|Span(loss)| loss.0);
        }
        if let Some(limit) = self.min_interval {
            policy.min_interval_ms = limit.set().map(|Span(interval)| interval.0);
        }
        if let Some(limit) = self.max_partitions_per_minute {
            policy.max_partitions_per_minute = limit.set();
        }
    }

    fn frozen(&self, freeze: Freeze) -> Option<FreezeDocument> {
        let of = match freeze {
            Freeze::Planned => FrozenDocument::Planned,
            Freeze::All => FrozenDocument::All,
            Freeze::Off => return None,
        };
        let reason = self.reason.clone().unwrap_or_default();
        Some(FreezeDocument { of, by: person(), reason, since_ms: clock::unix_ms() })
    }
}

fn print(context: &Context, policy: &PolicyDocument) -> anyhow::Result<()> {
    let PolicyDocument { freeze, max_loss_ms, min_interval_ms, max_partitions_per_minute } = policy;
    let freeze = freeze.as_ref().map(|freeze| {
        let FreezeDocument { of, by, reason, since_ms } = freeze;
        let of = match of {
            FrozenDocument::Planned => "planned",
            FrozenDocument::All => "all",
        };
        format!("{of}, by {by} since {}: {reason}", Wall(*since_ms))
    });
    let span = |ms: &Option<u64>| ms.map(|ms| written(Millis(ms)));
    let rules = [
        ("freeze", freeze),
        ("max-loss", span(max_loss_ms)),
        ("min-interval", span(min_interval_ms)),
        ("max-partitions-per-minute", max_partitions_per_minute.map(|max| max.to_string())),
    ];
    let output = &context.output;
    let mut table = output.table(["RULE", "SET TO"]);
    for (rule, set) in rules {
        let set = set.unwrap_or_else(|| "off".to_owned());
        let colour = if rule == "freeze" && set != "off" { Color::Yellow } else { Color::Reset };
        table.add_row([output.cell(rule, Color::Reset), output.cell(&set, colour)]);
    }
    output.print(&trimmed(&table))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        set: Set,
    }

    fn typed(words: &[&str]) -> Result<Set, String> {
        let words = std::iter::once("set").chain(words.iter().copied());
        let set = Typed::try_parse_from(words).map_err(|error| error.to_string())?.set;
        set.check().map_err(|error| error.to_string())?;
        Ok(set)
    }

    #[test]
    fn what_is_not_named_stays_as_it_is() {
        let mut policy = PolicyDocument { min_interval_ms: Some(7), ..PolicyDocument::default() };
        let words = ["--freeze", "all", "--reason", "the sale", "--max-loss", "5s"];
        typed(&words).unwrap().change(&mut policy);
        typed(&["--max-partitions-per-minute", "9"]).unwrap().change(&mut policy);
        let freeze = policy.freeze.clone().unwrap();
        assert_eq!((freeze.of, freeze.reason.as_str()), (FrozenDocument::All, "the sale"));
        assert_eq!((policy.max_loss_ms, policy.min_interval_ms), (Some(5000), Some(7)));
        assert_eq!(policy.max_partitions_per_minute, Some(9));
        let off = ["--freeze", "off", "--max-loss", "off", "--min-interval", "off"];
        typed(&off).unwrap().change(&mut policy);
        let left = PolicyDocument { max_partitions_per_minute: Some(9), ..Default::default() };
        assert_eq!(policy, left);
    }

    #[test]
    fn a_freeze_says_why() {
        for (words, said) in [
            (&["--freeze", "planned"][..], "wants a --reason"),
            (&["--freeze", "off", "--reason", "x"], "wants no --reason"),
            (&["--freeze", "all", "--reason", ""], "value"),
            (&["--reason", "x"], "--freeze"),
            (&[], "required"),
            (&["--max-loss", "5"], "not a duration"),
        ] {
            let error = typed(words).unwrap_err();
            assert!(error.contains(said), "{words:?}: {error}");
        }
    }
}
