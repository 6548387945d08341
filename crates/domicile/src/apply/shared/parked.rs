//! Which changes wait in the conflict journal because PostgreSQL refused them?

use std::collections::BTreeMap;

use anyhow::Context;
use domicile_core::id::TableName;
use serde_json::Value as Json;

use super::net::Net;
use super::row::lift_image;
use super::sql::Sql;
use crate::postgres::shared::state;
use crate::postgres::shared::table::Table;

/// So many are tried at a time.
const TRIED_MAX: usize = 100;

/// Reads parked changes with their entries' numbers, the oldest first.
pub async fn read(
    sql: &mut Sql<'_>,
    tables: &BTreeMap<TableName, Table>,
) -> anyhow::Result<Vec<(i64, Net)>> {
    let statement = format!(
        "SELECT id, relation, key, operation, new, incoming FROM domicile.journal
         WHERE status = 'parked' AND incoming IS NOT NULL ORDER BY id LIMIT {TRIED_MAX}"
    );
    let mut parked = Vec::new();
    for row in sql.rows(&statement, &[]).await? {
        let name: TableName = row.get::<_, &str>(1).parse()?;
        let Some(table) = tables.get(&name) else { continue };
        let key: Json = row.get(2);
        let value = |column: &String| {
            let value = key.get(column).and_then(Json::as_str).map(str::to_owned);
            value.with_context(|| format!("an entry about {name} has no key \"{column}\""))
        };
        let values = table.key.iter().map(value).collect::<anyhow::Result<Vec<_>>>()?;
        let image = row.get::<_, Option<Json>>(4).map(lift_image).transpose()?;
        let version = state::lift(row.get(5))?;
        let mut net = Net::default();
        net.put(name, values, row.get(3), image, version);
        parked.push((row.get(0), net));
    }
    Ok(parked)
}

/// The change is in its row now.
pub async fn close(sql: &mut Sql<'_>, id: i64) -> anyhow::Result<()> {
    let statement = "UPDATE domicile.journal
                     SET status = 'resolved', resolved_at = clock_timestamp() WHERE id = $1";
    sql.rows(statement, &[Some(&id.to_string())]).await?;
    Ok(())
}
