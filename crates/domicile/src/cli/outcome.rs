//! Did the transaction commit whose client was not told?

use std::collections::BTreeMap;

use anyhow::Context as _;
use clap::Args;
use domicile_core::config::{Config, TableKind};
use domicile_core::id::RegionId;
use domicile_core::outcome::{self, Outcome as Became, Token, Told, Unknown};
use serde::Serialize;

use super::outside::read_ownership;
use super::{Context, Exit, UsageError};
use crate::outcome::{Answers, ask_all};
use crate::tls::Credentials;
use crate::tokens::{Refused, Tokens};
use crate::{directory, peer};

#[derive(Debug, Args)]
#[command(
    after_help = "A transaction's token is what SHOW domicile.transaction says in it, through a gateway, behind
its first write; the gateway's error 08007 names it, too (docs/operating/gateway.md). All agents
are asked: that of the region where it ran, and whoever has a copy of that region's log.

Exit codes:
  0  committed
  1  failed: the directory does not answer
  2  this is no token of a transaction of this cluster
  3  not committed: rolled back, lost, or committed where it ran alone and kept out of the history
  4  in progress or not known: ask again

Examples:
  domicile outcome t1.pJvKcXo...
  domicile outcome --json t1.pJvKcXo... | jq -r .outcome"
)]
pub struct Outcome {
    /// What SHOW domicile.transaction said
    token: String,
}

#[derive(Debug, Serialize)]
struct Document {
    /// committed, passed_over, rolled_back, not_history, in_progress or unknown
    outcome: &'static str,
    /// Where it ran.
    origin: String,
    xid: u64,
    /// Whose logs have it.
    held: Vec<String>,
    /// Where it is visible.
    shown: Vec<String>,
    /// Whose conflict journals have rows of it.
    journaled: Vec<String>,
    says: String,
    /// Who was asked and says nothing, and why.
    silent: BTreeMap<String, String>,
}

impl Outcome {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let directory = directory::Client::open(&config)?;
        let tokens = Tokens::read_from(&config.cluster, &directory).await?;
        let token = tokens.read_transaction(&self.token).map_err(not_taken)?;
        let spinner = context.output.spinner("all agents are asked");
        let answers = ask(&config, &token).await;
        spinner.finish_and_clear();
        let answers = answers?;
        // Behind the answers: a cut that it knows stands for all that was told.
        let ownership = read_ownership(&config).await?;
        let told: BTreeMap<RegionId, Told> = answers
            .iter()
            .filter_map(|(of, told)| Some((of.clone(), told.clone().ok()?)))
            .collect();
        let became = outcome::outcome(&token, &told, &ownership);
        let mut document = document(&token, &became, &answers);
        if matches!(became, Became::NotHistory { .. }) && has_shared(&config) {
            let region = &token.origin.region;
            document.says += &format!(". What it wrote of shared tables comes back with {region}");
        }
        if context.output.is_json() {
            context.output.print_json(&document)?;
        } else {
            context.output.print(&document.says)?;
            for (region, why) in &document.silent {
                context.output.print(&format!("{region} says nothing: {why}"))?;
            }
        }
        Ok(exit(&became))
    }
}

fn has_shared(config: &Config) -> bool {
    config.tables.values().any(|kind| matches!(kind, TableKind::Shared(_)))
}

fn not_taken(refused: Refused) -> anyhow::Error {
    match refused {
        Refused::NoSecret => anyhow::anyhow!(
            "the directory has no secret for tokens: no agent of this cluster has written one"
        ),
        Refused::Unsigned
        | Refused::Forged
        | Refused::Unread(_)
        | Refused::UnreadTransaction(_) => UsageError(refused.to_string()).into(),
    }
}

async fn ask(config: &Config, token: &Token) -> anyhow::Result<Answers> {
    let credentials = Credentials::of(config)?;
    let peers = config.holders().map(|(holder, address)| {
        let peer = peer::channel(address, credentials.as_ref());
        Ok((holder.clone(), peer.with_context(|| format!("the address of {holder}"))?))
    });
    Ok(ask_all(peers.collect::<anyhow::Result<_>>()?, token).await)
}

