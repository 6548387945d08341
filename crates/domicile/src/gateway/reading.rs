//! Is what a transaction would read here as new as its session asks for?
//!
//! Looked at when the transaction begins, and never in its middle. What is not new enough yet is waited
//! for; then the owner is asked, where there is one for everything; then the client is told.
//!
//! The settings count from when they are sent, in whatever transaction: `SET LOCAL` does nothing, and a
//! ROLLBACK takes nothing back. What a statement asks [in its comment](super::comment) stands above them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use domicile_core::freshness::{Freshness, duration};
use domicile_core::id::RegionId;
use domicile_core::lsn::{Cut, Frontier};
use domicile_core::route::{self, Caller, Home, Mode};
use domicile_core::time::Millis;
use domicile_pg::backend::{self, Report};
use domicile_pg::frontend::{self, Frontend, tag as from_client};
use domicile_pg::startup::Startup;
use tokio::time::timeout;

use super::modes::Says;
use super::refusals::{self, End};
use super::session::Session;
use super::setting::Meaning;
use super::setting::ours::{FRESHNESS, REPORT, TOKEN, WAIT};
use super::{Shared, cut, setting};
use crate::staleness::Staleness;
use crate::tokens::{Refused, Tokens};

/// How long a transaction waits for what it asks for, unless it says otherwise.
const WAIT_DEFAULT: Millis = Millis(1000);
/// No longer than that the age of what is shown may be unknown to who asks for it.
const STALENESS_KNOWN_FOR: Millis = Millis(1000);
/// More logs than any cluster has: who says so makes them up.
const SEEN_MAX: usize = 1000;
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What a session asks of its reads.
#[derive(Clone, Debug)]
struct Terms {
    freshness: Option<Freshness>,
    wait: Millis,
    /// The session is told its token after each transaction.
    reports_token: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self { freshness: None, wait: WAIT_DEFAULT, reports_token: false }
    }
}

/// What a session asks of its reads, and what it has to find there.
#[derive(Debug, Default)]
pub struct Reading {
    /// As the session began.
    first: Terms,
    terms: Terms,
    /// What a statement asks for the transaction that it begins.
    pub said: Option<Freshness>,
    /// What the session was given to see, and has seen elsewhere.
    seen: Frontier,
    /// It has been there, and how far that region was then is not known here yet.
    elsewhere: BTreeSet<RegionId>,
    /// The server here does not take it, and would not another time.
    stays_away: bool,
    /// This transaction is the owner's: it would have had to wait for too long here.
    at_owner: bool,
    /// This transaction [only reads](super::only_reads), as long as it is in this region.
    pub only_reads: bool,
    /// This transaction makes temporary tables, or changes some, and so writes in this region.
    pub writes_here: bool,
    /// It has said that it only reads.
    pub promised: bool,
    /// Temporary tables that the session has made in this region.
    pub temporary: Vec<Vec<u8>>,
    /// What the unnamed statement says of whether its transaction writes.
    pub unnamed: Option<Says>,
}

impl Reading {
    /// Reads the startup packet of a session that has come in where `freshness` is asked for, unless it says otherwise.
    pub fn begin(
        startup: &Startup,
        freshness: Option<Freshness>,
        tokens: Option<&Tokens>,
    ) -> Result<Self, End> {
        let mut reading = Self::default();
        reading.terms.freshness = freshness;
        for (name, value) in setting::at_startup(startup) {
            let set = reading.set(&name, Some(&value), tokens);
            set.map_err(refusals::invalid_for_session)?;
        }
        reading.first = reading.terms.clone();
        Ok(reading)
    }

