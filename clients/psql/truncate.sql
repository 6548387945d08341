-- All rows at once, whoever owns them.
INSERT INTO note (id, body) VALUES (1, 'one');
INSERT INTO page (note, number) VALUES (1, 1);
TRUNCATE page;
TRUNCATE note, page RESTART IDENTITY;
SELECT count(*) FROM note;
