//! What happens to a client that goes past the gateway and writes at the wrong region?
//!
//! PostgreSQL itself must refuse it, with a SQLSTATE that drivers know and words that say where to
//! go. Attempts are made only while ownership does not move, so each has one right answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::{Client, NoTls};

use super::bank::{self, Branch};
use super::scene::{Health, Scene};
use super::tally::Tally;
use crate::lab::dice::Dice;

const EVERY: Duration = Duration::from_millis(400);
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Bypass {
    /// How to reach each region's PostgreSQL, in the order of the regions.
    pub postgres: Vec<String>,
    pub branches: Vec<Branch>,
    pub scene: watch::Receiver<Scene>,
    pub tally: Arc<Tally>,
}

/// A write that must be refused.
struct Attempt {
    region: usize,
    sql: String,
    /// What it is, for the case that it is not refused.
    what: String,
}

impl Bypass {
    /// Tries again and again until the task is dropped.
    pub async fn run(self) {
        let mut dice = Dice(77);
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let phase = self.tally.phase();
            let attempt = if phase.is_quiet() { self.choose(&mut dice) } else { None };
            let Some(attempt) = attempt else { continue };
            let answer = tokio::time::timeout(ANSWER_WAIT_MAX, self.perform(&attempt)).await;
            // What happened around a change of phase proves nothing either way.
            if self.tally.phase() != phase {
                continue;
            }
            match answer {
                Ok(Ok(())) => self.tally.refuse_as_promised(),
                Ok(Err(reason)) => {
                    self.tally.break_promise(format!("{}: {reason}", attempt.what));
                }
                Err(_) => self.tally.break_promise(format!("{}: no answer", attempt.what)),
            }
        }
    }

    fn choose(&self, dice: &mut Dice) -> Option<Attempt> {
        let scene = self.scene.borrow();
        let up: Vec<usize> = (0..scene.regions.len())
            .filter(|index| scene.regions[*index].health == Health::Up)
            .collect();
        let region = *up.get(dice.below(up.len() as u32) as usize)?;
        let owner =
            |branch: &Branch| scene.owners.get(branch.partition as usize).copied().flatten();
        let elsewhere: Vec<&Branch> =
            self.branches.iter().filter(|b| owner(b).is_some_and(|o| o != region)).collect();
        let wrong = elsewhere.get(dice.below(elsewhere.len() as u32) as usize)?;
        let name = &scene.regions[region].name;
        let own = self.branches.iter().find(|branch| owner(branch) == Some(region));
        Some(match own {
            Some(own) if dice.below(2) == 0 => Attempt {
                region,
                sql: bank::transfer_between(own.id, wrong.id, 1),
                what: format!("a transfer between two owners at {name}"),
            },
            _ => Attempt {
                region,
                sql: bank::transfer_between(wrong.id, wrong.id, 1),
                what: format!("a write of partition {} at {name}", wrong.partition),
            },
        })
    }

    /// Returns when the attempt was refused in the words that were promised.
    async fn perform(&self, attempt: &Attempt) -> Result<(), String> {
        let client = connect(&self.postgres[attempt.region]).await?;
        match client.batch_execute(&attempt.sql).await {
            Ok(()) => Err("was admitted".to_owned()),
            Err(error) => judge(&error),
        }
    }
}

async fn connect(postgres: &str) -> Result<Client, String> {
    let config = postgres.parse::<tokio_postgres::Config>();
    let mut config = config.map_err(|error| error.to_string())?;
    config.user("app").application_name("bypass");
    let (client, connection) = config.connect(NoTls).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a direct connection ended");
        }
    });
    Ok(client)
}

fn judge(error: &tokio_postgres::Error) -> Result<(), String> {
    let refusal = error.as_db_error().ok_or_else(|| error.to_string())?;
    let (code, message) = (refusal.code().code(), refusal.message());
    let says_where = refusal.detail().is_some_and(|detail| detail.contains("Owner region:"));
    if code == "25006" && message.contains("is owned by region") && says_where {
        Ok(())
    } else {
        Err(format!("was refused with {code} {message}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cluster::{Cluster, temporary_cluster};

    async fn refusal(
        cluster: &Cluster,
        code: &str,
        message: &str,
        detail: &str,
    ) -> Result<(), String> {
        let client = cluster.connect().await.unwrap();
        let raise = format!(
            "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = '{message}', DETAIL = '{detail}'; END $$"
        );
        judge(&client.batch_execute(&raise).await.unwrap_err())
    }

    #[tokio::test]
    async fn only_a_refusal_that_names_the_owner_keeps_the_promise() {
        let (cluster, _folder) = temporary_cluster("bypass", &[("fsync", "off")]).await.unwrap();
        let message = "partition 7 is owned by region \"us\", not by this region \"eu\"";
        let detail = "Owner region: us, epoch: 3.";
        assert_eq!(refusal(&cluster, "25006", message, detail).await, Ok(()));
        assert!(refusal(&cluster, "42501", message, detail).await.is_err());
        assert!(refusal(&cluster, "25006", message, "").await.is_err());
        assert!(refusal(&cluster, "25006", "cannot execute UPDATE", detail).await.is_err());
    }
}
