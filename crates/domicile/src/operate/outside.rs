//! What goes on outside for a step of a run: a program, or a message to a webhook?
//!
//! One thing at a time for each run. It ends with the run's being performed here: whoever goes on with the run
//! does it again, by the same token.

use std::path::PathBuf;
use std::time::Duration;

use domicile_core::config::Config;
use domicile_core::runbook::Answer;
use domicile_core::time::Millis;
use tokio_util::task::AbortOnDropHandle;

use super::Performing;
use crate::programs;
use crate::webhooks::{self, Message};

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
}