    /// The session begins with `defaults`, where its startup packet says nothing else. Returns what of that
    /// is wrong, and left out.
    pub fn default_to(
        &mut self,
        defaults: &[(String, String)],
        startup: &Startup,
        tokens: Option<&Tokens>,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, value) in defaults {
            if setting::at_startup(startup).all(|(said, _)| said != *name) {
                wrong.extend(self.set(name, Some(value), tokens).err());
            }
        }
        self.first = self.terms.clone();
        wrong
    }

    /// Takes in what a client, or its role, sets. Fails where that is no value for it, with the message.
    pub fn set(
        &mut self,
        name: &str,
        value: Option<&str>,
        tokens: Option<&Tokens>,
    ) -> Result<(), String> {
        let invalid = |why: String| format!("invalid value for parameter \"{name}\": {why}");
        match (name, value) {
            (FRESHNESS, Some(value)) => {
                let freshness = value.parse::<Freshness>().map_err(|e| invalid(e.to_string()))?;
                self.terms.freshness = Some(freshness);
            }
            (FRESHNESS, None) => self.terms.freshness = self.first.freshness,
            (WAIT, Some(value)) => {
                let expected =
                    || invalid(format!("\"{value}\" is not a duration, as in 250ms or 2s"));
                self.terms.wait = duration(value).ok_or_else(expected)?;
            }
            (WAIT, None) => self.terms.wait = self.first.wait,
            (REPORT, Some(value)) => {
                let expected = || invalid(format!("\"{value}\" is neither on nor off"));
                self.terms.reports_token = switch(value).ok_or_else(expected)?;
            }
            (REPORT, None) => self.terms.reports_token = self.first.reports_token,
            (TOKEN, Some(value)) => {
                let given = tokens.ok_or(Refused::NoSecret).and_then(|tokens| tokens.read(value));
                let mut seen = self.seen.clone();
                seen.join(&given.map_err(|e| invalid(e.to_string()))?);
                if seen.iter().count() > SEEN_MAX {
                    return Err(invalid(format!(
                        "with it the session has seen more than {SEEN_MAX} logs"
                    )));
                }
                self.seen = seen;
                self.terms.freshness = self.terms.freshness.or(Some(Freshness::Session));
            }
            ("all", None) => self.terms = self.first.clone(),
            _ => {}
        }
        Ok(())
    }

    /// Waits until this region shows what the session has to find; fails where it never will.
    async fn wait(&mut self, freshness: Freshness, shared: &Shared) -> Result<(), Cut> {
        let Some(staleness) = &shared.config.staleness else {
            return if freshness == Freshness::Eventual {
                Ok(())
            } else {
                std::future::pending().await
            };
        };
        match freshness {
            Freshness::Eventual => Ok(()),
            Freshness::Session => {
                while let Some(region) = self.elsewhere.first() {
                    match staleness.everything_at(region).await {
                        Ok(everything) => {
                            self.seen.join(&everything);
                            self.elsewhere.pop_first();
                        }
                        Err(error) => {
                            tracing::debug!(%region, "a session waits for where it was: {error:#}");
                            tokio::time::sleep(ASK_AGAIN).await;
                        }
                    }
                }
                staleness.seen(&self.seen).await
            }
            Freshness::Strong | Freshness::Bounded(_) => {
                let as_of = freshness.as_of(staleness.now()).unwrap_or_default();
                staleness.reached(as_of).await;
                Ok(())
            }
        }
    }

    /// How new the reads have to be of the transaction that runs or comes next.
    pub fn freshness(&self) -> Option<Freshness> {
        self.said.or(self.terms.freshness)
    }

    /// How long a transaction of the session waits for that.
    pub fn wait_max(&self) -> Millis {
        self.terms.wait
    }

    /// The session is told its token after each transaction.
    pub fn reports_token(&self) -> bool {
        self.terms.reports_token
    }

    /// The session reads in its own region, whoever owns what.
    pub fn is_here(&self) -> bool {
        route::reads_near(self.freshness()) && !self.at_owner
    }

    /// The transaction is over.
    pub fn forget_local(&mut self) {
        self.said = None;
        (self.only_reads, self.writes_here, self.promised) = (false, false, false);
    }

    /// The session was in `region`: what it saw and wrote there it has to find again.
    pub fn was_at(&mut self, region: RegionId) {
        self.elsewhere.insert(region);
    }
}

/// What came of waiting for what a transaction reads.
enum Waited {
    Fresh,
    Stale(Stale),
    /// The client wants it no more.
    Cancelled,
}

/// Why a transaction may not begin here.
enum Stale {
    /// Not within the time that it may wait.
    TooOld,
    /// What it has to see is lost.
    Lost(Cut),
}

impl Session {
    /// The client is let in, and its role begins with these.
    pub fn begin_with(&mut self, defaults: &[(String, String)]) {
        self.key.default_to(defaults, &self.startup);
        let tokens = self.shared.config.staleness.as_ref().map(Staleness::tokens);
        for why in self.reading.default_to(defaults, &self.startup, tokens) {
            refusals::ignored(why).put_notice(&mut self.client.outgoing);
        }
    }

