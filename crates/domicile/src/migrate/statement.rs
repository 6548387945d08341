//! May this statement run at the same position of the log in every region?
//!
//! A list of what may; everything else is refused with the way to do it instead. What only
//! PostgreSQL's catalogue can tell, as whether a default is the same everywhere, is judged in
//! [`schema`](super::schema) after the statement was run and before it is committed.

use domicile_pg::script::{Kind, Statement};

use super::Refusal;

/// Statements of these kinds of object change definitions and no rows, or the same rows everywhere.
const OBJECTS: &[&str] = &[
    "aggregate",
    "collation",
    "constraint",
    "domain",
    "function",
    "index",
    "operator",
    "policy",
    "procedure",
    "routine",
    "rule",
    "schema",
    "sequence",
    "statistics",
    "table",
    "trigger",
    "type",
    "view",
];
/// What may stand between CREATE and the kind of object.
const BEFORE_OBJECT: &[&str] = &["or", "replace", "unique", "recursive"];

/// Returns why `statement` is refused, if it is.
pub fn refuse(statement: &Statement<'_>) -> Option<Refusal> {
    let words = words(statement);
    let refuse = |reason: &str, instead: &str| Some(Refusal::new(statement.text, reason, instead));
    let has = |word: &str| words.contains(&word);
    let first = words.first().copied().unwrap_or_default();
    let object = words.iter().skip(1).find(|word| !BEFORE_OBJECT.contains(word)).copied();
    let object = object.unwrap_or_default();
    if names_ours(statement) {
        return refuse("schema domicile is the agents' own", "leave it to them");
    }
    match (first, object) {
        ("insert" | "update" | "delete" | "merge" | "copy" | "truncate" | "with", _) => refuse(
            "it changes rows, which are replicated as rows",
            "run it once, at the rows' owner, as an application does",
        ),
        ("select" | "values" | "table" | "do" | "call" | "execute", _) => refuse(
            "what it does is not known before it runs, and may be something else in each region",
            "write the DDL itself into the file; change rows at their owner, as an application does",
        ),
        (
            "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint" | "release",
            _,
        ) => refuse("the file is one transaction in every region", "leave it out"),
        ("set" | "reset" | "lock", _) => refuse(
            "the file runs with the agents' settings; names without a schema are in public",
            "leave it out, and name schemas",
        ),
        ("vacuum" | "analyze" | "cluster" | "reindex" | "checkpoint", _) => refuse(
            "it cannot stand in a transaction, or changes nothing that is replicated",
            "run it in each region by itself, whenever you like",
        ),
        ("create" | "alter" | "drop", "database" | "tablespace" | "system") => refuse(
            "it is about a region's whole server, and cannot stand in a transaction",
            "run it in each region",
        ),
        ("create" | "alter" | "drop", "role" | "user" | "group" | "extension") => refuse(
            "roles and extensions are about a region's server",
            "run it in each region, and only then what needs it",
        ),
        ("create", "temp" | "temporary" | "unlogged" | "local" | "global") => {
            refuse("such a table is not replicated", "create it in each region")
        }
        ("create" | "refresh", "materialized") | ("refresh", _) => refuse(
            "it reads rows, which are not the same in all regions at any one time",
            "create and refresh it in each region",
        ),
        ("create" | "drop", "index") if has("concurrently") => refuse(
            "CONCURRENTLY cannot stand in a transaction, and an index need not be at one position",
            "run it in each region by itself (the regions that only follow first where it is unique)",
        ),
        _ if has("concurrently") => {
            refuse("CONCURRENTLY cannot stand in a transaction", "run it in each region by itself")
        }
        ("create", "table") if at_top(statement, "as") => refuse(
            "it reads rows, which are not the same in all regions at any one time",
            "create the table, and insert its rows at their owner",
        ),
        ("alter", "table") if has("type") && has("using") => refuse(
            "what USING computes may differ between regions, and the rewritten rows are not replicated",
            "add a column, fill it with UPDATEs at the rows' owner, and move readers and writers to it",
        ),
        ("alter", "sequence" | "table")
            if (has("increment") || has("restart"))
                && (object == "sequence"
                    || words.iter().filter(|w| **w == "alter").count() > 1) =>
        {
            refuse(
                "the agents divide its values between the regions, and two would draw the same until they have \
                 again",
                "leave its step alone; to go on at a later value, setval() it in each region",
            )
        }
        ("alter", "table") if has("unlogged") => {
            refuse("an unlogged table is not replicated", "leave it logged")
        }
        ("create" | "alter" | "drop" | "comment", object)
            if statement.tokens.iter().any(|t| t.kind == Kind::Symbol(';'))
                && !matches!(object, "function" | "procedure") =>
        {
            refuse("where it ends is not certain", "quote the name \"atomic\"")
        }
        ("create" | "alter" | "drop", object) if OBJECTS.contains(&object) => None,
        ("comment" | "grant" | "revoke", _) => None,
        _ => refuse(
            "it is none of the statements that are known to do the same in every region",
            "run it in each region",
        ),
    }
}

