//! Have every region run the same DDL at the same position.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use comfy_table::Color;
use domicile_core::config::{Config, Region};
use domicile_core::id::RegionId;
use domicile_core::ownership::Ownership;
use serde_json::json;
use tokio::time::Instant;

use super::output::trimmed;
use super::outside::read_ownership;
use super::{Context, Exit, UsageError};
use crate::directory;
use crate::migrate::{self, Committed, Migrator, Ran, Refusal, Standing};
use crate::postgres::{migration, session};

const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(
    after_help = "The file's statements run in one region, in one transaction, and then in every other where that
transaction stands in the log. Writes go on. Names without a schema are in public.

What would differ between regions, or cannot stand in a transaction, is refused, with the way to do it
instead. --dry-run runs the statements, takes their locks, says the same, and rolls back.

Interrupting the command does not stop a migration that has run in the first region.

Examples:
  domicile migrate add-column.sql --dry-run
  domicile migrate add-column.sql
  domicile migrate drop-column.sql --region eu
  domicile migrate --pass 7 --region us     us has what migration 7 makes: go on behind it

Ends with 3 when it is refused, and with 1 when a region does not have it in time."
)]
pub struct Migrate {
    /// DDL, as one transaction
    #[arg(required_unless_present = "pass")]
    file: Option<PathBuf>,
    /// Where it runs first; if left out, the region that owns everything, or the first that is listed
    #[arg(long, value_name = "NAME")]
    region: Option<RegionId>,
    /// Say what would be refused, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// How long a statement may wait for a table, while all others wait behind it
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    lock_timeout: u64,
    /// How long to wait for the other regions; they go on by themselves
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// Have --region pass over this migration, because it has what it makes
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["file", "dry_run"], requires = "region")]
    pass: Option<i64>,
}

impl Migrate {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        if let Some(number) = self.pass {
            let region = self.region(&config, None)?;
            let client = session::connect(&region.postgres, "domicile migrate").await?;
            let here = migration::latest(&client).await?;
            let counted = migrate::counted(&directory::Client::open(&config)?).await?.0;
            let why = if number <= here {
                Some(format!("region \"{}\" has it, or has passed over it", region.id))
            } else if number > counted {
                Some(format!("the newest is {counted}"))
            } else {
                None
            };
            if let Some(why) = why {
                bail!(UsageError(format!("migration {number} cannot be passed over: {why}")));
            }
            migration::pass(&client, number).await?;
            context
                .output
                .print(&format!("region \"{}\" passes over migration {number}", region.id))?;
            return Ok(Exit::Done);
        }
        let file = self.file.as_ref().context("there is no file")?;
        let sql =
            std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let script = match migrate::read(&sql) {
            Ok(script) => script,
            Err(refused) => return refuse(context, &refused),
        };
        let directory = directory::Client::open(&config)?;
        let ownership = read_ownership(&config).await?;
        let region = self.region(&config, Some(&ownership))?;
        let wait = Duration::from_secs(self.wait);
        let spinner =
            context.output.spinner("waiting until every region shows what the others wrote");
        let behind = migrate::settle(&config, wait).await?;
        if let Some(behind) = behind.first() {
            spinner.finish_and_clear();
            return refuse(
                context,
                &[Refusal {
                    what: format!("region {behind}"),
                    reason: "it does not show what other regions have written before".to_owned(),
                    instead: "see domicile status, and try again when it has caught up".to_owned(),
                }],
            );
        }
        spinner.set_message(format!("running it in region {}", region.id));
        let lock_timeout = Duration::from_secs(self.lock_timeout.max(1));
        let migrator = Migrator { config: &config, directory, ownership, region, lock_timeout };
        let name = file.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let ran = migrator.run(&script, &name, self.dry_run).await?;
        let number = match ran {
            Ran::Done(number) => number,
            Ran::Could => {
                spinner.finish_and_clear();
                let text = "it could run; nothing was changed";
                print(context, &json!({ "dry_run": true, "region": region.id.as_str() }), text)?;
                return Ok(Exit::Done);
            }
            Ran::Refused(refused) => {
                spinner.finish_and_clear();
                return refuse(context, &refused);
            }
        };
        let deadline = Instant::now() + wait;
        let committed = Committed::find(&config, number, region).await?;
        let standings = loop {
            let standings = committed.standings().await;
            let applied = standings.values().filter(|s| **s == Standing::Applied).count();
            let failed = standings.values().any(|s| matches!(s, Standing::Failed { .. }));
            spinner.set_message(format!("{applied} of {} regions have it", standings.len()));
            if applied == standings.len() || failed || Instant::now() >= deadline {
                break standings;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        spinner.finish_and_clear();
        told(context, &committed, &standings)
    }

    fn region<'c>(
        &self,
        config: &'c Config,
        ownership: Option<&Ownership>,
    ) -> anyhow::Result<&'c Region> {
        if let Some(name) = &self.region {
            let unknown = || UsageError(format!("region \"{name}\" is not in the configuration"));
            return Ok(config.region(name).ok_or_else(unknown)?);
        }
        let owns_all = |region: &&Region| {
            ownership.is_some_and(|ownership| {
                let mut entries = ownership.data().iter();
                entries.all(|entry| entry.state.admits() == Some(&region.id))
            })
        };
        let found = config.regions.iter().find(owns_all).or(config.regions.first());
        found.context("there is no region")
    }
}

fn told(
    context: &Context,
    committed: &Committed<'_>,
    standings: &BTreeMap<RegionId, Standing>,
) -> anyhow::Result<Exit> {
    let all = standings.values().all(|standing| *standing == Standing::Applied);
    let regions: BTreeMap<&str, &Standing> =
        standings.iter().map(|(region, standing)| (region.as_str(), standing)).collect();
    let report = json!({
        "number": committed.number,
        "region": committed.region.as_str(),
        "position": committed.position.as_ref().map(|(_, lsn)| lsn.to_string()),
        "applied": all,
        "regions": regions,
    });
    let mut table = context.output.table(["REGION", "MIGRATION", "STATE"]);
    for (region, standing) in standings {
        let (state, colour) = match standing {
            Standing::Applied => ("applied".to_owned(), Color::Green),
            Standing::Waits { because } if because.is_empty() => {
                ("waits".to_owned(), Color::Yellow)
            }
            Standing::Waits { because } => (format!("waits: {}", because.join(" ")), Color::Yellow),
            Standing::Failed { because } => (because.clone(), Color::Red),
            Standing::Unreachable => {
                ("does not answer; it runs when the region is back".to_owned(), Color::Yellow)
            }
        };
        table.add_row([
            context.output.cell(region.as_str(), Color::Reset),
            context.output.cell(&committed.number.to_string(), Color::Reset),
            context.output.cell(&state, colour),
        ]);
    }
    print(context, &report, &trimmed(&table))?;
    Ok(if all { Exit::Done } else { Exit::Failed })
}

fn refuse(context: &Context, refused: &[Refusal]) -> anyhow::Result<Exit> {
    let texts: Vec<String> = refused
        .iter()
        .map(|Refusal { what, reason, instead }| {
            format!("{what}\n  refused: {reason}\n  instead: {instead}")
        })
        .collect();
    print(context, &json!({ "refused": refused }), &texts.join("\n"))?;
    Ok(Exit::Refused)
}

fn print(context: &Context, json: &serde_json::Value, text: &str) -> anyhow::Result<()> {
    match context.output.is_json() {
        true => context.output.print_json(json),
        false => context.output.print(text),
    }
}
