//! Which rows does a text write, as far as it says so?
//!
//! Read by a library's grammar, which is nearly PostgreSQL's: what it does not understand is not known, and
//! the server says what it is. Only what goes with equalities is read; the rest of a text is passed over.

use domicile_core::route::rows::{Operand, Row, Touched};
use sqlparser::ast::{
    BinaryOperator, Delete, Expr, FromTable, Ident, Insert, ObjectName, ObjectNamePart, Query,
    Select, SetExpr, Statement, TableFactor, TableObject, TableWithJoins, UnaryOperator, Update,
    Value,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

/// Longer texts are not read: the time would show, and a deep one could take more stack than there is.
pub const SQL_BYTES_MAX: usize = 16 * 1024;

/// Returns what `sql`, one or more statements, writes or locks; `None` when it is not understood. What
/// functions do is not seen.
pub fn touched(sql: &[u8]) -> Option<Vec<Touched>> {
    if sql.len() > SQL_BYTES_MAX {
        return None;
    }
    if !may_touch(sql) {
        return Some(Vec::new());
    }
    let sql = std::str::from_utf8(sql).ok()?;
    let statements = Parser::parse_sql(&PostgreSqlDialect {}, sql).ok()?;
    let mut found = Vec::new();
    statements.iter().all(|statement| of_statement(statement, &mut found)).then_some(found)
}

/// Spares most texts the closer look.
fn may_touch(sql: &[u8]) -> bool {
    const WORDS: [&[u8]; 7] =
        [b"insert", b"update", b"delete", b"share", b"merge", b"truncate", b"copy"];
    let has = |word: &&[u8]| sql.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    WORDS.iter().any(has)
}

/// Adds what a statement touches. Returns whether it is understood.
fn of_statement(statement: &Statement, found: &mut Vec<Touched>) -> bool {
    match statement {
        Statement::Insert(insert) => of_insert(insert, found),
        Statement::Update(update) => of_update(update, found),
        Statement::Delete(delete) => of_delete(delete, found),
        Statement::Query(query) => of_query(query, found),
        Statement::Merge(_) | Statement::Truncate { .. } | Statement::Copy { .. } => false,
        _ => true,
    }
}

fn of_query(query: &Query, found: &mut Vec<Touched>) -> bool {
    let named = query.with.iter().flat_map(|with| &with.cte_tables);
    for named in named {
        if !of_query(&named.query, found) {
            return false;
        }
    }
    match query.body.as_ref() {
        SetExpr::Insert(statement) | SetExpr::Update(statement) | SetExpr::Delete(statement) => {
            of_statement(statement, found)
        }
        SetExpr::Merge(_) => false,
        SetExpr::Query(query) => of_query(query, found),
        SetExpr::Select(select) if !query.locks.is_empty() => of_locking(select, found),
        _ => query.locks.is_empty(),
    }
}

fn of_locking(select: &Select, found: &mut Vec<Touched>) -> bool {
    let [from] = select.from.as_slice() else { return false };
    let Some((schema, table)) = only_table(from) else { return false };
    found.push(Touched { schema, table, rows: vec![equalities(select.selection.as_ref())] });
    true
}

fn of_update(update: &Update, found: &mut Vec<Touched>) -> bool {
    // With another table a column may be that one's.
    let alone = update.from.is_none();
    let Some((schema, table)) = only_table(&update.table).filter(|_| alone) else { return false };
    let row = equalities(update.selection.as_ref());
    found.push(Touched { schema, table, rows: vec![row] });
    true
}

fn of_delete(delete: &Delete, found: &mut Vec<Touched>) -> bool {
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    let [from] = from.as_slice() else { return false };
    let alone = delete.using.is_none();
    let Some((schema, table)) = only_table(from).filter(|_| alone) else { return false };
    let row = equalities(delete.selection.as_ref());
    found.push(Touched { schema, table, rows: vec![row] });
    true
}

fn of_insert(insert: &Insert, found: &mut Vec<Touched>) -> bool {
    let TableObject::TableName(name) = &insert.table else { return false };
    let Some((schema, table)) = parted(name) else { return false };
    let Some(source) = &insert.source else { return false };
    let rows = match source.body.as_ref() {
        SetExpr::Values(values) => {
            let rows = values.rows.iter().map(|row| of_columns(&insert.columns, &row.content));
            rows.collect()
        }
        SetExpr::Select(select) if select.from.is_empty() => {
            let constants = select.projection.iter().map(|item| match item {
                sqlparser::ast::SelectItem::UnnamedExpr(value) => Some(value.clone()),
                sqlparser::ast::SelectItem::ExprWithAlias { expr, .. } => Some(expr.clone()),
                _ => None,
            });
            match constants.collect::<Option<Vec<_>>>() {
                Some(constants) => vec![of_columns(&insert.columns, &constants)],
                None => Vec::new(),
            }
        }
        _ => Vec::new(),
    };
    // What it reads may write, too.
    let understood = source.with.is_none() || of_query(source, found);
    found.push(Touched { schema, table, rows });
    understood
}

/// Without names, which value is whose is not known.
fn of_columns(columns: &[ObjectName], values: &[Expr]) -> Row {
    let columns = columns.iter().map(|column| match column.0.as_slice() {
        [ObjectNamePart::Identifier(column)] => Some(name(column)),
        _ => None,
    });
    let pairs = columns.zip(values);
    pairs.filter_map(|(column, value)| Some((column?, operand(value)?))).collect()
}

/// What every row that a condition lets through equals in some columns.
fn equalities(condition: Option<&Expr>) -> Row {
    let (mut row, mut rest) = (Row::new(), Vec::from_iter(condition));
    while let Some(condition) = rest.pop() {
        match condition {
            Expr::Nested(inner) => rest.push(inner),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                rest.extend([left.as_ref(), right.as_ref()]);
            }
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                let sides = [(left, right), (right, left)];
                let pair = |(side, other): (&Expr, &Expr)| Some((column(side)?, operand(other)?));
                row.extend(sides.iter().find_map(|(side, other)| pair((side, other))));
            }
            _ => {}
        }
    }
    row
}

