//! Keys whose texts are not plain numbers.

use crate::cases::Case;

pub const SEED: &str = r#"
    CREATE TYPE mood AS ENUM ('well, "so"', '{grim}');
    CREATE DOMAIN even AS bigint CHECK (VALUE % 2 = 0);
    CREATE TABLE odd (
        id int, word text, fixed char(5), short varchar(10), price numeric(10, 2), tag uuid, raw bytea,
        at timestamptz, mood mood, pair even, letter "char", sure bool, took interval, list text[],
        net inet, bits bit(8), doc jsonb, ratio float8, span int4range, n smallint, v text,
        PRIMARY KEY (id, word, fixed, short, price, tag, raw, at, mood, pair, letter, sure, took, list,
            net, bits, doc, ratio, span));"#;

pub const TABLES: &str = "
[[table]]
name = \"odd\"
kind = \"shared\"
columns = { n = \"delta\" }
";

const BOTH: &str = r#"INSERT INTO odd VALUES
    ({1}, E'it''s {a,"b"}, NULL\\\n\t', 'ab', '', 1.50, '00000000-0000-0000-0000-000000000001',
     '\x00225c', '2026-01-01 00:00:00+05:30', 'well, "so"', 2, ',', true, '1 mon -3 days 00:00:01.5',
     '{NULL,"NULL",""}', '10.0.0.0/8', '10101010', '{"b": [1, "\""]}', 'NaN', '[1,5)', 10, 'old'),
    ({1}, '', '', 'NULL', -0.01, '00000000-0000-0000-0000-000000000002', '', '-infinity', '{grim}', -4,
     '"', false, '-1 year', '[5:6]={x,"y\\"}', '::1', '00000000', 'null', '-0', 'empty', 20, 'old')"#;

pub const ODD: &[Case] = &[
    Case {
        name: "keys of all kinds of types and texts",
        table: "odd",
        before: &[BOTH],
        writes: &[
            ("us", "UPDATE odd SET n = n + 1, v = 'us' WHERE id = {1}"),
            ("eu", "UPDATE odd SET n = n + 2, v = 'eu' WHERE id = {1}"),
        ],
        ask: "SELECT string_agg(n || v, ' ' ORDER BY n) FROM odd WHERE id = {1}",
        answer: "13eu 23eu",
        journal: &["update_origin_differs", "update_origin_differs"],
    },
    Case {
        name: "keys of all kinds, written here and deleted there",
        table: "odd",
        before: &[BOTH],
        writes: &[
            ("us", "UPDATE odd SET n = n + 1 WHERE id = {1}"),
            ("eu", "DELETE FROM odd WHERE id = {1}"),
        ],
        ask: "SELECT count(*)::text FROM odd WHERE id = {1}",
        answer: "0",
        journal: &["delete_origin_differs|update_deleted", "delete_origin_differs|update_deleted"],
    },
];
