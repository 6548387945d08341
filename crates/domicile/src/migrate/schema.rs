//! Would this change of the schema leave the regions unlike each other?
//!
//! The schema is read before and after the statements, in their own transaction, so PostgreSQL
//! itself says what they did. Two things diverge: values that each region would make up for itself,
//! and rows on their way from another region that fit no more when they arrive.

use std::collections::{BTreeMap, BTreeSet};

use domicile_core::config::{Config, KeySource, TableKind};
use domicile_core::id::{RegionId, TableName};
use domicile_core::ownership::Ownership;
use domicile_pg::script::Statement;
use tokio_postgres::Client;

use super::Refusal;
use super::statement::{names_a_moment, narrows_a_type};
use crate::postgres::catalog::{self, Catalog, Persistence, Table};

const MADE_UP: &str = include_str!("made_up.sql");
/// What holds for every row that is there, and is no index.
const CHECKS: &str = "
    SELECT n.nspname::text, c.relname::text, k.conname::text
    FROM pg_constraint k
    JOIN pg_class c ON c.oid = k.conrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE k.contype = 'c' OR k.contype = 'f' AND k.convalidated";

/// What a database defines at one moment of a transaction.
pub struct Schema {
    catalog: Catalog,
    checks: BTreeSet<(TableName, String)>,
    /// Columns whose default is another value each time, and what makes it so.
    made_up: BTreeMap<(TableName, String), String>,
}

impl Schema {
    pub async fn read(client: &Client) -> anyhow::Result<Self> {
        let named = |row: &tokio_postgres::Row| {
            (TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)), row.get(2))
        };
        let checks = client.query(CHECKS, &[]).await?.iter().map(named).collect();
        let made_up = client.query(MADE_UP, &[]).await?;
        Ok(Self {
            catalog: catalog::read(client).await?,
            checks,
            made_up: made_up.iter().map(|row| (named(row), row.get(3))).collect(),
        })
    }

    /// The tables that have become table partitions of a replicated one since `before`, and were there and
    /// not replicated then.
    pub fn attached(&self, config: &Config, before: &Self) -> Vec<TableName> {
        let now = self.catalog.tables.values().filter(|table| self.listed(config, table).is_some());
        let known = |table: &&Table| {
            let mut then = before.catalog.tables.values();
            let then = then.find(|then| then.oid == table.oid);
            then.is_some_and(|then| before.listed(config, then).is_none())
        };
        now.filter(known).map(|table| table.name.clone()).collect()
    }

    /// The listed table that this one is, or is a table partition of.
    fn listed<'a>(&'a self, config: &Config, table: &'a Table) -> Option<&'a TableName> {
        let above = |table: &&'a Table| self.catalog.table(table.partition_of.as_ref()?);
        let tree = std::iter::successors(Some(table), above);
        let replicated =
            |table: &&'a Table| !matches!(config.kind(&table.name), None | Some(TableKind::Local));
        tree.filter(replicated).last().map(|table| &table.name)
    }
}

/// Who writes the rows of a replicated table?
pub struct Writers<'a> {
    pub config: &'a Config,
    pub ownership: &'a Ownership,
    /// Where the statements run first.
    pub region: &'a RegionId,
}

impl Writers<'_> {
    /// Are all changes of this table in one log?
    fn is_alone(&self, table: &TableName) -> bool {
        let ours = |state: Option<&RegionId>| state == Some(self.region);
        match self.config.kind(table) {
            Some(TableKind::Shared(_)) => false,
            Some(TableKind::Reference) => self
                .config
                .layout
                .reference()
                .and_then(|partition| self.ownership.entry(partition))
                .is_some_and(|entry| ours(entry.state.admits())),
            _ => self.ownership.data().iter().all(|entry| ours(entry.state.admits())),
        }
    }
}

/// Returns everything that speaks against what `statement` made of `before`.
pub fn refusals(
    writers: &Writers<'_>,
    before: &Schema,
    after: &Schema,
    statement: &Statement<'_>,
) -> Vec<Refusal> {
    let names_a_moment = names_a_moment(statement);
    let by_oid: BTreeMap<u32, &Table> =
        after.catalog.tables.values().map(|table| (table.oid, table)).collect();
    let mut found = Vec::new();
    for table in before.catalog.tables.values() {
        let Some(listed) = before.listed(writers.config, table) else { continue };
        let named = named_columns(writers.config, listed);
        let alone = writers.is_alone(listed);
        let mut change = Change { table, listed, named, alone, found: &mut found };
        match by_oid.get(&table.oid) {
            None => change.gone(),
            Some(now) => change.became(now, before, after, names_a_moment),
        }
    }
    let shared = before.catalog.tables.values().filter_map(|t| before.listed(writers.config, t));
    if narrows_a_type(statement) && shared.into_iter().any(|listed| !writers.is_alone(listed)) {
        found.push(Refusal::new(statement.text, ON_THEIR_WAY, MOVE_FIRST));
    }
    found
}

