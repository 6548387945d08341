//! What does another region's transaction make of shared tables here?
//!
//! `core::conflict` decides row by row; this reads what is here, has PostgreSQL compute what only
//! it can (sums, extremes, a user's function), and writes the result, in one transaction with the
//! apply checkpoint.
//!
//! ```text
//!   net changes -> lock rows, then versions -> meet -> compute -> write
//!                                                            \-> one by one, when a value that
//!                                                                must be unique is in the way
//! ```
//!
//! A row that PostgreSQL refuses is *parked*: it stays as it is, the change waits in the conflict
//! journal, and the others go on. Nothing is lost by that, since whatever comes later of the same
//! row brings along what is in the parked change.

mod changes;
mod compute;
mod net;
mod parked;
mod row;
mod sql;
mod unique;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use domicile_core::change::Transaction;
use domicile_core::config::Config;
use domicile_core::conflict::policy::Policy;
use domicile_core::conflict::version::Version;
use domicile_core::conflict::{Conflict, Image, Kind, Logical, Meeting, Operation, Winner, meet};
use domicile_core::id::{Origin, TableName};
use domicile_core::lsn::Lsn;
use tokio_postgres::Client;

use super::executor::Executor;
use crate::pieces::Piece;
use crate::postgres::shared::{self, table, table::Table};
use crate::postgres::target::Targets;
use compute::Made;
use net::{Key, Net, NetRow};
pub use sql::{Prepared, Sql};
use write::Book;

/// Transactions that are applied as one at most: their rows are locked until it ends, and local
/// writers wait for that long.
const FOLDED_MAX: usize = 256;

/// Shared tables as one session knows them.
pub struct Shared {
    config: Arc<Config>,
    tables: BTreeMap<TableName, Table>,
    prepared: Prepared,
}

/// The shared part of one transaction, as far as it was read.
pub struct Part {
    net: Net,
    origin: Origin,
    lsn: Lsn,
    xid: u32,
}

impl Shared {
    pub fn new(config: Arc<Config>) -> Self {
        Self { config, tables: BTreeMap::new(), prepared: Prepared::default() }
    }

    /// Does this transaction change shared tables?
    pub fn concerns(&self, transaction: &Transaction) -> bool {
        transaction.relations.iter().any(|r| shared::is_shared(&self.config, &r.table))
    }

    /// The transaction's piece without what shared tables have of it.
    pub fn rest(&self, mut piece: Piece) -> Piece {
        let relations = &piece.transaction.relations;
        let ours: Vec<bool> =
            relations.iter().map(|r| shared::is_shared(&self.config, &r.table)).collect();
        let is_ours = |i: &u32| ours.get(*i as usize).copied().unwrap_or(false);
        piece.transaction.changes.retain(|change| !change.relations().iter().any(is_ours));
        piece
    }

    /// Begins a transaction; its pieces are then given to [`Shared::take`].
    pub async fn begin(
        &mut self,
        client: &Client,
        origin: &Origin,
        transaction: &Transaction,
    ) -> anyhow::Result<Part> {
        self.learn(client).await?;
        let (lsn, xid) = (transaction.lsn, transaction.xid);
        Ok(Part { net: Net::default(), origin: origin.clone(), lsn, xid })
    }

    pub fn take(&self, part: &mut Part, piece: &Piece) -> anyhow::Result<()> {
        part.net.take(&self.tables, piece)
    }

    /// Brings the first of these transactions together with as many that follow as can be applied
    /// like one. Returns how many those are; nothing when the first stands alone.
    pub async fn fold(
        &mut self,
        client: &Client,
        origin: &Origin,
        transactions: &[Transaction],
    ) -> anyhow::Result<Option<(usize, Part)>> {
        let alike = transactions.iter().take(FOLDED_MAX).take_while(|next| self.keeps_up(next));
        let mut alike = alike.collect::<Vec<_>>().into_iter();
        let Some(first) = alike.next() else { return Ok(None) };
        let mut whole = self.begin(client, origin, first).await?;
        self.take(&mut whole, &Piece::whole(first.clone()))?;
        let mut count = 1;
        for next in alike {
            let mut net = Net::default();
            net.take(&self.tables, &Piece::whole(next.clone()))?;
            if whole.net.absorb((whole.lsn, whole.xid), net).is_err() {
                break;
            }
            (whole.lsn, whole.xid) = (next.lsn, next.xid);
            count += 1;
        }
        Ok((count > 1).then_some((count, whole)))
    }

