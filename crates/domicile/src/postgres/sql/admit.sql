-- The guard's decision, the same for every table: may this transaction write these partitions?
--
-- What stands in braces is filled in when the guard is installed.
--
-- Written for speed, because every statement comes by: plpgsql evaluates an assignment without
-- starting an executor, and a PERFORM or SELECT INTO only with one.

-- Only guards call it, with their rights and their search path.
CREATE OR REPLACE FUNCTION domicile.admit(wanted integer[]) RETURNS boolean
LANGUAGE plpgsql AS
$$
DECLARE
    -- The partitions that this transaction was admitted to, each between blanks.
    touched text := coalesce(current_setting('domicile.touched', true), '');
    number integer;
    entry record;
    stamped pg_lsn;
BEGIN
    IF wanted IS NULL THEN
        RETURN true;
    END IF;
    -- The applier is known by who it is and by its replication origin, not by a setting.
    IF session_user = {applier} AND pg_replication_origin_session_is_setup() THEN
        RETURN true;
    END IF;
    FOREACH number IN ARRAY wanted LOOP
        IF number IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '23502',
                MESSAGE = 'row has no partition',
                DETAIL = 'Its partition key is null, names no region, or its parent row does not exist.';
        END IF;
        IF strpos(touched, ' ' || number || ' ') > 0 THEN
            CONTINUE;
        END IF;
        IF touched = '' THEN
            -- Locked before anything is read, until this transaction ends: what is true now stays
            -- true, unless the lease itself runs out.
            INSERT INTO domicile.commit_check (generation)
            VALUES (pg_sequence_last_value('domicile.generation'));
        END IF;
        entry := domicile.entry(number);
        IF entry.owner IS DISTINCT FROM {region} THEN
            PERFORM domicile.refuse(number, entry.owner, entry.epoch, entry.address);
        END IF;
        -- The key tells it from what anybody may emit.
        stamped := pg_logical_emit_message(true, 'domicile.stamp',
            number || ':' || entry.epoch || ':' || pg_sequence_last_value('domicile.stamp_key'));
        touched := set_config('domicile.touched', touched || ' ' || number || ' ', true);
    END LOOP;
    IF NOT domicile.lease_live() THEN
        entry := domicile.entry(number);
        PERFORM domicile.refuse(number, {region}, entry.epoch, entry.address);
    END IF;
    RETURN true;
END
$$;

