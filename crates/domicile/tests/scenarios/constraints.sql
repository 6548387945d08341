-- Foreign keys, triggers, row security, generated columns: part E of the scenarios.

--- E51: parents and children of different transactions, and of one
-- tables: parents, children
-- first both:
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE children (id int PRIMARY KEY, parent int NOT NULL REFERENCES parents);
-- eu:
DO $$ BEGIN
    FOR i IN 1..200 LOOP
        INSERT INTO parents VALUES (i);
        COMMIT;
        INSERT INTO children VALUES (i, i), (i + 1000, i);
        COMMIT;
    END LOOP;
END $$;
-- eu:
DELETE FROM children WHERE parent > 100;
DELETE FROM parents WHERE id > 100;
-- us shows:
SELECT NOT EXISTS (SELECT FROM children LEFT JOIN parents p ON p.id = parent WHERE p.id IS NULL);

--- E53: cascades, SET NULL, deferred, self-referencing and cyclic foreign keys
-- tables: roots, branches, leaves, staff, hens, eggs
-- first both:
CREATE TABLE roots (id int PRIMARY KEY);
CREATE TABLE branches (id int PRIMARY KEY, root int REFERENCES roots ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE leaves (id int PRIMARY KEY, branch int REFERENCES branches ON DELETE SET NULL, root int DEFAULT 1 REFERENCES roots ON DELETE SET DEFAULT);
CREATE TABLE staff (id int PRIMARY KEY, boss int REFERENCES staff ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE hens (id int PRIMARY KEY, egg int NOT NULL);
CREATE TABLE eggs (id int PRIMARY KEY, hen int NOT NULL REFERENCES hens DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE hens ADD FOREIGN KEY (egg) REFERENCES eggs DEFERRABLE INITIALLY DEFERRED;
-- eu:
INSERT INTO roots VALUES (1), (2), (3);
INSERT INTO branches VALUES (1, 1), (2, 2), (3, 3);
INSERT INTO leaves VALUES (1, 1, 1), (2, 2, 2), (3, 3, 1);
INSERT INTO staff VALUES (2, 1), (1, 3), (3, NULL), (4, 4);
INSERT INTO eggs VALUES (1, 1), (2, 2);
INSERT INTO hens VALUES (1, 2), (2, 1);
-- alike:
-- eu:
DELETE FROM roots WHERE id = 2;
UPDATE roots SET id = 30 WHERE id = 3;
DELETE FROM staff WHERE id = 3;
UPDATE staff SET id = 10, boss = NULL WHERE id = 1;
UPDATE staff SET boss = 10 WHERE boss = 1;
DELETE FROM hens;
DELETE FROM eggs;

--- E54: a check that only the target has: that row is journaled, everything else goes on
-- tables: checked, beside
-- first both:
CREATE TABLE checked (id int PRIMARY KEY, n int, big text);
ALTER TABLE checked ALTER big SET STORAGE EXTERNAL;
CREATE TABLE beside (id int PRIMARY KEY, n int);
-- first us:
ALTER TABLE checked ADD CONSTRAINT small CHECK (n < 100);
-- eu:
INSERT INTO checked SELECT i, i * 40, repeat('large ', 5000) FROM generate_series(1, 4) i;
INSERT INTO beside VALUES (1, 1);
-- us shows:
SELECT (SELECT array_agg(id ORDER BY id) FROM checked) = '{1,2}' AND EXISTS (SELECT FROM beside);
-- us journals 2 apply_error:
-- eu:
UPDATE checked SET n = 50, big = 'small' WHERE id = 3;
DELETE FROM checked WHERE id = 4;
-- us journals 1 update_missing:
-- us journals 1 delete_missing:

--- E55: triggers of the application stay quiet for applied rows: what they wrote comes by itself
-- tables: audited, audit, counted
-- first both:
CREATE TABLE audited (id int PRIMARY KEY, n int);
CREATE TABLE audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, op text, row_id int, depth int);
CREATE TABLE counted (id int PRIMARY KEY, n int);
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.audit (op, row_id, depth) VALUES (TG_OP, coalesce(NEW.id, OLD.id), pg_trigger_depth());
    UPDATE public.counted SET n = n + 1 WHERE id = 1;
    RETURN NEW;
END $$;
CREATE FUNCTION make_even() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.n = 13 THEN RETURN NULL; END IF;
    NEW.n := NEW.n * 2;
    RETURN NEW;
END $$;
CREATE TRIGGER note_change AFTER INSERT OR UPDATE OR DELETE ON audited FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE TRIGGER make_even BEFORE INSERT OR UPDATE ON audited FOR EACH ROW EXECUTE FUNCTION make_even();
-- eu:
INSERT INTO counted VALUES (1, 0);
INSERT INTO audited VALUES (1, 1), (2, 2), (3, 13);
UPDATE audited SET n = 5 WHERE id = 1;
DELETE FROM audited WHERE id = 2;
-- us shows:
SELECT (SELECT n FROM counted) = 4 AND (SELECT count(*) FROM audit) = 4 AND (SELECT n FROM audited) = 10;

--- E55: REPLICA and ALWAYS triggers do fire for applied rows, for what became of each row
-- tables: watched, seen (local)
-- first both:
CREATE TABLE watched (id int PRIMARY KEY, n int);
CREATE TABLE seen (by_whom text, id int, n int);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.seen VALUES (TG_NAME, NEW.id, NEW.n); RETURN NULL; END $$;
CREATE TRIGGER see_ordinary AFTER INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION see();
CREATE TRIGGER see_replica AFTER INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION see();
CREATE TRIGGER see_always AFTER INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION see();
ALTER TABLE watched ENABLE REPLICA TRIGGER see_replica, ENABLE ALWAYS TRIGGER see_always;
-- eu:
INSERT INTO watched VALUES (1, 1);
UPDATE watched SET n = 2;
-- us shows:
SELECT array_agg(DISTINCT by_whom ORDER BY by_whom) = '{see_always,see_replica}' AND max(n) = 2 FROM seen;
-- eu shows:
SELECT array_agg(by_whom ORDER BY by_whom) = '{see_always,see_always,see_ordinary,see_ordinary}' FROM seen;

--- E56: an ALWAYS trigger that swallows rows: journaled, and everything else goes on
-- tables: swallowed, not_swallowed
-- first both:
CREATE TABLE swallowed (id int PRIMARY KEY, n int);
CREATE TABLE not_swallowed (id int PRIMARY KEY);
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
-- first us:
CREATE TRIGGER swallow BEFORE INSERT ON swallowed FOR EACH ROW WHEN (NEW.id = 2) EXECUTE FUNCTION swallow();
ALTER TABLE swallowed ENABLE ALWAYS TRIGGER swallow;
-- eu:
INSERT INTO not_swallowed VALUES (1);
INSERT INTO swallowed VALUES (1, 1), (2, 2), (3, 3);
INSERT INTO not_swallowed VALUES (2);
-- us shows:
SELECT (SELECT count(*) FROM not_swallowed) = 2 AND (SELECT array_agg(id ORDER BY id) FROM swallowed) = '{1,3}';
-- us journals 1 apply_error:
-- us shows:
SELECT NOT EXISTS (SELECT FROM domicile.repair WHERE table_name = 'swallowed');
-- eu:
DELETE FROM swallowed WHERE id = 2;
-- us journals 1 delete_missing:

--- E57: rules and updatable views write their tables; a rule of the target stays quiet
-- tables: ruled, ruled_log
-- first both:
CREATE TABLE ruled (id int PRIMARY KEY, n int);
CREATE TABLE ruled_log (id int, n int);
CREATE RULE log_it AS ON UPDATE TO ruled DO ALSO INSERT INTO ruled_log VALUES (NEW.id, NEW.n);
CREATE VIEW seen_ruled AS SELECT id, n FROM ruled WHERE n < 100;
CREATE VIEW instead AS SELECT id, n + 1 AS more FROM ruled;
CREATE FUNCTION instead_of() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO ruled VALUES (NEW.id, NEW.more - 1); RETURN NEW; END $$;
CREATE TRIGGER instead_of INSTEAD OF INSERT ON instead FOR EACH ROW EXECUTE FUNCTION instead_of();
-- first us:
CREATE RULE swallow AS ON INSERT TO ruled DO INSTEAD NOTHING;
-- eu:
INSERT INTO seen_ruled VALUES (1, 1), (2, 2);
UPDATE seen_ruled SET n = 10 WHERE id = 1;
INSERT INTO instead VALUES (3, 4);
DELETE FROM seen_ruled WHERE id = 2;

--- E58: row security, forced, with a policy that would hide everything
-- tables: secured
-- first both:
CREATE TABLE secured (id int PRIMARY KEY, n int);
ALTER TABLE secured ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY nothing ON secured USING (false) WITH CHECK (false);
-- eu:
INSERT INTO secured VALUES (1, 1), (2, 2);
UPDATE secured SET n = 3 WHERE id = 1;
DELETE FROM secured WHERE id = 2;

--- E60: generated columns are computed again, defaults that change are shipped as they were
-- tables: generated
-- first both:
CREATE TABLE generated (
    id int PRIMARY KEY, w int, area int GENERATED ALWAYS AS (w * w) STORED, big text,
    at timestamptz DEFAULT clock_timestamp(), u uuid DEFAULT gen_random_uuid(), r float8 DEFAULT random()
);
ALTER TABLE generated ALTER big SET STORAGE EXTERNAL;
-- eu:
INSERT INTO generated (id, w, big) SELECT i, i, repeat('large ', 5000) FROM generate_series(1, 4) i;
UPDATE generated SET w = 10 WHERE id = 1;
UPDATE generated SET r = DEFAULT WHERE id = 2;
UPDATE generated SET id = 30 WHERE id = 3;
DELETE FROM generated WHERE id = 4;

--- E60: generated columns beside identity FULL
-- PostgreSQL 18 refuses every UPDATE and DELETE here; `domicile check` says so beforehand.
-- before PostgreSQL 18:
-- tables: generated_full
-- first both:
CREATE TABLE generated_full (a int, b int GENERATED ALWAYS AS (a + 1) STORED, c text);
ALTER TABLE generated_full REPLICA IDENTITY FULL;
-- eu:
INSERT INTO generated_full VALUES (1, DEFAULT, 'x'), (1, DEFAULT, 'x'), (2, DEFAULT, NULL);
UPDATE generated_full SET c = 'y' WHERE a = 2;
DELETE FROM generated_full WHERE ctid = (SELECT min(ctid) FROM generated_full WHERE a = 1);

--- E60: virtual generated columns are computed wherever they are read
-- since PostgreSQL 18:
-- tables: virtual
-- first both:
CREATE TABLE virtual (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (n * 2) VIRTUAL, n int);
-- eu:
INSERT INTO virtual (id, n) SELECT i, i FROM generate_series(1, 200) i;
-- alike:
-- eu:
UPDATE virtual SET n = 7 WHERE twice < 20;
UPDATE virtual SET id = 300 WHERE id = 30;
DELETE FROM virtual WHERE id = 20;
INSERT INTO virtual (id) VALUES (20);

--- E60: identity columns, always and by default, in the key, beside it, set anew
-- tables: always_key, default_key, always_beside, always_full
-- first both:
CREATE TABLE always_key (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, big text);
CREATE TABLE default_key (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n int);
CREATE TABLE always_beside (id int PRIMARY KEY, serial int GENERATED ALWAYS AS IDENTITY, n int, big text);
CREATE TABLE always_full (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, serial bigserial, n int);
ALTER TABLE always_full REPLICA IDENTITY FULL;
ALTER TABLE always_key ALTER big SET STORAGE EXTERNAL;
ALTER TABLE always_beside ALTER big SET STORAGE EXTERNAL;
-- eu:
INSERT INTO always_key (n, big) SELECT i, repeat('large ', 5000) FROM generate_series(1, 5) i;
INSERT INTO default_key (n) SELECT i FROM generate_series(1, 5) i;
INSERT INTO always_beside (id, n, big) SELECT i, i, repeat('large ', 5000) FROM generate_series(1, 5) i;
INSERT INTO always_full (n) SELECT i FROM generate_series(1, 5) i;
INSERT INTO always_key OVERRIDING SYSTEM VALUE VALUES (100, 100, 'x');
-- alike:
-- eu:
UPDATE always_key SET n = 10 WHERE id < 3;
UPDATE default_key SET n = 10, id = id + 10 WHERE id < 3;
UPDATE always_beside SET n = 10 WHERE id < 3;
UPDATE always_full SET n = 10 WHERE id < 3;
-- alike:
-- eu:
UPDATE always_key SET id = DEFAULT WHERE id = 1;
UPDATE always_beside SET serial = DEFAULT WHERE id = 1;
UPDATE always_beside SET serial = DEFAULT, n = 7, id = 20 WHERE id = 2;
UPDATE always_full SET id = DEFAULT WHERE id = 1;
DELETE FROM always_key WHERE id = 3;
DELETE FROM always_full WHERE id = 2;

--- E60: deferrable unique constraints, whose values swap places in one transaction
-- tables: swapping
-- first both:
CREATE TABLE swapping (id int PRIMARY KEY, place int NOT NULL, UNIQUE (place) DEFERRABLE INITIALLY DEFERRED);
-- eu:
INSERT INTO swapping VALUES (1, 1), (2, 2), (3, 3);
-- eu:
UPDATE swapping SET place = 4 - place;
UPDATE swapping SET place = place % 3 + 1;
-- alike:
-- us behind the guard:
INSERT INTO swapping VALUES (4, 40);
-- eu:
INSERT INTO swapping VALUES (4, 4);
-- us journals 1 insert_exists:

--- E60: partial, expression and NULLS NOT DISTINCT unique indexes, and exclusion constraints
-- tables: uniques
-- first both:
CREATE TABLE uniques (id int PRIMARY KEY, a text, b text, c int, r int4range, EXCLUDE USING gist (r WITH &&));
CREATE UNIQUE INDEX ON uniques (lower(a));
CREATE UNIQUE INDEX ON uniques (b) WHERE c > 0;
DO $$ BEGIN
    IF current_setting('server_version_num')::int >= 150000 THEN
        EXECUTE 'CREATE UNIQUE INDEX ON uniques (c, a) NULLS NOT DISTINCT';
    END IF;
END $$;
-- eu:
INSERT INTO uniques VALUES (1, 'A', 'x', 1, '[1,2)'), (2, 'B', 'x', 0, '[2,3)'), (3, NULL, NULL, NULL, NULL);
UPDATE uniques SET c = 0 WHERE id = 1;
UPDATE uniques SET c = 1 WHERE id = 2;
DELETE FROM uniques WHERE id = 1;
INSERT INTO uniques VALUES (4, 'a', 'y', 1, '[1,2)');

--- E56: a deferred trigger that fires for appliers, too, refuses one of two rows at COMMIT
-- tables: vouched, behind_vouched
-- first both:
CREATE TABLE vouched (id int PRIMARY KEY, n int, t text);
ALTER TABLE vouched ALTER t SET STORAGE EXTERNAL;
CREATE TABLE behind_vouched (id int PRIMARY KEY);
CREATE FUNCTION vouch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.n > 9 AND coalesce(current_setting('vouched.by', true), '') = '' THEN
        RAISE EXCEPTION 'nobody vouches for %', NEW.id;
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER vouch AFTER INSERT OR UPDATE ON vouched
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION vouch();
ALTER TABLE vouched ENABLE ALWAYS TRIGGER vouch;
-- eu:
SELECT set_config('vouched.by', 'me', false);
INSERT INTO vouched VALUES (1, 1), (2, 20), (3, 3);
-- eu:
INSERT INTO behind_vouched VALUES (1);
-- us journals 1 apply_error:
-- us shows:
SELECT string_agg(id::text, ' ' ORDER BY id) = '1 3' FROM vouched;
-- us shows:
SELECT EXISTS (SELECT FROM behind_vouched);
-- eu:
SELECT set_config('vouched.by', 'me', false);
INSERT INTO vouched
SELECT i, CASE i WHEN 700 THEN 20 ELSE 1 END, repeat(md5(i::text), 256) FROM generate_series(100, 899) i;
-- us journals 2 apply_error:
-- us shows:
SELECT count(*) = 799 FROM vouched WHERE id >= 100;
-- eu:
SELECT set_config('vouched.by', '', false);
DELETE FROM vouched WHERE n = 20;
-- us journals 2 delete_missing:
