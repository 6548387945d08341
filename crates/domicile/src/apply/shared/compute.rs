//! What are the joined row's values, where PostgreSQL has to say?
//!
//! Sums and comparisons are made by PostgreSQL, in the column's own type: exact, and in its own
//! order. What it refuses is a reason, not an error.

use std::fmt::Write as _;

use domicile_core::conflict::policy::{Cell, Policy};
use domicile_core::conflict::{Content, Image, Logical};

use super::row::{lift_image, lower_image};
use super::sql::{Call, Sql};
use super::unique::refused;
use crate::postgres::rows::qualified;
use crate::postgres::session::{quote_name, quote_text};
use crate::postgres::shared::function;
use crate::postgres::shared::table::{Column, Table, text_of};

/// The row, and what a person should know of how it was made; or why it cannot be made.
pub type Made = Result<(Option<Image>, Option<String>), String>;

pub async fn image(
    sql: &mut Sql<'_>,
    table: &Table,
    policy: &Policy,
    content: &Content,
    local: &Logical,
    incoming: &Logical,
) -> anyhow::Result<Made> {
    match content {
        Content::Row(image) => Ok(Ok((Some(image.clone()), None))),
        Content::Cells(cells) => {
            let mut made = local.image.clone().unwrap_or_default();
            let mut computed = Vec::new();
            for (name, cell) in cells {
                let here = local.image.as_ref().and_then(|image| image.get(name));
                let there = incoming.image.as_ref().and_then(|image| image.get(name));
                let value = match cell {
                    Cell::Local => here.or(there),
                    Cell::Incoming => there.or(here),
                    Cell::Add { .. } | Cell::Greatest | Cell::Least => {
                        if let Some(column) = table.column(name) {
                            let text = |value: Option<&Option<String>>| value.cloned().flatten();
                            computed.push((column, cell, text(here), text(there)));
                        }
                        continue;
                    }
                };
                if let Some(value) = value {
                    made.insert(name.clone(), value.clone());
                }
            }
            match compute(sql, &computed).await? {
                Err(reason) => Ok(Err(reason)),
                Ok(values) => {
                    let names = computed.iter().map(|(column, ..)| column.name.clone());
                    made.extend(names.zip(values));
                    Ok(Ok(((!made.is_empty()).then_some(made), None)))
                }
            }
        }
        Content::Fold { first, then } => fold(sql, table, policy, first, then).await,
    }
}

type Computed<'a> = (&'a Column, &'a Cell, Option<String>, Option<String>);

/// Returns the values in the order of `cells`.
async fn compute(
    sql: &mut Sql<'_>,
    cells: &[Computed<'_>],
) -> anyhow::Result<Result<Vec<Option<String>>, String>> {
    if cells.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    let mut values: Vec<Option<&str>> = Vec::new();
    let mut expressions = Vec::new();
    for (column, cell, here, there) in cells {
        let type_name = &column.type_name;
        let mut place = |value| {
            values.push(value);
            format!("${}::text", values.len())
        };
        let expression = match cell {
            Cell::Add { plus, minus } => {
                let mut sum = format!("coalesce({}::numeric, 0)", place(here.as_deref()));
                for (sign, terms) in [("+", plus), ("-", minus)] {
                    for term in terms {
                        let _ = write!(sum, " {sign} {}::numeric", place(Some(term)));
                    }
                }
                format!("({sum})::{type_name}")
            }
            Cell::Greatest | Cell::Least => {
                let word = if **cell == Cell::Greatest { "greatest" } else { "least" };
                let (here, there) = (place(here.as_deref()), place(there.as_deref()));
                format!("{word}({here}::{type_name}, {there}::{type_name})")
            }
            Cell::Local | Cell::Incoming => continue,
        };
        expressions.push(text_of(&expression));
    }
    let statement = format!("SELECT {}", expressions.join(", "));
    match sql.attempt([Call::new(statement, &values)]).await? {
        Ok(rows) => {
            let row = rows.first().and_then(|rows| rows.first());
            let value = |i| row.and_then(|row| row.get::<_, Option<String>>(i));
            Ok(Ok((0..cells.len()).map(value).collect()))
        }
        Err(error) => Ok(Err(refused(error)?)),
    }
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
    let typed = |place: usize| {
        let row_type = qualified(&table.name);
        format!("to_jsonb(jsonb_populate_record(NULL::{row_type}, ${place}::text::jsonb))")
    };
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
              jsonb_populate_record(jsonb_populate_record(NULL::{table}, $1::text::jsonb), row_)
                  AS merged
         WHERE jsonb_typeof(row_) = 'object'",
        typed(1),
        typed(2),
        typed(3),
        function = function::quoted(name),
        table = qualified(&table.name),
    );
    let text = |image: &Image| lower_image(image).to_string();
    let (made, next, before) = (text(made), text(next), before.map(text));
    Call::new(statement, &[Some(&made), Some(&next), before.as_deref()])
}
