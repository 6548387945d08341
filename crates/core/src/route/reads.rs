//! Does a text only read, as far as it says so and as far as is known of what it calls?
//!
//! What is unclear writes: what a function does is not looked at, and PostgreSQL says of one only that it may do
//! something (`VOLATILE`). Advice and no more, as [where the rows are](super::rows): who goes by it asks the owner
//! first, and whoever is asked instead refuses what writes rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a text calls or reads, in small letters where it has no quotes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Where the text says it: without, it may be any schema's, whatever the session's search path is.
    pub schema: Option<String>,
    pub name: String,
}

/// What a text says of what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It writes, by this command.
    Writes(String),
    /// It is not understood, or too long.
    Unclear,
    /// It reads these relations, and calls these functions.
    Asks { functions: BTreeSet<Name>, relations: BTreeSet<Name> },
}

/// Does a function only look at what is there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volatility {
    /// `IMMUTABLE` or `STABLE`.
    Looks,
    Volatile,
}

/// What a region's PostgreSQL says of functions, and of the views that call volatile ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    /// By name and schema; one that is volatile stands for all of its name.
    functions: BTreeMap<String, BTreeMap<String, Volatility>>,
    /// By name and schema: the first volatile function that is found in a view's definition, or those it reads.
    views: BTreeMap<String, BTreeMap<String, (String, String)>>,
}

/// Why a text is taken for one that writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    Command(String),
    Unclear,
    Volatile {
        schema: String,
        name: String,
    },
    UnknownFunction(Name),
    View {
        schema: String,
        name: String,
        function: (String, String),
    },
    /// It did, when it was tried.
    Refused,
}

