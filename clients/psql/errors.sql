-- Errors and notices, word for word.
\set VERBOSITY verbose
\set SHOW_CONTEXT always
SELECT * FROM nowhere;
SELECT 1 +;
SELECT 'x'::int;
SELECT 1/0;
INSERT INTO note (id) VALUES (1);
INSERT INTO note (id) VALUES (1);
INSERT INTO note (id, home) VALUES (2, NULL);
INSERT INTO page (note, number) VALUES (4711, 1);
DO $$ BEGIN RAISE NOTICE 'one %', 1 USING DETAIL = 'detail', HINT = 'hint'; RAISE WARNING 'two'; END $$;
DO $$ BEGIN RAISE EXCEPTION 'own' USING ERRCODE = 'XY123', TABLE = 'note', COLUMN = 'body'; END $$;
\errverbose
BEGIN;
SELECT 1/0;
SELECT 1;
COMMIT;
COMMIT;
BEGIN READ ONLY;
INSERT INTO note (body) VALUES ('no');
ROLLBACK;
SET statement_timeout = '50ms';
SELECT pg_sleep(60);
RESET statement_timeout;
SET lock_timeout = '50ms';
COPY note (amount) FROM STDIN;
1
x
\.
SELECT count(*) FROM note;
CREATE TABLE once (x int);
CREATE TABLE IF NOT EXISTS once (x int);
DROP TABLE once;
DROP TABLE IF EXISTS once;