    /// Does this change nothing but shared tables of which only the latest is to be met?
    fn keeps_up(&self, transaction: &Transaction) -> bool {
        let ours = [shared::version_table(), shared::horizon_table()];
        !transaction.changes.is_empty()
            && transaction.relations.iter().all(|relation| {
                let policy = self.config.shared(&relation.table);
                policy.is_some_and(Policy::keeps_up) || ours.contains(&relation.table)
            })
    }

    /// Looks the shared tables up, unless they are known. One that is not here stays unknown.
    pub async fn learn(&mut self, client: &Client) -> anyhow::Result<()> {
        if self.tables.is_empty() {
            for (name, _) in shared::tables(&self.config) {
                if let Some(table) = table::find(client, name).await? {
                    self.tables.insert(name.clone(), table);
                }
            }
        }
        Ok(())
    }

    /// Would this column of a shared table be passed over?
    pub fn lacks_column(&self, table: &TableName, column: &str) -> bool {
        self.tables.get(table).is_some_and(|table| table.column(column).is_none())
    }

    /// Forgets what may have changed: table definitions and prepared statements.
    pub fn forget(&mut self) {
        self.tables.clear();
        self.prepared = Prepared::default();
    }

    /// Applies the shared part of a transaction inside the session's open transaction.
    pub(super) async fn apply(
        &mut self,
        executor: &Executor,
        targets: &mut Targets,
        part: &Part,
    ) -> anyhow::Result<()> {
        let mut sql = Sql::new(&executor.client, &mut self.prepared);
        let rows = decide(&self.config, &self.tables, &mut sql, &part.net).await?;
        let mut book = Book::new(&part.origin, part.lsn, part.xid);
        write::write(&mut sql, executor, targets, &mut book, rows).await?;
        book.write(&mut sql).await?;
        for (region, frontier) in &part.net.horizons {
            row::save_horizon(&mut sql, region, frontier).await?;
        }
        Ok(())
    }

    /// Tries parked changes again, shows hidden rows whose values have become free, and closes the
    /// entries of rows that are hidden no more. Returns how many rows changed, inside the session's
    /// open transaction.
    pub async fn keep(&mut self, client: &Client, origin: &Origin) -> anyhow::Result<usize> {
        self.learn(client).await?;
        let mut sql = Sql::new(client, &mut self.prepared);
        let rows = sql.rows("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
        let lsn = rows.first().context("no position")?.get::<_, String>(0).parse()?;
        let parked = parked::read(&mut sql, &self.tables).await?;
        let mut book = Book::new(origin, lsn, 0);
        let mut changed = 0;
        for (id, net) in &parked {
            let rows = decide(&self.config, &self.tables, &mut sql, net).await?;
            let waits = |row: &Row<'_>| matches!(row.outcome, Outcome::Parked(_));
            if !rows.iter().any(waits) && write::again(&mut sql, &mut book, rows).await? {
                parked::close(&mut sql, *id).await?;
                changed += 1;
            }
        }
        for (name, policy) in shared::tables(&self.config) {
            let Some(table) = self.tables.get(name) else { continue };
            changed += write::settle_table(&mut sql, &mut book, table, policy.slug()).await?;
        }
        book.write(&mut sql).await?;
        for (name, _) in shared::tables(&self.config) {
            if let Some(table) = self.tables.get(name) {
                write::tell_returned(&mut sql, table).await?;
            }
        }
        Ok(changed)
    }
}

/// Reads what is here and decides about every row.
async fn decide<'a>(
    config: &'a Config,
    tables: &'a BTreeMap<TableName, Table>,
    sql: &mut Sql<'_>,
    net: &'a Net,
) -> anyhow::Result<Vec<Row<'a>>> {
    let mut rows = Vec::with_capacity(net.rows.len());
    for (key, net) in &net.rows {
        let table = tables.get(&key.table).context("a shared table is not there")?;
        let policy = config.shared(&key.table).context("a shared table has no policy")?;
        rows.push(Row::new(table, policy, key, net));
    }
    read(sql, &mut rows).await?;
    if let Some(latest) = net.latest() {
        sql.rows("SELECT domicile.hear($1)", &[Some(&latest.to_string())]).await?;
    }
    let met: Vec<Option<Meeting>> = rows.iter().map(Row::meet).collect();
    let joined = rows.iter().zip(&met).filter_map(|(row, met)| match met {
        Some(Meeting::Joined(joined)) => Some((row, &joined.content)),
        _ => None,
    });
    let mut made = compute::images(sql, joined.collect()).await?.into_iter();
    for (row, met) in rows.iter_mut().zip(met) {
        row.decide(met, &mut made);
    }
    Ok(rows)
}