/// Volatile functions of PostgreSQL's own that change nothing but their session, if that.
const HARMLESS: [&str; 12] = [
    "array_sample",
    "array_shuffle",
    "clock_timestamp",
    "current_query",
    "gen_random_uuid",
    "random",
    "random_normal",
    "set_config",
    "setseed",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

/// Of those that [are about their server](is_harmless) these are not: others notice them.
const NOTICED: [&str; 4] =
    ["pg_advisory", "pg_import_system_collations", "pg_logical_emit_message", "pg_notify"];

/// What is written like a function and is none.
const CONSTRUCTS: [&str; 28] = [
    "array",
    "cast",
    "coalesce",
    "collation",
    "cube",
    "current_catalog",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "greatest",
    "grouping",
    "grouping_sets",
    "json_array",
    "json_exists",
    "json_query",
    "json_value",
    "least",
    "localtime",
    "localtimestamp",
    "nullif",
    "rollup",
    "row",
    "session_user",
    "system_user",
    "user",
    "xmlforest",
];

const BUILT_IN: &str = "pg_catalog";

impl Catalogue {
    /// Adds a function, of which there may be several of one name.
    pub fn knows(&mut self, schema: &str, name: &str, volatility: Volatility) {
        let volatility = if is_harmless(schema, name) { Volatility::Looks } else { volatility };
        let known = self.functions.entry(name.to_owned()).or_default();
        let known = known.entry(schema.to_owned()).or_insert(volatility);
        if volatility == Volatility::Volatile {
            *known = volatility;
        }
    }

    /// Adds a function that a view's definition calls, itself or by a view that it reads.
    pub fn calls(&mut self, (schema, view): (&str, &str), (of, function): (&str, &str)) {
        if !is_harmless(of, function) {
            let views = self.views.entry(view.to_owned()).or_default();
            views.entry(schema.to_owned()).or_insert((of.to_owned(), function.to_owned()));
        }
    }

    /// Returns why what was `said` is taken for something that writes; `None` where it only reads.
    pub fn writes(&self, said: &Said) -> Option<Why> {
        let (functions, relations) = match said {
            Said::Writes(command) => return Some(Why::Command(command.clone())),
            Said::Unclear => return Some(Why::Unclear),
            Said::Asks { functions, relations } => (functions, relations),
        };
        let function = functions.iter().find_map(|function| self.writes_by(function));
        function.or_else(|| relations.iter().find_map(|relation| self.writes_by_view(relation)))
    }

    fn writes_by(&self, function: &Name) -> Option<Why> {
        let Name { schema, name } = function;
        let is_construct = schema.is_none() && CONSTRUCTS.contains(&name.as_str());
        let mut known = of(&self.functions, function).peekable();
        if known.peek().is_none() && !is_construct {
            return Some(Why::UnknownFunction(function.clone()));
        }
        let (schema, _) = known.find(|(_, volatility)| **volatility == Volatility::Volatile)?;
        Some(Why::Volatile { schema: schema.clone(), name: name.clone() })
    }

    fn writes_by_view(&self, relation: &Name) -> Option<Why> {
        let (schema, function) = of(&self.views, relation).next()?;
        let (schema, name) = (schema.clone(), relation.name.clone());
        Some(Why::View { schema, name, function: function.clone() })
    }
}

/// Is it the same, or meant for just this server, where a session runs it? What PostgreSQL has of the name `pg_...` is
/// about the server that runs it: to sleep, to end another session, to show files and figures.
fn is_harmless(schema: &str, name: &str) -> bool {
    let is_noticed = NOTICED.iter().any(|noticed| name.replace("try_", "").starts_with(noticed));
    let is_about_server = name.starts_with("pg_") && !is_noticed;
    schema == BUILT_IN && (HARMLESS.contains(&name) || is_about_server)
}

/// All that a name may mean.
fn of<'a, T>(
    known: &'a BTreeMap<String, BTreeMap<String, T>>,
    Name { schema, name }: &'a Name,
) -> impl Iterator<Item = (&'a String, &'a T)> {
    let known = known.get(name).into_iter().flatten();
    known.filter(move |(of, _)| schema.as_ref().is_none_or(|schema| schema == *of))
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(command) => write!(f, "{command} is no read"),
            Self::Unclear => f.write_str("it is not understood, or too long"),
            Self::Volatile { schema, name } => write!(f, "function {schema}.{name}() is volatile"),
            Self::UnknownFunction(name) => write!(f, "function {name}() is not known"),
            Self::View { schema, name, function: (of, function) } => {
                write!(f, "view {schema}.{name} calls {of}.{function}(), which is volatile")
            }
            Self::Refused => f.write_str("it was refused where it only could read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema.to_owned()), name),
            None => (None, text),
        };
        Name { schema, name: name.to_owned() }
    }

    fn catalogue() -> Catalogue {
        let mut catalogue = Catalogue::default();
        for (schema, name, volatility) in [
            ("pg_catalog", "lower", Volatility::Looks),
            ("pg_catalog", "random", Volatility::Volatile),
            ("pg_catalog", "pg_notify", Volatility::Volatile),
            ("pg_catalog", "pg_sleep", Volatility::Volatile),
            ("pg_catalog", "pg_try_advisory_lock", Volatility::Volatile),
            ("public", "add", Volatility::Volatile),
            ("public", "add", Volatility::Looks),
            ("public", "total", Volatility::Looks),
            ("other", "total", Volatility::Volatile),
            ("public", "random", Volatility::Looks),
        ] {
            catalogue.knows(schema, name, volatility);
        }
        catalogue.calls(("public", "added"), ("public", "add"));
        catalogue.calls(("public", "lottery"), ("pg_catalog", "random"));
        catalogue
    }

    fn said(functions: &[&str], relations: &[&str]) -> Option<String> {
        let names = |names: &[&str]| names.iter().map(|text| name(text)).collect();
        let said = Said::Asks { functions: names(functions), relations: names(relations) };
        catalogue().writes(&said).map(|why| why.to_string())
    }

    #[test]
    fn who_calls_nothing_volatile_only_reads() {
        for functions in
            [&["lower"][..], &["random", "coalesce", "pg_sleep"], &["public.total"], &[]]
        {
            assert_eq!(said(functions, &["note", "lottery"]), None, "{functions:?}");
        }
    }

    #[test]
    fn what_is_volatile_or_not_known_is_named() {
        for (functions, relations, why) in [
            (&["lower", "add"][..], &[][..], "function public.add() is volatile"),
            (&["pg_notify"], &[], "function pg_catalog.pg_notify() is volatile"),
            (
                &["pg_try_advisory_lock"],
                &[],
                "function pg_catalog.pg_try_advisory_lock() is volatile",
            ),
            // Whatever the search path says.
            (&["total"], &[], "function other.total() is volatile"),
            (&["gone"], &[], "function gone() is not known"),
            (&["other.add"], &[], "function other.add() is not known"),
            (&[], &["added"], "view public.added calls public.add(), which is volatile"),
            (&[], &["public.added"], "view public.added calls public.add(), which is volatile"),
        ] {
            assert_eq!(said(functions, relations).as_deref(), Some(why));
        }
        assert_eq!(said(&[], &["other.added"]), None);
        let writes = |said| catalogue().writes(&said).map(|why| why.to_string());
        assert_eq!(writes(Said::Writes("INSERT".into())).unwrap(), "INSERT is no read");
        assert!(writes(Said::Unclear).is_some());
    }
}
