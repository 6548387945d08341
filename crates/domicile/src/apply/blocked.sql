-- Who stands at the end of the queues of locks in which appliers wait: they wait for nobody.
WITH RECURSIVE queue (origin, since, pid) AS (
    SELECT
        substr(a.application_name, length($1) + 1),
        a.query_start,
        unnest(pg_blocking_pids(a.pid))
    FROM pg_stat_activity a
    WHERE a.datname = current_database()
        AND starts_with(a.application_name, $1)
        AND a.wait_event_type = 'Lock'
        AND a.query_start < clock_timestamp() - $2::float8 * interval '1 ms'
    UNION
    SELECT q.origin, q.since, unnest(pg_blocking_pids(q.pid))
    FROM queue q
)
SELECT DISTINCT ON (q.origin)
    q.origin,
    date_trunc('second', q.since)::text AS since,
    q.pid,
    coalesce(a.application_name, '') AS application,
    coalesce(a.usename::text, '') AS role,
    coalesce(a.state, 'state not shown') AS state,
    coalesce(date_trunc('second', a.xact_start)::text, 'at a time not shown') AS began,
    coalesce(date_trunc('second', a.query_start)::text, 'at a time not shown') AS asked
FROM queue q
LEFT JOIN pg_stat_activity a ON a.pid = q.pid
WHERE cardinality(pg_blocking_pids(q.pid)) = 0
ORDER BY q.origin, a.xact_start