/// Locks all rows, then their versions, and reads both.
async fn read(sql: &mut Sql<'_>, rows: &mut [Row<'_>]) -> anyhow::Result<()> {
    show(sql, rows.iter_mut().collect()).await?;
    let names: Vec<_> = rows.iter().map(|row| (&row.key.table, row.key_text.as_str())).collect();
    for (i, known) in row::known(&sql.read(row::know(&names)).await?)? {
        let Some(row) = rows.get_mut(i) else { continue };
        (row.has_version, row.local) =
            (true, Logical { version: known.version, image: known.aside });
    }
    // Its version was locked by whoever put it there meanwhile.
    show(sql, rows.iter_mut().filter(|row| row.shown.is_none()).collect()).await?;
    for row in rows {
        row.local.image = row.shown.clone().or(row.local.image.take());
    }
    Ok(())
}

/// Locks and reads those rows that can be seen, table by table.
async fn show(sql: &mut Sql<'_>, mut rows: Vec<&mut Row<'_>>) -> anyhow::Result<()> {
    for rows in rows.chunk_by_mut(|one, next| one.key.table == next.key.table) {
        let Some(table) = rows.first().map(|row| row.table) else { continue };
        let keys: Vec<&[String]> = rows.iter().map(|row| row.key.values.as_slice()).collect();
        for (i, image) in row::locked(&sql.read(row::lock(table, &keys)).await?)? {
            if let Some(row) = rows.get_mut(i) {
                row.shown = Some(image);
            }
        }
    }
    Ok(())
}

/// One row on its way from what is here to what it becomes.
struct Row<'a> {
    table: &'a Table,
    policy: &'a Policy,
    key: &'a Key,
    net: &'a NetRow,
    /// The key as `domicile.version` has it.
    key_text: String,
    /// What can be seen in the table.
    shown: Option<Image>,
    /// What is here, seen or not.
    local: Logical,
    /// Has it a version here?
    has_version: bool,
    outcome: Outcome,
}

enum Outcome {
    /// Nothing changes.
    Stays,
    Becomes(Box<Target>),
    /// PostgreSQL refused it, for this reason.
    Parked(String),
}

struct Target {
    version: Version,
    image: Option<Image>,
    alive: bool,
    conflict: Option<Conflict>,
    /// Something went wrong while it was computed, and a person should look.
    note: Option<String>,
}

impl<'a> Row<'a> {
    /// One that nothing is known of here yet.
    fn new(table: &'a Table, policy: &'a Policy, key: &'a Key, net: &'a NetRow) -> Self {
        let key_text = match &net.version {
            Some(version) => version.key.clone(),
            // As PostgreSQL prints a JSON list.
            None => format!(
                "[{}]",
                key.values.iter().map(|v| json_text(v)).collect::<Vec<_>>().join(", ")
            ),
        };
        Self {
            table,
            policy,
            key,
            net,
            key_text,
            shown: None,
            local: Logical { version: Version::default(), image: None },
            has_version: false,
            outcome: Outcome::Stays,
        }
    }

    /// `None` where it came without a version.
    fn meet(&self) -> Option<Meeting> {
        let incoming = self.net.logical()?;
        Some(meet(self.policy, &self.local, &incoming, self.net.operation()))
    }

    /// `made` has the values of the next row that is joined.
    fn decide(&mut self, met: Option<Meeting>, made: &mut impl Iterator<Item = Made>) {
        let (Some(incoming), Some(met)) = (self.net.logical(), met) else {
            let reason = "it came without a version: the triggers were off where it was written";
            self.outcome = Outcome::Parked(reason.into());
            return;
        };
        self.outcome = match met {
            Meeting::Known => Outcome::Stays,
            Meeting::Follows => {
                let is_known = self.shown.is_some() || self.has_version;
                let missing = self.net.operation() == Operation::Update && !is_known;
                let conflict = missing.then_some(Conflict {
                    kind: Kind::UpdateMissing,
                    winner: Winner::Incoming,
                    open: false,
                });
                let alive = self.policy.alive(&incoming.version);
                let (version, image) = (incoming.version, incoming.image);
                Outcome::Becomes(Box::new(Target { version, image, alive, conflict, note: None }))
            }
            Meeting::Joined(joined) => match made.next() {
                None => Outcome::Parked("its values were not computed".into()),
                Some(Err(reason)) => Outcome::Parked(reason),
                Some(Ok((image, note))) => Outcome::Becomes(Box::new(Target {
                    version: joined.version,
                    image,
                    alive: joined.alive,
                    conflict: joined.conflict,
                    note,
                })),
            },
        };
        if let Outcome::Becomes(target) = &self.outcome
            && target.alive
            && target.image.is_none()
        {
            self.outcome = Outcome::Parked("its version came without the row".into());
        }
    }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
