-- Large values that an update does not touch, and what identifies a row: part D of the scenarios.

--- D42: another column changes, the large value stays
-- tables: large
-- first both:
CREATE TABLE large (id int PRIMARY KEY, n int, big text, bigger text);
ALTER TABLE large ALTER big SET STORAGE EXTERNAL;
-- eu:
INSERT INTO large SELECT i, 0, repeat(i || ' large ', 5000), (SELECT string_agg(md5(x::text || i), '') FROM generate_series(1, 2000) x) FROM generate_series(1, 5) i;
-- alike:
-- eu:
UPDATE large SET n = 1;
UPDATE large SET big = 'small now' WHERE id = 2;
UPDATE large SET bigger = NULL WHERE id = 3;
UPDATE large SET n = n + 1, big = big || 'more' WHERE id = 4;

--- D43: the key changes and the large value stays
-- tables: moved
-- first both:
CREATE TABLE moved (a int, b text, n int, big text, PRIMARY KEY (a, b));
ALTER TABLE moved ALTER big SET STORAGE EXTERNAL;
-- eu:
INSERT INTO moved SELECT i, 'key', 0, repeat(i || ' large ', 5000) FROM generate_series(1, 5) i;
-- eu:
UPDATE moved SET a = a + 100 WHERE a = 1;
UPDATE moved SET b = 'other', n = 1 WHERE a = 2;
UPDATE moved SET a = 1 WHERE a = 101;
UPDATE moved SET a = a + 10 WHERE a > 3;

--- D43: a large value is part of the key
-- tables: large_key
-- first both:
CREATE TABLE large_key (k text PRIMARY KEY, n int, big text);
ALTER TABLE large_key ALTER k SET STORAGE EXTERNAL, ALTER big SET STORAGE EXTERNAL;
-- eu:
INSERT INTO large_key SELECT repeat(i || 'k', 1200), 0, repeat('large ', 5000) FROM generate_series(1, 3) i;
-- alike:
-- eu:
UPDATE large_key SET n = 1;
UPDATE large_key SET k = k || 'x' WHERE k LIKE '1%';
DELETE FROM large_key WHERE k LIKE '2%';

--- D44: the row is missing at the target: it is fetched, never made without its large value
-- tables: missing
-- first both:
CREATE TABLE missing (id int PRIMARY KEY, n int, big text);
ALTER TABLE missing ALTER big SET STORAGE EXTERNAL;
-- eu:
INSERT INTO missing SELECT i, 0, repeat(i || ' large ', 5000) FROM generate_series(1, 3) i;
-- alike:
-- us behind the guard:
DELETE FROM missing WHERE id < 3;
-- eu:
UPDATE missing SET n = 1 WHERE id = 1;
-- eu:
UPDATE missing SET id = 20 WHERE id = 2;
-- us journals 2 update_missing:

--- D46: identity by an index that is not the primary key
-- tables: by_index
-- first both:
CREATE TABLE by_index (id int PRIMARY KEY, code text NOT NULL, n int, big text, UNIQUE (code));
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code_key, ALTER big SET STORAGE EXTERNAL;
-- eu:
INSERT INTO by_index SELECT i, 'c' || i, 0, repeat('large ', 5000) FROM generate_series(1, 5) i;
-- alike:
-- eu:
UPDATE by_index SET n = 1;
UPDATE by_index SET id = id + 10 WHERE id = 2;
UPDATE by_index SET code = 'other' WHERE id = 3;
DELETE FROM by_index WHERE id IN (4, 12);

--- D46: identity FULL beside a primary key
-- tables: full_with_key
-- first both:
CREATE TABLE full_with_key (id int PRIMARY KEY, n int, j json, f float8, p point, big text);
ALTER TABLE full_with_key REPLICA IDENTITY FULL, ALTER big SET STORAGE EXTERNAL;
-- eu:
INSERT INTO full_with_key SELECT i, NULL, '{"a":  1}', 'NaN', '(1,2)', repeat('large ', 5000) FROM generate_series(1, 5) i;
-- alike:
-- eu:
UPDATE full_with_key SET n = 1 WHERE id < 3;
UPDATE full_with_key SET id = 30 WHERE id = 3;
UPDATE full_with_key SET j = NULL, f = '-0' WHERE id = 1;
UPDATE full_with_key SET f = 0 WHERE id = 1;
DELETE FROM full_with_key WHERE id IN (4, 30);

--- D46: identity FULL without a key: of rows that are all the same, one is changed and one goes
-- tables: twins
-- first both:
CREATE TABLE twins (a int, t text, big text);
ALTER TABLE twins REPLICA IDENTITY FULL, ALTER big SET STORAGE EXTERNAL;
-- eu:
INSERT INTO twins SELECT 1, NULL, repeat('large ', 5000) FROM generate_series(1, 4);
INSERT INTO twins VALUES (NULL, NULL, NULL), (NULL, NULL, NULL), (NULL, NULL, NULL);
-- alike:
-- eu:
DELETE FROM twins WHERE ctid = (SELECT ctid FROM twins WHERE a = 1 LIMIT 1);
DELETE FROM twins WHERE ctid = (SELECT ctid FROM twins WHERE a IS NULL LIMIT 1);
UPDATE twins SET t = 'changed' WHERE ctid = (SELECT ctid FROM twins WHERE a = 1 LIMIT 1);
UPDATE twins SET a = 2 WHERE ctid = (SELECT ctid FROM twins WHERE a IS NULL LIMIT 1);
-- alike:
-- eu:
UPDATE twins SET t = 'all';

