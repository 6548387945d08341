-- Values of every type arrive as they were: part C of the scenarios.

--- C34: whole numbers at their limits, NaN, infinities, -0, denormals, 1,500 digits, money
-- tables: numbers
-- first both:
CREATE TABLE numbers (
    id int PRIMARY KEY, i2 int2, i4 int4, i8 int8, n numeric(1000, 500), f numeric, f4 float4,
    f8 float8, m money, o oid
);
-- eu:
INSERT INTO numbers VALUES
    (1, -32768, -2147483648, -9223372036854775808, (repeat('9', 500) || '.' || repeat('9', 500))::numeric,
     'NaN', '-0', '-0', '-92233720368547758.08', 0),
    (2, 32767, 2147483647, 9223372036854775807, -1e-499, 'Infinity', 'NaN', 'NaN', '92233720368547758.07', 4294967295),
    (3, 0, 0, 0, 0.10, '-Infinity', 'Infinity', '-Infinity', '0.01', 1),
    (4, 1, 1, 1, 0.1, 1.10, 1.17549435e-38, 2.2250738585072014e-308, 0, 1),
    (5, 1, 1, 1, 0.1, 1.1, 1.4e-45, 4.9e-324, 0, 1),
    (6, 1, 1, 1, 0.1, repeat('7', 1500)::numeric, 0.1::float4 + 0.2::float4, 0.1::float8 + 0.2::float8, 0, 1),
    (7, 1, 1, 1, NULL, 1e-1000, 3.4028235e38, 1.7976931348623157e308, NULL, 1);
-- alike:
-- eu:
UPDATE numbers SET f = f + 1, f4 = f4 * 3, f8 = f8 / 3 WHERE id IN (1, 2, 3, 4);
UPDATE numbers SET id = id + 100, n = n * 2 WHERE id IN (3, 4, 5);
UPDATE numbers SET f = 1.100 WHERE id = 6;
DELETE FROM numbers WHERE id IN (1, 104);

--- C34: numbers that are equal and not the same, as keys
-- tables: float_keys, numeric_keys
-- first both:
CREATE TABLE float_keys (k float8 PRIMARY KEY, v int);
CREATE TABLE numeric_keys (k numeric PRIMARY KEY, v int);
-- eu:
INSERT INTO float_keys VALUES ('-0', 1), ('NaN', 1), ('Infinity', 1), ('-Infinity', 1), (0.1::float8 + 0.2, 1), (4.9e-324, 1);
INSERT INTO numeric_keys VALUES ('NaN', 1), ('Infinity', 1), (1.10, 1), (0.000, 1), (-1e-40, 1);
-- alike:
-- eu:
UPDATE float_keys SET v = 2;
UPDATE float_keys SET k = 0 WHERE k = 0;
UPDATE numeric_keys SET v = 2;
UPDATE numeric_keys SET k = 1.100000 WHERE k = 1.1;
-- alike:
-- eu:
DELETE FROM float_keys WHERE k = 'NaN' OR k > 0;
DELETE FROM numeric_keys WHERE k = 'NaN' OR k > 0;

