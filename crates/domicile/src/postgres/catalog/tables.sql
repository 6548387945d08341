-- One row per table-like relation outside the system's and Domicile's own schemas.
SELECT
    c.oid,
    n.nspname::text AS schema_name,
    c.relname::text AS table_name,
    c.relkind::text AS kind,
    c.relpersistence::text AS persistence,
    c.relreplident::text AS replica_identity,
    c.relrowsecurity AS row_security,
    c.relforcerowsecurity AS row_security_forced,
    greatest(c.reltuples, 0)::float8 AS rows_estimate,
    pg_has_role(c.relowner, 'USAGE') AS ours,
    CASE WHEN c.relispartition THEN parent.inhparent END AS partition_of,
    NOT c.relispartition AND parent.inhparent IS NOT NULL AS inherits,
    coalesce(columns.list, '[]') AS columns,
    coalesce(indexes.list, '[]') AS indexes,
    coalesce(exclusions.list, '[]') AS exclusions,
    coalesce(foreign_keys.list, '[]') AS foreign_keys
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT i.inhparent
    FROM pg_inherits i
    WHERE i.inhrelid = c.oid
    ORDER BY i.inhseqno
    LIMIT 1
) parent ON true
LEFT JOIN LATERAL (
    SELECT jsonb_agg(
        jsonb_build_object(
            'name', a.attname,
            'type', CASE
                WHEN tn.nspname = 'pg_catalog' THEN format_type(a.atttypid, a.atttypmod)
                ELSE tn.nspname || '.' || t.typname
            END,
            'not_null', a.attnotnull,
            'generated', a.attgenerated <> '',
            'default', pg_get_expr(d.adbin, d.adrelid),
            'sequence', (
                SELECT jsonb_build_object(
                    'schema', sn.nspname,
                    'name', s.relname,
                    'increment', q.seqincrement,
                    'start', q.seqstart,
                    'min', q.seqmin,
                    'max', q.seqmax,
                    'cycles', q.seqcycle,
                    'last', pg_sequence_last_value(s.oid)
                )
                FROM (
                    -- The column's own, or else the one that its default names.
                    SELECT 1 AS place, dep.objid AS sequence
                    FROM pg_depend dep
                    WHERE dep.classid = 'pg_class'::regclass
                        AND dep.refclassid = 'pg_class'::regclass
                        AND dep.refobjid = c.oid
                        AND dep.refobjsubid = a.attnum
                        AND dep.deptype IN ('a', 'i')
                    UNION ALL
                    SELECT 2, dep.refobjid
                    FROM pg_depend dep
                    WHERE dep.classid = 'pg_attrdef'::regclass
                        AND dep.objid = d.oid
                        AND dep.refclassid = 'pg_class'::regclass
                ) used
                JOIN pg_class s ON s.oid = used.sequence AND s.relkind = 'S'
                JOIN pg_namespace sn ON sn.oid = s.relnamespace
                JOIN pg_sequence q ON q.seqrelid = s.oid
                WHERE has_sequence_privilege(s.oid, 'USAGE,SELECT')
                ORDER BY used.place
                LIMIT 1
            )
        )
        ORDER BY a.attnum
    ) AS list
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
    JOIN pg_namespace tn ON tn.oid = t.typnamespace
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
) columns ON true
LEFT JOIN LATERAL (
    SELECT jsonb_agg(
        jsonb_build_object(
            'name', ic.relname,
            'primary', i.indisprimary,
            'immediate', i.indimmediate,
            'whole', i.indpred IS NULL AND i.indexprs IS NULL,
            'replica_identity', i.indisreplident,
            'columns', (
                SELECT jsonb_agg(a.attname ORDER BY k.position)
                FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
                JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
                WHERE k.position <= i.indnkeyatts
            )
        )
        ORDER BY NOT i.indisprimary, ic.relname
    ) AS list
    FROM pg_index i
    JOIN pg_class ic ON ic.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
) indexes ON true
LEFT JOIN LATERAL (
    SELECT jsonb_agg(k.conname ORDER BY k.conname) AS list
    FROM pg_constraint k
    WHERE k.conrelid = c.oid AND k.contype = 'x'
) exclusions ON true
LEFT JOIN LATERAL (
    SELECT jsonb_agg(
        jsonb_build_object(
            'name', k.conname,
            'schema', fn.nspname,
            'table', f.relname,
            'columns', (
                SELECT jsonb_agg(a.attname ORDER BY p.position)
                FROM unnest(k.conkey) WITH ORDINALITY AS p (attnum, position)
                JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = p.attnum
            ),
            'references', (
                SELECT jsonb_agg(a.attname ORDER BY p.position)
                FROM unnest(k.confkey) WITH ORDINALITY AS p (attnum, position)
                JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = p.attnum
            )
        )
        ORDER BY k.conname
    ) AS list
    FROM pg_constraint k
    JOIN pg_class f ON f.oid = k.confrelid
    JOIN pg_namespace fn ON fn.oid = f.relnamespace
    WHERE k.conrelid = c.oid AND k.contype = 'f'
        -- With a foreign key to a partitioned table there is a copy for each table partition.
        AND NOT f.relispartition
) foreign_keys ON true
WHERE c.relkind IN ('r', 'p', 'f', 'm', 'v')
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'domicile')
    AND n.nspname NOT LIKE 'pg\_toast%'
    AND (c.relpersistence <> 't' OR pg_my_temp_schema() = n.oid)
    -- What an extension brought is the extension's.
    AND NOT EXISTS (
        SELECT FROM pg_depend e
        WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e'
    )
ORDER BY 2, 3
