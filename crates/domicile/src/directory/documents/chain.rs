//! Was a run's journal, or the history of all runs, changed after it was written?
//!
//! ```text
//!   head of the run ──► line 1 ──► line 2 ──► ... ──► last line ◄── the run that ended next
//!                        hash       hash       hash, and the digest of all else in the document
//! ```
//!
//! A line's hash is that of the one before it together with the line, and the first one's that of the run's head. So
//! whoever changes, adds or takes out a line changes the hash of all that follow, and of the runs that ended
//! after this one. It is no signature: whoever may write the directory can write it anew as a whole. Who keeps
//! the last hash elsewhere finds that, too.
//!
//! Documents are hashed as the JSON that is stored: what another version adds to them counts.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};

use super::{RunDocument, RunEntry, RunState, lift_drill};

/// What of a run is the same from its start to its end.
const HEAD: &[&str] = &[
    "run",
    "intent",
    "runbook",
    "started_at_ms",
    "started_by",
    "from",
    "estimated_loss_ms",
    "silent_ms",
    "steps",
];

/// A line of a run's journal, by the run and the line's hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkDocument {
    pub run: String,
    pub hash: String,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Break {
    pub run: String,
    /// The line of its journal, from 1; absent where it is not about a line.
    pub entry: Option<usize>,
    pub why: String,
}

/// What became of the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Runs all of whose lines are chained.
    pub chained: usize,
    /// Runs with lines that an older Domicile wrote, without hashes.
    pub unchained: Vec<String>,
    pub broken: Vec<Break>,
    /// Where the history ends: kept elsewhere, it shows whether all was written anew.
    pub last: Option<LinkDocument>,
}

/// The same of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Chain {
    Holds,
    Unchained,
    Broken { entry: Option<usize>, why: String },
}

impl Verified {
    pub fn of(&self, run: &str) -> Chain {
        if let Some(Break { entry, why, .. }) = self.broken.iter().find(|it| it.run == run) {
            return Chain::Broken { entry: *entry, why: why.clone() };
        }
        match self.unchained.iter().any(|other| other == run) {
            true => Chain::Unchained,
            false => Chain::Holds,
        }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds => f.write_str("the chain holds: it is as it was written"),
            Self::Unchained => {
                f.write_str("unchained: lines of it are from before there were hashes")
            }
            Self::Broken { entry: Some(line), why } => write!(f, "broken at line {line}: {why}"),
            Self::Broken { entry: None, why } => write!(f, "broken: {why}"),
        }
    }
}

impl RunDocument {
    /// Adds a line to the journal, chained to those before it.
    pub fn note(&mut self, at_ms: u64, executor: &str, step: &str, what: String) {
        let (executor, step) = (executor.to_owned(), step.to_owned());
        self.chain(RunEntry { at_ms, executor, step, what, covers: None, hash: None });
    }

    /// Adds the line with which the run ends, and chains to it the run that ended before, and all else that
    /// its document says: nothing of that may change after it.
    pub fn close(&mut self, at_ms: u64, executor: &str, what: String, after: Option<LinkDocument>) {
        self.after = after;
        let (executor, step) = (executor.to_owned(), "run".to_owned());
        let covers = Some(rest(&plain(self)));
        self.chain(RunEntry { at_ms, executor, step, what, covers, hash: None });
    }

    fn chain(&mut self, mut entry: RunEntry) {
        let stored = plain(self);
        let known = |before: String, line| hash_of(line).unwrap_or_else(|| link(&before, line));
        let before = lines(&stored).iter().fold(head(&stored), known);
        entry.hash = Some(link(&before, &plain(&entry)));
        self.journal.push(entry);
    }

    /// Returns the line with which it ended, if it did and that is chained.
    pub fn end(&self) -> Option<LinkDocument> {
        let last = self.journal.last().filter(|_| self.state != RunState::Running)?;
        Some(LinkDocument { run: self.run.clone(), hash: last.hash.clone()? })
    }
}

