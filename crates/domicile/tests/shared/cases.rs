//! The conflicts: what each region writes without knowing of the others, and what must come of it.

/// One conflict. `{1}`, `{2}` ... stand for numbers that only this case uses.
pub struct Case {
    pub name: &'static str,
    pub table: &'static str,
    /// Run in one region, and known everywhere before the rest.
    pub before: &'static [&'static str],
    /// Region and statement, one after another in time; no region hears of another's.
    pub writes: &'static [(&'static str, &'static str)],
    /// A query of one text, and its answer in every region.
    pub ask: &'static str,
    pub answer: &'static str,
    /// The conflicts that every region's journal names, in alphabetical order; without rows that were
    /// hidden for a while, which depends on who was heard first.
    pub journal: &'static [&'static str],
}

pub const SEED: &str = "
    CREATE TABLE lww (id int PRIMARY KEY, v text, w text, big text);
    ALTER TABLE lww ALTER COLUMN big SET STORAGE EXTERNAL;
    CREATE TABLE cols (id int PRIMARY KEY, v text, w text, big text);
    ALTER TABLE cols ALTER COLUMN big SET STORAGE EXTERNAL;
    CREATE TABLE counter (
        id int PRIMARY KEY, n int, d numeric(12, 2), hi float8, lo int, note text);
    CREATE TABLE dw (id int PRIMARY KEY, v text);
    CREATE TABLE uw (id int PRIMARY KEY, v text);
    CREATE TABLE part (id int, place text, v text, PRIMARY KEY (id, place))
        PARTITION BY LIST (place);
    CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a');
    CREATE TABLE part_rest PARTITION OF part DEFAULT;
    CREATE TABLE incl (id int, v text, w text, PRIMARY KEY (id) INCLUDE (v));
    CREATE TABLE tidy (id int PRIMARY KEY, done boolean, v text);
    CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN DELETE FROM tidy WHERE id = NEW.id; RETURN NULL; END $$;
    CREATE TRIGGER clean AFTER INSERT OR UPDATE ON tidy FOR EACH ROW WHEN (NEW.done)
        EXECUTE FUNCTION tidy();
    INSERT INTO lww VALUES (1, 'seed', 'seed', NULL);";

pub const TABLES: &str = "
[[table]]
name = \"lww\"
kind = \"shared\"

