//! Whose is a request, by what it says itself?

use percent_encoding::percent_decode_str;

use super::{Wanted, Why};
use crate::id::PartitionId;
use crate::partition::{Layout, PartitionError, Scheme};

/// What is seen of a request.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    pub method: &'a str,
    /// As it was sent: percent-encoded, without the query.
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// Names in lowercase, in their order, and values as they came: of several cookies in one, some may be text.
    pub headers: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Asked<'a> {
    fn header(&self, wanted: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(name, _)| *name == wanted).map(|(_, value)| *value)
    }
}

/// What holds for some requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub path: Pattern,
    /// All of them where none is named.
    pub methods: Vec<String>,
    /// What makes up the partition key, in the order of its columns; empty where the request does not say it.
    pub key: Vec<KeyPart>,
    pub owner: Owner,
}

/// Which requests are the owner's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// All but GET, HEAD, OPTIONS and TRACE.
    #[default]
    Writes,
    Always,
    /// None: they stay where they arrive.
    Never,
}

/// Where a part of a key stands, by its name there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart {
    Path(String),
    /// In lowercase.
    Header(String),
    Cookie(String),
    Query(String),
}

/// As in `/accounts/{id}/*`: a segment in braces is anything, and a star at the end is any rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    segments: Vec<Segment>,
    /// More segments may follow, or none.
    open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Is(String),
    Named(String),
}

/// What is wrong with a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("a path begins with a slash")]
    NoSlash,
    #[error("\"{0}\" is neither a text nor {{name}} nor, at the end, *")]
    Segment(String),
    #[error("{{{0}}} stands twice in it")]
    Twice(String),
}

/// Does this method only read?
pub fn is_read(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
}

/// Returns who may answer a request, by the first rule that fits it; without one only writes are the owner's.
///
/// Where a key is wanted and the request says none, or not all of it, it is answered where it arrived: in an
/// active-active cluster every region can do that.
pub fn wanted(asked: &Asked<'_>, rules: &[Rule], layout: &Layout) -> Result<Wanted, Why> {
    let otherwise = Rule::default();
    let rule = rules.iter().find(|rule| rule.fits(asked)).unwrap_or(&otherwise);
    let near = if is_read(asked.method) { Wanted::Anywhere } else { Wanted::Here };
    match rule.owner {
        Owner::Never => return Ok(Wanted::Here),
        Owner::Writes if is_read(asked.method) => return Ok(near),
        Owner::Writes | Owner::Always => {}
    }
    if layout.scheme == Scheme::Whole {
        return Ok(Wanted::Owner(PartitionId(0)));
    }
    let Some(key) = rule.key_of(asked) else { return Ok(near) };
    let key: Vec<&[u8]> = key.iter().map(Vec::as_slice).collect();
    let no_home = |PartitionError::NoSuchHome { value }| Why::NoHome { value };
    layout.partition_of(&key).map(Wanted::Owner).map_err(no_home)
}

impl Rule {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        let method = self.methods.is_empty() || self.methods.iter().any(|m| m == asked.method);
        method && self.path.fits(asked.path)
    }

    fn key_of(&self, asked: &Asked<'_>) -> Option<Vec<Vec<u8>>> {
        let parts: Option<Vec<_>> = self.key.iter().map(|part| self.part(part, asked)).collect();
        parts.filter(|parts| !parts.is_empty())
    }

    /// Returns the value of a part; `None` where it is missing or empty, or stands in a header and is no text.
    fn part(&self, part: &KeyPart, asked: &Asked<'_>) -> Option<Vec<u8>> {
        let value = match part {
            KeyPart::Path(name) => self.path.value(name, asked.path),
            KeyPart::Header(name) => {
                let text = asked.header(name).next().and_then(|value| str::from_utf8(value).ok());
                text.map(|value| value.trim().into())
            }
            KeyPart::Cookie(name) => {
                let pairs = asked.header("cookie").flat_map(|all| all.split(|byte| *byte == b';'));
                let value = pairs
                    .filter_map(|pair| str::from_utf8(pair).ok())
                    .find_map(|pair| pair.trim().split_once('=').filter(|(key, _)| key == name));
                value.map(|(_, value)| value.trim_matches('"').into())
            }
            KeyPart::Query(name) => {
                let mut pairs = form_urlencoded::parse(asked.query?.as_bytes());
                pairs.find(|(key, _)| key == name).map(|(_, value)| value.as_bytes().to_vec())
            }
        };
        value.filter(|value| !value.is_empty())
    }
}

