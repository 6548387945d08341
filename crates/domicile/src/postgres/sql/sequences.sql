-- The sequences that columns of the tables $1 (with their table partitions) draw from: their own, and
-- those that a default names. One row for each sequence and column.
SELECT
    s.oid,
    s.oid::regclass::text AS sequence_name,
    q.seqincrement AS increment,
    q.seqmin AS min,
    q.seqmax AS max,
    q.seqstart AS start,
    q.seqcycle AS cycles,
    a.attrelid::regclass::text AS table_name,
    quote_ident(a.attname) AS column_name,
    -- Its outermost value is found without reading the table.
    EXISTS (
        SELECT FROM pg_index i
        JOIN pg_class ic ON ic.oid = i.indexrelid
        JOIN pg_am am ON am.oid = ic.relam AND am.amname = 'btree'
        WHERE i.indrelid = a.attrelid AND i.indisvalid AND i.indpred IS NULL
            AND i.indkey[0] = a.attnum
    ) AS indexed,
    a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) AS counts
FROM (
    SELECT DISTINCT tree.relid
    FROM unnest($1::text[]) AS listed (name)
    CROSS JOIN LATERAL (
        SELECT relid::oid FROM pg_partition_tree(to_regclass(listed.name))
        UNION
        SELECT to_regclass(listed.name)::oid
    ) tree
) replicated
JOIN pg_attribute a ON a.attrelid = replicated.relid AND a.attnum > 0 AND NOT a.attisdropped
JOIN LATERAL (
    SELECT d.objid AS sequence_oid
    FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
    UNION
    SELECT d.refobjid
    FROM pg_attrdef e
    JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid
        AND d.refclassid = 'pg_class'::regclass
    WHERE e.adrelid = a.attrelid AND e.adnum = a.attnum
) used ON true
JOIN pg_class s ON s.oid = used.sequence_oid AND s.relkind = 'S'
JOIN pg_sequence q ON q.seqrelid = s.oid
ORDER BY 2, 8, 9
