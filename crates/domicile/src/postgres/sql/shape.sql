-- The columns of table $1 that hold data of their own, each with a name for how its values sort: the
-- same name means the same order on every server, whatever the versions of its libraries. Null where
-- that is not known. `type_name` casts text to the column's type; null where its operators may not
-- be found.
SELECT
    a.attname::text AS name,
    CASE
        WHEN a.attcollation = 0 AND b.typnamespace = 'pg_catalog'::regnamespace
            AND b.typname IN (
                'bool', 'bytea', 'int2', 'int4', 'int8', 'oid', 'float4', 'float8', 'numeric', 'money',
                'date', 'time', 'timetz', 'timestamp', 'timestamptz', 'interval', 'uuid', 'inet',
                'cidr', 'macaddr', 'macaddr8', 'bit', 'varbit', 'pg_lsn'
            ) THEN b.typname::text
        WHEN b.typnamespace <> 'pg_catalog'::regnamespace
            OR b.typname NOT IN ('text', 'varchar', 'bpchar', 'name') THEN NULL
        WHEN coalesce(of_column.name, of_database.name) IN ('C', 'POSIX') THEN 'text C'
        WHEN a.attcollation <> 'pg_catalog.default'::regcollation AND of_column.deterministic
            THEN concat_ws(' ', 'text', of_column.name, of_column.version)
        WHEN a.attcollation = 'pg_catalog.default'::regcollation
            THEN concat_ws(' ', 'text', of_database.name, of_database.version)
    END AS sorts,
    CASE
        WHEN b.typtype = 'e' OR b.typnamespace = 'pg_catalog'::regnamespace
            THEN format_type(b.oid, -1)
    END AS type_name
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
-- A domain sorts as what it is made of; a domain over a domain is left to its hash.
JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
LEFT JOIN LATERAL (
    SELECT
        CASE c.collprovider
            WHEN 'd' THEN NULL
            ELSE coalesce(c.collcollate, to_jsonb(c) ->> 'colliculocale', to_jsonb(c) ->> 'colllocale')
        END AS name,
        c.collprovider::text || coalesce(pg_collation_actual_version(c.oid), '') AS version,
        c.collisdeterministic AS deterministic
    FROM pg_collation c
    WHERE c.oid = a.attcollation
) of_column ON true
CROSS JOIN LATERAL (
    SELECT
        coalesce(
            to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', d.datcollate
        ) AS name,
        coalesce(to_jsonb(d) ->> 'datlocprovider', '')
            || coalesce(to_jsonb(d) ->> 'datcollversion', '') AS version
    FROM pg_database d
    WHERE d.datname = current_database()
) of_database
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum
