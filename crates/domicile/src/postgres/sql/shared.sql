-- What shared tables need inside a region's PostgreSQL: each row's version, and what a write makes
-- of it. `core::conflict` says what the values mean.
--
-- What stands in braces is filled in when it is installed.

-- One row per row of a shared table that was ever written under watch. It is published, so every
-- transaction that reaches another region brings the versions of the rows that it changed.
CREATE TABLE IF NOT EXISTS domicile.version (
    relation text NOT NULL,
    -- The primary key's values as a JSON list of texts.
    key text NOT NULL,
    -- The latest write that the row has seen.
    hlc bigint NOT NULL,
    state jsonb NOT NULL,
    -- The row, while it cannot be seen in its table: deleted, or hidden because another has a
    -- unique value of its.
    image jsonb,
    deleted boolean NOT NULL,
    -- Of a deleted row that is old enough to be forgotten: which round of `domicile.round` waits
    -- until every region has it.
    round bigint,
    PRIMARY KEY (relation, key)
);
-- Not "IF NOT EXISTS", which locks the table to find out: a commit that waits for this very agent may
-- hold it.
DO $$
BEGIN
    IF to_regclass('domicile.version_hidden') IS NULL THEN
        CREATE INDEX version_hidden ON domicile.version (relation)
        WHERE image IS NOT NULL AND NOT deleted;
    END IF;
    IF to_regclass('domicile.version_deleted') IS NULL THEN
        CREATE INDEX version_deleted ON domicile.version (round, hlc) WHERE deleted;
    END IF;
END
$$;

-- What each region says to have applied of every origin. Published: a region that shows the row
-- shows everything that the other had committed before it, too.
CREATE TABLE IF NOT EXISTS domicile.horizon (
    region text PRIMARY KEY,
    -- Origin -> LSN; and "waiting" while deleted rows wait for the others' word.
    frontier jsonb NOT NULL
);
-- What was applied here when the deleted rows of this round were counted.
CREATE TABLE IF NOT EXISTS domicile.round (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    frontier jsonb NOT NULL
);
-- What deleted rows that are forgotten had seen: a row that is inserted anew has seen it too.
CREATE TABLE IF NOT EXISTS domicile.forgotten (
    region text PRIMARY KEY,
    hlc bigint NOT NULL
);

-- The latest time that another region is known to have written at: ours is never before it. A
-- sequence, because those are not undone with a transaction.
CREATE SEQUENCE IF NOT EXISTS domicile.heard MINVALUE 0 START 0;

-- Takes note of another region's time. Returns how far it is ahead of this server's clock.
CREATE OR REPLACE FUNCTION domicile.hear(moment bigint) RETURNS bigint
LANGUAGE plpgsql AS
$$
DECLARE
    now bigint := domicile.now_us();
BEGIN
    IF moment > now AND moment > coalesce(pg_sequence_last_value('domicile.heard'), 0) THEN
        PERFORM setval('domicile.heard', moment);
    END IF;
    RETURN moment - now;
END
$$;

-- This region's time. Remembered once a second, in case the clock steps back.
CREATE OR REPLACE FUNCTION domicile.tick() RETURNS bigint
LANGUAGE plpgsql AS
$$
DECLARE
    now bigint := domicile.now_us();
    heard bigint := coalesce(pg_sequence_last_value('domicile.heard'), 0);
BEGIN
    IF now > heard + 1000000 THEN
        PERFORM setval('domicile.heard', now);
    END IF;
    RETURN greatest(now, heard);
END
$$;

-- A write of one row: `core::conflict::write::stamp`.
--
-- `operation`: INSERT, UPDATE, DELETE, or TOUCH for a write that changes nothing but is replicated.
-- `written`: the columns whose values it sets, '' for the row as a whole. `added`: counter column
-- -> what it adds. `row_aside`: the row, if it is deleted. `before`: the row as it was, where the
-- policy asks for it.
CREATE OR REPLACE FUNCTION domicile.stamp(
    of text, row_key text, operation text, written text[], added jsonb, row_aside jsonb, before jsonb)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
DECLARE
    known record;
    made jsonb;
    dot jsonb;
    moment bigint;
    sum record;
BEGIN
    SELECT v.state, v.hlc, v.image IS NULL AND NOT v.deleted AS here INTO known
    FROM domicile.version v
    WHERE v.relation = of AND v.key = row_key
    FOR UPDATE;
    moment := greatest(domicile.tick(), known.hlc + 1);
    dot := jsonb_build_array(moment, {region});
    made := coalesce(known.state, '{}');
    IF operation <> 'TOUCH' THEN
        made := made - 'siblings' - 'before';
    END IF;
    IF operation = 'INSERT' AND known.here IS NOT TRUE THEN
        made := jsonb_build_object(
            'life', coalesce((made ->> 'life')::bigint, 0) + 1,
            'seen', coalesce(
                made -> 'seen',
                (SELECT jsonb_object_agg(f.region, f.hlc) FROM domicile.forgotten f),
                '{}'));
    END IF;
    made := jsonb_set(
        made, '{seen}', coalesce(made -> 'seen', '{}') || jsonb_build_object({region}, moment));
    IF operation = 'DELETE' THEN
        made := made || jsonb_build_object('over', made -> 'alive', 'deleted', dot);
    ELSIF operation <> 'TOUCH' THEN
        made := jsonb_set(made, '{alive}', dot);
    END IF;
    IF cardinality(written) > 0 THEN
        made := jsonb_set(
            made, '{columns}',
            coalesce(made -> 'columns', '{}')
                || (SELECT jsonb_object_agg(name, dot) FROM unnest(written) name));
    END IF;
    FOR sum IN SELECT * FROM jsonb_each_text(added) LOOP
        made := jsonb_set(
            made, '{sums}',
            coalesce(made -> 'sums', '{}') || jsonb_build_object(
                sum.key,
                coalesce(made -> 'sums' -> sum.key, '{}') || jsonb_build_object(
                    {region},
                    (coalesce((made -> 'sums' -> sum.key ->> {region})::numeric, 0)
                        + sum.value::numeric)::text)));
    END LOOP;
    IF before IS NOT NULL THEN
        made := jsonb_set(made, '{before}', before);
    END IF;
    IF operation = 'TOUCH' THEN
        -- Written anew even where it is the same, or a large one would not be replicated.
        UPDATE domicile.version v
        SET hlc = moment, state = made, image = v.image || '{}'
        WHERE v.relation = of AND v.key = row_key;
        IF FOUND THEN
            {at_commit}
            RETURN;
        END IF;
    END IF;
    INSERT INTO domicile.version AS v (relation, key, hlc, state, image, deleted)
    VALUES (of, row_key, moment, made, row_aside, operation = 'DELETE')
    ON CONFLICT (relation, key) DO UPDATE
    SET hlc = excluded.hlc, state = excluded.state, image = excluded.image,
        deleted = excluded.deleted, round = NULL
    WHERE known.hlc IS NOT NULL;
    IF NOT FOUND THEN
        -- Somebody has written of it since it was looked for: that is to be known first.
        PERFORM domicile.stamp(of, row_key, operation, written, added, row_aside, before);
        RETURN;
    END IF;
    {at_commit}
END
$$;
