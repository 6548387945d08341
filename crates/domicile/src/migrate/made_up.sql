-- Columns whose default gives another value each time or in each session, and by what.
SELECT DISTINCT ON (n.nspname, c.relname, a.attname)
    n.nspname::text,
    c.relname::text,
    a.attname::text,
    cause.name
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
-- A column without a default has that of its domain.
CROSS JOIN LATERAL (SELECT coalesce(d.adbin, t.typdefaultbin)::text AS bin) made
CROSS JOIN LATERAL (
    SELECT p.proname || '()' AS name
    FROM regexp_matches(made.bin, ':(?:funcid|opfuncid) (\d+)', 'g') AS called (parts)
    JOIN pg_proc p ON p.oid = called.parts[1]::oid
    WHERE p.provolatile <> 'i'
    UNION ALL
    -- What is no function in the catalogue: current_timestamp and its like.
    SELECT 'the session''s time or user' WHERE made.bin LIKE '%{SQLVALUEFUNCTION %'
    UNION ALL
    SELECT 'a sequence' WHERE made.bin LIKE '%{NEXTVALUEEXPR %' OR a.attidentity <> ''
    UNION ALL
    SELECT 'a cast by way of text' WHERE made.bin LIKE '%{COERCEVIAIO %'
) cause
WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'domicile')
ORDER BY n.nspname, c.relname, a.attname, cause.name