fn column(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Identifier(column) => Some(name(column)),
        // Of which table is no question: there is one.
        Expr::CompoundIdentifier(parts) => parts.last().map(name),
        Expr::Nested(inner) => column(inner),
        _ => None,
    }
}

fn operand(expression: &Expr) -> Option<Operand> {
    match expression {
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => operand(inner),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match operand(expr)? {
            Operand::Literal(number) => Some(Operand::Literal(format!("-{number}"))),
            Operand::Parameter(_) => None,
        },
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) | Value::SingleQuotedString(text) => {
                Some(Operand::Literal(text.clone()))
            }
            Value::Placeholder(text) => {
                let number: usize = text.strip_prefix('$')?.parse().ok()?;
                Some(Operand::Parameter(number.checked_sub(1)?))
            }
            _ => None,
        },
        _ => None,
    }
}

fn only_table(from: &TableWithJoins) -> Option<(Option<String>, String)> {
    match &from.relation {
        TableFactor::Table { name, args: None, .. } if from.joins.is_empty() => parted(name),
        _ => None,
    }
}

/// Schema and name.
fn parted(name_of: &ObjectName) -> Option<(Option<String>, String)> {
    match name_of.0.as_slice() {
        [ObjectNamePart::Identifier(table)] => Some((None, name(table))),
        [ObjectNamePart::Identifier(schema), ObjectNamePart::Identifier(table)] => {
            Some((Some(name(schema)), name(table)))
        }
        _ => None,
    }
}

