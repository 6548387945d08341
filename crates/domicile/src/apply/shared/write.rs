//! How are the decided rows written, and what goes to the conflict journal?

use std::collections::BTreeSet;

use domicile_core::conflict::unique;
use domicile_core::conflict::version::Version;
use domicile_core::conflict::{Image, Operation};
use domicile_core::fold::Touched;
use domicile_core::id::{Origin, TableName};
use domicile_core::lsn::Lsn;
use futures_util::future::try_join_all;
use serde_json::{Map, Value as Json, json};

use super::changes::changes;
use super::row::{self, Knowledge, lower_image};
use super::sql::Sql;
use super::unique::{Candidate, Shown, attempt, settle, show};
use super::{Outcome, Row};
use crate::apply::executor::Executor;
use crate::apply::is_transient;
use crate::apply::plan::plan;
use crate::postgres::journal::{self, Decided};
use crate::postgres::session::quote_text;
use crate::postgres::shared::state;
use crate::postgres::shared::table::Table;
use crate::postgres::target::Targets;

/// Writes all rows, and notes what was lost.
pub(super) async fn write<'a>(
    sql: &mut Sql<'_>,
    executor: &Executor,
    targets: &mut Targets,
    book: &mut Book<'a>,
    mut rows: Vec<Row<'a>>,
) -> anyhow::Result<()> {
    sql.command("SAVEPOINT plainly").await?;
    match plainly(executor, targets, &rows).await {
        Ok(()) => sql.command("RELEASE SAVEPOINT plainly").await?,
        Err(error) if is_transient(&error) => return Err(error),
        Err(error) => {
            tracing::debug!(origin = %book.origin, lsn = %book.lsn, "row by row: {error:#}");
            sql.command("ROLLBACK TO SAVEPOINT plainly; RELEASE SAVEPOINT plainly").await?;
            sql.forget();
            one_by_one(sql, book, &mut rows).await?;
        }
    }
    for row in &rows {
        book.row(row);
    }
    let touched: BTreeSet<&TableName> = rows.iter().map(|row| &row.table.name).collect();
    for name in touched {
        if let Some(row) = rows.iter().find(|row| row.table.name == *name) {
            settle_table(sql, book, row.table, row.policy.slug()).await?;
        }
    }
    supersede(sql, &rows).await
}

/// Writes rows that were parked. Returns whether all of them could be written now.
pub(super) async fn again<'a>(
    sql: &mut Sql<'_>,
    book: &mut Book<'a>,
    mut rows: Vec<Row<'a>>,
) -> anyhow::Result<bool> {
    one_by_one(sql, book, &mut rows).await?;
    Ok(!rows.iter().any(|row| matches!(row.outcome, Outcome::Parked(_))))
}

