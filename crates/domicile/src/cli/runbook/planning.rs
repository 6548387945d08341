//! What would a runbook do now, and does it still do that when it is run?

use domicile_core::id::RunId;
use domicile_core::runbook::file::{Arguments, Call, CallError, Runbook};

use super::{files, past};
use crate::cli::outside::Outside;
use crate::cli::planned::Planned;
use crate::cli::runs::{Overriding, facts, start_and_follow};
use crate::cli::{Context, Exit, UsageError};

pub async fn plan(context: &Context, name: &str, arguments: &[String]) -> anyhow::Result<Exit> {
    let config = context.config()?;
    let call = call(context, name, arguments)?;
    let outside = Outside::look(&config).await?;
    let runbook = Runbook::parse(&call.text).map_err(CallError::Runbook)?;
    let past = past::of(&config, &runbook.name).await?;
    let planned = Planned::new(name, &call, &outside.facts(&config))?.remembering(past);
    if context.output.is_json() {
        context.output.print_json(&planned.json())?;
    } else {
        context.output.print(&planned.text())?;
    }
    Ok(if planned.is_refused() { Exit::Refused } else { Exit::Done })
}

pub async fn run(
    context: &Context,
    name: &str,
    arguments: &[String],
    approved: &str,
    overriding: &Overriding,
) -> anyhow::Result<Exit> {
    let config = context.config()?;
    let call = call(context, name, arguments)?;
    let outside = Outside::look(&config).await?;
    let facts = facts(&outside, &config, overriding);
    start_and_follow(context, &outside, &facts, &[call], Some(approved)).await
}

/// Reads what was typed, before anything is asked of the cluster.
fn call(context: &Context, name: &str, typed: &[String]) -> anyhow::Result<Call> {
    let found = files::find(&context.config_file, name)?;
    let runbook = found.parse()?;
    let mut arguments = Arguments::new();
    for word in typed {
        let Some((name, value)) = word.split_once('=') else {
            let text = format!("\"{word}\" says nothing: expected PARAMETER=VALUE, as in to=us");
            return Err(UsageError(text).into());
        };
        if arguments.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(UsageError(format!("{name} is told twice")).into());
        }
    }
    runbook.plan(&RunId("called".into()), &arguments).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|error| format!("\n  {error}")).collect();
        UsageError(format!("runbook {name} cannot be called like this:{}", lines.concat()))
    })?;
    Ok(Call { text: found.text, arguments })
}