const ON_THEIR_WAY: &str = "other regions write, too, and rows that are on their way from there may not fit any \
                            more when they arrive";
const MOVE_FIRST: &str = "move every partition to one region first (domicile switchover) and migrate there with \
                          --region; or change it in steps in which old and new rows both fit";

/// The columns of a table by which domicile.toml finds the owners of rows, its own and others'.
fn named_columns<'a>(config: &'a Config, listed: &TableName) -> BTreeSet<&'a str> {
    let of = |(table, kind): (&TableName, &'a TableKind)| -> Option<&'a [String]> {
        match kind {
            TableKind::Owned(KeySource::Columns(columns)) if table == listed => Some(columns),
            TableKind::Owned(KeySource::Parent { columns, .. }) if table == listed => Some(columns),
            TableKind::Owned(KeySource::Parent { table: parent, references, .. })
                if parent == listed =>
            {
                Some(references)
            }
            _ => None,
        }
    };
    config.tables.iter().filter_map(of).flatten().map(String::as_str).collect()
}

/// What became of one replicated table.
struct Change<'a> {
    table: &'a Table,
    listed: &'a TableName,
    named: BTreeSet<&'a str>,
    alone: bool,
    found: &'a mut Vec<Refusal>,
}

impl Change<'_> {
    fn refuse(&mut self, what: &str, reason: &str, instead: &str) {
        let what = format!("{} {what}", self.table.name);
        self.found.push(Refusal::new(&what, reason, instead));
    }

    /// Rows that were written before may not fit.
    fn narrows(&mut self, what: &str) {
        if !self.alone {
            self.refuse(what, ON_THEIR_WAY, MOVE_FIRST);
        }
    }

    fn gone(&mut self) {
        if self.table.name == *self.listed {
            self.refuse(
                "is dropped",
                "it is replicated",
                "take it out of domicile.toml in every region first, restart the agents, then drop it",
            );
        } else {
            self.narrows("is dropped");
        }
    }

    fn became(&mut self, now: &Table, before: &Schema, after: &Schema, names_a_moment: bool) {
        if now.name != self.table.name && self.table.name == *self.listed {
            self.refuse(
                "gets another name",
                "domicile.toml knows it by this one",
                "leave the table its name, and give readers a view under the other",
            );
            return;
        }
        if now.partition_of != self.table.partition_of {
            self.narrows("is attached or detached");
        }
        if now.persistence != Persistence::Permanent {
            self.refuse("is not logged any more", "then it is not replicated", "leave it logged");
        }
        for column in &self.table.columns {
            let what = |what: &str| format!("column {} {what}", column.name);
            let is_same = now.column(&column.name).is_some_and(|c| c.type_name == column.type_name);
            if self.named.contains(column.name.as_str()) && !is_same {
                self.refuse(
                    &what("goes, or gets another name or type"),
                    "domicile.toml finds the owners of rows by it: nobody could write them any more",
                    "leave it as it is, and add another column beside it; or move the rows to a new table that \
                     domicile.toml lists",
                );
                continue;
            }
            match now.column(&column.name) {
                None => self.narrows(&what("goes or gets another name")),
                Some(now) if now.type_name != column.type_name => {
                    self.narrows(&what("becomes another type"));
                }
                Some(now) if now.not_null && !column.not_null => self.narrows(&what("is required")),
                Some(now) if now.generated != column.generated => {
                    self.narrows(&what("is computed no more, or from now on"));
                }
                Some(_) => {}
            }
        }
        for column in now.columns.iter().filter(|c| self.table.column(&c.name).is_none()) {
            let what = format!("column {}", column.name);
            if column.not_null && column.default.is_none() && !column.generated {
                self.narrows(&format!("{what} is required and has no default"));
            }
            let of_time =
                ["timestamp", "date", "time"].iter().any(|t| column.type_name.starts_with(t));
            let moment = names_a_moment && of_time && column.default.is_some();
            let by = after.made_up.get(&(now.name.clone(), column.name.clone()));
            if let Some(by) = by.map(String::as_str).or(moment.then_some("a string like 'now'")) {
                self.refuse(
                    &what,
                    &format!("each region would fill the rows that are there by itself: {by} is another value in each"),
                    "add the column without a default, set the default by another statement, and fill \
                     the rows that are there with UPDATEs at their owner",
                );
            }
        }
        let known = |name: &str| self.table.unique_indexes.iter().any(|index| index.name == name);
        let unique: Vec<&str> =
            now.unique_indexes.iter().map(|i| i.name.as_str()).filter(|n| !known(n)).collect();
        let checks = after.checks.difference(&before.checks);
        let checks = checks.filter(|(table, _)| *table == now.name).map(|(_, name)| name.as_str());
        let exclusions = now.exclusions.iter().filter(|n| !self.table.exclusions.contains(n));
        let exclusions = exclusions.map(String::as_str);
        let stricter: Vec<&str> = unique.into_iter().chain(checks).chain(exclusions).collect();
        for name in stricter {
            self.narrows(&format!("gets constraint {name}"));
        }
    }
}