/// May a value that was written before be none of its type any more?
pub fn narrows_a_type(statement: &Statement<'_>) -> bool {
    let words = words(statement);
    let has = |word: &str| words.contains(&word);
    match words.as_slice() {
        ["alter", "type", rest @ ..] => {
            let changes = ["alter", "drop", "rename"].iter().any(|word| rest.contains(word));
            has("rename") && has("value") || has("attribute") && changes
        }
        ["alter", "domain", ..] => has("add") || has("not") && has("null") && has("set"),
        _ => false,
    }
}

/// Strings that mean another moment each time they are read.
pub fn names_a_moment(statement: &Statement<'_>) -> bool {
    statement.tokens.iter().any(|token| match &token.kind {
        Kind::Text(text) => {
            let text = text.trim().to_lowercase();
            ["now", "today", "tomorrow", "yesterday"].iter().any(|moment| text.starts_with(moment))
        }
        _ => false,
    })
}

fn words<'s>(statement: &'s Statement<'_>) -> Vec<&'s str> {
    let word = |token: &'s domicile_pg::script::Token| match &token.kind {
        Kind::Word(word) => Some(word.as_str()),
        _ => None,
    };
    statement.tokens.iter().filter_map(word).collect()
}

/// Is something called "domicile" named that may be ours? A role of that name is not, and stands
/// behind one of these.
fn names_ours(statement: &Statement<'_>) -> bool {
    const BEFORE_ROLE: &[&str] = &["to", "from", "by", "role", "user", "authorization"];
    let kinds: Vec<&Kind> = statement.tokens.iter().map(|token| &token.kind).collect();
    (0..kinds.len()).any(|at| {
        let (Kind::Word(name) | Kind::Name(name)) = kinds[at] else { return false };
        let before = at.checked_sub(1).map(|before| kinds[before]);
        let is_role = matches!(before, Some(Kind::Word(word)) if BEFORE_ROLE.contains(&word.as_str()))
            && kinds.get(at + 1) != Some(&&Kind::Symbol('.'));
        name == "domicile" && !is_role
    })
}

/// Stands the word outside of all parentheses?
fn at_top(statement: &Statement<'_>, word: &str) -> bool {
    let is_it = |kind: &Kind| matches!(kind, Kind::Word(known) if known == word);
    statement.tokens.iter().any(|token| token.depth == 0 && is_it(&token.kind))
}

#[cfg(test)]
mod tests {
    use domicile_pg::script::statements;

    use super::*;

    fn refused(sql: &str) -> Option<String> {
        let all = statements(sql).unwrap();
        let [statement] = all.as_slice() else { panic!("one statement: {sql}") };
        refuse(statement).map(|refusal| refusal.reason)
    }