--- C35: times at both ends of the calendar, BC, 24:00, offsets, intervals of mixed signs
-- tables: times
-- first both:
CREATE TABLE times (
    id int PRIMARY KEY, d date, t time, tz timetz, ts timestamp, tstz timestamptz, i interval, t3 time(3), i0 interval day to second(0)
);
-- eu:
SET DateStyle = 'ISO';
INSERT INTO times VALUES
    (1, 'infinity', '24:00', '24:00+15:59:59', 'infinity', '-infinity', '-1 mons +2 days -03:04:05.000006', '01:02:03.4567', '1 day 2 hours'),
    (2, '4713-11-24 BC', '00:00', '00:00-15:59', '4713-11-24 BC', '4713-11-24 BC UTC', '178000000 years', NULL, NULL),
    (3, '5874897-12-31', '23:59:59.999999', '12:00+02', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999 UTC', '-178000000 years', NULL, NULL),
    (4, '0001-01-01 BC', '12:00', '12:00:00.000001-07:30', '2024-02-29 23:59:60', '2024-03-31 02:30 Europe/Berlin', '1 year -1 day 1 us', NULL, NULL),
    (5, '2024-10-27', NULL, NULL, '2024-10-27 02:30', '2024-10-27 02:30+01', '0', NULL, NULL),
    (6, '2025-06-05', NULL, NULL, '2025-06-05', '1900-01-01 00:00 Europe/Amsterdam', '1 day', NULL, NULL);
-- alike:
-- eu:
UPDATE times SET ts = ts - interval '1 us', i = -i WHERE id > 2;
UPDATE times SET d = d + 1 WHERE id = 6;
UPDATE times SET id = id * 10 WHERE id IN (1, 4);
DELETE FROM times WHERE id IN (2, 40);

--- C35: days and instants as keys, written day before month
-- tables: day_keys
-- first both:
CREATE TABLE day_keys (d date, at timestamptz, i interval, v int, PRIMARY KEY (d, at, i));
-- eu:
INSERT INTO day_keys VALUES ('05/06/2025', '05/06/2025 07:08', '-1 2:03', 1), ('infinity', '-infinity', '0', 1),
    ('01/02/0044 BC', '01/02/2000', '1-2', 1), ('01/03/2000', '01/02/2000', '30 days', 1);
-- alike:
-- eu:
UPDATE day_keys SET v = v + 1;
UPDATE day_keys SET d = '06/05/2025' WHERE d = '05/06/2025';
DELETE FROM day_keys WHERE i = '1-2';

--- C36: texts of many scripts, combining, four bytes, right to left, quotes, empty beside null
-- tables: texts
-- first both:
CREATE TABLE texts (id int PRIMARY KEY, t text, v varchar(20), c char(12), n name, one "char", tc text COLLATE "C.utf8");
-- eu:
INSERT INTO texts VALUES
    (1, 'Grüße, 世界, мир', 'é', 'é', 'ünïcode', 'x', 'ß'),
    (2, U&'e\0301 \+01F980 \+10FFFF', '🦀🦀', 'ab', '', '', ''),
    (3, 'سلام עולם ‮gnirts‬', '', '', 'a', ' ', NULL),
    (4, '', NULL, NULL, NULL, NULL, NULL),
    (5, E' leading, trailing \t\n\r\\ ''quotes'' "double" $$ $1 -- /* NULL null \\N {}', E'\\', E'\\\\', E'a\\b', E'\\', E'\\x41'),
    (6, E'\x01\x02\x7f\u0085\u00a0\u2028', 'trailing   ', 'pad  ', repeat('n', 63), '"', 'z'),
    (7, repeat('🦀', 100000), repeat('ü', 20), repeat('ü', 12), repeat('ü', 31), '''', 'NULL');
-- alike:
-- eu:
UPDATE texts SET t = t || '!' WHERE id < 6;
UPDATE texts SET v = '' WHERE id = 4;
UPDATE texts SET v = NULL, c = 'ab   ' WHERE id = 3;
UPDATE texts SET id = id + 10 WHERE id IN (2, 7);
DELETE FROM texts WHERE id IN (1, 12);

--- C36: texts as keys: empty, blank-padded, of several columns
-- tables: text_keys, padded_keys
-- first both:
CREATE TABLE text_keys (a text, b varchar(30), n name, v int, PRIMARY KEY (a, b, n));
CREATE TABLE padded_keys (c char(10) PRIMARY KEY, v int);
-- eu:
INSERT INTO text_keys VALUES ('', '', '', 1), (E'\\', '''', '"', 1), ('ab', 'c', 'x', 1), ('a', 'bc', 'x', 1), (E'a\u001Fb', 'c', 'x', 1), ('🦀', 'ü', 'n', 1);
INSERT INTO padded_keys VALUES ('', 1), ('a', 1), ('a b', 1);
-- alike:
-- eu:
UPDATE text_keys SET v = 2;
UPDATE text_keys SET b = b || '!' WHERE a = '';
UPDATE padded_keys SET v = 2;
UPDATE padded_keys SET c = 'b' WHERE c = 'a';
DELETE FROM text_keys WHERE a = 'ab' OR a = E'\\';
DELETE FROM padded_keys WHERE c = '';

--- C36: "char" beyond ASCII
-- PostgreSQL 14 itself cannot print them as text of a database in UTF-8.
-- since PostgreSQL 15:
-- tables: odd_chars
-- first both:
CREATE TABLE odd_chars (id int PRIMARY KEY, one "char");
-- eu:
INSERT INTO odd_chars SELECT i, (i - 128)::"char" FROM generate_series(0, 255) i;
-- alike:
-- eu:
UPDATE odd_chars SET one = (-56)::"char" WHERE id < 10;
UPDATE odd_chars SET one = (-1)::"char" WHERE id = 200;

--- C37: bytes of all values and megabytes of them
-- tables: bytes
-- first both:
CREATE TABLE bytes (id int PRIMARY KEY, b bytea, bit1 bit(17), bits varbit);
-- eu:
INSERT INTO bytes SELECT 1, string_agg(decode(lpad(to_hex(i), 2, '0'), 'hex'), ''::bytea), B'10101010101010101', B''
    FROM generate_series(0, 255) i;
INSERT INTO bytes VALUES (2, '', NULL, NULL), (3, NULL, NULL, repeat('10', 500)::varbit);
INSERT INTO bytes SELECT 4, string_agg(sha512(i::text::bytea), ''::bytea), NULL, NULL FROM generate_series(1, 20000) i;
-- alike:
-- eu:
UPDATE bytes SET b = b || b WHERE id IN (1, 2, 3);
UPDATE bytes SET bits = B'1' WHERE id = 4;
UPDATE bytes SET id = 40 WHERE id = 4;
UPDATE bytes SET b = substr(b, 100) WHERE id = 40;
DELETE FROM bytes WHERE id = 2;

--- C37: json with its blanks and its order, jsonb, jsonpath, xml
-- tables: documents
-- first both:
CREATE TABLE documents (id int PRIMARY KEY, j json, jb jsonb, p jsonpath, x xml);
-- eu:
SET xmloption = content;
INSERT INTO documents VALUES
    (1, '{"b":  1, "a": [1,2 ], "b": null}', '{"b": 1, "a": [1, 2], "c": {"d": "\u00fc"}}', '$.a[*] ? (@ > 1)', '<a b="c">ü</a>'),
    (2, '"text"', '"text"', 'strict $', 'content, no document'),
    (3, ' null ', 'null', 'lax $."quoted \" name"', '<?xml version="1.0"?><a/>'),
    (4, NULL, NULL, NULL, NULL),
    (5, '1.0000000000000000000000001e10', '1.0000000000000000000000001e10', '$', '<!-- only a comment -->'),
    (6, '"\u0000 stays in json"', '{}', '$', '');
-- alike:
-- eu:
SET xmloption = content;
UPDATE documents SET j = '[ ]', jb = jb || '{"z": 1}' WHERE id IN (1, 6);
UPDATE documents SET x = '<a/><b/>' WHERE id = 1;
UPDATE documents SET id = 30 WHERE id = 3;
DELETE FROM documents WHERE id = 2;

--- C37: addresses, uuid, text search, geometry, positions, snapshots, system types
-- tables: others
-- first both:
CREATE TABLE others (
    id int PRIMARY KEY, u uuid, i inet, c cidr, m macaddr, m8 macaddr8, tv tsvector, tq tsquery, p point, l line,
    s lseg, b box, pa path, po polygon, ci circle, lsn pg_lsn, snap txid_snapshot, snap2 pg_snapshot,
    tid tid, xid xid, xid8 xid8, rc regclass, rt regtype, rp regprocedure, acl aclitem, ov oidvector, iv int2vector, boo bool
);
-- eu:
INSERT INTO others VALUES
    (1, '00000000-0000-0000-0000-000000000000', '192.168.0.1', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05',
     '''it''''s'':1A fat:2B,3', 'fat & (rat | !cat:*AB) <-> dog', '(0.1,-0)', '{1,2,3}', '[(0,0),(1e-300,1)]', '(1,1),(0,0)',
     '[(0,0),(1,1)]', '((0,0),(1,0),(0,1))', '<(0.1,0.2),3>', '16/B374D848', '10:20:10,14,15', '10:20:10,14,15',
     '(4294967295,65535)', '3', '18446744073709551615', 'pg_catalog.pg_class', 'int4', 'pg_catalog.abs(int4)', 'postgres=r/postgres', '1 2 3', '1 2', true),
    (2, 'ffffffff-ffff-ffff-ffff-ffffffffffff', '::ffff:1.2.3.4/128', '2001:db8::/32', NULL, NULL, '', '', '(NaN,Infinity)', NULL,
     NULL, NULL, '((0,0),(1,1))', NULL, '<(0,0),0>', '0/0', '1:1:', NULL, '(0,0)', NULL, NULL, NULL, NULL, NULL, NULL, '', '', false),
    (3, NULL, '192.168.0.1/24', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
-- alike:
-- eu:
UPDATE others SET p = '(1,2)', i = '0.0.0.0/0', boo = NOT boo WHERE id < 3;
UPDATE others SET id = 20 WHERE id = 2;
DELETE FROM others WHERE id = 3;

--- C38: arrays of several dimensions, with bounds of their own, with nulls
-- tables: arrays
-- first both:
CREATE TABLE arrays (id int PRIMARY KEY, i int[], t text[], d date[], b bytea[], f float8[], n numeric[], j json[], tz timestamptz[], iv interval[]);
-- eu:
SET DateStyle = 'ISO';
INSERT INTO arrays VALUES
    (1, '[-2:0][7:8]={{1,2},{3,NULL},{5,6}}', ARRAY['a,b', '"', E'\\', 'NULL', '', NULL, '{}', ' x '], '{2025-06-05,infinity,NULL}',
     ARRAY['\x00ff'::bytea, ''], ARRAY[0.1::float8 + 0.2, 'NaN', '-0'], '{1.10,NaN,Infinity}', ARRAY['{"a": 1}'::json, ' null '], ARRAY['-infinity'::timestamptz, '2025-06-05 01:02+03'], ARRAY['-1 mon 2 days -3:04'::interval]),
    (2, '{}', '{}', NULL, '{}', '{}', '{}', '{}', '{}', '{}'),
    (3, '{{{{{{1}}}}}}', ARRAY[['ü', '🦀'], ['', E'\n']], NULL, NULL, NULL, NULL, NULL, NULL, NULL);
-- alike:
-- eu:
UPDATE arrays SET i[10] = 10, t = t || NULL::text WHERE id = 2;
UPDATE arrays SET f[1] = 4.9e-324 WHERE id = 1;
UPDATE arrays SET id = 10 WHERE id = 1;
DELETE FROM arrays WHERE id = 3;

--- C38: composites in composites, enums, domains, ranges and multiranges of one's own
-- tables: own_types
-- first both:
CREATE TYPE colour AS ENUM ('red', 'Green', 'it''s', 'ünï "quoted"');
CREATE TYPE inner_type AS (a int, "B c" text, at timestamptz, colours colour[]);
CREATE TYPE outer_type AS (i inner_type, list inner_type[], f float8, b bytea);
CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
CREATE DOMAIN many_positive AS positive[] NOT NULL;
CREATE TYPE floats AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = many_floats);
CREATE TABLE own_types (
    id int PRIMARY KEY, c colour, cs colour[], o outer_type, os outer_type[], p positive, mp many_positive DEFAULT '{1}',
    r floats, m many_floats, ir int4range, nr numrange, tr tstzrange, dm datemultirange, rs int8range[]
);
-- eu:
SET DateStyle = 'ISO';
INSERT INTO own_types VALUES
    (1, 'it''s', ARRAY['red', 'ünï "quoted"']::colour[],
     ROW(ROW(1, 'a,b("\)', '2025-06-05 01:02+03', '{Green,it''s}'), ARRAY[ROW(NULL, '', 'infinity', NULL)::inner_type, NULL], 0.1::float8 + 0.2, '\x00'),
     ARRAY[ROW(NULL, NULL, '-0', NULL)::outer_type], 1.10, '{1,2.50}', '[0.1,)', '{(,1),[2,3)}', 'empty', '(1.0,1.00]',
     '[2025-06-05 01:02+03,infinity)', '{[2025-06-05,2025-06-07),[infinity,)}', ARRAY['[1,2)'::int8range, 'empty', '(,)']),
    (2, NULL, '{}', NULL, '{}', NULL, '{}', NULL, '{}', NULL, NULL, NULL, '{}', '{}'),
    (3, 'Green', NULL, ROW(NULL, NULL, NULL, NULL), NULL, NULL, '{3}', 'empty', NULL, '(,)', NULL, NULL, NULL, NULL);
-- alike:
-- eu:
UPDATE own_types SET o.i.a = 7, c = 'red' WHERE id IN (1, 3);
UPDATE own_types SET m = m + many_floats(floats(5, 6)) WHERE id < 3;
UPDATE own_types SET id = 30 WHERE id = 3;
DELETE FROM own_types WHERE id = 2;

--- C38: types of extensions: hstore, ltree, citext, cube, isn
-- tables: extended
-- first both:
CREATE SCHEMA extensions;
CREATE EXTENSION hstore SCHEMA extensions;
CREATE EXTENSION ltree SCHEMA extensions;
CREATE EXTENSION citext SCHEMA extensions;
CREATE EXTENSION cube;
CREATE EXTENSION isn;
CREATE TABLE extended (id int PRIMARY KEY, h extensions.hstore, l extensions.ltree, c extensions.citext, cu cube, i isbn13, hs extensions.hstore[]);
-- eu:
INSERT INTO extended VALUES (1, '"a b"=>"1", c=>NULL, "ü"=>""', 'Top.Science.Astronomy', 'MiXed', '(0.1,2),(3,4)', '978-0-393-04002-9', ARRAY['a=>1'::extensions.hstore]),
    (2, '', '', '', NULL, NULL, NULL);
-- alike:
-- eu:
UPDATE extended SET h = h OPERATOR(extensions.||) 'z=>9'::extensions.hstore, c = 'mixed' WHERE id = 1;
UPDATE extended SET id = 20 WHERE id = 2;
DELETE FROM extended WHERE id = 1;

--- C39: composites, arrays, enums, ranges, domains, jsonb, inet, bytes and bits as keys
-- tables: composite_keys, array_keys, mixed_keys, range_keys, json_keys
-- first both:
CREATE TYPE place AS (country text, number int, at timestamptz);
CREATE TYPE size AS ENUM ('small', 'LARGE');
CREATE DOMAIN code AS text CHECK (VALUE ~ '^[a-z'' ]+$');
CREATE TABLE composite_keys (k place PRIMARY KEY, v int);
CREATE TABLE array_keys (k text[] PRIMARY KEY, v int);
CREATE TABLE mixed_keys (s size, c code, u uuid, b bytea, bi varbit, i inet, v int, PRIMARY KEY (s, c, u, b, bi, i));
CREATE TABLE range_keys (k int4range, m datemultirange, v int, PRIMARY KEY (k, m));
CREATE TABLE json_keys (k jsonb PRIMARY KEY, v int);
-- eu:
INSERT INTO composite_keys VALUES (ROW('d,e"(', 1, '05/06/2025 01:02'), 1), (ROW(NULL, NULL, NULL), 1), (ROW('', 0, 'infinity'), 1);
INSERT INTO array_keys VALUES ('{}', 1), (ARRAY['a', NULL], 1), (ARRAY['a', 'NULL'], 1), ('[3:4]={a,b}', 1), ('{{a},{b}}', 1);
INSERT INTO mixed_keys VALUES ('small', 'it''s', '00000000-0000-0000-0000-000000000000', '\x00', '', '10.0.0.1/8', 1), ('LARGE', ' ', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '', B'101', '::1', 1);
INSERT INTO range_keys VALUES ('[1,5)', '{}', 1), ('empty', '{[2025-01-01,2025-02-01)}', 1), ('(,)', '{(,)}', 1);
INSERT INTO json_keys VALUES ('{"a": [1, null]}', 1), ('null', 1), ('1.0', 1), ('"x"', 1);
-- alike:
-- eu:
UPDATE composite_keys SET v = 2;
UPDATE composite_keys SET k.number = 9 WHERE (k).country = '';
UPDATE array_keys SET v = 2;
UPDATE array_keys SET k = k || 'z'::text WHERE k = ARRAY['a', NULL];
UPDATE mixed_keys SET v = 2;
UPDATE mixed_keys SET b = b || '\x01' WHERE s = 'small';
UPDATE range_keys SET v = 2;
UPDATE json_keys SET v = 2;
UPDATE json_keys SET k = '1.00' WHERE k = '1.0';
-- alike:
-- eu:
DELETE FROM composite_keys WHERE (k).country IS NULL OR (k).number = 9;
DELETE FROM array_keys WHERE k = '{}' OR k = ARRAY['a', 'NULL'];
DELETE FROM mixed_keys WHERE s = 'LARGE';
DELETE FROM range_keys WHERE k = 'empty';
DELETE FROM json_keys WHERE k = '"x"' OR k = 'null';

--- C39: keys whose operators are in no schema of the search path: hstore, ltree, citext
-- tables: extension_keys, folded_keys
-- first both:
CREATE SCHEMA more;
CREATE EXTENSION seg SCHEMA more;
CREATE TABLE extension_keys (h extensions.hstore, l extensions.ltree, s more.seg, v int, PRIMARY KEY (h, l, s));
CREATE TABLE folded_keys (c extensions.citext PRIMARY KEY, v int);
-- eu:
INSERT INTO extension_keys VALUES ('a=>1', 'Top.Sub', '1..2', 1), ('', '', '~3.0', 1);
INSERT INTO folded_keys VALUES ('One', 1), ('two', 1);
-- alike:
-- eu:
UPDATE extension_keys SET v = 2;
UPDATE folded_keys SET v = 2;
UPDATE folded_keys SET c = 'ONE', v = 3 WHERE v = 2 AND c::text = 'One';
-- alike:
-- eu:
DELETE FROM extension_keys WHERE l::text = '';
DELETE FROM folded_keys WHERE c::text = 'ONE';

--- C40: types made in another order, so that their numbers differ
-- tables: numbered
-- first eu:
CREATE TYPE first_type AS ENUM ('a', 'b');
CREATE TYPE second_type AS (x int, y first_type);
CREATE DOMAIN third_type AS first_type[];
-- first us:
CREATE TABLE uses_numbers (id int);
CREATE TYPE first_type AS ENUM ('b');
ALTER TYPE first_type ADD VALUE 'a' BEFORE 'b';
CREATE DOMAIN third_type AS first_type[];
CREATE TYPE second_type AS (x int, y first_type);
-- first both:
CREATE TABLE numbered (id first_type PRIMARY KEY, s second_type, t third_type, st second_type[]);
-- eu:
INSERT INTO numbered VALUES ('a', ROW(1, 'b'), '{a,b}', ARRAY[ROW(2, 'a')::second_type]), ('b', NULL, '{}', NULL);
-- alike:
-- eu:
UPDATE numbered SET s.y = 'a' WHERE id = 'a';
DELETE FROM numbered WHERE id = 'b';

--- C41: a table of 1,600 columns, and one of 255 with all of them in its key's shadow
-- tables: wide, quite_wide
-- first both:
DO $$ BEGIN
    EXECUTE (SELECT 'CREATE TABLE wide (c1 int PRIMARY KEY, ' || string_agg('c' || i || ' int', ', ') || ')' FROM generate_series(2, 1600) i);
    EXECUTE (SELECT 'CREATE TABLE quite_wide (id text PRIMARY KEY, ' || string_agg('c' || i || ' text', ', ') || ')' FROM generate_series(2, 255) i);
END $$;
-- eu:
DO $$ BEGIN
    EXECUTE (SELECT 'INSERT INTO wide SELECT n, ' || string_agg('n * ' || i, ', ') || ' FROM generate_series(1, 3) n' FROM generate_series(2, 1600) i);
    EXECUTE (SELECT 'INSERT INTO quite_wide SELECT n::text, ' || string_agg('n::text || ' || i, ', ') || ' FROM generate_series(1, 3) n' FROM generate_series(2, 255) i);
END $$;
-- alike:
-- eu:
UPDATE wide SET c1600 = -1, c2 = NULL WHERE c1 = 2;
UPDATE wide SET c1 = 30 WHERE c1 = 3;
UPDATE quite_wide SET c255 = NULL WHERE id = '2';
DELETE FROM wide WHERE c1 = 1;
DELETE FROM quite_wide WHERE id = '1';

--- C41: dropped columns, another order of columns, columns that one region alone has dropped
-- tables: reordered
-- first eu:
CREATE TABLE reordered (gone1 int, id int, gone2 text, b text, a text, c int);
ALTER TABLE reordered DROP gone1, DROP gone2, ADD PRIMARY KEY (id);
-- first us:
CREATE TABLE reordered (c int, a text, id int PRIMARY KEY, gone3 int, b text);
ALTER TABLE reordered DROP gone3;
-- eu:
INSERT INTO reordered (id, a, b, c) VALUES (1, 'a', 'b', 1), (2, 'a', 'b', 2);
-- alike:
-- eu:
UPDATE reordered SET a = 'A' WHERE id = 1;
UPDATE reordered SET id = 20 WHERE id = 2;
-- alike:
-- eu:
DELETE FROM reordered WHERE id = 20;

--- C41: names that are quoted, reserved, long, alike, full of signs
-- tables: Mixed Case.Sel"ect, odd.über-tisch $1 'x', same, odd.same, aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab, pg_class
-- first both:
CREATE SCHEMA "Mixed Case";
CREATE SCHEMA odd;
CREATE TABLE "Mixed Case"."Sel""ect" ("Select" int PRIMARY KEY, "a.b" text, "?column?" text, "$1" text, " " text, "üñí🦀" text, "new" text, "row_" text, ctid_ text);
CREATE TABLE odd."über-tisch $1 'x'" (id int PRIMARY KEY, "%s {}" text, "order" int, "user" text);
CREATE TABLE same (id int PRIMARY KEY, v text);
CREATE TABLE odd.same (id int PRIMARY KEY, v text);
CREATE TABLE aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa (aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa int PRIMARY KEY, v text);
CREATE TABLE aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab (id int PRIMARY KEY, v text);
CREATE TABLE public.pg_class (oid int PRIMARY KEY, relname text);
-- eu:
INSERT INTO "Mixed Case"."Sel""ect" VALUES (1, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO odd."über-tisch $1 'x'" VALUES (1, 'a', 1, 'me'), (2, 'b', 2, 'you');
INSERT INTO same VALUES (1, 'public');
INSERT INTO odd.same VALUES (1, 'odd'), (2, 'odd');
INSERT INTO aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa VALUES (1, 'a');
INSERT INTO aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab VALUES (1, 'b');
INSERT INTO public.pg_class VALUES (1, 'mine');
-- alike:
-- eu:
UPDATE "Mixed Case"."Sel""ect" SET "Select" = 10, " " = 'changed' WHERE "Select" = 1;
UPDATE odd."über-tisch $1 'x'" SET "order" = 3;
UPDATE same SET v = 'changed';
UPDATE aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa SET v = 'changed';
UPDATE public.pg_class SET relname = 'changed';
DELETE FROM "Mixed Case"."Sel""ect" WHERE "Select" = 2;
DELETE FROM odd."über-tisch $1 'x'" WHERE id = 2;
DELETE FROM odd.same WHERE id = 1;

--- C38: types to which the application casts texts by a function of its own
-- tables: residents
-- first both:
CREATE TYPE address AS (street text, city text);
CREATE DOMAIN home AS address;
CREATE FUNCTION parse_address(text) RETURNS address LANGUAGE sql IMMUTABLE AS
    $$ SELECT ROW('parsed ' || $1, NULL)::public.address $$;
CREATE CAST (text AS address) WITH FUNCTION parse_address(text);
CREATE TABLE residents (id int PRIMARY KEY, lives address, home home, past address[]);
-- eu:
INSERT INTO residents VALUES (1, ROW('a, "b"', 'c'), ROW('d', NULL), ARRAY[ROW('e', '{f}')::address]);
INSERT INTO residents SELECT i, ROW('g', i::text)::address, NULL, '{}' FROM generate_series(2, 9) i;
-- alike:
-- eu:
UPDATE residents SET lives = ROW(NULL, '\'), home = ROW('h', 'i') WHERE id < 5;
