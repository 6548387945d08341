//! What are the joined row's values, where PostgreSQL has to say?
//!
//! Sums and comparisons are made by PostgreSQL, in the column's own type: exact, and in its own
//! order. What it refuses is a reason, not an error.

use std::collections::BTreeMap;

use domicile_core::conflict::policy::{Cell, Policy};
use domicile_core::conflict::{Content, Image};

use super::Row;
use super::row::{lift_image, lower_image, some};
use super::sql::{Call, Sql, array};
use super::unique::refused;
use crate::postgres::rows::text_of;
use crate::postgres::session::{quote_name, quote_text};
use crate::postgres::shared::function;
use crate::postgres::shared::table::{Column, Table};

/// The row, and what a person should know of how it was made; or why it cannot be made.
pub type Made = Result<(Option<Image>, Option<String>), String>;

/// Makes what these rows become, each of its content.
pub(super) async fn images<'a, 'r: 'a>(
    sql: &mut Sql<'_>,
    rows: Vec<(&'a Row<'r>, &'a Content)>,
) -> anyhow::Result<Vec<Made>> {
    let (mut made, mut unfinished) = (Vec::new(), Vec::new());
    for (row, content) in rows {
        made.push(match content {
            Content::Row(image) => Ok((Some(image.clone()), None)),
            Content::Fold { first, then } => fold(sql, row.table, row.policy, first, then).await?,
            Content::Cells(cells) => {
                let (image, computed) = pick(row, cells);
                if !computed.is_empty() {
                    unfinished.push((made.len(), computed));
                }
                Ok(((!image.is_empty()).then_some(image), None))
            }
        });
    }
    let wanted: Vec<&[Computed<'_>]> = unfinished.iter().map(|(_, c)| c.as_slice()).collect();
    let values = compute(sql, &wanted).await?;
    for ((i, computed), values) in unfinished.iter().zip(values) {
        let finished = |(image, note): (Option<Image>, _), values: Vec<Option<String>>| {
            let mut image = image.unwrap_or_default();
            let names = computed.iter().map(|value| value.column.name.clone());
            image.extend(names.zip(values));
            (Some(image), note)
        };
        let image = std::mem::replace(&mut made[*i], Ok((None, None)));
        made[*i] = image.and_then(|image| Ok(finished(image, values?)));
    }
    Ok(made)
}

/// The values that are one region's or the other's, and those that PostgreSQL makes of both.
fn pick<'a>(row: &Row<'a>, cells: &'a BTreeMap<String, Cell>) -> (Image, Vec<Computed<'a>>) {
    let incoming = row.net.logical().and_then(|incoming| incoming.image).unwrap_or_default();
    let local = row.local.image.as_ref();
    let mut image = local.cloned().unwrap_or_default();
    let mut computed = Vec::new();
    for (name, cell) in cells {
        let here = local.and_then(|image| image.get(name));
        let there = incoming.get(name);
        let value = match cell {
            Cell::Local => here.or(there),
            Cell::Incoming => there.or(here),
            Cell::Add { .. } | Cell::Greatest | Cell::Least => {
                if let Some(column) = row.table.column(name) {
                    let (here, there) = (here.cloned().flatten(), there.cloned().flatten());
                    computed.push(Computed { column, cell, here, there });
                }
                continue;
            }
        };
        if let Some(value) = value {
            image.insert(name.clone(), value.clone());
        }
    }
    (image, computed)
}

/// A value that PostgreSQL makes.
struct Computed<'a> {
    column: &'a Column,
    cell: &'a Cell,
    here: Option<String>,
    there: Option<String>,
}

