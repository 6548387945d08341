//! Whom may runbooks tell, and where are the secrets for that kept?

use std::collections::BTreeMap;

use domicile_core::config::{Secret, Url, Webhook};
use domicile_core::runbook::file::Kind;

use super::mistake::Mistakes;
use super::resolve::required;
use super::written::WrittenWebhook;
use crate::webhooks::target;

/// What of it is wrong is left out.
pub(super) fn resolve(
    written: &[WrittenWebhook],
    mistakes: &mut Mistakes,
) -> BTreeMap<String, Webhook> {
    let mut webhooks = BTreeMap::new();
    for (i, written) in written.iter().enumerate() {
        let path = |key: &str| format!("webhook[{}].{key}", i + 1);
        let name = required(&path("name"), written.name.as_deref(), mistakes);
        if let Some(Err(wrong)) = name.map(|name| Kind::Name.check(name)) {
            mistakes.add(path("name"), wrong);
        }
        let url = required(&path("url"), written.url.as_deref(), mistakes);
        let url = url.and_then(|text| match self::url(text) {
            Ok(url) => Some(url),
            Err(wrong) => {
                mistakes.add(path("url"), wrong);
                None
            }
        });
        let headers = headers(&path("headers"), written.headers.as_ref(), mistakes);
        let (Some(name), Some(url)) = (name, url) else { continue };
        let webhook = Webhook { url, headers, ca: written.ca.clone() };
        if webhooks.insert(name.to_owned(), webhook).is_some() {
            mistakes.add(path("name"), format!("there is a webhook \"{name}\" already"));
        }
    }
    webhooks
}

fn url(text: &str) -> Result<Url, String> {
    match secret(text) {
        Some(secret) => Ok(Url::Kept(secret)),
        None => target::address(text).map(|_| Url::Given(text.to_owned())),
    }
}

fn headers(
    path: &str,
    written: Option<&BTreeMap<String, String>>,
    mistakes: &mut Mistakes,
) -> BTreeMap<String, Secret> {
    let mut headers = BTreeMap::new();
    for (name, value) in written.into_iter().flatten() {
        if let Err(wrong) = target::header(name) {
            mistakes.add(path, wrong);
        }
        match secret(value) {
            Some(secret) => drop(headers.insert(name.clone(), secret)),
            None => mistakes.add(path, format!("{name}: expected file:PATH or env:NAME")),
        }
    }
    headers
}

/// What is no secret's place is not told: it may be the secret.
fn secret(text: &str) -> Option<Secret> {
    let kept = |at: &str| (!at.trim().is_empty()).then(|| at.to_owned());
    match text.split_once(':')? {
        ("file", path) => kept(path).map(Secret::File),
        ("env", name) => kept(name).map(Secret::Environment),
        _ => None,
    }
}
