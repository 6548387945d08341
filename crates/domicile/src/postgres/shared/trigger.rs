//! Which triggers does a shared table carry?
//!
//! One after each row, which stamps the row's version; one before each row, where a column's policy
//! restricts what may be written; one that refuses TRUNCATE, which says nothing of rows. They are
//! written for one table and its columns, and written again when those change.

use std::fmt::Write as _;

use anyhow::Context;
use domicile_core::conflict::policy::{ColumnPolicy, Columns, Policy};
use domicile_core::conflict::version::ROW;
use tokio_postgres::Client;

use super::table::{Column, Table};
use crate::postgres::rows::qualified;
use crate::postgres::session::{PINNED, function_for, quote_name, quote_text};

/// Writes functions and triggers that are missing or out of date.
pub async fn install(client: &Client, table: &Table, policy: &Policy) -> anyhow::Result<()> {
    let applier: String = client.query_one("SELECT session_user::text", &[]).await?.get(0);
    let applying = format!(
        "session_user = {} AND pg_replication_origin_session_is_setup()",
        quote_text(&applier)
    );
    let function = |what: &str| function_for(what, &table.name);
    let stamp = function("share");
    create(client, &stamp, &stamp_body(table, policy, &applying), &pins(table)).await?;
    let mut wanted = vec![
        Trigger {
            name: STAMP,
            function: stamp,
            when: "AFTER INSERT OR UPDATE OR DELETE",
            each: "ROW",
        },
        Trigger {
            name: "domicile_share_truncate",
            function: "domicile.refuse_truncate".to_owned(),
            when: "BEFORE TRUNCATE",
            each: "STATEMENT",
        },
    ];
    create(client, "domicile.refuse_truncate", &truncate_body(&applying), "").await?;
    if let Some(body) = restrict_body(table, policy, &applying) {
        let function = function("restrict");
        create(client, &function, &body, "").await?;
        // The last before the row is written: others may still change it.
        let when = "BEFORE INSERT OR UPDATE";
        wanted.push(Trigger { name: "zzzz_domicile_restrict", function, when, each: "ROW" });
    }
    for trigger in wanted {
        trigger.put(client, table).await?;
    }
    Ok(())
}

/// The first after the row is written: others may write it again, and versions follow the order of writes.
const STAMP: &str = "00_domicile_share";

struct Trigger {
    name: &'static str,
    function: String,
    when: &'static str,
    each: &'static str,
}

impl Trigger {
    /// Removes what did the same under an earlier name.
    fn instead(&self, leaf: &str) -> String {
        match self.name == STAMP {
            true => format!("DROP TRIGGER IF EXISTS domicile_share ON {leaf}"),
            false => String::new(),
        }
    }

    async fn put(&self, client: &Client, table: &Table) -> anyhow::Result<()> {
        // A partitioned table's rows are its table partitions'.
        let missing = client
            .query(
                "SELECT relid::regclass::text
                 FROM (SELECT relid FROM pg_partition_tree(to_regclass($1)) WHERE isleaf
                       UNION SELECT oid FROM pg_class
                       WHERE oid = to_regclass($1) AND (relkind <> 'p' OR $4)) tree
                 WHERE NOT EXISTS (
                     SELECT FROM pg_trigger
                     WHERE tgrelid = relid AND tgname = $2
                         AND tgenabled = 'A' AND tgfoid = to_regproc($3))",
                &[&qualified(&table.name), &self.name, &self.function, &(self.each == "STATEMENT")],
            )
            .await
            .context("look for triggers")?;
        for row in missing {
            let (leaf, name) = (row.get::<_, &str>(0), quote_name(self.name));
            let sql = format!(
                "CREATE OR REPLACE TRIGGER {name} {} ON {leaf} FOR EACH {} \
                 EXECUTE FUNCTION {}(); \
                 ALTER TABLE {leaf} ENABLE ALWAYS TRIGGER {name}; {}",
                self.when,
                self.each,
                self.function,
                self.instead(leaf)
            );
            client.batch_execute(&sql).await.with_context(|| format!("watch table {leaf}"))?;
        }
        Ok(())
    }
}

/// Creates the function unless it is there as it should be.
async fn create(client: &Client, function: &str, body: &str, settings: &str) -> anyhow::Result<()> {
    let known = client
        .query_opt(
            "SELECT FROM pg_proc WHERE oid = to_regproc($1) AND prosrc = $2",
            &[&function, &body],
        )
        .await?;
    if known.is_some() {
        return Ok(());
    }
    let sql = format!(
        "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql \
         SECURITY DEFINER SET search_path = pg_catalog, pg_temp {settings} AS $share${body}$share$"
    );
    client.batch_execute(&sql).await.with_context(|| format!("create function {function}"))
}

/// Settings that a session may have changed and that a value's text depends on.
fn pins(table: &Table) -> String {
    if table.columns.iter().all(|column| column.steady) {
        return String::new();
    }
    PINNED.iter().map(|(name, value)| format!("SET {name} = {} ", quote_text(value))).collect()
}

