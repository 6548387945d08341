-- What Domicile keeps inside a region's PostgreSQL. Every statement may run again at any time.

CREATE SCHEMA IF NOT EXISTS domicile;
REVOKE ALL ON SCHEMA domicile FROM PUBLIC;

-- Registers. Sequences are not MVCC: a REPEATABLE READ transaction that began before the lease
-- ended still reads today's value. All times are microseconds of this server's clock.
CREATE SEQUENCE IF NOT EXISTS domicile.deadline MINVALUE 0 START 0;
CREATE SEQUENCE IF NOT EXISTS domicile.granted_at MINVALUE 0 START 0;
-- The postmaster that the lease was given to: a promoted standby, a restored backup or a cloned
-- disk starts another one and inherits nothing.
CREATE SEQUENCE IF NOT EXISTS domicile.postmaster MINVALUE 0 START 0;
-- Counts how often something was taken away from this region.
CREATE SEQUENCE IF NOT EXISTS domicile.generation MINVALUE 0 START 0;
-- What the guard's messages in the WAL are known by, and the first transaction whose messages all have it. Nobody
-- else may read it.
CREATE SEQUENCE IF NOT EXISTS domicile.stamp_key MINVALUE 0 START 0;
CREATE SEQUENCE IF NOT EXISTS domicile.stamped_since MINVALUE 0 START 0;

-- The apply checkpoint, written in the transaction whose rows it describes.
CREATE TABLE IF NOT EXISTS domicile.progress (
    origin text PRIMARY KEY,
    applied pg_lsn NOT NULL,
    -- Up to here rows may already show what is about to be applied: a repair read them later.
    converge_to pg_lsn
) WITH (fillfactor = 10);

-- The slot that is read here: an agent that has forgotten it must not take this database for new.
CREATE TABLE IF NOT EXISTS domicile.slot (
    name text PRIMARY KEY,
    -- A copy of the database in another cluster has none.
    system text NOT NULL,
    incarnation bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What the publication was when it was last known to carry everything, and where the WAL was then.
CREATE TABLE IF NOT EXISTS domicile.publication (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    -- Schema, table and the mark of each.
    marks jsonb NOT NULL,
    looked_at pg_lsn NOT NULL
);

-- Tables of which the publication, or a slot that was lost, may have passed over changes, until all regions were compared.
CREATE TABLE IF NOT EXISTS domicile.passed_over (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    since pg_lsn NOT NULL,
    -- Absent while a transaction is open that began before the publication was put back.
    until pg_lsn,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Only the slot has passed them over: nobody has touched the table, and the owner's rows are the right ones.
    by_slot boolean NOT NULL DEFAULT false,
    PRIMARY KEY (schema_name, table_name)
);
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = 'domicile.passed_over'::regclass AND attname = 'by_slot') THEN
        ALTER TABLE domicile.passed_over ADD COLUMN by_slot boolean NOT NULL DEFAULT false;
    END IF;
END
$$;

-- One row per guarded transaction, so that a check is queued for its commit; the agent sweeps them
-- out later. Every guarded transaction holds a lock on it until it has ended, durably; to drain
-- them, it is locked in EXCLUSIVE mode. A relation of ours cannot be locked by anybody else.
CREATE UNLOGGED TABLE IF NOT EXISTS domicile.commit_check (
    -- Absent where only shared tables are written, which need no lease.
    generation bigint
) WITH (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0,
        vacuum_truncate = off);

