//! The conflicts of more than one row: keys that change, values that must be unique; and what
//! becomes of rows that a function, a frozen page or a TRUNCATE has a say in.

use crate::cases::Case;

pub const SEED: &str = "
    CREATE TABLE uniq (id int PRIMARY KEY, a text UNIQUE, b text UNIQUE);
    CREATE TABLE indexed (id int PRIMARY KEY, mail text, live bool, name text);
    CREATE UNIQUE INDEX ON indexed (lower(mail)) WHERE live;
    DO $$
    BEGIN
        CREATE COLLATION loose (
            provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE UNIQUE INDEX ON indexed (name COLLATE loose);
    EXCEPTION WHEN feature_not_supported THEN
        CREATE UNIQUE INDEX ON indexed (upper(name));
    END
    $$;
    CREATE TABLE judged (id int PRIMARY KEY, v text, doc jsonb DEFAULT jsonb_build_object('seen', true));
    CREATE TABLE dice (id int PRIMARY KEY, v text);
    CREATE FUNCTION judge(mine jsonb, theirs jsonb, before jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        IF theirs ->> 'v' = 'broken' THEN
            RAISE EXCEPTION 'no verdict about this';
        END IF;
        RETURN CASE WHEN theirs ->> 'v' <> 'nothing' THEN
            jsonb_build_object('v', concat_ws('+', mine ->> 'v', theirs ->> 'v')) END;
    END
    $$;
    CREATE FUNCTION throw_dice(mine jsonb, theirs jsonb, before jsonb) RETURNS jsonb
    LANGUAGE sql AS 'SELECT jsonb_build_object($$v$$, random())';";

pub const TABLES: &str = "
[[table]]
name = \"uniq\"
kind = \"shared\"

[[table]]
name = \"indexed\"
kind = \"shared\"

[[table]]
name = \"judged\"
kind = \"shared\"
policy = \"sql\"
function = \"public.judge\"

[[table]]
name = \"dice\"
kind = \"shared\"
policy = \"sql\"
function = \"public.throw_dice\"
";

/// Two rows exchange their values, by way of a third.
const SWAP: &str = "BEGIN; UPDATE uniq SET a = 'a{3}' WHERE id = {1};
    UPDATE uniq SET a = 'a{1}' WHERE id = {2};
    UPDATE uniq SET a = 'a{2}' WHERE id = {1}; COMMIT";

/// Of PostgreSQL 17 and older: newer ones do not replicate a generated column's old values.
pub const SEED_17: &str = "
    CREATE TABLE made (
        id int PRIMARY KEY, title text, slug text GENERATED ALWAYS AS (lower(title)) STORED,
        UNIQUE (slug));";

pub const TABLES_17: &str = "
[[table]]
name = \"made\"
kind = \"shared\"
";

/// Of PostgreSQL 15 and newer.
pub const SEED_15: &str = "
    CREATE TABLE nulls (id int PRIMARY KEY, a text, b int, UNIQUE NULLS NOT DISTINCT (a, b));";

pub const TABLES_15: &str = "
[[table]]
name = \"nulls\"
kind = \"shared\"
";

pub const COLLISIONS: &[Case] = &[
    Case {
        name: "A3 rows of two regions with one unique value",
        table: "uniq",
        before: &[],
        writes: &[
            ("us", "INSERT INTO uniq VALUES ({1}, 'a{1}')"),
            ("eu", "INSERT INTO uniq VALUES ({2}, 'a{1}')"),
        ],
        ask: "SELECT string_agg(id::text, ' ') FROM uniq WHERE a = 'a{1}'",
        answer: "{2}",
        journal: &["insert_exists"],
    },
    Case {
        name: "A4 a row that meets one by its key and two by unique values",
        table: "uniq",
        before: &[],
        writes: &[
            (
                "eu",
                "INSERT INTO uniq VALUES
                     ({2}, 'a{2}', 'b{2}'), ({3}, 'a{3}', 'b{3}'), ({4}, 'a{4}', 'b{4}')",
            ),
            ("us", "INSERT INTO uniq VALUES ({2}, 'a{3}', 'b{4}')"),
        ],
        ask: "SELECT string_agg(id::text, ' ') FROM uniq WHERE id BETWEEN {1} AND {5}",
        answer: "{2}",
        journal: &[
            "insert_exists",
            "insert_exists|multiple_unique_conflicts",
            "insert_exists|multiple_unique_conflicts",
        ],
    },
    Case {
        name: "A4 a row that loses its key lets go of the unique values of others",
        table: "uniq",
        before: &[],
        writes: &[
            ("us", "INSERT INTO uniq VALUES ({2}, 'a{3}', 'b{4}')"),
            // Beside a row whose transactions are applied one by one.
            (
                "eu",
                "INSERT INTO judged VALUES ({3}, 'eu');
                 INSERT INTO uniq VALUES ({3}, 'a{3}', 'b{3}')",
            ),
            (
                "eu",
                "INSERT INTO judged VALUES ({4}, 'eu');
                 INSERT INTO uniq VALUES ({4}, 'a{4}', 'b{4}')",
            ),
            (
                "eu",
                "INSERT INTO judged VALUES ({2}, 'eu');
                 INSERT INTO uniq VALUES ({2}, 'a{2}', 'b{2}')",
            ),
        ],
        ask: "SELECT string_agg(b, ' ' ORDER BY id) FROM uniq WHERE id BETWEEN {1} AND {5}",
        answer: "b{2} b{3} b{4}",
        journal: &["insert_exists"],
    },
    Case {
        name: "A4 rows that were kept aside return when the values are free",
        table: "uniq",
        before: &[],
        writes: &[
            ("eu", "INSERT INTO uniq VALUES ({3}, 'a{3}', 'b{3}'), ({4}, 'a{4}', 'b{4}')"),
            ("us", "INSERT INTO uniq VALUES ({2}, 'a{3}', 'b{4}')"),
            ("us", "UPDATE uniq SET b = 'b{2}' WHERE id = {2}"),
        ],
        ask: "SELECT string_agg(id::text, ' ' ORDER BY id) FROM uniq WHERE id BETWEEN {1} AND {5}",
        answer: "{2} {4}",
        journal: &["insert_exists|multiple_unique_conflicts|update_exists"],
    },
    Case {
        name: "A11 one row gets another key in each of two regions",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'old')"],
        writes: &[
            ("eu", "UPDATE lww SET id = {2} WHERE id = {1}"),
            ("us", "UPDATE lww SET id = {3} WHERE id = {1}"),
        ],
        // Both, as if each region had deleted it and inserted another.
        ask: "SELECT string_agg(id || v, ' ' ORDER BY id)
              FROM lww WHERE id BETWEEN {1} AND {3}",
        answer: "{2}old {3}old",
        journal: &[],
    },
    Case {
        name: "A11 one row with a unique value gets another key in each of two regions",
        table: "uniq",
        before: &["INSERT INTO uniq VALUES ({1}, 'a{1}')"],
        writes: &[
            ("eu", "UPDATE uniq SET id = {3} WHERE id = {1}"),
            ("us", "UPDATE uniq SET id = {2} WHERE id = {1}"),
        ],
        ask: "SELECT string_agg(id::text, ' ') FROM uniq WHERE a = 'a{1}'",
        answer: "{2}",
        journal: &["insert_exists"],
    },
    Case {
        name: "A11 a key changes in one region and another updates the row",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'old')"],
        writes: &[
            ("eu", "UPDATE lww SET id = {2} WHERE id = {1}"),
            ("us", "UPDATE lww SET v = 'us' WHERE id = {1}"),
        ],
        ask: "SELECT string_agg(id || v, ' ' ORDER BY id)
              FROM lww WHERE id BETWEEN {1} AND {3}",
        answer: "{1}us {2}old",
        journal: &["delete_origin_differs|update_deleted"],
    },
    Case {
        name: "A12 different rows get the same key",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'one'), ({2}, 'two')"],
        writes: &[
            ("us", "UPDATE lww SET id = {3} WHERE id = {1}"),
            ("eu", "UPDATE lww SET id = {3} WHERE id = {2}"),
        ],
        ask: "SELECT string_agg(id || v, ' ' ORDER BY id)
              FROM lww WHERE id BETWEEN {1} AND {3}",
        answer: "{3}two",
        journal: &["insert_exists"],
    },
    Case {
        name: "A13 unique values are swapped in one transaction",
        table: "uniq",
        before: &["INSERT INTO uniq VALUES ({1}, 'a{1}'), ({2}, 'a{2}')"],
        writes: &[("us", SWAP)],
        ask: "SELECT string_agg(a, ' ' ORDER BY id) FROM uniq WHERE id IN ({1}, {2})",
        answer: "a{2} a{1}",
        journal: &[],
    },
    Case {
        name: "A13 unique values are swapped in two regions alike",
        table: "uniq",
        before: &["INSERT INTO uniq VALUES ({1}, 'a{1}'), ({2}, 'a{2}')"],
        writes: &[
            ("us", SWAP),
            (
                "eu",
                "BEGIN; UPDATE uniq SET a = 'a{3}' WHERE id = {2};
                 UPDATE uniq SET a = 'a{2}' WHERE id = {1};
                 UPDATE uniq SET a = 'a{1}' WHERE id = {2}; COMMIT",
            ),
        ],
        ask: "SELECT string_agg(a, ' ' ORDER BY id) FROM uniq WHERE id IN ({1}, {2})",
        answer: "a{2} a{1}",
        journal: &[],
    },
    Case {
        name: "A13 a unique value is swapped with another row's in each of two regions",
        table: "uniq",
        before: &["INSERT INTO uniq VALUES ({1}, 'a{1}'), ({2}, 'a{2}'), ({3}, 'a{3}')"],
        writes: &[
            (
                "eu",
                "BEGIN; UPDATE uniq SET a = 'a{4}' WHERE id = {1};
                 UPDATE uniq SET a = 'a{1}' WHERE id = {2};
                 UPDATE uniq SET a = 'a{2}' WHERE id = {1}; COMMIT",
            ),
            (
                "us",
                "BEGIN; UPDATE uniq SET a = 'a{4}' WHERE id = {1};
                 UPDATE uniq SET a = 'a{1}' WHERE id = {3};
                 UPDATE uniq SET a = 'a{3}' WHERE id = {1}; COMMIT",
            ),
        ],
        // The first as us left it; of the two that now have its value the later one.
        ask: "SELECT string_agg(id || a, ' ' ORDER BY id)
              FROM uniq WHERE id BETWEEN {1} AND {3}",
        answer: "{1}a{3} {3}a{1}",
        journal: &["insert_exists|update_exists", "update_origin_differs"],
    },
    Case {
        name: "A14 null is no value that another row could have",
        table: "uniq",
        before: &[],
        writes: &[
            ("eu", "INSERT INTO uniq VALUES ({1}, NULL, 'b{1}')"),
            ("us", "INSERT INTO uniq VALUES ({2}, NULL, NULL)"),
        ],
        ask: "SELECT count(*)::text FROM uniq WHERE id IN ({1}, {2})",
        answer: "2",
        journal: &[],
    },
    Case {
        name: "A15 a value that must be unique among some rows, by an expression",
        table: "indexed",
        before: &["INSERT INTO indexed VALUES ({1}, 'Ann{1}', true)"],
        writes: &[
            ("us", "INSERT INTO indexed VALUES ({2}, 'Bob{1}', true), ({3}, 'bob{1}', false)"),
            ("eu", "UPDATE indexed SET mail = 'BOB{1}' WHERE id = {1}"),
            ("eu", "INSERT INTO indexed VALUES ({4}, 'ann{1}', true)"),
        ],
        ask: "SELECT string_agg(id || mail, ' ' ORDER BY id)
              FROM indexed WHERE id BETWEEN {1} AND {5}",
        answer: "{1}BOB{1} {3}bob{1} {4}ann{1}",
        journal: &["insert_exists"],
    },
    Case {
        name: "A15 a value that must be unique by a collation of its own",
        table: "indexed",
        before: &[],
        writes: &[
            ("us", "INSERT INTO indexed VALUES ({1}, NULL, NULL, 'ann {1}')"),
            ("eu", "INSERT INTO indexed VALUES ({2}, NULL, NULL, 'Ann {1}')"),
        ],
        ask: "SELECT string_agg(name, ' ') FROM indexed WHERE id BETWEEN {1} AND {2}",
        answer: "Ann {1}",
        journal: &["insert_exists"],
    },
    Case {
        name: "A18 a function makes one row of three",
        table: "judged",
        before: &["INSERT INTO judged VALUES ({1}, 'old')"],
        writes: &[
            ("us", "UPDATE judged SET v = 'us' WHERE id = {1}"),
            ("ap", "UPDATE judged SET v = 'ap' WHERE id = {1}"),
            ("eu", "UPDATE judged SET v = 'eu' WHERE id = {1}"),
        ],
        ask: "SELECT concat_ws(' ', v, doc ->> 'seen') FROM judged WHERE id = {1}",
        answer: "us+ap+eu true",
        journal: &["update_origin_differs", "update_origin_differs"],
    },
    Case {
        name: "A18 a write of which the function makes nothing is left out",
        table: "judged",
        before: &["INSERT INTO judged VALUES ({1}, 'old')"],
        writes: &[
            ("us", "UPDATE judged SET v = 'us' WHERE id = {1}"),
            ("ap", "UPDATE judged SET v = 'nothing' WHERE id = {1}"),
            ("eu", "UPDATE judged SET v = 'eu' WHERE id = {1}"),
        ],
        ask: "SELECT v FROM judged WHERE id = {1}",
        answer: "us+eu",
        journal: &["update_origin_differs", "update_origin_differs"],
    },
    Case {
        name: "A18 a write that the function fails on is left out, and a person is told",
        table: "judged",
        before: &["INSERT INTO judged VALUES ({1}, 'old')"],
        writes: &[
            ("us", "UPDATE judged SET v = 'us' WHERE id = {1}"),
            ("ap", "UPDATE judged SET v = 'broken' WHERE id = {1}"),
            ("eu", "UPDATE judged SET v = 'eu' WHERE id = {1}"),
        ],
        ask: "SELECT v || (SELECT string_agg(DISTINCT right(reason, 21), '')
                           FROM domicile.journal
                           WHERE relation = 'public.judged' AND key ->> 'id' = '{1}'
                               AND status = 'open')
              FROM judged WHERE id = {1}",
        answer: "us+euno verdict about this",
        journal: &["update_origin_differs", "update_origin_differs"],
    },
    Case {
        name: "A18 a function that may say one thing here and another there is not asked",
        table: "dice",
        before: &["INSERT INTO dice VALUES ({1}, 'old')"],
        writes: &[
            ("us", "UPDATE dice SET v = 'us' WHERE id = {1}"),
            ("eu", "UPDATE dice SET v = 'eu' WHERE id = {1}"),
        ],
        ask: "SELECT v || (SELECT count(*) FROM domicile.journal
                           WHERE relation = 'public.dice' AND key ->> 'id' = '{1}'
                               AND status = 'open' AND reason LIKE '%is not immutable%')
              FROM dice WHERE id = {1}",
        answer: "us1",
        journal: &["update_origin_differs"],
    },
    Case {
        name: "A23 a conflict with a frozen row",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'old', 'old')"],
        writes: &[
            ("eu", "VACUUM (FREEZE) lww, domicile.version"),
            ("us", "VACUUM (FREEZE) lww, domicile.version"),
            (
                "us",
                "DO $$ BEGIN
                     ASSERT (SELECT age(row_.xmin) > age(relfrozenxid) FROM lww row_, pg_class c
                             WHERE row_.id = {1} AND c.oid = 'lww'::regclass), 'it is not frozen';
                 END $$",
            ),
            ("us", "UPDATE lww SET v = 'us' WHERE id = {1}"),
            ("eu", "UPDATE lww SET w = 'eu' WHERE id = {1}"),
        ],
        ask: "SELECT v || '/' || w FROM lww WHERE id = {1}",
        answer: "old/eu",
        journal: &["update_origin_differs"],
    },
    Case {
        name: "D45 a TOASTed value and two columns beside it are written in three regions",
        table: "cols",
        before: &["INSERT INTO cols VALUES ({1}, 'old', 'old', repeat('x', 10000))"],
        writes: &[
            ("eu", "UPDATE cols SET big = repeat('y', 20000) WHERE id = {1}"),
            ("us", "UPDATE cols SET v = 'us' WHERE id = {1}"),
            ("ap", "UPDATE cols SET w = 'ap' WHERE id = {1}"),
        ],
        ask: "SELECT v || w || length(big) || left(big, 1) FROM cols WHERE id = {1}",
        answer: "usap20000y",
        journal: &[],
    },
    Case {
        name: "D45 a deleted row comes back with its TOASTed value",
        table: "lww",
        before: &["INSERT INTO lww VALUES ({1}, 'old', 'old', repeat('x', 10000))"],
        writes: &[
            ("us", "DELETE FROM lww WHERE id = {1}"),
            ("ap", "UPDATE lww SET v = 'ap' WHERE id = {1}"),
        ],
        ask: "SELECT v || length(big) || left(big, 1) FROM lww WHERE id = {1}",
        answer: "ap10000x",
        journal: &["delete_origin_differs|update_deleted"],
    },
    Case {
        name: "G75 TRUNCATE beside another region's inserts is refused",
        table: "part",
        before: &["INSERT INTO part VALUES ({1}, 'a', 'old')"],
        writes: &[
            ("eu", "INSERT INTO part VALUES ({2}, 'a', 'eu')"),
            (
                "us",
                "DO $$
                 DECLARE way text;
                 BEGIN
                     FOREACH way IN ARRAY ARRAY['part', 'part_a', 'lww, uniq CASCADE'] LOOP
                         BEGIN
                             EXECUTE 'TRUNCATE ' || way;
                             RAISE 'it was truncated';
                         EXCEPTION WHEN feature_not_supported THEN NULL;
                         END;
                         SET LOCAL session_replication_role = replica;
                     END LOOP;
                 END
                 $$",
            ),
            ("us", "INSERT INTO part VALUES ({3}, 'b', 'us')"),
        ],
        ask: "SELECT string_agg(v, ' ' ORDER BY id) FROM part WHERE id BETWEEN {1} AND {3}",
        answer: "old eu us",
        journal: &[],
    },
];