-- A table partition is not truncated by itself: rows are replicated under the name of the whole
-- table, which other regions may cut differently, and PostgreSQL tells nobody of such a TRUNCATE.
-- With the whole table each of its partitions comes along, once, behind it.
CREATE OR REPLACE FUNCTION domicile.admit_truncate(relation oid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
DECLARE
    due text := coalesce(current_setting('domicile.truncating', true), '');
BEGIN
    IF session_user = {applier} AND pg_replication_origin_session_is_setup() THEN
        RETURN;
    END IF;
    IF NOT (SELECT relispartition FROM pg_class WHERE oid = relation) THEN
        SELECT string_agg(' ' || t.relid::oid || ' ', '') INTO due
        FROM pg_partition_tree(relation) t
        WHERE t.relid <> relation;
    ELSIF strpos(due, ' ' || relation || ' ') = 0 THEN
        RAISE EXCEPTION USING ERRCODE = '0A000',
            MESSAGE = format('table partition "%s" cannot be truncated by itself', relation::regclass),
            DETAIL = 'Rows are replicated under the name of the partitioned table, and PostgreSQL tells nobody of this TRUNCATE.',
            HINT = format('Use DELETE FROM %s, or TRUNCATE %s.', relation::regclass, pg_partition_root(relation));
    ELSE
        due := replace(due, ' ' || relation || ' ', '');
    END IF;
    PERFORM set_config('domicile.truncating', coalesce(due, ''), true);
END
$$;

-- What a gateway goes by when it sends a refused statement elsewhere. Of a procedure, or of DO, that has committed
-- before, nothing may be done again: only there is a transaction younger than its statement.
CREATE OR REPLACE FUNCTION domicile.refused_by(owner text, epoch bigint) RETURNS text
LANGUAGE sql STABLE AS
$$
    SELECT CASE
        WHEN now() > statement_timestamp() THEN 'An earlier part of this statement is committed. '
        ELSE ''
    END || format('Owner region: %s, epoch: %s.', coalesce(nullif(owner, ''), 'none'), epoch)
$$;

-- A function's definition is read by the catalogue's own snapshot, not by the transaction's: so
-- even a transaction that began long ago is told today's owner.
CREATE OR REPLACE FUNCTION domicile.refuse(number integer, owner text, epoch bigint, address text)
RETURNS void LANGUAGE plpgsql AS
$$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '25006',
        MESSAGE = CASE
            WHEN owner IS NULL THEN format('partition %s has no owner now', number)
            WHEN owner = '' THEN format('partition %s is owned by this region "%s", and not opened yet', number, {region})
            WHEN owner = {region} THEN format('partition %s is owned by this region "%s", but its lease is over', number, owner)
            ELSE format('partition %s is owned by region "%s", not by this region "%s"', number, owner, {region})
        END,
        DETAIL = domicile.refused_by(owner, epoch),
        HINT = CASE
            WHEN owner IS NULL THEN 'It is being given to another region; try again shortly.'
            WHEN owner = '' THEN 'Rows here that are not history are journaled and repaired first; try again shortly. What holds that up: see "domicile status".'
            WHEN owner = {region} THEN 'The agent of this region renews the lease; see "domicile status".'
            ELSE format('Write through the gateway of region "%s" at %s.', owner, address)
        END;
END
$$;

-- Runs just before the commit record: the lease may have run out, or the partition may have been
-- taken away, since the statement was admitted.
CREATE OR REPLACE FUNCTION domicile.at_commit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    IF NEW.generation IS NOT NULL AND NOT domicile.lease_live() THEN
        RAISE EXCEPTION USING ERRCODE = '25006',
            MESSAGE = 'the lease of this region "' || {region} || '" ended before the commit',
            DETAIL = domicile.refused_by({region}, 0),
            HINT = 'The transaction was rolled back; try again.';
    END IF;
    IF NEW.generation IS NOT NULL
        AND NEW.generation IS DISTINCT FROM pg_sequence_last_value('domicile.generation')
    THEN
        RAISE EXCEPTION USING ERRCODE = '25006',
            MESSAGE = 'a partition was taken away from region "' || {region} || '" before the commit',
            DETAIL = domicile.refused_by('', 0),
            HINT = 'The transaction was rolled back; try again.';
    END IF;
    -- COMMIT PREPARED passes no check and may come long after the lease; meanwhile nothing could be
    -- drained. Only an early word: a server should not allow prepared transactions at all.
    IF current_setting('max_prepared_transactions') <> '0' AND current_query() ~* '(^|;)[[:space:]]*prepare[[:space:]]+transaction[[:space:]]+((e|u&)?''([^''\\]|''''|\\.)*''|\$[^$]*\$[^$]*\$[^$]*\$)([[:space:];]|--[^\n]*|/\*.*\*/|uescape[[:space:]]+''.'')*$' THEN
        RAISE EXCEPTION USING ERRCODE = '0A000',
            MESSAGE = 'a transaction that writes guarded tables cannot be prepared',
            HINT = 'Commit it; and set max_prepared_transactions = 0, so that nobody tries.';
    END IF;
    {sync}
    RETURN NULL;
END
$$;

DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_trigger
        WHERE tgrelid = 'domicile.commit_check'::regclass AND tgname = 'at_commit'
    ) THEN
        CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON domicile.commit_check
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION domicile.at_commit();
        ALTER TABLE domicile.commit_check ENABLE ALWAYS TRIGGER at_commit;
    END IF;
END
$$;
