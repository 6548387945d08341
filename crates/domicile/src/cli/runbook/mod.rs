//! Which runbooks are there, what would one do, what do people want of a run, and what became of it?

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::runs::Overriding;
use super::{Context, Exit};

mod asking;
mod escalating;
mod files;
mod history;
mod listing;
pub mod past;
mod planning;
mod report;

#[derive(Debug, Args)]
#[command(
    after_help = "A NAME is one of those that come with Domicile, a file in the folder runbooks/ beside domicile.toml
(without its .toml), or the path of a file.

Examples:
  domicile runbook list
  domicile runbook show switchover --toml > runbooks/mine.toml
  domicile runbook lint runbooks/*.toml
  domicile runbook plan switchover partitions=4-7 to=us
  domicile runbook run switchover partitions=4-7 to=us --plan 3f9a1c0b2d4e
  domicile runbook history
  domicile runbook report last --format html > report.html"
)]
pub struct RunbookCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the runbooks that come with Domicile, and your own
    List,
    /// Show what a runbook does and what it wants to be told
    Show(Show),
    /// Say every mistake in runbook files, each with its line
    Lint(Lint),
    /// Say what a runbook would do now, and the id that a run of it has to name
    Plan(Call),
    /// Run a runbook as it was planned, and tell what happens
    Run(Run),
    /// Say that a run may go on, which waits for people
    Approve(Approve),
    /// Stop a run as soon as every partition has an owner
    Pause(Asked),
    /// Let a paused run go on
    Resume(Asked),
    /// Have a run give back what it took, and end
    Abort(Asked),
    /// Take by force what a planned run was to be handed, when its source is lost
    Escalate(Escalate),
    /// List all runs, the newest first, or say whether somebody has changed them
    History(History),
    /// Tell the story of a run, with its timeline drawn
    Report(Report),
    /// Print the reference of all steps, as Markdown
    Reference,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  domicile runbook show failover
  domicile runbook show switchover --toml > runbooks/mine.toml")]
struct Show {
    #[arg(value_name = "NAME")]
    name: String,
    /// Print the file itself, to begin one's own with
    #[arg(long)]
    toml: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Needs no cluster. Ends with 3 when a file has mistakes.

Example:
  domicile runbook lint runbooks/*.toml")]
struct Lint {
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Prints steps, what would move, estimates and every reason against. Changes nothing. The id stays the same
while the runbook would do the same.

Examples:
  domicile runbook plan switchover partitions=4-7 to=us
  domicile runbook plan failover from=eu to=us --json"
)]
struct Call {
    #[arg(value_name = "NAME")]
    name: String,
    /// What it is told, as in to=us
    #[arg(value_name = "PARAMETER=VALUE")]
    arguments: Vec<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Interrupting the command does not stop the run: agents carry it on. Ends with 3 when it is refused, as when
it would not do any more what was planned.

Example:
  domicile runbook run switchover partitions=4-7 to=us --plan 3f9a1c0b2d4e"
)]
struct Run {
    #[command(flatten)]
    call: Call,
    /// The id that domicile runbook plan printed
    #[arg(long, value_name = "ID")]
    plan: String,
    #[command(flatten)]
    overriding: Overriding,
}

#[derive(Debug, Args)]
#[command(
    after_help = "RUN is a run's id, as far as no other begins like it, or last: the one that was started last. Of the runs
that one domicile switchover has started, that is one that moves rows, not the canary's.

Pausing leaves no partition without an owner: what a run has in its hands it brings to its end first.
Aborting hands partitions back to their owners at a new epoch. It is refused (3) once the fence of a
failover stands or the new owner is named: then hand the partitions back by another run.

Examples:
  domicile runbook pause last
  domicile runbook resume last
  domicile runbook abort 0198c3"
)]
struct Asked {
    #[arg(value_name = "RUN")]
    run: String,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Prints what the forced run would do and lose, as a plan, and asks before it writes that down. The forced run
is called RUN/forced, takes everything that the lost region owns, and stands in the history like any other.
Should the source be back before that, it hands over as it was planned.

Refused (3) unless several other regions confirm that the source is gone (--attest takes your word for it), where
the run has taken nothing yet or its new owner is named, where it moves the canary alone, as a drill does, and
for a run that is forced already.

Examples:
  domicile runbook escalate last
  domicile runbook escalate 0198c3 --attest --yes"
)]
struct Escalate {
    /// The run's id, as far as no other begins like it, or last
    #[arg(value_name = "RUN")]
    run: String,
    /// I know that the source is gone: do not ask the other regions
    #[arg(long)]
    attest: bool,
    /// I have seen what it would do and lose: do not ask me
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    overriding: Overriding,
}

#[derive(Debug, Args)]
#[command(after_help = "Ends with 3 when the run waits for nobody of this role, or has ended.

Example:
  domicile runbook approve last --role dba")]
struct Approve {
    /// The run's id, as far as no other begins like it, or last
    #[arg(value_name = "RUN")]
    run: String,
    /// In which role
    #[arg(long, value_name = "ROLE")]
    role: String,
    /// Who approves, when it is not the user of this session
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Each line of a run's journal carries a hash of all that stands before it, and each run that has ended the
hash of the one that ended before. Keep the last one elsewhere: it shows whether all was written anew.

Examples:
  domicile runbook history
  domicile runbook history --verify --json"
)]
struct History {
    /// Say whether anything was changed after it was written; ends with 3 when it was
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Ends with 3 when the run was changed after it was written.

Examples:
  domicile runbook report last
  domicile runbook report 0198c3 --format html > report.html")]
struct Report {
    /// The run's id, as far as no other begins like it, or last
    #[arg(value_name = "RUN")]
    run: String,
    #[arg(long, value_enum, default_value_t = Format::Markdown)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Markdown,
    Html,
    Json,
}

impl RunbookCommand {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self.command {
            Command::List => listing::list(context),
            Command::Show(show) => listing::show(context, &show.name, show.toml),
            Command::Lint(lint) => listing::lint(context, &lint.files),
            Command::Plan(call) => planning::plan(context, &call.name, &call.arguments).await,
            Command::Run(run) => {
                let call = &run.call;
                planning::run(context, &call.name, &call.arguments, &run.plan, &run.overriding)
                    .await
            }
            Command::Approve(Approve { run, role, name }) => {
                asking::approve(context, &run, &role, name).await
            }
            Command::Pause(asked) => asking::pause(context, &asked.run).await,
            Command::Resume(asked) => asking::resume(context, &asked.run).await,
            Command::Abort(asked) => asking::abort(context, &asked.run).await,
            Command::Escalate(escalate) => escalating::escalate(context, &escalate).await,
            Command::History(History { verify: true }) => history::verify(context).await,
            Command::History(_) => history::list(context).await,
            Command::Report(report) => {
                let format = if context.output.is_json() { Format::Json } else { report.format };
                history::report(context, &report.run, format).await
            }
            Command::Reference => {
                super::output::print_text(&domicile_core::runbook::file::steps::reference())?;
                Ok(Exit::Done)
            }
        }
    }
}