/// Writes rows in sets, as if nothing could be in their way.
async fn plainly(
    executor: &Executor,
    targets: &mut Targets,
    rows: &[Row<'_>],
) -> anyhow::Result<()> {
    let batch = [changes(rows)];
    targets.learn(&*executor.client, targets.unknown(&batch[0].relations)).await?;
    let (_, plan) = plan(&batch, &Touched::Everything, targets);
    executor.execute(&plan?.late).await
}

/// Takes all rows out that change, and shows them again, the highest rank first: so that rows
/// that exchange a unique value are not in each other's way.
async fn one_by_one<'a>(
    sql: &mut Sql<'_>,
    book: &mut Book<'a>,
    rows: &mut [Row<'a>],
) -> anyhow::Result<()> {
    let mut waiting = Vec::new();
    for (i, row) in rows.iter_mut().enumerate() {
        let Outcome::Becomes(target) = &row.outcome else { continue };
        let (table, key) = (row.table, row.key.values.as_slice());
        let in_place = target.alive && table.unique_indexes.is_empty();
        let tried = match (&row.shown, &target.image) {
            (Some(shown), Some(image)) if in_place => {
                attempt(sql, row::update(table, key, shown, image)).await?
            }
            (Some(_), _) => attempt(sql, [row::delete(table, key)]).await?,
            (None, _) => Ok(()),
        };
        match tried {
            Err(refusal) => row.outcome = Outcome::Parked(refusal.reason),
            Ok(()) if target.alive && !(in_place && row.shown.is_some()) => waiting.push(i),
            Ok(()) => {
                let aside = target.image.as_ref().filter(|_| !target.alive);
                save(sql, row, &target.version, !target.alive, aside).await?;
            }
        }
    }
    let rank = |i: &usize| rows[*i].candidate(true).map(|candidate| candidate.rank());
    waiting.sort_by_key(|i| std::cmp::Reverse(rank(i)));
    for i in waiting {
        let row = &mut rows[i];
        let Some(candidate) = row.candidate(true) else { continue };
        let version = &candidate.version;
        match show(sql, row.table, &candidate).await? {
            Shown::InPlaceOf(others) => {
                save(sql, row, version, false, None).await?;
                book.displaced(row.table, row.policy.slug(), &candidate, &others);
            }
            Shown::Hidden(others) => {
                let aside = Some(&candidate.image);
                save(sql, row, version, false, aside).await?;
                book.kept_out(row, &candidate, &others);
            }
            Shown::Refused(reason) => {
                let before = row.candidate(false).filter(|_| row.shown.is_some());
                row.outcome = Outcome::Parked(reason);
                if let Some(before) = before {
                    put_back(sql, row.table, &before).await?;
                }
            }
        }
    }
    Ok(())
}

/// Writes what is known of a row that was read before.
async fn save(
    sql: &mut Sql<'_>,
    row: &Row<'_>,
    version: &Version,
    deleted: bool,
    aside: Option<&Image>,
) -> anyhow::Result<()> {
    let knowledge =
        Knowledge { table: &row.table.name, key: &row.key_text, version, deleted, aside };
    if row.has_version { knowledge.save(sql).await } else { knowledge.save_first(sql).await }
}

/// Makes a row again what it was, as far as it can be seen now.
async fn put_back(sql: &mut Sql<'_>, table: &Table, before: &Candidate) -> anyhow::Result<()> {
    let (key, version) = (&before.key_text, &before.version);
    match show(sql, table, before).await? {
        Shown::InPlaceOf(_) => Ok(()),
        Shown::Hidden(_) => {
            let (table, aside) = (&table.name, Some(&before.image));
            Knowledge { table, key, version, deleted: false, aside }.save(sql).await
        }
        Shown::Refused(reason) => {
            anyhow::bail!("row {key} of {} cannot be put back: {reason}", table.name)
        }
    }
}

/// Shows what can be shown of a table's hidden rows.
pub(super) async fn settle_table<'a>(
    sql: &mut Sql<'_>,
    book: &mut Book<'a>,
    table: &'a Table,
    policy: &'static str,
) -> anyhow::Result<usize> {
    if table.unique_indexes.is_empty() {
        return Ok(0);
    }
    let (returned, displaced) = settle(sql, table).await?;
    for (other, by) in &displaced {
        book.displaced(table, policy, by, std::slice::from_ref(other));
    }
    Ok(returned.len())
}

/// Closes the entries of rows that are hidden no more, whatever brought them back or took them away:
/// a value that became free, or a write of the row itself.
pub(super) async fn tell_returned(sql: &mut Sql<'_>, table: &Table) -> anyhow::Result<()> {
    let key: Vec<String> =
        table.key.iter().map(|name| format!("entry.key ->> {}", quote_text(name))).collect();
    let statement = format!(
        "UPDATE domicile.journal closed
         SET status = CASE WHEN row_.deleted IS FALSE THEN 'returned' ELSE 'resolved' END,
             resolved_at = clock_timestamp()
         FROM domicile.journal entry LEFT JOIN domicile.version row_
             ON row_.relation = $1 AND row_.key = jsonb_build_array({key})::text
         WHERE closed.id = entry.id AND entry.relation = $1 AND entry.status = 'hidden'
             AND (row_.deleted OR row_.image IS NULL)",
        key = key.join(", ")
    );
    sql.rows(&statement, &[Some(&table.name.to_string())]).await?;
    Ok(())
}