[[table]]
name = \"cols\"
kind = \"shared\"
columns = { \"*\" = \"last_write_wins\" }

[[table]]
name = \"counter\"
kind = \"shared\"
columns = { n = \"delta\", d = \"delta\", hi = \"greatest\", lo = \"least\" }

[[table]]
name = \"dw\"
kind = \"shared\"
update_delete = \"delete_wins\"

[[table]]
name = \"uw\"
kind = \"shared\"
update_delete = \"update_wins\"

[[table]]
name = \"part\"
kind = \"shared\"

[[table]]
name = \"incl\"
kind = \"shared\"

[[table]]
name = \"tidy\"
kind = \"shared\"
";

pub const CASES: &[Case] = &[
    Case {
        name: "A1 insert and insert of one key",
        table: "lww",
        before: &[],
        writes: &[
            ("eu", "INSERT INTO lww VALUES ({1}, 'eu')"),
            ("us", "INSERT INTO lww VALUES ({1}, 'us')"),
        ],
        ask: "SELECT v FROM lww WHERE id = {1}",
        answer: "us",
        journal: &["insert_exists"],
    },
    Case {
        name: "A2 the same row inserted twice",
        table: "lww",
        before: &[],
        writes: &[
            ("eu", "INSERT INTO lww VALUES ({1}, 'same')"),
            ("us", "INSERT INTO lww VALUES ({1}, 'same')"),
        ],
        ask: "SELECT v FROM lww WHERE id = {1}",
        answer: "same",
        journal: &[],
    },
    Case {
        name: "A5 update and update of one column",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'old')"],
        writes: &[
            ("us", "UPDATE lww SET v = 'us' WHERE id = {1}"),
            ("eu", "UPDATE lww SET v = 'eu' WHERE id = {1}"),
        ],
        ask: "SELECT v FROM lww WHERE id = {1}",
        answer: "eu",
        journal: &["update_origin_differs"],
    },
    Case {
        name: "A5 beside the key, its index holds what is updated",
        table: "incl",
        before: &["INSERT INTO incl VALUES ({1}, 'old', ''), ({2}, NULL, '')"],
        writes: &[
            ("us", "UPDATE incl SET v = 'us' WHERE id IN ({1}, {2})"),
            ("eu", "UPDATE incl SET v = 'eu' WHERE id = {1}"),
        ],
        ask: "SELECT string_agg(v, ' ' ORDER BY v) FROM incl WHERE id IN ({1}, {2})",
        answer: "eu us",
        journal: &["update_origin_differs"],
    },
    Case {
        name: "A25 a trigger of the application deletes the row that is just written",
        table: "tidy",
        before: &["INSERT INTO tidy VALUES ({1}, false, 'a')"],
        writes: &[("eu", "UPDATE tidy SET done = true WHERE id = {1}")],
        ask: "SELECT count(*)::text FROM tidy WHERE id = {1}",
        answer: "0",
        journal: &[],
    },
    Case {
        name: "A5 three regions",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'old')"],
        writes: &[
            ("us", "UPDATE lww SET v = 'us' WHERE id = {1}"),
            ("ap", "UPDATE lww SET v = 'ap' WHERE id = {1}"),
            ("eu", "UPDATE lww SET v = 'eu' WHERE id = {1}"),
        ],
        ask: "SELECT v FROM lww WHERE id = {1}",
        answer: "eu",
        journal: &["update_origin_differs", "update_origin_differs"],
    },
    Case {
        name: "A6 update of different columns, row policy",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'old', 'old')"],
        writes: &[
            ("us", "UPDATE lww SET v = 'us' WHERE id = {1}"),
            ("eu", "UPDATE lww SET w = 'eu' WHERE id = {1}"),
        ],
        ask: "SELECT v || '/' || w FROM lww WHERE id = {1}",
        answer: "old/eu",
        journal: &["update_origin_differs"],
    },
    Case {
        name: "A6 update of different columns, column policy",
        table: "cols",
        before: &["INSERT INTO cols VALUES ({1}, 'old', 'old')"],
        writes: &[
            ("us", "UPDATE cols SET v = 'us' WHERE id = {1}"),
            ("eu", "UPDATE cols SET w = 'eu' WHERE id = {1}"),
        ],
        ask: "SELECT v || '/' || w FROM cols WHERE id = {1}",
        answer: "us/eu",
        journal: &[],
    },
    Case {
        name: "A7 update, then deletion",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'old')"],
        writes: &[
            ("us", "UPDATE lww SET v = 'us' WHERE id = {1}"),
            ("eu", "DELETE FROM lww WHERE id = {1}"),
        ],
        ask: "SELECT count(*)::text FROM lww WHERE id = {1}",
        answer: "0",
        // The same conflict, seen from either side.
        journal: &["delete_origin_differs|update_deleted"],
    },
    Case {
        name: "A7 deletion, then update",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'old')"],
        writes: &[
            ("us", "DELETE FROM lww WHERE id = {1}"),
            ("eu", "UPDATE lww SET v = 'eu' WHERE id = {1}"),
        ],
        ask: "SELECT v FROM lww WHERE id = {1}",
        answer: "eu",
        journal: &["delete_origin_differs|update_deleted"],
    },
    Case {
        name: "A7 deletion, then update, where deletions win",
        table: "dw",
        before: &["INSERT INTO dw VALUES ({1}, 'old')"],
        writes: &[
            ("us", "DELETE FROM dw WHERE id = {1}"),
            ("eu", "UPDATE dw SET v = 'eu' WHERE id = {1}"),
        ],
        ask: "SELECT count(*)::text FROM dw WHERE id = {1}",
        answer: "0",
        journal: &["delete_origin_differs|update_deleted"],
    },
    Case {
        name: "A7 update, then deletion, where updates win",
        table: "uw",
        before: &["INSERT INTO uw VALUES ({1}, 'old')"],
        writes: &[
            ("us", "UPDATE uw SET v = 'us' WHERE id = {1}"),
            ("eu", "DELETE FROM uw WHERE id = {1}"),
        ],
        ask: "SELECT v FROM uw WHERE id = {1}",
        answer: "us",
        journal: &["delete_origin_differs|update_deleted"],
    },
    Case {
        name: "A8 deletion and deletion",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'old')"],
        writes: &[
            ("us", "DELETE FROM lww WHERE id = {1}"),
            ("eu", "DELETE FROM lww WHERE id = {1}"),
        ],
        ask: "SELECT count(*)::text FROM lww WHERE id = {1}",
        answer: "0",
        journal: &[],
    },
    Case {
        name: "A10 a key that is used again",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'first')", "DELETE FROM lww WHERE id = {1}"],
        writes: &[
            ("us", "INSERT INTO lww VALUES ({1}, 'second')"),
            ("us", "DELETE FROM lww WHERE id = {1}"),
            ("us", "INSERT INTO lww VALUES ({1}, 'third')"),
        ],
        ask: "SELECT v FROM lww WHERE id = {1}",
        answer: "third",
        journal: &[],
    },
    Case {
        name: "A16 counters, sums and extremes",
        table: "counter",
        before: &["INSERT INTO counter VALUES ({1}, 100, 1.50, 5, 5, 'old')"],
        writes: &[
            ("eu", "UPDATE counter SET n = n + 1, d = d + 0.25, hi = 7, lo = 3 WHERE id = {1}"),
            ("us", "UPDATE counter SET n = n + 10, d = d - 1, hi = 6, lo = 9 WHERE id = {1}"),
            ("us", "UPDATE counter SET n = n + 10 WHERE id = {1}"),
            ("ap", "UPDATE counter SET n = 1100, note = 'ap' WHERE id = {1}"),
        ],
        ask: "SELECT row(n, d, hi, lo, note)::text FROM counter WHERE id = {1}",
        answer: "(1121,0.75,7,3,ap)",
        journal: &[],
    },
    Case {
        name: "A16 a counter that every region makes",
        table: "counter",
        before: &[],
        writes: &[
            (
                "eu",
                "INSERT INTO counter (id, n) VALUES ({1}, 1)
                    ON CONFLICT (id) DO UPDATE SET n = counter.n + 1",
            ),
            (
                "us",
                "INSERT INTO counter (id, n) VALUES ({1}, 1)
                    ON CONFLICT (id) DO UPDATE SET n = counter.n + 1",
            ),
            (
                "us",
                "INSERT INTO counter (id, n) VALUES ({1}, 1)
                    ON CONFLICT (id) DO UPDATE SET n = counter.n + 1",
            ),
            ("ap", "INSERT INTO counter (id) VALUES ({1})"),
        ],
        ask: "SELECT n::text FROM counter WHERE id = {1}",
        answer: "3",
        journal: &[],
    },
    Case {
        name: "A16 a counter that is made anew beside an increment",
        table: "counter",
        before: &["INSERT INTO counter (id, n) VALUES ({1}, 0)"],
        writes: &[
            (
                "eu",
                "BEGIN; DELETE FROM counter WHERE id = {1};
                 INSERT INTO counter (id, n) VALUES ({1}, 1); COMMIT",
            ),
            ("us", "UPDATE counter SET n = n + 1 WHERE id = {1}"),
        ],
        ask: "SELECT n::text FROM counter WHERE id = {1}",
        answer: "1",
        // What us added is lost with the row that it was added to.
        journal: &["update_deleted|update_origin_differs"],
    },
    Case {
        name: "A17 NaN, infinity and null",
        table: "counter",
        before: &["INSERT INTO counter (id, hi) VALUES ({1}, 'Infinity'), ({2}, NULL), ({3}, 1)"],
        writes: &[
            ("eu", "UPDATE counter SET hi = 'NaN' WHERE id = {1}"),
            ("us", "UPDATE counter SET hi = '-Infinity' WHERE id = {1}"),
            ("us", "UPDATE counter SET hi = -3 WHERE id = {2}"),
            ("eu", "UPDATE counter SET note = 'x' WHERE id = {2}"),
            ("eu", "UPDATE counter SET hi = NULL WHERE id = {3}"),
        ],
        ask: "SELECT string_agg(hi::text, ' ' ORDER BY id) FROM counter WHERE id IN ({1}, {2}, {3})",
        answer: "NaN -3 1",
        journal: &[],
    },
    Case {
        name: "A24 a row that was there before",
        table: "lww",
        before: &[],
        writes: &[("us", "UPDATE lww SET v = 'us{1}' WHERE id = 1")],
        ask: "SELECT w FROM lww WHERE id = 1",
        answer: "seed",
        journal: &[],
    },
    Case {
        name: "A25 one row twice in one transaction",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'old')"],
        writes: &[(
            "us",
            "BEGIN; UPDATE lww SET v = 'a' WHERE id = {1}; UPDATE lww SET v = 'b' WHERE id = {1};
             INSERT INTO lww VALUES ({2}, 'c'); UPDATE lww SET v = 'd' WHERE id = {2}; COMMIT",
        )],
        ask: "SELECT string_agg(v, ' ' ORDER BY id) FROM lww WHERE id IN ({1}, {2})",
        answer: "b d",
        journal: &[],
    },
    Case {
        name: "D42 a TOASTed value that the winner did not touch",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'old', 'old', repeat('x', 10000))"],
        writes: &[
            ("eu", "UPDATE lww SET big = repeat('y', 20000) WHERE id = {1}"),
            ("us", "UPDATE lww SET v = 'us' WHERE id = {1}"),
        ],
        ask: "SELECT v || length(big) || left(big, 1) FROM lww WHERE id = {1}",
        answer: "us10000x",
        journal: &["update_origin_differs"],
    },
    Case {
        name: "D43 a key changes beside a TOASTed value",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'old', 'old', repeat('x', 10000))"],
        writes: &[("us", "UPDATE lww SET id = {2} WHERE id = {1}")],
        ask: "SELECT id - {2} || v || length(big) FROM lww WHERE id IN ({1}, {2})",
        answer: "0old10000",
        journal: &[],
    },
    Case {
        name: "a row that moves between table partitions",
        table: "part",
        before: &["INSERT INTO part VALUES ({1}, 'a', 'old')"],
        writes: &[
            ("us", "UPDATE part SET place = 'b' WHERE id = {1}"),
            ("eu", "INSERT INTO part VALUES ({2}, 'a', 'eu')"),
            ("us", "INSERT INTO part VALUES ({2}, 'a', 'us')"),
        ],
        ask: "SELECT string_agg(tableoid::regclass || v, ' ' ORDER BY id)
              FROM part WHERE id IN ({1}, {2})",
        answer: "part_restold part_aus",
        journal: &["insert_exists"],
    },
];
