//! Which region answers a request of HTTP, and why?

use clap::{Args, Subcommand};
use domicile_core::front::Wanted;
use domicile_core::front::rule::{Asked, wanted};
use domicile_core::partition::Scheme;
use hyper::Uri;
use serde::Serialize;

use super::outside::read_ownership;
use super::{Context, Exit, UsageError};

#[derive(Debug, Args)]
pub struct HttpCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say which region answers a request, and why
    Explain(Explain),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Goes by [[http.route]], and by who owns what now (docs/operating/front-door.md). Nothing is sent.

Examples:
  domicile http explain POST /accounts/42/deposit
  domicile http explain --json POST '/orders?branch=42'
  domicile http explain DELETE /cart --header 'Cookie: branch=42'"
)]
pub struct Explain {
    /// As in GET or POST
    method: String,
    /// With its query, if there is one
    path: Uri,
    /// A header of the request, as often as there are any
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME: VALUE")?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

/// Which region it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum AnsweredBy {
    Owner,
    /// And by another one only where this one does not answer.
    Nearest,
    /// And by no other.
    WhereItArrives,
}

#[derive(Debug, Serialize)]
struct Explained {
    answered_by: AnsweredBy,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u32>,
    /// Absent where nobody may write now.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
}

impl HttpCommand {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self.command {
            Command::Explain(explain) => explain.run(context).await,
        }
    }
}

impl Explain {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        if config.regions.iter().all(|region| region.http.is_none()) {
            return Err(UsageError("no region has a door: see region[].http".to_owned()).into());
        }
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let asked = Asked {
            method: &self.method,
            path: self.path.path(),
            query: self.path.query(),
            headers: headers.collect(),
        };
        let wanted = wanted(&asked, &config.http.rules, &config.layout)
            .map_err(|why| UsageError(why.to_string()))?;
        let alone = |answered_by| Explained { answered_by, partition: None, owner: None };
        let explained = match wanted {
            Wanted::Anywhere => alone(AnsweredBy::Nearest),
            Wanted::Here | Wanted::Region(_) => alone(AnsweredBy::WhereItArrives),
            Wanted::Owner(partition) => {
                let ownership = read_ownership(&config).await?;
                let entry = ownership.entry(partition);
                let owner = entry.and_then(|entry| entry.state.admits()).map(ToString::to_string);
                Explained { answered_by: AnsweredBy::Owner, partition: Some(partition.0), owner }
            }
        };
        match context.output.is_json() {
            true => context.output.print_json(&explained)?,
            false => {
                context.output.print(&explained.sentence(config.layout.scheme == Scheme::Whole))?
            }
        }
        Ok(Exit::Done)
    }
}

impl Explained {
    fn sentence(&self, whole: bool) -> String {
        let what = match self.partition {
            Some(partition) if !whole => format!("partition {partition}"),
            _ => "everything".to_owned(),
        };
        match (self.answered_by, &self.owner) {
            (AnsweredBy::Nearest, _) => {
                "It is answered where it arrives, or by another region if nobody answers there: it only reads.".to_owned()
            }
            (AnsweredBy::WhereItArrives, _) => {
                "It is answered where it arrives: a rule says so, or it has no key.".to_owned()
            }
            (AnsweredBy::Owner, Some(owner)) => format!("It is answered by {owner}, which owns {what}."),
            (AnsweredBy::Owner, None) => format!("It waits: no region may write {what} at the moment."),
        }
    }
}
