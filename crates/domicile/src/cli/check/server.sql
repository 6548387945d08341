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
    current_setting('max_prepared_transactions')::int8 AS prepared_transactions_max,
    current_setting('max_slot_wal_keep_size') AS slot_keep_size,
    current_setting('synchronous_standby_names') AS standby_names,
    has_database_privilege(d.oid, 'CREATE') AS may_create_schema,
    (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles r WHERE r.rolname = current_user)
        AS bypasses_row_security,
    (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) AS superuser,
    has_function_privilege('pg_reload_conf()', 'EXECUTE') AS may_reload,
    (SELECT count(*) FROM pg_largeobject_metadata) AS large_objects
FROM pg_database d
WHERE d.datname = current_database()