fn stamp_body(table: &Table, policy: &Policy, applying: &str) -> String {
    let name = quote_text(&table.name.to_string());
    let (old_key, new_key) = (table.key_expression("OLD"), table.key_expression("NEW"));
    let image = table.image_expression("OLD");
    // Only a function is shown what the row was before.
    let before = matches!(policy, Policy::Sql { .. });
    let before = if before { image.as_str() } else { "NULL" };
    let (inserted, added, changed) = match policy {
        Policy::Merge(columns) => written(table, columns),
        _ => ("NULL".into(), "NULL".into(), String::new()),
    };
    format!(
        "
DECLARE
    written text[];
    added jsonb;
    probe record;
BEGIN
    IF {applying} THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' AND {old_key} = {new_key} THEN
        IF NOT (OLD OPERATOR(pg_catalog.*<>) NEW) THEN
            PERFORM domicile.stamp({name}, {new_key}, 'TOUCH', NULL, NULL, NULL, NULL);
            RETURN NULL;
        END IF;
        {changed}
        PERFORM domicile.stamp({name}, {new_key}, 'UPDATE', written, added, NULL, {before});
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        PERFORM domicile.stamp({name}, {old_key}, 'DELETE', NULL, NULL, {image}, {before});
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM domicile.stamp({name}, {new_key}, 'INSERT', {inserted}, {added}, NULL, NULL);
    END IF;
    RETURN NULL;
END
"
    )
}

/// What an insert writes and adds, as expressions; and what an update does, as statements.
fn written(table: &Table, columns: &Columns) -> (String, String, String) {
    let (mut inserted, mut added, mut changed) = (Vec::new(), Vec::new(), String::new());
    // What is left of a change once the columns with a policy of their own are taken out.
    let mut probe = String::new();
    let mut row = false;
    for column in values(table) {
        let name = quote_name(&column.name);
        let text = quote_text(&column.name);
        let policy = columns.of(&column.name);
        if policy != ColumnPolicy::Row {
            let _ = write!(probe, "probe.{name} := NEW.{name}; ");
        }
        match policy {
            ColumnPolicy::Row => row = true,
            ColumnPolicy::Own => {
                inserted.push(text.clone());
                let _ = write!(
                    changed,
                    "probe := OLD; probe.{name} := NEW.{name}; \
                     IF probe OPERATOR(pg_catalog.*<>) OLD THEN \
                     written := array_append(written, {text}); END IF; "
                );
            }
            ColumnPolicy::Delta => {
                added.push(format!(
                    "CASE num_nulls(NEW.{name}) WHEN 0 THEN \
                     jsonb_build_object({text}, NEW.{name}::numeric::text) ELSE '{{}}' END"
                ));
                let _ = write!(
                    changed,
                    "IF NEW.{name} IS DISTINCT FROM OLD.{name} THEN \
                     added := coalesce(added, '{{}}') || jsonb_build_object({text}, \
                     (NEW.{name}::numeric - coalesce(OLD.{name}, 0)::numeric)::text); END IF; "
                );
            }
            ColumnPolicy::Greatest | ColumnPolicy::Least => {}
        }
    }
    let whole = quote_text(ROW);
    if row || inserted.is_empty() {
        inserted.push(whole.clone());
        if probe.is_empty() {
            let _ = write!(changed, "written := array_append(written, {whole});");
        } else {
            let _ = write!(
                changed,
                "probe := OLD; {probe} IF probe OPERATOR(pg_catalog.*<>) NEW THEN \
                 written := array_append(written, {whole}); END IF;"
            );
        }
    }
    let inserted = format!("ARRAY[{}]::text[]", inserted.join(", "));
    let added = if added.is_empty() { "NULL".to_owned() } else { added.join(" || ") };
    (inserted, added, format!("written := '{{}}'; {changed}"))
}

/// Columns outside the primary key.
fn values(table: &Table) -> impl Iterator<Item = &Column> {
    table.columns.iter().filter(|column| !table.is_key(&column.name))
}

/// What may be written: an extreme never steps back, a counter is never emptied.
fn restrict_body(table: &Table, policy: &Policy, applying: &str) -> Option<String> {
    let Policy::Merge(columns) = policy else { return None };
    let mut body = String::new();
    for column in values(table) {
        let name = quote_name(&column.name);
        match columns.of(&column.name) {
            ColumnPolicy::Greatest => {
                let _ = writeln!(body, "NEW.{name} := greatest(OLD.{name}, NEW.{name});");
            }
            ColumnPolicy::Least => {
                let _ = writeln!(body, "NEW.{name} := least(OLD.{name}, NEW.{name});");
            }
            ColumnPolicy::Delta => {
                let _ = writeln!(
                    body,
                    "IF num_nulls(NEW.{name}) > 0 AND num_nulls(OLD.{name}) = 0 THEN
                         RAISE EXCEPTION USING ERRCODE = '23502',
                             MESSAGE = format('counter %I of table %s cannot be set to null', {}, {}),
                             DETAIL = 'What other regions add at the same time would be lost.',
                             HINT = 'Write 0 instead.';
                     END IF;",
                    quote_text(&column.name),
                    quote_text(&table.name.to_string())
                );
            }
            ColumnPolicy::Row | ColumnPolicy::Own => {}
        }
    }
    (!body.is_empty()).then(|| {
        format!(
            "
BEGIN
    IF {applying} OR TG_OP = 'INSERT' THEN
        RETURN NEW;
    END IF;
    {body}
    RETURN NEW;
END
"
        )
    })
}

fn truncate_body(applying: &str) -> String {
    format!(
        "
BEGIN
    IF {applying} THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION USING ERRCODE = '0A000',
        MESSAGE = format('shared table %I.%I cannot be truncated', TG_TABLE_SCHEMA, TG_TABLE_NAME),
        DETAIL = 'Other regions write it too; a truncation does not say which rows it took away.',
        HINT = 'Use DELETE.';
END
"
    )
}
