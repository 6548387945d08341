//! What do clients ask for, and how is the answer read?

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::history::Access;

pub const BRANCHES: i32 = 60;

/// Branches of which a snapshot shows half a transfer.
pub const TORN: &str = "SELECT string_agg(branch::text, ' ') FROM
                    (SELECT branch FROM account GROUP BY branch HAVING sum(balance) <> 0) torn";

/// One statement, so that a gateway may send it to the owner.
pub fn operation(chapter: i32, branch: i32, id: i64) -> String {
    format!(
        "WITH before AS (SELECT branch, last FROM branch WHERE branch = {branch} FOR UPDATE),
         counted AS (UPDATE branch SET ops = ops + 1, last = {id} FROM before
                     WHERE branch.branch = before.branch RETURNING branch.branch, before.last),
         moved AS (UPDATE account SET balance = balance + CASE side WHEN 1 THEN 1 ELSE -1 END FROM counted
                   WHERE account.branch = counted.branch),
         noted AS (INSERT INTO op SELECT branch, {id} FROM counted)
         INSERT INTO list SELECT branch, {chapter}, ARRAY[{id}] FROM counted
         ON CONFLICT (branch, chapter) DO UPDATE SET ids = list.ids || excluded.ids
         RETURNING array_to_string(ids, ' '), (SELECT last FROM counted)"
    )
}

/// One row for each branch, in order.
pub fn glance(chapter: i32, branches: &[i32]) -> String {
    format!(
        "SELECT array_to_string(ids, ' ') FROM unnest(ARRAY{branches:?}) WITH ORDINALITY asked (branch, nth)
         LEFT JOIN list ON list.branch = asked.branch AND chapter = {chapter} ORDER BY nth"
    )
}

pub fn asked(glanced: &[i32], branch: i32, id: i64) -> Vec<Access> {
    let glances = glanced.iter().map(|branch| Access::Glance { branch: *branch, ids: Vec::new() });
    let write = [
        Access::Append { branch, id },
        Access::Read { branch, ids: Vec::new() },
        Access::Swap { branch, before: None, after: id },
    ];
    glances.chain(write).collect()
}

pub fn found(rows: &[&SimpleQueryRow], glanced: &[i32], branch: i32, id: i64) -> Vec<Access> {
    let mut found = glances(rows, glanced);
    let of_owner = rows[glanced.len()];
    let before = numbers(of_owner.get(1)).first().copied();
    found.push(Access::Append { branch, id });
    found.push(Access::Read { branch, ids: numbers(of_owner.get(0)) });
    found.push(Access::Swap { branch, before, after: id });
    found
}

pub fn glances(rows: &[&SimpleQueryRow], branches: &[i32]) -> Vec<Access> {
    let rows = branches.iter().zip(rows);
    rows.map(|(branch, row)| Access::Glance { branch: *branch, ids: numbers(row.get(0)) }).collect()
}

pub fn rows(answer: &[SimpleQueryMessage]) -> Vec<&SimpleQueryRow> {
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.collect()
}

/// Numbers between spaces; nothing at all are none.
pub fn numbers(text: Option<&str>) -> Vec<i64> {
    text.unwrap_or_default().split_whitespace().map(|number| number.parse().unwrap()).collect()
}