/// Holds all runs against what they carry of one another; each is a document as it is stored.
pub fn verify<'a>(stored: impl Iterator<Item = &'a [u8]>) -> serde_json::Result<Verified> {
    let mut runs = BTreeMap::new();
    for bytes in stored {
        let document: RunDocument = serde_json::from_slice(bytes)?;
        runs.insert(document.run.clone(), (document, serde_json::from_slice::<Json>(bytes)?));
    }
    let mut verified = Verified::default();
    for (run, (document, stored)) in &runs {
        let broken = broken_line(stored).or_else(|| broken_link(document, &runs));
        match broken {
            Some((entry, why)) => verified.broken.push(Break { run: run.clone(), entry, why }),
            None if lines(stored).iter().all(|line| hash_of(line).is_some()) => {
                verified.chained += 1;
            }
            None => verified.unchained.push(run.clone()),
        }
    }
    verified.last = last_end(runs.values().map(|(document, _)| document));
    Ok(verified)
}

/// Returns where the history ends.
pub fn last_end<'a>(documents: impl Iterator<Item = &'a RunDocument>) -> Option<LinkDocument> {
    let ended = documents.filter_map(|document| Some((ended_at(document), document.end()?)));
    ended.max_by(|(a, x), (b, y)| (a, &x.run).cmp(&(b, &y.run))).map(|(_, end)| end)
}

type Runs = BTreeMap<String, (RunDocument, Json)>;

/// The first line of the journal that is not as it was written, and why that is known.
fn broken_line(stored: &Json) -> Option<(Option<usize>, String)> {
    let lines = lines(stored);
    let mut before = head(stored);
    let mut chained = false;
    for (number, line) in (1..).zip(lines) {
        let expected = link(&before, line);
        match hash_of(line) {
            Some(hash) if hash != expected => {
                let why = "this line, what stood before it or the head of the run was changed";
                return Some((Some(number), why.to_owned()));
            }
            None if chained => {
                return Some((Some(number), "it has no hash, and lines before it do".to_owned()));
            }
            hash => {
                chained |= hash.is_some();
                before = expected;
            }
        }
    }
    let ended = stored.get("state").is_none_or(|state| state != "running");
    let why = match lines.last()?.get("covers").and_then(Json::as_str) {
        _ if !chained || !ended => return None,
        Some(covers) if covers == rest(stored) => return None,
        Some(_) => "what the document says beside its journal was changed after its end",
        None => "the line with which it ended is not there any more",
    };
    Some((None, why.to_owned()))
}

/// Is the run that ended before this one not there any more, or not as it was?
fn broken_link(document: &RunDocument, runs: &Runs) -> Option<(Option<usize>, String)> {
    let LinkDocument { run: before, hash } = document.after.as_ref()?;
    let Some((found, _)) = runs.get(before) else {
        let why = format!("run {before} ended before it, and was taken out of the history");
        return was_removed(before, document, runs).then_some((None, why));
    };
    let has = found.journal.iter().any(|entry| entry.hash.as_ref() == Some(hash));
    let why = format!("run {before} ended before it, and not as it stands in the history now");
    (!has).then_some((None, why))
}

/// The history forgets the oldest runs: what is missing although an older one is there was not forgotten.
fn was_removed(missing: &str, next: &RunDocument, runs: &Runs) -> bool {
    let family = |run: &str| run.split('/').next().unwrap_or_default().to_owned();
    runs.values().any(|(other, _)| {
        let older = family(&other.run) < family(missing) && lift_drill(other).is_none();
        older && other.state != RunState::Running && ended_at(other) < ended_at(next)
    })
}

fn ended_at(document: &RunDocument) -> u64 {
    document.journal.last().map_or(document.started_at_ms, |entry| entry.at_ms)
}

fn plain(document: &impl Serialize) -> Json {
    serde_json::to_value(document).expect("a document is JSON")
}

fn lines(stored: &Json) -> &[Json] {
    stored.get("journal").and_then(Json::as_array).map_or(&[], Vec::as_slice)
}

fn hash_of(line: &Json) -> Option<String> {
    line.get("hash")?.as_str().map(str::to_owned)
}

/// What the first line is chained to.
fn head(stored: &Json) -> String {
    let kept = HEAD.iter().filter_map(|key| Some(((*key).to_owned(), stored.get(key)?.clone())));
    digest("", &Json::Object(kept.collect()))
}

fn link(before: &str, line: &Json) -> String {
    digest(before, &without(line, "hash"))
}

/// All but the journal.
fn rest(stored: &Json) -> String {
    digest("", &without(stored, "journal"))
}

fn without(of: &Json, key: &str) -> Json {
    let mut fields: Map<String, Json> = of.as_object().cloned().unwrap_or_default();
    fields.remove(key);
    Json::Object(fields)
}

fn digest(before: &str, value: &Json) -> String {
    let digest = Sha256::digest(format!("{before}\n{value}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
