//! How does all that the embedded directory keeps get into etcd, and nothing stay behind?
//!
//! ```text
//!   closed      a document "moved" stands in the old directory, which then takes no other write
//!   copied      every document, who owns what as the last one: without it nobody begins
//!   complete    the new directory has all of them, and the old one says so: no way back
//!   arrived     the new one says so, too, for whom the old one does not answer any more
//! ```
//!
//! Each step is found done or is done again, so what broke off goes on when it is asked for once
//! more. Whoever writes meanwhile finds the old directory closed, and who owns something lives on what its
//! peers promise. Revisions go on where the old directory ends, so that whoever has read both compares them.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::documents::{OWNERSHIP_KEY, json};
use super::{Client, Document, Written};

/// While this document is there, the embedded directory takes no write but to it.
pub const MOVED_KEY: &str = "moved";

/// Of what has come from another directory.
pub const ARRIVED_KEY: &str = "arrived";

/// Revisions that the old directory has left for what is still written there: that all has moved.
const LAST_WORDS: u64 = 1000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MovedDocument {
    /// For people.
    pub to: String,
    pub complete: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ArrivedDocument {
    /// No revision of the directory that it comes from is higher.
    pub after: u64,
    pub complete: bool,
}

/// Moves every document and returns how many there were. Of what has moved already nothing is done again.
pub async fn relocate(from: &Client, to: &Client) -> anyhow::Result<usize> {
    let (moved, revision) = close(from, to).await?;
    let read = from.read("").await?;
    let documents = without_marks(read.documents);
    if !moved.complete {
        copy_all(&documents, read.revision + LAST_WORDS, to).await?;
        let moved = MovedDocument { complete: true, ..moved };
        match from.write(MOVED_KEY, revision, Some(json(&moved))).await? {
            Written::At(_) => {}
            Written::Conflict(_) => bail!("somebody else moves the directory, or calls that off"),
        }
    }
    arrive(to).await?;
    Ok(documents.len())
}

/// Copies what is not there yet, from a directory none of whose revisions is higher than `after`.
async fn copy_all(documents: &[Document], after: u64, to: &Client) -> anyhow::Result<()> {
    let arrived = json(&ArrivedDocument { after, complete: false });
    // What stands there is of an attempt that broke off, and the old directory was closed since.
    to.write(ARRIVED_KEY, 0, Some(arrived)).await?;
    let (last, rest): (Vec<_>, Vec<_>) = documents.iter().partition(|d| d.key == OWNERSHIP_KEY);
    for document in rest.into_iter().chain(last) {
        copy(document, to).await?;
    }
    let content = |documents: &[Document]| -> Vec<(String, Bytes)> {
        documents.iter().map(|d| (d.key.clone(), d.value.clone())).collect()
    };
    let found = without_marks(to.read("").await?.documents);
    if content(&found) != content(documents) {
        bail!("the directory at {} is not the same: somebody else writes there", to.address());
    }
    Ok(())
}

/// Has the new directory say that everything is there.
async fn arrive(to: &Client) -> anyhow::Result<()> {
    let Some(found) = to.get(ARRIVED_KEY).await? else {
        bail!("the directory at {} does not say what has come to it", to.address())
    };
    let arrived: ArrivedDocument =
        serde_json::from_slice(&found.value).context("read what has come")?;
    if arrived.complete {
        return Ok(());
    }
    let arrived = ArrivedDocument { complete: true, ..arrived };
    match to.write(ARRIVED_KEY, found.revision, Some(json(&arrived))).await? {
        Written::At(_) => Ok(()),
        Written::Conflict(_) => bail!("somebody else moves the directory"),
    }
}

fn without_marks(mut documents: Vec<Document>) -> Vec<Document> {
    documents.retain(|document| ![MOVED_KEY, ARRIVED_KEY].contains(&document.key.as_str()));
    documents
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
        match (is_same(&moved.to, &there), moved.complete) {
            (true, _) => return Ok((moved, revision)),
            (false, true) => bail!("everything has moved to {} already", moved.to),
            (false, false) => {
                bail!("it is being moved to {}, not to {there}: call that off first", moved.to)
            }
        }
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

/// Each region may name the members of one etcd in its own order.
fn is_same(one: &str, other: &str) -> bool {
    let members = |listed: &str| listed.split(", ").map(str::to_owned).collect::<BTreeSet<_>>();
    members(one) == members(other)
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