fn exit(became: &Became) -> Exit {
    match became {
        Became::Committed { .. } => Exit::Done,
        Became::PassedOver { .. } | Became::RolledBack | Became::NotHistory { .. } => Exit::Refused,
        Became::InProgress | Became::Unknown(_) => Exit::Unknown,
    }
}

fn document(token: &Token, became: &Became, answers: &Answers) -> Document {
    let names = |regions: &[RegionId]| regions.iter().map(ToString::to_string).collect();
    let (mut held, mut shown, mut journaled) = (Vec::new(), Vec::new(), Vec::new());
    match became {
        Became::Committed { held: h, shown: s } => (held, shown) = (names(h), names(s)),
        Became::PassedOver { journaled: j } => journaled = names(j),
        Became::RolledBack
        | Became::NotHistory { .. }
        | Became::InProgress
        | Became::Unknown(_) => {}
    }
    let silent = answers
        .iter()
        .filter_map(|(of, told)| told.as_ref().err().map(|why| (of.to_string(), why.clone())));
    Document {
        outcome: became.slug(),
        origin: token.origin.to_string(),
        xid: token.xid,
        held,
        shown,
        journaled,
        says: said(token, became),
        silent: silent.collect(),
    }
}

fn said(token: &Token, became: &Became) -> String {
    let region = &token.origin.region;
    let list = |regions: &[RegionId]| {
        regions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    match became {
        Became::Committed { held, .. } if held.is_empty() => {
            format!("committed in {region}; no log has it, as one that changed no replicated row")
        }
        Became::Committed { held, shown } => {
            let alone = match held.as_slice() {
                [one] if one == region => {
                    ". No other region that answers holds it: a failover may still lose it"
                }
                _ => "",
            };
            let shown = match shown.as_slice() {
                [] => "shown nowhere yet".to_owned(),
                shown => format!("shown in {}", list(shown)),
            };
            format!("committed: held in {}, {shown}{alone}", list(held))
        }
        Became::PassedOver { journaled } => {
            let journal = match journaled.as_slice() {
                [] => format!("the conflict journal of {region} will have its rows"),
                [one, ..] => format!(
                    "its rows are in the conflict journal: domicile journal list --region {one} --origin {}",
                    token.origin
                ),
            };
            format!(
                "not committed: it was committed in {region} alone, and a failover, or the guard, kept it out of \
                 the history; {journal}"
            )
        }
        Became::RolledBack => "not committed: rolled back".to_owned(),
        Became::NotHistory { end } => format!(
            "not committed: the history of {} ends at {} without it. It was rolled back, or committed in {region} \
             alone and lost: then its rows go to the conflict journal once {region} is back",
            end.origin, end.lsn
        ),
        Became::InProgress => format!(
            "in progress in {region}: it is open, or its commit waits for a copy. Ask again"
        ),
        Became::Unknown(why) => format!("not known: {}", unknown(token, why)),
    }
}

fn unknown(token: &Token, why: &Unknown) -> String {
    let (origin, region) = (&token.origin, &token.origin.region);
    match why {
        Unknown::Silent => format!(
            "{region}, where it ran, does not say, and nobody has taken over from it. Ask again when it is \
             back, or after a failover (domicile failover --from {region})"
        ),
        Unknown::Undecided => {
            format!("a failover decides where the history of {region} ends. Ask again")
        }
        Unknown::NotCaptured => format!(
            "it was committed in {region}, which does not say yet whether it is history. Ask again"
        ),
        Unknown::Behind { end } => format!(
            "nobody who answers has the log of {origin} up to its end, {}. Ask again when another region answers",
            end.lsn
        ),
        Unknown::Trimmed { upto } => format!(
            "the log of {origin} before {upto} is kept no longer where it was looked for (log.keep). Look for the \
             transaction's rows"
        ),
        Unknown::BegunAnew { now } => format!(
            "the log of {region} has begun anew since, as {now}, and how {origin} ended is not known. Look for the \
             transaction's rows"
        ),
        Unknown::Forgotten => format!(
            "the PostgreSQL of {region} has forgotten it, and no log has it. Look for the transaction's rows"
        ),
    }
}
