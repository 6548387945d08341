//! What does a text say that it does, which functions does it call and which relations does it read?
//!
//! Read by [the same grammar](super::sql) as whose rows it writes. `core::route::reads` says what becomes of it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use domicile_core::route::reads::{Name, Said};
use sqlparser::ast::{
    Expr, ObjectName, ObjectNamePart, Query, Select, SetExpr, Statement, TableFactor, Visit,
    Visitor,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::sql::{SQL_BYTES_MAX, name};

/// Returns what `sql`, one or more statements, says.
pub fn said(sql: &[u8]) -> Said {
    let text = std::str::from_utf8(sql).ok().filter(|text| text.len() <= SQL_BYTES_MAX);
    let parsed = text.map(|text| Parser::parse_sql(&PostgreSqlDialect {}, text));
    let Some(Ok(statements)) = parsed else { return Said::Unclear };
    let mut calls = Calls::default();
    for statement in &statements {
        if let ControlFlow::Break(said) = calls.of(statement) {
            return *said;
        }
    }
    let Calls { functions, mut relations, named } = calls;
    relations.retain(|relation| relation.schema.is_some() || !named.contains(&relation.name));
    Said::Asks { functions, relations }
}

#[derive(Default)]
struct Calls {
    functions: BTreeSet<Name>,
    /// Functions in FROM stand here, too.
    relations: BTreeSet<Name>,
    /// Common table expressions, which are no relations.
    named: BTreeSet<String>,
}

/// Boxed, because it lies on the stack at every step into the text.
type Found = ControlFlow<Box<Said>>;

impl Calls {
    fn of(&mut self, statement: &Statement) -> Found {
        match statement {
            // To look at it, PostgreSQL does none of it.
            Statement::Explain { analyze: false, options, .. }
                if !options.iter().flatten().any(|option| is(&option.name.value, "analyze")) =>
            {
                ControlFlow::Continue(())
            }
            Statement::Explain { .. } | Statement::Query(_) => statement.visit(self),
            Statement::Copy { to: true, .. } => statement.visit(self),
            // They are the session's, and were looked at before, or say what its transactions are.
            Statement::Set(_)
            | Statement::Reset(_)
            | Statement::ShowVariable { .. }
            | Statement::StartTransaction { .. }
            | Statement::Commit { .. }
            | Statement::Rollback { .. }
            | Statement::Savepoint { .. }
            | Statement::ReleaseSavepoint { .. }
            | Statement::Declare { .. }
            | Statement::Fetch { .. }
            | Statement::Close { .. }
            | Statement::Discard { .. }
            | Statement::Deallocate { .. }
            | Statement::Prepare { .. }
            | Statement::Execute { .. }
            | Statement::LISTEN { .. }
            | Statement::UNLISTEN { .. }
            | Statement::Analyze(_)
            | Statement::Vacuum(_) => ControlFlow::Continue(()),
            _ => writes(statement),
        }
    }

    fn calls(&mut self, of: &ObjectName) -> Found {
        match named(of) {
            Some(name) => _ = self.functions.insert(name),
            None => return ControlFlow::Break(Box::new(Said::Unclear)),
        }
        ControlFlow::Continue(())
    }
}

impl Visitor for Calls {
    type Break = Box<Said>;

    fn pre_visit_statement(&mut self, statement: &Statement) -> Found {
        match statement {
            Statement::Query(_) | Statement::Explain { .. } | Statement::Copy { .. } => {
                ControlFlow::Continue(())
            }
            _ => writes(statement),
        }
    }

    fn pre_visit_query(&mut self, query: &Query) -> Found {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.named.extend(tables.map(|table| name(&table.alias.name)));
        if !query.locks.is_empty() {
            return ControlFlow::Break(Box::new(Said::Writes("SELECT ... FOR".to_owned())));
        }
        match query.body.as_ref() {
            SetExpr::Insert(statement)
            | SetExpr::Update(statement)
            | SetExpr::Delete(statement)
            | SetExpr::Merge(statement) => writes(statement),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_select(&mut self, select: &Select) -> Found {
        if select.into.is_some() {
            return ControlFlow::Break(Box::new(Said::Writes("SELECT INTO".to_owned())));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> Found {
        self.relations.extend(named(relation));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> Found {
        match table {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                self.calls(name)
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> Found {
        match expression {
            Expr::Function(function) => self.calls(&function.name),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Named by its first word.
fn writes(statement: &Statement) -> Found {
    let text = statement.to_string();
    let word = text.split_whitespace().next().unwrap_or_default().to_uppercase();
    ControlFlow::Break(Box::new(Said::Writes(word)))
}

/// The last two parts: of a database there is one.
fn named(of: &ObjectName) -> Option<Name> {
    let part = |part: &ObjectNamePart| match part {
        ObjectNamePart::Identifier(part) => Some(name(part)),
        _ => None,
    };
    match of.0.as_slice() {
        [name] => Some(Name { schema: None, name: part(name)? }),
        [.., schema, name] => Some(Name { schema: Some(part(schema)?), name: part(name)? }),
        [] => None,
    }
}

fn is(word: &str, other: &str) -> bool {
    word.eq_ignore_ascii_case(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prints what is called and read, or what writes.
    fn print(sql: &str) -> String {
        match said(sql.as_bytes()) {
            Said::Writes(command) => format!("writes: {command}"),
            Said::Unclear => "unclear".to_owned(),
            Said::Asks { functions, relations } => {
                let list = |names: BTreeSet<Name>| {
                    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
                };
                format!("{}|{}", list(functions), list(relations))
            }
        }
    }

    #[test]
    fn what_a_text_calls_is_found_wherever_it_stands() {
        for (sql, expected) in [
            ("SELECT 1", "|"),
            ("SELECT add(1), s.\"Add\"(2) FROM note", "add s.Add|note"),
            ("SELECT * FROM s.note n JOIN other USING (id)", "|other s.note"),
            ("SELECT id FROM note WHERE id IN (SELECT add(3)) ORDER BY last(id)", "add last|note"),
            (
                "SELECT * FROM generate_series(1, 2) g, LATERAL add(g) a",
                "add generate_series|generate_series",
            ),
            ("WITH c AS (SELECT add(1)) SELECT * FROM c UNION SELECT 2", "add|"),
            (
                "SELECT sum(n) FILTER (WHERE odd(n)) OVER (PARTITION BY f(n)) FROM note",
                "f odd sum|note",
            ),
            ("VALUES (add(1))", "add|"),
            ("BEGIN; SELECT lower('A'); COMMIT", "lower|"),
            ("COPY (SELECT add(1)) TO STDOUT", "add|"),
            ("COPY note TO STDOUT", "|"),
            ("EXPLAIN INSERT INTO note VALUES (add(1))", "|"),
            ("SET a = 1; SHOW a; PREPARE p AS INSERT INTO note VALUES (1); EXECUTE p", "|"),
            (
                "SELECT CASE WHEN a THEN add(1) ELSE coalesce(b, now()) END FROM note",
                "add coalesce now|note",
            ),
        ] {
            assert_eq!(print(sql), expected, "{sql}");
        }
    }

    #[test]
    fn what_writes_is_named_and_what_is_not_understood_is_unclear() {
        for (sql, command) in [
            ("INSERT INTO note VALUES (1)", "INSERT"),
            ("SELECT 1; DELETE FROM note", "DELETE"),
            ("WITH c AS (UPDATE note SET id = 2 RETURNING id) SELECT * FROM c", "UPDATE"),
            ("SELECT * INTO other FROM note", "SELECT INTO"),
            ("SELECT * FROM note FOR SHARE", "SELECT ... FOR"),
            ("SELECT * FROM (SELECT * FROM note FOR UPDATE) n", "SELECT ... FOR"),
            ("EXPLAIN ANALYZE DELETE FROM note", "DELETE"),
            ("EXPLAIN (ANALYZE, BUFFERS) UPDATE note SET id = 1", "UPDATE"),
            ("COPY (DELETE FROM note RETURNING id) TO STDOUT", "DELETE"),
            ("COPY note FROM STDIN", "COPY"),
            ("CREATE TABLE other (id int)", "CREATE"),
            ("CALL do_it()", "CALL"),
            ("NOTIFY news", "NOTIFY"),
            ("TRUNCATE note", "TRUNCATE"),
        ] {
            assert_eq!(print(sql), format!("writes: {command}"), "{sql}");
        }
        for sql in ["SELEKT 1", "TABLE note", "\u{0}", &format!("SELECT '{}'", "a".repeat(20_000))]
        {
            assert_eq!(print(sql), "unclear", "{sql}");
        }
    }

    /// On the stack that a worker has, however deep a text is.
    #[test]
    fn no_text_takes_more_than_there_is() {
        let deep = [
            format!("SELECT {}1", "1+".repeat(7900)),
            format!("SELECT 1 {}", "UNION SELECT 1 ".repeat(1000)),
            format!("SELECT {}1{}", "f(".repeat(40), ")".repeat(40)),
            format!("SELECT * FROM a WHERE {}k = 1", "k = 1 OR ".repeat(1700)),
        ];
        let reading = move || deep.map(|sql| said(sql.as_bytes())).len();
        let worker = std::thread::Builder::new().stack_size(2 << 20).spawn(reading).unwrap();
        assert_eq!(worker.join().unwrap(), 4);
    }
}
