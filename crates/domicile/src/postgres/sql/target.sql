-- One row per column of the table $1, as an applier needs to know it.
WITH RECURSIVE base (attnum, typid) AS (
    SELECT a.attnum, a.atttypid
    FROM pg_attribute a
    WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT base.attnum, t.typbasetype
    FROM base
    JOIN pg_type t ON t.oid = base.typid
    WHERE t.typtype = 'd'
)
SELECT
    a.attname::text AS name,
    c.relkind = 'p' AS partitioned,
    -- A domain's base: what is compared need not satisfy the domain. Never a name that the grammar
    -- knows, as in `character`, which would mean a length of one.
    format('%I.%I', tn.nspname, t.typname) AS base_type,
    -- -1 rather than null: a type whose name alone would mean a length of 1 is written otherwise.
    format_type(a.atttypid, -1) AS type_name,
    a.atttypid AS type_oid,
    own.typarray <> 0 AND own.typdelim = ','
        -- Where an application says how a text is cast to the type, only an array of it is read as the type is.
        AND (own.typtype IN ('b', 'e') AND own.typcategory <> 'A' OR EXISTS (
            SELECT FROM pg_cast ca
            WHERE ca.casttarget IN (own.oid, t.oid) AND ca.castsource = 'text'::regtype
                AND ca.castmethod = 'f'
        )) AS has_array,
    a.attidentity = 'a' AS identity_always,
    key.position AS key_position,
    equality.operator AS equality,
    EXISTS (
        SELECT FROM pg_index i WHERE i.indrelid = c.oid AND NOT i.indimmediate
        UNION ALL
        -- Of UPDATE (2) or INSERT (3), whether or not they fire for an applier.
        SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type IN ('2', '3')
    ) AS no_arbiter
FROM base
JOIN pg_type t ON t.oid = base.typid AND t.typtype <> 'd'
JOIN pg_namespace tn ON tn.oid = t.typnamespace
JOIN pg_class c ON c.oid = $1::text::regclass
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = base.attnum
JOIN pg_type own ON own.oid = a.atttypid
LEFT JOIN LATERAL (
    SELECT k.position
    FROM pg_index i
    CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
    WHERE i.indrelid = c.oid AND i.indisprimary AND k.attnum = a.attnum AND k.position <= i.indnkeyatts
) key ON true
-- An extension's operators are in no schema of the search path: an index names the one it means.
LEFT JOIN LATERAL (
    SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname) AS operator
    FROM pg_index i
    CROSS JOIN unnest(i.indkey::int2[], i.indclass::oid[]) AS k (attnum, opclass)
    JOIN pg_opclass oc ON oc.oid = k.opclass
    JOIN pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
    JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
        AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
    JOIN pg_operator o ON o.oid = ao.amopopr
    JOIN pg_namespace n ON n.oid = o.oprnamespace
    WHERE i.indrelid = c.oid AND i.indisvalid AND k.attnum = a.attnum
    ORDER BY i.indisprimary DESC, i.indisunique DESC
    LIMIT 1
) equality ON true
ORDER BY a.attnum
