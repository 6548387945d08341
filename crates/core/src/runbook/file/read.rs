//! Does the text have the form of a runbook: TOML, known keys, values of the right type?

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::Mistakes;
use super::order::{self, Placed};
use super::steps::{IF, STEPS, StepKind, step};
use super::{
    Action, Argument, Condition, Kind, Mistake, NAME_BYTES_MAX, Parameter, Runbook, TEXT_BYTES_MAX,
    Value,
};
use crate::runbook::Objectives;
use crate::time::Millis;

pub(super) fn read(text: &str) -> Result<Runbook, Vec<Mistake>> {
    let mut mistakes = Mistakes::of(text);
    if text.len() > TEXT_BYTES_MAX {
        let what = format!("a runbook has at most {TEXT_BYTES_MAX} bytes, this has {}", text.len());
        mistakes.add("", 1, what);
        return Err(mistakes.into_list());
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = mistakes.line(error.span().map_or(0, |span| span.start));
        mistakes.add("", line, error.message().trim());
    }
    if !mistakes.none() {
        return Err(mistakes.into_list());
    }
    let mut reader = Reader { mistakes, declared: BTreeMap::new(), used: BTreeSet::new() };
    let runbook =
        reader.runbook(&Section { path: String::new(), line: 1, table: document.get_ref() });
    match runbook {
        Some(runbook) if reader.mistakes.none() => Ok(runbook),
        _ => Err(reader.mistakes.into_list()),
    }
}

/// A table of the file.
struct Section<'a> {
    /// With its final dot; empty for the file itself.
    path: String,
    line: usize,
    table: &'a DeTable<'a>,
}

impl Section<'_> {
    fn path_of(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    fn get(&self, key: &str) -> Option<&Spanned<DeValue<'_>>> {
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }
}

struct Reader {
    mistakes: Mistakes,
    /// Also those whose declaration is wrong, without a kind: one mistake does not make two.
    declared: BTreeMap<String, Option<Kind>>,
    used: BTreeSet<String>,
}

impl Reader {
    fn runbook(&mut self, file: &Section<'_>) -> Option<Runbook> {
        self.refuse_unknown(file, &["name", "about", "objectives", "parameter", "step"]);
        let name = self.text(file, "name").filter(|(name, line)| {
            let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(letters);
            if !fits {
                let what = format!(
                    "\"{name}\" is not a runbook's name: use 1 to {NAME_BYTES_MAX} lowercase letters, \
                     digits and hyphens"
                );
                self.mistakes.add("name", *line, what);
            }
            fits
        });
        let about = self.text(file, "about");
        let parameters = self.parameters(file);
        let objectives = self.objectives(file);
        let steps = self.steps(file);
        for (parameter, line) in &parameters {
            if !self.used.contains(&parameter.name) {
                let path = format!("parameter.{}", parameter.name);
                self.mistakes.add(&path, *line, "no step uses it");
            }
        }
        let (actions, conditions) = steps?;
        Some(Runbook {
            name: name?.0,
            about: about?.0,
            parameters: parameters.into_iter().map(|(parameter, _)| parameter).collect(),
            objectives,
            actions,
            conditions,
        })
    }

