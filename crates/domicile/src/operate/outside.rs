//! What goes on outside for a step of a run: a program, a message to a webhook, or sessions that are opened?
//!
//! One thing at a time for each run. It ends with the run's being performed here: whoever goes on with the run
//! does it again, by the same token.

use std::path::PathBuf;
use std::time::Duration;

use domicile_core::config::Config;
use domicile_core::id::{RegionId, RunId};
use domicile_core::runbook::Answer;
use domicile_core::time::Millis;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{CALL_TIMEOUT, Performing};
use crate::gateway::{WarmUps, WarmedUp};
use crate::proto::WarmUpRequest;
use crate::webhooks::{self, Message};
use crate::{peer, programs};

/// Ours, and those of the regions that answer.
pub(super) struct Gateways {
    pub cluster: String,
    pub here: WarmUps,
    pub peers: Vec<(RegionId, peer::Client)>,
}

pub(super) struct Outside {
    /// Of the step, from 0.
    pub number: usize,
    /// What came of it, and what to write down about it.
    pub task: AbortOnDropHandle<(Answer, String)>,
}

impl Outside {
    pub fn program(
        config: &Config,
        run: &Performing,
        number: usize,
        program: &str,
        within: Millis,
    ) -> Self {
        let folder = config.programs.as_ref().map(PathBuf::from);
        let id = &run.plan.run;
        let environment = [
            ("DOMICILE_RUN", id.to_string()),
            ("DOMICILE_STEP", (number + 1).to_string()),
            ("DOMICILE_TOKEN", format!("{id}/{}", number + 1)),
        ];
        let (program, within) = (program.to_owned(), Duration::from_millis(within.0));
        let task = tokio::spawn(async move {
            let ended = programs::run(folder.as_deref(), &program, &environment, within);
            let (answer, said) = ended.await;
            (answer, format!("program {program}: {said}"))
        });
        Self { number, task: AbortOnDropHandle::new(task) }
    }

    pub fn message(
        config: &Config,
        run: &Performing,
        number: usize,
        webhook: &str,
        within: Millis,
    ) -> Self {
        let message = Message::new(&config.cluster, &run.plan, &run.document, number);
        let (target, within) = (config.webhooks.get(webhook), Duration::from_millis(within.0));
        let (target, webhook) = (target.cloned(), webhook.to_owned());
        let task = tokio::spawn(async move {
            let (answer, said) = webhooks::send(target.as_ref(), &message, within).await;
            (answer, format!("webhook {webhook}: {said}"))
        });
        Self { number, task: AbortOnDropHandle::new(task) }
    }

    pub fn warm_up(
        gateways: Gateways,
        run: RunId,
        number: usize,
        to: RegionId,
        within: Millis,
    ) -> Self {
        let task = tokio::spawn(async move {
            let (all, silent) = gateways.warm_up(&run, &to, within).await;
            let said = format!("{} of {} sessions are open in region {to}", all.ready, all.wanted);
            let silent = silent.iter().map(|region| format!("; {region} did not answer"));
            (Answer::Passed, silent.fold(said, |said, more| said + &more))
        });
        Self { number, task: AbortOnDropHandle::new(task) }
    }
}

impl Gateways {
    /// Returns what came of it everywhere, and who said nothing.
    async fn warm_up(
        self,
        run: &RunId,
        to: &RegionId,
        within: Millis,
    ) -> (WarmedUp, Vec<RegionId>) {
        let patience = Duration::from_millis(within.0);
        let asked = self.peers.into_iter().map(|(region, mut peer)| {
            let request = WarmUpRequest {
                cluster: self.cluster.clone(),
                run: run.to_string(),
                to: to.to_string(),
                within_ms: within.0,
            };
            async move {
                let answer = timeout(patience + CALL_TIMEOUT, peer.warm_up(request)).await;
                (region, answer.ok().and_then(Result::ok).map(tonic::Response::into_inner))
            }
        });
        let asked = futures_util::future::join_all(asked);
        let (mut all, answers) = tokio::join!(self.here.warm_up(to, patience), asked);
        let mut silent = Vec::new();
        for (region, answer) in answers {
            match answer {
                Some(answer) => {
                    all.ready += usize::try_from(answer.ready).unwrap_or(0);
                    all.wanted += usize::try_from(answer.wanted).unwrap_or(0);
                }
                None => silent.push(region),
            }
        }
        (all, silent)
    }
}