impl Pattern {
    /// The names in braces.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Named(name) => Some(name.as_str()),
            Segment::Is(_) => None,
        })
    }

    fn fits(&self, path: &str) -> bool {
        let mut found = path.strip_prefix('/').unwrap_or(path).split('/');
        let each = self.segments.iter().all(|segment| match (segment, found.next()) {
            (Segment::Is(text), Some(found)) => percent_decode_str(found).eq(text.bytes()),
            (Segment::Named(_), Some(found)) => !found.is_empty(),
            (_, None) => false,
        });
        each && (self.open || found.next().is_none())
    }

    fn value(&self, name: &str, path: &str) -> Option<Vec<u8>> {
        let at =
            self.segments.iter().position(|segment| *segment == Segment::Named(name.to_owned()))?;
        let found = path.strip_prefix('/').unwrap_or(path).split('/').nth(at)?;
        Some(percent_decode_str(found).collect())
    }
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let mut pattern = Self::default();
        let mut segments =
            text.strip_prefix('/').ok_or(PatternError::NoSlash)?.split('/').peekable();
        while let Some(text) = segments.next() {
            let last = segments.peek().is_none();
            let name = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
            match name.unwrap_or(text) {
                "*" if last && name.is_none() => pattern.open = true,
                inner
                    if inner.contains(['{', '}', '*']) || (inner.is_empty() && name.is_some()) =>
                {
                    return Err(PatternError::Segment(text.to_owned()));
                }
                inner if name.is_some() => {
                    if pattern.names().any(|known| known == inner) {
                        return Err(PatternError::Twice(inner.to_owned()));
                    }
                    pattern.segments.push(Segment::Named(inner.to_owned()));
                }
                inner => pattern.segments.push(Segment::Is(inner.to_owned())),
            }
        }
        Ok(pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str, key: &[KeyPart]) -> Rule {
        Rule { path: path.parse().unwrap(), key: key.to_vec(), ..Rule::default() }
    }

    fn named(name: &str) -> KeyPart {
        KeyPart::Path(name.to_owned())
    }

    fn asked(method: &'static str, path: &'static str) -> Asked<'static> {
        Asked { method, path, query: None, headers: Vec::new() }
    }

    fn homes() -> Layout {
        let regions = ["eu", "us"].map(|name| name.parse().unwrap()).to_vec();
        Layout { scheme: Scheme::Home { regions }, has_reference: false }
    }

    const EU: Result<Wanted, Why> = Ok(Wanted::Owner(PartitionId(0)));
    const US: Result<Wanted, Why> = Ok(Wanted::Owner(PartitionId(1)));

    #[test]
    fn a_path_fits_segment_by_segment() {
        for (pattern, fitting, other) in [
            ("/", &["/"][..], &["/a", "//"][..]),
            ("/*", &["/", "/a", "/a/b"], &[]),
            (
                "/accounts/{id}",
                &["/accounts/7", "/accounts/%37"],
                &["/accounts", "/accounts/", "/accounts/7/x"],
            ),
            (
                "/accounts/{id}/*",
                &["/accounts/7", "/accounts/7/", "/accounts/7/x/y"],
                &["/accounts/", "/other/7"],
            ),
            ("/a b/", &["/a%20b/"], &["/a%20b"]),
        ] {
            let pattern: Pattern = pattern.parse().unwrap();
            for path in fitting {
                assert!(pattern.fits(path), "{pattern:?} {path}");
            }
            for path in other {
                assert!(!pattern.fits(path), "{pattern:?} {path}");
            }
        }
        for wrong in ["", "accounts", "/{}", "/a{b}", "/*/a", "/{*}", "/{a}/{a}"] {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_found_wherever_it_stands() {
        let whose =
            |key: KeyPart, asked: &Asked<'_>| wanted(asked, &[rule("/{home}/*", &[key])], &homes());
        let request = Asked {
            method: "POST",
            path: "/u%73/orders",
            query: Some("a=1&home=%75s&b"),
            headers: vec![
                ("cookie", b"a=b; x=\xe9; home=\"us\""),
                ("x-home", b" us "),
                ("x-other", b"\xff"),
            ],
        };
        assert_eq!(whose(named("home"), &request), US);
        assert_eq!(whose(KeyPart::Query("home".to_owned()), &request), US);
        assert_eq!(whose(KeyPart::Cookie("home".to_owned()), &request), US);
        assert_eq!(whose(KeyPart::Header("x-home".to_owned()), &request), US);
        assert_eq!(whose(KeyPart::Header("x-other".to_owned()), &request), Ok(Wanted::Here));
        let wrong = Why::NoHome { value: "1".to_owned() };
        assert_eq!(whose(KeyPart::Query("a".to_owned()), &request), Err(wrong));
    }

    #[test]
    fn a_key_of_several_columns_is_put_together_as_the_guard_does() {
        let layout = Layout { scheme: Scheme::Hash { count: 1000 }, has_reference: false };
        let rules = [rule("/{tenant}/{project}", &[named("tenant"), named("project")])];
        let expected = layout.partition_of(&[b"a", b"7"]).unwrap();
        assert_eq!(wanted(&asked("PUT", "/a/7"), &rules, &layout), Ok(Wanted::Owner(expected)));
    }

    #[test]
    fn reads_stay_near_and_writes_go_to_the_owner_unless_the_first_rule_that_fits_says_otherwise() {
        let key = || vec![named("home")];
        let rules = [
            Rule { owner: Owner::Never, ..rule("/us/log", &[]) },
            Rule { owner: Owner::Always, ..rule("/{home}/balance", &key()) },
            Rule {
                methods: vec!["POST".to_owned()],
                owner: Owner::Never,
                ..rule("/us/search", &[])
            },
            rule("/{home}/*", &key()),
        ];
        for (method, path, expected) in [
            ("GET", "/us/orders", Ok(Wanted::Anywhere)),
            ("HEAD", "/us/orders", Ok(Wanted::Anywhere)),
            ("POST", "/us/orders", US),
            ("DELETE", "/eu/orders", EU),
            ("GET", "/us/balance", US),
            ("POST", "/us/log", Ok(Wanted::Here)),
            ("GET", "/us/log", Ok(Wanted::Here)),
            ("POST", "/us/search", Ok(Wanted::Here)),
            ("PUT", "/us/search", US),
            ("POST", "/", Ok(Wanted::Here)),
            ("GET", "/", Ok(Wanted::Anywhere)),
        ] {
            assert_eq!(wanted(&asked(method, path), &rules, &homes()), expected, "{method} {path}");
        }
    }

    #[test]
    fn where_one_region_owns_everything_no_key_is_needed() {
        let whole = Layout { scheme: Scheme::Whole, has_reference: false };
        assert_eq!(wanted(&asked("POST", "/x"), &[], &whole), EU);
        assert_eq!(wanted(&asked("GET", "/x"), &[], &whole), Ok(Wanted::Anywhere));
    }
}
