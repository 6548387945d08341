-- Views, and the volatile functions that their definitions call, also by the views that they read.
--
-- The functions are taken from the rule itself: on those of PostgreSQL's own nothing depends in pg_depend.
WITH RECURSIVE rule AS (
    SELECT r.oid, r.ev_class AS view, r.ev_action::text AS action
    FROM pg_rewrite r
    JOIN pg_class c ON c.oid = r.ev_class AND c.relkind = 'v'
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
), calls AS (
    SELECT DISTINCT rule.view, called[1]::oid AS function
    FROM rule
    CROSS JOIN LATERAL regexp_matches(rule.action, ':(?:op)?funcid (\d+)', 'g') called
), reads AS (
    SELECT rule.view AS reader, rule.view AS view
    FROM rule
    UNION
    SELECT reads.reader, d.refobjid
    FROM reads
    JOIN rule ON rule.view = reads.view
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = rule.oid
                    AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> rule.view
)
SELECT n.nspname::text, c.relname::text, f.nspname::text, p.proname::text
FROM reads
JOIN calls ON calls.view = reads.view
JOIN pg_proc p ON p.oid = calls.function AND p.provolatile = 'v'
JOIN pg_namespace f ON f.oid = p.pronamespace
JOIN pg_class c ON c.oid = reads.reader
JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY 1, 2, 3, 4
