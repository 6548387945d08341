-- What other systems refuse to send on from a region that only reads: each of it writes rows of the owner's.
\echo COPY
COPY note (body, amount) FROM STDIN;
one	1
two	2
\.
COPY (SELECT body, amount FROM note ORDER BY body) TO STDOUT (FORMAT csv, HEADER);

\echo cursors
BEGIN;
DECLARE notes CURSOR FOR SELECT body FROM note ORDER BY body FOR UPDATE;
FETCH 1 FROM notes;
UPDATE note SET amount = 11 WHERE CURRENT OF notes;
CLOSE notes;
DECLARE notes SCROLL CURSOR WITH HOLD FOR SELECT body FROM note ORDER BY body;
FETCH LAST FROM notes;
COMMIT;
FETCH PRIOR FROM notes;
CLOSE notes;
SELECT body, amount FROM note ORDER BY body;

\echo LOCK
BEGIN;
LOCK TABLE note IN EXCLUSIVE MODE;
UPDATE note SET amount = 12 WHERE body = 'one';
COMMIT;

\echo SAVEPOINT
BEGIN;
SAVEPOINT one;
INSERT INTO note (body) VALUES ('gone');
ROLLBACK TO one;
INSERT INTO note (body) VALUES ('kept');
RELEASE one;
COMMIT;
SELECT body, amount FROM note ORDER BY body;

\echo nextval
SELECT nextval('ticket') < nextval('ticket') AS grows, currval('ticket') = lastval() AS current;
SELECT setval('ticket', 4711);
SELECT nextval('ticket');

\echo SET CONSTRAINTS
BEGIN;
SET CONSTRAINTS page_note DEFERRED;
INSERT INTO page (note, number) VALUES (4711, 1);
INSERT INTO note (id, body) VALUES (4711, 'after its page');
COMMIT;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO page (note, number) VALUES (4712, 1);
COMMIT;
SELECT note, number FROM page;

DELETE FROM page;
DELETE FROM note;

\echo functions and procedures of the user''s own
SELECT add_note('by a function') > 0 AS added;
CALL add_two('by a procedure');
DO $$ BEGIN INSERT INTO note (body) VALUES ('by a block'); END $$;
SELECT body FROM note ORDER BY body;

\echo 2PC
BEGIN;
INSERT INTO draft VALUES ('prepared');
PREPARE TRANSACTION 'psql';
SELECT gid FROM pg_prepared_xacts;
COMMIT PREPARED 'psql';
SELECT body FROM draft;
BEGIN;
INSERT INTO note (body) VALUES ('no');
PREPARE TRANSACTION 'psql';

\echo WITH, MERGE, ON CONFLICT, RETURNING
INSERT INTO note (id, body) VALUES (1, 'first') ON CONFLICT (id) DO UPDATE SET body = 'again' RETURNING body;
INSERT INTO note (id, body) VALUES (1, 'first') ON CONFLICT (id) DO UPDATE SET body = 'again' RETURNING body;
WITH gone AS (DELETE FROM note WHERE body = 'again' RETURNING body) SELECT * FROM gone;
MERGE INTO note USING (VALUES ('by a block')) AS s (body) ON note.body = s.body WHEN MATCHED THEN UPDATE SET amount = 7;
SELECT body, amount FROM note ORDER BY body;

\echo advisory locks, explicit row locks, EXPLAIN ANALYZE
BEGIN;
SELECT pg_advisory_xact_lock(7);
SELECT body FROM note WHERE body = 'by a block' FOR NO KEY UPDATE SKIP LOCKED;
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) DELETE FROM note WHERE body = 'by a block';
ROLLBACK;