/// Closes parked entries whose change is in what the rows have become.
async fn supersede(sql: &mut Sql<'_>, rows: &[Row<'_>]) -> anyhow::Result<()> {
    let parked = "SELECT FROM domicile.journal WHERE status = 'parked' LIMIT 1";
    if sql.rows(parked, &[]).await?.is_empty() {
        return Ok(());
    }
    for row in rows {
        let Outcome::Becomes(target) = &row.outcome else { continue };
        let key = key_image(row.table, &row.key.values);
        let waiting = sql
            .client()
            .query(
                "SELECT id, incoming FROM domicile.journal
                 WHERE relation = $1 AND key = $2
                     AND jsonb_hash_extended(key, 0) = jsonb_hash_extended($2, 0)
                     AND status = 'parked' AND incoming IS NOT NULL",
                &[&row.table.name.to_string(), &key],
            )
            .await?;
        for entry in waiting {
            let version = state::lift(entry.get(1))?;
            if target.version.seen.covers(&version.seen) {
                sql.client()
                    .execute(
                        "UPDATE domicile.journal
                         SET status = 'resolved', resolved_at = clock_timestamp() WHERE id = $1",
                        &[&entry.get::<_, i64>(0)],
                    )
                    .await?;
            }
        }
    }
    Ok(())
}

impl Row<'_> {
    /// The row as it becomes, or as it was.
    fn candidate(&self, becomes: bool) -> Option<Candidate> {
        let (version, image) = match &self.outcome {
            Outcome::Becomes(target) if becomes => (&target.version, target.image.as_ref()),
            _ => (&self.local.version, self.local.image.as_ref()),
        };
        Some(Candidate {
            key_text: self.key_text.clone(),
            key: self.key.values.clone(),
            version: version.clone(),
            image: image?.clone(),
        })
    }
}

/// Collects entries for the conflict journal.
pub(super) struct Book<'a> {
    origin: &'a Origin,
    lsn: Lsn,
    xid: u32,
    entries: Vec<Decided<'a>>,
    /// Rows that only stood in the way.
    bystanders: i32,
}

impl<'a> Book<'a> {
    pub(super) fn new(origin: &'a Origin, lsn: Lsn, xid: u32) -> Self {
        Self { origin, lsn, xid, entries: Vec::new(), bystanders: 0 }
    }

    /// Notes what a row lost, and why it is not what it should be.
    fn row(&mut self, row: &Row<'a>) {
        let policy = row.policy.slug();
        let note = match &row.outcome {
            Outcome::Stays => return,
            Outcome::Parked(reason) => {
                let (conflict, winner) = ("apply_error", "local");
                let reason = format!("parked, the row stays as it is: {reason}");
                self.push(row, Note { conflict, reason, policy, winner, status: "parked" });
                return;
            }
            Outcome::Becomes(target) => match (target.conflict, &target.note) {
                (None, None) => return,
                (conflict, note) => {
                    let open = note.is_some() || conflict.is_some_and(|conflict| conflict.open);
                    let conflict_name = conflict.map_or("apply_error", |c| c.kind.slug());
                    let winner = conflict.map_or("both", |c| c.winner.slug());
                    let reason = note.clone().unwrap_or_else(|| explain(conflict_name, winner));
                    let status = if open { "open" } else { "settled" };
                    Note { conflict: conflict_name, reason, policy, winner, status }
                }
            },
        };
        self.push(row, note);
    }

    fn push(&mut self, row: &Row<'a>, note: Note) {
        let incoming = row.net.version.as_ref().map(|version| state::lower(&version.version));
        let (lsn, xid) = row.net.first.unwrap_or((self.lsn, self.xid));
        self.entries.push(Decided {
            origin: self.origin,
            lsn,
            xid,
            change: row.net.change,
            table: &row.table.name,
            operation: word(row.net.operation()),
            key: key_image(row.table, &row.key.values),
            old: row.net.old.as_ref().map(lower_image),
            new: row.net.logical().and_then(|row| row.image).as_ref().map(lower_image),
            local: row.local.image.as_ref().map(lower_image),
            conflict: note.conflict,
            reason: note.reason,
            policy: note.policy,
            winner: note.winner,
            status: note.status,
            incoming: incoming.filter(|_| note.status != "settled"),
        });
    }