-- What lost, and why. Nothing is lost silently.
CREATE TABLE IF NOT EXISTS domicile.journal (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    origin text NOT NULL,
    lsn pg_lsn NOT NULL,
    xid bigint NOT NULL,
    change integer NOT NULL,
    relation text NOT NULL,
    operation text NOT NULL,
    key jsonb,
    old jsonb,
    new jsonb,
    local jsonb,
    conflict text NOT NULL,
    reason text NOT NULL,
    -- Of a shared table: how it was decided, and for whom (local, incoming or both).
    policy text,
    winner text,
    -- settled: there is nothing to do. hidden: the row is kept aside until its unique value is free;
    -- returned: it is shown again. open: a person must decide. parked: PostgreSQL refused it, it is
    -- tried again. resolved: a person has decided, or it was superseded.
    status text NOT NULL DEFAULT 'settled',
    -- What it takes to try a parked change again.
    incoming jsonb,
    resolved_at timestamptz,
    UNIQUE (origin, lsn, change)
);
-- Not "IF NOT EXISTS", which locks the table to find out: nothing here may wait for a commit that
-- waits for this very agent.
DO $$
BEGIN
    -- Not by the key itself: of a row without a key it is the whole row, which no index has room for.
    IF to_regclass('domicile.journal_unsettled_rows') IS NULL THEN
        CREATE INDEX journal_unsettled_rows ON domicile.journal (relation, jsonb_hash_extended(key, 0))
        WHERE status IN ('hidden', 'open', 'parked');
        DROP INDEX IF EXISTS domicile.journal_unsettled;
    END IF;
END
$$;

-- Rows whose local image is not the history's: they are read again from a peer.
CREATE TABLE IF NOT EXISTS domicile.repair (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    -- Of a row without a key the whole row, which no index has room for.
    key jsonb NOT NULL,
    -- The region whose row is the right one as long as it owns the partition; any peer when absent.
    source text,
    partition integer,
    -- The partitions that the transaction which left the row here was admitted to: it is of one of them.
    -- Of any when both are absent.
    touched integer[]
);
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = 'domicile.repair'::regclass AND attname = 'touched') THEN
        ALTER TABLE domicile.repair ADD COLUMN touched integer[];
    END IF;
    IF NOT EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = 'domicile.repair'::regclass AND attname = 'id') THEN
        ALTER TABLE domicile.repair
            DROP CONSTRAINT repair_pkey,
            ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
    END IF;
    IF to_regclass('domicile.repair_rows') IS NULL THEN
        CREATE INDEX repair_rows ON domicile.repair (jsonb_hash_extended(key, 0));
    END IF;
END
$$;

-- One row per partition for canary writes: guarded and replicated like any owned table.
CREATE TABLE IF NOT EXISTS domicile.canary (
    partition integer PRIMARY KEY,
    run text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What was copied so far while this region joins: the pieces of each seeding, with their rows.
CREATE TABLE IF NOT EXISTS domicile.seeding (
    seed text NOT NULL,
    snapshot text NOT NULL,
    done text NOT NULL,
    PRIMARY KEY (seed, snapshot, done)
);

-- DDL that was run at one position of the log, in every region. Published: a row that comes from
-- another region has its statements run here, so nobody but the agent's role may write it.
CREATE TABLE IF NOT EXISTS domicile.migration (
    number bigint PRIMARY KEY,
    name text NOT NULL,
    sql text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- In floating point: exact enough for leases, and much faster than numeric.
CREATE OR REPLACE FUNCTION domicile.now_us() RETURNS bigint
LANGUAGE sql VOLATILE AS
$$ SELECT (date_part('epoch', clock_timestamp()) * 1000000)::bigint $$;

CREATE OR REPLACE FUNCTION domicile.postmaster_us() RETURNS bigint
LANGUAGE sql STABLE AS
$$ SELECT (date_part('epoch', pg_postmaster_start_time()) * 1000000)::bigint $$;

-- A clock that has stepped back before the grant would lengthen the lease: then it is over. The grant is read before
-- the clock and the deadline behind it, in this order: else a renewal in between would look like such a step.
CREATE OR REPLACE FUNCTION domicile.lease_live() RETURNS boolean
LANGUAGE sql VOLATILE AS
$$
    SELECT coalesce(
        pg_sequence_last_value('domicile.postmaster') = domicile.postmaster_us()
        AND pg_sequence_last_value('domicile.granted_at') <= domicile.now_us()
        AND domicile.now_us() <= pg_sequence_last_value('domicile.deadline'),
        false)
$$;