    /// Sees to it that a transaction which begins with this message reads what its session asks for.
    /// Returns whether it may begin; if not, the client has heard why.
    pub async fn be_fresh(&mut self, tag: u8, raw: &Bytes, whole: bool) -> Result<bool, End> {
        self.reading.at_owner = false;
        let (Some(freshness), Caller::Client) = (self.reading.freshness(), self.caller) else {
            return Ok(true);
        };
        if !route::waits(self.shared.config.mode, freshness) {
            // It may go there with this very message. Who waits for an owner waits as others do.
            let Home::At(owner) = self.wanted_home() else { return Ok(true) };
            let staleness = self.shared.config.staleness.as_ref();
            if staleness.is_none_or(|staleness| staleness.is_current(&owner)) {
                return Ok(true);
            }
        }
        Box::pin(self.wait_to_be_fresh(freshness, tag, raw, whole)).await
    }

    async fn wait_to_be_fresh(
        &mut self,
        freshness: Freshness,
        tag: u8,
        raw: &Bytes,
        whole: bool,
    ) -> Result<bool, End> {
        let mode = self.shared.config.mode;
        self.reading.at_owner =
            !route::waits(mode, freshness) || mode == Mode::FollowOwner && !self.come_here().await;
        let begins = !matches!(tag, from_client::SYNC | from_client::FLUSH)
            && !sets_only(tag, raw, &self.client.incoming);
        // Whatever is there is new enough for who takes anything.
        let takes_anything = self.reading.at_owner && freshness == Freshness::Eventual;
        if !begins || takes_anything {
            return Ok(true);
        }
        let stale = match self.wait_or_hear(freshness).await? {
            Waited::Fresh => return Ok(true),
            Waited::Stale(stale) => stale,
            Waited::Cancelled if whole => {
                self.refuse(tag, &refusals::cancelled());
                return Ok(false);
            }
            // The rest of a large message is not here yet.
            Waited::Cancelled => return Err(refusals::ended_by(refusals::cancelled())),
        };
        if let (Stale::TooOld, false) = (&stale, self.reading.at_owner)
            && self.asks_owner().await
        {
            self.reading.at_owner = true;
            return Ok(true);
        }
        let age = self.shared.config.staleness.as_ref().and_then(Staleness::age);
        let report = match stale {
            Stale::TooOld => refusals::not_fresh(freshness, age, self.reading.terms.wait),
            Stale::Lost(place) => refusals::seen_is_lost(&place),
        };
        if !whole {
            return Err(refusals::ended_by(report));
        }
        self.refuse(tag, &report);
        Ok(false)
    }

    /// Waits until the session reads what it asks for where it lives, no longer than it wants to.
    async fn wait_or_hear(&mut self, freshness: Freshness) -> Result<Waited, End> {
        let owner = match self.wanted_home() {
            Home::At(region) => region,
            Home::Wait => self.home.region.clone(),
        };
        let Self { reading, shared, cancellable, client, .. } = self;
        let wait = Duration::from_millis(reading.terms.wait.0);
        let fresh = async {
            match (&shared.config.staleness, reading.at_owner) {
                (Some(staleness), true) => {
                    staleness.becomes_current(&owner).await;
                    Ok(())
                }
                (None, true) => Ok(()),
                (_, false) => reading.wait(freshness, shared).await,
            }
        };
        let waiting = timeout(wait, fresh);
        tokio::pin!(waiting);
        loop {
            tokio::select! {
                waited = &mut waiting => return Ok(match waited {
                    Ok(Ok(())) => Waited::Fresh,
                    Ok(Err(place)) => Waited::Stale(Stale::Lost(place)),
                    Err(_) => Waited::Stale(Stale::TooOld),
                }),
                () = shared.shutdown.cancelled() => return Err(refusals::shutting_down()),
                () = cancellable.called() => return Ok(Waited::Cancelled),
                () = client.moved() => if client.has_ended() { return Err(End::Quietly) },
            }
        }
    }

    /// Has the session live at the owner of everything, where what it reads is as new as can be. Returns whether it
    /// does: not where it is not certain who that is.
    async fn asks_owner(&mut self) -> bool {
        let routes = self.shared.routes();
        let Some(owner) = route::instead(self.shared.config.mode, &routes) else { return false };
        let staleness = self.shared.config.staleness.as_ref();
        staleness.is_none_or(|staleness| staleness.is_current(owner))
            && (*owner == self.home.region || self.move_to(owner).await.is_ok())
    }