/// Returns each row's values in their order, or why they cannot be made.
async fn compute(
    sql: &mut Sql<'_>,
    rows: &[&[Computed<'_>]],
) -> anyhow::Result<Vec<Result<Vec<Option<String>>, String>>> {
    let mut alike: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        alike.entry(statement(row)).or_default().push(i);
    }
    let mut values = vec![Err("PostgreSQL made no values".to_owned()); rows.len()];
    if alike.is_empty() {
        return Ok(values);
    }
    let call = |(statement, places): (&String, &Vec<usize>)| {
        let rows: Vec<&[Computed<'_>]> = places.iter().map(|i| rows[*i]).collect();
        call_for(statement, &rows)
    };
    let calls: Vec<Call> = alike.iter().map(call).collect();
    match sql.attempt(calls).await? {
        Ok(answers) => {
            for (places, answer) in alike.values().zip(&answers) {
                for (i, made) in places.iter().zip(answer) {
                    values[*i] = Ok(texts(made, rows[*i].len()));
                }
            }
        }
        // One row's values must not be in the way of the others'.
        Err(_) => {
            for (row, value) in rows.iter().zip(&mut values) {
                match sql.attempt([call_for(&statement(row), &[row])]).await? {
                    Err(error) => *value = Err(refused(error)?),
                    Ok(answers) => {
                        for made in answers.iter().flatten() {
                            *value = Ok(texts(made, row.len()));
                        }
                    }
                }
            }
        }
    }
    Ok(values)
}

fn texts(made: &tokio_postgres::Row, columns: usize) -> Vec<Option<String>> {
    (0..columns).map(|i| made.get(i)).collect()
}

/// What makes such values of many rows, which it is given as arrays.
fn statement(row: &[Computed<'_>]) -> String {
    let mut given = 0;
    let mut next = || {
        given += 1;
        format!("given.v{given}")
    };
    let (mut made, mut texts) = (Vec::new(), Vec::new());
    for (i, Computed { column, cell, .. }) in row.iter().enumerate() {
        let type_name = &column.type_name;
        let expression = match cell {
            Cell::Add { .. } => {
                let (here, plus, minus) = (next(), next(), next());
                let sum = |terms: &str| {
                    format!("(SELECT coalesce(sum(term), 0) FROM unnest({terms}::numeric[]) term)")
                };
                let (plus, minus) = (sum(&plus), sum(&minus));
                format!("(coalesce({here}::numeric, 0) + {plus} - {minus})::{type_name}")
            }
            extreme => {
                let word = if *extreme == &Cell::Greatest { "greatest" } else { "least" };
                let (here, there) = (next(), next());
                format!("{word}({here}::{type_name}, {there}::{type_name})")
            }
        };
        made.push(format!("{expression} AS c{i}"));
        texts.push(text_of(&format!("made.c{i}")));
    }
    let arrays: Vec<String> = (1..=given).map(|i| format!("${i}::text[]")).collect();
    let names: Vec<String> = (1..=given).map(|i| format!("v{i}")).collect();
    // Without OFFSET each would be computed twice.
    format!(
        "SELECT {texts}
         FROM (SELECT place, {made}
               FROM unnest({arrays}) WITH ORDINALITY AS given ({names}, place) OFFSET 0) made
         ORDER BY place",
        texts = texts.join(", "),
        made = made.join(", "),
        arrays = arrays.join(", "),
        names = names.join(", "),
    )
}

/// What [`statement`] is given for these rows.
fn call_for(statement: &str, rows: &[&[Computed<'_>]]) -> Call {
    let given = |Computed { cell, here, there, .. }: &Computed<'_>| match cell {
        Cell::Add { plus, minus } => {
            let terms = |terms: &[String]| Some(array(some(terms)));
            vec![here.clone(), terms(plus), terms(minus)]
        }
        _ => vec![here.clone(), there.clone()],
    };
    let rows: Vec<Vec<Option<String>>> =
        rows.iter().map(|row| row.iter().flat_map(given).collect()).collect();
    let columns = rows.first().map_or(0, Vec::len);
    let column = |i: usize| array(rows.iter().map(|row| row[i].as_deref()));
    let arrays: Vec<String> = (0..columns).map(column).collect();
    Call::new(statement, &some(&arrays))
}

/// Has the user's function make one row of several. A write that it fails on is left out, in every
/// region alike, and a person is told.
async fn fold(
    sql: &mut Sql<'_>,
    table: &Table,
    policy: &Policy,
    first: &Image,
    then: &[(Image, Option<Image>)],
) -> anyhow::Result<Made> {
    let Policy::Sql { function: name, .. } = policy else {
        return Ok(Err("its policy names no function".into()));
    };
    let mut made = first.clone();
    let signature = function::signature(name);
    if let Some(doubt) = function::doubt(&sql.rows(function::LOOK_UP, &[Some(&signature)]).await?) {
        return Ok(Ok((Some(made), Some(format!("function {signature} {doubt}")))));
    }
    let mut note = None;
    for (next, before) in then {
        match sql.attempt([call(table, name, &made, next, before.as_ref())]).await? {
            Ok(rows) => {
                let row = rows.first().and_then(|rows| rows.first());
                if let Some(mut merged) = row.map(|row| lift_image(row.get(0))).transpose()? {
                    let key = |(name, _): &(&String, &Option<String>)| table.is_key(name);
                    merged.extend(made.iter().filter(key).map(|(n, v)| (n.clone(), v.clone())));
                    made = merged;
                }
            }
            Err(error) => {
                note = Some(format!("function {name} failed: {}", refused(error)?));
            }
        }
    }
    Ok(Ok((Some(made), note)))
}

/// Gives the row, if the function made one.
fn call(table: &Table, name: &str, made: &Image, next: &Image, before: Option<&Image>) -> Call {
    let typed = |place: usize| format!("to_jsonb({})", table.record(&format!("${place}")));
    let columns: Vec<String> = table
        .columns
        .iter()
        .flat_map(|c| [quote_text(&c.name), text_of(&format!("merged.{}", quote_name(&c.name)))])
        .collect();
    // Two at a time: a function has at most a hundred arguments.
    let image = columns
        .chunks(2)
        .map(|pair| format!("jsonb_build_object({})", pair.join(", ")))
        .collect::<Vec<_>>()
        .join(" || ");
    let statement = format!(
        "SELECT {image}
         FROM {function}({}, {}, CASE WHEN $3::text IS NOT NULL THEN {} END) AS made (row_),
              jsonb_populate_record({made}, row_) AS merged
         WHERE jsonb_typeof(row_) = 'object'",
        typed(1),
        typed(2),
        typed(3),
        function = function::quoted(name),
        made = table.record("$1"),
    );
    let text = |image: &Image| lower_image(image).to_string();
    let (made, next, before) = (text(made), text(next), before.map(text));
    Call::new(statement, &[Some(&made), Some(&next), before.as_deref()])
}
