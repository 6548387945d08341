//! How does all that the embedded directory keeps get into etcd, and nothing stay behind?
//!
//! ```text
//!   closed      a document "moved" stands in the old directory, which then takes no other write
//!   copied      every document, who owns what as the last one: without it nobody begins
//!   complete    the new directory has all of them, and the old one says so
//! ```
//!
//! Each step is found done or is done again, so what broke off goes on when it is asked for once
//! more. Revisions begin anew: no agent may run meanwhile that compares them with others.

use anyhow::{Context, bail};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::documents::{OWNERSHIP_KEY, json};
use super::{Client, Document, Written};

/// While this document is there, the embedded directory takes no write but to it.
pub const MOVED_KEY: &str = "moved";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MovedDocument {
    /// For people.
    to: String,
    complete: bool,
}

/// Moves every document and returns how many there were.
pub async fn relocate(from: &Client, to: &Client) -> anyhow::Result<usize> {
    let (mut moved, revision) = close(from, to).await?;
    let documents = from.read("").await?.documents;
    let documents: Vec<Document> = documents.into_iter().filter(|d| d.key != MOVED_KEY).collect();
    let (last, rest): (Vec<_>, Vec<_>) = documents.iter().partition(|d| d.key == OWNERSHIP_KEY);
    for document in rest.into_iter().chain(last) {
        copy(document, to).await?;
    }
    let content = |documents: Vec<Document>| -> Vec<(String, Bytes)> {
        documents.into_iter().map(|d| (d.key, d.value)).collect()
    };
    let count = documents.len();
    if content(to.read("").await?.documents) != content(documents) {
        bail!("the directory at {} is not the same: somebody else writes there", to.address());
    }
    moved.complete = true;
    match from.write(MOVED_KEY, revision, Some(json(&moved))).await? {
        Written::At(_) => Ok(count),
        Written::Conflict(_) => bail!("somebody else moves the directory, or calls that off"),
    }
}

/// Opens a directory again whose move was not completed.
pub async fn call_off(from: &Client) -> anyhow::Result<()> {
    let Some((moved, revision)) = read(from).await? else { bail!("nothing is being moved") };
    if moved.complete {
        bail!("everything has moved to {} already: agents may have begun there", moved.to);
    }
    match from.write(MOVED_KEY, revision, None).await? {
        Written::At(_) => Ok(()),
        Written::Conflict(_) => bail!("somebody else moves the directory, or calls that off"),
    }
}

/// Sees to it that the old directory takes no more writes.
async fn close(from: &Client, to: &Client) -> anyhow::Result<(MovedDocument, u64)> {
    let there = to.address().to_owned();
    if let Some((moved, revision)) = read(from).await? {
        if moved.complete {
            bail!("everything has moved to {} already", moved.to);
        }
        if moved.to != there {
            bail!("it is being moved to {}, not to {there}: call that off first", moved.to);
        }
        return Ok((moved, revision));
    }
    if let Some(found) = to.read("").await?.documents.first() {
        bail!("the directory at {there} is not empty: it has document {:?}", found.key);
    }
    let moved = MovedDocument { to: there, complete: false };
    match from.write(MOVED_KEY, 0, Some(json(&moved))).await? {
        Written::At(revision) => Ok((moved, revision)),
        Written::Conflict(_) => bail!("somebody else begins to move the directory"),
    }
}

async fn copy(document: &Document, to: &Client) -> anyhow::Result<()> {
    let Document { key, value, .. } = document;
    if let Written::At(_) = to.write(key, 0, Some(value.clone())).await? {
        return Ok(());
    }
    match to.get(key).await? {
        Some(found) if found.value == *value => Ok(()),
        _ => bail!("document {key:?} at {} is another one", to.address()),
    }
}

async fn read(from: &Client) -> anyhow::Result<Option<(MovedDocument, u64)>> {
    let Some(found) = from.get(MOVED_KEY).await? else { return Ok(None) };
    let moved = serde_json::from_slice(&found.value).context("read where the directory moves")?;
    Ok(Some((moved, found.revision)))
}