    #[test]
    fn definitions_may_run() {
        for sql in [
            "ALTER TABLE t ADD COLUMN c int DEFAULT 7, ADD COLUMN d text",
            "CREATE TABLE t (id int PRIMARY KEY, at timestamptz DEFAULT now(), g int GENERATED ALWAYS AS (id * 2) STORED)",
            "CREATE UNIQUE INDEX ON t (lower(c))",
            "CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE sql AS $$ DELETE FROM t; $$",
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
            "ALTER TYPE mood ADD VALUE 'happy'",
            "CREATE OR REPLACE VIEW v AS SELECT 1",
            "COMMENT ON TABLE t IS 'domicile'",
            "GRANT SELECT ON t TO domicile",
            "ALTER TABLE t OWNER TO domicile",
            "GRANT SELECT ON t TO reader",
            "CREATE TABLE p PARTITION OF t FOR VALUES IN (1)",
            "DROP TABLE IF EXISTS old",
            "ALTER TABLE t ADD COLUMN restart int",
            "ALTER SEQUENCE s OWNED BY t.id",
        ] {
            assert_eq!(refused(sql), None, "{sql}");
        }
    }

    #[test]
    fn what_would_differ_or_cannot_be_in_a_transaction_may_not() {
        for (sql, why) in [
            ("CREATE INDEX CONCURRENTLY i ON t (c)", "transaction"),
            ("REINDEX TABLE CONCURRENTLY t", "transaction"),
            ("VACUUM t", "transaction"),
            ("CREATE DATABASE other", "server"),
            ("ALTER SYSTEM SET x = 1", "server"),
            ("CREATE EXTENSION citext", "server"),
            ("UPDATE t SET c = random()", "rows"),
            ("INSERT INTO t VALUES (1)", "rows"),
            ("WITH gone AS (DELETE FROM t) SELECT 1", "rows"),
            ("TRUNCATE t", "rows"),
            ("DO $$ BEGIN END $$", "not known"),
            ("SELECT setval('s', 1)", "not known"),
            ("BEGIN", "one transaction"),
            ("SET search_path = x", "settings"),
            ("CREATE TABLE t AS SELECT 1", "reads rows"),
            ("CREATE MATERIALIZED VIEW m AS SELECT 1", "reads rows"),
            ("CREATE UNLOGGED TABLE t (id int)", "not replicated"),
            ("ALTER TABLE t ALTER c TYPE int USING random()", "USING"),
            ("DROP TABLE \"domicile\".progress", "agents' own"),
            ("CREATE VIEW v AS SELECT * FROM domicile.progress", "agents' own"),
            ("ALTER TABLE t SET SCHEMA domicile", "agents' own"),
            ("NOTIFY x", "known to do the same"),
            ("ALTER SEQUENCE s RESTART 9000 INCREMENT BY 1", "divide its values"),
            ("ALTER TABLE t ALTER COLUMN id RESTART WITH 7", "divide its values"),
            ("COMMENT ON COLUMN t.atomic IS 'x'; DELETE FROM t", "certain"),
        ] {
            let reason = refused(sql);
            assert!(reason.as_ref().is_some_and(|r| r.contains(why)), "{sql}: {reason:?}");
        }
    }

    #[test]
    fn a_type_may_become_narrower() {
        let of = |sql| narrows_a_type(&statements(sql).unwrap()[0]);
        for sql in [
            "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'",
            "ALTER TYPE pair DROP ATTRIBUTE b",
            "ALTER TYPE pair ALTER ATTRIBUTE b TYPE bigint",
            "ALTER TYPE pair ADD ATTRIBUTE c int, DROP ATTRIBUTE b",
            "ALTER DOMAIN positive ADD CHECK (VALUE > 1)",
            "ALTER DOMAIN positive SET NOT NULL",
        ] {
            assert!(of(sql), "{sql}");
        }
        for sql in [
            "ALTER TYPE mood ADD VALUE 'happy'",
            "ALTER TYPE pair ADD ATTRIBUTE c int",
            "ALTER TYPE mood RENAME TO moods",
            "ALTER DOMAIN positive DROP NOT NULL",
            "ALTER DOMAIN positive SET DEFAULT 3",
        ] {
            assert!(!of(sql), "{sql}");
        }
    }

    #[test]
    fn a_string_may_be_a_moment() {
        let of = |sql| names_a_moment(&statements(sql).unwrap()[0]);
        assert!(of("ALTER TABLE t ADD c timestamptz DEFAULT ' Now '"));
        assert!(!of("ALTER TABLE t ADD c timestamptz DEFAULT '2026-01-01'"));
    }
}