    /// The incoming row was kept out.
    fn kept_out(&mut self, row: &Row<'a>, candidate: &Candidate, others: &[Candidate]) {
        let inserted = row.net.operation() == Operation::Insert;
        self.hidden(Hidden {
            at: row.net.first.unwrap_or((self.lsn, self.xid)),
            change: row.net.change,
            table: row.table,
            policy: row.policy.slug(),
            hidden: candidate,
            inserted,
            new: &candidate.image,
            local: others.first().map(|other| &other.image),
            others: others.len(),
            winner: "local",
        });
    }

    /// Rows that were here gave way to another.
    fn displaced(
        &mut self,
        table: &'a Table,
        policy: &'static str,
        by: &Candidate,
        others: &[Candidate],
    ) {
        for other in others {
            self.bystanders -= 1;
            self.hidden(Hidden {
                at: (self.lsn, self.xid),
                change: self.bystanders,
                table,
                policy,
                hidden: other,
                inserted: true,
                new: &by.image,
                local: Some(&other.image),
                others: others.len(),
                winner: "incoming",
            });
        }
    }

    fn hidden(&mut self, hidden: Hidden<'a, '_>) {
        let conflict = unique::kind(hidden.inserted, hidden.others).slug();
        let (lsn, xid) = hidden.at;
        self.entries.push(Decided {
            origin: self.origin,
            lsn,
            xid,
            change: hidden.change,
            table: &hidden.table.name,
            operation: if hidden.inserted { "insert" } else { "update" },
            key: key_image(hidden.table, &hidden.hidden.key),
            old: None,
            new: Some(lower_image(hidden.new)),
            local: hidden.local.map(lower_image),
            conflict,
            reason: format!(
                "another row has the same value in a unique index and was written later; row {} \
                 is kept aside until the value is free",
                hidden.hidden.key_text
            ),
            policy: hidden.policy,
            winner: hidden.winner,
            status: "hidden",
            incoming: None,
        });
    }

    pub(super) async fn write(self, sql: &mut Sql<'_>) -> anyhow::Result<()> {
        let write = |entry| journal::write_decided(sql.client(), entry);
        let written: Vec<_> = self.entries.iter().map(write).collect();
        try_join_all(written).await?;
        Ok(())
    }
}

struct Note {
    conflict: &'static str,
    reason: String,
    policy: &'static str,
    winner: &'static str,
    status: &'static str,
}

struct Hidden<'a, 'h> {
    at: (Lsn, u32),
    change: i32,
    table: &'a Table,
    policy: &'static str,
    hidden: &'h Candidate,
    inserted: bool,
    new: &'h Image,
    local: Option<&'h Image>,
    others: usize,
    winner: &'static str,
}

fn explain(conflict: &str, winner: &str) -> String {
    let what = match conflict {
        "insert_exists" => "two regions inserted this row",
        "update_missing" => "the row to update is not here",
        "update_deleted" => "one region wrote this row while another deleted it",
        "delete_origin_differs" => "one region deleted this row while another wrote it",
        _ => "two regions wrote this row",
    };
    let who = match winner {
        "local" => "what is here stays",
        "incoming" => "what arrived takes its place",
        _ => "something of each is kept",
    };
    format!("{what}; {who}")
}

fn word(operation: Operation) -> &'static str {
    match operation {
        Operation::Insert => "insert",
        Operation::Update => "update",
        Operation::Delete => "delete",
    }
}

/// A key by its columns, as the rest of the journal has it.
pub(super) fn key_image(table: &Table, values: &[String]) -> Json {
    let members = table.key.iter().zip(values).map(|(name, value)| (name.clone(), json!(value)));
    Json::Object(members.collect::<Map<_, _>>())
}
