//! Whose rows is a transaction about, when its session or its first statement says so?
//!
//! `domicile.key` is the value of the partition key, as text. Who sets it, for the session or with
//! `SET LOCAL` for the transaction, has his transactions at the owner from their first statement on, and
//! may read before he writes; so may who says it [in a comment](super::comment). Without it the statement itself may say ([`statement`](super::statement)).
//! When that is looked at, `core::route` says.

use std::collections::BTreeSet;

use bytes::Bytes;
use domicile_core::id::PartitionId;
use domicile_core::partition::Layout;
use domicile_core::route;
use domicile_pg::backend::TransactionStatus;
use domicile_pg::frontend::tag as from_client;
use domicile_pg::startup::Startup;

use super::decided::Why;
use super::reading::sets_only;
use super::refusals;
use super::session::Session;
use super::setting::ours::KEY;
use super::setting::{self, Assignment};

/// What a session says of its transactions.
#[derive(Debug, Default)]
pub struct Key {
    /// As the session began.
    first: Option<String>,
    value: Option<String>,
    /// Of this transaction alone.
    local: Option<String>,
    /// What a statement says of its transaction; an empty one is none.
    pub said: Option<String>,
    /// That the client was told why its key leads nowhere is enough.
    told: bool,
}

impl Key {
    /// Reads the startup packet of a session.
    pub fn begin(startup: &Startup) -> Self {
        let said = setting::at_startup(startup).filter(|(name, _)| name == KEY).last();
        let first = said.map(|(_, value)| value).filter(|value| !value.is_empty());
        Self { value: first.clone(), first, ..Self::default() }
    }

    /// The session begins with `defaults`, where its startup packet says nothing else.
    pub fn default_to(&mut self, defaults: &[(String, String)], startup: &Startup) {
        let key = defaults.iter().rfind(|(name, _)| name == KEY);
        if let Some((_, value)) = key
            && setting::at_startup(startup).all(|(name, _)| name != KEY)
        {
            self.first = Some(value.clone()).filter(|value| !value.is_empty());
            self.value = self.first.clone();
        }
    }

    /// An empty value is none.
    pub fn set(&mut self, Assignment { name, value, local }: &Assignment) {
        let given = value.clone().filter(|value| !value.is_empty());
        match (name.as_str(), value, local) {
            (KEY, _, true) => self.local = given,
            (KEY, Some(_), false) => (self.value, self.local) = (given, None),
            (KEY | "all", None, false) => (self.value, self.local) = (self.first.clone(), None),
            _ => {}
        }
    }

    /// What `SHOW` says.
    pub fn shown(&self) -> String {
        self.holds().unwrap_or_default().to_owned()
    }

    fn holds(&self) -> Option<&str> {
        let key = self.said.as_ref().or(self.local.as_ref()).or(self.value.as_ref())?;
        Some(key.as_str()).filter(|key| !key.is_empty())
    }

    /// The transaction is over.
    pub fn forget_local(&mut self) {
        (self.local, self.said) = (None, None);
    }

    /// The partition that it leads to.
    fn partition(&self, layout: &Layout) -> Option<PartitionId> {
        layout.partition_of(&[self.holds()?.as_bytes()]).ok()
    }
}

impl Session {
    /// Has a transaction that nobody has seen anything of go on where its keys lead, before the client's
    /// next message.
    pub async fn follow_key(&mut self, tag: u8, raw: &Bytes) {
        let does = !matches!(tag, from_client::SYNC | from_client::FLUSH)
            && !sets_only(tag, raw, &self.client.incoming);
        if !does || !self.track.is_quiet() {
            return;
        }
        let (mode, freshness) = (self.shared.config.mode, self.reading.freshness());
        let may_begin_anew = self.attempt.as_ref().is_some_and(|attempt| !attempt.is_settled());
        if !may_begin_anew || !route::is_led(mode, self.caller, freshness) {
            return;
        }
        let named = self.key.partition(&self.shared.config.layout);
        let partitions = match named {
            Some(partition) => Some(BTreeSet::from([partition])),
            None => Box::pin(self.written(tag, raw)).await,
        };
        let Some(partitions) = partitions else { return };
        let routes = self.shared.routes();
        let owner = route::of_keys(mode, self.caller, freshness, &partitions, &routes);
        let Some(owner) = owner else { return };
        let why = if named.is_some() { Why::Key(partitions) } else { Why::Statement(partitions) };
        if owner == self.active().region {
            self.decided.leads(&owner, why);
            return;
        }
        let Some(attempt) = self.attempt.take_if(|attempt| !attempt.is_settled()) else { return };
        self.active().in_transaction = self.track.status() != TransactionStatus::Idle;
        match Box::pin(self.reach(&owner, &attempt)).await {
            Ok(()) => {
                self.recorder.is_led(&why);
                self.decided.leads(&owner, why);
                self.say_again(attempt);
            }
            Err(error) => {
                tracing::debug!(region = %owner, %error, "a transaction does not get where its key leads");
                // A guard's refusal may yet find a way for what is only written.
                let matters = named.is_some() || !error.is_passing();
                if matters && !std::mem::replace(&mut self.key.told, true) {
                    let told = refusals::not_sent_on(&owner, &error);
                    told.put_notice(&mut self.client.outgoing);
                }
                self.attempt = Some(attempt);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &mut Key, sql: &str) {
        setting::assignments(sql.as_bytes()).iter().for_each(|assignment| key.set(assignment));
    }

    #[test]
    fn a_key_is_the_sessions_or_the_transactions() {
        let parameters = vec![("options".to_owned(), "-c domicile.key=7".to_owned())];
        let mut key = Key::begin(&Startup { major: 3, minor: 0, parameters });
        assert_eq!(key.holds(), Some("7"));
        for (sql, expected) in [
            ("SET LOCAL domicile.key = '8'", "8"),
            ("SET LOCAL other.key = '9'", "8"),
            ("SET domicile.key TO 'O''Brien'", "O'Brien"),
            ("SET LOCAL domicile.key = '8'", "8"),
            ("SET LOCAL domicile.key = ''", "O'Brien"),
            ("RESET domicile.key", "7"),
            ("SET domicile.key = 'x'; RESET ALL", "7"),
        ] {
            set(&mut key, sql);
            assert_eq!(key.holds(), Some(expected), "{sql}");
        }
        set(&mut key, "SET domicile.key = ''");
        assert_eq!(key.holds(), None, "the role's own is set aside");
        set(&mut key, "SET domicile.key = DEFAULT");
        set(&mut key, "SET LOCAL domicile.key = '8'");
        key.said = Some("9".to_owned());
        assert_eq!(key.holds(), Some("9"), "the statement has said so itself");
        key.said = Some(String::new());
        assert_eq!(key.holds(), None);
        key.forget_local();
        assert_eq!(key.holds(), Some("7"));
    }
}