--- D46: identity FULL of types that have no equality, or one that is not sameness
-- tables: incomparable
-- first both:
CREATE TABLE incomparable (j json, x xml, p point, b box, po polygon, n numeric, f float8, c char(5), i inet, o "char", boo bool, js json[]);
ALTER TABLE incomparable REPLICA IDENTITY FULL;
-- eu:
SET xmloption = content;
INSERT INTO incomparable VALUES
    ('{"a": 1}', 'x', '(1,2)', '(2,2),(0,0)', '((0,0),(1,1))', 1.0, '-0', 'a', '10.0.0.1', 'x', true, ARRAY['1'::json]),
    ('{"a":  1}', 'x', '(1,2)', '(4,1),(0,0)', '((0,0),(1,1))', 1.00, 0, 'a', '10.0.0.1', 'x', true, ARRAY[' 1'::json]),
    (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
-- alike:
-- eu:
DELETE FROM incomparable WHERE n::text = '1.00';
UPDATE incomparable SET n = 2 WHERE n::text = '1.0';
UPDATE incomparable SET boo = false WHERE n IS NULL;

--- D47: the identity changes while changes are under way
-- tables: changing_identity
-- first both:
CREATE TABLE changing_identity (id int PRIMARY KEY, code text NOT NULL UNIQUE, n int);
-- eu:
INSERT INTO changing_identity SELECT i, 'c' || i, 0 FROM generate_series(1, 9) i;
-- eu:
UPDATE changing_identity SET n = 1;
ALTER TABLE changing_identity REPLICA IDENTITY FULL;
UPDATE changing_identity SET n = 2;
DELETE FROM changing_identity WHERE id = 1;
ALTER TABLE changing_identity REPLICA IDENTITY USING INDEX changing_identity_code_key;
UPDATE changing_identity SET id = id + 10;
DELETE FROM changing_identity WHERE id = 12;
ALTER TABLE changing_identity REPLICA IDENTITY DEFAULT;
UPDATE changing_identity SET n = 3;
-- both:
ALTER TABLE changing_identity REPLICA IDENTITY FULL;
-- eu:
UPDATE changing_identity SET n = 4;
DELETE FROM changing_identity WHERE id = 13;

--- D48: the primary key is dropped, added again over other columns, and changes its type
-- tables: changing_key
-- first both:
CREATE TABLE changing_key (id int CONSTRAINT changing_key_pk PRIMARY KEY, code text NOT NULL, n int);
-- eu:
INSERT INTO changing_key SELECT i, 'c' || i, 0 FROM generate_series(1, 6) i;
-- alike:
-- us:
ALTER TABLE changing_key DROP CONSTRAINT changing_key_pk, ADD CONSTRAINT changing_key_pk PRIMARY KEY (code);
-- eu:
UPDATE changing_key SET n = 1;
DELETE FROM changing_key WHERE id = 1;
-- eu:
ALTER TABLE changing_key DROP CONSTRAINT changing_key_pk, ADD CONSTRAINT changing_key_pk PRIMARY KEY (code);
-- eu:
UPDATE changing_key SET n = 2;
UPDATE changing_key SET code = 'other' WHERE id = 2;
DELETE FROM changing_key WHERE id = 3;
-- eu:
ALTER TABLE changing_key ALTER id TYPE bigint;
-- eu:
UPDATE changing_key SET n = 3 WHERE id = 4;
-- alike:
-- us:
ALTER TABLE changing_key ALTER id TYPE bigint;
-- eu:
UPDATE changing_key SET id = 9000000000 WHERE id = 5;

--- D49: an update of a table without identity is PostgreSQL's own error at the source
-- tables: only_inserts
-- first both:
CREATE TABLE only_inserts (a int, t text);
-- eu:
INSERT INTO only_inserts VALUES (1, 'a'), (1, 'a'), (NULL, NULL);
-- eu refuses 55000:
UPDATE only_inserts SET t = 'b';
-- eu refuses 55000:
DELETE FROM only_inserts;
-- alike:
-- eu:
TRUNCATE only_inserts;
INSERT INTO only_inserts VALUES (2, 'after');

--- D50: storage plain, main, external and extended, compressed one way or the other
-- tables: stored
-- first both:
CREATE TABLE stored (id int PRIMARY KEY, n int, plain text, main text, ext text, x text);
ALTER TABLE stored ALTER plain SET STORAGE PLAIN, ALTER main SET STORAGE MAIN, ALTER ext SET STORAGE EXTERNAL;
-- first eu:
DO $$ BEGIN
    IF (SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression') THEN
        ALTER TABLE stored ALTER x SET COMPRESSION lz4, ALTER main SET COMPRESSION lz4;
    END IF;
END $$;
-- eu:
INSERT INTO stored SELECT i, 0, repeat('p', 3000), repeat('main ', 20000), repeat('ext ', 20000), repeat('x ', 20000) FROM generate_series(1, 3) i;
-- alike:
-- eu:
UPDATE stored SET n = 1;
UPDATE stored SET main = main || 'm', id = id + 10 WHERE id = 2;
DELETE FROM stored WHERE id = 1;
