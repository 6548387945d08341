-- What belongs to a session: settings, temporary tables, prepared statements, LISTEN, DISCARD.
SET search_path = pg_catalog, public;
SHOW search_path;
SET TIME ZONE 'Asia/Kolkata';
SELECT '2026-01-01 00:00Z'::timestamptz;
SET DateStyle = 'German';
SELECT '2026-01-01'::date;
RESET DateStyle;
SET client_encoding = 'LATIN1';
SELECT octet_length(convert_to('ž', 'UTF8'));
SET client_encoding = 'UTF8';
BEGIN;
SET LOCAL work_mem = '9MB';
SHOW work_mem;
COMMIT;
SELECT current_setting('work_mem') <> '9MB' AS reset;
SELECT set_config('my.own', 'value', false);
SHOW my.own;

CREATE TEMP TABLE mine (x int) ON COMMIT DELETE ROWS;
BEGIN;
INSERT INTO mine VALUES (1);
SELECT * FROM mine;
COMMIT;
SELECT * FROM mine;

PREPARE adds (int) AS SELECT $1 + 1;
EXECUTE adds (1);
DEALLOCATE adds;
EXECUTE adds (1);

LISTEN psql_news;
SELECT pg_notify('psql_news', 'hello') \gset
UNLISTEN *;

DISCARD ALL;
SELECT * FROM mine;
SHOW my.own;
SET ROLE none;
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE;
SHOW transaction_isolation;