    /// Each with the line on which it stands.
    fn parameters(&mut self, file: &Section<'_>) -> Vec<(Parameter, usize)> {
        let Some(value) = file.get("parameter") else { return Vec::new() };
        let DeValue::Table(table) = value.get_ref() else {
            let line = self.mistakes.line(value.span().start);
            let found = found(value.get_ref());
            self.mistakes.add(
                "parameter",
                line,
                format!("expected [parameter.NAME], found {found}"),
            );
            return Vec::new();
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let parameters = entries.into_iter().filter_map(|(name, value)| {
            let line = self.mistakes.line(name.span().start);
            let name = name.get_ref();
            let path = format!("parameter.{name}");
            self.declared.insert(name.to_string(), None);
            let DeValue::Table(table) = value.get_ref() else {
                let found = found(value.get_ref());
                self.mistakes.add(&path, line, format!("expected [{path}], found {found}"));
                return None;
            };
            let section = Section { path: format!("{path}."), line, table };
            let parameter = self.parameter(name, &section)?;
            self.declared.insert(parameter.name.clone(), Some(parameter.kind));
            Some((parameter, line))
        });
        parameters.collect()
    }

    fn parameter(&mut self, name: &str, section: &Section<'_>) -> Option<Parameter> {
        self.refuse_unknown(section, &["type", "about", "default"]);
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let named = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(letters);
        if !named {
            let path = section.path.trim_end_matches('.');
            let what = format!(
                "not a parameter's name: use 1 to {NAME_BYTES_MAX} lowercase letters, digits and \
                 underscores"
            );
            self.mistakes.add(path, section.line, what);
        }
        let about = self.text(section, "about");
        let (kind, line) = self.text(section, "type")?;
        let Some(kind) = Kind::ALL.iter().copied().find(|known| known.name() == kind) else {
            let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            let what = format!("\"{kind}\" is not a type: expected {}", known.join(", "));
            self.mistakes.add(&section.path_of("type"), line, what);
            return None;
        };
        let default = match section.get("default") {
            None => None,
            Some(value) => Some(self.literal(&section.path_of("default"), kind, value)?),
        };
        named.then_some(Parameter { name: name.to_owned(), kind, about: about?.0, default })
    }

    /// What is wrong with it is told; the rest of the file is read all the same.
    fn objectives(&mut self, file: &Section<'_>) -> Objectives {
        let Some(value) = file.get("objectives") else { return Objectives::default() };
        let line = self.mistakes.line(value.span().start);
        let DeValue::Table(table) = value.get_ref() else {
            let found = found(value.get_ref());
            let what = format!("expected [objectives], found {found}");
            self.mistakes.add("objectives", line, what);
            return Objectives::default();
        };
        let section = Section { path: "objectives.".to_owned(), line, table };
        self.refuse_unknown(&section, &["rto", "rpo"]);
        let (rto, rpo) = (section.get("rto"), section.get("rpo"));
        if rto.or(rpo).is_none() {
            self.mistakes.add("objectives", line, "nothing is promised: it has an rto or an rpo");
        }
        self.refuse_idle_objectives(file, &section);
        // No loss at all is a promise, no pause at all is none.
        let none = |value: &&Spanned<DeValue<'_>>| value.get_ref().as_str() == Some("0");
        let rpo_of = |reader: &mut Self, value| match Some(value).filter(none) {
            Some(_) => Some(Millis(0)),
            None => reader.duration("objectives.rpo", value),
        };
        Objectives {
            rto: rto.and_then(|value| self.duration("objectives.rto", value)),
            rpo: rpo.and_then(|value| rpo_of(self, value)),
        }
    }

    /// What no run of this runbook could miss, or none is measured by, is no promise.
    fn refuse_idle_objectives(&mut self, file: &Section<'_>, section: &Section<'_>) {
        let has = |names: &[&str]| names_of_steps(file).any(|name| names.contains(&name));
        let mut refuse = |key: &str, why: &str| {
            if let Some(value) = section.get(key) {
                let line = self.mistakes.line(value.span().start);
                self.mistakes.add(&section.path_of(key), line, why);
            }
        };
        if has(&["seed"]) {
            refuse("rto", "nobody waits while a region is added: nothing moves");
        } else if has(&["for_each"]) {
            refuse("rto", "each range is moved by a run of its own: switchover has an objective");
        }
        if has(&["seed", "for_each", "hand_over", "fence_canary"]) {
            refuse("rpo", "nothing can be lost: it is for a runbook with a fence");
        }
    }

    fn duration(&mut self, path: &str, value: &Spanned<DeValue<'_>>) -> Option<Millis> {
        let text = self.literal(path, Kind::Duration, value)?;
        Some(Millis::read(&text).expect("a literal was checked"))
    }

    fn steps(&mut self, file: &Section<'_>) -> Option<(Vec<Action>, BTreeMap<usize, Condition>)> {
        let items = match file.get("step").map(|value| (value, value.get_ref())) {
            Some((_, DeValue::Array(items))) if !items.is_empty() => items,
            Some((value, other)) if !matches!(other, DeValue::Array(_)) => {
                let line = self.mistakes.line(value.span().start);
                let found = found(other);
                self.mistakes.add("step", line, format!("expected [[step]], found {found}"));
                return None;
            }
            _ => {
                self.mistakes.add("step", file.line, "missing: a runbook has at least one step");
                return None;
            }
        };
        let (mut actions, mut placed, mut conditions) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (i, item) in items.iter().enumerate() {
            let path = format!("step[{}]", i + 1);
            let line = self.mistakes.line(item.span().start);
            let DeValue::Table(table) = item.get_ref() else {
                let found = found(item.get_ref());
                self.mistakes.add(&path, line, format!("expected [[step]], found {found}"));
                continue;
            };
            let section = Section { path: format!("{path}."), line, table };
            let Some(kind) = self.kind(&section) else { continue };
            placed.push(Placed { kind, path, line });
            actions.extend(self.action(&section, kind));
            conditions.extend(self.condition(&section, kind).map(|condition| (i, condition)));
        }
        // What an unknown step was meant to be, nobody knows: the order says nothing then.
        if placed.len() == items.len() {
            order::check(&placed, &mut self.mistakes);
        }
        (actions.len() == items.len()).then_some((actions, conditions))
    }

    fn kind(&mut self, section: &Section<'_>) -> Option<&'static StepKind> {
        let (name, line) = self.text(section, "do")?;
        let kind = step(&name);
        if kind.is_none() {
            let known: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
            let what = format!("\"{name}\" is not a step: expected {}", known.join(", "));
            self.mistakes.add(&section.path_of("do"), line, what);
        }
        kind
    }

    fn action(&mut self, section: &Section<'_>, kind: &'static StepKind) -> Option<Action> {
        let mut known = vec!["do"];
        known.extend(kind.keys.iter().map(|key| key.name));
        if kind.is_optional() {
            known.push(IF);
        }
        self.refuse_unknown(section, &known);
        Some(match kind.name {
            "approve" => {
                let role = self.value(section, kind, "role");
                let count = self.value(section, kind, "count");
                let within = self.value(section, kind, "within");
                Action::Approve { role: role?, count: count?, within: within? }
            }
            "check" => {
                let region = self.value(section, kind, "region");
                let lag = self.value(section, kind, "lag");
                Action::Check { region: region?, lag: lag? }
            }
            "exec" => {
                let program = self.value(section, kind, "program");
                let within = self.value(section, kind, "within");
                let may_fail = self.value(section, kind, "may_fail");
                Action::Exec { program: program?, within: within?, may_fail: may_fail? }
            }
            "webhook" => {
                let webhook = self.value(section, kind, "webhook");
                let within = self.value(section, kind, "within");
                Action::Webhook { webhook: webhook?, within: within? }
            }
            "notify" => {
                let webhook = self.value(section, kind, "webhook");
                let within = self.value(section, kind, "within");
                Action::Notify { webhook: webhook?, within: within? }
            }
            "confirm_outage" => {
                Action::ConfirmOutage { attest: self.value(section, kind, "attest")? }
            }
            "warm_up" => Action::WarmUp { within: self.value(section, kind, "within")? },
            "hand_over" => {
                let partitions = self.value(section, kind, "partitions");
                let to = self.value(section, kind, "to");
                Action::HandOver { partitions: partitions?, to: to? }
            }
            "fence" => {
                let (from, to) =
                    (self.value(section, kind, "from"), self.value(section, kind, "to"));
                Action::Fence { from: from?, to: to? }
            }
            "fence_canary" => {
                let (from, to) =
                    (self.value(section, kind, "from"), self.value(section, kind, "to"));
                Action::FenceCanary { from: from?, to: to? }
            }
            "for_each" => {
                let range_of = self.value(section, kind, "range_of");
                let to = self.value(section, kind, "to");
                let at_once = self.value(section, kind, "at_once");
                Action::ForEach { range_of: range_of?, to: to?, at_once: at_once? }
            }
            "seed" => {
                let region = self.value(section, kind, "region");
                let replace = self.value(section, kind, "replace");
                Action::Seed { region: region?, replace: replace? }
            }
            "seal" => Action::Seal,
            "cut" => Action::Cut,
            "late_write" => Action::LateWrite,
            "catch_up" => Action::CatchUp,
            "grant" => Action::Grant,
            "reroute" => Action::Reroute,
            "verify" => Action::Verify,
            "give_back" => Action::GiveBack,
            other => unreachable!("step {other} is listed, and nothing reads it"),
        })
    }

    /// Reads which runs a step is part of.
    fn condition(&mut self, section: &Section<'_>, kind: &StepKind) -> Option<Condition> {
        let value = section.get(IF).filter(|_| kind.is_optional())?;
        let (path, line) = (section.path_of(IF), self.mistakes.line(value.span().start));
        let text = value.get_ref().as_str().unwrap_or_default();
        let (is, named) = text.strip_prefix('!').map_or((true, text), |named| (false, named));
        let Some(flag) = named.strip_prefix('{').and_then(|named| named.strip_suffix('}')) else {
            let what = "expected a flag that a run is told, as in \"{urgent}\" or \"!{urgent}\"";
            self.mistakes.add(&path, line, what);
            return None;
        };
        let flag = flag.to_owned();
        self.refers(&path, line, &flag, Kind::Flag).then_some(Condition { flag, is })
    }

    /// Reads what a step is told; `key` is one of its own.
    fn value<T: Argument>(
        &mut self,
        section: &Section<'_>,
        kind: &StepKind,
        key: &str,
    ) -> Option<Value<T>> {
        let key = kind.keys.iter().find(|known| known.name == key).expect("a step's own key");
        assert_eq!(key.kind, T::KIND, "the list of steps and its reader agree");
        let path = section.path_of(key.name);
        let Some(value) = section.get(key.name) else {
            if let Some(default) = key.default {
                return Some(Value::Given(T::read(default).expect("a default is of its kind")));
            }
            let what = format!("missing: {} needs {}", kind.name, key.kind.expected());
            self.mistakes.add(&path, section.line, what);
            return None;
        };
        match parameter_named(value.get_ref()) {
            Some(name) => {
                let line = self.mistakes.line(value.span().start);
                self.refers(&path, line, name, key.kind).then(|| Value::Parameter(name.to_owned()))
            }
            None => {
                let text = self.literal(&path, key.kind, value)?;
                Some(Value::Given(T::read(&text).expect("a literal was checked")))
            }
        }
    }

    /// Returns whether a parameter may stand where a value of `kind` is expected.
    fn refers(&mut self, path: &str, line: usize, name: &str, kind: Kind) -> bool {
        self.used.insert(name.to_owned());
        match self.declared.get(name) {
            Some(Some(declared)) if *declared == kind => true,
            Some(Some(declared)) => {
                let what = format!(
                    "parameter \"{name}\" is of type {}: expected {}",
                    declared.name(),
                    kind.name()
                );
                self.mistakes.add(path, line, what);
                false
            }
            Some(None) => false,
            None => {
                let what = format!("there is no parameter \"{name}\": [parameter.{name}] is one");
                self.mistakes.add(path, line, what);
                false
            }
        }
    }

    /// Returns the text of a value that is of `kind`.
    fn literal(&mut self, path: &str, kind: Kind, value: &Spanned<DeValue<'_>>) -> Option<String> {
        let line = self.mistakes.line(value.span().start);
        let text = match (kind, value.get_ref()) {
            (Kind::Flag, DeValue::Boolean(flag)) => flag.to_string(),
            (Kind::Number, DeValue::Integer(number)) if number.radix() == 10 => {
                number.as_str().to_owned()
            }
            (
                Kind::Region | Kind::Partitions | Kind::Duration | Kind::Name,
                DeValue::String(text),
            ) => text.to_string(),
            (_, other) => {
                let what = format!("expected {}, found {}", kind.expected(), found(other));
                self.mistakes.add(path, line, what);
                return None;
            }
        };
        match kind.check(&text) {
            Ok(()) => Some(text),
            Err(wrong) => {
                self.mistakes.add(path, line, wrong);
                None
            }
        }
    }

    /// Returns a text that has to be there, with its line.
    fn text(&mut self, section: &Section<'_>, key: &str) -> Option<(String, usize)> {
        let path = section.path_of(key);
        let Some(value) = section.get(key) else {
            self.mistakes.add(&path, section.line, "missing");
            return None;
        };
        let line = self.mistakes.line(value.span().start);
        match value.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => Some((text.to_string(), line)),
            DeValue::String(_) => {
                self.mistakes.add(&path, line, "empty");
                None
            }
            other => {
                let what = format!("expected a text in quotes, found {}", found(other));
                self.mistakes.add(&path, line, what);
                None
            }
        }
    }

    fn refuse_unknown(&mut self, section: &Section<'_>, known: &[&str]) {
        for (key, _) in section.table {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let line = self.mistakes.line(key.span().start);
                let what = format!("unknown key; known here: {}", known.join(", "));
                self.mistakes.add(&section.path_of(name), line, what);
            }
        }
    }
}

/// What each step says that it does, as far as it says anything.
fn names_of_steps<'a>(file: &'a Section<'_>) -> impl Iterator<Item = &'a str> {
    let steps = file.get("step").and_then(|steps| steps.get_ref().as_array());
    let steps = steps.into_iter().flat_map(|steps| steps.iter());
    steps.filter_map(|step| step.get_ref().get("do")?.get_ref().as_str())
}

/// Returns the name in `"{name}"`.
fn parameter_named<'a>(value: &'a DeValue<'_>) -> Option<&'a str> {
    value.as_str()?.strip_prefix('{')?.strip_suffix('}')
}

fn found(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