pub const COLLISIONS_15: &[Case] = &[Case {
    name: "A14 null is a value where the index says so",
    table: "nulls",
    before: &[],
    writes: &[
        ("us", "INSERT INTO nulls VALUES ({1}, 'a{1}', NULL), ({3}, NULL, {3})"),
        ("eu", "INSERT INTO nulls VALUES ({2}, 'a{1}', NULL), ({4}, NULL, {4})"),
    ],
    ask: "SELECT string_agg(id::text, ' ' ORDER BY id) FROM nulls WHERE id BETWEEN {1} AND {5}",
    answer: "{2} {3} {4}",
    journal: &["insert_exists"],
}];

pub const COLLISIONS_17: &[Case] = &[Case {
    name: "A15 a value that must be unique and is generated",
    table: "made",
    before: &["INSERT INTO made VALUES ({3}, 'Old {1}')"],
    writes: &[
        ("us", "INSERT INTO made VALUES ({1}, 'New {1}')"),
        ("eu", "INSERT INTO made VALUES ({2}, 'new {1}')"),
        ("eu", "UPDATE made SET title = 'Older {1}' WHERE id = {3}"),
    ],
    ask: "SELECT string_agg(id || slug, ' ' ORDER BY id) FROM made WHERE id BETWEEN {1} AND {3}",
    answer: "{2}new {1} {3}older {1}",
    journal: &["insert_exists"],
}];
