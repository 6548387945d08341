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
    owner.rolname::text AS owner,
    owner.rolsuper AS owner_is_superuser,
    CASE WHEN c.relispartition THEN parent.inhparent END AS partition_of,
    NOT c.relispartition AND parent.inhparent IS NOT NULL AS inherits,
    coalesce(heirs.list, '[]') AS heirs,
    coalesce(columns.list, '[]') AS columns,
    coalesce(indexes.list, '[]') AS indexes,
    coalesce(exclusions.list, '[]') AS exclusions,
    coalesce(foreign_keys.list, '[]') AS foreign_keys,
    coalesce(fires.list, '[]') AS fires,
    coalesce(demands.list, '[]') AS demands
FROM pg_class c
JOIN pg_roles owner ON owner.oid = c.relowner
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT i.inhparent
    FROM pg_inherits i
    WHERE i.inhrelid = c.oid
    ORDER BY i.inhseqno
    LIMIT 1
) parent ON true
LEFT JOIN LATERAL (
    WITH RECURSIVE below AS (
        SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = c.oid AND c.relkind <> 'p'
        -- One may be reached by several ways.
        UNION
        SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.inhrelid
    )
    SELECT jsonb_agg(
        jsonb_build_object('schema', hn.nspname, 'name', h.relname)
        ORDER BY hn.nspname, h.relname
    ) AS list
    FROM below b
    JOIN pg_class h ON h.oid = b.inhrelid
    JOIN pg_namespace hn ON hn.oid = h.relnamespace
) heirs ON true
LEFT JOIN LATERAL (
    SELECT jsonb_agg(
        jsonb_build_object(
            'name', a.attname,
            'type', CASE
                WHEN tn.nspname = 'pg_catalog' THEN format_type(a.atttypid, a.atttypmod)
                ELSE tn.nspname || '.' || t.typname
            END,
            'element_type', (
                SELECT format('%s.%s', en.nspname, e.typname)
                FROM pg_type e
                JOIN pg_namespace en ON en.oid = e.typnamespace
                WHERE e.oid = coalesce(nullif(t.typelem, 0), t.oid)
            ),
            'not_null', a.attnotnull,
            'generated', a.attgenerated <> '',
            'nondeterministic', NOT coalesce(co.collisdeterministic, true),
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
    LEFT JOIN pg_collation co ON co.oid = a.attcollation
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
            'own', NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid),
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
LEFT JOIN LATERAL (
    SELECT jsonb_agg(to_jsonb(f) ORDER BY f.kind, f.name) AS list
    FROM (
        SELECT
            'trigger' AS kind,
            t.tgname AS name,
            CASE t.tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END AS enabled,
            pg_get_triggerdef(t.oid) AS definition,
            jsonb_build_object(
                'name', format('%s.%s', pn.nspname, p.proname),
                'owner', po.rolname,
                'owner_is_superuser', po.rolsuper,
                'security_definer', p.prosecdef
            ) AS function
        FROM pg_trigger t
        JOIN pg_proc p ON p.oid = t.tgfoid
        JOIN pg_namespace pn ON pn.oid = p.pronamespace
        JOIN pg_roles po ON po.oid = p.proowner
        WHERE t.tgrelid = c.oid
            AND t.tgenabled IN ('A', 'R')
            AND pn.nspname <> 'domicile'
            -- PostgreSQL's own, of foreign keys.
            AND NOT (t.tgisinternal AND pn.nspname = 'pg_catalog')
            -- A partitioned table's trigger is in each table partition too.
            AND NOT EXISTS (
                SELECT FROM pg_trigger above
                WHERE above.oid = t.tgparentid AND above.tgenabled = t.tgenabled
            )
        UNION ALL
        SELECT
            'rule',
            r.rulename,
            CASE r.ev_enabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END,
            pg_get_ruledef(r.oid),
            NULL
        FROM pg_rewrite r
        WHERE r.ev_class = c.oid AND r.ev_enabled IN ('A', 'R') AND r.rulename <> '_RETURN'
    ) f
) fires ON true
LEFT JOIN LATERAL (
    SELECT jsonb_agg(d.definition ORDER BY d.definition) AS list
    FROM (
        SELECT regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', '') AS definition
        FROM pg_constraint k
        WHERE k.conrelid = c.oid AND k.contype IN ('c', 'x')
        UNION ALL
        -- The primary key is told by its columns.
        SELECT regexp_replace(pg_get_indexdef(i.indexrelid), '^CREATE UNIQUE INDEX .*? USING', 'UNIQUE')
        FROM pg_index i
        WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indisprimary
    ) d
) demands ON true
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
