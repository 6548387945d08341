//! Who may come in at a gateway, and how many of them at once?
//!
//! Rules are read from the first to the last, and the first one that speaks of a client decides. As in
//! `pg_hba.conf`, but for TLS: there a rule that wants it is passed over by who has none, and a wider one behind it
//! lets him in after all. Here he is refused.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// How many clients a gateway serves at once where nothing else is said.
pub const CONNECTIONS_DEFAULT: usize = 10_000;
/// Each needs two file descriptors or more.
pub const CONNECTIONS_MAX: usize = 100_000;

/// The terms on which clients come in. Other gateways of the cluster are no clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Without any everybody may come in.
    pub rules: Vec<AllowRule>,
    pub limits: Limits,
}

/// Of whom a rule speaks, and what it wants of them. An empty list stands for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowRule {
    pub addresses: Vec<IpNet>,
    pub databases: Vec<String>,
    pub users: Vec<String>,
    /// They have to encrypt.
    pub tls: bool,
}

/// How many clients are served at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub connections: usize,
    pub per_user: Option<usize>,
    pub per_database: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: CONNECTIONS_DEFAULT, per_user: None, per_database: None }
    }
}

/// What a client says of itself before it logs in, and how it comes.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    pub address: IpAddr,
    pub user: &'a str,
    pub database: &'a str,
    pub encrypted: bool,
}

/// How many clients are served now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    pub all: usize,
    /// Those that log in as the same user.
    pub of_user: usize,
    /// Those of the same database.
    pub of_database: usize,
}

/// Why a client does not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No rule speaks of it.
    NoRule,
    /// The rule that speaks of it wants TLS.
    NotEncrypted,
    /// As many are served as may be.
    Full(Full),
}

/// The limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    All,
    User,
    Database,
}

impl Admission {
    /// Returns whether one more client may come in beside those that are `served`.
    pub fn admit(&self, applicant: &Applicant<'_>, served: Served) -> Result<(), Refusal> {
        self.allow(applicant)?;
        self.limits.leave_room(served).map_err(Refusal::Full)
    }

    /// Returns whether a client may come in, however many are served.
    pub fn allow(&self, applicant: &Applicant<'_>) -> Result<(), Refusal> {
        if self.rules.is_empty() {
            return Ok(());
        }
        match self.rules.iter().find(|rule| rule.is_of(applicant)) {
            None => Err(Refusal::NoRule),
            Some(rule) if rule.tls && !applicant.encrypted => Err(Refusal::NotEncrypted),
            Some(_) => Ok(()),
        }
    }
}

impl AllowRule {
    fn is_of(&self, applicant: &Applicant<'_>) -> bool {
        // A socket for both families shows IPv4 addresses within IPv6.
        let address = applicant.address.to_canonical();
        let names = |names: &[String], name| names.is_empty() || names.iter().any(|n| n == name);
        (self.addresses.is_empty() || self.addresses.iter().any(|net| net.contains(&address)))
            && names(&self.databases, applicant.database)
            && names(&self.users, applicant.user)
    }
}

impl Limits {
    fn leave_room(&self, served: Served) -> Result<(), Full> {
        let is_reached = |limit: Option<usize>, now| limit.is_some_and(|limit| now >= limit);
        if served.all >= self.connections {
            Err(Full::All)
        } else if is_reached(self.per_user, served.of_user) {
            Err(Full::User)
        } else if is_reached(self.per_database, served.of_database) {
            Err(Full::Database)
        } else {
            Ok(())
        }
    }
}

/// In the words of `pg_hba.conf`.
impl fmt::Display for Applicant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, user, database, encrypted } = self;
        let encryption = if *encrypted { "SSL encryption" } else { "no encryption" };
        let address = address.to_canonical();
        write!(f, "host \"{address}\", user \"{user}\", database \"{database}\", {encryption}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(rules: &[AllowRule]) -> Admission {
        Admission { rules: rules.to_vec(), limits: Limits::default() }
    }

    fn from(address: &str) -> AllowRule {
        AllowRule { addresses: vec![address.parse().unwrap()], ..AllowRule::default() }
    }

    fn app(address: &str) -> Applicant<'static> {
        let address = address.parse().unwrap();
        Applicant { address, user: "app", database: "shop", encrypted: false }
    }

    fn asked(admission: &Admission, applicant: Applicant<'_>) -> Result<(), Refusal> {
        admission.admit(&applicant, Served::default())
    }

    #[test]
    fn without_a_rule_everybody_comes_in_and_with_one_only_whom_it_speaks_of() {
        assert_eq!(asked(&admission(&[]), app("192.0.2.1")), Ok(()));
        let rules = admission(&[from("10.0.0.0/8"), from("2001:db8::/32")]);
        for (address, expected) in [
            ("10.255.0.1", Ok(())),
            ("::ffff:10.0.0.1", Ok(())),
            ("2001:db8::7", Ok(())),
            ("11.0.0.1", Err(Refusal::NoRule)),
            ("2001:db9::7", Err(Refusal::NoRule)),
        ] {
            assert_eq!(asked(&rules, app(address)), expected, "{address}");
        }
    }

    #[test]
    fn a_rule_speaks_of_those_that_all_of_it_fits() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let rule = AllowRule { databases: names(&["shop", "till"]), ..from("10.0.0.0/8") };
        let rules = admission(&[AllowRule { users: names(&["app"]), ..rule }]);
        let app = app("10.0.0.1");
        assert_eq!(asked(&rules, app), Ok(()));
        assert_eq!(asked(&rules, Applicant { database: "till", ..app }), Ok(()));
        assert_eq!(asked(&rules, Applicant { database: "Shop", ..app }), Err(Refusal::NoRule));
        assert_eq!(asked(&rules, Applicant { user: "ap", ..app }), Err(Refusal::NoRule));
    }

    #[test]
    fn the_first_rule_that_fits_decides_whether_a_client_has_to_encrypt() {
        let near = AllowRule { tls: false, ..from("10.1.0.0/16") };
        let far = AllowRule { tls: true, ..from("10.0.0.0/8") };
        let everybody = AllowRule::default();
        let rules = admission(&[near, far, everybody]);
        assert_eq!(asked(&rules, app("10.1.0.1")), Ok(()));
        let far = app("10.2.0.1");
        assert_eq!(asked(&rules, far), Err(Refusal::NotEncrypted));
        assert_eq!(asked(&rules, Applicant { encrypted: true, ..far }), Ok(()));
        assert_eq!(asked(&rules, app("192.0.2.1")), Ok(()));
    }

    #[test]
    fn one_client_more_than_a_limit_is_too_many() {
        let limits = Limits { connections: 10, per_user: Some(3), per_database: Some(5) };
        let admission = Admission { rules: Vec::new(), limits };
        for (served, expected) in [
            ((9, 2, 4), Ok(())),
            ((10, 0, 0), Err(Refusal::Full(Full::All))),
            ((9, 3, 4), Err(Refusal::Full(Full::User))),
            ((9, 2, 5), Err(Refusal::Full(Full::Database))),
        ] {
            let (all, of_user, of_database) = served;
            let served = Served { all, of_user, of_database };
            assert_eq!(admission.admit(&app("::1"), served), expected, "{served:?}");
        }
    }

    #[test]
    fn an_applicant_is_described_as_pg_hba_does() {
        let words = "host \"10.0.0.1\", user \"app\", database \"shop\", no encryption";
        assert_eq!(app("::ffff:10.0.0.1").to_string(), words);
    }
}
