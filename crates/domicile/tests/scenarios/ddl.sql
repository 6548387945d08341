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