/// As PostgreSQL stores it.
pub fn name(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prints what is found as `schema.table(column=operand ...)`.
    fn found(sql: &str) -> Option<String> {
        let print = |row: &Row| {
            let columns = row.iter().map(|(column, operand)| match operand {
                Operand::Literal(text) => format!("{column}={text}"),
                Operand::Parameter(number) => format!("{column}=${}", number + 1),
            });
            format!("({})", columns.collect::<Vec<_>>().join(" "))
        };
        let touched = touched(sql.as_bytes())?.into_iter().map(|touched| {
            let schema = touched.schema.map(|schema| schema + ".").unwrap_or_default();
            let rows: Vec<String> = touched.rows.iter().map(print).collect();
            format!("{schema}{}{}", touched.table, rows.concat())
        });
        Some(touched.collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn rows_are_known_by_what_their_columns_equal() {
        for (sql, expected) in [
            ("UPDATE item SET n = 1 WHERE branch = 7", "item(branch=7)"),
            ("update Only_One set n = n + 1 where (7 = Branch) and n > 2", "only_one(branch=7)"),
            (
                "UPDATE s.item AS i SET n = 1 WHERE i.branch = $2 AND i.id = $1",
                "s.item(branch=$2 id=$1)",
            ),
            ("UPDATE \"Item\" SET n = 1 WHERE \"Branch\" = 'a''b'", "Item(Branch=a'b)"),
            ("DELETE FROM item WHERE branch = -7 OR true", "item()"),
            ("DELETE FROM item WHERE branch = -7::bigint RETURNING *", "item(branch=-7)"),
            (
                "INSERT INTO item (id, branch) VALUES (1, $1), (2, 'x')",
                "item(branch=$1 id=1)(branch=x id=2)",
            ),
            ("INSERT INTO item (branch, n) SELECT 7, 1", "item(branch=7 n=1)"),
            ("INSERT INTO item (branch) VALUES (7) ON CONFLICT DO NOTHING", "item(branch=7)"),
            ("INSERT INTO item (branch) SELECT branch FROM other", "item"),
            ("INSERT INTO item VALUES (1, 2)", "item()"),
            ("INSERT INTO item (branch, at) VALUES ($1, now())", "item(branch=$1)"),
            ("SELECT * FROM item WHERE branch = 7 FOR UPDATE SKIP LOCKED", "item(branch=7)"),
            (
                "BEGIN; UPDATE a SET n = 1 WHERE k = 1; DELETE FROM b WHERE k = 2; COMMIT",
                "a(k=1); b(k=2)",
            ),
            (
                "WITH c AS (UPDATE a SET n = 1 WHERE k = 1 RETURNING k) INSERT INTO b (k) SELECT k FROM c",
                "a(k=1); b",
            ),
            ("WITH c AS (DELETE FROM a WHERE k = 1 RETURNING *) SELECT * FROM c", "a(k=1)"),
        ] {
            assert_eq!(found(sql).as_deref(), Some(expected), "{sql}");
        }
    }

    #[test]
    fn what_is_not_plain_is_not_known() {
        assert_eq!(touched(b"SELECT 1"), Some(Vec::new()));
        for sql in [
            "UPDATE a SET n = 1 FROM",
            "DELETE FROM a USING b WHERE a.id = b.id AND b.k = 1",
            "UPDATE a SET n = 1 FROM b WHERE a.id = b.id AND b.k = 1",
            "MERGE INTO a USING b ON a.k = b.k WHEN MATCHED THEN DELETE",
            "SELECT * FROM a, b WHERE a.k = 1 FOR UPDATE",
            "SELECT * FROM a JOIN b USING (k) WHERE a.k = 1 FOR SHARE",
            "COPY a FROM STDIN; UPDATE a SET n = 1 WHERE k = 1",
        ] {
            assert_eq!(found(sql), None, "{sql}");
        }
        assert_eq!(touched(b"UPDATE a SET n = '\xff' WHERE k = 1"), None);
        let long =
            format!("UPDATE a SET n = 1 WHERE k = 1 AND n IN ({})", vec!["1"; 9000].join(","));
        assert_eq!(found(&long), None);
    }

    /// On the stack that a worker has, however deep a text is.
    #[test]
    fn no_text_takes_more_than_there_is() {
        let deep = [
            format!("UPDATE a SET n = 1 WHERE {}k = 1", "k = 1 OR ".repeat(1700)),
            format!("UPDATE a SET n = {}1 WHERE k = 1", "1+".repeat(7900)),
            format!("UPDATE a SET n = {}1{} WHERE k = 1", "(".repeat(7900), ")".repeat(7900)),
            format!("UPDATE a SET n = {}1 WHERE k = 1", "- ".repeat(7900)),
            format!("UPDATE a SET n = {}1 WHERE k = 1", "NOT ".repeat(3900)),
            format!("SELECT 1 {} FOR UPDATE", "UNION SELECT 1 ".repeat(1000)),
        ];
        let reading = move || deep.map(|sql| touched(sql.as_bytes()).is_some());
        let worker = std::thread::Builder::new().stack_size(2 << 20).spawn(reading).unwrap();
        let read = worker.join().unwrap();
        assert_eq!(read, [true, true, false, false, false, false]);
    }
}
