-- What psql does by itself.
SELECT 1 AS one, 'two' AS two \gset
\echo :one :two
SELECT format('INSERT INTO note (body) VALUES (%L)', i) FROM generate_series(1, 3) i \gexec
SELECT body FROM note ORDER BY body \g (format=unaligned tuples_only=on)
SELECT body, amount, body FROM note ORDER BY body LIMIT 1 \gx
\if :one
\echo yes
\else
\echo no
\endif
SELECT a, b, count(*) FROM (VALUES ('x', 1), ('y', 2)) v (a, b) GROUP BY 1, 2 ORDER BY 1 \crosstabview
\set ON_ERROR_ROLLBACK on
BEGIN;
INSERT INTO note (body) VALUES ('kept');
SELECT 1/0;
\echo :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE
COMMIT;
\unset ON_ERROR_ROLLBACK
\set AUTOCOMMIT off
INSERT INTO note (body) VALUES ('gone');
ROLLBACK;
\set AUTOCOMMIT on
SELECT count(*) FROM note;
\set FETCH_COUNT 10
SELECT sum(i) FROM (SELECT generate_series(1, 1000)) s (i);
SELECT generate_series(1, 25) AS i;
\unset FETCH_COUNT
\copy note (body) FROM PROGRAM 'printf "copied\n"'
\copy (SELECT body FROM note WHERE body = 'copied') TO STDOUT
\d note
\dt public.*
\df add_note
\dn
\sf add_note
SELECT 'a' || 1 AS described, now() \gdesc
SELECT 1; SELECT 2 \; SELECT 3;
\lo_unlink 1
SELECT lo_from_bytea(4711, 'large');
SELECT encode(lo_get(4711), 'escape');
\lo_unlink 4711
\encoding
\c - - - -
SELECT current_database(), session_user = current_user AS same;