    /// Has a session that reads in this region live here. Returns whether it does: what it would read at
    /// the owner is as new as can be.
    async fn come_here(&mut self) -> bool {
        let here = self.shared.config.region.clone();
        if self.home.region == here && !self.home.link.has_ended() {
            return true;
        }
        if self.reading.stays_away {
            return false;
        }
        let moved = self.move_to(&here).await;
        self.reading.stays_away = moved.as_ref().is_err_and(|error| !error.is_passing());
        moved.is_ok()
    }

    /// How old is what this session reads?
    pub async fn staleness(&self) -> String {
        let known = match &self.shared.config.staleness {
            Some(_) if self.home.region != self.shared.config.region => Some(Millis(0)),
            Some(staleness) => {
                let recent = Freshness::Bounded(STALENESS_KNOWN_FOR).as_of(staleness.now());
                let wait = Duration::from_millis(self.reading.terms.wait.0);
                let _ = timeout(wait, staleness.reached(recent.unwrap_or_default())).await;
                staleness.age()
            }
            None => None,
        };
        known.map_or("unknown".to_owned(), |age| format!("{}ms", age.0))
    }

    /// What this session has written and seen, for another one to find.
    pub async fn token(&mut self) -> anyhow::Result<String> {
        let Self { reading, shared, home, at_other, .. } = self;
        let staleness = shared.config.staleness.as_ref().context("nobody knows it here")?;
        let wait = Duration::from_millis(reading.terms.wait.0);
        let now = at_other.iter().chain([&home.region]);
        let regions: BTreeSet<RegionId> = reading.elsewhere.iter().chain(now).cloned().collect();
        let mut shown = Frontier::default();
        for region in regions {
            let everything = timeout(wait, staleness.everything_at(&region)).await;
            let everything = everything.with_context(|| format!("region {region} is silent"))??;
            // It has left there: nobody has to be asked for that again.
            if reading.elsewhere.remove(&region) {
                reading.seen.join(&everything);
            }
            shown.join(&everything);
        }
        shown.join(&reading.seen);
        Ok(staleness.tokens().write(shown)?)
    }

    /// Answers a message with an error, in the server's stead: nothing is asked of that now. What it has
    /// open stays open.
    pub fn refuse(&mut self, tag: u8, report: &Report<'_>) {
        let out = &mut self.client.outgoing;
        report.put_error(out);
        match tag {
            // Nothing more comes of them.
            from_client::QUERY | from_client::FUNCTION_CALL | from_client::SYNC => {
                backend::put_ready_for_query(out, self.track.status());
            }
            _ => self.skipping = true,
        }
    }
}

