-- What conflicts in one table ($1) are decided by. Names are quoted where they stand for SQL.
SELECT
    c.relkind = 'p' AS partitioned,
    (
        SELECT coalesce(jsonb_agg(a.attname ORDER BY k.position), '[]')
        FROM pg_index i
        CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE i.indrelid = c.oid AND i.indisprimary AND k.position <= i.indnkeyatts
    ) AS key,
    (
        SELECT coalesce(
            jsonb_agg(
                jsonb_build_object(
                    'name', a.attname,
                    'type_name', format_type(a.atttypid, a.atttypmod),
                    'json', coalesce(nullif(t.typbasetype, 0), t.oid) IN ('json'::regtype, 'jsonb'::regtype),
                    -- Does the text of a value depend on settings?
                    'steady', t.typtype = 'e' OR (t.typnamespace = 'pg_catalog'::regnamespace
                        AND t.typname = ANY (ARRAY['bool', 'int2', 'int4', 'int8', 'numeric', 'text',
                            'varchar', 'bpchar', 'name', 'uuid', 'oid', 'json', 'jsonb', 'inet',
                            'cidr', 'macaddr', 'macaddr8']))
                )
                ORDER BY a.attnum
            ),
            '[]')
        FROM pg_attribute a
        JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    ) AS columns,
    (
        SELECT coalesce(
            jsonb_agg(
                jsonb_build_object(
                    'name', a.attname, 'expression', pg_get_expr(d.adbin, d.adrelid))
                ORDER BY a.attnum
            ),
            '[]')
        FROM pg_attribute a
        JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = c.oid AND NOT a.attisdropped AND a.attgenerated <> ''
    ) AS generated,
    (
        SELECT coalesce(
            jsonb_agg(
                jsonb_build_object(
                    'predicate', pg_get_expr(i.indpred, i.indrelid),
                    'nulls_equal', coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false),
                    'parts', (
                        SELECT jsonb_agg(
                            jsonb_build_object(
                                'expression', pg_get_indexdef(i.indexrelid, p.n, true) || coalesce(
                                    ' COLLATE ' || quote_ident(cns.nspname) || '.'
                                        || quote_ident(co.collname), ''),
                                'equals', format('OPERATOR(%I.%s)', ons.nspname, op.oprname))
                            ORDER BY p.n)
                        FROM generate_series(1, i.indnkeyatts) AS p (n)
                        JOIN pg_opclass oc ON oc.oid = (i.indclass::oid[])[p.n - 1]
                        JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily
                            AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
                            AND ao.amopstrategy = 3
                        JOIN pg_operator op ON op.oid = ao.amopopr
                        JOIN pg_namespace ons ON ons.oid = op.oprnamespace
                        LEFT JOIN pg_collation co ON co.oid = (i.indcollation::oid[])[p.n - 1]
                        LEFT JOIN pg_namespace cns ON cns.oid = co.collnamespace
                    )
                )
                ORDER BY ic.relname
            ),
            '[]')
        FROM pg_index i
        JOIN pg_class ic ON ic.oid = i.indexrelid
        WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indisprimary AND i.indisvalid
    ) AS unique_indexes
FROM pg_class c
WHERE c.oid = to_regclass($1)
