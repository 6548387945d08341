SELECT
    id,
    to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS at,
    origin,
    lsn::text AS lsn,
    xid,
    relation,
    operation,
    key,
    old,
    new,
    local,
    conflict,
    reason,
    policy,
    winner,
    status
FROM domicile.journal
WHERE ($1::bigint IS NULL OR id = $1)
    AND ($2::text IS NULL OR relation = $2)
    AND ($3::text IS NULL OR origin = $3 OR origin LIKE $3 || '-%')
    AND ($5::text IS NULL OR status = $5)
ORDER BY id DESC
LIMIT $4