/// Reads a switch in the words that drivers use for one.
fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// Is this a text of settings, and what was sent with it, `ahead`, up to the next Sync, about nothing else?
/// What a session asks for may be changed whatever it asked for before.
pub fn sets_only(tag: u8, raw: &Bytes, ahead: &[u8]) -> bool {
    let sets = |sql| matches!(setting::read(sql), Meaning::Settings { .. } | Meaning::DiscardAll);
    let body = cut::body(raw);
    let mut prepared = match frontend::read(tag, &body) {
        Ok(Frontend::Query(sql)) => return sets(sql),
        Ok(Frontend::Parse { statement, sql }) if sets(sql) => vec![statement],
        _ => return false,
    };
    for (tag, body) in cut::ahead(ahead) {
        match frontend::read(tag, body) {
            Ok(Frontend::Sync) => return true,
            Ok(Frontend::Parse { statement, sql }) if sets(sql) => prepared.push(statement),
            Ok(Frontend::Bind { statement, .. }) if prepared.contains(&statement) => {}
            Ok(Frontend::Describe(_) | Frontend::Execute { .. } | Frontend::Close(_)) => {}
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens;

    fn begin(parameters: &[(&str, &str)]) -> Result<Reading, String> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let parameters = parameters.iter().map(own).collect();
        let begun = Reading::begin(&Startup { major: 3, minor: 0, parameters }, None, None);
        begun.map_err(|end| format!("{end:?}"))
    }

    #[test]
    fn what_comes_with_a_setting_is_not_taken_for_one() {
        let message = |tag: u8, body: &[u8]| -> Vec<u8> {
            let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
            [&[tag][..], &length, body].concat()
        };
        let parse = |sql: &str| message(b'P', format!("\0{sql}\0\0\0").as_bytes());
        let [bind, execute, sync] =
            [message(b'B', b"\0\0\0\0\0\0\0\0"), message(b'E', b"\0\0\0\0\0"), message(b'S', b"")];
        let run = [bind.clone(), execute].concat();
        let set = Bytes::from(parse("SET domicile.freshness = 'strong'"));
        let alone = |ahead: &[&[u8]]| sets_only(b'P', &set, &ahead.concat());
        assert!(alone(&[&run, &sync]));
        assert!(alone(&[&run, &sync, &parse("SELECT 1"), &run, &sync]), "it is the next one's");
        assert!(alone(&[&run, &parse("SET a = 1"), &run, &sync]));
        assert!(!alone(&[&run, &parse("SELECT 1"), &run, &sync]));
        assert!(!alone(&[&run]), "more may come");
        assert!(!alone(&[&message(b'B', b"\0other\0\0\0\0\0\0\0"), &sync]));
        assert!(sets_only(b'Q', &message(b'Q', b"SET a = 1\0").into(), &bind));
    }

    #[test]
    fn a_session_may_say_at_its_beginning_what_it_asks_of_its_reads() {
        let bounded = Some(Freshness::Bounded(Millis(5000)));
        for options in [
            "-c domicile.freshness=bounded(5s)",
            "-c work_mem=1MB -cdomicile.freshness=bounded(5s) -c a=b\\ c",
            "--domicile.freshness=bounded(5s)",
        ] {
            assert_eq!(
                begin(&[("options", options)]).unwrap().terms.freshness,
                bounded,
                "{options}"
            );
        }
        let alone = [("domicile.freshness", "bounded(5s)"), ("domicile.freshness_wait", "2s")];
        let reading = begin(&alone).unwrap();
        assert_eq!((reading.terms.freshness, reading.terms.wait), (bounded, Millis(2000)));
        assert!(begin(&[("domicile.freshness", "fresh")]).unwrap_err().contains("22023"));
        assert_eq!(begin(&[("user", "me")]).unwrap().terms.freshness, None);
    }

    #[test]
    fn what_is_set_back_is_what_the_session_began_with() {
        let mut reading = begin(&[("domicile.freshness", "eventual")]).unwrap();
        for back in [FRESHNESS, "all"] {
            reading.set(FRESHNESS, Some("strong"), None).unwrap();
            assert_eq!(reading.terms.freshness, Some(Freshness::Strong));
            reading.set(back, None, None).unwrap();
            assert_eq!(reading.terms.freshness, Some(Freshness::Eventual));
        }
        for (name, value) in [(FRESHNESS, ""), (WAIT, "5"), (TOKEN, "x"), (REPORT, "x")] {
            assert!(reading.set(name, Some(value), None).is_err());
        }
        assert_eq!(reading.terms.freshness, Some(Freshness::Eventual), "nothing wrong is taken");
    }

    #[test]
    fn a_token_is_reported_to_who_wants_it_and_to_nobody_else() {
        let mut reading = begin(&[("options", "-c domicile.report_token=on")]).unwrap();
        assert!(reading.reports_token());
        reading.set(REPORT, Some("False"), None).unwrap();
        assert!(!reading.reports_token());
        reading.set(REPORT, None, None).unwrap();
        assert!(reading.reports_token(), "as it began");
        assert!(!begin(&[("domicile.freshness", "session")]).unwrap().reports_token());
    }

    #[test]
    fn who_is_given_a_token_reads_by_it() {
        let tokens = tokens::tests::tokens("shop", Some(7));
        let token = tokens.write(Frontier::default()).unwrap();
        let mut reading = Reading::default();
        let unknown = reading.set(TOKEN, Some(&token), None).unwrap_err();
        assert!(unknown.contains("not known here"), "{unknown}");
        assert_eq!(reading.terms.freshness, None);
        reading.set(TOKEN, Some(&token), Some(&tokens)).unwrap();
        assert_eq!(reading.terms.freshness, Some(Freshness::Session));
        assert!(reading.is_here());
        let mut reading = begin(&[("domicile.freshness", "strong")]).unwrap();
        reading.set(TOKEN, Some(&token), Some(&tokens)).unwrap();
        assert_eq!(reading.terms.freshness, Some(Freshness::Strong));
    }
}
