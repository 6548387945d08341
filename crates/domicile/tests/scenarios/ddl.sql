-- The schema changes while rows are under way: part F of the scenarios.

--- F61: a column is added at the target first, then at the source
-- tables: target_first
-- first both:
CREATE TABLE target_first (id int PRIMARY KEY, n int);
-- eu:
INSERT INTO target_first VALUES (1, 1), (2, 2);
-- us:
ALTER TABLE target_first ADD extra text, ADD filled int DEFAULT 7;
-- eu:
INSERT INTO target_first VALUES (3, 3);
UPDATE target_first SET n = 10 WHERE id = 1;
-- us shows:
SELECT n = 10 AND filled = 7 FROM target_first WHERE id = 1;
-- eu:
ALTER TABLE target_first ADD extra text, ADD filled int DEFAULT 7;
UPDATE target_first SET extra = 'x' WHERE id = 2;

--- F62: a column is added at the source first: apply waits for it here and loses nothing
-- tables: source_first
-- first both:
CREATE TABLE source_first (id int PRIMARY KEY, n int);
-- eu:
INSERT INTO source_first VALUES (1, 1), (2, 2), (4, 4);
-- eu:
ALTER TABLE source_first ADD extra text, ADD filled int DEFAULT 7;
-- eu:
INSERT INTO source_first VALUES (3, 3, 'kept', 8);
UPDATE source_first SET extra = 'kept too' WHERE id = 1;
DELETE FROM source_first WHERE id = 2;
-- eu:
UPDATE source_first SET n = 5, extra = NULL WHERE id = 4;
-- us says schema_behind:
-- us shows:
SELECT count(*) = 3 AND sum(n) = 7 FROM source_first;
-- us:
ALTER TABLE source_first ADD extra text;
-- us says schema_behind:
-- us:
ALTER TABLE source_first ADD filled int DEFAULT 7;
-- us shows:
SELECT count(*) = 3 FROM source_first WHERE (id, extra) IN ((1, 'kept too'), (3, 'kept')) OR n = 5;
-- us is done with schema_behind:

--- F62: many rows in one transaction, more than are held, with a column that is not here yet
-- tables: source_first_large
-- first both:
CREATE TABLE source_first_large (id int PRIMARY KEY, t text);
ALTER TABLE source_first_large ALTER t SET STORAGE EXTERNAL;
-- eu:
ALTER TABLE source_first_large ADD extra int;
INSERT INTO source_first_large SELECT i, repeat(md5(i::text), 256), i FROM generate_series(1, 800) i;
-- us says schema_behind:
-- us:
ALTER TABLE source_first_large ADD extra int;
-- us shows:
SELECT count(*) = 800 FROM source_first_large WHERE extra = id;
-- us is done with schema_behind:

--- F62: a column of a shared table is added in one region only
-- tables: shared_source_first (shared), shared_beside (shared)
-- first both:
CREATE TABLE shared_source_first (id int PRIMARY KEY, n int);
CREATE TABLE shared_beside (id int PRIMARY KEY, n int);
-- eu:
INSERT INTO shared_source_first VALUES (1, 1);
-- us shows:
SELECT count(*) = 1 FROM shared_source_first;
-- eu:
ALTER TABLE shared_source_first ADD extra text;
-- eu:
UPDATE shared_source_first SET extra = 'kept';
INSERT INTO shared_beside VALUES (1, 1);
-- us says schema_behind:
-- us:
UPDATE shared_beside SET n = n + 1;
ALTER TABLE shared_source_first ADD extra text;
-- us shows:
SELECT extra = 'kept' FROM shared_source_first;
-- us is done with schema_behind:

--- F62: the table is not there at all
-- tables: not_there
-- first both:
CREATE TABLE not_there (id int PRIMARY KEY, n int);
-- us:
DROP TABLE not_there;
-- eu:
INSERT INTO not_there VALUES (1, 1);
-- us says schema_behind:
-- us:
CREATE TABLE not_there (id int PRIMARY KEY, n int);
-- us shows:
SELECT count(*) = 1 FROM not_there;
-- us is done with schema_behind:

--- F63: a column with a constant default is added in the middle of a transaction
-- tables: in_the_middle
-- first both:
CREATE TABLE in_the_middle (id int PRIMARY KEY, n int);
-- us:
ALTER TABLE in_the_middle ADD extra text DEFAULT 'constant';
-- eu:
BEGIN;
INSERT INTO in_the_middle VALUES (1, 1);
ALTER TABLE in_the_middle ADD extra text DEFAULT 'constant';
INSERT INTO in_the_middle VALUES (2, 2, 'said');
UPDATE in_the_middle SET n = 3 WHERE id = 1;
ALTER TABLE in_the_middle ALTER extra DROP DEFAULT;
INSERT INTO in_the_middle VALUES (4, 4);
COMMIT;

--- F65: NOT NULL, checks that are not valid yet, defaults, comments, statistics, owners
-- tables: altered
-- first both:
CREATE TABLE altered (id int PRIMARY KEY, n int, t varchar(10));
-- eu:
INSERT INTO altered VALUES (1, 1, 'a');
-- both:
ALTER TABLE altered ALTER n SET DEFAULT 5, ALTER n SET NOT NULL;
-- eu:
INSERT INTO altered (id) VALUES (2);
-- both:
ALTER TABLE altered ADD CONSTRAINT positive CHECK (n > 0) NOT VALID;
-- eu:
UPDATE altered SET n = 9 WHERE id = 1;
-- both:
ALTER TABLE altered VALIDATE CONSTRAINT positive;
COMMENT ON TABLE altered IS 'altered';
ALTER TABLE altered ALTER n SET STATISTICS 100, SET (fillfactor = 50);
-- eu:
UPDATE altered SET t = 'changed';

