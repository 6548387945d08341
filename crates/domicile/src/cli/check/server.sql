WITH others AS (
    SELECT
        a.usesysid,
        a.datid,
        -- Other roles' sessions do not show what they are.
        coalesce(a.backend_type = 'walsender', false) AS sends_wal
    FROM pg_stat_activity a
    WHERE a.usesysid IS NOT NULL
        AND coalesce(a.backend_type, 'client backend') IN ('client backend', 'walsender')
        AND a.application_name NOT LIKE 'domicile%'
)
SELECT
    current_setting('server_version_num')::int4 AS version_num,
    current_setting('server_version') AS version,
    current_database()::text AS database,
    current_user::text AS role,
    pg_encoding_to_char(d.encoding)::text AS encoding,
    d.oid AS database_oid,
    CASE
        WHEN has_function_privilege('pg_control_system()', 'EXECUTE')
        THEN (SELECT c.system_identifier FROM pg_control_system() c)
    END AS system_identifier,
    pg_postmaster_start_time()::text AS started,
    pg_is_in_recovery() AS in_recovery,
    current_setting('wal_level') AS wal_level,
    current_setting('max_replication_slots')::int8 AS slots_max,
    (
        SELECT count(*)
        FROM pg_replication_slots s
        WHERE s.slot_name NOT LIKE 'domicile%'
    ) AS slots_used,
    current_setting('max_wal_senders')::int8 AS senders_max,
    (
        SELECT count(*)
        FROM pg_stat_replication r
        WHERE r.application_name NOT LIKE 'domicile%'
    ) AS senders_used,
    current_setting('max_connections')::int8 - reserved.count AS sessions_max,
    (SELECT count(*) FROM others o WHERE NOT o.sends_wal) AS sessions_used,
    reserved.count AS sessions_reserved,
    -- Superusers are not limited.
    CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END::int8 AS role_sessions_max,
    (SELECT count(*) FROM others o WHERE o.usesysid = r.oid) AS role_sessions_used,
    CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END::int8 AS database_sessions_max,
    (SELECT count(*) FROM others o WHERE o.datid = d.oid) AS database_sessions_used,
    -- A limit of their own from PostgreSQL 18 on.
    coalesce(
        current_setting('max_active_replication_origins', true),
        current_setting('max_replication_slots')
    )::int8 AS origins_max,
    (
        SELECT count(*)
        FROM pg_replication_origin o
        WHERE o.roname NOT LIKE 'domicile%'
    ) AS origins_used,
    (
        SELECT count(*)
        FROM pg_replication_origin o
        WHERE o.roname LIKE 'domicile%'
            AND o.roname NOT LIKE 'domicile\_seed\_%'
            AND o.roname NOT LIKE 'domicile\_check\_%'
    ) AS origins_ours,
    current_setting('max_prepared_transactions')::int8 AS prepared_transactions_max,
    current_setting('max_slot_wal_keep_size') AS slot_keep_size,
    current_setting('synchronous_standby_names') AS standby_names,
    has_database_privilege(d.oid, 'CREATE') AS may_create_schema,
    r.rolsuper OR r.rolbypassrls AS bypasses_row_security,
    r.rolsuper AS superuser,
    has_function_privilege('pg_reload_conf()', 'EXECUTE') AS may_reload,
    coalesce((SELECT s.ssl FROM pg_stat_ssl s WHERE s.pid = pg_backend_pid()), false) AS encrypted,
    (SELECT count(*) FROM pg_largeobject_metadata) AS large_objects
FROM pg_database d
JOIN pg_roles r ON r.rolname = current_user
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN r.rolsuper THEN 0
        ELSE current_setting('superuser_reserved_connections')::int8
            -- From PostgreSQL 16 on.
            + coalesce(current_setting('reserved_connections', true), '0')::int8
    END AS count
) reserved
WHERE d.datname = current_database()
