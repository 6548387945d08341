//! How is somebody told by a webhook, and what does it say?
//!
//! A message is sent until somebody has answered it, for as long as its step may take: the token that it
//! carries is the same each time, so it may come twice. Only what would be the same again is not repeated.

use std::time::Duration;

use bytes::Bytes;
use domicile_core::config::Webhook;
use domicile_core::runbook;
use hyper::StatusCode;
use tokio::time::{sleep, timeout};

mod message;
mod post;
pub mod target;

pub use message::Message;
use post::{Answer, PostError, post};
use target::Target;

/// Doubled after each attempt.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Whose answer has not begun after half the time that there is, but at least so long, is asked anew.
const PATIENCE_MIN: Duration = Duration::from_secs(5);

/// Sends a message until an answer begins, for `within` at most, and returns what came of it and what to
/// write down about it.
pub async fn send(
    webhook: Option<&Webhook>,
    message: &Message,
    within: Duration,
) -> (runbook::Answer, String) {
    let Some(webhook) = webhook else {
        let text = "has not been called: the configuration here has no such [[webhook]]";
        return (runbook::Answer::Failed, text.to_owned());
    };
    let target = match Target::of(webhook).await {
        Ok(target) => target,
        Err(error) => {
            return (runbook::Answer::Failed, format!("has not been called: {error:#}"));
        }
    };
    let body = serde_json::to_vec(message).expect("a message of plain fields is always JSON");
    let (token, body) = (message.token.as_str(), Bytes::from(body));
    let (patience, mut last) = (PATIENCE_MIN.max(within / 2), None);
    match timeout(within, until_answered(&target, token, &body, patience, &mut last)).await {
        // What else it says is not part of that time: its status is known.
        Ok((answer, posted)) => (answer, told(posted).await),
        Err(_) => {
            let last = last.map_or_else(String::new, |last| format!("; before: {last}"));
            (runbook::Answer::Failed, format!("no answer within {within:?}{last}"))
        }
    }
}

/// Returns the last attempt, and what it means; `last` is what the one before came to.
async fn until_answered(
    target: &Target,
    token: &str,
    body: &Bytes,
    patience: Duration,
    last: &mut Option<String>,
) -> (runbook::Answer, Result<Answer, PostError>) {
    let mut pause = PAUSE_FIRST;
    loop {
        let posted = post(target, token, body.clone(), patience).await;
        match verdict(&posted) {
            Some(answer) => return (answer, posted),
            None => *last = Some(told(posted).await),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Returns what an attempt means; nothing where another one may come to something else.
fn verdict(posted: &Result<Answer, PostError>) -> Option<runbook::Answer> {
    match posted {
        Ok(answer) if answer.status.is_success() => Some(runbook::Answer::Passed),
        Ok(answer) => (!is_passing(answer.status)).then_some(runbook::Answer::Failed),
        Err(PostError::Encrypt(_) | PostError::Token(_)) => Some(runbook::Answer::Failed),
        Err(PostError::Connect(_) | PostError::Exchange(_) | PostError::Silent(_)) => None,
    }
}

/// Is it not about the message itself?
fn is_passing(status: StatusCode) -> bool {
    let busy = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    status.is_server_error() || busy.contains(&status)
}

async fn told(posted: Result<Answer, PostError>) -> String {
    let answer = match posted {
        Ok(answer) => answer,
        Err(error) => return error.to_string(),
    };
    let status = answer.status;
    match answer.first_line().await.as_str() {
        "" => status.to_string(),
        line => format!("{status}: {line}"),
    }
}

#[cfg(test)]
mod tests;