--- F65: a type widens at the target first: whole number to bigint, varchar to text
-- tables: widened
-- first both:
CREATE TABLE widened (id int PRIMARY KEY, n int, t varchar(5));
-- eu:
INSERT INTO widened VALUES (1, 1, 'a'), (2, 2, 'b');
-- us:
ALTER TABLE widened ALTER id TYPE bigint, ALTER n TYPE numeric, ALTER t TYPE text;
-- eu:
UPDATE widened SET n = 5, t = 'c' WHERE id = 1;
INSERT INTO widened VALUES (3, 3, 'd');
-- eu:
ALTER TABLE widened ALTER id TYPE bigint, ALTER n TYPE numeric, ALTER t TYPE text;
-- eu:
UPDATE widened SET id = 9000000000, n = 1.50, t = 'longer than five' WHERE id = 2;

--- F65: a type widens, a column loses NOT NULL or goes at the source first
-- tables: source_widens
-- first both:
CREATE TABLE source_widens (id int PRIMARY KEY, n int, t varchar(5), u int NOT NULL, gone int NOT NULL);
-- eu:
INSERT INTO source_widens VALUES (1, 1, 'a', 1, 1);
-- eu:
ALTER TABLE source_widens ALTER n TYPE bigint;
INSERT INTO source_widens VALUES (2, 5000000000, 'b', 1, 1);
-- us says schema_behind:
-- us:
ALTER TABLE source_widens ALTER n TYPE bigint;
-- us is done with schema_behind:
-- eu:
ALTER TABLE source_widens ALTER t TYPE text;
UPDATE source_widens SET t = 'longer than five' WHERE id = 2;
-- us says schema_behind:
-- us:
ALTER TABLE source_widens ALTER t TYPE text;
-- us is done with schema_behind:
-- eu:
ALTER TABLE source_widens ALTER u DROP NOT NULL;
UPDATE source_widens SET u = NULL WHERE id = 1;
-- us says schema_behind:
-- us:
ALTER TABLE source_widens ALTER u DROP NOT NULL;
-- us is done with schema_behind:
-- eu:
ALTER TABLE source_widens DROP gone;
INSERT INTO source_widens VALUES (3, 3, 'c', 3);
-- us says schema_behind:
-- us:
ALTER TABLE source_widens DROP gone;
-- us is done with schema_behind:

--- F68: a value is added to an enum at the source, and a row uses it before the target has it
-- tables: moody
-- first both:
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE moody (id int PRIMARY KEY, mood mood);
-- eu:
ALTER TYPE mood ADD VALUE 'happy';
-- eu:
INSERT INTO moody VALUES (1, 'ok'), (2, 'happy');
-- us says schema_behind:
-- us:
ALTER TYPE mood ADD VALUE 'happy';
-- us shows:
SELECT count(*) = 2 FROM moody;
-- us is done with schema_behind:

--- F66: indexes are built, rebuilt and dropped, concurrently and not
-- tables: indexed
-- first both:
CREATE TABLE indexed (id int PRIMARY KEY, n int);
-- eu:
INSERT INTO indexed SELECT i, i FROM generate_series(1, 100) i;
-- both:
CREATE INDEX CONCURRENTLY indexed_n ON indexed (n);
-- eu:
UPDATE indexed SET n = n + 1;
-- both:
REINDEX INDEX CONCURRENTLY indexed_n;
-- both:
REINDEX TABLE indexed;
-- eu:
DELETE FROM indexed WHERE id > 50;
-- both:
DROP INDEX CONCURRENTLY indexed_n;
-- eu:
UPDATE indexed SET n = 0 WHERE id < 10;

--- F70: VACUUM FULL, CLUSTER, another tablespace or access method rewrite rows and change none
-- tables: rewritten
-- first both:
CREATE TABLE rewritten (id int PRIMARY KEY, n int, gone text);
-- eu:
INSERT INTO rewritten SELECT i, i, repeat('large ', 5000) FROM generate_series(1, 20) i;
-- alike:
-- eu:
ALTER TABLE rewritten DROP gone;
-- us:
ALTER TABLE rewritten DROP gone;
-- eu:
VACUUM FULL rewritten;
-- eu:
CLUSTER rewritten USING rewritten_pkey;
-- eu:
ALTER TABLE rewritten ALTER n TYPE int;
-- eu:
VACUUM FREEZE rewritten;
-- both:
ANALYZE rewritten;
-- us:
VACUUM FULL rewritten;
-- eu:
UPDATE rewritten SET n = 0 WHERE id < 5;

--- F71: an extension is upgraded and moved
-- tables: upgraded
-- first both:
CREATE SCHEMA moved_to;
CREATE EXTENSION pg_trgm VERSION '1.4';
CREATE EXTENSION intarray;
CREATE TABLE upgraded (id int PRIMARY KEY, t text, a int[]);
CREATE INDEX ON upgraded USING gin (t gin_trgm_ops);
CREATE INDEX ON upgraded USING gist (a gist__int_ops);
-- eu:
INSERT INTO upgraded VALUES (1, 'text', '{1,2}');
ALTER EXTENSION pg_trgm UPDATE;
UPDATE upgraded SET t = 'other';
-- us:
ALTER EXTENSION pg_trgm SET SCHEMA moved_to;
-- eu:
UPDATE upgraded SET a = '{3}';
